//! What a reply proves, and what a verdict means for the payment: the model's copy of `judge` in
//! `src/processors/verdict.rs` and of `decide` in `src/processors/mod.rs`.
//! `the_model_judges_as_the_service_does` compares them.

use crate::guard::Guard;
use crate::state::{Lookup, Outcome, Reply};

/// What is known about one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The processor has the payment.
    Charged {
        /// The `requestedAt` of its record.
        requested_at: u8,
    },
    /// It did not take it: it said so, or was sent nothing.
    Declined,
    /// It never will.
    Refused,
    /// It has something else under that id.
    Mismatch,
    /// Neither is proved.
    Unknown,
}

/// What the reply to a POST under `requested_at` proves, with the help of a look-up after it;
/// `None`: ask.
#[must_use]
pub fn judge(
    keeps: impl Fn(Guard) -> bool,
    requested_at: u8,
    reply: Reply,
    lookup: Option<Lookup>,
) -> Option<Verdict> {
    match (reply, lookup) {
        (Reply::Stored, _) => Some(Verdict::Charged { requested_at }),
        (Reply::Failed, None) if !keeps(Guard::FailureIsLookedUp) => Some(Verdict::Declined),
        (_, None) => None,
        (_, Some(Lookup::Ours { requested_at })) => Some(Verdict::Charged { requested_at }),
        (_, Some(Lookup::Other)) => Some(Verdict::Mismatch),
        (_, Some(Lookup::Silence)) => Some(Verdict::Unknown),
        (Reply::Failed, Some(Lookup::Absent)) => Some(Verdict::Declined),
        (Reply::Refused, Some(Lookup::Absent)) => Some(Verdict::Refused),
        (Reply::Silence, Some(Lookup::Absent)) => Some(match keeps(Guard::AbsenceAfterReply) {
            true => Verdict::Unknown,
            false => Verdict::Declined,
        }),
    }
}

/// What a verdict on the newest attempt means for its payment.
#[must_use]
pub fn decide(keeps: impl Fn(Guard) -> bool, verdict: Verdict, has_earlier: bool) -> Outcome {
    match (verdict, has_earlier && keeps(Guard::EarlierAttemptIsOpen)) {
        (Verdict::Charged { requested_at }, _) => Outcome::Charged { requested_at },
        (Verdict::Mismatch, _) => Outcome::Dead { held: true },
        (Verdict::Unknown, _) => Outcome::InDoubt {
            anew: !has_earlier || keeps(Guard::DoubtBeginsAnew),
        },
        (Verdict::Declined | Verdict::Refused, true) => Outcome::InDoubt { anew: false },
        (Verdict::Declined, false) => Outcome::NotCharged,
        (Verdict::Refused, false) => Outcome::Dead { held: false },
    }
}
