//! The accept loop of an address, and what one client may hold.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::response::IntoResponse;
use axum::serve::Listener;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_LENGTH, HOST};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;

use super::connections::OpenConnections;
use super::timeouts::{PatientBody, PatientStream, Requests};
use super::{Limits, MAX_BODY_BYTES, Problem, ProblemKind};
use crate::telemetry::metrics::{Counts, Total};

/// Serves `routes` until `stop`, then closes what is idle and waits for the requests that are open.
pub async fn serve<L: Listener>(
    mut listener: L,
    routes: Router,
    limits: Limits,
    counts: Arc<Counts>,
    stop: CancellationToken,
) {
    let evicted = counts.connections_evicted.clone();
    let connections = OpenConnections::new(limits.connections, evicted);
    let too_long = &counts.refused.body;
    let open = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.max_buf_size(limits.head_bytes);
    http.half_close(!limits.notice_leaving);
    let routes = TowerToHyperService::new(routes);
    loop {
        // Room is made for a client that is there.
        let accepted = async {
            let stream = listener.accept().await.0;
            (connections.room().await, stream)
        };
        let (place, stream) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        let requests = Requests::new(Arc::clone(&place.wait));
        let stream = PatientStream::new(stream, limits, Arc::clone(&requests));
        let (routes, too_long) = (routes.clone(), too_long.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let open = requests.begin();
            let refused = refusal(&request, &too_long);
            let (routes, requests) = (routes.clone(), Arc::clone(&requests));
            async move {
                let reply = match refused {
                    Some(problem) => problem.into_response(),
                    None => {
                        let body = |body| PatientBody::new(body, limits, requests);
                        let reply = routes.call(request.map(body)).await;
                        let mut reply = reply.unwrap_or_else(|never| match never {});
                        if reply.status() == StatusCode::NO_CONTENT {
                            // RFC 9110, 8.6; the router says it of replies to HEAD.
                            reply.headers_mut().remove(CONTENT_LENGTH);
                        }
                        reply
                    }
                };
                drop(open);
                Ok::<_, Infallible>(reply)
            }
        });
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = connection => ended,
                () = place.wait.evicted() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(error = %error, "a connection broke off");
            }
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// What is wrong with a request whatever its path, and the library lets through.
fn refusal<B: Body>(request: &Request<B>, too_long: &Total) -> Option<Problem> {
    // RFC 9112, 3.2
    let mut hosts = request.headers().get_all(HOST).iter();
    let refused = match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => None,
        (Some(_), None) => Some("the Host header must be a host, with a port or without"),
        (None, _) if request.version() < Version::HTTP_11 => None,
        _ => Some("a request must have exactly one Host header"),
    };
    if let Some(detail) = refused {
        return Some(Problem::new(ProblemKind::MalformedRequest, detail));
    }
    // Nobody waits for what is too long already.
    (request.body().size_hint().lower() > MAX_BODY_BYTES as u64).then(|| {
        too_long.add(1);
        Problem::too_long()
    })
}

/// A host with or without a port, or nothing, which a client sends whose request target names no
/// host.
fn is_host(value: &[u8]) -> bool {
    let is_plain = |authority: &Authority| {
        let port = authority.as_str().strip_prefix(authority.host());
        matches!(port, Some("" | ":")) || authority.port_u16().is_some()
    };
    is_name(value)
        || (!value.contains(&b'@') && Authority::try_from(value).is_ok_and(|host| is_plain(&host)))
}

/// A name or an IPv4 address without a port, as nginx sends it, or nothing. Parsing an
/// [`Authority`] takes twenty times as long, which every request would pay.
fn is_name(value: &[u8]) -> bool {
    value
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::extract::FromRequest as _;
    use axum::http::Method;
    use serde_json::Value;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    use super::*;
    use crate::http::problem::Fields;

    /// What a test makes short.
    const SHORT: Duration = Duration::from_millis(200);
    /// How long anything that must happen may take on a busy machine.
    const TIMEOUT: Duration = Duration::from_secs(20);
    /// More than the buffers of a connection hold.
    const LARGE_BYTES: usize = 32 * 1024 * 1024;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";

    /// A service that takes `connections` clients at once. Limits that are not the test's are long.
    fn limits(connections: usize) -> Limits {
        Limits {
            connections,
            head: TIMEOUT,
            body: TIMEOUT,
            slack: TIMEOUT,
            idle: TIMEOUT,
            stall: TIMEOUT,
            ..Limits::default()
        }
    }

    /// Reads what is posted, and gives as much as is asked for.
    async fn answer(request: axum::extract::Request) -> axum::response::Response {
        let large = request.uri().path() == "/large";
        if request.method() == Method::POST {
            let read = Fields::<Value>::from_request(request, &()).await;
            return read.map(|_| "taken").into_response();
        }
        vec![b'x'; if large { LARGE_BYTES } else { 1 }].into_response()
    }

    /// Serves with those limits. Returns a way to connect.
    async fn start(limits: Limits) -> impl AsyncFn() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let routes = Router::new().fallback(answer);
        tokio::spawn(serve(
            listener,
            routes,
            limits,
            Arc::default(),
            CancellationToken::new(),
        ));
        async move || TcpStream::connect(address).await.expect("it listens")
    }

    /// All that a server says until it closes.
    async fn last_words(stream: &mut TcpStream) -> String {
        let mut said = Vec::new();
        let closed = tokio::time::timeout(TIMEOUT / 2, stream.read_to_end(&mut said)).await;
        // A server that closes on unread bytes resets the connection.
        let _ = closed.expect("the connection is closed");
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Asks on a connection that the server has to have room for first.
    async fn is_served(stream: &mut TcpStream) -> bool {
        stream.write_all(GET.as_bytes()).await.expect("it is open");
        let mut reply = [0; 15];
        let read = tokio::time::timeout(TIMEOUT / 2, stream.read_exact(&mut reply)).await;
        matches!(read, Ok(Ok(_))) && reply == *b"HTTP/1.1 200 OK"
    }

    #[test]
    fn hosts_are_told_from_what_is_none() {
        for host in [
            "",
            "a",
            "payment-proxy",
            "10.0.0.1",
            "a:80",
            "a:",
            "[::1]:80",
            "A.b",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for other in ["a b", "a:b", "a:99999", "u@a", "a/b", "[::1", "\u{e9}"] {
            assert!(!is_host(other.as_bytes()), "{other}");
        }
    }

    #[tokio::test]
    async fn clients_that_send_a_head_byte_by_byte_make_room_for_others() {
        let head = SHORT;
        let connect = start(Limits { head, ..limits(3) }).await;
        for _ in 0..3 {
            let mut slow = connect().await;
            tokio::spawn(async move {
                for byte in GET.bytes().cycle().filter(|byte| *byte != b'\n') {
                    if slow.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(SHORT / 20).await;
                }
            });
        }
        assert!(is_served(&mut connect().await).await);
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_answered_with_408() {
        let body = SHORT;
        let connect = start(Limits { body, ..limits(1) }).await;
        for half in [
            "Content-Length: 10\r\n\r\n{",
            "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        ] {
            let mut slow = connect().await;
            let request = format!("{POST}{half}");
            slow.write_all(request.as_bytes()).await.expect("sent");
            let reply = last_words(&mut slow).await;
            assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
            assert!(reply.contains("did not arrive within 200ms"), "{reply}");
        }
        assert!(is_served(&mut connect().await).await);
    }

    /// Sends one byte after the other, with a pause in between, until the server closes. Returns
    /// what it said.
    async fn sends_slowly(stream: &mut TcpStream, bytes: &str, pause: Duration) -> String {
        for byte in bytes.bytes() {
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
            let mut said = Vec::new();
            let reply = stream.read_buf(&mut said);
            if tokio::time::timeout(pause, reply).await.is_ok() {
                return String::from_utf8_lossy(&said).into_owned() + &last_words(stream).await;
            }
        }
        last_words(stream).await
    }

    #[tokio::test]
    async fn a_head_or_a_body_that_trickles_in_is_waited_for_no_longer_than_one_that_stands_still()
    {
        let (slack, least_rate) = (SHORT, 100);
        let connect = start(Limits {
            slack,
            least_rate,
            ..limits(2)
        })
        .await;
        // 20 bytes a second.
        let pause = SHORT / 4;
        let begun_at = Instant::now();
        let mut slow = connect().await;
        let said = sends_slowly(&mut slow, GET, pause).await;
        assert_eq!(said, "");
        let mut slow = connect().await;
        let head = format!("{POST}Content-Length: 200\r\n\r\n");
        slow.write_all(head.as_bytes()).await.expect("sent");
        let said = sends_slowly(&mut slow, &"x".repeat(200), pause).await;
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
        assert!(said.contains("at 100 bytes a second"), "{said}");
        assert!(begun_at.elapsed() < TIMEOUT / 4, "{:?}", begun_at.elapsed());
    }

    #[tokio::test]
    async fn a_body_that_comes_at_the_least_rate_may_take_longer_than_one_that_stands_still() {
        let (slack, least_rate) = (SHORT, 100);
        let connect = start(Limits {
            slack,
            least_rate,
            ..limits(1)
        })
        .await;
        let mut client = connect().await;
        let body = format!("{{\"a\":\"{}\"}}", "x".repeat(292));
        let head = format!("{POST}Content-Length: {}\r\n\r\n", body.len());
        client.write_all(head.as_bytes()).await.expect("sent");
        // 1,000 bytes a second at most, for longer than the slack.
        for part in body.as_bytes().chunks(50) {
            client.write_all(part).await.expect("sent");
            tokio::time::sleep(SHORT / 4).await;
        }
        let mut reply = [0; 15];
        client.read_exact(&mut reply).await.expect("a reply");
        assert_eq!(String::from_utf8_lossy(&reply), "HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn clients_that_never_read_make_room_for_others() {
        let stall = SHORT;
        let connect = start(Limits { stall, ..limits(2) }).await;
        let (mut one, mut many) = (connect().await, connect().await);
        let large = "GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
        one.write_all(large.as_bytes()).await.expect("sent");
        // Small replies that are asked for faster than they are read.
        let asking = tokio::spawn(async move {
            let requests = GET.repeat(1_000);
            while many.write_all(requests.as_bytes()).await.is_ok() {}
        });
        let mut others = (connect().await, connect().await);
        assert!(is_served(&mut others.0).await && is_served(&mut others.1).await);
        asking.await.expect("its connection was closed");
    }

    #[tokio::test]
    async fn idle_clients_make_room_for_others() {
        let idle = SHORT;
        let connect = start(Limits { idle, ..limits(2) }).await;
        let (mut silent, mut used) = (connect().await, connect().await);
        assert!(is_served(&mut used).await);
        let mut others = (connect().await, connect().await);
        assert!(is_served(&mut others.0).await && is_served(&mut others.1).await);
        assert_eq!(last_words(&mut silent).await, "");
        last_words(&mut used).await;
    }

    #[tokio::test]
    async fn a_body_and_the_next_request_may_take_longer_than_a_head() {
        let head = SHORT;
        let connect = start(Limits { head, ..limits(1) }).await;
        let mut client = connect().await;
        for _ in 0..2 {
            let request = format!("{POST}Content-Length: 2\r\n\r\n{{");
            client.write_all(request.as_bytes()).await.expect("sent");
            tokio::time::sleep(SHORT * 2).await;
            client.write_all(b"}").await.expect("sent");
            let mut reply = [0; 1_024];
            let length = client.read(&mut reply).await.expect("a reply");
            let reply = String::from_utf8_lossy(&reply[..length]);
            assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
            tokio::time::sleep(SHORT * 2).await;
        }
    }
}
