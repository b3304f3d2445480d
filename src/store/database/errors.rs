//! Failures of the database: which of them pass, and what they are called.

use std::fmt;

/// Classes of errors that concern the server, the database or the connection, and no statement more
/// than another: 08 connection, 0A what a standby cannot do, 25 transaction state (read-only), 26 a
/// prepared statement that is not there, 28 role or password, 3D database, 53 resources, 57
/// operator intervention, 58 system, F0 configuration. (PostgreSQL, Appendix A.) PP001: our own, a
/// pooler has led the statement to another queue.
const CONCERN_ALL: [&str; 11] = [
    "08", "0A", "25", "26", "28", "3D", "53", "57", "58", "F0", "PP001",
];
/// Others that pass. 40 rollback, 55 object state (lock), XX internal, as in a crash. 42501, 42703,
/// 42883, 42P01 and 3F000, no right or no such column, function, table or schema: not migrated yet.
/// 42P05, a prepared statement that is there already. 57014, a statement that took too long.
const PASSING: [&str; 10] = [
    "40", "55", "57014", "XX", "42501", "42703", "42883", "42P01", "42P05", "3F000",
];

/// Whether the same statement may succeed when it is tried again: the database is away, starting,
/// stopping, full, read-only, not migrated yet, lets nobody in, crashed, or broke a deadlock.
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
        sqlx::Error::Configuration(cause) => {
            (cause.downcast_ref::<Unfit>()).is_some_and(|unfit| !unfit.is_final())
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

/// Whether the code of an error of the server begins with one of those.
fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| codes.iter().any(|start| code.starts_with(start)))
}

/// Whether the database does not know a character of a text that it was given.
#[must_use]
pub(crate) fn lacks_character(error: &sqlx::Error) -> bool {
    has_code(error, &["22P05", "22021"])
}

/// An error after which all open connections are given up: they lead to a server that has become a
/// standby, or have prepared what a migration has changed.
pub(super) fn withdraws(error: &sqlx::Error) -> bool {
    has_code(error, &["25006", "0A000", "26000", "PP001"])
}

/// Whether two sessions wrote one row of the catalogue at once: 23505, or "tuple concurrently
/// updated".
pub(super) fn is_of_two_at_once(error: &sqlx::Error) -> bool {
    has_code(error, &["23505", "XX000"])
}

/// Whether a statement was not there that had been prepared, or one of its name was there that had
/// not: somebody stands between, and does not keep them apart.
pub(super) fn is_unprepared(error: &sqlx::Error) -> bool {
    has_code(error, &["26000", "42P05"])
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
    /// It is a standby, and our tables are unlogged; or it was migrated, and what we have prepared
    /// is of no use; or a pooler leads to another database, or to a queue that was emptied.
    Elsewhere,
    /// Prepared statements get lost on the way.
    Unprepared,
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
            Some("0A000" | "PP001") => Self::Elsewhere,
            Some("26000" | "42P05") => Self::Unprepared,
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
            Self::Elsewhere => {
                "the database is a standby, or another one, or was migrated meanwhile"
            }
            Self::Unprepared => "a pooler loses what we have prepared",
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

/// What only the administrator of the database can set right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// The triggers that keep the totals do not run.
    #[error(
        "session_replication_role is {0:?} for our role, which turns the triggers off that keep the totals; \
         it has to be \"origin\""
    )]
    TriggersOff(String),
    /// A pooler in transaction mode does not know prepared statements.
    #[error(
        "the database is behind a pooler in transaction mode that does not keep prepared statements: set \
         max_prepared_statements there (PgBouncer 1.21 or later), or pool_mode = session, or connect to the server"
    )]
    NothingPrepared,
    /// A pooler takes no transactions.
    #[error(
        "the database is behind a pooler that takes no transactions, as in statement mode: {0}"
    )]
    NoTransactions(String),
    /// A pooler in transaction mode, where a session is needed.
    #[error(
        "{0} is behind a pooler in transaction mode, and this needs a session of its own: say in DIRECT_DATABASE_URL how \
         to reach the server itself"
    )]
    NoSession(String),
    /// A pooler in transaction mode before a Citus cluster.
    #[error(
        "the database is of a Citus cluster and behind a pooler in transaction mode, which was never tried \
         together: set pool_mode = session there, or connect to the coordinator"
    )]
    CitusBehindPooler,
}

impl Unfit {
    /// Whether only whoever runs the pooler or this instance can mend it, and waiting cannot.
    #[must_use]
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self, Self::TriggersOff(_))
    }
}

impl From<Unfit> for sqlx::Error {
    fn from(unfit: Unfit) -> Self {
        Self::Configuration(unfit.into())
    }
}
