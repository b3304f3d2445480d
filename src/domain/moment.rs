//! Moments as people write them on a command line.

use chrono::{DateTime, Datelike, Utc};
use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ZonedDateTime};

/// What is understood, for errors and help texts.
pub(crate) const EXPECTED: &str = "expected a time such as 2026-11-30, 2026-11-30T05:00 (UTC), \
    2026-11-30T05:00+01:00, 1h or \"2 days\" (ago), or now";

/// The first year of which a moment is taken; the database knows of some thousand before it.
const FIRST_YEAR: i32 = 1;

/// Reads a moment relative to the clock of this machine; for arguments of the command line.
///
/// # Errors
/// As [`read`].
pub fn argument(text: &str) -> Result<DateTime<Utc>, String> {
    read(text, Utc::now())
}

/// Reads a moment: a date (its first moment), a date with a time, either with a zone or else in
/// UTC; a length of time, which is so long before `now`; or `now`.
///
/// # Errors
/// The text is none of these; the error shows examples.
pub fn read(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        return Ok(now);
    }
    let at = instant(text).or_else(|| before(text, now));
    let at = at.and_then(to_chrono).filter(|at| at.year() >= FIRST_YEAR);
    at.ok_or_else(|| EXPECTED.to_owned())
}

/// A date or a time, in the zone that it names or in UTC.
fn instant(text: &str) -> Option<Timestamp> {
    // Of a text that names a zone, the others would take the date and the time alone, or the
    // offset.
    if text.contains('[') {
        return text
            .parse::<ZonedDateTime>()
            .ok()
            .map(|zoned| zoned.timestamp());
    }
    text.parse::<Timestamp>().ok().or_else(|| {
        let civil: civil::DateTime = text.parse().ok()?;
        let zoned = civil.to_zoned_datetime(TimeZone::UTC).ok()?;
        Some(zoned.timestamp())
    })
}

/// A length of time before `now`, such as `90m` or `2 days ago`.
fn before(text: &str, now: DateTime<Utc>) -> Option<Timestamp> {
    let span: Span = text.parse().ok()?;
    let now = Timestamp::from_millisecond(now.timestamp_millis()).ok()?;
    let before = now
        .to_zoned_datetime(TimeZone::UTC)
        .checked_sub(span.abs())
        .ok()?;
    Some(before.timestamp())
}

fn to_chrono(at: Timestamp) -> Option<DateTime<Utc>> {
    let nanoseconds = u32::try_from(at.subsec_nanosecond()).ok();
    match nanoseconds {
        Some(nanoseconds) => DateTime::from_timestamp(at.as_second(), nanoseconds),
        // Before 1970 the fraction has the sign of the seconds.
        None => DateTime::from_timestamp_micros(at.as_microsecond()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-30T12:00:00Z".parse().expect("a time")
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("2026-11-30", "2026-11-30T00:00:00Z"),
            ("2026-11-30T05:00", "2026-11-30T05:00:00Z"),
            ("2026-11-30 05:00", "2026-11-30T05:00:00Z"),
            ("2026-11-30T05:00:06.123456", "2026-11-30T05:00:06.123456Z"),
            ("2026-11-30T05:00Z", "2026-11-30T05:00:00Z"),
            ("2026-11-30T05:00:00+01:00", "2026-11-30T04:00:00Z"),
            ("2026-11-30T05:00-03", "2026-11-30T08:00:00Z"),
            ("2026-07-10T12:34:56.000Z", "2026-07-10T12:34:56Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.5Z"),
            ("1h", "2026-11-30T11:00:00Z"),
            ("90m", "2026-11-30T10:30:00Z"),
            ("2 days", "2026-11-28T12:00:00Z"),
            ("2 days ago", "2026-11-28T12:00:00Z"),
            ("1d 2h", "2026-11-29T10:00:00Z"),
            ("1 month", "2026-10-30T12:00:00Z"),
            ("now", "2026-11-30T12:00:00Z"),
        ] {
            let expected: DateTime<Utc> = expected.parse().expect("a time");
            assert_eq!(read(text, now()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_mistake_is_answered_with_examples() {
        for text in [
            "",
            "yesterday",
            "30.11.2026",
            "2026-13-01",
            "2026-11-31",
            "5",
            "25:00",
            "2026",
            "10000 years",
            "-004713-01-01",
        ] {
            assert_eq!(read(text, now()), Err(EXPECTED.to_owned()), "{text}");
        }
    }
}
