//! One round of torture: a whole deployment of real processes, clients that post payments, and
//! trouble.
//!
//! Told in order: `pace` says how hard, [`Stack`] starts everything, `clients` post and
//! remember what they were told ([`Ledger`]), `trouble` does its worst meanwhile ([`Timeline`]
//! writes it down), then all is healed and drained, and [`verdict`] compares what clients, ledger
//! and processors say.

mod clients;
mod pace;
mod report;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use payment_proxy::config::QueueDurability;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use pace::Pace;
pub use report::Report;

use crate::deployment::ledger::Ledger;
use crate::deployment::stack::{Folder, Stack};
use crate::deployment::timeline::Timeline;
use crate::deployment::{Setup, facts, verdict};
use clients::Clients;

/// How long clients have to end what they have begun when the load is over.
const CLIENTS_END: Duration = Duration::from_secs(30);
/// How long the queue has to drain, beyond the longest time for which a payment may be in doubt.
const DRAIN_BEYOND_DOUBT: Duration = Duration::from_secs(60);
/// The time between two looks at how far a round is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// The time between two looks at a queue that drains.
const DRAIN_POLL: Duration = Duration::from_millis(200);

/// What a round is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The program `payment-proxy`.
    pub binary: PathBuf,
    /// Whether the queue is logged. A crash of the server empties one that is not: the service has
    /// to report that, and what clients find to be lost they post again.
    pub durability: QueueDurability,
    /// How long load and trouble last.
    pub length: Duration,
    /// All choices come from it.
    pub seed: u64,
    /// New payments per second that the clients aim at.
    pub rate: u32,
    /// How hard.
    pub pace: Pace,
    /// Where the folder of a failed round goes.
    pub reports: PathBuf,
    /// Whether the folder of a sound round goes there, too.
    pub keep: bool,
}

impl Plan {
    fn setup(&self) -> Setup {
        let Pace {
            processor_timeout,
            late_charge,
            ..
        } = self.pace;
        let (binary, durability) = (self.binary.clone(), self.durability);
        Setup {
            clock_can_be_set: self.pace.clock_off.is_some(),
            settings: &[("RUST_LOG", "info,sqlx=warn,payment_proxy=debug")],
            ..Setup::plain(
                binary,
                durability,
                self.seed,
                processor_timeout,
                late_charge,
            )
        }
    }
}

/// Runs a round. What it finds is in the report; where anything is wrong, all that it wrote is
/// kept.
///
/// # Errors
/// Something could not be started, or did not come back: there is no verdict.
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    let folder = Folder::create()?;
    let timeline = Arc::new(Timeline::create(&folder.logs().join("timeline.log"))?);
    timeline.note(
        "plan",
        &format!(
            "seed {} durability {:?} length {:?} rate {} {:?}",
            plan.seed, plan.durability, plan.length, plan.rate, plan.pace
        ),
    );
    let mut report = Report::new(plan);
    let outcome = torment(plan, &folder, &timeline, &mut report).await;
    report.troubles = timeline.counts();
    report.findings.extend(timeline.complaints());
    if let Err(error) = &outcome {
        timeline.note("error", &format!("{error:#}"));
    }
    if plan.keep || outcome.is_err() || !report.findings.is_empty() {
        let kept = folder.keep(&plan.reports, "torture", &report.to_string());
        report.kept = kept.context("the artefacts cannot be kept")?;
    }
    outcome.with_context(|| format!("seed {}, see {}", plan.seed, report.kept.display()))?;
    Ok(report)
}

async fn torment(
    plan: &Plan,
    folder: &Folder,
    timeline: &Arc<Timeline>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let stack = Arc::new(Stack::start(&plan.setup(), folder, Arc::clone(timeline)).await?);
    let outcome = torment_stack(plan, folder, &stack, timeline, report).await;
    if plan.keep || outcome.is_err() || !report.findings.is_empty() {
        stack.dump_tables(folder).await;
    }
    stack.stop().await;
    let logs = ["api1", "api2", "default", "fallback"];
    let logs = logs.map(|name| folder.logs().join(format!("{name}.log")));
    let logged = facts::read_logs(logs.iter().map(PathBuf::as_path));
    report.logged = logged.counts;
    report.findings.extend(logged.wrong);
    outcome
}

async fn torment_stack(
    plan: &Plan,
    folder: &Folder,
    stack: &Arc<Stack>,
    timeline: &Arc<Timeline>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let begun_at = Instant::now();
    let begun = chrono::Utc::now();
    let over = CancellationToken::new();
    let ledger = Arc::new(Ledger::default());
    let clients = Clients::new(plan, stack, &ledger, &over)?;
    let mut troubles = trouble::begin(plan, stack, &clients, &over);
    let mut posting = clients.begin(plan);

    // On a terminal; nothing elsewhere.
    let style = "{wide_bar} {pos} of {len} s, {eta} left\n{msg}";
    let bar =
        ProgressBar::new(plan.length.as_secs()).with_style(ProgressStyle::with_template(style)?);
    while begun_at.elapsed() < plan.length {
        tokio::time::sleep(PROGRESS_EVERY).await;
        stack.observe().await;
        bar.set_position(begun_at.elapsed().as_secs());
        bar.set_message(report::progress(
            begun_at,
            &ledger.totals(),
            stack,
            timeline,
        ));
        if let Some(error) = stack.broken() {
            anyhow::bail!(error);
        }
    }
    bar.finish_and_clear();

    over.cancel();
    finish(&mut troubles).await?;
    stack.heal().await?;
    timeline.note("healed", "");
    if tokio::time::timeout(CLIENTS_END, finish(&mut posting))
        .await
        .is_err()
    {
        posting.shutdown().await;
    }
    let drained_at = Instant::now();
    let limit = plan.pace.longest_doubt() + DRAIN_BEYOND_DOUBT;
    while stack.queued().await? > 0 && drained_at.elapsed() < limit {
        tokio::time::sleep(DRAIN_POLL).await;
    }
    report.drain = drained_at.elapsed();
    timeline.note("drained", &format!("{:?}", report.drain));
    // What a processor may still be about to store is stored after this; then nothing can change
    // any more.
    tokio::time::sleep(plan.pace.longest_charge()).await;

    let facts = facts::gather(stack, &ledger).await?;
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let findings = verdict::judge(&facts);
    report.findings = findings.iter().map(ToString::to_string).collect();
    let span = facts.span(begun..chrono::Utc::now());
    let (compared, differing) = facts::compare_summaries(stack, &span, &mut rng).await?;
    report.summaries = compared;
    report.findings.extend(differing);
    report.findings.extend(stack.reconcile().await?);
    report.take(&facts, stack);
    facts.write(folder)?;
    Ok(())
}

async fn finish(tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended.context("a part of the torture broke")?;
    }
    Ok(())
}
