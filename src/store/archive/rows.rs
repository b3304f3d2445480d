//! The rows of a month: in a file, and in the ledger.

use rust_decimal::Decimal;
use sqlx::PgConnection;

use super::month::Month;

/// The columns of the file, which are those of `payment_processed`.
pub(super) const COLUMNS: &str =
    "correlation_id,amount,processor,requested_at,accepted_at,settled_at,attempt";

/// Puts lines of a file into `archive_line`, for the rest of the transaction.
pub(super) async fn load(connection: &mut PgConnection, lines: Vec<u8>) -> Result<(), sqlx::Error> {
    let copy = format!("COPY archive_line ({COLUMNS}) FROM STDIN (FORMAT csv)");
    let mut copy = connection.copy_in_raw(&copy).await?;
    copy.send(lines).await?;
    copy.finish().await?;
    Ok(())
}

/// What the ledger has of a month.
pub(super) async fn totals(
    connection: &mut PgConnection,
    month: Month,
) -> Result<(i64, Decimal), sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT coalesce(sum(requests), 0)::bigint AS "payments!", coalesce(sum(amount),
            0) AS "amount!"
        FROM payment_rollup WHERE unit = 'hour' AND starts_at >= $1 AND starts_at < $2"#,
        month.start(),
        month.end()
    )
    .fetch_one(connection)
    .await?;
    Ok((row.payments, row.amount))
}
