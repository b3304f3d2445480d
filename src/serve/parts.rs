//! The parts of an instance through which payments go, connected with each other. None of them runs
//! yet, so tests take their steps one by one.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use router::{Policy, ProcessorTerms, Router, SharedRouter};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

use crate::config::{DatabaseSettings, ProcessorsSettings};
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
    /// The database.
    pub database: &'a DatabaseSettings,
    /// The processors.
    pub processors: &'a ProcessorsSettings,
    /// Connections to each processor, at most.
    pub connections: usize,
    /// How payments are routed.
    pub routing: Policy,
    /// How long claims and doubts last.
    pub leases: LeasePolicy,
    /// Payments that may be in the queue.
    pub queue_limit: NonZeroU64,
    /// Whether the instance may use the database.
    pub admission: Admission,
    /// What is counted and traced.
    pub telemetry: Telemetry,
}

/// The parts of one instance.
pub struct Parts {
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
    /// Makes the parts. Nothing is connected yet.
    ///
    /// # Errors
    /// A processor cannot be called at all.
    pub fn new(setup: Setup<'_>) -> anyhow::Result<Self> {
        let Setup {
            telemetry, leases, ..
        } = setup;
        let counts = &telemetry.counts;
        let processors = processors(setup.processors, setup.connections, &telemetry)?;
        let recovered = Arc::default();
        let router = Router::new(setup.routing, terms(setup.processors), Duration::ZERO);
        let router = route::share(router, &recovered, counts);
        let admission = Arc::new(setup.admission);
        let pools = Pools::checked(setup.database, admission.clone(), counts);
        let clock = Arc::new(DatabaseClock::new(leases, counts.clock_steps.clone()));
        let (ended, completed) = mpsc::channel(SETTLE_BACKLOG);
        let wake = Arc::new(Notify::new());
        let worker = Arc::new(Worker {
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
            permit_back: Arc::default(),
            calls: TaskTracker::new(),
            stop: Arc::new(Stop::default()),
            backlog: Arc::new(Backlog::default()),
            arrived: Gathering::new(CHARGE_MAX_ITEMS, CHARGE_MAX_WAIT),
        });
        Ok(Self {
            pools,
            admission,
            clock,
            processors,
            recovered,
            router,
            queue_limit: Arc::new(QueueLimit::new(setup.queue_limit)),
            worker,
            completed,
            telemetry,
        })
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
