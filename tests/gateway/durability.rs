//! What each durability of the queue survives.

use std::time::Duration;

use payment_proxy::config::QueueDurability;
use payment_proxy::store::database;
use reqwest::StatusCode;
use simulator::Running;
use uuid::Uuid;

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
        let matching = format!(
            "pg_class WHERE oid = 'payment_queue'::regclass AND relpersistence = '{expected}'"
        );
        assert_eq!(database.count(&matching).await, 1, "{durability:?}");
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
