//! The queue is right, and it stays cheap when there is much to count.

use std::time::{Duration, Instant};

use payment_proxy::config::QueueDurability;
use payment_proxy::store::claim::claim_queued;
use payment_proxy::store::database::Pools;
use payment_proxy::store::queue_statistics::{COUNTED, Count, QueueStatistics, queued};
use sqlx::Connection;

use crate::support::{Database, eventually, expire_lease, production_terms};

/// Payments in a deep queue.
const MANY: u64 = 1_000_000;
/// What a queue, and a look at the length, may take at best on a busy machine; to read the whole
/// queue takes several times that.
const QUICK: Duration = Duration::from_millis(25);

async fn queue(pools: &Pools) -> QueueStatistics {
    QueueStatistics::take(&pools.requests)
        .await
        .expect("an answer")
}

fn exactly(value: u64) -> Count {
    Count { value, exact: true }
}

#[tokio::test]
async fn queue_statistics_tell_what_is_queued_in_doubt_and_dead() {
    let database = Database::migrated().await;
    let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
    let empty = queue(&pools).await;
    assert_eq!(
        (empty.queued, empty.in_doubt, empty.dead_letters),
        (exactly(0), exactly(0), exactly(0))
    );
    assert_eq!(empty.oldest_age_seconds, 0.0);

    database
        .execute(
            "INSERT INTO payment_queue (correlation_id, amount, accepted_at)
             SELECT gen_random_uuid(), 19.90, now() - n * interval '1 s' FROM generate_series(1,
                 30) AS n;
             INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                 processor, reason)
             SELECT gen_random_uuid(), 19.90, now(), 1, 'default', 'none' FROM generate_series(1,
                 3)",
        )
        .await;
    let claims = claim_queued(&pools.claims, production_terms(), "default", 10, 0)
        .await
        .expect("an answer");
    let in_flight = queue(&pools).await;
    assert_eq!(
        (in_flight.queued, in_flight.in_doubt, in_flight.dead_letters),
        (exactly(30), exactly(0), exactly(3)),
        "a payment that was just claimed is in flight, not in doubt"
    );
    assert!((30.0..90.0).contains(&in_flight.oldest_age_seconds));

    // One whose worker died, and one that is being asked for under a requested_at of long ago.
    expire_lease(&database, &claims[0]).await;
    database
        .execute(&format!(
            "UPDATE payment_queue SET requested_at = now() - interval '1 min' WHERE id = {}",
            claims[1].id
        ))
        .await;
    assert_eq!(queue(&pools).await.in_doubt, exactly(2));
}

#[tokio::test]
async fn queue_statistics_of_a_deep_queue_take_milliseconds() {
    let database = Database::migrated().await;
    let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
    database
        .execute(&format!(
            "INSERT INTO payment_queue (correlation_id, amount)
             SELECT gen_random_uuid(), 19.90 FROM generate_series(1, {MANY});
             SELECT pg_stat_force_next_flush()"
        ))
        .await;
    for analyzed in [false, true] {
        if analyzed {
            database.execute("ANALYZE payment_queue").await;
        }
        // The least of some: the others are of a machine that does other things, too.
        let mut least = Duration::MAX;
        for _ in 0..12 {
            let begun_at = Instant::now();
            let queue = queue(&pools).await;
            let length = queued(&pools.requests).await.expect("an answer");
            least = least.min(begun_at.elapsed());
            for count in [length, queue.queued] {
                assert!(!count.exact && count.value > COUNTED.unsigned_abs());
            }
        }
        assert!(least < QUICK, "{least:?}, analyzed: {analyzed}");
        println!("queue of {MANY} payments, analyzed {analyzed}: {least:?}");
    }
    eventually("the estimate is near", async || {
        let queued = queue(&pools).await.queued.value;
        (MANY * 9 / 10..MANY * 11 / 10).contains(&queued)
    })
    .await;
}

#[tokio::test]
async fn queue_statistics_show_the_transactions_of_others_and_what_they_keep_alive() {
    let database = Database::migrated().await;
    database
        .execute(
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO payment_proxy;
             GRANT EXECUTE ON FUNCTION oldest_transaction_seconds() TO payment_proxy",
        )
        .await;
    // As in production: the service's own role, and somebody else's open transaction.
    let own = database.url.replace("postgres@", "payment_proxy@");
    let service = Database::at(&own);
    let mut auditor = sqlx::PgConnection::connect(&database.url.replace("postgres@", "auditor@"))
        .await
        .expect("a connection");
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .execute(&mut auditor)
        .await
        .expect("a snapshot");
    tokio::time::sleep(Duration::from_millis(300)).await;
    database
        .execute(
            "INSERT INTO payment_queue (correlation_id, amount)
             SELECT gen_random_uuid(), 19.90 FROM generate_series(1, 500);
             DELETE FROM payment_queue; SELECT pg_stat_force_next_flush()",
        )
        .await;
    eventually("the dead rows are in the statistics", async || {
        let queue = QueueStatistics::take(&service.pool)
            .await
            .expect("an answer");
        assert!(queue.oldest_transaction_seconds >= 0.3);
        queue.dead_rows == 500
    })
    .await;
}
