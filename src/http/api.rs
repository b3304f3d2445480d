//! What the handlers of the API share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Mutex;

use super::Problem;
use crate::domain::cell::{Cell, Cells};
use crate::pipeline::accept::Acceptor;
use crate::pipeline::settle::Unrecorded;
use crate::store::database::{LateAnswer, Pool};
use crate::telemetry::Telemetry;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    /// Where payments live.
    pub cells: Cells<ApiCell>,
    /// What is counted and traced.
    pub telemetry: Telemetry,
    /// Names of the configured processors, in order of preference.
    pub processors: Arc<[String]>,
    /// Whether queue and ledger may be emptied.
    pub allow_purge: bool,
    /// Whether the instance is shutting down.
    pub stopping: Arc<AtomicBool>,
}

/// What the handlers have for the payments of one cell.
#[derive(Debug, Clone)]
pub struct ApiCell {
    /// The cell.
    pub cell: Cell,
    /// Takes payments to its queue.
    pub acceptor: Acceptor,
    /// Connections for requests.
    pub pool: Pool,
    /// Connections to a standby, where summaries are read from one.
    pub standby: Option<Pool>,
    /// What cannot be recorded.
    pub unrecorded: Arc<Unrecorded>,
    /// Whether the instance has found its database prepared, and claims payments.
    pub started: Arc<AtomicBool>,
    /// Asks the database whether it takes payments.
    pub readiness: Arc<Readiness>,
}

impl ApiCell {
    /// What a client is told whose request failed for want of this cell.
    pub(super) fn problem(&self, error: sqlx::Error) -> Problem {
        Problem::from(error).of_cell(self.cell)
    }
}

/// The look at the database that is under way, one for all who ask whether the instance is ready.
#[derive(Debug, Default)]
pub struct Readiness(pub(super) Mutex<LateAnswer<Option<String>>>);
