//! `GET /payments-summary`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::schema::{
    AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type,
};

use super::problem::{DatabaseProblems, ProblemBody};
use super::{Api, Problem};
use crate::summary::{NoSummary, Summary, summarize};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Range {
    /// The first `requestedAt` that counts (RFC 3339); empty or absent: no limit
    #[param(schema_with = time_or_nothing)]
    from: Option<String>,
    /// The last one that counts
    #[param(schema_with = time_or_nothing)]
    to: Option<String>,
}

/// What was settled on each processor with `requestedAt` from `from` to `to`, both included
#[utoipa::path(
    get, path = "/payments-summary", tag = "payments", params(Range),
    responses(
        (status = 200, description = "Totals by processor; those that are configured are always there", body = Summary),
        (status = 400, description = "An end of the range is not a time, or they are in the wrong order",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The range begins or ends inside of an hour whose payments are archived; `detail` says which",
            body = ProblemBody, content_type = "application/problem+json"),
        DatabaseProblems,
    )
)]
pub(super) async fn get(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<Summary>, Problem> {
    let (from, to) = range(&uri)?;
    match summarize(&api.pool, &api.processors, from, to).await {
        Ok(summary) => Ok(Json(summary)),
        Err(NoSummary::Database(error)) => Err(error.into()),
        Err(cut @ NoSummary::CutsArchivedHours(_)) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            cut.to_string(),
        )),
    }
}

/// The first and the last moment of a range, both included; an absent end is open.
pub type Bounds = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// Both ends of a range, open where they are absent or empty, as a query gives them.
///
/// # Errors
/// An end is not a time or stands twice, or they are in the wrong order.
pub fn range(uri: &Uri) -> Result<Bounds, Problem> {
    let Query(range) = Query::<Range>::try_from_uri(uri)
        .map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let (from, to) = (
        time("from", range.from.as_deref())?,
        time("to", range.to.as_deref())?,
    );
    match (from, to) {
        (Some(from), Some(to)) if from > to => {
            Err(Problem::bad_request("`from` must not be after `to`"))
        }
        ends => Ok(ends),
    }
}

fn time_or_nothing() -> Schema {
    let time = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let nothing = ObjectBuilder::new()
        .schema_type(Type::String)
        .max_length(Some(0));
    AnyOfBuilder::new()
        .item(time)
        .item(nothing)
        .examples(["2026-07-10T12:34:56.000Z"])
        .build()
        .into()
}

/// An absent or empty end is open.
fn time(name: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(Some(time.to_utc())),
        Err(_) => Err(Problem::bad_request(format!(
            "`{name}` must be a time such as 2026-07-10T12:34:56.000Z (a + stands as %2B in a query)"
        ))),
    }
}
