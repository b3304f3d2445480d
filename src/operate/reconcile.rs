//! `payment-proxy reconcile`: our books against the processors' records.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use sqlx::PgPool;

use super::{DIFFERS, FAILED, print_json};
use crate::config::{DatabaseSettings, OwnerSettings, ProcessorsSettings};
use crate::database::Pools;
use crate::reconcile::{self as compare, Difference, Finding, Report, Scope};
use crate::serve;

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
    /// The first requestedAt that is compared, such as 2026-07-10T12:34:56Z; without it, everything
    #[arg(long, value_name = "TIME")]
    pub from: Option<DateTime<Utc>>,
    /// The last requestedAt that is compared; without it, until now
    #[arg(long, value_name = "TIME")]
    pub to: Option<DateTime<Utc>>,
    /// Put right what the processors prove; as the owner of the tables (MIGRATE_DATABASE_URL) where the service may
    /// not change what is booked
    #[arg(long)]
    pub repair: bool,
    /// The processors' admin token, to compare their totals as well: only those show payments that we
    /// do not know at all
    #[arg(
        long,
        env = "PROCESSOR_TOKEN",
        value_name = "PROCESSOR_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `reconcile`. Exits with [`DIFFERS`] when books and processors do not agree at its end, with [`FAILED`] when
/// that is not known because a processor did not answer.
///
/// # Errors
/// The database did not answer.
pub async fn reconcile(args: ReconcileArgs) -> anyhow::Result<ExitCode> {
    let settings = match args.repair {
        true => args.owner.of(&args.database),
        false => args.database,
    };
    let pool: PgPool = Pools::new(&settings).requests;
    let processors = serve::processors(&args.processors)?;
    let scope = Scope {
        from: args.from.unwrap_or(DateTime::UNIX_EPOCH),
        to: args.to.unwrap_or_else(Utc::now),
        repair: args.repair,
        token: args.token,
    };
    let report = compare::reconcile(&pool, &processors, &scope).await?;
    if args.json {
        print_json(&report)?;
    } else {
        print_report(&report);
    }
    Ok(if report.differs() {
        ExitCode::from(DIFFERS)
    } else if report.is_incomplete() {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

fn print_report(report: &Report) {
    for finding in &report.findings {
        println!("{}", finding_line(finding));
    }
    for totals in &report.totals {
        let (name, booked) = (&totals.processor, &totals.booked);
        match &totals.charged {
            Ok(charged) => println!(
                "totals of {name}: {} payments of {} booked, {} of {} charged",
                booked.total_requests,
                booked.total_amount,
                charged.total_requests,
                charged.total_amount
            ),
            Err(reason) => println!("totals of {name}: no answer: {reason}"),
        }
    }
    let count = |of: fn(&Finding) -> bool| report.findings.iter().filter(|each| of(each)).count();
    let (unknown, repaired) = (
        count(Finding::is_silence),
        count(|finding| finding.repaired),
    );
    let differ = report.findings.len() - unknown;
    print!(
        "{} compared, {differ} differ, {repaired} of them repaired",
        report.compared
    );
    match unknown {
        0 => println!(),
        1.. => println!("; of {unknown} it is not known, because a processor does not say"),
    }
}

fn finding_line(finding: &Finding) -> String {
    let ours = match finding.ours {
        compare::Ours::Settled => "settled",
        compare::Ours::Queued => "queued",
        compare::Ours::Dead => "dead",
    };
    let theirs = match &finding.difference {
        Difference::ChargedTwice { processors } => {
            format!("CHARGED TWICE, by {}", processors.join(" and "))
        }
        Difference::NotCharged => "no processor has it".to_owned(),
        Difference::NotBooked { processor } => format!("{processor} has it"),
        Difference::OtherProcessor { processor } => format!("{processor} has it instead"),
        Difference::OtherStamp { requested_at } => {
            format!("the processor has it at {}", requested_at.to_rfc3339())
        }
        Difference::OtherAmount { amount } => format!("the processor has it with amount {amount}"),
        Difference::NoAnswer { processor, reason } => format!("{processor} does not say: {reason}"),
    };
    let repaired = if finding.repaired { "; repaired" } else { "" };
    format!(
        "{}  {ours} here; {theirs}{repaired}",
        finding.correlation_id
    )
}
