//! The clock of the simulation. It stands still, except in [`Clock::pass`].
//!
//! Three clocks go together: tokio's, by which calls and processors wait, is paused and moved by hand;
//! the database's goes on, and its leases and doubts are moved the other way, which is the same; the
//! machine's goes on, and what is compared with it is moved when it is used ([`Moment`]).

use std::sync::mpsc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use tokio::runtime::{Builder, Runtime};

/// How long anything that must happen without time going by may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// Turns of the runtime after which whatever had nothing to wait for is done.
const TURNS: usize = 50;
/// Timers fire at whole milliseconds, the one after their time.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

/// One thread, on which time goes by only when it is told to.
pub struct StillRuntime {
    /// Lets the blocking task end, before the runtime waits for it.
    _ends: mpsc::Sender<()>,
    runtime: Runtime,
}

impl StillRuntime {
    pub fn start() -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        // A paused clock jumps to the next timer whenever all tasks wait, be it only for the network.
        // It does not while a blocking task runs.
        let (ends, ended) = mpsc::channel();
        runtime.spawn_blocking(move || ended.recv());
        Self {
            _ends: ends,
            runtime,
        }
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

/// Gives all tasks that have something to do the time to do it.
pub async fn turn() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// Waits until it is so, without letting time go by.
pub async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let begun_at = Instant::now();
    while !check() {
        assert!(
            begun_at.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::task::yield_now().await;
    }
}

/// How far simulated time is ahead of the database's, in microseconds, at some moment.
#[derive(Debug, Clone, Copy)]
pub struct Moment(i64);

#[derive(Debug)]
pub struct Clock {
    ahead: i64,
    looked_at: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            ahead: 0,
            looked_at: Instant::now(),
        }
    }

    pub fn now(&self) -> Moment {
        Moment(self.ahead)
    }

    /// The same time as seen from now, of one that the database named then.
    pub fn carried(&self, time: DateTime<Utc>, then: Moment) -> DateTime<Utc> {
        time - TimeDelta::microseconds(self.ahead - then.0)
    }

    /// The same deadline as seen from now, of one that was set then.
    pub fn carried_deadline(&self, deadline: Instant, then: Moment) -> Instant {
        let now = Instant::now();
        let passed = Duration::from_micros(u64::try_from(self.ahead - then.0).unwrap_or_default());
        let left = deadline.saturating_duration_since(now);
        now + left.saturating_sub(passed)
    }

    /// Lets the leases and doubts in the database grow older by `length`, and takes back by how much
    /// they did by themselves since the last time.
    pub async fn pass_in_database(&mut self, pool: &PgPool, length: Duration) {
        let now = Instant::now();
        let by = micros(length) - micros(now - self.looked_at);
        self.looked_at = now;
        self.ahead += by;
        sqlx::query(
            "UPDATE payment_queue SET lease_until = lease_until - $1 * interval '1 microsecond',
                doubt_until = doubt_until - $1 * interval '1 microsecond'",
        )
        .bind(by)
        .execute(pool)
        .await
        .expect("the database answers");
    }
}

/// Moves the clock of calls and processors to this time.
pub async fn pass_in_process(to: tokio::time::Instant) {
    let now = tokio::time::Instant::now();
    tokio::time::advance(to.saturating_duration_since(now) + TIMER_GRAIN).await;
    turn().await;
}

fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).expect("a length of a test")
}
