//! What a logged queue costs: payments per second that are accepted, and that are claimed and
//! settled, in both durability modes in turns, on the cluster that `TEST_DATABASE_URL` names.
//!
//! Prints a table with the ratio, and checks that every accepted payment was settled once.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::Context;
use payment_proxy::config::{DatabaseSettings, ProcessorsSettings, QueueDurability};
use payment_proxy::domain::lease::LeasePolicy;
use payment_proxy::domain::payment::Payment;
use payment_proxy::pipeline::deployment::Admission;
use payment_proxy::pipeline::settle::{CompletedClaim, record};
use payment_proxy::processors::Outcome;
use payment_proxy::serve::{Parts, Setup};
use payment_proxy::store::claim::{CLAIM_BATCH, claim_queued};
use payment_proxy::store::database::{self, Pools};
use payment_proxy::telemetry::Telemetry;
use router::Policy;
use rust_decimal::Decimal;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

/// Clients that post one payment after the other.
const CLIENTS: usize = 128;
/// As in production.
const PROCESSOR_TIMEOUT: Duration = Duration::from_secs(15);
const LATE_CHARGE: Duration = Duration::from_secs(60);
/// How long they post in each round.
const POSTING: Duration = Duration::from_secs(4);
/// Rounds of each mode, taken in turns.
const ROUNDS: usize = 5;

/// Payments per second.
struct Round {
    accepted: f64,
    settled: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cluster = std::env::var("TEST_DATABASE_URL").context(
        "TEST_DATABASE_URL names a throwaway cluster; `make durability-bench` starts one",
    )?;
    let mut admin = PgConnection::connect(&cluster).await?;
    let modes = [QueueDurability::Unlogged, QueueDurability::Logged];
    let mut rounds = modes.map(|_| Vec::new());
    for turn in 0..ROUNDS {
        for (mode, rounds) in modes.iter().zip(&mut rounds) {
            let name = format!("durability_{turn}_{mode:?}").to_lowercase();
            sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
                .execute(&mut admin)
                .await?;
            let url = format!(
                "{}/{name}",
                cluster.rsplit_once('/').context("the URL has a path")?.0
            );
            let settings = DatabaseSettings {
                database_url: url.parse().map_err(anyhow::Error::msg)?,
                database_password: None,
                database_password_file: None,
                direct_database_url: None,
                queue_durability: *mode,
            };
            let round = play(&settings).await?;
            eprintln!(
                "{mode:?}: {:.0} accepted/s, {:.0} settled/s",
                round.accepted, round.settled
            );
            rounds.push(round);
            sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
                .execute(&mut admin)
                .await?;
        }
    }
    let median = |rounds: &[Round], of: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "| median of {ROUNDS} rounds | unlogged | logged | logged / unlogged |\n|---|---|---|---|"
    );
    for (what, of) in [
        (
            "accepted per second",
            (|round| round.accepted) as fn(&Round) -> f64,
        ),
        ("claimed and settled per second", |round| round.settled),
    ] {
        let [unlogged, logged] = [median(&rounds[0], of), median(&rounds[1], of)];
        println!(
            "| {what} | {unlogged:.0} | {logged:.0} | {:.2} |",
            logged / unlogged
        );
    }
    println!(
        "\nEvery accepted payment was settled once, in all {} rounds.",
        2 * ROUNDS
    );
    Ok(())
}

async fn play(settings: &DatabaseSettings) -> anyhow::Result<Round> {
    database::prepare(settings).await?;
    let parts = parts(settings)?;
    let (accepted, posting) = post(&parts).await?;
    let settling = Instant::now();
    let pools = &parts.pools;
    let settled = settle_all(pools).await?;
    let round = Round {
        accepted: accepted as f64 / posting.as_secs_f64(),
        settled: settled as f64 / settling.elapsed().as_secs_f64(),
    };
    anyhow::ensure!(
        settled == accepted,
        "{accepted} accepted, {settled} settled"
    );
    let recorded: i64 = sqlx::query_scalar("SELECT count(*) FROM payment_processed")
        .fetch_one(&*pools.requests)
        .await?;
    anyhow::ensure!(
        usize::try_from(recorded)? == accepted,
        "{accepted} accepted, {recorded} recorded"
    );
    pools.close().await;
    Ok(round)
}

/// The parts of an instance, whose worker does not run. No processor is called.
fn parts(database: &DatabaseSettings) -> anyhow::Result<Parts> {
    let processors = "default,0.05,http://127.0.0.1:1";
    Parts::new(Setup {
        database,
        processors: &ProcessorsSettings {
            processors: processors.parse().map_err(anyhow::Error::msg)?,
            processor_timeout: PROCESSOR_TIMEOUT,
            processor_ca_file: None,
        },
        connections: 1,
        routing: Policy::default(),
        leases: leases(),
        queue_limit: NonZeroU64::MAX,
        admission: Admission::unconditional,
        telemetry: Telemetry::default(),
    })
}

fn leases() -> LeasePolicy {
    LeasePolicy::new(PROCESSOR_TIMEOUT, LATE_CHARGE)
}

/// Posts for a while. Returns how many payments were accepted, and in what time.
async fn post(parts: &Parts) -> anyhow::Result<(usize, Duration)> {
    let acceptor = parts.acceptor();
    let begun_at = Instant::now();
    let clients = (0..CLIENTS).map(|_| {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut accepted = 0;
            while begun_at.elapsed() < POSTING {
                let payment = Payment {
                    correlation_id: Uuid::new_v4(),
                    amount: Decimal::new(1990, 2),
                    traceparent: None,
                };
                acceptor.accept(payment).await?;
                accepted += 1;
            }
            anyhow::Ok(accepted)
        })
    });
    let mut accepted = 0;
    for client in futures_util::future::join_all(clients).await {
        accepted += client??;
    }
    Ok((accepted, begun_at.elapsed()))
}

/// Claims and settles until the queue is empty, as if every payment were charged at once.
async fn settle_all(pools: &Pools) -> anyhow::Result<usize> {
    let terms = leases();
    let (mut settled, mut from) = (0, 0);
    loop {
        let claims = claim_queued(&pools.claims, terms, "default", CLAIM_BATCH, from).await?;
        let Some(newest) = claims.iter().map(|claim| claim.id).max() else {
            return Ok(settled);
        };
        from = newest;
        let ended: Vec<CompletedClaim> = claims
            .into_iter()
            .map(|claim| CompletedClaim {
                outcome: Outcome::Charged {
                    requested_at: claim.requested_at,
                },
                claim,
            })
            .collect();
        let anomalies = record(&pools.settles, terms, &ended).await?;
        anyhow::ensure!(anomalies.is_empty(), "{anomalies:?}");
        settled += ended.len();
    }
}
