//! `payment-proxy payment`: what happened to one payment.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::{DIFFERS, print_json, table};
use crate::config::DatabaseSettings;
use crate::database::Pools;
use crate::payment::format_time;

/// `payment-proxy payment`.
#[derive(Debug, Args)]
pub struct PaymentArgs {
    /// The correlation id
    pub id: Uuid,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Something that happened to a payment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    at: DateTime<Utc>,
    event: String,
    processor: Option<String>,
    claim: Option<i32>,
    detail: Option<String>,
}

/// Runs `payment`. Exits with [`DIFFERS`] when the payment is not known.
///
/// # Errors
/// The database did not answer.
pub async fn payment(args: PaymentArgs) -> anyhow::Result<ExitCode> {
    let pool = Pools::new(&args.database).requests;
    let known = if args.json {
        let events = life(&pool, args.id).await?;
        print_json(&events)?;
        !events.is_empty()
    } else {
        print_life(&pool, args.id).await?
    };
    Ok(if known {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DIFFERS)
    })
}

/// Prints the life of a payment for people. Returns whether anything is known of it.
pub(super) async fn print_life(pool: &PgPool, id: Uuid) -> anyhow::Result<bool> {
    let events = life(pool, id).await?;
    if events.is_empty() {
        println!("payment {id} is not known");
        return Ok(false);
    }
    let rows = events.iter().map(|event| {
        [
            format_time(event.at),
            event.event.clone(),
            event.processor.clone().unwrap_or_default(),
            event
                .claim
                .map(|claim| claim.to_string())
                .unwrap_or_default(),
            event.detail.clone().unwrap_or_default(),
        ]
    });
    println!(
        "{}",
        table(["at", "event", "processor", "claim", "detail"], 5, rows)
    );
    Ok(true)
}

async fn life(pool: &PgPool, id: Uuid) -> Result<Vec<Event>, sqlx::Error> {
    sqlx::query_as!(
        Event,
        r#"SELECT at AS "at!", event AS "event!", processor, claim, detail FROM audit.life($1)"#,
        id
    )
    .fetch_all(pool)
    .await
}
