//! The processors' fees and since when: the ledger does not say what a processor kept, and an
//! auditor asks.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::{PgExecutor, PgPool};

use crate::config::Processors;

/// A configured name that the database knows in another spelling, and that spelling: people, and
/// the systems that they copy names to, take both for one processor.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn other_spelling(
    pool: &PgPool,
    processors: &Processors,
) -> Result<Option<(String, String)>, sqlx::Error> {
    let names: Vec<String> = processors.0.iter().map(|each| each.name.clone()).collect();
    let known = sqlx::query!(
        r#"SELECT c.name AS "name!", f.processor FROM UNNEST($1::text[]) AS c (name)
        JOIN processor_fee f ON lower(f.processor) = lower(c.name)
            AND f.processor <> c.name LIMIT 1"#,
        &names
    )
    .fetch_optional(pool)
    .await?;
    Ok(known.map(|row| (row.name, row.processor)))
}

/// Writes down the configured fees that are new: from now on, or from ever for a processor that had
/// none. Returns how many there were.
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

/// What a processor kept of the payments of a time in which no fee changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeesOfPeriod {
    /// Its name.
    pub processor: String,
    /// How many payments.
    pub payments: i64,
    /// Their sum.
    pub amount: Decimal,
    /// What it kept of that, to the cent: sums that large have no more digits. None where nobody
    /// knows its fee.
    pub fee: Option<Decimal>,
    /// The share that each processor that was asked for kept at that time, in their order.
    pub shares: Vec<Option<Decimal>>,
}

/// What the processors kept of the payments with `from <= requestedAt <= to`, an absent end being
/// open, and the shares of `names` at those times: `audit.fees`, which auditors ask, too.
///
/// # Errors
/// The database did not answer, or the range cuts through an hour that is archived.
pub async fn kept(
    database: impl PgExecutor<'_>,
    names: &[String],
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> Result<Vec<FeesOfPeriod>, sqlx::Error> {
    sqlx::query_as!(
        FeesOfPeriod,
        r#"SELECT f.processor AS "processor!", f.payments AS "payments!", f.amount AS "amount!",
            round(f.fee, 2) AS fee,
            ARRAY(
                SELECT audit.fee_at(n.name, f.since)
                    FROM UNNEST($1::text[]) WITH ORDINALITY AS n (name, place)
                ORDER BY n.place
            ) AS "shares!: Vec<Option<Decimal>>"
        FROM audit.fees($2, $3) AS f"#,
        names,
        from,
        to
    )
    .fetch_all(database)
    .await
}
