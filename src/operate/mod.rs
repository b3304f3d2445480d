//! The commands of operators and auditors: what they print, and the exit code that says how it went.

mod archive;
mod dead_letter;
mod deployment;
mod in_doubt;
pub mod output;
mod payment;
mod progress;
mod reconcile;
mod restore;
mod status;
mod summary;

use comfy_table::{CellAlignment, Table, TableStyle};

pub use archive::{ArchiveArgs, archive};
pub use dead_letter::{DeadLetterAction, DeadLetterArgs, dead_letter};
pub use deployment::{Declaration, DeploymentAction, DeploymentArgs, deployment};
pub use in_doubt::{Decision, InDoubtAction, InDoubtArgs, in_doubt};
pub use payment::{PaymentArgs, payment};
use progress::Progress;
pub use reconcile::{ReconcileArgs, reconcile};
pub use restore::{RestoreArgs, restore};
pub use status::{StatusArgs, status};
pub use summary::{SummaryArgs, summary};

/// The exit code when everything could be done, and what was found is not as it should be.
pub const DIFFERS: u8 = 1;
/// The exit code when it could not be done.
pub const FAILED: u8 = 2;

/// Who decided something, where neither `--by` nor the environment says it. The role of the database is kept, too.
const UNNAMED: &str = "unnamed";

/// A table without lines. The columns from `numbers` on are aligned to the right.
fn table<const N: usize>(
    header: [&str; N],
    numbers: usize,
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if column.index >= numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}
