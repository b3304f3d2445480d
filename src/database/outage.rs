//! Failures of the database: which of them pass, what they are called, and how they are logged.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgPool};
use tokio::sync::Mutex;

use super::{Session, Unfit};
use crate::metrics::COUNTS;

/// How long the question may take why no connection could be had.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(1);
/// For how long a failed write makes an instance unready, unless another succeeds: the disk may be full for
/// payments while everything else still works.
pub const FAILURE_REMEMBERED: Duration = Duration::from_secs(5);

/// Classes of errors that concern the server, the database or the connection, and no statement more than another:
/// 08 connection, 0A what a standby cannot do, 25 transaction state (read-only), 26 a prepared statement that is not
/// there, 28 role or password, 3D database, 53 resources, 57 operator intervention, 58 system, F0 configuration.
/// (PostgreSQL, Appendix A.)
const CONCERN_ALL: [&str; 10] = ["08", "0A", "25", "26", "28", "3D", "53", "57", "58", "F0"];
/// Others that pass. 40 rollback, 55 object state (lock), XX internal, as in a crash. 42501, 42703, 42883, 42P01 and
/// 3F000, no right or no such column, function, table or schema: not migrated yet. 42P05, a prepared statement that
/// is there already. 57014, a statement that took too long.
const PASSING: [&str; 10] = [
    "40", "55", "57014", "XX", "42501", "42703", "42883", "42P01", "42P05", "3F000",
];

/// Whether the same statement may succeed when it is tried again: the database is away, starting, stopping, full,
/// read-only, not migrated yet, lets nobody in, crashed, or broke a deadlock.
#[must_use]
pub fn is_transient(error: &sqlx::Error) -> bool {
    concerns_all(error) || has_code(error, &PASSING)
}

/// Whether no other statement would fare better at this moment.
#[must_use]
pub fn concerns_all(error: &sqlx::Error) -> bool {
    match error {
        // 57014: this statement took too long.
        sqlx::Error::Database(_) => has_code(error, &CONCERN_ALL) && !has_code(error, &["57014"]),
        sqlx::Error::Configuration(cause) => cause.is::<Unfit>(),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// Whether the code of an error of the server begins with one of those.
fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| codes.iter().any(|start| code.starts_with(start)))
}

/// Whether the database does not know a character of a text that it was given.
#[must_use]
pub fn lacks_character(error: &sqlx::Error) -> bool {
    has_code(error, &["22P05", "22021"])
}

/// An error after which all open connections are given up: they lead to a server that has become a standby, or have
/// prepared what a migration has changed.
pub(super) fn withdraws(error: &sqlx::Error) -> bool {
    has_code(error, &["25006", "0A000", "26000"])
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
    /// It is a standby, and our tables are unlogged; or it was migrated, and what we have prepared is of no use.
    Elsewhere,
    /// It does not know our role, or that has another password.
    NotLetIn,
    /// The server has no such database.
    NoDatabase,
    /// It has something set with which we cannot work: [`Unfit`].
    Unfit,
    /// Somebody holds a lock for too long.
    Locked,
    /// A statement took too long.
    Slow,
    /// Tables or functions are missing.
    NotMigrated,
    /// Its tables are of a newer program, with which this one cannot work.
    TooNew,
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
            return match error {
                sqlx::Error::Configuration(cause) if cause.is::<Unfit>() => Self::Unfit,
                error if is_transient(error) => Self::Away,
                _ => Self::Failing,
            };
        };
        match error.code().as_deref() {
            Some("53300") => Self::OutOfConnections,
            Some("53100") => Self::OutOfDisk,
            Some("25006") => Self::ReadOnly,
            Some("0A000") => Self::Elsewhere,
            Some("3D000") => Self::NoDatabase,
            Some("55P03") => Self::Locked,
            Some("57014") => Self::Slow,
            Some("42501") => Self::NotAllowed,
            Some("42703" | "42883" | "42P01" | "3F000") => Self::NotMigrated,
            Some(code) if code.starts_with("28") => Self::NotLetIn,
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
            Self::Elsewhere => "the database is a standby, or was migrated meanwhile",
            Self::NotLetIn => "the database refuses our role or its password",
            Self::NoDatabase => "the server has no such database",
            Self::Unfit => "the database has a setting that we cannot work with",
            Self::Locked => "somebody holds a lock in the database",
            Self::Slow => "the database takes too long",
            Self::NotMigrated => "the database is not migrated",
            Self::TooNew => "the database is that of a newer program",
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
    let connecting = Session::SERVICE.connect(&options);
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
