//! The command line of `payment-proxy`.

use std::io::{Write as _, stderr, stdout};
use std::process::ExitCode;

use mimalloc::MiMalloc;
use payment_proxy::cli::{Cli, Command};
use payment_proxy::telemetry::{LogWriter, Process};
use payment_proxy::{database, environment, operate, probe, serve, simulator, telemetry, tls};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Takes less time than the system's allocator; `make bench` shows what of it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    if let Err(error) = environment::leave_out_empty() {
        let error = anyhow::Error::from(error).context("cannot leave out variables that are empty");
        return failed(None, &error);
    }
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Where nobody reads it the exit code tells.
            let _ = match error.code {
                0 => stdout().write_all(error.text.as_bytes()),
                _ => stderr().write_all(error.text.as_bytes()),
            };
            return ExitCode::from(error.code);
        }
    };
    let process = match cli.command {
        Command::Serve(_) | Command::SimulateProcessor(_) => Process::Service,
        _ => Process::Command,
    };
    let log = match telemetry::start(cli.log_format, &cli.rust_log, process) {
        Ok(log) => log,
        Err(error) => return failed(None, &error),
    };
    run(cli).unwrap_or_else(|error| failed(log.as_ref(), &error))
}

/// Says why nothing came of it; a service does not wait for whoever reads that.
fn failed(log: Option<&LogWriter>, error: &anyhow::Error) -> ExitCode {
    let line = format!("error: {error:#}\n");
    let _ = match log {
        Some(log) => log.lines().write_all(line.as_bytes()),
        None => stderr().write_all(line.as_bytes()),
    };
    ExitCode::from(operate::FAILED)
}

/// A single thread wakes nobody else and shares nothing.
fn runtime(threads: usize) -> std::io::Result<Runtime> {
    match threads {
        1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build(),
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    tls::provide();
    let threads = match &cli.command {
        Command::Serve(settings) => settings.worker_threads.get(),
        _ => 1,
    };
    let runtime = runtime(threads)?;
    let outcome = runtime.block_on(async {
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
        match cli.command {
            Command::Serve(settings) => serve::serve(*settings, shutdown).await?,
            Command::Migrate(settings) => database::migrate(&settings).await?,
            Command::Status(args) => return operate::status(*args, shutdown).await,
            Command::Summary(args) => return operate::summary(*args).await,
            Command::Payment(args) => return operate::payment(*args).await,
            Command::DeadLetter(args) => return operate::dead_letter(*args).await,
            Command::InDoubt(args) => return operate::in_doubt(*args).await,
            Command::Deployment(args) => return operate::deployment(*args).await,
            Command::Reconcile(args) => return operate::reconcile(*args).await,
            Command::Archive(args) => return operate::archive(*args).await,
            Command::Restore(args) => return operate::restore(*args).await,
            Command::Completions { shell } => Cli::complete(shell, &mut std::io::stdout().lock()),
            Command::Probe(settings) => probe::probe(&settings.listen)?,
            Command::SimulateProcessor(args) => simulator::run(*args, shutdown).await?,
        }
        Ok(ExitCode::SUCCESS)
    });
    // A thread may wait for a name server, which takes as long as that likes.
    runtime.shutdown_background();
    outcome
}
