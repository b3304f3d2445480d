//! What the contest's deployment adds to the schema, and what the schema itself has none of.

use std::time::{Duration, Instant};

use crate::support::Database;

/// What `docker-compose.contest.yml` and `make bench` run after the migrations.
const GIVE_WAY: &str = include_str!("../../deploy/contest/give-way.sql");
/// The two pauses of one settle.
const PAUSES: Duration = Duration::from_millis(2);

/// Charges a payment as `default` and settles it by itself. Returns how long the settle took.
async fn settle(database: &Database) -> Duration {
    database
        .execute(
            "INSERT INTO payment_queue
                (correlation_id, amount, attempt, processor, requested_at, doubt_until)
             VALUES (gen_random_uuid(), 19.90, 1, 'default', now(), now())",
        )
        .await;
    let begin = Instant::now();
    let refused: i64 = database
        .value(
            "SELECT count(*) FROM payment_queue q, settle_payments(ARRAY[q.correlation_id],
                'default',
                ARRAY[q.amount], ARRAY[q.requested_at], ARRAY[q.accepted_at], ARRAY[1]) s
             WHERE num_nonnulls(s.removed_ids, s.recorded_ids) <> 0",
        )
        .await;
    let took = begin.elapsed();
    assert_eq!((refused, database.count("payment_queue").await), (0, 0));
    took
}

#[tokio::test]
async fn a_settle_sleeps_only_where_the_contest_s_deployment_says_so() {
    let database = Database::migrated().await;
    let sleeping = "pg_proc WHERE pronamespace = 'public'::regnamespace AND prosrc LIKE '%sleep%'";
    assert_eq!(database.count(sleeping).await, 0);
    settle(&database).await;

    for _ in 0..2 {
        database.execute(GIVE_WAY).await;
    }
    assert!(settle(&database).await >= PAUSES);
    // The second pause comes before rows of the totals are locked.
    let after_insert = "SELECT string_agg(tgname, ', ' ORDER BY tgname) FROM pg_trigger
        WHERE NOT tgisinternal AND tgrelid = 'payment_processed'::regclass AND tgtype & 7 = 4";
    let after_insert: String = database.value(after_insert).await;
    assert!(
        after_insert.starts_with("give_way_after, "),
        "{after_insert}"
    );
    let summed: i64 = database
        .value("SELECT sum(requests)::bigint FROM payment_rollup WHERE unit = 'hour'")
        .await;
    assert_eq!((summed, database.count("payment_processed").await), (2, 2));
}
