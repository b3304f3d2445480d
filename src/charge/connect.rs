//! The connections to a processor.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tower_service::Service;

use super::Names;

/// How long a connection to a processor may take, with the search for its address and with TLS.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections to one processor that are kept open while idle: as many as it takes payments at once.
const IDLE_CONNECTIONS: usize = 800;
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Headers of a processor's reply, at most.
const MAX_HEADERS: usize = 64;
/// After how long without a sign of life an open connection is asked for one, by TCP.
const KEEPALIVE: Duration = Duration::from_secs(15);

type Tcp = HttpConnector<Names>;
type Tls = HttpsConnector<Tcp>;

/// Connections that are used again and again. Those without TLS have no room for the state of it, a kilobyte each.
#[derive(Debug, Clone)]
pub(super) enum Connections {
    /// For a processor whose URL is `http`.
    Plain(Client<Connector<Tcp>, Full<Bytes>>),
    /// For one whose URL is `https`.
    Secured(Client<Connector<Tls>, Full<Bytes>>),
}

/// Why there is no response, in words.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// No connection was made, so no byte was written.
    #[error("{0}")]
    NotConnected(String),
    /// A byte may have been written.
    #[error("{0}")]
    NoReply(String),
}

impl Connections {
    /// Connections to addresses that these names tell, secured as `tls` says, or not at all.
    pub(super) fn new(names: Names, tls: Option<ClientConfig>) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(names);
        tcp.enforce_http(tls.is_none());
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        let mut client = Client::builder(TokioExecutor::new());
        client
            .http1_max_headers(MAX_HEADERS)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new());
        match tls {
            None => Self::Plain(client.build(Connector(tcp))),
            Some(tls) => {
                let https = HttpsConnectorBuilder::new().with_tls_config(tls);
                let https = https.https_only().enable_http1().wrap_connector(tcp);
                Self::Secured(client.build(Connector(https)))
            }
        }
    }

    /// Sends a request, and waits so long for the head of its response. It is sent once: only where a connection that
    /// was kept turns out to be closed before a byte of it was written it goes to another one.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        within: Duration,
    ) -> Result<Response<Incoming>, Failed> {
        let reply = match self {
            Self::Plain(client) => client.request(request),
            Self::Secured(client) => client.request(request),
        };
        match tokio::time::timeout(within, reply).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(Failed::NotConnected(describe(&error))),
            Ok(Err(error)) => Err(Failed::NoReply(describe(&error))),
            Err(_) => Err(Failed::NoReply(format!("no reply within {within:?}"))),
        }
    }
}

/// An error with its causes, in one line.
fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

type BoxError = Box<dyn Error + Send + Sync>;

/// Connects within [`CONNECT_TIMEOUT`].
#[derive(Debug, Clone)]
pub(super) struct Connector<C>(C);

impl<C: Service<Uri>> Service<Uri> for Connector<C>
where
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.0.call(uri));
        Box::pin(async { connected.await?.map_err(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use rustls::RootCertStore;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls;

    fn trusting_nobody() -> ClientConfig {
        tls::provide();
        ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    }

    async fn sent(scheme: &str) -> Result<Response<Incoming>, Failed> {
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        sent_to(&silent, scheme).await
    }

    async fn sent_to(listener: &TcpListener, scheme: &str) -> Result<Response<Incoming>, Failed> {
        let address = listener.local_addr().expect("an address");
        let tls = (scheme == "https").then(trusting_nobody);
        let connections = Connections::new(Names::of_system().expect("names"), tls);
        let request = Request::get(format!("{scheme}://{address}/")).body(Full::default());
        let request = request.expect("a request");
        connections.send(request, 2 * CONNECT_TIMEOUT).await
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_tls_got_no_byte_of_a_payment() {
        assert!(matches!(sent("https").await, Err(Failed::NotConnected(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_connected_to_and_is_silent_may_have_got_it() {
        assert!(matches!(sent("http").await, Err(Failed::NoReply(_))));
    }

    #[tokio::test]
    async fn a_reply_may_have_a_head_of_many_kilobytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let replies = async {
            let (mut client, _) = listener.accept().await.expect("a client");
            assert!(client.read(&mut [0; 1_024]).await.expect("a request") > 0);
            let policy = "x".repeat(20_000);
            let head = format!("HTTP/1.1 200 OK\r\nPolicy: {policy}\r\nContent-Length: 0\r\n\r\n");
            client.write_all(head.as_bytes()).await.expect("written");
        };
        let (response, ()) = tokio::join!(sent_to(&listener, "http"), replies);
        assert_eq!(response.expect("a response").status(), 200);
    }
}
