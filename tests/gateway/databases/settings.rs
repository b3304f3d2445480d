//! Settings of the server, the database and the role.

use payment_proxy::config::QueueDurability;
use payment_proxy::store::database::{self, Pools};
use reqwest::StatusCode;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use super::are_charged_once;
use crate::support::{CENTS, Database, Gateway, eventually, processor, processors};

/// What somebody may have set, and what has to be true of our sessions all the same.
const SETTINGS: [(&str, &str, &str); 27] = [
    (
        "default_transaction_isolation",
        "'serializable'",
        "read committed",
    ),
    ("search_path", "pg_temp, elsewhere", "public, pg_temp"),
    ("row_security", "on", "off"),
    ("synchronous_commit", "off", "on"),
    ("statement_timeout", "'200ms'", "10s"),
    ("lock_timeout", "'1ms'", "2s"),
    ("idle_in_transaction_session_timeout", "'1ms'", "10s"),
    ("idle_session_timeout", "'500ms'", "0"),
    ("timezone", "'Asia/Kathmandu'", "UTC"),
    ("datestyle", "'SQL, DMY'", "ISO, MDY"),
    ("intervalstyle", "'iso_8601'", "postgres"),
    ("client_encoding", "'LATIN1'", "UTF8"),
    ("bytea_output", "'escape'", "hex"),
    ("extra_float_digits", "-15", "1"),
    ("standard_conforming_strings", "off", "on"),
    ("transform_null_equals", "on", "off"),
    ("exit_on_error", "on", "off"),
    ("jit", "on", "off"),
    (
        "plan_cache_mode",
        "'force_custom_plan'",
        "force_generic_plan",
    ),
    ("enable_indexscan", "off", "on"),
    ("enable_indexonlyscan", "off", "on"),
    ("enable_nestloop", "off", "on"),
    ("enable_sort", "off", "on"),
    ("enable_material", "off", "on"),
    ("enable_seqscan", "on", "off"),
    // Not ours to say, and of no consequence.
    ("default_transaction_deferrable", "on", "on"),
    ("check_function_bodies", "off", "off"),
];

async fn shown(pool: &PgPool, setting: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(format!("SHOW {setting}")))
        .fetch_one(pool)
        .await
        .expect(setting)
}

#[tokio::test]
async fn what_statements_rest_on_is_said_by_us_whatever_the_database_has_set() {
    let database = Database::create().await;
    // Somebody else's tables, under the same names, and first in the path.
    database
        .execute(
            "CREATE SCHEMA elsewhere;
             CREATE TABLE elsewhere.payment_queue (id bigint, correlation_id uuid, amount numeric);
             CREATE TABLE elsewhere.payment_processed (correlation_id uuid PRIMARY KEY,
                 amount numeric);
             CREATE TABLE elsewhere._sqlx_migrations (version bigint);
             CREATE FUNCTION elsewhere.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz';
             CREATE FUNCTION elsewhere.count(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'",
        )
        .await;
    for (setting, value, _) in SETTINGS {
        database.set(&format!("{setting} = {value}")).await;
    }
    // What the test asks it asks as the service does.
    let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
    let database = Database {
        pool: (*pools.requests).clone(),
        ..database
    };
    let (default, fallback) = (processor().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default, &fallback]), &[]).await;
    let ids = gateway.post_many(60).await;
    are_charged_once(&database, &gateway, &[&default, &fallback], &ids).await;
    let summary = gateway.json("/payments-summary").await;
    assert_eq!(summary["default"]["totalRequests"], 60);
    assert_eq!(database.count("elsewhere.payment_processed").await, 0);

    for pool in [
        &pools.requests,
        &pools.claims,
        &pools.settles,
        &pools.operators,
        &pools.accepts[0],
    ] {
        for (setting, _, expected) in SETTINGS {
            assert_eq!(shown(pool, setting).await, expected, "{setting}");
        }
    }
    let (_, log) = gateway.stop().await;
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn a_statement_that_took_too_long_passes_and_says_nothing_of_others() {
    let database = Database::create().await;
    let slow = "SET LOCAL statement_timeout = 1; SELECT pg_sleep(1)";
    let slow = sqlx::raw_sql(slow).execute(&database.pool).await;
    let error = slow.expect_err("it takes too long");
    assert!(
        database::is_transient(&error) && !database::concerns_all(&error),
        "{error}"
    );
}

/// Posts each id again and again while the routing is switched, as whoever is told of nothing does.
async fn posted_six_times_while_the_routing_is_switched(level: &str) {
    let database = Database::migrated().await;
    database
        .set(&format!("default_transaction_isolation = '{level}'"))
        .await;
    let (default, fallback) = (processor().await, processor().await);
    let running = [&default, &fallback];
    let one = Gateway::start(&database, &processors(&running), &[]).await;
    let two = Gateway::start(&database, &processors(&running), &[]).await;
    let ids: Vec<Uuid> = (0..400).map(|_| Uuid::new_v4()).collect();
    let switch = async {
        for enabled in [false, true, false, true, false, true] {
            let switch = format!(
                "UPDATE processor_health SET enabled = {enabled} WHERE processor = 'default';
                 SELECT pg_notify('payment_proxy_deployment', '')"
            );
            database.execute(&switch).await;
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        }
    };
    let post = async {
        for chunk in ids.chunks(40) {
            for round in 0..6 {
                let gateways = [&one, &two];
                let posts = chunk.iter().map(|id| gateways[round % 2].post(*id, CENTS));
                for status in futures_util::future::join_all(posts).await {
                    assert_eq!(status, StatusCode::ACCEPTED);
                }
            }
        }
    };
    tokio::join!(switch, post);
    are_charged_once(&database, &one, &running, &ids).await;
}

#[tokio::test]
async fn duplicates_are_charged_once_in_a_database_of_repeatable_reads() {
    posted_six_times_while_the_routing_is_switched("repeatable read").await;
}

#[tokio::test]
async fn duplicates_are_charged_once_in_a_serializable_database() {
    posted_six_times_while_the_routing_is_switched("serializable").await;
}

#[tokio::test]
async fn a_database_without_triggers_is_refused_in_one_line_until_it_has_them() {
    let database = Database::migrated().await;
    database.set("session_replication_role = replica").await;
    let default = processor().await;
    let gateway = Gateway::start_unready(&database.url, &processors(&[&default])).await;
    eventually("it is told", async || {
        gateway.log().contains("session_replication_role")
    })
    .await;
    gateway.refuses().await;
    let refused = database::migrate(&database.migrate_settings(QueueDurability::Unlogged)).await;
    let error = format!("{:#}", refused.expect_err("it is not fit"));
    assert!(
        error.contains("session_replication_role") && !error.contains('\n'),
        "{error}"
    );
    let name = database.name();
    database
        .execute(&format!(
            "ALTER DATABASE {name} RESET session_replication_role"
        ))
        .await;
    gateway.until_ready().await;
    let ids = gateway.post_many(5).await;
    are_charged_once(&Database::at(&database.url), &gateway, &[&default], &ids).await;
    // Each task that wants a connection says it once.
    let told = gateway.log().matches("turns the triggers off").count();
    assert!((1..=3).contains(&told), "{}", gateway.log());
}

#[tokio::test]
async fn a_database_in_another_encoding_works() {
    for (encoding, words) in [("LATIN1", "caf\u{e9} \u{65e5}"), ("SQL_ASCII", "\u{65e5}")] {
        let made = Database::create().await;
        let name = format!("{}_other", made.name());
        made.execute(&format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        ))
        .await;
        let database = Database::at(&made.url.replace(made.name(), &name));
        let default = processor().await;
        let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
        let ids = gateway.post_many(5).await;
        are_charged_once(&database, &gateway, &[&default], &ids).await;
        super::refused::dies_of(&database, &format!("it said {words}")).await;
        let reason: String = sqlx::query_scalar("SELECT reason FROM payment_dead_letter")
            .fetch_one(&database.pool)
            .await
            .expect("a dead letter");
        // What the encoding has not is written as its number.
        assert!(reason.starts_with("it said "), "{reason}");
        assert!(
            reason.ends_with("\\u{65e5}") || reason.ends_with(words),
            "{reason}"
        );
    }
}
