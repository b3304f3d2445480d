//! `GET /history`.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::Uri;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::problem::{DATABASE, OPERATOR, problems};
use crate::http::{OperatorApi, Problem, ProblemKind};
use crate::pipeline::history::History;

/// Hours that are told where nobody says how many.
const HOURS: u32 = 6;
/// Hours that are told, at most.
pub(super) const MOST_HOURS: u32 = 48;

problems!(pub(super) HistoryProblems: OPERATOR, DATABASE, [ProblemKind::InvalidParameter]);

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Hours {
    /// The last so many hours: 1 to 48; absent: 6
    #[param(value_type = u32, required = false, minimum = 1, maximum = 48)]
    hours: Option<u32>,
}

/// What was in the last hours, minute by minute
///
/// Accepted, refused, queued, latency, breakers and switches of all instances. A minute that nobody
/// saw has no values.
#[utoipa::path(
    get, path = "/history", tag = "history", operation_id = "getHistory", params(Hours),
    responses(
        (status = 200, description = "Up to the last minute that is over", body = History),
        HistoryProblems,
    )
)]
pub(super) async fn get(
    State(api): State<OperatorApi>,
    uri: Uri,
) -> Result<Json<History>, Problem> {
    let Query(Hours { hours }) = Query::<Hours>::try_from_uri(&uri)
        .map_err(|rejection| Problem::invalid_parameter(rejection.body_text()))?;
    let hours = hours.unwrap_or(HOURS);
    if !(1..=MOST_HOURS).contains(&hours) {
        let text = format!("`hours` must be from 1 to {MOST_HOURS}");
        return Err(Problem::invalid_parameter(text));
    }
    Ok(Json(History::read(&api.pool, hours).await?))
}
