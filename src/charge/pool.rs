//! The connections to a processor, which are used again and again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::{Request, Response};
use rustls::ClientConfig;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::Names;
use super::connect::Connector;
use super::exchange::{Connection, Then};
use crate::telemetry::Storm;

/// Connections to one processor that are kept open while idle: as many as it takes payments at once.
const IDLE_CONNECTIONS: usize = 800;
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// For how long no connection is kept idle after this process could open no more files: the database and others need
/// what calls give back.
const FILES_SCARCE: Duration = Duration::from_secs(30);
/// How much of a processor's reply is read.
pub const MAX_BODY_BYTES: usize = 16 * 1024;
/// How long the rest of a reply may take once its status is known.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends requests to one processor.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    connector: Connector,
    idle: Arc<Idle>,
}

/// A response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: Response<()>,
    /// None where it is longer than [`MAX_BODY_BYTES`], ends too early or takes too long.
    pub(super) body: Option<Vec<u8>>,
    /// More came with it than was asked for, so it may be the answer to something else.
    pub(super) is_followed: bool,
    /// Whether it is the first over its connection.
    pub(super) is_first: bool,
    /// Its connection, if that can be used again.
    pub(super) line: Option<Line>,
}

/// A connection for the next request of its holder. The drop of it gives it back to all.
#[derive(Debug)]
pub(super) struct Line {
    /// There until the drop.
    connection: Option<Connection>,
    idle: Arc<Idle>,
}

impl Line {
    /// Ends the connection: what comes next over it may be meant for somebody else.
    pub(super) fn close(line: Option<Self>) {
        if let Some(mut line) = line {
            line.connection = None;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.idle.keep(connection);
        }
    }
}

/// Why there is no response, in words.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// No connection was made, so no byte of the request was written.
    #[error("{0}")]
    NotConnected(String),
    /// As before, and it is our own fault: this process may open no more files.
    #[error("no more files may be open here: {0}")]
    OutOfFiles(String),
    /// A byte may have been written.
    #[error("{0}")]
    NoReply(String),
}

impl Connections {
    /// Connections to addresses that these names tell, secured as `tls` says, or not at all.
    pub(super) fn new(names: Names, tls: Option<ClientConfig>) -> Self {
        Self {
            connector: Connector::new(names, tls),
            idle: Arc::default(),
        }
    }

    /// One that is open and that nobody uses.
    pub(super) fn idle(&self) -> Option<Line> {
        self.idle.take().map(|connection| self.line(connection))
    }

    /// Sends a request over any connection, as [`Self::send_over`] does.
    ///
    /// # Errors
    /// No response arrived within `within`, or the connection broke.
    pub(super) async fn send(
        &self,
        request: Request<()>,
        body: &[u8],
        within: Duration,
    ) -> Result<Answer, Failed> {
        self.send_over(self.idle(), request, body, within).await
    }

    /// Sends a request over that connection, or over a new one, and waits up to `within` for the head of its response.
    /// It is sent once.
    ///
    /// # Errors
    /// No response arrived within `within`, or the connection broke, or something came over it before the request was
    /// sent.
    pub(super) async fn send_over(
        &self,
        line: Option<Line>,
        request: Request<()>,
        body: &[u8],
        within: Duration,
    ) -> Result<Answer, Failed> {
        let until = Instant::now() + within;
        let is_first = line.is_none();
        let mut connection = match line.and_then(|mut line| line.connection.take()) {
            Some(connection) => connection,
            None => {
                let connected = Box::pin(self.connector.connect(request.uri().clone()));
                timeout_at(until, connected)
                    .await
                    .map_err(|_| Failed::NotConnected(format!("no connection within {within:?}")))?
                    .map_err(|error| not_connected(&error))
                    .inspect_err(|failed| {
                        if matches!(failed, Failed::OutOfFiles(_)) {
                            self.idle.close_all();
                        }
                    })?
            }
        };
        if !connection.is_quiet() {
            let reason = "the connection was closed, or spoken over, before the request was sent";
            return Err(Failed::NotConnected(reason.to_owned()));
        }
        let prepared = connection.prepare(request, body);
        let prepared = prepared.map_err(|error| Failed::NoReply(error.to_string()))?;
        let (head, rest) = timeout_at(until, connection.ask(prepared))
            .await
            .map_err(|_| Failed::NoReply(format!("no reply within {within:?}")))?
            .map_err(|error| Failed::NoReply(error.to_string()))?;
        let body = connection.rest(rest, MAX_BODY_BYTES);
        let (body, then) = match timeout(BODY_TIMEOUT, body).await {
            Ok(Ok((body, then))) => (Some(body), then),
            Ok(Err(_)) | Err(_) => (None, Then::Closes),
        };
        Ok(Answer {
            head,
            body,
            is_followed: then == Then::More,
            is_first,
            line: (then == Then::Open).then(|| self.line(connection)),
        })
    }

    fn line(&self, connection: Connection) -> Line {
        Line {
            connection: Some(connection),
            idle: Arc::clone(&self.idle),
        }
    }
}

/// Why no connection was made.
fn not_connected(error: &anyhow::Error) -> Failed {
    static OUT_OF_FILES: Storm = Storm::new();
    let error = format!("{error:#}");
    // What looks for an address does not always say that this is what it lacks.
    if std::fs::File::open("/dev/null").is_ok() {
        return Failed::NotConnected(error);
    }
    if let Some(times) = OUT_OF_FILES.note() {
        tracing::error!(
            connections.failed = times,
            error,
            "no more files may be open, so processors cannot be called (ulimit -n)"
        );
    }
    Failed::OutOfFiles(error)
}

/// Connections that nobody uses at the moment.
#[derive(Default)]
struct Idle(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Since when each is idle, the oldest first.
    connections: VecDeque<(Instant, Connection)>,
    /// Whether somebody is about to close those that are idle for too long.
    is_watched: bool,
    /// Until then none is kept.
    scarce_until: Option<Instant>,
}

impl Idle {
    /// The one that was used last: the others may be closed some time.
    fn take(&self) -> Option<Connection> {
        loop {
            let (since, mut connection) = self.lock().connections.pop_back()?;
            if since.elapsed() < IDLE_TIMEOUT && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn keep(self: &Arc<Self>, connection: Connection) {
        let mut kept = self.lock();
        let is_scarce = kept.scarce_until.is_some_and(|at| Instant::now() < at);
        if !is_scarce && kept.connections.len() < IDLE_CONNECTIONS {
            kept.connections.push_back((Instant::now(), connection));
            if !std::mem::replace(&mut kept.is_watched, true) {
                tokio::spawn(close_idle(Arc::downgrade(self)));
            }
        }
    }

    /// Gives back the files of all, and of those that would be kept within [`FILES_SCARCE`].
    fn close_all(&self) {
        let mut kept = self.lock();
        kept.scarce_until = Some(Instant::now() + FILES_SCARCE);
        drop(std::mem::take(&mut kept.connections));
    }

    /// Takes out what is idle for too long, and says when the next one will be: where there is none nobody looks any more.
    fn outdated(&self) -> (Vec<(Instant, Connection)>, Option<Instant>) {
        let mut kept = self.lock();
        let connections = &mut kept.connections;
        let old = connections.partition_point(|(since, _)| since.elapsed() >= IDLE_TIMEOUT);
        let old = connections.drain(..old).collect();
        let next = connections.front().map(|(since, _)| *since + IDLE_TIMEOUT);
        kept.is_watched = next.is_some();
        (old, next)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} idle", self.lock().connections.len())
    }
}

/// Closes what is idle for too long, until nothing is.
async fn close_idle(idle: Weak<Idle>) {
    let mut due = Some(Instant::now() + IDLE_TIMEOUT);
    while let Some(at) = due {
        sleep_until(at).await;
        let Some(idle) = idle.upgrade() else { return };
        let (_closed, next) = idle.outdated();
        due = next;
    }
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::charge::CONNECT_TIMEOUT;
    use crate::tls;

    fn trusting_nobody() -> ClientConfig {
        tls::provide();
        ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    }

    /// Connections to whoever listens there, and what asks it.
    struct Caller {
        connections: Connections,
        url: String,
    }

    impl Caller {
        async fn of(scheme: &str) -> (TcpListener, Self) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let tls = (scheme == "https").then(trusting_nobody);
            let caller = Self {
                connections: Connections::new(Names::of_system(), tls),
                url: format!("{scheme}://{address}/"),
            };
            (listener, caller)
        }

        async fn ask(&self, body: &str) -> Result<Answer, Failed> {
            let request = Request::post(&self.url).body(()).expect("a request");
            let within = 2 * CONNECT_TIMEOUT;
            self.connections
                .send(request, body.as_bytes(), within)
                .await
        }
    }

    /// Reads a request that ends with `end`, and replies.
    async fn serve(client: &mut TcpStream, end: &str, reply: &str) {
        let mut request = Vec::new();
        while !request.ends_with(end.as_bytes()) {
            let read = client.read_buf(&mut request).await.expect("a request");
            assert!(read > 0, "{}", String::from_utf8_lossy(&request));
        }
        client.write_all(reply.as_bytes()).await.expect("written");
    }

    fn text(answer: Result<Answer, Failed>) -> Option<String> {
        let body = answer.expect("an answer").body?;
        Some(String::from_utf8(body).expect("text"))
    }

    const SHORT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_tls_got_no_byte_of_a_payment() {
        let (_silent, caller) = Caller::of("https").await;
        let answer = caller.ask("a payment").await;
        assert!(matches!(answer, Err(Failed::NotConnected(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_connected_to_and_is_silent_may_have_got_it() {
        let (_silent, caller) = Caller::of("http").await;
        let answer = caller.ask("a payment").await;
        assert!(matches!(answer, Err(Failed::NoReply(_))));
    }

    #[tokio::test]
    async fn a_reply_may_have_a_head_of_many_kilobytes() {
        let (listener, caller) = Caller::of("http").await;
        let replies = async {
            let (mut client, _) = listener.accept().await.expect("a client");
            let policy = "x".repeat(20_000);
            let reply = format!("HTTP/1.1 200 OK\r\nPolicy: {policy}\r\nContent-Length: 0\r\n\r\n");
            serve(&mut client, "body", &reply).await;
        };
        let (answer, ()) = tokio::join!(caller.ask("body"), replies);
        assert_eq!(text(answer).as_deref(), Some(""));
    }

    #[tokio::test]
    async fn one_connection_serves_one_request_after_the_other() {
        let (listener, caller) = Caller::of("http").await;
        let chunked = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        let replies = async {
            let (mut client, _) = listener.accept().await.expect("a client");
            for reply in [SHORT, chunked, "HTTP/1.1 204 No\r\n\r\n", SHORT] {
                serve(&mut client, "a payment", reply).await;
            }
        };
        let asks = async {
            for expected in ["ok", "ok", "", "ok"] {
                let answer = caller.ask("a payment").await;
                assert_eq!(text(answer).as_deref(), Some(expected));
            }
        };
        tokio::join!(asks, replies);
    }

    #[tokio::test]
    async fn a_connection_that_cannot_be_used_again_is_not() {
        let (listener, caller) = Caller::of("http").await;
        let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
        let more = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n";
        let old = "HTTP/1.0 200 OK\r\n\r\nok";
        let kept = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
        let both = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok";
        let replies = async {
            // Those stay open on this side: whoever sends another request there is never answered.
            let mut open = Vec::new();
            for reply in [closing, more, kept, both] {
                let (mut client, _) = listener.accept().await.expect("a client");
                serve(&mut client, "a payment", reply).await;
                open.push(client);
            }
            // These are closed, the last two without a word about it.
            for reply in [old, SHORT, SHORT] {
                let (mut client, _) = listener.accept().await.expect("a client");
                serve(&mut client, "a payment", reply).await;
            }
        };
        let asks = async {
            for _ in 0..7 {
                let answer = caller.ask("a payment").await;
                assert_eq!(text(answer).as_deref(), Some("ok"));
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(asks, replies);
    }

    #[tokio::test]
    async fn what_is_no_final_answer_is_none() {
        let (listener, caller) = Caller::of("http").await;
        let replies = async {
            let (mut client, _) = listener.accept().await.expect("a client");
            let reply = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
            serve(&mut client, "a payment", reply).await;
        };
        let (answer, ()) = tokio::join!(caller.ask("a payment"), replies);
        assert!(matches!(answer, Err(Failed::NoReply(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn a_long_path_is_asked_for() {
        let (listener, mut caller) = Caller::of("http").await;
        caller.url.push_str(&"x".repeat(20_000));
        let replies = async {
            let (mut client, _) = listener.accept().await.expect("a client");
            serve(&mut client, "a payment", SHORT).await;
        };
        let (answer, ()) = tokio::join!(caller.ask("a payment"), replies);
        assert_eq!(text(answer).as_deref(), Some("ok"));
    }

    #[tokio::test]
    async fn idle_connections_are_closed() {
        let (listener, caller) = Caller::of("http").await;
        let mut client = {
            let replies = async {
                let (mut client, _) = listener.accept().await.expect("a client");
                serve(&mut client, "a payment", SHORT).await;
                client
            };
            let (answer, client) = tokio::join!(caller.ask("a payment"), replies);
            assert_eq!(text(answer).as_deref(), Some("ok"));
            client
        };
        tokio::time::pause();
        let begun_at = Instant::now();
        assert_eq!(client.read(&mut [0]).await.expect("closed"), 0);
        assert!(begun_at.elapsed() >= IDLE_TIMEOUT);
    }
}
