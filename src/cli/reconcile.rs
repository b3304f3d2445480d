//! `payment-proxy reconcile`: our ledger against the processors' records.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use http1_client::MOST_CONNECTIONS;
use uuid::Uuid;

use super::input::{correlation_id, lines, read};
use super::output::{complain, print_json, say};
use super::{DIFFERS, FAILED, Progress, connect_cells, paragraph};
use crate::config::{DatabaseSettings, OwnerSettings, ProcessorsSettings};
use crate::domain::moment;
use crate::pipeline::reconcile::{self as compare, Finding, RATE, Report, Scope};
use crate::processors::processors;
use crate::telemetry::Telemetry;

/// `payment-proxy reconcile`.
#[derive(Debug, Args)]
pub struct ReconcileArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub owner: OwnerSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub processors: ProcessorsSettings,
    /// The first requestedAt that is compared; without it, everything
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    pub from: Option<DateTime<Utc>>,
    /// The last requestedAt that is compared; without it, everything
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    pub to: Option<DateTime<Utc>>,
    /// Compare the payments with these correlation ids, also those that we do not have at all: a
    /// file with one per line, - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to"])]
    pub ids: Option<PathBuf>,
    /// Put right what the processors prove; as the owner of the tables (MIGRATE_DATABASE_URL) where
    /// the service may not change what is recorded
    #[arg(long)]
    pub repair: bool,
    /// The processors' admin token, to compare their totals as well: only those show payments that
    /// we do not know at all
    #[arg(
        long,
        env = "PROCESSOR_TOKEN",
        value_name = "PROCESSOR_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// Payments per second that are looked up, at most: whoever posts meanwhile shares the CPUs
    #[arg(long, value_name = "PAYMENTS", default_value_t = NonZeroU32::new(RATE).expect("not 0"))]
    pub rate: NonZeroU32,
    /// A processor that is gone and cannot be asked: it is taken to have no payments but those that
    /// our records place there, and of these it is not known
    #[arg(long, value_name = "NAME")]
    pub without: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `reconcile`. Exits with [`DIFFERS`] when ledger and processors do not agree at its end,
/// with [`FAILED`] when that is not known: a processor was not asked or did not answer, or payments
/// are archived.
///
/// # Errors
/// The range is upside down, the ids cannot be read, or the database did not answer.
pub async fn reconcile(args: ReconcileArgs) -> anyhow::Result<ExitCode> {
    if matches!((args.from, args.to), (Some(from), Some(to)) if from > to) {
        anyhow::bail!("--from must not be after --to");
    }
    let ids = args.ids.as_deref().map(read_ids).transpose()?;
    let settings = match args.repair {
        true => args.owner.of(&args.database),
        false => args.database,
    };
    let cells = connect_cells(&settings).await?;
    let processors = processors(&args.processors, MOST_CONNECTIONS, &Telemetry::default())?;
    let scope = Scope {
        from: args.from,
        to: args.to,
        ids,
        repair: args.repair,
        token: args.token,
        rate: args.rate,
        without: args.without,
    };
    let progress = Progress::new("payments", args.json);
    let done = |payments, of| progress.at(payments, of);
    let report = compare::reconcile(&cells, &processors, &scope, done).await?;
    progress.end();
    if args.json {
        print_json(&report)?;
    } else {
        print_report(&report)?;
    }
    Ok(if report.differs() {
        ExitCode::from(DIFFERS)
    } else if report.is_incomplete() {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// The ids of a file, each once.
fn read_ids(path: &Path) -> anyhow::Result<Vec<Uuid>> {
    let name = path.display();
    let ids = lines(&read(path)?, correlation_id).with_context(|| name.to_string())?;
    // As of a pipe whose other end has failed.
    anyhow::ensure!(!ids.is_empty(), "{name} has no id in it");
    let mut seen = HashSet::new();
    Ok(ids.into_iter().filter(|id| seen.insert(*id)).collect())
}

fn print_report(report: &Report) -> std::io::Result<()> {
    let tell = |text: &str| say!("{}", paragraph(text));
    for finding in &report.findings {
        tell(&finding_line(finding))?;
    }
    for id in &report.nowhere {
        let lost = "unknown here; no processor has it: it was lost, or never posted";
        tell(&format!("{id}  {lost}"))?;
    }
    for totals in &report.totals {
        let (name, recorded) = (&totals.processor, &totals.recorded);
        let differ = match &totals.charged {
            Ok(charged) => format!(
                "{} payments of {} recorded, {} of {} charged",
                recorded.total_requests,
                recorded.total_amount,
                charged.total_requests,
                charged.total_amount
            ),
            Err(reason) => format!("no answer: {reason}"),
        };
        tell(&format!("totals of {name}: {differ}"))?;
    }
    for group in &report.not_known {
        let first: Vec<String> = group.first.iter().map(ToString::to_string).collect();
        tell(&format!(
            "{} payments: not known whether {} has them: {}; the first: {}",
            group.payments,
            group.processor,
            group.reason,
            first.join(" ")
        ))?;
    }
    for name in &report.not_asked {
        let known = "it is known to the database and not in PROCESSORS";
        tell(&format!("{name} was not asked: {known}"))?;
    }
    let archived = report.archived;
    if archived.payments > 0 {
        let how = match report.totals_compared {
            true => "compared by totals only",
            false => "not compared: give --token to compare totals, or restore the month",
        };
        tell(&format!(
            "{} payments of {} are archived and {how}",
            archived.payments, archived.amount
        ))?;
    }
    if let Some(reason) = &report.not_left {
        let not_left = format!("what was found is not left for `status`: {reason}");
        complain(&format_args!("{}\n", paragraph(&not_left)));
    }
    let repaired = report.findings.iter().filter(|each| each.repaired).count();
    let not_known = match report.payments_not_known {
        0 => String::new(),
        not_known => format!("; of {not_known} it is not known"),
    };
    tell(&format!(
        "{} compared, {} differ, {repaired} of them repaired{not_known}",
        report.compared,
        report.findings.len()
    ))
}

fn finding_line(finding: &Finding) -> String {
    let ours = match finding.ours {
        compare::Ours::Settled => "settled",
        compare::Ours::Queued => "queued",
        compare::Ours::Dead => "dead",
        compare::Ours::Unknown => "unknown",
    };
    let (id, difference) = (finding.correlation_id, &finding.difference);
    let repaired = if finding.repaired { "; repaired" } else { "" };
    format!("{id}  {ours} here; {difference}{repaired}")
}
