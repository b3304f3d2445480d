//! Summary: what was settled, per processor, over a range of `requestedAt`.
//!
//! The totals by second, minute and hour that the database keeps (`payment_rollup`) cover the
//! inside of a range; only its two edges are added up payment by payment. So the time that a
//! summary takes does not depend on how much was ever settled, and it is exact to the microsecond
//! and the cent.
//!
//! Of payments that were archived (see [`archive`](crate::store::archive)) only the totals by hour
//! are left, so there a range must consist of whole hours. For any other there is no summary,
//! rather than a wrong one.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use sqlx::PgExecutor;
use utoipa::ToSchema;

use crate::domain::payment::Amount;

/// Totals per processor: the configured ones first, in order of preference, then any other that has
/// settled payments in the range.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(value_type = BTreeMap<String, Totals>)]
pub struct Summary(pub Vec<(String, Totals)>);

/// What one processor settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Number of payments.
    pub total_requests: i64,
    /// Their sum, exact to the cent.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    #[schema(value_type = Amount)]
    pub total_amount: Decimal,
}

impl Summary {
    /// The sum of the summaries of all cells; `processors` are the configured ones.
    #[must_use]
    pub fn sum(processors: &[String], parts: impl IntoIterator<Item = Self>) -> Self {
        let mut parts = parts.into_iter();
        let Some(Self(mut sum)) = parts.next() else {
            return Self(Vec::new());
        };
        for (name, totals) in parts.flat_map(|Self(part)| part) {
            match sum.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => {
                    known.total_requests += totals.total_requests;
                    known.total_amount += totals.total_amount;
                }
                None => sum.push((name, totals)),
            }
        }
        sum.get_mut(processors.len()..)
            .unwrap_or_default()
            .sort_by(|(one, _), (other, _)| one.cmp(other));
        Self(sum)
    }
}

impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, totals)| (name, totals)))
    }
}

/// Why a range cannot be added up.
#[derive(Debug, thiserror::Error)]
pub enum NoSummary {
    /// It begins or ends inside of these hours, whose payments are archived.
    #[error("{}", cut_words(.0))]
    CutsArchivedHours(Vec<DateTime<Utc>>),
    /// The database did not answer.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What to ask for instead.
fn cut_words(hours: &[DateTime<Utc>]) -> String {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let hours: Vec<String> = hours
        .iter()
        .map(|hour| format!("{} to {}", time(*hour), time(*hour + HOUR - MICROSECOND)))
        .collect();
    format!(
        "the range begins or ends inside of an hour whose payments are archived, of which only the totals are left: \
         take all or nothing of {}",
        hours.join(" and of ")
    )
}

/// How much older than now what this database tells may be, in seconds: the age of the last
/// heartbeat that it has. On a standby that is the delay of replication and up to a heartbeat's
/// interval more, by the clocks of two servers; it grows while the standby gets nothing, and
/// nothing says so otherwise.
///
/// # Errors
/// The database did not answer, or no instance ever gave a heartbeat.
pub(crate) async fn seconds_behind(database: impl PgExecutor<'_>) -> Result<f64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT greatest(extract(epoch FROM clock_timestamp() - max(seen_at)),
            0)::float8 AS "behind!"
        FROM service_instance HAVING max(seen_at) IS NOT NULL"#
    )
    .fetch_one(database)
    .await
}

/// Adds up the payments with `from <= requestedAt <= to`; an absent end is open. One statement, so
/// one moment.
///
/// # Errors
/// As [`NoSummary`] says.
pub async fn summarize(
    database: impl PgExecutor<'_>,
    processors: &[String],
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> Result<Summary, NoSummary> {
    let pieces = pieces(from, to);
    let units: Vec<String> = pieces
        .iter()
        .map(|piece| piece.unit.name().to_owned())
        .collect();
    let starts: Vec<Option<DateTime<Utc>>> = pieces.iter().map(|piece| piece.start).collect();
    let ends: Vec<Option<DateTime<Utc>>> = pieces.iter().map(|piece| piece.end).collect();
    let rows = sqlx::query!(
        r#"WITH piece AS (
            SELECT unit, coalesce(starts_at, '-infinity') AS starts_at, coalesce(ends_at,
                'infinity') AS ends_at
            FROM UNNEST($1::text[], $2::timestamptz[], $3::timestamptz[]) AS p (unit, starts_at,
                ends_at)
        ), part AS (
            SELECT r.processor, r.requests, r.amount
            FROM piece p JOIN payment_rollup r
                ON r.unit = p.unit AND r.starts_at >= p.starts_at AND r.starts_at < p.ends_at
            WHERE p.unit <> 'payment'
            UNION ALL
            SELECT s.processor, s.requests, s.amount
            FROM piece p CROSS JOIN LATERAL (
                SELECT processor, count(*) AS requests, sum(amount) AS amount
                FROM payment_processed
                WHERE requested_at >= p.starts_at AND requested_at < p.ends_at
                GROUP BY processor
            ) AS s
            WHERE p.unit = 'payment'
            UNION ALL
            SELECT h.processor, h.requests, h.amount
            FROM piece p JOIN payment_archived_hour h ON h.starts_at >= p.starts_at
                AND h.starts_at < p.ends_at
            WHERE p.unit = 'hour'
        )
        SELECT processor, sum(requests)::bigint AS "total_requests!",
            sum(amount) AS "total_amount!",
            NULL::timestamptz AS cut_hour
        FROM part GROUP BY processor HAVING sum(requests) <> 0
        UNION ALL
        SELECT DISTINCT NULL, 0, 0, h.starts_at
        FROM piece p JOIN payment_archived_hour h
            ON h.starts_at > p.starts_at - interval '1 hour' AND h.starts_at < p.ends_at
        WHERE p.unit <> 'hour'
        ORDER BY 1, 4"#,
        &units,
        &starts as &[Option<DateTime<Utc>>],
        &ends as &[Option<DateTime<Utc>>],
    )
    .fetch_all(database)
    .await?;
    let cut: Vec<DateTime<Utc>> = rows.iter().filter_map(|row| row.cut_hour).collect();
    if !cut.is_empty() {
        return Err(NoSummary::CutsArchivedHours(cut));
    }
    let mut summary: Vec<(String, Totals)> = processors
        .iter()
        .map(|name| (name.clone(), Totals::default()))
        .collect();
    for row in rows {
        let Some(processor) = row.processor else {
            continue;
        };
        let totals = Totals {
            total_requests: row.total_requests,
            total_amount: row.total_amount,
        };
        match summary.iter_mut().find(|(name, _)| *name == processor) {
            Some((_, empty)) => *empty = totals,
            None => summary.push((processor, totals)),
        }
    }
    Ok(Summary(summary))
}

/// What a piece of a range is added up from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Single payments.
    Payment,
    /// Totals of whole seconds.
    Second,
    /// Totals of whole minutes.
    Minute,
    /// Totals of whole hours.
    Hour,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Payment => "payment",
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }

    /// The next coarser unit and its length.
    fn coarser(self) -> Option<(Self, TimeDelta)> {
        match self {
            Self::Payment => Some((Self::Second, TimeDelta::seconds(1))),
            Self::Second => Some((Self::Minute, TimeDelta::minutes(1))),
            Self::Minute => Some((Self::Hour, HOUR)),
            Self::Hour => None,
        }
    }
}

/// From `start`, included, to `end`, excluded; an absent end is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// What it is added up from.
    pub unit: Unit,
    /// Its first moment.
    pub start: Option<DateTime<Utc>>,
    /// The first moment after it.
    pub end: Option<DateTime<Utc>>,
}

/// The resolution of `timestamptz`.
const MICROSECOND: TimeDelta = TimeDelta::microseconds(1);
/// The coarsest unit.
const HOUR: TimeDelta = TimeDelta::hours(1);

/// Cuts a range, both ends included, into pieces of the coarsest units that fit.
#[must_use]
pub fn pieces(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Vec<Piece> {
    let start = from.map(|from| up(from, MICROSECOND));
    let end = to.map(|to| down(to, MICROSECOND) + MICROSECOND);
    let mut pieces = Vec::new();
    cut(
        Piece {
            unit: Unit::Payment,
            start,
            end,
        },
        &mut pieces,
    );
    pieces
}

/// Leaves the edges of a piece to its own unit and gives its inside to the next coarser one.
fn cut(piece: Piece, pieces: &mut Vec<Piece>) {
    let Piece { unit, start, end } = piece;
    if matches!((start, end), (Some(start), Some(end)) if start >= end) {
        return;
    }
    let Some((coarser, length)) = unit.coarser() else {
        pieces.push(piece);
        return;
    };
    let (inner_start, inner_end) = (
        start.map(|start| up(start, length)),
        end.map(|end| down(end, length)),
    );
    if matches!((inner_start, inner_end), (Some(start), Some(end)) if start >= end) {
        pieces.push(piece);
        return;
    }
    for (start, end) in [(start, inner_start), (inner_end, end)] {
        if let (Some(start), Some(end)) = (start, end)
            && start < end
        {
            pieces.push(Piece {
                unit,
                start: Some(start),
                end: Some(end),
            });
        }
    }
    cut(
        Piece {
            unit: coarser,
            start: inner_start,
            end: inner_end,
        },
        pieces,
    );
}

/// The last whole multiple of `length` that is not after `time`.
fn down(time: DateTime<Utc>, length: TimeDelta) -> DateTime<Utc> {
    let beyond = match length.num_microseconds() {
        Some(micros @ 2..) => {
            let over = time.timestamp_micros().rem_euclid(micros);
            TimeDelta::microseconds(over) + TimeDelta::nanoseconds(nanos_beyond_micros(time))
        }
        _ => TimeDelta::nanoseconds(nanos_beyond_micros(time)),
    };
    time - beyond
}

/// The first whole multiple of `length` that is not before `time`.
fn up(time: DateTime<Utc>, length: TimeDelta) -> DateTime<Utc> {
    let below = down(time, length);
    if below == time { time } else { below + length }
}

fn nanos_beyond_micros(time: DateTime<Utc>) -> i64 {
    i64::from(time.timestamp_subsec_nanos() % 1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(micros).expect("a time of this era")
    }

    /// The pieces that a moment falls into.
    fn covering(pieces: &[Piece], time: DateTime<Utc>) -> usize {
        let within = |piece: &&Piece| {
            piece.start.is_none_or(|start| start <= time) && piece.end.is_none_or(|end| time < end)
        };
        pieces.iter().filter(within).count()
    }

    fn is_whole(piece: &Piece) -> bool {
        let length = match piece.unit {
            Unit::Payment => return true,
            Unit::Second => TimeDelta::seconds(1),
            Unit::Minute => TimeDelta::minutes(1),
            Unit::Hour => TimeDelta::hours(1),
        };
        [piece.start, piece.end]
            .into_iter()
            .flatten()
            .all(|end| down(end, length) == end)
    }

    proptest! {
        #[test]
        fn pieces_cover_a_range_exactly_once(
            from in proptest::option::of(0_i64..20_000_000_000),
            to in proptest::option::of(0_i64..20_000_000_000),
            probes in proptest::collection::vec(0_i64..20_000_000_000, 50),
        ) {
            let (from, to) = (from.map(at), to.map(at));
            let pieces = pieces(from, to);
            prop_assert!(pieces.len() <= 7);
            prop_assert!(pieces.iter().all(is_whole));
            let ends = [from, to].into_iter().flatten();
            let edges = ends.flat_map(|end| [end - MICROSECOND, end, end + MICROSECOND]);
            for time in probes.into_iter().map(at).chain(edges) {
                let inside = from.is_none_or(|from| from <= time) && to.is_none_or(|to| time <= to);
                prop_assert_eq!(covering(&pieces, time), usize::from(inside), "{}", time);
            }
        }
    }

    #[test]
    fn a_sum_of_cells_has_the_configured_processors_first_and_loses_no_cent() {
        let part = |totals: &[(&str, i64, i64)]| {
            let totals = totals.iter().map(|&(name, total_requests, cents)| {
                let total_amount = Decimal::new(cents, 2);
                let totals = Totals {
                    total_requests,
                    total_amount,
                };
                (name.to_owned(), totals)
            });
            Summary(totals.collect())
        };
        let processors = ["default", "fallback"].map(str::to_owned);
        let parts = [
            part(&[("default", 1, 1), ("fallback", 0, 0), ("other", 2, 5)]),
            part(&[("default", 2, 99), ("fallback", 1, 10), ("gone", 1, 7)]),
            part(&[("default", 0, 0), ("fallback", 0, 0), ("other", 1, 1)]),
        ];
        let sum = [
            ("default", 3, 100),
            ("fallback", 1, 10),
            ("gone", 1, 7),
            ("other", 3, 6),
        ];
        assert_eq!(Summary::sum(&processors, parts), part(&sum));
    }

    #[test]
    fn nanoseconds_at_the_ends_exclude_the_microseconds_that_they_cut() {
        let half = TimeDelta::nanoseconds(500);
        let pieces = pieces(Some(at(10) + half), Some(at(20) + half));
        assert_eq!(
            pieces,
            [Piece {
                unit: Unit::Payment,
                start: Some(at(11)),
                end: Some(at(21))
            }]
        );
    }
}
