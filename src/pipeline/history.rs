//! What was, minute by minute, for whoever comes after an alarm: how many payments were accepted
//! and refused, how many waited, how long settling took, and which breakers were open.
//!
//! Each instance looks at its own counters once a second and adds one row a minute to
//! `service_minute`, so nothing of this is on the way of a payment. A minute without a row was seen
//! by nobody: no instance ran, or it was killed before the minute was over. While the database is
//! away the rows of [`MINUTES_WAITING`] minutes wait for it.
//!
//! Minutes are those of the database's clock, as far as the instance knows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use router::{BreakerState, Explanation, SharedRouter};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::pipeline::queue_limit::QueueLimit;
use crate::store::clock::DatabaseClock;
use crate::store::database::{Pool, interval};
use crate::store::queue_statistics;
use crate::telemetry::metrics::Counts;

/// The time between two samples of the counters of this instance.
pub(crate) const OBSERVED_EVERY: Duration = Duration::from_secs(1);
/// Rows are removed after so long. With two instances that is some 6,000 rows.
pub const HISTORY_KEPT: Duration = Duration::from_secs(48 * 60 * 60);
/// Minutes that wait for the database in the memory of an instance, at most: those after them are
/// not written.
pub(crate) const MINUTES_WAITING: usize = 360;
/// A minute is shown when it has been over for so long: by then all instances have written what
/// they saw.
pub(crate) const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// Switches that are told, at most: the newest.
const SWITCHES_TOLD: i64 = 100;
/// Latencies are those of so many payments of each second, at most.
const LATENCY_PAYMENTS: i64 = 10;
const MINUTE_SECONDS: i64 = 60;

/// What has been counted since the instance started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Payments that were accepted.
    pub accepted: u64,
    /// Posts that were answered with 503.
    pub refused: u64,
}

impl Counted {
    fn now(counts: &Counts) -> Self {
        let refused = &counts.refused;
        Self {
            accepted: counts.accepted.value(),
            refused: refused.overloaded.value() + refused.database.value() + refused.held.value(),
        }
    }
}

/// For how many seconds of a minute a processor could not be used as usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutSeconds {
    /// Its breaker was open.
    pub open: u32,
    /// Its breaker was half open.
    pub half_open: u32,
    /// It was switched off.
    pub off: u32,
}

/// What an instance saw in a minute.
#[derive(Debug, Clone, PartialEq)]
pub struct Minute {
    /// When it began, in minutes from 1970.
    pub number: i64,
    /// Seconds in which the instance looked.
    pub observed_seconds: u32,
    /// What was counted in it.
    pub counted: Counted,
    /// The longest queue that was seen. None: the database did not answer.
    pub queued: Option<u64>,
    /// By name.
    pub processors: BTreeMap<String, OutSeconds>,
}

/// Adds up what is seen in the present minute.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    minute: Option<Minute>,
    before: Counted,
}

impl Observed {
    /// Samples the counters in minute `number`. Returns the minute before, where that is over.
    pub(crate) fn sample(
        &mut self,
        number: i64,
        counted: Counted,
        router: &Explanation,
    ) -> Option<Minute> {
        let over = self.minute.take_if(|minute| minute.number != number);
        let minute = self.minute.get_or_insert_with(|| Minute {
            number,
            observed_seconds: 0,
            counted: Counted::default(),
            queued: None,
            processors: BTreeMap::new(),
        });
        minute.observed_seconds += 1;
        minute.counted.accepted += counted.accepted.saturating_sub(self.before.accepted);
        minute.counted.refused += counted.refused.saturating_sub(self.before.refused);
        self.before = counted;
        for processor in &router.processors {
            let seconds = minute.processors.entry(processor.name.clone()).or_default();
            match processor.breaker.state {
                _ if !processor.enabled => seconds.off += 1,
                BreakerState::Open => seconds.open += 1,
                BreakerState::HalfOpen => seconds.half_open += 1,
                BreakerState::Closed => {}
            }
        }
        over
    }

    /// The present minute, as far as it was seen.
    pub(crate) fn take(&mut self) -> Option<Minute> {
        self.minute.take()
    }
}

/// Writes down what an instance sees.
pub(crate) struct Recorder {
    /// Of this instance.
    pub instance: Uuid,
    /// What it counts.
    pub counts: Arc<Counts>,
    /// Connections.
    pub pool: Pool,
    /// Says which minute it is.
    pub clock: Arc<DatabaseClock>,
    /// Knows the breakers.
    pub router: SharedRouter,
    /// See the queues, that of each cell.
    pub queue_limits: Vec<Arc<QueueLimit>>,
}

impl Recorder {
    /// Samples and writes until the stop, and writes then what it saw of the last minute.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (over, minutes) = mpsc::channel(MINUTES_WAITING);
        let stopped = stop.clone();
        tokio::join!(self.observe(over, stopped), self.write_all(minutes, stop));
    }

    async fn observe(&self, over: mpsc::Sender<Minute>, stop: CancellationToken) {
        let mut observed = Observed::default();
        let mut dropped = 0_u32;
        while !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(OBSERVED_EVERY) => {}
                () = stop.cancelled() => {}
            }
            // The database has not told its time yet; what is counted meanwhile counts later.
            let Some(number) = self.minute_now() else {
                continue;
            };
            let minute =
                observed.sample(number, Counted::now(&self.counts), &self.router.explain());
            let last = stop.is_cancelled().then(|| observed.take()).flatten();
            for mut minute in minute.into_iter().chain(last) {
                let longest = self
                    .queue_limits
                    .iter()
                    .filter_map(|limit| limit.take_longest());
                minute.queued = longest.reduce(u64::saturating_add);
                if over.try_send(minute).is_err() {
                    dropped += 1;
                } else if std::mem::take(&mut dropped) > 0 {
                    tracing::warn!(
                        "minutes of the history were dropped: the database was away for too long"
                    );
                }
            }
        }
    }

    async fn write_all(&self, mut minutes: mpsc::Receiver<Minute>, stop: CancellationToken) {
        while let Some(mut minute) = minutes.recv().await {
            let is_last = self.minute_now().is_none_or(|now| now <= minute.number + 1);
            if is_last
                && let Ok(queued) = self
                    .pool
                    .with_deadline(queue_statistics::queued(&self.pool))
                    .await
            {
                minute.queued = minute.queued.max(Some(queued.value));
            }
            while let Err(error) = self
                .pool
                .with_deadline(write(&self.pool, self.instance, &minute))
                .await
            {
                // Those who accept, claim and settle say what is wrong with the database.
                tracing::debug!(error = %error, "a minute of the history waits");
                tokio::select! {
                    () = tokio::time::sleep(OBSERVED_EVERY) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    fn minute_now(&self) -> Option<i64> {
        let now = self.clock.estimate(Instant::now())?;
        Some(now.timestamp().div_euclid(MINUTE_SECONDS))
    }
}

/// Adds what an instance saw in a minute, with a sample of how long settling took in it, and
/// removes what is too old. What is added to a minute twice, because an instance was told of the
/// same minute again, is added up.
///
/// # Errors
/// The database did not confirm.
pub async fn write(pool: &PgPool, instance: Uuid, minute: &Minute) -> Result<(), sqlx::Error> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let processors = serde_json::to_string(&minute.processors)
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query!(
        r#"WITH sample AS (
            SELECT percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY took) AS latency
            FROM generate_series($2::timestamptz, $2 + interval '59 s',
                interval '1 s') AS slot (starts_at)
            CROSS JOIN LATERAL (
                SELECT extract(epoch FROM settled_at - accepted_at)::float8 * 1000 AS took
                FROM payment_processed
                WHERE requested_at >= slot.starts_at
                    AND requested_at < slot.starts_at + interval '1 s'
                ORDER BY requested_at LIMIT $8
            ) AS payment
        ), forgotten AS (
            DELETE FROM service_minute WHERE minute NOT BETWEEN now() - $9::interval
                AND now() + $9::interval
        )
        INSERT INTO service_minute AS m
            (minute, instance, observed_seconds, accepted, refused, queued, p50_ms, p99_ms,
                processors)
        SELECT $2, $1, $3, $4, $5, $6, latency[1], latency[2], $7::text::jsonb FROM sample
        ON CONFLICT ON CONSTRAINT service_minute_pkey DO UPDATE
        SET observed_seconds = m.observed_seconds + excluded.observed_seconds,
            accepted = m.accepted + excluded.accepted,
            refused = m.refused + excluded.refused, queued = greatest(m.queued, excluded.queued),
            p50_ms = excluded.p50_ms, p99_ms = excluded.p99_ms"#,
        instance,
        DateTime::from_timestamp(minute.number * MINUTE_SECONDS, 0).unwrap_or(DateTime::UNIX_EPOCH),
        i32::try_from(minute.observed_seconds).unwrap_or(i32::MAX),
        number(minute.counted.accepted),
        number(minute.counted.refused),
        minute.queued.map(number),
        processors,
        LATENCY_PAYMENTS,
        interval(HISTORY_KEPT)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// What was, minute by minute. Every list has a value for each minute; null where nobody knows
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// When the first minute began
    pub from: DateTime<Utc>,
    /// Instances that wrote down what they saw; 0: nobody saw that minute
    pub instances: Vec<i64>,
    /// Payments accepted
    pub accepted: Vec<Option<i64>>,
    /// Posts answered with 503: the queue was full, the database was away, or an instance must not
    /// serve
    pub refused: Vec<Option<i64>>,
    /// The longest queue of the minute; null in a minute that was seen: the database was away
    pub queued: Vec<Option<i64>>,
    /// Milliseconds from acceptance to settlement of half of the payments that were sent, by a
    /// sample; null: none was
    pub p50_ms: Vec<Option<f64>>,
    /// The same of 99 %
    pub p99_ms: Vec<Option<f64>>,
    /// By processor, those of the ledger and those that instances had, by name
    pub processors: Vec<ProcessorHistory>,
    /// Who switched processors off and on in that time, when and why; the newest first, at most 100
    pub switches: Vec<PastSwitch>,
}

/// What was of a processor, minute by minute
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorHistory {
    /// Its name
    pub name: String,
    /// Payments sent in that minute that are settled by now, by the ledger
    pub settled: Vec<i64>,
    /// Seconds in which its breaker was open, at the instance where that was longest
    pub open_seconds: Vec<Option<u32>>,
    /// Seconds in which its breaker was half open, at the instance where that was longest
    pub half_open_seconds: Vec<Option<u32>>,
    /// Seconds in which it was switched off
    pub off_seconds: Vec<Option<u32>>,
}

/// A processor was switched off or on
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastSwitch {
    /// The processor
    pub processor: String,
    /// When
    pub switched_at: DateTime<Utc>,
    /// Whether it was put back into use
    pub enabled: bool,
    /// Who did so
    pub switched_by: String,
    /// Why
    pub reason: String,
}

impl History {
    /// The last so many hours, up to the last minute that all instances have written.
    ///
    /// # Errors
    /// The database did not answer, or holds what this program cannot read.
    pub async fn read(pool: &PgPool, hours: u32) -> Result<Self, sqlx::Error> {
        let mut connection = pool.acquire().await?;
        let until = sqlx::query_scalar!(
            r#"SELECT date_trunc('minute', now() - $1::interval, 'UTC') AS "until!""#,
            interval(WRITTEN_WITHIN)
        )
        .fetch_one(&mut *connection)
        .await?;
        let minutes = usize::try_from(hours * 60).unwrap_or_default();
        let from = until - TimeDelta::hours(i64::from(hours));
        let mut history = Self::unknown(from, minutes);
        let place = |minute: DateTime<Utc>| {
            let place = usize::try_from((minute - from).num_minutes()).ok();
            place.filter(|place| *place < minutes)
        };
        let seen = sqlx::query!(
            r#"SELECT minute, count(*) AS "instances!", sum(accepted)::bigint AS accepted,
                sum(refused)::bigint AS refused,
                max(queued) AS queued, max(p50_ms) AS p50_ms, max(p99_ms) AS p99_ms,
                jsonb_agg(processors)::text AS "processors!"
            FROM service_minute WHERE minute >= $1 AND minute < $2 GROUP BY minute"#,
            from,
            until
        )
        .fetch_all(&mut *connection)
        .await?;
        for row in seen {
            let Some(place) = place(row.minute) else {
                continue;
            };
            history.instances[place] = row.instances;
            history.accepted[place] = row.accepted;
            history.refused[place] = row.refused;
            history.queued[place] = row.queued;
            history.p50_ms[place] = row.p50_ms;
            history.p99_ms[place] = row.p99_ms;
            let out: Vec<BTreeMap<String, OutSeconds>> = serde_json::from_str(&row.processors)
                .map_err(|error| sqlx::Error::Decode(error.into()))?;
            for (name, seconds) in out.into_iter().flatten() {
                let processor = history.processor(name, minutes);
                processor.open_seconds[place] =
                    processor.open_seconds[place].max(Some(seconds.open));
                processor.half_open_seconds[place] =
                    processor.half_open_seconds[place].max(Some(seconds.half_open));
                processor.off_seconds[place] = processor.off_seconds[place].max(Some(seconds.off));
            }
        }
        let settled = sqlx::query!(
            "SELECT starts_at, processor, requests FROM payment_rollup
            WHERE unit = 'minute' AND starts_at >= $1 AND starts_at < $2",
            from,
            until
        )
        .fetch_all(&mut *connection)
        .await?;
        for row in settled {
            if let Some(place) = place(row.starts_at) {
                history.processor(row.processor, minutes).settled[place] = row.requests;
            }
        }
        history
            .processors
            .sort_by(|one, other| one.name.cmp(&other.name));
        history.switches = sqlx::query_as!(
            PastSwitch,
            "SELECT processor, switched_at, enabled, switched_by, reason FROM processor_switch
            WHERE switched_at >= $1 ORDER BY switched_at DESC LIMIT $2",
            from,
            SWITCHES_TOLD
        )
        .fetch_all(&mut *connection)
        .await?;
        Ok(history)
    }

    fn unknown(from: DateTime<Utc>, minutes: usize) -> Self {
        Self {
            from,
            instances: vec![0; minutes],
            accepted: vec![None; minutes],
            refused: vec![None; minutes],
            queued: vec![None; minutes],
            p50_ms: vec![None; minutes],
            p99_ms: vec![None; minutes],
            processors: Vec::new(),
            switches: Vec::new(),
        }
    }

    fn processor(&mut self, name: String, minutes: usize) -> &mut ProcessorHistory {
        let known = self.processors.iter().position(|known| known.name == name);
        let place = known.unwrap_or_else(|| {
            self.processors.push(ProcessorHistory {
                name,
                settled: vec![0; minutes],
                open_seconds: vec![None; minutes],
                half_open_seconds: vec![None; minutes],
                off_seconds: vec![None; minutes],
            });
            self.processors.len() - 1
        });
        &mut self.processors[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use router::{Event, Policy, ProcessorTerms, Router};

    #[test]
    fn what_is_seen_in_a_minute_is_added_up_and_told_when_it_is_over() {
        let terms = vec![ProcessorTerms {
            name: "default".to_owned(),
            fee: rust_decimal::Decimal::new(5, 2),
        }];
        let mut router = Router::new(Policy::default(), terms, Duration::ZERO);
        let mut observed = Observed::default();
        let counted = |accepted, refused| Counted { accepted, refused };
        // What was counted before the first sample is of the first minute.
        assert_eq!(
            observed.sample(7, counted(3, 0), &router.explain(Duration::ZERO)),
            None
        );
        for failing in [true, false] {
            let health = Event::Health {
                processor: 0,
                failing,
                min_response_time: Duration::ZERO,
            };
            router.observe(health, Duration::ZERO);
            assert_eq!(
                observed.sample(7, counted(5, 1), &router.explain(Duration::ZERO)),
                None
            );
        }
        let off = Event::Switched {
            processor: 0,
            enabled: false,
        };
        router.observe(off, Duration::ZERO);
        let minute = observed.sample(8, counted(9, 1), &router.explain(Duration::ZERO));
        let out = OutSeconds {
            open: 1,
            half_open: 1,
            off: 0,
        };
        let expected = Minute {
            number: 7,
            observed_seconds: 3,
            counted: counted(5, 1),
            queued: None,
            processors: BTreeMap::from([("default".to_owned(), out)]),
        };
        assert_eq!(minute, Some(expected));
        let rest = observed.take().expect("the minute that is not over");
        assert_eq!((rest.number, rest.counted), (8, counted(4, 0)));
        assert_eq!(rest.processors["default"].off, 1);
        assert_eq!(observed.take(), None);
    }
}
