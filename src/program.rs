//! A process of `payment-proxy`, from its arguments to its exit code. It is part of the library, so
//! that what runs here is compiled once, and not a second time with the program.

use std::io::{self, Write as _, stderr};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::output;
use crate::command::{Cli, Command};
use crate::config::tls;
use crate::telemetry::log;
use crate::telemetry::log::{LogWriter, Process};
use crate::telemetry::metrics::ProcessCounts;
use crate::{cli, environment, probe, serve};

/// Does what the arguments and the environment of this process say.
#[must_use]
pub fn main() -> ExitCode {
    if let Err(error) = environment::leave_out_empty() {
        let error = anyhow::Error::from(error).context("cannot leave out variables that are empty");
        return failed(None, &error);
    }
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            return match error.code {
                0 => printed(output::print(&error.text)),
                code => {
                    output::complain(&error.text);
                    ExitCode::from(code)
                }
            };
        }
    };
    let process = match cli.command {
        Command::Serve(_) => Process::Service,
        _ => Process::Command,
    };
    let counts = ProcessCounts::default();
    let log = match log::start(cli.log_format, &cli.rust_log, process, &counts) {
        Ok(log) => log,
        Err(error) => return failed(None, &error),
    };
    run(cli, &counts).unwrap_or_else(|error| failed(log.as_ref(), &error))
}

/// How long a command that shows one look after the other has to give the terminal back after a
/// signal.
const GRACE: Duration = Duration::from_millis(700);

/// Ends a command at SIGINT or SIGTERM with the exit code of a process that a signal ended,
/// whatever it waits for: a database or a processor that is silent, a lock, a name server, a
/// person. What it had begun is undone, or goes on when it is run again, as after a crash.
fn end_at_a_signal(grace: Duration) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    let wait = async move {
        let code = tokio::select! {
            _ = interrupt.recv() => 128 + SignalKind::interrupt().as_raw_value(),
            _ = terminate.recv() => 128 + SignalKind::terminate().as_raw_value(),
        };
        tokio::time::sleep(grace).await;
        std::process::exit(code)
    };
    let waiting = move || runtime.block_on(wait);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(waiting)?;
    Ok(())
}

/// Success, if it could be printed.
fn printed(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(None, &anyhow::Error::new(error).context("cannot print")),
    }
}

/// Says why nothing came of it; a service does not wait for whoever reads that.
fn failed(log: Option<&LogWriter>, error: &anyhow::Error) -> ExitCode {
    let line = output::shown(&format!("error: {}\n", cli::explained(error)));
    let _ = match log {
        Some(log) => log.lines().write_all(line.as_bytes()),
        None => stderr().write_all(line.as_bytes()),
    };
    ExitCode::from(cli::FAILED)
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

fn run(cli: Cli, counts: &ProcessCounts) -> anyhow::Result<ExitCode> {
    match &cli.command {
        // It ends in order.
        Command::Serve(_) => {}
        Command::Status(args) if args.watch.is_some() => end_at_a_signal(GRACE)?,
        _ => end_at_a_signal(Duration::ZERO)?,
    }
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
            Command::Serve(settings) => serve::serve(*settings, counts, shutdown).await?,
            Command::Migrate(settings) => cli::migrate(&settings).await?,
            Command::Divide(args) => cli::divide(*args).await?,
            Command::Status(args) => return cli::status(*args, shutdown).await,
            Command::Summary(args) => return cli::summary(*args).await,
            Command::Payment(args) => return cli::payment(*args).await,
            Command::DeadLetter(args) => return cli::dead_letter(*args).await,
            Command::InDoubt(args) => return cli::in_doubt(*args).await,
            Command::Deployment(args) => return cli::deployment(*args).await,
            Command::Reconcile(args) => return cli::reconcile(*args).await,
            Command::Archive(args) => return cli::archive(*args).await,
            Command::Restore(args) => return cli::restore(*args).await,
            Command::Routing(args) => return cli::routing(*args).await,
            Command::Completions { shell } => output::print(&Cli::completions(shell))?,
            Command::Man { folder } => Cli::man_pages(&folder)?,
            Command::Probe(settings) => probe::probe(&settings.listen)?,
        }
        Ok(ExitCode::SUCCESS)
    });
    // A thread may wait for a name server, which takes as long as that likes.
    runtime.shutdown_background();
    outcome
}
