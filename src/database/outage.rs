//! Failures of the database: which of them pass, and how they are logged.

use std::time::Instant;

use crate::metrics::COUNTS;

/// Whether the same statement may succeed when it is tried again: the database is away, starting,
/// stopping, full, or broke a deadlock.
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
    /// `insufficient_privilege`
    const CODE: &str = "42501";
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == CODE)
}

/// A time without the database, as one task sees it: logged when it begins and when it ends.
#[derive(Debug)]
pub struct Outage {
    task: &'static str,
    since: Option<Instant>,
}

impl Outage {
    /// No outage yet, for that task.
    #[must_use]
    pub fn new(task: &'static str) -> Self {
        Self { task, since: None }
    }

    /// A statement failed.
    pub fn goes_on(&mut self, error: &sqlx::Error) {
        COUNTS.database_error(self.task);
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::error!(task = self.task, error = %error, "the database does not answer; trying again");
        }
    }

    /// A statement succeeded.
    pub fn over(&mut self) {
        if let Some(since) = self.since.take() {
            tracing::info!(
                task = self.task,
                outage_seconds = since.elapsed().as_secs_f64(),
                "the database answers again"
            );
        }
    }
}
