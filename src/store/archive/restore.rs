//! A month comes back from its file to the ledger.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use super::export::Hours;
use super::file::{Content, Lines};
use super::rows::{load, totals};
use super::{ARCHIVES, Month, NAMED, begin};
use crate::config::DatabaseSettings;
use crate::store::database::{
    ANSWER_DEADLINE, RETRY_PAUSE, refuse_citus, session_options, with_deadline, with_short_locks,
};

/// Payments that are loaded by one statement, at most.
pub(crate) const RESTORE_BATCH: usize = 2_000;
/// As whom it connects.
const APPLICATION: &str = "payment-proxy restore";
/// How often the server is asked how the commit ended whose answer was lost, [`RETRY_PAUSE`] apart.
const COMMIT_QUESTIONS: u32 = 60;

/// What became of the restoration of a month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The month.
    pub month: Month,
    /// Its file.
    pub file: PathBuf,
    /// Payments in the file.
    pub payments: i64,
    /// Their sum.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub amount: Decimal,
    /// How it ended.
    pub state: Restoration,
    /// Payments of the month, the first [`NAMED`], that were recorded or changed after the export.
    pub late: Vec<Uuid>,
}

/// How a restoration ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Restoration {
    /// The file is complete; it would be restored, were it not a dry run.
    Due,
    /// Nothing was changed.
    Refused {
        /// Why not.
        reason: String,
    },
    /// Every payment of the file is in the ledger, and the month is not archived any more.
    Done,
}

/// What of the archived month the database knows.
struct Expected {
    sha256: String,
    payments: i64,
    amount: Decimal,
    exported_at: DateTime<Utc>,
    moved: bool,
}

/// Where the payments of the lines that were read are now.
#[derive(Default)]
struct Found {
    amount: Decimal,
    /// Moved back.
    moved: Hours,
    /// In the ledger, with a `requested_at` of the month.
    of_month: i64,
    /// In the ledger with other content than in the file.
    changed: Vec<Uuid>,
}

/// Takes the month back from its file in `folder`, in one transaction; with `dry_run` it only says
/// whether it would. Payments of the month that were recorded or changed after the export make it
/// refuse; with `keep_late` they stay as they are in the ledger, beside those of the file.
/// `progress` is told how many payments of how many are done. Where somebody holds a lock all of it
/// is done again, and the log says who.
///
/// # Errors
/// The file is not the one that was verified, the database refuses, or the connection is lost.
/// Nothing has changed then, unless the error says that it is not known how the commit ended.
pub async fn restore(
    settings: &DatabaseSettings,
    month: Month,
    folder: &Path,
    how: (bool, bool),
    progress: impl Fn(u64, u64),
) -> anyhow::Result<Restored> {
    let options = session_options(settings, APPLICATION).await?;
    let commits = Cell::new(false);
    let restored = with_short_locks(&options, ARCHIVES, "restore", async |connection| {
        refuse_citus(connection, "restore").await?;
        begin(connection).await?;
        let how = (how, &commits);
        one(connection, settings, month, folder, how, &progress).await
    })
    .await;
    match commits.get() {
        true => restored,
        false => restored.with_context(|| format!("{month}: nothing was changed")),
    }
}

/// One attempt, which changes nothing where it fails before it `commits`.
async fn one(
    connection: &mut PgConnection,
    settings: &DatabaseSettings,
    month: Month,
    folder: &Path,
    ((dry_run, keep_late), commits): ((bool, bool), &Cell<bool>),
    progress: &impl Fn(u64, u64),
) -> anyhow::Result<Restored> {
    let file = folder.join(month.file_name());
    let mut restored = Restored {
        month,
        file: file.clone(),
        payments: 0,
        amount: Decimal::ZERO,
        state: Restoration::Due,
        late: Vec::new(),
    };
    let Some(expected) = expected(connection, month).await? else {
        let reason = "it is not archived, so there is nothing to restore".to_owned();
        restored.state = Restoration::Refused { reason };
        return Ok(restored);
    };
    (restored.payments, restored.amount) = (expected.payments, expected.amount);
    // Before anything is locked. It is checked once more as it is loaded.
    Content::of(&file)?.expect(&file, &expected.sha256, expected.payments)?;
    if dry_run {
        if expected.moved {
            let (late, _) = totals(connection, month).await?;
            restored.late = super::in_ledger(connection, month).await?;
            restored.state = refused_for(late, keep_late).unwrap_or(Restoration::Due);
        }
        return Ok(restored);
    }
    let mut transaction = connection.begin().await?;
    // Nothing of it is loaded before these are free, rather than again and again.
    transaction
        .execute(
            "LOCK TABLE payment_archived, payment_archived_hour, payment_processed IN ROW \
            EXCLUSIVE MODE",
        )
        .await?;
    // A run of `archive`, or another of this, waits here or is waited for.
    let locked = sqlx::query!(
        "SELECT sha256 FROM payment_archived_month WHERE month = $1 FOR UPDATE",
        month.first_day()
    )
    .fetch_optional(&mut *transaction)
    .await?;
    ensure!(
        locked.is_some_and(|locked| locked.sha256 == expected.sha256),
        "it has been restored meanwhile by another run"
    );
    let found = load_all(&mut transaction, month, &file, &expected, progress).await?;
    let (in_month, _) = totals(&mut transaction, month).await?;
    let unmoved = i64::try_from(found.changed.len()).unwrap_or(i64::MAX);
    let late = in_month - found.of_month + unmoved;
    if late > 0 {
        restored.late = late_ids(&mut transaction, month, &expected, found.changed).await?;
    }
    if let Some(refused) = refused_for(late, keep_late) {
        restored.state = refused;
        transaction.rollback().await?;
        return Ok(restored);
    }
    sqlx::query!(
        "DELETE FROM payment_archived_month WHERE month = $1",
        month.first_day()
    )
    .execute(&mut *transaction)
    .await?;
    let number: String = sqlx::query_scalar("SELECT pg_current_xact_id()::text")
        .fetch_one(&mut *transaction)
        .await?;
    commits.set(true);
    if let Err(error) = with_deadline(transaction.commit()).await {
        let ended = how_it_ended(settings, &number).await;
        ended.with_context(|| format!("{month}: the commit failed: {error}"))?;
    }
    restored.state = Restoration::Done;
    Ok(restored)
}

fn refused_for(late: i64, keep_late: bool) -> Option<Restoration> {
    (late > 0 && !keep_late).then(|| Restoration::Refused {
        reason: format!(
            "{late} payments of the month were recorded or changed after the export; with --keep-late they stay as \
             they are, beside those of the file"
        ),
    })
}

async fn expected(
    connection: &mut PgConnection,
    month: Month,
) -> Result<Option<Expected>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT sha256, requests, amount, exported_at, moved_at FROM payment_archived_month WHERE \
        month = $1",
        month.first_day()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Expected {
        sha256: row.sha256,
        payments: row.requests,
        amount: row.amount,
        exported_at: row.exported_at,
        moved: row.moved_at.is_some(),
    }))
}

/// Moves the payments of all lines back, and compares what was read with what must be there.
async fn load_all(
    transaction: &mut PgConnection,
    month: Month,
    file: &Path,
    expected: &Expected,
    progress: &impl Fn(u64, u64),
) -> anyhow::Result<Found> {
    let mut lines = Lines::open(file)?;
    let mut found = Found::default();
    while let Some(batch) = lines.next(RESTORE_BATCH)? {
        let moving = move_back(transaction, month, batch, &mut found);
        let moved = tokio::time::timeout(ANSWER_DEADLINE, moving).await;
        moved.context("the database does not answer")??;
        progress(
            lines.payments.unsigned_abs(),
            expected.payments.unsigned_abs(),
        );
    }
    let read = Content {
        payments: lines.payments,
        sha256: lines.sha256(),
    };
    read.expect(file, &expected.sha256, expected.payments)?;
    ensure!(
        found.amount == expected.amount,
        "{} adds up to {}, which must be {}",
        file.display(),
        found.amount,
        expected.amount
    );
    let archived = sqlx::query!(
        r#"WITH gone AS (
            DELETE FROM payment_archived_hour WHERE starts_at >= $1 AND starts_at < $2
            RETURNING starts_at, processor, requests, amount
        )
        SELECT starts_at, processor, sum(requests)::bigint AS "payments!", sum(amount) AS "amount!"
        FROM gone GROUP BY starts_at, processor"#,
        month.start(),
        month.end()
    )
    .fetch_all(&mut *transaction)
    .await?;
    let archived = archived
        .into_iter()
        .map(|row| ((row.starts_at, row.processor), (row.payments, row.amount)));
    let archived: Hours = archived.collect();
    let hours = archived.keys().chain(found.moved.keys());
    for key in hours {
        let (hour, processor) = key;
        ensure!(
            archived.get(key) == found.moved.get(key),
            "payment_archived_hour and {} differ in the hour from {hour} at {processor}",
            file.display()
        );
    }
    Ok(found)
}

/// Moves the payments of these lines from what is archived to the ledger. One that has not been
/// moved yet, or was changed before it could be, stays as it is.
async fn move_back(
    transaction: &mut PgConnection,
    month: Month,
    batch: Vec<u8>,
    found: &mut Found,
) -> anyhow::Result<()> {
    transaction.execute("TRUNCATE archive_line").await?;
    load(transaction, batch).await?;
    // The table is this session's own, so these are not checked when they are compiled. The
    // triggers add to payment_rollup what this adds to the ledger, and refuse what is still
    // archived.
    let hours: Vec<(DateTime<Utc>, String, i64, Decimal)> = sqlx::query_as(
        "WITH known AS (
            DELETE FROM payment_archived a USING archive_line l
            WHERE a.correlation_id = l.correlation_id AND a.month = $1 AND a.amount = l.amount
            RETURNING a.correlation_id
        ), moved AS (
            INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, settled_at, attempt)
            SELECT l.correlation_id, l.amount, l.processor, l.requested_at, l.accepted_at,
                l.settled_at, l.attempt
            FROM archive_line l WHERE l.correlation_id IN (SELECT k.correlation_id FROM known k)
            ORDER BY l.correlation_id
            RETURNING amount, processor, requested_at, accepted_at
        ), accepted AS (
            -- What was archived before it was counted is not counted.
            UPDATE payment_accepted_hour h SET archived = greatest(h.archived - m.payments, 0),
                archived_amount = greatest(h.archived_amount - m.amount, 0)
            FROM (
                SELECT date_bin('1 hour', accepted_at, 'epoch') AS starts_at, count(*) AS payments,
                    sum(amount) AS amount
                FROM moved GROUP BY 1
            ) AS m WHERE h.starts_at = m.starts_at
        )
        SELECT date_bin('1 hour', requested_at, 'epoch'), processor, count(*), sum(amount)
            FROM moved GROUP BY 1, 2",
    )
    .bind(month.first_day())
    .fetch_all(&mut *transaction)
    .await?;
    let mut moved = 0;
    for (hour, processor, payments, amount) in hours {
        moved += payments;
        let total = found.moved.entry((hour, processor)).or_default();
        total.0 += payments;
        total.1 += amount;
    }
    let (lines, amount): (i64, Decimal) =
        sqlx::query_as("SELECT count(*), coalesce(sum(amount), 0) FROM archive_line")
            .fetch_one(&mut *transaction)
            .await?;
    found.amount += amount;
    if moved == lines {
        found.of_month += moved;
        return Ok(());
    }
    let ledger: Vec<(Uuid, bool, bool, bool)> = sqlx::query_as(
        "SELECT l.correlation_id, p.correlation_id IS NOT NULL,
            coalesce((p.amount, p.processor, p.requested_at, p.accepted_at, p.settled_at, p.attempt)
                   = (l.amount, l.processor, l.requested_at, l.accepted_at, l.settled_at,
                       l.attempt), false),
            coalesce(p.requested_at >= $1 AND p.requested_at < $2, false)
        FROM archive_line l LEFT JOIN payment_processed p ON p.correlation_id = l.correlation_id",
    )
    .bind(month.start())
    .bind(month.end())
    .fetch_all(&mut *transaction)
    .await?;
    for (id, known, same, of_month) in ledger {
        ensure!(
            known,
            "payment {id} of the file is neither archived with that amount in {month} nor in the \
            ledger"
        );
        found.of_month += i64::from(of_month);
        if !same {
            found.changed.push(id);
        }
    }
    Ok(())
}

/// The first [`NAMED`] payments of the month that were recorded or changed after the export.
async fn late_ids(
    transaction: &mut PgConnection,
    month: Month,
    expected: &Expected,
    changed: Vec<Uuid>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut ids = sqlx::query_scalar!(
        "SELECT correlation_id FROM payment_processed
        WHERE requested_at >= $1 AND requested_at < $2 AND settled_at > $3
            AND correlation_id <> ALL ($4)
        ORDER BY requested_at, correlation_id LIMIT $5",
        month.start(),
        month.end(),
        expected.exported_at,
        &changed,
        i64::try_from(NAMED).expect("a small number")
    )
    .fetch_all(transaction)
    .await?;
    ids.extend(changed);
    ids.truncate(NAMED);
    Ok(ids)
}

/// Asks the server how the transaction with that number ended, where its commit was not confirmed.
///
/// # Errors
/// It was not committed, or that cannot be found out.
async fn how_it_ended(settings: &DatabaseSettings, number: &str) -> anyhow::Result<()> {
    for question in 0..COMMIT_QUESTIONS {
        if question > 0 {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        match with_deadline(status(settings, number))
            .await
            .ok()
            .flatten()
            .as_deref()
        {
            Some("committed") => return Ok(()),
            Some("aborted") => bail!("nothing has changed"),
            // The server is away, or has not noticed yet that the connection is lost.
            _ => {}
        }
    }
    bail!(
        "nobody could say for {} s how it ended: either all of it is restored or nothing has \
        changed; run it again",
        (RETRY_PAUSE * COMMIT_QUESTIONS).as_secs()
    )
}

async fn status(settings: &DatabaseSettings, number: &str) -> Result<Option<String>, sqlx::Error> {
    let options = settings.direct_options(APPLICATION);
    let mut connection = ARCHIVES.connect(&options).await?;
    let status = sqlx::query_scalar("SELECT pg_xact_status($1::xid8)")
        .bind(number)
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(status)
}
