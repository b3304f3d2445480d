//! Where two transactions race, and how a race is run.

use std::sync::Arc;

use payment_proxy::domain::payment::Payment;
use payment_proxy::processors::{Processor, ProcessorClient};
use payment_proxy::store::claim::Claim;
use simulator::Running;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::moves::{Did, Move, Start};
use crate::support::{CENTS, TIMEOUT};
use crate::support::{Database, default_at, eventually_some, payment_json, processor, resolver};

/// How two statements meet, and what comes of it. States are those of `Site::state`.
#[derive(Debug, Clone, Copy)]
pub enum Meeting {
    /// The second one ends although the first one is not committed.
    Passes {
        /// What the second one does.
        does: &'static str,
        /// The state after the first one commits.
        committed: &'static str,
        /// The state after the first one is rolled back.
        rolled_back: &'static str,
    },
    /// The second one waits for the first one.
    Waits {
        /// What the second one does once the first one commits, and the state then.
        committed: [&'static str; 2],
        /// The same once the first one is rolled back.
        rolled_back: [&'static str; 2],
    },
}

/// A race: the state that it starts from, the first statement, the second one, and what comes of
/// it.
pub type Race = (Start, Move, Move, Meeting);

pub fn passes(does: &'static str, committed: &'static str, rolled_back: &'static str) -> Meeting {
    Meeting::Passes {
        does,
        committed,
        rolled_back,
    }
}

pub fn waits(committed: [&'static str; 2], rolled_back: [&'static str; 2]) -> Meeting {
    Meeting::Waits {
        committed,
        rolled_back,
    }
}

/// A payment for which two statements race.
#[derive(Debug, Clone)]
pub struct Subject {
    pub payment: Payment,
    /// The newest claim, where there ever was one.
    pub claim: Option<Claim>,
}

/// One connection, on which functions of the service run within a transaction that the test ends.
pub struct Racer {
    /// Lends this connection and no other.
    pub pool: PgPool,
    pub pid: i32,
}

impl Racer {
    pub async fn connect(options: PgConnectOptions) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .expect("a connection");
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&pool)
            .await
            .expect("a process");
        Self { pool, pid }
    }

    pub async fn execute(&self, statement: &str) {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&self.pool)
            .await
            .expect(statement);
    }
}

/// A database, two processors that have charged what the test says, and the two who race.
pub struct Site {
    pub database: Database,
    pub first: Racer,
    pub second: Racer,
    pub processors: Arc<Vec<Processor>>,
    running: [Running; 2],
}

impl Site {
    pub async fn new() -> Self {
        let database = Database::migrated().await;
        let running = [processor().await, processor().await];
        let clients = running.iter().zip(["default", "fallback"]);
        let clients = clients.map(|(running, name)| {
            let timeout = std::time::Duration::from_secs(15);
            let settings = default_at(&running.url());
            let client = ProcessorClient::new(&settings, timeout, &resolver(), None);
            Processor {
                name: name.to_owned(),
                client: client.expect("a client"),
            }
        });
        let options: PgConnectOptions = database.url.parse().expect("a URL");
        Self {
            first: Racer::connect(options.clone()).await,
            second: Racer::connect(options).await,
            processors: Arc::new(clients.collect()),
            database,
            running,
        }
    }

    /// A payment in that state, and nothing else in the tables.
    pub async fn start(&self, start: Start) -> Subject {
        self.database
            .execute(
                "DELETE FROM payment_queue; DELETE FROM payment_processed;
                DELETE FROM payment_dead_letter; DELETE FROM payment_attempt",
            )
            .await;
        start.set(&self.database).await
    }

    /// Lets a processor charge the payment, under the `requested_at` of the newest claim if it has
    /// one.
    pub async fn charge(&self, processor: &str, subject: &Subject) {
        let requested_at = match &subject.claim {
            Some(claim) => claim.requested_at,
            None => chrono::Utc::now(),
        };
        let index = usize::from(processor == "fallback");
        let body = payment_json(subject.payment.correlation_id, CENTS).replace(
            '}',
            &format!(
                r#","requestedAt":"{}"}}"#,
                requested_at.format("%FT%T%.3fZ")
            ),
        );
        let client = payment_proxy::config::tls::plain().build();
        let reply = client
            .expect("a client")
            .post(format!("{}/payments", self.running[index].url()))
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await;
        assert!(reply.expect("a reply").status().is_success());
    }

    /// In which tables the payment is, and in which state: `queued #1`, `in_flight default #1`,
    /// `in_doubt default #1`, `settled default`, `dead`, `archived`, or `nowhere`. The number is
    /// that of the newest claim. A claim that has ended with a doubt is in doubt, although it
    /// pauses.
    pub async fn state(&self, id: Uuid) -> String {
        let states: Vec<String> = sqlx::query_scalar(
            "SELECT CASE
                WHEN processor IS NULL THEN 'queued'
                WHEN lease_until > now() AND NOT EXISTS (
                    SELECT FROM payment_attempt a
                    WHERE a.correlation_id = q.correlation_id AND a.last_claim >= q.attempt
                ) THEN 'in_flight ' || processor
                ELSE 'in_doubt ' || processor
            END || ' #' || attempt FROM payment_queue q WHERE correlation_id = $1
            UNION ALL
            SELECT 'settled ' || processor FROM payment_processed WHERE correlation_id = $1
            UNION ALL SELECT 'dead' FROM payment_dead_letter WHERE correlation_id = $1
            UNION ALL SELECT 'archived' FROM payment_archived WHERE correlation_id = $1",
        )
        .bind(id)
        .fetch_all(&self.database.pool)
        .await
        .expect("a state");
        match &states[..] {
            [] => "nowhere".to_owned(),
            states => states.join(" + "),
        }
    }

    /// Whether one waits for the other now, as the server says.
    pub async fn is_waiting(&self, waiting: i32, holding: i32) -> bool {
        sqlx::query_scalar("SELECT $2 = ANY (pg_blocking_pids($1))")
            .bind(waiting)
            .bind(holding)
            .fetch_one(&self.database.pool)
            .await
            .expect("an answer")
    }

    /// Whether that statement waits for the other process, or ends before.
    pub async fn meets<T>(&self, second: &JoinHandle<T>, second_pid: i32, first_pid: i32) -> bool {
        let begun_at = std::time::Instant::now();
        loop {
            if second.is_finished() {
                return false;
            }
            if self.is_waiting(second_pid, first_pid).await {
                return true;
            }
            assert!(begun_at.elapsed() < TIMEOUT, "it neither ends nor waits");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// Makes a move on the second connection, while something else goes on.
    pub fn spawn(&self, second: Move, subject: &Subject) -> JoinHandle<Did> {
        let (pool, subject) = (self.second.pool.clone(), subject.clone());
        let processors = Arc::clone(&self.processors);
        tokio::spawn(async move { second.make(&pool, &subject, &processors).await })
    }

    /// Runs each race twice: the first transaction commits, and is rolled back.
    pub async fn run(&self, races: impl IntoIterator<Item = Race>) {
        for race in races {
            for commits in [true, false] {
                self.run_one(race, commits).await;
            }
        }
    }

    async fn run_one(&self, race: Race, commits: bool) {
        let (start, first, second, meeting) = race;
        let subject = self.start(start).await;
        if let Some(processor) = [first, second].iter().find_map(|each| each.charged_by()) {
            self.charge(processor, &subject).await;
        }
        self.first.execute("BEGIN").await;
        let one = first
            .make(&self.first.pool, &subject, &self.processors)
            .await;
        let other = self.spawn(second, &subject);
        let has_waited = self.meets(&other, self.second.pid, self.first.pid).await;
        self.first
            .execute(if commits { "COMMIT" } else { "ROLLBACK" })
            .await;
        let other = other.await.expect("no panic");
        let state = self.state(subject.payment.correlation_id).await;

        let (waits, [does, then]) = match (meeting, commits) {
            (
                Meeting::Passes {
                    does, committed, ..
                },
                true,
            ) => (false, [does, committed]),
            (
                Meeting::Passes {
                    does, rolled_back, ..
                },
                false,
            ) => (false, [does, rolled_back]),
            (Meeting::Waits { committed, .. }, true) => (true, committed),
            (Meeting::Waits { rolled_back, .. }, false) => (true, rolled_back),
        };
        let ended = if commits { "commits" } else { "is rolled back" };
        assert_eq!(
            (has_waited, &other.result[..], &state[..]),
            (waits, does, then),
            "{start:?}: {first:?} ({}) {ended}, {second:?} (waits, does, state)",
            one.result,
        );
        let claims = one.claims.iter().filter(|_| commits).chain(&other.claims);
        self.keeps_the_money_rule(&subject, claims, &state, race)
            .await;
    }

    /// At most one claim of a payment; no claim of what was settled before; no leftover of a
    /// settled payment outlives the next claim.
    async fn keeps_the_money_rule<'a>(
        &self,
        subject: &Subject,
        claims: impl Iterator<Item = &'a Claim>,
        state: &str,
        race: Race,
    ) {
        let claims: Vec<&Claim> = claims.collect();
        assert!(claims.len() <= 1, "two claims at once: {race:?}");
        // A later claim for the same processor is of the same charge.
        for (claim, before) in claims.iter().zip(&subject.claim) {
            if claim.attempt > 1 && claim.processor == before.processor {
                assert_eq!(claim.requested_at, before.requested_at, "{race:?}");
            }
        }
        let leftover = state
            .strip_prefix("queued #")
            .and_then(|state| state.split_once(" + "));
        if let Some((_, recorded)) = leftover {
            let id = subject.payment.correlation_id;
            let next = Move::ClaimQueued;
            let next = next
                .make(&self.second.pool, subject, &self.processors)
                .await;
            assert_eq!(next.result, "claims nothing", "{race:?}");
            assert_eq!(self.state(id).await, recorded, "{race:?}");
        }
    }

    /// Makes the function `wait_at_gate`, and closes the gate: whoever calls that function waits
    /// until the gate opens. It waits without a lock, so that no limit for locks ends it.
    pub async fn closed_gate(&self) -> Gate {
        let options = self.database.url.parse().expect("a URL");
        let gate = Gate(Racer::connect(options).await);
        gate.0
            .execute(
                "CREATE FUNCTION wait_at_gate() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
                AS $$ BEGIN
                    IF NOT pg_try_advisory_lock_shared(30) THEN
                        PERFORM pg_advisory_lock_shared(31);
                        WHILE NOT pg_try_advisory_lock_shared(30) LOOP
                            PERFORM pg_sleep(0.001);
                        END LOOP;
                        PERFORM pg_advisory_unlock_shared(31);
                    END IF;
                    PERFORM pg_advisory_unlock_shared(30);
                    RETURN true;
                END $$;
                CREATE FUNCTION wait_at_gate_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    PERFORM wait_at_gate();
                    RETURN NULL;
                END $$",
            )
            .await;
        gate.close().await;
        gate
    }
}

/// Stops a statement in its middle.
pub struct Gate(Racer);

impl Gate {
    pub async fn close(&self) {
        self.0.execute("SELECT pg_advisory_lock(30)").await;
    }

    pub async fn open(&self) {
        self.0.execute("SELECT pg_advisory_unlock(30)").await;
    }

    /// Stops statements of that application on that table before their first row.
    pub async fn before(&self, events: &str, table: &str, application: &str) {
        self.0
            .execute(&format!(
                "CREATE TRIGGER gate BEFORE {events} ON {table} FOR EACH STATEMENT
                WHEN (current_setting('application_name') = '{application}')
                EXECUTE FUNCTION wait_at_gate_once()"
            ))
            .await;
    }

    /// Stops statements of a new role at the first row of the queue that they read, when they have
    /// their snapshot and no lock yet. Returns a connection of that role.
    pub async fn before_rows_of_the_queue(&self, database: &Database) -> (Racer, String) {
        let role = format!("gated_{}", Uuid::new_v4().simple());
        self.0
            .execute(&format!(
                "CREATE ROLE {role};
                GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
                GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role};
                GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO {role};
                ALTER TABLE payment_queue ENABLE ROW LEVEL SECURITY;
                CREATE POLICY gate ON payment_queue USING (wait_at_gate()) WITH CHECK (true)"
            ))
            .await;
        let options = database.url.parse().expect("a URL");
        let racer = Racer::connect(options).await;
        racer.execute(&format!("SET ROLE {role}")).await;
        (racer, role)
    }

    /// The process that is stopped.
    pub async fn stopped(&self) -> i32 {
        eventually_some("somebody is at the gate", async || {
            sqlx::query_scalar(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 31
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
            .fetch_optional(&self.0.pool)
            .await
            .expect("an answer")
        })
        .await
    }

    /// Ends a role that stopped here.
    pub async fn forget(&self, (racer, role): (Racer, String)) {
        racer.pool.close().await;
        self.0
            .execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
            .await;
    }

    /// Ends the process that is stopped: its transaction is rolled back.
    pub async fn terminate(&self, pid: i32) {
        self.0
            .execute(&format!("SELECT pg_terminate_backend({pid})"))
            .await;
    }
}
