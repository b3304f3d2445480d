//! Every payment that was accepted is charged once, and recorded once, in its own cell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use payment_proxy::domain::cell::Cell;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::load::{AMOUNT, Outcome};
use super::site::Site;

/// How long the last payments may take to be settled: longer than a doubt lasts.
const DRAIN: Duration = Duration::from_secs(60);
/// The time between two looks whether they are.
const POLL: Duration = Duration::from_millis(100);
/// Payments that are named of those that are wrong.
const NAMED: usize = 5;

/// Waits until the queue of a cell is empty, or until then. Returns how many payments are left.
pub(crate) async fn drained(
    connection: &mut PgConnection,
    until: Instant,
) -> Result<i64, sqlx::Error> {
    loop {
        let queued: i64 = sqlx::query_scalar("SELECT count(*) FROM payment_queue")
            .fetch_one(&mut *connection)
            .await?;
        if queued == 0 || Instant::now() > until {
            return Ok(queued);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Compares what clients were told, what the processors charged, and what the cells recorded.
/// Returns what is wrong.
pub(crate) async fn audit(site: &Site, load: &Outcome) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let accepted: BTreeSet<Uuid> = load.accepted().iter().copied().collect();
    if !load.given_up().is_empty() {
        wrong.push(format!(
            "{} payments were never accepted",
            load.given_up().len()
        ));
    }
    let begun_at = Instant::now();
    let mut recorded: BTreeMap<Uuid, Vec<(String, DateTime<Utc>)>> = BTreeMap::new();
    let cells = site.places.len();
    for cell in 1..=cells {
        let mut connection = site.connect(cell).await?;
        let queued = drained(&mut connection, begun_at + DRAIN).await?;
        if queued > 0 {
            wrong.push(format!("{queued} payments of cell {cell} are not settled"));
            let rows: Vec<String> = sqlx::query_scalar(
                "SELECT to_jsonb(q)::text FROM payment_queue q ORDER BY id LIMIT $1",
            )
            .bind(i64::try_from(NAMED)?)
            .fetch_all(&mut connection)
            .await?;
            wrong.extend(rows);
        }
        let rows: Vec<(Uuid, Decimal, String, DateTime<Utc>)> = sqlx::query_as(
            "SELECT correlation_id, amount, processor, requested_at FROM payment_processed",
        )
        .fetch_all(&mut connection)
        .await?;
        for (id, amount, processor, requested_at) in rows {
            if Cell::of_payment(id, cells) != cell || amount.to_string() != AMOUNT {
                wrong.push(format!("{id} is recorded in cell {cell} with {amount}"));
            }
            recorded
                .entry(id)
                .or_default()
                .push((processor, requested_at));
        }
    }
    let mut charged: BTreeMap<Uuid, Vec<(String, DateTime<Utc>)>> = BTreeMap::new();
    for processor in &site.processors {
        for stored in processor.stored().await? {
            let charge = (processor.name.to_owned(), stored.requested_at);
            charged
                .entry(stored.correlation_id)
                .or_default()
                .push(charge);
        }
    }
    for (what, found) in [("charged", &charged), ("recorded", &recorded)] {
        name(
            &mut wrong,
            &format!("{what} more than once"),
            |id| found.get(id).is_some_and(|found| found.len() > 1),
            found.keys(),
        );
        name(
            &mut wrong,
            &format!("accepted and not {what}"),
            |id| !found.contains_key(id),
            &accepted,
        );
    }
    name(
        &mut wrong,
        "charged otherwise than recorded",
        |id| charged.get(id) != recorded.get(id),
        charged.keys().chain(recorded.keys()),
    );
    println!(
        "{} accepted, {} charged, {} recorded",
        accepted.len(),
        charged.len(),
        recorded.len()
    );
    let compared = ["reconcile", "--rate", "10000"];
    match site.operate(&compared).await {
        Ok(said) => println!("reconcile: {}", said.trim()),
        Err(error) => wrong.push(format!("{error:#}")),
    }
    Ok(wrong)
}

/// Names the first payments of which that is so.
fn name<'a>(
    wrong: &mut Vec<String>,
    what: &str,
    is_so: impl Fn(&Uuid) -> bool,
    ids: impl IntoIterator<Item = &'a Uuid>,
) {
    let ids: BTreeSet<&Uuid> = ids.into_iter().filter(|id| is_so(id)).collect();
    if !ids.is_empty() {
        let first: Vec<String> = ids.iter().take(NAMED).map(ToString::to_string).collect();
        wrong.push(format!(
            "{} payments are {what}: {}",
            ids.len(),
            first.join(" ")
        ));
    }
}
