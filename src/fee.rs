//! The processors' fees and since when: the books do not say what a processor kept, and an auditor asks.

use rust_decimal::Decimal;
use sqlx::PgPool;

use crate::config::Processors;

/// A configured name that the database knows in another spelling, and that spelling: people, and the systems that they
/// copy names to, take both for one processor.
///
/// # Errors
/// The database did not answer.
pub async fn other_spelling(
    pool: &PgPool,
    processors: &Processors,
) -> Result<Option<(String, String)>, sqlx::Error> {
    let names: Vec<String> = processors.0.iter().map(|each| each.name.clone()).collect();
    let known = sqlx::query!(
        r#"SELECT c.name AS "name!", f.processor FROM UNNEST($1::text[]) AS c (name)
        JOIN processor_fee f ON lower(f.processor) = lower(c.name) AND f.processor <> c.name LIMIT 1"#,
        &names
    )
    .fetch_optional(pool)
    .await?;
    Ok(known.map(|row| (row.name, row.processor)))
}

/// Writes down the configured fees that are new: from now on, or from ever for a processor that had none.
/// Returns how many there were.
///
/// # Errors
/// The database did not confirm; doing it again is safe.
pub async fn record(pool: &PgPool, processors: &Processors) -> Result<u64, sqlx::Error> {
    let names: Vec<String> = processors.0.iter().map(|each| each.name.clone()).collect();
    let fees: Vec<Decimal> = processors.0.iter().map(|each| each.fee).collect();
    let recorded = sqlx::query_scalar!(
        r#"SELECT record_fees($1, $2) AS "recorded!""#,
        &names,
        &fees
    )
    .fetch_one(pool)
    .await?;
    Ok(u64::try_from(recorded).unwrap_or_default())
}
