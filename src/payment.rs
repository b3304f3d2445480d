//! What a client asks for: one payment, read from a request body.

use chrono::{DateTime, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::trace::Traceparent;

/// Decimal places of an amount: cents.
pub const AMOUNT_SCALE: u32 = 2;

/// The first amount that the column `amount numeric(14,2)` cannot hold.
pub const AMOUNT_LIMIT: Decimal = Decimal::from_parts(0xD4A5_1000, 0xE8, 0, false, 0);

/// A payment to be settled once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    /// The client's id, unique for all time.
    pub correlation_id: Uuid,
    /// Positive, below [`AMOUNT_LIMIT`], with exactly [`AMOUNT_SCALE`] decimals.
    pub amount: Decimal,
    /// The place in the client's trace, where it sent one.
    pub traceparent: Option<Traceparent>,
}

/// Why a body is not a payment; each says what the caller has to change.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum InvalidPayment {
    #[error("the body is not a JSON object: {0}")]
    Malformed(String),
    #[error("{0}")]
    Repeated(String),
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    #[error(
        "`correlationId` must be a string with a UUID such as \"4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3\""
    )]
    CorrelationId,
    #[error("`amount` must be a JSON number such as 19.90")]
    AmountType,
    #[error("`amount` must be more than 0")]
    AmountNotPositive,
    #[error("`amount` must have at most two decimals")]
    AmountPrecision,
    #[error("`amount` must be less than {AMOUNT_LIMIT}")]
    AmountTooLarge,
}

/// The fields as they stand in the body, so that numbers are read as decimals and never as floats.
#[derive(Deserialize, ToSchema)]
#[schema(as = Payment, description = "A payment that is to be settled once")]
pub(crate) struct Body<'a> {
    /// The client's id of the payment, unique for all time
    #[serde(borrow, rename = "correlationId")]
    #[schema(value_type = Uuid, required = true)]
    correlation_id: Option<&'a RawValue>,
    /// What is to be charged, with at most two decimals. More of them are refused, not rounded
    #[serde(borrow)]
    #[schema(value_type = f64, format = "decimal", required = true, minimum = 0.01, maximum = 999_999_999_999.99, example = 20.5)]
    amount: Option<&'a RawValue>,
}

impl Payment {
    /// Reads `{"correlationId": uuid, "amount": decimal}`. Other fields are ignored.
    ///
    /// # Errors
    /// The first thing that is wrong with the body, in the order of [`InvalidPayment`].
    pub fn from_json(body: &[u8]) -> Result<Self, InvalidPayment> {
        let malformed = |detail: &str| InvalidPayment::Malformed(detail.to_owned());
        let body = str::from_utf8(body).map_err(|_| malformed("it is not UTF-8"))?;
        if !body.trim_ascii_start().starts_with('{') {
            let detail = match serde_json::from_str::<&RawValue>(body) {
                Ok(_) => "it is another JSON value".to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(malformed(&detail));
        }
        // Of an object whose fields are taken as they stand, only a field that stands twice is wrong
        // otherwise than in its syntax. Which of the two is meant nobody can know.
        let body: Body<'_> = serde_json::from_str(body).map_err(|error| match error.is_data() {
            true => InvalidPayment::Repeated(error.to_string()),
            false => malformed(&error.to_string()),
        })?;
        let correlation_id = body
            .correlation_id
            .ok_or(InvalidPayment::Missing("correlationId"))?;
        let amount = body.amount.ok_or(InvalidPayment::Missing("amount"))?;
        Ok(Self {
            correlation_id: parse_correlation_id(correlation_id)?,
            amount: parse_amount(amount.get())?,
            traceparent: None,
        })
    }
}

fn parse_correlation_id(raw: &RawValue) -> Result<Uuid, InvalidPayment> {
    let text: String =
        serde_json::from_str(raw.get()).map_err(|_| InvalidPayment::CorrelationId)?;
    parse_uuid(&text).ok_or(InvalidPayment::CorrelationId)
}

/// A UUID in its one spelling with hyphens, in either case; the other spellings of the `uuid` crate
/// are not what processors and auditors would search for.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    const HYPHENATED_BYTES: usize = 36;
    (text.len() == HYPHENATED_BYTES)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
}

/// Reads a number of valid JSON syntax.
fn parse_amount(raw: &str) -> Result<Decimal, InvalidPayment> {
    let Some(first) = raw
        .bytes()
        .next()
        .filter(|byte| byte.is_ascii_digit() || *byte == b'-')
    else {
        return Err(InvalidPayment::AmountType);
    };
    let digits = raw.split(['e', 'E']).next().unwrap_or(raw);
    if first == b'-' || !digits.bytes().any(|byte| (b'1'..=b'9').contains(&byte)) {
        return Err(InvalidPayment::AmountNotPositive);
    }
    let mut amount = exact_decimal(raw)?.normalize();
    if amount.scale() > AMOUNT_SCALE {
        return Err(InvalidPayment::AmountPrecision);
    }
    if amount >= AMOUNT_LIMIT {
        return Err(InvalidPayment::AmountTooLarge);
    }
    amount.rescale(AMOUNT_SCALE);
    Ok(amount)
}

/// The value of a positive JSON number without any rounding; what has more digits than a [`Decimal`]
/// holds is either too large or too precise.
fn exact_decimal(raw: &str) -> Result<Decimal, InvalidPayment> {
    let exponent = raw.split_once(['e', 'E']).map(|(_, exponent)| exponent);
    let value = match exponent {
        Some(_) => Decimal::from_scientific(raw),
        None => Decimal::from_str_exact(raw),
    };
    value.map_err(|error| match (error, exponent) {
        (rust_decimal::Error::Underflow, _) => InvalidPayment::AmountPrecision,
        (_, Some(exponent)) if exponent.starts_with('-') => InvalidPayment::AmountPrecision,
        _ => InvalidPayment::AmountTooLarge,
    })
}

/// The spelling of a time that processors and clients are given: UTC, to the millisecond.
#[must_use]
pub fn format_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(raw: &str) -> Result<String, InvalidPayment> {
        parse_amount(raw).map(|amount| amount.to_string())
    }

    #[test]
    fn amount_limit_is_the_first_value_beyond_the_column() {
        assert_eq!(AMOUNT_LIMIT.to_string(), "1000000000000");
        assert_eq!(amount("999999999999.99"), Ok("999999999999.99".to_owned()));
        assert_eq!(amount("1000000000000"), Err(InvalidPayment::AmountTooLarge));
    }

    #[test]
    fn amounts_are_read_exactly_in_every_json_spelling() {
        for (raw, expected) in [
            ("19.90", "19.90"),
            ("19.9", "19.90"),
            ("19.9000000000000000000000000", "19.90"),
            ("1", "1.00"),
            ("0.01", "0.01"),
            ("1e2", "100.00"),
            ("1.5E+3", "1500.00"),
            ("1990e-2", "19.90"),
            ("100000e-7", "0.01"),
            ("0.0000000001e10", "1.00"),
        ] {
            assert_eq!(amount(raw), Ok(expected.to_owned()), "{raw}");
        }
    }

    #[test]
    fn amounts_that_cannot_be_booked_are_refused_for_their_reason() {
        use InvalidPayment::{AmountNotPositive, AmountPrecision, AmountTooLarge, AmountType};
        for (raw, expected) in [
            ("0", AmountNotPositive),
            ("-0", AmountNotPositive),
            ("0.00e400", AmountNotPositive),
            ("-1", AmountNotPositive),
            ("0.001", AmountPrecision),
            ("19.901", AmountPrecision),
            ("1e-400", AmountPrecision),
            ("1e-99999999999999999999", AmountPrecision),
            ("1e400", AmountTooLarge),
            ("1e99999999999999999999", AmountTooLarge),
            ("123456789012345678901234567890", AmountTooLarge),
            ("\"19.90\"", AmountType),
            ("true", AmountType),
            ("[1]", AmountType),
        ] {
            assert_eq!(amount(raw), Err(expected), "{raw}");
        }
    }
}
