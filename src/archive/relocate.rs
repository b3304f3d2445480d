//! What is in the file of a month leaves the books.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::Days;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};

use super::export::load;
use super::{COLUMNS, Month};

/// Payments that move in one transaction, at most.
pub const MOVE_BATCH: usize = 500;
/// The pause after each, so that the service has the disk most of the time.
pub const MOVE_PAUSE: Duration = Duration::from_millis(50);

/// Moves what is in the file, where the books still say the same. Returns how many payments of the month are left in
/// the books.
pub(super) async fn relocate(
    connection: &mut PgConnection,
    month: Month,
    path: &Path,
    sha256: &str,
) -> anyhow::Result<i64> {
    let name = path.display();
    let mut whole = Lines::open(path).with_context(|| {
        format!("{month} was exported before, and some of it may only be there: {name}")
    })?;
    while whole.next(MOVE_BATCH)?.is_some() {}
    ensure!(
        whole.sha256() == sha256,
        "{name} is not the file that was verified: its SHA-256 must be {sha256}"
    );
    let mut lines = Lines::open(path)?;
    while let Some(batch) = lines.next(MOVE_BATCH)? {
        let mut transaction = connection.begin().await?;
        load(&mut transaction, batch).await?;
        // The triggers take out of payment_rollup what this takes out of the books.
        let moved: i64 = sqlx::query_scalar(
            "WITH moved AS (
                DELETE FROM payment_processed p USING archive_line l
                WHERE p.correlation_id = l.correlation_id
                    AND (p.amount, p.processor, p.requested_at, p.accepted_at, p.settled_at, p.attempt)
                      = (l.amount, l.processor, l.requested_at, l.accepted_at, l.settled_at, l.attempt)
                RETURNING p.correlation_id, p.amount, p.processor, p.requested_at
            ), known AS (
                INSERT INTO payment_archived (correlation_id, amount, month)
                SELECT correlation_id, amount, $1 FROM moved ORDER BY correlation_id
            ), counted AS (
                INSERT INTO payment_archived_hour AS h (starts_at, processor, requests, amount)
                SELECT date_bin('1 hour', requested_at, 'epoch'), processor, count(*), sum(amount)
                FROM moved GROUP BY 1, 2 ORDER BY 1, 2
                ON CONFLICT ON CONSTRAINT payment_archived_hour_pkey
                DO UPDATE SET requests = h.requests + excluded.requests, amount = h.amount + excluded.amount
            )
            SELECT count(*) FROM moved",
        )
        .bind(month.first_day())
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        if moved > 0 {
            tokio::time::sleep(MOVE_PAUSE).await;
        }
    }
    finish(connection, month).await
}

/// Removes totals that came to nothing, a day at a time, and writes down that the month has been moved.
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
        "UPDATE payment_archived_month SET moved_at = clock_timestamp() WHERE month = $1 AND moved_at IS NULL",
        month.first_day()
    )
    .execute(&mut *connection)
    .await?;
    let (left, _) = super::totals(connection, month).await?;
    Ok(left)
}

/// The lines of a file without its header, some at a time, and the SHA-256 of what was read.
pub(super) struct Lines {
    file: BufReader<File>,
    hash: Sha256,
}

impl Lines {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let mut lines = Self {
            file: BufReader::new(File::open(path)?),
            hash: Sha256::new(),
        };
        let header = lines.next(1)?.unwrap_or_default();
        ensure!(
            header.trim_ascii_end() == COLUMNS.as_bytes(),
            "{} does not begin with the names of the columns",
            path.display()
        );
        Ok(lines)
    }

    /// The next lines, at most so many; none at the end. No field of ours has a line break in it.
    pub(super) fn next(&mut self, count: usize) -> std::io::Result<Option<Vec<u8>>> {
        let mut lines = Vec::new();
        for _ in 0..count {
            if self.file.read_until(b'\n', &mut lines)? == 0 {
                break;
            }
        }
        self.hash.update(&lines);
        Ok((!lines.is_empty()).then_some(lines))
    }

    /// In hexadecimal.
    pub(super) fn sha256(self) -> String {
        self.hash
            .finalize()
            .iter()
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}
