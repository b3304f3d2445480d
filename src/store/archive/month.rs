//! A month, in UTC.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use serde::{Serialize, Serializer};

/// A month, in UTC, such as `2026-07`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(NaiveDate);

impl Month {
    /// The month that a day is in.
    #[must_use]
    pub fn of(day: NaiveDate) -> Self {
        Self(day.with_day(1).unwrap_or(day))
    }

    /// Its first day.
    #[must_use]
    pub(crate) fn first_day(self) -> NaiveDate {
        self.0
    }

    /// Its first moment.
    #[must_use]
    pub fn start(self) -> DateTime<Utc> {
        self.0.and_time(chrono::NaiveTime::MIN).and_utc()
    }

    /// The first moment after it.
    #[must_use]
    pub fn end(self) -> DateTime<Utc> {
        self.start() + Months::new(1)
    }

    /// The name of its file.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("payments-{self}.csv")
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m"))
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Month {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d") {
            Ok(day) if text.len() == 7 && day.year() > 0 => Ok(Self(day)),
            _ => Err("expected a month such as 2026-07"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_ends_where_the_next_one_begins() {
        let month = |text: &str| text.parse::<Month>().expect(text);
        assert_eq!(month("2026-12").end(), month("2027-01").start());
        assert_eq!(
            month("2028-02").end() - month("2028-02").start(),
            chrono::TimeDelta::days(29)
        );
        assert_eq!(month("2026-07").to_string(), "2026-07");
        assert_eq!(month("2026-07").file_name(), "payments-2026-07.csv");
    }

    #[test]
    fn what_is_not_a_month_is_refused() {
        for text in [
            "",
            "2026",
            "2026-7",
            "2026-13",
            "2026-07-01",
            "2026-00",
            "7-2026",
            "0000-01",
        ] {
            assert!(text.parse::<Month>().is_err(), "{text}");
        }
    }
}
