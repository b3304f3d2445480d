//! `GET /payments-summary`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{Api, Problem};
use crate::summary::{Summary, summarize};

#[derive(Debug, Deserialize)]
pub(super) struct Range {
    from: Option<String>,
    to: Option<String>,
}

/// Adds up what was settled with `requestedAt` from `from` to `to`, both included and both optional.
pub(super) async fn get(
    State(api): State<Api>,
    range: Result<Query<Range>, QueryRejection>,
) -> Result<Json<Summary>, Problem> {
    let Query(range) = range.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let (from, to) = (
        time("from", range.from.as_deref())?,
        time("to", range.to.as_deref())?,
    );
    if matches!((from, to), (Some(from), Some(to)) if from > to) {
        return Err(Problem::bad_request("`from` must not be after `to`"));
    }
    Ok(Json(summarize(&api.pool, &api.processors, from, to).await?))
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
