//! What each durability of the queue survives.

use std::time::Duration;

use payment_proxy::config::QueueDurability;
use payment_proxy::store::database;
use reqwest::StatusCode;
use simulator::Running;
use uuid::Uuid;

use crate::command_line::{json, program, run};
use crate::server::Server;
use crate::support::{
    CENTS, Database, Gateway, enqueue, eventually, new_payment, processor, processors,
};

/// An instance with payments in every state: settled, in flight, queued.
async fn busy(server: &Server, default: &Running, durability: &str) -> (Gateway, Vec<Uuid>) {
    let database = Database::at(&server.url());
    let settings = [
        ("QUEUE_DURABILITY", durability),
        ("PROCESSOR_TIMEOUT_MS", "2000"),
    ];
    let gateway = Gateway::start(&database, &processors(&[default]), &settings).await;
    let mut ids = gateway.post_many(20).await;
    gateway.until_settled(&ids).await;
    default.processor.set_delay(Duration::from_millis(800));
    ids.extend(gateway.post_many(150).await);
    eventually("some are in flight", async || {
        default.processor.in_service() > 0
    })
    .await;
    (gateway, ids)
}

async fn all_are_settled_once(server: &Server, gateway: &Gateway, default: &Running, ids: &[Uuid]) {
    default.processor.set_delay(Duration::ZERO);
    gateway.until_settled(ids).await;
    let database = Database::at(&server.url());
    let count = i64::try_from(ids.len()).expect("few");
    assert_eq!(database.count("payment_processed").await, count);
    assert_eq!(default.processor.payments().len(), ids.len());
}

#[tokio::test]
async fn logged_queue_survives_a_crash_of_the_server() {
    let (mut server, default) = (Server::start().await, processor().await);
    let (gateway, ids) = busy(&server, &default, "logged").await;
    server.crash().await;
    assert_eq!(
        gateway.post(Uuid::new_v4(), CENTS).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
    server.run().await;
    all_are_settled_once(&server, &gateway, &default, &ids).await;
}

#[tokio::test]
async fn unlogged_queue_survives_a_clean_restart_of_the_server() {
    let (mut server, default) = (Server::start().await, processor().await);
    let (gateway, ids) = busy(&server, &default, "unlogged").await;
    server.stop().await;
    server.run().await;
    all_are_settled_once(&server, &gateway, &default, &ids).await;
}

#[tokio::test]
async fn unlogged_queue_books_every_charge_even_if_the_server_crashes() {
    let (mut server, default) = (Server::start().await, processor().await);
    let (gateway, _) = busy(&server, &default, "unlogged").await;
    server.crash().await;
    server.run().await;
    // The queue is lost, as docs/configuration.md says. What the processor has charged is not.
    eventually("the calls have ended", async || {
        default.processor.in_service() == 0
    })
    .await;
    let database = Database::at(&server.url());
    eventually("every charge is recorded", async || {
        database.count("payment_processed").await
            == i64::try_from(default.processor.payments().len()).expect("few")
    })
    .await;
    let later = gateway.post_many(3).await;
    gateway.until_settled(&later).await;
}

/// Posts payments until each is accepted.
pub async fn post_all(gateway: &Gateway, ids: &[Uuid]) {
    for id in ids {
        eventually("the payment is accepted", async || {
            gateway.post(*id, CENTS).await.is_success()
        })
        .await;
    }
}

/// Posts ten payments, and waits until all that are not charged are in flight at `default`.
pub async fn ten_in_flight(gateway: &Gateway, default: &Running, fallback: &Running) -> Vec<Uuid> {
    default.processor.set_delay(Duration::from_secs(4));
    let ids = gateway.post_many(10).await;
    eventually("all are in flight at one of them", async || {
        default.processor.in_service() + fallback.processor.payments().len() == ids.len()
            && default.processor.in_service() > 0
    })
    .await;
    ids
}

#[tokio::test]
async fn what_is_being_charged_when_the_queue_is_emptied_is_not_charged_again_when_posted_again() {
    let mut server = Server::start().await;
    let (default, fallback) = (processor().await, processor().await);
    let database = Database::at(&server.url());
    let settings = [("PROCESSOR_TIMEOUT_MS", "8000")];
    let configured = processors(&[&default, &fallback]);
    let one = Gateway::start(&database, &configured, &settings).await;
    let other = Gateway::start(&database, &configured, &settings).await;
    let ids = ten_in_flight(&one, &default, &fallback).await;
    database.disable_default().await;
    server.crash().await;
    server.run().await;
    post_all(&other, &ids).await;
    let later = other.post_many(3).await;
    one.until_settled(&ids).await;
    other.until_settled(&later).await;
    let charges = default.processor.payments().len() + fallback.processor.payments().len();
    assert_eq!(
        charges,
        ids.len() + later.len(),
        "a payment was charged twice"
    );
    let database = Database::at(&server.url());
    assert_eq!(database.count("payment_queue_emptied").await, 1);
    for gateway in [&one, &other] {
        let log = gateway.log();
        assert!(log.contains("has emptied the unlogged queue"), "{log}");
        assert!(log.contains("put back into the emptied queue"), "{log}");
    }
}

#[tokio::test]
async fn a_claim_by_the_statement_that_accepts_gives_way_to_what_is_put_back() {
    let database = Database::migrated().await;
    let put_back = "SELECT put_back_payments(ARRAY[correlation_id], ARRAY[amount],
        ARRAY[accepted_at],
        ARRAY[1], ARRAY['default'], ARRAY[now()], interval '1 min', interval '1 min')
            FROM payment_queue";
    let is_put_back = "payment_queue WHERE processor = 'default' AND attempt = 10001";
    let payment = new_payment();
    enqueue(&database.pool, std::slice::from_ref(&payment))
        .await
        .expect("the database answers");
    // As by claim-on-accept, for another processor; its release comes before or after.
    let claim =
        "UPDATE payment_queue SET attempt = 1, processor = 'fallback', requested_at = now(),
        doubt_until = now(), lease_until = 'infinity'";
    let release =
        "UPDATE payment_queue SET processor = NULL, requested_at = NULL, doubt_until = NULL
        WHERE attempt = 1";
    for statements in [[claim, put_back, release], [claim, release, put_back]] {
        database
            .execute(
                "UPDATE payment_queue SET attempt = 0, processor = NULL, requested_at = NULL, \
                doubt_until = NULL",
            )
            .await;
        for statement in statements {
            database.execute(statement).await;
        }
        assert_eq!(database.count(is_put_back).await, 1, "{statements:?}");
    }
}

#[tokio::test]
async fn what_an_emptied_queue_lost_is_told_to_the_payment() {
    let (mut server, default) = (Server::start().await, processor().await);
    let database = Database::at(&server.url());
    // Calls of an instance that died with the server are over after 6.5 s.
    let settings = [("PROCESSOR_TIMEOUT_MS", "500"), ("LATE_CHARGE_MS", "1000")];
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    default.processor.set_failing(true);
    let ids = gateway.post_many(40).await;
    let counted = "SELECT coalesce(sum(payments), 0)::bigint FROM payment_accepted_hour";
    eventually("all are counted", async || {
        database.value::<i64>(counted).await == 40
    })
    .await;
    // What it knows is gone with it.
    gateway.crash();
    server.crash().await;
    default.processor.set_failing(false);
    server.run().await;
    let database = Database::at(&server.url());
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    let told = "SELECT coalesce(sum(missing), 0)::bigint FROM audit.balance()";
    eventually("the queue is empty, and the rest is told", async || {
        let settled = database.count("payment_processed").await;
        let missing: i64 = database.value(told).await;
        database.count("payment_queue").await == 0
            && missing > 0
            && settled + missing == i64::try_from(ids.len()).expect("few")
    })
    .await;
    post_all(&gateway, &ids).await;
    gateway.until_settled(&ids).await;
    assert_eq!(default.processor.payments().len(), ids.len());
}

#[tokio::test]
async fn a_standby_that_is_promoted_takes_payments_with_an_unlogged_queue() {
    let mut primary = Server::start().await;
    let standby = Server::standby_of(&primary).await;
    // The standby replays the creation of the tables, and writes nothing of it to disk.
    let database = Database::at(&primary.url());
    let unlogged = database.migrate_settings(QueueDurability::Unlogged);
    database::migrate(&unlogged).await.expect("it migrates");
    let written: String = database
        .value("SELECT pg_current_wal_lsn()::text FROM deployment")
        .await;
    let promoted = Database::at(&standby.url());
    eventually("the standby has all of it", async || {
        promoted
            .value(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"))
            .await
    })
    .await;
    primary.crash().await;
    promoted.execute("SELECT pg_promote()").await;
    let default = processor().await;
    let gateway = Gateway::start(&promoted, &processors(&[&default]), &[]).await;
    let ids = gateway.post_many(5).await;
    gateway.until_settled(&ids).await;
    assert_eq!(promoted.count("payment_queue_emptied").await, 1);
}

#[tokio::test]
async fn a_batch_of_counts_that_comes_again_is_added_once() {
    let database = Database::migrated().await;
    let counter = Uuid::new_v4();
    let add = async |batch: i64, payments: i64| {
        database
            .execute(&format!(
                "SELECT count_accepted('{counter}', {batch}, ARRAY[timestamptz '2026-07-10T12:00Z'],
                    ARRAY[{payments}::bigint], ARRAY[{payments}.00])"
            ))
            .await;
    };
    add(1, 5).await;
    add(1, 5).await;
    add(2, 3).await;
    add(2, 3).await;
    let counted: i64 = database
        .value("SELECT payments FROM payment_accepted_hour")
        .await;
    assert_eq!(counted, 8);
}

#[tokio::test]
async fn an_unlogged_queue_of_a_server_with_standbys_is_told_of() {
    let primary = Server::start().await;
    let database = Database::at(&primary.url());
    let unlogged = database.migrate_settings(QueueDurability::Unlogged);
    database::migrate(&unlogged).await.expect("it migrates");
    let mut connection = database.pool.acquire().await.expect("a connection");
    let loses = database::failover_loses_queue(&mut connection).await;
    assert!(!loses.expect("an answer"), "there is no standby");
    let _standby = Server::standby_of(&primary).await;
    eventually("it streams", async || {
        let loses = database::failover_loses_queue(&mut connection).await;
        loses.expect("an answer")
    })
    .await;
    let default = processor().await;
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    assert!(gateway.log().contains(database::FAILOVER_LOSES_QUEUE));
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
        .args(["status", "--json"])
        .env("DATABASE_URL", &database.url)
        .output()
        .expect("the program starts");
    let status = String::from_utf8_lossy(&status.stdout);
    assert!(status.contains(database::FAILOVER_LOSES_QUEUE), "{status}");
    gateway.stop().await;
    let logged = database.migrate_settings(QueueDurability::Logged);
    database::migrate(&logged).await.expect("it is switched");
    let loses = database::failover_loses_queue(&mut connection).await;
    assert!(!loses.expect("an answer"), "the queue is logged");
}

#[tokio::test]
async fn what_only_reads_works_against_a_standby_or_says_why_not() {
    let (primary, default) = (Server::start().await, processor().await);
    let standby = Server::standby_of(&primary).await;
    let (database, copy) = (Database::at(&primary.url()), Database::at(&standby.url()));
    for durability in ["logged", "unlogged"] {
        let settings = [("QUEUE_DURABILITY", durability)];
        let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
        let ids = gateway.post_many(3).await;
        gateway.until_settled(&ids).await;
        let id = ids[0].to_string();
        eventually("the standby has them", async || {
            let (_, summary) = json(&mut program(&copy.url, &["summary"])).await;
            let (_, theirs) = json(&mut program(&database.url, &["summary"])).await;
            summary == theirs
        })
        .await;
        let (code, payment) = run(&mut program(&copy.url, &["payment", &id])).await;
        let (_, status) = json(&mut program(&copy.url, &["status"])).await;
        if durability == "logged" {
            assert!(code == 0 && payment.contains("settled"), "{payment}");
            assert_eq!(status["database"]["instances"], 1, "{status}");
        } else {
            let why = "unlogged relations during recovery";
            assert!(code == 2 && payment.contains(why), "{code} {payment}");
            assert!(status.to_string().contains(why), "{status}");
        }
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_summary_that_a_standby_tells_says_how_far_behind_it_is() {
    let (primary, default) = (Server::start().await, processor().await);
    let standby = Server::standby_of(&primary).await;
    let (database, copy) = (Database::at(&primary.url()), standby.url());
    let settings = [
        ("QUEUE_DURABILITY", "logged"),
        ("READ_DATABASE_URL", copy.as_str()),
    ];
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    let ids = gateway.post_many(3).await;
    gateway.until_settled(&ids).await;
    let behind = async || {
        let reply = gateway.get("/payments-summary").await;
        let seconds = reply.headers()["seconds-behind"].to_str().expect("ASCII");
        let seconds: f64 = seconds.parse().expect("a number");
        let summary: serde_json::Value = reply.json().await.expect("JSON");
        (seconds, summary["default"]["totalRequests"].as_u64())
    };
    eventually("the standby has them", async || {
        let (seconds, settled) = behind().await;
        settled == Some(3) && seconds < 3.0
    })
    .await;
    // It stops to replay, and goes on to answer.
    Database::at(&copy)
        .execute("SELECT pg_wal_replay_pause()")
        .await;
    gateway.until_settled(&gateway.post_many(2).await).await;
    eventually("it is seen to be behind", async || {
        let (seconds, settled) = behind().await;
        settled == Some(3) && seconds > 3.0
    })
    .await;
    drop(standby);
    let reply = gateway.try_get("/payments-summary").await.expect("a reply");
    assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_settled_payment_is_read_from_a_standby_and_every_other_from_the_primary() {
    let (primary, default) = (Server::start().await, processor().await);
    let standby = Server::standby_of(&primary).await;
    let (database, copy) = (Database::at(&primary.url()), Database::at(&standby.url()));
    let read_from = standby.url();
    let settings = [("READ_DATABASE_URL", read_from.as_str())];
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    let ids = gateway.post_many(3).await;
    gateway.until_settled(&ids).await;
    eventually("the standby has them", async || {
        copy.count("payment_processed").await == 3
    })
    .await;
    // The primary cannot tell, and the standby has nothing newer.
    copy.execute("SELECT pg_wal_replay_pause()").await;
    let lock = database.lock("payment_processed").await;
    assert_eq!(gateway.state(ids[0]).await, "settled");
    drop(lock);
    // What an unlogged queue holds, and what the standby does not have yet.
    default.processor.set_failing(true);
    let open = gateway.post_many(1).await;
    assert_ne!(gateway.state(open[0]).await, "settled");
    default.processor.set_failing(false);
    gateway.until_settled(&open).await;
    let unknown = format!("/payments/{}", Uuid::new_v4());
    assert_eq!(gateway.get(&unknown).await.status(), StatusCode::NOT_FOUND);
    drop(standby);
    assert_eq!(gateway.state(ids[1]).await, "settled");
}

#[tokio::test]
async fn a_standby_that_cannot_answer_says_why_and_disturbs_nothing_else() {
    let (primary, default) = (Server::start().await, processor().await);
    let standby = Server::standby_of(&primary).await;
    let (database, read_from) = (Database::at(&primary.url()), standby.url());
    let settings = [
        ("QUEUE_DURABILITY", "logged"),
        ("READ_DATABASE_URL", read_from.as_str()),
    ];
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    gateway.until_settled(&gateway.post_many(3).await).await;
    let connections = async || {
        let pids = "SELECT coalesce(array_agg(pid ORDER BY pid), '{}') FROM pg_stat_activity
            WHERE application_name = 'payment-proxy' AND datname = current_database()";
        database.value::<Vec<i32>>(pids).await
    };
    database
        .execute("ALTER TABLE payment_rollup SET UNLOGGED")
        .await;
    let before = connections().await;
    eventually("the standby says why", async || {
        let reply = gateway.try_get("/payments-summary").await.expect("a reply");
        let status = reply.status();
        let detail = reply.text().await.expect("a body");
        status == StatusCode::SERVICE_UNAVAILABLE && detail.contains("unlogged relations")
    })
    .await;
    // Connections that are given up go when they were used once more.
    let beaten = "SELECT count(*) FROM service_instance WHERE seen_at > ";
    let now: String = database
        .value("SELECT (now() + interval '2 s')::text FROM deployment")
        .await;
    eventually("heartbeats go on", async || {
        database.value::<i64>(&format!("{beaten} '{now}'")).await == 1
    })
    .await;
    let after = connections().await;
    assert!(
        before.iter().all(|pid| after.contains(pid)),
        "{before:?} {after:?}"
    );

    // One that is another database is not read, and does not hold the instance.
    let other = Database::migrated().await;
    let settings = [
        ("QUEUE_DURABILITY", "logged"),
        ("READ_DATABASE_URL", other.url.as_str()),
    ];
    let wrong = Gateway::start(&database, &processors(&[&default]), &settings).await;
    let reply = wrong.try_get("/payments-summary").await.expect("a reply");
    assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
    let log = wrong.log();
    assert!(log.contains("leads to another database"), "{log}");
    assert!(wrong.is_ready().await);
    wrong.until_settled(&wrong.post_many(2).await).await;
}

#[tokio::test]
async fn durability_is_switched_either_way_without_losing_rows() {
    let database = Database::migrated().await;
    let payments: Vec<_> = (0..50).map(|_| new_payment()).collect();
    enqueue(&database.pool, &payments)
        .await
        .expect("the database answers");
    for (durability, expected) in [
        (QueueDurability::Logged, "p"),
        (QueueDurability::Logged, "p"),
        (QueueDurability::Unlogged, "u"),
        (QueueDurability::Unlogged, "u"),
    ] {
        database::migrate(&database.migrate_settings(durability))
            .await
            .expect("it is switched");
        assert_eq!(database.count("payment_queue").await, 50);
        // What tells that it was emptied has to be as durable.
        let matching = format!(
            "pg_class WHERE oid IN ('payment_queue'::regclass, 'payment_queue_life'::regclass)
                AND relpersistence = '{expected}'"
        );
        assert_eq!(database.count(&matching).await, 2, "{durability:?}");
    }
}

#[tokio::test]
async fn the_queue_stays_as_it_is_under_those_who_serve() {
    let (database, default) = (Database::migrated().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let logged = database.migrate_settings(QueueDurability::Logged);
    let refused = database::migrate(&logged)
        .await
        .expect_err("somebody serves");
    let id: Uuid = database.value("SELECT id FROM service_instance").await;
    let refused = refused.to_string();
    assert!(refused.contains(&id.to_string()), "{refused}");
    assert!(refused.contains("QUEUE_DURABILITY"), "{refused}");
    let unlogged = "pg_class WHERE oid = 'payment_queue'::regclass AND relpersistence = 'u'";
    assert_eq!(database.count(unlogged).await, 1);
    gateway.until_settled(&gateway.post_many(3).await).await;
    // Theirs is no change.
    let same = database.migrate_settings(QueueDurability::Unlogged);
    database::migrate(&same).await.expect("nothing to do");
    gateway.stop().await;
    database::migrate(&logged).await.expect("it is switched");
    assert_eq!(database.count(unlogged).await, 0);
}

#[tokio::test]
async fn instances_that_start_at_once_migrate_once() {
    let database = Database::create().await;
    let settings = database.migrate_settings(QueueDurability::Logged);
    let starts = (0..6).map(|_| database::migrate(&settings));
    for outcome in futures_util::future::join_all(starts).await {
        outcome.expect("each finds the tables");
    }
}
