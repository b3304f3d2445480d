//! Archive: the settled payments of a past month go from the ledger to a file, while the service
//! runs, and come back.
//!
//! First they are exported: hour by hour into a CSV file, which is read back and must add up, for
//! each hour and processor, to the totals that the database keeps. Then exactly what is in that
//! file, line by line, moves from `payment_processed` to `payment_archived` (that the payment was
//! charged, and with what amount) and `payment_archived_hour` (the totals), in small transactions.
//! What was changed meanwhile stays in the ledger.
//!
//! It can be interrupted at any moment and run again: until the month is in
//! `payment_archived_month`, nothing has moved, and from then on the file is complete and on the
//! disk. No file is ever written over.
//!
//! [`restore()`] takes a month back, in one transaction. At every instant a payment is known in one
//! of both places.

mod export;
mod file;
mod month;
mod relocate;
mod restore;
mod rows;
mod step;

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::config::DatabaseSettings;
use crate::store::database::{Session, refuse_citus, session_options, with_short_locks};

pub use month::Month;
pub use restore::{Restoration, Restored, restore};
pub use step::{Doing, Step};

use rows::totals;
use step::Telling;

/// How long after its end a month may be archived at the earliest. Whatever was sent in it is
/// decided then, and nobody asks for parts of its last hour any more.
pub const REST: TimeDelta = TimeDelta::days(1);

/// Payments that are named one by one, at most; of more, their number is told.
pub const NAMED: usize = 20;

/// What became of a month, or would become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Archived {
    /// The month.
    pub month: Month,
    /// Its file.
    pub file: PathBuf,
    /// Payments in it.
    pub payments: i64,
    /// Their sum.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub amount: Decimal,
    /// How far it is.
    pub state: State,
    /// The first [`NAMED`] of those that [`State::Moved`] counts.
    pub left: Vec<Uuid>,
}

/// How far a month is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum State {
    /// It would be archived, were it not a dry run.
    Due,
    /// It is not archived now.
    Refused {
        /// Why not.
        reason: String,
    },
    /// It is archived.
    Moved {
        /// Payments of the month that are in the ledger all the same: they were recorded or changed
        /// after the export.
        left: i64,
    },
}

impl State {
    /// Whether nothing is left to do or to look into.
    #[must_use]
    pub fn is_well(&self) -> bool {
        matches!(self, Self::Due | Self::Moved { left: 0 })
    }
}

/// Archives the months before `before` into `folder`, the oldest first; with `dry_run` it only says
/// what it would do. `progress` is told of each step.
///
/// # Errors
/// A month is not over, the database refuses, the folder cannot be written to, or a file is not
/// what it should be. Doing it again goes on where it was.
pub async fn archive(
    settings: &DatabaseSettings,
    before: Month,
    folder: &Path,
    dry_run: bool,
    progress: impl Fn(Step),
) -> anyhow::Result<Vec<Archived>> {
    let mut connection = connect(settings, "payment-proxy archive").await?;
    refuse_citus(&mut connection, "archive").await?;
    let now: DateTime<Utc> = sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
        .fetch_one(&mut connection)
        .await?;
    anyhow::ensure!(
        before.start() <= now,
        "{before} has not begun: only months that are over can be archived"
    );
    let mut archived = Vec::new();
    let months = due(&mut connection, before).await?;
    connection.close().await?;
    let options = settings.direct_options("payment-proxy archive");
    for month in months {
        // What was done before a lock was not to be had is not done again: it goes on where it was.
        let done = with_short_locks(&options, ARCHIVES, "archive", async |connection| {
            begin(connection).await?;
            one(connection, month, now, folder, dry_run, &progress).await
        });
        archived.push(done.await?);
    }
    Ok(archived)
}

/// A connection on which no statement waits for long, or keeps anybody waiting.
async fn connect(settings: &DatabaseSettings, application: &str) -> anyhow::Result<PgConnection> {
    let options = session_options(settings, application).await?;
    let mut connection = ARCHIVES.connect(&options).await?;
    begin(&mut connection).await?;
    Ok(connection)
}

/// An hour of payments takes as long as it takes to be read.
const ARCHIVES: Session = Session {
    statement_timeout: Duration::ZERO,
    own: &[
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("enable_seqscan", "off"),
    ],
    by_key: false,
    ..Session::SERVICE
};

/// What of a file is compared is loaded into this session's own table.
async fn begin(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // As it stands in the file, line by line; whatever PostgreSQL wrote there it reads back.
    connection
        .execute(
            "CREATE TEMPORARY TABLE archive_line (LIKE payment_processed) ON COMMIT DELETE ROWS",
        )
        .await?;
    Ok(())
}

/// The months before `before` of which something is in the ledger, or may be since an archive was
/// interrupted.
async fn due(connection: &mut PgConnection, before: Month) -> Result<Vec<Month>, sqlx::Error> {
    let months = sqlx::query_scalar!(
        r#"SELECT m.month AS "month!" FROM (
            SELECT date_trunc('month', starts_at AT TIME ZONE 'UTC')::date FROM payment_rollup
            WHERE unit = 'hour' AND starts_at < $1 AND requests <> 0
            UNION
            SELECT month FROM payment_archived_month WHERE moved_at IS NULL
        ) AS m (month)
        WHERE m.month < ($1 AT TIME ZONE 'UTC')::date
        ORDER BY 1"#,
        before.start()
    )
    .fetch_all(connection)
    .await?;
    Ok(months.into_iter().map(Month::of).collect())
}

async fn one(
    connection: &mut PgConnection,
    month: Month,
    now: DateTime<Utc>,
    folder: &Path,
    dry_run: bool,
    progress: &dyn Fn(Step),
) -> anyhow::Result<Archived> {
    let exported = sqlx::query!(
        "SELECT sha256, requests, amount, moved_at FROM payment_archived_month WHERE month = $1",
        month.first_day()
    )
    .fetch_optional(&mut *connection)
    .await?;
    let file = folder.join(month.file_name());
    let result = |payments, amount, state| Archived {
        month,
        file: file.clone(),
        payments,
        amount,
        state,
        left: Vec::new(),
    };
    let (sha256, payments, amount) = match exported {
        Some(exported) if exported.moved_at.is_some() => {
            let (left, _) = totals(connection, month).await?;
            let moved = result(exported.requests, exported.amount, State::Moved { left });
            let left = in_ledger(connection, month).await?;
            return Ok(Archived { left, ..moved });
        }
        Some(exported) if dry_run => {
            return Ok(result(exported.requests, exported.amount, State::Due));
        }
        Some(exported) => (exported.sha256, exported.requests, exported.amount),
        None => {
            let (payments, amount) = totals(connection, month).await?;
            let reason = refusal(connection, month, now).await?;
            if let Some(reason) = reason {
                return Ok(result(payments, amount, State::Refused { reason }));
            }
            if dry_run {
                return Ok(result(payments, amount, State::Due));
            }
            let told = Telling {
                month,
                of: payments,
                progress,
            };
            let exported = export::export(connection, &told, folder).await?;
            (exported.sha256, exported.payments, exported.amount)
        }
    };
    let told = Telling {
        month,
        of: payments,
        progress,
    };
    let left = relocate::relocate(connection, &told, &file, &sha256).await?;
    let moved = result(payments, amount, State::Moved { left });
    let left = in_ledger(connection, month).await?;
    Ok(Archived { left, ..moved })
}

/// Ids of payments of a month that are in the ledger, the first [`NAMED`].
async fn in_ledger(connection: &mut PgConnection, month: Month) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT correlation_id FROM payment_processed WHERE requested_at >= $1 AND requested_at < $2
        ORDER BY requested_at, correlation_id LIMIT $3",
        month.start(),
        month.end(),
        i64::try_from(NAMED).expect("a small number")
    )
    .fetch_all(connection)
    .await
}

/// Why a month cannot be archived yet.
async fn refusal(
    connection: &mut PgConnection,
    month: Month,
    now: DateTime<Utc>,
) -> Result<Option<String>, sqlx::Error> {
    if now < month.end() + REST {
        return Ok(Some(format!(
            "it ended less than {} hours ago",
            REST.num_hours()
        )));
    }
    let row = sqlx::query!(
        r#"SELECT
            (SELECT count(*) FROM payment_queue WHERE requested_at >= $1
                AND requested_at < $2) AS "open!",
            (SELECT count(*) FROM payment_dead_letter WHERE requested_at >= $1
                AND requested_at < $2) AS "dead!""#,
        month.start(),
        month.end()
    )
    .fetch_one(connection)
    .await?;
    Ok(match (row.open, row.dead) {
        (0, 0) => None,
        (0, dead) => Some(format!(
            "{dead} dead letters may have been charged in it: retry or discard them"
        )),
        (open, _) => Some(format!(
            "{open} payments in the queue may have been charged in it, and their processor is \
            still asked"
        )),
    })
}
