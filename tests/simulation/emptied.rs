//! What a walk keeps beside the tables, so that a crash of the server can empty the queue: what
//! each instance knows, and processors that can be asked.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use payment_proxy::domain::lease::LeasePolicy;
use payment_proxy::domain::payment::format_time;
use payment_proxy::pipeline::in_flight::{InFlight, OpenPayments};
use payment_proxy::processors::Processor;
use payment_proxy::serve::Parts;
use payment_proxy::store::database::interval;
use payment_proxy::telemetry::metrics::Counts;
use reqwest::header::CONTENT_TYPE;
use rust_decimal::Decimal;
use simulator::Running;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{self, Database};

/// An instance, as the service keeps what it knows of open payments.
#[derive(Debug)]
pub struct Instance {
    id: Uuid,
    pub in_flight: InFlight,
}

impl Instance {
    /// One that has just started.
    pub fn start() -> Self {
        Self {
            id: Uuid::new_v4(),
            in_flight: InFlight::default(),
        }
    }

    /// A heartbeat of an instance that has put back what it knew into this queue.
    pub async fn beat(&self, pool: &PgPool) {
        sqlx::query(
            "INSERT INTO service_instance (id, seen_at, queue_life)
            SELECT $1, now(), life FROM payment_queue_life
            ON CONFLICT ON CONSTRAINT service_instance_pkey DO UPDATE
            SET seen_at = excluded.seen_at, queue_life = excluded.queue_life",
        )
        .bind(self.id)
        .execute(pool)
        .await
        .expect("the database answers");
    }

    /// What its heartbeat reads: whether all others have put back what they knew.
    pub async fn reads_gathered(&self, pool: &PgPool, terms: LeasePolicy) -> bool {
        sqlx::query_scalar("SELECT queue_is_gathered(life, $1, $2) FROM payment_queue_life")
            .bind(self.id)
            .bind(interval(terms.doubt()))
            .fetch_one(pool)
            .await
            .expect("the database answers")
    }

    /// Claims whose outcome is not recorded, payments that were left in doubt, and those that wait.
    pub fn known(&self) -> [usize; 3] {
        let OpenPayments {
            claimed,
            in_doubt,
            waiting,
            ..
        } = self.in_flight.known();
        [claimed, in_doubt, waiting]
    }
}

/// Empties the queue as a crash of the server leaves unlogged tables.
pub async fn empty(database: &Database) {
    database
        .execute("TRUNCATE payment_queue RESTART IDENTITY; TRUNCATE payment_queue_life")
        .await;
}

/// An instance is the first to reach an emptied queue.
pub async fn notice(database: &Database) {
    // The default of the column is of the machine's clock, and not of the simulation's.
    database
        .execute("SELECT queue_life(); UPDATE payment_queue_life SET began_at = clock_timestamp()")
        .await;
}

/// The processors of the walk, with what the model's have stored.
pub struct Processors {
    running: [Running; 2],
    pub clients: Arc<Vec<Processor>>,
    pub counts: Arc<Counts>,
    http: reqwest::Client,
}

impl Processors {
    pub async fn start(database: &Database, terms: LeasePolicy) -> Self {
        let running = [support::processor().await, support::processor().await];
        let Parts {
            processors,
            telemetry,
            ..
        } = support::parts(database, &running.each_ref(), terms);
        Self {
            running,
            clients: processors,
            counts: telemetry.counts,
            http: payment_proxy::config::tls::plain()
                .build()
                .expect("a client"),
        }
    }

    /// They have stored nothing yet.
    pub fn purge(&self) {
        for running in &self.running {
            running
                .processor
                .purge()
                .expect("its records are in memory");
        }
    }

    /// One of them stores a payment.
    pub async fn store(&self, processor: usize, id: Uuid, amount: Decimal, at: DateTime<Utc>) {
        let at = format_time(at);
        let body = format!(r#"{{"correlationId":"{id}","amount":{amount},"requestedAt":"{at}"}}"#);
        let post = self
            .http
            .post(format!("{}/payments", self.running[processor].url()))
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let reply = post.send().await.expect("a reply");
        assert!(reply.status().is_success(), "{reply:?}");
    }
}
