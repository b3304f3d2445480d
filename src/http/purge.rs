//! `POST /purge-payments`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::problem::{DATABASE, problems};
use super::{Api, Problem, ProblemKind};
use crate::store::database::{Pool, is_not_allowed, with_short_locks_of};

problems!(pub(super) PurgeProblems: [ProblemKind::PurgeNotAllowed, ProblemKind::InvalidParameter], DATABASE);

/// Deletes all payments, where that is allowed
///
/// Deletes every payment that was ever accepted, settled or not. It is for tests; a deployment
/// allows it by `ALLOW_PURGE=true` only.
#[utoipa::path(
    post, path = "/purge-payments", tag = "payments", operation_id = "purgePayments",
    responses((status = 204, description = "All payments are deleted"), PurgeProblems)
)]
pub(super) async fn post(State(api): State<Arc<Api>>) -> Result<StatusCode, Problem> {
    if !api.allow_purge {
        return Err(Problem::new(
            ProblemKind::PurgeNotAllowed,
            "purging is off; ALLOW_PURGE=true turns it on",
        ));
    }
    for cell in api.cells.iter() {
        purge(&cell.pool)
            .await
            .map_err(|problem| problem.of_cell(cell.cell))?;
    }
    tracing::warn!("all payments purged by request");
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes the payments of one database.
async fn purge(pool: &Pool) -> Result<(), Problem> {
    // Payments wait behind a statement that waits for these locks.
    let purged = with_short_locks_of(pool, "purge", async |connection| {
        sqlx::query!(
            "TRUNCATE payment_queue, payment_processed, payment_dead_letter, payment_attempt,
            payment_decision, payment_archived, payment_archived_hour, payment_archived_month"
        )
        .execute(connection)
        .await?;
        Ok(())
    });
    purged
        .await
        .map_err(|error| match error.downcast::<sqlx::Error>() {
            Ok(error) if is_not_allowed(&error) => Problem::new(
                ProblemKind::PurgeNotAllowed,
                "the service's role may not purge; ALLOW_PURGE=true payment-proxy migrate lets it",
            ),
            Ok(error) => error.into(),
            Err(other) => sqlx::Error::AnyDriverError(other.into()).into(),
        })
}
