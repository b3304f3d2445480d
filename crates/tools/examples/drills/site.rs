//! One drill from start to end: a fresh deployment under load, the outage, and the verdict.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::Utc;
use payment_proxy::config::QueueDurability;
use payment_proxy::telemetry::log::STORM_PAUSE;

use crate::drill::{Drill, failover};
use crate::load::Load;
use crate::log::Log;
use crate::outcome::{Outcome, millis};
use crate::watch::Watch;
use tools::deployment::ledger::Ledger;
use tools::deployment::processor::Behaviour;
use tools::deployment::replicas::Replicas;
use tools::deployment::stack::{Folder, Stack};
use tools::deployment::timeline::Timeline;
use tools::deployment::verdict::{LOST, TWICE};
use tools::deployment::volume::Volume;
use tools::deployment::{Setup, facts, generator, verdict};

/// `PROCESSOR_TIMEOUT_MS` and `LATE_CHARGE_MS` of the instances: doubts that last seconds.
const PROCESSOR_TIMEOUT: Duration = Duration::from_secs(2);
const LATE_CHARGE: Duration = Duration::from_secs(4);
/// The load before the outage.
const CALM: Duration = Duration::from_secs(3);
/// The load after it.
const AFTER: Duration = Duration::from_secs(2);
/// How long the queue has to drain, beyond the longest time for which a payment may be in doubt.
const DRAIN_BEYOND_DOUBT: Duration = Duration::from_secs(30);
const DRAIN_POLL: Duration = Duration::from_millis(200);
/// What `readyz` may take beyond `livez` at the same time.
const READYZ_LIMIT: Duration = Duration::from_secs(1);
/// How much worse than before an attack p99 may be, if it is more than the limit of the drill: the
/// machine may be slow by itself.
const P99_TIMES: u32 = 5;
/// Kinds of log lines that a finding quotes.
const KINDS_NAMED: usize = 5;

/// What all drills have in common.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The program `payment-proxy`.
    pub(crate) binary: PathBuf,
    /// All choices come from it.
    pub(crate) seed: u64,
    /// Payments per second.
    pub(crate) rate: u32,
    /// Whether the queue of a replicated database is logged.
    pub(crate) queue: QueueDurability,
    /// Whether logs and tables are kept also where nothing is wrong.
    pub(crate) keep: bool,
}

impl Plan {
    /// What a drill is called in reports.
    pub(crate) fn name_of(&self, drill: Drill) -> String {
        match (drill.is_replicated(), self.queue) {
            (false, _) => drill.name(),
            (true, QueueDurability::Logged) => format!("{}-logged", drill.name()),
            (true, QueueDurability::Unlogged) => format!("{}-unlogged", drill.name()),
        }
    }
}

/// A deployment under load.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) stack: Arc<Stack>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) load: Load,
    pub(crate) watch: Watch,
    pub(crate) logs: [Log; 2],
    /// The replicated database of a drill that asked for one.
    pub(crate) replicas: Option<Arc<Replicas>>,
    /// The small file system of a drill that asked for one.
    pub(crate) volume: Option<Arc<Volume>>,
    pub(crate) folder: Arc<Folder>,
    /// When the calm before the outage began.
    pub(crate) begun_at: Instant,
    /// The seed of what the drill itself draws.
    pub(crate) seed: u64,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    findings: Vec<String>,
    notes: Vec<String>,
    outages: usize,
    slowest: Duration,
}

impl Site {
    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().expect("no code panics under this lock")
    }

    /// Something that has to hold; where it does not, the text says what is.
    pub(crate) fn must(&self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.said().findings.push(otherwise());
        }
    }

    /// A figure of this drill alone.
    pub(crate) fn note(&self, note: String) {
        self.said().notes.push(note);
    }

    /// An outage begins, about which the instances may log.
    pub(crate) fn outage(&self, what: &'static str) {
        self.stack.timeline.trouble(what, "");
        self.said().outages += 1;
    }

    /// Makes each payment at both processors take that long.
    pub(crate) async fn slow_processors(&self, delay: Duration) -> anyhow::Result<()> {
        {
            let mut said = self.said();
            said.slowest = said.slowest.max(delay);
        }
        let behaviour = Behaviour {
            delay,
            ..Behaviour::default()
        };
        for processor in &self.stack.processors {
            processor.behave(&behaviour).await?;
        }
        Ok(())
    }

    /// Makes every payment at both processors fail, or none.
    pub(crate) async fn failing_processors(&self, failing: bool) -> anyhow::Result<()> {
        let behaviour = Behaviour {
            failing,
            ..Behaviour::default()
        };
        for processor in &self.stack.processors {
            processor.behave(&behaviour).await?;
        }
        Ok(())
    }

    /// The replicated database.
    pub(crate) fn replicas(&self) -> anyhow::Result<&Replicas> {
        self.replicas
            .as_deref()
            .context("this drill has a replicated database")
    }

    /// Waits for the first acceptance after an outage, which has to come within that limit.
    pub(crate) async fn recovers(&self, limit: Duration) -> Duration {
        let recovered = self.load.accepted_again(limit).await;
        self.must(recovered.is_some(), || {
            format!(
                "no payment was accepted within {} of the end",
                millis(limit)
            )
        });
        recovered.unwrap_or(limit)
    }

    /// What `payment-proxy status` has under "what wants attention", by name.
    pub(crate) async fn attention(&self) -> anyhow::Result<Vec<String>> {
        let done = self.stack.command(&["status", "--json"]).await?;
        let status: serde_json::Value = serde_json::from_slice(&done.stdout)
            .with_context(|| String::from_utf8_lossy(&done.stderr).into_owned())?;
        let items = status["attention"].as_array().cloned().unwrap_or_default();
        let kinds = items.iter().filter_map(|item| item["kind"].as_str());
        Ok(kinds.map(str::to_owned).collect())
    }
}

/// Runs a drill on a deployment of its own.
pub(crate) async fn run(drill: Drill, plan: &Plan) -> Outcome {
    let begun_at = Instant::now();
    let mut outcome = Outcome {
        name: plan.name_of(drill),
        ..Outcome::default()
    };
    if let Err(error) = attempt(drill, plan, &mut outcome).await {
        outcome.findings.push(format!("{error:#}"));
    }
    outcome.took = begun_at.elapsed();
    outcome
}

async fn attempt(drill: Drill, plan: &Plan, outcome: &mut Outcome) -> anyhow::Result<()> {
    let volume = match drill.volume() {
        None => None,
        Some(megabytes) => match Volume::mount(megabytes) {
            Some(volume) => Some(Arc::new(volume)),
            None => {
                let why = "no small file system can be mounted here, which takes root";
                outcome.skipped = Some(why.to_owned());
                return Ok(());
            }
        },
    };
    let folder = Arc::new(Folder::create()?);
    let mut setup = Setup {
        settings: &[("LOG_FORMAT", "json")],
        ..Setup::plain(
            plan.binary.clone(),
            QueueDurability::Unlogged,
            plan.seed,
            PROCESSOR_TIMEOUT,
            LATE_CHARGE,
        )
    };
    drill.adapt(&mut setup, folder.path(), volume.as_deref())?;
    let mut replicas = None;
    if drill.is_replicated() {
        setup.durability = plan.queue;
        let started = Replicas::start(folder.path(), &folder.logs()).await;
        let started = match started {
            Ok(started) => Arc::new(started),
            Err(error) => {
                let reports = tools::repository().join("reports");
                folder.keep(&reports, "failover", &format!("{error:#}"))?;
                return Err(error);
            }
        };
        setup.database = Some(started.endpoint());
        replicas = Some(started);
    }
    let timeline = Arc::new(Timeline::create(&folder.logs().join("timeline.log"))?);
    let started = Stack::start(&setup, &folder, Arc::clone(&timeline)).await;
    let done = match started {
        Ok(stack) => {
            let stack = Arc::new(stack);
            let done = walk(
                drill,
                plan,
                &setup,
                &folder,
                (volume.clone(), replicas.clone()),
                &stack,
                outcome,
            )
            .await;
            if done.is_err() || outcome.failed() || plan.keep {
                stack.dump_tables(&folder).await;
            }
            stack.stop().await;
            done
        }
        Err(error) => Err(error),
    };
    if let Some(replicas) = &replicas {
        replicas.stop().await;
    }
    outcome.findings.extend(timeline.complaints());
    let logs = instance_logs(&setup, &folder);
    outcome
        .findings
        .extend(facts::read_logs(logs.iter().map(PathBuf::as_path)).wrong);
    if let Err(error) = &done {
        outcome.findings.push(format!("{error:#}"));
    }
    if outcome.failed() || plan.keep {
        let reports = tools::repository().join("reports");
        let name = format!("drill-{}", outcome.name);
        outcome.kept = Some(folder.keep(&reports, &name, &outcome.to_string())?);
    }
    Ok(())
}

fn instance_logs(setup: &Setup, folder: &Folder) -> [PathBuf; 2] {
    let logs = folder.logs();
    let logs = setup.instance_logs.as_ref().unwrap_or(&logs);
    ["api1", "api2"].map(|name| logs.join(format!("{name}.log")))
}

async fn walk(
    drill: Drill,
    plan: &Plan,
    setup: &Setup,
    folder: &Arc<Folder>,
    (volume, replicas): (Option<Arc<Volume>>, Option<Arc<Replicas>>),
    stack: &Arc<Stack>,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let (begun, begun_at) = (Utc::now(), Instant::now());
    let ledger = Arc::new(Ledger::default());
    let load = Load::begin(stack.url(), &ledger, plan.rate, plan.seed)?;
    let watch = Watch::begin(stack.sockets())?;
    tokio::time::sleep(CALM).await;
    let mut site = Site {
        stack: Arc::clone(stack),
        ledger: Arc::clone(&ledger),
        load,
        watch,
        logs: instance_logs(setup, folder).map(|path| Log::from_now(&path)),
        replicas,
        volume,
        folder: Arc::clone(folder),
        begun_at,
        seed: plan.seed,
        said: Mutex::default(),
    };
    let logs_since = Instant::now();
    drill.run(&site).await?;
    stack.heal().await?;
    tokio::time::sleep(AFTER).await;
    site.load.end().await?;
    drain(setup, stack).await?;
    let mut lost = 0;
    if drill.is_replicated() && setup.durability == QueueDurability::Unlogged {
        lost = failover::post_all_again(&site).await?;
        drain(setup, stack).await?;
    }
    // What a processor may still be about to store is stored after this; then nothing can change
    // any more.
    let slowest = site.said().slowest;
    tokio::time::sleep(slowest).await;

    let facts = facts::gather(stack, &ledger).await?;
    let findings = verdict::judge(&facts);
    let count = |kind| {
        let found = findings.iter().find(|finding| finding.kind == kind);
        found.map_or(0, |finding| finding.count)
    };
    (outcome.lost, outcome.twice) = (lost + count(LOST), count(TWICE));
    (outcome.settled, outcome.dead) = (facts.recorded_payments.len(), facts.dead.len());
    outcome.in_doubt = facts.queue.len();
    outcome.figures = site.load.figures(begun_at..Instant::now());
    outcome.readyz = site.watch.longest();
    outcome
        .findings
        .extend(findings.iter().map(ToString::to_string));
    let span = facts.span(begun..Utc::now());
    let mut rng = generator(plan.seed, 1);
    let (_, differing) = facts::compare_summaries(stack, &span, &mut rng).await?;
    outcome.findings.extend(differing);
    outcome.findings.extend(stack.reconcile().await?);
    facts.write(folder)?;
    judge_figures(drill, &site, outcome);
    judge_logs(&site, logs_since.elapsed(), outcome);
    let said = std::mem::take(&mut *site.said());
    outcome.findings.extend(said.findings);
    outcome.notes = said.notes;
    Ok(())
}

/// Waits until the queue is empty, or nothing can be in doubt any more.
async fn drain(setup: &Setup, stack: &Stack) -> anyhow::Result<()> {
    let begun_at = Instant::now();
    while stack.queued().await? > 0
        && begun_at.elapsed() < setup.longest_doubt() + DRAIN_BEYOND_DOUBT
    {
        tokio::time::sleep(DRAIN_POLL).await;
    }
    Ok(())
}

fn judge_figures(drill: Drill, site: &Site, outcome: &Outcome) {
    let figures = &outcome.figures;
    site.must(figures.offered > 0 && outcome.settled > 0, || {
        "nothing was paid, so this drill shows nothing".to_owned()
    });
    if !drill.refuses() {
        site.must(figures.refused == 0, || {
            format!("{} posts were refused, and none need be", figures.refused)
        });
    }
    site.must(figures.other.is_empty(), || {
        format!(
            "posts were answered neither 202 nor 503: {:?}",
            figures.other
        )
    });
    let readyz = site.watch.longest_of_its_own();
    site.must(readyz <= READYZ_LIMIT, || {
        format!("readyz took {} longer than livez", millis(readyz))
    });
    if let Some(limit) = drill.p99_limit() {
        let calm = site.load.figures(site.begun_at..site.begun_at + CALM).p99;
        let limit = limit.max(calm * P99_TIMES);
        site.must(figures.p99 <= limit, || {
            format!(
                "p99 is {}, more than {}",
                millis(figures.p99),
                millis(limit)
            )
        });
    }
}

/// One line for each outage and kind at most, and one more for each span of time after which a
/// storm is told of again.
fn judge_logs(site: &Site, took: Duration, outcome: &mut Outcome) {
    let again = took.as_secs() / STORM_PAUSE.as_secs() + 1;
    let most = site.said().outages.max(1) + usize::try_from(again).unwrap_or(usize::MAX);
    for log in &site.logs {
        let complaints = log.complaints();
        outcome.log_lines += complaints.values().sum::<usize>();
        let mut many: Vec<_> = complaints
            .iter()
            .filter(|(_, count)| **count > most)
            .collect();
        many.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        many.truncate(KINDS_NAMED);
        site.must(many.is_empty(), || {
            format!("more than {most} lines of a kind in the log of an instance: {many:?}")
        });
    }
}
