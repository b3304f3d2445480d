//! Two instances in one process share what a process has one of, its log and its allocator, and
//! nothing else.

use std::collections::BTreeSet;
use std::ffi::OsString;

use payment_proxy::command::{Cli, Command};
use payment_proxy::config::{QueueDurability, Settings, tls};
use payment_proxy::serve::serve;
use payment_proxy::store::database::{Pool, Pools};
use payment_proxy::telemetry::metrics::ProcessCounts;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::metrics::Scraped;
use crate::support::{CENTS, Database, eventually, payment_json, processor};
use crate::traces::Collector;

const OPERATOR_TOKEN: &str = "the-operators-own-token";

/// An instance that a test serves itself, and the clients of its two addresses.
struct Instance {
    settings: Settings,
    clients: Client,
    operators: Client,
    _folder: TempDir,
}

impl Instance {
    /// One that charges at `url`, by the name of `processor`.
    fn new(database: &Database, processor: &str, url: &str, collector: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [listen, operators] = ["clients", "operators"].map(|name| folder.path().join(name));
        let arguments = [
            "payment-proxy",
            "serve",
            &format!("--database-url={}", database.url),
            &format!("--processors={processor},0.05,{url}"),
            &format!("--listen=unix:{}", listen.display()),
            &format!("--operator-listen=unix:{}", operators.display()),
            &format!("--operator-token={OPERATOR_TOKEN}"),
            &format!("--otel-exporter-otlp-endpoint={collector}"),
        ]
        .map(OsString::from);
        let Command::Serve(settings) = Cli::read(arguments).expect("settings").command else {
            panic!("it serves");
        };
        let client = |path| tls::plain().unix_socket(path).build().expect("a client");
        Self {
            settings: *settings,
            clients: client(listen),
            operators: client(operators),
            _folder: folder,
        }
    }

    async fn is_ready(&self) -> bool {
        let ready = self.clients.get("http://gateway/readyz").send().await;
        ready.is_ok_and(|reply| reply.status().is_success())
    }

    async fn post(&self, body: String) -> StatusCode {
        let post = self.clients.post("http://gateway/payments");
        let post = post.header(CONTENT_TYPE, "application/json").body(body);
        post.send().await.expect("a reply").status()
    }

    /// Posts `count` new payments and returns their ids.
    async fn post_many(&self, count: usize) -> BTreeSet<Uuid> {
        let ids: BTreeSet<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
        for id in &ids {
            assert_eq!(
                self.post(payment_json(*id, CENTS)).await,
                StatusCode::ACCEPTED
            );
        }
        ids
    }

    async fn scrape(&self) -> Scraped {
        let get = self.operators.get("http://operators/metrics");
        let reply = get.bearer_auth(OPERATOR_TOKEN).send().await;
        let text = reply.expect("a reply").text().await;
        Scraped::read(&text.expect("text"))
    }

    /// Posts to itself, and what it counts of that.
    async fn serves(&self, processor: &str, payments: usize, malformed: usize) -> BTreeSet<Uuid> {
        eventually("it is ready", async || self.is_ready().await).await;
        for _ in 0..malformed {
            assert_eq!(self.post("{".to_owned()).await, StatusCode::BAD_REQUEST);
        }
        let ids = self.post_many(payments).await;
        let settled = format!("settled_total{{processor=\"{processor}\"}}");
        eventually("all are settled", async || {
            self.scrape().await.value(&settled) == payments as f64
        })
        .await;
        ids
    }

    /// What it counted is what was done to it, and nothing of another processor.
    async fn counted(&self, processor: &str, other: &str, payments: usize, malformed: usize) {
        let scraped = self.scrape().await;
        for (series, expected) in [
            ("accepted_total".to_owned(), payments),
            ("post_seconds_count".to_owned(), payments),
            ("settle_seconds_count".to_owned(), payments),
            ("claimed_total{kind=\"queued\"}".to_owned(), payments),
            ("refused_total{reason=\"malformed\"}".to_owned(), malformed),
            (
                format!("settled_total{{processor=\"{processor}\"}}"),
                payments,
            ),
        ] {
            assert_eq!(scraped.value(&series), expected as f64, "{series}");
        }
        assert!(!scraped.mentions(other), "{other} is of the other instance");
    }
}

#[tokio::test]
async fn metrics_and_traces_of_two_instances_in_one_process_do_not_mix() {
    let (left_database, right_database) = tokio::join!(Database::create(), Database::create());
    let (left_charges, right_charges) = tokio::join!(processor(), processor());
    let ((left_spans, left_collector), (right_spans, right_collector)) =
        tokio::join!(Collector::start(), Collector::start());
    let left = Instance::new(&left_database, "left", &left_charges.url(), &left_collector);
    let right = Instance::new(
        &right_database,
        "right",
        &right_charges.url(),
        &right_collector,
    );
    let (process, stop) = (ProcessCounts::default(), CancellationToken::new());
    let serving = async {
        let serve = |instance: &Instance| {
            let shutdown = stop.clone().cancelled_owned();
            serve(instance.settings.clone(), &process, shutdown)
        };
        tokio::try_join!(serve(&left), serve(&right))
    };
    let using = async {
        let ids = tokio::join!(left.serves("left", 3, 0), right.serves("right", 5, 2));
        left.counted("left", "right", 3, 0).await;
        right.counted("right", "left", 5, 2).await;
        // The process has one log, whose lost lines both show.
        process.log_lines.overflowed.add(7);
        for instance in [&left, &right] {
            let lost = "log_lines_dropped_total{reason=\"overflowed\"}";
            assert_eq!(instance.scrape().await.value(lost), 7.0);
        }
        stop.cancel();
        ids
    };
    let (served, (left_ids, right_ids)) = tokio::join!(serving, using);
    served.expect("both end in order");
    assert_eq!(left_spans.lives(), left_ids);
    assert_eq!(right_spans.lives(), right_ids);
}

/// The process of the server behind the connection that a pool gives.
async fn backend(pool: &Pool) -> i32 {
    let pid = sqlx::query_scalar("SELECT pg_backend_pid()");
    pid.fetch_one(&**pool).await.expect("an answer")
}

#[tokio::test]
async fn a_standby_that_one_instance_meets_costs_another_no_connection() {
    let database = Database::migrated().await;
    let settings = database.settings(QueueDurability::Unlogged);
    let (meets, spared) = (Pools::new(&settings), Pools::new(&settings));
    // Pools of one connection, so that the next use would take it again.
    let of = |pools: &Pools| [pools.settles.clone(), pools.accepts[0].clone()];
    let mut before = Vec::new();
    for pool in of(&meets).iter().chain(&of(&spared)) {
        before.push(backend(pool).await);
    }
    let refused = meets.settles.with_deadline(async {
        let mut transaction = meets.settles.begin().await?;
        // What a standby answers to a statement that writes.
        sqlx::query("SET TRANSACTION READ ONLY")
            .execute(&mut *transaction)
            .await?;
        sqlx::query("CREATE TABLE nothing ()")
            .execute(&mut *transaction)
            .await
    });
    let refused = refused.await.expect_err("read-only");
    let code = refused.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("25006"));
    let mut after = Vec::new();
    for pool in of(&meets).iter().chain(&of(&spared)) {
        after.push(backend(pool).await);
    }
    assert_ne!(before[0], after[0], "the pool that met it connects anew");
    assert_ne!(before[1], after[1], "so does every pool of that instance");
    assert_eq!(before[2..], after[2..], "another instance is not concerned");
}
