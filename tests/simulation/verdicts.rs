//! What a reply proves is the same in the model (`crates/model`) and in the service.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use model::guard::Guard;
use model::state;
use model::verdict as modelled;
use payment_proxy::domain::payment::Payment;
use payment_proxy::domain::uptime::Uptime;
use payment_proxy::processors::{Documented, Lookup, Outcome, Reply, Verdict, decide, judge};
use payment_proxy::store::claim::{Claim, EarlierAttempt};
use rust_decimal::Decimal;
use uuid::Uuid;

/// The `requestedAt` of our attempt and of another one, as the model counts them.
const OURS: u8 = 1;
const NEARBY: u8 = 2;

fn claim() -> Claim {
    let now = Utc::now();
    Claim {
        id: 1,
        payment: Payment {
            correlation_id: Uuid::from_u128(1),
            amount: Decimal::ONE,
            traceparent: None,
        },
        accepted_at: now,
        attempt: 1,
        processor: "default".to_owned(),
        requested_at: now,
        send_by: Uptime::now(),
        earlier: None,
    }
}

/// Every reply to a POST after which a processor may be asked.
fn replies() -> Vec<(Reply, state::Reply)> {
    let retry_after = Duration::from_secs(5);
    let text = String::new;
    let undocumented = |code| Reply::Undocumented {
        code,
        retry_after: None,
        text: text(),
    };
    vec![
        (Reply::Documented(Documented::Stored), state::Reply::Stored),
        (Reply::Documented(Documented::Failed), state::Reply::Failed),
        (
            Reply::Documented(Documented::TooMany { retry_after }),
            state::Reply::Failed,
        ),
        (
            Reply::Documented(Documented::Rejected { code: 400 }),
            state::Reply::Refused,
        ),
        (
            Reply::Documented(Documented::Duplicate { text: text() }),
            state::Reply::Refused,
        ),
        (undocumented(200), state::Reply::Silence),
        (undocumented(504), state::Reply::Silence),
        (Reply::NoReply(text()), state::Reply::Silence),
    ]
}

fn lookups(claim: &Claim) -> Vec<(Option<Lookup>, Option<state::Lookup>)> {
    let found = |amount, requested_at| {
        let amount = Some(amount);
        Some(Lookup::Found {
            amount,
            requested_at,
        })
    };
    let ours = |requested_at| Some(state::Lookup::Ours { requested_at });
    let (amount, at) = (claim.payment.amount, claim.requested_at);
    vec![
        (None, None),
        (found(amount, at), ours(OURS)),
        (found(amount, nearby(at)), ours(NEARBY)),
        (found(amount + Decimal::ONE, at), Some(state::Lookup::Other)),
        (
            Some(Lookup::OtherId(Uuid::from_u128(2))),
            Some(state::Lookup::Other),
        ),
        (Some(Lookup::Absent), Some(state::Lookup::Absent)),
        (Some(Lookup::Throttled), Some(state::Lookup::Silence)),
        (
            Some(Lookup::NoAnswer(String::new())),
            Some(state::Lookup::Silence),
        ),
    ]
}

fn nearby(at: DateTime<Utc>) -> DateTime<Utc> {
    at - TimeDelta::seconds(10)
}

/// An outcome of the service, as the model has it.
fn abstracted(claim: &Claim, outcome: &Outcome) -> state::Outcome {
    match outcome {
        Outcome::Charged { requested_at } => state::Outcome::Charged {
            requested_at: if *requested_at == claim.requested_at {
                OURS
            } else {
                NEARBY
            },
        },
        Outcome::NotCharged { .. } => state::Outcome::NotCharged,
        Outcome::InDoubt { until, .. } => state::Outcome::InDoubt {
            anew: until.is_none(),
        },
        Outcome::Dead { held, .. } => state::Outcome::Dead { held: *held },
    }
}

#[test]
fn the_model_judges_as_the_service_does() {
    let keeps = |_: Guard| true;
    let claim = claim();
    let earlier = EarlierAttempt {
        doubt_until: claim.requested_at,
        over: false,
    };
    let mut compared = 0;
    for (reply, its) in replies() {
        for (lookup, model_lookup) in lookups(&claim) {
            let verdict = judge(&claim, &reply, lookup.as_ref());
            let model_verdict = modelled::judge(keeps, OURS, its, model_lookup);
            let throttled_twice = matches!(reply, Reply::Documented(Documented::TooMany { .. }))
                && lookup == Some(Lookup::Throttled);
            if throttled_twice {
                // Of two 429 one is the answer to the POST. To the model, which does not count
                // them, the second one is silence, and what it does then is a step of both.
                assert!(
                    matches!(verdict, Some(Verdict::NotSent { .. })),
                    "{verdict:?}"
                );
                assert_eq!(model_verdict, Some(modelled::Verdict::Unknown));
                continue;
            }
            assert_eq!(
                verdict.is_some(),
                model_verdict.is_some(),
                "{reply:?} {lookup:?}"
            );
            let (Some(verdict), Some(model_verdict)) = (verdict, model_verdict) else {
                continue;
            };
            for earlier in [None, Some(earlier)] {
                let outcome = decide(verdict.clone(), "seen".to_owned(), earlier);
                let modelled = modelled::decide(keeps, model_verdict, earlier.is_some());
                assert_eq!(
                    abstracted(&claim, &outcome),
                    modelled,
                    "{reply:?} {lookup:?} {earlier:?}"
                );
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 112, "replies and look-ups");
    // What was not sent was declined.
    for earlier in [None, Some(earlier)] {
        let outcome = decide(
            Verdict::NotSent { retry_after: None },
            "seen".to_owned(),
            earlier,
        );
        let modelled = modelled::decide(keeps, modelled::Verdict::Declined, earlier.is_some());
        assert_eq!(abstracted(&claim, &outcome), modelled);
    }
}
