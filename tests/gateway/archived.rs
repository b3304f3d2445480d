//! What is known of payments that are archived, and what is done with those that come again.

use chrono::{DateTime, Utc};
use payment_proxy::archive::{State, archive};
use payment_proxy::charge::Outcome;
use payment_proxy::config::QueueDurability;
use payment_proxy::database::is_transient;
use payment_proxy::settle::{Anomaly, Ended, record};
use payment_proxy::summary::{NoSummary, Summary, Totals, summarize};
use reqwest::StatusCode;
use rust_decimal::Decimal;
use tempfile::TempDir;
use uuid::Uuid;

use crate::archive::{PAYMENTS, filled, month, whole_hours};
use crate::server::psql;
use crate::support::{
    CENTS, Database, Gateway, enqueue, eventually, hold, new_claim, new_payment, processor,
    processors, production_terms,
};

/// When a processor charged one of those.
const STAMP: &str = "2025-06-01T01:00:00Z";
/// A row of `audit.totals`.
type TotalsRow = (DateTime<Utc>, String, i64, Decimal);

/// Archives all payments. Where their files are.
async fn move_all(database: &Database) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = database.settings(QueueDurability::Unlogged);
    let states = archive(&settings, month("2025-07"), folder.path(), false).await;
    for state in states.expect("an answer") {
        assert_eq!(state.state, State::Moved { left: 0 });
    }
    folder
}

#[tokio::test]
async fn a_part_of_an_archived_hour_is_refused_and_whole_hours_are_not() {
    let database = filled().await;
    let _files = move_all(&database).await;
    let processor = processor().await;
    let gateway = Gateway::start(&database, &processors(&[&processor]), &[]).await;
    let cut = "/payments-summary?from=2025-06-01T00:00:00.001Z&to=2025-06-01T01:30:00Z";
    let refused = gateway.get(cut).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let problem: serde_json::Value = refused.json().await.expect("JSON");
    let detail = problem["detail"].as_str().expect("a detail");
    for hour in [
        "00:00:00Z to 2025-06-01T00:59:59.999999Z",
        "01:00:00Z to 2025-06-01T01:59:59.999999Z",
    ] {
        assert!(detail.contains(hour), "{detail}");
    }
    let whole = "/payments-summary?from=2025-06-01T00:00:00Z&to=2025-06-01T01:59:59.999999Z";
    assert_eq!(gateway.get(whole).await.status(), StatusCode::OK);
    let now = Utc::now().format("%Y-%m-%dT%H:%M:%S.123Z");
    let recent = format!("/payments-summary?from=2025-07-01T00:00:00.001Z&to={now}");
    assert_eq!(gateway.get(&recent).await.status(), StatusCode::OK);
    for (from, to, fine) in [
        ("2025-06-01T00:00:00Z", "2025-06-01T01:59:59.999999Z", true),
        ("2025-06-01T00:00:00Z", "2025-06-01T02:00:00Z", false),
        (
            "2025-06-01T00:00:00.000001Z",
            "2025-06-01T02:59:59.999999Z",
            false,
        ),
        ("2025-05-31T21:59:59Z", "2025-05-31T22:00:00Z", false),
        ("2025-05-31T21:59:59Z", "2025-05-31T21:59:59.999999Z", true),
    ] {
        let ends = [from, to].map(|end| end.parse::<DateTime<Utc>>().expect("a time"));
        let psql: Result<Vec<(String, i64, Decimal)>, _> =
            sqlx::query_as("SELECT * FROM audit.summary($1, $2) WHERE total_requests > 0")
                .bind(ends[0])
                .bind(ends[1])
                .fetch_all(&database.pool)
                .await;
        let api = summarize(&database.pool, &[], Some(ends[0]), Some(ends[1])).await;
        assert_eq!(psql.is_ok(), fine, "{from} to {to}: {psql:?}");
        match api {
            Ok(Summary(api)) => {
                let psql = psql.expect("it is fine");
                let psql = psql
                    .into_iter()
                    .map(|(name, total_requests, total_amount)| {
                        (
                            name,
                            Totals {
                                total_requests,
                                total_amount,
                            },
                        )
                    });
                assert_eq!(psql.collect::<Vec<_>>(), api);
            }
            Err(error) => assert!(
                matches!(error, NoSummary::CutsArchivedHours(_)) && !fine,
                "{error}"
            ),
        }
    }
    for (unit, fine) in [
        ("second", false),
        ("minute", false),
        ("hour", true),
        ("month", true),
    ] {
        let totals: Result<Vec<TotalsRow>, _> =
            sqlx::query_as("SELECT * FROM audit.totals($1, '2025-05-01Z', '2025-06-02Z')")
                .bind(unit)
                .fetch_all(&database.pool)
                .await;
        assert_eq!(totals.is_ok(), fine, "{unit}");
        let payments = |rows: &Vec<TotalsRow>| -> i64 { rows.iter().map(|row| row.2).sum() };
        assert!(
            totals.as_ref().map(payments).unwrap_or(PAYMENTS) == PAYMENTS,
            "{unit}"
        );
    }
}

#[tokio::test]
async fn an_archived_month_is_restored_as_the_readme_says() {
    const README: &str = include_str!("../../README.md");
    let database = filled().await;
    let content = async || -> (String, String) {
        sqlx::query_as(
            "SELECT (SELECT md5(string_agg(p::text, '|' ORDER BY correlation_id)) FROM payment_processed p),
                (SELECT md5(string_agg(r::text, '|' ORDER BY unit, starts_at, processor)) FROM payment_rollup r)",
        )
        .fetch_one(&database.pool)
        .await
        .expect("the books")
    };
    let before = content().await;
    let folder = move_all(&database).await;
    let section = README.split("\n## Old months").nth(1).expect("a section");
    let script = section
        .split("```sql\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let script = script.expect("a script");
    for month in ["2025-05", "2025-06"] {
        let file = folder.path().join("restore.sql");
        std::fs::write(&file, script.replace("2026-07", month)).expect("a file");
        let done = std::process::Command::new(psql())
            .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file"])
            .arg(&file)
            .arg(&database.url)
            .current_dir(folder.path())
            .output()
            .expect("psql runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
    }
    assert_eq!(content().await, before);
    for table in [
        "payment_archived",
        "payment_archived_hour",
        "payment_archived_month",
    ] {
        assert_eq!(database.count(table).await, 0, "{table}");
    }
}

/// A payment that `default` has charged under that stamp.
fn charged(correlation_id: Uuid, stamp: &str) -> Ended {
    let mut claim = new_claim();
    claim.payment.correlation_id = correlation_id;
    claim.requested_at = stamp.parse().expect("a time");
    let requested_at = claim.requested_at;
    Ended {
        claim,
        outcome: Outcome::Charged { requested_at },
    }
}

/// Settles the charge of a payment while that is archived. Returns what was said of it.
async fn settle_while_archiving(
    database: &Database,
    known: Uuid,
) -> Result<Vec<Anomaly>, sqlx::Error> {
    // The archive as it stands just before its commit.
    let mut moving = database.pool.begin().await.expect("a transaction");
    let moved = format!(
        "INSERT INTO payment_archived (correlation_id, amount, month)
         SELECT correlation_id, amount, '2025-06-01' FROM payment_processed WHERE correlation_id = '{known}';
         DELETE FROM payment_processed WHERE correlation_id = '{known}'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(moved))
        .execute(&mut *moving)
        .await
        .expect("it is moved");
    let pool = database.pool.clone();
    let settling =
        tokio::spawn(
            async move { record(&pool, production_terms(), &[charged(known, STAMP)]).await },
        );
    eventually("the settle waits for the archive", async || {
        database.waiting_for_a_lock("").await > 0
    })
    .await;
    moving.commit().await.expect("a commit");
    settling.await.expect("no panic")
}

/// One of the payments that are settled.
async fn one_settled(database: &Database) -> Uuid {
    sqlx::query_scalar("SELECT correlation_id FROM payment_processed LIMIT 1")
        .fetch_one(&database.pool)
        .await
        .expect("one")
}

/// What is said of the charge of a payment that is archived.
fn booked_before(known: Uuid, booked: &str) -> Anomaly {
    Anomaly::BookedBefore {
        correlation_id: known,
        charged: "default".to_owned(),
        booked: booked.to_owned(),
    }
}

#[tokio::test]
async fn a_charge_that_is_booked_while_its_payment_is_archived_is_not_booked_twice() {
    let database = filled().await;
    let known = one_settled(&database).await;
    let error = settle_while_archiving(&database, known)
        .await
        .expect_err("it is to be done again");
    assert!(is_transient(&error), "{error}");
    let again = record(&database.pool, production_terms(), &[charged(known, STAMP)]).await;
    assert_eq!(again.expect("an answer"), [booked_before(known, "default")]);
    let booked = format!("payment_processed WHERE correlation_id = '{known}'");
    assert_eq!(database.count(&booked).await, 0);
}

#[tokio::test]
async fn nor_is_it_while_it_is_in_the_queue_as_well() {
    let database = filled().await;
    let known = one_settled(&database).await;
    hold(&database, known).await;
    let anomalies = settle_while_archiving(&database, known).await;
    assert_eq!(
        anomalies.expect("an answer"),
        [booked_before(known, "default")]
    );
    let booked = format!("payment_processed WHERE correlation_id = '{known}'");
    assert_eq!(database.count(&booked).await, 0);
    assert_eq!(database.count("payment_queue").await, 0);
}

#[tokio::test]
async fn a_charge_of_an_archived_payment_is_not_booked_again() {
    let database = filled().await;
    let _files = move_all(&database).await;
    let before = whole_hours(&database).await;
    let known: Uuid = sqlx::query_scalar(
        "SELECT correlation_id FROM payment_archived WHERE month = '2025-06-01' LIMIT 1",
    )
    .fetch_one(&database.pool)
    .await
    .expect("one");
    for (stamp, booked) in [(STAMP, "default"), ("2025-07-01T00:00:00Z", "archived")] {
        let ended = charged(known, stamp);
        let anomalies = record(&database.pool, production_terms(), &[ended]).await;
        let expected = [booked_before(known, booked)];
        assert_eq!(anomalies.expect("an answer"), expected, "{stamp}");
    }
    assert_eq!(database.count("payment_processed").await, 0);
    assert_eq!(whole_hours(&database).await, before);

    // Nor is it claimed, where it came into the queue all the same.
    database
        .execute(&format!(
            "INSERT INTO payment_queue (correlation_id, amount) VALUES ('{known}', 19.90)"
        ))
        .await;
    let claims =
        payment_proxy::claim::claim_free(&database.pool, production_terms(), "default", 10, 0)
            .await;
    assert_eq!(claims.expect("an answer"), []);
    assert_eq!(database.count("payment_queue").await, 0);
    let mut payment = new_payment();
    payment.correlation_id = known;
    payment.amount = Decimal::new(CENTS, 2) + Decimal::ONE_THOUSAND;
    let outcomes = enqueue(&database.pool, &[payment])
        .await
        .expect("an answer");
    assert!(
        matches!(
            outcomes[..],
            [payment_proxy::accept::Accepted::Conflict { .. }]
        ),
        "{outcomes:?}"
    );
}
