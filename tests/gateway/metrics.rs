//! What `/metrics` says is what happened.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Response, StatusCode};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::support::{CENTS, Database, Gateway, eventually, payment_json, processor, processors};

const OPERATOR_TOKEN: &str = "the-operators-own-token";
pub const METRICS_TOKEN: &str = "the-token-of-prometheus";

/// An instance whose operator's address is a port, as Prometheus needs it.
pub struct Watched {
    pub gateway: Gateway,
    pub address: String,
}

impl Watched {
    /// Starts an instance, whose log goes to `log`.
    pub async fn start_logging(
        database: &Database,
        processors: &str,
        extra: &[(&str, &str)],
        log: impl Into<Stdio>,
    ) -> Self {
        let address = free_address();
        let settings = [&settings(&address)[..], extra].concat();
        let gateway = Gateway::spawn_logging(&database.url, processors, &settings, |_| log);
        gateway.until_ready().await;
        Self { gateway, address }
    }

    pub async fn start(database: &Database, processors: &str) -> Self {
        let address = free_address();
        let settings = settings(&address);
        let gateway = Gateway::start(database, processors, &settings).await;
        Self { gateway, address }
    }

    async fn get(&self, path: &str, token: &str) -> Response {
        let get = payment_proxy::config::tls::plain()
            .build()
            .expect("a client")
            .get(format!("http://{}{path}", self.address));
        let get = get.header(AUTHORIZATION, format!("Bearer {token}"));
        get.send().await.expect("a reply")
    }

    async fn text(&self) -> String {
        let reply = self.get("/metrics", METRICS_TOKEN).await;
        assert_eq!(reply.status(), StatusCode::OK);
        reply.text().await.expect("text")
    }

    /// The next snapshot of the live page.
    pub async fn snapshot(&self) -> serde_json::Value {
        let mut feed = self.get("/live", OPERATOR_TOKEN).await;
        let mut event = String::new();
        while !event.ends_with("\n\n") {
            let part = feed.chunk().await.expect("an event").expect("not the end");
            event.push_str(&String::from_utf8_lossy(&part));
        }
        let data = event.lines().find_map(|line| line.strip_prefix("data: "));
        serde_json::from_str(data.expect("data")).expect("JSON")
    }

    pub async fn scrape(&self) -> Scraped {
        Scraped::read(&self.text().await)
    }
}

/// A port that nobody listens at.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

fn settings(address: &str) -> [(&'static str, &str); 3] {
    [
        ("OPERATOR_LISTEN", address),
        ("OPERATOR_TOKEN", OPERATOR_TOKEN),
        ("METRICS_TOKEN", METRICS_TOKEN),
    ]
}

/// Series and their values.
pub struct Scraped(BTreeMap<String, f64>);

impl Scraped {
    pub fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = samples.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            (series.to_owned(), value.parse().expect("a number"))
        });
        Self(pairs.collect())
    }

    /// The value of one series, its name without the prefix.
    pub fn value(&self, series: &str) -> f64 {
        self.find(series)
            .unwrap_or_else(|| panic!("no {series} in {:?}", self.0.keys()))
    }

    /// Whether there is any series of that name.
    pub fn has(&self, name: &str) -> bool {
        let of_name = |series: &String| series.split('{').next() == Some(name);
        self.0.keys().any(of_name)
    }

    /// Whether a label of any series has that value.
    pub fn mentions(&self, value: &str) -> bool {
        let label = format!("=\"{value}\"");
        self.0.keys().any(|series| series.contains(&label))
    }

    fn find(&self, series: &str) -> Option<f64> {
        self.0.get(&format!("payment_proxy_{series}")).copied()
    }
}

#[tokio::test]
async fn metrics_agree_with_the_ledger() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let watched = Watched::start(&database, &processors(&[&default, &fallback])).await;
    let gateway = &watched.gateway;
    assert_eq!(watched.scrape().await.value("accepted_total"), 0.0);

    let ids = gateway.post_many(25).await;
    gateway.post(ids[0], CENTS).await;
    gateway.post(ids[0], CENTS + 1).await;
    gateway.post_body("/payments", "{").await;
    gateway.post_body("/payments", "{}").await;
    gateway.post_body("/payments", "x".repeat(5_000)).await;
    gateway.post(Uuid::new_v4(), 0).await;
    let untyped = gateway.http.post("http://gateway/payments");
    untyped
        .body(payment_json(ids[0], CENTS))
        .send()
        .await
        .expect("a reply");
    gateway.until_settled(&ids).await;
    // A payment that is refused for good: its id is taken, with another amount.
    let dead = Uuid::new_v4();
    let taken = payment_json(dead, CENTS + 500)
        .replace('}', r#","requestedAt":"2026-07-01T00:00:00.000Z"}"#);
    for running in [&default, &fallback] {
        let post = payment_proxy::config::tls::plain()
            .build()
            .expect("a client")
            .post(format!("{}/payments", running.url()));
        let post = post.header(CONTENT_TYPE, "application/json");
        let reply = post.body(taken.clone()).send().await.expect("a reply");
        assert!(reply.status().is_success());
    }
    gateway.post(dead, CENTS).await;
    eventually("it is dead", async || gateway.state(dead).await == "dead").await;

    let calm = watched.scrape().await;
    assert_eq!(calm.value("accepted_total"), 26.0);
    assert_eq!(calm.value("repeated_total"), 1.0);
    for (reason, times) in [
        ("conflict", 1.0),
        ("malformed", 1.0),
        ("invalid", 2.0),
        ("body", 1.0),
        ("media_type", 1.0),
        ("overloaded", 0.0),
        ("database", 0.0),
    ] {
        let series = format!("refused_total{{reason=\"{reason}\"}}");
        assert_eq!(calm.value(&series), times, "{reason}");
    }
    // 26 new ones, one again, one with another amount.
    assert_eq!(calm.value("post_seconds_count"), 28.0);
    assert_eq!(calm.value("claimed_total{kind=\"queued\"}"), 26.0);
    assert_eq!(calm.value("settle_seconds_count"), 25.0);
    assert_eq!(calm.value("dead_total"), 1.0);
    assert!(calm.value("settle_seconds_sum") > 0.0);
    assert_eq!(
        calm.value("breaker_state{processor=\"default\",state=\"closed\"}"),
        1.0
    );
    assert_eq!(
        calm.value("breaker_state{processor=\"default\",state=\"open\"}"),
        0.0
    );
    assert_eq!(calm.value("instances"), 1.0);
    // A claim holds slots while it looks into the queue.
    eventually("nothing is in flight", async || {
        let now = watched.scrape().await;
        now.value("in_flight{processor=\"default\"}") == 0.0
    })
    .await;
    assert!(calm.value("in_flight_cap{processor=\"default\"}") >= 32.0);
    assert!(calm.value("pool_connections{pool=\"claims\",state=\"idle\"}") >= 1.0);
    assert_eq!(calm.value("pool_connections_max{pool=\"requests\"}"), 5.0);

    // The default fails, and the fallback takes over.
    default.processor.set_failing(true);
    let more = gateway.post_many(40).await;
    gateway.until_settled(&more).await;
    let failing = watched.scrape().await;
    let outcome = |processor: &str, outcome: &str| {
        failing.value(&format!(
            "attempts_total{{processor=\"{processor}\",outcome=\"{outcome}\"}}"
        ))
    };
    assert!(outcome("default", "declined") >= 10.0);
    assert_eq!(
        outcome("default", "mismatch") + outcome("fallback", "mismatch"),
        1.0
    );
    assert_eq!(
        failing.value("returned_total{kind=\"queued\"}"),
        outcome("default", "declined")
    );
    assert!(failing.value("breaker_changes_total{processor=\"default\",to=\"open\"}") >= 1.0);
    assert_eq!(
        failing.value("breaker_state{processor=\"default\",state=\"closed\"}"),
        0.0
    );
    assert!(
        failing.value("posterior_mean{processor=\"default\"}")
            < calm.value("posterior_mean{processor=\"default\"}")
    );
    // What was settled where is what the summary and the processors themselves say.
    let summary = gateway.json("/payments-summary").await;
    for (name, running) in [("default", &default), ("fallback", &fallback)] {
        let settled = failing.value(&format!("settled_total{{processor=\"{name}\"}}"));
        assert_eq!(summary[name]["totalRequests"].as_f64(), Some(settled));
        assert_eq!(outcome(name, "charged"), settled);
        assert_eq!(running.processor.payments().len() as f64, settled + 1.0);
        let posts = failing.value(&format!("processor_seconds_count{{processor=\"{name}\"}}"));
        assert_eq!(
            posts,
            ["charged", "declined", "mismatch"]
                .map(|each| outcome(name, each))
                .iter()
                .sum::<f64>()
        );
    }
    eventually(
        "the queue shows the dead letter and an empty queue",
        async || {
            let now = watched.scrape().await;
            now.value("queue_statistics_up") == 1.0
                && now.value("dead_letters") == 1.0
                && now.value("queue_payments") == 0.0
                && now.value("queue_oldest_age_seconds") == 0.0
        },
    )
    .await;

    lint(&watched.text().await).await;
}

/// Summaries that are asked for at once: many more than there are connections for requests.
const SUMMARIES: usize = 60;

#[tokio::test]
async fn operators_are_answered_while_requests_hold_every_connection_of_theirs() {
    let (database, default) = (Database::create().await, processor().await);
    let watched = Watched::start(&database, &processors(&[&default])).await;
    let _lock = database.lock("payment_processed").await;
    let asking = async {
        loop {
            let summaries = (0..SUMMARIES).map(|_| watched.gateway.get("/payments-summary"));
            futures_util::future::join_all(summaries).await;
        }
    };
    let answered = eventually("operators are answered meanwhile", async || {
        let scraped = watched.scrape().await;
        let most = scraped.value("pool_connections_max{pool=\"requests\"}");
        scraped.value("pool_connections{pool=\"requests\",state=\"used\"}") == most
            && scraped.value("pool_connections{pool=\"operators\",state=\"idle\"}") >= 1.0
            && scraped.value("queue_statistics_up") == 1.0
    });
    tokio::select! {
        () = asking => {}
        () = answered => {}
    }
}

/// `promtool check metrics`, which says nothing of what is well made.
async fn lint(text: &str) {
    let mut promtool = tokio::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool; `scripts/install.sh promtool` installs it");
    let mut input = promtool.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).await.expect("it reads");
    drop(input);
    let told = promtool.wait_with_output().await.expect("it ends");
    let told = (told.status.code(), [told.stdout, told.stderr].concat());
    assert_eq!(
        (told.0, String::from_utf8_lossy(&told.1).as_ref()),
        (Some(0), ""),
        "{text}"
    );
}

#[tokio::test]
async fn prometheus_reads_metrics_with_its_token_and_nothing_else() {
    let (database, default) = (Database::create().await, processor().await);
    let watched = Watched::start(&database, &processors(&[&default])).await;
    for (path, token, expected) in [
        ("/metrics", METRICS_TOKEN, StatusCode::OK),
        ("/metrics", OPERATOR_TOKEN, StatusCode::OK),
        (
            "/metrics",
            "another-token-of-that-size",
            StatusCode::UNAUTHORIZED,
        ),
        ("/metrics", "", StatusCode::UNAUTHORIZED),
        ("/routing", METRICS_TOKEN, StatusCode::UNAUTHORIZED),
        ("/routing", OPERATOR_TOKEN, StatusCode::OK),
        ("/metrics/", METRICS_TOKEN, StatusCode::UNAUTHORIZED),
    ] {
        let status = watched.get(path, token).await.status();
        assert_eq!(status, expected, "{path} with {token:?}");
    }
    // The public API has no such thing.
    let public = watched.gateway.get("/metrics").await;
    assert_eq!(public.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn metrics_are_there_while_the_database_is_away_and_say_so() {
    let default = processor().await;
    let address = free_address();
    // Nobody listens there; somebody listens there and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!(
        "postgres://nobody@{}/none",
        silent.local_addr().expect("an address")
    );
    for url in ["postgres://nobody@127.0.0.1:1/none", &silent] {
        let gateway = Gateway::spawn(url, &processors(&[&default]), &settings(&address));
        eventually("the instance is alive", async || {
            gateway.try_get("/livez").await.is_ok()
        })
        .await;
        let watched = Watched {
            gateway,
            address: address.clone(),
        };
        let begun_at = Instant::now();
        let scraped = watched.scrape().await;
        assert!(begun_at.elapsed() < Duration::from_secs(3), "{url}");
        assert_eq!(scraped.value("queue_statistics_up"), 0.0);
        assert_eq!(
            scraped.find("queue_payments"),
            None,
            "no number is better than an old one"
        );
        let scrapes = (0..20).map(|_| watched.scrape());
        futures_util::future::join_all(scrapes).await;
        assert!(
            begun_at.elapsed() < Duration::from_secs(5),
            "many scrapes wait once: {url}"
        );
        watched.gateway.crash();
    }
}
