//! Divide: all payments of one database move into the cells of a deployment, while instances serve
//! from it.
//!
//! The ledger is copied while payments are accepted and settled. Then the old database is closed
//! for ever, the rest is copied, and the cells are opened. Only in between posts are refused.
//!
//! No payment is lost or charged again, because
//! - nobody serves from a cell before [`open`]: `filling_from` stands in its row of `deployment`,
//!   and admission goes by that row;
//! - nobody writes to the old database after [`close`]: triggers refuse it, in every session of
//!   every program, also to a statement that had begun to wait before. So what is copied after that
//!   is all there ever will be;
//! - the ledger is copied completely: a copied row is one of the ledger, rows there are only added
//!   (any other change leaves a trace in `ledger_change`, by which the copy is refused), and at the
//!   end the totals that triggers keep are the same, second by second;
//! - where a payment may have been charged is copied with it, and its lease and doubt last at least
//!   as long as they would have, by the clock of the cell.
//!
//! It can be interrupted at any moment and run again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt as _;
use rust_decimal::Decimal;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use uuid::Uuid;

use crate::config::{DatabaseSettings, MigrateSettings};
use crate::domain::cell::{Cell, Cells};
use crate::store::database::{
    Found as Serves, ServingPoll, Session, of_cell, refuse_citus, serving, session_options,
    with_short_locks,
};

const APPLICATION: &str = "payment-proxy divide";
/// Payments that are copied in one transaction, about: those of a second are not divided.
const COPY_BATCH: i64 = 50_000;
/// Payments that are copied once more, at most, to save a transaction for those behind them.
const COPIED_AGAIN: i64 = 500;
/// Once a pass has copied no more payments than these, the rest can be copied while clients wait.
const LAST_PASS: u64 = 5_000;
/// Passes before clients wait, at most: the last ones copy what came during the one before.
const PASSES: usize = 12;

/// To read a range of the ledger takes as long as it takes.
const DIVIDES: Session = Session {
    statement_timeout: Duration::ZERO,
    by_key: false,
    ..Session::SERVICE
};

/// What is refused once a database is closed.
const CLOSED_TABLES: [&str; 3] = ["payment_queue", "payment_processed", "payment_dead_letter"];

/// Tables that are copied when the old database is closed, and which rows of them. `{own}`: those
/// of payments that live in the cell.
const TABLES: [(&str, &str); 8] = [
    ("payment_dead_letter", "{own}"),
    // Those of settled payments come with the ledger.
    (
        "payment_attempt",
        "{own} AND NOT EXISTS (
            SELECT FROM payment_processed p WHERE p.correlation_id = r.correlation_id
        )",
    ),
    ("payment_decision", "{own}"),
    ("reconcile_finding", "{own}"),
    ("processor_fee", "true"),
    ("processor_health", "{first}"),
    ("processor_switch", "{first}"),
    ("operator_session_revoked", "{first}"),
];

/// What moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divided {
    /// Settled payments.
    pub settled: i64,
    /// Payments that are not settled yet.
    pub open: i64,
    /// Dead letters.
    pub dead: i64,
    /// For how long posts have been refused.
    pub closed_for: Duration,
}

/// A cell that is filled.
struct Target {
    cell: Cell,
    connection: PgConnection,
}

/// Moves all payments of the database `from` into the cells, which are migrated and empty, or were
/// left by an earlier run.
///
/// # Errors
/// A database did not answer; `from` is not the only one of its deployment, holds archived months,
/// or has something that operators have to see to; a cell holds other payments. Where the old
/// database was closed and no cell opened yet it is opened again.
pub async fn divide(
    from: &DatabaseSettings,
    cells: &Cells<MigrateSettings>,
) -> anyhow::Result<Divided> {
    ensure!(
        cells.len() > 1,
        "DATABASE_URL has one URL: give those of all cells"
    );
    let options = session_options(from, APPLICATION).await?;
    let mut source = DIVIDES.connect(&options).await?;
    refuse_citus(&mut source, "divide").await?;
    let mut targets = Vec::new();
    for (cell, settings) in cells.each() {
        let connection = connect(&settings.owner()).await;
        let mut connection = connection.map_err(|error| of_cell(cell, error))?;
        refuse_citus(&mut connection, "divide").await?;
        targets.push(Target { cell, connection });
    }
    let (deployment, found) = begin(&mut source, &mut targets).await?;
    if found == Found::Untouched {
        for pass in 1..=PASSES {
            let payments = copy_ledger(&mut source, &mut targets).await?;
            tracing::info!(pass, payments, "settled payments copied");
            if payments <= LAST_PASS {
                break;
            }
        }
    }
    let closed_at = Instant::now();
    with_short_locks(&options, DIVIDES, "divide", async |connection| {
        close(connection, deployment).await
    })
    .await?;
    tracing::info!("the old database takes no more payments");
    if found != Found::Opened
        && let Err(error) = finish(&mut source, &mut targets).await
    {
        // No cell was opened: it goes on as before.
        let opened = with_short_locks(&options, DIVIDES, "divide", async |connection| {
            open_again(connection).await
        });
        opened.await.with_context(|| {
            format!("the old database could not be opened again after {error:#}; run it again")
        })?;
        return Err(error.context("the old database takes payments again"));
    }
    let settled: i64 = sqlx::query_scalar(
        "SELECT coalesce(sum(requests), 0)::bigint FROM payment_rollup WHERE unit = 'hour'",
    )
    .fetch_one(&mut source)
    .await?;
    let (open_payments, dead, _) = count(&mut source).await?;
    let terms: Option<String> = sqlx::query_scalar("SELECT terms::text FROM deployment")
        .fetch_one(&mut source)
        .await?;
    for target in &mut targets {
        let opened = open(&mut target.connection, terms.as_deref()).await;
        let again = "not all cells are open; run it again";
        opened.map_err(|error| of_cell(target.cell, error.context(again)))?;
    }
    Ok(Divided {
        settled,
        open: open_payments,
        dead,
        closed_for: closed_at.elapsed(),
    })
}

async fn connect(settings: &DatabaseSettings) -> anyhow::Result<PgConnection> {
    let options = session_options(settings, APPLICATION).await?;
    Ok(DIVIDES.connect(&options).await?)
}

/// What a copy is of: the database, and the last change of a payment that was settled there.
async fn state_of(source: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT format('%s, change %s', database_identity(),
            (SELECT coalesce(max(id), 0) FROM ledger_change))",
    )
    .fetch_one(source)
    .await
}

/// How far an earlier run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The old database takes payments.
    Untouched,
    /// It was closed.
    Closed,
    /// All cells were found to be complete, and at least one of them was opened.
    Opened,
}

/// Checks that it can be done, and keeps everybody from serving from the cells. Returns their
/// deployment, and how far an earlier run has come.
async fn begin(source: &mut PgConnection, targets: &mut [Target]) -> anyhow::Result<(Uuid, Found)> {
    let row = sqlx::query(
        "SELECT d.cells, d.divided_into, d.asks_first,
            EXISTS (SELECT FROM payment_archived_month) AS archived,
            EXISTS (SELECT FROM payment_queue_emptied WHERE acknowledged_at IS NULL) AS emptied
        FROM deployment d",
    )
    .fetch_one(&mut *source)
    .await?;
    let (of, into): (i32, Option<Uuid>) = (row.try_get("cells")?, row.try_get("divided_into")?);
    ensure!(of == 1, "the old database is a cell already: of {of}");
    for (column, reason) in [
        (
            "asks_first",
            "a restore of the old database is not over: `payment-proxy deployment declare checked`",
        ),
        (
            "emptied",
            "the queue of the old database was emptied: see to what was lost, and then \
            `payment-proxy deployment acknowledge`",
        ),
        (
            "archived",
            "months of the old database are archived: restore them, and archive them in the cells",
        ),
    ] {
        ensure!(!row.try_get::<bool, _>(column)?, reason);
    }
    let state = state_of(source).await?;
    let mut deployment = Uuid::nil();
    let mut found = into.map_or(Found::Untouched, |_| Found::Closed);
    for target in targets {
        let begun = begin_in(target, &state, into).await;
        let (known, is_open) = begun.map_err(|error| of_cell(target.cell, error))?;
        deployment = known;
        if is_open {
            found = Found::Opened;
        }
    }
    Ok((deployment, found))
}

/// Marks a cell as one that is being filled, if it is empty. Returns its deployment, and whether an
/// earlier run has opened it.
async fn begin_in(
    target: &mut Target,
    state: &str,
    into: Option<Uuid>,
) -> anyhow::Result<(Uuid, bool)> {
    let served = "instances serve from it: stop them first";
    ensure!(
        serving(&mut target.connection).await?.is_empty() || into.is_some(),
        served
    );
    let mut transaction = target.connection.begin().await?;
    // Whoever asks for admission waits for this row.
    let row = sqlx::query(
        "SELECT id, filling_from,
            EXISTS (SELECT FROM payment_queue) OR EXISTS (SELECT FROM payment_processed)
            OR EXISTS (SELECT FROM payment_dead_letter) OR EXISTS (SELECT FROM payment_archived)
            AS has_payments
        FROM deployment FOR UPDATE",
    )
    .fetch_one(&mut *transaction)
    .await?;
    let deployment: Uuid = row.try_get("id")?;
    ensure!(
        into.is_none_or(|into| into == deployment),
        "it is of deployment {deployment}, and the old database was divided into the cells of \
        another: {}",
        into.unwrap_or_default()
    );
    let filling: Option<String> = row.try_get("filling_from")?;
    if filling.is_none() && into.is_some() {
        return Ok((deployment, true));
    }
    if let Some(found) = filling {
        ensure!(
            found == state,
            "it holds a copy of {found}, and the old database is {state}: settled payments were \
            changed or removed there since. Make the databases of the cells anew"
        );
        return Ok((deployment, false));
    }
    let holds: bool = row.try_get("has_payments")?;
    ensure!(!holds, "it holds payments: only empty cells are filled");
    let poll = ServingPoll::default().poll(&mut transaction, None).await?;
    ensure!(!matches!(poll, Serves::Serving(_)), served);
    sqlx::query("UPDATE deployment SET filling_from = $1")
        .bind(state)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok((deployment, false))
}

/// Number and sum of the payments of a unit of time and a processor.
type Totals = BTreeMap<(DateTime<Utc>, String), (i64, Decimal)>;

/// The totals of a database by that unit: of all times, or of those from the first to before the
/// second.
async fn totals(
    connection: &mut PgConnection,
    unit: &str,
    range: Option<(DateTime<Utc>, DateTime<Utc>)>,
) -> Result<Totals, sqlx::Error> {
    let (from, to) = range.unzip();
    let rows: Vec<(DateTime<Utc>, String, i64, Decimal)> = sqlx::query_as(
        "SELECT starts_at, processor, requests, amount FROM payment_rollup
        WHERE unit = $1 AND starts_at >= coalesce($2::timestamptz, '-infinity')
            AND starts_at < coalesce($3::timestamptz, 'infinity') AND (requests, amount) <> (0, 0)",
    )
    .bind(unit)
    .bind(from)
    .bind(to)
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|(at, processor, requests, amount)| ((at, processor), (requests, amount)))
        .collect())
}

/// The totals of the source by that unit, and at which times those of the cells differ from them.
async fn compare(
    source: &mut PgConnection,
    targets: &mut [Target],
    unit: &str,
    range: Option<(DateTime<Utc>, DateTime<Utc>)>,
) -> anyhow::Result<(Totals, BTreeSet<DateTime<Utc>>)> {
    let mut copied = Totals::new();
    for target in targets {
        let own = totals(&mut target.connection, unit, range).await;
        for (key, (requests, amount)) in own.map_err(|error| of_cell(target.cell, error.into()))? {
            let sum = copied.entry(key).or_default();
            *sum = (sum.0 + requests, sum.1 + amount);
        }
    }
    let expected = totals(source, unit, range).await?;
    let keys = expected.keys().chain(copied.keys());
    let differ = keys.filter(|key| expected.get(*key) != copied.get(*key));
    let differ = differ.map(|(at, _)| *at).collect();
    Ok((expected, differ))
}

/// Copies the settled payments that the cells do not have. Returns how many.
async fn copy_ledger(source: &mut PgConnection, targets: &mut [Target]) -> anyhow::Result<u64> {
    let mut copied = 0;
    let (_, hours) = compare(source, targets, "hour", None).await?;
    for hour in hours {
        let range = (hour, hour + TimeDelta::hours(1));
        let (expected, differ) = compare(source, targets, "second", Some(range)).await?;
        let mut counts: BTreeMap<DateTime<Utc>, i64> = BTreeMap::new();
        for ((second, _), (requests, _)) in expected {
            *counts.entry(second).or_default() += requests;
        }
        for (from, to) in ranges(&counts, &differ) {
            for target in &mut *targets {
                let there = copy_range(source, target, (from, to)).await;
                copied += there.map_err(|error| of_cell(target.cell, error))?;
            }
        }
    }
    Ok(copied)
}

/// Ranges that hold all seconds that differ, each of about [`COPY_BATCH`] payments.
fn ranges(
    counts: &BTreeMap<DateTime<Utc>, i64>,
    differ: &BTreeSet<DateTime<Utc>>,
) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let mut ranges: Vec<(DateTime<Utc>, DateTime<Utc>)> = Vec::new();
    let (mut payments, mut again) = (0, 0);
    for (second, count) in counts {
        if !differ.contains(second) {
            again += count;
            continue;
        }
        let end = *second + TimeDelta::seconds(1);
        match ranges.last_mut() {
            Some((_, to)) if again <= COPIED_AGAIN && payments < COPY_BATCH => *to = end,
            _ => {
                ranges.push((*second, end));
                payments = 0;
            }
        }
        payments += count;
        again = 0;
    }
    ranges
}

/// Copies the payments of a cell that were settled in that time, and their attempts. Returns how
/// many were new.
async fn copy_range(
    source: &mut PgConnection,
    target: &mut Target,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> anyhow::Result<u64> {
    let own = own("r", target.cell);
    let (from, to) = (from.to_rfc3339(), to.to_rfc3339());
    let settled = format!("r.requested_at >= '{from}' AND r.requested_at < '{to}' AND {own}");
    let mut transaction = target.connection.begin().await?;
    let rows = format!("SELECT r.* FROM payment_processed r WHERE {settled}");
    load(source, &mut transaction, "payment_processed", &rows).await?;
    // They count as accepted, in the hour in which they were.
    let new: i64 = sqlx::query_scalar(
        "WITH new AS (
            INSERT INTO payment_processed SELECT * FROM copied ORDER BY correlation_id
            ON CONFLICT ON CONSTRAINT payment_processed_pkey DO NOTHING
            RETURNING accepted_at, amount
        ), counted AS (
            INSERT INTO payment_accepted_hour AS h (starts_at, payments, amount)
            SELECT date_bin('1 hour', accepted_at, 'epoch'), count(*), sum(amount) FROM new
            GROUP BY 1 ORDER BY 1
            ON CONFLICT ON CONSTRAINT payment_accepted_hour_pkey DO UPDATE
            SET payments = h.payments + excluded.payments, amount = h.amount + excluded.amount
        )
        SELECT count(*) FROM new",
    )
    .fetch_one(&mut *transaction)
    .await?;
    let rows = format!(
        "SELECT a.* FROM payment_processed r
        JOIN payment_attempt a ON a.correlation_id = r.correlation_id WHERE {settled}"
    );
    copy(source, &mut transaction, "payment_attempt", &rows).await?;
    transaction.commit().await?;
    Ok(u64::try_from(new).unwrap_or_default())
}

/// Whether a payment lives in that cell, in SQL.
fn own(table: &str, cell: Cell) -> String {
    let (number, of) = (cell.number(), cell.of());
    format!("cell_of_payment({table}.correlation_id, {of}) = {number}")
}

/// Loads rows of the source into the table `copied` of a transaction, which is made like `table`.
async fn load(
    source: &mut PgConnection,
    transaction: &mut PgConnection,
    table: &str,
    rows: &str,
) -> anyhow::Result<()> {
    let make = format!(
        "DROP TABLE IF EXISTS pg_temp.copied;
        CREATE TEMPORARY TABLE copied (LIKE {table}) ON COMMIT DROP"
    );
    sqlx::raw_sql(AssertSqlSafe(make))
        .execute(&mut *transaction)
        .await?;
    load_into(source, transaction, rows).await
}

/// Loads rows of the source into the table `copied`.
async fn load_into(
    source: &mut PgConnection,
    transaction: &mut PgConnection,
    rows: &str,
) -> anyhow::Result<()> {
    let out = format!("COPY ({rows}) TO STDOUT (FORMAT binary)");
    let mut out = source.copy_out_raw(&out).await?;
    let mut into = transaction
        .copy_in_raw("COPY pg_temp.copied FROM STDIN (FORMAT binary)")
        .await?;
    while let Some(bytes) = out.try_next().await? {
        into.send(bytes).await?;
    }
    into.finish().await?;
    Ok(())
}

/// Copies rows of the source that the table of the transaction does not have.
async fn copy(
    source: &mut PgConnection,
    transaction: &mut PgConnection,
    table: &str,
    rows: &str,
) -> anyhow::Result<()> {
    load(source, transaction, table, rows).await?;
    let insert = format!("INSERT INTO {table} SELECT * FROM copied ON CONFLICT DO NOTHING");
    sqlx::raw_sql(AssertSqlSafe(insert))
        .execute(transaction)
        .await?;
    Ok(())
}

/// Closes the old database for ever: its payments live in the cells of `deployment`.
async fn close(connection: &mut PgConnection, deployment: Uuid) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    let closed: Option<Uuid> = sqlx::query_scalar("SELECT divided_into FROM deployment FOR UPDATE")
        .fetch_one(&mut *transaction)
        .await?;
    if closed.is_some() {
        return Ok(());
    }
    sqlx::query("UPDATE deployment SET divided_into = $1")
        .bind(deployment)
        .execute(&mut *transaction)
        .await?;
    for table in CLOSED_TABLES {
        let trigger = format!(
            "CREATE TRIGGER refuse_divided
            BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_divided('{deployment}')"
        );
        sqlx::raw_sql(AssertSqlSafe(trigger))
            .execute(&mut *transaction)
            .await?;
    }
    Ok(transaction.commit().await?)
}

/// Takes back what [`close`] has done.
async fn open_again(connection: &mut PgConnection) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    for table in CLOSED_TABLES {
        let trigger = format!("DROP TRIGGER IF EXISTS refuse_divided ON {table}");
        sqlx::raw_sql(AssertSqlSafe(trigger))
            .execute(&mut *transaction)
            .await?;
    }
    sqlx::query("UPDATE deployment SET divided_into = NULL")
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}

/// Copies the rest from the closed source, and checks that the cells have all of it.
async fn finish(source: &mut PgConnection, targets: &mut [Target]) -> anyhow::Result<()> {
    copy_ledger(source, targets).await?;
    let (_, differ) = compare(source, targets, "hour", None).await?;
    let state = state_of(source).await?;
    let mut counted = (0, 0, 0);
    for target in &mut *targets {
        let cell = target.cell;
        let copied = copy_rest(source, target, &state).await;
        let (open, dead, decisions) = copied.map_err(|error| of_cell(cell, error))?;
        counted = (counted.0 + open, counted.1 + dead, counted.2 + decisions);
    }
    let all = count(source).await?;
    ensure!(
        differ.is_empty() && counted == all,
        "the cells have not what the old database has: hours that differ are {differ:?}, and open \
        payments, dead letters and decisions are {counted:?} instead of {all:?}"
    );
    Ok(())
}

/// Open payments, dead letters, decisions.
async fn count(connection: &mut PgConnection) -> Result<(i64, i64, i64), sqlx::Error> {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM payment_queue), (SELECT count(*) FROM payment_dead_letter),
            (SELECT count(*) FROM payment_decision)",
    )
    .fetch_one(connection)
    .await
}

/// Copies what is not in the ledger into a cell, in one transaction.
async fn copy_rest(
    source: &mut PgConnection,
    target: &mut Target,
    state: &str,
) -> anyhow::Result<(i64, i64, i64)> {
    let cell = target.cell;
    let mut transaction = target.connection.begin().await?;
    let filling: Option<String> = sqlx::query_scalar("SELECT filling_from FROM deployment")
        .fetch_one(&mut *transaction)
        .await?;
    ensure!(
        filling.as_deref() == Some(state),
        "settled payments of the old database were changed or removed meanwhile: make the \
        databases of the cells anew"
    );
    let of =
        |which: &str, own: &str, first: &str| which.replace("{own}", own).replace("{first}", first);
    for (table, which) in TABLES {
        // What a run has copied that was broken off may have changed since.
        let clear = format!("DELETE FROM {table} r WHERE {}", of(which, "true", "true"));
        sqlx::raw_sql(AssertSqlSafe(clear))
            .execute(&mut *transaction)
            .await?;
        let rows = of(which, &own("r", cell), &cell.is_first().to_string());
        let rows = format!("SELECT r.* FROM {table} r WHERE {rows}");
        copy(source, &mut transaction, table, &rows).await?;
    }
    copy_queue(source, &mut transaction, cell).await?;
    let counted = count(&mut transaction).await?;
    transaction.commit().await?;
    Ok(counted)
}

/// Copies the queue, in its order. Leases and doubts go over as the time that is left of them,
/// which begins anew: two servers have two clocks.
async fn copy_queue(
    source: &mut PgConnection,
    transaction: &mut PgConnection,
    cell: Cell,
) -> anyhow::Result<()> {
    sqlx::raw_sql(
        "DELETE FROM payment_queue;
        DROP TABLE IF EXISTS pg_temp.copied;
        CREATE TEMPORARY TABLE copied (
            id bigint, correlation_id uuid, amount numeric, accepted_at timestamptz,
            attempt integer, processor text, requested_at timestamptz, traceparent text,
            lease interval, doubt interval
        ) ON COMMIT DROP",
    )
    .execute(&mut *transaction)
    .await?;
    let rows = format!(
        "SELECT r.id, r.correlation_id, r.amount, r.accepted_at, r.attempt, r.processor,
            r.requested_at, r.traceparent,
            CASE WHEN r.lease_until > clock_timestamp() THEN r.lease_until - clock_timestamp() END,
            CASE WHEN r.doubt_until > clock_timestamp() THEN r.doubt_until - clock_timestamp() END
        FROM payment_queue r WHERE {}",
        own("r", cell)
    );
    load_into(source, transaction, &rows).await?;
    sqlx::raw_sql(
        "INSERT INTO payment_queue (correlation_id, amount, accepted_at, attempt, processor,
            requested_at, traceparent, lease_until, doubt_until)
        SELECT correlation_id, amount, accepted_at, attempt, processor, requested_at, traceparent,
            coalesce(clock_timestamp() + lease, '-infinity'),
            CASE WHEN processor IS NOT NULL
                THEN clock_timestamp() + coalesce(doubt, interval '0') END
        FROM copied ORDER BY id",
    )
    .execute(transaction)
    .await?;
    Ok(())
}

/// Opens a cell that is filled.
async fn open(connection: &mut PgConnection, terms: Option<&str>) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    let filling: Option<String> =
        sqlx::query_scalar("SELECT filling_from FROM deployment FOR UPDATE")
            .fetch_one(&mut *transaction)
            .await?;
    if filling.is_none() {
        return Ok(());
    }
    sqlx::raw_sql(
        "INSERT INTO payment_accepted_hour AS h (starts_at, payments, amount)
        SELECT date_bin('1 hour', accepted_at, 'epoch'), count(*), sum(amount) FROM (
            SELECT accepted_at, amount FROM payment_queue
            UNION ALL SELECT accepted_at, amount FROM payment_dead_letter
            UNION ALL SELECT accepted_at, amount FROM payment_decision
                WHERE decision = 'discarded'
        ) AS known
        GROUP BY 1 ORDER BY 1
        ON CONFLICT ON CONSTRAINT payment_accepted_hour_pkey DO UPDATE
        SET payments = h.payments + excluded.payments, amount = h.amount + excluded.amount",
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "UPDATE deployment SET filling_from = NULL, terms = $1::text::jsonb,
            terms_at = clock_timestamp()",
    )
    .bind(terms)
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_that_differs_is_copied_and_few_others() {
        let at = |second: i64| DateTime::UNIX_EPOCH + TimeDelta::seconds(second);
        let counts = |each: &[(i64, i64)]| -> BTreeMap<DateTime<Utc>, i64> {
            each.iter()
                .map(|(second, count)| (at(*second), *count))
                .collect()
        };
        let differ = |seconds: &[i64]| -> BTreeSet<DateTime<Utc>> {
            seconds.iter().map(|second| at(*second)).collect()
        };
        let found = ranges(
            &counts(&[
                (0, 5),
                (7, 5),
                (8, COPIED_AGAIN),
                (9, 5),
                (10, COPIED_AGAIN + 1),
                (20, 1),
            ]),
            &differ(&[0, 9, 20]),
        );
        // Second 7 and 8 together are more than is copied again.
        assert_eq!(found, [(at(0), at(1)), (at(9), at(10)), (at(20), at(21))]);
        let found = ranges(&counts(&[(0, 5), (7, 5), (9, 5)]), &differ(&[0, 9]));
        assert_eq!(found, [(at(0), at(10))]);
        let full = counts(&[(0, COPY_BATCH), (1, 1), (2, 1)]);
        let found = ranges(&full, &differ(&[0, 1, 2]));
        assert_eq!(found, [(at(0), at(1)), (at(1), at(3))]);
        assert_eq!(ranges(&full, &differ(&[])), []);
    }
}
