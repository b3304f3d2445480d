//! Reconcile records a charge that none of our tables had, against whoever brings the same payment.

use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinHandle;

use super::moves::{ACCEPTS, Did, Move, Start};
use super::site::{Gate, Racer, Site, Subject, waits};

#[tokio::test]
async fn a_charge_of_an_unknown_payment_waits_for_whoever_is_bringing_the_payment() {
    let site = Site::new().await;
    let recorded = ["repairs", "settled default"];
    for accept in ACCEPTS {
        let state = match accept {
            Move::AcceptClaimed | Move::AcceptManyClaimed => "in_flight default #1",
            _ => "queued #0",
        };
        let meeting = waits(["nothing", state], recorded);
        site.run([(Start::Absent, accept, Move::PutRight, meeting)])
            .await;
    }
    site.run([(
        Start::Lost,
        Move::Settle,
        Move::PutRight,
        waits(recorded, recorded),
    )])
    .await;
}

/// Stops a reconciliation when it has reserved the payment in the queue, and has not recorded it.
async fn reserve(site: &Site, gate: &Gate, start: Start) -> (Subject, Racer, JoinHandle<Did>) {
    let subject = site.start(start).await;
    site.charge("default", &subject).await;
    let options: PgConnectOptions = site.database.url.parse().expect("a URL");
    let racer = Racer::connect(options.application_name("reconciles")).await;
    let (pool, of) = (racer.pool.clone(), subject.clone());
    let processors = Arc::clone(&site.processors);
    let running = tokio::spawn(async move { Move::PutRight.make(&pool, &of, &processors).await });
    assert_eq!(gate.stopped().await, racer.pid);
    (subject, racer, running)
}

#[tokio::test]
async fn whoever_brings_a_payment_waits_for_the_reconciliation_that_records_it() {
    let site = Site::new().await;
    let gate = site.closed_gate().await;
    gate.before("INSERT", "payment_processed", "reconciles")
        .await;
    let recorded = "settled default";
    let accepts = ACCEPTS.map(|accept| (Start::Absent, accept, true, "knows it"));
    let others = [
        (Start::Absent, Move::PutRight, true, "repairs"),
        (Start::Absent, Move::ClaimQueued, false, "claims nothing"),
        (
            Start::Lost,
            Move::Settle,
            false,
            "records a charge without a row",
        ),
    ];
    for (start, second, waits, does) in accepts.into_iter().chain(others) {
        let (subject, racer, running) = reserve(&site, &gate, start).await;
        let other = site.spawn(second, &subject);
        let has_waited = site.meets(&other, site.second.pid, racer.pid).await;
        gate.open().await;
        let first = running.await.expect("no panic");
        let other = other.await.expect("no panic");
        let state = site.state(subject.payment.correlation_id).await;
        assert_eq!(
            (has_waited, &other.result[..], &first.result[..], &state[..]),
            (waits, does, "repairs", recorded),
            "{second:?}"
        );
        gate.close().await;
    }
}

#[tokio::test]
async fn a_payment_is_accepted_once_if_the_reconciliation_that_reserved_it_breaks_off() {
    let site = Site::new().await;
    let gate = site.closed_gate().await;
    gate.before("INSERT", "payment_processed", "reconciles")
        .await;
    for accept in ACCEPTS {
        let (subject, racer, running) = reserve(&site, &gate, Start::Absent).await;
        let other = site.spawn(accept, &subject);
        assert!(site.meets(&other, site.second.pid, racer.pid).await);
        gate.terminate(racer.pid).await;
        let other = other.await.expect("no panic");
        assert!(
            matches!(&other.result[..], "queues it" | "claims it"),
            "{}",
            other.result
        );
        // It tries again, and finds the payment in the queue.
        assert_eq!(running.await.expect("no panic").result, "nothing");
    }
}
