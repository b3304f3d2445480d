//! The export of a month, and the proof that the file has all of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, bail};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt;
use rust_decimal::Decimal;
use sqlx::{Connection, Executor, PgConnection};

use super::file::{Lines, Partial};
use super::rows::{COLUMNS, load};
use super::step::{Doing, Telling};

/// What one transaction reads. Its snapshot keeps vacuum from cleaning the queue for as long.
pub(crate) const EXPORT_SLICE: TimeDelta = TimeDelta::hours(1);
/// Lines that are read back and added up at once.
const VERIFY_BATCH: usize = 5_000;

/// A file that has all of a month.
pub(super) struct Exported {
    pub(super) sha256: String,
    pub(super) payments: i64,
    pub(super) amount: Decimal,
}

/// Number and sum by hour and processor.
pub(super) type Hours = BTreeMap<(DateTime<Utc>, String), (i64, Decimal)>;

/// Writes a month to its file, and then down that it is there. Before that the file has another
/// name.
pub(super) async fn export(
    connection: &mut PgConnection,
    told: &Telling<'_>,
    folder: &Path,
) -> anyhow::Result<Exported> {
    let month = told.month;
    let path = folder.join(month.file_name());
    let partial = Partial::create(folder.join(format!("{}.partial", month.file_name())))?;
    let expected = write(connection, told, &partial.file)
        .await
        .with_context(|| format!("writing {}", partial.path().display()))?;
    partial.file.sync_all()?;
    let (sha256, found) = read_back(connection, told, partial.path()).await?;
    if found != expected {
        bail!(
            "{} does not add up to payment_rollup; nothing has been moved",
            partial.path().display()
        );
    }
    let payments: i64 = found.values().map(|(payments, _)| payments).sum();
    let amount: Decimal = found.values().map(|(_, amount)| amount).sum();
    // Of two that export the same month, the second waits here, and is refused before it publishes
    // anything.
    let mut transaction = connection.begin().await?;
    sqlx::query!(
        "INSERT INTO payment_archived_month (month, file, sha256, requests, amount) VALUES ($1, \
        $2, $3, $4, $5)",
        month.first_day(),
        month.file_name(),
        sha256,
        payments,
        amount
    )
    .execute(&mut *transaction)
    .await?;
    partial.publish(&path, &sha256)?;
    transaction.commit().await?;
    Ok(Exported {
        sha256,
        payments,
        amount,
    })
}

/// Writes the payments of a month, and returns what they must add up to.
async fn write(
    connection: &mut PgConnection,
    told: &Telling<'_>,
    file: &File,
) -> anyhow::Result<Hours> {
    let (month, mut written) = (told.month, 0);
    let mut out = BufWriter::new(file);
    writeln!(out, "{COLUMNS}")?;
    let hours = sqlx::query_scalar!(
        "SELECT DISTINCT starts_at FROM payment_rollup
        WHERE unit = 'hour' AND starts_at >= $1 AND starts_at < $2 AND requests <> 0
            ORDER BY starts_at",
        month.start(),
        month.end()
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut expected = Hours::new();
    for hour in hours {
        let mut transaction = connection.begin().await?;
        transaction
            .execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .await?;
        let totals = sqlx::query!(
            "SELECT processor, requests, amount FROM payment_rollup
            WHERE unit = 'hour' AND starts_at = $1 AND requests <> 0",
            hour
        )
        .fetch_all(&mut *transaction)
        .await?;
        written += totals.iter().map(|row| row.requests).sum::<i64>();
        expected.extend(
            totals
                .into_iter()
                .map(|row| ((hour, row.processor), (row.requests, row.amount))),
        );
        let copy = format!(
            "COPY (SELECT {COLUMNS} FROM payment_processed WHERE requested_at >= '{}'
                AND requested_at < '{}'
             ORDER BY requested_at, correlation_id) TO STDOUT (FORMAT csv)",
            hour.to_rfc3339(),
            (hour + EXPORT_SLICE).to_rfc3339()
        );
        let mut lines = transaction.copy_out_raw(&copy).await?;
        while let Some(bytes) = lines.try_next().await? {
            out.write_all(&bytes)?;
        }
        drop(lines);
        transaction.commit().await?;
        told.at(Doing::Writing, written);
    }
    out.flush()?;
    Ok(expected)
}

/// What the file has, by its own bytes as they are on the disk.
async fn read_back(
    connection: &mut PgConnection,
    told: &Telling<'_>,
    path: &Path,
) -> anyhow::Result<(String, Hours)> {
    let mut lines = Lines::open(path)?;
    let mut found = Hours::new();
    while let Some(batch) = lines.next(VERIFY_BATCH)? {
        let mut transaction = connection.begin().await?;
        load(&mut transaction, batch).await?;
        // The table is this session's own, so this is not checked when it is compiled.
        let totals: Vec<(DateTime<Utc>, String, i64, Decimal)> = sqlx::query_as(
            "SELECT date_bin('1 hour', requested_at, 'epoch'), processor, count(*), sum(amount)
            FROM archive_line GROUP BY 1, 2",
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        for (hour, processor, payments, amount) in totals {
            let total = found.entry((hour, processor)).or_default();
            total.0 += payments;
            total.1 += amount;
        }
        told.at(Doing::ReadingBack, lines.payments);
    }
    Ok((lines.sha256(), found))
}
