//! The commands of operators and auditors: what they print, and the exit code that says how it
//! went.

mod archive;
mod dead_letter;
mod deployment;
mod divide;
mod in_doubt;
mod input;
pub mod output;
mod payment;
mod progress;
mod reconcile;
mod restore;
mod routing;
mod status;
mod summary;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use comfy_table::{CellAlignment, ContentArrangement, Row, Table, TableStyle};
use futures_util::future::try_join_all;
use sqlx::postgres::PgDatabaseError;
use sqlx::{Connection, PgConnection};

use crate::config::{DatabaseSettings, MigrateSettings};
use crate::domain::cell::{Cell, Cells};
use crate::store::database::{Pool, Pools, of_cell};
use crate::store::summary::NoSummary;

pub use archive::{ArchiveArgs, archive};
pub use dead_letter::{DeadLetterAction, DeadLetterArgs, dead_letter};
pub use deployment::{DeclarationArg, DeploymentAction, DeploymentArgs, deployment};
pub use divide::{DivideArgs, divide};
pub use in_doubt::{Decision, InDoubtAction, InDoubtArgs, in_doubt};
pub use payment::{PaymentArgs, payment};
use progress::Progress;
pub use reconcile::{ReconcileArgs, reconcile};
pub use restore::{RestoreArgs, restore};
pub use routing::{RoutingAction, RoutingArgs, SwitchArgs, routing};
pub use status::{StatusArgs, status};
pub use summary::{SummaryArgs, summary};

/// The exit code when everything could be done, and what was found is not as it should be.
pub(crate) const DIFFERS: u8 = 1;
/// The exit code when it could not be done.
pub const FAILED: u8 = 2;

/// The exit code of a command whose output says what was found: [`DIFFERS`] unless all is well.
fn exit_code(is_well: bool) -> ExitCode {
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DIFFERS)
    }
}

/// What commands with actions of their own have beside these.
#[derive(Debug, Args)]
pub struct Common {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// Who decided something, where neither `--by` nor the environment says it. The role of the
/// database is kept, too.
const UNNAMED: &str = "unnamed";

/// Who answers for a decision that is kept.
#[derive(Debug, Clone, Args)]
pub struct SaidBy {
    /// Who decides it
    #[arg(
        long,
        env = "USER",
        value_name = "NAME",
        default_value = UNNAMED,
        value_parser = NonEmptyStringValueParser::new(),
    )]
    pub by: String,
}

/// Columns of a terminal for which output is made, where it goes to a file or a pipe and `COLUMNS`
/// does not say more.
const COLUMNS: u16 = 80;
/// The fewest columns for which output is made.
const COLUMNS_MIN: u16 = 40;
/// How far the text below a row is indented.
const INDENT: &str = "    ";

/// How wide what is printed may be: as clap decides it for help.
fn width() -> usize {
    let terminal = std::io::stdout().is_terminal();
    let terminal = terminal
        .then(crossterm::terminal::size)
        .and_then(Result::ok);
    let columns = terminal.map(|(columns, _)| columns).or_else(|| {
        let columns = std::env::var("COLUMNS").ok()?;
        columns.parse().ok()
    });
    columns.unwrap_or(COLUMNS).max(COLUMNS_MIN).into()
}

/// A table without lines, as wide as the output at most. The columns from `numbers` on are aligned
/// to the right.
fn table<const N: usize>(
    header: [&str; N],
    numbers: usize,
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = plain(&header, numbers, rows);
    table
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(width()).unwrap_or(u16::MAX));
    table.trim_fmt()
}

fn plain<R: Into<Row>>(
    header: &[&str],
    numbers: usize,
    rows: impl IntoIterator<Item = R>,
) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if column.index >= numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A table whose rows are followed by a text each: in the same line where there is room, otherwise
/// below. Each row is one line: the last columns go into the texts where there is no room for all.
fn table_with_texts<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = ([String; N], String)>,
) -> String {
    let (rows, mut texts): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let mut columns = N;
    let table = loop {
        let shown = rows.iter().map(|row| &row[..columns]);
        let table = plain(&header[..columns], columns, shown).to_string();
        let longest = table.lines().map(|line| line.trim_end().chars().count());
        if columns == 1 || longest.max() <= Some(width()) {
            break table;
        }
        columns -= 1;
        for (row, text) in rows.iter().zip(&mut texts) {
            let cell = format!("{} {}", header[columns], row[columns]);
            *text = match (row[columns].is_empty(), text.is_empty()) {
                (true, _) => continue,
                (false, true) => cell,
                (false, false) => format!("{cell}; {text}"),
            };
        }
    };
    let mut lines = table.lines();
    let mut out = lines.next().unwrap_or_default().trim_end().to_owned();
    for (line, text) in lines.zip(texts) {
        out.push('\n');
        if text.is_empty() {
            out.push_str(line.trim_end());
        } else if line.chars().count() + text.chars().count() <= width() {
            out.push_str(&format!("{line}{text}"));
        } else {
            out.push_str(&format!("{}\n{}", line.trim_end(), details(&text)));
        }
    }
    out
}

/// A text below a row, in lines that fit.
fn details(text: &str) -> String {
    wrapped(INDENT, INDENT, text)
}

/// A text in lines that fit, the first of which begins at the margin.
fn paragraph(text: &str) -> String {
    wrapped("", INDENT, text)
}

/// A text in lines that fit, beside its name.
fn field(name: &str, text: &str) -> String {
    const NAME: usize = 14;
    wrapped(&format!("{name:NAME$}"), &" ".repeat(NAME), text)
}

/// A text in lines that fit; `first` stands before the first and `others` before each other. A word
/// that does not fit, such as a path or an id, stays in one piece: people copy it.
fn wrapped(first: &str, others: &str, text: &str) -> String {
    let options = textwrap::Options::new(width())
        .initial_indent(first)
        .subsequent_indent(others)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(text, options)
}

/// Connections to the database, or to the first cell, the first of which has been made: so that an
/// error says what was tried and why it failed, which a pool does not.
///
/// # Errors
/// No connection can be made.
async fn connect(settings: &DatabaseSettings) -> anyhow::Result<Pool> {
    let connected = connect_one(settings).await;
    connected.map_err(|error| of_cell(settings.cell(), error))
}

/// The same, whose error does not name the cell.
async fn connect_one(settings: &DatabaseSettings) -> anyhow::Result<Pool> {
    let options = settings.connect_options("payment-proxy");
    let connection = connected(settings, PgConnection::connect_with(&options)).await?;
    connection.close().await?;
    Ok(Pools::new(settings).requests)
}

/// The same for every cell.
///
/// # Errors
/// No connection can be made to one of them: which.
async fn connect_cells(settings: &DatabaseSettings) -> anyhow::Result<Cells<Pool>> {
    let cells = settings.cells();
    try_join_all(cells.iter().map(connect)).await?;
    Ok(cells.map(|cell| Pools::new(cell).requests))
}

/// The cell that is meant, where one is.
#[derive(Debug, Clone, Args)]
pub struct CellArg {
    /// Only in this cell, from 1 on, in the order of DATABASE_URL
    #[arg(long, global = true, value_name = "NUMBER")]
    pub cell: Option<usize>,
}

impl CellArg {
    /// The settings of that cell, or of all.
    ///
    /// # Errors
    /// There is no such cell.
    fn of(&self, settings: &DatabaseSettings) -> anyhow::Result<Vec<DatabaseSettings>> {
        let mut cells: Vec<DatabaseSettings> = settings.cells().into_iter().collect();
        match self.cell {
            None => Ok(cells),
            Some(number @ 1..) if number <= cells.len() => Ok(vec![cells.swap_remove(number - 1)]),
            Some(number) => {
                let cells = cells.len();
                anyhow::bail!("there is no cell {number}: DATABASE_URL has {cells}")
            }
        }
    }
}

/// The connection, or an error that names what was tried.
async fn connected(
    settings: &DatabaseSettings,
    connecting: impl Future<Output = Result<PgConnection, sqlx::Error>>,
) -> anyhow::Result<PgConnection> {
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(made) => made.map_err(|error| not_connected(settings, &error.to_string())),
        Err(_) => {
            let silence = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
            Err(not_connected(settings, &silence))
        }
    }
}

/// `payment-proxy migrate`.
///
/// # Errors
/// As [`crate::store::database::migrate`]; one that says that there is no connection names what was
/// tried.
pub async fn migrate(settings: &MigrateSettings) -> anyhow::Result<()> {
    // A table that is written anew or gets an index takes minutes per gigabyte.
    let progress = Progress::open_ended("migrating");
    let migrated = crate::store::database::migrate(settings).await;
    progress.end();
    migrated.map_err(|error| {
        let cell = error.downcast_ref::<Cell>().copied();
        let owner = settings.owner();
        match cell.map(|cell| (cell, owner.cells())) {
            Some((cell, owners)) => {
                let failed = owners.into_iter().nth(cell.number() - 1).unwrap_or(owner);
                of_cell(cell, naming(&failed, error))
            }
            None => naming(&owner, error),
        }
    })
}

/// The error, or where it says that there is no connection, what was tried.
fn naming(settings: &DatabaseSettings, error: anyhow::Error) -> anyhow::Error {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<sqlx::Error>());
    match causes.next() {
        Some(cause) if is_about_connecting(cause) => not_connected(settings, &cause.to_string()),
        _ => error,
    }
}

/// An error as people read it: each cause once, and what to do where the database lacks what this
/// program needs, or does not allow it to this role.
#[must_use]
pub fn explained(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let database = match cause.downcast_ref::<NoSummary>() {
            Some(NoSummary::Database(error)) => Some(error),
            _ => cause.downcast_ref::<sqlx::Error>(),
        };
        let told = database.map_or_else(|| cause.to_string(), database_words);
        if !text.is_empty() && !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        } else if text.is_empty() {
            text = told;
        }
        // What it stands upon says the same in other words.
        if database.is_some_and(|error| error.as_database_error().is_some()) {
            break;
        }
    }
    text
}

/// What the database says, and what to do about it.
fn database_words(error: &sqlx::Error) -> String {
    let Some(database) = error.as_database_error() else {
        return error.to_string();
    };
    let hint = database.try_downcast_ref::<PgDatabaseError>();
    let message = match hint.and_then(PgDatabaseError::hint) {
        Some(hint) => format!("{} ({hint})", database.message()),
        None => database.message().to_owned(),
    };
    match database.code().as_deref() {
        // No such table, column, function, schema.
        Some("42P01" | "42703" | "42883" | "3F000") => {
            format!("{message}: the database is not migrated, which `payment-proxy migrate` does")
        }
        Some("42501") => {
            format!(
                "{message}: MIGRATE_DATABASE_URL names the role that owns the tables, which may"
            )
        }
        _ => message,
    }
}

/// Whether it says that there is no connection: none to that address, no such role, password or
/// database.
fn is_about_connecting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["28", "3D", "53300", "57P03"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

/// How long a command waits for its first connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What was tried, as psql says it.
pub fn not_connected(settings: &DatabaseSettings, cause: &str) -> anyhow::Error {
    let options = &settings.database_url.here().0;
    let cause = cause
        .strip_prefix("error communicating with database: ")
        .unwrap_or(cause);
    let cause = cause
        .strip_prefix("error returned from database: ")
        .unwrap_or(cause);
    match options.get_socket() {
        Some(folder) => anyhow::anyhow!(
            "connection to server on socket in {} failed: {cause}",
            folder.display()
        ),
        None => anyhow::anyhow!(
            "connection to server at {}, port {} failed: {cause}",
            options.get_host(),
            options.get_port()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_texts_fit_eighty_columns() {
        let id = "4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3".to_owned();
        let at = "2026-11-30T05:00:00.000Z".to_owned();
        let reason =
            "no reply within the time that a processor has, and its look-up says nothing of it"
                .repeat(2);
        let wide = table(
            ["id", "at", "why"],
            3,
            [[id.clone(), at.clone(), reason.clone()]],
        );
        let with = table_with_texts(
            ["id", "at"],
            [
                ([id.clone(), at.clone()], reason.clone()),
                ([id.clone(), at], "short".to_owned()),
            ],
        );
        let long = "payment-processor-of-a-bank-with-a-long-name";
        let moved = table_with_texts(
            ["id", "processor", "claim"],
            [
                (
                    [id.clone(), long.to_owned(), "12".to_owned()],
                    String::new(),
                ),
                ([id.clone(), long.to_owned(), String::new()], reason.clone()),
            ],
        );
        let wrapped = [
            details(&reason),
            paragraph(&reason),
            field("instance", &reason),
        ];
        for text in [&wide, &with, &moved].into_iter().chain(&wrapped) {
            let longest = text.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(COLUMNS.into()), "{text}");
        }
        assert!(
            with.lines()
                .last()
                .is_some_and(|line| line.ends_with("000Z  short")),
            "{with}"
        );
        assert!(with.contains("\n    no reply within"), "{with}");
        let first: Vec<&str> = moved.lines().take(3).collect();
        assert_eq!(first[0], "id", "{moved}");
        assert_eq!(first[1], id, "{moved}");
        assert_eq!(
            first[2],
            format!("    processor {long}; claim 12"),
            "{moved}"
        );
        assert!(
            wrapped[2].starts_with("instance      no reply"),
            "{}",
            wrapped[2]
        );
    }

    #[test]
    fn ids_and_paths_stay_in_one_piece() {
        let id = "4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3";
        let path = format!("/srv/{}/payments-2026-07.csv", "archive-".repeat(12));
        let text = paragraph(&format!("{id} {id} {id} are in {path} now"));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [&format!("{id} {id}"), &format!("{id} are in"), &path, "now"]
        );
    }

    #[test]
    fn an_error_says_each_cause_once() {
        let error = anyhow::anyhow!("no such file").context("file f: no such file");
        assert_eq!(explained(&error), "file f: no such file");
        let error = anyhow::anyhow!("a").context("b").context("c");
        assert_eq!(explained(&error), "c: b: a");
    }

    #[test]
    fn an_error_names_what_was_tried_once() {
        let settings = |url: &str| DatabaseSettings {
            database_url: url.parse().expect("a URL"),
            database_password: None,
            database_password_file: None,
            direct_database_url: None,
            queue_durability: crate::config::QueueDurability::Unlogged,
        };
        for (url, cause, expected) in [
            (
                "postgres://me:secret@db:5433/books",
                "error communicating with database: Connection refused (os error 111)",
                "connection to server at db, port 5433 failed: Connection refused (os error 111)",
            ),
            (
                "postgres://me@localhost/books?host=/run/postgresql",
                "no answer within 5 s",
                "connection to server on socket in /run/postgresql failed: no answer within 5 s",
            ),
        ] {
            assert_eq!(not_connected(&settings(url), cause).to_string(), expected);
        }
    }
}
