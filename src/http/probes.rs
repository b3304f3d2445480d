//! `GET /livez` and `GET /readyz`.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;

use super::{Api, Problem};

/// The process answers.
pub(super) async fn live() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// The instance takes payments: the database answers and is migrated, and no shutdown is under way.
pub(super) async fn ready(State(api): State<Api>) -> Result<StatusCode, Problem> {
    if api.stopping.load(Ordering::Relaxed) {
        return Err(Problem::unavailable("the instance is stopping"));
    }
    match crate::database::check_ready(&api.pool).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error) => {
            tracing::debug!(error = %error, "not ready");
            Err(Problem::unavailable("the database is away or not migrated"))
        }
    }
}
