//! Starting, stopping, and what is left afterwards.

use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use reqwest::Method;
use serde_json::json;
use simulator::{Args, Settings};
use tokio::net::TcpListener;

use crate::client::{id, started, until};

fn with_journal(path: &Path) -> Settings {
    Settings {
        journal: Some(path.to_owned()),
        ..Settings::default()
    }
}

#[tokio::test]
async fn a_journal_keeps_the_books_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let first = started(with_journal(&path)).await;
    assert_eq!(first.posted(id(1)).await.0, 200);
    assert_eq!(first.posted(id(2)).await.0, 200);
    let records = first.running.processor.payments();
    first.running.stop().await;
    drop(first.client);
    let second = started(with_journal(&path)).await;
    assert_eq!(second.running.processor.payments(), records);
    assert_eq!(second.posted(id(1)).await.0, 422);
}

#[tokio::test]
async fn what_was_replied_to_is_with_the_operating_system() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let simulator = started(with_journal(&path)).await;
    for n in 0..20 {
        assert_eq!(simulator.posted(id(n)).await.0, 200);
        let held = fs::read_to_string(&path).unwrap();
        assert!(held.ends_with('\n') && held.contains(&id(n).to_string()));
    }
}

#[tokio::test]
async fn a_torn_last_line_is_dropped_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let first = started(with_journal(&path)).await;
    assert_eq!(first.posted(id(1)).await.0, 200);
    assert_eq!(first.posted(id(2)).await.0, 200);
    first.running.kill().await;
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let second = started(with_journal(&path)).await;
    assert!(second.stores(id(1)));
    assert!(!second.stores(id(2)));
    assert_eq!(second.posted(id(2)).await.0, 200);
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[tokio::test]
async fn a_purge_outlasts_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let first = started(with_journal(&path)).await;
    assert_eq!(first.posted(id(1)).await.0, 200);
    let purge = first.manage(Method::POST, "/admin/purge-payments", json!({}));
    assert_eq!(purge.await.0, 200);
    assert_eq!(first.posted(id(2)).await.0, 200);
    let records = first.running.processor.payments();
    first.running.kill().await;
    drop(first.client);
    assert_eq!(
        started(with_journal(&path))
            .await
            .running
            .processor
            .payments(),
        records
    );
}

#[tokio::test]
async fn a_stop_lets_payments_in_service_end_and_a_kill_does_not() {
    for (kill, stored) in [(false, 1), (true, 0)] {
        let simulator = started(Settings {
            delay: Duration::from_millis(400),
            ..Settings::default()
        })
        .await;
        let post = tokio::spawn(simulator.post(id(1)).send());
        let processor = simulator.running.processor.clone();
        until("the payment is served", || processor.in_service() == 1).await;
        if kill {
            simulator.running.kill().await;
        } else {
            simulator.running.stop().await;
        }
        assert_eq!(processor.payments().len(), stored);
        assert_eq!(post.await.unwrap().is_ok(), !kill);
    }
}

#[tokio::test]
async fn a_killed_processor_can_be_served_again_at_the_same_address() {
    let simulator = started(Settings::default()).await;
    assert_eq!(simulator.posted(id(1)).await.0, 200);
    let (addr, processor) = (simulator.running.addr, simulator.running.processor.clone());
    simulator.running.kill().await;
    let lookup = format!("http://{addr}/payments/{}", id(1));
    let refused = simulator.client.get(&lookup).send().await.unwrap_err();
    assert!(refused.is_connect(), "{refused:?}");
    let listener = TcpListener::bind(addr).await.unwrap();
    let _again = simulator::serve(processor, listener).unwrap();
    let found = simulator.client.get(&lookup).send().await.unwrap();
    assert_eq!(found.status(), 200);
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

#[test]
fn without_flags_it_is_the_real_default_processor() {
    let args = Command::try_parse_from(["simulate"]).unwrap().args;
    assert_eq!(Settings::from(args), Settings::default());
}

#[test]
fn a_bad_flag_is_refused_with_what_is_accepted() {
    let error = Command::try_parse_from(["simulate", "--fee", "5"])
        .err()
        .unwrap();
    let words = error.to_string();
    assert!(
        words.contains("--fee") && words.contains("from 0 to 1"),
        "{words}"
    );
}

#[tokio::test]
async fn a_taken_port_and_impossible_faults_are_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let args = |more: &[&str]| {
        let flags = ["simulate", "--listen"].iter().chain(more);
        Command::try_parse_from(flags).unwrap().args
    };
    let error = simulator::run(args(&[&listen]), std::future::pending()).await;
    let words = format!("{:#}", error.unwrap_err());
    assert!(
        words.starts_with(&format!("cannot listen on {listen}: ")),
        "{words}"
    );
    assert!(!words.contains('\n'));
    let faulty = args(&["127.0.0.1:0", "--fault-reply-lost", "2"]);
    let error = simulator::run(faulty, std::future::pending()).await;
    let words = format!("{:#}", error.unwrap_err());
    assert!(words.contains("replyLost is 2"), "{words}");
}

#[tokio::test]
async fn it_runs_until_it_is_told_to_stop() {
    let args = Command::try_parse_from(["simulate", "--listen", "127.0.0.1:0"])
        .unwrap()
        .args;
    simulator::run(args, tokio::time::sleep(Duration::from_millis(50)))
        .await
        .unwrap();
}
