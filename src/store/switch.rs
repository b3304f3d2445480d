//! Operators' switches: a processor is taken out of use, or put back, for all instances, and it is
//! kept who did so, when and why.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::store::database::{Pool, notify_others};
use crate::store::in_doubt::{self, Author};

/// Whether a processor is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessorSwitch)]
pub struct Switch {
    /// Its name
    pub processor: String,
    /// Whether it may get new payments
    pub enabled: bool,
    /// Whether a living instance has it in `PROCESSORS`; null where that is not known
    pub configured: Option<bool>,
    /// Its own word: payments fail there; null where it has not said
    pub failing: Option<bool>,
    /// When an operator switched it last; null where none ever did
    pub switched_at: Option<DateTime<Utc>>,
    /// Who did so
    pub switched_by: Option<String>,
    /// Why
    pub reason: Option<String>,
}

/// All processors that an instance has ever heard of, by name.
///
/// # Errors
/// The database did not answer.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Switch>, sqlx::Error> {
    let configured = in_doubt::configured(connection).await?;
    // What was switched by another way than ours is not as the last switch says.
    let rows = sqlx::query!(
        r#"SELECT h.processor, h.enabled, h.failing AS "failing?", s.switched_at AS "switched_at?",
            s.switched_by AS "switched_by?", s.reason AS "reason?"
        FROM processor_health h LEFT JOIN LATERAL (
            SELECT * FROM (
                SELECT * FROM processor_switch w WHERE w.processor = h.processor
                    ORDER BY w.switched_at DESC LIMIT 1
            ) AS last WHERE last.enabled = h.enabled
        ) AS s ON true
        ORDER BY h.processor"#
    )
    .fetch_all(connection)
    .await?;
    let switches = rows.into_iter().map(|row| Switch {
        configured: in_doubt::is_configured(configured.as_deref(), &row.processor),
        processor: row.processor,
        enabled: row.enabled,
        failing: row.failing,
        switched_at: row.switched_at,
        switched_by: row.switched_by,
        reason: row.reason,
    });
    Ok(switches.collect())
}

/// Takes a processor out of use, or puts it back, for all instances and until it is said otherwise.
/// Returns false where no instance has ever heard of it.
///
/// # Errors
/// The database did not confirm.
pub async fn set(
    pool: &Pool,
    processor: &str,
    enabled: bool,
    author: &Author,
) -> Result<bool, sqlx::Error> {
    let switched = sqlx::query_scalar!(
        r#"SELECT switch_processor($1, $2, $3, $4) AS "switched!""#,
        processor,
        enabled,
        author.name(),
        author.reason()
    )
    .fetch_one(&**pool)
    .await?;
    notify_others(pool).await;
    Ok(switched)
}
