//! `make cells`: four cells in two PostgreSQL clusters, two instances, two simulated processors and
//! a load. One cluster is killed and comes back, a cell moves to the other cluster, and every
//! payment is accounted for. Then the throughput of 1, 2 and 4 cells.
//!
//! Exit: 0 nothing was wrong; 1 something was, or it could not be run; 2 bad arguments.

mod audit;
mod load;
mod site;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;

use load::Load;
use site::Site;
use tools::deployment;

/// How long a cell that is back, or has moved, may refuse payments.
const BACK_WITHIN: Duration = Duration::from_secs(30);

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
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let walked = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(&args)));
    match walked {
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
async fn run(args: &Args) -> anyhow::Result<Vec<String>> {
    let binary = args
        .binary
        .clone()
        .map_or_else(deployment::built_with_this, Ok)?;
    let mut site = Site::start(binary).await?;
    let while_it_runs = Duration::from_secs(args.seconds);
    let mut wrong = Vec::new();
    let load = Load::start(site.sockets(), args.rate);

    load.phase("all is well");
    tokio::time::sleep(while_it_runs).await;

    load.phase("cells 3 and 4 are away");
    site.crash(1).await?;
    tokio::time::sleep(while_it_runs).await;
    let told = site.readiness().await?;
    for cell in [3, 4] {
        if !told.contains(&format!("\"cell\":{cell}")) {
            wrong.push(format!("readyz does not name cell {cell}: {told}"));
        }
    }
    let summary = site.summary_status().await?;
    if summary != 503 {
        wrong.push(format!(
            "a summary that lacks two cells is answered with {summary}"
        ));
    }
    load.phase("they come back");
    site.restart(1).await?;
    let back = load.until_accepted_in(&[3, 4], BACK_WITHIN).await;
    println!(
        "cells 3 and 4 took payments again {:.1} s after the start",
        back?.as_secs_f64()
    );

    site.until_ready().await?;

    load.phase("cell 4 moves");
    let moved = site.move_cell(4).await?;
    let back = load.until_accepted_in(&[4], BACK_WITHIN).await?;
    println!(
        "cell 4 moved in {:.1} s, and took payments again {:.1} s after that",
        moved.as_secs_f64(),
        back.as_secs_f64()
    );

    load.phase("all is well again");
    tokio::time::sleep(while_it_runs).await;
    let load = load.stop().await;
    println!("\n{load}");
    for (phase, cells) in [
        ("all is well", &[1, 2, 3, 4][..]),
        ("cells 3 and 4 are away", &[1, 2]),
        ("they come back", &[1, 2]),
        ("cell 4 moves", &[1, 2, 3]),
        ("all is well again", &[1, 2, 3, 4]),
    ] {
        for cell in cells {
            let refused = load.refused(phase, *cell);
            if refused > 0 {
                wrong.push(format!(
                    "{refused} posts of cell {cell} were refused while {phase}"
                ));
            }
        }
    }
    wrong.extend(audit::audit(&site, &load).await.context("the audit")?);

    println!("{}\n", site.citus().await?);
    if args.measured > 0 {
        site.stop_instances().await;
        throughput::measure(&mut site, Duration::from_secs(args.measured)).await?;
    }
    site.stop().await;
    Ok(wrong)
}
