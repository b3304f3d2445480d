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
use router::Policy;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::config::{DatabaseSettings, Settings};
use crate::domain::attention::OwnAttention;
use crate::domain::lease::LeasePolicy;
use crate::domain::uptime::Uptime;
use crate::http::live::{Observer, Simulator};
use crate::http::{Api, Limits};
use crate::pipeline::accept::{Acceptor, Tally};
use crate::pipeline::deployment::{Admission, Candidate, Member, MemberTerms};
use crate::pipeline::history::Recorder;
use crate::pipeline::settle;
use crate::processors::Stop;
use crate::scrape::Scrape;
use crate::store::database::{self, Pool, Pools, RETRY_PAUSE, Schema, ServingPoll};
use crate::store::fee;
use crate::store::in_doubt;
use crate::store::situation;
use crate::telemetry::Telemetry;
use crate::telemetry::log;
use crate::telemetry::metrics::ProcessCounts;
pub use end::{CALLS_DRAIN, CLOSE, REQUESTS_DRAIN, SETTLE_DRAIN, SHUTDOWN};
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
/// migrated.
///
/// # Errors
/// The address is taken, a processor cannot be called at all, the migrations are refused, or a part
/// of the instance broke.
pub async fn serve(
    settings: Settings,
    process: &ProcessCounts,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let started_at = Instant::now();
    let collector = settings.otel_exporter_otlp_endpoint.as_ref();
    let telemetry = Telemetry::start(process, collector).context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let files = files::raise_limit();
    let configured = settings.processors.processors.0.len();
    let shares = files::share(files, Limits::default().connections, configured);
    let parts = Parts::new(setup(&settings, &shares, telemetry))?;
    let acceptor = parts.acceptor();
    let state = State {
        instance: Uuid::new_v4(),
        own: Arc::new(own_attention(&parts, process)),
        names: configured_names(&settings),
        standby: standby(&settings, &parts),
        started: Arc::default(),
        stopping: Arc::default(),
    };
    let mut running = Running {
        tasks: JoinSet::new(),
        http_stop: CancellationToken::new(),
        accepting: acceptor.writers(),
        tally: acceptor.tally(),
        telemetry: parts.telemetry.clone(),
        pools: parts.pools.clone(),
        calls: parts.worker.calls.clone(),
        stop: Arc::clone(&parts.worker.stop),
    };
    if let Some(operators) = operators(&settings, &shares, &parts, &state, &acceptor)? {
        let operators = operators.start(running.http_stop.clone()).await?;
        running.tasks.spawn(operators);
    }
    // Last, so that whoever is answered here finds the operators' address open, too.
    let routes = api(&settings, &parts, &state, acceptor).routes();
    let limits = Limits {
        connections: shares.clients,
        ..Limits::default()
    };
    let address = &settings.listen.listen;
    let (counts, stop) = (
        Arc::clone(&parts.telemetry.counts),
        running.http_stop.clone(),
    );
    let served = listen("LISTEN", address, limits, counts, routes, stop).await?;
    tracing::info!(listen = %address, database = %settings.database.database_url, "listening");
    shares.warn_of_few(files);

    let candidate = Candidate {
        id: state.instance,
        terms: MemberTerms::of(&settings),
    };
    tokio::pin!(shutdown);
    let (requests, admission) = (&running.pools.requests, &parts.admission);
    let prepare = prepare_when_reachable(&settings, requests, &candidate, admission);
    let prepared = tokio::select! {
        prepared = until_prepared(prepare, served, &mut running.tasks) => prepared.map(Some)?,
        () = &mut shutdown => None,
    };
    if prepared.is_none() {
        if admission.refused().is_some() {
            candidate.sign_off(requests).await;
        }
        return Ok(());
    }
    let mut settling = running.start(parts, &state, candidate);
    state.started.store(true, Ordering::Relaxed);
    tracing::info!(start_seconds = started_at.elapsed().as_secs_f64(), "ready");

    // Whatever breaks ends the instance, which is started anew then: it must not go on without one
    // of its parts.
    let outcome = tokio::select! {
        () = &mut shutdown => Ok(()),
        broken = running.tasks.join_next() => broken_part(broken),
        ended = &mut settling => Err(anyhow::anyhow!("settling broke: {ended:?}")),
        () = running.accepting.cancelled() => Err(anyhow::anyhow!("accepting broke")),
    };
    tracing::info!("stopping");
    state.stopping.store(true, Ordering::Relaxed);
    running.end(settling, state.standby).await;
    tracing::info!("stopped");
    outcome
}

/// What the addresses of an instance answer from.
struct State {
    instance: Uuid,
    own: Arc<OwnAttention>,
    names: Arc<[String]>,
    /// Connections to a standby, where summaries are read from one.
    standby: Option<Pool>,
    started: Arc<AtomicBool>,
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
        admission: Admission::new(),
        telemetry,
    }
}

fn standby(settings: &Settings, parts: &Parts) -> Option<Pool> {
    let database_url = settings.read_database_url.clone()?;
    let database = DatabaseSettings {
        database_url,
        ..settings.database.clone()
    };
    let check = Arc::clone(&parts.admission);
    Some(Pools::checked(&database, check, &parts.telemetry.counts).requests)
}

fn configured_names(settings: &Settings) -> Arc<[String]> {
    let configured = settings.processors.processors.0.iter();
    configured.map(|processor| processor.name.clone()).collect()
}

/// What an instance finds in itself.
fn own_attention(parts: &Parts, process: &ProcessCounts) -> OwnAttention {
    let mut own = OwnAttention::default();
    let full = Arc::clone(&parts.queue_limit);
    own.add(move || full.attention());
    let charged_twice = parts.telemetry.counts.charged_twice.clone();
    own.add(move || settle::charged_twice(&charged_twice));
    let unrecorded = Arc::clone(&parts.worker.returned.unrecorded);
    own.add(move || unrecorded.attention());
    let log_lines = process.log_lines.clone();
    own.add(move || log::lines_dropped(&log_lines));
    let router = parts.router.clone();
    own.add(move || situation::failing(&router.explain()));
    let clock = Arc::clone(&parts.clock);
    own.add(move || clock.attention(tokio::time::Instant::now()));
    let admission = Arc::clone(&parts.admission);
    own.add(move || admission.attention());
    own
}

/// The operators' side, where it has a token.
fn operators(
    settings: &Settings,
    shares: &Shares,
    parts: &Parts,
    state: &State,
    acceptor: &Acceptor,
) -> anyhow::Result<Option<Operators>> {
    let Some(token) = settings.operator.token().cloned() else {
        return Ok(None);
    };
    let configured = &settings.processors.processors.0;
    let simulator = settings.simulator_token.clone();
    let simulator = simulator.map(|token| Simulator::new(token, configured, acceptor.clone()));
    let counts = &parts.telemetry.counts;
    Ok(Some(Operators {
        connections: shares.operators,
        listen: settings.operator.operator_listen.clone(),
        token,
        metrics_token: settings.metrics_token().cloned(),
        scrape: Scrape::new(
            Arc::clone(counts),
            parts.router.clone(),
            parts.pools.clone(),
            Arc::clone(&state.own),
        ),
        counts: Arc::clone(counts),
        observer: Observer {
            instance: state.instance,
            pool: parts.pools.operators.clone(),
            router: parts.router.clone(),
            names: Arc::clone(&state.names),
            simulator: simulator.transpose()?,
            own: Arc::clone(&state.own),
        },
    }))
}

/// The clients' side.
fn api(settings: &Settings, parts: &Parts, state: &State, acceptor: Acceptor) -> Api {
    Api {
        acceptor,
        pool: parts.pools.requests.clone(),
        standby: state.standby.clone(),
        telemetry: parts.telemetry.clone(),
        processors: Arc::clone(&state.names),
        allow_purge: settings.purge.allow_purge,
        unrecorded: Arc::clone(&parts.worker.returned.unrecorded),
        started: Arc::clone(&state.started),
        readiness: Arc::default(),
        stopping: Arc::clone(&state.stopping),
    }
}

/// Waits until the database is prepared, and has `served` answer clients then, or after
/// [`START_TIMEOUT`].
///
/// # Errors
/// It cannot be prepared, or a part broke.
async fn until_prepared(
    prepare: impl Future<Output = anyhow::Result<()>>,
    served: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut served = Some(served);
    let mut preparing = pin!(prepare);
    let mut timeout = pin!(tokio::time::sleep(START_TIMEOUT));
    loop {
        tokio::select! {
            prepared = &mut preparing => break prepared?,
            () = &mut timeout, if served.is_some() => {
                tasks.spawn(served.take().expect("checked just now"));
            }
            broken = tasks.join_next(), if !tasks.is_empty() => return broken_part(broken),
        }
    }
    if let Some(served) = served {
        tasks.spawn(served);
    }
    Ok(())
}

/// An instance whose parts run, and what ends them.
struct Running {
    tasks: JoinSet<anyhow::Result<()>>,
    http_stop: CancellationToken,
    accepting: CancellationToken,
    tally: Arc<Tally>,
    telemetry: Telemetry,
    pools: Pools,
    calls: TaskTracker,
    stop: Arc<Stop>,
}

impl Running {
    /// Starts what claims, charges, settles and watches. Returns the task that settles, which ends
    /// once all that claims has.
    fn start(&mut self, parts: Parts, state: &State, candidate: Candidate) -> JoinHandle<()> {
        let Parts {
            pools,
            queue_limit,
            worker,
            ..
        } = parts;
        let stop = self.stop.draining.clone();
        let recorder = Recorder {
            instance: state.instance,
            counts: Arc::clone(&parts.telemetry.counts),
            pool: pools.requests.clone(),
            clock: Arc::clone(&parts.clock),
            router: parts.router.clone(),
            queue_limit: Arc::clone(&queue_limit),
        };
        let member = Arc::new(Member {
            candidate,
            admission: parts.admission,
            pool: pools.claims.clone(),
            clock: parts.clock,
            processors: parts.processors,
            router: parts.router,
            recovered: parts.recovered,
            own: Arc::clone(&state.own),
            terms: worker.terms,
            in_flight: Arc::clone(&worker.returned.in_flight),
        });
        let settling = tokio::spawn(settle::run(
            pools.settles.clone(),
            worker.terms,
            parts.completed,
            Arc::clone(&worker.returned),
            parts.telemetry,
        ));
        let (requests, stopped) = (pools.requests.clone(), stop.clone());
        self.spawn(async move { queue_limit.watch(&requests, stopped).await });
        let stopped = stop.clone();
        self.spawn(async move { recorder.run(stopped).await });
        let (requests, stopped) = (pools.requests.clone(), stop.clone());
        self.spawn(async move { in_doubt::watch(&requests, stopped).await });
        self.spawn(database::watch_auditors(
            pools.requests.clone(),
            stop.clone(),
        ));
        let (tally, stopped) = (Arc::clone(&self.tally), stop.clone());
        self.spawn(async move { tally.run(&pools.requests, stopped).await });
        let (resolving, looking) = (Arc::clone(&worker), Arc::clone(&worker));
        self.spawn(async move { worker.run().await });
        self.spawn(async move { resolving.run_in_doubt().await });
        self.spawn(async move { looking.run_held_elsewhere().await });
        let calls = self.calls.clone();
        self.spawn(member.run(stop, calls));
        settling
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            Ok(())
        });
    }

    /// Ends the parts in order: nothing new is begun, what is open gets its time, and what became
    /// of it is recorded.
    async fn end(mut self, settling: JoinHandle<()>, standby: Option<Pool>) {
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
        if !settling.is_finished() && tokio::time::timeout(SETTLE_DRAIN, settling).await.is_err() {
            tracing::error!(
                "not everything was recorded; what is missing is asked of its processor after the \
                lease"
            );
        }
        let flushed = self.tally.flush(&self.pools.requests);
        if let Ok(Err(error)) = tokio::time::timeout(CLOSE, flushed).await {
            tracing::debug!(error = %error, "the last accepted payments are not counted");
        }
        let closed = tokio::time::timeout(CLOSE, async {
            self.pools.close().await;
            if let Some(standby) = standby {
                standby.close().await;
            }
        });
        let _ = tokio::join!(closed, self.telemetry.tracer.stop());
    }
}

/// Migrates where that is for this role to do, waits until it is done where it is not, and writes
/// down the fees. Goes on trying while the database is away.
async fn prepare_when_reachable(
    settings: &Settings,
    pool: &Pool,
    candidate: &Candidate,
    admission: &Admission,
) -> anyhow::Result<()> {
    let mut outage = database::Outage::new("migrate");
    let mut poll = ServingPoll::default();
    loop {
        let prepared = async {
            let mut admitted = None;
            let found = database::prepare_where(&settings.database, async |connection| {
                let sent_at = Uptime::now();
                let decided = candidate.ask(connection, Some(&mut poll)).await?;
                Ok(decided
                    .map(|admission| admitted = Some((admission, sent_at)))
                    .err())
            })
            .await?;
            if let (Schema::Ready, Some((admitted, sent_at))) = (&found, admitted) {
                let processors = &settings.processors.processors;
                let spelling = pool
                    .with_deadline(fee::other_spelling(pool, processors))
                    .await?;
                if let Some((name, known)) = spelling {
                    anyhow::bail!(
                        "PROCESSORS has {name:?}, which this database knows as {known:?}: names that differ by case \
                         only are one processor"
                    );
                }
                pool.with_deadline(fee::record(pool, processors)).await?;
                admission.admit(admitted, sent_at);
            }
            anyhow::Ok(found)
        };
        match prepared.await {
            Ok(Schema::Ready) => {
                outage.over();
                return Ok(());
            }
            Ok(Schema::Held(refused)) => {
                outage.over();
                admission.hold(refused);
            }
            Ok(Schema::Waits(missing)) => {
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
