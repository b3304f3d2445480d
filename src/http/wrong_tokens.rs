//! Wrong tokens at the operators' address: each is answered late, all are counted, and the log says
//! how many there were. The right token is never kept waiting for them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::header::{CONNECTION, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::{Problem, ProblemKind};
use crate::telemetry::metrics::Total;

/// How long the answer to a wrong token is kept back.
pub(super) const WRONG_TOKEN_PAUSE: Duration = Duration::from_secs(1);
/// Answers that are kept back at once, at most. Each holds a connection, of which operators need
/// some. What is beyond is refused at once, and its connection closed.
pub(super) const WRONG_TOKENS_PAUSED: usize = 64;
/// The least time between two lines of the log about wrong tokens.
pub(super) const WRONG_TOKENS_TOLD_EVERY: Duration = Duration::from_secs(10);

/// The wrong tokens of one instance.
#[derive(Debug)]
pub struct WrongTokens {
    pauses: Semaphore,
    told: Mutex<Told>,
    count: Total,
}

/// What the log does not say yet.
#[derive(Debug, Default)]
struct Told {
    untold: u64,
    /// Whether a task will tell.
    has_teller: bool,
}

impl WrongTokens {
    /// None yet; `count` is how many there were.
    #[must_use]
    pub fn new(count: Total) -> Self {
        Self {
            pauses: Semaphore::new(WRONG_TOKENS_PAUSED),
            told: Mutex::default(),
            count,
        }
    }

    /// The answer to a request with a wrong token.
    pub(super) async fn refuse(self: &Arc<Self>) -> Response {
        self.count.add(1);
        self.note();
        let Ok(_pause) = self.pauses.try_acquire() else {
            let detail = "too many requests with a wrong token; the right one passes";
            let problem = Problem::new(ProblemKind::TooManyWrongTokens, detail);
            return ([(CONNECTION, "close")], problem).into_response();
        };
        tokio::time::sleep(WRONG_TOKEN_PAUSE).await;
        unauthorized()
    }

    /// Tells of the first at once, and of those that follow together.
    fn note(self: &Arc<Self>) {
        {
            let mut told = self.lock();
            told.untold += 1;
            if std::mem::replace(&mut told.has_teller, true) {
                return;
            }
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(count) = this.untold() {
                tracing::warn!(
                    operator.wrong_tokens = count,
                    "requests with a wrong token at the operators' address"
                );
                tokio::time::sleep(WRONG_TOKENS_TOLD_EVERY).await;
            }
        });
    }

    /// How many the log does not say yet. Where there are none the teller ends.
    fn untold(&self) -> Option<u64> {
        let mut told = self.lock();
        let untold = std::mem::take(&mut told.untold);
        told.has_teller = untold > 0;
        (untold > 0).then_some(untold)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to a request without a token, or with a wrong one.
pub(super) fn unauthorized() -> Response {
    let problem = Problem::new(
        ProblemKind::TokenMissingOrWrong,
        "the operator's token is missing or wrong",
    );
    ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}
