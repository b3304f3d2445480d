//! `GET /livez` and `GET /readyz`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::problems;
use super::{Api, ApiCell, Problem, ProblemKind};
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

/// Cells whose payments are not taken at this moment
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CellsAway {
    /// Each of them
    cells_away: Vec<CellAway>,
}

/// A cell whose payments are answered with 503
#[derive(Debug, Serialize, ToSchema)]
struct CellAway {
    /// Which, from 1 on, in the order of `DATABASE_URL`
    cell: usize,
    /// Why
    detail: String,
}

/// Whether the instance takes payments
///
/// It does while the database accepts payments and records what became of them, and no shutdown is
/// under way. Where the payments are divided into cells, it takes some as long as one cell does.
#[utoipa::path(
    get, path = "/readyz", tag = "probes", operation_id = "getReadiness",
    responses(
        (status = 204, description = "The instance takes payments"),
        (status = 200, description = "It takes payments, but not those of some cells",
            body = CellsAway),
        NotReady,
    )
)]
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    if api.stopping.load(Ordering::Relaxed) {
        return Err(Problem::unavailable("the instance is stopping"));
    }
    let asked = api.cells.iter().map(ready_in);
    let mut away = Vec::new();
    for (cell, ready) in api.cells.iter().zip(join_all(asked).await) {
        away.extend(ready.err().map(|problem| (cell.cell, problem)));
    }
    if away.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if away.len() == api.cells.len() {
        let (first, problem) = away.swap_remove(0);
        return Err(problem.of_cell(first));
    }
    let cells_away = away.into_iter().map(|(cell, problem)| CellAway {
        cell: cell.number(),
        detail: problem.detail().to_owned(),
    });
    let cells_away = cells_away.collect();
    Ok(Json(CellsAway { cells_away }).into_response())
}

/// Whether the payments of a cell are taken.
async fn ready_in(cell: &ApiCell) -> Result<(), Problem> {
    let admission = cell.acceptor.admission();
    if let Some(reason) = admission.refused() {
        return Err(Problem::unavailable(reason));
    }
    if let Some(condition) = cell.acceptor.failing() {
        return Err(Problem::unavailable(condition.to_string()));
    }
    let readiness = &cell.readiness;
    let asking = async {
        readiness
            .0
            .lock()
            .await
            .answer(&cell.pool, READY_WITHIN, ask)
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
    if !cell.started.load(Ordering::Relaxed) {
        return Err(Problem::unavailable(
            "the instance has not started: its log says what it waits for",
        ));
    }
    match cell.unrecorded.now() {
        None => Ok(()),
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
