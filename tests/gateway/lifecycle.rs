//! Starts, stops and crashes of instances.

use std::sync::Arc;
use std::time::{Duration, Instant};

use payment_proxy::pipeline::worker::Step;
use payment_proxy::serve::START_TIMEOUT;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use uuid::Uuid;

use crate::support::{
    CENTS, Database, Gateway, TIMEOUT, eventually, eventually_some, new_payment, parts,
    payment_json, processor, processors, production_terms,
};

#[tokio::test]
async fn sigterm_finishes_claimed_payments() {
    let (database, default) = (Database::create().await, processor().await);
    default.processor.set_delay(Duration::from_millis(1_000));
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    gateway.post_many(30).await;
    eventually("some are in flight", async || {
        default.processor.in_service() > 0
    })
    .await;
    let (took, _) = gateway.stop().await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    let stored = default.processor.payments().len();
    assert!(stored > 0);
    assert_eq!(
        database.count("payment_processed").await,
        i64::try_from(stored).expect("small")
    );
    assert_eq!(
        database
            .count("payment_queue WHERE processor IS NOT NULL")
            .await,
        0,
        "nothing is left claimed"
    );
    assert_eq!(
        database.count("payment_queue").await,
        30 - i64::try_from(stored).expect("small")
    );
}

#[tokio::test]
async fn clients_who_come_while_an_instance_starts_wait_instead_of_being_refused() {
    let (database, default) = (Database::migrated().await, processor().await);
    let gateway = Gateway::spawn(&database.url, &processors(&[&default]), &[]);
    let body = payment_json(Uuid::new_v4(), CENTS);
    let (status, waited) = eventually_some("its socket is there", async || {
        let asked_at = Instant::now();
        let post = gateway.http.post("http://gateway/payments");
        let post = post.header(CONTENT_TYPE, "application/json");
        let reply = post.body(body.clone()).send().await.ok()?;
        Some((reply.status(), asked_at.elapsed()))
    })
    .await;
    // A machine that is busy may take longer; then they are told so.
    let refused_late = status == StatusCode::SERVICE_UNAVAILABLE && waited >= START_TIMEOUT;
    assert!(
        status == StatusCode::ACCEPTED || refused_late,
        "{status} after {waited:?}"
    );
}

#[tokio::test]
async fn a_writer_of_accept_that_breaks_is_noticed() {
    let (database, default) = (Database::migrated().await, processor().await);
    let mut parts = parts(&database, &[&default], production_terms());
    let worker = Arc::get_mut(&mut parts.worker).expect("nobody else has it");
    let (step, _) = worker.claim_step(1, 0).await.expect("a claim");
    assert_eq!(step, Step::Drained(0));
    // Claiming what is accepted panics now: the processor that the router chooses is not there.
    worker.processors = Arc::default();
    let acceptor = parts.acceptor();
    assert!(!acceptor.writers().is_cancelled());
    assert!(acceptor.accept(new_payment()).await.is_err());
    let noticed = tokio::time::timeout(TIMEOUT, acceptor.writers().cancelled_owned());
    noticed.await.expect("it is noticed, and the instance ends");
}

#[tokio::test]
async fn sigterm_leaves_calls_that_take_too_long_to_the_next_instance() {
    let (database, default) = (Database::create().await, processor().await);
    default.processor.set_delay(Duration::from_secs(12));
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let ids = gateway.post_many(5).await;
    eventually("all are in flight", async || {
        default.processor.in_service() == 5
    })
    .await;
    let (took, log) = gateway.stop().await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(log.contains("calls left open"), "{log}");
    let next = Gateway::start(&database, &processors(&[&default]), &[]).await;
    next.until_settled(&ids).await;
    assert_eq!(default.processor.payments().len(), 5);
    assert_eq!(database.count("payment_processed").await, 5);
}

#[tokio::test]
async fn a_crash_after_the_claim_loses_and_doubles_nothing() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    default.processor.set_delay(Duration::from_millis(700));
    let processors = processors(&[&default, &fallback]);
    // A short timeout makes for a short lease, so that the test need not wait long.
    let settings = [("PROCESSOR_TIMEOUT_MS", "1000")];
    let survivor = Gateway::start(&database, &processors, &settings).await;
    let victim = Gateway::start(&database, &processors, &settings).await;
    let ids = victim.post_many(60).await;
    eventually("some are in flight", async || {
        default.processor.in_service() > 0
    })
    .await;
    victim.crash();
    survivor.until_settled(&ids).await;
    assert_eq!(
        default.processor.payments().len() + fallback.processor.payments().len(),
        60
    );
    assert_eq!(database.count("payment_processed").await, 60);
}

#[tokio::test]
async fn accepted_payments_survive_a_crash_of_every_instance() {
    let (database, default) = (Database::create().await, processor().await);
    default.processor.set_failing(true);
    let victim = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let ids = victim.post_many(50).await;
    victim.crash();
    default.processor.set_failing(false);
    let next = Gateway::start(&database, &processors(&[&default]), &[]).await;
    next.until_settled(&ids).await;
    assert_eq!(default.processor.payments().len(), 50);
}

#[tokio::test]
async fn health_is_polled_once_per_window_for_the_whole_deployment() {
    let (database, default) = (Database::create().await, processor().await);
    let processors = processors(&[&default]);
    let gateways = [
        Gateway::start(&database, &processors, &[]).await,
        Gateway::start(&database, &processors, &[]).await,
        Gateway::start(&database, &processors, &[]).await,
    ];
    let answered = async || {
        sqlx::query_scalar::<_, Option<chrono::DateTime<chrono::Utc>>>(
            "SELECT answered_at FROM processor_health",
        )
        .fetch_optional(&database.pool)
        .await
        .expect("an answer")
        .flatten()
    };
    let mut answers = Vec::new();
    while answers.len() < 3 {
        let last = answers.last().copied();
        let next = crate::support::eventually_some("the next poll", async || {
            answered().await.filter(|at| Some(*at) != last)
        })
        .await;
        answers.push(next);
    }
    for pair in answers.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart >= chrono::Duration::milliseconds(5_000), "{apart}");
    }
    drop(gateways);
}

#[tokio::test]
async fn an_instance_follows_the_others_accepted_payments_when_they_die() {
    let (database, default) = (Database::create().await, processor().await);
    let processors = processors(&[&default]);
    let survivor = Gateway::start(&database, &processors, &[]).await;
    database
        .execute(&format!(
            "INSERT INTO payment_queue (correlation_id, amount) VALUES ('{}', 19.90)",
            Uuid::new_v4()
        ))
        .await;
    eventually("it is settled", async || {
        database.count("payment_processed").await == 1
    })
    .await;
    assert_eq!(
        survivor.post(Uuid::new_v4(), CENTS).await,
        StatusCode::ACCEPTED
    );
}

#[test]
fn a_bad_setting_stops_the_start_with_one_line() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
        .arg("serve")
        .env("PROCESSORS", "default,0.05")
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).expect("text");
    assert_eq!(
        told,
        "error: PROCESSORS (--processors): its value is not accepted: in entry 1 expected \
        name,fee,url\n"
    );
}

#[tokio::test]
async fn while_none_waits_a_payment_is_claimed_by_the_commit_that_accepts_it() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    // The first must not come before the worker has found the queue to be empty, and none while it
    // looks: a look holds all the slots that there are without traffic. The next look is a quarter
    // of a second later, at the least.
    let post_between_looks = async || {
        eventually("the worker has just looked", async || {
            let just_looked = "pg_stat_activity WHERE datname = current_database()
                AND state = 'idle'
                AND query LIKE '%WITH queued AS MATERIALIZED%'
                    AND state_change > clock_timestamp() - interval '50 ms'";
            database.count(just_looked).await > 0
        })
        .await;
        gateway.until_settled(&gateway.post_many(1).await).await;
    };
    post_between_looks().await;
    let updates = async || {
        // Counters of a session come to be seen when it is idle for a second.
        let written: i64 = sqlx::query_scalar(
            "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'payment_queue' AND \
            n_tup_ins = n_tup_del",
        )
        .fetch_optional(&database.pool)
        .await
        .expect("an answer")
        .unwrap_or(-1);
        written
    };
    let inserted = async |count: i64| {
        database
            .count(&format!(
                "pg_stat_user_tables WHERE relname = 'payment_queue' AND n_tup_ins = {count} AND \
                n_tup_del = {count}"
            ))
            .await
            == 1
    };
    eventually("the first is counted", async || inserted(1).await).await;
    let before = updates().await;
    for _ in 0..20 {
        post_between_looks().await;
    }
    eventually("all are counted", async || inserted(21).await).await;
    // A machine that is busy may delay a post until the worker looks again.
    let own = updates().await - before;
    assert!(own < 5, "{own} of 20 had claims of their own");
}
