//! Queue statistics, for metrics, the operators' page and `status`.
//!
//! They are polled again and again, above all when the queue is deep, so no more than [`COUNTED`]
//! rows of any table are counted. A longer table is estimated by the server's own statistics.

use std::time::Duration;

use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use crate::store::claim::LONGEST_DOUBT_PAUSE;
use crate::store::database::interval;

/// Rows of a table that are counted one by one, at most.
pub const COUNTED: i64 = 5_000;
/// A payment that went out so long ago and is not settled is in doubt, even if it is being asked
/// for at this moment: the longest call, as configured by default, and its lease.
pub(crate) const CALL_OVERDUE: Duration = Duration::from_secs(20);
/// How long statistics count as recent and are returned again.
pub(crate) const STATISTICS_INTERVAL: Duration = Duration::from_secs(2);
/// Longest time that a call for recent statistics waits for the database.
pub(crate) const STATISTICS_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many.
    pub value: u64,
    /// Whether that is their exact number. If not, there are more than [`COUNTED`], and `value` is
    /// an estimate.
    pub exact: bool,
}

impl Count {
    fn plus(self, other: Self) -> Self {
        Self {
            value: self.value.saturating_add(other.value),
            exact: self.exact && other.exact,
        }
    }
}

/// What the tables of the deployment look like at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatistics {
    /// Payments accepted and not yet settled, those in flight included.
    pub queued: Count,
    /// How long ago the oldest of them was accepted, in seconds; 0 where there are none.
    pub oldest_age_seconds: f64,
    /// Those of them that one processor may have charged and that are not simply in flight. Counted
    /// for among the oldest [`COUNTED`]: claims go in order, so there they are. If not exact, there
    /// may be more.
    pub in_doubt: Count,
    /// Payments that no processor takes.
    pub dead_letters: Count,
    /// The age of the oldest open transaction in this database, in seconds. Vacuum cleans up
    /// nothing that died after it began. Sessions of other roles count where the owner of the
    /// tables is a member of `pg_read_all_stats`.
    pub oldest_transaction_seconds: f64,
    /// Dead rows of the queue that no vacuum has removed yet, by the server's statistics.
    pub dead_rows: u64,
}

impl QueueStatistics {
    /// Those of several cells together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            queued: self.queued.plus(other.queued),
            oldest_age_seconds: self.oldest_age_seconds.max(other.oldest_age_seconds),
            in_doubt: self.in_doubt.plus(other.in_doubt),
            dead_letters: self.dead_letters.plus(other.dead_letters),
            oldest_transaction_seconds: self
                .oldest_transaction_seconds
                .max(other.oldest_transaction_seconds),
            dead_rows: self.dead_rows.saturating_add(other.dead_rows),
        }
    }

    /// Takes it, in a few milliseconds however deep the queue is.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn take(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Self::read(&mut *pool.acquire().await?).await
    }

    /// Takes it, on that connection.
    pub(crate) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        // A payment in doubt waits to be asked for, or has been for too long.
        let row = sqlx::query!(
            r#"SELECT queued AS "queued!", in_doubt AS "in_doubt!", dead_letters AS "dead_letters!",
                coalesce(greatest(extract(epoch FROM clock_timestamp() - accepted_at), 0),
                    0)::float8 AS "oldest_age!",
                oldest_transaction_seconds() AS "oldest_transaction!",
                pg_stat_get_live_tuples(queue_table) AS "queue_estimate!",
                pg_stat_get_live_tuples(letter_table) AS "dead_letter_estimate!",
                pg_stat_get_dead_tuples(queue_table) AS "dead_rows!"
            FROM (
                -- On Citus the rows are in another table than this name says.
                SELECT coalesce((SELECT tableoid FROM payment_queue ORDER BY id LIMIT 1),
                        'payment_queue'::regclass) AS queue_table,
                    coalesce((SELECT tableoid FROM payment_dead_letter
                            ORDER BY correlation_id LIMIT 1),
                        'payment_dead_letter'::regclass) AS letter_table
            ) AS tables, (
                SELECT count(*) AS queued, min(accepted_at) AS accepted_at, count(*) FILTER (
                    WHERE processor IS NOT NULL AND (
                        lease_until <= now() + $2
                        -- Of the future: sent before the clock was set back.
                        OR requested_at NOT BETWEEN now() - $3::interval AND now() + $3::interval
                    )
                ) AS in_doubt
                FROM (SELECT * FROM payment_queue ORDER BY id LIMIT $1::bigint + 1) AS oldest
            ) AS queue, (
                SELECT count(*) AS dead_letters
                FROM (SELECT FROM payment_dead_letter
                    ORDER BY correlation_id LIMIT $1::bigint + 1) AS letters
            ) AS dead_letter"#,
            COUNTED,
            interval(LONGEST_DOUBT_PAUSE),
            interval(CALL_OVERDUE),
        )
        .fetch_one(connection)
        .await?;
        let queued = count(row.queued, row.queue_estimate);
        Ok(Self {
            queued,
            oldest_age_seconds: row.oldest_age,
            in_doubt: Count {
                value: u64::try_from(row.in_doubt).unwrap_or_default(),
                exact: queued.exact,
            },
            dead_letters: count(row.dead_letters, row.dead_letter_estimate),
            oldest_transaction_seconds: row.oldest_transaction,
            dead_rows: u64::try_from(row.dead_rows).unwrap_or_default(),
        })
    }
}

/// How many payments are in the queue, in a millisecond or two however many there are.
///
/// # Errors
/// The database did not answer.
pub async fn queued(pool: &PgPool) -> Result<Count, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "counted!",
            -- On Citus the rows are in another table than this name says.
            pg_stat_get_live_tuples(coalesce(
                (SELECT tableoid FROM payment_queue ORDER BY id LIMIT 1), 'payment_queue'::regclass
            )) AS "estimate!"
        FROM (SELECT FROM payment_queue ORDER BY id LIMIT $1::bigint + 1) AS oldest"#,
        COUNTED,
    )
    .fetch_one(pool)
    .await?;
    Ok(count(row.counted, row.estimate))
}

/// A count that stopped after [`COUNTED`] and one more, or what the statistics say instead.
fn count(counted: i64, estimate: i64) -> Count {
    let exact = counted <= COUNTED;
    let value = if exact {
        counted
    } else {
        estimate.max(counted)
    };
    Count {
        value: u64::try_from(value).unwrap_or_default(),
        exact,
    }
}
