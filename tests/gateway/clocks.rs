//! A database server whose clock is set while payments are on their way.

use std::time::Duration;

use payment_proxy::config::QueueDurability;
use payment_proxy::domain::lease::LeasePolicy;
use payment_proxy::pipeline::settle::{CompletedClaim, record};
use payment_proxy::pipeline::worker::{Step, Worker};
use payment_proxy::processors::Outcome;
use serde_json::Value;
use simulator::{Faults, Running};

use crate::metrics::Watched;
use crate::server::Server;
use crate::support::{
    Bench, Database, Gateway, TIMEOUT, enqueue, eventually, new_payment, processor, processors,
};

const DAY: i64 = 86_400;

/// Those of a deployment whose processors are quick: so a doubt lasts for 8.5 s.
const SETTINGS: [(&str, &str); 2] = [("PROCESSOR_TIMEOUT_MS", "500"), ("LATE_CHARGE_MS", "3000")];

/// A processor that stores every payment, and takes that long for it.
async fn slow(millis: u64) -> Running {
    let running = processor().await;
    let faults = Faults {
        slow: 1.0,
        slow_ms: millis,
        ..Faults::default()
    };
    running.processor.set_faults(faults).expect("valid faults");
    running
}

/// A processor that stores every payment, and answers none.
async fn silent() -> Running {
    let running = processor().await;
    let faults = Faults {
        reply_hangs: 1.0,
        ..Faults::default()
    };
    running.processor.set_faults(faults).expect("valid faults");
    running
}

async fn ends(bench: &mut Bench, count: usize) -> Vec<CompletedClaim> {
    let mut ends = Vec::new();
    while ends.len() < count {
        let end = tokio::time::timeout(TIMEOUT, bench.ended.recv()).await;
        ends.push(end.expect("a call ends").expect("an end"));
    }
    ends
}

async fn claim(worker: &Worker) -> usize {
    match worker.claim_step(10, 0).await.expect("an answer").0 {
        Step::More(count) | Step::Drained(count) => count,
        Step::NoPermit(_) | Step::NoSettleSlot => 0,
    }
}

#[tokio::test]
async fn a_step_forward_of_the_databases_clock_charges_nothing_twice() {
    let server = Server::start_with_own_clock().await;
    let database = Database::at(&server.url());
    payment_proxy::store::database::migrate(&database.migrate_settings(QueueDurability::Unlogged))
        .await
        .expect("the migrations apply");
    let (default, fallback) = (slow(1_500).await, processor().await);
    let terms = LeasePolicy::new(Duration::from_secs(15), Duration::from_secs(60));
    // It has watched the clock of the database for minutes.
    let mut bench = Bench::new(&database, &[&default, &fallback], terms);
    enqueue(&database.pool, &[new_payment()])
        .await
        .expect("an answer");
    assert_eq!(claim(&bench.worker).await, 1);
    eventually("the processor works on it", async || {
        default.processor.in_service() == 1
    })
    .await;

    server.set_clock(85);
    // By the database's clock lease and doubt are over, and the processor does not have the payment
    // yet.
    assert_eq!(bench.worker.in_doubt_step().await.expect("an answer"), 1);
    assert!(bench.worker.clock.last_step().is_some(), "seen at once");
    let ends = ends(&mut bench, 2).await;
    for end in &ends {
        assert!(matches!(end.outcome, Outcome::Charged { .. }), "{end:?}");
    }
    record(&database.pool, terms, &ends)
        .await
        .expect("an answer");
    assert_eq!(claim(&bench.worker).await, 0);
    assert_eq!(default.processor.payments().len(), 1);
    assert_eq!(fallback.processor.payments(), []);
    assert_eq!(database.count("payment_processed").await, 1);
}

#[tokio::test]
async fn a_step_back_with_a_crash_leaves_no_payment_stuck() {
    let server = Server::start_with_own_clock().await;
    let database = Database::at(&server.url());
    let default = silent().await;
    let urls = processors(&[&default]);
    let gateway = Gateway::start(&database, &urls, &SETTINGS).await;
    let ids = gateway.post_many(20).await;
    eventually("they are charged", async || {
        default.processor.payments().len() == ids.len()
    })
    .await;
    gateway.crash();
    server.set_clock(-DAY);

    let gateway = Gateway::start(&database, &urls, &SETTINGS).await;
    gateway.until_settled(&ids).await;
    assert_eq!(default.processor.payments().len(), ids.len());
    // Health is asked for again, and the dead instance, last seen a day ahead, is none of those
    // that are alive.
    eventually("the processor was asked for its health", async || {
        database
            .count("processor_health WHERE answered_at <= now()")
            .await
            == 1
    })
    .await;
    assert_eq!(database.count("service_instance").await, 1);
}

#[tokio::test]
async fn payments_that_are_stuck_behind_a_clock_that_was_set_back_are_counted_as_in_doubt() {
    let database = Database::migrated().await;
    database
        .execute(
            "INSERT INTO payment_queue (correlation_id, amount, lease_until, attempt, processor,
                requested_at, doubt_until)
            SELECT gen_random_uuid(), 1, now() + interval '1 day 20 s', 1, 'default',
                now() + interval '1 day',
                now() + interval '1 day 80 s'
            FROM generate_series(1, 3)",
        )
        .await;
    let queue = payment_proxy::store::queue_statistics::QueueStatistics::take(&database.pool).await;
    assert_eq!(queue.expect("an answer").in_doubt.value, 3);
}

#[tokio::test]
async fn a_step_of_the_databases_clock_is_told_of_once_everywhere() {
    let server = Server::start_with_own_clock().await;
    let database = Database::at(&server.url());
    let default = processor().await;
    let watched = Watched::start(&database, &processors(&[&default])).await;
    let gateway = &watched.gateway;
    let ids = gateway.post_many(3).await;
    gateway.until_settled(&ids).await;
    let steps = async || watched.scrape().await.value("database_clock_steps_total");
    eventually("the clock is watched", async || {
        database.count("service_instance").await == 1
    })
    .await;
    assert_eq!(steps().await, 0.0);

    server.set_clock(85);
    eventually("the step is counted", async || steps().await == 1.0).await;
    // 85 s, as exactly as a busy machine lets it see.
    let line = "the database server's clock went 8";
    eventually("the step is logged", async || gateway.log().contains(line)).await;
    assert!(gateway.is_ready().await, "payments are taken all the same");
    let ids = gateway.post_many(3).await;
    gateway.until_settled(&ids).await;

    let mut status = tokio::process::Command::new(env!("CARGO_BIN_EXE_payment-proxy"));
    status
        .args(["status", "--json"])
        .env("DATABASE_URL", &database.url);
    eventually("an operator is told", async || {
        let output = status.output().await.expect("the program starts");
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let attention = told["attention"].to_string();
        output.status.code() == Some(1) && attention.contains("clock went 8")
    })
    .await;
    let log = gateway.log();
    assert_eq!(log.matches(line).count(), 1, "{log}");
}
