//! What is in the file of a month leaves the ledger.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::Days;
use sqlx::{Connection, PgConnection};

use super::file::{Content, Lines, sync};
use super::month::Month;
use super::rows::{load, totals};
use super::step::{Doing, Telling};

/// Payments that move in one transaction, at most.
pub(crate) const MOVE_BATCH: usize = 500;
/// The pause after each, so that the service has the disk most of the time.
pub(crate) const MOVE_PAUSE: Duration = Duration::from_millis(50);

/// Moves what is in the file, where the ledger still says the same. Returns how many payments of
/// the month are left in the ledger.
pub(super) async fn relocate(
    connection: &mut PgConnection,
    told: &Telling<'_>,
    path: &Path,
    sha256: &str,
) -> anyhow::Result<i64> {
    let month = told.month;
    let content = Content::of(path);
    let content = content.with_context(|| {
        format!("{month} was exported before, and some of it may only be in its file")
    })?;
    content.expect(path, sha256, told.of)?;
    // It may be a copy that somebody has just made.
    sync(path)?;
    let mut lines = Lines::open(path)?;
    while let Some(batch) = lines.next(MOVE_BATCH)? {
        let mut transaction = connection.begin().await?;
        // Of a run of `restore` meanwhile one of both waits, and finds what the other has done.
        let archived = sqlx::query!(
            "SELECT month FROM payment_archived_month WHERE month = $1 AND sha256 = $2 FOR SHARE",
            month.first_day(),
            sha256
        )
        .fetch_optional(&mut *transaction)
        .await?;
        ensure!(archived.is_some(), "{month} has been restored meanwhile");
        load(&mut transaction, batch).await?;
        // The triggers take out of payment_rollup what this takes out of the ledger.
        let moved: i64 = sqlx::query_scalar(
            "WITH moved AS (
                DELETE FROM payment_processed p USING archive_line l
                WHERE p.correlation_id = l.correlation_id
                    AND (p.amount, p.processor, p.requested_at, p.accepted_at, p.settled_at,
                        p.attempt)
                      = (l.amount, l.processor, l.requested_at, l.accepted_at, l.settled_at,
                          l.attempt)
                RETURNING p.correlation_id, p.amount, p.processor, p.requested_at, p.accepted_at
            ), known AS (
                INSERT INTO payment_archived (correlation_id, amount, month)
                SELECT correlation_id, amount, $1 FROM moved ORDER BY correlation_id
            ), accepted AS (
                INSERT INTO payment_accepted_hour AS h (starts_at, archived, archived_amount)
                SELECT date_bin('1 hour', accepted_at, 'epoch'), count(*), sum(amount)
                    FROM moved GROUP BY 1 ORDER BY 1
                ON CONFLICT ON CONSTRAINT payment_accepted_hour_pkey DO UPDATE
                SET archived = h.archived + excluded.archived,
                    archived_amount = h.archived_amount + excluded.archived_amount
            ), counted AS (
                INSERT INTO payment_archived_hour AS h (starts_at, processor, fee_since, requests,
                    amount)
                SELECT date_bin('1 hour', m.requested_at, 'epoch'), m.processor, coalesce((
                        SELECT max(f.valid_from) FROM processor_fee f
                            WHERE f.processor = m.processor
                        AND f.valid_from > date_bin('1 hour', m.requested_at, 'epoch')
                            AND f.valid_from <= m.requested_at
                    ), '-infinity'), count(*), sum(m.amount)
                FROM moved m GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
                ON CONFLICT ON CONSTRAINT payment_archived_hour_pkey
                DO UPDATE SET requests = h.requests + excluded.requests,
                    amount = h.amount + excluded.amount
            )
            SELECT count(*) FROM moved",
        )
        .bind(month.first_day())
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        told.at(Doing::Moving, lines.payments);
        if moved > 0 {
            tokio::time::sleep(MOVE_PAUSE).await;
        }
    }
    finish(connection, month).await
}

/// Removes totals that came to nothing, a day at a time, and writes down that the month has been
/// moved.
async fn finish(connection: &mut PgConnection, month: Month) -> anyhow::Result<i64> {
    let mut day = month.start();
    while day < month.end() {
        let next = day + Days::new(1);
        sqlx::query!(
            "DELETE FROM payment_rollup WHERE unit IN ('second', 'minute', 'hour')
            AND starts_at >= $1 AND starts_at < $2 AND requests = 0 AND amount = 0",
            day,
            next
        )
        .execute(&mut *connection)
        .await?;
        day = next;
    }
    sqlx::query!(
        "UPDATE payment_archived_month SET moved_at = statement_timestamp() WHERE month = $1 AND \
        moved_at IS NULL",
        month.first_day()
    )
    .execute(&mut *connection)
    .await?;
    let (left, _) = totals(connection, month).await?;
    Ok(left)
}
