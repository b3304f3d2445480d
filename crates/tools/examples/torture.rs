//! `make torture`: minutes of load on two instances while they, the database and the processors are
//! killed, stopped and made to fail, and then a verdict on every payment.
//!
//! Exit: 0 nothing was wrong; 1 something was, or the round could not be finished.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use payment_proxy::config::QueueDurability;

use tools::deployment;
use tools::torture::{self, Pace, Plan};

/// Tortures two instances of the service, and accounts for every payment afterwards
#[derive(Debug, Parser)]
#[command(max_term_width = 110)]
struct Args {
    /// How long load and trouble last, in each mode
    #[arg(long, env, default_value_t = 3.0, value_parser = minutes)]
    minutes: f64,
    /// Durability of the queue; in `unlogged` a killed database server empties it
    #[arg(long, env, value_enum, default_value_t = Mode::Both)]
    mode: Mode,
    /// All choices come from it; chosen at random when it is not given
    #[arg(long, env)]
    seed: Option<u64>,
    /// New payments per second that the clients aim at
    #[arg(long, env, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Keep logs, journals and tables in reports/ even when nothing is wrong
    #[arg(long)]
    keep: bool,
    /// The program `payment-proxy`; by default the one that was built with this
    #[arg(long, env)]
    binary: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Unlogged,
    Logged,
    Both,
}

fn minutes(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|minutes| (0.05..=1_440.0).contains(minutes))
        .ok_or_else(|| "expected minutes from 0.05 to 1440".to_owned())
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<bool> {
    let modes = match args.mode {
        Mode::Unlogged => vec![QueueDurability::Unlogged],
        Mode::Logged => vec![QueueDurability::Logged],
        Mode::Both => vec![QueueDurability::Unlogged, QueueDurability::Logged],
    };
    let binary = args.binary.map_or_else(deployment::built_with_this, Ok)?;
    let seed = args
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut sound = true;
    for durability in modes {
        println!("torture: {durability:?} queue, seed {seed}");
        let plan = Plan {
            binary: binary.clone(),
            durability,
            length: Duration::from_secs_f64(args.minutes * 60.0),
            seed,
            rate: args.rate,
            pace: pace(),
            reports: tools::repository().join("reports"),
            keep: args.keep,
        };
        let report = runtime.block_on(async {
            tokio::select! {
                report = torture::run(&plan) => report.map(Some),
                // The drop of the round ends all that it has started.
                _ = tokio::signal::ctrl_c() => Ok(None),
            }
        })?;
        let Some(report) = report else {
            anyhow::bail!("interrupted");
        };
        println!("{report}");
        sound &= report.findings.is_empty();
    }
    Ok(sound)
}

/// Leases and doubts that last seconds, so that minutes see many of them lost.
fn pace() -> Pace {
    let millis = Duration::from_millis;
    Pace {
        processor_timeout: millis(1_500),
        late_charge: millis(6_000),
        longest_delay: millis(1_000),
        longest_slow: millis(2_500),
        instance_pause: millis(1_000)..millis(6_000),
        database_pause: millis(3_000)..millis(14_000),
        away: millis(0)..millis(1_500),
        faults_pause: millis(800)..millis(5_000),
        long_stops: true,
        clock_off: Some(millis(14_000)..millis(900_000)),
        restores: true,
    }
}
