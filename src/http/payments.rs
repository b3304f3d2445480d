//! `POST /payments` and `GET /payments/{id}`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use super::problem::{self, BODY, DATABASE, check_content_type, problems};
use super::{Api, Problem, ProblemKind, parameters};
use crate::domain::payment::{Amount, Body, InvalidPayment, Payment, format_time, parse_uuid};
use crate::domain::traceparent::{TRACEPARENT, Traceparent};
use crate::pipeline::accept::{Accepted, NotAccepted};
use crate::store::database::{Condition, Pool};
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::Refused;
use crate::telemetry::trace::Subject;

/// How long a standby has to say that a payment is settled before the primary is asked.
const STANDBY_PATIENCE: Duration = Duration::from_millis(500);

problems!(
    pub(super) PostProblems: BODY, DATABASE,
    [ProblemKind::AmountConflict, ProblemKind::QueueFull, ProblemKind::OutcomeUnknown,
        ProblemKind::InvalidParameter]
);
problems!(
    pub(super) GetProblems: DATABASE, [ProblemKind::InvalidParameter, ProblemKind::PaymentNotFound]
);

/// Accepts a payment, which is then settled once, on one processor
///
/// Posting the same id with the same amount again is safe, and what to do after any 503 and after a
/// lost reply. Fields that are not known are ignored.
#[utoipa::path(
    post, path = "/payments", tag = "payments", operation_id = "createPayment",
    request_body(content = Body<'_>, content_type = "application/json"),
    responses(
        (status = 202, description = "The payment is committed, or was before"),
        PostProblems,
    )
)]
pub(super) async fn post(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let Telemetry { counts, tracer } = &api.telemetry;
    let refused = &counts.refused;
    let content_type = check_content_type(request.headers());
    let parameters = parameters::only(request.uri(), &[]);
    let traceparent = traceparent(request.headers());
    // It is read whatever it is: a connection with half a request on it cannot be used again.
    let body = problem::read(request.into_body()).await;
    content_type.inspect_err(|_| refused.media_type.add(1))?;
    let body = body.inspect_err(|_| refused.body.add(1))?;
    parameters.inspect_err(|_| refused.invalid.add(1))?;
    let mut payment = Payment::from_json(&body).map_err(|invalid| {
        let (kind, counter) = match invalid {
            InvalidPayment::Malformed(_) => (ProblemKind::MalformedBody, &refused.malformed),
            _ => (ProblemKind::InvalidField, &refused.invalid),
        };
        counter.add(1);
        Problem::new(kind, invalid.to_string())
    })?;
    payment.traceparent = traceparent;
    let (begun_at, traced_at) = (Instant::now(), tracer.now());
    let cell = api.cells.of(payment.correlation_id);
    let accepted = cell.acceptor.accept(payment).await;
    counts
        .post_seconds
        .observe(begun_at.elapsed().as_secs_f64());
    match accepted {
        Ok(Accepted::Queued) => {
            let subject = Subject {
                id: payment.correlation_id,
                client: payment.traceparent,
            };
            tracer.accepted(subject, traced_at);
            Ok(StatusCode::ACCEPTED)
        }
        Ok(Accepted::Known) => {
            counts.repeated.add(1);
            Ok(StatusCode::ACCEPTED)
        }
        Ok(Accepted::Conflict { known }) => {
            refused.conflict.add(1);
            Err(Problem::new(
                ProblemKind::AmountConflict,
                format!(
                    "payment {} was accepted before with amount {known}",
                    payment.correlation_id
                ),
            ))
        }
        Err(not_accepted) => Err(told(&not_accepted, refused).of_cell(cell.cell)),
    }
}

/// What a client is told whose payment is not known to be accepted.
fn told(not_accepted: &NotAccepted, refused: &Refused) -> Problem {
    use NotAccepted::{Expired, Held, Overloaded, QueueFull, Refused, TooLate, Unconfirmed};
    let counter = match not_accepted {
        Held(_) => &refused.held,
        Overloaded | QueueFull | Expired | TooLate => &refused.overloaded,
        Refused(_) | Unconfirmed(_) => &refused.database,
    };
    counter.add(1);
    match not_accepted {
        Held(_) => Problem::unavailable(not_accepted.to_string()),
        Overloaded | QueueFull | Expired => {
            Problem::new(ProblemKind::QueueFull, not_accepted.to_string())
        }
        TooLate => Problem::new(ProblemKind::OutcomeUnknown, not_accepted.to_string()),
        Unconfirmed(error) => Problem::new(
            ProblemKind::OutcomeUnknown,
            format!(
                "{}: the payment is not confirmed; post it again",
                Condition::of(error)
            ),
        ),
        Refused(error) if crate::store::database::is_transient(error) => {
            Problem::unavailable(format!(
                "{}: the payment was not accepted; post it again",
                Condition::of(error)
            ))
        }
        Refused(_) => Problem::new(
            ProblemKind::InternalError,
            "the payment was not accepted; the log says why",
        ),
    }
}

fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    let header = headers.get(TRACEPARENT)?;
    Traceparent::read(header.to_str().ok()?)
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
    /// Where it stands
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
    /// Why it was given up, in our words: what the processor said is for operators
    #[schema(value_type = Option<GivenUp>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The file that has the rest of an archived payment
    #[serde(skip_serializing_if = "Option::is_none")]
    archived_in: Option<String>,
}

/// Why a payment was given up: `refused`, the processor will never take it; `mismatch`, the
/// processor has this id with other particulars
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code)] // the words of the query below, for the document
enum GivenUp {
    Refused,
    Mismatch,
}

/// Where a payment stands: `queued`, no processor can have charged it; `in_flight`, a processor is
/// being asked; `in_doubt`, that processor may have charged it, and is asked again until it says;
/// `settled`, a processor charged it; `dead`, no processor takes it; `archived`, settled long ago
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code)] // the words of the query below, for the document
enum PaymentState {
    Queued,
    InFlight,
    InDoubt,
    Settled,
    Archived,
    Dead,
}

/// Where a payment stands
///
/// Whether it waits, is at a processor, was settled, or was given up, and when.
#[utoipa::path(
    get, path = "/payments/{id}", tag = "payments", operation_id = "getPayment",
    params(("id" = Uuid, Path, description = "The client's id of the payment")),
    responses(
        (status = 200, description = "The payment", body = PaymentView),
        GetProblems,
    )
)]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<PaymentView>, Problem> {
    let correlation_id = id
        .ok()
        .and_then(|Path(id)| parse_uuid(&id))
        .ok_or_else(|| {
            Problem::invalid_parameter("the id in the path must be a UUID with hyphens")
        })?;
    let cell = api.cells.of(correlation_id);
    let row = match &cell.standby {
        Some(standby) => settled(standby, correlation_id).await,
        None => None,
    };
    let row = match row {
        Some(row) => Some(row),
        None => {
            let row = stands(&cell.pool, correlation_id).await;
            row.map_err(|error| cell.problem(error))?
        }
    };
    let row = row.ok_or_else(|| {
        Problem::new(
            ProblemKind::PaymentNotFound,
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

/// A payment as the tables have it.
struct Row {
    state: String,
    amount: Decimal,
    accepted_at: Option<DateTime<Utc>>,
    processor: Option<String>,
    requested_at: Option<DateTime<Utc>>,
    attempt: Option<i32>,
    reason: Option<String>,
    archived_in: Option<String>,
}

/// Where a payment stands.
async fn stands(pool: &PgPool, id: Uuid) -> Result<Option<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        r#"SELECT 'settled' AS "state!", amount AS "amount!", accepted_at,
            processor, requested_at, attempt, NULL AS reason, NULL AS archived_in
        FROM payment_processed WHERE correlation_id = $1
        UNION ALL
        SELECT 'dead', amount, accepted_at, processor, NULL, attempt,
            CASE WHEN requested_at IS NULL THEN 'refused' ELSE 'mismatch' END, NULL
        FROM payment_dead_letter WHERE correlation_id = $1
        UNION ALL
        SELECT CASE WHEN processor IS NULL THEN 'queued'
                WHEN lease_until > now() THEN 'in_flight' ELSE 'in_doubt' END,
            amount, accepted_at, processor, requested_at, attempt, NULL, NULL
        FROM payment_queue WHERE correlation_id = $1
        UNION ALL
        SELECT 'archived', amount, NULL, NULL, NULL, NULL, NULL,
            (SELECT m.file FROM payment_archived_month m WHERE m.month = a.month)
        FROM payment_archived a WHERE correlation_id = $1
        LIMIT 1"#,
        id
    )
    .fetch_optional(pool)
    .await
}

/// A payment that a standby knows to be settled, which it stays; the only state that is never out
/// of date there, and that a standby has of an unlogged queue, too. None where it does not know
/// that, or does not answer: then the primary is asked.
async fn settled(standby: &Pool, id: Uuid) -> Option<Row> {
    let read = sqlx::query_as!(
        Row,
        r#"SELECT 'settled' AS "state!", amount AS "amount!", accepted_at,
            processor, requested_at, attempt, NULL AS reason, NULL AS archived_in
        FROM payment_processed WHERE correlation_id = $1"#,
        id
    );
    let read = async {
        let mut connection = standby.acquire().await?;
        read.fetch_optional(&mut *connection).await
    };
    let told = tokio::time::timeout(STANDBY_PATIENCE, standby.read(read)).await;
    told.ok()?.ok()?
}
