//! What the database refuses to record is kept until it takes it.

use std::sync::Arc;

use payment_proxy::config::QueueDurability;
use payment_proxy::pipeline::settle::{self, CompletedClaim, Returned, Unrecorded};
use payment_proxy::processors::Outcome;
use payment_proxy::store::claim::claim_queued;
use payment_proxy::store::database::{Condition, Pools};
use payment_proxy::telemetry::Telemetry;
use payment_proxy::telemetry::metrics::Counts;
use reqwest::StatusCode;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::are_charged_once;
use crate::command_line::{json, program};
use crate::metrics::Watched;
use crate::server::{Server, connect_as};
use crate::support::{
    CENTS, Database, Gateway, TIMEOUT, enqueue, eventually, new_payment, processor, processors,
    production_terms,
};

/// The task that records, by itself.
struct Settling {
    ended: mpsc::Sender<CompletedClaim>,
    unrecorded: Arc<Unrecorded>,
    task: JoinHandle<()>,
}

impl Settling {
    fn start(database: &Database) -> Self {
        let (sender, ended) = mpsc::channel(100);
        let returned = Arc::new(Returned::new(Arc::new(Notify::new()), &Counts::default()));
        let unrecorded = Arc::clone(&returned.unrecorded);
        let pool = Pools::new(&database.settings(QueueDurability::Unlogged)).settles;
        let task = tokio::spawn(settle::run(
            pool,
            production_terms(),
            ended,
            returned,
            Telemetry::default(),
        ));
        Self {
            ended: sender,
            unrecorded,
            task,
        }
    }

    /// Claims a new payment and says what became of it.
    async fn end(&self, database: &Database, outcome: Option<Outcome>) -> Uuid {
        let queued = enqueue(&database.pool, &[new_payment()]).await;
        queued.expect("it is queued");
        let claims = claim_queued(&database.pool, production_terms(), "default", 1, 0).await;
        let claim = claims.expect("an answer").pop().expect("a payment");
        let id = claim.payment.correlation_id;
        let requested_at = claim.requested_at;
        let outcome = outcome.unwrap_or(Outcome::Charged { requested_at });
        let ended = CompletedClaim { claim, outcome };
        self.ended.send(ended).await.expect("it records");
        id
    }

    fn count(&self) -> usize {
        self.unrecorded.now().map_or(0, |(count, _)| count)
    }

    async fn stop(self) {
        drop(self.ended);
        let ended = tokio::time::timeout(TIMEOUT, self.task).await;
        ended.expect("in time").expect("everything is recorded");
    }
}

/// A payment dies, for that reason.
pub async fn dies_of(database: &Database, reason: &str) {
    let settling = Settling::start(database);
    let outcome = Outcome::Dead {
        reason: reason.to_owned(),
        held: false,
    };
    settling.end(database, Some(outcome)).await;
    settling.stop().await;
}

#[tokio::test]
async fn a_charge_is_kept_until_it_is_recorded_whatever_refuses_it() {
    // A standby, a missing right, an overflow, an encoding, a crash, a trigger of somebody else.
    for code in [
        "0A000", "42501", "22003", "22P05", "XX000", "P0001", "23514",
    ] {
        let database = Database::migrated().await;
        database
            .execute(&format!(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN RAISE 'no' USING ERRCODE = '{code}'; END $$;
                 CREATE TRIGGER refuse BEFORE INSERT ON payment_processed
                    FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
            ))
            .await;
        let settling = Settling::start(&database);
        for _ in 0..3 {
            settling.end(&database, None).await;
        }
        eventually("they are kept", async || settling.count() == 3).await;
        // As after a failover: the rows of an unlogged queue are gone, and the charge is in no
        // other place than here.
        database.execute("TRUNCATE payment_queue").await;
        database
            .execute("DROP TRIGGER refuse ON payment_processed")
            .await;
        eventually("they are recorded", async || {
            database.count("payment_processed").await == 3
        })
        .await;
        eventually("and told so", async || settling.count() == 0).await;
        settling.stop().await;
    }
}

#[tokio::test]
async fn one_charge_that_is_refused_keeps_no_other_from_being_recorded() {
    let database = Database::migrated().await;
    let default = processor().await;
    let watched = Watched::start(&database, &processors(&[&default])).await;
    let gateway = &watched.gateway;
    let refused = Uuid::new_v4();
    let constraint = format!(
        "ALTER TABLE payment_processed ADD CONSTRAINT theirs CHECK (correlation_id <> '{refused}')"
    );
    database.execute(&constraint).await;
    let mut ids: Vec<Uuid> = (0..80).map(|_| Uuid::new_v4()).collect();
    ids.push(refused);
    let posts = ids.iter().map(|id| gateway.post(*id, CENTS));
    for status in futures_util::future::join_all(posts).await {
        assert_eq!(status, StatusCode::ACCEPTED);
    }
    gateway.until_settled(&ids[..80]).await;
    let ready = eventually_refused(gateway).await;
    assert!(
        ready.contains("what became of 1 payments cannot be recorded yet"),
        "{ready}"
    );
    let scraped = watched.scrape().await;
    assert_eq!(scraped.value("unrecorded_payments"), 1.0);
    eventually("status tells it", async || {
        let (_, status) = json(&mut program(&database.url, &["status"])).await;
        let mut found = status["attention"].as_array().expect("a list").iter();
        found.any(|item| item["kind"] == "unrecorded")
    })
    .await;
    // Others come and go meanwhile.
    let later = gateway.post_many(20).await;
    gateway.until_settled(&later).await;
    ids.extend(later);

    database
        .execute("ALTER TABLE payment_processed DROP CONSTRAINT theirs")
        .await;
    are_charged_once(&database, gateway, &[&default], &ids).await;
    gateway.until_ready().await;
    assert_eq!(watched.scrape().await.value("unrecorded_payments"), 0.0);
    let log = gateway.log();
    let named = log
        .lines()
        .filter(|line| line.contains("cannot be recorded"));
    let named: Vec<&str> = named.collect();
    assert!(
        named.len() == 1 && named[0].contains(&refused.to_string()),
        "{log}"
    );
}

async fn eventually_refused(gateway: &Gateway) -> String {
    eventually("it is not ready", async || !gateway.is_ready().await).await;
    gateway.get("/readyz").await.text().await.expect("a body")
}

#[tokio::test]
async fn a_right_that_is_missing_for_dead_letters_keeps_no_charge_from_being_recorded() {
    let database = Database::migrated().await;
    let role = format!("only_{}", database.name());
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
             REVOKE INSERT ON payment_dead_letter FROM {role}"
        ))
        .await;
    let settling = Settling::start(&connect_as(&database, &role));
    let dead = Outcome::Dead {
        reason: "refused".to_owned(),
        held: false,
    };
    settling.end(&database, Some(dead)).await;
    for _ in 0..3 {
        settling.end(&database, None).await;
    }
    eventually("charges are recorded", async || {
        database.count("payment_processed").await == 3
    })
    .await;
    eventually("the letter is kept", async || {
        settling.unrecorded.now() == Some((1, Condition::NotAllowed))
    })
    .await;
    database
        .execute(&format!("GRANT INSERT ON payment_dead_letter TO {role}"))
        .await;
    eventually("the letter, too", async || {
        database.count("payment_dead_letter").await == 1
    })
    .await;
    settling.stop().await;
}

#[tokio::test]
async fn a_payment_that_is_asked_for_again_and_again_is_kept_once() {
    let database = Database::migrated().await;
    database
        .execute("ALTER TABLE payment_processed ADD CONSTRAINT theirs CHECK (amount = 0)")
        .await;
    let settling = Settling::start(&database);
    let claims = async || {
        let claims = claim_queued(&database.pool, production_terms(), "default", 1, 0).await;
        claims.expect("an answer").pop().expect("a payment")
    };
    enqueue(&database.pool, &[new_payment()])
        .await
        .expect("it is queued");
    let claim = claims().await;
    for attempt in 1..=50 {
        let mut claim = claim.clone();
        claim.attempt = attempt;
        let requested_at = claim.requested_at;
        let outcome = Outcome::Charged { requested_at };
        let sent = settling.ended.send(CompletedClaim { claim, outcome }).await;
        sent.expect("it records");
    }
    // One of another payment comes last, so the 50 have been looked at by then.
    settling.end(&database, None).await;
    eventually("both are kept", async || settling.count() == 2).await;
    database
        .execute("ALTER TABLE payment_processed DROP CONSTRAINT theirs")
        .await;
    settling.stop().await;
    assert_eq!(database.count("payment_processed").await, 2);
}

#[tokio::test]
async fn a_post_does_not_hear_that_one_connection_was_refused() {
    let (database, default) = (Database::migrated().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    // A sequence keeps what a transaction that is rolled back has written: who came first.
    database
        .execute(
            "CREATE SEQUENCE first_comer;
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NOT (SELECT is_called FROM first_comer) THEN
                     PERFORM setval('first_comer', pg_backend_pid());
                 END IF;
                 IF (SELECT last_value FROM first_comer) = pg_backend_pid()
                     THEN RAISE 'not over this one'; END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON payment_queue
                FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
        )
        .await;
    let id = Uuid::new_v4();
    assert_eq!(gateway.post(id, CENTS).await, StatusCode::ACCEPTED);
    assert_eq!(database.count("first_comer WHERE is_called").await, 1);
    are_charged_once(&database, &gateway, &[&default], &[id]).await;
}

#[tokio::test]
async fn a_post_does_not_hear_that_its_connection_led_to_a_server_that_has_moved() {
    let old = Server::start().await;
    let new = Server::standby_of(&old).await;
    let forwarder = crate::forwarder::Forwarder::to(old.socket()).await;
    let default = processor().await;
    let database = Database::at(&forwarder.url());
    let logged = [("QUEUE_DURABILITY", "logged")];
    let gateway = Gateway::start(&database, &processors(&[&default]), &logged).await;
    gateway.until_settled(&gateway.post_many(30).await).await;
    let standby = Database::at(&new.url());
    eventually("the standby has all of it", async || {
        standby.count("payment_processed").await == 30
    })
    .await;
    standby.execute("SELECT pg_promote()").await;

    forwarder.turn_to(new.socket());
    let mut connection = PgConnection::connect(&old.url())
        .await
        .expect("a connection");
    for statement in [
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .expect(statement);
    }
    eventually("the old one is read-only", async || {
        let refused = sqlx::query("CREATE TABLE x ()")
            .execute(&Database::at(&old.url()).pool)
            .await;
        refused.is_err()
    })
    .await;
    // `post_many` takes nothing but 202.
    let ids = gateway.post_many(30).await;
    gateway.until_settled(&ids).await;
    assert_eq!(standby.count("payment_processed").await, 60);
}
