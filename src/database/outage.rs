//! Failures of the database: which of them pass, what they are called, and how they are logged.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::Mutex;

use super::trust;
use crate::metrics::COUNTS;

/// How long the question may take why no connection could be had.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(1);
/// For how long a failed write makes an instance unready, unless another succeeds: the disk may be full for
/// payments while everything else still works.
pub const FAILURE_REMEMBERED: Duration = Duration::from_secs(5);

/// Whether the same statement may succeed when it is tried again: the database is away, starting,
/// stopping, full, read-only, not migrated yet, or broke a deadlock.
#[must_use]
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // Classes of PostgreSQL's Appendix A: 08 connection, 25 transaction state (read-only),
            // 40 rollback, 53 resources, 55 object state (lock), 57 operator intervention, 58 system.
            // 42501, 42703, 42883, 42P01 and 3F000, no right or no such column, function, table or schema: not
            // migrated yet.
            const PASSING: [&str; 12] = [
                "08", "25", "40", "53", "55", "57", "58", "42501", "42703", "42883", "42P01",
                "3F000",
            ];
            let code = error.code();
            code.is_some_and(|code| PASSING.iter().any(|class| code.starts_with(class)))
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// Whether the role of this connection lacks a right.
#[must_use]
pub fn is_not_allowed(error: &sqlx::Error) -> bool {
    Condition::of(error) == Condition::NotAllowed
}

/// What is wrong with a database that does not do what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// No connection, or a lost one.
    Away,
    /// It takes no more connections.
    OutOfConnections,
    /// It cannot write: the disk is full.
    OutOfDisk,
    /// It does not write: a standby, or `default_transaction_read_only`.
    ReadOnly,
    /// Somebody holds a lock for too long.
    Locked,
    /// A statement took too long.
    Slow,
    /// Tables or functions are missing.
    NotMigrated,
    /// The role lacks a right.
    NotAllowed,
    /// Anything else.
    Failing,
}

impl Condition {
    /// What an error tells.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Self {
        let sqlx::Error::Database(error) = error else {
            return match is_transient(error) {
                true => Self::Away,
                false => Self::Failing,
            };
        };
        match error.code().as_deref() {
            Some("53300") => Self::OutOfConnections,
            Some("53100") => Self::OutOfDisk,
            Some("25006") => Self::ReadOnly,
            Some("55P03") => Self::Locked,
            Some("57014") => Self::Slow,
            Some("42501") => Self::NotAllowed,
            Some("42703" | "42883" | "42P01" | "3F000") => Self::NotMigrated,
            Some(code) if code.starts_with("08") || code.starts_with("57P") => Self::Away,
            _ => Self::Failing,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Away => "the database does not answer",
            Self::OutOfConnections => "the database takes no more connections",
            Self::OutOfDisk => "the disk of the database is full",
            Self::ReadOnly => "the database is read-only",
            Self::Locked => "somebody holds a lock in the database",
            Self::Slow => "the database takes too long",
            Self::NotMigrated => "the database is not migrated",
            Self::NotAllowed => "the database does not allow it to our role",
            Self::Failing => "the database fails",
        })
    }
}

/// A time without the database, as one task sees it: logged when it begins, when more is known of what is wrong, and
/// when it ends.
#[derive(Debug)]
pub struct Outage {
    task: &'static str,
    began_at: Option<Instant>,
    told: Vec<Condition>,
}

impl Outage {
    /// No outage yet, for that task.
    #[must_use]
    pub fn new(task: &'static str) -> Self {
        Self {
            task,
            began_at: None,
            told: Vec::new(),
        }
    }

    /// A statement failed. Returns what is wrong.
    pub async fn goes_on(&mut self, error: &sqlx::Error, pool: &PgPool) -> Condition {
        COUNTS.database_error(self.task);
        self.began_at.get_or_insert_with(Instant::now);
        let cause = diagnose(error, pool).await;
        let error = cause.as_ref().unwrap_or(error);
        let condition = Condition::of(error);
        if condition == Condition::ReadOnly {
            // The server that we are connected to is a standby now; the address may lead to another.
            trust::withdraw();
        }
        // That it does not answer is told by whatever else is wrong, too.
        let news = !self.told.contains(&condition);
        if news && (self.told.is_empty() || condition != Condition::Away) {
            self.told.push(condition);
            tracing::error!(task = self.task, error = %error, "{condition}; trying again");
        }
        condition
    }

    /// A statement succeeded.
    pub fn over(&mut self) {
        if let Some(began_at) = self.began_at.take() {
            self.told.clear();
            tracing::info!(
                task = self.task,
                outage_seconds = began_at.elapsed().as_secs_f64(),
                "the database answers again"
            );
        }
    }
}

/// What is wrong, as the server itself tells it.
pub async fn condition(error: &sqlx::Error, pool: &PgPool) -> Condition {
    Condition::of(diagnose(error, pool).await.as_ref().unwrap_or(error))
}

/// Why the pool has no connection, which it does not say.
async fn diagnose(error: &sqlx::Error, pool: &PgPool) -> Option<sqlx::Error> {
    if !matches!(error, sqlx::Error::PoolTimedOut) {
        return None;
    }
    let options = pool.connect_options();
    let connecting = PgConnection::connect_with(&options);
    match tokio::time::timeout(DIAGNOSIS_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => {
            let _ = connection.close().await;
            None
        }
        Ok(Err(cause)) => Some(cause),
        Err(_) => None,
    }
}

/// The writes of several tasks at once: one outage for all of them, and what came of the last.
#[derive(Debug)]
pub struct Writes {
    outage: Mutex<Outage>,
    failed: std::sync::Mutex<Option<(Instant, Condition)>>,
    failing: AtomicBool,
}

impl Writes {
    /// None has failed yet.
    #[must_use]
    pub fn new(task: &'static str) -> Self {
        Self {
            outage: Mutex::new(Outage::new(task)),
            failed: std::sync::Mutex::default(),
            failing: AtomicBool::new(false),
        }
    }

    /// One failed.
    pub async fn failed(&self, error: &sqlx::Error, pool: &PgPool) {
        self.failing.store(true, Ordering::Relaxed);
        let condition = self.outage.lock().await.goes_on(error, pool).await;
        self.remember(Some((Instant::now(), condition)));
    }

    /// One succeeded.
    pub async fn succeeded(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            self.outage.lock().await.over();
            self.remember(None);
        }
    }

    /// Why the last one failed, if that was less than [`FAILURE_REMEMBERED`] ago and cannot be seen but by such a
    /// write.
    #[must_use]
    pub fn failing(&self) -> Option<Condition> {
        use Condition::{Failing, OutOfDisk, Slow};
        let failed = *self
            .failed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        failed
            .filter(|(at, _)| at.elapsed() < FAILURE_REMEMBERED)
            .map(|(_, condition)| condition)
            .filter(|condition| matches!(condition, OutOfDisk | Slow | Failing))
    }

    fn remember(&self, failed: Option<(Instant, Condition)>) {
        *self
            .failed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = failed;
    }
}
