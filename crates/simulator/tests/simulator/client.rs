//! A simulator on a free port, and a client that talks to it.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Method, RequestBuilder, Response};
use serde_json::Value;
use simulator::{Running, Settings};
use tokio::net::TcpListener;
use uuid::Uuid;

/// Longer than anything here takes, shorter than patience.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A running simulator and a client of it.
pub(crate) struct Simulator {
    pub(crate) running: Running,
    pub(crate) client: Client,
}

/// Starts a simulator on a free port.
pub(crate) async fn started(settings: Settings) -> Simulator {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Simulator {
        running: simulator::start(settings, listener).unwrap(),
        client: client(),
    }
}

/// A client that opens a connection for each request, so that a lost one is never taken for an
/// idle connection that the other side closed.
pub(crate) fn client() -> Client {
    plain().pool_max_idle_per_host(0).build().unwrap()
}

/// A client that keeps its connections. It trusts nobody by TLS and uses no proxy.
pub(crate) fn plain() -> ClientBuilder {
    // It fails where there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().tls_certs_only([]).no_proxy()
}

impl Simulator {
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.running.url()))
    }

    pub(crate) fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).header("X-Rinha-Token", "123")
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    /// Asks an admin endpoint and returns status and body.
    pub(crate) async fn manage(&self, method: Method, path: &str, body: Value) -> (u16, String) {
        let response = self.admin(method, path).json(&body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// A payment of 19.90 with this id.
    pub(crate) fn post(&self, id: Uuid) -> RequestBuilder {
        self.post_as(id, "19.90", "2025-07-15T12:34:56.789Z")
    }

    pub(crate) fn post_as(&self, id: Uuid, amount: &str, requested_at: &str) -> RequestBuilder {
        self.request(Method::POST, "/payments")
            .header("Content-Type", "application/json")
            .body(format!(
                r#"{{"correlationId":"{id}","amount":{amount},"requestedAt":"{requested_at}"}}"#
            ))
    }

    /// Posts a payment and returns status and body.
    pub(crate) async fn posted(&self, id: Uuid) -> (u16, String) {
        let response = self.post(id).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(crate) fn stores(&self, id: Uuid) -> bool {
        self.running.processor.payment(id).is_some()
    }
}

/// Waits until this is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, wait)
        .await
        .unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"));
}

/// The `n`-th of a fixed series of ids.
pub(crate) fn id(n: u128) -> Uuid {
    Uuid::from_u128(0x4a79_01b8_7d26_4d9d_aa19_0000_0000_0000 + n)
}
