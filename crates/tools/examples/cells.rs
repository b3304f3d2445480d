//! `make cells`: four cells in two PostgreSQL clusters, two instances, two simulated processors and
//! a load. One cluster is killed and comes back, a cell moves to the other cluster, and every
//! payment is accounted for. Then the throughput of 1, 2 and 4 cells. Then the walk on a Citus
//! cluster, where its extension is installed.
//!
//! Exit: 0 nothing was wrong; 1 something was, or it could not be run; 2 bad arguments.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use tools::cells::{self, Plan};
use tools::deployment;

/// Walks a deployment of four cells through the loss and the move of cells
#[derive(Debug, Parser)]
#[command(max_term_width = 110)]
struct Args {
    /// New payments per second, whatever the replies are
    #[arg(long, env, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    rate: u32,
    /// Seconds of load before, during and after each event
    #[arg(long, env = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Seconds for which each number of cells is measured; 0: none is
    #[arg(long, default_value_t = 10)]
    measured: u64,
    /// The program `payment-proxy`; by default the one that was built with this
    #[arg(long, env)]
    binary: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            for line in wrong {
                println!("WRONG  {line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cells: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Walks all of it. Returns what was wrong.
fn run(args: Args) -> anyhow::Result<Vec<String>> {
    let plan = Plan {
        binary: args.binary.map_or_else(deployment::built_with_this, Ok)?,
        cells: 4,
        rate: args.rate,
        while_it_runs: Duration::from_secs(args.seconds),
        measured: Duration::from_secs(args.measured),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut wrong = cells::walk(&plan).await?.wrong;
        println!("\non Citus:");
        match cells::walk_on_citus(&plan).await? {
            Some(report) => wrong.extend(report.wrong),
            None => println!("NOT RUN: its extension is not installed here"),
        }
        Ok(wrong)
    })
}
