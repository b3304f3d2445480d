//! What a reply proves: the one function that turns what happened at a processor into what is known.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use crate::claim::Claim;
use crate::payment::format_time;

/// What came back from a POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A reply with this status.
    Status {
        /// The HTTP status.
        code: u16,
        /// `Retry-After`, where it was given in seconds.
        retry_after: Option<Duration>,
        /// The beginning of the body, for a dead letter.
        text: String,
    },
    /// No connection was made, so no byte was written.
    NotConnected(String),
    /// A byte may have been written, and no whole reply came back: timeout, reset, end of file.
    NoReply(String),
}

/// What came back from a `GET /payments/{id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The processor has the payment.
    Found {
        /// The amount that it charged.
        amount: Decimal,
        /// The stamp under which it did.
        requested_at: DateTime<Utc>,
    },
    /// 404: the processor does not have it at this moment.
    Absent,
    /// Anything else.
    NoAnswer(String),
}

impl fmt::Display for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code, text, .. } if text.is_empty() => write!(out, "answered {code}"),
            Self::Status { code, text, .. } => write!(out, "answered {code}: {text}"),
            Self::NotConnected(error) => write!(out, "no connection: {error}"),
            Self::NoReply(error) => write!(out, "no reply: {error}"),
        }
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found {
                amount,
                requested_at,
            } => write!(
                out,
                "it has the payment with {amount} of {}",
                format_time(*requested_at)
            ),
            Self::Absent => out.write_str("it does not have the payment"),
            Self::NoAnswer(error) => write!(out, "asked for the payment, no answer: {error}"),
        }
    }
}

/// What is known about one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The processor has the payment.
    Charged {
        /// `requestedAt` as the processor recorded it.
        requested_at: DateTime<Utc>,
    },
    /// The processor answered, and does not have it.
    Declined,
    /// The processor did not take it up.
    NotSent {
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The processor will never take this payment.
    Refused {
        /// What it said.
        reason: String,
    },
    /// The processor has this id with another amount: not this payment, and in nobody's power to mend.
    Mismatch {
        /// Both amounts.
        reason: String,
    },
    /// None of this is proved.
    Unknown,
}

impl Verdict {
    /// The verdict in a word, as counted and traced.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Charged { .. } => "charged",
            Self::Declined => "declined",
            Self::NotSent {
                retry_after: Some(_),
            } => "throttled",
            Self::NotSent { retry_after: None } => "not_connected",
            Self::Refused { .. } => "refused",
            Self::Mismatch { .. } => "mismatch",
            Self::Unknown => "unknown",
        }
    }
}

/// What the reply to `claim` proves, with the help of a lookup made after it. `None`: the reply by
/// itself proves nothing, ask the processor.
///
/// - 200: charged.
/// - No connection, 429: not taken up.
/// - 400: never will be.
/// - 422 means that the id exists; the lookup says under which stamp. Without one it is a refusal.
/// - 500 and any other status end the request, so an absence after them is proof; the documented
///   failure stores nothing, but that is cheaper to ask than to believe.
/// - 502, 503, 504 may come from something in between while the processor goes on, like a timeout or
///   a lost connection: then only a presence is proof.
#[must_use]
pub fn judge(claim: &Claim, reply: &Reply, lookup: Option<&Lookup>) -> Option<Verdict> {
    match reply {
        Reply::Status { code: 200, .. } => {
            return Some(Verdict::Charged {
                requested_at: claim.requested_at,
            });
        }
        Reply::NotConnected(_) => return Some(Verdict::NotSent { retry_after: None }),
        Reply::Status {
            code: 429,
            retry_after,
            ..
        } => {
            return Some(Verdict::NotSent {
                retry_after: *retry_after,
            });
        }
        Reply::Status {
            code: 400, text, ..
        } => return Some(refusal(claim, 400, text)),
        Reply::Status { .. } | Reply::NoReply(_) => {}
    }
    Some(match (lookup?, reply) {
        (
            Lookup::Found {
                amount,
                requested_at,
            },
            _,
        ) if *amount == claim.payment.amount => Verdict::Charged {
            requested_at: *requested_at,
        },
        (
            Lookup::Found {
                amount,
                requested_at,
            },
            _,
        ) => Verdict::Mismatch {
            reason: format!(
                "{} has this id with amount {amount} of {}, not {}",
                claim.processor,
                format_time(*requested_at),
                claim.payment.amount
            ),
        },
        (
            Lookup::Absent,
            Reply::Status {
                code: 422, text, ..
            },
        ) => refusal(claim, 422, text),
        (Lookup::Absent, Reply::Status { code, .. }) if !(502..=504).contains(code) => {
            Verdict::Declined
        }
        (Lookup::Absent | Lookup::NoAnswer(_), _) => Verdict::Unknown,
    })
}

fn refusal(claim: &Claim, code: u16, text: &str) -> Verdict {
    Verdict::Refused {
        reason: format!("{} answered {code}: {text}", claim.processor)
            .trim_end()
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use uuid::Uuid;

    use super::*;
    use crate::payment::Payment;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn claim() -> Claim {
        Claim {
            id: 1,
            payment: Payment {
                correlation_id: Uuid::from_u128(1),
                amount: Decimal::new(1990, 2),
                traceparent: None,
            },
            accepted_at: time("2026-01-01T00:00:00Z"),
            attempt: 1,
            processor: "default".to_owned(),
            requested_at: time("2026-01-01T00:00:01Z"),
            send_by: Instant::now(),
            earlier: None,
        }
    }

    fn status(code: u16) -> Reply {
        Reply::Status {
            code,
            retry_after: None,
            text: "why".to_owned(),
        }
    }

    fn found(cents: i64) -> Lookup {
        Lookup::Found {
            amount: Decimal::new(cents, 2),
            requested_at: time("2026-01-01T00:00:00.500Z"),
        }
    }

    #[test]
    fn replies_that_are_proof_by_themselves_need_no_lookup() {
        let retry_after = Some(Duration::from_secs(5));
        let throttled = Reply::Status {
            code: 429,
            retry_after,
            text: String::new(),
        };
        let charged = Verdict::Charged {
            requested_at: claim().requested_at,
        };
        let refused = Verdict::Refused {
            reason: "default answered 400: why".to_owned(),
        };
        for (reply, expected) in [
            (status(200), charged),
            (
                Reply::NotConnected(String::new()),
                Verdict::NotSent { retry_after: None },
            ),
            (throttled, Verdict::NotSent { retry_after }),
            (status(400), refused),
        ] {
            assert_eq!(judge(&claim(), &reply, None), Some(expected), "{reply:?}");
        }
    }

    #[test]
    fn every_other_reply_asks_the_processor() {
        for code in [201, 204, 301, 401, 404, 405, 422, 500, 501, 502, 503, 504] {
            assert_eq!(judge(&claim(), &status(code), None), None, "{code}");
        }
        assert_eq!(judge(&claim(), &Reply::NoReply(String::new()), None), None);
    }

    #[test]
    fn a_presence_is_proof_after_any_reply_and_gives_the_stamp() {
        let expected = Verdict::Charged {
            requested_at: time("2026-01-01T00:00:00.500Z"),
        };
        for reply in [
            status(500),
            status(422),
            status(504),
            Reply::NoReply(String::new()),
        ] {
            assert_eq!(
                judge(&claim(), &reply, Some(&found(1990))),
                Some(expected.clone()),
                "{reply:?}"
            );
        }
    }

    #[test]
    fn an_absence_is_proof_only_when_the_request_has_ended() {
        for code in [201, 302, 401, 404, 500, 501, 505] {
            assert_eq!(
                judge(&claim(), &status(code), Some(&Lookup::Absent)),
                Some(Verdict::Declined),
                "{code}"
            );
        }
        for reply in [
            status(502),
            status(503),
            status(504),
            Reply::NoReply(String::new()),
        ] {
            assert_eq!(
                judge(&claim(), &reply, Some(&Lookup::Absent)),
                Some(Verdict::Unknown),
                "{reply:?}"
            );
        }
    }

    #[test]
    fn without_an_answer_to_the_lookup_nothing_is_known() {
        let silence = Lookup::NoAnswer(String::new());
        for reply in [
            status(422),
            status(500),
            status(503),
            Reply::NoReply(String::new()),
        ] {
            assert_eq!(
                judge(&claim(), &reply, Some(&silence)),
                Some(Verdict::Unknown),
                "{reply:?}"
            );
        }
    }

    #[test]
    fn an_id_with_another_amount_is_not_this_payment() {
        let verdict = judge(&claim(), &status(422), Some(&found(500)));
        assert!(matches!(verdict, Some(Verdict::Mismatch { reason }) if reason.contains("5.00")));
    }

    #[test]
    fn a_422_for_an_id_that_is_absent_is_a_refusal() {
        let verdict = judge(&claim(), &status(422), Some(&Lookup::Absent));
        assert!(matches!(verdict, Some(Verdict::Refused { .. })));
    }
}
