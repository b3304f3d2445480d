//! `payment-proxy in-doubt`: an operator's decision on payments that the service cannot end by
//! itself.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::input::{correlation_id, lines, read};
use super::output::{confirm, print_json, say};
use super::{Common, SaidBy, connect_cells, details, exit_code, table};
use crate::domain::moment;
use crate::domain::payment::format_time;
use crate::store::database::{InCell, in_each};
use crate::store::in_doubt::{self as store, Author, Decided, InDoubt, Resolution};

/// Payments that are listed, at most, unless another number is given.
const LISTED: &str = "1000";

/// `payment-proxy in-doubt`.
#[derive(Debug, Args)]
pub struct InDoubtArgs {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub action: InDoubtAction,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// What to do with payments in doubt.
#[derive(Debug, Subcommand)]
pub enum InDoubtAction {
    /// List them, the oldest first
    List {
        /// Only those at this processor
        #[arg(long, value_name = "NAME")]
        processor: Option<String>,
        /// How many, at most
        #[arg(
            long,
            value_name = "NUMBER",
            default_value = LISTED,
            value_parser = clap::value_parser!(i64).range(1..),
        )]
        limit: i64,
    },
    /// Record that their processor charged them
    Charged {
        #[command(flatten)]
        #[allow(missing_docs)]
        decision: Decision,
        /// The requestedAt that the processor has, of all of them; without it the one that was
        /// sent, or that of the file
        #[arg(long, value_name = "TIME", value_parser = moment::argument)]
        requested_at: Option<DateTime<Utc>>,
    },
    /// Record that their processor did not charge them, and never will: any processor may get them
    /// then
    NotCharged {
        #[command(flatten)]
        #[allow(missing_docs)]
        decision: Decision,
    },
}

/// A decision on some payments.
#[derive(Debug, Args)]
pub struct Decision {
    /// The correlation ids
    #[arg(required_unless_present = "file", value_parser = correlation_id)]
    pub ids: Vec<Uuid>,
    /// A file with one correlation id per line, and where it is to be another than the one that was
    /// sent, the requestedAt after a comma; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "ids")]
    pub file: Option<PathBuf>,
    /// How this is known; it is kept, for auditors
    #[arg(
        long,
        value_name = "TEXT",
        value_parser = clap::builder::NonEmptyStringValueParser::new(),
    )]
    pub reason: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub said: SaidBy,
    /// Do it without asking
    #[arg(long)]
    pub yes: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// A payment, and the `requestedAt` that its processor has, where that is given.
type Told = (Uuid, Option<DateTime<Utc>>);

impl Decision {
    /// The payments, with the `requestedAt` given for each.
    fn payments(&self) -> anyhow::Result<Vec<Told>> {
        match &self.file {
            None => Ok(self.ids.iter().map(|id| (*id, None)).collect()),
            Some(path) => {
                let text = read(path)?;
                told(&text).with_context(|| path.display().to_string())
            }
        }
    }
}

/// One payment per line.
fn told(text: &str) -> anyhow::Result<Vec<Told>> {
    lines(text, |line| {
        let (id, requested_at) = match line.split_once([',', '\t']) {
            Some((id, requested_at)) => (id.trim(), Some(requested_at.trim())),
            None => (line, None),
        };
        let requested_at = requested_at
            .filter(|text| !text.is_empty())
            .map(moment::argument);
        Ok((correlation_id(id)?, requested_at.transpose()?))
    })
}

/// Runs `in-doubt`. Exits with [`DIFFERS`](super::DIFFERS) when a payment was not decided.
///
/// # Errors
/// The database did not answer, a file cannot be read, or nobody confirmed.
pub async fn in_doubt(args: InDoubtArgs) -> anyhow::Result<ExitCode> {
    let cells = connect_cells(&args.common.database).await?;
    let (resolution, decision, requested_at) = match args.action {
        InDoubtAction::List { processor, limit } => {
            let processor = processor.as_deref();
            let listed = in_each(&cells, |pool| store::list(pool, processor, None, limit)).await?;
            let payments = store::oldest(listed, limit);
            print_list(&payments, args.common.json)?;
            return Ok(ExitCode::SUCCESS);
        }
        InDoubtAction::Charged {
            decision,
            requested_at,
        } => (Resolution::Charged, decision, requested_at),
        InDoubtAction::NotCharged { decision } => (Resolution::NotCharged, decision, None),
    };
    let mut payments = decision.payments()?;
    for (_, given) in &mut payments {
        *given = given.or(requested_at);
    }
    let author = Author::new(&decision.said.by, &decision.reason);
    let said = match resolution {
        Resolution::Charged => "charged",
        Resolution::NotCharged => "not charged",
    };
    if !decision.dry_run && !decision.yes {
        let count = payments.len();
        let question = format!(
            "Record that {count} in doubt {} {said}? This cannot be undone, and if it is wrong \
            money is.",
            if count == 1 { "was" } else { "were" }
        );
        if !confirm(&question)? {
            anyhow::bail!("nothing was decided");
        }
    }
    let mut decided = Vec::new();
    for (cell, pool, part) in cells.divide_by(payments, |(id, _)| *id) {
        let done = store::decide(pool, &part, resolution, &author, decision.dry_run).await;
        decided.extend(done.map_err(|error| InCell(cell, error))?);
    }
    print_decided(&decided, said, decision.dry_run, args.common.json)?;
    Ok(exit_code(decided.iter().all(|each| each.outcome == "done")))
}

fn print_list(payments: &[InDoubt], json: bool) -> std::io::Result<()> {
    if json {
        return print_json(&payments);
    }
    if payments.is_empty() {
        return say!("no payment is in doubt");
    }
    for payment in payments {
        let removed = match payment.configured {
            Some(false) => ", which no living instance has in PROCESSORS",
            _ => "",
        };
        say!("{}  {}", payment.correlation_id, payment.amount)?;
        let about = format!(
            "at {}{removed}; requestedAt {}; absence is proof from {}; {}",
            payment.processor,
            format_time(payment.requested_at),
            format_time(payment.doubt_until),
            payment.reason.as_deref().unwrap_or("its worker ended")
        );
        say!("{}", details(&about))?;
    }
    Ok(())
}

fn print_decided(
    decided: &[Decided],
    said: &str,
    dry_run: bool,
    json: bool,
) -> std::io::Result<()> {
    if json {
        return print_json(&decided);
    }
    let rows = decided.iter().map(|each| {
        let outcome = match each.outcome.as_str() {
            "done" if dry_run => format!("would be recorded as {said}"),
            "done" => format!("recorded as {said}"),
            "in_flight" => "left alone: a worker holds it".to_owned(),
            "too early" => "left alone: a call may still charge it".to_owned(),
            "out of range" => "left alone: that requestedAt cannot be".to_owned(),
            "queued" => "left alone: no processor may have charged it".to_owned(),
            "unknown" => "is not known".to_owned(),
            other => format!("left alone: it is {other}"),
        };
        [each.correlation_id.to_string(), outcome]
    });
    say!("{}", table(["payment", "decision"], 2, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_payment_per_line_with_its_requested_at_or_without() {
        let id = "4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3";
        let text =
            format!("# asked on the phone\n{id}\r\n\n {id}, 2026-11-30T05:00:01.5Z\n{id}\t\n");
        let read = told(&text).expect("three payments");
        let at = "2026-11-30T05:00:01.5Z".parse().ok();
        assert_eq!(
            read.iter().map(|(_, at)| *at).collect::<Vec<_>>(),
            [None, at, None]
        );
        for (text, expected) in [
            ("x", "line 1: \"x\" is not a correlation id"),
            (&format!("{id}\n{id},yesterday"), "line 2: expected a time"),
        ] {
            let error = told(text).expect_err("a mistake").to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
