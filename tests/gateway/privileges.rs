//! What the service's role may do, and what it may not.

use std::process::Output;

use payment_proxy::config::QueueDurability;
use payment_proxy::store::database;
use reqwest::StatusCode;
use sqlx::AssertSqlSafe;
use tokio::process::Command;
use uuid::Uuid;

use crate::server::{SERVICES_PASSWORD, Server, connect_as, init_sql, run_init_sql};
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
    "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at, accepted_at,
        attempt, settled_at)
     VALUES (gen_random_uuid(), 1, 'default', now(), now(), 1, '2020-01-01')",
    "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt, processor,
        reason, died_at)
     VALUES (gen_random_uuid(), 1, now(), 1, 'default', 'none', '2020-01-01')",
    "INSERT INTO payment_queue (id, correlation_id, amount) OVERRIDING SYSTEM VALUE
     VALUES (9223372036854775807, gen_random_uuid(), 1)",
    "INSERT INTO processor_fee VALUES ('default', '2020-01-01', 0)",
    "UPDATE payment_rollup SET amount = 1",
    "DELETE FROM payment_rollup",
    "TRUNCATE payment_rollup",
    "INSERT INTO payment_archived VALUES (gen_random_uuid(), 1, '2020-01-01')",
    "DELETE FROM payment_archived",
    "UPDATE payment_archived_hour SET amount = 1",
    "DELETE FROM payment_archived_hour",
    "DELETE FROM payment_archived_month",
    "TRUNCATE payment_archived",
    "UPDATE payment_accepted_hour SET payments = 0",
    "INSERT INTO payment_accepted_hour VALUES (now(), 1, 1)",
    "DELETE FROM payment_accepted_hour",
    "DELETE FROM ledger_change",
    "INSERT INTO ledger_change (change) VALUES ('emptied')",
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
    "CREATE TRIGGER mine AFTER INSERT ON payment_processed EXECUTE FUNCTION \
    payment_rollup_count('1')",
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
    "SET temp_file_limit = -1",
    // Fill the disk, or the memory for locks.
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    "SELECT lo_from_bytea(0, 'mine')",
    "SELECT lo_put(1, 0, 'mine')",
    "SELECT lowrite(1, 'mine')",
    "SELECT pg_logical_emit_message(false, 'mine', 'mine')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_xact_lock(1)",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "CHECKPOINT",
];

/// What nobody may do either who has got hold of an auditor's password, with that role's limits
/// lifted.
const FORBIDDEN_TO_AUDITORS: &[&str] = &[
    "INSERT INTO payment_queue (correlation_id, amount) VALUES (gen_random_uuid(), 1)",
    "DELETE FROM payment_processed",
    "UPDATE payment_attempt SET reason = 'none'",
    "SELECT record_fees('{default}', '{0}')",
    "SELECT * FROM end_long_audits()",
    "SELECT oldest_transaction_seconds()",
    "CREATE TABLE mine (id integer)",
    "CREATE TEMPORARY TABLE mine (id integer)",
    "SELECT lo_from_bytea(0, 'mine')",
    "SELECT lo_create(0)",
    "SELECT pg_logical_emit_message(false, 'mine', 'mine')",
    "SELECT pg_advisory_lock(1)",
    "SET temp_file_limit = -1",
    "ALTER ROLE auditor SET temp_file_limit = -1",
    "ALTER ROLE auditor CONNECTION LIMIT -1",
    "SET ROLE payment_proxy",
    "SELECT passwd FROM pg_shadow",
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

    // It waits until the owner has migrated, and given the queue the durability that it was told
    // of.
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

    // What was seen of a settled payment's attempts does not change, nor is anything seen of it
    // later.
    let seen = "SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM payment_attempt a";
    let before: Option<String> = admin.value(seen).await;
    let settled = "(SELECT correlation_id FROM payment_processed)";
    for forged in [
        format!(
            "UPDATE payment_attempt SET reason = 'forged', last_ended_at = '2020-01-01' WHERE \
            correlation_id IN {settled}"
        ),
        "UPDATE payment_attempt SET last_claim = 0".to_owned(),
        "INSERT INTO payment_attempt (correlation_id, requested_at, outcome, processor, reason,
            first_claim, last_claim)
             SELECT correlation_id, '2020-01-01', 'refused', 'default', 'forged', 1, 1
                 FROM payment_processed"
            .to_owned(),
    ] {
        service.execute(&forged).await;
    }
    assert_eq!(admin.value::<Option<String>>(seen).await, before);
    assert!(before.is_some(), "no attempt was seen");
    // Of an open payment it is added to, under the time of the database.
    service
        .execute(
            "INSERT INTO payment_attempt (correlation_id, requested_at, outcome, processor, reason,
                first_claim,
                last_claim, first_ended_at, last_ended_at)
             VALUES (gen_random_uuid(), now(), 'not_charged', 'default', 'seen', 1, 1, '2020-01-01',
                 '2020-01-01')",
        )
        .await;
    let past =
        "payment_attempt WHERE first_ended_at < '2026-01-01' OR last_ended_at < '2026-01-01'";
    assert_eq!(admin.count(past).await, 0);
    assert_eq!(
        admin.count("payment_attempt WHERE reason = 'seen'").await,
        1
    );

    // Fees are valid from now on, whoever says so.
    service
        .execute("SELECT record_fees('{default,new}', '{0.5,0.1}')")
        .await;
    let changed = "processor_fee WHERE processor = 'default' AND valid_from BETWEEN now() - \
        interval '1 min' AND now()";
    assert_eq!(admin.count(changed).await, 1);

    // It sees how old the oldest transaction is, and what no other role says.
    let _open = admin.lock("payment_archived_hour").await;
    let age: f64 = service.value("SELECT oldest_transaction_seconds()").await;
    assert!(age > 0.0, "{age}");
    let others =
        "pg_stat_activity WHERE usename <> current_user AND query <> '<insufficient privilege>'
        AND query <> ''";
    assert_eq!(service.count(others).await, 0);

    // Nothing was refused that it needs.
    let (_, log) = gateway.stop().await;
    assert!(!log.contains("permission denied"), "{log}");
}

/// Puts a payment into a processor's ledger with another amount than ours.
async fn charge(running: &simulator::Running, id: Uuid) {
    let body = format!(
        r#"{{"correlationId":"{id}","amount":1,"requestedAt":"2026-07-01T00:00:00.000Z"}}"#
    );
    running.processor.set_failing(false);
    let post = payment_proxy::config::tls::plain()
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
            "INSERT INTO payment_queue (correlation_id, amount, processor, requested_at,
                doubt_until)
             VALUES ('{id}', 19.90, 'old', now(), now())"
        ))
        .await;
    let auditor = connect_as(&admin, "auditor");
    let decide = format!(
        "SELECT * FROM decide_in_doubt(ARRAY['{id}'::uuid], ARRAY[NULL::timestamptz], true, 'me', \
        'so', false)"
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

#[tokio::test]
async fn an_auditor_can_neither_fill_the_disk_nor_go_elsewhere_whatever_limits_it_lifts() {
    let (admin, service) = installed().await;
    program(&admin, &["migrate"], &[]).await;
    let name = admin.url.rsplit('/').next().expect("a name").to_owned();
    let auditor = connect_as(&admin, "auditor");
    // Its own settings are a role's to change, for ever.
    auditor
        .execute(&format!(
            "SET TRANSACTION READ WRITE;
             ALTER ROLE auditor IN DATABASE {name} SET default_transaction_read_only = off;
             ALTER ROLE auditor IN DATABASE {name} SET statement_timeout = 0"
        ))
        .await;
    // What it has changed is for its next sessions, of which it has few.
    auditor.pool.close().await;
    let auditor = connect_as(&admin, "auditor");
    for statement in FORBIDDEN_TO_AUDITORS {
        refused(&auditor, statement).await;
    }
    for role in [&service, &auditor] {
        let limit: String = role
            .value("SELECT current_setting('temp_file_limit')")
            .await;
        assert_eq!(limit, "1GB");
        role.pool.close().await;
        for elsewhere in ["postgres", "template1"] {
            let (server, _) = role.url.rsplit_once('/').expect("a path");
            let database = Database::at(&format!("{server}/{elsewhere}"));
            let refusal = sqlx::query("SELECT 1").execute(&database.pool).await;
            let error = refusal.expect_err(elsewhere);
            assert!(
                database::is_not_allowed(&error),
                "{} {elsewhere}: {error}",
                role.url
            );
        }
    }
}

#[tokio::test]
async fn an_auditors_long_transaction_is_ended_and_told_of_whatever_limits_it_lifts() {
    let (admin, service) = installed().await;
    program(&admin, &["migrate"], &[]).await;
    // Nobody wants to wait here for as long as an auditor may take.
    let definition: String = admin
        .value("SELECT pg_get_functiondef('end_long_audits'::regproc)")
        .await;
    let shorter = definition.replace("'60 s'", "'2 s'");
    assert_ne!(shorter, definition);
    admin.execute(&shorter).await;
    let auditor = connect_as(&admin, "auditor");
    let lifted =
        "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; BEGIN; SELECT 1";
    let (mut long, mut idle) = (
        auditor.pool.acquire().await.expect("a connection"),
        auditor.pool.acquire().await.expect("a connection"),
    );
    sqlx::raw_sql(lifted)
        .execute(&mut *long)
        .await
        .expect("it is its own to lift");
    sqlx::raw_sql("SELECT 1")
        .execute(&mut *idle)
        .await
        .expect("an answer");
    // A person's role has the rights of an auditor and none of its limits.
    let anna = format!("anna_{}", Uuid::new_v4().simple());
    admin
        .execute(&format!("CREATE ROLE {anna} LOGIN IN ROLE auditor"))
        .await;
    let anna = connect_as(&admin, &anna);
    let mut personal = anna.pool.begin().await.expect("a transaction");
    let owner = connect_as(&admin, OWNER);
    let (mut backup, mut restore) = (
        admin.pool.begin().await.expect("a transaction"),
        owner.pool.begin().await.expect("a transaction"),
    );
    for transaction in [&mut personal, &mut backup, &mut restore] {
        sqlx::raw_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            .execute(&mut **transaction)
            .await
            .expect("an answer");
    }

    let default = processor().await;
    let gateway = Gateway::start(&service, &processors(&[&default]), &[]).await;
    eventually("the auditor's transaction is ended", async || {
        gateway.log().contains("its session was ended")
    })
    .await;
    eventually("its connection is gone", async || {
        sqlx::raw_sql("SELECT 1").execute(&mut *long).await.is_err()
    })
    .await;
    eventually("that of the person is, too", async || {
        let answer = sqlx::raw_sql("SELECT 1").execute(&mut *personal).await;
        answer.is_err()
    })
    .await;
    eventually("the log names the person", async || {
        gateway.log().contains("anna_")
    })
    .await;
    // Neither a session without a transaction, nor anybody else's.
    sqlx::raw_sql("SELECT 1")
        .execute(&mut *idle)
        .await
        .expect("an answer");
    backup.commit().await.expect("it is open");
    restore.commit().await.expect("it is open");
    gateway.until_settled(&gateway.post_many(3).await).await;
}

/// An administrator of a managed service is no superuser: it makes roles and databases.
#[tokio::test]
async fn an_administrator_who_is_no_superuser_installs_and_is_told_what_that_costs() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let server = Server::start_on(port).await;
    let superuser = Database::at(&server.url());
    superuser
        .execute("CREATE ROLE provider LOGIN CREATEROLE CREATEDB PASSWORD 'test'")
        .await;
    superuser.execute("CREATE ROLE backup LOGIN").await;
    let provider = connect_as(&superuser, "provider");
    // A database that the provider has made, as some do, and one that there is not yet; both twice.
    provider.execute("CREATE DATABASE books").await;
    for name in ["books", "books", "payments", "payments"] {
        let said = init_sql(&provider.url, name).expect("it gets through");
        for told in [
            "temp_file_limit is not set",
            "can write large objects",
            "postgres, template1 as well",
        ] {
            assert!(said.contains(told), "{told} is not in: {said}");
        }
        assert!(!said.contains("WARNING"), "{said}");
    }
    let borrowed: bool = provider
        .value("SELECT pg_has_role('payment_proxy_owner', 'USAGE')")
        .await;
    assert!(!borrowed, "it keeps the owner's rights");

    let admin = Database::at(&format!(
        "{}/payments",
        superuser.url.rsplit_once('/').expect("a path").0
    ));
    program(&admin, &["migrate"], &[]).await;
    let service = connect_as(&admin, SERVICE);
    let default = processor().await;
    // By TCP, which takes the password.
    let url = format!("postgres://{SERVICE}@127.0.0.1:{port}/payments");
    let password = [("DATABASE_PASSWORD", SERVICES_PASSWORD)];
    let by_tcp = Database {
        url,
        pool: service.pool.clone(),
    };
    let gateway = Gateway::start(&by_tcp, &processors(&[&default]), &password).await;
    // A server that has just been made may write to a busy disk for longer than a post waits; the
    // same id is posted again.
    let id = Uuid::new_v4();
    eventually("a payment is accepted", async || {
        gateway.post(id, CENTS).await == StatusCode::ACCEPTED
    })
    .await;
    gateway.until_settled(&[id]).await;

    // All transactions count, and an auditor's can be ended.
    let owner_sees: bool = admin
        .value(
            // From 16 on it takes an administrator who may give that role away.
            "SELECT (pg_has_role('payment_proxy_owner', 'pg_read_all_stats', 'USAGE')
                OR current_setting('server_version_num')::integer >= 160000)
            AND pg_has_role('payment_proxy_owner', 'auditor', 'USAGE')",
        )
        .await;
    assert!(owner_sees);
    let superusers_only = [
        "SELECT lo_",
        "SELECT lowrite",
        "SELECT pg_logical_emit",
        "SELECT pg_advisory",
        "SELECT pg_try_advisory",
    ];
    for statement in FORBIDDEN {
        if !superusers_only
            .iter()
            .any(|start| statement.starts_with(start))
        {
            refused(&service, statement).await;
        }
    }
}

#[tokio::test]
async fn rights_that_nobody_needs_are_told_of_and_taken_back() {
    let server = Server::start().await;
    let cluster = Database::at(&server.url());
    for statement in [
        "CREATE ROLE payment_proxy LOGIN; CREATE ROLE payment_proxy_owner LOGIN; CREATE ROLE auditor LOGIN;
         CREATE ROLE monitor LOGIN; GRANT pg_read_all_stats TO payment_proxy",
        "CREATE DATABASE payments OWNER payment_proxy_owner",
    ] {
        cluster.execute(statement).await;
    }
    let (server_url, _) = cluster.url.rsplit_once('/').expect("a path");
    let payments = Database::at(&format!("{server_url}/payments"));
    payments
        .execute("ALTER SCHEMA public OWNER TO payment_proxy_owner")
        .await;
    let told = [
        "reads other roles' statements",
        "no auditor's long transaction can be ended",
    ];
    let said = program(&payments, &["migrate"], &[]).await;
    assert!(told.iter().all(|told| said.contains(told)), "{said}");
    init_sql(&cluster.url, "payments").expect("it gets through");
    let said = program(&payments, &["migrate"], &[]).await;
    assert!(!told.iter().any(|told| said.contains(told)), "{said}");
    // Who could log in at the administrators' database before still can.
    let monitor = connect_as(&cluster, "monitor");
    assert_eq!(monitor.value::<i32>("SELECT 1").await, 1);
}
