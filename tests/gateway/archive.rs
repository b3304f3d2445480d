//! Old months leave the ledgers while the service runs, and nothing is lost, doubled or charged
//! again.

use std::path::Path;
use std::process::{Output, Stdio};

use chrono::{DateTime, TimeDelta, Utc};
use payment_proxy::config::QueueDurability;
use payment_proxy::store::archive::{Month, State, archive};
use payment_proxy::store::summary::{Summary, Totals, summarize};
use reqwest::StatusCode;
use rust_decimal::Decimal;
use tokio::process::Command;
use uuid::Uuid;

use crate::neighbours::volume::Volume;
use crate::server::{connect_as, run_init_sql};
use crate::support::{Database, Gateway, eventually, processor, processors};

/// The first hour of the ledgers of these tests; the month changes two hours later.
const BEGIN: &str = "2025-05-31T22:00:00Z";
/// Hours that have payments.
const HOURS: i64 = 5;
pub const PAYMENTS: i64 = 10_000;

/// Payments of two months that are long over, two fifths of them in May.
pub async fn fill(database: &Database) {
    database
        .execute(&format!(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             SELECT gen_random_uuid(), (random() * 100 + 0.01)::numeric(14,2), (ARRAY['default',
                 'fallback'])[1 + n % 2],
                 date_trunc('milliseconds',
                     '{BEGIN}'::timestamptz + (n - 0.5) / {PAYMENTS} * interval '{HOURS} hours'),
                         now(), 1
             FROM generate_series(1, {PAYMENTS}) AS n"
        ))
        .await;
}

/// A database with them.
pub async fn filled() -> Database {
    let database = Database::migrated().await;
    fill(&database).await;
    database
}

fn begin() -> DateTime<Utc> {
    BEGIN.parse().expect("a time")
}

pub fn month(text: &str) -> Month {
    text.parse().expect("a month")
}

/// The summary of every hour of the ledgers of these tests, and of every longer range that begins
/// there.
pub async fn whole_hours(database: &Database) -> Vec<Vec<(String, Totals)>> {
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

/// Its exit code and all that it says, a line each however it is wrapped.
pub async fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().await.expect("the program starts");
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (status.code(), text.concat().replace("\n    ", " "))
}

/// Ids and amounts of what is settled in these months, in cents.
async fn settled(database: &Database, condition: &str) -> Vec<(Uuid, i64)> {
    let query = format!(
        "SELECT correlation_id, (amount * 100)::bigint FROM payment_processed WHERE {condition} \
        ORDER BY correlation_id"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(query))
        .fetch_all(&database.pool)
        .await
        .expect("the ledgers")
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
}

#[tokio::test]
async fn an_archive_that_is_killed_goes_on_and_takes_only_what_is_in_its_file() {
    let database = filled().await;
    let before = whole_hours(&database).await;
    let folder = tempfile::tempdir().expect("a folder");
    // A run was killed while it wrote the file.
    std::fs::write(
        folder.path().join("payments-2025-05.csv.partial"),
        "rubbish",
    )
    .expect("a file");
    let mut command = program(&database, &database, "2025-07", folder.path());
    // It cannot have come to the end of June when it is killed.
    let mut last = database.pool.begin().await.expect("a transaction");
    sqlx::query(
        "SELECT FROM payment_processed ORDER BY requested_at DESC, correlation_id LIMIT 1 FOR \
        UPDATE",
    )
    .execute(&mut *last)
    .await
    .expect("the last payment of June");
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
    last.rollback().await.expect("it is let go");
    let moved = database.count("payment_archived").await;
    assert!((4_001..PAYMENTS).contains(&moved), "{moved}");
    assert_eq!(moved + database.count("payment_processed").await, PAYMENTS);
    assert_eq!(whole_hours(&database).await, before);

    // Meanwhile a charge of that month is recorded late, and a payment is corrected.
    let changed = settled(&database, "requested_at > '2025-06-01T02:00Z'").await[0].0;
    database
        .execute(&format!(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
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
        said.contains("2 of that month were recorded or changed"),
        "{said}"
    );
    assert_eq!(database.count("payment_archived").await, PAYMENTS - 1);
    assert_eq!(database.count("payment_processed").await, 2);
    assert_eq!(whole_hours(&database).await, before);
    // They are named for as long as they are there.
    for dry_run in [false, true] {
        if dry_run {
            command.arg("--dry-run");
        }
        let (code, said) = run(&mut command).await;
        assert_eq!(code, Some(1), "{said}");
        for (id, _) in settled(&database, "true").await {
            assert!(said.contains(&id.to_string()), "{id}: {said}");
        }
    }
    database.execute("DELETE FROM payment_processed").await;
    let (code, said) = run(&mut command).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing is left"), "{said}");
}

#[tokio::test]
async fn an_archive_writes_over_no_file_and_keeps_nothing_that_is_not_whole() {
    let database = filled().await;
    let before = whole_hours(&database).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = program(&database, &database, "2025-07", folder.path());
    let may = folder.path().join("payments-2025-05.csv");

    // The file of another deployment, and names that lead elsewhere.
    std::fs::write(&may, "somebody else's").expect("a file");
    let (code, said) = run(&mut command).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("payments-2025-05.csv exists"), "{said}");
    assert_eq!(
        std::fs::read_to_string(&may).expect("a file"),
        "somebody else's"
    );
    let partial = folder.path().join("payments-2025-05.csv.partial");
    assert!(!partial.exists());
    std::os::unix::fs::symlink(&may, &partial).expect("a link");
    let (code, said) = run(&mut command).await;
    assert!(code == Some(2) && said.contains("regular file"), "{said}");
    assert_eq!(
        std::fs::read_to_string(&may).expect("a file"),
        "somebody else's"
    );
    for path in [&partial, &may] {
        std::fs::remove_file(path).expect("it is there");
    }
    assert_eq!(database.count("payment_archived_month").await, 0);
    assert_eq!(database.count("payment_processed").await, PAYMENTS);

    // No room for June.
    if let Some(disk) = Volume::mount(1) {
        let mut full = program(&database, &database, "2025-07", disk.path());
        let (code, said) = run(&mut full).await;
        assert!(code == Some(2) && said.contains("No space left"), "{said}");
        assert_eq!(database.count("payment_archived").await, 4_000);
        let files = std::fs::read_dir(disk.path()).expect("a folder");
        assert_eq!(files.count(), 1, "no file that is not whole");
        // It goes on with a copy in another folder, and without one not at all.
        std::fs::copy(disk.path().join("payments-2025-05.csv"), &may).expect("a copy");
    } else {
        eprintln!("SKIPPED in part: only root can mount the small disk that this needs");
    }
    let (code, said) = run(&mut command).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(database.count("payment_archived").await, PAYMENTS);
    assert_eq!(whole_hours(&database).await, before);
}

#[tokio::test]
async fn an_archive_that_was_killed_before_its_commit_finds_its_own_file() {
    let database = filled().await;
    let folder = tempfile::tempdir().expect("a folder");
    // Its commit does not end until it is killed.
    database
        .execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON payment_archived_month DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .await;
    let mut command = program(&database, &database, "2025-06", folder.path());
    let mut archiving = command.spawn().expect("the program starts");
    eventually("it commits", async || {
        let committing =
            "pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT' AND \
            wait_event = 'PgSleep'";
        database.count(committing).await > 0
    })
    .await;
    archiving.kill().await.expect("it is there");
    database
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event = 'PgSleep';
             DROP TRIGGER wait ON payment_archived_month",
        )
        .await;
    let file = folder.path().join("payments-2025-05.csv");
    assert!(file.exists() && database.count("payment_archived_month").await == 0);
    let written = std::fs::read(&file).expect("a file");
    let (code, said) = run(&mut command).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(std::fs::read(&file).expect("a file"), written);
    assert_eq!(database.count("payment_archived").await, 4_000);
}

#[tokio::test]
async fn a_month_that_is_not_over_or_not_decided_is_not_archived() {
    let database = filled().await;
    database
        .execute(
            "INSERT INTO payment_queue (correlation_id, amount, attempt, processor, requested_at,
                doubt_until)
             VALUES (gen_random_uuid(), 1, 1, 'default', '2025-05-31T23:00:00Z', now());
             INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                 processor, reason, requested_at)
             VALUES (gen_random_uuid(), 1, now(), 1, 'default', 'held', '2025-06-01T00:00:00Z');
             INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                 accepted_at, attempt)
             VALUES (gen_random_uuid(), 1, 'default', now(), now(), 1)",
        )
        .await;
    let folder = tempfile::tempdir().expect("a folder");
    let settings = database.settings(QueueDurability::Unlogged);
    let archive = async |before: &str, dry_run| {
        archive(&settings, month(before), folder.path(), dry_run, |_| {}).await
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
