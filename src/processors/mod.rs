//! Charge: one claimed payment goes to one processor, and what is known afterwards decides.
//!
//! The rule of this module: a payment is free to go to another processor only when it is *proved*
//! that no processor charged it. Whatever is not proved stays with the processor that may have it.

mod client;
mod early;
mod reading;
mod verdict;

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use router::Permit;
use tokio_util::sync::CancellationToken;

pub(crate) use client::HEALTH_TIMEOUT;
pub use client::{LOOKUPS_AT_ONCE, Posted, Processor, ProcessorClient, processors};
pub(crate) use early::overdue_after;
pub use early::{LOOKUPS_PER_CALL, OVERDUE_AFTER, find_charge};
pub use reading::{Health, ProcessorTotals, read_health, read_lookup, read_post, read_totals};
pub use verdict::{Documented, Lookup, RECORD_TIME_LIMIT, Reply, Verdict, is_near, judge};

use early::until_charged;

use crate::domain::payment::format_time;
use crate::store::claim::{Claim, EarlierAttempt};
use crate::telemetry::metrics::AttemptOutcome;
use crate::telemetry::trace::{AttemptEnd, Subject};

/// For how long a processor is left alone after a call that was not made through a fault of our
/// own.
const OUR_FAULT_PAUSE: Duration = Duration::from_millis(200);

/// Why a claim was not carried out to its end.
const STOPPING: &str = "the instance was stopping";

/// What is to be recorded of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The processor has charged it, under this requested_at.
    Charged {
        /// `requestedAt` as the processor recorded it.
        requested_at: DateTime<Utc>,
    },
    /// It is proved that no processor has charged it.
    NotCharged {
        /// What was seen, for the history of the payment.
        reason: String,
    },
    /// The processor of the claim may have charged it or may yet do so.
    InDoubt {
        /// From when on a 404 is proof; `None`: a call was left open just now, the time starts
        /// anew.
        until: Option<DateTime<Utc>>,
        /// What was seen, for the history of the payment.
        reason: String,
    },
    /// No processor will ever take it.
    Dead {
        /// Why.
        reason: String,
        /// The processor holds the id, so that no other may ever get it.
        held: bool,
    },
}

/// A claim and what is to be recorded of it.
#[derive(Debug, Clone)]
pub struct CompletedClaim {
    /// The claim.
    pub claim: Claim,
    /// What became of it.
    pub outcome: Outcome,
}

/// When a worker has to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Nothing new is sent from now on.
    pub draining: CancellationToken,
    /// Calls that are still open are left open.
    pub now: CancellationToken,
}

/// Charges a payment that no processor can have charged yet.
pub async fn charge(
    client: &ProcessorClient,
    claim: &Claim,
    mut permit: Permit,
    stop: &Stop,
) -> Outcome {
    let Sent {
        verdict,
        said,
        retry_after,
        answered,
    } = send(client, claim, &mut permit, stop).await;
    permit.finish(signal(&verdict, retry_after, answered));
    decide(verdict, said, claim.earlier)
}

/// Finds out whether a payment in doubt was charged, and posts it again to the same processor,
/// under the same requested_at, where it was not. `permit` is asked for when it is needed.
pub async fn resolve(
    client: &ProcessorClient,
    claim: &Claim,
    earlier: EarlierAttempt,
    permit: impl FnOnce() -> Option<Permit>,
    stop: &Stop,
) -> Outcome {
    let keep = |reason: String| Outcome::InDoubt {
        until: Some(earlier.doubt_until),
        reason,
    };
    let id = claim.payment.correlation_id;
    let asked = async {
        match earlier.over {
            // An absence ends the doubt.
            true => client.lookup_anew(id).await,
            false => client.lookup(id).await,
        }
    };
    let lookup = tokio::select! {
        lookup = asked => lookup,
        () = stop.now.cancelled() => return keep(STOPPING.to_owned()),
    };
    match lookup {
        Lookup::Found { .. } | Lookup::OtherId(_) => {
            let verdict = judge(claim, &Reply::NoReply(String::new()), Some(&lookup));
            decide(
                verdict.unwrap_or(Verdict::Unknown),
                lookup.to_string(),
                claim.earlier,
            )
        }
        // Guard: DoubtUntil.
        Lookup::Absent if earlier.over => Outcome::NotCharged {
            reason: format!("{lookup}, and no call can be open any more"),
        },
        Lookup::Absent => match permit() {
            Some(permit) => charge(client, claim, permit, stop).await,
            None => keep(format!(
                "{lookup}, which may change; no permit to post it again"
            )),
        },
        Lookup::Throttled | Lookup::NoAnswer(_) => keep(lookup.to_string()),
    }
}

/// What came of a POST.
struct Sent {
    verdict: Verdict,
    /// What was seen, but for a charge at once.
    said: String,
    /// How long whoever answered wants to be left alone.
    retry_after: Option<Duration>,
    /// The POST itself was answered, whatever the answer proves.
    answered: bool,
}

impl Sent {
    fn new(verdict: Verdict, said: String) -> Self {
        Self {
            verdict,
            said,
            retry_after: None,
            answered: false,
        }
    }
}

/// One POST, the questions while its answer is overdue, and the one that follows it where its reply
/// is no proof.
async fn send(client: &ProcessorClient, claim: &Claim, permit: &mut Permit, stop: &Stop) -> Sent {
    let not_sent = Verdict::NotSent { retry_after: None };
    if stop.draining.is_cancelled() {
        return Sent::new(not_sent, STOPPING.to_owned());
    }
    // Guard: SendBy.
    if !client.may_send(claim) {
        return Sent::new(not_sent, "not sent in time".to_owned());
    }
    let overdue = overdue_after(permit.sent());
    let attempt = client.tracer().attempt(Subject {
        id: claim.payment.correlation_id,
        client: claim.payment.traceparent,
    });
    let proved = async {
        let sent_at = Instant::now();
        let mut found = None;
        let watch = async || {
            found = Some(until_charged(client, claim, || permit.instances()).await);
        };
        let posted = client.post(claim, attempt.traceparent(), overdue, watch);
        let mut posted = posted.await;
        client
            .counts()
            .seconds
            .observe(sent_at.elapsed().as_secs_f64());
        if let Some(requested_at) = found {
            return Sent::new(Verdict::Charged { requested_at }, String::new());
        }
        let reply = &posted.reply;
        let answered = matches!(reply, Reply::Documented(_) | Reply::Undocumented { .. });
        match judge(claim, reply, None) {
            Some(verdict @ Verdict::Charged { .. }) => {
                return Sent {
                    answered,
                    ..Sent::new(verdict, String::new())
                };
            }
            Some(verdict) => {
                return Sent {
                    retry_after: posted.is_our_fault.then_some(OUR_FAULT_PAUSE),
                    ..Sent::new(verdict, reply.to_string())
                };
            }
            None => {}
        }
        // Boxed, because it is rare and every call would have the room for it.
        let lookup = client.lookup_after(&mut posted, claim.payment.correlation_id);
        let lookup = Box::pin(lookup).await;
        let reply = posted.reply;
        let verdict = judge(claim, &reply, Some(&lookup)).unwrap_or(Verdict::Unknown);
        tracing::debug!(
            payment.id = %claim.payment.correlation_id, processor.name = claim.processor,
            charge.reply = ?reply, charge.lookup = ?lookup, charge.verdict = ?verdict, "asked after a reply without proof"
        );
        Sent {
            verdict,
            said: format!("{reply}; {lookup}"),
            retry_after: reply.retry_after(),
            answered,
        }
    };
    let sent = tokio::select! {
        proved = proved => proved,
        () = stop.now.cancelled() => Sent::new(Verdict::Unknown, STOPPING.to_owned()),
    };
    client.counts().attempt(outcome(&sent.verdict));
    attempt.end(|| told(claim, &sent.verdict));
    sent
}

/// How an attempt is counted.
fn outcome(verdict: &Verdict) -> AttemptOutcome {
    match verdict {
        Verdict::Charged { .. } => AttemptOutcome::Charged,
        Verdict::Declined => AttemptOutcome::Declined,
        Verdict::NotSent {
            retry_after: Some(_),
        } => AttemptOutcome::Throttled,
        Verdict::NotSent { retry_after: None } => AttemptOutcome::NotConnected,
        Verdict::Refused { .. } => AttemptOutcome::Refused,
        Verdict::Mismatch { .. } => AttemptOutcome::Mismatch,
        Verdict::Unknown => AttemptOutcome::Unknown,
    }
}

/// How an attempt is told to whoever reads traces.
fn told(claim: &Claim, verdict: &Verdict) -> AttemptEnd {
    AttemptEnd {
        processor: claim.processor.clone(),
        attempt: claim.attempt,
        requested_at: format_time(claim.requested_at),
        verdict: verdict.as_str(),
        error: match verdict {
            Verdict::Charged { .. } => None,
            Verdict::Refused { reason } | Verdict::Mismatch { reason } => Some(reason.clone()),
            other => Some(other.as_str().to_owned()),
        },
    }
}

/// What a verdict on the newest attempt means for the payment.
///
/// Where an earlier attempt may be open, only a charge ends the doubt (Guard:
/// EarlierAttemptIsOpen). A call that was left open just now begins a new one (Guard:
/// DoubtBeginsAnew).
#[must_use]
pub fn decide(verdict: Verdict, seen: String, earlier: Option<EarlierAttempt>) -> Outcome {
    match (verdict, earlier) {
        (Verdict::Charged { requested_at }, _) => Outcome::Charged { requested_at },
        (Verdict::Mismatch { reason }, _) => Outcome::Dead { reason, held: true },
        (Verdict::Unknown, _) => Outcome::InDoubt {
            until: None,
            reason: seen,
        },
        (_, Some(earlier)) => Outcome::InDoubt {
            until: Some(earlier.doubt_until),
            reason: seen,
        },
        (Verdict::Declined | Verdict::NotSent { .. }, None) => Outcome::NotCharged { reason: seen },
        (Verdict::Refused { reason }, None) => Outcome::Dead {
            reason,
            held: false,
        },
    }
}

/// What the router learns from a verdict. Whoever asks to be left alone is, whatever else it said;
/// who stores payments and does not answer is slow, and does not fail.
fn signal(verdict: &Verdict, retry_after: Option<Duration>, answered: bool) -> router::Verdict {
    match verdict {
        Verdict::Charged { .. } | Verdict::Mismatch { .. } if !answered => {
            router::Verdict::Unanswered
        }
        // A refusal is an answer about the payment, not a fault of the processor.
        Verdict::Charged { .. } | Verdict::Mismatch { .. } | Verdict::Refused { .. } => {
            router::Verdict::Charged
        }
        Verdict::Declined => router::Verdict::Declined,
        Verdict::NotSent { .. } | Verdict::Unknown if let Some(retry_after) = retry_after => {
            router::Verdict::Throttled { retry_after }
        }
        Verdict::NotSent { .. } => router::Verdict::NotSent,
        Verdict::Unknown => router::Verdict::Unknown,
    }
}
