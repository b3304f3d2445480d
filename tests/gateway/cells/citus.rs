//! A cell in a Citus cluster, where the extension is installed.

use std::time::Duration;

use payment_proxy::store::queue_statistics;
use reqwest::StatusCode;
use serde_json::Value;
use simulator::Faults;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;
use uuid::Uuid;

use super::serving::totals;
use crate::server::{Server, connect_as, init_sql};
use crate::support::{CENTS, Database, Gateway, TIMEOUT, eventually, processor, processors};

/// What a server of a Citus cluster has set.
const SETTINGS: [&str; 4] = [
    "shared_preload_libraries=citus",
    "wal_level=logical",
    "max_worker_processes=32",
    "citus.node_conninfo=sslmode=disable",
];
const OWNER: &str = "payment_proxy_owner";

/// A coordinator and a worker, with a database of payments in both.
struct Cluster {
    _coordinator: Server,
    _worker: Server,
    /// As the superuser, on the coordinator.
    database: Database,
}

impl Cluster {
    /// Starts it, if that can be done here.
    async fn start() -> Option<Self> {
        let here = Database::create().await;
        let available: i64 = here
            .count("pg_available_extensions WHERE name = 'citus'")
            .await;
        if available == 0 {
            eprintln!("NOT RUN: the extension citus is not installed");
            return None;
        }
        let (coordinator, worker) =
            tokio::join!(Server::start_with(&SETTINGS), Server::start_with(&SETTINGS));
        for server in [&coordinator, &worker] {
            init_sql(&server.url(), "payments").expect("roles and a database");
            payments(server).execute("CREATE EXTENSION citus").await;
        }
        let database = payments(&coordinator);
        let folder = |server: &Server| {
            let socket = server.socket();
            socket.parent().expect("a folder").display().to_string()
        };
        let (here, there) = (folder(&coordinator), folder(&worker));
        let join = format!(
            "SELECT citus_set_coordinator_host('{here}', 5432), citus_add_node('{there}', 5432)"
        );
        database.execute(&join).await;
        Some(Self {
            _coordinator: coordinator,
            _worker: worker,
            database,
        })
    }

    /// Runs `payment-proxy migrate`. Returns what it said.
    async fn migrate(&self, durability: &str) -> String {
        let (succeeded, said) = self.program(&["migrate"], durability).await;
        assert!(succeeded, "{said}");
        said
    }

    /// Runs `payment-proxy`. Returns whether it succeeded, and what it said.
    async fn program(&self, arguments: &[&str], durability: &str) -> (bool, String) {
        let done = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
            .args(arguments)
            .env("DATABASE_URL", &self.service().url)
            .env(
                "MIGRATE_DATABASE_URL",
                &connect_as(&self.database, OWNER).url,
            )
            .env("QUEUE_DURABILITY", durability)
            .env("ALLOW_PURGE", "true")
            .output()
            .await
            .expect("the program starts");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.success(), said)
    }

    fn service(&self) -> Database {
        connect_as(&self.database, "payment_proxy")
    }
}

/// The database of payments of a server, as its superuser.
fn payments(server: &Server) -> Database {
    let url = server.url();
    let server = url.strip_suffix("/postgres").expect("the first database");
    Database::at(&format!("{server}/payments"))
}

#[tokio::test]
async fn a_cell_on_citus_takes_payments_through_all_that_may_come() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let said = cluster.migrate("unlogged").await;
    assert!(said.contains("only while nobody writes"), "{said}");
    // Again, and logged, changes nothing but the queue.
    let said = cluster.migrate("logged").await;
    assert!(!said.contains("only while nobody writes"), "{said}");
    let database = &cluster.database;
    let places = "(SELECT DISTINCT nodename FROM citus_shards) AS place";
    assert_eq!(database.count(places).await, 1, "all on one node");
    let left = "pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        AND relname LIKE 'payment%' AND oid NOT IN (SELECT logicalrelid FROM pg_dist_partition)";
    assert_eq!(
        database.count(left).await,
        0,
        "no table of payments is left"
    );

    let (default, fallback) = (processor().await, processor().await);
    let both = processors(&[&default, &fallback]);
    let settings = [
        ("QUEUE_DURABILITY", "logged"),
        ("PROCESSOR_TIMEOUT_MS", "1000"),
        ("LATE_CHARGE_MS", "1000"),
    ];
    let gateway = Gateway::start(&cluster.service(), &both, &settings).await;
    let told = "pg_db_role_setting WHERE setconfig::text LIKE '%enable_seqscan=off%'";
    let worker = payments(&cluster._worker);
    assert_eq!(worker.count(told).await, 1, "the node has our settings");

    let mut ids = gateway.post_many(60).await;
    gateway.until_settled(&ids).await;
    assert_eq!(gateway.post(ids[0], CENTS).await, StatusCode::ACCEPTED);
    assert_eq!(gateway.post(ids[0], CENTS + 1).await, StatusCode::CONFLICT);
    // Some fail, and of some the reply is lost.
    let faults = Faults {
        fail_before: 0.3,
        reply_lost: 0.2,
        ..Faults::default()
    };
    for running in [&default, &fallback] {
        running.processor.set_faults(faults.clone()).expect("valid");
    }
    let troubled = gateway.post_many(60).await;
    gateway.until_settled(&troubled).await;
    ids.extend(troubled);
    let (count, _) = totals(&gateway.json("/payments-summary").await);
    assert_eq!(count, 120);
    let charged = default.processor.payments().len() + fallback.processor.payments().len();
    assert_eq!(charged, 120, "each was charged once");
    assert_eq!(database.count("payment_processed").await, 120);
    assert!(
        database.count("payment_attempt").await > 0,
        "some were released"
    );
    eventually("the queue is empty", async || {
        database.count("payment_queue").await == 0
    })
    .await;
    let counted = "SELECT coalesce(sum(payments), 0)::bigint FROM payment_accepted_hour";
    eventually("what was accepted is counted", async || {
        database.value::<i64>(counted).await == 120
    })
    .await;

    // What is told of it, and what leaves a trace.
    let life = format!("audit.life('{}')", ids[0]);
    assert_eq!(database.count(&life).await, 3, "accepted, claimed, settled");
    for question in [
        "summary()",
        "balance()",
        "fees()",
        "fees_by_day(NULL, NULL)",
    ] {
        let rows = database.count(&format!("audit.{question}")).await;
        assert!(rows > 0, "audit.{question}");
    }
    let one = ids[1];
    database
        .execute(&format!(
            "UPDATE payment_processed SET amount = 1 WHERE correlation_id = '{one}';
            DELETE FROM payment_processed WHERE correlation_id = '{one}'"
        ))
        .await;
    assert_eq!(database.count("ledger_change").await, 2);
    let settled: i64 = database
        .value("SELECT sum(requests)::bigint FROM payment_rollup WHERE unit = 'hour'")
        .await;
    assert_eq!(settled, 119);

    // More than are counted one by one: the statistics of the node tell.
    database
        .execute(
            "INSERT INTO payment_queue (correlation_id, amount, lease_until)
            SELECT gen_random_uuid(), 1, 'infinity' FROM generate_series(1, 6000)",
        )
        .await;
    eventually("the length of the queue is estimated", async || {
        let queued = queue_statistics::queued(&database.pool).await;
        queued.is_ok_and(|count| !count.exact && count.value >= 6_000)
    })
    .await;

    let archive = ["archive", "--before", "2025-06", "--to", "/tmp"];
    let (succeeded, said) = cluster.program(&archive, "logged").await;
    let refused = "archive does not work on a database of a Citus cluster";
    assert!(!succeeded && said.contains(refused), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    let purged = gateway.post_body("/purge-payments", "").await.status();
    assert_eq!(purged, StatusCode::NO_CONTENT);
    assert_eq!(database.count("payment_processed").await, 0);
    assert_eq!(database.count("payment_rollup").await, 0);
}

#[tokio::test]
async fn citus_plans_every_statement_of_the_service() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    cluster.migrate("logged").await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx");
    let mut statements = Vec::new();
    for file in std::fs::read_dir(folder).expect("the queries") {
        let file = std::fs::read(file.expect("a file").path()).expect("a file");
        let described: Value = serde_json::from_slice(&file).expect("JSON");
        let query = described["query"].as_str().expect("a query").to_owned();
        let types = &described["describe"]["parameters"]["Left"];
        let types = types.as_array().map_or(&[][..], Vec::as_slice);
        let types: Vec<String> = types
            .iter()
            .map(|name| name.as_str().expect("a name").to_owned())
            .collect();
        statements.push((query, types));
    }
    assert!(statements.len() > 50, "{} statements", statements.len());
    // The owner may do all that the service may, and is no other to a planner.
    let owner = connect_as(&cluster.database, OWNER);
    let mut connection = PgConnection::connect(&owner.url)
        .await
        .expect("a connection");
    let limit = format!("SET statement_timeout = {}", TIMEOUT.as_millis());
    run(&mut connection, &limit).await.expect("a setting");
    let mut refused = Vec::new();
    for (query, types) in &statements {
        let values: Vec<String> = types.iter().map(|name| value(name)).collect();
        let values = match values.is_empty() {
            true => String::new(),
            false => format!("({})", values.join(", ")),
        };
        run(&mut connection, "BEGIN").await.expect("it begins");
        let prepare = match query.starts_with("TRUNCATE") {
            true => query.clone(), // which cannot be prepared in SQL
            false => format!("PREPARE planned AS {query}"),
        };
        let planned = match run(&mut connection, &prepare).await {
            Ok(()) if prepare != *query => {
                run(&mut connection, &format!("EXECUTE planned{values}")).await
            }
            done => done,
        };
        run(&mut connection, "ROLLBACK").await.expect("it ends");
        // It may be prepared still, and is not of the transaction.
        run(&mut connection, "DEALLOCATE ALL")
            .await
            .expect("none left");
        let Err(error) = planned else { continue };
        let code = error.as_database_error().and_then(|error| error.code());
        let code = code.map(|code| code.into_owned()).unwrap_or_default();
        // Values that break a constraint or mean nothing, or ours: not of the planner.
        if !["22", "23", "PP"]
            .iter()
            .any(|class| code.starts_with(class))
        {
            refused.push(format!("{error}: {query}"));
        }
    }
    assert_eq!(refused, [""; 0]);
}

async fn run(connection: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(connection)
        .await?;
    Ok(())
}

/// A value of that type, as sqlx calls it.
fn value(name: &str) -> String {
    if let Some(element) = name.strip_suffix("Array") {
        return format!("ARRAY[{}, {}]", value(element), value(element));
    }
    match name {
        "Text" => "'default'::text".to_owned(),
        "Uuid" => format!("'{}'::uuid", Uuid::new_v4()),
        "Int4" => "1".to_owned(),
        "Int8" => "100::bigint".to_owned(),
        "Numeric" => "0.95::numeric".to_owned(),
        "Bool" => "true".to_owned(),
        "Date" => "'2026-11-01'::date".to_owned(),
        "Timestamptz" => "'2026-11-30T02:00:00Z'::timestamptz".to_owned(),
        "Interval" => format!("'{} s'::interval", Duration::from_secs(20).as_secs()),
        other => panic!("a value of {other}"),
    }
}
