//! `payment-proxy status`: how the deployment is, at a glance.
//!
//! The database tells most of it, for all instances. What only an instance has in its memory
//! (breakers, latencies) comes from its operator's API, where that can be reached and a token is
//! given.

mod poll;
mod report;

pub(super) use report::in_use;

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::execute;
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};

use poll::{Poller, Status};

use crate::config::{DatabaseSettings, OperatorSettings};

/// `payment-proxy status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub operator: OperatorSettings,
    /// Look again every so many seconds, until Ctrl-C; the exit code is that of the last look
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    pub watch: Option<u32>,
    /// Print JSON, one line per look
    #[arg(long)]
    pub json: bool,
}

/// Runs `status`, with `--watch` until `shutdown` is ready. The exit code is that of the last look.
///
/// # Errors
/// Nothing can be printed.
pub async fn status(
    args: StatusArgs,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<ExitCode> {
    let looker = Poller::new(args.database, &args.operator)?;
    let Some(seconds) = args.watch else {
        let status = looker.look().await;
        print(&status, args.json, None)?;
        return Ok(ExitCode::from(status.exit_code()));
    };
    let screen = (!args.json && std::io::stdout().is_terminal()).then(Screen::enter);
    let screen = screen.transpose()?;
    tokio::pin!(shutdown);
    let mut last = None;
    loop {
        let status = tokio::select! {
            status = looker.look() => status,
            // Nothing is known yet: the process ends as a signal ends it.
            () = &mut shutdown => match last {
                Some(code) => return Ok(ExitCode::from(code)),
                None => return std::future::pending().await,
            },
        };
        print(&status, args.json, screen.as_ref())?;
        last = Some(status.exit_code());
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds.into())) => {}
            () = &mut shutdown => return Ok(ExitCode::from(status.exit_code())),
        }
    }
}

fn print(status: &Status, json: bool, screen: Option<&Screen>) -> anyhow::Result<()> {
    if json {
        return Ok(super::output::print_json(status)?);
    }
    let text = report::report(status);
    match screen {
        Some(screen) => screen.show(&text)?,
        None => super::output::say!("{text}")?,
    }
    Ok(())
}

/// The terminal while it shows one look after the other; the drop of it gives the terminal back.
struct Screen;

impl Screen {
    fn enter() -> std::io::Result<Self> {
        execute!(std::io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(Self)
    }

    /// Replaces what is shown, line by line, so that nothing flickers.
    fn show(&self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        execute!(out, MoveTo(0, 0))?;
        for line in text.lines() {
            write!(out, "{line}{}\r\n", Clear(ClearType::UntilNewLine))?;
        }
        execute!(out, Clear(ClearType::FromCursorDown))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(std::io::stdout(), Show, LeaveAlternateScreen);
    }
}
