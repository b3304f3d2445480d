//! A log that cannot be written, or that nobody reads: nothing stops, and what is lost is counted.

use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use payment_proxy::telemetry::log::LOG_BACKLOG;

use crate::attention::kinds;
use crate::command_line::{json, program};
use crate::metrics::Watched;
use crate::support::{CENTS, Database, Gateway, TIMEOUT, eventually, processor, processors};

const DEBUG: [(&str, &str); 1] = [("RUST_LOG", "debug")];
/// How long an instance may take to stop: its own limit, and a busy machine.
const STOPS_WITHIN: Duration = Duration::from_secs(15);

/// A file system that is full.
fn full() -> File {
    File::options()
        .write(true)
        .open("/dev/full")
        .expect("Linux has it")
}

/// Payments go on at every level, and what is dropped for that reason is counted and told.
async fn goes_on(database: &Database, watched: &Watched, reason: &str) {
    let gateway = &watched.gateway;
    let mut ids = Vec::new();
    let dropped = format!("log_lines_dropped_total{{reason=\"{reason}\"}}");
    eventually("lines are dropped, and payments go on", async || {
        ids.extend(gateway.post_many(50).await);
        gateway.post(ids[0], CENTS + 1).await;
        watched.scrape().await.value(&dropped) > 100.0
    })
    .await;
    gateway.until_settled(&ids).await;
    assert_eq!(watched.scrape().await.value("panics_total"), 0.0);
    eventually("status tells of it", async || {
        let (_, status) = json(&mut program(&database.url, &["status"])).await;
        kinds(&status["attention"]).contains("log_lines_dropped")
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_under_the_log_stops_nothing() {
    let (database, default) = (Database::create().await, processor().await);
    let default = processors(&[&default]);
    let watched = Watched::start_logging(&database, &default, &DEBUG, full()).await;
    goes_on(&database, &watched, "unwritable").await;
    let (took, _) = watched.gateway.stop().await;
    assert!(took < STOPS_WITHIN, "{took:?}");
}

#[tokio::test]
async fn a_reader_of_the_log_that_has_gone_stops_nothing() {
    let (database, default) = (Database::create().await, processor().await);
    let default = processors(&[&default]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let watched = Watched::start_logging(&database, &default, &DEBUG, writer).await;
    goes_on(&database, &watched, "unwritable").await;
    let (took, _) = watched.gateway.stop().await;
    assert!(took < STOPS_WITHIN, "{took:?}");
}

#[tokio::test]
async fn a_reader_of_the_log_that_does_not_read_stops_nothing_and_is_told_what_is_missing() {
    let (database, default) = (Database::create().await, processor().await);
    let default = processors(&[&default]);
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let watched = Watched::start_logging(&database, &default, &DEBUG, writer).await;
    goes_on(&database, &watched, "overflowed").await;
    // It reads again, in a thread of its own, until the instance ends.
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).expect("text");
        log
    });
    let gateway = watched.gateway;
    gateway.until_settled(&gateway.post_many(5).await).await;
    let (took, _) = gateway.stop().await;
    assert!(took < STOPS_WITHIN, "{took:?}");
    let log = reading.join().expect("it reads");
    assert!(log.lines().count() > LOG_BACKLOG, "what waited is written");
    assert!(log.contains("lines of this log were dropped"), "{log}");
    let last = log.lines().last().expect("a line");
    assert!(last.ends_with("stopped"), "the last line is: {last}");
}

#[tokio::test]
async fn nobody_waits_for_a_reader_of_the_log_when_an_instance_stops() {
    let (database, default) = (Database::create().await, processor().await);
    let default = processors(&[&default]);
    let (_silent, writer) = std::io::pipe().expect("a pipe");
    let settings = [("RUST_LOG", "trace")];
    let gateway = Gateway::spawn_logging(&database.url, &default, &settings, |_| writer);
    gateway.until_ready().await;
    gateway.until_settled(&gateway.post_many(200).await).await;
    let (took, _) = gateway.stop().await;
    assert!(took < STOPS_WITHIN, "{took:?}");
}

#[test]
fn an_error_that_cannot_be_written_leaves_the_exit_code_as_it_is() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    for (arguments, settings, expected) in [
        // Found by the service itself, by the command line, and by a command.
        (vec!["serve"], vec![("LISTEN", taken.as_str())], 2),
        (vec!["serve", "--nonsense"], vec![], 2),
        (vec!["serve"], vec![("RUST_LOG", "payment_proxy=loud")], 2),
        (
            vec!["summary"],
            vec![("DATABASE_URL", "postgres://a@127.0.0.1:1/b")],
            2,
        ),
        // What was asked for cannot be written, as that of any other command.
        (vec!["--help"], vec![], 2),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
            .args(&arguments)
            .envs(settings)
            .stdin(Stdio::null())
            .stdout(full())
            .stderr(full())
            .spawn()
            .expect("the program starts");
        let begun_at = std::time::Instant::now();
        let status = loop {
            match child.try_wait().expect("a child") {
                Some(status) => break status,
                None if begun_at.elapsed() > TIMEOUT => {
                    let _ = child.kill();
                    panic!("{arguments:?} does not end");
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        assert_eq!(status.code(), Some(expected), "{arguments:?}");
    }
}
