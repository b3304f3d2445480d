//! `GET /livez` and `GET /readyz`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;

use super::problem::problems;
use super::{Api, Problem, ProblemKind};

problems!(pub(super) NotReady: [ProblemKind::Unavailable]);

/// Whether the process answers
///
/// It answers as long as the process lives, whatever its database does.
#[utoipa::path(
    get, path = "/livez", tag = "probes", operation_id = "getLiveness",
    responses((status = 204, description = "The process answers"))
)]
pub(super) async fn live() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Whether the instance takes payments
///
/// It does while the database accepts payments and records what became of them, and no shutdown is under
/// way.
#[utoipa::path(
    get, path = "/readyz", tag = "probes", operation_id = "getReadiness",
    responses((status = 204, description = "The instance takes payments"), NotReady)
)]
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<StatusCode, Problem> {
    if api.stopping.load(Ordering::Relaxed) {
        return Err(Problem::unavailable("the instance is stopping"));
    }
    let admission = api.acceptor.admission();
    if let Some(reason) = admission.refused() {
        return Err(Problem::unavailable(reason));
    }
    if let Some(condition) = api.acceptor.failing() {
        return Err(Problem::unavailable(condition.to_string()));
    }
    match crate::database::check_ready(&api.pool).await {
        Ok(()) if !api.started.load(Ordering::Relaxed) => {
            let reason = "the instance has not started: its log says what it waits for".to_owned();
            Err(Problem::unavailable(admission.held().unwrap_or(reason)))
        }
        Ok(()) => match (admission.held(), api.unrecorded.now()) {
            (None, None) => Ok(StatusCode::NO_CONTENT),
            (Some(reason), _) => Err(Problem::unavailable(reason)),
            (None, Some((payments, condition))) => Err(Problem::unavailable(format!(
                "{condition}: what became of {payments} payments cannot be recorded yet"
            ))),
        },
        Err(error) => {
            tracing::debug!(error = %error, "not ready");
            let condition = error.condition(&api.pool).await;
            Err(Problem::unavailable(condition.to_string()))
        }
    }
}
