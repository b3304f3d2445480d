//! Summary: what was settled, per processor, over a range of `requestedAt`.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use sqlx::PgPool;

/// Totals per processor: the configured ones first, in order of preference, then any other that has
/// settled payments in the range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary(pub Vec<(String, Totals)>);

/// What one processor settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Number of payments.
    pub total_requests: i64,
    /// Their sum, exact to the cent.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub total_amount: Decimal,
}

impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, totals)| (name, totals)))
    }
}

/// Adds up the payments with `from <= requestedAt <= to`; an absent end is open.
///
/// # Errors
/// The database did not answer.
pub async fn summarize(
    pool: &PgPool,
    processors: &[String],
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> Result<Summary, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT processor, count(*) AS "total_requests!", sum(amount) AS "total_amount!"
        FROM payment_processed
        WHERE requested_at BETWEEN coalesce($1::timestamptz, '-infinity') AND coalesce($2::timestamptz, 'infinity')
        GROUP BY processor ORDER BY processor"#,
        from,
        to
    )
    .fetch_all(pool)
    .await?;
    let mut summary: Vec<(String, Totals)> = processors
        .iter()
        .map(|name| (name.clone(), Totals::default()))
        .collect();
    for row in rows {
        let totals = Totals {
            total_requests: row.total_requests,
            total_amount: row.total_amount,
        };
        match summary.iter_mut().find(|(name, _)| *name == row.processor) {
            Some((_, empty)) => *empty = totals,
            None => summary.push((row.processor, totals)),
        }
    }
    Ok(Summary(summary))
}
