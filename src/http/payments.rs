//! `POST /payments` and `GET /payments/{id}`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::problem::{self, DatabaseProblems, ProblemBody};
use super::{Amount, Api, Problem};
use crate::accept::{Accepted, NotAccepted};
use crate::database::Condition;
use crate::metrics::COUNTS;
use crate::payment::{Body, InvalidPayment, Payment, format_time, parse_uuid};
use crate::trace::{self, TRACEPARENT, Traceparent};

/// Accepts a payment, which is then settled once, on one processor
///
/// Posting the same again is safe. Fields that are not known are ignored.
#[utoipa::path(
    post, path = "/payments", tag = "payments",
    request_body(content = Body<'_>, content_type = "application/json"),
    responses(
        (status = 202, description = "It is committed, or was before"),
        (status = 400, description = "The body is not a JSON object", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "This id was accepted before with another amount", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is longer than 4 KiB", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The Content-Type is not application/json", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is missing or not what it must be", body = ProblemBody, content_type = "application/problem+json"),
        DatabaseProblems,
    )
)]
pub(super) async fn post(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let content_type = check_content_type(request.headers());
    let traceparent = traceparent(request.headers());
    // It is read whatever it is: a connection with half a request on it cannot be used again.
    let body = problem::read(request.into_body()).await;
    content_type.inspect_err(|_| COUNTS.refused.media_type.add(1))?;
    let body = body.inspect_err(|_| COUNTS.refused.body.add(1))?;
    let mut payment = Payment::from_json(&body).map_err(|invalid| {
        let (status, refused) = match invalid {
            InvalidPayment::Malformed(_) => (StatusCode::BAD_REQUEST, &COUNTS.refused.malformed),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, &COUNTS.refused.invalid),
        };
        refused.add(1);
        Problem::new(status, invalid.to_string())
    })?;
    payment.traceparent = traceparent;
    let (begun_at, traced_at) = (Instant::now(), trace::now());
    let accepted = api.acceptor.accept(payment).await;
    COUNTS
        .post_seconds
        .observe(begun_at.elapsed().as_secs_f64());
    match accepted {
        Ok(Accepted::Queued) => {
            trace::accepted(&payment, traced_at);
            Ok(StatusCode::ACCEPTED)
        }
        Ok(Accepted::Known) => {
            COUNTS.repeated.add(1);
            Ok(StatusCode::ACCEPTED)
        }
        Ok(Accepted::Conflict { known }) => {
            COUNTS.refused.conflict.add(1);
            Err(Problem::new(
                StatusCode::CONFLICT,
                format!(
                    "payment {} was accepted before with amount {known}",
                    payment.correlation_id
                ),
            ))
        }
        Err(error @ (NotAccepted::Overloaded | NotAccepted::QueueFull | NotAccepted::TooLate)) => {
            COUNTS.refused.overloaded.add(1);
            Err(Problem::unavailable(error.to_string()))
        }
        Err(NotAccepted::Database(error)) => {
            COUNTS.refused.database.add(1);
            Err(if crate::database::is_transient(&error) {
                let condition = Condition::of(&error);
                Problem::unavailable(format!(
                    "{condition}: the payment is not confirmed; post it again"
                ))
            } else {
                Problem::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the payment was not confirmed; post it again",
                )
            })
        }
    }
}

fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    let header = headers.get(TRACEPARENT)?;
    Traceparent::read(header.to_str().ok()?)
}

/// Whether the body is said to be JSON.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!("the Content-Type must be application/json, not {media_type:?}"),
    ))
}

/// One payment as `GET /payments/{id}` shows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PaymentView {
    /// The client's id of the payment
    correlation_id: Uuid,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    #[schema(value_type = Amount)]
    amount: Decimal,
    /// Where it stands: `in flight` if a processor may have charged it
    #[schema(value_type = PaymentState)]
    state: String,
    /// Claims made so far
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    accepted_at: Option<String>,
    /// The processor that charged it, may have, or refused it
    #[serde(skip_serializing_if = "Option::is_none")]
    processor: Option<String>,
    /// The `requestedAt` that this processor was sent
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    requested_at: Option<String>,
    /// Why no processor takes it
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The file that has the rest of an archived payment
    #[serde(skip_serializing_if = "Option::is_none")]
    archived_in: Option<String>,
}

/// The states of a payment.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code)] // the words of the query below, for the document
enum PaymentState {
    Queued,
    #[schema(rename = "in flight")]
    InFlight,
    Settled,
    Archived,
    Dead,
}

/// Where a payment stands
#[utoipa::path(
    get, path = "/payments/{id}", tag = "payments",
    params(("id" = Uuid, Path, description = "The client's id of the payment")),
    responses(
        (status = 200, description = "It is known", body = PaymentView),
        (status = 400, description = "The id is not a UUID", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "It is not known", body = ProblemBody, content_type = "application/problem+json"),
        DatabaseProblems,
    )
)]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<PaymentView>, Problem> {
    let correlation_id = id
        .ok()
        .and_then(|Path(id)| parse_uuid(&id))
        .ok_or_else(|| Problem::bad_request("the id in the path must be a UUID with hyphens"))?;
    let row = sqlx::query!(
        r#"SELECT 'settled' AS "state!", amount AS "amount!", accepted_at,
            processor, requested_at, attempt, NULL AS reason, NULL AS archived_in
        FROM payment_processed WHERE correlation_id = $1
        UNION ALL
        SELECT 'dead', amount, accepted_at, processor, NULL, attempt, reason, NULL
        FROM payment_dead_letter WHERE correlation_id = $1
        UNION ALL
        SELECT CASE WHEN processor IS NULL THEN 'queued' ELSE 'in flight' END, amount, accepted_at,
            processor, requested_at, attempt, NULL, NULL
        FROM payment_queue WHERE correlation_id = $1
        UNION ALL
        SELECT 'archived', amount, NULL, NULL, NULL, NULL, NULL,
            (SELECT m.file FROM payment_archived_month m WHERE m.month = a.month)
        FROM payment_archived a WHERE correlation_id = $1
        LIMIT 1"#,
        correlation_id
    )
    .fetch_optional(&api.pool)
    .await?
    .ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            format!("payment {correlation_id} is not known"),
        )
    })?;
    Ok(Json(PaymentView {
        correlation_id,
        amount: row.amount,
        state: row.state,
        attempts: row.attempt,
        accepted_at: row.accepted_at.map(format_time),
        processor: row.processor,
        requested_at: row.requested_at.map(format_time),
        reason: row.reason,
        archived_in: row.archived_in,
    }))
}
