//! Archive and restore move a payment between the ledger and a file, while somebody brings it
//! again.

use chrono::{DateTime, Utc};
use payment_proxy::config::QueueDurability;
use payment_proxy::store::archive::{archive, restore};
use tempfile::TempDir;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::moves::{ACCEPTS, Move, Start};
use super::site::{Gate, Site, Subject};
use crate::archive::month;
use crate::support::{eventually_some, hold};

/// When the payments of these tests were charged.
const CHARGED_AT: &str = "2025-06-01T01:00:00Z";

/// What else the queue has of a payment that is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    None,
    Queued,
    Assigned,
}

/// A payment that `processor` charged in June, and nothing else but that row.
async fn settled(site: &Site, processor: &str, row: Row) -> Subject {
    let mut subject = site.start(Start::InFlight).await;
    let requested_at: DateTime<Utc> = CHARGED_AT.parse().expect("a time");
    if let Some(claim) = &mut subject.claim {
        claim.requested_at = requested_at;
    }
    let id = subject.payment.correlation_id;
    site.database
        .execute(&format!(
            "DELETE FROM payment_queue; DELETE FROM payment_archived;
            DELETE FROM payment_archived_hour; DELETE FROM payment_archived_month;
            INSERT INTO payment_processed
                (correlation_id, amount, processor, requested_at, accepted_at, attempt)
            VALUES ('{id}', 19.90, '{processor}', '{CHARGED_AT}', '{CHARGED_AT}', 1)"
        ))
        .await;
    match row {
        Row::None => {}
        Row::Queued => {
            let insert = format!("INSERT INTO payment_queue VALUES (DEFAULT, '{id}', 19.90)");
            site.database.execute(&insert).await;
        }
        Row::Assigned => hold(&site.database, id).await,
    }
    subject
}

fn archiving(site: &Site, folder: &TempDir) -> JoinHandle<anyhow::Result<()>> {
    let settings = site.database.settings(QueueDurability::Unlogged);
    let folder = folder.path().to_owned();
    spawn_local(async move {
        let archived = archive(&settings, month("2025-07"), &folder, false, |_| {}).await?;
        anyhow::ensure!(archived[0].state.is_well(), "{archived:?}");
        Ok(())
    })
}

fn restoring(site: &Site, folder: &TempDir) -> JoinHandle<anyhow::Result<()>> {
    let settings = site.database.settings(QueueDurability::Unlogged);
    let folder = folder.path().to_owned();
    spawn_local(async move {
        let how = (false, false);
        restore(&settings, month("2025-06"), &folder, how, |_, _| {}).await?;
        Ok(())
    })
}

/// What a statement does that meets a run which has moved the payment and has not committed:
/// whether it waits, what it does, and the state then, if the run commits and if it is broken off.
type Met = (Row, Move, bool, [&'static str; 2], [&'static str; 2]);

async fn meet(
    site: &Site,
    gate: &Gate,
    runs: fn(&Site, &TempDir) -> JoinHandle<anyhow::Result<()>>,
    met: &[Met],
) {
    let is_restored = std::ptr::fn_addr_eq(runs, restoring as fn(&Site, &TempDir) -> _);
    for (row, second, waits, committed, broken_off) in met {
        for commits in [true, false] {
            // What reconcile finds is another charge than the one that is recorded.
            let recorded = match second.charged_by() {
                Some(_) => "fallback",
                None => "default",
            };
            let subject = settled(site, recorded, *row).await;
            if let Some(processor) = second.charged_by() {
                site.charge(processor, &subject).await;
            }
            let folder = tempfile::tempdir().expect("a folder");
            if is_restored {
                gate.open().await;
                let archived = archiving(site, &folder).await.expect("no panic");
                archived.expect("it is archived");
                gate.close().await;
            }
            let run = runs(site, &folder);
            let pid = gate.stopped().await;
            let other = site.spawn(*second, &subject);
            let has_waited = site.meets(&other, site.second.pid, pid).await;
            if !commits {
                gate.terminate(pid).await;
            }
            gate.open().await;
            let ended = run.await.expect("no panic");
            assert_eq!(ended.is_ok(), commits, "{ended:?}");
            let other = other.await.expect("no panic");
            let state = site.state(subject.payment.correlation_id).await;
            let [does, then] = if commits { committed } else { broken_off };
            assert_eq!(
                (has_waited, &other.result[..], &state[..]),
                (*waits, *does, *then),
                "{row:?} {second:?}, commits: {commits}"
            );
            gate.close().await;
            if let Some(code) = other.result.strip_prefix("is refused: ") {
                assert_eq!(code, "40001", "to be tried again");
                let again = second.make(&site.second.pool, &subject, &[]).await;
                assert_eq!(again.result, "was recorded before");
                assert_eq!(site.state(subject.payment.correlation_id).await, *then);
            }
        }
    }
}

#[tokio::test]
async fn a_payment_that_is_being_archived_is_known_and_recorded_by_nobody_again() {
    let site = Site::new().await;
    let gate = site.closed_gate().await;
    gate.before(
        "INSERT OR UPDATE",
        "payment_accepted_hour",
        "payment-proxy archive",
    )
    .await;
    let ledger = "settled default";
    let known = ["knows it", "archived"];
    let accepts = ACCEPTS.map(|accept| (Row::None, accept, false, known, ["knows it", ledger]));
    let again = ["was recorded before", ledger];
    let none = "claims nothing";
    let removed = ([none, "archived"], [none, ledger]);
    let others = [
        (
            Row::None,
            Move::Settle,
            true,
            ["is refused: 40001", "archived"],
            again,
        ),
        (
            Row::Assigned,
            Move::Settle,
            true,
            ["was recorded before", "archived"],
            again,
        ),
        (Row::Queued, Move::ClaimQueued, false, removed.0, removed.1),
        (Row::Queued, Move::ClaimUntried, false, removed.0, removed.1),
        (
            Row::None,
            Move::PutRight,
            true,
            ["nothing", "archived"],
            ["repairs", ledger],
        ),
    ];
    let met: Vec<Met> = accepts.into_iter().chain(others).collect();
    LocalSet::new()
        .run_until(meet(&site, &gate, archiving, &met))
        .await;
}

#[tokio::test]
async fn a_payment_that_is_being_restored_is_known_and_recorded_by_nobody_again() {
    let site = Site::new().await;
    let gate = site.closed_gate().await;
    gate.before("UPDATE", "payment_accepted_hour", "payment-proxy restore")
        .await;
    let (restored, archived) = ("settled default", "archived");
    let both = |does| ([does, restored], [does, archived]);
    let accepts = ACCEPTS.map(|accept| (Row::None, accept, false, both("knows it")));
    let others = [
        (Row::None, Move::Settle, false, both("was recorded before")),
        // It removes its row first, and then waits for the row in the ledger.
        (
            Row::Assigned,
            Move::Settle,
            true,
            both("was recorded before"),
        ),
        (
            Row::Queued,
            Move::ClaimQueued,
            false,
            both("claims nothing"),
        ),
        (
            Row::Queued,
            Move::ClaimUntried,
            false,
            both("claims nothing"),
        ),
    ];
    let met: Vec<Met> = accepts
        .into_iter()
        .chain(others)
        .map(|(row, second, waits, ends)| (row, second, waits, ends.0, ends.1))
        .collect();
    LocalSet::new()
        .run_until(meet(&site, &gate, restoring, &met))
        .await;
}

/// Reconcile corrects a payment in the ledger while `archive` has the old one in its file.
#[tokio::test]
async fn a_payment_that_is_being_corrected_is_archived_only_as_its_file_has_it() {
    let site = Site::new().await;
    LocalSet::new()
        .run_until(async {
            for commits in [true, false] {
                let subject = settled(&site, "fallback", Row::None).await;
                site.charge("default", &subject).await;
                site.first.execute("BEGIN").await;
                let did = Move::PutRight
                    .make(&site.first.pool, &subject, &site.processors)
                    .await;
                assert_eq!(did.result, "repairs");
                let folder = tempfile::tempdir().expect("a folder");
                let run = archiving(&site, &folder);
                eventually_some("it waits for the correction", async || {
                    let pid: Option<i32> = sqlx::query_scalar(
                        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
                        AND $1 = ANY (pg_blocking_pids(pid))",
                    )
                    .bind(site.first.pid)
                    .fetch_optional(&site.database.pool)
                    .await
                    .expect("an answer");
                    pid
                })
                .await;
                site.first
                    .execute(if commits { "COMMIT" } else { "ROLLBACK" })
                    .await;
                let archived = run.await.expect("no panic");
                // A payment that is left in the ledger is told.
                assert_eq!(archived.is_err(), commits, "{archived:?}");
                let state = site.state(subject.payment.correlation_id).await;
                let then = if commits {
                    "settled default"
                } else {
                    "archived"
                };
                assert_eq!(state, then);
            }
        })
        .await;
}
