//! Which connections are still used: none to a server that has become a standby, or that has stopped to answer
//! without a word, as a machine does that lost its power.

use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::STATEMENT_TIMEOUT;
use super::errors::withdraws;

/// How long the statements of one step may take, after which their connection is given up: the server ends each
/// of them after [`STATEMENT_TIMEOUT`], so it does not hear us any more.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// The least time between two withdrawals: where each new connection leads to a standby again, they are not made
/// anew for every statement.
const WITHDRAWAL_PAUSE: Duration = Duration::from_secs(1);

static WITHDRAWN_AT: Mutex<Option<Instant>> = Mutex::new(None);

/// Every connection that is open now is closed when its task is done with it, and not used again.
pub(super) fn withdraw() {
    let mut withdrawn_at = lock();
    if withdrawn_at.is_none_or(|at| at.elapsed() >= WITHDRAWAL_PAUSE) {
        *withdrawn_at = Some(Instant::now());
    }
}

/// Gives up all open connections where an error says that they lead to another server than they did, or that what
/// they have prepared is of no use any more.
pub fn heed(error: &sqlx::Error) {
    if withdraws(error) {
        withdraw();
    }
}

/// Whether a connection of that age may be used.
pub(super) fn holds(age: Duration) -> bool {
    lock().is_none_or(|at| age <= at.elapsed())
}

fn lock() -> std::sync::MutexGuard<'static, Option<Instant>> {
    WITHDRAWN_AT
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Gives statements [`ANSWER_DEADLINE`], and their connection up after that. All connections are given up where the
/// error says that they lead to another server than they did.
///
/// # Errors
/// Those of the statements, or that there was no answer.
pub async fn within<T>(
    statements: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    // It is dropped after the withdrawal: a connection that went back before would be tried for ever.
    let mut statements = pin!(statements);
    match tokio::time::timeout(ANSWER_DEADLINE, statements.as_mut()).await {
        Ok(outcome) => outcome.inspect_err(heed),
        Err(_) => {
            withdraw();
            let silence = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time");
            Err(sqlx::Error::Io(silence))
        }
    }
}

const _: () = assert!(ANSWER_DEADLINE.as_secs() > STATEMENT_TIMEOUT.as_secs());
