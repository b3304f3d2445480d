//! The JSON that a processor speaks, and how its time stamps are read.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::books::{Payment, rounded};

/// The largest amount that is taken, so that no sum can overflow: 10^15.
const MAX_AMOUNT: i64 = 1_000_000_000_000_000;

/// The body of `POST /payments`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PaymentRequest {
    correlation_id: Uuid,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    requested_at: Timestamp,
}

impl PaymentRequest {
    /// Reads a request, or says what is wrong with it.
    pub(super) fn read(body: &[u8]) -> Result<Payment, String> {
        let request: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if request.amount.abs() > Decimal::from(MAX_AMOUNT) {
            return Err(format!("amount is beyond {MAX_AMOUNT}"));
        }
        Ok(Payment {
            id: request.correlation_id,
            amount: rounded(request.amount),
            requested_at: request.requested_at.0,
        })
    }
}

/// A stored payment, as `GET /payments/{id}` and the listing of all ids show it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PaymentReply {
    correlation_id: Uuid,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    requested_at: Timestamp,
}

impl From<&Payment> for PaymentReply {
    fn from(payment: &Payment) -> Self {
        Self {
            correlation_id: payment.id,
            amount: payment.amount,
            requested_at: Timestamp(payment.requested_at),
        }
    }
}

/// What `GET /admin/payments-summary` answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SummaryReply {
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub(super) total_amount: Decimal,
    pub(super) total_requests: u64,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub(super) total_fee: Decimal,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub(super) fee_per_transaction: Decimal,
}

/// The range of a summary.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Range {
    pub(super) from: Option<Timestamp>,
    pub(super) to: Option<Timestamp>,
}

/// What `GET /payments/service-health` answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HealthReply {
    pub(super) failing: bool,
    pub(super) min_response_time: u64,
}

/// A reply that says something in words.
#[derive(Debug, Serialize)]
pub(super) struct Message {
    pub(super) message: String,
}

/// The body of `PUT /admin/configurations/token`.
#[derive(Debug, Deserialize)]
pub(super) struct TokenRequest {
    pub(super) token: String,
}

/// The body of `PUT /admin/configurations/delay`, in milliseconds; a negative one means none.
#[derive(Debug, Deserialize)]
pub(super) struct DelayRequest {
    pub(super) delay: i32,
}

/// The body of `PUT /admin/configurations/failure`.
#[derive(Debug, Deserialize)]
pub(super) struct FailureRequest {
    pub(super) failure: bool,
}

/// What `GET /admin/configurations` answers; the delay is in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Configuration {
    pub(super) delay: u128,
    pub(super) failure: bool,
}

/// What a change of the configuration answers.
#[derive(Debug, Serialize)]
pub(super) struct Changed<T> {
    pub(super) config: &'static str,
    pub(super) was: T,
    pub(super) is: T,
}

/// A moment to the microsecond, which is what the real processor's database keeps; finer digits are
/// cut off. Without an offset it is UTC.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timestamp(pub(super) DateTime<Utc>);

impl Timestamp {
    fn parse(text: &str) -> Result<Self, String> {
        let moment = DateTime::parse_from_rfc3339(text)
            .map(|moment| moment.to_utc())
            .or_else(|error| {
                text.parse::<NaiveDateTime>()
                    .map(|moment| moment.and_utc())
                    .map_err(|_| format!("`{text}` is not an ISO 8601 time: {error}"))
            })?;
        let finer = i64::from(moment.timestamp_subsec_nanos() % 1_000);
        Ok(Self(moment - TimeDelta::nanoseconds(finer)))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stamps_are_cut_to_the_microsecond_and_are_utc_without_an_offset() {
        for (given, kept) in [
            ("2025-07-15T12:34:56.000Z", "2025-07-15T12:34:56Z"),
            (
                "2025-07-15T12:34:56.1234569Z",
                "2025-07-15T12:34:56.123456Z",
            ),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
            ("2025-07-15T12:34:56", "2025-07-15T12:34:56Z"),
            ("2025-07-15T12:34:56.789+02:00", "2025-07-15T10:34:56.789Z"),
        ] {
            let kept_as = serde_json::to_string(&Timestamp::parse(given).unwrap()).unwrap();
            assert_eq!(kept_as, format!("\"{kept}\""));
        }
        assert!(Timestamp::parse("yesterday").is_err());
    }

    #[test]
    fn amounts_are_read_without_a_detour_over_floats() {
        let body = br#"{"correlationId":"4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3",
            "amount":77.8299999999999982946974341757595539093017578125,
            "requestedAt":"2025-01-01T01:01:06"}"#;
        assert_eq!(
            PaymentRequest::read(body).unwrap().amount.to_string(),
            "77.83"
        );
    }
}
