//! The command line: flags, environment variables, and errors in one line.

use std::ffi::OsString;
use std::io::Write;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{ListenSettings, LogFormat, MigrateSettings, Settings};
use crate::operate::{
    ArchiveArgs, DeadLetterArgs, DeploymentArgs, InDoubtArgs, PaymentArgs, ReconcileArgs,
    RestoreArgs, StatusArgs, SummaryArgs,
};
use crate::simulator;
use crate::telemetry::DEFAULT_FILTER;

/// Settles each payment on exactly one of several unstable payment processors
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,

    /// How the log is written to standard error
    #[arg(long, global = true, env = "LOG_FORMAT", value_name = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What is logged, as `level` or `module=level`, separated by commas
    #[arg(long, global = true, env = "RUST_LOG", value_name = "RUST_LOG", default_value = DEFAULT_FILTER)]
    pub rust_log: String,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one instance of the gateway
    Serve(Box<Settings>),
    /// Apply the migrations, the durability of the queue and the rights of the service's role, then exit
    Migrate(Box<MigrateSettings>),
    /// Show how the deployment is: instances, queue, processors, dead letters, database
    #[command(after_help = exit_codes("nothing wants attention", "something does, and the output says what", "the database does not answer"))]
    Status(Box<StatusArgs>),
    /// Add up what was settled on each processor
    #[command(after_help = exit_codes("done", NOT_USED, "it could not be done"))]
    Summary(Box<SummaryArgs>),
    /// Tell the life of one payment: accepted, attempts with their reasons, settled or dead
    #[command(after_help = exit_codes("it is known", "it is not known", "it could not be found out"))]
    Payment(Box<PaymentArgs>),
    /// List, show, retry or discard the payments that no processor takes
    #[command(after_help = exit_codes("done", "an id is not among the dead letters", "it could not be done"))]
    DeadLetter(Box<DeadLetterArgs>),
    /// List payments in doubt that the service cannot end by itself, and record an operator's word on them
    #[command(after_help = exit_codes("done", "a payment was not decided, and the output says why", "it could not be done"))]
    InDoubt(Box<InDoubtArgs>),
    /// Show which database the deployment lives in and on what terms, or declare what it is
    #[command(after_help = exit_codes("done, and all instances serve", "something is held, or the declaration was refused", "it could not be done"))]
    Deployment(Box<DeploymentArgs>),
    /// Compare our books with the processors' records
    #[command(after_help = exit_codes("they agree, at the end", "they differ", "it could not be done, or a processor did not say"))]
    Reconcile(Box<ReconcileArgs>),
    /// Move the settled payments of past months out of the books, to files, while the service runs
    #[command(after_help = exit_codes("done", "a month could not be archived, or not all of it", "it could not be done; run it again"))]
    Archive(Box<ArchiveArgs>),
    /// Take an archived month back from its file into the ledger, in one transaction, while the service runs
    #[command(after_help = exit_codes("done", "it was refused, and nothing was changed", "it could not be done, and nothing was changed unless the error says otherwise"))]
    Restore(Box<RestoreArgs>),
    /// Ask the instance that listens on LISTEN whether it is ready
    #[command(after_help = exit_codes("it is", NOT_USED, "it is not, or does not answer"))]
    Probe(ListenSettings),
    /// Print what makes a shell complete these commands, e.g. for bash: source <(payment-proxy completions bash)
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Run a simulated payment processor
    SimulateProcessor(Box<simulator::Args>),
}

/// The exit codes of a command, for its help.
fn exit_codes(zero: &str, one: &str, two: &str) -> String {
    let codes = [(0, zero), (1, one), (2, two)].into_iter();
    let used = codes.filter(|(_, meaning)| *meaning != NOT_USED);
    let meanings: Vec<String> = used
        .map(|(code, meaning)| format!("{code} {meaning}"))
        .collect();
    format!("Exit code: {}", meanings.join("; "))
}

/// An exit code that a command does not have.
const NOT_USED: &str = "";

impl Cli {
    /// Writes the completions of a shell.
    pub fn complete(shell: Shell, out: &mut impl Write) {
        clap_complete::generate(shell, &mut Self::command(), "payment-proxy", out);
    }

    /// Reads arguments and environment.
    ///
    /// # Errors
    /// Help or version as clap prints it, or one line that names what is not accepted and what would be.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, CliError> {
        let matches = Self::command()
            .try_get_matches_from(arguments)
            .map_err(|error| CliError::from(&error))?;
        Self::from_arg_matches(&matches).map_err(|error| CliError::from(&error))
    }
}

/// Why the command line was not taken.
#[derive(Debug, PartialEq, Eq)]
pub struct CliError {
    /// What to print.
    pub text: String,
    /// The exit code: 0 for help and version, 2 for a mistake.
    pub code: u8,
}

impl From<&clap::Error> for CliError {
    fn from(error: &clap::Error) -> Self {
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
            _ => None,
        };
        let text = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                return Self {
                    text: error.to_string(),
                    code: 0,
                };
            }
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                let argument = context(ContextKind::InvalidArg).unwrap_or_default();
                let value = if is_secret(&argument) {
                    "its value".to_owned()
                } else {
                    format!(
                        "{:?}",
                        context(ContextKind::InvalidValue).unwrap_or_default()
                    )
                };
                let accepted = context(ContextKind::ValidValue)
                    .map(|values| format!("expected one of: {values}"));
                let accepted = accepted
                    .or_else(|| std::error::Error::source(error).map(ToString::to_string))
                    .unwrap_or_else(|| "expected a value".to_owned());
                format!(
                    "error: {}: {value} is not accepted: {accepted}\n",
                    variable(&argument)
                )
            }
            _ => error.to_string(),
        };
        Self { text, code: 2 }
    }
}

/// Whether the value of an argument must not be seen by whoever sees the error.
fn is_secret(argument: &str) -> bool {
    let flag = argument
        .split(' ')
        .next()
        .and_then(|flag| flag.strip_prefix("--"));
    let command = Cli::command();
    command
        .get_subcommands()
        .flat_map(|subcommand| subcommand.get_arguments())
        .any(|known| known.get_long() == flag && known.is_hide_env_values_set())
}

/// `--listen <LISTEN>` as `LISTEN (--listen)`.
fn variable(argument: &str) -> String {
    match argument.split_once(" <") {
        Some((flag, name)) => format!("{} ({flag})", name.trim_end_matches('>')),
        None => argument.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        let arguments = ["payment-proxy"]
            .iter()
            .chain(arguments)
            .map(OsString::from);
        Cli::read(arguments)
            .expect_err("the arguments are wrong")
            .text
    }

    #[test]
    fn a_bad_value_is_one_line_with_variable_value_and_what_is_accepted() {
        for (arguments, expected) in [
            (
                ["serve", "--listen", "nowhere"],
                "error: LISTEN (--listen): \"nowhere\" is not accepted: expected an address and port such as 127.0.0.1:8080 or name:8080, or unix:/path\n",
            ),
            (
                ["serve", "--queue-durability", "yes"],
                "error: QUEUE_DURABILITY (--queue-durability): \"yes\" is not accepted: expected one of: unlogged, logged\n",
            ),
            (
                ["serve", "--allow-purge", "maybe"],
                "error: ALLOW_PURGE (--allow-purge): \"maybe\" is not accepted: expected one of: true, false\n",
            ),
            (
                ["serve", "--processor-timeout-ms", "0"],
                "error: PROCESSOR_TIMEOUT_MS (--processor-timeout-ms): \"0\" is not accepted: expected a whole number of milliseconds, 1 or more\n",
            ),
            (
                ["serve", "--log-format", "xml"],
                "error: LOG_FORMAT (--log-format): \"xml\" is not accepted: expected one of: text, json\n",
            ),
        ] {
            assert_eq!(refusal(&arguments), expected);
        }
    }

    #[test]
    fn an_unknown_flag_is_a_mistake() {
        assert!(refusal(&["serve", "--lisen", "x"]).contains("--lisen"));
    }
}
