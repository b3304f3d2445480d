//! The JSON that a processor speaks, and how its time stamps are read.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::records::{Payment, rounded};

/// The largest amount that is taken, so that no sum can overflow: 2 x 10^19.
const MAX_AMOUNT: Decimal = Decimal::from_parts(0x13D0_0000, 0x158E_4609, 1, false, 0);

/// The body of `POST /payments`. What is missing is nothing: no money, in the year 1.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PaymentRequest {
    correlation_id: Uuid,
    #[serde(default)]
    amount: Amount,
    #[serde(default)]
    requested_at: Timestamp,
}

impl PaymentRequest {
    /// Reads a request, or says what is wrong with it.
    pub(super) fn read(body: &[u8]) -> Result<Payment, String> {
        let request: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let Amount(amount) = request.amount;
        if amount.abs() > MAX_AMOUNT {
            return Err(format!("amount is beyond {MAX_AMOUNT}"));
        }
        Ok(Payment {
            id: request.correlation_id,
            amount: rounded(amount),
            requested_at: request.requested_at.0,
        })
    }
}

/// An amount as a number, or as a number in a string.
#[derive(Debug, Default)]
struct Amount(Decimal);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written<'a> {
            Number(serde_json::Number),
            Text(#[serde(borrow)] Cow<'a, str>),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text.into_owned(),
        };
        let read = match text.contains(['e', 'E']) {
            true => Decimal::from_scientific(&text),
            false => text.parse(),
        };
        read.map(Self).map_err(serde::de::Error::custom)
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

/// The range of a summary. An end that is empty is missing.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Range {
    #[serde(default, deserialize_with = "unless_empty")]
    pub(super) from: Option<Timestamp>,
    #[serde(default, deserialize_with = "unless_empty")]
    pub(super) to: Option<Timestamp>,
}

fn unless_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    let given = Some(text).filter(|text| !text.is_empty());
    let time = given.map(|text| Timestamp::parse(&text)).transpose();
    time.map_err(serde::de::Error::custom)
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

impl Default for Timestamp {
    fn default() -> Self {
        let year_one = NaiveDate::from_ymd_opt(1, 1, 1).and_then(|day| day.and_hms_opt(0, 0, 0));
        Self(year_one.map(|time| time.and_utc()).unwrap_or_default())
    }
}

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
        // A column without a time zone: no offset, and no more digits than it takes.
        let text = self.0.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
        serializer.serialize_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stamps_are_cut_to_the_microsecond_and_are_utc_without_an_offset() {
        for (given, kept) in [
            ("2025-07-15T12:34:56.000Z", "2025-07-15T12:34:56"),
            ("2025-07-15T12:34:50Z", "2025-07-15T12:34:50"),
            ("2025-07-15T12:34:56.120Z", "2025-07-15T12:34:56.12"),
            ("2025-07-15T12:34:56.1234569Z", "2025-07-15T12:34:56.123456"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59"),
            ("2025-07-15T12:34:56", "2025-07-15T12:34:56"),
            ("2025-07-15T12:34:56.789+02:00", "2025-07-15T10:34:56.789"),
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
        assert_eq!(MAX_AMOUNT.to_string(), "20000000000000000000");
    }
}
