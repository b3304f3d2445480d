//! The command line: flags, environment variables, and errors in one line.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::cli::{
    ArchiveArgs, DeadLetterArgs, DeploymentArgs, DivideArgs, InDoubtArgs, PaymentArgs,
    ReconcileArgs, RestoreArgs, RoutingArgs, StatusArgs, SummaryArgs,
};
use crate::config::{ListenSettings, LogFormat, MigrateSettings, Settings};
use crate::telemetry::log::DEFAULT_FILTER;

/// The name of the program.
const PROGRAM: &str = "payment-proxy";

/// Settles each payment on exactly one of several unstable payment processors
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,

    /// How the log is written to standard error
    #[arg(
        long,
        global = true,
        env = "LOG_FORMAT",
        value_name = "LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Text,
    )]
    pub log_format: LogFormat,

    /// What is logged, as `level` or `module=level`, separated by commas
    #[arg(
        long,
        global = true,
        env = "RUST_LOG",
        value_name = "RUST_LOG",
        default_value = DEFAULT_FILTER,
    )]
    pub rust_log: String,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one instance of the gateway
    #[command(
        after_help = help(
            &["serve --listen 0.0.0.0:8080"],
            "it was stopped",
            "",
            "it could not start, or a part of it broke",
        )
    )]
    Serve(Box<Settings>),
    /// Apply the migrations, the durability of the queue and the rights of the service's role, then
    /// exit
    #[command(
        after_help = help(
            &["migrate", "migrate --migrate-database-url postgres://payment_proxy_owner@db/payments"],
            "done",
            "",
            "it could not be done; run it again",
        )
    )]
    Migrate(Box<MigrateSettings>),
    /// Move all payments of one database into the cells of DATABASE_URL, while instances serve from
    /// it; in the end posts are refused until instances serve from the cells
    #[command(
        after_help = help(
            &["divide --from postgres://payment_proxy_owner@db/payments"],
            "done",
            "",
            "it could not be done; run it again",
        )
    )]
    Divide(Box<DivideArgs>),
    /// Show how the deployment is: instances, queue, processors, dead letters, database
    #[command(
        mut_arg(DURABILITY, hidden),
        after_help = help(
            &["status", "status --watch", "status --json | jq .attention"],
            "nothing wants attention",
            "something does, and the output says what",
            "the database does not answer",
        ),
    )]
    Status(Box<StatusArgs>),
    /// Add up what was settled on each processor
    #[command(
        mut_arg(DURABILITY, hidden),
        mut_arg("processor_timeout", hidden),
        mut_arg("processor_ca_file", hidden),
        after_help = help(
            &["summary --from 2026-07-10 --to 2026-07-10T12:00", "summary --from 1h"],
            "done",
            "",
            "it could not be done",
        ),
    )]
    Summary(Box<SummaryArgs>),
    /// Tell the life of one payment: accepted, attempts with their reasons, settled or dead
    #[command(
        mut_arg(DURABILITY, hidden),
        after_help = help(
            &["payment 4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3"],
            "it is known",
            "it is not known",
            "it could not be found out",
        ),
    )]
    Payment(Box<PaymentArgs>),
    /// List, show, retry or discard the payments that no processor takes
    #[command(
        mut_arg(DURABILITY, hidden),
        after_help = help(
            &["dead-letter list", "dead-letter retry --all", "dead-letter discard --reason \"refunded by hand\" 4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3"],
            "done",
            "an id is not among the dead letters",
            "it could not be done",
        ),
    )]
    DeadLetter(Box<DeadLetterArgs>),
    /// List payments in doubt that the service cannot end by itself, and record an operator's word
    /// on them
    #[command(
        mut_arg(DURABILITY, hidden),
        after_help = help(
            &["in-doubt list --processor old", "in-doubt charged --reason \"their support, by phone\" --file ids.txt --dry-run", "in-doubt not-charged --reason \"not in their export\" --yes 4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3"],
            "done",
            "a payment was not decided, and the output says why",
            "it could not be done",
        ),
    )]
    InDoubt(Box<InDoubtArgs>),
    /// Show which database the deployment lives in and on what terms, declare what it is, or
    /// acknowledge that its queue was emptied
    #[command(
        mut_arg(DURABILITY, hidden),
        after_help = help(
            &["deployment show", "deployment acknowledge --reason \"all of them were posted again\""],
            "done, and all instances serve",
            "something is held, the declaration was refused, or there was nothing to acknowledge",
            "it could not be done",
        ),
    )]
    Deployment(Box<DeploymentArgs>),
    /// Show which processors are in use, by whom they were switched and why; take one out of use,
    /// or put it back
    #[command(
        mut_arg(DURABILITY, hidden),
        after_help = help(
            &["routing", "routing disable fallback --reason \"they have maintenance until 5\"", "routing enable fallback --reason \"they are back\""],
            "done",
            "there is no such processor",
            "it could not be done",
        ),
    )]
    Routing(Box<RoutingArgs>),
    /// Compare our ledger with the processors' records
    #[command(
        mut_arg(DURABILITY, hidden),
        after_help = help(
            &["reconcile --from 2026-07-10 --to 2026-07-11", "reconcile --repair --from 1h", "reconcile --repair --ids posted.txt"],
            "they agree, at the end",
            "they differ",
            "it could not be done, or a processor did not say",
        ),
    )]
    Reconcile(Box<ReconcileArgs>),
    /// Move the settled payments of past months out of the ledger, to files, while the service runs
    #[command(
        mut_arg(DURABILITY, hidden),
        after_help = help(
            &["archive --before 2026-08 --to /srv/archive --dry-run"],
            "done",
            "a month could not be archived, or not all of it",
            "it could not be done; run it again",
        ),
    )]
    Archive(Box<ArchiveArgs>),
    /// Take an archived month back from its file into the ledger, in one transaction, while the
    /// service runs
    #[command(
        mut_arg(DURABILITY, hidden),
        after_help = help(
            &["restore 2026-07 --from /srv/archive --dry-run"],
            "done",
            "it was refused, and nothing was changed",
            "it could not be done, and nothing was changed unless the error says otherwise",
        ),
    )]
    Restore(Box<RestoreArgs>),
    /// Ask the instance that listens on LISTEN whether it is ready
    #[command(
        after_help = help(
            &["probe --listen 127.0.0.1:8080"],
            "it is",
            "",
            "it is not, or does not answer",
        )
    )]
    Probe(ListenSettings),
    /// Print what makes a shell complete these commands
    #[command(
        after_help = help(
            &["completions bash > /etc/bash_completion.d/payment-proxy"],
            "done",
            "",
            "it could not be done",
        )
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write a man page for each of these commands
    #[command(
        after_help = help(&["man /usr/local/share/man/man1"], "done", "", "it could not be done")
    )]
    Man {
        /// The folder, which is made where there is none
        folder: PathBuf,
    },
}

/// What commands that only look do not read.
const DURABILITY: &str = "queue_durability";

/// Leaves an argument out of the help of a command that does not read it.
fn hidden(argument: Arg) -> Arg {
    argument.hide(true)
}

/// Examples and exit codes of a command, for its help; an empty meaning is a code that it does not
/// have.
fn help(examples: &[&str], zero: &str, one: &str, two: &str) -> String {
    let codes = [(0, zero), (1, one), (2, two)].into_iter();
    let used = codes.filter(|(_, meaning)| !meaning.is_empty());
    let meanings: Vec<String> = used
        .map(|(code, meaning)| format!("{code} {meaning}"))
        .collect();
    let examples: String = examples
        .iter()
        .map(|example| format!("  payment-proxy {example}\n"))
        .collect();
    format!(
        "Examples:\n{examples}\nExit code: {}; 130 or 143 where a signal ended it",
        meanings.join("; ")
    )
}

impl Cli {
    /// What makes a shell complete the commands.
    #[must_use]
    pub fn completions(shell: Shell) -> String {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Self::command(), PROGRAM, &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }

    /// Writes a man page for each command into a folder, which is made where there is none.
    ///
    /// # Errors
    /// They cannot be written there.
    pub fn man_pages(folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(Self::command().name(PROGRAM), folder)
    }

    /// Reads arguments and environment.
    ///
    /// # Errors
    /// Help or version as clap prints it, or one line that names what is not accepted and what
    /// would be.
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
                    .filter(|values| !values.is_empty())
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
                "error: LISTEN (--listen): \"nowhere\" is not accepted: expected an address and \
                port such as 127.0.0.1:8080 or name:8080, or unix:/path\n",
            ),
            (
                ["serve", "--queue-durability", "yes"],
                "error: QUEUE_DURABILITY (--queue-durability): \"yes\" is not accepted: expected \
                one of: unlogged, logged\n",
            ),
            (
                ["serve", "--allow-purge", "maybe"],
                "error: ALLOW_PURGE (--allow-purge): \"maybe\" is not accepted: expected one of: \
                true, false\n",
            ),
            (
                ["serve", "--processor-timeout-ms", "0"],
                "error: PROCESSOR_TIMEOUT_MS (--processor-timeout-ms): \"0\" is not accepted: \
                expected a whole number of milliseconds, 1 or more\n",
            ),
            (
                ["serve", "--log-format", "xml"],
                "error: LOG_FORMAT (--log-format): \"xml\" is not accepted: expected one of: text, \
                json\n",
            ),
        ] {
            assert_eq!(refusal(&arguments), expected);
        }
    }

    #[test]
    fn a_value_that_is_missing_or_no_id_is_said_so() {
        for (arguments, expected) in [
            (
                &["routing", "disable", "default", "--reason"][..],
                "error: TEXT (--reason): \"\" is not accepted: expected a value\n",
            ),
            (
                &["payment", "4a7901b8"],
                "error: <ID>: \"4a7901b8\" is not accepted: \"4a7901b8\" is not a correlation id\n",
            ),
        ] {
            assert_eq!(refusal(arguments), expected);
        }
    }

    #[test]
    fn an_unknown_flag_is_a_mistake() {
        assert!(refusal(&["serve", "--lisen", "x"]).contains("--lisen"));
    }
}
