//! Old months leave the books while the service runs, and nothing is lost, doubled or charged again.

use std::path::Path;
use std::process::{Output, Stdio};

use chrono::{DateTime, TimeDelta, Utc};
use payment_proxy::archive::{Month, State, archive};
use payment_proxy::charge::Outcome;
use payment_proxy::claim::Claim;
use payment_proxy::config::QueueDurability;
use payment_proxy::settle::{Anomaly, Ended, record};
use payment_proxy::summary::{NoSummary, Summary, Totals, summarize};
use reqwest::StatusCode;
use rust_decimal::Decimal;
use tokio::process::Command;
use uuid::Uuid;

use crate::server::{connect_as, psql, run_init_sql};
use crate::support::{
    CENTS, Database, Gateway, enqueue, eventually, new_payment, processor, processors,
    production_terms,
};

/// A row of `audit.totals`.
type TotalsRow = (DateTime<Utc>, String, i64, Decimal);

/// The first hour of the books of these tests; the month changes two hours later.
const BEGIN: &str = "2025-05-31T22:00:00Z";
/// Hours that have payments.
const HOURS: i64 = 5;
const PAYMENTS: i64 = 10_000;

/// Payments of two months that are long over, two fifths of them in May.
async fn fill(database: &Database) {
    database
        .execute(&format!(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at, accepted_at, attempt)
             SELECT gen_random_uuid(), (random() * 100 + 0.01)::numeric(14,2), (ARRAY['default', 'fallback'])[1 + n % 2],
                 date_trunc('milliseconds', '{BEGIN}'::timestamptz + (n - 0.5) / {PAYMENTS} * interval '{HOURS} hours'), now(), 1
             FROM generate_series(1, {PAYMENTS}) AS n"
        ))
        .await;
}

fn begin() -> DateTime<Utc> {
    BEGIN.parse().expect("a time")
}

fn month(text: &str) -> Month {
    text.parse().expect("a month")
}

/// The summary of every hour of the books of these tests, and of every longer range that begins there.
async fn whole_hours(database: &Database) -> Vec<Vec<(String, Totals)>> {
    let mut found = Vec::new();
    for (first, last) in (0..HOURS).flat_map(|first| (first..HOURS).map(move |last| (first, last)))
    {
        let from = begin() + TimeDelta::hours(first);
        let to = begin() + TimeDelta::hours(last + 1) - TimeDelta::microseconds(1);
        let Summary(summary) = summarize(&database.pool, &[], Some(from), Some(to))
            .await
            .expect("a summary");
        found.push(summary);
    }
    found
}

/// The program, as somebody runs it who archives everything before a month.
fn program(service: &Database, owner: &Database, before: &str, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payment-proxy"));
    command
        .args(["archive", "--before", before, "--to"])
        .arg(folder)
        .env("DATABASE_URL", &service.url)
        .env("MIGRATE_DATABASE_URL", &owner.url)
        .stdin(Stdio::null());
    command
}

/// Its exit code and all that it says.
async fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().await.expect("the program starts");
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (status.code(), text.concat())
}

/// Ids and amounts of what is settled in these months, in cents.
async fn settled(database: &Database, condition: &str) -> Vec<(Uuid, i64)> {
    let query = format!(
        "SELECT correlation_id, (amount * 100)::bigint FROM payment_processed WHERE {condition} ORDER BY correlation_id"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(query))
        .fetch_all(&database.pool)
        .await
        .expect("the books")
}

#[tokio::test]
async fn old_months_are_archived_while_payments_are_posted() {
    let admin = Database::create().await;
    run_init_sql(&admin);
    let [service, owner, auditor] =
        ["payment_proxy", "payment_proxy_owner", "auditor"].map(|role| connect_as(&admin, role));
    let migrated = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
        .arg("migrate")
        .env("DATABASE_URL", &service.url)
        .env("MIGRATE_DATABASE_URL", &owner.url)
        .status()
        .await;
    assert!(migrated.expect("the program starts").success());
    fill(&admin).await;
    let before = whole_hours(&service).await;
    let old = settled(&admin, "true").await;
    let (default, fallback) = (processor().await, processor().await);
    let gateway = Gateway::start(&service, &processors(&[&default, &fallback]), &[]).await;

    let folder = tempfile::tempdir().expect("a folder");
    let mut archiving = program(&service, &owner, "2025-07", folder.path());
    let mut archiving = archiving.spawn().expect("the program starts");
    let (mut posted, mut reposted) = (Vec::new(), 0);
    let code = loop {
        posted.extend(gateway.post_many(20).await);
        // Old payments come again while they move.
        for (id, cents) in old.iter().skip(reposted).step_by(500).take(5) {
            assert_eq!(gateway.post(*id, *cents).await, StatusCode::ACCEPTED);
            assert_eq!(gateway.post(*id, cents + 1).await, StatusCode::CONFLICT);
        }
        reposted += 7;
        assert_eq!(whole_hours(&service).await, before, "at any moment");
        if let Some(status) = archiving.try_wait().expect("a child") {
            break status.code();
        }
    };
    assert_eq!(code, Some(0));
    assert!(reposted > 7, "nothing was posted meanwhile");
    gateway.until_settled(&posted).await;

    assert_eq!(whole_hours(&service).await, before);
    assert_eq!(admin.count("payment_archived").await, PAYMENTS);
    assert_eq!(
        admin.count("payment_processed").await,
        i64::try_from(posted.len()).expect("few")
    );
    assert_eq!(admin.count("payment_queue").await, 0);
    let charged = default.processor.payments().len() + fallback.processor.payments().len();
    assert_eq!(charged, posted.len(), "old payments are not charged again");
    assert_eq!(
        admin
            .count("payment_rollup WHERE starts_at < '2025-07-01Z'")
            .await,
        0
    );
    let lines = ["payments-2025-05.csv", "payments-2025-06.csv"].map(|file| {
        let text = std::fs::read_to_string(folder.path().join(file)).expect(file);
        text.lines().count() - 1
    });
    assert_eq!(lines, [4_000, 6_000]);

    // What is known of one afterwards.
    let (id, cents) = old[0];
    let view = gateway.json(&format!("/payments/{id}")).await;
    assert_eq!(view["state"], "archived");
    assert_eq!(
        view["amount"].to_string(),
        Decimal::new(cents, 2).to_string()
    );
    let file = view["archivedIn"].as_str().expect("a file");
    let text = std::fs::read_to_string(folder.path().join(file)).expect("the file");
    assert!(text.contains(&id.to_string()));
    let life: Vec<(String, String)> = sqlx::query_as("SELECT event, detail FROM audit.life($1)")
        .bind(id)
        .fetch_all(&auditor.pool)
        .await
        .expect("a life");
    assert_eq!(life.len(), 1);
    assert!(
        life[0].0 == "archived" && life[0].1.contains(file),
        "{life:?}"
    );

    // A part of an archived hour is refused, by the API and in psql; whole hours, and the present, are not.
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
                .fetch_all(&auditor.pool)
                .await;
        let api = summarize(&service.pool, &[], Some(ends[0]), Some(ends[1])).await;
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
                .fetch_all(&auditor.pool)
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
async fn an_archive_that_is_killed_goes_on_and_takes_only_what_is_in_its_file() {
    let database = Database::migrated().await;
    fill(&database).await;
    let before = whole_hours(&database).await;
    let folder = tempfile::tempdir().expect("a folder");
    // A run was killed while it wrote the file.
    std::fs::write(
        folder.path().join("payments-2025-05.csv.partial"),
        "rubbish",
    )
    .expect("a file");
    let mut command = program(&database, &database, "2025-07", folder.path());
    let mut archiving = command
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    eventually("some of June has moved", async || {
        database
            .count("payment_archived WHERE month = '2025-06-01'")
            .await
            > 0
    })
    .await;
    archiving.kill().await.expect("it is there");
    let moved = database.count("payment_archived").await;
    assert!((4_001..PAYMENTS).contains(&moved), "{moved}");
    assert_eq!(moved + database.count("payment_processed").await, PAYMENTS);
    assert_eq!(whole_hours(&database).await, before);

    // Meanwhile a charge of that month is booked late, and a payment is corrected.
    let changed = settled(&database, "requested_at > '2025-06-01T02:00Z'").await[0].0;
    database
        .execute(&format!(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at, accepted_at, attempt)
             VALUES (gen_random_uuid(), 5, 'default', '2025-06-01T02:30:00Z', now(), 1);
             UPDATE payment_processed SET processor = 'third' WHERE correlation_id = '{changed}'"
        ))
        .await;
    let before = whole_hours(&database).await;

    // Another file than the one that was verified is not believed.
    let file = folder.path().join("payments-2025-06.csv");
    let text = std::fs::read_to_string(&file).expect("the file");
    std::fs::write(&file, text.replacen("default", "Default", 1)).expect("a file");
    let (code, said) = run(command.stdout(Stdio::piped())).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("SHA-256"), "{said}");
    assert_eq!(database.count("payment_archived").await, moved);
    std::fs::write(&file, text).expect("a file");

    let (code, said) = run(&mut command).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("2 of that month were booked or changed"),
        "{said}"
    );
    assert_eq!(database.count("payment_archived").await, PAYMENTS - 1);
    assert_eq!(database.count("payment_processed").await, 2);
    assert_eq!(whole_hours(&database).await, before);
    let (code, said) = run(&mut command).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing is left"), "{said}");
}

#[tokio::test]
async fn a_month_that_is_not_over_or_not_decided_is_not_archived() {
    let database = Database::migrated().await;
    fill(&database).await;
    database
        .execute(
            "INSERT INTO payment_queue (correlation_id, amount, attempt, processor, requested_at, doubt_until)
             VALUES (gen_random_uuid(), 1, 1, 'default', '2025-05-31T23:00:00Z', now());
             INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt, processor, reason, requested_at)
             VALUES (gen_random_uuid(), 1, now(), 1, 'default', 'held', '2025-06-01T00:00:00Z');
             INSERT INTO payment_processed (correlation_id, amount, processor, requested_at, accepted_at, attempt)
             VALUES (gen_random_uuid(), 1, 'default', now(), now(), 1)",
        )
        .await;
    let folder = tempfile::tempdir().expect("a folder");
    let settings = database.settings(QueueDurability::Unlogged);
    let archive = async |before: &str, dry_run| {
        archive(&settings, month(before), folder.path(), dry_run).await
    };
    let found = archive("2025-07", false).await.expect("an answer");
    let reasons: Vec<&str> = found
        .iter()
        .map(|month| match &month.state {
            State::Refused { reason } => reason.as_str(),
            state => panic!("{state:?}"),
        })
        .collect();
    assert!(
        reasons[0].contains("1 payments in the queue"),
        "{reasons:?}"
    );
    assert!(reasons[1].contains("1 dead letters"), "{reasons:?}");

    database
        .execute("DELETE FROM payment_queue; DELETE FROM payment_dead_letter")
        .await;
    let found = archive("2025-07", true).await.expect("an answer");
    let found: Vec<_> = found
        .iter()
        .map(|month| (month.payments, &month.state))
        .collect();
    assert_eq!(found, [(4_000, &State::Due), (6_000, &State::Due)]);
    assert_eq!(database.count("payment_processed").await, PAYMENTS + 1);
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("a folder").count(),
        0
    );

    // Whatever is asked for, what was settled now stays.
    let next = (Utc::now() + TimeDelta::days(31))
        .format("%Y-%m")
        .to_string();
    archive(&next, false).await.expect_err("it has not begun");
    let this = Utc::now().format("%Y-%m").to_string();
    archive(&this, false).await.expect("an answer");
    assert_eq!(database.count("payment_processed").await, 1);
}

#[tokio::test]
async fn an_archived_month_is_restored_as_the_readme_says() {
    const README: &str = include_str!("../../README.md");
    let database = Database::migrated().await;
    fill(&database).await;
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
    let folder = tempfile::tempdir().expect("a folder");
    let settings = database.settings(QueueDurability::Unlogged);
    for state in archive(&settings, month("2025-07"), folder.path(), false)
        .await
        .expect("an answer")
    {
        assert_eq!(state.state, State::Moved { left: 0 });
    }
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

#[tokio::test]
async fn a_charge_of_an_archived_payment_is_not_booked_again() {
    let database = Database::migrated().await;
    fill(&database).await;
    let folder = tempfile::tempdir().expect("a folder");
    let settings = database.settings(QueueDurability::Unlogged);
    archive(&settings, month("2025-07"), folder.path(), false)
        .await
        .expect("an answer");
    let before = whole_hours(&database).await;
    let known: Uuid = sqlx::query_scalar(
        "SELECT correlation_id FROM payment_archived WHERE month = '2025-06-01' LIMIT 1",
    )
    .fetch_one(&database.pool)
    .await
    .expect("one");
    for (stamp, booked) in [
        ("2025-06-01T01:00:00Z", "default"),
        ("2025-07-01T00:00:00Z", "archived"),
    ] {
        let mut payment = new_payment();
        payment.correlation_id = known;
        let claim = Claim {
            id: 1,
            payment,
            accepted_at: Utc::now(),
            attempt: 1,
            processor: "default".to_owned(),
            requested_at: stamp.parse().expect("a time"),
            send_by: std::time::Instant::now(),
            earlier: None,
        };
        let outcome = Outcome::Charged {
            requested_at: claim.requested_at,
        };
        let anomalies = record(
            &database.pool,
            production_terms(),
            &[Ended { claim, outcome }],
        )
        .await;
        let expected = Anomaly::BookedBefore {
            correlation_id: known,
            charged: "default".to_owned(),
            booked: booked.to_owned(),
        };
        assert_eq!(anomalies.expect("an answer"), [expected], "{stamp}");
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
