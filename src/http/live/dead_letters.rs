//! `GET /dead-letters`, `POST /dead-letters/retry` and `/discard`.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::dead_letter::{self, DeadLetter};
use crate::http::{OperatorApi, Problem};

/// Dead letters in one reply, at most: the newest.
pub(super) const LISTED: i64 = 100;

/// Lists the newest.
pub(super) async fn list(State(api): State<OperatorApi>) -> Result<Json<Vec<DeadLetter>>, Problem> {
    Ok(Json(dead_letter::list(&api.pool, None, LISTED).await?))
}

/// Which ones.
#[derive(Debug, Deserialize)]
pub(super) struct Ids {
    ids: Vec<Uuid>,
}

/// What became of them.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// Done.
    done: Vec<Uuid>,
    /// Not dead letters, at least not any more.
    missing: Vec<Uuid>,
}

impl Outcome {
    fn new(wanted: Vec<Uuid>, done: Vec<Uuid>) -> Json<Self> {
        let missing = wanted.into_iter().filter(|id| !done.contains(id)).collect();
        Json(Self { done, missing })
    }
}

/// Puts them back into the queue.
pub(super) async fn retry(
    State(api): State<OperatorApi>,
    ids: Result<Json<Ids>, JsonRejection>,
) -> Result<Json<Outcome>, Problem> {
    let ids = read(ids)?;
    let done = dead_letter::retry(&api.pool, Some(&ids)).await?;
    tracing::info!(dead_letter.retried = done.len(), "retried by an operator");
    Ok(Outcome::new(ids, done))
}

/// Forgets them for good.
pub(super) async fn discard(
    State(api): State<OperatorApi>,
    ids: Result<Json<Ids>, JsonRejection>,
) -> Result<Json<Outcome>, Problem> {
    let ids = read(ids)?;
    let done = dead_letter::discard(&api.pool, &ids).await?;
    tracing::info!(dead_letter.discarded = ?done, "discarded by an operator");
    Ok(Outcome::new(ids, done))
}

fn read(ids: Result<Json<Ids>, JsonRejection>) -> Result<Vec<Uuid>, Problem> {
    let Json(Ids { ids }) =
        ids.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    Ok(ids)
}
