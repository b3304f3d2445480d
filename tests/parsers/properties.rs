//! What holds of the parsers whatever they are given. The fuzz targets (`fuzz/`) are these
//! functions.

use std::time::SystemTime;

use axum::http::{Response, Uri};
use chrono::DateTime;
use payment_proxy::domain::payment::{AMOUNT_LIMIT, AMOUNT_SCALE, Payment, format_time};
use payment_proxy::domain::traceparent::Traceparent;
use payment_proxy::domain::uptime::Uptime;
use payment_proxy::http;
use payment_proxy::processors::{
    Lookup, RECORD_TIME_LIMIT, Reply, Verdict, judge, read_health, read_lookup, read_post,
    read_totals,
};
use payment_proxy::store::claim::Claim;
use payment_proxy::store::summary::pieces;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;
use serde_json::Value;
use uuid::Uuid;

/// A payment that is read can be recorded, is what another reader of JSON sees, and reads the same
/// again.
pub fn payment(body: &[u8]) {
    let payment = match Payment::from_json(body) {
        Ok(payment) => payment,
        Err(invalid) => return assert!(!invalid.to_string().is_empty()),
    };
    let Payment {
        correlation_id,
        amount,
        ..
    } = payment;
    assert!(amount > Decimal::ZERO && amount < AMOUNT_LIMIT, "{amount}");
    assert_eq!(amount.scale(), AMOUNT_SCALE);
    // The other reader gives up on deep nesting.
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        let id = value["correlationId"].as_str().expect("it was read as one");
        assert!(id.eq_ignore_ascii_case(&correlation_id.to_string()));
        let seen = value["amount"].as_f64().expect("it was read as one");
        let read = amount.to_f64().expect("it is below the limit");
        assert!((seen - read).abs() <= read * 1e-12, "{seen} {read}");
        // What another reader of decimals reads exactly is the same to the last digit.
        let text = value["amount"].to_string();
        if !text.contains(['e', 'E'])
            && let Ok(exact) = Decimal::from_str_exact(&text)
        {
            assert_eq!(exact, amount, "{text}");
        }
    }
    let again = format!(r#"{{"amount":{amount},"correlationId":"{correlation_id}"}}"#);
    assert_eq!(Payment::from_json(again.as_bytes()), Ok(payment));
}

/// A range that is read is in order, and its pieces follow each other from one end to the other.
pub fn range(query: &[u8]) {
    let uri = Uri::builder().path_and_query([b"/?", query].concat());
    let Ok(uri) = uri.build() else {
        return; // not a request line
    };
    let Ok((from, to)) = http::range(&uri) else {
        return;
    };
    assert!(from.is_none() || to.is_none() || from <= to);
    let mut pieces = pieces(from, to);
    pieces.sort_by_key(|piece| (piece.start.is_some(), piece.start));
    for pair in pieces.windows(2) {
        assert!(
            pair[0].end.is_some() && pair[0].end == pair[1].start,
            "{pieces:?}"
        );
    }
    // Ends are of microseconds, as the books are.
    let ends = pieces.first().zip(pieces.last());
    if let Some((first, last)) = ends {
        assert!(first.start.is_none() == from.is_none() && first.start >= from);
        assert!(last.end.is_none() == to.is_none() && (to.is_none() || last.end > to));
    } else {
        assert!(from.is_some() && to.is_some(), "an open range has no end");
    }
}

/// What is taken for a place in a trace is passed on as it came.
pub fn traceparent(header: &[u8]) {
    let Some(header) = std::str::from_utf8(header).ok() else {
        return;
    };
    let Some(read) = Traceparent::read(header) else {
        return;
    };
    let written = read.to_string();
    // Version, trace and span; of the flags those that are known stay.
    assert_eq!(written[2..52], header[2..52]);
    assert_eq!(Traceparent::read(&written), Some(read));
}

/// The heads of replies, as processors and others write them.
const HEADS: [&[(&str, &str)]; 5] = [
    &[("Content-Type", "application/json; charset=utf-8")],
    &[("Content-Length", "0")],
    &[("Retry-After", "5")],
    &[("Content-Type", "text/html"), ("Retry-After", "5")],
    &[],
];

/// Whatever a processor says, a payment is only free, or charged, where that is proved.
pub fn verdict(said: &[u8]) {
    let Some((&[kind, high, low], body)) = said.split_first_chunk() else {
        return;
    };
    let code = u16::from_be_bytes([high, low]);
    let headers = HEADS[usize::from(kind / 12) % HEADS.len()];
    let head = |code: u16| {
        let builder = headers
            .iter()
            .fold(Response::builder(), |head, (name, value)| {
                head.header(*name, *value)
            });
        builder.status(code).body(())
    };
    let Ok(replied) = head(code) else {
        return; // no status
    };
    let claim = claim();
    let id = claim.payment.correlation_id;
    let text = String::from_utf8_lossy(body).into_owned();
    let reply = match kind % 4 {
        0 => Reply::NoReply(text),
        1 => Reply::NotConnected(text),
        _ => read_post(id, &replied, Some(body), SystemTime::UNIX_EPOCH),
    };
    let lookup = match kind / 4 % 3 {
        0 => None,
        1 => Some(Lookup::Absent),
        _ => Some(read_lookup(id, &head(200).expect("a head"), Some(body))),
    };
    let _ = (
        read_health(&replied, Some(body)),
        read_totals(&replied, Some(body)),
    );
    let Some(verdict) = judge(&claim, &reply, lookup.as_ref()) else {
        assert!(lookup.is_none(), "a lookup settles it, if only as unknown");
        return;
    };
    let documented = match &reply {
        Reply::Documented(said) => Some(said.code()),
        _ => None,
    };
    let is_absent = lookup == Some(Lookup::Absent);
    match verdict {
        Verdict::Charged { requested_at } => match lookup {
            Some(Lookup::Found {
                amount,
                requested_at: found,
            }) if documented != Some(200) => {
                assert_eq!(amount, Some(claim.payment.amount));
                let near = (found - claim.requested_at).abs() <= RECORD_TIME_LIMIT;
                assert!(near, "{found}");
            }
            _ => assert_eq!((documented, requested_at), (Some(200), claim.requested_at)),
        },
        Verdict::Declined => assert!(documented == Some(500) && is_absent),
        Verdict::NotSent { .. } => {
            assert!(kind % 4 == 1 || documented == Some(429) && is_absent);
        }
        Verdict::Refused { .. } => {
            assert!(matches!(documented, Some(400 | 415 | 422)) && is_absent);
        }
        Verdict::Mismatch { .. } => {
            assert!(matches!(
                lookup,
                Some(Lookup::Found { .. } | Lookup::OtherId(_))
            ));
        }
        Verdict::Unknown => assert!(lookup.is_some()),
    }
    if let Some(Lookup::Found { requested_at, .. }) = lookup {
        assert!(!format_time(requested_at).is_empty());
    }
}

/// A claim of the payment that the corpus speaks of.
fn claim() -> Claim {
    let at = DateTime::from_timestamp(1_783_686_896, 0).expect("a time");
    Claim {
        id: 1,
        payment: Payment {
            correlation_id: Uuid::from_u128(0x4a7901b8_7d26_4d9d_aa19_4dc1c7cf60b3),
            amount: Decimal::new(1990, 2),
            traceparent: None,
        },
        accepted_at: at,
        attempt: 1,
        processor: "default".to_owned(),
        requested_at: at,
        send_by: Uptime::now(),
        earlier: None,
    }
}
