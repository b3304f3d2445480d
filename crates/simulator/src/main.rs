//! The program `processor-simulator`: one simulated processor.

use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use mimalloc::MiMalloc;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// As in the service: the two share the CPUs of a benchmark.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The exit code of a processor that could not start, or could not go on.
const FAILED: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "processor-simulator",
    version,
    max_term_width = 110,
    after_help = "Exit code: 0 it was stopped; 2 it could not start"
)]
struct Program {
    #[command(flatten)]
    args: simulator::Args,

    /// What is logged to standard error, as `level` or `module=level`, separated by commas
    #[arg(
        long,
        env = "RUST_LOG",
        value_name = "RUST_LOG",
        default_value = "info"
    )]
    rust_log: String,
}

fn main() -> ExitCode {
    match run(Program::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// Runs the processor on one thread until SIGTERM or SIGINT.
fn run(program: Program) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&program.rust_log);
    tracing_subscriber::fmt()
        .with_env_filter(filter.context("RUST_LOG")?)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        // It would tell of them on standard error, and panic where that cannot be written.
        .log_internal_errors(false)
        .init();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        simulator::run(program.args, shutdown).await
    })
}
