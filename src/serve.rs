//! One instance, from its start to its orderly end.

mod end;
mod files;
mod listen;
mod operators;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use router::{Policy, ProcessorTerms, Router};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::config::{DatabaseSettings, Settings};
use crate::domain::attention::OwnAttention;
use crate::domain::lease::LeasePolicy;
use crate::domain::uptime::Uptime;
use crate::http::live::{Observer, Simulator};
use crate::http::{Api, Limits};
use crate::pipeline::accept::Acceptor;
use crate::pipeline::deployment::{Admission, Candidate, Member, MemberTerms};
use crate::pipeline::history::Recorder;
use crate::pipeline::queue_limit::QueueLimit;
use crate::pipeline::route;
use crate::pipeline::settle::{self, Returned, SETTLE_BACKLOG};
use crate::pipeline::together::Together;
use crate::pipeline::worker::{Backlog, Worker};
use crate::processors::{self, Stop};
use crate::scrape::Scrape;
use crate::store::clock::DatabaseClock;
use crate::store::database::{self, Pool, Pools, RETRY_PAUSE, Schema, ServingPoll};
use crate::store::fee;
use crate::store::in_doubt;
use crate::store::situation;
use crate::telemetry::Telemetry;
use crate::telemetry::log;
use crate::telemetry::metrics::ProcessCounts;
pub use end::{CALLS_DRAIN, CLOSE, REQUESTS_DRAIN, SETTLE_DRAIN, SHUTDOWN};

use end::broken_part;
use listen::listen;
use operators::Operators;

/// How long clients who come too early wait for an instance to be prepared, which takes some milliseconds; until
/// then the kernel keeps them. A load balancer would pass a 503 on, while another instance serves.
pub const START_TIMEOUT: Duration = Duration::from_millis(700);

/// Runs an instance until `shutdown` is ready, then ends it in order within [`SHUTDOWN`].
///
/// The API answers from the start; it accepts payments as soon as the database is there and migrated.
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
    let counts = Arc::clone(&telemetry.counts);
    let files = files::raise_limit();
    let configured = settings.processors.processors.0.len();
    let shares = files::share(files, Limits::default().connections, configured);
    let instance = Uuid::new_v4();
    let processors = processors::processors(&settings.processors, shares.processor, &telemetry)?;
    let terms = settings.processors.processors.0.iter();
    let terms: Vec<ProcessorTerms> = terms
        .map(|processor| ProcessorTerms {
            name: processor.name.clone(),
            fee: processor.fee,
        })
        .collect();
    let recovered = Arc::default();
    let policy = Policy {
        own_cap: shares.payments(),
        ..Policy::default()
    };
    let router = Router::new(policy, terms.clone(), Duration::ZERO);
    let router = route::share(router, &recovered, &counts);
    let admission = Arc::new(Admission::new());
    let pools = Pools::checked(&settings.database, admission.clone(), &counts);
    let standby = settings.read_database_url.clone().map(|database_url| {
        let database = DatabaseSettings {
            database_url,
            ..settings.database.clone()
        };
        Pools::checked(&database, admission.clone(), &counts).requests
    });
    let stop = Arc::new(Stop::default());
    let (started, stopping) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let calls = TaskTracker::new();

    let names: Arc<[String]> = terms.iter().map(|terms| terms.name.clone()).collect();
    let lease = LeasePolicy::new(settings.processors.processor_timeout, settings.late_charge);
    let clock = Arc::new(DatabaseClock::new(lease, counts.clock_steps.clone()));
    let (ended, endings) = mpsc::channel(SETTLE_BACKLOG);
    let wake = Arc::new(Notify::new());
    let worker = Arc::new(Worker {
        pool: pools.claims.clone(),
        counts: Arc::clone(&counts),
        terms: lease,
        admission: Arc::clone(&admission),
        clock: Arc::clone(&clock),
        processors: Arc::clone(&processors),
        router: router.clone(),
        ended,
        returned: Arc::new(Returned::new(Arc::clone(&wake), &counts)),
        wake,
        permit_back: Arc::default(),
        calls: calls.clone(),
        stop: Arc::clone(&stop),
        backlog: Arc::new(Backlog::default()),
        arrived: Together::default(),
    });
    let room = Arc::new(QueueLimit::new(settings.queue_limit));
    let acceptor = Acceptor::start(
        &pools.accepts,
        &router,
        &Arc::downgrade(&worker),
        &room,
        &admission,
        &counts,
    );
    let (accepting, tally) = (acceptor.writers(), acceptor.tally());
    let mut own = OwnAttention::default();
    let full = Arc::clone(&room);
    own.add(move || full.attention());
    let twice = counts.charged_twice.clone();
    own.add(move || settle::charged_twice(&twice));
    let unrecorded = Arc::clone(&worker.returned.unrecorded);
    own.add(move || unrecorded.attention());
    let log_lines = process.log_lines.clone();
    own.add(move || log::lines_dropped(&log_lines));
    let routing = router.clone();
    own.add(move || situation::failing(&routing.explain()));
    let stepped = Arc::clone(&clock);
    own.add(move || stepped.attention(tokio::time::Instant::now()));
    let held = Arc::clone(&admission);
    own.add(move || held.attention());
    let own = Arc::new(own);
    let mut parts = JoinSet::new();
    let http_stop = CancellationToken::new();
    if let Some(token) = settings.operator.token().cloned() {
        let simulator = match settings.simulator_token.clone() {
            Some(token) => {
                let configured = &settings.processors.processors.0;
                Some(Simulator::new(token, configured, acceptor.clone())?)
            }
            None => None,
        };
        let observer = Observer {
            instance,
            pool: pools.operators.clone(),
            router: router.clone(),
            names: Arc::clone(&names),
            simulator,
            own: Arc::clone(&own),
        };
        let operators = Operators {
            connections: shares.operators,
            listen: settings.operator.operator_listen.clone(),
            token,
            metrics_token: settings.metrics_token().cloned(),
            scrape: Scrape::new(
                Arc::clone(&counts),
                router.clone(),
                pools.clone(),
                Arc::clone(&own),
            ),
            counts: Arc::clone(&counts),
            observer,
        };
        parts.spawn(operators.start(http_stop.clone()).await?);
    }
    // Last, so that whoever is answered here finds the operators' address open, too.
    let api = Api {
        acceptor,
        pool: pools.requests.clone(),
        standby: standby.clone(),
        telemetry: telemetry.clone(),
        processors: names,
        allow_purge: settings.purge.allow_purge,
        unrecorded: Arc::clone(&worker.returned.unrecorded),
        started: Arc::clone(&started),
        readiness: Arc::default(),
        stopping: Arc::clone(&stopping),
    };
    let address = &settings.listen.listen;
    let limits = Limits {
        connections: shares.clients,
        ..Limits::default()
    };
    let served = listen(
        "LISTEN",
        address,
        limits,
        Arc::clone(&counts),
        api.routes(),
        http_stop.clone(),
    )
    .await?;
    tracing::info!(listen = %address, database = %settings.database.database_url, "listening");
    if shares.clients < Limits::default().connections {
        tracing::warn!(
            files.most = files,
            clients.most = shares.clients,
            processor.connections.most = shares.processor,
            "few files may be open (ulimit -n), so fewer clients can be connected than otherwise"
        );
    }

    let candidate = Candidate {
        id: instance,
        terms: MemberTerms::of(&settings),
    };
    tokio::pin!(shutdown);
    let mut served = Some(served);
    {
        let mut preparing = pin!(prepare_when_reachable(
            &settings,
            &pools.requests,
            &candidate,
            &admission
        ));
        let mut timeout = pin!(tokio::time::sleep(START_TIMEOUT));
        loop {
            tokio::select! {
                prepared = &mut preparing => break prepared?,
                () = &mut timeout, if served.is_some() => {
                    parts.spawn(served.take().expect("checked just now"));
                }
                () = &mut shutdown => {
                    if admission.refused().is_some() {
                        candidate.sign_off(&pools.requests).await;
                    }
                    return Ok(());
                }
                broken = parts.join_next(), if !parts.is_empty() => return broken_part(broken),
            }
        }
    }
    if let Some(served) = served {
        parts.spawn(served);
    }

    let mut settling = tokio::spawn(settle::run(
        pools.settles.clone(),
        lease,
        endings,
        Arc::clone(&worker.returned),
        telemetry.clone(),
    ));
    let (queue_limit_pool, queue_limit_stop) = (pools.requests.clone(), stop.draining.clone());
    let watched = Arc::clone(&room);
    parts.spawn(async move {
        watched.watch(&queue_limit_pool, queue_limit_stop).await;
        Ok(())
    });
    let recorder = Recorder {
        instance,
        counts,
        pool: pools.requests.clone(),
        clock: Arc::clone(&clock),
        router: router.clone(),
        room: Arc::clone(&room),
    };
    let recorder_stop = stop.draining.clone();
    parts.spawn(async move {
        recorder.run(recorder_stop).await;
        Ok(())
    });
    let (stranded_pool, stranded_stop) = (pools.requests.clone(), stop.draining.clone());
    parts.spawn(async move {
        in_doubt::watch(&stranded_pool, stranded_stop).await;
        Ok(())
    });
    let (auditors_pool, auditors_stop) = (pools.requests.clone(), stop.draining.clone());
    parts.spawn(async move {
        database::watch_auditors(auditors_pool, auditors_stop).await;
        Ok(())
    });
    let (counted, tally_pool) = (Arc::clone(&tally), pools.requests.clone());
    let tally_stop = stop.draining.clone();
    parts.spawn(async move {
        counted.run(&tally_pool, tally_stop).await;
        Ok(())
    });
    let (in_doubt, in_flight) = (Arc::clone(&worker), Arc::clone(&worker.returned.in_flight));
    parts.spawn(async move {
        worker.run().await;
        Ok(())
    });
    parts.spawn(async move {
        in_doubt.run_in_doubt().await;
        Ok(())
    });
    let member = Arc::new(Member {
        candidate,
        admission,
        pool: pools.claims.clone(),
        clock,
        processors,
        router,
        recovered,
        own,
        terms: lease,
        in_flight,
    });
    let (member_stop, member_calls) = (stop.draining.clone(), calls.clone());
    parts.spawn(async move {
        member.run(member_stop, member_calls).await;
        Ok(())
    });
    started.store(true, Ordering::Relaxed);
    tracing::info!(start_seconds = started_at.elapsed().as_secs_f64(), "ready");

    // Whatever breaks ends the instance, which is started anew then: it must not go on without one of its parts.
    let outcome = tokio::select! {
        () = &mut shutdown => Ok(()),
        broken = parts.join_next() => broken_part(broken),
        ended = &mut settling => Err(anyhow::anyhow!("settling broke: {ended:?}")),
        () = accepting.cancelled() => Err(anyhow::anyhow!("accepting broke")),
    };
    tracing::info!("stopping");
    stopping.store(true, Ordering::Relaxed);
    http_stop.cancel();
    stop.draining.cancel();
    calls.close();
    let drained = tokio::time::timeout(CALLS_DRAIN, calls.wait()).await;
    if drained.is_err() {
        tracing::warn!(
            calls.open = calls.len(),
            "calls left open; their payments stay with their processor"
        );
        stop.now.cancel();
    }
    // The last sender of ended claims goes with the worker and its calls; then settling ends by itself.
    let _ = tokio::time::timeout(REQUESTS_DRAIN, async {
        while parts.join_next().await.is_some() {}
    })
    .await;
    parts.abort_all();
    if !settling.is_finished() && tokio::time::timeout(SETTLE_DRAIN, settling).await.is_err() {
        tracing::error!(
            "not everything was recorded; what is missing is asked of its processor after the lease"
        );
    }
    if let Ok(Err(error)) = tokio::time::timeout(CLOSE, tally.flush(&pools.requests)).await {
        tracing::debug!(error = %error, "the last accepted payments are not counted");
    }
    let closed = tokio::time::timeout(CLOSE, async {
        pools.close().await;
        if let Some(standby) = standby {
            standby.close().await;
        }
    });
    let _ = tokio::join!(closed, telemetry.tracer.stop());
    tracing::info!("stopped");
    outcome
}

/// Migrates where that is for this role to do, waits until it is done where it is not, and writes down the
/// fees. Goes on trying while the database is away.
async fn prepare_when_reachable(
    settings: &Settings,
    pool: &Pool,
    candidate: &Candidate,
    admission: &Admission,
) -> anyhow::Result<()> {
    let mut outage = database::Outage::new("migrate");
    let mut looks = ServingPoll::default();
    loop {
        let prepared = async {
            let mut admitted = None;
            let found = database::prepare_where(&settings.database, async |connection| {
                let sent_at = Uptime::now();
                let decided = candidate.ask(connection, Some(&mut looks)).await?;
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
                    tracing::warn!(database.missing = %missing, "waiting for `payment-proxy migrate`, which is for another role than ours to run");
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
