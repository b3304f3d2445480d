//! `GET /livez` and `GET /readyz`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;

use super::problem::problems;
use super::{Api, Problem, ProblemKind};
use crate::store::database::Pool;

/// How long the database has to answer. Whoever asks has the reply within a second.
const READY_WITHIN: Duration = Duration::from_millis(900);

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
/// It does while the database accepts payments and records what became of them, and no shutdown is
/// under way.
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
    let readiness = &api.readiness;
    let asking = async {
        readiness
            .0
            .lock()
            .await
            .answer(&api.pool, READY_WITHIN, ask)
            .await
    };
    let refusal = match tokio::time::timeout(READY_WITHIN, asking).await {
        Ok(Some(answer)) => answer?,
        // What it answers later counts when somebody asks again.
        Ok(None) | Err(_) => Some("the database does not answer".to_owned()),
    };
    if let Some(detail) = refusal {
        return Err(Problem::unavailable(detail));
    }
    if let Some(reason) = admission.held() {
        return Err(Problem::unavailable(reason));
    }
    if !api.started.load(Ordering::Relaxed) {
        return Err(Problem::unavailable(
            "the instance has not started: its log says what it waits for",
        ));
    }
    match api.unrecorded.now() {
        None => Ok(StatusCode::NO_CONTENT),
        Some((payments, condition)) => Err(Problem::unavailable(format!(
            "{condition}: what became of {payments} payments cannot be recorded yet"
        ))),
    }
}

/// Why the database takes no payments, in our words. None: it takes them.
async fn ask(pool: Pool) -> Result<Option<String>, sqlx::Error> {
    match crate::store::database::check_ready(&pool).await {
        Ok(()) => Ok(None),
        Err(error) => {
            tracing::debug!(error = %error, "not ready");
            Ok(Some(error.condition(&pool).await.to_string()))
        }
    }
}
