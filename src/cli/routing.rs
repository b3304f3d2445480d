//! `payment-proxy routing`: which processors are in use, and the switches that change it.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use super::output::{print_json, say};
use super::{Common, SaidBy, connect, details, exit_code, table};
use crate::domain::payment::format_time;
use crate::store::in_doubt::Author;
use crate::store::switch::{self, Switch};

/// `payment-proxy routing`.
#[derive(Debug, Args)]
pub struct RoutingArgs {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub action: Option<RoutingAction>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// What to do with a processor.
#[derive(Debug, Subcommand)]
pub enum RoutingAction {
    /// Put it back into use, for all instances
    Enable(SwitchArgs),
    /// Take it out of use, for all instances: nothing new is sent there
    Disable(SwitchArgs),
}

/// Which processor, and why.
#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// The processor
    pub name: String,
    /// Why; it is kept and shown to all operators
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub reason: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub said: SaidBy,
}

/// Runs `routing`. Exits with [`DIFFERS`](super::DIFFERS) where there is no such processor.
///
/// # Errors
/// The database did not answer.
pub async fn routing(args: RoutingArgs) -> anyhow::Result<ExitCode> {
    let pool = connect(&args.common.database).await?;
    let mut known = true;
    if let Some(action) = args.action {
        let (enabled, SwitchArgs { name, reason, said }) = match action {
            RoutingAction::Enable(args) => (true, args),
            RoutingAction::Disable(args) => (false, args),
        };
        known = switch::set(&pool, &name, enabled, &Author::new(&said.by, &reason)).await?;
        if !known {
            super::output::complain(&format_args!("there is no processor {name:?}\n"));
        }
    }
    let switches = switch::list(&mut *pool.acquire().await?).await?;
    print_switches(&switches, args.common.json)?;
    Ok(exit_code(known))
}

fn print_switches(switches: &[Switch], json: bool) -> std::io::Result<()> {
    if json {
        return print_json(&switches);
    }
    if switches.is_empty() {
        return say!("no instance has ever asked a processor");
    }
    let rows = switches.iter().map(|switch| {
        [
            switch.processor.clone(),
            super::status::in_use(switch.enabled, switch.configured).to_owned(),
            switch.switched_at.map(format_time).unwrap_or_default(),
            switch.switched_by.clone().unwrap_or_default(),
        ]
    });
    say!(
        "{}",
        table(["processor", "use", "switched at", "by"], 4, rows)
    )?;
    for switch in switches {
        if let Some(reason) = &switch.reason {
            say!("{}:\n{}", switch.processor, details(reason))?;
        }
    }
    Ok(())
}
