//! What the instances of one deployment know of each other: how many are alive, what the processors
//! last said of their health, and which of them were found to be back.
//!
//! Each processor's row in `processor_health` is its leader row: whoever moves `next_poll_at`
//! forward has the next poll, for all instances. A poller that dies is replaced when that time has
//! come.
//!
//! Where a deployment has several [cells](crate::domain::cell), an instance is a member in each of
//! them: whether it may claim there, what time it is there, and which life the queue there is in,
//! only that database can say. What is of the whole deployment is in the first cell: the health of
//! processors, their switches, and how many instances are alive.

mod admission;
mod declaration;
mod terms;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use router::{Event, SharedRouter};
use rust_decimal::Decimal;
use sqlx::postgres::PgListener;
use sqlx::{Connection, Executor, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use admission::Gathered;
pub(crate) use admission::ReadCheck;
pub use admission::{Admission, Admitted, Candidate, Quarantine, program};
pub use declaration::{Declaration, declare};
pub use terms::{MemberTerms, ProcessorTerms};

use crate::domain::attention::OwnAttention;
use crate::domain::lease::{INSTANCE_FORGOTTEN, INSTANCE_TTL, LeasePolicy};
use crate::domain::payment::format_time;
use crate::domain::uptime::Uptime;
use crate::pipeline::in_flight::{InFlight, OpenPayments, PutBack};
use crate::pipeline::route::Recovered;
use crate::processors::{HEALTH_TIMEOUT, Processor};
use crate::store::clock::{DatabaseClock, WATCH_GAP};
use crate::store::database::{CHANNEL, Outage, Pool, Session, interval, notify_others};
use crate::telemetry::metrics::Counts;

/// The longest time between two polls of what the other instances wrote. A notification (`NOTIFY`)
/// makes it a few milliseconds where notifications arrive; nothing depends on them.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest such time, however many notifications arrive.
pub(crate) const SYNC_PAUSE: Duration = Duration::from_millis(20);
/// After this time without a notification the connection is tested: a server that vanished sends
/// nothing.
const LISTEN_CHECK: Duration = Duration::from_secs(60);
/// The time between two polls while an instance waits for others to put back what they knew before
/// the queue was emptied, until [`INSTANCE_TTL`] has passed.
const GATHER_PAUSE: Duration = Duration::from_millis(100);
/// Payments that one statement puts back, at most.
pub(crate) const PUT_BACK_BATCH: usize = 5_000;
/// The time between two heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// The time from the reply of a health call to the next call, for the whole deployment. A processor
/// allows one call per 5 s; the rest is for the difference of clocks and ways.
pub(crate) const HEALTH_INTERVAL: Duration = Duration::from_millis(5_050);
/// How long a poller has for a call and the record of it before another takes over: the call, then
/// the interval that a processor asks for.
pub(crate) const HEALTH_LEASE: Duration = Duration::from_millis(4_000 + 5_050);

/// An instance among the others.
pub struct Member {
    /// Its id, chosen at its start, and its terms.
    pub candidate: Candidate,
    /// Whether it may accept and charge.
    pub admission: Arc<Admission>,
    /// Connections.
    pub pool: Pool,
    /// Where notifications arrive, if they do.
    pub hints: Option<Pool>,
    /// Takes note of each time that a heartbeat reads.
    pub clock: Arc<DatabaseClock>,
    /// In the router's order.
    pub processors: Arc<Vec<Processor>>,
    /// The router, which learns what is read.
    pub router: SharedRouter,
    /// What the router finds to be back.
    pub recovered: Arc<Recovered>,
    /// What this instance finds in itself; written with each heartbeat.
    pub own: Arc<OwnAttention>,
    /// How long claims last.
    pub terms: LeasePolicy,
    /// What this instance knows of open payments.
    pub in_flight: Arc<InFlight>,
    /// What this instance counts.
    pub counts: Arc<Counts>,
}

impl Member {
    /// Gives heartbeats and polls until `stop`, and until the calls that are under way then have
    /// ended: if the queue is emptied meanwhile, this instance puts back what it knows. Then signs
    /// off.
    pub async fn run(self: Arc<Self>, stop: CancellationToken, calls: TaskTracker) {
        let is_first = self.candidate.cell.is_first();
        let mut ended = pin!(async {
            stop.cancelled().await;
            calls.wait().await;
        });
        let hint = Arc::new(Notify::new());
        let (hints, hinted) = (self.hints.clone(), Arc::clone(&hint));
        let mut listening = tokio::spawn(async move {
            if is_first {
                listen(hints, hinted).await;
            }
            std::future::pending::<()>().await
        });
        let mut outage = Outage::new("deployment");
        let mut beat_at: Option<Instant> = None;
        let mut sent_at = Uptime::now();
        let mut put_back = self.admission.queue_life();
        let mut told = put_back;
        let mut known = vec![Known::default(); self.processors.len()];
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = async { hint.notified().await; tokio::time::sleep(SYNC_PAUSE).await } => {}
                () = self.admission.queue_emptied.notified() => {}
                recovered = self.recovered.next(), if is_first => {
                    self.tell_recovered(&recovered).await;
                    pause = Duration::ZERO;
                    continue;
                }
                // It broke, and so did this instance: it would learn of the others too late.
                _ = &mut listening => return,
                () = &mut ended => break,
            }
            let gathering = self.admission.gathering();
            if let Some(life) = gathering
                && told != Some(life)
            {
                told = Some(life);
                self.tell_emptied(&self.in_flight.known());
            }
            let beat =
                gathering.is_some() || beat_at.is_none_or(|at| at.elapsed() >= HEARTBEAT_INTERVAL);
            if beat {
                sent_at = Uptime::now();
            }
            let synced = async {
                if let Some(life) = gathering
                    && put_back != Some(life)
                {
                    self.put_back(&self.in_flight.all()).await?;
                    put_back = Some(life);
                }
                let late = self.in_flight.late();
                if !late.is_empty() {
                    self.put_back(&late)
                        .await
                        .inspect_err(|_| self.in_flight.not_put_back(&late))?;
                }
                self.sync(beat, put_back, &mut known).await
            };
            pause = match self.pool.with_deadline(synced).await {
                Ok(Synced {
                    polls,
                    next_poll_in,
                }) => {
                    outage.over();
                    if beat {
                        beat_at = Some(Instant::now());
                        // Guard: KeptUntilPutBack. This heartbeat may have been the first to reach
                        // a queue that was emptied.
                        let emptied = self.admission.gathering();
                        if emptied.is_none_or(|life| put_back == Some(life)) {
                            self.in_flight.forget(self.terms.doubt(), sent_at);
                        }
                    }
                    for index in polls {
                        if stop.is_cancelled() {
                            break;
                        }
                        let member = Arc::clone(&self);
                        calls.spawn(async move { member.poll(index).await });
                    }
                    let longest = match self.admission.gathers_for(Instant::now()) {
                        Some(time) if time < INSTANCE_TTL => GATHER_PAUSE,
                        _ => SYNC_INTERVAL,
                    };
                    next_poll_in.clamp(SYNC_PAUSE, longest)
                }
                Err(error) => {
                    outage.goes_on(&error, &self.pool).await;
                    SYNC_INTERVAL
                }
            };
            if self.admission.held().is_some()
                && let Err(error) = self.pool.with_deadline(self.renew_admission()).await
            {
                tracing::debug!(error = %error, "not asked for admission");
            }
        }
        listening.abort();
        self.candidate.sign_off(&self.pool).await;
    }

    /// Polls the shared rows once.
    ///
    /// # Errors
    /// The database did not answer.
    async fn sync(
        &self,
        beat: bool,
        put_back: Option<Uuid>,
        known: &mut [Known],
    ) -> Result<Synced, sqlx::Error> {
        let is_first = self.candidate.cell.is_first();
        if beat {
            let alive = self.heartbeat(put_back).await?;
            if is_first {
                self.router.observe(Event::Instances { alive });
            }
        }
        if !is_first {
            return Ok(Synced {
                polls: Vec::new(),
                next_poll_in: SYNC_INTERVAL,
            });
        }
        let rows = sqlx::query!(
            r#"SELECT processor, failing AS "failing?", min_response_time_ms, answered_at,
                recovered_at, enabled,
                (extract(epoch FROM next_poll_at - now()) * 1000)::float8 AS "next_poll_in_ms"
            FROM processor_health"#
        )
        .fetch_all(&*self.pool)
        .await?;
        let mut synced = Synced {
            polls: Vec::new(),
            next_poll_in: SYNC_INTERVAL,
        };
        for (index, processor) in self.processors.iter().enumerate() {
            let row = rows.iter().find(|row| row.processor == processor.name);
            // A row that is new, or that says -infinity, is due.
            let next_poll_in = row
                .and_then(|row| row.next_poll_in_ms)
                .unwrap_or(f64::NEG_INFINITY);
            // Further away than any poll that could be arranged now: the database's clock was set
            // back since.
            let longest = (HEALTH_LEASE + WATCH_GAP).as_secs_f64() * 1_000.0;
            if next_poll_in > 0.0 && next_poll_in <= longest {
                let next_poll_in = Duration::from_secs_f64((next_poll_in / 1_000.0).min(60.0));
                synced.next_poll_in = synced.next_poll_in.min(next_poll_in);
            } else if self.take_poll(&processor.name).await? {
                synced.polls.push(index);
            }
            let Some(row) = row else { continue };
            let Known {
                answered_at,
                recovered_at,
                enabled,
            } = &mut known[index];
            if row.recovered_at != *recovered_at {
                *recovered_at = row.recovered_at;
                self.router.observe(Event::Recovered { processor: index });
            }
            if row.enabled != *enabled {
                *enabled = row.enabled;
                tracing::warn!(
                    processor.name = processor.name,
                    processor.enabled = row.enabled,
                    "switched by an operator"
                );
                self.router.observe(Event::Switched {
                    processor: index,
                    enabled: row.enabled,
                });
            }
            if let (Some(failing), Some(millis), true) = (
                row.failing,
                row.min_response_time_ms,
                row.answered_at != *answered_at,
            ) {
                *answered_at = row.answered_at;
                let min_response_time =
                    Duration::from_millis(u64::try_from(millis).unwrap_or_default());
                self.router.observe(Event::Health {
                    processor: index,
                    failing,
                    min_response_time,
                });
            }
        }
        Ok(synced)
    }

    /// Tells the other instances which processors are back. An instance that is not told finds out
    /// by itself.
    async fn tell_recovered(&self, processors: &[usize]) {
        let names: Vec<&str> = processors
            .iter()
            .map(|index| self.processors[*index].name.as_str())
            .collect();
        let told = sqlx::query!(
            "UPDATE processor_health SET recovered_at = now() WHERE processor = ANY ($1)",
            &names as &[&str],
        );
        match self.pool.with_deadline(told.execute(&*self.pool)).await {
            Ok(_) => notify_others(&self.pool).await,
            Err(error) => tracing::debug!(error = %error, "recovery not told"),
        }
    }

    /// Says once that the queue was emptied, and what is known of it.
    fn tell_emptied(&self, known: &OpenPayments) {
        self.counts.queue_emptied.add(1);
        let last_beat = self.admission.last_beat(Uptime::now());
        let now = self.clock.estimate(tokio::time::Instant::now());
        let since = now.zip(TimeDelta::from_std(last_beat).ok());
        let since = since.and_then(|(now, ago)| now.checked_sub_signed(ago));
        tracing::error!(
            queue.last_seen_at = since.map(format_time),
            queue.last_seen_seconds_ago = last_beat.as_secs_f64(),
            payments.unsettled = known.unsettled(),
            payments.claimed = known.claimed,
            payments.in_doubt = known.in_doubt,
            payments.waiting = known.waiting,
            payments.not_kept = known.not_kept,
            "a crash or a failover of the database server has emptied the unlogged queue. This \
            instance puts back the payments that it knows, but for those not kept; what only \
            instances knew that died is lost. audit.balance says how many payments are missing: see to them, \
            and then run `payment-proxy deployment acknowledge`"
        );
    }

    async fn put_back(&self, payments: &[PutBack]) -> Result<(), sqlx::Error> {
        let payments = put_back(&self.pool, self.terms, payments).await?;
        self.counts.put_back.add(payments);
        tracing::warn!(
            payments,
            "put back into the emptied queue, in doubt at their processors where they were claimed"
        );
        Ok(())
    }

    /// Gives a heartbeat, and takes note of the database's time. Returns how many instances are
    /// alive, this one included. Heartbeats of the future are of instances that died before the
    /// clock was set back.
    async fn heartbeat(&self, put_back: Option<Uuid>) -> Result<u32, sqlx::Error> {
        let processors = self.processors.iter();
        let processors: Vec<String> = processors.map(|each| each.name.clone()).collect();
        // Once for the whole deployment.
        let cell = self.candidate.cell;
        let own = match cell.is_first() {
            true => self.own.items(),
            false => Vec::new(),
        };
        let attention =
            serde_json::to_string(&own).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let number = |number: usize| i32::try_from(number).expect("there are few cells");
        let (begun_at, sent_at) = (Uptime::now(), tokio::time::Instant::now());
        let row = sqlx::query!(
            r#"WITH beat AS (
                INSERT INTO service_instance
                    (id, seen_at, processors, attention, terms, program, held, queue_life)
                VALUES ($1, now(), $4, $5::text::jsonb, $6::text::jsonb, $7, $8, $9)
                ON CONFLICT ON CONSTRAINT service_instance_pkey DO UPDATE
                SET seen_at = excluded.seen_at, attention = excluded.attention,
                    held = excluded.held,
                    queue_life = excluded.queue_life
            ), forgotten AS (
                DELETE FROM service_instance
                WHERE $8::text IS NULL AND seen_at NOT BETWEEN now() - $3::interval
                    AND now() + $3::interval
            )
            SELECT now() AS "database_now!",
                (SELECT count(*) FROM service_instance WHERE id <> $1 AND held IS NULL
                    AND seen_at BETWEEN now() - $2::interval AND now() + $2::interval) AS "others!",
                (SELECT count(*) FROM service_instance WHERE id <> $1 AND held IS NULL
                    AND seen_at BETWEEN now() - $2::interval - $10::interval
                        AND now() - $2::interval
                    -- Of those that live one looks after what the silent ones hold.
                    AND NOT EXISTS (SELECT FROM service_instance WHERE id < $1 AND held IS NULL
                        AND seen_at BETWEEN now() - $2::interval AND now() + $2::interval)
                ) AS "silent!",
                coalesce((SELECT identity = database_identity() AND terms = $6::text::jsonb
                    AND cell = $11 AND cells = $12
                    AND num_nonnulls(filling_from, divided_into) = 0
                    FROM deployment), false)
                    AS "agrees!",
                coalesce((SELECT asks_first FROM deployment), false) AS "asks_first!",
                queue_is_gathered($9, $1, $13) AS "complete!", queue_emptied_at($9) AS emptied_at"#,
            self.candidate.id,
            interval(INSTANCE_TTL),
            // Not before the calls of one that died are over, and a queue is gathered without it.
            interval(INSTANCE_FORGOTTEN.max(self.terms.doubt() * 2)),
            &processors,
            attention,
            self.candidate.terms_text()?,
            program(),
            self.admission.held(),
            put_back,
            interval(self.terms.lease),
            number(cell.number()),
            number(cell.of()),
            interval(self.terms.doubt())
        )
        .fetch_one(&*self.pool)
        .await?;
        let received_at = tokio::time::Instant::now();
        self.clock.observe(sent_at, row.database_now, received_at);
        self.admission.read_asks_first(row.asks_first);
        let silent = u32::try_from(row.silent).unwrap_or(u32::MAX);
        self.admission.read_silent(silent);
        if let Some(life) = put_back {
            let read = Gathered {
                complete: row.complete,
                emptied_at: row.emptied_at,
            };
            let doubt = self.terms.doubt();
            self.admission.gathered(life, read, doubt, Instant::now());
        }
        if row.agrees {
            self.admission.beat(begun_at);
        } else {
            self.admission.close();
        }
        Ok(u32::try_from(row.others)
            .unwrap_or(u32::MAX)
            .saturating_add(1))
    }

    /// Asks for admission again, over a connection that is not checked: the database may be another
    /// one. New terms are for an instance that has just started to bring.
    async fn renew_admission(&self) -> Result<(), sqlx::Error> {
        let options = self.pool.connect_options();
        let mut connection = Session::SERVICE.connect(&options).await?;
        let sent_at = Uptime::now();
        match self.candidate.ask(&mut connection, None).await? {
            Ok(admitted) => self.admission.admit(admitted, sent_at),
            Err(refused) => self.admission.hold(refused),
        }
        connection.close().await
    }

    /// Takes the next poll of a processor, if nobody else has it.
    async fn take_poll(&self, processor: &str) -> Result<bool, sqlx::Error> {
        let taken = sqlx::query!(
            "INSERT INTO processor_health AS h (processor, next_poll_at, poller) VALUES ($1,
                now() + $3::interval, $2)
            ON CONFLICT ON CONSTRAINT processor_health_pkey
            DO UPDATE SET next_poll_at = now() + $3::interval, poller = $2
            WHERE h.next_poll_at <= now() OR h.next_poll_at > now() + $3::interval + $4::interval",
            processor,
            self.candidate.id,
            interval(HEALTH_LEASE),
            interval(WATCH_GAP)
        )
        .execute(&*self.pool)
        .await?;
        Ok(taken.rows_affected() == 1)
    }

    /// Calls the health endpoint and writes down the answer; the next call is due
    /// [`HEALTH_INTERVAL`] after this one has ended.
    async fn poll(&self, index: usize) {
        let processor = &self.processors[index];
        let answer = processor.client.health().await;
        if let Err(error) = &answer {
            tracing::debug!(processor.name = processor.name, error, "no health");
        }
        let health = answer.ok().flatten();
        let recorded = sqlx::query!(
            "UPDATE processor_health
            SET failing = coalesce($3, failing),
                min_response_time_ms = coalesce($4, min_response_time_ms),
                answered_at = CASE WHEN $3::bool IS NULL THEN answered_at ELSE now() END,
                next_poll_at = now() + $5::interval
            WHERE processor = $1 AND poller = $2",
            processor.name,
            self.candidate.id,
            health.map(|health| health.failing),
            health.map(|health| i32::try_from(health.min_response_time).unwrap_or(i32::MAX)),
            interval(HEALTH_INTERVAL)
        );
        match self.pool.with_deadline(recorded.execute(&*self.pool)).await {
            Ok(_) => notify_others(&self.pool).await,
            Err(error) => {
                tracing::warn!(processor.name = processor.name, error = %error, "health not recorded");
            }
        }
    }
}

/// Puts payments into a queue that was emptied: those that an instance had claimed in doubt at
/// their processor (Guard: PutBack), so that none of it is charged elsewhere when its client posts
/// it again. Returns how many are there now and were not, or were not so.
///
/// # Errors
/// The database did not confirm; doing it again is safe.
pub async fn put_back(
    pool: &PgPool,
    terms: LeasePolicy,
    payments: &[PutBack],
) -> Result<u64, sqlx::Error> {
    let mut put_back = 0;
    for batch in payments.chunks(PUT_BACK_BATCH) {
        let ids: Vec<Uuid> = batch.iter().map(|it| it.correlation_id).collect();
        let amounts: Vec<Decimal> = batch.iter().map(|it| it.amount).collect();
        let accepted: Vec<DateTime<Utc>> = batch.iter().map(|it| it.accepted_at).collect();
        let attempts: Vec<i32> = batch.iter().map(|it| it.attempt).collect();
        let (processors, requested): (Vec<Option<String>>, Vec<Option<DateTime<Utc>>>) =
            (batch.iter()).map(|it| it.evidence.clone().unzip()).unzip();
        put_back += sqlx::query_scalar!(
            r#"SELECT put_back_payments($1, $2, $3, $4, $5, $6, $7, $8) AS "payments!""#,
            &ids,
            &amounts,
            &accepted,
            &attempts,
            &processors as &[Option<String>],
            &requested as &[Option<DateTime<Utc>>],
            interval(terms.lease),
            interval(terms.late_charge),
        )
        .fetch_one(pool)
        .await?;
    }
    Ok(u64::try_from(put_back).unwrap_or_default())
}

/// What an instance has read of a processor.
#[derive(Debug, Clone, Copy)]
struct Known {
    answered_at: Option<DateTime<Utc>>,
    recovered_at: Option<DateTime<Utc>>,
    enabled: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            answered_at: None,
            recovered_at: None,
            enabled: true,
        }
    }
}

/// What a poll of the shared rows came to.
struct Synced {
    /// Processors whose poll this instance has got.
    polls: Vec<usize>,
    /// When the next poll is due.
    next_poll_in: Duration,
}

/// Passes notifications on, for as long as they arrive.
async fn listen(pool: Option<Pool>, hint: Arc<Notify>) {
    let Some(pool) = pool else {
        // A pooler in transaction mode passes none on, and closes a session that gets one.
        return std::future::pending().await;
    };
    loop {
        let hints = async {
            let mut listener = pool.with_deadline(PgListener::connect_with(&pool)).await?;
            listener.ignore_pool_close_event(true);
            pool.with_deadline(listener.listen(CHANNEL)).await?;
            loop {
                match tokio::time::timeout(LISTEN_CHECK, listener.recv()).await {
                    Ok(received) => {
                        received?;
                        hint.notify_one();
                    }
                    Err(_) => {
                        pool.with_deadline(listener.execute("SELECT 1")).await?;
                    }
                }
            }
            #[allow(unreachable_code)]
            Ok::<(), sqlx::Error>(())
        };
        if let Err(error) = hints.await {
            tracing::debug!(error = %error, "no hints arrive");
        }
        tokio::time::sleep(SYNC_INTERVAL).await;
    }
}

const _: () =
    assert!(HEALTH_LEASE.as_millis() >= HEALTH_TIMEOUT.as_millis() + HEALTH_INTERVAL.as_millis());
