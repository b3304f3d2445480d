//! `GET /dead-letters`, `POST /dead-letters/retry` and `/discard`.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::http::problem::{BODY, DATABASE, Fields, OPERATOR, problems};
use crate::http::{OperatorApi, Problem};
use crate::store::database::{InCell, in_each};
use crate::store::dead_letter::{self, DeadLetter};
use crate::store::in_doubt::Author;

/// Dead letters in one reply, at most: the newest.
pub(super) const LISTED: i64 = 100;

problems!(pub(super) ListProblems: OPERATOR, DATABASE);
problems!(pub(super) EndProblems: OPERATOR, DATABASE, BODY);

/// The newest dead letters, at most 100
///
/// Dead letters are payments that no processor takes.
#[utoipa::path(
    get, path = "/dead-letters", tag = "dead letters", operation_id = "listDeadLetters",
    responses((status = 200, description = "Newest first", body = Vec<DeadLetter>), ListProblems)
)]
pub(super) async fn list(State(api): State<OperatorApi>) -> Result<Json<Vec<DeadLetter>>, Problem> {
    let letters = in_each(&api.cells, |pool| dead_letter::list(pool, None, LISTED)).await?;
    Ok(Json(dead_letter::newest(letters, LISTED)))
}

/// Which dead letters
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Ids {
    /// Of the payments
    ids: Vec<Uuid>,
}

/// Which dead letters are forgotten, by whom and why: kept, for auditors
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DiscardedDeadLetters)]
pub(super) struct Discard {
    /// Of the payments
    ids: Vec<Uuid>,
    /// Why
    #[serde(default)]
    reason: String,
    /// Who forgets them
    #[serde(default)]
    by: String,
}

/// What became of dead letters
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterOutcome)]
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

/// Puts dead letters back into the queue
///
/// One whose id its processor holds is asked for there, and charged nowhere else.
#[utoipa::path(
    post, path = "/dead-letters/retry", tag = "dead letters", operation_id = "retryDeadLetters",
    request_body = Ids,
    responses((status = 200, description = "What became of them", body = Outcome), EndProblems)
)]
pub(super) async fn retry(
    State(api): State<OperatorApi>,
    Fields(Ids { ids }): Fields<Ids>,
) -> Result<Json<Outcome>, Problem> {
    let mut done = Vec::new();
    for (cell, pool, ids) in api.cells.divide(&ids) {
        let retried = dead_letter::retry(pool, Some(&ids)).await;
        done.extend(retried.map_err(|error| InCell(cell, error))?);
    }
    tracing::info!(dead_letter.retried = done.len(), "retried by an operator");
    Ok(Outcome::new(ids, done))
}

/// Forgets dead letters for good
///
/// Their ids may be posted again, and are new payments then.
#[utoipa::path(
    post, path = "/dead-letters/discard", tag = "dead letters", operation_id = "discardDeadLetters",
    request_body = Discard,
    responses((status = 200, description = "What became of them", body = Outcome), EndProblems)
)]
pub(super) async fn discard(
    State(api): State<OperatorApi>,
    Fields(Discard { ids, reason, by }): Fields<Discard>,
) -> Result<Json<Outcome>, Problem> {
    let author = Author::new(&by, &reason);
    let mut done = Vec::new();
    for (cell, pool, ids) in api.cells.divide(&ids) {
        let discarded = dead_letter::discard(pool, &ids, &author).await;
        done.extend(discarded.map_err(|error| InCell(cell, error))?);
    }
    tracing::info!(dead_letter.discarded = ?done, "discarded by an operator");
    Ok(Outcome::new(ids, done))
}
