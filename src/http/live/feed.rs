//! The feed of the page: one snapshot a second for all viewers together, and none while nobody
//! looks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::future::join_all;
use router::SharedRouter;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ledger::Ledger;
use super::simulation::Simulator;
use super::snapshot::{DeploymentView, Snapshot};
use super::window::{Sample, Window};
use crate::domain::attention::{self, OwnAttention};
use crate::domain::cell::{Cell, Cells};
use crate::store::database::{LateAnswer, Outage, Pool};
use crate::store::situation;

/// The time between two snapshots.
pub(super) const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);
/// A snapshot is taken so long after a whole second, when what was sent in it is mostly settled.
pub(super) const AFTER_THE_SECOND: Duration = Duration::from_millis(100);
/// And so much later, or less, by the id of the instance: the database is not asked by all of them
/// at one moment.
pub(super) const SPREAD: Duration = Duration::from_millis(400);
/// How long the database has to answer before a snapshot goes out without it; the answer counts for
/// a later one.
pub(super) const LEDGER_TIMEOUT: Duration = Duration::from_millis(700);
/// When it has not answered for so long, it is away.
pub(super) const AWAY_AFTER: Duration = Duration::from_secs(3);
/// A rate is only told of two looks that are closer to each other than this.
const RATE_WITHIN: Duration = Duration::from_secs(5);

/// The newest snapshot, as JSON.
pub(super) type Latest = Option<Arc<str>>;

/// Where viewers come to look.
#[derive(Debug)]
pub struct Feed {
    latest: watch::Sender<Latest>,
    came: Notify,
    /// All viewers are sent away then.
    pub(super) stop: CancellationToken,
}

impl Feed {
    /// Nobody looks yet. All viewers are sent away at `stop`.
    pub(super) fn new(stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            latest: watch::Sender::new(None),
            came: Notify::new(),
            stop,
        })
    }

    /// Whether anybody looks.
    pub(super) fn is_watched(&self) -> bool {
        self.latest.receiver_count() > 0
    }

    /// The snapshots from now on, the newest first.
    pub(super) fn watch(&self) -> watch::Receiver<Latest> {
        let mut latest = self.latest.subscribe();
        latest.mark_changed();
        self.came.notify_one();
        latest
    }

    /// Takes snapshots while anybody looks, until the stop.
    pub(super) async fn run(&self, observer: Observer) {
        let mut memory = Memory::of(&observer.pools);
        let after = AFTER_THE_SECOND + later(observer.instance);
        let looking = async {
            loop {
                if !self.is_watched() {
                    self.latest.send_replace(None);
                    self.came.notified().await;
                    continue;
                }
                let snapshot = observer.look(&mut memory).await;
                match serde_json::to_string(&snapshot) {
                    Ok(text) => {
                        self.latest.send_replace(Some(text.into()));
                    }
                    Err(error) => tracing::error!(error = %error, "no snapshot"),
                }
                tokio::time::sleep(until_the_next(Utc::now().timestamp_millis(), after)).await;
            }
        };
        tokio::select! {
            () = looking => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// The place of an instance within [`SPREAD`].
fn later(instance: Uuid) -> Duration {
    let (high, _) = instance.as_u64_pair();
    SPREAD.mul_f64(high as f64 / u64::MAX as f64)
}

/// How long it is from there to the moment of the next snapshot, which comes that long after a
/// whole second.
fn until_the_next(now_ms: i64, after: Duration) -> Duration {
    let interval = i64::try_from(SNAPSHOT_INTERVAL.as_millis()).expect("a second fits");
    let after = i64::try_from(after.as_millis()).expect("less than a second fits");
    let left = interval - (now_ms - after).rem_euclid(interval);
    Duration::from_millis(u64::try_from(left).unwrap_or_default())
}

/// Takes the snapshots. All that is awaited is bounded, so they go out whatever is away.
pub struct Observer {
    /// Of this instance.
    pub instance: Uuid,
    /// Connections to every cell.
    pub pools: Cells<Pool>,
    /// What decides here.
    pub router: SharedRouter,
    /// The names of the processors, in order of preference.
    pub names: Arc<[String]>,
    /// Where processors are simulated.
    pub simulator: Option<Arc<Simulator>>,
    /// What this instance finds in itself.
    pub own: Arc<OwnAttention>,
}

/// What is remembered from one look to the next.
#[derive(Debug)]
struct Memory {
    window: Window,
    /// What the database last said, and when.
    ledger: Option<(Instant, Ledger)>,
    /// One for each cell.
    reading: Cells<LateAnswer<Ledger>>,
    /// The cells that have not answered.
    away: Vec<Cell>,
    counted: Option<Counted>,
    /// When the first of the looks was made that have not been answered.
    unanswered_since: Option<Instant>,
    failed: bool,
    outage: Outage,
}

impl Memory {
    fn of(pools: &Cells<Pool>) -> Self {
        Self {
            window: Window::default(),
            ledger: None,
            reading: pools.map(|_| LateAnswer::default()),
            away: Vec::new(),
            counted: None,
            unanswered_since: None,
            failed: false,
            outage: Outage::new("live page"),
        }
    }
}

impl Observer {
    /// Reads everything once.
    async fn look(&self, memory: &mut Memory) -> Snapshot {
        let now = Utc::now();
        let newest_second = now.timestamp() - 1;
        let router = self.router.explain();
        let simulation = async {
            match &self.simulator {
                Some(simulator) => Some(simulator.look().await),
                None => None,
            }
        };
        let seconds = memory.window.untold(newest_second);
        let read = |pool: Pool| {
            let (names, seconds) = (Arc::clone(&self.names), seconds.clone());
            async move { Ledger::read(&pool, &names, seconds).await }
        };
        memory.unanswered_since.get_or_insert_with(Instant::now);
        let reading = memory.reading.iter_mut().zip(self.pools.iter());
        let reading = reading.map(|(late, pool)| late.answer(pool, LEDGER_TIMEOUT, read));
        let (ledgers, simulation) = tokio::join!(join_all(reading), simulation);
        let mut failed = None;
        memory.away.clear();
        let mut answered = Vec::new();
        for (ledger, pool) in ledgers.into_iter().zip(self.pools.iter()) {
            match ledger {
                Some(Ok(ledger)) => answered.push(ledger),
                Some(Err(error)) => {
                    memory.away.push(pool.cell());
                    failed = Some((error, pool));
                }
                None => memory.away.push(pool.cell()),
            }
        }
        // What lacks a cell would be a wrong number.
        let ledger = match memory.away.is_empty() {
            true => Ledger::sum(answered, &self.names),
            false => None,
        };
        let mut sample = Sample {
            second: newest_second,
            breakers: router
                .processors
                .iter()
                .map(|processor| processor.breaker.state)
                .collect(),
            ..Sample::default()
        };
        match (ledger, failed) {
            (Some(mut ledger), _) => {
                memory.outage.over();
                memory.unanswered_since = None;
                memory.failed = false;
                let counted = Counted::of(&ledger, &self.names);
                if let Some(rates) = counted.rates(memory.counted.as_ref()) {
                    sample.accepted = Some(rates.accepted);
                    sample.settled = Some(rates.settled);
                }
                memory.counted = Some(counted);
                sample.queued = Some(ledger.queue.queued.value);
                sample.p50_ms = ledger.latency.map(|(p50, _)| p50);
                sample.p99_ms = ledger.latency.map(|(_, p99)| p99);
                let settled = std::mem::take(&mut ledger.settled);
                memory.window.tell(&ledger.seconds, settled);
                memory.ledger = Some((Instant::now(), ledger));
            }
            (None, Some((error, pool))) => {
                memory.outage.goes_on(&error, pool).await;
                memory.failed = true;
            }
            (None, None) => {}
        }
        let unanswered = memory.unanswered_since.map(|since| since.elapsed());
        let away = unanswered.filter(|time| memory.failed || *time > AWAY_AFTER);
        memory.window.push(sample);
        let ledger = memory.ledger.as_ref();
        let told = match (away, ledger) {
            (Some(_), _) => memory
                .away
                .iter()
                .map(|cell| situation::away(*cell))
                .collect(),
            (None, ledger) => ledger
                .map(|(_, ledger)| ledger.attention.clone())
                .unwrap_or_default(),
        };
        Snapshot {
            at_ms: now.timestamp_millis(),
            instance: self.instance,
            database_away_ms: away.map(millis),
            attention: attention::list(told, &self.own),
            columns: memory.window.columns(newest_second, self.names.len()),
            deployment_age_ms: ledger.map(|(read_at, _)| millis(read_at.elapsed())),
            deployment: ledger.map(|(_, ledger)| DeploymentView {
                queue: ledger.queue.clone(),
                newest_dead_letter_at: ledger.newest_dead_letter_at,
                money: ledger.money.clone(),
                switches: ledger.switches.clone(),
            }),
            router,
            simulation,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Numbers that only grow, and when they were read.
#[derive(Debug)]
struct Counted {
    at: Instant,
    accepted: i64,
    settled: Vec<i64>,
}

/// Payments per second.
struct Rates {
    accepted: f64,
    settled: Vec<f64>,
}

impl Counted {
    fn of(ledger: &Ledger, names: &[String]) -> Self {
        let settled = names.iter().map(|name| {
            let parts = ledger.money.processors.iter();
            let mut parts = parts.filter(|part| part.processor == *name);
            parts.next().map_or(0, |part| part.payments)
        });
        Self {
            at: Instant::now(),
            accepted: ledger.last_number,
            settled: settled.collect(),
        }
    }

    /// By how much they grew per second since `before`, to a tenth, if that is not long ago and
    /// nothing was emptied in between.
    fn rates(&self, before: Option<&Self>) -> Option<Rates> {
        let before = before?;
        let time = self.at.duration_since(before.at);
        if time > RATE_WITHIN {
            return None;
        }
        let rate = |now: i64, before: i64| {
            let grown = u32::try_from(now - before).ok()?;
            Some((f64::from(grown) / time.as_secs_f64() * 10.0).round() / 10.0)
        };
        let settled = self.settled.iter().zip(&before.settled);
        Some(Rates {
            accepted: rate(self.accepted, before.accepted)?,
            settled: settled
                .map(|(now, before)| rate(*now, *before))
                .collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_taken_once_a_second_shortly_after_it_began() {
        for (now_ms, wait_ms) in [(5_000, 100), (5_099, 1), (5_100, 1_000), (5_600, 500)] {
            let wait = until_the_next(now_ms, AFTER_THE_SECOND);
            assert_eq!(wait, Duration::from_millis(wait_ms));
        }
    }

    #[test]
    fn a_rate_is_of_two_looks_that_are_seconds_apart() {
        let begun_at = Instant::now();
        let at = |seconds, accepted| Counted {
            at: begun_at + Duration::from_secs(seconds),
            accepted,
            settled: vec![accepted],
        };
        let rate = |now: &Counted, before: &Counted| now.rates(Some(before)).map(|it| it.accepted);
        assert_eq!(rate(&at(2, 150), &at(0, 100)), Some(25.0));
        assert_eq!(rate(&at(600, 150), &at(0, 100)), None, "nobody looked");
        assert_eq!(rate(&at(2, 0), &at(0, 100)), None, "it was emptied");
    }
}
