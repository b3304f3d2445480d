//! What the page shows of the whole deployment: read from the database, once a second for all
//! viewers.

use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::money::Money;
use super::window::Settled;
use crate::domain::attention::Item;
use crate::store::database::{Pool, interval};
use crate::store::fee::{self, FeesOfPeriod};
use crate::store::queue_statistics::QueueStatistics;
use crate::store::situation;
use crate::store::switch::{self, Switch};

/// Latencies are those of payments that were sent so recently.
pub(super) const LATENCY_WINDOW: Duration = Duration::from_secs(5);
/// And of some of them, from each of the slots of this length that it has. Fewer slots and more of
/// each are read faster: what was sent together lies together.
pub(super) const LATENCY_SLOT: Duration = Duration::from_millis(250);
/// So many of each slot, at most.
pub(super) const LATENCY_PAYMENTS: i64 = 10;

/// The deployment at one moment.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    pub(super) queue: QueueStatistics,
    pub(super) attention: Vec<Item>,
    /// Who took processors out of use or put them back, when and why.
    pub(super) switches: Vec<Switch>,
    pub(super) money: Money,
    kept: Vec<FeesOfPeriod>,
    /// Seconds, counted from 1970, and what was sent in them and is settled.
    pub(super) seconds: Range<i64>,
    pub(super) settled: Vec<Settled>,
    /// Milliseconds from acceptance to settlement, of half and of 99 % of the payments.
    pub(super) latency: Option<(f64, f64)>,
    /// The number of the last payment that was queued: it grows by one with each.
    pub(super) last_number: i64,
    pub(super) newest_dead_letter_at: Option<DateTime<Utc>>,
}

impl Ledger {
    /// Reads them, and those seconds, on one connection. There is no transaction: its beginning and
    /// its end cost as much as what is read, and what is read is of several moments either way.
    pub(super) async fn read(
        pool: &Pool,
        names: &[String],
        seconds: Range<i64>,
    ) -> Result<Self, sqlx::Error> {
        let mut connection = pool.acquire().await?;
        let queue = QueueStatistics::read(&mut connection).await?;
        let switches = switch::list(&mut connection).await?;
        let attention =
            situation::in_database(&mut connection, pool.cell(), &queue, &switches).await?;
        let kept = fee::kept(&mut *connection, names, None, None).await?;
        let moment = |second| DateTime::from_timestamp(second, 0).unwrap_or(DateTime::UNIX_EPOCH);
        let rows = sqlx::query!(
            "SELECT starts_at, processor, requests FROM payment_rollup
            WHERE unit = 'second' AND starts_at >= $1 AND starts_at < $2",
            moment(seconds.start),
            moment(seconds.end)
        )
        .fetch_all(&mut *connection)
        .await?;
        let settled = rows.iter().filter_map(|row| {
            Some(Settled {
                second: row.starts_at.timestamp(),
                processor: names.iter().position(|name| *name == row.processor)?,
                // A second has far fewer than 2^53.
                payments: row.requests as f64,
            })
        });
        let latest = sqlx::query!(
            r#"SELECT
                (SELECT percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY took)
                FROM generate_series(now() - $1::interval, now(), $2::interval) AS slot (starts_at)
                CROSS JOIN LATERAL (
                    SELECT extract(epoch FROM settled_at - accepted_at)::float8 * 1000 AS took
                    FROM payment_processed
                    WHERE requested_at >= slot.starts_at
                        AND requested_at < slot.starts_at + $2::interval
                    ORDER BY requested_at LIMIT $3
                ) AS sample) AS latency,
                (SELECT last_value FROM payment_queue_id_seq) AS "last_number!",
                (SELECT max(died_at) FROM payment_dead_letter) AS newest_dead_letter_at"#,
            interval(LATENCY_WINDOW),
            interval(LATENCY_SLOT),
            LATENCY_PAYMENTS
        )
        .fetch_one(&mut *connection)
        .await?;
        Ok(Self {
            queue,
            attention,
            switches,
            money: Money::of(&kept, names),
            kept,
            seconds,
            settled: settled.collect(),
            latency: match latest.latency.as_deref() {
                Some([p50, p99]) => Some((micros(*p50), micros(*p99))),
                _ => None,
            },
            last_number: latest.last_number,
            newest_dead_letter_at: latest.newest_dead_letter_at,
        })
    }

    /// Those of all cells together, of which there is at least one. The latencies are those of the
    /// slowest cell.
    pub(super) fn sum(cells: Vec<Self>, names: &[String]) -> Option<Self> {
        let several = cells.len() > 1;
        let mut sum = cells.into_iter().reduce(|mut sum, cell| {
            sum.queue = sum.queue.plus(cell.queue);
            // Of seconds that one cell was not asked for, nothing is known.
            let (start, end) = (sum.seconds.start, sum.seconds.end);
            sum.seconds = start.max(cell.seconds.start)..end.min(cell.seconds.end);
            sum.attention.extend(cell.attention);
            sum.kept.extend(cell.kept);
            for one in cell.settled {
                let same = |other: &&mut Settled| {
                    (other.second, other.processor) == (one.second, one.processor)
                };
                match sum.settled.iter_mut().find(same) {
                    Some(known) => known.payments += one.payments,
                    None => sum.settled.push(one),
                }
            }
            sum.latency = match (sum.latency, cell.latency) {
                (Some((p50, p99)), Some((other_p50, other_p99))) => {
                    Some((p50.max(other_p50), p99.max(other_p99)))
                }
                (one, other) => one.or(other),
            };
            sum.last_number += cell.last_number;
            let newest = sum.newest_dead_letter_at.max(cell.newest_dead_letter_at);
            sum.newest_dead_letter_at = newest;
            sum
        })?;
        if several {
            let seconds = sum.seconds.clone();
            sum.settled.retain(|one| seconds.contains(&one.second));
            sum.money = Money::of(&sum.kept, names);
        }
        Some(sum)
    }
}

/// Milliseconds, to the microsecond.
fn micros(milliseconds: f64) -> f64 {
    (milliseconds * 1_000.0).round() / 1_000.0
}
