//! The environment: a variable that is set but empty means the same as one that is not set.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::CommandFactory;

use crate::command::Cli;

/// What the names of variables begin with that libraries read: of traces, of PostgreSQL, of
/// certificates.
const LIBRARIES: [&str; 3] = ["OTEL_", "PG", "SSL_CERT_"];

/// Starts this program anew, in this process, without the variables that are empty, if there are
/// any. Each library reads its own, and some take the empty text for a value; nobody can take a
/// variable out of a process that runs.
///
/// # Errors
/// It cannot be started anew.
pub fn leave_out_empty() -> io::Result<()> {
    let settings = settings(&Cli::command());
    let is_read = |name: &str| {
        settings.iter().any(|setting| setting == name)
            || LIBRARIES.iter().any(|prefix| name.starts_with(prefix))
    };
    let empty = std::env::vars_os()
        .filter(|(name, value)| value.is_empty() && name.to_str().is_some_and(is_read));
    let empty: Vec<OsString> = empty.map(|(name, _)| name).collect();
    if empty.is_empty() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let mut anew = Command::new(program());
    if let Some(name) = arguments.next() {
        anew.arg0(name);
    }
    anew.args(arguments);
    for name in empty {
        anew.env_remove(name);
    }
    Err(anew.exec())
}

/// Where this program is; by another name where its file was replaced meanwhile.
fn program() -> PathBuf {
    let file = std::env::current_exe().ok().filter(|file| file.exists());
    file.unwrap_or_else(|| "/proc/self/exe".into())
}

/// The variables that the command line reads.
fn settings(command: &clap::Command) -> Vec<OsString> {
    let own = command.get_arguments().filter_map(clap::Arg::get_env);
    let own = own.map(ToOwned::to_owned);
    own.chain(command.get_subcommands().flat_map(settings))
        .collect()
}
