//! What becomes of a payment, for everything that can happen at a processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use payment_proxy::domain::payment::Payment;
use payment_proxy::domain::uptime::{Uptime, UptimeClock};
use payment_proxy::pipeline::worker::CHARGE_MAX_ITEMS;
use payment_proxy::pipeline::worker::{Step, Worker};
use payment_proxy::processors::{Outcome, Stop, charge};
use payment_proxy::store::claim::{Claim, IN_DOUBT_BATCH, SEND_WITHIN};
use simulator::{Faults, Running};
use tokio::sync::mpsc;

use crate::support::{
    Bench, Database, Gateway, enqueue, eventually, eventually_some, new_claim, new_payment,
    processor, processors, production_terms,
};

/// Posts payments to a deployment whose processors have these faults, waits until all are settled,
/// and checks that each is on one processor and that the ledgers agree with both to the cent and
/// the requested_at.
async fn settled_once_in_spite_of(faults: Faults, count: usize) -> (Running, Running) {
    settled_once_with_timeout("1500", faults, count).await
}

async fn settled_once_with_timeout(
    timeout_ms: &str,
    faults: Faults,
    count: usize,
) -> (Running, Running) {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    for running in [&default, &fallback] {
        running
            .processor
            .set_faults(faults.clone())
            .expect("valid faults");
    }
    let settings = [
        ("PROCESSOR_TIMEOUT_MS", timeout_ms),
        ("LATE_CHARGE_MS", "5000"),
    ];
    let gateway = Gateway::start(&database, &processors(&[&default, &fallback]), &settings).await;
    let ids = gateway.post_many(count).await;
    gateway.until_settled(&ids).await;
    agree(&database, &default, &fallback, count).await;
    (default, fallback)
}

/// Checks that our ledger are those of the processors, payment by payment.
pub async fn agree(database: &Database, default: &Running, fallback: &Running, count: usize) {
    let mut recorded: Vec<(
        uuid::Uuid,
        rust_decimal::Decimal,
        String,
        chrono::DateTime<chrono::Utc>,
    )> = sqlx::query_as(
        "SELECT correlation_id, amount, processor, requested_at FROM payment_processed",
    )
    .fetch_all(&database.pool)
    .await
    .expect("the ledgers");
    let mut stored = Vec::new();
    for (name, running) in [("default", default), ("fallback", fallback)] {
        let payments = running.processor.payments().into_iter();
        stored.extend(payments.map(|payment| {
            (
                payment.id,
                payment.amount,
                name.to_owned(),
                payment.requested_at,
            )
        }));
    }
    recorded.sort();
    stored.sort();
    assert_eq!(recorded, stored);
    assert_eq!(recorded.len(), count);
}

#[tokio::test]
async fn lost_reply_is_resolved_by_lookup_not_by_second_charge() {
    let faults = Faults {
        reply_lost: 0.5,
        ..Faults::default()
    };
    settled_once_in_spite_of(faults, 60).await;
}

#[tokio::test]
async fn lost_request_is_posted_again_to_the_same_processor() {
    let faults = Faults {
        request_lost: 0.5,
        ..Faults::default()
    };
    settled_once_in_spite_of(faults, 60).await;
}

#[tokio::test]
async fn a_reply_that_hangs_is_resolved_after_the_timeout() {
    // Before an answer is overdue.
    let faults = Faults {
        reply_hangs: 0.3,
        ..Faults::default()
    };
    settled_once_with_timeout("900", faults, 20).await;
}

#[tokio::test]
async fn a_500_after_storing_is_not_believed() {
    let faults = Faults {
        fail_after: 0.5,
        ..Faults::default()
    };
    settled_once_in_spite_of(faults, 60).await;
}

#[tokio::test]
async fn a_gateway_that_gave_up_is_asked_for_what_its_processor_stores_later() {
    let faults = Faults {
        gateway_gave_up: 0.6,
        slow: 1.0,
        slow_ms: 1_000,
        ..Faults::default()
    };
    settled_once_in_spite_of(faults, 60).await;
}

#[tokio::test]
async fn pages_of_balancers_and_errors_of_a_database_prove_nothing() {
    let faults = Faults {
        gateway_refused: 0.3,
        fail_with_text: 0.3,
        ..Faults::default()
    };
    settled_once_in_spite_of(faults, 60).await;
}

#[tokio::test]
async fn replies_that_nobody_asked_for_charge_and_lose_nothing() {
    let faults = Faults {
        unasked: 0.5,
        fail_before: 0.2,
        fail_after: 0.2,
        ..Faults::default()
    };
    let (default, fallback) = settled_once_in_spite_of(faults, 150).await;
    let unasked = |running: &Running| running.processor.injected().unasked;
    assert!(unasked(&default) + unasked(&fallback) > 0);
}

#[tokio::test]
async fn declined_payments_are_settled_in_the_end() {
    let faults = Faults {
        fail_before: 0.3,
        too_many: 0.05,
        ..Faults::default()
    };
    settled_once_in_spite_of(faults, 60).await;
}

#[tokio::test]
async fn lookups_that_fail_free_nothing() {
    let faults = Faults {
        fail_after: 0.3,
        reply_lost: 0.2,
        lookup_lost: 0.5,
        ..Faults::default()
    };
    settled_once_in_spite_of(faults, 40).await;
}

#[tokio::test]
async fn every_fault_at_once_settles_every_payment_once() {
    let faults = Faults {
        reply_lost: 0.1,
        request_lost: 0.1,
        reply_hangs: 0.03,
        fail_after: 0.1,
        fail_before: 0.1,
        too_many: 0.02,
        slow: 0.1,
        slow_ms: 200,
        lookup_lost: 0.1,
        connection_reset: 0.1,
        ..Faults::default()
    };
    settled_once_in_spite_of(faults, 80).await;
}

#[tokio::test]
async fn a_processor_that_is_away_gets_its_payments_when_it_is_back() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    default.processor.refuse_for(Duration::from_secs(2));
    let ids = gateway.post_many(20).await;
    gateway.until_settled(&ids).await;
    assert_eq!(default.processor.payments().len(), 20);
}

#[tokio::test]
async fn a_failing_default_is_replaced_by_the_fallback() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    default.processor.set_failing(true);
    let gateway = Gateway::start(&database, &processors(&[&default, &fallback]), &[]).await;
    let ids = gateway.post_many(50).await;
    gateway.until_settled(&ids).await;
    assert_eq!(fallback.processor.payments().len(), 50);
    agree(&database, &default, &fallback, 50).await;
}

#[tokio::test]
async fn a_payment_is_not_spent_on_probes_while_another_processor_takes_it() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    // A probe takes longer than the time from one to the next.
    default.processor.set_failing(true);
    default.processor.set_delay(Duration::from_millis(150));
    let gateway = Gateway::start(&database, &processors(&[&default, &fallback]), &[]).await;
    let ids = gateway.post_many(1).await;
    gateway.until_settled(&ids).await;
    assert_eq!(fallback.processor.payments().len(), 1);
    agree(&database, &default, &fallback, 1).await;
}

/// A proxy in front of a processor that cuts every connection a second after it was made.
async fn cutting_proxy(to: std::net::SocketAddr, after: Duration) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut inbound, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut outbound = tokio::net::TcpStream::connect(to)
                    .await
                    .expect("the processor listens");
                let copy = tokio::io::copy_bidirectional(&mut inbound, &mut outbound);
                let _ = tokio::time::timeout(after, copy).await;
                let _ = inbound.set_zero_linger();
            });
        }
    });
    address
}

#[tokio::test]
async fn late_insert_after_cut_connections_is_charged_once() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let delay = Duration::from_secs(12);
    let mut urls = Vec::new();
    for running in [&default, &fallback] {
        running.processor.set_delay(delay);
        urls.push(cutting_proxy(running.addr, Duration::from_secs(1)).await);
    }
    let through = format!(
        "default,0.05,http://{} fallback,0.15,http://{}",
        urls[0], urls[1]
    );
    let gateway = Gateway::start(&database, &through, &[]).await;
    let ids = gateway.post_many(10).await;
    gateway.until_settled(&ids).await;
    // What was sent more than once is stored, or refused as known, a delay later at the latest.
    tokio::time::sleep(delay).await;
    agree(&database, &default, &fallback, 10).await;
}

#[tokio::test]
async fn a_payment_that_is_not_sent_in_time_is_given_back() {
    let (database, default) = (Database::migrated().await, processor().await);
    let mut bench = Bench::new(&database, &[&default], production_terms());
    enqueue(&database.pool, &[new_payment()])
        .await
        .expect("the database answers");
    // A lease that was lost between claim and send, as by a long stop of the process.
    bench.worker.stop.draining.cancel();
    bench
        .worker
        .claim_step(8, 0)
        .await
        .expect("the database answers");
    let ended = bench.ended.recv().await.expect("an end");
    assert!(matches!(
        ended.outcome,
        payment_proxy::processors::Outcome::NotCharged { .. }
    ));
    assert_eq!(default.processor.payments().len(), 0);
}

#[tokio::test]
async fn what_cannot_be_written_down_soon_is_not_claimed() {
    const PLACES: usize = 8;
    let (database, default) = (Database::migrated().await, processor().await);
    let mut bench = Bench::new(&database, &[&default], production_terms());
    (bench.worker.ended, bench.ended) = mpsc::channel(PLACES + IN_DOUBT_BATCH);
    let payments: Vec<Payment> = (0..50).map(|_| new_payment()).collect();
    enqueue(&database.pool, &payments)
        .await
        .expect("the database answers");
    let step = async |worker: &Worker| worker.claim_step(32, 0).await.expect("an answer").0;
    assert_eq!(step(&bench.worker).await, Step::More(PLACES));
    // They are charged, and nobody writes that down.
    eventually("all are charged", async || {
        default.processor.payments().len() == PLACES
    })
    .await;
    assert_eq!(step(&bench.worker).await, Step::NoSettleSlot);
    for _ in 0..3 {
        bench.ended.recv().await.expect("an end");
    }
    assert_eq!(step(&bench.worker).await, Step::More(3));
    assert_eq!(step(&bench.worker).await, Step::NoSettleSlot);
    let claimed = database.count("payment_queue WHERE processor IS NOT NULL");
    assert_eq!(claimed.await, 3 + PLACES as i64);
    // Payments in doubt have places of their own.
    database
        .execute(
            "UPDATE payment_queue SET lease_until = now() - interval '1 ms' WHERE processor \
            IS NOT NULL",
        )
        .await;
    let doubtful = bench.worker.in_doubt_step().await.expect("an answer");
    assert_eq!(doubtful, 3 + PLACES);
}

#[tokio::test]
async fn no_connection_is_held_during_calls() {
    let (database, default) = (Database::create().await, processor().await);
    default.processor.set_delay(Duration::from_secs(3));
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    gateway.post_many(100).await;
    eventually("the payments are in flight", async || {
        default.processor.in_service() >= 50
    })
    .await;
    let busy = database
        .count(
            "pg_stat_activity WHERE datname = current_database() AND application_name = \
            'payment-proxy' AND state <> 'idle'",
        )
        .await;
    assert!(
        busy <= 1,
        "{busy} connections are busy while the calls are open"
    );
}

#[tokio::test]
async fn a_machine_that_was_suspended_after_the_claim_sends_nothing_when_it_resumes() {
    let (database, default) = (Database::migrated().await, processor().await);
    let bench = Bench::new(&database, &[&default], production_terms());
    let worker = &bench.worker;
    // Before anything else is done, and while the connection is made: the clock is read before and
    // after it.
    for reads_before in [0, 1] {
        let reads = AtomicUsize::new(0);
        let clock = UptimeClock::new(move || {
            let is_suspended = reads.fetch_add(1, Ordering::Relaxed) >= reads_before;
            let slept = Duration::from_secs(if is_suspended { 3_600 } else { 0 });
            Uptime::now() + slept
        });
        let client = worker.processors[0].client.clone().with_clock(clock);
        let permit = worker.router.try_permit(0).expect("a permit");
        let outcome = charge(&client, &new_claim(), permit, &Stop::default()).await;
        let reason = "not sent in time";
        assert!(
            matches!(&outcome, Outcome::NotCharged { reason: why } if why.contains(reason)),
            "{outcome:?}"
        );
    }
    assert_eq!(default.processor.payments().len(), 0);
    // In time it is sent, once the processor is not left alone any more for our fault.
    let permit = eventually_some("a permit", async || worker.router.try_permit(0)).await;
    let client = &worker.processors[0].client;
    let outcome = charge(client, &new_claim(), permit, &Stop::default()).await;
    assert!(matches!(outcome, Outcome::Charged { .. }), "{outcome:?}");
    assert_eq!(default.processor.payments().len(), 1);
}

#[tokio::test]
async fn what_arrives_one_by_one_is_charged_together() {
    let (database, default) = (Database::migrated().await, processor().await);
    let mut bench = Bench::new(&database, &[&default], production_terms());
    let step = bench.worker.claim_step(8, 0).await.expect("an answer").0;
    assert_eq!(step, Step::Drained(0), "what arrives may pass");
    let worker = Arc::new(bench.worker);
    let arrive = |count| {
        let claim_on_accept = worker.claim_on_accept(count).expect("permits");
        let send_by = Uptime::now() + SEND_WITHIN;
        let claims = (0..count).map(|_| Claim {
            send_by,
            ..new_claim()
        });
        claim_on_accept.start(claims.collect());
    };
    arrive(1);
    assert_eq!(worker.calls.len(), 1, "the pause");
    arrive(1);
    assert_eq!(worker.calls.len(), 1, "the same");
    for _ in 0..2 {
        bench.ended.recv().await.expect("an end");
    }
    assert_eq!(default.processor.payments().len(), 2);

    arrive(CHARGE_MAX_ITEMS);
    assert_eq!(worker.calls.len(), CHARGE_MAX_ITEMS, "a crowd has no pause");
    for _ in 0..CHARGE_MAX_ITEMS {
        bench.ended.recv().await.expect("an end");
    }
    assert_eq!(default.processor.payments().len(), 2 + CHARGE_MAX_ITEMS);
}
