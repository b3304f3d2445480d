//! The command line of `payment-proxy`.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use payment_proxy::cli::{Cli, Command};
use payment_proxy::{database, operate, probe, serve, simulator, telemetry, tls};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Takes less time than the system's allocator; `make bench` shows what of it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            if error.code == 0 {
                print!("{}", error.text);
            } else {
                eprint!("{}", error.text);
            }
            return ExitCode::from(error.code);
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(operate::FAILED)
        }
    }
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
    telemetry::start(cli.log_format, &cli.rust_log)?;
    let threads = match &cli.command {
        Command::Serve(settings) => settings.worker_threads.get(),
        _ => 1,
    };
    runtime(threads)?.block_on(async {
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
            Command::Reconcile(args) => return operate::reconcile(*args).await,
            Command::Archive(args) => return operate::archive(*args).await,
            Command::Completions { shell } => Cli::complete(shell, &mut std::io::stdout().lock()),
            Command::Probe(settings) => probe::probe(&settings.listen)?,
            Command::SimulateProcessor(args) => simulator::run(*args, shutdown).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}
