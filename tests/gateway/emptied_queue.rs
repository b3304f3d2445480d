//! A crash of the database server empties an unlogged queue: what is told of it, what is put back,
//! and what is asked for afterwards.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use simulator::Running;
use uuid::Uuid;

use crate::attention::kinds;
use crate::command_line::{json as json_of, program, run};
use crate::metrics::free_address;
use crate::server::Server;
use crate::support::{CENTS, Database, Gateway, eventually, processor, processors};

const TOKEN: &str = "a-token-of-some-length";

/// Claims last 5.5 s, and doubts end 1 s later.
const TERMS: [(&str, &str); 2] = [("PROCESSOR_TIMEOUT_MS", "500"), ("LATE_CHARGE_MS", "1000")];

/// Payments that wait because no processor takes any.
async fn waiting(gateway: &Gateway, default: &Running, count: usize) -> Vec<Uuid> {
    default.processor.set_failing(true);
    gateway.post_many(count).await
}

/// Crashes the server, and waits until its queue is found emptied for so many times.
async fn crash(server: &mut Server, times: i64) -> Database {
    server.crash().await;
    server.run().await;
    let database = Database::at(&server.url());
    eventually("it is noticed", async || {
        database.count("payment_queue_emptied").await == times
    })
    .await;
    database
}

/// The lines of a log with these words.
fn lines(log: &str, words: &str) -> usize {
    log.lines().filter(|line| line.contains(words)).count()
}

#[tokio::test]
async fn a_crash_that_empties_the_queue_is_told_until_it_is_acknowledged() {
    let (mut server, default) = (Server::start().await, processor().await);
    let address = free_address();
    let settings = [
        ("OPERATOR_LISTEN", address.as_str()),
        ("OPERATOR_TOKEN", TOKEN),
        ("LOG_FORMAT", "json"),
        TERMS[0],
        TERMS[1],
    ];
    let database = Database::at(&server.url());
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    let ids = waiting(&gateway, &default, 30).await;
    let database = crash(&mut server, 1).await;
    default.processor.set_failing(false);
    gateway.until_settled(&ids).await;

    // One line with what is known.
    let log = gateway.log();
    let line = (log.lines()).find(|line| line.contains("has emptied the unlogged queue"));
    let line: Value = serde_json::from_str(line.expect("a line")).expect("JSON");
    assert_eq!(line["level"], "ERROR", "{line}");
    let text = line.to_string();
    for known in ["payments.unsettled\":30", "queue.last_seen_at"] {
        assert!(text.contains(known), "no {known}: {text}");
    }
    assert_eq!(lines(&log, "has emptied the unlogged queue"), 1, "{log}");

    let metrics = async || {
        let client = reqwest::Client::new();
        let get = client.get(format!("http://{address}/metrics"));
        let reply = get.bearer_auth(TOKEN).send().await.expect("a reply");
        reply.text().await.expect("text")
    };
    let told = metrics().await;
    for metric in [
        "payment_proxy_queue_emptied_total 1",
        "payment_proxy_put_back_total 30",
        "payment_proxy_attention{kind=\"queue_emptied\",severity=\"alarm\"} 1",
    ] {
        assert!(told.contains(metric), "no {metric} in {told}");
    }
    let is_told = async || {
        let (_, status) = json_of(&mut program(&database.url, &["status"])).await;
        kinds(&status["attention"]).contains("queue_emptied")
    };
    // However long ago it was.
    database
        .execute("UPDATE payment_queue_emptied SET noticed_at = now() - interval '30 days'")
        .await;
    assert!(is_told().await);

    let acknowledge = [
        "deployment",
        "acknowledge",
        "--reason",
        "posted again",
        "--by",
        "ana",
    ];
    let (code, text) = run(&mut program(&database.url, &acknowledge)).await;
    assert_eq!(code, 0, "{text}");
    assert!(!is_told().await);
    eventually("the metric tells it no more", async || {
        let gone = "payment_proxy_attention{kind=\"queue_emptied\",severity=\"alarm\"} 0";
        metrics().await.contains(gone)
    })
    .await;
    // It is kept who said so, and nothing is said twice.
    let (_, shown) = json_of(&mut program(&database.url, &["deployment", "show"])).await;
    assert_eq!(shown["emptied"][0]["acknowledgedBy"], "ana", "{shown}");
    assert_eq!(shown["emptied"][0]["reason"], "posted again", "{shown}");
    let (code, again) = json_of(&mut program(&database.url, &acknowledge)).await;
    assert_eq!((code, again), (1, json!({"acknowledged": 0})));
    let kept = "audit.emptied_queue WHERE acknowledged_by = 'ana' AND acknowledging_role <> ''";
    assert_eq!(database.count(kept).await, 1);
}

/// Two instances, with thirty payments each that wait.
async fn two_with_waiting(server: &Server, default: &Running) -> ([Gateway; 2], Vec<Uuid>) {
    let database = Database::at(&server.url());
    let configured = processors(&[default]);
    let one = Gateway::start(&database, &configured, &TERMS).await;
    let other = Gateway::start(&database, &configured, &TERMS).await;
    let mut ids = waiting(&one, default, 30).await;
    ids.extend(waiting(&other, default, 30).await);
    ([one, other], ids)
}

#[tokio::test]
async fn what_waits_outlives_an_emptied_queue_with_its_instances() {
    let (mut server, default) = (Server::start().await, processor().await);
    let ([one, _other], ids) = two_with_waiting(&server, &default).await;
    let database = crash(&mut server, 1).await;
    default.processor.set_failing(false);
    one.until_settled(&ids).await;
    assert_eq!(default.processor.payments().len(), ids.len());
    let missing: i64 = database
        .value("SELECT coalesce(sum(missing), 0)::bigint FROM audit.balance()")
        .await;
    assert_eq!(missing, 0);
}

#[tokio::test]
async fn a_server_that_crashes_while_payments_are_put_back_doubles_none() {
    let (mut server, default) = (Server::start().await, processor().await);
    let ([one, _other], ids) = two_with_waiting(&server, &default).await;
    server.crash().await;
    server.run().await;
    let database = Database::at(&server.url());
    // Nothing can be put back; where it was faster, something is there.
    let lock = database.lock("payment_queue").await;
    eventually("it is being put back", async || {
        database.waiting_for_a_lock("put_back_payments").await > 0
            || lines(&one.log(), "put back into the emptied queue") > 0
    })
    .await;
    server.crash().await;
    drop(lock);
    server.run().await;
    let database = Database::at(&server.url());
    default.processor.set_failing(false);
    one.until_settled(&ids).await;
    assert_eq!(default.processor.payments().len(), ids.len());
    assert_eq!(database.count("payment_processed").await, 60);
    eventually("nothing is left", async || {
        database.count("payment_queue").await == 0
    })
    .await;
}

#[tokio::test]
async fn what_is_put_back_yields_to_evidence_in_either_order() {
    let database = Database::migrated().await;
    let id = Uuid::new_v4();
    // The claim with each number was made so many seconds after noon.
    let put_back_claim = async |attempt: i32, processor: &str, second: i32| {
        let evidence = match processor {
            "NULL" => ("NULL::text".to_owned(), "NULL::timestamptz".to_owned()),
            name => (
                format!("'{name}'"),
                format!("timestamptz '2026-07-10T12:00Z' + interval '{second} s'"),
            ),
        };
        let (processor, requested_at) = evidence;
        database
            .execute(&format!(
                "SELECT put_back_payments(ARRAY['{id}'::uuid], ARRAY[1.00],
                    ARRAY[timestamptz '2026-07-10T12:00Z'], ARRAY[{attempt}], ARRAY[{processor}],
                    ARRAY[{requested_at}], interval '1 min', interval '1 min')"
            ))
            .await;
        database
            .value::<Option<String>>("SELECT max(processor) FROM payment_queue")
            .await
    };
    let put_back =
        async |attempt: i32, processor: &str| put_back_claim(attempt, processor, attempt).await;
    // One instance has accepted it, another one has claimed it, a third one has claimed it later.
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]] {
        database.execute("DELETE FROM payment_queue").await;
        let mut last = None;
        for step in order {
            last = match step {
                0 => put_back(0, "NULL").await,
                1 => put_back(1, "default").await,
                _ => put_back(2, "fallback").await,
            };
        }
        assert_eq!(last.as_deref(), Some("fallback"), "{order:?}");
        // Again, as after a commit that was not confirmed.
        assert_eq!(put_back(0, "NULL").await.as_deref(), Some("fallback"));
        assert_eq!(database.count("payment_queue").await, 1, "{order:?}");
    }
    // One instance stood still with its ninth claim while the queue was emptied; the others gave it
    // up, and claimed the payment in the new queue, where claims are counted from 1 again. The same
    // where another crash has emptied that one, too, and the other instance knows of its claim.
    for (order, is_known) in [([9, 1], true), ([1, 9], true), ([1, 9], false)] {
        database.execute("DELETE FROM payment_queue").await;
        let mut last = None;
        for step in order {
            last = match step {
                9 => put_back_claim(9, "fallback", 9).await,
                _ if is_known => put_back_claim(1, "default", 130).await,
                _ => {
                    database
                        .execute(&format!(
                            "INSERT INTO payment_queue (correlation_id, amount, attempt, processor,
                                requested_at, lease_until, doubt_until)
                            VALUES ('{id}', 1, 1, 'default', '2026-07-10T12:02:10Z', now(), now())"
                        ))
                        .await;
                    None
                }
            };
        }
        assert_eq!(last.as_deref(), Some("default"), "{order:?}");
    }
    // A payment that has been in doubt for longer than a doubt lasts is under way; what another
    // instance knows of an older claim does not replace it, whichever comes first.
    for order in [[1, 20], [20, 1]] {
        database.execute("DELETE FROM payment_queue").await;
        let mut last = None;
        for attempt in order {
            let (processor, second) = if attempt == 1 {
                ("fallback", 1)
            } else {
                ("default", 9)
            };
            last = put_back_claim(attempt, processor, second).await;
        }
        assert_eq!(last.as_deref(), Some("default"), "{order:?}");
    }
    // What waits can be claimed at once.
    database.execute("DELETE FROM payment_queue").await;
    put_back(0, "NULL").await;
    let free = "payment_queue WHERE processor IS NULL AND lease_until <= now()
        AND requested_at IS NULL AND doubt_until IS NULL";
    assert_eq!(database.count(free).await, 1);
    // What was discarded since is not put back; what was posted again after that stays.
    database
        .execute(&format!(
            "INSERT INTO payment_decision (correlation_id, decision, amount, accepted_at,
                processor, decided_by, reason)
            VALUES ('{id}', 'discarded', 1, '2026-07-10T12:00Z', 'default', 'ana', 'a test')"
        ))
        .await;
    put_back(0, "NULL").await;
    assert_eq!(database.count("payment_queue").await, 0);
    database
        .execute(&format!(
            "INSERT INTO payment_queue (correlation_id, amount) VALUES ('{id}', 1)"
        ))
        .await;
    put_back(0, "NULL").await;
    assert_eq!(database.count("payment_queue").await, 1);
}

#[tokio::test]
async fn a_payment_that_is_retried_after_an_emptied_queue_is_asked_for_first() {
    let mut server = Server::start().await;
    let (default, fallback) = (processor().await, processor().await);
    let database = Database::at(&server.url());
    let configured = processors(&[&default, &fallback]);
    let gateway = Gateway::start(&database, &configured, &[]).await;
    gateway.without_default(&database).await;
    // An instance that is gone had it charged, and did not record it.
    let id = Uuid::new_v4();
    let body = json!({
        "correlationId": id, "amount": 19.90, "requestedAt": "2026-07-10T12:34:56.123Z"
    });
    let charged = reqwest::Client::new()
        .post(format!("{}/payments", default.url()))
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string());
    assert!(charged.send().await.expect("a reply").status().is_success());
    let database = crash(&mut server, 1).await;
    eventually("it is accepted", async || {
        gateway.post(id, CENTS).await.is_success()
    })
    .await;
    let new = gateway.post_many(3).await;
    gateway.until_settled(&[id]).await;
    gateway.until_settled(&new).await;
    assert_eq!(fallback.processor.payments().len(), new.len());
    let recorded = format!(
        "payment_processed WHERE correlation_id = '{id}' AND processor = 'default'
            AND requested_at = '2026-07-10T12:34:56.123Z'"
    );
    assert_eq!(database.count(&recorded).await, 1);
}

#[tokio::test]
async fn what_an_instance_was_charging_that_died_with_the_server_is_not_charged_again() {
    let mut server = Server::start().await;
    let (default, fallback) = (processor().await, processor().await);
    let database = Database::at(&server.url());
    // A call that is left without an answer is over after 7.5 s.
    let settings = [("PROCESSOR_TIMEOUT_MS", "500"), ("LATE_CHARGE_MS", "2000")];
    let configured = processors(&[&default, &fallback]);
    let one = Gateway::start(&database, &configured, &settings).await;
    let other = Gateway::start(&database, &configured, &settings).await;
    default.processor.set_delay(Duration::from_millis(1_900));
    fallback.processor.set_delay(Duration::from_millis(1_900));
    let ids = one.post_many(4).await;
    let in_service = || default.processor.in_service() + fallback.processor.in_service();
    eventually("all are in flight", async || in_service() == ids.len()).await;
    one.crash();
    server.crash().await;
    // What is posted again would go to either, and sooner than the first call is stored.
    server.run().await;
    default.processor.set_delay(Duration::ZERO);
    fallback.processor.set_delay(Duration::ZERO);
    for id in &ids {
        eventually("it is accepted again", async || {
            other.post(*id, CENTS).await == StatusCode::ACCEPTED
        })
        .await;
    }
    other.until_settled(&ids).await;
    let charges = default.processor.payments().len() + fallback.processor.payments().len();
    assert_eq!(charges, ids.len(), "a payment was charged twice");
    let later = other.post_many(2).await;
    other.until_settled(&later).await;
}

#[tokio::test]
async fn an_instance_that_is_ending_puts_back_what_it_is_charging() {
    let (mut server, default) = (Server::start().await, processor().await);
    let fallback = processor().await;
    let database = Database::at(&server.url());
    let configured = processors(&[&default, &fallback]);
    let one = Gateway::start(&database, &configured, &[]).await;
    let other = Gateway::start(&database, &configured, &[]).await;
    default.processor.set_delay(Duration::from_secs(4));
    fallback.processor.set_delay(Duration::from_secs(4));
    let ids = one.post_many(4).await;
    let in_service = || default.processor.in_service() + fallback.processor.in_service();
    eventually("all are in flight", async || in_service() == ids.len()).await;
    one.signal(Signal::SIGTERM);
    eventually("it ends", async || one.log().contains("stopping")).await;
    crash(&mut server, 1).await;
    eventually("it has put them back", async || {
        one.log().contains("put back into the emptied queue")
    })
    .await;
    one.stop().await;
    other.until_settled(&ids).await;
    let charges = default.processor.payments().len() + fallback.processor.payments().len();
    assert_eq!(charges, ids.len());
}

#[tokio::test]
async fn a_server_that_does_not_wait_for_its_disk_is_told_of() {
    let (server, default) = (Server::start_with(&["fsync=off"]).await, processor().await);
    let database = Database::at(&server.url());
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    assert!(gateway.log().contains("fsync is off"), "{}", gateway.log());
    let (_, status) = json_of(&mut program(&database.url, &["status"])).await;
    assert!(
        kinds(&status["attention"]).contains("not_durable"),
        "{status}"
    );
    let (_, migrated) = run(&mut program(&database.url, &["migrate"])).await;
    assert!(migrated.contains("fsync is off"), "{migrated}");
}
