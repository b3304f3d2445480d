//! What the handlers of the API share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Mutex;

use crate::pipeline::accept::Acceptor;
use crate::pipeline::settle::Unrecorded;
use crate::store::database::{LateAnswer, Pool};
use crate::telemetry::Telemetry;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    /// Takes payments to the queue.
    pub acceptor: Acceptor,
    /// Connections for requests.
    pub pool: Pool,
    /// Connections to a standby, where summaries are read from one.
    pub standby: Option<Pool>,
    /// What is counted and traced.
    pub telemetry: Telemetry,
    /// Names of the configured processors, in order of preference.
    pub processors: Arc<[String]>,
    /// Whether queue and ledger may be emptied.
    pub allow_purge: bool,
    /// What cannot be recorded.
    pub unrecorded: Arc<Unrecorded>,
    /// Whether the instance has found its database prepared, and claims payments.
    pub started: Arc<AtomicBool>,
    /// Asks the database whether it takes payments.
    pub readiness: Arc<Readiness>,
    /// Whether the instance is shutting down.
    pub stopping: Arc<AtomicBool>,
}

/// The look at the database that is under way, one for all who ask whether the instance is ready.
#[derive(Debug, Default)]
pub struct Readiness(pub(super) Mutex<LateAnswer<Option<String>>>);
