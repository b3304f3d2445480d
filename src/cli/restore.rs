//! `payment-proxy restore`: an archived month back into the ledger.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::archive::folder_of;
use super::output::{print_json, say};
use super::{CellArg, Progress, exit_code, naming, paragraph};
use crate::config::{DatabaseSettings, OwnerSettings};
use crate::store::archive::{self as months, Month, Restoration, Restored};
use crate::store::database::of_cell;

/// `payment-proxy restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub owner: OwnerSettings,
    /// The month, such as 2026-07, by requestedAt in UTC
    #[arg(value_name = "MONTH")]
    pub month: Month,
    /// The folder that its file is in
    #[arg(long, value_name = "FOLDER")]
    pub from: PathBuf,
    /// Restore it although payments of the month were recorded or changed after the export: they
    /// stay as they are, beside those of the file
    #[arg(long)]
    pub keep_late: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cell: CellArg,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `restore`. Exits with [`DIFFERS`](super::DIFFERS) when the month was refused.
///
/// # Errors
/// As [`months::restore`].
pub async fn restore(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let mut cells = args.cell.of(&args.owner.of(&args.database))?;
    let (Some(settings), true) = (cells.pop(), cells.is_empty()) else {
        anyhow::bail!("a month comes back into one cell at a time: --cell says into which");
    };
    let folder = folder_of(settings.cell(), &args.from);
    let progress = Progress::new("payments", args.json);
    let how = (args.dry_run, args.keep_late);
    let done = |payments, of| progress.at(payments, of);
    let restored = months::restore(&settings, args.month, &folder, how, done).await;
    let restored = restored.map_err(|error| of_cell(settings.cell(), naming(&settings, error)))?;
    progress.end();
    if args.json {
        print_json(&restored)?;
    } else {
        print_restored(&restored)?;
    }
    Ok(exit_code(!matches!(
        restored.state,
        Restoration::Refused { .. }
    )))
}

fn print_restored(restored: &Restored) -> std::io::Result<()> {
    let Restored {
        month,
        payments,
        amount,
        ..
    } = restored;
    let file = restored.file.display();
    let what = match &restored.state {
        Restoration::Due => format!("{payments} payments of {amount} would come back from {file}"),
        Restoration::Refused { reason } => format!("nothing was changed: {reason}"),
        Restoration::Done => format!("{payments} payments of {amount} are in the ledger again"),
    };
    say!("{}", paragraph(&format!("{month}: {what}")))?;
    restored
        .late
        .iter()
        .try_for_each(|id| say!("  {id} was recorded or changed after the export"))
}
