//! A database per test, processors in this process, instances as processes of their own.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use http1_client::{MOST_CONNECTIONS, Resolver};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use payment_proxy::config::{
    DatabaseSettings, MigrateSettings, OwnerSettings, ProcessorSettings, Processors,
    ProcessorsSettings, PurgeSettings, QueueDurability,
};
use payment_proxy::domain::lease::LeasePolicy;
use payment_proxy::domain::payment::Payment;
use payment_proxy::domain::uptime::Uptime;
use payment_proxy::http::ProblemKind;
use payment_proxy::pipeline::accept::Accepted;
use payment_proxy::pipeline::deployment::Admission;
use payment_proxy::pipeline::settle::CompletedClaim;
use payment_proxy::pipeline::worker::Worker;
use payment_proxy::serve::{Parts, Setup};
use payment_proxy::store::claim::{Claim, SEND_WITHIN};
use payment_proxy::store::clock::{DatabaseClock, WATCH_GAP};
use payment_proxy::store::database;
use payment_proxy::telemetry::Telemetry;
use payment_proxy::telemetry::metrics::Total;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response, StatusCode};
use router::Policy;
use rust_decimal::Decimal;
use serde_json::Value;
use simulator::{self, Running};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use uuid::Uuid;

/// How long anything that must happen may take on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(40);

/// The cents of every payment, unless a test wants others.
pub const CENTS: i64 = 1990;

/// A database of its own in the cluster that `TEST_DATABASE_URL` names.
pub struct Database {
    pub url: String,
    pub pool: PgPool,
}

impl Database {
    /// What is claimed from now on goes to another processor than `default`, once instances have
    /// heard of it.
    pub async fn disable_default(&self) {
        self.execute("UPDATE processor_health SET enabled = false WHERE processor = 'default'")
            .await;
    }

    /// An empty one.
    pub async fn create() -> Self {
        Self::of_template("template1").await
    }

    /// A copy of another one, to which nobody is connected.
    pub async fn of_template(template: &str) -> Self {
        let cluster = std::env::var("TEST_DATABASE_URL")
            .expect("TEST_DATABASE_URL names a throwaway cluster; `make test` starts one");
        let admin = PgPoolOptions::new()
            .max_connections(1)
            .connect(&cluster)
            .await
            .expect("the cluster answers");
        let name = format!("t_{}", Uuid::new_v4().simple());
        sqlx::query(AssertSqlSafe(format!(
            "CREATE DATABASE {name} TEMPLATE {template}"
        )))
        .execute(&admin)
        .await
        .expect("a database");
        let mut url = reqwest::Url::parse(&cluster).expect("a URL");
        url.set_path(&name);
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect_lazy(url.as_str())
            .expect("a URL");
        Self {
            url: url.into(),
            pool,
        }
    }

    /// One that is there already.
    pub fn at(url: &str) -> Self {
        let options = PgPoolOptions::new()
            .max_connections(4)
            .test_before_acquire(true);
        Self {
            url: url.to_owned(),
            pool: options.connect_lazy(url).expect("a URL"),
        }
    }

    /// A migrated one.
    pub async fn migrated() -> Self {
        let database = Self::create().await;
        database::migrate(&database.migrate_settings(QueueDurability::Unlogged))
            .await
            .expect("the migrations apply");
        database
    }

    pub fn settings(&self, queue_durability: QueueDurability) -> DatabaseSettings {
        DatabaseSettings {
            database_url: self.url.parse().expect("a URL"),
            database_password: None,
            database_password_file: None,
            direct_database_url: None,
            queue_durability,
        }
    }

    /// The settings of `migrate`, with one role for everything.
    pub fn migrate_settings(&self, queue_durability: QueueDurability) -> MigrateSettings {
        MigrateSettings {
            database: self.settings(queue_durability),
            owner: OwnerSettings {
                migrate_database_url: None,
                migrate_database_password: None,
                migrate_database_password_file: None,
            },
            purge: PurgeSettings { allow_purge: false },
        }
    }

    pub async fn count(&self, table: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&self.pool)
            .await
            .expect("a count")
    }

    /// The one value that a query returns.
    pub async fn value<T>(&self, query: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres> + Send + Unpin,
    {
        let value = sqlx::query_scalar(AssertSqlSafe(query.to_owned()));
        value.fetch_one(&self.pool).await.expect(query)
    }

    /// A table that nobody else gets at until this ends.
    pub async fn lock(&self, table: &str) -> Transaction<'static, Postgres> {
        let mut transaction = self.pool.begin().await.expect("a transaction");
        let lock = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        sqlx::raw_sql(AssertSqlSafe(lock))
            .execute(&mut *transaction)
            .await
            .expect("the lock");
        transaction
    }

    /// How many statements with those words in them wait for a lock now.
    pub async fn waiting_for_a_lock(&self, words: &str) -> i64 {
        let waiting =
            "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        self.count(&format!("{waiting} AND query LIKE '%{words}%'"))
            .await
    }

    pub async fn execute(&self, statement: &str) {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&self.pool)
            .await
            .expect(statement);
    }
}

/// A processor with the rules of the real one.
pub async fn processor() -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    simulator::start(simulator::Settings::default(), listener).expect("a processor")
}

/// `PROCESSORS` for these, named `default` and `fallback`.
pub fn processors(running: &[&Running]) -> String {
    processors_as(["default", "fallback"], running)
}

/// `PROCESSORS` for these, under other names.
pub fn processors_as(names: [&str; 2], running: &[&Running]) -> String {
    let terms = names.into_iter().zip(["0.05", "0.15"]);
    let entries = terms
        .zip(running)
        .map(|((name, fee), running)| format!("{name},{fee},{}", running.url()));
    entries.collect::<Vec<_>>().join(" ")
}

/// The names of the processors of tests.
pub fn both() -> [String; 2] {
    ["default", "fallback"].map(str::to_owned)
}

/// An instance of the service.
pub struct Gateway {
    child: Child,
    folder: TempDir,
    pub http: Client,
}

impl Gateway {
    /// Starts one and waits until it is ready.
    pub async fn start(database: &Database, processors: &str, settings: &[(&str, &str)]) -> Self {
        let gateway = Self::spawn(&database.url, processors, settings);
        gateway.until_ready().await;
        gateway
    }

    /// Starts one and waits until it answers.
    pub async fn start_unready(database_url: &str, processors: &str) -> Self {
        let gateway = Self::spawn(database_url, processors, &[]);
        eventually("the instance is alive", async || {
            gateway.try_get("/livez").await.is_ok()
        })
        .await;
        gateway
    }

    /// Starts one.
    pub fn spawn(database_url: &str, processors: &str, settings: &[(&str, &str)]) -> Self {
        Self::spawn_logging(database_url, processors, settings, |folder| {
            std::fs::File::create(folder.join("log")).expect("a log file")
        })
    }

    /// Starts one, whose log goes to what `log` makes, given a folder.
    pub fn spawn_logging<L: Into<Stdio>>(
        database_url: &str,
        processors: &str,
        settings: &[(&str, &str)],
        log: impl FnOnce(&Path) -> L,
    ) -> Self {
        let program = Command::new(env!("CARGO_BIN_EXE_payment-proxy"));
        Self::spawn_by(program, database_url, processors, settings, log)
    }

    /// Starts one by a command that ends in the program.
    pub fn spawn_by<L: Into<Stdio>>(
        mut program: Command,
        database_url: &str,
        processors: &str,
        settings: &[(&str, &str)],
        log: impl FnOnce(&Path) -> L,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path());
        let child = program
            .arg("serve")
            .env(
                "LISTEN",
                format!("unix:{}", socket(folder.path()).display()),
            )
            .env("DATABASE_URL", database_url)
            .env("PROCESSORS", processors)
            .env("ALLOW_PURGE", "true")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let http = payment_proxy::config::tls::plain()
            .unix_socket(socket(folder.path()))
            .build()
            .expect("a client");
        Self {
            child,
            folder,
            http,
        }
    }

    /// Whether it says that it can take payments.
    pub async fn is_ready(&self) -> bool {
        self.get("/readyz").await.status().is_success()
    }

    pub async fn until_ready(&self) {
        eventually("the instance is ready", async || self.is_ready().await).await;
    }

    /// It says that it is not ready, and takes no payment.
    pub async fn refuses(&self) {
        let ready = self.get("/readyz").await.status();
        assert_eq!(ready, StatusCode::SERVICE_UNAVAILABLE);
        let posted = self.post(Uuid::new_v4(), CENTS).await;
        assert_eq!(posted, StatusCode::SERVICE_UNAVAILABLE);
    }

    pub async fn try_get(&self, path: &str) -> reqwest::Result<Response> {
        self.http.get(format!("http://gateway{path}")).send().await
    }

    pub async fn get(&self, path: &str) -> Response {
        eventually_some("the instance answers", async || {
            self.try_get(path).await.ok()
        })
        .await
    }

    /// The JSON that stands at a path.
    pub async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.expect("JSON")
    }

    pub async fn post_body(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = self
            .http
            .post(format!("http://gateway{path}"))
            .header(CONTENT_TYPE, "application/json");
        request.body(body).send().await.expect("a reply")
    }

    /// Asserts that this is a problem of a kind that is explained. Returns its `detail`.
    pub async fn problem(response: Response, status: StatusCode) -> (ProblemKind, String) {
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(body["status"], status.as_u16());
        let kind = problem_kind(&body);
        assert_eq!(body["title"], kind.title());
        (kind, body["detail"].as_str().expect("a detail").to_owned())
    }

    pub async fn post(&self, id: Uuid, cents: i64) -> StatusCode {
        self.post_body("/payments", payment_json(id, cents))
            .await
            .status()
    }

    /// Posts so many new payments, and returns their ids.
    pub async fn post_many(&self, count: usize) -> Vec<Uuid> {
        let ids: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
        let posts = ids.iter().map(|id| self.post(*id, CENTS));
        for status in futures_util::future::join_all(posts).await {
            assert_eq!(status, StatusCode::ACCEPTED);
        }
        ids
    }

    pub async fn state(&self, id: Uuid) -> String {
        let view = self.json(&format!("/payments/{id}")).await;
        view["state"].as_str().unwrap_or("unknown").to_owned()
    }

    pub async fn until_settled(&self, ids: &[Uuid]) {
        for id in ids {
            eventually("the payment is settled", async || {
                self.state(*id).await == "settled"
            })
            .await;
        }
    }

    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// The most memory that it has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
        kilobytes
            .expect("a line in kB")
            .parse::<u64>()
            .expect("a number")
            * 1024
    }

    /// What it has logged; nothing where that goes elsewhere.
    pub fn log(&self) -> String {
        let log = self.folder.path().join("log");
        match log.exists() {
            true => std::fs::read_to_string(log).expect("a log"),
            false => String::new(),
        }
    }

    /// Waits until two processors are known, and until this instance has heard that `default` is
    /// switched off.
    pub async fn without_default(&self, database: &Database) {
        eventually("both processors are known", async || {
            database.count("processor_health").await == 2
        })
        .await;
        database.disable_default().await;
        eventually("one is switched off", async || {
            self.log().contains("switched by an operator")
        })
        .await;
    }

    /// How many files it may have open.
    pub fn most_files(&self) -> u64 {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.child.id()));
        let limits = limits.expect("it runs");
        let files = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let soft = files.and_then(|files| files.split_whitespace().next());
        soft.expect("a limit").parse().expect("a number")
    }

    /// Leaves it as many files as it has open now, and so many more.
    pub fn leave_files(&self, more: usize) {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        let most = open.expect("it runs").count() + more;
        let limited = Command::new("prlimit")
            .arg(format!("--pid={}", self.child.id()))
            .arg(format!("--nofile={most}:{most}"))
            .status();
        assert!(limited.expect("prlimit is there").success());
    }

    /// How many threads of that name it has.
    pub fn threads(&self, name: &str) -> usize {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let names = tasks.expect("it runs").filter_map(|task| {
            let name = std::fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
            Some(name.trim_end().to_owned())
        });
        names.filter(|found| found == name).count()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("the process is there");
    }

    /// Kills it as a crash would.
    pub fn crash(mut self) {
        self.child.kill().expect("the process is there");
        self.child.wait().expect("it ends");
    }

    /// Asks it to stop. Returns how long that took, and its log.
    pub async fn stop(mut self) -> (Duration, String) {
        let asked_at = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = eventually_some("the instance ends", async || {
            self.child.try_wait().expect("a child")
        })
        .await;
        assert!(status.success(), "{status}: {}", self.log());
        (asked_at.elapsed(), self.log())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the instance ---\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kind of a problem, which is one that is explained.
pub fn problem_kind(problem: &Value) -> ProblemKind {
    let mut kinds = ProblemKind::ALL.iter();
    let kind = kinds.find(|kind| problem["type"] == kind.reference());
    *kind.unwrap_or_else(|| panic!("{problem} has no type that is explained"))
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("socket")
}

pub fn payment_json(id: Uuid, cents: i64) -> String {
    format!(
        r#"{{"correlationId":"{id}","amount":{}}}"#,
        Decimal::new(cents, 2)
    )
}

/// A claim that is about to be sent.
pub fn new_claim() -> Claim {
    let now = chrono::Utc::now();
    Claim {
        id: 1,
        payment: new_payment(),
        accepted_at: now,
        attempt: 1,
        processor: "default".to_owned(),
        requested_at: now,
        send_by: Uptime::now() + SEND_WITHIN,
        earlier: None,
    }
}

/// What the system knows of names; processors of tests are called by address.
pub fn resolver() -> Resolver {
    Resolver::of_system()
}

/// Puts a payment into the queue, held for the default processor, whatever the ledgers say.
pub async fn hold(database: &Database, correlation_id: Uuid) {
    database
        .execute(&format!(
            "INSERT INTO payment_queue (correlation_id, amount, processor, requested_at,
                doubt_until)
             VALUES ('{correlation_id}', 19.90, 'default', now(), now())"
        ))
        .await;
}

/// The default processor, at that URL.
pub fn default_at(url: &str) -> ProcessorSettings {
    ProcessorSettings {
        name: "default".to_owned(),
        fee: Decimal::new(5, 2),
        url: url.parse().expect("a URL"),
    }
}

/// The parts of an instance that is admitted for ever. None of them runs.
pub fn parts(database: &Database, running: &[&Running], leases: LeasePolicy) -> Parts {
    let names = ["default", "fallback"];
    let fees = [Decimal::new(5, 2), Decimal::new(15, 2)];
    let configured = running.iter().zip(names).zip(fees);
    let configured = configured.map(|((running, name), fee)| ProcessorSettings {
        name: name.to_owned(),
        fee,
        url: running.url().parse().expect("a URL"),
    });
    let parts = Parts::new(Setup {
        database: &database.settings(QueueDurability::Unlogged),
        processors: &ProcessorsSettings {
            processors: Processors(configured.collect()),
            processor_timeout: Duration::from_secs(15),
            processor_ca_file: None,
        },
        connections: MOST_CONNECTIONS,
        routing: Policy::default(),
        leases,
        queue_limit: NonZeroU64::MAX,
        admission: Admission::unconditional,
        telemetry: Telemetry::default(),
    });
    parts.expect("processors that can be called")
}

/// A worker in this process, whose steps a test takes one by one.
pub struct Bench {
    pub worker: Worker,
    pub ended: mpsc::Receiver<CompletedClaim>,
}

impl Bench {
    pub fn new(database: &Database, running: &[&Running], terms: LeasePolicy) -> Self {
        let Parts {
            worker, completed, ..
        } = parts(database, running, terms);
        let mut worker = Arc::into_inner(worker).expect("nobody else has it");
        worker.clock = Arc::new(watched_clock(terms));
        Self {
            worker,
            ended: completed,
        }
    }
}

/// The database's clock of an instance that has watched it for longer than any doubt lasts.
pub fn watched_clock(terms: LeasePolicy) -> DatabaseClock {
    watched_clock_at(terms, chrono::Utc::now())
}

/// The same, where that clock shows this time.
pub fn watched_clock_at(terms: LeasePolicy, database_now: DateTime<Utc>) -> DatabaseClock {
    let clock = DatabaseClock::new(terms, Total::default());
    let now = tokio::time::Instant::now();
    let looks = (terms.lease + terms.late_charge).as_secs() / WATCH_GAP.as_secs() + 2;
    for look in (0..=looks).rev() {
        let ago = WATCH_GAP * u32::try_from(look).expect("few");
        clock.observe(now - ago, database_now - ago, now - ago);
    }
    clock
}

/// The terms of a worker in production.
pub fn production_terms() -> LeasePolicy {
    LeasePolicy::new(Duration::from_secs(15), Duration::from_secs(60))
}

pub fn new_payment() -> Payment {
    Payment {
        correlation_id: Uuid::new_v4(),
        amount: Decimal::new(CENTS, 2),
        traceparent: None,
    }
}

/// Puts payments into the queue as a POST does that finds others waiting.
pub async fn enqueue(pool: &PgPool, payments: &[Payment]) -> Result<Vec<Accepted>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let (outcomes, _) =
        payment_proxy::pipeline::accept::enqueue(&mut connection, payments, None).await?;
    Ok(outcomes)
}

/// Ends a lease as time would, so that nobody has to wait for it.
pub async fn expire_lease(database: &Database, claim: &Claim) {
    database
        .execute(&format!(
            "UPDATE payment_queue SET lease_until = now() - interval '1 ms' WHERE id = {}",
            claim.id
        ))
        .await;
}

/// Waits until it is so.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    eventually_some(what, async || check().await.then_some(())).await;
}

/// Waits until there is something.
pub async fn eventually_some<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun_at = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            begun_at.elapsed() < TIMEOUT,
            "not within {TIMEOUT:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
