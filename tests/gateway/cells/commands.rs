//! What operators and auditors see of a deployment with several cells.

use serde_json::Value;
use uuid::Uuid;

use super::{Deployment, are_charged_once};
use crate::command_line::{json, program, run};
use crate::metrics::Watched;
use crate::support::{CENTS, Gateway, eventually, processor, processors};

const TOKEN: &str = "123";

#[tokio::test]
async fn commands_add_up_all_cells_or_name_the_cell() {
    let deployment = Deployment::of(3).await;
    let (default, fallback) = (processor().await, processor().await);
    let both = processors(&[&default, &fallback]);
    let gateway = Gateway::start(&deployment.all, &both, &[]).await;
    let ids: Vec<Uuid> = (0..30).map(|n| deployment.id_in(1 + n % 3)).collect();
    for id in &ids {
        assert!(gateway.post(*id, CENTS).await.is_success());
    }
    gateway.until_settled(&ids).await;
    eventually("the queues are empty", async || {
        deployment.count("payment_queue").await == 0
    })
    .await;
    are_charged_once(&deployment, &[&default, &fallback], &ids).await;
    let url = &deployment.all.url;
    let command = |arguments: &[&str]| {
        let mut command = program(url, arguments);
        command
            .env("PROCESSORS", &both)
            .env("PROCESSOR_TOKEN", TOKEN);
        command
    };

    let (code, summary) = json(&mut command(&["summary"])).await;
    let requests = |name: &str| summary[name]["totalRequests"].as_i64().expect("a number");
    assert_eq!((code, requests("default") + requests("fallback")), (0, 30));
    let (code, text) = run(&mut command(&["summary"])).await;
    let all = text
        .lines()
        .find(|line| line.starts_with("all"))
        .expect("a sum");
    assert!(
        code == 0 && all.contains("30") && all.contains("597.00"),
        "{text}"
    );

    let (code, status) = json(&mut command(&["status"])).await;
    assert_eq!((code, &status["attention"]), (0, &serde_json::json!([])));
    assert_eq!(status["cells"].as_array().map(Vec::len), Some(3));
    assert_eq!(status["database"]["instances"], 1);
    let (_, text) = run(&mut command(&["status"])).await;
    assert!(text.contains("cell  database"), "{text}");

    let (code, life) = json(&mut command(&["payment", &ids[1].to_string()])).await;
    assert!(code == 0 && life.as_array().is_some_and(|life| !life.is_empty()));
    let (code, report) = json(&mut command(&["reconcile"])).await;
    assert_eq!(
        (code, &report["compared"]),
        (0, &serde_json::json!(30)),
        "{report}"
    );
    assert_eq!(report["totalsCompared"], true);
    for cell in &deployment.cells {
        assert_eq!(cell.count("reconcile_run WHERE compared = 10").await, 1);
    }

    let (code, shown) = json(&mut command(&["deployment", "show"])).await;
    let numbers: Vec<&Value> = (shown.as_array().expect("each cell").iter())
        .map(|shown| &shown["cell"]["cell"])
        .collect();
    assert_eq!((code, numbers), (0, vec![&1.into(), &2.into(), &3.into()]));
    let moved = [
        "deployment",
        "declare",
        "moved",
        "--reason",
        "a test",
        "--cell",
        "2",
    ];
    assert_eq!(run(&mut command(&moved)).await.0, 0);
    for (cell, declared) in deployment.cells.iter().zip([0, 1, 0]) {
        assert_eq!(cell.count("deployment_declaration").await, declared);
    }
    let (code, text) = run(&mut command(&["deployment", "show", "--cell", "4"])).await;
    assert!(code == 2 && text.contains("DATABASE_URL has 3"), "{text}");
}

#[tokio::test]
async fn dead_letters_and_doubts_of_all_cells_are_listed_and_decided_where_they_are() {
    let deployment = Deployment::of(3).await;
    let url = &deployment.all.url;
    let mut dead = Vec::new();
    let mut in_doubt = Vec::new();
    for (cell, number) in deployment.cells.iter().zip(1..) {
        let (letter, doubt) = (deployment.id_in(number), deployment.id_in(number));
        cell.execute(&format!(
            "INSERT INTO payment_dead_letter
                (correlation_id, amount, accepted_at, died_at, attempt, processor, reason)
            VALUES ('{letter}', 1, now(), now() - interval '{number} s', 1, 'default', 'refused');
            INSERT INTO payment_queue (correlation_id, amount, attempt, accepted_at, lease_until,
                processor, requested_at, doubt_until)
            VALUES ('{doubt}', 1, 1, now() - interval '{number} min', now() - interval '1 min',
                'default', now() - interval '1 min', now() - interval '1 s')"
        ))
        .await;
        dead.push(letter.to_string());
        in_doubt.push(doubt.to_string());
    }
    let listed = |list: &Value| -> Vec<String> {
        let each = list.as_array().expect("a list").iter();
        each.map(|each| each["correlationId"].as_str().expect("an id").to_owned())
            .collect()
    };
    let (_, letters) = json(&mut program(url, &["dead-letter", "list"])).await;
    assert_eq!(listed(&letters), dead, "the newest first");
    let (_, doubts) = json(&mut program(url, &["in-doubt", "list"])).await;
    let oldest_first: Vec<String> = in_doubt.iter().rev().cloned().collect();
    assert_eq!(listed(&doubts), oldest_first);

    let retry = [
        "dead-letter",
        "retry",
        &dead[1],
        &Uuid::new_v4().to_string(),
    ]
    .map(str::to_owned);
    let retry: Vec<&str> = retry.iter().map(String::as_str).collect();
    let (code, done) = json(&mut program(url, &retry)).await;
    assert_eq!((code, &done["done"]), (1, &serde_json::json!([dead[1]])));
    assert_eq!(done["missing"].as_array().map(Vec::len), Some(1));
    let discard = ["dead-letter", "discard", "--yes", &dead[0], &dead[2]];
    let (code, done) = json(&mut program(url, &discard)).await;
    assert_eq!(
        (code, &done["done"]),
        (0, &serde_json::json!([dead[0], dead[2]]))
    );
    let word = ["in-doubt", "charged", "--yes", "--reason", "by phone"];
    let word: Vec<&str> = word
        .into_iter()
        .chain(in_doubt.iter().map(String::as_str))
        .collect();
    let (code, decided) = json(&mut program(url, &word)).await;
    assert_eq!(code, 0, "{decided}");
    assert_eq!(deployment.count("payment_processed").await, 3);
    deployment.are_where_they_belong("payment_processed").await;
    let (_, status) = json(&mut program(url, &["status"])).await;
    let texts = status["attention"].as_array().expect("a list").iter();
    let texts: Vec<&str> = texts.filter_map(|item| item["text"].as_str()).collect();
    assert!(
        texts.contains(&"cell 1 of 3: no instance is alive"),
        "{texts:?}"
    );
}

#[tokio::test]
async fn metrics_and_the_page_are_of_all_cells() {
    let deployment = Deployment::of(2).await;
    let default = processor().await;
    let watched = Watched::start(&deployment.all, &processors(&[&default])).await;
    let ids = watched.gateway.post_many(40).await;
    watched.gateway.until_settled(&ids).await;
    for (cell, number) in deployment.cells.iter().zip(1..) {
        cell.execute(&format!(
            "INSERT INTO payment_dead_letter
                (correlation_id, amount, accepted_at, died_at, attempt, processor, reason)
            SELECT gen_random_uuid(), 1, now(), now(), 1, 'default', 'refused'
            FROM generate_series(1, {number})"
        ))
        .await;
    }
    eventually("metrics tell the dead letters of each cell", async || {
        let scraped = watched.scrape().await;
        ["1", "2"].iter().all(|cell| {
            scraped.has("payment_proxy_dead_letters")
                && scraped.value(&format!("dead_letters{{cell=\"{cell}\"}}"))
                    == cell.parse::<f64>().expect("a number")
        })
    })
    .await;
    let scraped = watched.scrape().await;
    assert_eq!(scraped.value("accepted_total"), 40.0);
    assert_eq!(scraped.value("queue_statistics_up{cell=\"2\"}"), 1.0);
    assert_eq!(
        scraped.value("pool_connections_max{pool=\"claims\",cell=\"2\"}"),
        4.0
    );
    let snapshot = watched.snapshot().await;
    assert_eq!(snapshot["deployment"]["money"]["payments"], 40);
    assert_eq!(snapshot["deployment"]["queue"]["deadLetters"]["value"], 3);
    let texts = snapshot["attention"].as_array().expect("a list").iter();
    let texts: Vec<&str> = texts.filter_map(|item| item["text"].as_str()).collect();
    assert!(texts.contains(&"cell 2 of 2: 2 dead"), "{texts:?}");
}

#[tokio::test]
async fn months_are_archived_in_every_cell_and_come_back_to_one_at_a_time() {
    let deployment = Deployment::of(2).await;
    let url = &deployment.all.url;
    let mut ids = Vec::new();
    for (cell, number) in deployment.cells.iter().zip(1..) {
        for _ in 0..number {
            let id = deployment.id_in(number);
            cell.execute(&format!(
                "INSERT INTO payment_processed
                    (correlation_id, amount, processor, requested_at, accepted_at, attempt)
                VALUES ('{id}', 19.90, 'default', '2025-05-10 12:00Z', '2025-05-10 12:00Z', 1)"
            ))
            .await;
            ids.push(id);
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let files = folder.path().to_str().expect("a path");
    let archive = ["archive", "--before", "2025-06", "--to", files];
    let (code, months) = json(&mut program(url, &archive)).await;
    let payments: Vec<&Value> = (months.as_array().expect("a list").iter())
        .map(|month| &month["payments"])
        .collect();
    assert_eq!(
        (code, payments),
        (0, vec![&1.into(), &2.into()]),
        "{months}"
    );
    assert_eq!(deployment.count("payment_processed").await, 0);
    assert_eq!(deployment.count("payment_archived").await, 3);
    deployment.are_where_they_belong("payment_archived").await;

    // Each is still known where it lives, and the sum is that of before.
    let default = processor().await;
    let gateway = Gateway::start(&deployment.all, &processors(&[&default]), &[]).await;
    for id in &ids {
        assert!(gateway.post(*id, CENTS).await.is_success());
    }
    let (_, summary) = json(&mut program(url, &["summary"])).await;
    assert_eq!(summary["default"]["totalRequests"], 3, "{summary}");
    assert_eq!(
        default.processor.payments().len(),
        0,
        "charged once, long ago"
    );

    let restore = ["restore", "2025-05", "--from", files];
    let (code, text) = run(&mut program(url, &restore)).await;
    assert!(
        code == 2 && text.contains("--cell says into which"),
        "{text}"
    );
    let (code, text) = run(&mut program(
        url,
        &[&restore[..], &["--cell", "2"]].concat(),
    ))
    .await;
    assert_eq!(code, 0, "{text}");
    let ledgers = [
        deployment.cells[0].count("payment_processed").await,
        deployment.cells[1].count("payment_processed").await,
    ];
    assert_eq!(ledgers, [0, 2]);
    let (_, summary) = json(&mut program(url, &["summary"])).await;
    assert_eq!(summary["default"]["totalRequests"], 3, "{summary}");
}
