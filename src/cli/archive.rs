//! `payment-proxy archive`: old months out of the ledger, to files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::output::{print_json, say};
use super::{Progress, exit_code, naming, paragraph};
use crate::config::{DatabaseSettings, OwnerSettings};
use crate::domain::cell::Cell;
use crate::store::archive::{self as months, Archived, Month, State, Step};
use crate::store::database::of_cell;

/// `payment-proxy archive`.
#[derive(Debug, Args)]
pub struct ArchiveArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub owner: OwnerSettings,
    /// All months before this one, such as 2026-08, by requestedAt in UTC
    #[arg(long, value_name = "MONTH")]
    pub before: Month,
    /// The folder of the files, which is there already; those of each of several cells go into a
    /// folder in it, such as cell-2. What is in them is nowhere else: keep copies
    #[arg(long, value_name = "FOLDER")]
    pub to: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `archive`. Exits with [`DIFFERS`](super::DIFFERS) when a month was refused, or payments of
/// one stayed in the ledger.
///
/// # Errors
/// As [`months::archive`].
pub async fn archive(args: ArchiveArgs) -> anyhow::Result<ExitCode> {
    let owner = args.owner.of(&args.database);
    let progress = Progress::new("payments", args.json);
    let mut archived = Vec::new();
    for settings in owner.cells() {
        let cell = settings.cell();
        let step = |step: Step| {
            progress.doing(&cell.named(format!("{} {}", step.month, step.doing)));
            progress.at(step.done, step.of);
        };
        let folder = folder_of(cell, &args.to);
        if cell.label().is_some() && !args.dry_run {
            let made = std::fs::create_dir_all(&folder);
            made.with_context(|| folder.display().to_string())?;
        }
        let months = months::archive(&settings, args.before, &folder, args.dry_run, step).await;
        archived.extend(months.map_err(|error| of_cell(cell, naming(&settings, error)))?);
    }
    progress.end();
    if args.json {
        print_json(&archived)?;
    } else {
        archived.iter().try_for_each(print_month)?;
        if archived.is_empty() {
            say!("nothing is left to archive before {}", args.before)?;
        }
    }
    Ok(exit_code(
        archived.iter().all(|month| month.state.is_well()),
    ))
}

/// Where the files of a cell are: in a folder of its own where there are others.
pub(super) fn folder_of(cell: Cell, folder: &Path) -> PathBuf {
    match cell.label() {
        Some(number) => folder.join(format!("cell-{number}")),
        None => folder.to_owned(),
    }
}

fn print_month(archived: &Archived) -> std::io::Result<()> {
    let Archived {
        month,
        payments,
        amount,
        ..
    } = archived;
    let file = archived.file.display();
    let what = match &archived.state {
        State::Due => format!("would go to {file}"),
        State::Refused { reason } => format!("stay: {reason}"),
        State::Moved { left: 0 } => format!("are in {file}"),
        State::Moved { left } => format!(
            "are in {}; {left} of that month were recorded or changed after the export and stay in the ledger \
             (`restore {month} --keep-late`, and archive to another folder, to have them in one file)",
            month.file_name()
        ),
    };
    let line = format!("{month}: {payments} payments of {amount} {what}");
    say!("{}", paragraph(&line))?;
    archived
        .left
        .iter()
        .try_for_each(|id| say!("  {id} stays in the ledger"))
}
