//! What the replies of a processor say. They are read here and nowhere else: for payments, health,
//! totals, and by `reconcile`.
//!
//! A reply says something only in the shape that the processor gives it: status, media type and
//! body, as `docs/replies.md` lists them. Whatever answers in another shape is something in
//! between, which cannot know what the processor does. Inside of the shape every way of writing the
//! same value is read: order and number of fields, zones and fractions of a time, spellings of a
//! number.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveTime, Utc};
use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER,
    TRANSFER_ENCODING,
};
use hyper::{Response, StatusCode};
use router::MAX_RETRY_AFTER;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::verdict::{Documented, Lookup, Reply};
use crate::domain::payment::parse_amount;

/// Characters of a reply that a dead letter keeps.
const MAX_REASON_CHARS: usize = 500;
/// What a processor says of a payment that it has stored just now.
const STORED: &str = "payment processed successfully";

/// What a processor says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Payments fail.
    pub failing: bool,
    /// The least time that a payment takes, in milliseconds.
    pub min_response_time: u32,
}

/// What a processor charged over a range, by its own ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorTotals {
    /// Number of payments.
    pub total_requests: i64,
    /// Their sum.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub total_amount: Decimal,
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    correlation_id: Uuid,
    #[serde(borrow)]
    amount: &'a RawValue,
    #[serde(borrow)]
    requested_at: &'a RawValue,
}

/// Reads what came back from the `POST` of that payment at the time `now`; `body` is `None` where
/// it is not complete.
#[must_use]
pub fn read_post(
    correlation_id: Uuid,
    head: &Response<()>,
    body: Option<&[u8]>,
    now: SystemTime,
) -> Reply {
    documented(correlation_id, head, body, now)
        .map_or_else(|| undocumented(head, body, now), Reply::Documented)
}

/// The same, where it is known that the reply may be the answer to something else.
pub(super) fn undocumented(head: &Response<()>, body: Option<&[u8]>, now: SystemTime) -> Reply {
    Reply::Undocumented {
        code: head.status().as_u16(),
        retry_after: retry_after(head, now),
        text: printable(body),
    }
}

fn documented(
    correlation_id: Uuid,
    head: &Response<()>,
    body: Option<&[u8]>,
    now: SystemTime,
) -> Option<Documented> {
    let message = || json::<Message>(head, body).ok().map(|said| said.message);
    match head.status() {
        StatusCode::OK => (message()? == STORED).then_some(Documented::Stored),
        // It names the payment: one that is about another is the answer to another request.
        StatusCode::UNPROCESSABLE_ENTITY => message()?
            .to_ascii_lowercase()
            .contains(&correlation_id.to_string())
            .then(|| Documented::Duplicate {
                text: printable(body),
            }),
        StatusCode::TOO_MANY_REQUESTS => {
            too_many(head, body, now).map(|retry_after| Documented::TooMany { retry_after })
        }
        StatusCode::INTERNAL_SERVER_ERROR => is_bare(head, body).then_some(Documented::Failed),
        code @ (StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE) => {
            is_bare(head, body).then_some(Documented::Rejected {
                code: code.as_u16(),
            })
        }
        _ => None,
    }
}

/// How long whoever gets this 429 shall wait, where it is the processor's own: a text without a
/// media type.
fn too_many(head: &Response<()>, body: Option<&[u8]>, now: SystemTime) -> Option<Duration> {
    let is_text = body.is_some_and(|body| !body.is_empty() && str::from_utf8(body).is_ok());
    let is_ours = is_text && !head.headers().contains_key(CONTENT_TYPE);
    retry_after(head, now).filter(|_| is_ours)
}

/// Reads what came back from `GET /payments/{id}`.
#[must_use]
pub fn read_lookup(correlation_id: Uuid, head: &Response<()>, body: Option<&[u8]>) -> Lookup {
    match head.status() {
        StatusCode::NOT_FOUND if is_bare(head, body) => Lookup::Absent,
        StatusCode::OK => match json_body(head, body) {
            Ok(body) => read_record(correlation_id, body),
            Err(error) => Lookup::NoAnswer(error),
        },
        StatusCode::TOO_MANY_REQUESTS if too_many(head, body, SystemTime::now()).is_some() => {
            Lookup::Throttled
        }
        status => Lookup::NoAnswer(strange(status)),
    }
}

/// What a record in JSON says of the payment that was asked for.
#[must_use]
pub(crate) fn read_record(correlation_id: Uuid, body: &[u8]) -> Lookup {
    let Record {
        correlation_id: id,
        amount,
        requested_at,
    } = match serde_json::from_slice(body) {
        Ok(record) => record,
        Err(error) => return Lookup::NoAnswer(error.to_string()),
    };
    if id != correlation_id {
        return Lookup::OtherId(id);
    }
    let time = serde_json::from_str::<String>(requested_at.get());
    let time = time.ok().and_then(|time| read_time(&time));
    match (read_amount(amount.get()), time) {
        (Ok(amount), Some(requested_at)) => Lookup::Found {
            amount,
            requested_at,
        },
        (Err(()), _) => Lookup::NoAnswer("its amount cannot be read".to_owned()),
        (_, None) => Lookup::NoAnswer("its requestedAt cannot be read".to_owned()),
    }
}

/// Reads what came back from `GET /payments/service-health`. `Ok(None)`: it was asked too often,
/// which is no news.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read_health(head: &Response<()>, body: Option<&[u8]>) -> Result<Option<Health>, String> {
    match head.status() {
        StatusCode::OK => json(head, body).map(Some),
        StatusCode::TOO_MANY_REQUESTS => Ok(None),
        status => Err(strange(status)),
    }
}

/// Reads what came back from `GET /admin/payments-summary`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read_totals(head: &Response<()>, body: Option<&[u8]>) -> Result<ProcessorTotals, String> {
    match head.status() {
        StatusCode::OK => json(head, body),
        status => Err(strange(status)),
    }
}

/// A status without the name that we would give it.
fn strange(status: StatusCode) -> String {
    format!("answered {}", status.as_u16())
}

/// An amount as a JSON number, or as one in a string, in any spelling. `Ok(None)`: there is none,
/// or one that no payment can have and that a [`Decimal`] does not hold.
fn read_amount(raw: &str) -> Result<Option<Decimal>, ()> {
    if raw == "null" {
        return Ok(None);
    }
    let quoted = raw.starts_with('"').then(|| serde_json::from_str(raw));
    let number: String = quoted.unwrap_or_else(|| Ok(raw.to_owned())).map_err(drop)?;
    let number = number.trim();
    serde_json::from_str::<serde_json::Number>(number).map_err(drop)?;
    let read = parse_amount(number).ok();
    // Not that of any payment, but told as it is.
    Ok(read.or_else(|| Decimal::from_str_exact(number).ok()))
}

/// A time in ISO 8601, in UTC where it has no zone, to the microsecond; finer digits are cut off,
/// as the tables do.
fn read_time(text: &str) -> Option<DateTime<Utc>> {
    let (date, rest) = text.trim().split_once(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone_at);
    let clock = clock.replace(',', ".");
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let clock = NaiveTime::parse_from_str(&clock, "%H:%M:%S%.f")
        .or_else(|_| NaiveTime::parse_from_str(&clock, "%H:%M"))
        .ok()?;
    let local = date.and_time(clock).and_local_timezone(offset(zone)?);
    let time = local.single()?.to_utc();
    let nanos = i64::from(time.timestamp_subsec_nanos() % 1_000);
    time.checked_sub_signed(chrono::TimeDelta::nanoseconds(nanos))
}

/// `Z`, `+02:00`, `+0200`, `+02`, or nothing.
fn offset(zone: &str) -> Option<FixedOffset> {
    let Some(sign) = zone.chars().next().filter(|sign| matches!(sign, '+' | '-')) else {
        return matches!(zone, "" | "Z" | "z").then(|| FixedOffset::east_opt(0))?;
    };
    let digits = zone[1..].replace(':', "");
    let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
    let part = |range| {
        digits
            .get(range)
            .map_or(Some(0), |part: &str| part.parse().ok())
    };
    let (hours, minutes): (i32, i32) = match digits.len() {
        2 | 4 if is_number => (part(0..2)?, part(2..4)?),
        _ => return None,
    };
    let seconds = (hours * 60 + minutes) * 60;
    FixedOffset::east_opt(if sign == '-' { -seconds } else { seconds })
}

/// Whether a reply is one of those that the processor sends without a body.
fn is_bare(head: &Response<()>, body: Option<&[u8]>) -> bool {
    let headers = head.headers();
    body.is_some_and(<[u8]>::is_empty)
        && only(head, &CONTENT_LENGTH) == Some("0")
        && ![CONTENT_TYPE, TRANSFER_ENCODING, CONTENT_ENCODING]
            .iter()
            .any(|name| headers.contains_key(name))
}

fn json<T: DeserializeOwned>(head: &Response<()>, body: Option<&[u8]>) -> Result<T, String> {
    serde_json::from_slice(json_body(head, body)?).map_err(|error| error.to_string())
}

/// The body of a reply that is said to be JSON.
fn json_body<'a>(head: &Response<()>, body: Option<&'a [u8]>) -> Result<&'a [u8], String> {
    let media_type = only(head, &CONTENT_TYPE).and_then(|value| value.split(';').next());
    let is_json =
        media_type.is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"));
    if !is_json || head.headers().contains_key(CONTENT_ENCODING) {
        let media_type = media_type.unwrap_or("no media type");
        return Err(format!("{} with {media_type}", strange(head.status())));
    }
    let body = body.ok_or_else(|| "the reply cannot be read".to_owned())?;
    Ok(body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body))
}

/// The value of a header that stands there once.
fn only<'a>(head: &'a Response<()>, name: &HeaderName) -> Option<&'a str> {
    let mut values = head.headers().get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.trim())
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), at most [`MAX_RETRY_AFTER`]. A date is
/// counted from the reply's own `Date`, where it has one, so that clocks which differ do not
/// matter.
fn retry_after(head: &Response<()>, now: SystemTime) -> Option<Duration> {
    let value = only(head, &RETRY_AFTER)?;
    let wait = if !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit()) {
        // More digits than a u64 has are longer than the longest time, too.
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        let sent_at = only(head, &DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        // A moment that is over asks for no time at all.
        until
            .duration_since(sent_at.unwrap_or(now))
            .unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// The beginning of a body, as it may be shown to operators.
fn printable(body: Option<&[u8]>) -> String {
    let text = String::from_utf8_lossy(body.unwrap_or_default());
    crate::domain::printable::printable(&text)
        .take(MAX_REASON_CHARS)
        .collect()
}
