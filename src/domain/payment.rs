//! What a client asks for: one payment, read from a request body.

use chrono::{DateTime, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use crate::domain::traceparent::Traceparent;

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
        "`correlationId` must be a string with a UUID such as \
        \"4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3\""
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
    #[schema(
        value_type = f64,
        format = "decimal",
        required = true,
        minimum = 0.01,
        maximum = 999_999_999_999.99,
        example = 20.5,
    )]
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
        // Of an object whose fields are taken as they stand, only a field that stands twice is
        // wrong otherwise than in its syntax. Which of the two is meant nobody can know.
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
pub(crate) fn parse_uuid(text: &str) -> Option<Uuid> {
    const HYPHENATED_BYTES: usize = 36;
    (text.len() == HYPHENATED_BYTES)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
}

/// Digits before the point of an amount below [`AMOUNT_LIMIT`], at most.
const AMOUNT_WHOLE_DIGITS: i64 = 12;

/// Reads a number of valid JSON syntax by its digits: exactly, or not at all. However many zeros
/// stand where they mean nothing, and whatever its exponent, the value counts.
pub(crate) fn parse_amount(raw: &str) -> Result<Decimal, InvalidPayment> {
    let Some(first) = raw
        .bytes()
        .next()
        .filter(|byte| byte.is_ascii_digit() || *byte == b'-')
    else {
        return Err(InvalidPayment::AmountType);
    };
    let (mantissa, exponent) = match raw.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, power(exponent)),
        None => (raw, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    let leading_zeros = digits().take_while(|digit| *digit == b'0').count();
    let written = whole.len() + fraction.len();
    if first == b'-' || leading_zeros == written {
        return Err(InvalidPayment::AmountNotPositive);
    }
    let trailing_zeros = digits().rev().take_while(|digit| *digit == b'0').count();
    // The significant digits, and how many of them stand before the point. Both lengths are those
    // of a body.
    let significant = written - leading_zeros - trailing_zeros;
    let before_point = (whole.len() as i64 - leading_zeros as i64).saturating_add(exponent);
    if before_point > AMOUNT_WHOLE_DIGITS {
        return Err(InvalidPayment::AmountTooLarge);
    }
    let decimals = (significant as i64).saturating_sub(before_point);
    if decimals > i64::from(AMOUNT_SCALE) {
        return Err(InvalidPayment::AmountPrecision);
    }
    let cents = digits()
        .skip(leading_zeros)
        .take(significant)
        .fold(0, |cents, digit| cents * 10 + i64::from(digit - b'0'));
    let missing_zeros = i64::from(AMOUNT_SCALE) - decimals;
    let cents = (0..missing_zeros).fold(cents, |cents, _| cents * 10);
    Ok(Decimal::new(cents, AMOUNT_SCALE))
}

/// The exponent of a JSON number; one that is beyond an `i64` is as good as its bound.
fn power(exponent: &str) -> i64 {
    exponent.parse().unwrap_or(match exponent.starts_with('-') {
        true => i64::MIN,
        false => i64::MAX,
    })
}

/// The spelling of a time that processors and clients are given: UTC, to the millisecond.
#[must_use]
pub fn format_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// An amount of money: a JSON number with at most two decimals.
pub(crate) struct Amount;

impl PartialSchema for Amount {
    fn schema() -> RefOr<Schema> {
        // No `multipleOf`: in floating point, which validators compute in, 19.9 is no multiple of
        // .01.
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .format(Some(SchemaFormat::Custom("decimal".to_owned())))
            .description(Some("An amount with at most two decimals"))
            .examples([20.5])
            .into()
    }
}

impl ToSchema for Amount {}

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
            ("19.9000000000000000000000000000", "19.90"),
            ("0.0000000000000000000000000000199e29", "1.99"),
            ("1000000000000000000000000000000000000e-36", "1.00"),
            ("1e-2", "0.01"),
            ("0.01e0", "0.01"),
            ("99999999999999e-2", "999999999999.99"),
            ("1e11", "100000000000.00"),
            ("1e0000000000000000000000000002", "100.00"),
        ] {
            assert_eq!(amount(raw), Ok(expected.to_owned()), "{raw}");
        }
    }

    #[test]
    fn amounts_that_cannot_be_recorded_are_refused_for_their_reason() {
        use InvalidPayment::{AmountNotPositive, AmountPrecision, AmountTooLarge, AmountType};
        for (raw, expected) in [
            ("0", AmountNotPositive),
            ("-0", AmountNotPositive),
            ("0.00e400", AmountNotPositive),
            ("-1", AmountNotPositive),
            ("0.001", AmountPrecision),
            ("19.901", AmountPrecision),
            ("0.0099999999999999999999999999999999e0", AmountPrecision),
            ("0.0099999999999999999999999999999999", AmountPrecision),
            ("19.9000000000000000000000000001", AmountPrecision),
            (
                "999999999999.990000000000000000000000000001",
                AmountPrecision,
            ),
            ("1e-3", AmountPrecision),
            ("1e12", AmountTooLarge),
            ("999999999999.99e1", AmountTooLarge),
            ("1000000000000.00000000000000000000000001", AmountTooLarge),
            ("0e99999999999999999999", AmountNotPositive),
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

    /// A spelling of `digits` with the point after `before_point` of them, times a power of ten
    /// that makes up for it.
    fn spelled(digits: &str, before_point: i64, shift: i64, zeros: usize) -> String {
        let point = before_point + shift;
        let (before, after) = match usize::try_from(point) {
            Ok(point) if point < digits.len() => digits.split_at(point),
            Ok(_) => (digits, ""),
            Err(_) => ("", digits),
        };
        let whole = format!(
            "{before}{}",
            "0".repeat(usize::try_from(point).unwrap_or(0) - before.len())
        );
        let whole = match whole.trim_start_matches('0') {
            "" => "0",
            whole => whole,
        };
        let gap = "0".repeat(usize::try_from(-point).unwrap_or(0));
        format!("{whole}.{gap}{after}{}e{}", "0".repeat(zeros + 1), -shift)
    }

    proptest::proptest! {
        #[test]
        fn every_amount_is_read_exactly_however_it_is_spelled(
            cents in 1_i64..100_000_000_000_000, shift in -60_i64..60, zeros in 0_usize..60,
        ) {
            let digits = cents.to_string();
            let raw = spelled(&digits, digits.len() as i64 - 2, shift, zeros);
            let expected = Decimal::new(cents, AMOUNT_SCALE);
            proptest::prop_assert_eq!(parse_amount(&raw), Ok(expected), "{}", raw);
        }

        #[test]
        fn more_decimals_are_refused_however_far_behind_they_stand(
            cents in 0_i64..100_000_000_000_000, gap in 0_usize..60, shift in -60_i64..60,
        ) {
            let digits = format!("{cents}{}1", "0".repeat(gap));
            let before_point = cents.to_string().len() as i64 - 2;
            let raw = spelled(&digits, before_point, shift, 3);
            let refused = Err(InvalidPayment::AmountPrecision);
            proptest::prop_assert_eq!(parse_amount(&raw), refused, "{}", raw);
        }
    }
}
