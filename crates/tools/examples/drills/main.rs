//! `make drills`, `make failover` and `make pooler`: one outage after the other, each on a fresh
//! deployment of real processes under load, with a verdict on every payment, short enough to be run
//! before a release.
//!
//! Exit: 0 every drill passed or could not be run here, which is said; 1 one failed; 2 bad
//! arguments.

mod drill;
mod load;
mod log;
mod outcome;
mod site;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum as _};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use drill::Drill;
use outcome::Outcome;
use payment_proxy::config::QueueDurability;
use tools::deployment;

/// Files that this process and its children may have open, if the system lets them: thousands of
/// clients.
const FILES: u64 = 65_536;

/// Walks outages one by one, and accounts for every payment after each
#[derive(Debug, Parser)]
#[command(max_term_width = 110)]
struct Args {
    /// The drills to run, in this order; without any all of one machine, with --failover all of
    /// three, with --pooler all behind a pooler
    #[arg(value_enum)]
    drills: Vec<Drill>,
    /// Run those whose database is three PostgreSQL under Patroni, with etcd and HAProxy
    #[arg(long)]
    failover: bool,
    /// Run those whose database is behind PgBouncer in transaction mode
    #[arg(long, conflicts_with = "failover")]
    pooler: bool,
    /// The queue of those of --failover; first logged and then unlogged without it
    #[arg(long, value_enum)]
    queue: Option<QueueDurability>,
    /// All choices come from it; chosen at random when it is not given
    #[arg(long, env)]
    seed: Option<u64>,
    /// New payments per second, whatever the replies are
    #[arg(long, env, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    rate: u32,
    /// Keep logs, journals and tables in reports/ even when nothing is wrong
    #[arg(long)]
    keep: bool,
    /// The program `payment-proxy`; by default the one that was built with this
    #[arg(long, env)]
    binary: Option<PathBuf>,
    /// Say what the drills are, and run none
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("drills: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<bool> {
    if args.list {
        for drill in Drill::value_variants() {
            println!("{:20} {}", drill.name(), drill.about());
        }
        return Ok(true);
    }
    let mut drills = args.drills;
    if drills.is_empty() {
        let all = Drill::value_variants().iter().copied();
        let chosen = |drill: &Drill| {
            drill.is_replicated() == args.failover && drill.is_pooled() == args.pooler
        };
        drills.extend(all.filter(chosen));
    }
    let queues = match args.queue {
        Some(queue) => vec![queue],
        None => vec![QueueDurability::Logged, QueueDurability::Unlogged],
    };
    let plan = site::Plan {
        binary: args.binary.map_or_else(deployment::built_with_this, Ok)?,
        seed: args
            .seed
            .unwrap_or_else(|| u64::from(rand::random::<u32>())),
        rate: args.rate,
        queue: queues[0],
        keep: args.keep,
    };
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most.min(FILES), most);
    }
    println!("drills: seed {}, {} payments/s", plan.seed, plan.rate);
    let begun_at = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcomes: Option<Vec<Outcome>> = runtime.block_on(async {
        let all = async {
            let mut outcomes = Vec::new();
            for drill in drills {
                println!("{:20} {}", drill.name(), drill.about());
                let queues = if drill.is_replicated() {
                    &queues[..]
                } else {
                    &queues[..1]
                };
                for queue in queues {
                    let plan = site::Plan {
                        queue: *queue,
                        ..plan.clone()
                    };
                    let outcome = site::run(drill, &plan).await;
                    println!("{outcome}");
                    outcomes.push(outcome);
                }
            }
            outcomes
        };
        tokio::select! {
            outcomes = all => Some(outcomes),
            // The drop of a site ends all that it has started.
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    let Some(outcomes) = outcomes else {
        anyhow::bail!("interrupted");
    };
    println!("\n{}", outcome::table(&outcomes, begun_at.elapsed()));
    Ok(!outcomes.iter().any(Outcome::failed))
}
