//! The shipped files for Prometheus and Grafana, with a real Prometheus that scrapes a real
//! instance.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use simulator::Running;

use crate::metrics::{METRICS_TOKEN, Watched, free_address};
use crate::support::{Database, eventually, eventually_some, processor, processors};

const CONFIGURATION: &str = include_str!("../../observability/prometheus.yml");
const ALERTS: &str = include_str!("../../observability/alerts.yml");
const ALERT_TESTS: &str = include_str!("../../observability/alerts.test.yml");
const DASHBOARD: &str = include_str!("../../observability/grafana/payments.json");

/// A Prometheus that reads the shipped configuration, with addresses of this test.
struct Prometheus {
    child: Child,
    url: String,
    folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        std::fs::write(&token, METRICS_TOKEN).expect("it is ours");
        // Faster than in production, so that the test does not wait; everything else as shipped.
        let mut configuration = CONFIGURATION.to_owned();
        for (shipped, here) in [
            ("/tmp/metrics-token", token.to_str().expect("a path")),
            ("\"api1:8081\", \"api2:8081\"", &format!("\"{target}\"")),
            ("scrape_interval: 5s", "scrape_interval: 1s"),
            ("scrape_timeout: 4s", "scrape_timeout: 1s"),
            ("evaluation_interval: 10s", "evaluation_interval: 1s"),
        ] {
            assert!(configuration.contains(shipped), "{shipped}");
            configuration = configuration.replace(shipped, here);
        }
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, configuration).expect("it is ours");
        std::fs::write(folder.path().join("alerts.yml"), ALERTS).expect("it is ours");
        promtool(&["check", "config", file.to_str().expect("a path")]);

        let address = free_address();
        let log = std::fs::File::create(folder.path().join("log")).expect("a log file");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus; `scripts/install.sh promtool` installs it");
        Self {
            child,
            url: format!("http://{address}/api/v1"),
            folder,
        }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let mut url = reqwest::Url::parse(&format!("{}/{path}", self.url)).expect("a URL");
        url.query_pairs_mut().extend_pairs(query);
        let reply = payment_proxy::config::tls::plain()
            .build()
            .expect("a client")
            .get(url)
            .send()
            .await
            .ok()?;
        let body: Value = reply.json().await.ok()?;
        (body["status"] == "success").then(|| body["data"].clone())
    }

    /// What an expression comes to: an error is `None`.
    async fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let data = self.get("query", &[("query", expression)]).await?;
        data["result"].as_array().cloned()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            eprintln!("--- log of Prometheus ---\n{}", log.unwrap_or_default());
        }
    }
}

fn promtool(arguments: &[&str]) {
    let told = Command::new("promtool")
        .args(arguments)
        .output()
        .expect("promtool; `scripts/install.sh promtool` installs it");
    let text = [told.stdout, told.stderr].concat();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&text));
}

/// Everything that a payment can meet, so that every series has something to show.
async fn traffic(watched: &Watched, default: &Running) {
    let gateway = &watched.gateway;
    gateway.until_settled(&gateway.post_many(30).await).await;
    default.processor.set_failing(true);
    gateway.until_settled(&gateway.post_many(30).await).await;
    default.processor.set_failing(false);
    gateway.until_settled(&gateway.post_many(30).await).await;
}

/// The expressions of the dashboard.
fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let expressions = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().expect("targets");
        targets.iter().map(move |target| {
            let expression = target["expr"].as_str().expect("an expression");
            (title.clone(), expression.replace("$__rate_interval", "1m"))
        })
    });
    expressions.collect()
}

#[tokio::test]
async fn prometheus_scrapes_an_instance_and_every_panel_of_the_dashboard_shows_something() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let watched = Watched::start(&database, &processors(&[&default, &fallback])).await;
    let prometheus = Prometheus::start(&watched.address);
    eventually("the instance is scraped", async || {
        let up = prometheus.query("up == 1").await;
        up.is_some_and(|series| series.len() == 1)
    })
    .await;
    traffic(&watched, &default).await;
    let settled = |value: &Value| value["value"][1] == "90";
    eventually("Prometheus has what was settled", async || {
        let sum = prometheus.query("sum(payment_proxy_settled_total)").await;
        sum.is_some_and(|series| series.iter().any(settled))
    })
    .await;

    let panels = dashboard();
    assert!(panels.len() > 30, "the dashboard was not found");
    for (title, expression) in panels {
        eventually(
            &format!("{title} shows something: {expression}"),
            async || {
                let shown = prometheus.query(&expression).await;
                shown.is_some_and(|series| !series.is_empty())
            },
        )
        .await;
    }

    // The rules are evaluated, and this deployment is no reason to wake anybody.
    let names: Vec<&str> = alerts().collect();
    let rules = eventually_some("the rules are evaluated", async || {
        let data = prometheus.get("rules", &[]).await?;
        let rules = data["groups"][0]["rules"].as_array()?.clone();
        let all = rules.iter().all(|rule| rule["health"] == "ok");
        all.then_some(rules)
    })
    .await;
    assert_eq!(rules.len(), names.len());
    for rule in &rules {
        assert_ne!(rule["state"], "firing", "{rule}");
    }
    // And they look at series that there are.
    let exported = watched.scrape().await;
    for metric in metrics_in(ALERTS) {
        assert!(exported.has(&metric), "{metric}");
    }
}

fn alerts() -> impl Iterator<Item = &'static str> {
    ALERTS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
}

/// The names of our metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let ours = words.filter(|word| word.starts_with("payment_proxy_"));
    ours.map(ToOwned::to_owned).collect()
}

#[test]
fn every_alert_fires_when_it_should_and_says_what_to_do() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("observability");
    let file = |name: &str| folder.join(name).to_str().expect("a path").to_owned();
    promtool(&["check", "rules", &file("alerts.yml")]);
    promtool(&["test", "rules", &file("alerts.test.yml")]);
    let tested = |alert: &&str| {
        ALERT_TESTS.contains(&format!("alertname=\"{alert}\", "))
            || ALERT_TESTS.contains(&format!("alertname=\"{alert}\"}}"))
            || ALERT_TESTS.contains(&format!("alertname: {alert}\n"))
    };
    let untested: Vec<&str> = alerts().filter(|alert| !tested(alert)).collect();
    assert_eq!(untested, [""; 0]);
    assert_eq!(
        alerts().count(),
        ALERTS.matches("          runbook: \"").count()
    );
}
