//! An instance in this process, around a crash of the server that empties its queue: what it claims
//! over its first new connection, and what it keeps until it has put it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use payment_proxy::config::QueueDurability;
use payment_proxy::domain::cell::Cell;
use payment_proxy::domain::lease::LeasePolicy;
use payment_proxy::domain::uptime::Uptime;
use payment_proxy::pipeline::deployment::{Candidate, Member, MemberTerms};
use payment_proxy::pipeline::settle::CompletedClaim;
use payment_proxy::pipeline::worker::Step;
use payment_proxy::processors::Outcome;
use payment_proxy::serve::Parts;
use payment_proxy::store::claim::claim_queued;
use payment_proxy::store::database;
use simulator::Running;
use sqlx::Connection;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::server::Server;
use crate::support::{Database, enqueue, eventually, new_payment, parts, processor};

/// The parts of an instance that is admitted to the database of a server; none of them runs.
struct Instance {
    parts: Parts,
    candidate: Candidate,
}

impl Instance {
    async fn admitted(server: &Server, running: &[&Running], terms: LeasePolicy) -> Self {
        let database = Database::at(&server.url());
        database::migrate(&database.migrate_settings(QueueDurability::Unlogged))
            .await
            .expect("the migrations apply");
        let parts = parts(&database, running, terms);
        let millis = |time: Duration| u64::try_from(time.as_millis()).expect("a short time");
        let candidate = Candidate {
            id: Uuid::new_v4(),
            terms: MemberTerms {
                processors: BTreeMap::new(),
                queue_durability: "unlogged".to_owned(),
                processor_timeout_ms: millis(terms.lease),
                late_charge_ms: millis(terms.late_charge),
            },
            cell: Cell::ONLY,
            place: "here".to_owned(),
            deployment: Arc::default(),
        };
        let mut connection = sqlx::PgConnection::connect(&database.url)
            .await
            .expect("it answers");
        let admitted = candidate.ask(&mut connection, None).await;
        let admitted = admitted.expect("it answers").expect("it is admitted");
        parts.admission.admit(admitted, Uptime::now());
        Self { parts, candidate }
    }

    /// Gives heartbeats for as long as the test lasts, and puts back what it knows.
    fn run_member(&self) {
        let parts = &self.parts;
        let member = Arc::new(Member {
            candidate: self.candidate.clone(),
            admission: Arc::clone(&parts.admission),
            pool: parts.pools.claims.clone(),
            hints: None,
            clock: Arc::clone(&parts.clock),
            processors: Arc::clone(&parts.processors),
            router: parts.router.clone(),
            recovered: Arc::clone(&parts.recovered),
            own: Arc::default(),
            terms: parts.worker.terms,
            in_flight: Arc::clone(&parts.worker.returned.in_flight),
            counts: Arc::clone(&parts.telemetry.counts),
        });
        tokio::spawn(member.run(CancellationToken::new(), TaskTracker::new()));
    }

    /// Takes steps until one is answered by the database, or the instance may not claim.
    async fn claim(&self) {
        eventually("the database answers", async || {
            self.parts.worker.claim_step(1, 0).await.is_ok()
        })
        .await;
    }
}

const TERMS: LeasePolicy = LeasePolicy {
    lease: Duration::from_millis(400),
    late_charge: Duration::from_millis(100),
};

async fn crash(server: &mut Server) -> Database {
    server.crash().await;
    server.run().await;
    Database::at(&server.url())
}

/// Of whatever waits in the queue: that nobody has claimed it.
const UNCLAIMED: &str = "payment_queue WHERE attempt = 0 AND processor IS NULL";

#[tokio::test]
async fn nothing_is_claimed_over_the_first_connection_to_an_emptied_queue() {
    let (mut server, default) = (Server::start().await, processor().await);
    let instance = Instance::admitted(&server, &[&default], TERMS).await;
    instance.claim().await;
    let database = crash(&mut server).await;
    enqueue(&database.pool, &[new_payment()])
        .await
        .expect("it answers");
    let is_known = async || database.count("payment_queue_emptied").await == 1;
    eventually("it reaches the new queue", async || {
        let step = instance.parts.worker.claim_step(1, 0).await;
        assert!(
            !matches!(step, Ok((Step::Drained(1..) | Step::More(1..), _))),
            "{step:?}"
        );
        is_known().await
    })
    .await;
    assert_eq!(database.count(UNCLAIMED).await, 1);
}

#[tokio::test]
async fn nothing_is_claimed_by_the_accept_that_is_first_to_reach_an_emptied_queue() {
    let (mut server, default) = (Server::start().await, processor().await);
    let instance = Instance::admitted(&server, &[&default], TERMS).await;
    // None waits, so payments are claimed by the commit that accepts them.
    instance.claim().await;
    let acceptor = instance.parts.acceptor();
    let first = new_payment();
    acceptor.accept(first).await.expect("it is accepted");
    let database = Database::at(&server.url());
    assert_eq!(database.count(UNCLAIMED).await, 0);
    let database = crash(&mut server).await;
    eventually("another one is accepted", async || {
        acceptor.accept(new_payment()).await.is_ok()
    })
    .await;
    assert_eq!(database.count("payment_queue_emptied").await, 1);
    let queued = database.count("payment_queue").await;
    assert!(queued >= 1);
    assert_eq!(database.count(UNCLAIMED).await, queued);
}

#[tokio::test]
async fn what_was_left_in_doubt_is_put_back_however_long_the_database_was_away() {
    let (mut server, default) = (Server::start().await, processor().await);
    let instance = Instance::admitted(&server, &[&default], TERMS).await;
    let pools = &instance.parts.pools;
    let payment = new_payment();
    enqueue(&pools.requests, &[payment])
        .await
        .expect("it answers");
    let claims = claim_queued(&pools.claims, TERMS, "default", 1, 0).await;
    let claim = claims.expect("it answers").remove(0);
    instance.run_member();
    server.crash().await;
    let in_flight = &instance.parts.worker.returned.in_flight;
    in_flight.add_all(std::slice::from_ref(&claim));
    let reason = "no reply".to_owned();
    let until = None;
    let outcome = Outcome::InDoubt { until, reason };
    in_flight.recorded(&[CompletedClaim { claim, outcome }], Uptime::now());
    // Longer than a doubt lasts.
    tokio::time::sleep(TERMS.doubt() * 2).await;
    server.run().await;
    // Its heartbeats are the first to reach the new queue.
    let database = Database::at(&server.url());
    let id = payment.correlation_id;
    let held = format!("payment_queue WHERE correlation_id = '{id}' AND processor = 'default'");
    eventually("it is put back", async || database.count(&held).await == 1).await;
}

#[tokio::test]
async fn an_instance_that_died_is_remembered_for_as_long_as_its_calls_may_be_open() {
    let server = Server::start().await;
    let default = processor().await;
    let terms = LeasePolicy {
        lease: Duration::from_secs(20),
        late_charge: Duration::from_secs(600),
    };
    let instance = Instance::admitted(&server, &[&default], terms).await;
    let database = Database::at(&server.url());
    for minutes in [15, 25] {
        database
            .execute(&format!(
                "INSERT INTO service_instance (id, seen_at)
                VALUES (gen_random_uuid(), now() - interval '{minutes} min')"
            ))
            .await;
    }
    instance.run_member();
    let old =
        |minutes: u32| format!("service_instance WHERE seen_at < now() - interval '{minutes} min'");
    eventually("one is forgotten", async || {
        database.count(&old(20)).await == 0
    })
    .await;
    assert_eq!(database.count(&old(10)).await, 1);
}
