//! Nothing is missing: what an auditor sees in psql of payments that were removed, changed or lost.

use payment_proxy::config::QueueDurability;
use payment_proxy::store::archive::{archive, restore};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::server::Server;
use crate::support::{CENTS, Database, Gateway, eventually, processor, processors};

/// Accepted, what became of them, missing, uncounted, and the sum that is missing, over all hours.
#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
struct Balance {
    accepted: i64,
    settled: i64,
    archived: i64,
    dead: i64,
    open: i64,
    discarded: i64,
    missing: i64,
    uncounted: i64,
    amount_missing: Decimal,
}

async fn balance(database: &Database) -> Balance {
    sqlx::query_as(
        "SELECT coalesce(sum(accepted), 0)::bigint AS accepted, coalesce(sum(settled),
            0)::bigint AS settled,
            coalesce(sum(archived), 0)::bigint AS archived, coalesce(sum(dead), 0)::bigint AS dead,
            coalesce(sum(open), 0)::bigint AS open, coalesce(sum(discarded),
                0)::bigint AS discarded,
            coalesce(sum(missing), 0)::bigint AS missing, coalesce(sum(uncounted),
                0)::bigint AS uncounted,
            coalesce(sum(amount_missing), 0) AS amount_missing
        FROM audit.balance()",
    )
    .fetch_one(&database.pool)
    .await
    .expect("a balance")
}

/// Number, what is missing and uncounted, and the sum that is missing in cents.
fn told(balance: &Balance) -> (i64, i64, i64, Decimal) {
    let cents = balance.amount_missing * Decimal::ONE_HUNDRED;
    (
        balance.accepted,
        balance.missing,
        balance.uncounted,
        cents.normalize(),
    )
}

async fn until_counted(database: &Database, payments: i64) {
    eventually("what was accepted is counted", async || {
        balance(database).await.accepted == payments
    })
    .await;
}

async fn changes(database: &Database) -> Vec<(String, Option<Uuid>)> {
    sqlx::query_as("SELECT change, correlation_id FROM ledger_change ORDER BY id")
        .fetch_all(&database.pool)
        .await
        .expect("changes")
}

/// A deployment with settled payments, all of them counted.
async fn settled(database: &Database, count: usize) -> Vec<Uuid> {
    let default = processor().await;
    let gateway = Gateway::start(database, &processors(&[&default]), &[]).await;
    let ids = gateway.post_many(count).await;
    gateway.until_settled(&ids).await;
    // What it has counted is added at its end at the latest.
    gateway.stop().await;
    let found = balance(database).await;
    assert_eq!(
        told(&found),
        (count as i64, 0, 0, Decimal::ZERO),
        "{found:?}"
    );
    ids
}

#[tokio::test]
async fn a_settled_payment_that_is_removed_or_changed_by_force_is_told() {
    let database = Database::create().await;
    let ids = settled(&database, 12).await;
    let [removed, changed, silently, ..] = ids[..] else {
        panic!("three ids")
    };
    assert_eq!(changes(&database).await, []);
    database
        .execute(&format!(
            "DELETE FROM payment_processed WHERE correlation_id = '{removed}'"
        ))
        .await;
    let one = Decimal::from(CENTS);
    assert_eq!(told(&balance(&database).await), (12, 1, 0, one));
    database
        .execute(&format!(
            "UPDATE payment_processed SET amount = amount - 1 WHERE correlation_id = '{changed}';
             UPDATE payment_processed SET attempt = attempt"
        ))
        .await;
    let less = Decimal::from(100);
    assert_eq!(told(&balance(&database).await), (12, 1, 0, one + less));
    let expected = [("removed", removed), ("changed", changed)];
    let expected = expected.map(|(change, id)| (change.to_owned(), Some(id)));
    assert_eq!(
        changes(&database).await,
        expected,
        "and nothing that changed nothing"
    );
    let was: (Decimal, String) = sqlx::query_as(
        "SELECT (was->>'amount')::numeric, changed_by FROM ledger_change WHERE change = 'removed'",
    )
    .fetch_one(&database.pool)
    .await
    .expect("a change");
    assert_eq!(was, (Decimal::new(CENTS, 2), "postgres".to_owned()));

    // Behind the back of the triggers: the totals of the rows tell, and the balance.
    database
        .execute(&format!(
            "BEGIN; SET LOCAL session_replication_role = replica;
             DELETE FROM payment_processed WHERE correlation_id = '{silently}'; COMMIT"
        ))
        .await;
    assert_eq!(
        told(&balance(&database).await),
        (12, 2, 0, one + less + one)
    );
    let unlike = "(SELECT sum(requests) FROM payment_rollup WHERE unit = 'hour') AS t (n)
        WHERE n <> (SELECT count(*) FROM payment_processed)";
    assert_eq!(database.count(unlike).await, 1);

    // Put in by hand.
    database
        .execute(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             VALUES (gen_random_uuid(), 5, 'default', now() - interval '3 h',
                 now() - interval '3 h', 1)",
        )
        .await;
    let (accepted, missing, uncounted, _) = told(&balance(&database).await);
    assert_eq!((accepted, missing, uncounted), (12, 2, 1));
}

#[tokio::test]
async fn what_becomes_of_a_payment_in_the_usual_ways_is_no_loss() {
    let database = Database::create().await;
    let (default, fallback) = (processor().await, processor().await);
    let both = processors(&[&default, &fallback]);
    let gateway = Gateway::start(&database, &both, &[]).await;
    let ids = gateway.post_many(20).await;
    // Again, with the same amount and with another.
    gateway.post(ids[0], CENTS).await;
    gateway.post(ids[0], CENTS + 1).await;
    gateway.until_settled(&ids).await;
    default.processor.set_failing(true);
    fallback.processor.set_failing(true);
    let open = gateway.post_many(5).await;
    until_counted(&database, 25).await;
    database
        .execute(&format!(
            "WITH gone AS (DELETE FROM payment_queue WHERE correlation_id IN ('{}',
                '{}') RETURNING *)
             INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                 processor, reason)
             SELECT correlation_id, amount, accepted_at, 1, 'default', 'none' FROM gone",
            open[0], open[1]
        ))
        .await;
    let retried = payment_proxy::store::dead_letter::retry(&database.pool, Some(&[open[0]])).await;
    assert_eq!(retried.expect("an answer"), [open[0]]);
    sqlx::query("SELECT discard_dead_letters($1, 'a test', 'no reason')")
        .bind(vec![open[1]])
        .execute(&database.pool)
        .await
        .expect("it is discarded");
    let found = balance(&database).await;
    let expected = Balance {
        accepted: 25,
        settled: 20,
        archived: 0,
        dead: 0,
        open: 4,
        discarded: 1,
        missing: 0,
        uncounted: 0,
        amount_missing: Decimal::new(0, 2),
    };
    assert_eq!(found, expected);
    // A payment in the queue that is removed by force.
    database
        .execute(&format!(
            "DELETE FROM payment_queue WHERE correlation_id = '{}'",
            open[2]
        ))
        .await;
    assert_eq!(
        told(&balance(&database).await),
        (25, 1, 0, Decimal::from(CENTS))
    );

    // A purge is told, and what was before it cannot be.
    gateway.post_body("/purge-payments", "").await;
    assert_eq!(told(&balance(&database).await), (0, 0, 0, Decimal::ZERO));
    assert_eq!(changes(&database).await, [("emptied".to_owned(), None)]);
    gateway.post_many(1).await;
    gateway.stop().await;
    let null: bool = sqlx::query_scalar("SELECT bool_and(missing IS NULL) FROM audit.balance()")
        .fetch_one(&database.pool)
        .await
        .expect("a balance");
    assert!(null, "nothing is known of the hour of a purge");
}

#[tokio::test]
async fn an_unlogged_queue_that_a_crash_emptied_is_told_to_the_payment() {
    let mut server = Server::start().await;
    let database = Database::at(&server.url());
    let default = processor().await;
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let settled = gateway.post_many(10).await;
    gateway.until_settled(&settled).await;
    default.processor.set_failing(true);
    gateway.post_many(7).await;
    until_counted(&database, 17).await;
    // What it knows is gone with it.
    gateway.crash();
    server.crash().await;
    server.run().await;
    let found = balance(&Database::at(&server.url())).await;
    let lost = Decimal::from(7 * CENTS);
    assert_eq!(told(&found), (17, 7, 0, lost), "{found:?}");
}

#[tokio::test]
async fn archived_and_restored_payments_are_no_loss() {
    let database = Database::create().await;
    settled(&database, 8).await;
    // As if they had been accepted and charged in a month that is over.
    database
        .execute(
            "BEGIN; SET LOCAL session_replication_role = replica;
             UPDATE payment_processed SET accepted_at = '2025-06-01T12:10Z',
                 requested_at = '2025-06-01T12:10:01Z';
             UPDATE payment_accepted_hour SET starts_at = '2025-06-01T12:00Z';
             COMMIT;
             BEGIN; SET LOCAL session_replication_role = replica;
             DELETE FROM payment_rollup;
             INSERT INTO payment_rollup SELECT unit, date_trunc(unit, requested_at, 'UTC'),
                 processor, count(*), sum(amount)
             FROM payment_processed, unnest(ARRAY['hour', 'minute', 'second']) AS unit GROUP BY 1,
                 2, 3;
             COMMIT",
        )
        .await;
    let folder = tempfile::tempdir().expect("a folder");
    let settings = database.settings(QueueDurability::Unlogged);
    let before = "2025-07".parse().expect("a month");
    archive(&settings, before, folder.path(), false, |_| {})
        .await
        .expect("it is archived");
    let found = balance(&database).await;
    assert_eq!((found.settled, found.archived), (0, 8));
    assert_eq!(told(&found), (8, 0, 0, Decimal::ZERO));
    let month = "2025-06".parse().expect("a month");
    let restored = restore(&settings, month, folder.path(), (false, false), |_, _| {}).await;
    restored.expect("it is restored");
    let found = balance(&database).await;
    assert_eq!((found.settled, found.archived), (8, 0));
    assert_eq!(told(&found), (8, 0, 0, Decimal::ZERO));
    assert_eq!(changes(&database).await, []);
}

#[tokio::test]
async fn an_instance_that_is_killed_counts_too_few_and_never_too_many() {
    let database = Database::create().await;
    let default = processor().await;
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let ids = gateway.post_many(20).await;
    gateway.crash();
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    gateway.until_settled(&ids).await;
    let found = balance(&database).await;
    assert_eq!(
        (found.missing, found.accepted + found.uncounted),
        (0, 20),
        "{found:?}"
    );
}

#[tokio::test]
async fn neither_accepting_nor_settling_runs_a_trigger_to_count_what_is_missing() {
    let database = Database::migrated().await;
    // 4: by INSERT, 8: by DELETE. A settle inserts into the ledger and deletes from the queue.
    let triggers: Vec<String> = sqlx::query_scalar(
        "SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal AND (
            tgrelid = 'payment_queue'::regclass OR tgrelid = 'payment_processed'::regclass
                AND tgtype & 4 <> 0
        ) ORDER BY 1",
    )
    .fetch_all(&database.pool)
    .await
    .expect("triggers");
    assert_eq!(
        triggers,
        ["payment_archived_is_recorded", "payment_rollup_insert"]
    );
}
