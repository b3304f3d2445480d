//! `payment-proxy dead-letter`: what no processor takes, and what becomes of it.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::input::correlation_id;
use super::output::{confirm, print_json, say};
use super::{Common, SaidBy, connect_cells, exit_code, table_with_texts};
use crate::domain::payment::format_time;
use crate::store::database::{InCell, in_each};
use crate::store::dead_letter::{self as store, DeadLetter};
use crate::store::in_doubt::Author;

/// Dead letters that are listed, at most.
const LISTED: i64 = 1_000;

/// `payment-proxy dead-letter`.
#[derive(Debug, Args)]
pub struct DeadLetterArgs {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub action: DeadLetterAction,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLetterAction {
    /// List them, the newest first
    List,
    /// Show one
    Show {
        /// The correlation id
        #[arg(value_parser = correlation_id)]
        id: Uuid,
    },
    /// Put them back into the queue
    Retry {
        /// The correlation ids
        #[arg(required_unless_present = "all", value_parser = correlation_id)]
        ids: Vec<Uuid>,
        /// Every one of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
    /// Forget them for good
    Discard {
        /// The correlation ids
        #[arg(required = true, value_parser = correlation_id)]
        ids: Vec<Uuid>,
        /// Why; it is kept, for auditors
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "no reason was given",
            value_parser = NonEmptyStringValueParser::new(),
        )]
        reason: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        said: SaidBy,
        /// Do it without asking
        #[arg(long)]
        yes: bool,
    },
}

/// Runs `dead-letter`. Exits with [`DIFFERS`](super::DIFFERS) when an id was not among the dead
/// letters.
///
/// # Errors
/// The database did not answer.
pub async fn dead_letter(args: DeadLetterArgs) -> anyhow::Result<ExitCode> {
    let cells = connect_cells(&args.common.database).await?;
    match args.action {
        DeadLetterAction::List => {
            let letters = in_each(&cells, |pool| store::list(pool, None, LISTED)).await?;
            print_letters(&store::newest(letters, LISTED), args.common.json)
        }
        DeadLetterAction::Show { id } => {
            let pool = cells.of(id);
            let letters = store::list(pool, Some(id), 1).await?;
            print_letters(&letters, args.common.json)?;
            if !letters.is_empty() && !args.common.json {
                say!()?;
                super::payment::print_life(pool, id, false).await?;
            }
            Ok(exit_code(!letters.is_empty()))
        }
        DeadLetterAction::Retry { ids, all } => {
            let ids = (!all).then_some(ids);
            let done = match &ids {
                None => in_each(&cells, |pool| store::retry(pool, None))
                    .await?
                    .concat(),
                Some(ids) => {
                    let mut done = Vec::new();
                    for (cell, pool, ids) in cells.divide(ids) {
                        let retried = store::retry(pool, Some(&ids)).await;
                        done.extend(retried.map_err(|error| InCell(cell, error))?);
                    }
                    done
                }
            };
            print_done("queued again", ids.as_deref(), &done, args.common.json)
        }
        DeadLetterAction::Discard {
            ids,
            reason,
            said,
            yes,
        } => {
            let count = ids.len();
            let question = format!("Forget {count} for good? They are never charged then.");
            if !yes && !confirm(&question)? {
                anyhow::bail!("nothing was discarded");
            }
            let author = Author::new(&said.by, &reason);
            let mut done = Vec::new();
            for (cell, pool, ids) in cells.divide(&ids) {
                let discarded = store::discard(pool, &ids, &author).await;
                done.extend(discarded.map_err(|error| InCell(cell, error))?);
            }
            print_done("discarded", Some(&ids), &done, args.common.json)
        }
    }
}

fn print_letters(letters: &[DeadLetter], json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&letters)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !letters.is_empty() {
        let rows = letters.iter().map(|letter| {
            let cells = [
                letter.correlation_id.to_string(),
                format_time(letter.died_at),
                letter.processor.clone(),
            ];
            let claims = if letter.attempt == 1 {
                "claim"
            } else {
                "claims"
            };
            let text = format!(
                "{}, {} {claims}: {}",
                letter.amount, letter.attempt, letter.reason
            );
            (cells, text)
        });
        say!(
            "{}",
            table_with_texts(["payment", "died at", "processor"], rows)
        )?;
    }
    if letters.is_empty() {
        say!("no dead letters")?;
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
        print_json(&serde_json::json!({ "done": done, "missing": missing }))?;
    } else {
        for id in done {
            say!("{id}  {verb}")?;
        }
        for id in &missing {
            say!("{id}  is not a dead letter")?;
        }
        if done.is_empty() && missing.is_empty() {
            say!("no dead letters")?;
        }
    }
    Ok(exit_code(missing.is_empty()))
}
