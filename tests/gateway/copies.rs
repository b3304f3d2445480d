//! Copies of the database: dumps that are restored, templates, standbys, and what is declared of
//! them.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use payment_proxy::pipeline::worker::Step;
use payment_proxy::store::clock::DatabaseClock;
use payment_proxy::telemetry::metrics::Total;
use reqwest::StatusCode;
use serde_json::Value;
use simulator::Running;
use uuid::Uuid;

use crate::server::{Server, psql};
use crate::support::{
    Bench, CENTS, Database, Gateway, enqueue, eventually, new_payment, processor, processors,
    production_terms, watched_clock,
};

/// A doubt lasts for 6.5 s.
const SETTINGS: [(&str, &str); 3] = [
    ("PROCESSOR_TIMEOUT_MS", "500"),
    ("LATE_CHARGE_MS", "1000"),
    ("QUEUE_DURABILITY", "logged"),
];

/// Runs `payment-proxy deployment` and returns its exit code and what it printed.
fn deployment(database: &Database, arguments: &[&str]) -> (i32, Value) {
    let done = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
        .arg("deployment")
        .args(arguments)
        .arg("--json")
        .env("DATABASE_URL", &database.url)
        .output()
        .expect("the program starts");
    let printed = serde_json::from_slice(&done.stdout);
    let printed = printed.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)));
    (done.status.code().expect("an exit code"), printed)
}

fn declare(database: &Database, word: &[&str]) -> (i32, Value) {
    let mut arguments = vec!["declare"];
    arguments.extend(word);
    arguments.extend(["--reason", "a test"]);
    deployment(database, &arguments)
}

/// The database as `pg_dump` writes it.
fn dump(database: &Database) -> Vec<u8> {
    let done = Command::new(psql().with_file_name("pg_dump"))
        .args([
            "--format=custom",
            "--no-privileges",
            "--dbname",
            &database.url,
        ])
        .output()
        .expect("pg_dump runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    done.stdout
}

/// Restores a dump into a database, in place of what is there.
fn restore(dump: &[u8], database: &Database) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump");
    std::fs::write(&file, dump).expect("a file");
    let done = Command::new(psql().with_file_name("pg_restore"))
        .args([
            "--clean",
            "--if-exists",
            "--exit-on-error",
            "--dbname",
            &database.url,
        ])
        .arg(file)
        .output()
        .expect("pg_restore runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}

/// Every payment is on one processor, and recorded with that one and its `requestedAt`.
async fn agree(database: &Database, default: &Running, fallback: &Running, ids: &[Uuid]) {
    let recorded: Vec<(Uuid, String, chrono::DateTime<chrono::Utc>)> =
        sqlx::query_as("SELECT correlation_id, processor, requested_at FROM payment_processed")
            .fetch_all(&database.pool)
            .await
            .expect("the ledger");
    let mut recorded: BTreeMap<_, _> = recorded
        .into_iter()
        .map(|(id, processor, requested_at)| (id, (processor, requested_at)))
        .collect();
    let mut charges = 0;
    for (name, running) in [("default", default), ("fallback", fallback)] {
        for payment in running.processor.payments() {
            charges += 1;
            let expected = (name.to_owned(), payment.requested_at);
            assert_eq!(recorded.remove(&payment.id), Some(expected));
        }
    }
    assert_eq!((charges, recorded.len()), (ids.len(), 0));
}

/// It takes no payment, says why, and says so once in its log.
async fn is_held(gateway: &Gateway, why: &str) {
    eventually("it says why it is held", async || {
        let ready = gateway.get("/readyz").await;
        let status = ready.status();
        status == StatusCode::SERVICE_UNAVAILABLE
            && ready.text().await.expect("a body").contains(why)
    })
    .await;
    gateway.refuses().await;
    let log = gateway.log();
    let lines = log.lines().filter(|line| line.contains(" held, nothing"));
    let lines: Vec<_> = lines.filter(|line| line.contains(why)).collect();
    assert_eq!(lines.len(), 1, "{log}");
}

#[tokio::test]
async fn a_restored_dump_is_held_and_then_charges_nothing_twice() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let urls = processors(&[&default, &fallback]);
    let gateway = Gateway::start(&database, &urls, &SETTINGS).await;
    let mut ids = gateway.post_many(5).await;
    gateway.until_settled(&ids).await;
    // Payments that wait when the dump is made, because no processor is to take any.
    database
        .execute("UPDATE processor_health SET enabled = false")
        .await;
    eventually("none is taken", async || {
        gateway.log().matches("switched by an operator").count() == 2
    })
    .await;
    let queued = gateway.post_many(20).await;
    let dump = dump(&database);
    // They are settled after it, some by one processor and some by the other, and so are others
    // that it lacks.
    for half in [&queued[..10], &queued[10..]] {
        let name = if half[0] == queued[0] {
            "default"
        } else {
            "fallback"
        };
        database
            .execute(&format!(
                "UPDATE payment_queue SET processor = '{name}', requested_at = now(),
                    doubt_until = now()
                WHERE correlation_id = ANY ('{{{}}}')",
                half.iter()
                    .map(Uuid::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            ))
            .await;
    }
    database
        .execute("UPDATE processor_health SET enabled = true")
        .await;
    let lacking = gateway.post_many(10).await;
    gateway.until_settled(&queued).await;
    gateway.until_settled(&lacking).await;
    assert!(fallback.processor.payments().len() >= 10);
    gateway.stop().await;

    let restored = Database::create().await;
    restore(&dump, &restored);
    restored
        .execute("UPDATE processor_health SET enabled = true")
        .await;
    let gateway = Gateway::spawn(&restored.url, &urls, &SETTINGS);
    is_held(&gateway, "this database is a copy").await;
    let (code, shown) = deployment(&restored, &["show"]);
    assert_eq!(code, 1, "{shown}");
    assert!(shown["instances"][0]["held"].is_string(), "{shown}");
    assert_eq!(restored.count("payment_queue").await, 20);

    // Nobody says that it is a clone without saying that its queue may go.
    assert_eq!(declare(&restored, &["clone"]).0, 1);
    assert_eq!(declare(&restored, &["restored"]).0, 0);
    gateway.until_ready().await;
    // Clients post again what the dump lacks, and something new.
    for id in &lacking {
        assert_eq!(gateway.post(*id, CENTS).await, StatusCode::ACCEPTED);
    }
    let new = gateway.post_many(5).await;
    ids.extend(queued.iter().chain(&lacking).chain(&new));
    gateway.until_settled(&ids).await;
    eventually("the queue is empty", async || {
        restored.count("payment_queue").await == 0
    })
    .await;
    agree(&restored, &default, &fallback, &ids).await;
    let (_, shown) = deployment(&restored, &["show"]);
    assert_eq!(shown["asksFirst"], true);

    // The restore is over.
    assert_eq!(declare(&restored, &["checked"]).0, 0);
    assert_eq!(declare(&restored, &["checked"]).0, 1, "it was over");
    let (code, shown) = deployment(&restored, &["show"]);
    let declared: Vec<&str> = shown["declared"]
        .as_array()
        .expect("declarations")
        .iter()
        .map(|each| each["declaration"].as_str().expect("a declaration"))
        .collect();
    assert_eq!((code, &declared[..]), (0, &["checked", "restored"][..]));
}

#[tokio::test]
async fn a_restored_queue_is_not_claimed_while_calls_of_its_former_life_may_be_open() {
    let (database, default) = (Database::migrated().await, processor().await);
    let terms = production_terms();
    let mut bench = Bench::new(&database, &[&default], terms);
    bench.worker.admission.read_asks_first(true);
    enqueue(&database.pool, &[new_payment()])
        .await
        .expect("an answer");
    // An instance that has just started knows of no call when it was sent.
    bench.worker.clock = Arc::new(DatabaseClock::new(terms, Total::default()));
    let (step, _) = bench.worker.claim_step(10, 0).await.expect("an answer");
    assert!(
        matches!(step, Step::NoSettleSlot | Step::NoPermit(_)),
        "{step:?}"
    );
    let claimed = database.count("payment_queue WHERE processor IS NOT NULL");
    assert_eq!(claimed.await, 0);
    bench.worker.clock = Arc::new(watched_clock(terms));
    let (step, _) = bench.worker.claim_step(10, 0).await.expect("an answer");
    assert!(matches!(step, Step::Drained(1) | Step::More(1)), "{step:?}");
}

#[tokio::test]
async fn a_dump_restored_in_place_of_its_database_under_running_instances_holds_them() {
    let (database, default) = (Database::create().await, processor().await);
    let urls = processors(&[&default]);
    let gateway = Gateway::start(&database, &urls, &SETTINGS).await;
    let ids = gateway.post_many(5).await;
    gateway.until_settled(&ids).await;
    restore(&dump(&database), &database);
    is_held(&gateway, "this database is a copy").await;
    assert_eq!(declare(&database, &["moved"]).0, 0);
    gateway.until_ready().await;
    let ids = gateway.post_many(5).await;
    gateway.until_settled(&ids).await;
}

#[tokio::test]
async fn an_address_that_leads_to_a_copy_from_one_connection_to_the_next_charges_nothing() {
    use crate::forwarder::Forwarder;
    let (first, second) = (Server::start().await, Server::start().await);
    let (original, copy) = (Database::at(&first.url()), Database::at(&second.url()));
    let forwarder = Forwarder::to(first.socket()).await;
    let default = processor().await;
    let urls = processors(&[&default]);
    let gateway = Gateway::start(&Database::at(&forwarder.url()), &urls, &SETTINGS).await;
    let ids = gateway.post_many(5).await;
    gateway.until_settled(&ids).await;
    restore(&dump(&original), &copy);
    copy.execute(
        "INSERT INTO payment_queue (correlation_id, amount) SELECT gen_random_uuid(), 1 \
        FROM generate_series(1, 50)",
    )
    .await;
    forwarder.turn_to(second.socket());
    original
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = \
            'payment-proxy'",
        )
        .await;
    is_held(&gateway, "this database is a copy").await;
    assert_eq!(copy.count("payment_queue").await, 50);
    assert_eq!(default.processor.payments().len(), 5);
    // Back at the original it goes on by itself.
    forwarder.turn_to(first.socket());
    copy.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE \
        'payment-proxy%'",
    )
    .await;
    gateway.until_ready().await;
    let ids = gateway.post_many(5).await;
    gateway.until_settled(&ids).await;
}

#[tokio::test]
async fn a_clone_never_charges_what_the_queue_of_the_original_holds() {
    let (database, default) = (Database::migrated().await, processor().await);
    database
        .execute(
            "INSERT INTO payment_queue (correlation_id, amount) VALUES (gen_random_uuid(), 1);
            INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                processor, reason)
            VALUES (gen_random_uuid(), 1, now(), 1, 'default', 'a test');
            INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
            VALUES (gen_random_uuid(), 1, 'default', now(), now(), 1)",
        )
        .await;
    let clone = Database::create().await;
    restore(&dump(&database), &clone);
    let gateway = Gateway::spawn(&clone.url, &processors(&[&default]), &[]);
    is_held(&gateway, "this database is a copy").await;
    let (code, refused) = declare(&clone, &["clone"]);
    assert_eq!(code, 1);
    assert!(
        refused
            .to_string()
            .contains("1 queued payments and 1 dead letters"),
        "{refused}"
    );
    assert_eq!(declare(&clone, &["clone", "--discard"]).0, 0);
    gateway.until_ready().await;
    let ids = gateway.post_many(3).await;
    gateway.until_settled(&ids).await;
    assert_eq!(default.processor.payments().len(), 3);
    assert_eq!(clone.count("payment_processed").await, 4);
    assert_eq!(declare(&clone, &["clone", "--discard"]).0, 1, "it serves");
}

#[tokio::test]
async fn a_template_without_payments_is_no_copy_and_one_with_payments_is() {
    let default = processor().await;
    let template = Database::migrated().await;
    let name = template.url.rsplit('/').next().expect("a name").to_owned();
    template.pool.close().await;
    let copy = Database::of_template(&name).await;
    let gateway = Gateway::start(&copy, &processors(&[&default]), &[]).await;
    let ids = gateway.post_many(2).await;
    gateway.until_settled(&ids).await;
    gateway.stop().await;

    let name = copy.url.rsplit('/').next().expect("a name").to_owned();
    copy.pool.close().await;
    let second = Database::of_template(&name).await;
    let gateway = Gateway::spawn(&second.url, &processors(&[&default]), &[]);
    is_held(&gateway, "this database is a copy").await;
    // As after pg_upgrade, which asks the same question.
    assert_eq!(declare(&second, &["moved"]).0, 0);
    gateway.until_ready().await;
}

#[tokio::test]
async fn a_standby_that_is_promoted_is_no_restore() {
    let primary = Server::start().await;
    let default = processor().await;
    let urls = processors(&[&default]);
    let gateway = Gateway::start(&Database::at(&primary.url()), &urls, &SETTINGS).await;
    let ids = gateway.post_many(3).await;
    gateway.until_settled(&ids).await;
    gateway.stop().await;
    let standby = Server::standby_of(&primary).await;
    let database = Database::at(&standby.url());
    database.execute("SELECT pg_promote()").await;
    let gateway = Gateway::start(&database, &urls, &SETTINGS).await;
    let ids = gateway.post_many(3).await;
    gateway.until_settled(&ids).await;
    assert_eq!(database.count("payment_processed").await, 6);
}

#[tokio::test]
async fn a_role_that_may_not_ask_for_the_system_identifier_recognises_a_copy_all_the_same() {
    let server = Server::start().await;
    let database = Database::at(&server.url());
    database
        .execute(
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
            CREATE ROLE owner LOGIN; ALTER DATABASE postgres OWNER TO owner; ALTER SCHEMA public OWNER TO owner",
        )
        .await;
    let owner = Database::at(&server.url().replacen("//postgres@", "//owner@", 1));
    let default = processor().await;
    let urls = processors(&[&default]);
    let gateway = Gateway::start(&owner, &urls, &SETTINGS).await;
    let ids = gateway.post_many(3).await;
    gateway.until_settled(&ids).await;
    let (code, shown) = deployment(&owner, &["show"]);
    assert_eq!(code, 0, "{shown}");
    let here = shown["here"].as_str().expect("an identity");
    assert!(here.starts_with("system unknown, database "), "{here}");
    gateway.stop().await;
    restore(&dump(&owner), &owner);
    let gateway = Gateway::spawn(&owner.url, &urls, &SETTINGS);
    is_held(&gateway, "this database is a copy").await;
}
