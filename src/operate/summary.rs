//! `payment-proxy summary`: what was settled, as the API tells it.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use rust_decimal::Decimal;

use super::output::{print_json, say};
use super::table;
use crate::config::{DatabaseSettings, ProcessorsSettings};
use crate::database::Pools;
use crate::summary::summarize;

/// `payment-proxy summary`.
#[derive(Debug, Args)]
pub struct SummaryArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub processors: ProcessorsSettings,
    /// The first requestedAt that counts, such as 2026-07-10T12:34:56Z; without it, everything
    #[arg(long, value_name = "TIME")]
    pub from: Option<DateTime<Utc>>,
    /// The last requestedAt that counts; without it, until now
    #[arg(long, value_name = "TIME")]
    pub to: Option<DateTime<Utc>>,
    /// Print JSON, as GET /payments-summary does
    #[arg(long)]
    pub json: bool,
}

/// Runs `summary`.
///
/// # Errors
/// The range is upside down, or the database did not answer.
pub async fn summary(args: SummaryArgs) -> anyhow::Result<ExitCode> {
    if matches!((args.from, args.to), (Some(from), Some(to)) if from > to) {
        anyhow::bail!("--from must not be after --to");
    }
    let pool = Pools::new(&args.database).requests;
    let processors = args.processors.processors.0.iter();
    let names: Vec<String> = processors.map(|processor| processor.name.clone()).collect();
    let summary = summarize(&pool, &names, args.from, args.to).await?;
    if args.json {
        print_json(&summary)?;
        return Ok(ExitCode::SUCCESS);
    }
    let totals = summary.0.iter().map(|(_, totals)| totals);
    let requests: i64 = totals.clone().map(|totals| totals.total_requests).sum();
    let amount: Decimal = totals.map(|totals| totals.total_amount).sum();
    let line = |name: &str, requests: i64, amount: Decimal| {
        [
            name.to_owned(),
            requests.to_string(),
            format!("{amount:.2}"),
        ]
    };
    let rows = summary.0.iter();
    let rows = rows.map(|(name, totals)| line(name, totals.total_requests, totals.total_amount));
    let rows = rows.chain([line("all", requests, amount)]);
    say!("{}", table(["processor", "payments", "amount"], 1, rows))?;
    Ok(ExitCode::SUCCESS)
}
