//! One instance, from its start to its orderly end.

mod end;
mod files;
mod listen;
mod operators;
mod parts;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::{join_all, select_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use router::Policy;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::config::{DatabaseSettings, Processors, Settings};
use crate::domain::attention::{Attention, Item, OwnAttention};
use crate::domain::cell::{Cell, Cells};
use crate::domain::lease::LeasePolicy;
use crate::domain::uptime::Uptime;
use crate::http::live::{Observer, Simulator};
use crate::http::{Api, ApiCell, Limits};
use crate::pipeline::accept::Tally;
use crate::pipeline::deployment::{Admission, Candidate, Member, MemberTerms, ReadCheck};
use crate::pipeline::history::Recorder;
use crate::pipeline::queue_limit::QueueLimit;
use crate::pipeline::settle;
use crate::processors::Stop;
use crate::scrape::Scrape;
use crate::store::database::{self, Pool, Pooling, Pools, RETRY_PAUSE, Schema, ServingPoll};
use crate::store::fee;
use crate::store::in_doubt;
use crate::store::situation;
use crate::telemetry::Telemetry;
use crate::telemetry::log;
use crate::telemetry::metrics::ProcessCounts;
pub use end::SHUTDOWN;
pub(crate) use end::{CALLS_DRAIN, CLOSE, REQUESTS_DRAIN, SETTLE_DRAIN};
pub use parts::{Parts, Setup};

use end::broken_part;
use files::Shares;
use listen::listen;
use operators::Operators;

/// How long clients who come too early wait for an instance to be prepared, which takes some
/// milliseconds; until then the kernel keeps them. A load balancer would pass a 503 on, while
/// another instance serves.
pub const START_TIMEOUT: Duration = Duration::from_millis(700);

/// Runs an instance until `shutdown` is ready, then ends it in order within [`SHUTDOWN`].
///
/// The API answers from the start; it accepts payments as soon as the database is there and
/// migrated. Where there are several cells, each begins when its own database is, and the others do
/// not wait for one that is away.
///
/// # Errors
/// The address is taken, a processor cannot be called at all, the migrations are refused, a
/// database is another cell than its place in `DATABASE_URL` says, or a part of the instance broke.
pub async fn serve(
    settings: Settings,
    process: &ProcessCounts,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let started_at = Instant::now();
    (settings.database.check_direct()).map_err(anyhow::Error::msg)?;
    let collector = settings.otel_exporter_otlp_endpoint.as_ref();
    let telemetry = Telemetry::start(process, collector).context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let files = files::raise_limit();
    let configured = settings.processors.processors.0.len();
    let shares = files::share(files, Limits::default().connections, configured);
    let parts = Parts::of_cells(setup(&settings, &shares, telemetry))?;
    let names = configured_names(&settings);
    let cells = cells(&settings, &parts)?;
    let state = State {
        instance: Uuid::new_v4(),
        own: Arc::new(own_attention(&parts, process)),
        names,
        stopping: Arc::default(),
    };
    let mut running = Running::of(&parts, &cells);
    if let Some(operators) = operators(&settings, &shares, &parts, &state, &cells)? {
        let operators = operators.start(running.http_stop.clone()).await?;
        running.tasks.spawn(operators);
    }
    let accepting: Vec<_> = cells.iter().map(|cell| cell.acceptor.writers()).collect();
    let started = cells.map(|cell| Arc::clone(&cell.started));
    // Last, so that whoever is answered here finds the operators' address open, too.
    let routes = api(&settings, &running.telemetry, &state, cells).routes();
    let limits = Limits {
        connections: shares.clients,
        ..Limits::default()
    };
    let address = &settings.listen.listen;
    let (counts, stop) = (
        Arc::clone(&running.telemetry.counts),
        running.http_stop.clone(),
    );
    let served = listen("LISTEN", address, limits, counts, routes, stop).await?;
    tracing::info!(listen = %address, database = %settings.database.database_url, "listening");
    shares.warn_of_few(files);

    let starts = starts(&settings, &parts, state.instance);
    let mut preparing: FuturesUnordered<_> = starts.iter().map(Start::prepare).collect();
    let mut parts: Vec<Option<Parts>> = parts.into_iter().map(Some).collect();
    let started: Vec<_> = started.into_iter().collect();
    let mut served = Some(served);
    let mut timeout = pin!(tokio::time::sleep(START_TIMEOUT));
    let mut shutdown = pin!(shutdown);
    let ends = accepting
        .iter()
        .map(|writers| Box::pin(writers.cancelled()));
    let mut accepting_ended = select_all(ends);
    // Whatever breaks ends the instance, which is started anew then: it must not go on without one
    // of its parts.
    let outcome = loop {
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            Some(prepared) = preparing.next() => {
                let (cell, pooling): (Cell, Pooling) = match prepared {
                    Ok(prepared) => prepared,
                    Err(error) => break Err(error),
                };
                let place = cell.number() - 1;
                let own = parts[place].take().expect("it is prepared once");
                let start = &starts[place];
                let listens = start.database.direct_database_url.is_some()
                    || pooling == Pooling::Session;
                let hints = listens.then(|| own.pools.hints.clone());
                running.start(own, &state, start.candidate.clone(), hints);
                started[place].store(true, Ordering::Relaxed);
                let start_seconds = started_at.elapsed().as_secs_f64();
                tracing::info!(start_seconds, cell = cell.label(), "ready");
            }
            () = &mut timeout, if served.is_some() => {
                running.tasks.spawn(served.take().expect("checked just now"));
            }
            broken = running.tasks.join_next(), if !running.tasks.is_empty() => {
                break broken_part(broken);
            }
            ended = running.settling.join_next(), if !running.settling.is_empty() => {
                break Err(anyhow::anyhow!("settling broke: {ended:?}"));
            }
            _ = &mut accepting_ended => break Err(anyhow::anyhow!("accepting broke")),
        }
        if preparing.is_empty()
            && let Some(served) = served.take()
        {
            running.tasks.spawn(served);
        }
    };
    // Those that it asked for admission, or still asks, and does not serve.
    drop(preparing);
    let asked = starts
        .iter()
        .zip(&parts)
        .filter(|(_, parts)| parts.is_some());
    let signed_off = asked.map(|(start, _)| start.candidate.sign_off(&start.requests));
    let _ = tokio::time::timeout(CLOSE, join_all(signed_off)).await;
    if running.settling.is_empty() {
        return outcome;
    }
    drop(parts);
    tracing::info!("stopping");
    state.stopping.store(true, Ordering::Relaxed);
    running.end().await;
    tracing::info!("stopped");
    outcome
}

/// What the addresses of an instance answer from.
struct State {
    instance: Uuid,
    own: Arc<OwnAttention>,
    names: Arc<[String]>,
    stopping: Arc<AtomicBool>,
}

/// What the parts of an instance that serves are made of.
fn setup<'a>(settings: &'a Settings, shares: &Shares, telemetry: Telemetry) -> Setup<'a> {
    Setup {
        database: &settings.database,
        processors: &settings.processors,
        connections: shares.processor,
        routing: Policy {
            own_cap: shares.payments(),
            hold: settings.hold,
            ..Policy::default()
        },
        leases: LeasePolicy::new(settings.processors.processor_timeout, settings.late_charge),
        queue_limit: settings.queue_limit,
        admission: Admission::new,
        telemetry,
    }
}

/// What clients are answered from, for each cell.
///
/// # Errors
/// `READ_DATABASE_URL` has another number of cells.
fn cells(settings: &Settings, parts: &Cells<Parts>) -> anyhow::Result<Cells<ApiCell>> {
    let standbys = match &settings.read_database_url {
        None => None,
        Some(database_url) => {
            let variable = "READ_DATABASE_URL";
            let same = database_url.has_cells_of(variable, &settings.database.database_url);
            same.map_err(anyhow::Error::msg)?;
            Some(DatabaseSettings {
                database_url: database_url.clone(),
                ..settings.database.clone()
            })
        }
    };
    let standbys = standbys.map(|standbys| standbys.cells());
    let mut standbys = standbys.iter().flat_map(Cells::iter);
    Ok(parts.map(|parts| ApiCell {
        cell: parts.cell,
        acceptor: parts.acceptor(),
        pool: parts.pools.requests.clone(),
        standby: standbys.next().map(|standby| {
            let check = Arc::new(ReadCheck::new(&parts.admission));
            Pools::checked(standby, check, &parts.telemetry.counts).requests
        }),
        unrecorded: Arc::clone(&parts.worker.returned.unrecorded),
        started: Arc::default(),
        readiness: Arc::default(),
    }))
}

fn configured_names(settings: &Settings) -> Arc<[String]> {
    let configured = settings.processors.processors.0.iter();
    configured.map(|processor| processor.name.clone()).collect()
}

/// What an instance finds in itself.
fn own_attention(cells: &Cells<Parts>, process: &ProcessCounts) -> OwnAttention {
    let mut own = OwnAttention::default();
    let first = cells.first();
    let charged_twice = first.telemetry.counts.charged_twice.clone();
    own.add(move || settle::charged_twice(&charged_twice));
    let log_lines = process.log_lines.clone();
    own.add(move || log::lines_dropped(&log_lines));
    let router = first.router.clone();
    own.add(move || situation::failing(&router.explain()));
    for (cell, parts) in cells.each() {
        let full = Arc::clone(&parts.queue_limit);
        own.add(move || full.attention());
        let mut of_cell = |source: Box<dyn Fn() -> Option<Item> + Send + Sync>| {
            own.add(move || source().map(|item| item.of_cell(cell)));
        };
        let unrecorded = Arc::clone(&parts.worker.returned.unrecorded);
        of_cell(Box::new(move || unrecorded.attention()));
        let clock = Arc::clone(&parts.clock);
        of_cell(Box::new(move || {
            clock.attention(tokio::time::Instant::now())
        }));
        let admission = Arc::clone(&parts.admission);
        of_cell(Box::new(move || admission.attention()));
    }
    own
}

/// The operators' side, where it has a token.
fn operators(
    settings: &Settings,
    shares: &Shares,
    parts: &Cells<Parts>,
    state: &State,
    cells: &Cells<ApiCell>,
) -> anyhow::Result<Option<Operators>> {
    let Some(token) = settings.operator.token().cloned() else {
        return Ok(None);
    };
    let configured = &settings.processors.processors.0;
    let simulator = settings.simulator_token.clone();
    let acceptors = || cells.map(|cell| cell.acceptor.clone());
    let simulator = simulator.map(|token| Simulator::new(token, configured, acceptors()));
    let first = parts.first();
    let counts = &first.telemetry.counts;
    Ok(Some(Operators {
        connections: shares.operators,
        listen: settings.operator.operator_listen.clone(),
        token,
        metrics_token: settings.metrics_token().cloned(),
        scrape: Scrape::new(
            Arc::clone(counts),
            first.router.clone(),
            parts.map(|parts| parts.pools.clone()),
            Arc::clone(&state.own),
        ),
        counts: Arc::clone(counts),
        observer: Observer {
            instance: state.instance,
            pools: parts.map(|parts| parts.pools.operators.clone()),
            router: first.router.clone(),
            names: Arc::clone(&state.names),
            simulator: simulator.transpose()?,
            own: Arc::clone(&state.own),
        },
    }))
}

/// The clients' side.
fn api(settings: &Settings, telemetry: &Telemetry, state: &State, cells: Cells<ApiCell>) -> Api {
    Api {
        cells,
        telemetry: telemetry.clone(),
        processors: Arc::clone(&state.names),
        allow_purge: settings.purge.allow_purge,
        stopping: Arc::clone(&state.stopping),
    }
}

/// An instance whose parts run, and what ends them.
struct Running {
    tasks: JoinSet<anyhow::Result<()>>,
    /// One task for each cell that has started.
    settling: JoinSet<()>,
    http_stop: CancellationToken,
    /// Of each cell, what its connections are, and what was accepted.
    cells: Vec<(Pools, Option<Pool>, Arc<Tally>)>,
    queue_limits: Vec<Arc<QueueLimit>>,
    telemetry: Telemetry,
    calls: TaskTracker,
    stop: Arc<Stop>,
}

impl Running {
    /// Nothing runs yet.
    fn of(parts: &Cells<Parts>, cells: &Cells<ApiCell>) -> Self {
        let first = parts.first();
        let each = parts.iter().zip(cells.iter());
        Self {
            tasks: JoinSet::new(),
            settling: JoinSet::new(),
            http_stop: CancellationToken::new(),
            cells: each
                .map(|(parts, cell)| {
                    let tally = cell.acceptor.tally();
                    (parts.pools.clone(), cell.standby.clone(), tally)
                })
                .collect(),
            queue_limits: (parts.iter().map(|parts| Arc::clone(&parts.queue_limit))).collect(),
            telemetry: first.telemetry.clone(),
            calls: first.worker.calls.clone(),
            stop: Arc::clone(&first.worker.stop),
        }
    }

    /// Starts what claims, charges, settles and watches in a cell. The task that settles ends once
    /// all that claims there has.
    fn start(&mut self, parts: Parts, state: &State, candidate: Candidate, hints: Option<Pool>) {
        let Parts {
            cell,
            pools,
            queue_limit,
            worker,
            ..
        } = parts;
        let stop = self.stop.draining.clone();
        if cell.is_first() {
            let recorder = Recorder {
                instance: state.instance,
                counts: Arc::clone(&parts.telemetry.counts),
                pool: pools.requests.clone(),
                clock: Arc::clone(&parts.clock),
                router: parts.router.clone(),
                queue_limits: self.queue_limits.clone(),
            };
            let stopped = stop.clone();
            self.spawn(async move { recorder.run(stopped).await });
        }
        let member = Arc::new(Member {
            candidate,
            admission: parts.admission,
            pool: pools.claims.clone(),
            hints,
            clock: parts.clock,
            processors: parts.processors,
            router: parts.router,
            recovered: parts.recovered,
            own: Arc::clone(&state.own),
            terms: worker.terms,
            in_flight: Arc::clone(&worker.returned.in_flight),
            counts: Arc::clone(&parts.telemetry.counts),
        });
        self.settling.spawn(settle::run(
            pools.settles.clone(),
            worker.terms,
            parts.completed,
            Arc::clone(&worker.returned),
            parts.telemetry,
        ));
        let (requests, stopped) = (pools.requests.clone(), stop.clone());
        self.spawn(async move { queue_limit.watch(&requests, stopped).await });
        let (requests, stopped) = (pools.requests.clone(), stop.clone());
        self.spawn(async move { in_doubt::watch(&requests, stopped).await });
        self.spawn(database::watch_auditors(
            pools.requests.clone(),
            stop.clone(),
        ));
        let (_, _, tally) = &self.cells[cell.number() - 1];
        let (tally, stopped) = (Arc::clone(tally), stop.clone());
        self.spawn(async move { tally.run(&pools.requests, stopped).await });
        let (resolving, looking) = (Arc::clone(&worker), Arc::clone(&worker));
        self.spawn(async move { worker.run().await });
        self.spawn(async move { resolving.run_in_doubt().await });
        self.spawn(async move { looking.run_held_elsewhere().await });
        let calls = self.calls.clone();
        self.spawn(member.run(stop, calls));
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            Ok(())
        });
    }

    /// Ends the parts in order: nothing new is begun, what is open gets its time, and what became
    /// of it is recorded.
    async fn end(mut self) {
        self.http_stop.cancel();
        self.stop.draining.cancel();
        self.calls.close();
        let drained = tokio::time::timeout(CALLS_DRAIN, self.calls.wait()).await;
        if drained.is_err() {
            tracing::warn!(
                calls.open = self.calls.len(),
                "calls left open; their payments stay with their processor"
            );
            self.stop.now.cancel();
        }
        // The last sender of completed claims goes with the worker and its calls; then settling
        // ends by itself.
        let _ = tokio::time::timeout(REQUESTS_DRAIN, async {
            while self.tasks.join_next().await.is_some() {}
        })
        .await;
        self.tasks.abort_all();
        let settled = async { while self.settling.join_next().await.is_some() {} };
        if tokio::time::timeout(SETTLE_DRAIN, settled).await.is_err() {
            tracing::error!(
                "not everything was recorded; what is missing is asked of its processor after the \
                lease"
            );
        }
        // A task that is dropped here would be cut off in the middle of a statement.
        self.settling.detach_all();
        let flushed = join_all(self.cells.iter().map(async |(pools, _, tally)| {
            if let Err(error) = tally.flush(&pools.requests).await {
                tracing::debug!(error = %error, "the last accepted payments are not counted");
            }
        }));
        let _ = tokio::time::timeout(CLOSE, flushed).await;
        let closed = join_all(self.cells.iter().map(async |(pools, standby, _)| {
            pools.close().await;
            if let Some(standby) = standby {
                standby.close().await;
            }
        }));
        let closed = tokio::time::timeout(CLOSE, closed);
        let _ = tokio::join!(closed, self.telemetry.tracer.stop());
    }
}

/// A cell that an instance wants to serve, before it does.
struct Start {
    database: DatabaseSettings,
    processors: Processors,
    candidate: Candidate,
    admission: Arc<Admission>,
    requests: Pool,
}

/// Every cell, as an instance begins.
fn starts(settings: &Settings, parts: &Cells<Parts>, instance: Uuid) -> Vec<Start> {
    let terms = MemberTerms::of(settings);
    let deployment = Arc::default();
    let databases = settings.database.cells();
    let each = databases.into_iter().zip(parts.iter());
    each.map(|(database, parts)| Start {
        candidate: Candidate {
            id: instance,
            terms: terms.clone(),
            cell: parts.cell,
            place: database.database_url.here().to_string(),
            deployment: Arc::clone(&deployment),
        },
        database,
        processors: settings.processors.processors.clone(),
        admission: Arc::clone(&parts.admission),
        requests: parts.pools.requests.clone(),
    })
    .collect()
}

impl Start {
    /// Migrates where that is for this role to do, waits until it is done where it is not, and
    /// writes down the fees. Goes on trying while the database is away.
    ///
    /// # Errors
    /// The migrations are refused, or the database is another cell.
    async fn prepare(&self) -> anyhow::Result<(Cell, Pooling)> {
        let (candidate, admission, pool) = (&self.candidate, &self.admission, &self.requests);
        let mut outage = database::Outage::new("migrate");
        let mut poll = ServingPoll::default();
        let mut met = None;
        loop {
            let prepared = async {
                let pooling = match met {
                    Some(pooling) => pooling,
                    None => database::meet_pooler(&self.database).await?,
                };
                met = Some(pooling);
                if pooling == Pooling::Transaction {
                    admission.ask_each_transaction();
                }
                let (mut admitted, mut wrong_cell) = (None, None);
                let found = database::prepare_where(&self.database, pooling, async |connection| {
                    if let Some(differs) = candidate.wrong_cell(connection).await? {
                        wrong_cell = Some(differs.clone());
                        return Ok(Some(Attention::InstanceHeld.item(differs)));
                    }
                    let sent_at = Uptime::now();
                    let decided = candidate.ask(connection, Some(&mut poll)).await?;
                    Ok(decided
                        .map(|admission| admitted = Some((admission, sent_at)))
                        .err())
                })
                .await?;
                if let Some(differs) = wrong_cell {
                    anyhow::bail!(differs);
                }
                if let (Schema::Ready, Some((admitted, sent_at))) = (&found, admitted) {
                    let processors = &self.processors;
                    let spelling = pool
                        .with_deadline(fee::other_spelling(pool, processors))
                        .await?;
                    if let Some((name, known)) = spelling {
                        anyhow::bail!(
                            "PROCESSORS has {name:?}, which this database knows as {known:?}: \
                            names that differ by case only are one processor"
                        );
                    }
                    pool.with_deadline(fee::record(pool, processors)).await?;
                    admission.admit(admitted, sent_at);
                }
                anyhow::Ok((found, pooling))
            };
            match prepared.await {
                Ok((Schema::Ready, pooling)) => {
                    outage.over();
                    if pooling == Pooling::Transaction {
                        tracing::info!(
                            cell = candidate.cell.label(),
                            notifications = self.database.direct_database_url.is_some(),
                            "behind a pooler in transaction mode"
                        );
                    }
                    return Ok((candidate.cell, pooling));
                }
                Ok((Schema::Held(refused), _)) => {
                    outage.over();
                    admission.hold(refused);
                }
                Ok((Schema::Waits(missing), _)) => {
                    outage.over();
                    if admission.wait_for(&missing) {
                        tracing::warn!(database.missing = %missing, "waiting for `payment-proxy \
                            migrate`, which is for another role than ours to run");
                    }
                }
                Err(error) => match database::database_error(&error) {
                    Some(cause) if database::is_transient(cause) => {
                        outage.goes_on(cause, pool).await;
                    }
                    _ => return Err(error),
                },
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}
