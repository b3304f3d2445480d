//! Payments in doubt that only an operator can end: their processor left `PROCESSORS`, or never
//! says what it did.

use chrono::{DateTime, TimeDelta, Utc};
use payment_proxy::pipeline::settle::{Anomaly, CompletedClaim, record};
use payment_proxy::processors::Outcome;
use payment_proxy::store::claim::{Claim, claim_in_doubt, claim_queued};
use payment_proxy::store::in_doubt::{Author, Resolution, decide};
use serde_json::Value;
use sqlx::Row;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::command_line::{json, program, run};
use crate::support::{
    Database, Gateway, both, enqueue, eventually, expire_lease, new_payment, processor, processors,
    production_terms, watched_clock,
};

const TOLD: &str = "payments are in doubt at a processor that no living instance has";

/// Payments in doubt at `old`, sent five minutes ago.
async fn strand(database: &Database, count: usize) -> Vec<String> {
    let ids: Vec<String> = (0..count).map(|_| Uuid::new_v4().to_string()).collect();
    for id in &ids {
        database
            .execute(&format!(
                "INSERT INTO payment_queue (correlation_id, amount, accepted_at, attempt, processor,
                    requested_at, doubt_until)
                 VALUES ('{id}', 19.90, now() - interval '5 min', 3, 'old',
                    date_trunc('milliseconds', now() - interval '5 min'), now() - interval '3 min')"
            ))
            .await;
    }
    ids
}

async fn text(database: &Database, query: &str) -> String {
    let row = sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned()));
    row.fetch_one(&database.pool).await.expect("a row")
}

#[tokio::test]
async fn payments_of_a_removed_processor_are_told_of_once_and_ended_by_an_operators_word() {
    let (database, default) = (Database::migrated().await, processor().await);
    let ids = strand(&database, 4).await;
    let [charged, stamped, not_charged, left] = &ids[..] else {
        panic!("four")
    };
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let command = |arguments: &[&str]| {
        let mut command = program(&database.url, &[&["in-doubt"], arguments].concat());
        command.env("USER", "alice");
        command
    };
    eventually("it is told", async || gateway.log().contains(TOLD)).await;
    eventually("status warns of it", async || {
        let (_, status) = json(&mut program(&database.url, &["status"])).await;
        let items = status["attention"].as_array().expect("a list");
        items.iter().any(|item| {
            item["kind"] == "stranded"
                && item["text"]
                    .as_str()
                    .is_some_and(|text| text.contains("4 in doubt at old"))
        })
    })
    .await;
    let (_, list) = json(&mut command(&["list", "--processor", "old"])).await;
    assert_eq!(list.as_array().map(Vec::len), Some(4), "{list}");
    assert_eq!(list[0]["configured"], false);

    // Not without a yes, and a dry run changes nothing.
    let said = ["--reason", "asked by phone", charged];
    let (code, output) = run(&mut command(&[&["not-charged"], &said[..]].concat())).await;
    assert!(code == 2 && output.contains("--yes"), "{code} {output}");
    let (code, output) = run(&mut command(
        &[&["charged", "--dry-run"], &said[..]].concat(),
    ))
    .await;
    assert!(
        code == 0 && output.contains("would be recorded as charged"),
        "{output}"
    );
    assert_eq!(
        database
            .count("payment_queue WHERE processor = 'old' AND attempt = 3")
            .await,
        4
    );

    // A list from a pipe, one of it under another requestedAt.
    let at = text(
        &database,
        "SELECT to_char((now() - interval '4 min') AT TIME ZONE 'UTC', \
        'YYYY-MM-DD\"T\"HH24:MI:SS')",
    )
    .await;
    let mut child = command(&[
        "charged",
        "--file",
        "-",
        "--yes",
        "--reason",
        "asked by phone",
    ])
    .stdin(std::process::Stdio::piped())
    .stdout(std::process::Stdio::piped())
    .spawn()
    .expect("the program starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    let list = format!("{charged}\n{stamped},{at}\n");
    pipe.write_all(list.as_bytes()).await.expect("it reads");
    drop(pipe);
    let output = child.wait_with_output().await.expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    let unknown = Uuid::new_v4().to_string();
    let (code, done) = json(&mut command(&[
        "not-charged",
        "--yes",
        "--reason",
        "its books",
        not_charged,
        &unknown,
    ]))
    .await;
    let outcome = |id: &String| {
        let found = done
            .as_array()
            .expect("a list")
            .iter()
            .find(|each| each["correlationId"] == **id);
        found.map(|each| each["outcome"].clone())
    };
    assert_eq!(
        (code, outcome(not_charged), outcome(&unknown)),
        (1, Some(Value::from("done")), Some(Value::from("unknown")))
    );

    // The ledger says what was said; the free one goes where there is a processor.
    let uuid: Uuid = not_charged.parse().expect("an id");
    gateway.until_settled(&[uuid]).await;
    let recorded = "SELECT string_agg(processor, ' ' ORDER BY processor) FROM payment_processed";
    assert_eq!(text(&database, recorded).await, "default old old");
    let at_old = format!(
        "SELECT to_char(requested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS') FROM \
        payment_processed WHERE correlation_id = '{stamped}'"
    );
    assert_eq!(text(&database, &at_old).await, at);
    let (_, life) = run(&mut program(&database.url, &["payment", charged])).await;
    assert!(
        life.contains("alice (as payment_proxy") || life.contains("alice (as postgres"),
        "{life}"
    );
    assert!(
        life.contains("said charged: asked by phone") && life.contains("settled"),
        "{life}"
    );
    let (_, life) = run(&mut program(&database.url, &["payment", not_charged])).await;
    assert!(life.contains("said not_charged: its books"), "{life}");
    assert_eq!(
        database
            .count("audit.decision WHERE decided_by = 'alice'")
            .await,
        3
    );

    // What nobody decided waits, and is not told of again and again.
    assert_eq!(
        database
            .count(&format!(
                "payment_queue WHERE correlation_id = '{left}' AND attempt = 3"
            ))
            .await,
        1
    );
    let (_, log) = gateway.stop().await;
    assert_eq!(log.matches(TOLD).count(), 1, "{log}");
    assert_eq!(log.matches(" ERROR ").count(), 1, "{log}");
}

async fn claim_one(database: &Database) -> Claim {
    enqueue(&database.pool, &[new_payment()])
        .await
        .expect("an answer");
    let claims = claim_queued(&database.pool, production_terms(), "default", 1, 0).await;
    claims.expect("an answer").pop().expect("a free payment")
}

/// What comes of a decision on the payment of a claim.
async fn decided(database: &Database, claim: &Claim, decision: Resolution) -> String {
    decided_under(database, claim, decision, None).await
}

async fn decided_under(
    database: &Database,
    claim: &Claim,
    decision: Resolution,
    requested_at: Option<DateTime<Utc>>,
) -> String {
    let author = Author::new("alice", "asked");
    let payments = [(claim.payment.correlation_id, requested_at)];
    let decided = decide(&database.pool, &payments, decision, &author, false).await;
    decided.expect("an answer").pop().expect("one").outcome
}

async fn end(database: &Database, claim: &Claim, outcome: Outcome) -> Vec<Anomaly> {
    let ended = CompletedClaim {
        claim: claim.clone(),
        outcome,
    };
    record(&database.pool, production_terms(), &[ended])
        .await
        .expect("an answer")
}

fn charged(claim: &Claim) -> Outcome {
    Outcome::Charged {
        requested_at: claim.requested_at,
    }
}

#[tokio::test]
async fn an_operators_word_respects_a_live_lease_and_a_late_success_stays_a_fact() {
    let database = Database::migrated().await;
    let claim = claim_one(&database).await;
    for decision in [Resolution::Charged, Resolution::NotCharged] {
        assert_eq!(decided(&database, &claim, decision).await, "in_flight");
    }
    // A claim of which somebody is just writing the end is at work, too.
    let mut transaction = database.pool.begin().await.expect("a transaction");
    let row = sqlx::query("SELECT id FROM payment_queue FOR UPDATE");
    row.fetch_one(&mut *transaction).await.expect("a row");
    expire_lease_elsewhere(&mut transaction).await;
    assert_eq!(
        decided(&database, &claim, Resolution::Charged).await,
        "in_flight"
    );
    transaction.commit().await.expect("a commit");

    // Its call may still charge.
    assert_eq!(
        decided(&database, &claim, Resolution::NotCharged).await,
        "too early"
    );
    database
        .execute("UPDATE payment_queue SET doubt_until = now()")
        .await;
    assert_eq!(
        decided(&database, &claim, Resolution::NotCharged).await,
        "done"
    );
    assert_eq!(
        decided(&database, &claim, Resolution::NotCharged).await,
        "queued"
    );

    // What the first claim says late changes nothing, though nobody has claimed the payment since.
    let refused = Outcome::Dead {
        reason: "refused".to_owned(),
        held: false,
    };
    end(&database, &claim, refused).await;
    assert_eq!(database.count("payment_dead_letter").await, 0);

    // Another processor has it now: what the first claim says late is an opinion, unless it is a
    // success.
    let claims = claim_queued(&database.pool, production_terms(), "fallback", 1, 0).await;
    let second = claims.expect("an answer").pop().expect("it is free");
    let late = Outcome::InDoubt {
        until: None,
        reason: "no reply".to_owned(),
    };
    end(&database, &claim, late).await;
    assert_eq!(
        database
            .count("payment_queue WHERE processor = 'fallback' AND lease_until > now()")
            .await,
        1
    );
    let anomalies = end(&database, &claim, charged(&claim)).await;
    assert_eq!(
        anomalies,
        [Anomaly::QueueRowGone(claim.payment.correlation_id)]
    );
    // The second was not sent: its payment is recorded, and is not charged again.
    end(
        &database,
        &second,
        Outcome::NotCharged {
            reason: "not sent".to_owned(),
        },
    )
    .await;
    let again = claim_queued(&database.pool, production_terms(), "fallback", 1, 0).await;
    assert_eq!(again.expect("an answer"), []);
    let processors = sqlx::query("SELECT processor FROM payment_processed")
        .fetch_all(&database.pool)
        .await;
    let processors: Vec<String> = processors
        .expect("rows")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(processors, ["default"]);
}

async fn expire_lease_elsewhere(connection: &mut sqlx::PgConnection) {
    let ended = "UPDATE payment_queue SET lease_until = now() - interval '1 ms'";
    sqlx::query(ended)
        .execute(connection)
        .await
        .expect("an update");
}

#[tokio::test]
async fn a_charge_by_word_and_a_late_success_are_one_charge() {
    let database = Database::migrated().await;
    let claim = claim_one(&database).await;
    // The end of the claim is recorded, and it pauses before the next: nobody is at work.
    let silence = Outcome::InDoubt {
        until: None,
        reason: "no reply".to_owned(),
    };
    end(&database, &claim, silence).await;
    assert_eq!(
        database
            .count("payment_queue WHERE lease_until > now()")
            .await,
        1
    );
    assert_eq!(
        decided(&database, &claim, Resolution::Charged).await,
        "done"
    );
    assert_eq!(
        decided(&database, &claim, Resolution::Charged).await,
        "settled"
    );
    let recorded = "default".to_owned();
    let anomalies = end(&database, &claim, charged(&claim)).await;
    let before = Anomaly::RecordedBefore {
        correlation_id: claim.payment.correlation_id,
        charged: recorded.clone(),
        recorded,
    };
    assert_eq!(anomalies, [before]);
    assert_eq!(database.count("payment_processed").await, 1);
    let total = "SELECT sum(requests)::text FROM payment_rollup WHERE unit = 'hour'";
    assert_eq!(text(&database, total).await, "1");
}

#[tokio::test]
async fn a_charge_by_word_is_under_a_time_at_which_it_can_have_been_sent() {
    let database = Database::migrated().await;
    let claim = claim_one(&database).await;
    expire_lease(&database, &claim).await;
    let (sent, much) = (claim.requested_at, TimeDelta::hours(25));
    for (requested_at, outcome) in [
        (sent - much, "out of range"),
        (sent + much, "out of range"),
        (sent - TimeDelta::hours(23), "done"),
    ] {
        let decided =
            decided_under(&database, &claim, Resolution::Charged, Some(requested_at)).await;
        assert_eq!(decided, outcome, "{requested_at}");
    }
    assert_eq!(database.count("payment_processed").await, 1);
}

#[tokio::test]
async fn an_instance_claims_no_doubt_of_a_processor_that_only_others_have() {
    let database = Database::migrated().await;
    let claim = claim_one(&database).await;
    expire_lease(&database, &claim).await;
    let of = async |names: &[String]| {
        let claims = claim_in_doubt(
            &database.pool,
            production_terms(),
            &watched_clock(production_terms()),
            names,
            10,
            i64::MAX,
        )
        .await;
        claims.expect("an answer").len()
    };
    assert_eq!(of(&["fallback".to_owned()]).await, 0);
    assert_eq!(of(&both()).await, 1);
}
