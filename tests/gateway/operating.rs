//! What operators and auditors do: dead letters and reconciliation, through the command line.

use std::process::Output;
use std::time::Duration;

use payment_proxy::simulator::Running;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{CENTS, Database, Gateway, eventually, processor, processors};

/// Runs a command against that database, and returns its exit code and what it printed as JSON.
async fn command(database: &Database, running: &[&Running], arguments: &[&str]) -> (i32, Value) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_payment-proxy"));
    command
        .args(arguments)
        .arg("--json")
        .env("DATABASE_URL", &database.url)
        .env("PROCESSORS", processors(running));
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().await.expect("the program starts");
    let text = String::from_utf8_lossy(&stdout);
    let printed = serde_json::from_str(&text);
    let printed = printed.unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&stderr)));
    (status.code().expect("an exit code"), printed)
}

/// A deployment with settled payments.
async fn settled(count: usize) -> (Database, Running, Running, Vec<Uuid>) {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let gateway = Gateway::start(&database, &processors(&[&default, &fallback]), &[]).await;
    let ids = gateway.post_many(count).await;
    gateway.until_settled(&ids).await;
    gateway.stop().await;
    (database, default, fallback, ids)
}

/// Puts a payment into a processor's books behind our back.
async fn charge(running: &Running, id: Uuid, amount: &str) {
    let body = format!(
        r#"{{"correlationId":"{id}","amount":{amount},"requestedAt":"2026-07-01T00:00:00.000Z"}}"#
    );
    let post = payment_proxy::tls::plain()
        .build()
        .expect("a client")
        .post(format!("{}/payments", running.url()));
    let reply = post
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .expect("a reply");
    assert!(reply.status().is_success());
}

#[tokio::test]
async fn reconcile_finds_nothing_where_books_and_processors_agree() {
    let (database, default, fallback, ids) = settled(30).await;
    let (code, report) = command(
        &database,
        &[&default, &fallback],
        &["reconcile", "--token", "123"],
    )
    .await;
    assert_eq!(
        (code, report["compared"].as_u64()),
        (0, Some(ids.len() as u64)),
        "{report}"
    );
}

#[tokio::test]
async fn reconcile_names_and_repairs_what_is_provable() {
    let (database, default, fallback, ids) = settled(6).await;
    let [other_stamp, other_processor, queued, dead, untouched, _] = ids[..] else {
        panic!("six ids")
    };
    database
        .execute(&format!(
            "UPDATE payment_processed SET requested_at = requested_at - interval '1 s' WHERE correlation_id = '{other_stamp}';
             UPDATE payment_processed SET processor = 'fallback' WHERE correlation_id = '{other_processor}';
             WITH gone AS (DELETE FROM payment_processed WHERE correlation_id = '{queued}' RETURNING *)
             INSERT INTO payment_queue (correlation_id, amount, accepted_at)
             SELECT correlation_id, amount, accepted_at FROM gone;
             WITH gone AS (DELETE FROM payment_processed WHERE correlation_id = '{dead}' RETURNING *)
             INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt, processor, reason)
             SELECT correlation_id, amount, accepted_at, 1, 'default', 'none' FROM gone"
        ))
        .await;
    let running = [&default, &fallback];
    let (code, report) = command(&database, &running, &["reconcile"]).await;
    assert_eq!(code, 1);
    let kind = |id: Uuid| {
        let findings = report["findings"].as_array().expect("findings");
        let finding = findings
            .iter()
            .find(|finding| finding["correlationId"] == id.to_string());
        finding.map(|finding| {
            finding["difference"]["kind"]
                .as_str()
                .expect("a kind")
                .to_owned()
        })
    };
    assert_eq!(kind(other_stamp).as_deref(), Some("otherStamp"));
    assert_eq!(kind(other_processor).as_deref(), Some("otherProcessor"));
    assert_eq!(kind(queued).as_deref(), Some("notBooked"));
    assert_eq!(kind(dead).as_deref(), Some("notBooked"));
    assert_eq!(kind(untouched), None);

    let (code, report) = command(&database, &running, &["reconcile", "--repair"]).await;
    assert_eq!(
        (code, report["findings"].as_array().map(Vec::len)),
        (0, Some(4)),
        "{report}"
    );
    let (code, report) = command(&database, &running, &["reconcile", "--token", "123"]).await;
    assert_eq!(
        (code, report["findings"].as_array().map(Vec::len)),
        (0, Some(0)),
        "{report}"
    );
    assert_eq!(
        database.count("payment_queue").await + database.count("payment_dead_letter").await,
        0
    );
}

#[tokio::test]
async fn reconcile_leaves_to_a_person_what_is_not_provable() {
    let (database, default, fallback, ids) = settled(2).await;
    let uncharged = Uuid::new_v4();
    charge(&fallback, ids[0], "19.90").await;
    charge(&fallback, Uuid::new_v4(), "5.00").await;
    database
        .execute(&format!(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at, accepted_at, attempt)
             VALUES ('{uncharged}', 19.90, 'default', now(), now(), 1);
             UPDATE payment_processed SET amount = 7 WHERE correlation_id = '{}'",
            ids[1]
        ))
        .await;
    let running = [&default, &fallback];
    let (code, report) = command(
        &database,
        &running,
        &["reconcile", "--repair", "--token", "123"],
    )
    .await;
    assert_eq!(code, 1);
    let findings = report["findings"].as_array().expect("findings");
    let mut kinds: Vec<&str> = findings
        .iter()
        .filter_map(|finding| finding["difference"]["kind"].as_str())
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["chargedTwice", "notCharged", "otherAmount"]);
    assert!(findings.iter().all(|finding| finding["repaired"] == false));
    let unknown = report["totals"].as_array().expect("totals");
    assert!(
        unknown
            .iter()
            .any(|totals| totals["processor"] == "fallback"),
        "a payment that we do not know: {report}"
    );
}

#[tokio::test]
async fn reconcile_does_not_take_silence_for_a_difference_nor_for_agreement() {
    let (database, default, fallback, ids) = settled(3).await;
    fallback.processor.refuse_for(Duration::from_secs(60));
    let running = [&default, &fallback];
    let (code, report) = command(&database, &running, &["reconcile"]).await;
    let silent = |finding: &Value| finding["difference"]["kind"] == "noAnswer";
    let findings = report["findings"].as_array().expect("findings");
    assert!(
        code == 2 && findings.len() == ids.len() && findings.iter().all(silent),
        "{code} {report}"
    );
    fallback.processor.refuse_for(Duration::ZERO);
    eventually("they agree", async || {
        command(&database, &running, &["reconcile"]).await.0 == 0
    })
    .await;
}

#[tokio::test]
async fn a_payment_that_a_processor_refuses_is_a_dead_letter_that_can_be_retried() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    // The processor holds this id with another amount: nothing that we could do would be right.
    let id = Uuid::new_v4();
    charge(&default, id, "5.00").await;
    gateway.post(id, CENTS).await;
    eventually("it is dead", async || gateway.state(id).await == "dead").await;
    let id_text = id.to_string();
    let (code, letters) = command(&database, &[&default], &["dead-letter", "show", &id_text]).await;
    assert_eq!(code, 0);
    assert_eq!(
        letters[0]["reason"]
            .as_str()
            .map(|reason| reason.contains("5.00")),
        Some(true),
        "{letters}"
    );

    // A retry asks that processor again, and no other.
    let (code, done) = command(&database, &[&default], &["dead-letter", "retry", &id_text]).await;
    assert_eq!(
        (code, done["done"][0].as_str()),
        (0, Some(id_text.as_str()))
    );
    eventually("it is dead again", async || {
        gateway.state(id).await == "dead"
    })
    .await;

    // Once the reason is gone, a retry settles it.
    default.processor.purge().expect("it is purged");
    command(&database, &[&default], &["dead-letter", "retry", "--all"]).await;
    gateway.until_settled(&[id]).await;
    let (code, done) = command(
        &database,
        &[&default],
        &["dead-letter", "discard", "--yes", &id_text],
    )
    .await;
    assert_eq!(
        (code, done["missing"][0].as_str()),
        (1, Some(id_text.as_str()))
    );
}
