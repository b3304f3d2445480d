//! `payment-proxy payment`: what happened to one payment.

use std::ops::Range;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::input::correlation_id;
use super::output::{print_json, say};
use super::{connect, exit_code, table_with_texts};
use crate::config::DatabaseSettings;
use crate::domain::payment::format_time;

/// Events of a long life that are printed for people, from its beginning.
const SHOWN_FIRST: usize = 6;
/// And from its end. While every processor fails, a payment is tried some twenty times a second.
const SHOWN_LAST: usize = 20;

/// `payment-proxy payment`.
#[derive(Debug, Args)]
pub struct PaymentArgs {
    /// The correlation id
    #[arg(value_parser = correlation_id)]
    pub id: Uuid,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseSettings,
    /// Print all of a long life, and not only how it began and went on lately
    #[arg(long)]
    pub all: bool,
    /// Print JSON, which always has all
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

/// Runs `payment`. Exits with [`DIFFERS`](super::DIFFERS) when the payment is not known.
///
/// # Errors
/// The database did not answer.
pub async fn payment(args: PaymentArgs) -> anyhow::Result<ExitCode> {
    let pool = connect(args.database.cells().of(args.id)).await?;
    let known = if args.json {
        let events = life(&pool, args.id).await?;
        print_json(&events)?;
        !events.is_empty()
    } else {
        print_life(&pool, args.id, args.all).await?
    };
    Ok(exit_code(known))
}

/// Prints the life of a payment for people, without the middle of a long one unless they want it.
/// Returns whether anything is known of it.
pub(super) async fn print_life(pool: &PgPool, id: Uuid, all: bool) -> anyhow::Result<bool> {
    let events = life(pool, id).await?;
    if events.is_empty() {
        say!("payment {id} is not known")?;
        return Ok(false);
    }
    let mut rows: Vec<_> = events.iter().map(row).collect();
    if !all {
        let middle = middle(rows.len());
        if !middle.is_empty() {
            let told = format!("{} more events, which `payment --all` prints", middle.len());
            let dots = ["", "...", "", ""].map(str::to_owned);
            rows.splice(middle, [(dots, told)]);
        }
    }
    say!(
        "{}",
        table_with_texts(["at", "event", "processor", "claim"], rows)
    )?;
    Ok(true)
}

/// Which events of so many are left out.
fn middle(events: usize) -> Range<usize> {
    SHOWN_FIRST..events.saturating_sub(SHOWN_LAST).max(SHOWN_FIRST)
}

fn row(event: &Event) -> ([String; 4], String) {
    let claim = event.claim.map(|claim| claim.to_string());
    let cells = [
        format_time(event.at),
        event.event.clone(),
        event.processor.clone().unwrap_or_default(),
        claim.unwrap_or_default(),
    ];
    (cells, event.detail.clone().unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_middle_of_a_long_life_is_left_out() {
        let all = SHOWN_FIRST + SHOWN_LAST;
        assert!(middle(0).is_empty() && middle(SHOWN_LAST).is_empty() && middle(all).is_empty());
        assert_eq!(middle(all + 1), SHOWN_FIRST..SHOWN_FIRST + 1);
        assert_eq!(middle(466), SHOWN_FIRST..466 - SHOWN_LAST);
    }
}
