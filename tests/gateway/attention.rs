//! One list of what wants attention, whoever asks for it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::command_line::{json, program};
use crate::metrics::free_address;
use crate::support::{Database, Gateway, TIMEOUT, eventually, processor, processors};

const TOKEN: &str = "a-token-of-some-length";

/// An instance with an address for operators.
struct Watched {
    gateway: Gateway,
    address: String,
}

impl Watched {
    async fn start(database: &Database, processors: &str, settings: &[(&str, &str)]) -> Self {
        let address = free_address();
        let operators = [("OPERATOR_LISTEN", &*address), ("OPERATOR_TOKEN", TOKEN)];
        let gateway = Gateway::start(database, processors, &[settings, &operators].concat()).await;
        Self { gateway, address }
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        get(&self.address, TOKEN, path).await
    }

    /// Waits until all four tell these kinds and no others.
    async fn until_all_tell(&self, database: &Database, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|&kind| kind.to_owned()).collect();
        eventually(&format!("all tell {expected:?}"), async || {
            let told = told(&self.address, TOKEN, database).await;
            told.iter().all(|kinds| *kinds == expected)
        })
        .await;
    }
}

async fn get(address: &str, token: &str, path: &str) -> reqwest::Response {
    let client = payment_proxy::config::tls::plain()
        .build()
        .expect("a client");
    let get = client.get(format!("http://{address}{path}"));
    get.bearer_auth(token).send().await.expect("a reply")
}

/// What `status`, the API, the page's feed and the metric tell: the kinds in their lists.
pub async fn told(address: &str, token: &str, database: &Database) -> [BTreeSet<String>; 4] {
    let get = async |path: &str| get(address, token, path).await;
    let (_, status) = json(&mut program(&database.url, &["status"])).await;
    let api: Value = get("/attention").await.json().await.expect("JSON");
    let metrics = get("/metrics").await.text().await.expect("text");
    let mut feed = get("/live").await;
    let mut event = String::new();
    while !event.ends_with("\n\n") {
        let next = tokio::time::timeout(TIMEOUT, feed.chunk());
        let part = next
            .await
            .expect("an event")
            .expect("a part")
            .expect("not the end");
        event.push_str(&String::from_utf8_lossy(&part));
    }
    let data = event.lines().find_map(|line| line.strip_prefix("data: "));
    let page: Value = serde_json::from_str(data.expect("data")).expect("JSON");
    let metric = metrics.lines().filter_map(|line| {
        let labels = line.strip_prefix("payment_proxy_attention{kind=\"")?;
        labels.ends_with(" 1.0").then(|| labels.split('"').next())?
    });
    [
        kinds(&status["attention"]),
        kinds(&api),
        kinds(&page["attention"]),
        metric.map(str::to_owned).collect(),
    ]
}

pub fn kinds(list: &Value) -> BTreeSet<String> {
    let items = list.as_array().expect("a list").iter();
    let kinds = items.map(|item| item["kind"].as_str().expect("a kind").to_owned());
    kinds.collect()
}

#[tokio::test]
async fn one_list_of_what_wants_attention_is_told_by_status_api_page_and_metric() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let servers = processors(&[&default, &fallback]);
    let watched = Watched::start(&database, &servers, &[("QUEUE_LIMIT", "2")]).await;
    watched.until_all_tell(&database, &[]).await;

    // One processor off, and a dead letter.
    let switch = "UPDATE processor_health SET enabled = false WHERE processor";
    database.execute(&format!("{switch} = 'default'")).await;
    database
        .execute(
            "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                processor, reason)
             VALUES (gen_random_uuid(), 1, now(), 1, 'default', 'no')",
        )
        .await;
    let expected = ["dead_letters", "processor_off"];
    watched.until_all_tell(&database, &expected).await;

    // All of them off: the queue fills, and what only the instance knows is told by all, too.
    database.execute(&format!("{switch} = 'fallback'")).await;
    let expected = ["all_processors_off", "dead_letters", "queue_full"];
    eventually("posts are refused", async || {
        let status = watched.gateway.post(uuid::Uuid::new_v4(), 1).await;
        status == reqwest::StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let posting = async {
        loop {
            watched.gateway.post(uuid::Uuid::new_v4(), 1).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = watched.until_all_tell(&database, &expected) => {}
        () = posting => {}
    }

    // Another instance dies.
    database
        .execute("UPDATE processor_health SET enabled = true; DELETE FROM payment_dead_letter")
        .await;
    let other = Gateway::start(&database, &servers, &[]).await;
    eventually("both are known", async || {
        database.count("service_instance").await == 2
    })
    .await;
    other.crash();
    watched.until_all_tell(&database, &["instance_died"]).await;
}

#[tokio::test]
async fn a_payment_that_two_processors_charged_is_told_by_all() {
    let (database, default) = (Database::create().await, processor().await);
    let watched = Watched::start(&database, &processors(&[&default]), &[]).await;
    default
        .processor
        .set_delay(std::time::Duration::from_millis(500));
    let id = uuid::Uuid::new_v4();
    watched.gateway.post(id, 1).await;
    eventually("it is being charged", async || {
        default.processor.in_service() == 1
    })
    .await;
    database
        .execute(&format!(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             VALUES ('{id}', .01, 'other', now(), now(), 1)"
        ))
        .await;
    watched.until_all_tell(&database, &["charged_twice"]).await;
    let log = watched.gateway.log();
    let told = log.lines().find(|line| line.contains("CHARGED TWICE"));
    assert!(
        told.is_some_and(|line| line.contains(&id.to_string())),
        "{log}"
    );
}

#[tokio::test]
async fn without_a_database_that_is_what_wants_attention() {
    let default = processor().await;
    let url = "postgres://nobody@127.0.0.1:1/none";
    let (code, status) = json(&mut program(url, &["status"])).await;
    assert_eq!(
        (code, &status["attention"][0]["kind"]),
        (2, &Value::from("database_away"))
    );
    assert!(status["attention"][0]["advice"].is_string(), "{status}");
    let address = free_address();
    let operators = [("OPERATOR_LISTEN", &*address), ("OPERATOR_TOKEN", TOKEN)];
    let gateway = Gateway::spawn(url, &processors(&[&default]), &operators);
    eventually("the instance is alive", async || {
        gateway.try_get("/livez").await.is_ok()
    })
    .await;
    let watched = Watched {
        gateway,
        address: address.clone(),
    };
    let api: Value = watched.get("/attention").await.json().await.expect("JSON");
    assert_eq!(kinds(&api), BTreeSet::from(["database_away".to_owned()]));
    let metrics = watched.get("/metrics").await.text().await.expect("text");
    let told = "payment_proxy_attention{kind=\"database_away\",severity=\"alarm\"} 1";
    assert!(metrics.contains(told), "{metrics}");
    // Nobody knows whether there are any, and 0 would say that there are none.
    assert!(
        !metrics.contains("attention{kind=\"dead_letters\""),
        "{metrics}"
    );
}
