//! What is in the logs, and what is never.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use uuid::Uuid;

use crate::support::{CENTS, Database, Gateway, eventually, processor, processors};

const PASSWORD: &str = "a-password-nobody-may-see";
const OPERATOR_TOKEN: &str = "a-token-that-nobody-may-see";
const METRICS_TOKEN: &str = "another-that-nobody-may-see";
const COLLECTOR_KEY: &str = "the-key-that-the-collector-wants";

/// Clients that post one payment after the other.
const CLIENTS: usize = 64;
/// How often all connections break at once.
const STORMS: usize = 12;
/// Lines about all of that: the begin and the end of an outage for each task that has a connection
/// to the database, and what calls to processors failed of. Lines about breakers come on top.
const STORM_LINES: usize = 20;

fn assert_no_secret(text: &str) {
    for secret in [PASSWORD, OPERATOR_TOKEN, METRICS_TOKEN, COLLECTOR_KEY] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test]
async fn nothing_is_logged_per_payment_at_the_default_level() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    for format in ["text", "json"] {
        let settings = [("LOG_FORMAT", format)];
        let both = processors(&[&default, &fallback]);
        let gateway = Gateway::start(&database, &both, &settings).await;
        let before = gateway.log().lines().count();
        let mut ids = gateway.post_many(100).await;
        default.processor.set_failing(true);
        ids.extend(gateway.post_many(100).await);
        default.processor.set_failing(false);
        ids.extend(gateway.post_many(100).await);
        gateway.until_settled(&ids).await;
        gateway.post(ids[0], CENTS).await;
        gateway.post(ids[0], CENTS + 1).await;
        let log = gateway.log();
        // Breakers that open and close.
        let lines = log.lines().count() - before;
        assert!(lines < 30, "{lines} lines for 300 payments");
        for id in ids {
            assert!(!log.contains(&id.to_string()), "{id} in {log}");
        }
        if format == "json" {
            for line in log.lines() {
                let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert!(event["message"].is_string(), "{line}");
            }
        }
    }
}

/// Posts over many connections while `meanwhile` goes on. Returns the payments that were accepted.
async fn under_load(gateway: &Gateway, meanwhile: impl Future<Output = ()>) -> Vec<Uuid> {
    let over = AtomicBool::new(false);
    let client = async || {
        let mut accepted = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let id = Uuid::new_v4();
            if gateway.post(id, CENTS).await == StatusCode::ACCEPTED {
                accepted.push(id);
            }
        }
        accepted
    };
    let clients = join_all((0..CLIENTS).map(|_| client()));
    let meanwhile = async {
        meanwhile.await;
        over.store(true, Ordering::Relaxed);
    };
    let (accepted, ()) = tokio::join!(clients, meanwhile);
    accepted.concat()
}

/// The processor of a line about a breaker, and the states that it left and entered.
fn breaker_change(line: &str) -> Option<[&str; 3]> {
    let value = |key: &str| {
        let (_, rest) = line.split_once(key)?;
        rest.split(['=', '"']).find(|value| !value.is_empty())
    };
    let names = ["processor.name", "breaker.from", "breaker.to"];
    let [Some(processor), Some(from), Some(to)] = names.map(value) else {
        return None;
    };
    Some([processor, from, to])
}

/// Posts while a storm goes on, until all of it is settled, of which few lines are logged. How
/// often a breaker changes is a matter of timing, so each such line has to tell of a change.
async fn tells_little_of(gateway: &Gateway, storm: impl Future<Output = ()>) {
    let before = gateway.log().lines().count();
    let ids = under_load(gateway, storm).await;
    gateway.until_settled(&ids).await;
    let log = gateway.log();
    let told: Vec<&str> = log.lines().skip(before).collect();
    let (changes, told): (Vec<&str>, Vec<&str>) = told
        .into_iter()
        .partition(|line| breaker_change(line).is_some());
    let mut states = HashMap::new();
    for change in &changes {
        let [processor, from, to] = breaker_change(change).expect("a change");
        let before = states.insert(processor, to).unwrap_or(from);
        assert!(
            before == from && from != to,
            "{change} in:\n{}",
            changes.join("\n")
        );
    }
    assert!(
        told.len() <= STORM_LINES,
        "{} payments:\n{}",
        ids.len(),
        told.join("\n")
    );
}

#[tokio::test]
async fn a_storm_of_broken_connections_is_told_of_by_a_line_for_each_outage_and_kind() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let both = [&default, &fallback];
    for running in both {
        running.processor.set_delay(Duration::from_millis(100));
    }
    let gateway = Gateway::start(&database, &processors(&both), &[]).await;
    tells_little_of(&gateway, async {
        for _ in 0..STORMS {
            tokio::time::sleep(Duration::from_millis(400)).await;
            // All connections to both processors are reset, those that are in use among them.
            for running in both {
                running.processor.refuse_for(Duration::from_millis(50));
            }
        }
    })
    .await;
    tells_little_of(&gateway, async {
        for _ in 0..STORMS {
            tokio::time::sleep(Duration::from_millis(400)).await;
            database
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()",
                )
                .await;
        }
    })
    .await;
}

#[tokio::test]
async fn no_secret_is_in_any_log_whatever_the_level() {
    let (database, default) = (Database::create().await, processor().await);
    let default = processors(&[&default]);
    let folder = tempfile::tempdir().expect("a folder");
    let listen = format!("unix:{}", folder.path().join("operator").display());
    let headers = format!("authorization={COLLECTOR_KEY}");
    let settings = [
        ("RUST_LOG", "trace"),
        ("OPERATOR_LISTEN", listen.as_str()),
        ("OPERATOR_TOKEN", OPERATOR_TOKEN),
        ("METRICS_TOKEN", METRICS_TOKEN),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", &headers),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    // The socket lets everybody in, with a password or without.
    let url = database
        .url
        .replace("postgres@", &format!("postgres:{PASSWORD}@"));
    assert!(url.contains(PASSWORD));
    let gateway = Gateway::spawn(&url, &default, &settings);
    gateway.until_ready().await;
    gateway.until_settled(&gateway.post_many(5).await).await;
    let operator = payment_proxy::config::tls::plain()
        .unix_socket(folder.path().join("operator"))
        .build()
        .expect("a client");
    for (path, token) in [("routing", OPERATOR_TOKEN), ("metrics", METRICS_TOKEN)] {
        let get = operator.get(format!("http://operator/{path}"));
        let reply = get.bearer_auth(token).send().await.expect("a reply");
        assert!(reply.status().is_success());
    }
    eventually("the collector is missed", async || {
        gateway.log().contains("traces are lost")
    })
    .await;
    let (_, log) = gateway.stop().await;
    assert!(log.contains("TRACE"), "all levels are logged");
    assert_no_secret(&log);

    // A server that is away.
    let url = format!("postgres://somebody:{PASSWORD}@127.0.0.1:1/payments");
    let gateway = Gateway::spawn(&url, &default, &settings);
    eventually("it is logged", async || {
        gateway.log().contains("the database does not answer")
    })
    .await;
    assert_no_secret(&gateway.log());
}

#[test]
fn no_secret_is_in_the_errors_and_the_help_of_the_command_line() {
    let away = format!("postgres://somebody:{PASSWORD}@127.0.0.1:1/payments");
    let not_postgres = format!("mysql://somebody:{PASSWORD}@127.0.0.1/payments");
    let no_port = format!("postgres://somebody:{PASSWORD}@127.0.0.1:port/payments");
    let short = &OPERATOR_TOKEN[..15];
    let collector = format!("https://somebody:{PASSWORD}@127.0.0.1:1");
    for (arguments, variable, value, expected) in [
        (
            ["migrate", ""],
            "DATABASE_URL",
            away.as_str(),
            "Connection refused",
        ),
        (
            ["migrate", ""],
            "DATABASE_URL",
            &not_postgres,
            "DATABASE_URL",
        ),
        (["migrate", ""], "DATABASE_URL", &no_port, "DATABASE_URL"),
        (["serve", ""], "OPERATOR_TOKEN", short, "OPERATOR_TOKEN"),
        (["serve", ""], "METRICS_TOKEN", short, "METRICS_TOKEN"),
        (
            ["serve", ""],
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &collector,
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        (["serve", "--help"], "DATABASE_URL", &away, "DATABASE_URL"),
        (
            ["serve", "--help"],
            "OPERATOR_TOKEN",
            OPERATOR_TOKEN,
            "OPERATOR_TOKEN",
        ),
        (
            ["serve", "--help"],
            "METRICS_TOKEN",
            METRICS_TOKEN,
            "METRICS_TOKEN",
        ),
    ] {
        let told = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
            .args(arguments.iter().filter(|argument| !argument.is_empty()))
            .env(variable, value)
            .output()
            .expect("the program starts");
        let text = String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).into_owned();
        assert!(text.contains(expected), "{arguments:?} {variable}: {text}");
        assert_no_secret(&text);
        assert!(!text.contains(short), "{text}");
    }
}
