//! Operators' sessions, and those who would like to have one.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use simulator::Running;
use tempfile::TempDir;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::support::{Database, Gateway, eventually, processor, processors};

const TOKEN: &str = "a-token-of-some-length";

/// An instance whose operators' address is a TCP port.
struct Instance {
    gateway: Gateway,
    url: String,
    _folder: TempDir,
}

impl Instance {
    async fn start(database: &Database, default: &Running) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let settings = [
            ("OPERATOR_LISTEN", address.as_str()),
            ("OPERATOR_TOKEN", TOKEN),
        ];
        let gateway = Gateway::start(database, &processors(&[default]), &settings).await;
        Self {
            gateway,
            url: format!("http://{address}"),
            _folder: tempfile::tempdir().expect("a folder"),
        }
    }

    async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let client = payment_proxy::config::tls::plain()
            .build()
            .expect("a client");
        let mut request = client.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("a reply")
    }

    /// The cookie of a browser that signs in.
    async fn sign_in(&self) -> String {
        let request = Client::new().post(format!("{}/session", self.url));
        let request = request.header("sec-fetch-site", "same-origin");
        let reply = request.json(&json!({ "token": TOKEN })).send().await;
        let reply = reply.expect("a reply");
        assert_eq!(reply.status(), StatusCode::NO_CONTENT);
        let cookie = reply.headers()[SET_COOKIE].to_str().expect("text");
        cookie.split(';').next().expect("a value").to_owned()
    }

    async fn status(&self, cookie: &str) -> StatusCode {
        let headers = [(COOKIE.as_str(), cookie)];
        self.call(Method::GET, "/routing", &headers).await.status()
    }

    async fn sign_out(&self, cookie: &str, site: &str) -> StatusCode {
        let headers = [(COOKIE.as_str(), cookie), ("sec-fetch-site", site)];
        let reply = self.call(Method::DELETE, "/session", &headers).await;
        reply.status()
    }
}

#[tokio::test]
async fn a_session_that_was_signed_out_is_over_at_every_instance_and_after_a_restart() {
    let (database, default) = (Database::create().await, processor().await);
    let one = Instance::start(&database, &default).await;
    let other = Instance::start(&database, &default).await;
    let (cookie, kept) = (one.sign_in().await, other.sign_in().await);
    for instance in [&one, &other] {
        assert_eq!(instance.status(&cookie).await, StatusCode::OK);
    }
    // A feed that is open ends with it, wherever it is open.
    let headers = [(COOKIE.as_str(), cookie.as_str())];
    let feed = other.call(Method::GET, "/live", &headers).await;
    assert_eq!(feed.status(), StatusCode::OK);
    // Another page may not sign anybody out.
    assert_eq!(
        one.sign_out(&cookie, "same-site").await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(one.status(&cookie).await, StatusCode::OK);
    assert_eq!(
        one.sign_out(&cookie, "same-origin").await,
        StatusCode::NO_CONTENT
    );
    for instance in [&one, &other] {
        assert_eq!(instance.status(&cookie).await, StatusCode::UNAUTHORIZED);
        assert_eq!(instance.status(&kept).await, StatusCode::OK);
    }
    let ended = tokio::time::timeout(Duration::from_secs(20), feed.bytes()).await;
    assert!(ended.is_ok(), "the feed goes on");
    one.gateway.stop().await;
    let again = Instance::start(&database, &default).await;
    assert_eq!(again.status(&cookie).await, StatusCode::UNAUTHORIZED);
    assert_eq!(again.status(&kept).await, StatusCode::OK);
}

#[tokio::test]
async fn without_the_database_a_sign_out_is_refused_and_what_is_known_counts() {
    let (database, default) = (Database::create().await, processor().await);
    let instance = Instance::start(&database, &default).await;
    let (cookie, gone) = (instance.sign_in().await, instance.sign_in().await);
    assert_eq!(
        instance.sign_out(&gone, "same-origin").await,
        StatusCode::NO_CONTENT
    );
    let lock = database.lock("operator_session_revoked").await;
    assert_eq!(instance.status(&cookie).await, StatusCode::OK);
    assert_eq!(instance.status(&gone).await, StatusCode::UNAUTHORIZED);
    let refused = instance.sign_out(&cookie, "same-origin").await;
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    lock.rollback().await.expect("the lock is gone");
    assert_eq!(
        instance.sign_out(&cookie, "same-origin").await,
        StatusCode::NO_CONTENT
    );
    assert_eq!(instance.status(&cookie).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn wrong_tokens_are_slowed_down_counted_and_told_and_the_right_one_passes() {
    /// More than are answered late.
    const GUESSES: usize = 150;
    let (database, default) = (Database::create().await, processor().await);
    let instance = Instance::start(&database, &default).await;
    let guess = async |number: usize| {
        let begun_at = Instant::now();
        let wrong = format!("Bearer {TOKEN}{number}");
        let headers = [(AUTHORIZATION.as_str(), wrong.as_str())];
        let reply = instance.call(Method::GET, "/routing", &headers).await;
        (reply, begun_at.elapsed())
    };
    let right = async {
        // While they guess.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let bearer = format!("Bearer {TOKEN}");
        let headers = [(AUTHORIZATION.as_str(), bearer.as_str())];
        let reply = instance.call(Method::GET, "/routing", &headers).await;
        reply.status()
    };
    let (guesses, right) = tokio::join!(join_all((0..GUESSES).map(guess)), right);
    assert_eq!(right, StatusCode::OK);
    let mut at_once = 0;
    for (reply, took) in guesses {
        if reply.status() == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(reply.headers()["connection"], "close");
            assert_eq!(reply.headers()["retry-after"], "1");
            at_once += 1;
        } else {
            assert_eq!(reply.status(), StatusCode::UNAUTHORIZED);
            assert!(took >= Duration::from_secs(1), "{took:?}");
        }
    }
    assert!((1..GUESSES).contains(&at_once), "{at_once}");
    let bearer = format!("Bearer {TOKEN}");
    let headers = [(AUTHORIZATION.as_str(), bearer.as_str())];
    let metrics = instance.call(Method::GET, "/metrics", &headers).await;
    let metrics = metrics.text().await.expect("text");
    let counted = format!("operator_wrong_tokens_total {GUESSES}");
    assert!(metrics.contains(&counted), "{metrics}");
    // One line at once, one for the rest, and none for each.
    let lines = || {
        let log = instance.gateway.log();
        log.lines()
            .filter(|line| line.contains("wrong token"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    eventually("the log tells of the rest", async || lines().len() == 2).await;
    let told = lines();
    let told = told.iter().filter_map(|line| line.rsplit('=').next());
    let told: usize = told
        .map(|count| count.parse::<usize>().expect("a count"))
        .sum();
    assert_eq!(told, GUESSES);
    // Who says none guesses nothing, and is told at once.
    let begun_at = Instant::now();
    let reply = instance.call(Method::GET, "/routing", &[]).await;
    assert_eq!(reply.status(), StatusCode::UNAUTHORIZED);
    assert!(begun_at.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn what_a_processor_said_is_for_operators_and_shown_without_tricks() {
    let (database, default) = (Database::create().await, processor().await);
    let instance = Instance::start(&database, &default).await;
    let (refused, held) = (Uuid::new_v4(), Uuid::new_v4());
    database
        .execute(&format!(
            "INSERT INTO payment_dead_letter
                (correlation_id, amount, accepted_at, attempt, processor, reason, requested_at)
             VALUES ('{refused}', 19.90, now(), 1, 'default',
                U&'default answered 400: at Db.java:17 \\202Edias ton\\200B', NULL),
                ('{held}', 19.90, now(), 1, 'default', 'default has this id with amount 1.00',
                    now())"
        ))
        .await;
    for (id, reason) in [(refused, "refused"), (held, "mismatch")] {
        let view = instance.gateway.json(&format!("/payments/{id}")).await;
        assert_eq!(view["reason"], reason);
        assert!(!view.to_string().contains("answered"), "{view}");
    }
    let bearer = format!("Bearer {TOKEN}");
    let headers = [(AUTHORIZATION.as_str(), bearer.as_str())];
    let letters = instance.call(Method::GET, "/dead-letters", &headers).await;
    let letters: Value = letters.json().await.expect("JSON");
    let shown = letters.to_string();
    assert!(shown.contains("at Db.java:17 dias ton\""), "{shown}");
    let mut list = tokio::process::Command::new(env!("CARGO_BIN_EXE_payment-proxy"));
    list.args(["payment", &refused.to_string(), "--json"])
        .env("DATABASE_URL", &database.url);
    let printed = list.output().await.expect("it runs").stdout;
    let printed = String::from_utf8(printed).expect("UTF-8");
    assert!(printed.contains("Db.java:17 dias ton"), "{printed}");
    assert!(!printed.contains(['\u{202e}', '\u{200b}']));
}
