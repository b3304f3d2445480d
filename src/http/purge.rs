//! `POST /purge-payments`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::problem::{DatabaseProblems, ProblemBody};
use super::{Api, Problem};
use crate::database::is_not_allowed;

/// Empties queue and books, where that is allowed
#[utoipa::path(
    post, path = "/purge-payments", tag = "payments",
    responses(
        (status = 204, description = "They are empty"),
        (status = 403, description = "It is not allowed", body = ProblemBody, content_type = "application/problem+json"),
        DatabaseProblems,
    )
)]
pub(super) async fn post(State(api): State<Arc<Api>>) -> Result<StatusCode, Problem> {
    if !api.allow_purge {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "purging is off; ALLOW_PURGE=true turns it on",
        ));
    }
    sqlx::query!(
        "TRUNCATE payment_queue, payment_processed, payment_dead_letter, payment_attempt,
            payment_archived, payment_archived_hour, payment_archived_month"
    )
    .execute(&api.pool)
    .await
    .map_err(|error| match is_not_allowed(&error) {
        true => Problem::new(
            StatusCode::FORBIDDEN,
            "the service's role may not purge; ALLOW_PURGE=true payment-proxy migrate lets it",
        ),
        false => error.into(),
    })?;
    tracing::warn!("all payments purged by request");
    Ok(StatusCode::NO_CONTENT)
}
