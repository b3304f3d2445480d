//! What a reply proves: [`judge`] is the one function that turns a reply of a processor into a
//! verdict. `docs/replies.md` has it as a table.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::domain::payment::format_time;
use crate::domain::printable::Shown;
use crate::store::claim::Claim;

/// How long before the acceptance of a payment, or after its last attempt, the time of a record may
/// lie that is taken for a charge of ours: the one rule for workers, for `reconcile` (where the
/// last attempt is not known, this moment stands for it) and after a restore. A day, because a
/// clock that is set wrong by hand is wrong by up to a day or by a time zone, and is put right
/// within one; a record from further away is a mismatch, for a person.
pub const RECORD_TIME_LIMIT: TimeDelta = TimeDelta::hours(24);

/// What came back from a POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A reply of the processor itself, in the shape that it gives it.
    Documented(Documented),
    /// Any other reply, whoever it is from: a gateway, a balancer, a processor in trouble.
    Undocumented {
        /// The HTTP status.
        code: u16,
        /// How long the sender asks to send nothing, if it says so.
        retry_after: Option<Duration>,
        /// The beginning of the body.
        text: String,
    },
    /// No connection was made, so no byte was written.
    NotConnected(String),
    /// A byte may have been written, and no whole reply came back: timeout, reset, end of file.
    NoReply(String),
}

/// What a processor answers to a POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Documented {
    /// 200: it has stored the payment.
    Stored,
    /// 400 or 415: it cannot read the request.
    Rejected {
        /// The HTTP status.
        code: u16,
    },
    /// 422: it cannot store the payment, in most cases because it has one with that id.
    Duplicate {
        /// The beginning of the body, for a dead letter.
        text: String,
    },
    /// 429: too many requests.
    TooMany {
        /// How long it wants to be left alone.
        retry_after: Duration,
    },
    /// 500 without a body: the failure before anything is stored.
    Failed,
}

impl Documented {
    /// The HTTP status.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::Stored => 200,
            Self::Rejected { code } => *code,
            Self::Duplicate { .. } => 422,
            Self::TooMany { .. } => 429,
            Self::Failed => 500,
        }
    }
}

impl Reply {
    /// How long the sender asks to send nothing. It is obeyed whoever the sender is.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Documented(Documented::TooMany { retry_after }) => Some(*retry_after),
            Self::Undocumented { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What came back from a `GET /payments/{id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The processor has the payment.
    Found {
        /// The amount that it charged; `None`: it has no amount, or one that no payment can have.
        amount: Option<Decimal>,
        /// `requestedAt` of the record.
        requested_at: DateTime<Utc>,
    },
    /// The answer is a record of another payment.
    OtherId(Uuid),
    /// 404: the processor does not have it at this moment.
    Absent,
    /// 429: too many requests.
    Throttled,
    /// Anything else.
    NoAnswer(String),
}

impl fmt::Display for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Documented(Documented::Duplicate { text }) => write!(out, "answered 422: {text}"),
            Self::Documented(said) => write!(out, "answered {}", said.code()),
            Self::Undocumented { code, text, .. } if text.is_empty() => {
                write!(out, "answered {code} in a way that proves nothing")
            }
            Self::Undocumented { code, text, .. } => {
                write!(out, "answered {code} in a way that proves nothing: {text}")
            }
            Self::NotConnected(error) => write!(out, "no connection: {}", Shown(error)),
            Self::NoReply(error) => write!(out, "no reply: {}", Shown(error)),
        }
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found {
                amount,
                requested_at,
            } => {
                let amount = amount.map_or_else(
                    || "no amount of ours".to_owned(),
                    |it| format!("amount {it}"),
                );
                write!(
                    out,
                    "it has the payment with {amount} of {}",
                    format_time(*requested_at)
                )
            }
            Self::OtherId(id) => write!(out, "asked for the payment, it shows another one, {id}"),
            Self::Absent => out.write_str("it does not have the payment"),
            Self::Throttled => out.write_str("asked for the payment, it answered 429"),
            Self::NoAnswer(error) => {
                write!(out, "asked for the payment, no answer: {}", Shown(error))
            }
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
    /// The processor has something that no attempt of ours can have made: another amount, a time
    /// far from our attempts, another id. It is for a person to look into.
    Mismatch {
        /// What it has, and what we have.
        reason: String,
    },
    /// Neither a charge nor its absence is proved.
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
/// - Stored (200): charged. No connection: not sent.
/// - After anything else a record of the payment is proof of a charge, if it can be ours. A failure
///   that is reported alone proves nothing (Guard: FailureIsLookedUp).
/// - An absence is proof only after a documented reply (Guard: AbsenceAfterReply), because that
///   ends the request: after 500 and 429 that nothing was charged, after 400, 415 and 422 that
///   nothing ever will be. Whoever calls this has made sure that the reply is the one to this
///   request.
/// - Everything else is unknown: a gateway gives up while the processor goes on, and so may the
///   database of a processor that answers 500 with a text.
#[must_use]
pub fn judge(claim: &Claim, reply: &Reply, lookup: Option<&Lookup>) -> Option<Verdict> {
    match reply {
        Reply::Documented(Documented::Stored) => {
            return Some(Verdict::Charged {
                requested_at: claim.requested_at,
            });
        }
        Reply::NotConnected(_) => return Some(Verdict::NotSent { retry_after: None }),
        Reply::Documented(_) | Reply::Undocumented { .. } | Reply::NoReply(_) => {}
    }
    let retry_after = reply.retry_after();
    Some(match (lookup?, reply) {
        (Lookup::Found { .. } | Lookup::OtherId(_), _) => found(claim, lookup?),
        // Of two 429 in a row at least one is the answer to the POST.
        (Lookup::Absent | Lookup::Throttled, Reply::Documented(Documented::TooMany { .. })) => {
            Verdict::NotSent { retry_after }
        }
        (Lookup::Absent, Reply::Documented(Documented::Failed)) => Verdict::Declined,
        (Lookup::Absent, Reply::Documented(_)) => Verdict::Refused {
            reason: format!("{} {reply}", claim.processor).trim_end().to_owned(),
        },
        (Lookup::Absent | Lookup::Throttled | Lookup::NoAnswer(_), _) => Verdict::Unknown,
    })
}

/// What a record proves.
fn found(claim: &Claim, lookup: &Lookup) -> Verdict {
    if let Lookup::Found {
        amount,
        requested_at,
    } = lookup
        && *amount == Some(claim.payment.amount)
    {
        // Digits below the millisecond are the processor's, not ours.
        if requested_at.timestamp_millis() == claim.requested_at.timestamp_millis() {
            return Verdict::Charged {
                requested_at: claim.requested_at,
            };
        }
        if is_near(*requested_at, claim.accepted_at, claim.requested_at) {
            return Verdict::Charged {
                requested_at: *requested_at,
            };
        }
    }
    Verdict::Mismatch {
        reason: format!(
            "{}, asked for a payment with {} of {}: {lookup}",
            claim.processor,
            claim.payment.amount,
            format_time(claim.requested_at)
        ),
    }
}

/// Whether the time of a record can be that of an attempt at a payment that was accepted and last
/// attempted then.
#[must_use]
pub fn is_near(
    found: DateTime<Utc>,
    accepted_at: DateTime<Utc>,
    attempted_at: DateTime<Utc>,
) -> bool {
    let (first, last) = (accepted_at.min(attempted_at), accepted_at.max(attempted_at));
    found >= first - RECORD_TIME_LIMIT && found <= last + RECORD_TIME_LIMIT
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use hyper::Response;

    use super::*;
    use crate::domain::payment::Payment;
    use crate::domain::uptime::Uptime;
    use crate::processors::{read_lookup, read_post};

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn claim() -> Claim {
        Claim {
            id: 1,
            payment: Payment {
                correlation_id: Uuid::from_u128(0xa1),
                amount: Decimal::new(1990, 2),
                traceparent: None,
            },
            accepted_at: time("2026-01-01T00:00:00Z"),
            attempt: 1,
            processor: "default".to_owned(),
            requested_at: time("2026-01-01T00:00:01.250Z"),
            send_by: Uptime::now(),
            earlier: None,
        }
    }

    fn found(amount: &str, at: &str) -> Lookup {
        Lookup::Found {
            amount: Some(amount.parse().expect("an amount")),
            requested_at: time(at),
        }
    }

    fn head(code: u16, headers: &[(&str, &str)]) -> Response<()> {
        let builder = Response::builder().status(code);
        let builder = headers.iter().fold(builder, |builder, (name, value)| {
            builder.header(*name, *value)
        });
        builder.body(()).expect("a head")
    }

    /// A name, headers and a body.
    type Shape = (&'static str, Vec<(&'static str, &'static str)>, String);

    /// Headers and body of what a processor answers, and of what others do.
    fn shapes() -> [Shape; 12] {
        let id = claim().payment.correlation_id;
        let json = ("Content-Type", "application/json; charset=utf-8");
        let chunked = ("Transfer-Encoding", "chunked");
        let wait = ("Retry-After", "5");
        let html = ("Content-Type", "text/html");
        let stored = r#"{"message":"payment processed successfully"}"#.to_owned();
        let known = format!(r#"{{"message":"CorrelationId already exists: {id}. at Npgsql"}}"#);
        let page = "<html><body>gateway</body></html>".to_owned();
        [
            ("stored", vec![json, chunked], stored.clone()),
            ("duplicate", vec![json, chunked], known.clone()),
            (
                "too many",
                vec![wait, chunked],
                "Too many requests".to_owned(),
            ),
            ("bare", vec![("Content-Length", "0")], String::new()),
            ("page", vec![html, ("Content-Length", "33")], page.clone()),
            ("page that asks for timeout", vec![html, wait], page),
            (
                "nothing, as a text",
                vec![html, ("Content-Length", "0")],
                String::new(),
            ),
            (
                "nothing, to the end of the connection",
                vec![],
                String::new(),
            ),
            (
                "JSON of a gateway",
                vec![json],
                r#"{"message":"accepted"}"#.to_owned(),
            ),
            (
                "stored, as a text",
                vec![("Content-Type", "text/plain")],
                stored,
            ),
            (
                "stored, in another coding",
                vec![json, ("Content-Encoding", "gzip")],
                known,
            ),
            (
                "other JSON",
                vec![json],
                r#"{"error":{"code":500}}"#.to_owned(),
            ),
        ]
    }

    #[test]
    fn of_every_status_only_the_documented_shape_is_believed() {
        let claim = claim();
        let id = claim.payment.correlation_id;
        let read = |code: u16, headers: &[_], body: &str| {
            read_post(
                id,
                &head(code, headers),
                Some(body.as_bytes()),
                SystemTime::now(),
            )
        };
        let mut believed = Vec::new();
        for code in 100..=599 {
            for (shape, headers, body) in shapes() {
                let reply = read(code, &headers, &body);
                let alone = judge(&claim, &reply, None);
                let absent = judge(&claim, &reply, Some(&Lookup::Absent)).expect("a verdict");
                if absent == Verdict::Unknown {
                    assert_eq!(alone, None, "{code} {shape}");
                } else {
                    let alone = alone.map_or("ask", |verdict| verdict.as_str());
                    believed.push((code, shape, alone, absent.as_str()));
                }
                // Whatever came, a record is a charge, and silence is nothing.
                let record = judge(
                    &claim,
                    &reply,
                    Some(&found("19.9", "2026-01-01T00:00:01.250Z")),
                );
                assert_eq!(
                    record.expect("a verdict").as_str(),
                    "charged",
                    "{code} {shape}"
                );
                let silence = Lookup::NoAnswer(String::new());
                let silence = judge(&claim, &reply, Some(&silence)).expect("a verdict");
                assert!(
                    matches!(silence, Verdict::Unknown) || code == 200,
                    "{code} {shape}"
                );
            }
        }
        assert_eq!(
            believed,
            [
                (200, "stored", "charged", "charged"),
                (400, "bare", "ask", "refused"),
                (415, "bare", "ask", "refused"),
                (422, "duplicate", "ask", "refused"),
                (429, "too many", "ask", "throttled"),
                (500, "bare", "ask", "declined"),
            ]
        );
    }

    #[test]
    fn of_every_status_only_a_documented_404_is_an_absence() {
        let id = claim().payment.correlation_id;
        let mut absent = Vec::new();
        for code in 100..=599 {
            for (shape, headers, body) in shapes() {
                match read_lookup(id, &head(code, &headers), Some(body.as_bytes())) {
                    Lookup::Absent => absent.push((code, shape)),
                    Lookup::Found { .. } | Lookup::OtherId(_) => panic!("{code} {shape}"),
                    Lookup::Throttled => assert_eq!((code, shape), (429, "too many")),
                    Lookup::NoAnswer(_) => {}
                }
            }
        }
        assert_eq!(absent, [(404, "bare")]);
    }

    #[test]
    fn a_reply_that_is_cut_off_proves_nothing() {
        for (code, headers) in shapes().map(|(_, headers, _)| (200, headers)) {
            let reply = read_post(Uuid::nil(), &head(code, &headers), None, SystemTime::now());
            assert!(matches!(reply, Reply::Undocumented { .. }), "{reply:?}");
        }
    }

    #[test]
    fn without_a_connection_nothing_was_sent_and_silence_proves_nothing() {
        let not_sent = Some(Verdict::NotSent { retry_after: None });
        assert_eq!(
            judge(&claim(), &Reply::NotConnected(String::new()), None),
            not_sent
        );
        let silence = Reply::NoReply(String::new());
        assert_eq!(judge(&claim(), &silence, None), None);
        let absent = judge(&claim(), &silence, Some(&Lookup::Absent));
        assert_eq!(absent, Some(Verdict::Unknown));
    }

    #[test]
    fn what_others_said_turns_no_order_wherever_it_is_told() {
        let id = Uuid::from_u128(0xa1);
        let spoofed = "\u{202e}00.1\u{200b}";
        let record = format!(r#"{{"correlationId":"{spoofed}","amount":1,"requestedAt":"x"}}"#);
        let headers = [("Content-Type", "application/json")];
        let told = [
            read_lookup(id, &head(200, &headers), Some(record.as_bytes())).to_string(),
            Reply::NotConnected(spoofed.to_owned()).to_string(),
            Reply::NoReply(spoofed.to_owned()).to_string(),
            read_post(
                id,
                &head(503, &[]),
                Some(spoofed.as_bytes()),
                SystemTime::now(),
            )
            .to_string(),
        ];
        for told in told {
            assert!(!told.contains(['\u{202e}', '\u{200b}']), "{told:?}");
        }
    }

    #[test]
    fn two_429_in_a_row_are_an_answer_to_the_post() {
        let retry_after = Duration::from_secs(5);
        let reply = Reply::Documented(Documented::TooMany { retry_after });
        let verdict = judge(&claim(), &reply, Some(&Lookup::Throttled));
        let retry_after = Some(retry_after);
        assert_eq!(verdict, Some(Verdict::NotSent { retry_after }));
        let failed = Reply::Documented(Documented::Failed);
        let verdict = judge(&claim(), &failed, Some(&Lookup::Throttled));
        assert_eq!(verdict, Some(Verdict::Unknown));
    }

    #[test]
    fn a_record_of_this_millisecond_keeps_our_time_and_one_nearby_gives_its_own() {
        let silence = Reply::NoReply(String::new());
        let ours = claim().requested_at;
        for (at, expected) in [
            ("2026-01-01T00:00:01.250Z", ours),
            ("2026-01-01T00:00:01.250999Z", ours),
            ("2026-01-01T00:00:00.500Z", time("2026-01-01T00:00:00.500Z")),
            ("2025-12-31T00:00:00Z", time("2025-12-31T00:00:00Z")),
            ("2026-01-02T00:00:01.250Z", time("2026-01-02T00:00:01.250Z")),
        ] {
            let verdict = judge(&claim(), &silence, Some(&found("19.90", at)));
            let requested_at = expected;
            assert_eq!(verdict, Some(Verdict::Charged { requested_at }), "{at}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_ours_is_a_mismatch() {
        for lookup in [
            found("5.00", "2026-01-01T00:00:01.250Z"),
            found("-19.90", "2026-01-01T00:00:01.250Z"),
            found("19.90", "2025-12-30T23:59:59.999Z"),
            found("19.90", "2026-01-02T00:00:01.251Z"),
            found("19.90", "0001-01-01T00:00:00Z"),
            found("19.90", "+262142-12-31T23:59:59Z"),
            Lookup::OtherId(Uuid::from_u128(2)),
            Lookup::Found {
                amount: None,
                requested_at: claim().requested_at,
            },
        ] {
            for reply in [
                Reply::NoReply(String::new()),
                Reply::Documented(Documented::Failed),
            ] {
                let verdict = judge(&claim(), &reply, Some(&lookup));
                let reason = lookup.to_string();
                assert!(
                    matches!(&verdict, Some(Verdict::Mismatch { reason: why }) if why.contains(&reason)),
                    "{verdict:?}"
                );
            }
        }
    }
}
