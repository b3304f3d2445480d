//! More clients than there is room for, and fewer files than are needed: others are served all the
//! same.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use uuid::Uuid;

use crate::metrics::Watched;
use crate::support::{CENTS, Database, Gateway, TIMEOUT, eventually, processor, processors};

/// As many as one who means harm needs.
const SLOW_CLIENTS: usize = 4_200;
/// More than the usual backlog of a socket, 128, and fewer than clients that an instance has.
const CROWD: usize = 1_000;
const SLOW_HEAD: &[u8] = b"POST /payments HTTP/1.1\r\nHos";
const SLOW_BODY: &[u8] =
    b"POST /payments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
    Content-Length: 71\r\n\r\n{";

/// This process needs a file for each client.
fn many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits");
    assert!(
        hard > 2 * SLOW_CLIENTS as u64,
        "{hard} files are too few for this test"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).expect("more files");
}

async fn connect(gateway: &Gateway, words: &[u8]) -> UnixStream {
    let begun_at = Instant::now();
    loop {
        match UnixStream::connect(gateway.socket()).await {
            Ok(mut stream) => {
                stream.write_all(words).await.expect("written");
                return stream;
            }
            // The backlog is full: the kernel says so at a unix socket, and waits at a port.
            Err(_) if begun_at.elapsed() < TIMEOUT => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn clients_that_send_slowly_keep_nobody_out() {
    many_files();
    let (database, default) = (Database::create().await, processor().await);
    let watched = Watched::start(&database, &processors(&[&default])).await;
    let gateway = &watched.gateway;
    let mut slow = Vec::new();
    for client in 0..SLOW_CLIENTS {
        let words = if client % 2 == 0 {
            SLOW_HEAD
        } else {
            SLOW_BODY
        };
        slow.push(connect(gateway, words).await);
    }
    let begun_at = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..84 {
        let id = Uuid::new_v4();
        // Each on a connection of its own, as somebody new has.
        let http = payment_proxy::config::tls::plain().unix_socket(gateway.socket());
        let http = http.build().expect("a client");
        let post = http
            .post("http://gateway/payments")
            .header("content-type", "application/json")
            .body(crate::support::payment_json(id, CENTS));
        assert_eq!(post.send().await.expect("a reply").status(), 202);
        ids.push(id);
    }
    let took = begun_at.elapsed();
    assert!(
        took < Duration::from_secs(8),
        "{took:?}, which is as long as slow clients may take"
    );
    gateway.until_settled(&ids).await;
    // They made room: for others, where there was none, or because they were slower than the least
    // rate.
    let is_closed = |client: &UnixStream| {
        let read = client.try_read(&mut [0; 1_024]);
        !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let closed = slow.iter().filter(|client| is_closed(client)).count();
    assert!(closed > 100, "{closed}");
    let evicted = watched.scrape().await.value("connections_evicted_total");
    let told = gateway.log().matches("too many clients").count();
    let expected = if evicted > 0.0 { 1..=3 } else { 0..=0 };
    assert!(expected.contains(&told), "{told} lines: {}", gateway.log());
}

/// Starts an instance that may have so many files open: at first, and at most.
fn with_files(database: &Database, processors: &str, soft: u32, hard: u32) -> Gateway {
    let mut program = Command::new("sh");
    let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
    program.args(["-c", &limits, env!("CARGO_BIN_EXE_payment-proxy")]);
    Gateway::spawn_by(program, &database.url, processors, &[], |folder| {
        std::fs::File::create(folder.join("log")).expect("a log file")
    })
}

#[tokio::test]
async fn an_instance_takes_as_many_files_as_it_is_allowed() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = with_files(&database, &processors(&[&default]), 64, 4_096);
    gateway.until_ready().await;
    assert_eq!(gateway.most_files(), 4_096);
    gateway.until_settled(&gateway.post_many(50).await).await;
}

#[tokio::test]
async fn where_files_are_few_idle_clients_leave_some_for_processors_and_the_database() {
    let (database, default) = (Database::create().await, processor().await);
    // It raises the limit as far as it is allowed to.
    let gateway = with_files(&database, &processors(&[&default]), 128, 256);
    gateway.until_ready().await;
    assert!(
        gateway.log().contains("files.most=256"),
        "{}",
        gateway.log()
    );
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(connect(&gateway, b"").await);
    }
    let ids = gateway.post_many(20).await;
    gateway.until_settled(&ids).await;
    eventually("the first clients made room", async || {
        gateway.is_ready().await
    })
    .await;
    let log = gateway.log();
    assert!(log.contains("few files may be open"), "{log}");
    assert!(!log.contains("the breaker of"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn a_crowd_that_comes_while_an_instance_is_busy_waits_at_its_socket() {
    many_files();
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    gateway.signal(Signal::SIGSTOP);
    let mut crowd = Vec::new();
    for client in 0..CROWD {
        // The kernel refuses at once, at a unix socket, what is beyond the backlog.
        let connected = UnixStream::connect(gateway.socket()).await;
        let mut stream = connected.unwrap_or_else(|error| panic!("client {client}: {error}"));
        let request = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(request).await.expect("written");
        crowd.push(stream);
    }
    gateway.signal(Signal::SIGCONT);
    for stream in &mut crowd {
        let mut status = [0; 12];
        let answer = tokio::time::timeout(TIMEOUT, stream.read_exact(&mut status)).await;
        answer.expect("in time").expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 204");
    }
}

#[tokio::test]
async fn running_out_of_files_is_told_of_once_and_is_no_fault_of_a_processor() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    // What clients and the database need is open. Then the system has no more than a few files
    // left, whatever the shares are.
    let mut ids = gateway.post_many(8).await;
    gateway.until_settled(&ids).await;
    gateway.leave_files(2);
    default.processor.set_delay(Duration::from_secs(2));
    for _ in 0..10 {
        ids.extend(gateway.post_many(8).await);
    }
    eventually("files run out", async || {
        gateway.log().contains("no more files may be open")
    })
    .await;
    gateway.until_settled(&ids).await;
    let log = gateway.log();
    assert!(!log.contains("the breaker of"), "{log}");
    let told = log.matches("no more files may be open").count();
    assert!(told <= 5, "{told} lines: {log}");
    assert_eq!(default.processor.payments().len(), ids.len());
}
