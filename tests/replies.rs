//! The service reads every reply of the real processor, however it is written.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap is how a test fails, also in what tests share"
)]

#[path = "../crates/simulator/tests/simulator/recording.rs"]
#[allow(dead_code, reason = "the simulator's tests read the other fields")]
mod recording;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, NaiveDateTime, Utc};
use hyper::http::Response;
use payment_proxy::processors::{
    Documented, Lookup, Reply, read_health, read_lookup, read_post, read_totals,
};
use reqwest::Method;
use rust_decimal::Decimal;
use serde_json::Value;
use uuid::Uuid;

use recording::{Recorded, recorded};

const ID: Uuid = Uuid::from_u128(0x4a79_01b8_7d26_4d9d_aa19_0000_0000_0007);

/// The text of a reply, with something in the places of what was left out of the recording.
fn whole(recorded: &Recorded, id: Uuid) -> String {
    let body = &recorded.answer.body;
    if body.starts_with('{') && body.contains('<') {
        let trace = "   at Npgsql (\"payments\")\n".repeat(80);
        let message = format!("CorrelationId already exists: {id}.\n{trace}");
        return serde_json::json!({ "message": message }).to_string();
    }
    body.clone()
}

#[test]
fn every_reply_of_the_real_processor_is_read() {
    let mut read = BTreeMap::new();
    for recorded in recorded() {
        let (method, path) = recorded.parts();
        let told = format!("{} {:?}", recorded.call, recorded.body);
        let head = recorded.answer.headers.iter();
        let head = head.fold(Response::builder(), |head, (name, value)| {
            head.header(name, value)
        });
        let status = recorded.answer.status;
        let head = head.status(status).body(()).unwrap();
        let asked: Option<Value> = recorded
            .body
            .as_ref()
            .and_then(|it| serde_json::from_str(it).ok());
        let id = asked
            .as_ref()
            .and_then(|asked| asked["correlationId"].as_str()?.parse().ok());
        let id: Uuid = id.unwrap_or_default();
        let body = whole(&recorded, id);
        let body = Some(body.as_bytes());
        let as_what = match path.split('?').next().unwrap() {
            "/payments" | "/payments/" if method == Method::POST => {
                let reply = read_post(id, &head, body, SystemTime::now());
                let expected = match (status, &reply) {
                    (200, Reply::Documented(Documented::Stored)) => "stored",
                    (400 | 415, Reply::Documented(Documented::Rejected { .. })) => "rejected",
                    (422, Reply::Documented(Documented::Duplicate { text })) => {
                        assert!(text.contains("already exists"), "{told}: {text}");
                        "duplicate"
                    }
                    (500, Reply::Documented(Documented::Failed)) => "failed",
                    (500, Reply::Undocumented { code: 500, .. }) => "its database is away",
                    _ => panic!("{told}: {reply:?}"),
                };
                assert_eq!(
                    expected == "its database is away",
                    recorded.is_said_in("database"),
                    "{told}"
                );
                expected
            }
            "/payments/service-health" if method == Method::GET => {
                let health = read_health(&head, body);
                let failing = health
                    .unwrap()
                    .map(|health| (health.failing, health.min_response_time));
                assert_eq!(failing, (status == 200).then_some((false, 0)), "{told}");
                "health"
            }
            "/admin/payments-summary" => match read_totals(&head, body) {
                Ok(totals) => {
                    let said: Value = serde_json::from_str(&recorded.answer.body).unwrap();
                    assert_eq!(said["totalRequests"], totals.total_requests, "{told}");
                    let amount = format!("\"totalAmount\":{},", totals.total_amount);
                    assert!(recorded.answer.body.contains(&amount), "{told}: {amount}");
                    "totals"
                }
                Err(error) => {
                    assert_eq!(error, format!("answered {status}"), "{told}");
                    "no totals"
                }
            },
            path if method == Method::GET && path.starts_with("/payments/") => {
                let asked: Uuid = path
                    .trim_start_matches("/payments/")
                    .parse()
                    .unwrap_or_default();
                match read_lookup(asked, &head, body) {
                    Lookup::Found {
                        amount,
                        requested_at,
                    } => {
                        let said: Value = serde_json::from_str(&recorded.answer.body).unwrap();
                        let time: NaiveDateTime =
                            said["requestedAt"].as_str().unwrap().parse().unwrap();
                        assert_eq!(requested_at, time.and_utc(), "{told}");
                        let said: Decimal = said["amount"].to_string().parse().unwrap();
                        assert_eq!(amount, Some(said), "{told}");
                        "found"
                    }
                    Lookup::Absent => {
                        assert_eq!(status, 404);
                        "absent"
                    }
                    Lookup::NoAnswer(error) => {
                        assert_eq!(error, "answered 400", "{told}");
                        "no answer"
                    }
                    other => panic!("{told}: {other:?}"),
                }
            }
            // What the service does not call.
            _ => "another call",
        };
        *read.entry(as_what).or_insert(0) += 1;
    }
    let expected = [
        ("absent", 1),
        ("another call", 10),
        ("duplicate", 1),
        ("failed", 1),
        ("found", 15),
        ("health", 2),
        ("its database is away", 1),
        ("no answer", 1),
        ("no totals", 3),
        ("rejected", 5),
        ("stored", 17),
        ("totals", 8),
    ];
    assert_eq!(read, expected.into());
}

#[test]
fn a_record_is_read_however_it_is_written() {
    let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let noon = time("2026-07-15T12:34:56Z");
    let exact = time("2026-07-15T12:34:56.123456Z");
    let read = |media_type: &str, body: &str| {
        let head = Response::builder()
            .header("content-type", media_type)
            .body(())
            .unwrap();
        read_lookup(ID, &head, Some(body.as_bytes()))
    };
    let found = |amount: &str, requested_at| Lookup::Found {
        amount: Some(amount.parse().unwrap()),
        requested_at,
    };
    let written = |amount: &str, at: &str| {
        format!(r#"{{"correlationId":"{ID}","amount":{amount},"requestedAt":"{at}"}}"#)
    };
    let json = "application/json";
    for (at, expected) in [
        ("2026-07-15T12:34:56", noon),
        ("2026-07-15T12:34:56Z", noon),
        ("2026-07-15T12:34:56z", noon),
        ("2026-07-15 12:34:56", noon),
        ("2026-07-15T12:34:56+00:00", noon),
        ("2026-07-15T12:34:56-00:00", noon),
        ("2026-07-15T14:34:56+02:00", noon),
        ("2026-07-15T14:34:56+0200", noon),
        ("2026-07-15 09:34:56-03", noon),
        ("2026-07-15T12:34:56.0", noon),
        ("2026-07-15T12:34:56.000000000Z", noon),
        ("2026-07-15T12:34:56.1", time("2026-07-15T12:34:56.1Z")),
        ("2026-07-15T12:34:56.12", time("2026-07-15T12:34:56.12Z")),
        ("2026-07-15T12:34:56.123", time("2026-07-15T12:34:56.123Z")),
        (
            "2026-07-15T12:34:56.1234",
            time("2026-07-15T12:34:56.1234Z"),
        ),
        (
            "2026-07-15T12:34:56.12345",
            time("2026-07-15T12:34:56.12345Z"),
        ),
        ("2026-07-15T12:34:56.123456", exact),
        ("2026-07-15T12:34:56,123456", exact),
        ("2026-07-15T12:34:56.1234567", exact),
        ("2026-07-15T12:34:56.123456789123Z", exact),
        ("2026-07-15T12:34", time("2026-07-15T12:34:00Z")),
        ("0001-01-01T00:00:00", time("0001-01-01T00:00:00Z")),
        (
            "9999-12-31T23:59:59.999999",
            time("9999-12-31T23:59:59.999999Z"),
        ),
    ] {
        assert_eq!(
            read(json, &written("19.9", at)),
            found("19.9", expected),
            "{at}"
        );
    }
    for amount in [
        "19.9",
        "19.90",
        "19.900000",
        "1.99e1",
        "199E-1",
        "19.90000000000000000000000000000000000000",
        "0.0000000000000000000000000000000000199e36",
        "\"19.9\"",
        "\"1.990e+1\"",
    ] {
        assert_eq!(
            read(json, &written(amount, "2026-07-15T12:34:56")),
            found("19.9", noon),
            "{amount}"
        );
    }
    for media_type in [
        "application/json; charset=utf-8",
        "APPLICATION/JSON;charset=UTF-8",
        "application/json ; profile=x",
    ] {
        assert_eq!(
            read(media_type, &written("1", "2026-07-15T12:34:56")),
            found("1", noon),
            "{media_type}"
        );
    }
    let upper = ID.to_string().to_uppercase();
    for body in [
        format!(
            r#" {{ "requestedAt" : "2026-07-15T12:34:56", "fee": {{}}, "amount" : 1.0, "correlationId" : "{upper}" }} "#
        ),
        format!("\u{feff}{}", written("1", "2026-07-15T12:34:56")),
        written("1", "2026-07-15T12:34:56").replace("amount", "am\\u006funt"),
    ] {
        assert_eq!(read(json, &body), found("1", noon), "{body}");
    }
    // What no payment can have is said to be there all the same; what cannot be read is no answer.
    for amount in ["null", "1e30", "123456789012345678901234567890.12"] {
        let lookup = read(json, &written(amount, "2026-07-15T12:34:56"));
        let expected = Lookup::Found {
            amount: None,
            requested_at: noon,
        };
        assert_eq!(lookup, expected, "{amount}");
    }
    assert_eq!(
        read(
            json,
            &written("1", "2026-07-15T12:34:56").replace(&ID.to_string(), &Uuid::nil().to_string())
        ),
        Lookup::OtherId(Uuid::nil())
    );
    for (media_type, body) in [
        (json, written("1", "yesterday")),
        (json, written("1", "")),
        (json, written("true", "2026-07-15T12:34:56")),
        (json, written("\"much\"", "2026-07-15T12:34:56")),
        (
            json,
            format!(r#"{{"correlationId":"{ID}","error":"timeout"}}"#),
        ),
        (json, written("1", "2026-07-15T12:34:56")[1..].to_owned()),
        ("text/plain", written("1", "2026-07-15T12:34:56")),
        (
            "application/problem+json",
            written("1", "2026-07-15T12:34:56"),
        ),
    ] {
        assert!(
            matches!(read(media_type, &body), Lookup::NoAnswer(_)),
            "{media_type} {body}"
        );
    }
}

#[test]
fn retry_after_is_read_in_seconds_and_as_a_date() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
    let read = |value: &str, date: Option<&str>| {
        let head = Response::builder().status(429).header("Retry-After", value);
        let head = date
            .into_iter()
            .fold(head, |head, date| head.header("Date", date));
        let reply = read_post(ID, &head.body(()).unwrap(), Some(b"Too many requests"), now);
        reply.retry_after().map(|time| time.as_secs())
    };
    for (value, date, expected) in [
        ("0", None, Some(0)),
        ("5", None, Some(5)),
        ("90", None, Some(90)),
        ("3600", None, Some(3_600)),
        ("3601", None, Some(3_600)),
        ("99999999999999999999999999", None, Some(3_600)),
        ("Sun, 06 Nov 1994 08:51:07 GMT", None, Some(90)),
        ("Sunday, 06-Nov-94 08:51:07 GMT", None, Some(90)),
        ("Sun Nov  6 08:51:07 1994", None, Some(90)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", None, Some(0)),
        // By the clock of whoever says so.
        (
            "Sun, 06 Nov 1994 08:51:07 GMT",
            Some("Sun, 06 Nov 1994 08:51:00 GMT"),
            Some(7),
        ),
        ("soon", None, None),
        ("-5", None, None),
        ("1.5", None, None),
        ("", None, None),
    ] {
        assert_eq!(read(value, date), expected, "{value} {date:?}");
    }
}
