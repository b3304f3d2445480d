//! Crashes and failovers of the database server that emptied an unlogged queue, and what operators
//! said of them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use crate::store::in_doubt::Author;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EmptiedQueue {
    /// When an instance noticed it.
    pub noticed_at: DateTime<Utc>,
    /// When an operator acknowledged it; none: operators are told of it.
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// Who did so.
    pub acknowledged_by: Option<String>,
    /// What was done about it.
    pub reason: Option<String>,
}

/// The newest `limit`, the newest first.
///
/// # Errors
/// The database did not answer.
pub async fn list(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<Vec<EmptiedQueue>, sqlx::Error> {
    sqlx::query_as!(
        EmptiedQueue,
        "SELECT noticed_at, acknowledged_at, acknowledged_by, acknowledged_reason AS reason
        FROM payment_queue_emptied ORDER BY noticed_at DESC LIMIT $1",
        limit
    )
    .fetch_all(connection)
    .await
}

/// Ends that operators are told of those that were noticed so far. Returns how many these were.
///
/// # Errors
/// The database did not confirm. Doing it again is safe.
pub async fn acknowledge(
    connection: &mut PgConnection,
    author: &Author,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT acknowledge_emptied_queue($1, $2) AS "times!""#,
        author.name(),
        author.reason()
    )
    .fetch_one(connection)
    .await
}
