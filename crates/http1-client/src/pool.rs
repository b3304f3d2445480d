//! The connections to a processor, which are used again and again.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::{Request, Response, Uri};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::connect::{CONNECT_TIMEOUT, Connector};
use super::exchange::{Broken, Connection, Prepared, Rest, Then};
use super::resolver::Resolver;

/// Connections to one processor, at most: the 800 requests that it serves and the 500 that it lets
/// wait.
pub const MOST_CONNECTIONS: usize = 1_300;
/// Those of them that are kept open while idle: as many as it takes payments at once.
const IDLE_CONNECTIONS: usize = 800;
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a processor's reply is read.
pub const MAX_BODY_BYTES: usize = 16 * 1024;
/// How long the rest of a reply may take once its status is known.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends requests to one processor.
#[derive(Debug, Clone)]
pub struct Connections {
    connector: Connector,
    idle: Arc<Idle>,
    /// One for each connection that may still be opened.
    places: Arc<Semaphore>,
    most: usize,
}

/// A connection and its place among those that may be open.
struct Open {
    connection: Connection,
    _place: OwnedSemaphorePermit,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: Response<()>,
    /// None where it is longer than [`MAX_BODY_BYTES`], ends too early or takes too long.
    pub body: Option<Vec<u8>>,
    /// More came with it than was asked for, so it may be the answer to something else.
    pub is_followed: bool,
    /// Whether it is the first over its connection.
    pub is_first: bool,
    /// Its connection, if that can be used again.
    pub line: Option<Line>,
}

/// A connection for the next request of its holder. The drop of it gives it back to all.
#[derive(Debug)]
pub struct Line {
    /// There until the drop.
    open: Option<Open>,
    idle: Arc<Idle>,
}

impl Line {
    /// Ends the connection: what comes next over it may be meant for somebody else.
    pub fn close(line: Option<Self>) {
        if let Some(mut line) = line {
            line.open = None;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.idle.keep(open);
        }
    }
}

/// Why there is no response, in words.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// No connection was made, so no byte of the request was written.
    #[error("{0}")]
    NotConnected(String),
    /// As before, and it is our own fault: this process may open no more files, or no more for this
    /// processor.
    #[error("no more connections may be open here: {0}")]
    OutOfFiles(String),
    /// As before: whoever wanted it sent does not any more.
    #[error("not sent in time")]
    TooLate,
    /// A byte may have been written.
    #[error("{0}")]
    NoReply(String),
    /// The same; the watch ended first, so the response is not waited for.
    #[error("not waited for any longer")]
    GivenUp,
}

/// How long the head of a response is waited for, and what begins beside the wait when it is late.
#[derive(Debug)]
pub struct Patience<F> {
    /// The longest wait.
    pub within: Duration,
    /// The wait after which `watch` begins.
    pub quiet: Duration,
    /// Begins at most once. The wait is over when it ends.
    pub watch: F,
}

impl Connections {
    /// At most `most` connections to addresses that these names tell, secured as `tls` says, or not
    /// at all.
    pub fn new(names: Resolver, tls: Option<ClientConfig>, most: usize) -> Self {
        Self {
            connector: Connector::new(names, tls),
            idle: Arc::default(),
            places: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    /// The same, with at most so many connections.
    pub fn with_at_most(self, most: usize) -> Self {
        let places = Arc::new(Semaphore::new(most));
        Self {
            places,
            most,
            ..self
        }
    }

    /// One that is open and that nobody uses.
    pub fn idle(&self) -> Option<Line> {
        self.idle.take().map(|open| self.line(open))
    }

    /// Sends a request over any connection, as [`Self::send_over`] does.
    ///
    /// # Errors
    /// No response arrived within `within`, or the connection broke.
    pub async fn send(
        &self,
        request: Request<()>,
        body: &[u8],
        within: Duration,
    ) -> Result<Answer, Failed> {
        self.send_over(self.idle(), request, body, within, || true)
            .await
    }

    /// Sends a request over that connection, or over a new one, and waits up to `within` for the
    /// head of its response. It is sent once. `is_due` is asked just before the first byte is
    /// written: a search for an address, a connection or a suspended machine may have taken longer
    /// than the request is good for.
    ///
    /// # Errors
    /// No response arrived within `within`, or the connection broke, or something came over it
    /// before the request was sent, or it was not due any more.
    pub async fn send_over(
        &self,
        line: Option<Line>,
        request: Request<()>,
        body: &[u8],
        within: Duration,
        is_due: impl FnOnce() -> bool,
    ) -> Result<Answer, Failed> {
        let patience = Patience {
            within,
            quiet: within,
            watch: std::future::pending,
        };
        self.send_watched(line, request, body, patience, is_due)
            .await
    }

    /// The same, with a watch. One timer is for both times, and the watch is made when it begins:
    /// a response that comes in time pays nothing for it.
    ///
    /// # Errors
    /// As for [`Self::send_over`], or the watch ended first. Then the connection is closed.
    pub async fn send_watched<W: Future<Output = ()>>(
        &self,
        line: Option<Line>,
        request: Request<()>,
        body: &[u8],
        patience: Patience<impl FnOnce() -> W>,
        is_due: impl FnOnce() -> bool,
    ) -> Result<Answer, Failed> {
        let within = patience.within;
        let until = Instant::now() + within;
        let is_first = line.is_none();
        let mut open = match line.and_then(|mut line| line.open.take()) {
            Some(open) => open,
            None => {
                let opened = Box::pin(self.open(request.uri().clone()));
                timeout_at(until, opened).await.map_err(|_| {
                    Failed::NotConnected(format!("no connection within {within:?}"))
                })??
            }
        };
        let connection = &mut open.connection;
        if !connection.is_quiet() {
            let reason = "the connection was closed, or spoken over, before the request was sent";
            return Err(Failed::NotConnected(reason.to_owned()));
        }
        let prepared = connection.prepare(request, body);
        let prepared = prepared.map_err(|error| Failed::NoReply(error.to_string()))?;
        if !is_due() {
            return Err(Failed::TooLate);
        }
        let (head, rest) = ask(connection, prepared, until, patience).await?;
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
            line: (then == Then::Open).then(|| self.line(open)),
        })
    }

    /// A new connection. Where there are as many as there may be, one that nobody uses makes room,
    /// or it is waited for until one ends.
    async fn open(&self, to: Uri) -> Result<Open, Failed> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => {
                self.idle.close_oldest();
                let place = Arc::clone(&self.places).acquire_owned();
                timeout(CONNECT_TIMEOUT, place)
                    .await
                    .ok()
                    .and_then(Result::ok)
            }
        };
        let place =
            place.ok_or_else(|| Failed::OutOfFiles(format!("all {} are in use", self.most)))?;
        let connection = self.connector.connect(to).await;
        Ok(Open {
            connection: connection.map_err(|error| not_connected(&error))?,
            _place: place,
        })
    }

    fn line(&self, open: Open) -> Line {
        Line {
            open: Some(open),
            idle: Arc::clone(&self.idle),
        }
    }
}

/// Sends what was prepared, and waits until then for the head of the response.
async fn ask<W: Future<Output = ()>>(
    connection: &mut Connection,
    prepared: Prepared,
    until: Instant,
    patience: Patience<impl FnOnce() -> W>,
) -> Result<(Response<()>, Rest), Failed> {
    type Head = Result<(Response<()>, Rest), Broken>;
    let head = |asked: Head| asked.map_err(|error| Failed::NoReply(error.to_string()));
    let Patience {
        within,
        quiet,
        watch,
    } = patience;
    let watch_at = Instant::now() + quiet;
    let mut asked = pin!(connection.ask(prepared));
    let mut timer = pin!(sleep_until(watch_at.min(until)));
    tokio::select! {
        biased;
        asked = &mut asked => return head(asked),
        () = &mut timer => {}
    }
    if watch_at < until {
        timer.as_mut().reset(until);
        tokio::select! {
            biased;
            asked = &mut asked => return head(asked),
            () = &mut timer => {}
            // In a box, for the few calls that come to this.
            () = Box::pin(watch()) => return Err(Failed::GivenUp),
        }
    }
    Err(Failed::NoReply(format!("no reply within {within:?}")))
}

/// Why no connection was made.
fn not_connected(error: &anyhow::Error) -> Failed {
    let error = format!("{error:#}");
    // What looks for an address does not always say that this is what it lacks.
    match std::fs::File::open("/dev/null") {
        Ok(_) => Failed::NotConnected(error),
        Err(_) => Failed::OutOfFiles(error),
    }
}

/// Connections that nobody uses at the moment.
#[derive(Default)]
struct Idle(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Since when each is idle, the oldest first.
    connections: VecDeque<(Instant, Open)>,
    /// Whether somebody is about to close those that are idle for too long.
    is_watched: bool,
}

impl Idle {
    /// The one that was used last: the others may be closed some time.
    fn take(&self) -> Option<Open> {
        loop {
            let (since, mut open) = self.lock().connections.pop_back()?;
            if since.elapsed() < IDLE_TIMEOUT && open.connection.is_quiet() {
                return Some(open);
            }
        }
    }

    fn keep(self: &Arc<Self>, open: Open) {
        let mut kept = self.lock();
        if kept.connections.len() < IDLE_CONNECTIONS {
            kept.connections.push_back((Instant::now(), open));
            if !std::mem::replace(&mut kept.is_watched, true) {
                tokio::spawn(close_idle(Arc::downgrade(self)));
            }
        }
    }

    /// Closes the one that has been idle for longest.
    fn close_oldest(&self) {
        let oldest = self.lock().connections.pop_front();
        drop(oldest);
    }

    /// Takes out what is idle for too long, and says when the next one will be: where there is none
    /// nobody looks any more.
    fn outdated(&self) -> (Vec<(Instant, Open)>, Option<Instant>) {
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

impl fmt::Debug for Open {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connection.fmt(out)
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

    fn trusting_nobody() -> ClientConfig {
        // It fails where there is a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
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
                connections: Connections::new(Resolver::of_system(), tls, 2),
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
        let chunked = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 No\r\nTransfer-Encoding: \
            chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
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
    async fn what_comes_before_the_request_is_no_answer_to_it() {
        let (listener, caller) = Caller::of("http").await;
        let serving = async {
            let (mut client, _) = listener.accept().await.expect("a client");
            serve(&mut client, "ask", SHORT).await;
            client
        };
        let (first, mut client) = tokio::join!(caller.ask("ask"), serving);
        // Taken out before it came, as a line is that a lookup goes over after its POST.
        let line = first.expect("an answer").line;
        assert!(line.is_some());
        client.write_all(SHORT.as_bytes()).await.expect("written");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let request = Request::post(&caller.url).body(()).expect("a request");
        let within = 2 * CONNECT_TIMEOUT;
        let answer = caller
            .connections
            .send_over(line, request, b"ask", within, || true)
            .await;
        assert!(matches!(answer, Err(Failed::NotConnected(_))));
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
    async fn what_is_not_due_any_more_when_its_connection_is_there_is_not_sent() {
        let (listener, caller) = Caller::of("http").await;
        let request = Request::post(&caller.url).body(()).expect("a request");
        let within = 2 * CONNECT_TIMEOUT;
        let answer = caller
            .connections
            .send_over(None, request, b"late", within, || false);
        assert!(matches!(answer.await, Err(Failed::TooLate)));
        let (mut client, _) = listener.accept().await.expect("it was connected");
        let read = client.read(&mut [0]).await.expect("closed");
        assert_eq!(read, 0, "no byte");
    }

    /// Sends a request that is watched after 1 s, by what ends or does not. Returns what came of
    /// it, after what time, and whether the watch began.
    async fn watched(caller: &Caller, ends: bool) -> (Result<Answer, Failed>, Duration, bool) {
        let request = Request::post(&caller.url).body(()).expect("a request");
        let mut began = false;
        let patience = Patience {
            within: Duration::from_secs(3),
            quiet: Duration::from_secs(1),
            watch: || {
                began = true;
                async move {
                    if !ends {
                        std::future::pending::<()>().await;
                    }
                }
            },
        };
        let begun_at = Instant::now();
        let connections = &caller.connections;
        let answer = connections
            .send_watched(None, request, b"a payment", patience, || true)
            .await;
        (answer, begun_at.elapsed(), began)
    }

    #[tokio::test]
    async fn a_response_in_time_is_not_watched() {
        let (listener, caller) = Caller::of("http").await;
        let replies = async {
            let (mut client, _) = listener.accept().await.expect("a client");
            serve(&mut client, "a payment", SHORT).await;
        };
        let ((answer, _, began), ()) = tokio::join!(watched(&caller, true), replies);
        assert_eq!(text(answer).as_deref(), Some("ok"));
        assert!(!began);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_ends_closes_the_connection_and_one_that_does_not_changes_nothing() {
        let (listener, caller) = Caller::of("http").await;
        let (answer, after, _) = watched(&caller, true).await;
        assert!(matches!(answer, Err(Failed::GivenUp)), "{answer:?}");
        assert_eq!(after.as_secs(), 1);
        let (mut client, _) = listener.accept().await.expect("it was connected");
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.expect("closed");
        assert!(read.ends_with(b"a payment"), "sent once, then closed");
        let (answer, after, began) = watched(&caller, false).await;
        assert!(matches!(answer, Err(Failed::NoReply(_))), "{answer:?}");
        assert_eq!((after.as_secs(), began), (3, true));
    }

    #[tokio::test]
    async fn there_are_never_more_connections_than_allowed_and_an_idle_one_makes_room() {
        let (listener, caller) = Caller::of("http").await;
        let ask = |line: Option<Line>| {
            let request = Request::post(&caller.url).body(()).expect("a request");
            let within = 10 * CONNECT_TIMEOUT;
            caller
                .connections
                .send_over(line, request, b"ask", within, || true)
        };
        let serving = tokio::spawn(async move {
            let mut open = Vec::new();
            for _ in 0..3 {
                let (mut client, _) = listener.accept().await.expect("a client");
                serve(&mut client, "ask", SHORT).await;
                open.push(client);
            }
            open
        });
        let first = ask(None).await.expect("an answer");
        let second = ask(None).await.expect("an answer");
        let refused = ask(None).await;
        assert!(matches!(refused, Err(Failed::OutOfFiles(_))), "{refused:?}");
        // One that nobody uses is closed for a new one.
        drop(first);
        let third = ask(None).await.expect("an answer");
        assert!(third.is_first && caller.connections.idle().is_none());
        let mut clients = serving.await.expect("all came");
        assert_eq!(clients[0].read(&mut [0]).await.expect("closed"), 0);
        drop(second);
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
