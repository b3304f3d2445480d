//! What 1, 2 and 4 cells accept and settle on this machine, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use uuid::Uuid;

use super::audit::drained;
use super::load::{clients, post};
use super::site::Site;

/// Clients that post one payment after the other.
const CLIENTS: usize = 96;
/// How long the last payments may take to be settled.
const DRAIN: Duration = Duration::from_secs(120);

/// Measures each number of cells for that time, and prints a line for each. All cells are on this
/// one machine: what is seen is what cells cost, not what more machines give.
pub(crate) async fn measure(site: &mut Site, time: Duration) -> anyhow::Result<()> {
    println!(
        "{:>5} {:>11} {:>11} {:>8} {:>21} {:>22}",
        "cells",
        "accepted/s",
        "settled/s",
        "commits",
        "us of databases' CPU",
        "us of instances' CPU"
    );
    println!("{:>38} {:>21} {:>22}", "/payment", "/payment", "/payment");
    for cells in [1, 2, 4] {
        let places = site.databases(&format!("measured{cells}_"), cells).await?;
        site.serve(places).await?;
        let before = site.used().await?;
        let clients = Arc::new(clients(site.sockets()));
        let accepted = Arc::new(AtomicU64::new(0));
        let begun_at = Instant::now();
        let mut posting = JoinSet::new();
        for number in 0..CLIENTS {
            let (clients, accepted) = (Arc::clone(&clients), Arc::clone(&accepted));
            posting.spawn(async move {
                while begun_at.elapsed() < time {
                    let told = post(&clients[number % clients.len()], Uuid::new_v4()).await;
                    if told.is_some_and(|status| status.is_success()) {
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        posting.join_all().await;
        let accepted = accepted.load(Ordering::Relaxed) as f64 / begun_at.elapsed().as_secs_f64();
        let mut settled = 0;
        for cell in 1..=cells {
            let mut connection = site.connect(cell).await?;
            let queued = drained(&mut connection, begun_at + time + DRAIN).await?;
            anyhow::ensure!(queued == 0, "{queued} are not settled");
            let own: i64 = sqlx::query_scalar("SELECT count(*) FROM payment_processed")
                .fetch_one(&mut connection)
                .await?;
            settled += own;
        }
        let after = site.used().await?;
        let payments = settled as f64;
        let each = |before: Duration, after: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / payments
        };
        println!(
            "{cells:>5} {accepted:>11.0} {:>11.0} {:>8.2} {:>21.0} {:>22.0}",
            payments / begun_at.elapsed().as_secs_f64(),
            (after.commits - before.commits) as f64 / payments,
            each(before.databases, after.databases),
            each(before.instances, after.instances),
        );
        site.stop_instances().await;
    }
    Ok(())
}
