//! What operators and auditors do: dead letters and reconciliation, through the command line.

use std::process::{Output, Stdio};
use std::time::Duration;

use payment_proxy::config::QueueDurability;
use serde_json::{Value, json};
use simulator::Running;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::support::{CENTS, Database, Gateway, eventually, processor, processors};

/// Runs a command against that database, and returns its exit code and what it printed as JSON.
async fn command(database: &Database, running: &[&Running], arguments: &[&str]) -> (i32, Value) {
    command_reading(database, running, arguments, "").await
}

/// The same, which finds that text at its standard input.
async fn command_reading(
    database: &Database,
    running: &[&Running],
    arguments: &[&str],
    text: &str,
) -> (i32, Value) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_payment-proxy"));
    command
        .args(arguments)
        .arg("--json")
        .env("DATABASE_URL", &database.url)
        .env("PROCESSORS", processors(running))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It need not read it.
    let _ = stdin.write_all(text.as_bytes()).await;
    drop(stdin);
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().await.expect("it ends");
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

/// Puts a payment into a processor's ledger behind our back.
async fn charge(running: &Running, id: Uuid, amount: &str) {
    charge_at(running, id, amount, "2026-07-01T00:00:00.000Z").await;
}

async fn charge_at(running: &Running, id: Uuid, amount: &str, requested_at: &str) {
    let body =
        format!(r#"{{"correlationId":"{id}","amount":{amount},"requestedAt":"{requested_at}"}}"#);
    let post = payment_proxy::config::tls::plain()
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
            "UPDATE payment_processed SET requested_at = requested_at - interval '1 s'
                WHERE correlation_id = '{other_stamp}';
             UPDATE payment_processed SET processor = 'fallback'
                 WHERE correlation_id = '{other_processor}';
             WITH gone AS (DELETE FROM payment_processed
                 WHERE correlation_id = '{queued}' RETURNING *)
             INSERT INTO payment_queue (correlation_id, amount, accepted_at)
             SELECT correlation_id, amount, accepted_at FROM gone;
             WITH gone AS (DELETE FROM payment_processed
                 WHERE correlation_id = '{dead}' RETURNING *)
             INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                 processor, reason)
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
    assert_eq!(kind(queued).as_deref(), Some("notRecorded"));
    assert_eq!(kind(dead).as_deref(), Some("notRecorded"));
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
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
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
    let (database, default, fallback, ids) = settled(30).await;
    fallback.processor.refuse_for(Duration::from_secs(60));
    let running = [&default, &fallback];
    let (code, report) = command(&database, &running, &["reconcile", "--repair"]).await;
    let silent = report["notKnown"].as_array().expect("groups");
    assert!(
        code == 2 && report["compared"] == 0 && report["findings"] == json!([]),
        "{code} {report}"
    );
    assert_eq!(silent.len(), 1, "errors are grouped: {report}");
    assert_eq!(silent[0]["processor"], "fallback");
    assert_eq!(silent[0]["payments"], ids.len());
    fallback.processor.refuse_for(Duration::ZERO);
    eventually("they agree", async || {
        command(&database, &running, &["reconcile"]).await.0 == 0
    })
    .await;
}

#[tokio::test]
async fn reconcile_says_which_processor_it_did_not_ask_and_repairs_nothing_that_may_be_there() {
    let (database, default, fallback, ids) = settled(6).await;
    // Charged at both, recorded at the one that is left out; in doubt, and dead, at it.
    charge(&fallback, ids[0], "19.90").await;
    database
        .execute(&format!(
            "UPDATE payment_processed SET processor = 'fallback', requested_at = '2026-07-01T00:00Z'
             WHERE correlation_id = '{}';
             WITH gone AS (DELETE FROM payment_processed WHERE correlation_id = '{}' RETURNING *)
             INSERT INTO payment_queue (correlation_id, amount, accepted_at, processor,
                 requested_at, doubt_until)
             SELECT correlation_id, amount, accepted_at, 'fallback', now(), now() FROM gone;
             WITH gone AS (DELETE FROM payment_processed WHERE correlation_id = '{}' RETURNING *)
             INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                 processor, reason)
             SELECT correlation_id, amount, accepted_at, 1, 'fallback', 'none' FROM gone",
            ids[0], ids[1], ids[2]
        ))
        .await;
    let tables = async || {
        let digest = "SELECT md5(string_agg(t, '|' ORDER BY t)) FROM (
            SELECT p::text FROM payment_processed p UNION ALL SELECT q::text FROM payment_queue q
            UNION ALL SELECT d::text FROM payment_dead_letter d) AS all_of_it (t)";
        let digest: String = sqlx::query_scalar(digest)
            .fetch_one(&database.pool)
            .await
            .expect("tables");
        digest
    };
    let before = tables().await;
    let (code, report) = command(&database, &[&default], &["reconcile", "--repair"]).await;
    assert_eq!(
        (code, &report["notAsked"]),
        (2, &json!(["fallback"])),
        "{report}"
    );
    assert_eq!(report["findings"], json!([]), "{report}");
    assert_eq!(
        (&report["compared"], &report["paymentsNotKnown"]),
        (&json!(0), &json!(6))
    );
    assert_eq!(tables().await, before, "nothing was repaired");

    // Said to be gone, it keeps what our records place there.
    let (code, report) = command(
        &database,
        &[&default],
        &["reconcile", "--repair", "--without", "Fallback"],
    )
    .await;
    assert_eq!((code, &report["compared"]), (2, &json!(3)), "{report}");
    assert_eq!(report["notKnown"][0]["processor"], "fallback");
    assert_eq!(report["notKnown"][0]["payments"], 3);
    assert_eq!(tables().await, before, "nothing was repaired");

    // Asked, it has the first one as well; of the others its "no" is an answer, and the default's
    // "yes" is proof.
    let running = [&default, &fallback];
    let (code, report) = command(&database, &running, &["reconcile", "--repair"]).await;
    let findings = report["findings"].as_array().expect("findings");
    let twice = |finding: &&Value| finding["difference"]["kind"] == "chargedTwice";
    assert_eq!((code, findings.len()), (1, 3), "{report}");
    let twice: Vec<&Value> = findings.iter().filter(twice).collect();
    assert_eq!(twice[0]["correlationId"], ids[0].to_string());
    assert_eq!(twice[0]["repaired"], false);

    // It is left for others to see until it is put right.
    let found: Vec<(Uuid, String, Vec<String>)> =
        sqlx::query_as("SELECT correlation_id, kind, charged_by FROM reconcile_finding")
            .fetch_all(&database.pool)
            .await
            .expect("findings");
    let both = ["default", "fallback"].map(str::to_owned).to_vec();
    assert_eq!(found, [(ids[0], "charged twice".to_owned(), both)]);
    let attention = payment_proxy::store::situation::read(&database.pool).await;
    let (_, attention) = attention.expect("an answer");
    assert!(
        attention
            .iter()
            .any(|item| item.kind == "unreconciled" && item.text.contains("1 charged twice")),
        "{attention:?}"
    );
    fallback.processor.purge().expect("it is purged");
    let (code, _) = command(&database, &running, &["reconcile", "--repair"]).await;
    assert_eq!(code, 0);
    assert_eq!(database.count("reconcile_finding").await, 0);
}

#[tokio::test]
async fn reconcile_says_what_of_the_range_is_archived() {
    let (database, default) = (Database::migrated().await, processor().await);
    let id = Uuid::new_v4();
    charge_at(&default, id, "5.00", "2025-06-01T12:00:00.000Z").await;
    database
        .execute(&format!(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             VALUES ('{id}', 5, 'default', '2025-06-01T12:00:00Z', '2025-06-01T12:00:00Z', 1)"
        ))
        .await;
    let folder = tempfile::tempdir().expect("a folder");
    let settings = database.settings(QueueDurability::Unlogged);
    let before = "2025-07".parse().expect("a month");
    let archived =
        payment_proxy::store::archive::archive(&settings, before, folder.path(), false, |_| {})
            .await;
    archived.expect("it is archived");
    for (arguments, expected) in [
        (&["reconcile"][..], 2),
        (&["reconcile", "--from", "2025-06-01T12:30:00Z"], 2),
        (&["reconcile", "--from", "2025-06-01T13:00:00Z"], 0),
        (&["reconcile", "--to", "2025-06-01T11:59:59Z"], 0),
        (&["reconcile", "--token", "123"], 0),
    ] {
        let (code, report) = command(&database, &[&default], arguments).await;
        assert_eq!(code, expected, "{arguments:?}: {report}");
        let archived = report["archived"]["payments"].as_i64();
        let says_so = expected == 2 || arguments.contains(&"--token");
        assert_eq!(
            archived,
            Some(i64::from(says_so)),
            "{arguments:?}: {report}"
        );
    }
    // Totals see what is not known of single payments.
    charge_at(&default, Uuid::new_v4(), "1.00", "2025-06-01T12:00:00.000Z").await;
    let (code, report) = command(&database, &[&default], &["reconcile", "--token", "123"]).await;
    assert_eq!(code, 1, "{report}");
}

#[tokio::test]
async fn reconcile_has_a_rate_groups_errors_and_draws_nothing_where_nobody_looks() {
    let (database, default, fallback, _) = settled(24).await;
    let reconcile = async |processors: String, arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_payment-proxy"));
        command
            .arg("reconcile")
            .args(arguments)
            .env("DATABASE_URL", &database.url)
            .env("PROCESSORS", processors);
        let begun_at = std::time::Instant::now();
        let Output { stdout, stderr, .. } = command.output().await.expect("the program starts");
        assert_eq!(String::from_utf8_lossy(&stderr), "");
        // A line each, however it is wrapped.
        let text = String::from_utf8(stdout).expect("text");
        (text.replace("\n    ", " "), begun_at.elapsed())
    };
    let both = processors(&[&default, &fallback]);
    let (text, took) = reconcile(both.clone(), &["--rate", "12"]).await;
    assert_eq!(text, "24 compared, 0 differ, 0 of them repaired\n");
    assert!(
        took > Duration::from_millis(1_700),
        "{took:?} for 24 payments at 12/s"
    );
    let nobody = "default,0.05,http://127.0.0.1:1 fallback,0.15,http://127.0.0.1:2".to_owned();
    let (text, _) = reconcile(nobody, &[]).await;
    assert_eq!(text.lines().count(), 3, "a line for each processor: {text}");
    assert!(text.ends_with("0 compared, 0 differ, 0 of them repaired; of 24 it is not known\n"));
    for arguments in [
        ["reconcile", "--rate", "0"].as_slice(),
        &[
            "reconcile",
            "--from",
            "2026-07-02T00:00:00Z",
            "--to",
            "2026-07-01T00:00:00Z",
        ],
    ] {
        let refused = tokio::process::Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
            .args(arguments)
            .env("DATABASE_URL", &database.url)
            .env("PROCESSORS", &both)
            .output()
            .await
            .expect("the program starts");
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_charge_that_is_far_from_its_payment_is_not_recorded() {
    let (database, default, fallback, _) = settled(1).await;
    let id = Uuid::new_v4();
    charge_at(&default, id, "19.90", "0001-01-01T00:00:00.000Z").await;
    database
        .execute(&format!(
            "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                processor, reason)
             VALUES ('{id}', 19.90, now(), 1, 'default', 'none')"
        ))
        .await;
    let running = [&default, &fallback];
    let (code, report) = command(&database, &running, &["reconcile", "--repair"]).await;
    assert_eq!(code, 1, "{report}");
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(1));
    assert_eq!(database.count("payment_dead_letter").await, 1);
    assert_eq!(database.count("payment_processed").await, 1);
}

#[tokio::test]
async fn a_list_of_ids_brings_back_what_processors_have_and_the_ledger_lacks() {
    let (database, default, fallback, ids) = settled(12).await;
    let running = [&default, &fallback];
    let (lost, kept) = ids.split_at(8);
    let array = lost.iter().map(Uuid::to_string).collect::<Vec<_>>();
    database
        .execute(&format!(
            "DELETE FROM payment_processed WHERE correlation_id = ANY ('{{{}}}')",
            array.join(",")
        ))
        .await;
    let unbalanced = async || {
        let balance = "SELECT coalesce(sum(missing - uncounted), 0)::bigint FROM audit.balance()";
        database.value::<i64>(balance).await
    };
    assert_eq!(unbalanced().await, 8);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ids");
    let path = file.to_str().expect("a path");
    let write = |text: &str| std::fs::write(&file, text).expect("a file");

    // What cannot be read is refused before anything is done.
    for (text, told) in [
        (format!("{}\r\n\n x1 \n", lost[0]), "line 3: \"x1\" is not"),
        ("\n \n".to_owned(), "has no id in it"),
    ] {
        write(&text);
        let arguments = ["reconcile", "--repair", "--ids", path];
        let mut program = crate::command_line::program(&database.url, &arguments);
        program.env("PROCESSORS", processors(&running));
        let (code, text) = crate::command_line::run(&mut program).await;
        assert!(code == 2 && text.contains(told), "{code} {text}");
    }
    assert_eq!(database.count("payment_processed").await, 4);
    assert_eq!(database.count("reconcile_run").await, 0);

    // Nothing is recorded that a processor may have which was not asked, nor without --repair.
    write(&format!("  {}\r\n\n{}\n", array[..4].join(" \n "), kept[0]));
    let repair = ["reconcile", "--repair", "--ids", path];
    let (code, report) = command(&database, &[&default], &repair).await;
    assert_eq!(
        (code, &report["notAsked"]),
        (2, &json!(["fallback"])),
        "{report}"
    );
    assert_eq!(
        (&report["findings"], &report["paymentsNotKnown"]),
        (&json!([]), &json!(5))
    );
    let (code, report) = command(&database, &running, &["reconcile", "--ids", path]).await;
    assert_eq!((code, &report["compared"]), (1, &json!(5)), "{report}");
    assert_eq!(database.count("payment_processed").await, 4);
    let unsettled = "reconcile_finding WHERE kind = 'not recorded' AND recorded_by IS NULL";
    assert_eq!(database.count(unsettled).await, 4);

    // From a file, and from a pipe; an id that is given twice is one.
    for (list, count) in [(None, 4), (Some(&array), 8)] {
        let arguments = ["reconcile", "--repair", "--ids", list.map_or(path, |_| "-")];
        let text = list.map(|list| list.join("\n") + "\n" + &list[0]);
        let text = text.unwrap_or_default();
        let (code, report) = command_reading(&database, &running, &arguments, &text).await;
        let findings = report["findings"].as_array().expect("findings");
        assert_eq!((code, findings.len()), (0, 4), "{report}");
        for finding in findings {
            assert_eq!(
                (
                    &finding["ours"],
                    &finding["difference"]["kind"],
                    &finding["repaired"]
                ),
                (&json!("unknown"), &json!("notRecorded"), &json!(true)),
                "{finding}"
            );
        }
        assert_eq!(database.count("payment_processed").await, 4 + count);
    }
    let (code, report) = command(&database, &running, &["reconcile", "--token", "123"]).await;
    assert_eq!((code, &report["compared"]), (0, &json!(12)), "{report}");
    assert_eq!(database.count("reconcile_finding").await, 0);
    assert_eq!(unbalanced().await, 0);
    assert_eq!(database.count("payment_queue").await, 0);

    // What is for a person, and what is for whoever holds it.
    let [twice, old, future, odd, nowhere, dead, held] = [(); 7].map(|()| Uuid::new_v4());
    let at = |hours: i64| {
        let at = chrono::Utc::now() + chrono::TimeDelta::hours(hours);
        at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
    };
    charge_at(&default, twice, "19.90", &at(-1)).await;
    charge_at(&fallback, twice, "19.90", &at(-1)).await;
    charge_at(&default, old, "19.90", "1926-01-01T00:00:00.000Z").await;
    charge_at(&default, future, "19.90", &at(25)).await;
    charge_at(&default, odd, "0", &at(-1)).await;
    for id in [dead, held] {
        charge_at(&fallback, id, "19.90", &at(-1)).await;
    }
    database
        .execute(&format!(
            "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                processor, reason)
             VALUES ('{dead}', 19.90, now() - interval '1 h', 1, 'fallback', 'none');
             INSERT INTO payment_queue
                (correlation_id, amount, accepted_at, attempt, processor, requested_at, lease_until,
                    doubt_until)
             VALUES ('{held}', 19.90, now(), 1, 'default', now(), now() + interval '1 min',
                 now() + interval '2 min')"
        ))
        .await;
    let given = [twice, old, future, odd, nowhere, dead, held, kept[0]].map(|id| id.to_string());
    let stdin = ["reconcile", "--repair", "--ids", "-"];
    let (code, report) = command_reading(&database, &running, &stdin, &given.join("\n")).await;
    let findings = report["findings"].as_array().expect("findings");
    let found: Vec<(&Value, &Value, &Value)> = findings
        .iter()
        .map(|each| {
            (
                &each["correlationId"],
                &each["difference"]["kind"],
                &each["repaired"],
            )
        })
        .collect();
    let expected = [
        (twice, "chargedTwice", false),
        (old, "notRecorded", false),
        (future, "notRecorded", false),
        (odd, "otherAmount", false),
        (dead, "notRecorded", true),
    ];
    let expected = expected.map(|(id, kind, repaired)| (json!(id), json!(kind), json!(repaired)));
    let expected: Vec<_> = expected
        .iter()
        .map(|(id, kind, done)| (id, kind, done))
        .collect();
    assert_eq!((code, found), (1, expected), "{report}");
    assert_eq!(report["nowhere"], json!([nowhere]));
    assert_eq!(
        (&report["paymentsNotKnown"], &report["compared"]),
        (&json!(1), &json!(7))
    );
    assert_eq!(report["notKnown"][0]["first"], json!([held]));
    assert_eq!(database.count("payment_processed").await, 13);
    let (code, _) = command_reading(&database, &running, &stdin, &held.to_string()).await;
    assert_eq!(code, 2);
    let (code, _) = command_reading(&database, &running, &stdin, &nowhere.to_string()).await;
    assert_eq!(code, 0);
}

#[tokio::test]
async fn a_post_of_an_id_that_is_being_recorded_is_not_charged_again() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let running = [&default, &fallback];
    let gateway = Gateway::start(&database, &processors(&running), &[]).await;
    // Whatever is posted now goes to the other processor than the one that has it.
    gateway.without_default(&database).await;
    let id = Uuid::new_v4();
    let at = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ");
    charge_at(&default, id, "19.90", &at.to_string()).await;
    // The recording waits at its end, to add to the totals.
    let mut totals = database.pool.begin().await.expect("a transaction");
    sqlx::query(
        "INSERT INTO payment_rollup (unit, starts_at, processor, requests, amount)
         SELECT 'hour', date_bin('1 hour', $1::text::timestamptz, 'epoch'), 'default', 0, 0",
    )
    .bind(at.to_string())
    .execute(&mut *totals)
    .await
    .expect("a row");
    let stdin = ["reconcile", "--repair", "--ids", "-"];
    let text = id.to_string();
    let recording = command_reading(&database, &running, &stdin, &text);
    let meanwhile = async {
        eventually("it waits for the totals", async || {
            database
                .waiting_for_a_lock("INSERT INTO payment_processed")
                .await
                == 1
        })
        .await;
        let post = gateway.post(id, CENTS);
        let release = async {
            eventually("the post waits for the recording", async || {
                database.waiting_for_a_lock("accept_payment").await == 1
            })
            .await;
            totals.rollback().await.expect("it is released");
        };
        let (status, ()) = tokio::join!(post, release);
        status
    };
    let ((code, report), status) = tokio::join!(recording, meanwhile);
    assert_eq!(
        (code, &report["findings"][0]["repaired"]),
        (0, &json!(true)),
        "{report}"
    );
    assert!(status.is_success(), "{status}");
    assert_eq!(gateway.state(id).await, "settled");
    // One more payment, so that whatever was queued before it has had its turn.
    let next = gateway.post_many(1).await;
    gateway.until_settled(&next).await;
    assert_eq!(database.count("payment_queue").await, 0);
    assert_eq!(fallback.processor.payments().len(), 1);
    assert_eq!(default.processor.payments().len(), 1);
    assert_eq!(database.count("payment_processed").await, 2);
}

#[tokio::test]
async fn a_processor_that_is_known_in_another_spelling_stops_the_start() {
    let (database, default, fallback, _) = settled(1).await;
    let other = processors(&[&default, &fallback]).replacen("default", "Default", 1);
    let Output { status, stderr, .. } =
        tokio::process::Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
            .arg("serve")
            .env("LISTEN", "127.0.0.1:0")
            .env("DATABASE_URL", &database.url)
            .env("PROCESSORS", other)
            .kill_on_drop(true)
            .output()
            .await
            .expect("the program starts");
    let said = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("knows as \"default\""), "{said}");
}

#[tokio::test]
async fn a_record_that_cannot_be_ours_is_for_a_person_and_charged_nowhere_else() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let both = processors(&[&default, &fallback]);
    let ids: Vec<Uuid> = (0..4).map(|_| Uuid::new_v4()).collect();
    for (id, amount, at) in [
        (ids[0], "19.90", "0001-01-01T00:00:00Z"),
        (ids[1], "19.90", "2020-07-15T12:34:56Z"),
        (ids[2], "-19.90", "2026-07-15T12:34:56Z"),
        (ids[3], "12345678901234567890.12", "2026-07-15T12:34:56Z"),
    ] {
        charge_at(&default, id, amount, at).await;
    }
    let gateway = Gateway::start(&database, &both, &[]).await;
    for id in &ids {
        gateway.post(*id, CENTS).await;
    }
    for id in &ids {
        eventually("it is dead", async || gateway.state(*id).await == "dead").await;
    }
    assert_eq!(fallback.processor.payments().len(), 0);
    assert_eq!(database.count("payment_processed").await, 0);
    let (code, status) = command(&database, &[&default, &fallback], &["status"]).await;
    let items = status["attention"].as_array().expect("a list");
    let mismatch = items.iter().find(|item| item["kind"] == "mismatch");
    let text = mismatch.map(|item| item["text"].as_str().expect("text").to_owned());
    assert_eq!(code, 1);
    assert!(
        text.is_some_and(|text| text.starts_with("4 at a processor")),
        "{status}"
    );

    // Nobody else gets them after a retry, and a repair leaves them to a person.
    let (_, done) = command(
        &database,
        &[&default, &fallback],
        &["dead-letter", "retry", "--all"],
    )
    .await;
    assert_eq!(done["done"].as_array().map(Vec::len), Some(4), "{done}");
    for id in &ids {
        eventually("it is dead again", async || {
            gateway.state(*id).await == "dead"
        })
        .await;
    }
    let (_, report) = command(
        &database,
        &[&default, &fallback],
        &["reconcile", "--repair"],
    )
    .await;
    let findings = report["findings"].as_array().expect("findings");
    assert!(
        findings.iter().all(|finding| finding["repaired"] == false),
        "{report}"
    );
    assert_eq!(database.count("payment_processed").await, 0);
    assert_eq!(fallback.processor.payments().len(), 0);
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
