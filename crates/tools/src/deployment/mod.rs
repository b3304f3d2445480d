//! A whole deployment of real processes, for `make torture` and `make drills`: PostgreSQL, two
//! simulated processors, two instances and nginx; what its clients were told ([`ledger`]), what
//! each side says at the end ([`facts`]), and what of that is wrong ([`verdict`]).

pub mod cluster;
pub mod facts;
pub mod ledger;
mod pooler;
pub mod process;
pub mod processor;
pub mod replicas;
pub mod stack;
pub mod timeline;
pub mod verdict;
pub mod volume;

use std::path::{Path, PathBuf};
use std::time::Duration;

use payment_proxy::config::QueueDurability;
use payment_proxy::domain::lease::LeasePolicy;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// What a deployment is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The program `payment-proxy`, beside which `processor-simulator` is.
    pub binary: PathBuf,
    /// Whether the queue is logged.
    pub durability: QueueDurability,
    /// What the processors draw their choices from.
    pub seed: u64,
    /// `PROCESSOR_TIMEOUT_MS` of the instances.
    pub processor_timeout: Duration,
    /// `LATE_CHARGE_MS` of the instances.
    pub late_charge: Duration,
    /// Whether the clock of the database server can be set, which takes libfaketime.
    pub clock_can_be_set: bool,
    /// Other settings of the instances.
    pub settings: &'static [(&'static str, &'static str)],
    /// Files that an instance may have open; without it as many as this process.
    pub most_files: Option<u32>,
    /// The database server, where it is not to be one of the deployment's own.
    pub database: Option<cluster::Endpoint>,
    /// Whether PgBouncer is between the instances and the database, in transaction mode.
    pub pooled: bool,
    /// Where the database's files are; without it in the folder of the deployment.
    pub data: Option<PathBuf>,
    /// Where the database's WAL is; without it with its other files.
    pub wal: Option<PathBuf>,
    /// Settings of the database server, as `NAME=VALUE`.
    pub server_settings: Vec<String>,
    /// Where the instances' logs are; without it with all others.
    pub instance_logs: Option<PathBuf>,
}

impl Setup {
    /// One without any oddity.
    pub fn plain(
        binary: PathBuf,
        durability: QueueDurability,
        seed: u64,
        processor_timeout: Duration,
        late_charge: Duration,
    ) -> Self {
        Self {
            binary,
            durability,
            seed,
            processor_timeout,
            late_charge,
            clock_can_be_set: false,
            settings: &[],
            most_files: None,
            database: None,
            pooled: false,
            data: None,
            wal: None,
            server_settings: Vec::new(),
            instance_logs: None,
        }
    }

    /// How long a payment may be in doubt whose worker died.
    pub fn longest_doubt(&self) -> Duration {
        LeasePolicy::new(self.processor_timeout, self.late_charge).lease + self.late_charge
    }
}

/// The program `payment-proxy` that was built with this one: cargo puts examples into a folder
/// beside it.
pub fn built_with_this() -> anyhow::Result<PathBuf> {
    use anyhow::Context as _;
    let this = std::env::current_exe()?;
    let target = this.parent().and_then(std::path::Path::parent);
    let binary = target
        .context("an example is in target/")?
        .join("payment-proxy");
    anyhow::ensure!(
        binary.exists(),
        "{} is not there: cargo build --bin payment-proxy",
        binary.display()
    );
    Ok(binary)
}

/// The program `processor-simulator`, which cargo puts into the same folder.
pub fn simulator(binary: &Path) -> anyhow::Result<PathBuf> {
    let simulator = binary.with_file_name("processor-simulator");
    // For a test cargo builds the programs of the test's own package only.
    anyhow::ensure!(
        simulator.exists(),
        "{} is not there: cargo build --bins, or for a test cargo test --no-run --test simulator",
        simulator.display()
    );
    Ok(simulator)
}

/// A generator for one part of a run, so that its choices do not depend on how the parts take
/// turns.
pub fn generator(seed: u64, part: u64) -> StdRng {
    StdRng::seed_from_u64(StdRng::seed_from_u64(seed ^ part.rotate_left(32)).random())
}
