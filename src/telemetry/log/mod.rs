//! The log: readable text or JSON on standard error, filtered by `RUST_LOG`.

mod storm;
mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{IsTerminal, stderr};
use std::panic;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::LogFormat;
use crate::domain::attention::{Attention, Item};
use crate::telemetry::metrics::{LogLines, ProcessCounts, Total};
pub use storm::STORM_PAUSE;
pub(crate) use storm::Storm;
use writer::Directly;
pub(crate) use writer::LOG_DRAIN;
pub use writer::{LOG_BACKLOG, LogWriter};

/// What is logged when `RUST_LOG` says nothing: nothing per payment, and nothing per statement that
/// is slow or connection that is lost, for which an outage is logged once.
pub(crate) const DEFAULT_FILTER: &str = "info,sqlx=error";

/// What pools say of each connection that cannot be used is left out unless a filter names it: an
/// outage says it once.
const POOLS: &str = "sqlx_core::pool";

/// Who reads the log, and so what happens where nobody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// A command: somebody waits for it and reads what it writes, at that person's speed.
    Command,
    /// A service: it never waits for whoever reads its log. Lines that cannot be written are
    /// dropped and counted.
    Service,
}

/// Starts the log of this process, of which a process has one, and counts its lines and panics.
/// What is returned writes the last lines when it is dropped.
///
/// # Errors
/// A filter that cannot be read, in one line that says so.
pub fn start(
    format: LogFormat,
    filter: &str,
    process: Process,
    counts: &ProcessCounts,
) -> anyhow::Result<Option<LogWriter>> {
    let quiet = match filter.contains(POOLS) {
        true => String::new(),
        false => format!("{POOLS}=off,"),
    };
    let parsed = EnvFilter::builder().parse(format!("{quiet}{filter}"));
    let filter = parsed.map_err(|error| {
        anyhow::anyhow!(
            "RUST_LOG: {filter:?} is not accepted: {error}; expected levels such as \
            info,payment_proxy=debug"
        )
    })?;
    let coloured = stderr().is_terminal();
    let (writer, destination) = match process {
        Process::Command => {
            let out = move || Directly {
                out: stderr(),
                coloured,
            };
            (None, BoxMakeWriter::new(out))
        }
        Process::Service => {
            let writer = LogWriter::start(stderr(), coloured, counts.log_lines.clone())?;
            let lines = writer.lines();
            (Some(writer), BoxMakeWriter::new(move || lines.clone()))
        }
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(destination)
        .with_ansi(coloured)
        // It would tell of them on standard error, and panic where that cannot be written.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    if process == Process::Service {
        log_panics(counts.panics.clone());
    }
    Ok(writer)
}

/// That lines of the log of this process were dropped, since its start.
pub(crate) fn lines_dropped(counts: &LogLines) -> Option<Item> {
    let lines = counts.overflowed.value() + counts.unwritable.value();
    (lines > 0).then(|| {
        Attention::LogLinesDropped.item(format!("{lines} lines of an instance's log were dropped"))
    })
}

/// Panics are lines of the log from now on: the standard library writes them itself, and waits for
/// whoever reads.
fn log_panics(panics: Total) {
    panic::set_hook(Box::new(move |panic| {
        panics.add(1);
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
        let backtrace = backtrace.map(|backtrace| backtrace.to_string());
        let thread = std::thread::current();
        tracing::error!(thread = thread.name(), backtrace, "{panic}");
    }));
}
