//! The rules of `nginx.conf`, and the balancing of the contest's deployment, with a real nginx in
//! front of instances that misbehave as told.

#![allow(clippy::unwrap_used)] // a test that cannot set itself up has failed

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

const PAYMENT: &str = r#"{"correlationId":"4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3","amount":19.90}"#;

/// How long nginx leaves an instance alone that failed.
const LEFT_ALONE: Duration = Duration::from_secs(1);
/// How long nginx waits for an instance that is silent.
const SILENT_AT_MOST: Duration = Duration::from_secs(5);

/// How the contest's deployment balances.
const CONTEST: &str = "deploy/contest/nginx.conf";
/// How long posts go to one instance there.
const TURN: Duration = Duration::from_millis(500);
/// Posts that the one whose turn it is has at once there.
const MOST_AT_ONE: usize = 64;

/// What an instance does with each request it has read.
#[derive(Clone, Copy)]
enum Instance {
    /// Replies with this status.
    Answers(u16),
    /// Closes the connection without a reply.
    BreaksOff,
    /// Never replies.
    Hangs,
    /// Is not there: the connection is refused.
    Absent,
}

/// nginx with instances behind it. The drop of it ends nginx.
struct Stack {
    url: String,
    nginx: Child,
    /// The request lines that each instance has read.
    seen: Vec<Arc<Mutex<Vec<String>>>>,
    _folder: tempfile::TempDir,
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SIGTERM and not SIGKILL, which would leave nginx's worker behind.
        let id =
            nix::unistd::Pid::from_raw(i32::try_from(self.nginx.id()).expect("a pid is an i32"));
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
        let _ = self.nginx.wait();
    }
}

impl Stack {
    async fn start(instances: [Instance; 2]) -> Self {
        Self::start_with(&root().join("nginx.conf"), &instances).await
    }

    /// The same with another configuration of nginx, for as many instances as it names.
    async fn start_with(configuration: &Path, instances: &[Instance]) -> Self {
        // A name that means something to shells and to nginx.
        let odd = tempfile::Builder::new().prefix("a b &|\"\\$'ü").tempdir();
        let folder = odd.unwrap();
        // nginx's worker is another user when the tests run as root.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let mut seen = Vec::new();
        for (number, instance) in (1..).zip(instances) {
            let socket = folder.path().join(format!("api{number}.sock"));
            let listener = UnixListener::bind(&socket).unwrap();
            std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
            seen.push(Arc::default());
            tokio::spawn(serve(*instance, listener, Arc::clone(&seen[number - 1])));
        }
        let (nginx, port) = start_nginx(folder.path(), configuration).await;
        Self {
            url: format!("http://127.0.0.1:{port}"),
            nginx,
            seen,
            _folder: folder,
        }
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = payment_proxy::config::tls::plain()
            .build()
            .expect("a client")
            .post(format!("{}{path}", self.url))
            .body(body);
        request
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap()
    }

    /// Posts payments one after the other for so long. Returns how many; each has been accepted.
    async fn post_for(&self, time: Duration) -> usize {
        let begin = Instant::now();
        let mut posted = 0;
        while begin.elapsed() < time {
            assert_eq!(self.post("/payments", PAYMENT).await.status(), 202);
            posted += 1;
        }
        posted
    }

    async fn get(&self, path: &str) -> Response {
        payment_proxy::config::tls::plain()
            .build()
            .expect("a client")
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap()
    }

    /// What nginx says to these bytes until it hangs up.
    async fn raw(&self, request: &str) -> String {
        let address = self.url.trim_start_matches("http://");
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        connection.read_to_string(&mut reply).await.unwrap();
        reply
    }

    /// How many requests each instance has read.
    fn counts(&self) -> Vec<usize> {
        let counts = self.seen.iter().map(|seen| seen.lock().unwrap().len());
        counts.collect()
    }

    /// Posts this many payments at once, as often as told, a twentieth of a second apart. Returns
    /// how long each took; each has been accepted.
    async fn crowds(&self, size: usize, times: u32) -> Vec<Duration> {
        let client = payment_proxy::config::tls::plain().build().unwrap();
        let mut posts = JoinSet::new();
        for _ in 0..times {
            for _ in 0..size {
                let post = client
                    .post(format!("{}/payments", self.url))
                    .header("content-type", "application/json")
                    .body(PAYMENT);
                posts.spawn(async move {
                    let sent = Instant::now();
                    assert_eq!(post.send().await.unwrap().status(), 202);
                    sent.elapsed()
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        posts.join_all().await
    }

    fn last_seen(&self) -> Option<String> {
        self.seen.iter().find_map(|seen| seen.lock().unwrap().pop())
    }
}

async fn serve(instance: Instance, listener: UnixListener, seen: Arc<Mutex<Vec<String>>>) {
    if let Instance::Absent = instance {
        return; // drops the listener; its socket file stays, and refuses
    }
    while let Ok((connection, _)) = listener.accept().await {
        tokio::spawn(converse(instance, connection, Arc::clone(&seen)));
    }
}

async fn converse(instance: Instance, mut connection: UnixStream, seen: Arc<Mutex<Vec<String>>>) {
    while let Some(request_line) = read_request(&mut connection).await {
        seen.lock().unwrap().push(request_line);
        match instance {
            Instance::Answers(status) => {
                let reply = format!(
                    "HTTP/1.1 {status} X\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{{}}"
                );
                connection.write_all(reply.as_bytes()).await.unwrap();
            }
            Instance::BreaksOff | Instance::Absent => return,
            Instance::Hangs => std::future::pending().await,
        }
    }
}

/// Reads one request with its body; returns its first line, or nothing when nginx has hung up.
async fn read_request(connection: &mut UnixStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                // Without it an instance would refuse the request.
                assert!(head.to_ascii_lowercase().contains("\r\nhost: "), "{head}");
                return head.lines().next().map(str::to_owned);
            }
        }
        if connection.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Starts nginx with the sockets in `folder`, on a port that is free.
async fn start_nginx(folder: &Path, configuration: &Path) -> (Child, u16) {
    let path = format!(
        "{}:/usr/local/sbin:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap()
    );
    loop {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);

        let config = Command::new(root().join("scripts/nginx-config.sh"))
            .arg(port.to_string())
            .arg(folder)
            .arg(configuration)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(config.status.success(), "scripts/nginx-config.sh failed");
        std::fs::write(folder.join("nginx.conf"), config.stdout).unwrap();

        let mut nginx = Command::new("nginx")
            .env("PATH", &path)
            .args(["-e", "stderr", "-g", "daemon off;", "-p"])
            .arg(folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .spawn()
            .unwrap();
        // Answered by nginx itself. Another test may have taken the port meanwhile: then the next
        // one.
        let probe = format!("http://127.0.0.1:{port}/");
        while nginx.try_wait().unwrap().is_none() {
            if payment_proxy::config::tls::plain()
                .build()
                .expect("a client")
                .get(&probe)
                .send()
                .await
                .is_ok()
            {
                return (nginx, port);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Asserts that this is nginx's own error, in the shape of the service's errors.
async fn assert_problem(reply: Response, status: StatusCode) {
    assert_eq!(reply.status(), status);
    assert_eq!(reply.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
    assert_eq!(problem["status"], status.as_u16());
    assert!(!problem["detail"].as_str().unwrap().is_empty());
    let kinds = payment_proxy::http::ProblemKind::ALL;
    let kind = kinds
        .iter()
        .find(|kind| problem["type"] == kind.reference());
    let kind = kind.unwrap_or_else(|| panic!("{problem} has no type that is explained"));
    assert_eq!(problem["title"], kind.title());
}

#[tokio::test]
async fn public_paths_reach_an_instance_as_they_were_asked_for() {
    let stack = Stack::start([Instance::Answers(200); 2]).await;
    for path in [
        "/payments-summary?from=2026-01-01T00:00:00.000Z&to=2026-01-02T00:00:00.000Z",
        "/payments/4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3",
        "/livez",
        "/readyz",
    ] {
        assert_eq!(stack.get(path).await.status(), 200, "{path}");
        assert_eq!(stack.last_seen().unwrap(), format!("GET {path} HTTP/1.1"));
    }
    for path in ["/openapi.json", "/problems/", "/problems/queue-full"] {
        assert_eq!(stack.get(path).await.status(), 200, "{path}");
        assert_eq!(stack.last_seen().unwrap(), format!("GET {path} HTTP/1.1"));
    }
    for path in ["/payments", "/purge-payments"] {
        assert_eq!(stack.post(path, PAYMENT).await.status(), 200, "{path}");
        assert_eq!(stack.last_seen().unwrap(), format!("POST {path} HTTP/1.1"));
    }
}

#[tokio::test]
async fn every_documented_path_reaches_an_instance() {
    let stack = Stack::start([Instance::Answers(200); 2]).await;
    for (path, item) in payment_proxy::http::Api::document().paths.paths {
        let path = path.replace("{id}", "4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3");
        let reply = match item.post {
            Some(_) => stack.post(&path, PAYMENT).await,
            None => stack.get(&path).await,
        };
        assert_eq!(reply.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn other_paths_reach_no_instance() {
    let stack = Stack::start([Instance::Answers(200); 2]).await;
    for path in [
        "/",
        "/metrics",
        "/admin/queue",
        "/payments/",
        "/payments/a/b",
        "/payments/..%2fadmin",
        "/payments/%2e%2e/admin/queue",
        "/payments/x%2f..%2f..%2fadmin",
        "/payments//x/y",
        "/docs",
        "/docs/",
        "/docs/style.css",
        "/problems/../metrics",
        "/problems/a/b",
    ] {
        assert_problem(stack.get(path).await, StatusCode::NOT_FOUND).await;
        assert_eq!(stack.last_seen(), None, "{path}");
    }
}

#[tokio::test]
async fn payment_whose_instance_breaks_off_is_accepted_by_the_other() {
    let stack = Stack::start([Instance::BreaksOff, Instance::Answers(202)]).await;
    let posted = stack.post_for(2 * LEFT_ALONE).await;
    let counts = stack.counts();
    assert_eq!(counts[1], posted);
    assert!(
        counts[0] >= 1,
        "the broken instance was never tried, so this test shows nothing"
    );
}

#[tokio::test]
async fn dead_instance_costs_no_payment_and_is_left_alone() {
    let stack = Stack::start([Instance::Absent, Instance::Answers(202)]).await;
    let posted = stack.post_for(LEFT_ALONE).await;
    assert_eq!(stack.counts(), [0, posted]);
}

#[tokio::test]
async fn clients_that_name_no_host_as_http_1_0_allows_are_served() {
    let stack = Stack::start([Instance::Answers(200); 2]).await;
    for head in [
        "GET /readyz HTTP/1.0\r\n\r\n",
        "GET /readyz HTTP/1.1\r\nHost: other:9999\r\nConnection: close\r\n\r\n",
        "POST /payments HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
    ] {
        let reply = stack.raw(head).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{head}: {reply}");
    }
}

/// As many as one who means harm needs.
const SLOW_CLIENTS: usize = 4_200;
/// Longer than nginx waits for a head.
const HEAD_PATIENCE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn clients_that_send_slowly_keep_nobody_out() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        hard > 2 * SLOW_CLIENTS as u64,
        "{hard} files are too few for this test"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
    let stack = Stack::start([Instance::Answers(202); 2]).await;
    let address = stack.url.trim_start_matches("http://");
    let mut slow = Vec::new();
    for client in 0..SLOW_CLIENTS {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = match client % 2 {
            0 => "POST /payments HTTP/1.1\r\nHos".to_owned(),
            _ => "POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 71\r\n\r\n{".to_owned(),
        };
        connection.write_all(head.as_bytes()).await.unwrap();
        slow.push(connection);
    }
    for _ in 0..84 {
        assert_eq!(stack.post("/payments", PAYMENT).await.status(), 202);
    }
    // And they hold their places for a moment only.
    let begun_at = Instant::now();
    for mut connection in slow {
        let mut rest = Vec::new();
        let closed = connection.read_to_end(&mut rest);
        let left = HEAD_PATIENCE.saturating_sub(begun_at.elapsed());
        let _ = tokio::time::timeout(left, closed)
            .await
            .expect("it is closed");
    }
}

#[tokio::test]
async fn a_body_that_comes_a_byte_every_two_seconds_is_not_waited_for() {
    let stack = Stack::start([Instance::Answers(202); 2]).await;
    let address = stack.url.trim_start_matches("http://");
    let mut slow = TcpStream::connect(address).await.unwrap();
    let begin = "POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: 71\r\n\r\n{";
    slow.write_all(begin.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let closed = slow.read_to_end(&mut said);
    let closed = tokio::time::timeout(Duration::from_millis(1_900), closed).await;
    let _ = closed.expect("it is closed before the next byte");
}

#[tokio::test]
async fn payments_go_to_all_instances_and_a_third_one_is_one_line() {
    const SECOND: &str = "        server unix:/sockets/api2.sock max_fails=1 fail_timeout=1s;\n";
    let ours = std::fs::read_to_string(root().join("nginx.conf")).unwrap();
    assert_eq!(ours.matches(SECOND).count(), 1);
    let third = format!("{SECOND}{}", SECOND.replace("api2", "api3"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ours.replace(SECOND, &third)).unwrap();

    let stack = Stack::start_with(file.path(), &[Instance::Answers(202); 3]).await;
    for _ in 0..60 {
        assert_eq!(stack.post("/payments", PAYMENT).await.status(), 202);
    }
    // None has anything under way when the next one comes, so they take it in turn.
    assert_eq!(stack.counts(), [20, 20, 20]);
}

#[tokio::test]
async fn an_instance_that_is_silent_holds_no_more_than_the_other_serves_at_once() {
    const CROWD: usize = 60;
    let stack = Stack::start([Instance::Hangs, Instance::Answers(202)]).await;
    // It is given up after all of them have come.
    let took = stack.crowds(CROWD, 20).await;
    let waited = took.iter().filter(|time| **time >= SILENT_AT_MOST).count();
    assert!((1..=CROWD).contains(&waited), "{waited} of {}", took.len());
}

#[tokio::test]
async fn the_contest_s_nginx_sends_payments_to_the_instances_in_turns() {
    let stack = Stack::start_with(&root().join(CONTEST), &[Instance::Answers(202); 2]).await;
    let (mut turns, mut before) = (0, stack.counts());
    let mut last = None;
    let begin = Instant::now();
    while begin.elapsed() < 4 * TURN {
        assert_eq!(stack.post("/payments", PAYMENT).await.status(), 202);
        let now = stack.counts();
        let served = now[0] > before[0];
        turns += usize::from(last.replace(served).is_some_and(|last| last != served));
        before = now;
    }
    assert!((3..=5).contains(&turns), "{turns} turns, {before:?}");
    let share = before[0] as f64 / (before[0] + before[1]) as f64;
    assert!((0.2..0.8).contains(&share), "{before:?}");
}

#[tokio::test]
async fn the_contest_s_nginx_gives_a_crowd_both_instances_and_a_silent_one_no_more_than_its_turn() {
    let instances = [Instance::Hangs, Instance::Answers(202)];
    let stack = Stack::start_with(&root().join(CONTEST), &instances).await;
    // For longer than one turn, so that the silent one has one in it; nginx gives it up after 5 s.
    let took = stack.crowds(MOST_AT_ONE, 20).await;
    let waited = took.iter().filter(|time| **time > 4 * TURN).count();
    assert_eq!(waited, MOST_AT_ONE, "of {}", took.len());
}

#[tokio::test]
async fn purge_is_never_sent_twice() {
    let stack = Stack::start([Instance::BreaksOff; 2]).await;
    let reply = stack.post("/purge-payments", "").await;
    assert_problem(reply, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(stack.counts().iter().sum::<usize>(), 1);
}

#[tokio::test]
async fn purge_that_was_not_sent_goes_to_the_other_instance() {
    let stack = Stack::start([Instance::Absent, Instance::Answers(200)]).await;
    for _ in 0..2 {
        assert_eq!(stack.post("/purge-payments", "").await.status(), 200);
    }
}

#[tokio::test]
async fn refusal_by_an_instance_is_passed_on_as_it_is() {
    let stack = Stack::start([Instance::Answers(503); 2]).await;
    let reply = stack.post("/payments", PAYMENT).await;
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.headers()["retry-after"], "7");
    assert_eq!(reply.text().await.unwrap(), "{}");
    assert_eq!(
        stack.counts().iter().sum::<usize>(),
        1,
        "a refusal is not asked for twice"
    );
}

#[tokio::test]
async fn no_instance_at_all_is_a_problem_with_retry_after() {
    let stack = Stack::start([Instance::Absent; 2]).await;
    // The second one meets no attempt at all: both instances count as failed.
    for _ in 0..2 {
        let reply = stack.post("/payments", PAYMENT).await;
        assert_eq!(reply.headers()["retry-after"], "1");
        assert_problem(reply, StatusCode::SERVICE_UNAVAILABLE).await;
    }
}

#[tokio::test]
async fn silent_instance_is_a_problem_with_retry_after() {
    let stack = Stack::start([Instance::Hangs; 2]).await;
    let reply = stack.post("/purge-payments", "").await;
    assert_eq!(reply.headers()["retry-after"], "1");
    assert_problem(reply, StatusCode::GATEWAY_TIMEOUT).await;
}

#[tokio::test]
async fn body_over_4_kib_is_left_to_the_instance_and_one_over_8_kib_is_a_problem() {
    let stack = Stack::start([Instance::Answers(413); 2]).await;
    let reply = stack.post("/payments", "x".repeat(5 * 1024)).await;
    assert_eq!(
        reply.text().await.unwrap(),
        "{}",
        "the instance's own answer"
    );
    assert_eq!(stack.counts().iter().sum::<usize>(), 1);

    let reply = stack.post("/payments", "x".repeat(9 * 1024)).await;
    assert_problem(reply, StatusCode::PAYLOAD_TOO_LARGE).await;
    assert_eq!(stack.counts().iter().sum::<usize>(), 1);
}

#[tokio::test]
async fn requests_that_nginx_refuses_are_problems() {
    let stack = Stack::start([Instance::Answers(200); 2]).await;
    let headers_too_large = payment_proxy::config::tls::plain()
        .build()
        .expect("a client")
        .get(format!("{}/livez", stack.url))
        .header("x", "x".repeat(20_000))
        .send()
        .await
        .unwrap();
    assert_problem(headers_too_large, StatusCode::BAD_REQUEST).await;
    let uri_too_long = stack
        .get(&format!("/payments/{}", "x".repeat(20_000)))
        .await;
    assert_problem(uri_too_long, StatusCode::URI_TOO_LONG).await;
    let malformed = stack.raw("nonsense\r\n\r\n").await;
    assert!(malformed.starts_with("HTTP/1.1 400 "), "{malformed}");
    assert!(
        malformed.contains("application/problem+json"),
        "{malformed}"
    );
    let method = stack
        .raw("TRACE /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(method.starts_with("HTTP/1.1 405 "), "{method}");
    assert!(method.contains("application/problem+json"), "{method}");
    assert_problem(stack.get("/problem/timed-out").await, StatusCode::NOT_FOUND).await;
    assert_eq!(stack.counts(), [0, 0]);
}
