//! The log: readable text or JSON on standard error, filtered by `RUST_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged when `RUST_LOG` says nothing: nothing per payment, and nothing per statement that is slow or
/// connection that is lost, for which an outage is logged once.
pub const DEFAULT_FILTER: &str = "info,sqlx=error";

/// Starts the log of this process.
///
/// # Errors
/// A filter that cannot be read, in one line that says so.
pub fn start(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        anyhow::anyhow!("RUST_LOG: {filter:?} is not accepted: {error}; expected levels such as info,payment_proxy=debug")
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
