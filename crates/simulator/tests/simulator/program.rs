//! The program, as scripts start it.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::client::until;

const PROGRAM: &str = env!("CARGO_BIN_EXE_processor-simulator");

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .kill_on_drop(true)
        .env_remove("RUST_LOG")
        .stdout(Stdio::null());
    command
}

fn send(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    kill(Pid::from_raw(id), signal).unwrap();
}

#[tokio::test]
async fn it_ends_within_a_second_of_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let log = folder.path().join(signal.as_str());
        let mut child = program(&["--listen", "127.0.0.1:0"])
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        until("it is ready", || {
            std::fs::read_to_string(&log).is_ok_and(|log| log.contains("is ready"))
        })
        .await;
        let sent_at = Instant::now();
        send(&child, signal);
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
        let took = sent_at.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test]
async fn a_start_that_fails_is_one_line_and_exit_code_two() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    for (arguments, said) in [
        (["--listen", listen.as_str()], "cannot listen on"),
        (["--fee", "5"], "from 0 to 1"),
        (["--rust-log", "much=very"], "RUST_LOG"),
        (["--fault-reply-lost", "2"], "replyLost is 2"),
    ] {
        let mut starting = program(&arguments);
        starting.env("SIMULATOR_LISTEN", "127.0.0.1:0");
        let ended = starting.output().await.unwrap();
        let complaint = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{complaint}");
        assert!(complaint.contains(said), "{complaint}");
    }
}
