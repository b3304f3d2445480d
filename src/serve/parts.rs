//! The parts of an instance through which payments go, connected with each other. None of them runs
//! yet, so tests take their steps one by one.
//!
//! Each cell has an acceptor, a worker and a settler of its own. The router, and with it the
//! breakers, the switches and the number of calls under way, is one for all of them.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use router::{Policy, ProcessorTerms, Router, SharedRouter};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

use crate::config::{DatabaseSettings, ProcessorsSettings};
use crate::domain::cell::{Cell, Cells};
use crate::domain::lease::LeasePolicy;
use crate::pipeline::accept::Acceptor;
use crate::pipeline::batcher::Gathering;
use crate::pipeline::deployment::Admission;
use crate::pipeline::queue_limit::QueueLimit;
use crate::pipeline::route::{self, Recovered};
use crate::pipeline::settle::{CompletedClaim, Returned, SETTLE_BACKLOG};
use crate::pipeline::worker::{Backlog, CHARGE_MAX_ITEMS, CHARGE_MAX_WAIT, Worker};
use crate::processors::{Processor, Stop, processors};
use crate::store::clock::DatabaseClock;
use crate::store::database::Pools;
use crate::telemetry::Telemetry;

/// What the parts of an instance are made of.
pub struct Setup<'a> {
    /// The database, or those of all cells.
    pub database: &'a DatabaseSettings,
    /// The processors.
    pub processors: &'a ProcessorsSettings,
    /// Connections to each processor, at most.
    pub connections: usize,
    /// How payments are routed.
    pub routing: Policy,
    /// How long claims and doubts last.
    pub leases: LeasePolicy,
    /// Payments that may be in the queue: in those of all cells, which have equal parts of it.
    pub queue_limit: NonZeroU64,
    /// Whether the instance may use the database, for each cell.
    pub admission: fn() -> Admission,
    /// What is counted and traced.
    pub telemetry: Telemetry,
}

/// The parts of one instance in one cell.
pub struct Parts {
    /// The cell.
    pub cell: Cell,
    /// What is counted and traced.
    pub telemetry: Telemetry,
    /// Connections to the database.
    pub pools: Pools,
    /// Whether the instance may use the database.
    pub admission: Arc<Admission>,
    /// What is known of the database's clock.
    pub clock: Arc<DatabaseClock>,
    /// The processors, in the router's order.
    pub processors: Arc<Vec<Processor>>,
    /// What the router finds to be back.
    pub recovered: Arc<Recovered>,
    /// What chooses among the processors.
    pub router: SharedRouter,
    /// How much of the queue is left.
    pub queue_limit: Arc<QueueLimit>,
    /// What claims and charges. Settling ends once it and its calls are gone.
    pub worker: Arc<Worker>,
    /// What is to be recorded.
    pub completed: mpsc::Receiver<CompletedClaim>,
}

impl Parts {
    /// Makes the parts for a database that is the only one, or else for the first cell. Nothing is
    /// connected yet.
    ///
    /// # Errors
    /// A processor cannot be called at all.
    pub fn new(setup: Setup<'_>) -> anyhow::Result<Self> {
        let first = Self::of_cells(setup)?.into_iter().next();
        Ok(first.expect("there is at least one cell"))
    }

    /// Makes the parts for each cell. Nothing is connected yet.
    ///
    /// # Errors
    /// A processor cannot be called at all.
    pub(crate) fn of_cells(setup: Setup<'_>) -> anyhow::Result<Cells<Self>> {
        let Setup {
            telemetry, leases, ..
        } = setup;
        let counts = &telemetry.counts;
        let processors = processors(setup.processors, setup.connections, &telemetry)?;
        let recovered: Arc<Recovered> = Arc::default();
        let router = Router::new(setup.routing, terms(setup.processors), Duration::ZERO);
        let router = route::share(router, &recovered, counts);
        let databases = setup.database.cells();
        let permit_back: Arc<[Notify]> = databases.iter().map(|_| Notify::new()).collect();
        let stop = Arc::new(Stop::default());
        let calls = TaskTracker::new();
        Ok(databases.map(|database| {
            let cell = database.cell();
            let admission = Arc::new((setup.admission)());
            let pools = Pools::checked(database, admission.clone(), counts);
            let clock = Arc::new(DatabaseClock::new(leases, counts.clock_steps.clone()));
            let (ended, completed) = mpsc::channel(SETTLE_BACKLOG);
            let wake = Arc::new(Notify::new());
            let worker = Arc::new(Worker {
                cell,
                pool: pools.claims.clone(),
                counts: Arc::clone(counts),
                terms: leases,
                admission: Arc::clone(&admission),
                clock: Arc::clone(&clock),
                processors: Arc::clone(&processors),
                router: router.clone(),
                ended,
                returned: Arc::new(Returned::new(Arc::clone(&wake), counts)),
                wake,
                permit_back: Arc::clone(&permit_back),
                calls: calls.clone(),
                stop: Arc::clone(&stop),
                backlog: Arc::new(Backlog::default()),
                arrived: Gathering::new(CHARGE_MAX_ITEMS, CHARGE_MAX_WAIT),
            });
            Self {
                cell,
                pools,
                admission,
                clock,
                processors: Arc::clone(&processors),
                recovered: Arc::clone(&recovered),
                router: router.clone(),
                queue_limit: Arc::new(QueueLimit::of_cell(setup.queue_limit, cell)),
                worker,
                completed,
                telemetry: telemetry.clone(),
            }
        }))
    }

    /// Starts what accepts payments, which claims them for the worker as long as there is one.
    #[must_use]
    pub fn acceptor(&self) -> Acceptor {
        Acceptor::start(
            &self.pools.accepts,
            &self.router,
            &Arc::downgrade(&self.worker),
            &self.queue_limit,
            &self.admission,
            &self.telemetry.counts,
        )
    }
}

/// What the router has to know of the processors.
fn terms(settings: &ProcessorsSettings) -> Vec<ProcessorTerms> {
    let configured = settings.processors.0.iter();
    let terms = configured.map(|processor| ProcessorTerms {
        name: processor.name.clone(),
        fee: processor.fee,
    });
    terms.collect()
}
