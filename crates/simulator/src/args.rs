//! The command line of `processor-simulator`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use rust_decimal::Decimal;
use tokio::net::TcpListener;

use super::settings::{DEFAULT_FEE, DEFAULT_TOKEN};
use super::{Faults, Limits, Settings, start};

/// Simulate one payment processor, with every rule of the real one and faults on demand
///
/// The admin endpoints change all of this while it runs; GET and PUT /admin/faults take the faults
/// as JSON (replyLost, slowMs, ...; what is not named is off), GET /admin/configurations tells
/// delay and failure, GET /admin/payment-ids lists what is stored. All want the token.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct Args {
    /// Address and port to listen on
    #[arg(long, env = "SIMULATOR_LISTEN", default_value = "127.0.0.1:8001")]
    pub listen: SocketAddr,
    /// The part of each amount that the processor keeps, as a fraction: 0.05 is 5 %
    #[arg(long, env = "SIMULATOR_FEE", default_value_t = DEFAULT_FEE, value_parser = fee)]
    pub fee: Decimal,
    /// How long each payment takes, in milliseconds
    #[arg(
        long = "delay",
        env = "SIMULATOR_DELAY",
        default_value_t = 0,
        value_name = "MS"
    )]
    pub delay_ms: u64,
    /// Answer every payment with 500 and store nothing
    #[arg(long, env = "SIMULATOR_FAILING", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub failing: bool,
    /// What the admin endpoints want to see in the header X-Rinha-Token
    #[arg(long, env = "SIMULATOR_TOKEN", default_value = DEFAULT_TOKEN)]
    pub token: String,
    /// File that keeps the stored payments over a restart and over a kill -9; without it they are
    /// kept in memory only
    #[arg(long, env = "SIMULATOR_JOURNAL", value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Number that decides, with the id of a payment, which faults that payment meets
    #[arg(long, env = "SIMULATOR_SEED", default_value_t = 0)]
    pub seed: u64,
    /// What goes wrong, and how often.
    #[command(flatten)]
    pub faults: Faults,
}

fn fee(text: &str) -> Result<Decimal, String> {
    text.parse()
        .ok()
        .filter(|fee| (Decimal::ZERO..=Decimal::ONE).contains(fee))
        .ok_or_else(|| "a fee is a number from 0 to 1".to_owned())
}

impl From<Args> for Settings {
    fn from(args: Args) -> Self {
        Self {
            fee: args.fee,
            token: args.token,
            delay: Duration::from_millis(args.delay_ms),
            failing: args.failing,
            limits: Limits::default(),
            faults: args.faults,
            seed: args.seed,
            journal: args.journal,
        }
    }
}

/// Runs a simulated processor until `shutdown`, or until it cannot go on.
pub async fn run(args: Args, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let listen = args.listen;
    let seed = args.seed;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let mut running = start(args.into(), listener).context("cannot start the processor")?;
    tracing::info!(
        listen.addr = %running.addr,
        simulator.fee = %running.processor.fee(),
        simulator.seed = seed,
        "simulated processor is ready"
    );
    tokio::select! {
        () = shutdown => {
            running.stop().await;
            Ok(())
        }
        error = running.failed() => Err(error).context("the processor stopped"),
    }
}
