//! The hot statements read what they need and no more, at the size of a bad day.
//!
//! What a statement reads is counted by the server itself, in the very statements of the service
//! and through its own pools, so that a plan that changes with statistics or with caching is seen.

use payment_proxy::config::QueueDurability;
use payment_proxy::pipeline::settle::{Anomaly, CompletedClaim, record};
use payment_proxy::processors::Outcome;
use payment_proxy::store::claim::{Claim, claim_in_doubt, claim_queued};
use payment_proxy::store::database::Pools;
use payment_proxy::store::summary::summarize;
use sqlx::Connection;

use crate::executed_plans::ExecutedPlans;
use crate::support::{Database, both, enqueue, new_payment, production_terms, watched_clock};

/// Payments in a deep queue, or in old ledgers.
const MANY: i64 = 1_000_000;
/// Payments that are archived.
const ARCHIVED: i64 = 100_000;
/// Payments of one batch.
const BATCH: usize = 200;
/// Executions after which PostgreSQL has settled for a plan: it tries five with the actual values.
const EXECUTIONS: usize = 12;

/// What was read of a table so far: whole-table scans, and rows through indexes.
async fn reads(pools: &Pools, table: &str) -> (i64, i64) {
    // A session keeps its counters to itself for a while, unless it is told not to.
    for pool in [&pools.requests, &pools.claims, &pools.settles] {
        let mut sessions = Vec::new();
        for _ in 0..pool.size().max(1) {
            sessions.push(pool.acquire().await.expect("a connection"));
        }
        for session in &mut sessions {
            sqlx::query("SELECT pg_stat_force_next_flush()")
                .execute(&mut **session)
                .await
                .expect("a flush");
        }
    }
    sqlx::query_as(
        "SELECT coalesce(seq_scan, 0), coalesce((SELECT sum(idx_tup_read)
            FROM pg_stat_user_indexes i WHERE i.relid = t.relid), 0)::bigint
         FROM pg_stat_user_tables t WHERE relname = $1",
    )
    .bind(table)
    .fetch_one(&*pools.requests)
    .await
    .expect("statistics")
}

/// Settles what was claimed. Returns what was not as expected of it.
async fn settle_or_tell(pools: &Pools, claims: Vec<Claim>) -> Vec<Anomaly> {
    let ended = |claim: Claim| CompletedClaim {
        outcome: Outcome::Charged {
            requested_at: claim.requested_at,
        },
        claim,
    };
    let ended: Vec<CompletedClaim> = claims.into_iter().map(ended).collect();
    record(&pools.settles, production_terms(), &ended)
        .await
        .expect("an answer")
}

async fn settle(pools: &Pools, claims: Vec<Claim>) {
    assert_eq!(settle_or_tell(pools, claims).await, []);
}

async fn fill_queue(database: &Database) {
    database
        .execute(&format!(
            "INSERT INTO payment_queue (correlation_id, amount)
             SELECT gen_random_uuid(), 19.90 FROM generate_series(1, {MANY})"
        ))
        .await;
}

#[tokio::test]
async fn a_deep_queue_is_not_searched() {
    let database = Database::migrated().await;
    let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
    // The statistics are those of an empty table until the middle of the test.
    fill_queue(&database).await;
    for analyzed in [false, true] {
        if analyzed {
            database.execute("ANALYZE payment_queue").await;
        }
        let (scans, rows) = reads(&pools, "payment_queue").await;
        let mut newest = 0;
        for _ in 0..EXECUTIONS {
            let claims = claim_queued(&pools.claims, production_terms(), "default", BATCH, newest)
                .await
                .expect("an answer");
            assert_eq!(claims.len(), BATCH);
            newest = claims.iter().map(|claim| claim.id).max().expect("some");
            let doubtful = claim_in_doubt(
                &pools.claims,
                production_terms(),
                &watched_clock(production_terms()),
                &both(),
                64,
                newest,
            )
            .await
            .expect("an answer");
            assert_eq!(doubtful, []);
            settle(&pools, claims).await;
        }
        let (scans_after, rows_after) = reads(&pools, "payment_queue").await;
        assert_eq!(
            scans_after - scans,
            0,
            "whole-table scans, analyzed: {analyzed}"
        );
        let per_claim = (rows_after - rows) / i64::try_from(EXECUTIONS).expect("few");
        let allowed =
            i64::try_from(BATCH).expect("few") * 2 * (2 + i64::try_from(EXECUTIONS).expect("few"));
        assert!(
            per_claim <= allowed,
            "{per_claim} rows read for a claim, analyzed: {analyzed}"
        );
    }
    // The settles, too: by the id of the payment.
    let (scans, _) = reads(&pools, "payment_queue").await;
    let claims = claim_queued(&pools.claims, production_terms(), "default", BATCH, 0)
        .await
        .expect("an answer");
    settle(&pools, claims).await;
    assert_eq!(reads(&pools, "payment_queue").await.0, scans);
}

/// Settles so many payments without their totals, the n-th from 0 on with that `requested_at`.
async fn fill_ledger(database: &Database, payments: i64, requested_at: &str) {
    database
        .execute(&format!(
            "ALTER TABLE payment_processed DISABLE TRIGGER USER;
             INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                 accepted_at, attempt)
             SELECT gen_random_uuid(), 19.90, 'default', {requested_at}, now(), 1
             FROM generate_series(0, {payments} - 1) AS n;
             ALTER TABLE payment_processed ENABLE TRIGGER USER"
        ))
        .await;
}

#[tokio::test]
async fn posting_does_not_search_a_large_ledger() {
    let database = Database::migrated().await;
    fill_ledger(&database, MANY, "now() - (n + 1) * interval '1 ms'").await;
    database
        .execute(&format!(
            "INSERT INTO payment_archived (correlation_id, amount, month)
             SELECT gen_random_uuid(), 19.90, '2020-01-01' FROM generate_series(1, {ARCHIVED})"
        ))
        .await;
    let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
    let archived = reads(&pools, "payment_archived").await.0;
    for analyzed in [false, true] {
        if analyzed {
            database.execute("ANALYZE payment_processed").await;
        }
        let (scans, rows) = reads(&pools, "payment_processed").await;
        for _ in 0..EXECUTIONS {
            let payments: Vec<_> = (0..BATCH).map(|_| new_payment()).collect();
            enqueue(&pools.requests, &payments)
                .await
                .expect("an answer");
            let now = chrono::Utc::now();
            let from = now - chrono::TimeDelta::seconds(10);
            summarize(&*pools.requests, &[], Some(from), Some(now))
                .await
                .expect("a summary");
        }
        let (scans_after, rows_after) = reads(&pools, "payment_processed").await;
        assert_eq!(
            scans_after - scans,
            0,
            "whole-table scans, analyzed: {analyzed}"
        );
        // Two edges of at most a second each, a thousand payments a second.
        let per_summary = (rows_after - rows) / i64::try_from(EXECUTIONS).expect("few");
        assert!(
            per_summary <= 2_500,
            "{per_summary} rows read for a summary, analyzed: {analyzed}"
        );
    }
    // Nor does anything else that becomes of a payment, and of what is archived neither is
    // searched.
    let processed = reads(&pools, "payment_processed").await.0;
    churn(&pools, EXECUTIONS).await;
    // Settled twice, each row is looked at.
    let payments: Vec<_> = (0..BATCH).map(|_| new_payment()).collect();
    enqueue(&pools.requests, &payments)
        .await
        .expect("an answer");
    let claims = claim_queued(&pools.claims, production_terms(), "default", BATCH, 0).await;
    let claims = claims.expect("an answer");
    settle(&pools, claims.clone()).await;
    for _ in 0..EXECUTIONS {
        assert_eq!(settle_or_tell(&pools, claims.clone()).await.len(), BATCH);
    }
    assert_eq!(reads(&pools, "payment_processed").await.0, processed);
    assert_eq!(
        reads(&pools, "payment_archived").await.0,
        archived,
        "whole-table scans of what is archived"
    );
}

/// Accepts, claims and settles a batch again and again. Returns the most rows that one claim read.
async fn churn(pools: &Pools, rounds: usize) -> i64 {
    let (mut newest, mut worst) = (0, 0);
    for _ in 0..rounds {
        let payments: Vec<_> = (0..BATCH).map(|_| new_payment()).collect();
        enqueue(&pools.requests, &payments)
            .await
            .expect("an answer");
        let (_, rows) = reads(pools, "payment_queue").await;
        let claims =
            claim_queued(&pools.claims, production_terms(), "default", BATCH, newest).await;
        let claims = claims.expect("an answer");
        assert_eq!(claims.len(), BATCH);
        worst = worst.max(reads(pools, "payment_queue").await.1 - rows);
        newest = claims.iter().map(|claim| claim.id).max().expect("some");
        settle(pools, claims).await;
    }
    worst
}

#[tokio::test]
async fn a_held_snapshot_does_not_slow_claims() {
    let database = Database::migrated().await;
    let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
    let mut holder = sqlx::PgConnection::connect(&database.url)
        .await
        .expect("a connection");
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM payment_queue")
        .execute(&mut holder)
        .await
        .expect("a snapshot that keeps every dead row alive");
    let worst = churn(&pools, 60).await;
    let allowed = 3 * i64::try_from(BATCH).expect("few");
    assert!(
        worst <= allowed,
        "{worst} rows read for a claim in spite of the low-water mark"
    );
}

#[tokio::test]
async fn an_index_entry_of_a_payment_is_small_and_a_summary_still_reads_a_second_by_it() {
    const PAYMENTS: i64 = 100_000;
    let database = Database::migrated().await;
    // Seven in each millisecond, as they come at 7,000 a second.
    let requested_at = "'2026-07-01Z'::timestamptz + n / 7 * interval '1 ms'";
    fill_ledger(&database, PAYMENTS, requested_at).await;
    database.execute("ANALYZE payment_processed").await;
    let size: i64 = sqlx::query_scalar("SELECT pg_relation_size($1::text::regclass)")
        .bind("payment_processed_requested_at_idx")
        .fetch_one(&database.pool)
        .await
        .expect("a size");
    assert!(
        size < 14 * PAYMENTS,
        "{} bytes of the index for each payment",
        size / PAYMENTS
    );

    let plans = ExecutedPlans::of(&database).await;
    let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
    let moment = |millis| chrono::DateTime::from_timestamp_millis(millis);
    let start = "2026-07-01T00:00:05Z".parse::<chrono::DateTime<chrono::Utc>>();
    let start = start.expect("a time").timestamp_millis();
    for _ in 0..EXECUTIONS {
        let (from, to) = (moment(start + 200), moment(start + 499));
        let summary = summarize(&*pools.requests, &[], from, to).await;
        let summary = serde_json::to_value(summary.expect("a summary")).expect("JSON");
        assert_eq!(summary["default"]["totalRequests"], 300 * 7);
    }
    let executed = plans.take("payment_rollup");
    assert_eq!(executed.len(), EXECUTIONS, "{executed:?}");
    for plan in executed {
        assert!(
            plan.contains("payment_processed_requested_at_idx"),
            "{plan}"
        );
        assert!(!plan.contains("Seq Scan on payment_processed"), "{plan}");
    }
}

/// Updates of the queue so far, and those of them that touched no index.
async fn updates(pools: &Pools) -> (i64, i64) {
    reads(pools, "payment_queue").await;
    sqlx::query_as(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'payment_queue'",
    )
    .fetch_one(&*pools.requests)
    .await
    .expect("statistics")
}

#[tokio::test]
async fn claims_update_rows_in_place() {
    let database = Database::migrated().await;
    let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
    churn(&pools, 60).await;
    let (updates, hot) = updates(&pools).await;
    assert!(
        hot * 10 >= updates * 9,
        "{hot} of {updates} updates were HOT"
    );
}

#[tokio::test]
async fn a_deep_queue_is_read_by_index_without_sorting_and_updated_in_place() {
    let database = Database::migrated().await;
    fill_queue(&database).await;
    database.execute("VACUUM ANALYZE payment_queue").await;
    let plans = ExecutedPlans::of(&database).await;
    let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
    churn(&pools, 60).await;
    claim_in_doubt(
        &pools.claims,
        production_terms(),
        &watched_clock(production_terms()),
        &both(),
        64,
        i64::MAX,
    )
    .await
    .expect("an answer");
    let executed = plans.take("payment_");
    for (statement, at_least) in [
        ("INSERT INTO payment_queue", 60),
        ("FOR NO KEY UPDATE SKIP LOCKED", 61),
        ("DELETE FROM payment_queue", 60),
        ("INSERT INTO payment_processed", 60),
    ] {
        let executed: Vec<_> = executed
            .iter()
            .filter(|plan| plan.contains(statement))
            .collect();
        assert!(executed.len() >= at_least, "{statement}: {executed:?}");
        for plan in executed {
            for costly in ["Seq Scan on payment_", "Bitmap Heap Scan"] {
                assert!(!plan.contains(costly), "{costly} in {plan}");
            }
            // Posts and settles sort the batch that they were given; a claim must not sort the
            // queue.
            assert!(
                !plan.contains("Sort Key") || statement.starts_with("INSERT"),
                "a sort in {plan}"
            );
        }
    }
    let (updates, hot) = updates(&pools).await;
    assert!(updates >= 60 * i64::try_from(BATCH).expect("few"));
    assert!(
        hot * 10 >= updates * 9,
        "{hot} of {updates} updates were HOT"
    );
}

/// Dead rows of the queue that no vacuum has removed yet.
async fn dead_rows(pools: &Pools) -> i64 {
    reads(pools, "payment_queue").await;
    sqlx::query_scalar("SELECT pg_stat_get_dead_tuples('payment_queue'::regclass)")
        .fetch_one(&*pools.requests)
        .await
        .expect("statistics")
}

#[tokio::test]
async fn a_held_snapshot_costs_a_deep_queue_two_dead_rows_a_payment_until_it_ends() {
    const ROUNDS: usize = 40;
    let database = Database::migrated().await;
    fill_queue(&database).await;
    // By hand below, so that the numbers do not depend on when the server does it.
    database
        .execute("ALTER TABLE payment_queue SET (autovacuum_enabled = off)")
        .await;
    database.execute("VACUUM ANALYZE payment_queue").await;
    let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
    let mut holder = sqlx::PgConnection::connect(&database.url)
        .await
        .expect("a connection");
    sqlx::raw_sql(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM payment_dead_letter",
    )
    .execute(&mut holder)
    .await
    .expect("a snapshot that keeps every dead row alive");
    let worst = churn(&pools, ROUNDS).await;
    let batch = i64::try_from(BATCH).expect("few");
    assert!(
        worst <= 3 * batch,
        "{worst} rows read for a claim in spite of the low-water mark"
    );
    let payments = batch * i64::try_from(ROUNDS).expect("few");
    let dead = dead_rows(&pools).await;
    assert!(
        (payments..=2 * payments).contains(&dead),
        "{dead} dead rows of {payments} payments"
    );
    database.execute("VACUUM payment_queue").await;
    assert_eq!(dead_rows(&pools).await, dead, "the snapshot needs them");

    // A connection that is closed has its snapshot until the server notices; this is answered when
    // it is gone.
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut holder)
        .await
        .expect("the snapshot ends");
    // The server leaves the indexes for later where so few of a table's pages are concerned.
    database
        .execute("VACUUM (INDEX_CLEANUP ON) payment_queue")
        .await;
    assert_eq!(dead_rows(&pools).await, 0);
    // What they took is used again.
    let size = || async {
        let size: i64 = sqlx::query_scalar("SELECT pg_relation_size('payment_queue')")
            .fetch_one(&database.pool)
            .await
            .expect("a size");
        size
    };
    let before = size().await;
    churn(&pools, ROUNDS).await;
    assert_eq!(size().await, before);
}
