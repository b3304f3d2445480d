//! Posts payments at a rate that does not depend on the replies: an open-loop load.
//!
//! A payment is due at its place in the schedule, and its latency counts from then on, whether or
//! not a connection was free: a service that stalls is charged for all who would have come
//! meanwhile.
//!
//! Writes progress to standard error and the result to standard output, as JSON, one object per
//! line.

mod client;
mod schedule;
mod tally;

use std::cell::RefCell;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::json;
use tokio::task::LocalSet;

use client::Client;
use schedule::Schedule;
use tally::Tally;

/// Time between two lines of progress.
const PROGRESS_PERIOD: Duration = Duration::from_millis(500);

/// Posts payments at a rate that does not depend on the replies
#[derive(Debug, Parser)]
#[command(max_term_width = 110)]
struct Args {
    /// Where the API listens
    #[arg(long, value_name = "HOST:PORT")]
    address: SocketAddr,
    /// Payments per second
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How long payments are due
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Connections; a payment that finds none free waits, and the wait counts
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Milliseconds after which a payment that found no connection free is not posted: its client
    /// went away
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout_ms: Option<u32>,
    /// Writes what was posted there: id, milliseconds since 1970, status (0: no reply),
    /// microseconds, cents
    #[arg(long, value_name = "FILE")]
    posted: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tally = LocalSet::new().block_on(&runtime, run(&args))?;
    if let Some(file) = &args.posted {
        tally.write_posted(file)?;
    }
    let mut result = tally.result();
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let cpu = usage.user_time() + usage.system_time();
    result["generator_cpu_s"] =
        json!(Duration::from_micros(cpu.num_microseconds().unsigned_abs()).as_secs_f64());
    println!("{result}");
    Ok(())
}

async fn run(args: &Args) -> anyhow::Result<Tally> {
    let mut clients = Vec::new();
    for _ in 0..args.connections {
        clients.push(Client::connect(args.address).await?);
    }
    let waiting = clients.len();
    let tally = Rc::new(RefCell::new(Tally::start(args.rate, args.seconds)?));
    let schedule = Rc::new(Schedule::start(args.rate, args.seconds));
    let progress = tokio::task::spawn_local({
        let tally = Rc::clone(&tally);
        async move {
            loop {
                tokio::time::sleep(PROGRESS_PERIOD).await;
                let line = tally.borrow_mut().progress();
                // Nobody may be reading; the load goes on.
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        }
    });
    let pacing = tokio::task::spawn_local({
        let schedule = Rc::clone(&schedule);
        async move { schedule.pace(waiting).await }
    });
    let timeout = args.timeout_ms.map(|ms| Duration::from_millis(ms.into()));
    let clients = clients.into_iter().map(|client| {
        let (schedule, tally) = (Rc::clone(&schedule), Rc::clone(&tally));
        tokio::task::spawn_local(client.post_all(schedule, tally, timeout))
    });
    for client in clients.collect::<Vec<_>>() {
        client.await?;
    }
    pacing.await??;
    progress.abort();
    let _ = progress.await;
    Ok(Rc::into_inner(tally)
        .expect("all tasks that held the tally have ended")
        .into_inner())
}
