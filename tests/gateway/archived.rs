//! What is known of payments that are archived, and what is done with those that come again.

use std::path::Path;
use std::process::Stdio;

use chrono::{DateTime, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use payment_proxy::config::QueueDurability;
use payment_proxy::pipeline::settle::{Anomaly, CompletedClaim, record};
use payment_proxy::processors::Outcome;
use payment_proxy::store::archive::{State, archive};
use payment_proxy::store::database::is_transient;
use payment_proxy::store::summary::{NoSummary, Summary, Totals, summarize};
use reqwest::StatusCode;
use rust_decimal::Decimal;
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

use crate::archive::{PAYMENTS, filled, month, run, whole_hours};
use crate::forwarder::Forwarder;
use crate::neighbours::full_disk::database_on;
use crate::neighbours::volume::Volume;
use crate::server::Server;
use crate::support::{
    CENTS, Database, Gateway, enqueue, eventually, hold, new_claim, new_payment, processor,
    processors, production_terms,
};

/// When a processor charged one of those.
const STAMP: &str = "2025-06-01T01:00:00Z";
/// A row of `audit.totals`.
type TotalsRow = (DateTime<Utc>, String, i64, Decimal);

/// Archives all payments. Where their files are.
pub async fn move_all(database: &Database) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = database.settings(QueueDurability::Unlogged);
    let states = archive(&settings, month("2025-07"), folder.path(), false, |_| {}).await;
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

/// All that the database has, as one value.
async fn content(database: &Database) -> Vec<Option<String>> {
    let mut content = Vec::new();
    for table in [
        "payment_processed",
        "payment_rollup",
        "payment_archived",
        "payment_archived_hour",
        "payment_archived_month",
        "payment_queue",
    ] {
        let digest =
            format!("SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t");
        let digest = sqlx::query_scalar(sqlx::AssertSqlSafe(digest));
        content.push(digest.fetch_one(&database.pool).await.expect("a table"));
    }
    content
}

/// The program, as somebody runs it who wants a month back.
fn restoring(database: &Database, month: &str, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payment-proxy"));
    command
        .args(["restore", month, "--from"])
        .arg(folder)
        .env("DATABASE_URL", &database.url)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn an_archived_month_comes_back_by_a_command() {
    let database = filled().await;
    let before = content(&database).await;
    let folder = move_all(&database).await;
    let archived = content(&database).await;
    for month in ["2025-05", "2025-06"] {
        let mut command = restoring(&database, month, folder.path());
        let held = content(&database).await;
        let (code, said) = run(command.arg("--dry-run")).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("would come back"), "{said}");
        assert_eq!(content(&database).await, held, "a dry run");
        let mut command = restoring(&database, month, folder.path());
        let (code, said) = run(&mut command).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.ends_with("are in the ledger again\n"),
            "nothing of progress: {said}"
        );
        let (code, said) = run(&mut command).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("it is not archived"), "{said}");
    }
    assert_eq!(content(&database).await, before);

    // And goes again, into the file that is there.
    let settings = database.settings(QueueDurability::Unlogged);
    let again = archive(&settings, month("2025-07"), folder.path(), false, |_| {}).await;
    assert_eq!(again.expect("an answer").len(), 2);
    assert_eq!(content(&database).await[..4], archived[..4]);
}

/// A statement of the owner, or a change of the file, and what `restore` says of it with which exit
/// code.
type Harm<'a> = (&'a str, &'a dyn Fn(&str) -> Option<String>, &'a str, i32);

#[tokio::test]
async fn a_month_that_cannot_come_back_whole_changes_nothing() {
    let database = filled().await;
    let folder = move_all(&database).await;
    let file = folder.path().join("payments-2025-06.csv");
    let text = std::fs::read_to_string(&file).expect("a file");
    let as_it_is = |text: &str| Some(text.to_owned());
    let late = "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
        accepted_at, attempt)
        VALUES ('00000000-0000-4000-8000-000000000001', 5, 'default', '2025-06-01T00:30:00Z', now(),
            1)";
    let harms: &[Harm<'_>] = &[
        ("SELECT", &|_| None, "No such file", 2),
        (
            "SELECT",
            &|_| Some(String::new()),
            "names of the columns",
            2,
        ),
        (
            "SELECT",
            &|text| Some(cut(text, 2_000)),
            "has 1999 payments, which must be 6000",
            2,
        ),
        (
            "SELECT",
            &|text| Some(text[..text.len() - 1].to_owned()),
            "SHA-256",
            2,
        ),
        (
            "SELECT",
            &|text| Some(text.replacen("default", "Default", 1)),
            "SHA-256",
            2,
        ),
        (
            "SELECT",
            &|text| Some(format!("{text}{}\n", text.lines().last()?)),
            "has 6001 payments",
            2,
        ),
        (
            "DELETE FROM payment_archived WHERE correlation_id =
                (SELECT max(correlation_id::text)::uuid FROM payment_archived
                    WHERE month = '2025-06-01')",
            &as_it_is,
            "neither archived",
            2,
        ),
        (
            "UPDATE payment_archived SET amount = amount + 1 WHERE correlation_id =
                (SELECT max(correlation_id::text)::uuid FROM payment_archived
                    WHERE month = '2025-06-01')",
            &as_it_is,
            "neither archived",
            2,
        ),
        (
            "UPDATE payment_archived_hour SET requests = requests + 1 WHERE starts_at = \
            '2025-06-01T01:00Z'",
            &as_it_is,
            "differ in the hour from 2025-06-01 01:00:00 UTC",
            2,
        ),
        (
            "UPDATE payment_archived_month SET amount = amount + 1",
            &as_it_is,
            "adds up to",
            2,
        ),
        (
            "UPDATE payment_archived_month SET requests = requests + 1",
            &as_it_is,
            "has 6000 payments, which must be 6001",
            2,
        ),
        (
            late,
            &as_it_is,
            "00000000-0000-4000-8000-000000000001 was recorded or changed",
            1,
        ),
    ];
    for (statement, harm, expected, code) in harms {
        let mut undo = database.pool.begin().await.expect("a transaction");
        // What is harmed is put back as it was; the tables are small.
        sqlx::raw_sql(
            "CREATE TABLE was_archived AS TABLE payment_archived;
            CREATE TABLE was_hour AS TABLE payment_archived_hour;
            CREATE TABLE was_month AS TABLE payment_archived_month",
        )
        .execute(&mut *undo)
        .await
        .expect("copies");
        undo.commit().await.expect("a commit");
        database.execute(statement).await;
        match harm(&text) {
            Some(text) => std::fs::write(&file, text).expect("a file"),
            None => std::fs::remove_file(&file).expect("a file"),
        }
        let before = content(&database).await;
        let (found, said) = run(&mut restoring(&database, "2025-06", folder.path())).await;
        assert_eq!(found, Some(*code), "{expected}: {said}");
        assert!(said.contains(expected), "{expected}: {said}");
        assert_eq!(content(&database).await, before, "{expected}");
        std::fs::write(&file, &text).expect("a file");
        if *statement != late {
            database
                .execute(
                    "TRUNCATE payment_archived, payment_archived_hour, payment_archived_month;
                     INSERT INTO payment_archived TABLE was_archived;
                     INSERT INTO payment_archived_hour TABLE was_hour;
                     INSERT INTO payment_archived_month TABLE was_month",
                )
                .await;
        }
        database
            .execute("DROP TABLE was_archived, was_hour, was_month")
            .await;
    }

    // The late one stays where it is told to, and the whole month can be archived anew, in another
    // place.
    let mut command = restoring(&database, "2025-06", folder.path());
    let (code, said) = run(command.arg("--keep-late")).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(database.count("payment_processed").await, 6_001);
    let settings = database.settings(QueueDurability::Unlogged);
    let refused = archive(&settings, month("2025-07"), folder.path(), false, |_| {}).await;
    let refused = format!("{:#}", refused.expect_err("the old file is there"));
    assert!(
        refused.contains("exists and has other content"),
        "{refused}"
    );
    let other = tempfile::tempdir().expect("a folder");
    let again = archive(&settings, month("2025-07"), other.path(), false, |_| {}).await;
    assert_eq!(again.expect("an answer")[0].payments, 6_001);
}

/// The first lines of a text.
fn cut(text: &str, lines: usize) -> String {
    text.split_inclusive('\n').take(lines).collect()
}

#[tokio::test]
async fn a_restore_that_waits_or_is_killed_changes_nothing_and_no_payment_is_forgotten_meanwhile() {
    let database = filled().await;
    let folder = move_all(&database).await;
    let processor = processor().await;
    let gateway = Gateway::start(&database, &processors(&[&processor]), &[]).await;
    let before = content(&database).await;
    let text = std::fs::read_to_string(folder.path().join("payments-2025-06.csv"));
    let text = text.expect("a file");
    let known = |line: &str| {
        let mut fields = line.split(',');
        let id = fields.next().and_then(|id| id.parse().ok());
        let cents = fields.next().map(|amount| amount.replace('.', ""));
        let cents = cents.and_then(|cents| cents.parse::<i64>().ok());
        (id.expect("an id"), cents.expect("an amount"))
    };
    let (first, last) = (text.lines().nth(1), text.lines().last());
    let ids: [(Uuid, i64); 2] = [first, last].map(|line| known(line.expect("a line")));

    // It has loaded nearly all when it comes to the last one, which somebody holds.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut holder = database.pool.begin().await.expect("a transaction");
        sqlx::query("SELECT FROM payment_archived WHERE correlation_id = $1 FOR UPDATE")
            .bind(ids[1].0)
            .execute(&mut *holder)
            .await
            .expect("it is held");
        let mut command = restoring(&database, "2025-06", folder.path());
        let restoring = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        eventually("it waits", async || {
            database.waiting_for_a_lock("archive_line").await > 0
        })
        .await;
        for (id, cents) in ids {
            assert_eq!(gateway.post(id, cents).await, StatusCode::ACCEPTED);
            assert_eq!(gateway.post(id, cents + 1).await, StatusCode::CONFLICT);
        }
        let pid = i32::try_from(restoring.id().expect("it runs")).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it is there");
        let ended = restoring.wait_with_output().await.expect("it ends");
        assert!(!ended.status.success(), "{}", ended.status);
        holder.rollback().await.expect("it is let go");
        eventually("the server has given it up", async || {
            let running = "pg_stat_activity WHERE application_name = 'payment-proxy restore'
                AND datname = current_database()";
            database.count(running).await == 0
        })
        .await;
        assert_eq!(content(&database).await, before);
    }

    // At every moment of one that succeeds.
    let mut command = restoring(&database, "2025-06", folder.path());
    let mut restoring = command.spawn().expect("the program starts");
    let lines: Vec<&str> = text.lines().skip(1).step_by(97).collect();
    let mut posted = 0;
    let status = loop {
        for line in lines.iter().skip(posted % 50).take(10) {
            let (id, cents) = known(line);
            assert_eq!(gateway.post(id, cents).await, StatusCode::ACCEPTED);
            assert_eq!(gateway.post(id, cents + 1).await, StatusCode::CONFLICT);
        }
        posted += 10;
        if let Some(status) = restoring.try_wait().expect("a child") {
            break status;
        }
    };
    assert!(status.success(), "{status}");
    assert_eq!(database.count("payment_queue").await, 0);
    assert_eq!(
        processor.processor.payments().len(),
        0,
        "nothing is charged again"
    );
    assert_eq!(database.count("payment_processed").await, 6_000);
}

/// Runs `restore` of June, which is to fail with this text and to change nothing.
async fn fails(database: &Database, folder: &Path, expected: &str) {
    let before = content(database).await;
    let (code, said) = run(&mut restoring(database, "2025-06", folder)).await;
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in ["error: 2025-06: nothing was changed: ", expected] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    eventually("the server has given it up", async || {
        let running = "pg_stat_activity WHERE application_name = 'payment-proxy restore'
            AND datname = current_database()";
        database.count(running).await == 0
    })
    .await;
    assert_eq!(content(database).await, before);
}

#[tokio::test]
async fn a_restore_that_the_database_refuses_halfway_changes_nothing_and_says_what() {
    let database = filled().await;
    let folder = move_all(&database).await;
    // Of the 6,000 payments some are in the ledger, their totals are added up, and then it is over.
    let full = ("53100", "could not extend file: No space left on device");
    let cancelled = ("57014", "canceling statement due to user request");
    for (table, event, condition, (state, text)) in [
        (
            "payment_processed",
            "INSERT",
            "(SELECT count(*) FROM payment_processed) > 3000",
            full,
        ),
        (
            "payment_processed",
            "INSERT",
            "(SELECT count(*) FROM payment_processed) > 5000",
            cancelled,
        ),
        (
            "payment_archived",
            "DELETE",
            "(SELECT count(*) FROM payment_archived) < 7000",
            full,
        ),
        ("payment_archived_hour", "DELETE", "true", full),
        ("payment_archived_month", "DELETE", "true", full),
    ] {
        database
            .execute(&format!(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF {condition} THEN RAISE EXCEPTION '{text}' USING ERRCODE = '{state}'; END IF;
                    RETURN NULL;
                 END $$;
                 CREATE TRIGGER refuse AFTER {event} ON {table}
                 FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
            ))
            .await;
        fails(&database, folder.path(), text).await;
        database.execute("DROP FUNCTION refuse CASCADE").await;
    }
    let (code, said) = run(&mut restoring(&database, "2025-06", folder.path())).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(database.count("payment_processed").await, 6_000);
}

#[tokio::test]
async fn a_restore_on_a_full_disk_changes_nothing_and_is_done_when_there_is_room() {
    let Some(disk) = Volume::mount(64) else {
        eprintln!("SKIPPED: only root can mount the small disk that this needs");
        return;
    };
    // It would have the server write the file with which sessions begin anew, for which there is no
    // room either.
    let server = Server::start_with(&["autovacuum=off"]).await;
    let database = database_on(&disk, &server).await;
    let settings = database.migrate_settings(QueueDurability::Unlogged);
    payment_proxy::store::database::migrate(&settings)
        .await
        .expect("tables");
    crate::archive::fill(&database).await;
    let folder = move_all(&database).await;
    // Nothing is put into the place of what was moved.
    for table in ["payment_processed", "payment_archived"] {
        database.execute(&format!("VACUUM FULL {table}")).await;
    }
    let begins = Database::at(&database.url);
    assert!(begins.count("payment_archived").await > 0);
    for room in [0, 700 * 1024] {
        disk.fill().expect("the disk is filled");
        let filler = disk.path().join("filler");
        let filler = std::fs::File::options().write(true).open(filler);
        let filler = filler.expect("a file");
        let length = filler.metadata().expect("a file").len();
        filler.set_len(length - room).expect("it is shorter");
        fails(&database, folder.path(), "could not extend file").await;
        disk.empty().expect("the disk is emptied");
    }
    let (code, said) = run(&mut restoring(&database, "2025-06", folder.path())).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(database.count("payment_processed").await, 6_000);
}

#[tokio::test]
async fn a_restore_whose_commit_is_not_confirmed_says_how_it_ended() {
    let server = Server::start().await;
    let database = Database::at(&server.url());
    let settings = database.migrate_settings(QueueDurability::Unlogged);
    payment_proxy::store::database::migrate(&settings)
        .await
        .expect("tables");
    crate::archive::fill(&database).await;
    let folder = move_all(&database).await;
    let before = content(&database).await;
    database
        .execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER wait AFTER DELETE ON payment_archived_month DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .await;
    let committing = "pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'";
    let forwarder = Forwarder::to(server.socket()).await;
    let through = Database::at(&forwarder.url());
    for (terminated, code) in [(true, 2), (false, 0)] {
        let mut command = restoring(&through, "2025-06", folder.path());
        let command = command
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        eventually("it commits", async || database.count(committing).await > 0).await;
        if terminated {
            let kill = format!("SELECT pg_terminate_backend(pid) FROM {committing}");
            database.execute(&kill).await;
        } else {
            forwarder.cut();
        }
        let ended = command.expect("it runs").wait_with_output().await;
        let ended = ended.expect("it ends");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(
            ended.status.code(),
            Some(code),
            "terminated: {terminated}: {said}"
        );
        assert_eq!(said.contains("nothing has changed"), terminated, "{said}");
        let restored = content(&database).await != before;
        assert_eq!(restored, !terminated);
    }
    assert_eq!(database.count("payment_processed").await, 6_000);
}

/// A payment that `default` has charged under that requested_at.
fn charged(correlation_id: Uuid, requested_at: &str) -> CompletedClaim {
    let mut claim = new_claim();
    claim.payment.correlation_id = correlation_id;
    claim.requested_at = requested_at.parse().expect("a time");
    let requested_at = claim.requested_at;
    CompletedClaim {
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
         SELECT correlation_id, amount, '2025-06-01' FROM payment_processed
             WHERE correlation_id = '{known}';
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
fn recorded_before(known: Uuid, recorded: &str) -> Anomaly {
    Anomaly::RecordedBefore {
        correlation_id: known,
        charged: "default".to_owned(),
        recorded: recorded.to_owned(),
    }
}

#[tokio::test]
async fn a_charge_that_is_recorded_while_its_payment_is_archived_is_not_recorded_twice() {
    let database = filled().await;
    let known = one_settled(&database).await;
    let error = settle_while_archiving(&database, known)
        .await
        .expect_err("it is to be done again");
    assert!(is_transient(&error), "{error}");
    let again = record(&database.pool, production_terms(), &[charged(known, STAMP)]).await;
    assert_eq!(
        again.expect("an answer"),
        [recorded_before(known, "default")]
    );
    let recorded = format!("payment_processed WHERE correlation_id = '{known}'");
    assert_eq!(database.count(&recorded).await, 0);
}

#[tokio::test]
async fn nor_is_it_while_it_is_in_the_queue_as_well() {
    let database = filled().await;
    let known = one_settled(&database).await;
    hold(&database, known).await;
    let anomalies = settle_while_archiving(&database, known).await;
    assert_eq!(
        anomalies.expect("an answer"),
        [recorded_before(known, "default")]
    );
    let recorded = format!("payment_processed WHERE correlation_id = '{known}'");
    assert_eq!(database.count(&recorded).await, 0);
    assert_eq!(database.count("payment_queue").await, 0);
}

#[tokio::test]
async fn a_charge_of_an_archived_payment_is_not_recorded_again() {
    let database = filled().await;
    let _files = move_all(&database).await;
    let before = whole_hours(&database).await;
    let known: Uuid = sqlx::query_scalar(
        "SELECT correlation_id FROM payment_archived WHERE month = '2025-06-01' LIMIT 1",
    )
    .fetch_one(&database.pool)
    .await
    .expect("one");
    for (requested_at, recorded) in [(STAMP, "default"), ("2025-07-01T00:00:00Z", "archived")] {
        let ended = charged(known, requested_at);
        let anomalies = record(&database.pool, production_terms(), &[ended]).await;
        let expected = [recorded_before(known, recorded)];
        assert_eq!(anomalies.expect("an answer"), expected, "{requested_at}");
    }
    assert_eq!(database.count("payment_processed").await, 0);
    assert_eq!(whole_hours(&database).await, before);

    // Nor is it claimed, where it came into the queue all the same.
    database
        .execute(&format!(
            "INSERT INTO payment_queue (correlation_id, amount) VALUES ('{known}', 19.90)"
        ))
        .await;
    let claims = payment_proxy::store::claim::claim_queued(
        &database.pool,
        production_terms(),
        "default",
        10,
        0,
    )
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
            [payment_proxy::pipeline::accept::Accepted::Conflict { .. }]
        ),
        "{outcomes:?}"
    );
}
