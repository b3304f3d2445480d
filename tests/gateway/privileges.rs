//! What the service's role may do, and what it may not.

use std::process::Output;

use payment_proxy::config::QueueDurability;
use payment_proxy::database;
use reqwest::StatusCode;
use sqlx::AssertSqlSafe;
use tokio::process::Command;
use uuid::Uuid;

use crate::server::{connect_as, run_init_sql};
use crate::support::{CENTS, Database, Gateway, eventually, processor, processors};

const SERVICE: &str = "payment_proxy";
const OWNER: &str = "payment_proxy_owner";
const WAITING: &str = "waiting for `payment-proxy migrate`";

/// What nobody who has got hold of the service's password may do: as a whole statement each.
const FORBIDDEN: &[&str] = &[
    // Change or forge what was settled, what it came to and what it cost.
    "UPDATE payment_processed SET amount = 1",
    "UPDATE payment_processed SET processor = 'fallback'",
    "DELETE FROM payment_processed",
    "TRUNCATE payment_processed CASCADE",
    "BEGIN; LOCK TABLE payment_processed IN ACCESS EXCLUSIVE MODE",
    "INSERT INTO payment_rollup VALUES ('hour', now(), 'default', 1, 1)",
    "UPDATE payment_rollup SET amount = 1",
    "DELETE FROM payment_rollup",
    "TRUNCATE payment_rollup",
    "INSERT INTO payment_archived VALUES (gen_random_uuid(), 1, '2020-01-01')",
    "DELETE FROM payment_archived",
    "UPDATE payment_archived_hour SET amount = 1",
    "DELETE FROM payment_archived_hour",
    "DELETE FROM payment_archived_month",
    "TRUNCATE payment_archived",
    "UPDATE processor_fee SET fee = 0",
    "DELETE FROM processor_fee",
    "DELETE FROM payment_attempt",
    "UPDATE payment_attempt SET processor = 'fallback'",
    "UPDATE payment_dead_letter SET reason = 'none'",
    // Put words into an operator's mouth.
    "INSERT INTO payment_decision SELECT * FROM payment_decision",
    "UPDATE payment_decision SET reason = 'none'",
    "DELETE FROM payment_decision",
    "TRUNCATE payment_decision",
    // Change a payment that waits, or lose them all.
    "UPDATE payment_queue SET amount = 1",
    "UPDATE payment_queue SET correlation_id = gen_random_uuid()",
    "UPDATE payment_queue SET accepted_at = now()",
    "TRUNCATE payment_queue",
    "TRUNCATE payment_queue, payment_processed, payment_dead_letter, payment_attempt",
    "SELECT setval('payment_queue_id_seq', 1)",
    // Change the tables, or make any.
    "DROP TABLE payment_queue",
    "DROP SCHEMA audit CASCADE",
    "DROP FUNCTION accept_payments",
    "ALTER TABLE payment_queue SET LOGGED",
    "ALTER TABLE payment_queue DROP CONSTRAINT payment_queue_correlation_id_key",
    "ALTER TABLE payment_processed DISABLE TRIGGER ALL",
    "ALTER TABLE payment_queue SET (autovacuum_enabled = off)",
    "ALTER FUNCTION payment_rollup_count() SECURITY INVOKER",
    "CREATE INDEX ON payment_processed (amount)",
    "CREATE TRIGGER mine AFTER INSERT ON payment_processed EXECUTE FUNCTION payment_rollup_count('1')",
    "CREATE RULE mine AS ON INSERT TO payment_processed DO INSTEAD NOTHING",
    "CREATE OR REPLACE FUNCTION accept_payments() RETURNS void LANGUAGE sql AS ''",
    "CREATE TABLE mine (id integer)",
    "CREATE TEMPORARY TABLE payment_processed (id integer)",
    "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE VIEW audit.mine AS SELECT 1",
    "CREATE SCHEMA mine",
    "CREATE EXTENSION pgcrypto",
    "CREATE PUBLICATION mine",
    "COMMENT ON TABLE payment_queue IS 'mine'",
    "SELECT payment_rollup_count()",
    "INSERT INTO _sqlx_migrations SELECT * FROM _sqlx_migrations",
    "UPDATE _sqlx_migrations SET success = false",
    "DELETE FROM _sqlx_migrations",
    // Become somebody else, or give away what it has.
    "SET ROLE payment_proxy_owner",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "ALTER ROLE payment_proxy SUPERUSER",
    "ALTER ROLE auditor LOGIN",
    "ALTER DEFAULT PRIVILEGES FOR ROLE payment_proxy_owner GRANT ALL ON TABLES TO PUBLIC",
    "REASSIGN OWNED BY payment_proxy_owner TO payment_proxy",
    // Reach the server, its files or its other sessions.
    "SELECT * FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "COPY payment_queue TO PROGRAM 'cat'",
    "COPY payment_queue TO '/tmp/payment_queue'",
    "COPY payment_queue (correlation_id, amount) FROM '/etc/passwd'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "ALTER SYSTEM SET fsync = off",
    "SET session_replication_role = replica",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "CHECKPOINT",
];

/// The installation as init.sql makes it: the cluster's superuser, then the service's role.
async fn installed() -> (Database, Database) {
    let admin = Database::create().await;
    run_init_sql(&admin);
    let service = connect_as(&admin, SERVICE);
    (admin, service)
}

/// Runs `payment-proxy` as somebody would who administrates that installation.
async fn program(admin: &Database, arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
        .args(arguments)
        .env("DATABASE_URL", &connect_as(admin, SERVICE).url)
        .env("MIGRATE_DATABASE_URL", &connect_as(admin, OWNER).url)
        .envs(settings.iter().copied())
        .output()
        .await
        .expect("the program starts");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    assert!(status.success(), "{arguments:?}: {text}");
    text
}

async fn refused(service: &Database, statement: &str) {
    let mut connection = service.pool.acquire().await.expect("a connection");
    let outcome = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(&mut *connection)
        .await;
    let _ = sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await;
    let error = outcome
        .err()
        .unwrap_or_else(|| panic!("it is done: {statement}"));
    assert!(database::is_not_allowed(&error), "{statement}: {error}");
}

#[tokio::test]
async fn the_services_role_can_do_all_of_a_payments_life_and_nothing_else() {
    let (admin, service) = installed().await;
    let (default, fallback) = (processor().await, processor().await);
    let both = processors(&[&default, &fallback]);
    let gateway = Gateway::spawn(&service.url, &both, &[("QUEUE_DURABILITY", "logged")]);

    // It waits until the owner has migrated, and given the queue the durability that it was told of.
    let waits = |lines: usize| gateway.log().matches(WAITING).count() == lines;
    eventually("it waits for the tables", async || waits(1)).await;
    gateway.refuses().await;
    program(&admin, &["migrate"], &[("QUEUE_DURABILITY", "unlogged")]).await;
    eventually("it waits for the durability", async || waits(2)).await;
    assert!(
        gateway.log().contains("the queue is not logged"),
        "{}",
        gateway.log()
    );
    program(&admin, &["migrate"], &[("QUEUE_DURABILITY", "logged")]).await;
    gateway.until_ready().await;
    assert!(waits(2), "{}", gateway.log());

    // Settled at once, after failures, in doubt for a while, dead, retried, discarded.
    let mut ids = gateway.post_many(20).await;
    for running in [&default, &fallback] {
        running.processor.set_failing(true);
    }
    ids.extend(gateway.post_many(5).await);
    eventually("attempts failed", async || {
        admin.count("payment_attempt").await > 0
    })
    .await;
    let dead = Uuid::new_v4();
    for running in [&default, &fallback] {
        charge(running, dead).await;
        running.processor.set_failing(false);
    }
    gateway.post(dead, CENTS).await;
    eventually("it is dead", async || gateway.state(dead).await == "dead").await;
    gateway.until_settled(&ids).await;
    let id = dead.to_string();
    program(&admin, &["dead-letter", "retry", &id], &[]).await;
    eventually("it is dead again", async || {
        gateway.state(dead).await == "dead"
            && admin.count("payment_attempt WHERE last_claim > 1").await > 0
    })
    .await;
    program(&admin, &["dead-letter", "discard", "--yes", &id], &[]).await;
    let settled = ids[0].to_string();
    assert!(
        program(&admin, &["payment", &settled], &[])
            .await
            .contains("settled")
    );
    assert!(program(&admin, &["status"], &[]).await.contains("default"));
    let summary = gateway.json("/payments-summary").await;
    let count = |name: &str| summary[name]["totalRequests"].as_u64().expect("a number");
    assert_eq!(count("default") + count("fallback"), ids.len() as u64);
    let purge = gateway.post_body("/purge-payments", "").await;
    assert_eq!(purge.status(), StatusCode::FORBIDDEN);

    for statement in FORBIDDEN {
        refused(&service, statement).await;
    }
    assert_eq!(admin.count("payment_processed").await, 25);

    // Nothing was refused that it needs.
    let (_, log) = gateway.stop().await;
    assert!(!log.contains("permission denied"), "{log}");
}

/// Puts a payment into a processor's books with another amount than ours.
async fn charge(running: &payment_proxy::simulator::Running, id: Uuid) {
    let body = format!(
        r#"{{"correlationId":"{id}","amount":1,"requestedAt":"2026-07-01T00:00:00.000Z"}}"#
    );
    running.processor.set_failing(false);
    let post = payment_proxy::tls::plain()
        .build()
        .expect("a client")
        .post(format!("{}/payments", running.url()));
    let post = post.header("content-type", "application/json").body(body);
    assert!(post.send().await.expect("a reply").status().is_success());
}

#[tokio::test]
async fn the_service_ends_a_doubt_by_an_operators_word_and_an_auditor_does_not() {
    let (admin, service) = installed().await;
    program(&admin, &["migrate"], &[]).await;
    let id = Uuid::new_v4().to_string();
    admin
        .execute(&format!(
            "INSERT INTO payment_queue (correlation_id, amount, processor, requested_at, doubt_until)
             VALUES ('{id}', 19.90, 'old', now(), now())"
        ))
        .await;
    let auditor = connect_as(&admin, "auditor");
    let decide = format!(
        "SELECT * FROM decide_in_doubt(ARRAY['{id}'::uuid], ARRAY[NULL::timestamptz], true, 'me', 'so', false)"
    );
    refused(&auditor, &decide).await;
    refused(&auditor, "SELECT discard_dead_letters('{}', 'me', 'so')").await;
    let word = ["--yes", "--by", "alice", "--reason", "asked"];
    program(
        &admin,
        &[&["in-doubt", "charged"], &word[..], &[&id]].concat(),
        &[],
    )
    .await;
    let kept = "audit.decision WHERE decided_by = 'alice' AND database_role = 'payment_proxy'";
    assert_eq!(auditor.count(kept).await, 1);
    assert_eq!(auditor.count("payment_processed").await, 1);
    refused(&service, "DELETE FROM payment_decision").await;
}

#[tokio::test]
async fn purging_is_a_right_of_its_own() {
    let (admin, service) = installed().await;
    program(&admin, &["migrate"], &[("ALLOW_PURGE", "true")]).await;
    let default = processor().await;
    let gateway = Gateway::start(&service, &processors(&[&default]), &[]).await;
    gateway.until_settled(&gateway.post_many(3).await).await;
    let purge = gateway.post_body("/purge-payments", "").await;
    assert_eq!(purge.status(), StatusCode::NO_CONTENT);
    assert_eq!(admin.count("payment_processed").await, 0);
    assert_eq!(admin.count("payment_rollup").await, 0);
    program(&admin, &["migrate"], &[]).await;
    let purge = gateway.post_body("/purge-payments", "").await;
    assert_eq!(purge.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn tables_that_were_the_services_own_change_hands() {
    let admin = Database::create().await;
    let name = admin.url.rsplit('/').next().expect("a name").to_owned();
    let grant =
        format!("ALTER DATABASE {name} OWNER TO {SERVICE}; ALTER SCHEMA public OWNER TO {SERVICE}");
    admin.execute(&grant).await;
    let service = connect_as(&admin, SERVICE);
    let default = processor().await;
    // One role for everything: it migrates by itself.
    let gateway = Gateway::start(&service, &processors(&[&default]), &[]).await;
    let mut ids = gateway.post_many(5).await;
    gateway.until_settled(&ids).await;
    service
        .execute("ALTER TABLE payment_processed SET (fillfactor = 100)")
        .await;

    run_init_sql(&admin);
    program(&admin, &["migrate"], &[]).await;
    for statement in FORBIDDEN {
        refused(&service, statement).await;
    }
    ids.extend(gateway.post_many(5).await);
    gateway.until_settled(&ids).await;
    gateway.stop().await;
    let gateway = Gateway::start(&service, &processors(&[&default]), &[]).await;
    ids.extend(gateway.post_many(5).await);
    gateway.until_settled(&ids).await;
    assert!(!gateway.log().contains(WAITING), "{}", gateway.log());
}

#[tokio::test]
async fn a_service_that_owns_everything_needs_no_other_role() {
    let database = Database::create().await;
    let default = processor().await;
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    gateway.until_settled(&gateway.post_many(3).await).await;
    let settings = database.settings(QueueDurability::Unlogged);
    assert_eq!(
        database::prepare(&settings).await.expect("an answer"),
        database::Schema::Ready
    );
}
