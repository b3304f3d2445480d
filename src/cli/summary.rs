//! `payment-proxy summary`: what was settled, as the API tells it, and what the processors kept.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use rust_decimal::Decimal;
use sqlx::Executor;

use super::output::{print_json, say};
use super::{connect_cells, table};
use crate::config::{DatabaseSettings, ProcessorsSettings};
use crate::domain::moment;
use crate::store::database::{Pool, of_cell};
use crate::store::fee::{self, FeesOfPeriod};
use crate::store::summary::{Summary, summarize};

/// `payment-proxy summary`.
#[derive(Debug, Args)]
pub struct SummaryArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub processors: ProcessorsSettings,
    /// The first requestedAt that counts; without it, everything
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    pub from: Option<DateTime<Utc>>,
    /// The last requestedAt that counts; without it, everything
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
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
    let pools = connect_cells(&args.database).await?;
    let processors = args.processors.processors.0.iter();
    let names: Vec<String> = processors.map(|processor| processor.name.clone()).collect();
    let (mut parts, mut kept) = (Vec::new(), Vec::new());
    for (cell, pool) in pools.each() {
        let part = of_one(pool, &names, &args).await;
        let (summary, fees) = part.map_err(|error| of_cell(cell, error))?;
        parts.push(summary);
        kept.extend(fees);
    }
    let summary = Summary::sum(&names, parts);
    if args.json {
        print_json(&summary)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Summary(summary) = summary;
    // Not known as soon as it is not known of one payment.
    let fee = |name: Option<&str>| {
        let own = kept
            .iter()
            .filter(|kept| name.is_none_or(|name| name == kept.processor));
        let fee: Option<Decimal> = own.map(|kept| kept.fee).sum();
        fee.map_or_else(|| "unknown".to_owned(), |fee| format!("{fee:.2}"))
    };
    let line = |name: &str, requests: i64, amount: Decimal, fee: String| {
        [
            name.to_owned(),
            requests.to_string(),
            format!("{amount:.2}"),
            fee,
        ]
    };
    let totals = summary.iter().map(|(_, totals)| totals);
    let requests: i64 = totals.clone().map(|totals| totals.total_requests).sum();
    let amount: Decimal = totals.map(|totals| totals.total_amount).sum();
    let rows = summary.iter().map(|(name, totals)| {
        line(
            name,
            totals.total_requests,
            totals.total_amount,
            fee(Some(name)),
        )
    });
    let rows = rows.chain([line("all", requests, amount, fee(None))]);
    let header = ["processor", "payments", "amount", "fees"];
    say!("{}", table(header, 1, rows))?;
    Ok(ExitCode::SUCCESS)
}

/// The totals of one cell, and what the processors kept of them unless that is not printed.
async fn of_one(
    pool: &Pool,
    names: &[String],
    args: &SummaryArgs,
) -> anyhow::Result<(Summary, Vec<FeesOfPeriod>)> {
    if args.json {
        let summary = summarize(&**pool, names, args.from, args.to).await?;
        return Ok((summary, Vec::new()));
    }
    // Of one moment; the first says best what is wrong with a range.
    let mut transaction = pool.begin().await?;
    transaction
        .execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .await?;
    let summary = summarize(&mut *transaction, names, args.from, args.to).await?;
    let kept = fee::kept(&mut *transaction, &[], args.from, args.to).await?;
    transaction.commit().await?;
    Ok((summary, kept))
}
