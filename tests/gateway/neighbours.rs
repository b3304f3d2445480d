//! A database that fails in every way that databases do: told of once, refused with 503, survived
//! without a restart, and nothing that was accepted is lost or doubled.

pub mod full_disk;
#[path = "../../crates/tools/src/deployment/volume.rs"]
pub mod volume;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use payment_proxy::store::database::{ANSWER_DEADLINE, Condition};
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use simulator::Running;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::forwarder::Forwarder;
use crate::metrics::free_address;
use crate::server::Server;
use crate::support::{CENTS, Database, Gateway, eventually, payment_json, processor, processors};

/// No client waits longer for an answer, whatever the database does; with what a busy machine may
/// add.
const LONGEST_ANSWER: Duration = ANSWER_DEADLINE.saturating_add(Duration::from_secs(15));
/// Tasks of an instance that use the database, each of which may tell once that it fails.
const TASKS: usize = 6;
/// Requests while the database fails: more than enough to see a line for each in the log.
const REQUESTS: usize = 60;

/// An instance with its processor, and the payments that clients mean to make.
struct Site {
    gateway: Gateway,
    default: Running,
    database: Database,
    posted: BTreeSet<Uuid>,
    /// Length of the log when the trouble began.
    told: usize,
    /// The operators' address, where there is one.
    operators: String,
}

const OPERATOR_TOKEN: &str = "the-operators-own-token";

impl Site {
    /// `database` is the way by which the test looks at the ledgers.
    async fn open(url: &str, database: Database, settings: &[(&str, &str)]) -> Self {
        let default = processor().await;
        let gateway = Gateway::start(&Database::at(url), &processors(&[&default]), settings).await;
        let mut site = Self {
            gateway,
            default,
            database,
            posted: BTreeSet::new(),
            told: 0,
            operators: String::new(),
        };
        site.recovers().await;
        site
    }

    /// Posts that many new payments at once: how many were accepted, and what the others were told.
    async fn post(&mut self, count: usize) -> (usize, Vec<String>) {
        let ids: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
        self.posted.extend(&ids);
        let gateway = &self.gateway;
        let replies = ids.iter().map(|id| {
            let begun_at = Instant::now();
            async move {
                let reply = gateway
                    .post_body("/payments", payment_json(*id, CENTS))
                    .await;
                assert!(
                    begun_at.elapsed() < LONGEST_ANSWER,
                    "{:?}",
                    begun_at.elapsed()
                );
                reply
            }
        });
        let (mut accepted, mut refused) = (0, Vec::new());
        for reply in futures_util::future::join_all(replies).await {
            match reply.status() {
                StatusCode::ACCEPTED => accepted += 1,
                StatusCode::SERVICE_UNAVAILABLE => {
                    assert!(reply.headers().contains_key(RETRY_AFTER));
                    refused.push(reply.text().await.expect("a body"));
                }
                status => panic!("{status}: {:?}", reply.text().await),
            }
        }
        (accepted, refused)
    }

    /// A call of an operator.
    async fn operate(&self, method: &str, path: &str) -> (StatusCode, String) {
        let client = payment_proxy::config::tls::plain()
            .build()
            .expect("a client");
        let url = format!("http://{}{path}", self.operators);
        let request = client.request(method.parse().expect("a method"), url);
        let request = request
            .bearer_auth(OPERATOR_TOKEN)
            .header("content-type", "application/json")
            .body(if path.starts_with("/dead") {
                r#"{"ids":["6f0c1f9e-6a55-4a2c-9d6f-1d3a0f6f6a01"]}"#
            } else {
                ""
            });
        let reply = request.send().await.expect("a reply");
        (reply.status(), reply.text().await.expect("text"))
    }

    /// Asks for that many summaries at once, whatever comes back.
    async fn summaries(&self) {
        let summaries = (0..REQUESTS).map(|_| self.gateway.get("/payments-summary"));
        futures_util::future::join_all(summaries).await;
    }

    /// Two payments, each of which one of the instance's two writers accepts: the table is locked
    /// until both are at it.
    async fn both_writers_write(&mut self) {
        let lock = self.database.lock("payment_queue").await;
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        self.posted.extend([first, second]);
        let database = &self.database;
        let writing = async |writers| {
            eventually("a writer waits for the lock", async || {
                database.waiting_for_a_lock("accept_payment").await == writers
            })
            .await;
        };
        let ((), (), ()) = tokio::join!(
            async { assert_eq!(self.gateway.post(first, CENTS).await, StatusCode::ACCEPTED) },
            async {
                writing(1).await;
                assert_eq!(self.gateway.post(second, CENTS).await, StatusCode::ACCEPTED);
            },
            async {
                writing(2).await;
                lock.rollback().await.expect("it ends");
            }
        );
    }

    /// The database fails: clients and the log are told why, the latter not once for each request.
    async fn suffers(&mut self, condition: Condition) {
        eventually("payments are refused", async || {
            self.post(REQUESTS).await.0 == 0
        })
        .await;
        self.summaries().await;
        let cause = condition.to_string();
        eventually(&format!("not ready: {cause}"), async || {
            let reply = self.gateway.get("/readyz").await;
            let retry_after = reply.headers().contains_key(RETRY_AFTER);
            let (status, text) = (reply.status(), reply.text().await.expect("a body"));
            if status == StatusCode::SERVICE_UNAVAILABLE && retry_after && text.contains(&cause) {
                return true;
            }
            // A payment that is refused reminds it, where nothing else would.
            self.post(1).await;
            false
        })
        .await;
        let log = self.gateway.log()[self.told..].to_owned();
        let told = format!("{cause}; trying again");
        assert!(log.contains(&told), "{told} in {log}");
        for line in log.lines().filter(|line| line.contains("ERROR")) {
            assert!(line.contains("; trying again"), "{line}");
        }
        assert!(log.matches("; trying again").count() <= 2 * TASKS, "{log}");
        assert!(log.lines().count() < 4 * TASKS, "{log}");
    }

    /// The database works again: so does the instance, by itself. Clients post again what was not
    /// accepted, and everything is settled once.
    async fn recovers(&mut self) {
        self.gateway.until_ready().await;
        eventually("payments are accepted", async || self.post(5).await.0 == 5).await;
        let posted: Vec<Uuid> = self.posted.iter().copied().collect();
        for id in &posted {
            eventually("it is accepted", async || {
                self.gateway.post(*id, CENTS).await == StatusCode::ACCEPTED
            })
            .await;
        }
        eventually("all are settled", async || {
            self.database.count("payment_queue").await == 0
        })
        .await;
        let count = i64::try_from(posted.len()).expect("few");
        assert_eq!(self.database.count("payment_processed").await, count);
        let charged = self.default.processor.payments();
        assert_eq!(charged.len(), posted.len(), "charged once each");
        self.ends_are_told().await;
        self.told = self.gateway.log().len();
    }

    /// Each task that told of an outage tells that it is over.
    async fn ends_are_told(&self) {
        let task = |line: &str| {
            let task = line.split("task=\"").nth(1)?.split('"').next()?;
            Some(task.to_owned())
        };
        eventually("every task tells that it is over", async || {
            let log = self.gateway.log()[self.told..].to_owned();
            let mut open = BTreeSet::new();
            for line in log.lines() {
                if let Some(task) = task(line) {
                    match line.contains("; trying again") {
                        true => open.insert(task),
                        false => open.remove(&task),
                    };
                }
            }
            open.is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn a_failing_database_is_told_of_once_and_survived() {
    let mut server = Server::start_with(&["max_connections=20"]).await;
    let mut site = Site::open(&server.url(), Database::at(&server.url()), &[]).await;

    // Stopped, and started again.
    server.stop().await;
    site.suffers(Condition::Away).await;
    server.run().await;
    site.recovers().await;

    // Read-only, as while it is moved.
    set(
        &server,
        "ALTER SYSTEM SET default_transaction_read_only = on",
    )
    .await;
    site.suffers(Condition::ReadOnly).await;
    set(&server, "ALTER SYSTEM RESET default_transaction_read_only").await;
    site.recovers().await;

    // A lock that somebody forgot in an open transaction.
    let mut forgetful = PgConnection::connect(&server.url())
        .await
        .expect("a connection");
    let lock = "BEGIN; LOCK TABLE payment_queue IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock)
        .execute(&mut forgetful)
        .await
        .expect("a lock");
    site.suffers(Condition::Locked).await;
    forgetful.close().await.expect("it ends");
    site.recovers().await;

    // Every connection is somebody else's.
    let others = take_all_connections(&server).await;
    site.suffers(Condition::OutOfConnections).await;
    drop(others);
    site.recovers().await;
}

/// What any request is answered while the database lets nobody in: 503, and when to come again.
async fn is_unavailable_everywhere(site: &Site) {
    let id = Uuid::new_v4();
    for path in ["/readyz", "/payments-summary", &format!("/payments/{id}")] {
        let reply = site.gateway.get(path).await;
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(reply.headers().contains_key(RETRY_AFTER), "{path}");
    }
    let purge = site.gateway.post_body("/purge-payments", "").await;
    assert_eq!(purge.status(), StatusCode::SERVICE_UNAVAILABLE);
    for (method, path) in OPERATORS_CALLS {
        let (status, text) = site.operate(method, path).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {text}");
    }
    let (status, text) = site.operate("GET", "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        text.contains("payment_proxy_queue_statistics_up 0"),
        "{text}"
    );
}

/// Calls of operators that need the database.
const OPERATORS_CALLS: [(&str, &str); 5] = [
    ("GET", "/dead-letters"),
    ("GET", "/in-doubt"),
    ("GET", "/history"),
    ("POST", "/dead-letters/retry"),
    ("POST", "/routing/default/enable"),
];

#[tokio::test]
async fn a_password_or_a_database_that_is_changed_is_an_outage_and_no_fault_of_requests() {
    let port = free_address()
        .rsplit(':')
        .next()
        .expect("a port")
        .to_owned();
    let server = Server::start_on(port.parse().expect("a port")).await;
    let admin = Database::at(&server.url());
    admin
        .execute("CREATE ROLE till LOGIN SUPERUSER PASSWORD 'first'")
        .await;
    admin.execute("CREATE DATABASE books").await;
    let address = free_address();
    let settings = [
        ("OPERATOR_LISTEN", address.as_str()),
        ("OPERATOR_TOKEN", OPERATOR_TOKEN),
    ];
    let url = format!("postgres://till:first@127.0.0.1:{port}/books");
    let server_url = server.url();
    let (server_address, _) = server_url.rsplit_once('/').expect("a path");
    let looking = Database::at(&format!("{server_address}/books"));
    let mut site = Site::open(&url, looking, &settings).await;
    site.operators = address.clone();
    let end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = 'books' AND pid <> pg_backend_pid()";

    admin.execute("ALTER ROLE till PASSWORD 'second'").await;
    admin.execute(end_sessions).await;
    site.suffers(Condition::NotLetIn).await;
    is_unavailable_everywhere(&site).await;
    admin.execute("ALTER ROLE till PASSWORD 'first'").await;
    site.recovers().await;

    admin
        .execute("ALTER DATABASE books ALLOW_CONNECTIONS false")
        .await;
    admin.execute(end_sessions).await;
    admin.execute("ALTER DATABASE books RENAME TO old").await;
    site.suffers(Condition::NoDatabase).await;
    is_unavailable_everywhere(&site).await;
    admin.execute("ALTER DATABASE old RENAME TO books").await;
    admin
        .execute("ALTER DATABASE books ALLOW_CONNECTIONS true")
        .await;
    site.recovers().await;
}

#[tokio::test]
async fn connections_that_fall_silent_are_given_up() {
    // As when a machine loses its power: nobody says that they are closed.
    let database = Database::migrated().await;
    let (server, name) = database.url.rsplit_once('/').expect("a path");
    let socket = server
        .trim_start_matches("postgres://postgres@")
        .replace("%2F", "/");
    let (folder, port) = socket.rsplit_once(':').expect("a port");
    let forwarder = Forwarder::to(format!("{folder}/.s.PGSQL.{port}").into()).await;
    let url = forwarder.url().replace("/postgres?", &format!("/{name}?"));
    let limit = (REQUESTS - 10).to_string();
    let settings = [("QUEUE_LIMIT", limit.as_str())];
    let mut site = Site::open(&url, Database::at(&database.url), &settings).await;
    // All connections have just been used, so the next one to use them does not try them first.
    // With payments in the queue that is the look at its length: without another one after it there
    // will be no room for all.
    site.summaries().await;
    site.both_writers_write().await;
    forwarder.silence();
    let begun_at = Instant::now();
    let (_, refused) = site.post(REQUESTS).await;
    assert_eq!(refused.len(), REQUESTS);
    site.recovers().await;
    assert!(
        begun_at.elapsed() >= ANSWER_DEADLINE,
        "they were not silent"
    );
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_ended_and_told_of() {
    let database = Database::migrated().await;
    let mut site = Site::open(&database.url, Database::at(&database.url), &[]).await;
    database
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_sleep(60); RETURN new; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON payment_queue FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await;
    site.suffers(Condition::Slow).await;
    database.execute("DROP FUNCTION slow CASCADE").await;
    site.recovers().await;
}

/// Changes the configuration of a server.
async fn set(server: &Server, statement: &'static str) {
    let mut connection = PgConnection::connect(&server.url())
        .await
        .expect("a connection");
    for statement in [statement, "SELECT pg_reload_conf()"] {
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .expect(statement);
    }
}

/// Takes every connection of a server, those of the instance included.
async fn take_all_connections(server: &Server) -> Vec<PgConnection> {
    let mut taken = vec![
        PgConnection::connect(&server.url())
            .await
            .expect("a connection"),
    ];
    loop {
        let ended: i64 = sqlx::query_scalar(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE application_name LIKE 'payment-proxy%'",
        )
        .fetch_one(&mut taken[0])
        .await
        .expect("an answer");
        while let Ok(connection) = PgConnection::connect(&server.url()).await {
            taken.push(connection);
        }
        if ended == 0 {
            return taken;
        }
    }
}

#[tokio::test]
async fn a_standby_takes_over() {
    let primary = Server::start().await;
    let standby = Server::standby_of(&primary).await;
    set(&primary, "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    let forwarder = Forwarder::to(primary.socket()).await;
    let settings = [
        ("QUEUE_DURABILITY", "logged"),
        ("PROCESSOR_TIMEOUT_MS", "1000"),
    ];
    let mut site = Site::open(&forwarder.url(), Database::at(&standby.url()), &settings).await;

    // The address leads to the other server from now on, which is a standby yet.
    forwarder.turn_to(standby.socket());
    set(
        &primary,
        "ALTER SYSTEM SET default_transaction_read_only = on",
    )
    .await;
    site.suffers(Condition::ReadOnly).await;

    // The standby becomes the primary; the connections that lead to the old one are still open.
    let mut connection = PgConnection::connect(&standby.url())
        .await
        .expect("a connection");
    sqlx::query("SELECT pg_promote()")
        .execute(&mut connection)
        .await
        .expect("it is promoted");
    set(&standby, "ALTER SYSTEM RESET synchronous_standby_names").await;
    set(&standby, "ALTER SYSTEM RESET default_transaction_read_only").await;
    site.recovers().await;
    let old = Database::at(&primary.url());
    assert!(old.count("payment_processed").await < site.database.count("payment_processed").await);
}

#[tokio::test]
#[ignore = "takes more than a minute; `make outage` runs it"]
async fn an_outage_of_a_minute_is_survived() {
    let mut server = Server::start().await;
    let mut site = Site::open(&server.url(), Database::at(&server.url()), &[]).await;
    server.stop().await;
    let begun_at = Instant::now();
    site.suffers(Condition::Away).await;
    while begun_at.elapsed() < Duration::from_secs(60) {
        site.post(5).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let log = site.gateway.log()[site.told..].to_owned();
    assert!(log.lines().count() < 4 * TASKS, "{log}");
    server.run().await;
    site.recovers().await;
}
