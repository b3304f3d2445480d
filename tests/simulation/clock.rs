//! The clocks of the simulation. They stand still, except in
//! [`World::pass`](crate::world::World::pass).
//!
//! Three clocks go together: tokio's, by which calls and processors wait and instances watch the
//! database's, is paused and moved by hand; the database's is a row of a table, which `now()` and
//! `clock_timestamp()` read; the machine's goes on, and what is compared with it is moved when it
//! is used ([`Moment`]). And the database's can step.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use payment_proxy::domain::uptime::Uptime;
use sqlx::PgPool;
use tokio::runtime::{Builder, Runtime};

use crate::support::Database;

/// How long anything that must happen without time going by may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(40);
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
        // A paused clock jumps to the next timer whenever all tasks wait, be it only for the
        // network. It does not while a blocking task runs.
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
            begun_at.elapsed() < TIMEOUT,
            "not within {TIMEOUT:?}: {what}"
        );
        tokio::task::yield_now().await;
    }
}

/// How much time has gone by in the simulation, in microseconds, at some moment.
#[derive(Debug, Clone, Copy)]
pub struct Moment(i64);

/// What PostgreSQL takes for the time in the database of the simulation, whatever a session has as
/// its search path.
const DATABASE_CLOCK: &str = "CREATE SCHEMA sim;
    CREATE TABLE sim.clock (time timestamptz NOT NULL);
    INSERT INTO sim.clock VALUES (clock_timestamp());
    ALTER FUNCTION pg_catalog.now() RENAME TO now_of_the_machine;
    ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO clock_of_the_machine;
    CREATE FUNCTION pg_catalog.now() RETURNS timestamptz
        LANGUAGE sql STABLE AS 'SELECT time FROM sim.clock';
    CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz
        LANGUAGE sql STABLE AS 'SELECT time FROM sim.clock'";
/// What the database's clock goes on with every claim and post, so that no two attempts have the
/// same time.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub struct Clock {
    /// How much time has gone by.
    ahead: i64,
    /// What the database's clock shows.
    database: DateTime<Utc>,
    /// When that stepped last.
    stepped_at: Option<tokio::time::Instant>,
}

impl Clock {
    /// Gives a database the clock of the simulation.
    pub async fn install(database: &Database) {
        database.execute(DATABASE_CLOCK).await;
    }

    pub async fn start(pool: &PgPool) -> Self {
        let mut clock = Self {
            ahead: 0,
            database: Utc::now(),
            stepped_at: None,
        };
        clock.set_database(pool, Utc::now()).await;
        clock
    }

    pub fn now(&self) -> Moment {
        Moment(self.ahead)
    }

    pub fn database(&self) -> DateTime<Utc> {
        self.database
    }

    /// The same deadline as seen from now, of one that was set then.
    pub fn carried_deadline(&self, deadline: Uptime, then: Moment) -> Uptime {
        let now = Uptime::now();
        let passed = Duration::from_micros(u64::try_from(self.ahead - then.0).unwrap_or_default());
        let left = deadline.since(now);
        now + left.saturating_sub(passed)
    }

    /// Lets so much time go by in the database.
    pub async fn pass_in_database(&mut self, pool: &PgPool, length: Duration) {
        self.ahead += i64::try_from(length.as_micros()).expect("a length of a test");
        self.set_database(pool, self.database + length).await;
    }

    pub async fn tick(&mut self, pool: &PgPool) {
        self.pass_in_database(pool, TICK).await;
    }

    /// Sets the database's clock forward or back.
    pub async fn step(&mut self, pool: &PgPool, seconds: i64) {
        self.stepped_at = Some(tokio::time::Instant::now());
        self.set_database(pool, self.database + TimeDelta::seconds(seconds))
            .await;
    }

    /// Whether the database's clock has stepped since then.
    pub fn stepped_since(&self, then: tokio::time::Instant) -> bool {
        self.stepped_at.is_some_and(|at| at >= then)
    }

    async fn set_database(&mut self, pool: &PgPool, time: DateTime<Utc>) {
        self.database = time.trunc_subsecs(6);
        sqlx::query("UPDATE sim.clock SET time = $1")
            .bind(self.database)
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
