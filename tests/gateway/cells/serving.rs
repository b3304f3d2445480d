//! What clients see of a deployment with several cells, also while one of them is away.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use payment_proxy::config::QueueDurability;
use payment_proxy::store::database;
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use rust_decimal::Decimal;
use serde_json::Value;
use uuid::Uuid;

use super::{Deployment, Way, are_charged_once, cells_away, list};
use crate::command_line::{json, program};
use crate::server::Server;
use crate::support::{CENTS, Database, Gateway, eventually, payment_json, processor, processors};

/// What a summary tells, all processors together.
pub fn totals(summary: &Value) -> (u64, Decimal) {
    let each = summary.as_object().expect("an object").values();
    each.fold((0, Decimal::ZERO), |(count, sum), totals| {
        let amount = totals["totalAmount"].to_string();
        let amount: Decimal = amount.parse().expect("a decimal");
        let requests = totals["totalRequests"].as_u64().expect("a number");
        (count + requests, sum + amount)
    })
}

#[tokio::test]
async fn a_payment_lives_in_the_cell_that_its_id_names() {
    let deployment = Deployment::of(4).await;
    let (default, fallback) = (processor().await, processor().await);
    let both = processors(&[&default, &fallback]);
    let gateway = Gateway::start(&deployment.all, &both, &[]).await;
    let ids = gateway.post_many(200).await;
    gateway.until_settled(&ids).await;
    eventually("the queues are empty", async || {
        deployment.count("payment_queue").await == 0
    })
    .await;
    are_charged_once(&deployment, &[&default, &fallback], &ids).await;
    for cell in &deployment.cells {
        assert!(
            cell.count("payment_processed").await > 20,
            "its part of them"
        );
    }
    let (count, amount) = totals(&gateway.json("/payments-summary").await);
    assert_eq!((count, amount), (200, Decimal::new(200 * CENTS, 2)));

    // Whoever posts again is answered by the cell that knows it, through another instance, too.
    let other = Gateway::start(&deployment.all, &both, &[]).await;
    assert_eq!(other.post(ids[0], CENTS).await, StatusCode::ACCEPTED);
    assert_eq!(other.post(ids[0], CENTS + 1).await, StatusCode::CONFLICT);
    assert_eq!(other.state(Uuid::new_v4()).await, "unknown");
    let (count, _) = totals(&other.json("/payments-summary").await);
    assert_eq!(count, 200);
    let instances: i64 = deployment
        .all
        .count("service_instance WHERE held IS NULL")
        .await;
    assert_eq!(instances, 2);
    assert_eq!(cells_away(&other).await, []);

    let purged = other.post_body("/purge-payments", "").await.status();
    assert_eq!(purged, StatusCode::NO_CONTENT);
    assert_eq!(deployment.count("payment_processed").await, 0);
}

#[tokio::test]
async fn while_a_cell_is_away_its_payments_get_503_and_the_others_go_on() {
    let deployment = Deployment::of(3).await;
    let way = Way::to(&deployment.cells[1]).await;
    let urls = [
        &*deployment.cells[0].url,
        &*way.url,
        &*deployment.cells[2].url,
    ];
    let all = list(&urls);
    let default = processor().await;
    let gateway = Gateway::start(&all, &processors(&[&default]), &[]).await;
    let mut ids = gateway.post_many(30).await;
    gateway.until_settled(&ids).await;

    way.cut();
    let away = deployment.id_in(2);
    let reply = gateway
        .post_body("/payments", payment_json(away, CENTS))
        .await;
    assert_eq!(reply.headers()[RETRY_AFTER], "1");
    let (_, detail) = Gateway::problem(reply, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(detail.starts_with("cell 2 of 3: "), "{detail}");
    let others: Vec<Uuid> = (0..40).map(|n| deployment.id_in(1 + n % 2 * 2)).collect();
    for status in join_all(others.iter().map(|id| gateway.post(*id, CENTS))).await {
        assert_eq!(status, StatusCode::ACCEPTED);
    }
    gateway.until_settled(&others).await;
    ids.extend(others);

    // Never a number that lacks a part.
    let reply = gateway.get("/payments-summary").await;
    let (_, detail) = Gateway::problem(reply, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(detail.starts_with("cell 2 of 3: "), "{detail}");
    let reply = gateway.get(&format!("/payments/{away}")).await;
    let (_, detail) = Gateway::problem(reply, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(detail.starts_with("cell 2 of 3: "), "{detail}");
    let told = cells_away(&gateway).await;
    assert!(matches!(&told[..], [(2, _)]), "{told:?}");
    let (code, status) = json(&mut program(&all.url, &["status"])).await;
    assert_eq!(code, 2);
    let told = status["database"]["error"].as_str().expect("an error");
    assert!(told.starts_with("cell 2 of 3: "), "{told}");
    let queues: Vec<bool> = status["cells"]
        .as_array()
        .expect("cells")
        .iter()
        .map(|cell| cell["queue"]["error"].is_string())
        .collect();
    assert_eq!(queues, [false, true, false]);
    let log = gateway.log();
    assert!(
        log.lines()
            .any(|line| line.contains("cell=2") && line.contains("trying again")),
        "{log}"
    );

    way.mend();
    eventually("the cell is back", async || {
        cells_away(&gateway).await.is_empty()
    })
    .await;
    eventually("its payments are taken", async || {
        gateway.post(away, CENTS).await == StatusCode::ACCEPTED
    })
    .await;
    gateway.until_settled(&[away]).await;
    ids.push(away);
    are_charged_once(&deployment, &[&default], &ids).await;
    let (count, _) = totals(&gateway.json("/payments-summary").await);
    assert_eq!(count, ids.len() as u64);
}

#[tokio::test]
async fn an_instance_starts_while_a_cell_is_away_even_the_first() {
    for (missing, there) in [(1, 2), (2, 1)] {
        let deployment = Deployment::of(2).await;
        let way = Way::to(&deployment.cells[missing - 1]).await;
        let mut urls = [&*deployment.cells[0].url, &*deployment.cells[1].url];
        urls[missing - 1] = &way.url;
        way.cut();
        let default = processor().await;
        let gateway = Gateway::start(&list(&urls), &processors(&[&default]), &[]).await;
        let told = cells_away(&gateway).await;
        assert!(
            matches!(&told[..], [(cell, _)] if *cell == missing as u64),
            "{told:?}"
        );
        let (lives, waits) = (deployment.id_in(there), deployment.id_in(missing));
        assert_eq!(gateway.post(lives, CENTS).await, StatusCode::ACCEPTED);
        gateway.until_settled(&[lives]).await;
        let refused = gateway.post(waits, CENTS).await;
        assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
        way.mend();
        eventually("the cell is served", async || {
            gateway.post(waits, CENTS).await == StatusCode::ACCEPTED
        })
        .await;
        gateway.until_settled(&[waits]).await;
        assert_eq!(cells_away(&gateway).await, []);
        are_charged_once(&deployment, &[&default], &[lives, waits]).await;
        let (time, log) = gateway.stop().await;
        assert!(
            time < payment_proxy::serve::SHUTDOWN && log.contains("stopped"),
            "{log}"
        );
    }
}

#[tokio::test]
async fn a_processor_is_asked_for_its_health_once_for_all_cells_and_switched_in_all() {
    let deployment = Deployment::of(3).await;
    let (default, fallback) = (processor().await, processor().await);
    let both = processors(&[&default, &fallback]);
    let gateway = Gateway::start(&deployment.all, &both, &[]).await;
    eventually("the first cell has their health", async || {
        deployment.cells[0]
            .count("processor_health WHERE answered_at IS NOT NULL")
            .await
            == 2
    })
    .await;
    for cell in &deployment.cells[1..] {
        assert_eq!(cell.count("processor_health").await, 0);
    }
    let off = ["routing", "disable", "default", "--reason", "a test"];
    let (code, _) = json(&mut program(&deployment.all.url, &off)).await;
    assert_eq!(code, 0);
    let ids: Vec<Uuid> = (0..30).map(|n| deployment.id_in(1 + n % 3)).collect();
    tokio::time::sleep(payment_proxy::pipeline::deployment::SYNC_INTERVAL * 2).await;
    for id in &ids {
        assert_eq!(gateway.post(*id, CENTS).await, StatusCode::ACCEPTED);
    }
    gateway.until_settled(&ids).await;
    assert_eq!(
        default.processor.payments().len(),
        0,
        "it is off in every cell"
    );
    let mut settled: BTreeMap<usize, i64> = BTreeMap::new();
    for (cell, number) in deployment.cells.iter().zip(1..) {
        settled.insert(number, cell.count("payment_processed").await);
    }
    assert_eq!(settled, BTreeMap::from([(1, 10), (2, 10), (3, 10)]));
}

#[tokio::test]
async fn summaries_of_all_cells_are_read_from_a_standby_of_each() {
    let (primary, default) = (Server::start().await, processor().await);
    let names = ["one", "two"];
    for name in names {
        let create = format!("CREATE DATABASE {name}");
        Database::at(&primary.url()).execute(&create).await;
    }
    let standby = Server::standby_of(&primary).await;
    let urls = |server: &Server| {
        let url = server.url();
        let (server, _) = url.rsplit_once('/').expect("a database");
        names.map(|name| format!("{server}/{name}"))
    };
    let (cells, copies) = (urls(&primary), urls(&standby));
    let deployment = Deployment::at(cells.iter().map(|url| Database::at(url)).collect());
    let settings = deployment.all.migrate_settings(QueueDurability::Logged);
    database::migrate(&settings)
        .await
        .expect("they become cells");
    let read_from = copies.join(",");
    let settings = [
        ("QUEUE_DURABILITY", "logged"),
        ("READ_DATABASE_URL", read_from.as_str()),
    ];
    let processors = processors(&[&default]);
    let gateway = Gateway::start(&deployment.all, &processors, &settings).await;
    let ids: Vec<Uuid> = (0..8).map(|n| deployment.id_in(1 + n % 2)).collect();
    for id in &ids {
        assert_eq!(gateway.post(*id, CENTS).await, StatusCode::ACCEPTED);
    }
    gateway.until_settled(&ids).await;
    eventually("the standbys have them", async || {
        let reply = gateway.get("/payments-summary").await;
        let behind = reply.headers().contains_key("seconds-behind");
        behind && totals(&reply.json().await.expect("JSON")).0 == 8
    })
    .await;
    drop(standby);
    let reply = gateway.get("/payments-summary").await;
    let (_, detail) = Gateway::problem(reply, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(detail.starts_with("cell "), "{detail}");

    let few = [
        ("QUEUE_DURABILITY", "logged"),
        ("READ_DATABASE_URL", &copies[0]),
    ];
    let other = Gateway::spawn(&deployment.all.url, &processors, &few);
    eventually(
        "one list that is shorter is refused in a line",
        async || {
            let expected = "READ_DATABASE_URL has 1 URLs and DATABASE_URL 2";
            other.log().lines().any(|line| line.contains(expected))
        },
    )
    .await;
}
