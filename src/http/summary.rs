//! `GET /payments-summary`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::future::try_join_all;
use serde::Deserialize;
use utoipa::IntoParams;

use super::problem::{DATABASE, problems};
use super::{Api, ApiCell, Problem, ProblemKind};
use crate::store::summary::{NoSummary, Summary, seconds_behind, summarize};

/// How old a summary may be that a standby tells.
const SECONDS_BEHIND: HeaderName = HeaderName::from_static("seconds-behind");

/// Where the summary is. An end of its range that is empty is open, as one that is absent.
pub(super) const PATH: &str = "/payments-summary";

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Range {
    /// The first `requestedAt` that counts (RFC 3339); absent: no limit
    #[param(value_type = DateTime<Utc>, required = false, example = "2026-07-10T12:34:56.000Z")]
    from: Option<String>,
    /// The last `requestedAt` that counts (RFC 3339); absent: no limit
    #[param(value_type = DateTime<Utc>, required = false, example = "2026-07-10T12:35:56.000Z")]
    to: Option<String>,
}

problems!(
    pub(super) SummaryProblems:
    [ProblemKind::InvalidParameter, ProblemKind::ArchivedRange], DATABASE
);

/// Totals of what was settled, for each processor
///
/// Counts the payments whose `requestedAt` lies from `from` to `to`, both included. Where it is
/// read from a standby of the database, `Seconds-Behind` says how old it may be.
#[utoipa::path(
    get, path = "/payments-summary", tag = "payments", operation_id = "getPaymentsSummary",
    params(Range),
    responses(
        (status = 200, body = Summary,
            description = "Totals by processor; those that are configured are always there",
            headers(("Seconds-Behind" = f64, description = "Only where a standby is read: \
                what was settled longer ago than this is in the totals"))),
        SummaryProblems,
    )
)]
pub(super) async fn get(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let (from, to) = range(&uri)?;
    // Payments stay in their cell, so that of several moments no payment is in two sums. Without
    // one of the cells there is no summary, because it would be wrong.
    let asked = api
        .cells
        .iter()
        .map(|cell| of_cell(cell, &api.processors, from, to));
    let parts = try_join_all(asked).await?;
    let behind = parts
        .iter()
        .filter_map(|(_, behind)| *behind)
        .reduce(f64::max);
    let mut headers = HeaderMap::new();
    if let Some(behind) = behind {
        let behind = HeaderValue::from_str(&format!("{behind:.3}"));
        headers.extend(behind.ok().map(|behind| (SECONDS_BEHIND, behind)));
    }
    let summary = Summary::sum(&api.processors, parts.into_iter().map(|(part, _)| part));
    Ok((headers, Json(summary)).into_response())
}

/// The summary of one cell, and how old it may be where a standby tells it.
async fn of_cell(
    cell: &ApiCell,
    processors: &[String],
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> Result<(Summary, Option<f64>), Problem> {
    let Some(standby) = &cell.standby else {
        let summary = summarize(&*cell.pool, processors, from, to).await;
        return Ok((summary.or_else(|error| cut(cell, error))?, None));
    };
    let read = async {
        let behind = seconds_behind(&**standby).await?;
        match summarize(&**standby, processors, from, to).await {
            Err(NoSummary::Database(error)) => Err(error),
            told => Ok((behind, told)),
        }
    };
    let read = standby.read(read).await;
    let (behind, summary) = read.map_err(|error| Problem::of_standby(error).of_cell(cell.cell))?;
    Ok((summary.or_else(|error| cut(cell, error))?, Some(behind)))
}

/// Why there is no summary.
fn cut(cell: &ApiCell, error: NoSummary) -> Result<Summary, Problem> {
    match error {
        NoSummary::Database(error) => Err(cell.problem(error)),
        cut @ NoSummary::CutsArchivedHours(_) => {
            Err(Problem::new(ProblemKind::ArchivedRange, cut.to_string()))
        }
    }
}

/// The first and the last moment of a range, both included; an absent end is open.
pub(crate) type Bounds = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// Both ends of a range, open where they are absent or empty, as a query gives them.
///
/// # Errors
/// An end is not a time or stands twice, or they are in the wrong order.
pub fn range(uri: &Uri) -> Result<Bounds, Problem> {
    let Query(range) = Query::<Range>::try_from_uri(uri)
        .map_err(|rejection| Problem::invalid_parameter(rejection.body_text()))?;
    let (from, to) = (
        time("from", range.from.as_deref())?,
        time("to", range.to.as_deref())?,
    );
    match (from, to) {
        (Some(from), Some(to)) if from > to => {
            Err(Problem::invalid_parameter("`from` must not be after `to`"))
        }
        ends => Ok(ends),
    }
}

/// An absent or empty end is open.
fn time(name: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(Some(time.to_utc())),
        Err(_) => Err(Problem::invalid_parameter(format!(
            "`{name}` must be a time such as 2026-07-10T12:34:56.000Z (a + stands as %2B in a \
            query)"
        ))),
    }
}
