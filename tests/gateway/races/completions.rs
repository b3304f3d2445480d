//! What ends a claim against what ends the same claim, an operator's word and reconcile included.

use payment_proxy::store::claim::Claim;

use super::moves::{Move, Start};
use super::site::{Site, passes, waits};

const SETTLED: [&str; 2] = ["settles", "settled default"];

#[tokio::test]
async fn a_charge_is_recorded_once_whatever_else_ends_its_claim() {
    let site = Site::new().await;
    let again = ["was recorded before", "settled default"];
    let without = |state| ["records a charge without a row", state];
    let before = "in_doubt default #1";
    let late = |state| waits(["ends", "settled default"], ["ends", state]);
    let word = passes("in_flight", "settled default", before);
    let repairs = ["repairs", "settled default"];
    let found = "finds it at fallback";
    site.run([
        (
            Start::InFlight,
            Move::Settle,
            Move::Settle,
            waits(again, SETTLED),
        ),
        (
            Start::InFlight,
            Move::Settle,
            Move::Release,
            late("queued #1"),
        ),
        (
            Start::InFlight,
            Move::Settle,
            Move::LeaveInDoubt,
            late(before),
        ),
        (
            Start::InFlight,
            Move::Settle,
            Move::DeadLetter,
            late("dead"),
        ),
        (
            Start::InFlight,
            Move::Settle,
            Move::Assign,
            waits([found, "settled default"], [found, "in_flight fallback #1"]),
        ),
        (
            Start::InFlight,
            Move::Release,
            Move::Settle,
            waits(without("queued #1 + settled default"), SETTLED),
        ),
        (
            Start::InFlight,
            Move::LeaveInDoubt,
            Move::Settle,
            waits(SETTLED, SETTLED),
        ),
        (
            Start::InFlight,
            Move::DeadLetter,
            Move::Settle,
            waits(without("settled default + dead"), SETTLED),
        ),
        (
            Start::DoubtOver,
            Move::SayCharged,
            Move::Settle,
            waits(again, SETTLED),
        ),
        (
            Start::DoubtOver,
            Move::SayNotCharged,
            Move::Settle,
            waits(without("queued #2 + settled default"), SETTLED),
        ),
        (Start::DoubtOver, Move::Settle, Move::SayCharged, word),
        (Start::DoubtOver, Move::Settle, Move::SayNotCharged, word),
        (
            Start::InDoubt,
            Move::PutRight,
            Move::Settle,
            waits(again, SETTLED),
        ),
        (
            Start::InDoubt,
            Move::Settle,
            Move::PutRight,
            waits(["nothing", "settled default"], repairs),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_claim_that_is_ended_twice_at_once_is_ended_once() {
    let site = Site::new().await;
    let same = |state| waits(["ends", state], ["ends", state]);
    let repairs = ["repairs", "settled default"];
    site.run([
        (
            Start::InFlight,
            Move::Release,
            Move::Release,
            same("queued #1"),
        ),
        (
            Start::InFlight,
            Move::LeaveInDoubt,
            Move::LeaveInDoubt,
            same("in_doubt default #1"),
        ),
        (
            Start::InFlight,
            Move::DeadLetter,
            Move::DeadLetter,
            same("dead"),
        ),
        (
            Start::InDoubt,
            Move::PutRight,
            Move::PutRight,
            waits(["nothing", repairs[1]], repairs),
        ),
        (
            Start::InDoubt,
            Move::Release,
            Move::PutRight,
            waits(repairs, repairs),
        ),
        (
            Start::InDoubt,
            Move::DeadLetter,
            Move::PutRight,
            waits(["nothing", "dead"], repairs),
        ),
    ])
    .await;
    for (late, state) in [
        (Move::Release, "queued #1"),
        (Move::LeaveInDoubt, "in_doubt default #1"),
        (Move::DeadLetter, "dead"),
    ] {
        let meeting = waits(["ends", "settled default"], ["ends", state]);
        site.run([(Start::InDoubt, Move::PutRight, late, meeting)])
            .await;
    }
}

#[tokio::test]
async fn an_operators_word_ends_a_claim_for_good_and_passes_by_whoever_ends_it() {
    let site = Site::new().await;
    let before = "in_doubt default #1";
    let words = [
        (Move::SayCharged, "settled default"),
        (Move::SayNotCharged, "queued #2"),
    ];
    let ends = [
        (Move::Release, "queued #1"),
        (Move::LeaveInDoubt, before),
        (Move::DeadLetter, "dead"),
    ];
    for (word, said) in words {
        for (end, ended) in ends {
            site.run([
                (
                    Start::DoubtOver,
                    word,
                    end,
                    waits(["ends", said], ["ends", ended]),
                ),
                (
                    Start::DoubtOver,
                    end,
                    word,
                    passes("in_flight", ended, before),
                ),
            ])
            .await;
        }
        let (found, elsewhere) = ("finds it at fallback", "in_doubt fallback #1");
        let repairs = ["repairs", "settled default"];
        // A payment that is queued again is put right, too.
        let then = match word {
            Move::SayCharged => ["nothing", "settled default"],
            _ => repairs,
        };
        site.run([
            (
                Start::DoubtOver,
                word,
                Move::SayCharged,
                passes("in_flight", said, before),
            ),
            (
                Start::DoubtOver,
                word,
                Move::SayNotCharged,
                passes("in_flight", said, before),
            ),
            (
                Start::DoubtOver,
                word,
                Move::Assign,
                waits([found, said], [found, elsewhere]),
            ),
            (
                Start::DoubtOver,
                Move::Assign,
                word,
                passes("in_flight", elsewhere, before),
            ),
            (Start::DoubtOver, word, Move::PutRight, waits(then, repairs)),
            (
                Start::DoubtOver,
                Move::PutRight,
                word,
                passes("in_flight", "settled default", before),
            ),
        ])
        .await;
    }
}

/// After a crash of the server an unlogged queue counts its rows from 1 again.
#[tokio::test]
async fn what_ends_a_claim_of_a_lost_row_changes_no_payment_that_has_got_its_number() {
    let site = Site::new().await;
    let crash = "TRUNCATE payment_queue RESTART IDENTITY";
    for end in [
        Move::Release,
        Move::LeaveInDoubt,
        Move::DeadLetter,
        Move::Assign,
    ] {
        site.database.execute(crash).await;
        let lost = site.start(Start::InFlight).await;
        site.charge("fallback", &lost).await;
        site.database.execute(crash).await;
        let other = Start::InFlight.set(&site.database).await;
        let number = |claim: &Option<Claim>| claim.as_ref().map(|claim| (claim.id, claim.attempt));
        assert_eq!(number(&lost.claim), number(&other.claim));
        end.make(&site.second.pool, &lost, &site.processors).await;
        let state = site.state(other.payment.correlation_id).await;
        assert_eq!(state, "in_flight default #1", "{end:?}");
        assert_eq!(site.database.count("payment_dead_letter").await, 0);
    }
}
