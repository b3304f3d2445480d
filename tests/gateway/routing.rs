//! What operators see of the router, and their switches.

use std::time::{Duration, Instant};

use reqwest::header::AUTHORIZATION;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;

use crate::support::{Database, Gateway, eventually, processor, processors};

const TOKEN: &str = "a-token-of-some-length";

/// The operator's API of an instance.
struct Operator {
    http: Client,
    _folder: tempfile::TempDir,
    gateway: Gateway,
}

impl Operator {
    async fn start(database: &Database, processors: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("operator");
        let listen = format!("unix:{}", socket.display());
        let settings = [
            ("OPERATOR_LISTEN", listen.as_str()),
            ("OPERATOR_TOKEN", TOKEN),
        ];
        let gateway = Gateway::start(database, processors, &settings).await;
        Self {
            http: Client::builder()
                .unix_socket(socket)
                .build()
                .expect("a client"),
            _folder: folder,
            gateway,
        }
    }

    async fn call(&self, method: Method, path: &str, authorization: &str) -> Response {
        let call = self
            .http
            .request(method, format!("http://operator{path}"))
            .header(AUTHORIZATION, authorization);
        call.send().await.expect("a reply")
    }

    async fn switch(&self, processor: &str, to: &str) -> StatusCode {
        let path = format!("/routing/{processor}/{to}");
        self.call(Method::POST, &path, &format!("Bearer {TOKEN}"))
            .await
            .status()
    }

    async fn routing(&self) -> Value {
        self.call(Method::GET, "/routing", &format!("Bearer {TOKEN}"))
            .await
            .json()
            .await
            .expect("JSON")
    }
}

#[tokio::test]
async fn operators_need_the_token() {
    let (database, default) = (Database::create().await, processor().await);
    let operator = Operator::start(&database, &processors(&[&default])).await;
    for authorization in [
        "",
        "Bearer ",
        "Bearer a-token-of-some-lengtx",
        "Basic a-token-of-some-length",
        TOKEN,
    ] {
        for (method, path) in [
            (Method::GET, "/routing"),
            (Method::POST, "/routing/default/disable"),
        ] {
            let reply = operator.call(method, path, authorization).await;
            assert_eq!(
                reply.status(),
                StatusCode::UNAUTHORIZED,
                "{authorization:?} {path}"
            );
        }
    }
    assert_eq!(
        operator.gateway.get("/routing").await.status(),
        StatusCode::NOT_FOUND,
        "not on the public address"
    );
}

#[tokio::test]
async fn a_disabled_processor_gets_nothing_from_any_instance_until_it_is_enabled() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let processors = processors(&[&default, &fallback]);
    let one = Operator::start(&database, &processors).await;
    let two = Operator::start(&database, &processors).await;
    eventually("the processors are known", async || {
        database.count("processor_health").await == 2
    })
    .await;
    assert_eq!(
        one.switch("default", "disable").await,
        StatusCode::NO_CONTENT
    );
    for operator in [&one, &two] {
        eventually("the switch is seen", async || {
            operator.routing().await["processors"][0]["enabled"] == false
        })
        .await;
    }
    let ids = two.gateway.post_many(20).await;
    two.gateway.until_settled(&ids).await;
    assert_eq!(
        (
            default.processor.payments().len(),
            fallback.processor.payments().len()
        ),
        (0, 20)
    );
    // It is persistent: a new instance follows, too.
    let three = Operator::start(&database, &processors).await;
    eventually("the switch is seen", async || {
        three.routing().await["processors"][0]["enabled"] == false
    })
    .await;
    assert_eq!(
        two.switch("default", "enable").await,
        StatusCode::NO_CONTENT
    );
    eventually("the switch is seen", async || {
        one.routing().await["processors"][0]["enabled"] == true
    })
    .await;
    let ids = one.gateway.post_many(20).await;
    one.gateway.until_settled(&ids).await;
    assert!(!default.processor.payments().is_empty());
    assert_eq!(one.switch("nobody", "disable").await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn health_reaches_every_instance_and_survives_the_poller() {
    let (database, default) = (Database::create().await, processor().await);
    let processors = processors(&[&default]);
    let one = Operator::start(&database, &processors).await;
    let two = Operator::start(&database, &processors).await;
    let health =
        async |operator: &Operator| operator.routing().await["processors"][0]["health"].clone();
    eventually("both know", async || {
        !health(&one).await.is_null() && !health(&two).await.is_null()
    })
    .await;
    let poller = async || {
        sqlx::query_scalar::<_, String>("SELECT poller::text FROM processor_health")
            .fetch_one(&database.pool)
            .await
            .expect("a poller")
    };
    // Whoever polls dies; the other takes over.
    default.processor.set_failing(true);
    let before = poller().await;
    one.gateway.signal(nix::sys::signal::Signal::SIGSTOP);
    let stopped_at = Instant::now();
    eventually("failing is known", async || {
        health(&two).await["failing"] == true
    })
    .await;
    assert!(
        stopped_at.elapsed() < Duration::from_secs(12),
        "{:?} after poller {before}",
        stopped_at.elapsed()
    );
    one.gateway.signal(nix::sys::signal::Signal::SIGCONT);
    eventually("failing is known to both", async || {
        health(&one).await["failing"] == true
    })
    .await;
}
