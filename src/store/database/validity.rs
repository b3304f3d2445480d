//! Which connections are still used: none to a server that has become a standby, or that has
//! stopped to answer without a word, as a machine does that lost its power.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::STATEMENT_TIMEOUT;
use super::errors::withdraws;

/// How long the statements of one step may take, after which their connection is given up: the
/// server ends each of them after [`STATEMENT_TIMEOUT`], so it does not hear us any more.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// The same for what a request reads from a standby. Shorter than that of the request: a standby
/// that hangs is no reason to give up connections to the primary.
pub(crate) const READ_DEADLINE: Duration = Duration::from_secs(12);
/// The least time between two withdrawals: where each new connection leads to a standby again, they
/// are not made anew for every statement.
const WITHDRAWAL_PAUSE: Duration = Duration::from_secs(1);

/// How old the connections of one instance may be: all of its pools share one of these.
#[derive(Debug, Default)]
pub(crate) struct Validity {
    withdrawn_at: Mutex<Option<Instant>>,
}

impl Validity {
    /// Gives statements [`ANSWER_DEADLINE`], and their connection up after that. All connections
    /// are given up where there was no answer, or the error says that they lead to another server
    /// than they did.
    ///
    /// # Errors
    /// Those of the statements, or that there was no answer.
    pub(crate) async fn with_deadline<T>(
        &self,
        statements: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        self.within(ANSWER_DEADLINE, statements).await
    }

    /// [`with_deadline`](Self::with_deadline) with another one.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn within<T>(
        &self,
        deadline: Duration,
        statements: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        // It is dropped after the withdrawal: a connection that went back before would be tried for
        // ever.
        let mut statements = pin!(statements);
        match answer(deadline, statements.as_mut()).await {
            Some(outcome) => outcome.inspect_err(|error| self.heed(error)),
            None => {
                self.withdraw();
                Err(silence())
            }
        }
    }

    /// Gives up all open connections where an error says that they lead to another server than they
    /// did, or that what they have prepared is of no use any more.
    pub(crate) fn heed(&self, error: &sqlx::Error) {
        if withdraws(error) {
            self.withdraw();
        }
    }

    /// Whether a connection of that age may be used.
    pub(super) fn holds(&self, age: Duration) -> bool {
        self.lock().is_none_or(|at| age <= at.elapsed())
    }

    /// Every connection that is open now is closed when its task is done with it, and not used
    /// again.
    fn withdraw(&self) {
        let mut withdrawn_at = self.lock();
        if withdrawn_at.is_none_or(|at| at.elapsed() >= WITHDRAWAL_PAUSE) {
            *withdrawn_at = Some(Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        (self.withdrawn_at.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives statements on a connection of their own [`ANSWER_DEADLINE`].
///
/// # Errors
/// Those of the statements, or that there was no answer.
pub async fn with_deadline<T>(
    statements: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    answer(ANSWER_DEADLINE, pin!(statements))
        .await
        .unwrap_or_else(|| Err(silence()))
}

async fn answer<T>(deadline: Duration, statements: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    tokio::time::timeout(deadline, statements).await.ok()
}

fn silence() -> sqlx::Error {
    let silence = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time");
    sqlx::Error::Io(silence)
}

const _: () = assert!(READ_DEADLINE.as_secs() > STATEMENT_TIMEOUT.as_secs());
const _: () = assert!(ANSWER_DEADLINE.as_secs() > READ_DEADLINE.as_secs());
