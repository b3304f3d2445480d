//! Migrations never stop payments, and a program that is older than the schema is treated alike by
//! all.

use std::time::{Duration, Instant};

use payment_proxy::config::{MigrateSettings, OwnerSettings, PurgeSettings, QueueDurability};
use payment_proxy::store::database::{self, Condition, DDL_LOCK_TIMEOUT, Schema};
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::are_charged_once;
use crate::archive::filled;
use crate::archived::move_all;
use crate::command_line::{program, run};
use crate::server::connect_as;
use crate::support::{CENTS, Database, Gateway, TIMEOUT, eventually, processor, processors};

/// Somebody who reads, or does what `lock` says, and holds its lock until this ends.
async fn holder(database: &Database, lock: &'static str) -> PgConnection {
    let mut connection = PgConnection::connect(&database.url)
        .await
        .expect("a connection");
    for statement in ["SET application_name = 'pg_dump'", "BEGIN", lock] {
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .expect(statement);
    }
    connection
}

#[tokio::test]
async fn a_migration_behind_a_reader_lets_payments_pass_and_says_who_reads() {
    let database = Database::migrated().await;
    let default = processor().await;
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    // A migration that is applied once more reads a table that somebody holds, and no payment does.
    database
        .execute(
            "DROP SCHEMA audit CASCADE; DELETE FROM _sqlx_migrations WHERE description = 'audit'",
        )
        .await;
    let lock = "LOCK TABLE payment_decision IN ACCESS EXCLUSIVE MODE";
    let reader = holder(&database, lock).await;
    let mut migrate = program(&database.url, &["migrate"]);
    let migrating = tokio::spawn(async move { run(&mut migrate).await });
    let begun_at = Instant::now();
    let mut ids = Vec::new();
    while begun_at.elapsed() < Duration::from_secs(4) {
        let (id, posted_at) = (Uuid::new_v4(), Instant::now());
        assert_eq!(gateway.post(id, CENTS).await, StatusCode::ACCEPTED);
        assert!(
            posted_at.elapsed() < Duration::from_secs(2),
            "{:?}",
            posted_at.elapsed()
        );
        ids.push(id);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    are_charged_once(&database, &gateway, &[&default], &ids).await;
    assert!(!migrating.is_finished(), "it waits for the reader");

    reader.close().await.expect("it ends");
    let (code, log) = tokio::time::timeout(TIMEOUT, migrating)
        .await
        .expect("it ends")
        .expect("it runs");
    assert_eq!(code, 0, "{log}");
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("lock.held_by"))
        .collect();
    assert!((1..=3).contains(&told.len()), "{log}");
    for words in [
        "process ",
        "user postgres",
        "application pg_dump",
        "transaction since 20",
    ] {
        assert!(told[0].contains(words), "{words} in {log}");
    }
    gateway.until_ready().await;
    let later = gateway.post_many(5).await;
    gateway.until_settled(&later).await;

    // The switch of the durability, for which nobody serves, waits in the same way.
    gateway.stop().await;
    let lock = "LOCK TABLE payment_queue IN ACCESS SHARE MODE";
    let reader = holder(&database, lock).await;
    let mut migrate = program(&database.url, &["migrate"]);
    migrate.env("QUEUE_DURABILITY", "logged");
    let migrating = tokio::spawn(async move { run(&mut migrate).await });
    eventually("it waits for the reader", async || {
        database
            .waiting_for_a_lock("LOCK TABLE payment_queue")
            .await
            > 0
    })
    .await;
    reader.close().await.expect("it ends");
    let (code, log) = migrating.await.expect("it runs");
    assert_eq!(code, 0, "{log}");
    let logged = "pg_class WHERE oid = 'payment_queue'::regclass AND relpersistence = 'p'";
    assert_eq!(database.count(logged).await, 1);
}

#[tokio::test]
async fn an_archive_waits_for_a_lock_shortly_and_goes_on_when_it_is_free() {
    let database = filled().await;
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().display().to_string();
    let holder = holder(&database, "LOCK TABLE payment_archived IN SHARE MODE").await;
    let mut archive = program(
        &database.url,
        &["archive", "--before", "2025-06", "--to", &to],
    );
    let archiving = tokio::spawn(async move { run(&mut archive).await });
    eventually("it is not over", async || {
        database.waiting_for_a_lock("payment_archived").await == 1
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!archiving.is_finished());
    holder.close().await.expect("it ends");
    let (code, log) = tokio::time::timeout(TIMEOUT, archiving)
        .await
        .expect("it ends")
        .expect("it runs");
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("application pg_dump"), "{log}");
    assert_eq!(database.count("payment_archived").await, 4_000);
}

#[tokio::test]
async fn a_restore_waits_for_locks_shortly_and_goes_on_when_they_are_free() {
    let database = filled().await;
    let folder = move_all(&database).await;
    let from = folder.path().display().to_string();
    // Of a table that it writes to, of the month itself, and of what it has half moved back by
    // then.
    let ledger = holder(&database, "LOCK TABLE payment_processed IN SHARE MODE").await;
    let month = holder(&database, "SELECT FROM payment_archived_month FOR SHARE").await;
    let payments = holder(&database, "SELECT FROM payment_archived FOR SHARE").await;
    let mut restore = program(&database.url, &["restore", "2025-06", "--from", &from]);
    let restoring = tokio::spawn(async move { run(&mut restore).await });
    let begun_at = Instant::now();
    for (holder, statement) in [
        (ledger, "LOCK TABLE payment_archived"),
        (month, "FROM payment_archived_month"),
        (payments, "archive_line"),
    ] {
        eventually(statement, async || {
            database.waiting_for_a_lock(statement).await == 1
        })
        .await;
        // Longer than any other statement of ours waits for a lock.
        tokio::time::sleep_until((begun_at + Duration::from_secs(3)).into()).await;
        assert!(!restoring.is_finished(), "{statement}");
        assert_eq!(database.count("payment_processed").await, 0, "{statement}");
        holder.close().await.expect("it ends");
    }
    let (code, log) = tokio::time::timeout(TIMEOUT, restoring)
        .await
        .expect("it ends")
        .expect("it runs");
    assert_eq!(code, 0, "{log}");
    for words in [
        "task=\"restore\"",
        "application pg_dump",
        "transaction since 20",
    ] {
        assert!(log.contains(words), "{words} in {log}");
    }
    assert_eq!(database.count("payment_processed").await, 6_000);
}

#[tokio::test]
async fn a_purge_behind_a_reader_lets_payments_pass_and_says_who_reads() {
    let database = Database::migrated().await;
    let default = processor().await;
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    gateway.until_settled(&gateway.post_many(3).await).await;
    // It has the lock of the queue, for which posts wait, while it waits for that of the ledger.
    let reader = holder(
        &database,
        "LOCK TABLE payment_processed IN ACCESS SHARE MODE",
    )
    .await;
    let purge = gateway.post_body("/purge-payments", "");
    let post = async {
        let ids: Vec<Uuid> = (0..60).map(|_| Uuid::new_v4()).collect();
        for id in &ids {
            let posted_at = Instant::now();
            let posted = gateway.post(*id, CENTS).await;
            assert_eq!(posted, StatusCode::ACCEPTED);
            let took = posted_at.elapsed();
            assert!(took < DDL_LOCK_TIMEOUT * 3, "{took:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        gateway.until_settled(&ids).await;
    };
    let (refused, ()) = tokio::join!(purge, post);
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(RETRY_AFTER));
    let told = refused.text().await.expect("a body");
    assert!(told.contains(&Condition::Locked.to_string()), "{told}");
    let log = gateway.log();
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("lock.held_by"))
        .collect();
    assert_eq!(told.len(), 1, "{log}");
    for words in ["task=\"purge\"", "application pg_dump"] {
        assert!(told[0].contains(words), "{words} in {log}");
    }
    assert_eq!(database.count("payment_processed").await, 63);

    let purge = gateway.post_body("/purge-payments", "");
    let end = async {
        eventually("it waits", async || {
            database.waiting_for_a_lock("TRUNCATE").await == 1
        })
        .await;
        reader.close().await.expect("it ends");
    };
    let (purged, ()) = tokio::join!(purge, end);
    assert_eq!(purged.status(), StatusCode::NO_CONTENT);
    assert_eq!(database.count("payment_processed").await, 0);
}

/// Those who meet the schema: the owner who migrates, an instance of the owner, and one of the
/// service's role.
async fn meet(owner: &Database, service: &Database) -> [anyhow::Result<bool>; 3] {
    let settings = MigrateSettings {
        database: service.settings(QueueDurability::Unlogged),
        owner: OwnerSettings {
            migrate_database_url: Some(owner.url.parse().expect("a URL")),
            ..owner.migrate_settings(QueueDurability::Unlogged).owner
        },
        purge: PurgeSettings { allow_purge: false },
    };
    let is_ready = |schema| schema == Schema::Ready;
    [
        database::migrate(&settings).await.map(|()| true),
        database::prepare(&owner.settings(QueueDurability::Unlogged))
            .await
            .map(is_ready),
        database::prepare(&service.settings(QueueDurability::Unlogged))
            .await
            .map(is_ready),
    ]
}

#[tokio::test]
async fn an_instance_that_waits_for_the_owner_to_migrate_is_not_ready() {
    let owner = Database::migrated().await;
    let role = format!("service_{}", owner.name());
    owner.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let service = connect_as(&owner, &role);
    for met in meet(&owner, &service).await {
        met.expect("it is the schema of this program");
    }
    let default = processor().await;
    let logged = [("QUEUE_DURABILITY", "logged")];
    let gateway = Gateway::spawn(&service.url, &processors(&[&default]), &logged);
    eventually("it waits", async || {
        gateway
            .log()
            .contains("waiting for `payment-proxy migrate`")
    })
    .await;
    let ready = gateway.get("/readyz").await;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    database::migrate(&owner.migrate_settings(QueueDurability::Logged))
        .await
        .expect("the durability is switched");
    gateway.until_ready().await;
    gateway.until_settled(&gateway.post_many(3).await).await;
}

#[tokio::test]
async fn a_program_that_is_older_than_the_schema_is_treated_alike_by_all_roles() {
    let owner = Database::migrated().await;
    let role = format!("service_{}", owner.name());
    owner.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let service = connect_as(&owner, &role);
    for met in meet(&owner, &service).await {
        assert!(met.expect("it is the schema of this program"));
    }
    let default = processor().await;
    let gateway = Gateway::start(&service, &processors(&[&default]), &[]).await;

    // A newer program has migrated, and says that this one can go on.
    let newer = |version: i64, name: &str| {
        format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES ({version}, '{name}', true, '', 0)"
        )
    };
    owner
        .execute(&newer(90_000_000_000_000, "a column more compatible"))
        .await;
    owner
        .execute(&format!(
            "CREATE TABLE newer (); GRANT INSERT ON newer TO {role}"
        ))
        .await;
    for met in meet(&owner, &service).await {
        assert!(met.expect("it is compatible"));
    }
    assert!(gateway.is_ready().await);
    gateway.until_settled(&gateway.post_many(3).await).await;
    let kept = format!(
        "pg_roles WHERE has_table_privilege('{role}', 'newer', 'INSERT') AND rolname = '{role}'"
    );
    assert_eq!(
        owner.count(&kept).await,
        1,
        "rights of the newer program stay"
    );

    // And then with one with which it cannot.
    owner
        .execute(&newer(90_000_000_000_001, "a column less"))
        .await;
    for met in meet(&owner, &service).await {
        let error = format!("{:#}", met.expect_err("it is not compatible"));
        assert!(
            error.contains("90000000000001 (a column less) of a newer program"),
            "{error}"
        );
        assert!(!error.contains('\n'), "{error}");
    }
    let ready = gateway.get("/readyz").await;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let text = ready.text().await.expect("a body");
    assert!(text.contains(&Condition::TooNew.to_string()), "{text}");
    for url in [&owner.url, &service.url] {
        let (code, log) = run(&mut program(url, &["serve", "--listen", "127.0.0.1:0"])).await;
        assert_eq!(code, 2, "{log}");
        assert!(log.contains("of a newer program"), "{log}");
    }
}
