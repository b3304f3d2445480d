//! The commands of operators and auditors: what they print, and the exit code that says how it went.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use sqlx::PgPool;
use uuid::Uuid;

use crate::config::{DatabaseSettings, ProcessorsSettings};
use crate::database::Pools;
use crate::dead_letter::{self, DeadLetter};
use crate::payment::format_time;
use crate::reconcile::{self, Difference, Finding, Report, Scope};
use crate::serve;

/// Dead letters that are listed, at most.
const LISTED: i64 = 1_000;

/// The exit code when everything could be done, and what was found is not as it should be.
pub const DIFFERS: u8 = 1;

/// `payment-proxy dead-letter`.
#[derive(Debug, Args)]
pub struct DeadLetterArgs {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub action: DeadLetterAction,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLetterAction {
    /// List them, the newest first
    List,
    /// Show one
    Show {
        /// The correlation id
        id: Uuid,
    },
    /// Put them back into the queue
    Retry {
        /// The correlation ids
        #[arg(required_unless_present = "all")]
        ids: Vec<Uuid>,
        /// Every one of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
    /// Forget them for good
    Discard {
        /// The correlation ids
        #[arg(required = true)]
        ids: Vec<Uuid>,
    },
}

/// `payment-proxy reconcile`.
#[derive(Debug, Args)]
pub struct ReconcileArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub processors: ProcessorsSettings,
    /// The first requestedAt that is compared, such as 2026-07-10T12:34:56Z; without it, everything
    #[arg(long, value_name = "TIME")]
    pub from: Option<DateTime<Utc>>,
    /// The last requestedAt that is compared; without it, until now
    #[arg(long, value_name = "TIME")]
    pub to: Option<DateTime<Utc>>,
    /// Put right what the processors prove
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

/// Runs `dead-letter`. Exits with [`DIFFERS`] when an id was not among the dead letters.
///
/// # Errors
/// The database did not answer.
pub async fn dead_letter(args: DeadLetterArgs) -> anyhow::Result<ExitCode> {
    let pool = Pools::new(&args.database).requests;
    match args.action {
        DeadLetterAction::List => {
            print_letters(&dead_letter::list(&pool, None, LISTED).await?, args.json)
        }
        DeadLetterAction::Show { id } => {
            let letters = dead_letter::list(&pool, Some(id), 1).await?;
            print_letters(&letters, args.json)?;
            Ok(if letters.is_empty() {
                ExitCode::from(DIFFERS)
            } else {
                ExitCode::SUCCESS
            })
        }
        DeadLetterAction::Retry { ids, all } => {
            let ids = (!all).then_some(ids);
            let done = dead_letter::retry(&pool, ids.as_deref()).await?;
            print_done("queued again", ids.as_deref(), &done, args.json)
        }
        DeadLetterAction::Discard { ids } => {
            let done = dead_letter::discard(&pool, &ids).await?;
            print_done("discarded", Some(&ids), &done, args.json)
        }
    }
}

fn print_letters(letters: &[DeadLetter], json: bool) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string(letters)?);
        return Ok(ExitCode::SUCCESS);
    }
    for letter in letters {
        println!(
            "{}  {:>15}  {}  attempts {}  {}",
            letter.correlation_id,
            letter.amount,
            format_time(letter.died_at),
            letter.attempt,
            letter.reason
        );
    }
    if letters.is_empty() {
        println!("no dead letters");
    }
    Ok(ExitCode::SUCCESS)
}

fn print_done(
    verb: &str,
    wanted: Option<&[Uuid]>,
    done: &[Uuid],
    json: bool,
) -> anyhow::Result<ExitCode> {
    let missing: Vec<&Uuid> = wanted
        .unwrap_or_default()
        .iter()
        .filter(|id| !done.contains(id))
        .collect();
    if json {
        println!(
            "{}",
            serde_json::json!({ "done": done, "missing": missing })
        );
    } else {
        done.iter().for_each(|id| println!("{id}  {verb}"));
        missing
            .iter()
            .for_each(|id| println!("{id}  is not a dead letter"));
        if done.is_empty() && missing.is_empty() {
            println!("no dead letters");
        }
    }
    Ok(if missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DIFFERS)
    })
}

/// Runs `reconcile`. Exits with [`DIFFERS`] when books and processors do not agree at its end.
///
/// # Errors
/// The database did not answer.
pub async fn reconcile(args: ReconcileArgs) -> anyhow::Result<ExitCode> {
    let pool: PgPool = Pools::new(&args.database).requests;
    let processors = serve::processors(&args.processors)?;
    let scope = Scope {
        from: args.from.unwrap_or(DateTime::UNIX_EPOCH),
        to: args.to.unwrap_or_else(Utc::now),
        repair: args.repair,
        token: args.token,
    };
    let report = reconcile::reconcile(&pool, &processors, &scope).await?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report);
    }
    Ok(if report.agrees() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DIFFERS)
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
    let repaired = report
        .findings
        .iter()
        .filter(|finding| finding.repaired)
        .count();
    println!(
        "{} compared, {} differ, {repaired} of them repaired",
        report.compared,
        report.findings.len()
    );
}

fn finding_line(finding: &Finding) -> String {
    let ours = match finding.ours {
        reconcile::Ours::Settled => "settled",
        reconcile::Ours::Queued => "queued",
        reconcile::Ours::Dead => "dead",
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
