//! Behind PgBouncer, the real one: nothing of a session is relied on where each transaction is
//! given another one.

mod pgbouncer;

use std::process::Command;

use payment_proxy::store::database::{
    ACCEPT_CONNECTIONS, CLAIM_CONNECTIONS, OPERATOR_CONNECTIONS, REQUEST_CONNECTIONS,
    SETTLE_CONNECTIONS,
};
use reqwest::StatusCode;
use sqlx::Executor;
use uuid::Uuid;

use crate::durability::{post_all, ten_in_flight};
use crate::managed::{self, Managed};
use crate::server::{SERVICES_PASSWORD, Server};
use crate::support::{
    CENTS, Database, Gateway, eventually, eventually_some, processor, processors,
};
use crate::tls::free_port;
use pgbouncer::{PgBouncer, SESSION, UNPREPARED};

const PAGE: &str = include_str!("../../docs/databases.md");
/// What a deployment takes that does not share sessions, and has no more instances than two.
const FEW: &str = "default_pool_size=4";

/// The file of settings of the page for transaction mode.
fn settings() -> &'static str {
    let block = PAGE.split("```ini\n").nth(1).expect("settings");
    block.split("```").next().expect("an end")
}

/// Its settings, without those of names and passwords.
fn transaction() -> String {
    let (_, pooler) = settings().split_once("[pgbouncer]\n").expect("a section");
    let of_the_test = |line: &str| {
        line.starts_with("auth_") || line.starts_with("listen_") || line.contains("pool_size")
    };
    let lines = pooler.lines().filter(|line| !of_the_test(line));
    let lines: Vec<&str> = lines.collect();
    assert!(lines.contains(&"pool_mode = transaction"), "{lines:?}");
    lines.join("\n")
}

/// What a transaction commits with, and what its plans were made with, as it commits.
const WITNESS: &str = "
    CREATE TABLE witness (what text, commits text, plans text, isolation text, path text);
    CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO witness VALUES (TG_TABLE_NAME || ' ' || TG_OP,
            current_setting('synchronous_commit'), current_setting('plan_cache_mode'),
            current_setting('transaction_isolation'), current_setting('search_path'));
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER witness AFTER INSERT OR UPDATE ON payment_queue
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION witness();
    CREATE CONSTRAINT TRIGGER witness AFTER INSERT ON payment_processed
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION witness()";

/// How many transactions of that kind committed so.
async fn committed(database: &Database, what: &str, synchronously: &str) -> i64 {
    let rows = format!("witness WHERE what = '{what}' AND commits = '{synchronously}'");
    database.count(&rows).await
}

/// All were charged once, by two processors, and committed as a logged queue has it.
async fn are_committed_as_a_logged_queue_has_it(database: &Database, ids: &[Uuid], charges: usize) {
    let count = i64::try_from(ids.len()).expect("few");
    assert_eq!(database.count("payment_processed").await, count);
    assert_eq!(charges, ids.len(), "charged once each");
    for (what, synchronously, expected) in [
        ("payment_queue INSERT", "on", count),
        ("payment_queue INSERT", "off", 0),
        ("payment_queue UPDATE", "off", 0),
        // A settle that is lost leaves the claim, and the processor is asked.
        ("payment_processed INSERT", "off", count),
    ] {
        let committed = committed(database, what, synchronously).await;
        assert_eq!(committed, expected, "{what} with {synchronously}");
    }
    let others = "witness WHERE (plans, isolation, path)
        <> ('force_generic_plan', 'read committed', 'public, pg_temp')";
    assert_eq!(database.count(others).await, 0);
}

#[tokio::test]
async fn of_a_logged_queue_only_settles_are_not_waited_for() {
    let database = Database::migrated().await;
    let default = processor().await;
    let settings = [("QUEUE_DURABILITY", "logged")];
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    database.execute(WITNESS).await;
    let ids = gateway.post_many(60).await;
    gateway.until_settled(&ids).await;
    let charges = default.processor.payments().len();
    are_committed_as_a_logged_queue_has_it(&database, &ids, charges).await;
}

#[tokio::test]
async fn behind_a_session_pooler_an_instance_takes_as_many_connections_as_the_page_says() {
    let taken = ACCEPT_CONNECTIONS
        + usize::try_from(
            REQUEST_CONNECTIONS + CLAIM_CONNECTIONS + SETTLE_CONNECTIONS + OPERATOR_CONNECTIONS,
        )
        .expect("few");
    let says = format!("{taken} connections of each instance, and 2 more");
    assert!(PAGE.contains(&says), "docs/databases.md says not: {says}");

    let database = Database::migrated().await;
    let size = format!("default_pool_size={}", taken + 2);
    let pooler = PgBouncer::start(&database.url, SESSION, &[&size]).await;
    let (default, fallback) = (processor().await, processor().await);
    let running = [&default, &fallback];
    let behind = Database::at(&pooler.url());
    let gateway = Gateway::start(&behind, &processors(&running), &[]).await;
    assert!(!gateway.log().contains("in transaction mode"));
    let ids = gateway.post_many(200).await;
    // As many at once as there are connections for, and more.
    let reads = (0..40).map(|_| gateway.get("/payments-summary"));
    for reply in futures_util::future::join_all(reads).await {
        assert_eq!(reply.status(), StatusCode::OK);
    }
    gateway.until_settled(&ids).await;
    let sessions = "pg_stat_activity WHERE datname = current_database()
        AND application_name = 'payment-proxy' AND backend_type = 'client backend'";
    let sessions = database.count(sessions).await;
    assert!(
        usize::try_from(sessions).expect("few") <= taken,
        "{sessions}"
    );
    let (_, log) = gateway.stop().await;
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}

/// Takes the pooler's sessions one after the other, and leaves in each what our statements must not
/// rest on, as another client of the pool may.
async fn spoil(pooler: &PgBouncer) {
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut connection = pooler.connect().await.expect("the pooler");
        connection.execute("BEGIN").await.expect("a session");
        open.push(connection);
    }
    for connection in &mut open {
        for statement in ["SET SESSION synchronous_commit = off", "COMMIT"] {
            connection.execute(statement).await.expect("it is set");
        }
    }
}

#[tokio::test]
async fn behind_a_transaction_pooler_commits_and_plans_do_not_rest_on_what_sessions_were_told() {
    let database = Database::migrated().await;
    let pooler = PgBouncer::start(&database.url, &transaction(), &[FEW]).await;
    // Sessions that begin before an instance does.
    spoil(&pooler).await;
    let (default, fallback) = (processor().await, processor().await);
    let configured = processors(&[&default, &fallback]);
    let settings = [
        ("QUEUE_DURABILITY", "logged"),
        ("DIRECT_DATABASE_URL", database.url.as_str()),
    ];
    let behind = Database::at(&pooler.url());
    let one = Gateway::start(&behind, &configured, &settings).await;
    let other = Gateway::start(&behind, &configured, &settings).await;
    database.execute(WITNESS).await;
    let mut ids = Vec::new();
    for round in 0..6 {
        spoil(&pooler).await;
        let gateway = [&one, &other][round % 2];
        ids.extend(gateway.post_many(40).await);
        // Some are claimed by the commit that accepts them, and some later.
        let single = Uuid::new_v4();
        assert_eq!(gateway.post(single, CENTS).await, StatusCode::ACCEPTED);
        ids.push(single);
    }
    one.until_settled(&ids).await;
    let charges = default.processor.payments().len() + fallback.processor.payments().len();
    are_committed_as_a_logged_queue_has_it(&database, &ids, charges).await;
    for gateway in [one, other] {
        let (_, log) = gateway.stop().await;
        assert!(log.contains("in transaction mode"), "{log}");
        assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    }
}

#[tokio::test]
async fn of_instances_that_start_at_once_behind_a_new_pooler_none_ends() {
    let database = Database::migrated().await;
    let pooler = PgBouncer::start(&database.url, &transaction(), &[FEW]).await;
    let default = processor().await;
    let configured = processors(&[&default]);
    let start = || Gateway::spawn(&pooler.url(), &configured, &[]);
    let all = [start(), start(), start(), start()];
    for gateway in &all {
        gateway.until_ready().await;
    }
}

#[tokio::test]
async fn a_session_that_the_pooler_opens_later_begins_with_what_statements_need() {
    let database = Database::migrated().await;
    let pooler = PgBouncer::start(&database.url, &transaction(), &[FEW]).await;
    let default = processor().await;
    let behind = Database::at(&pooler.url());
    let gateway = Gateway::start(&behind, &processors(&[&default]), &[]).await;
    let id = gateway.post_many(1).await;
    gateway.until_settled(&id).await;
    // Nobody has told these anything.
    let sessions = "SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND application_name = 'payment-proxy'";
    assert!(database.value::<i64>(sessions).await > 0);
    for (setting, value) in [
        ("enable_seqscan", "off"),
        ("plan_cache_mode", "force_generic_plan"),
        ("statement_timeout", "10s"),
        ("search_path", "public, pg_temp"),
        ("row_security", "off"),
    ] {
        // The pooler may hear of the end of a session only as it uses it.
        let shown = eventually_some("a session", async || {
            let mut connection = pooler.connect().await.ok()?;
            let shown = sqlx::query_scalar::<_, String>("SELECT current_setting($1)");
            shown.bind(setting).fetch_one(&mut connection).await.ok()
        });
        assert_eq!(shown.await, value, "{setting}");
    }
}

#[tokio::test]
async fn a_transaction_pooler_that_keeps_no_prepared_statements_is_refused_in_one_line() {
    let database = Database::migrated().await;
    let pooler = PgBouncer::start(&database.url, UNPREPARED, &[FEW]).await;
    let default = processor().await;
    let done = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
        .args(["serve", "--listen=127.0.0.1:0"])
        .env("DATABASE_URL", pooler.url())
        .env("PROCESSORS", processors(&[&default]))
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{said}");
    let told = said.matches("max_prepared_statements").count();
    assert_eq!(told, 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn migrations_past_the_pooler_and_notifications_take_the_direct_connection() {
    let database = Database::create().await;
    let pooler = PgBouncer::start(&database.url, &transaction(), &[FEW]).await;
    let default = processor().await;
    let url = pooler.url();
    let migrate = |settings: &[(&str, &str)]| {
        let done = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
            .arg("migrate")
            .env("DATABASE_URL", &url)
            .envs(settings.iter().copied())
            .output()
            .expect("the program starts");
        (
            done.status.code(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        )
    };
    let (code, said) = migrate(&[]);
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(said.matches("DIRECT_DATABASE_URL").count(), 1, "{said}");
    // Neither does what leads to the same pooler.
    let (code, said) = migrate(&[("DIRECT_DATABASE_URL", &url)]);
    assert_eq!(code, Some(2), "{said}");
    let direct = [("DIRECT_DATABASE_URL", database.url.as_str())];
    let (code, said) = migrate(&direct);
    assert_eq!(code, Some(0), "{said}");

    let behind = Database::at(&url);
    let with = Gateway::start(&behind, &processors(&[&default]), &direct).await;
    let without = Gateway::start(&behind, &processors(&[&default]), &[]).await;
    let listens = "pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'";
    eventually("one of them listens", async || {
        database.count(listens).await == 1
    })
    .await;
    // The other one looks once a second.
    database.disable_default().await;
    for gateway in [&with, &without] {
        eventually("it has heard of the switch", async || {
            gateway.log().contains("switched by an operator")
        })
        .await;
    }
}

#[tokio::test]
async fn behind_a_transaction_pooler_an_emptied_queue_is_noticed_before_anything_is_charged_again()
{
    let mut server = Server::start().await;
    let database = Database::at(&server.url());
    let default = processor().await;
    let fallback = processor().await;
    let pooler = PgBouncer::start(&server.url(), &transaction(), &[FEW]).await;
    let settings = [
        ("PROCESSOR_TIMEOUT_MS", "8000"),
        ("DIRECT_DATABASE_URL", &server.url()),
    ];
    let behind = Database::at(&pooler.url());
    let configured = processors(&[&default, &fallback]);
    let one = Gateway::start(&behind, &configured, &settings).await;
    let other = Gateway::start(&behind, &configured, &settings).await;
    let ids = ten_in_flight(&one, &default, &fallback).await;
    database.disable_default().await;
    server.crash().await;
    server.run().await;
    post_all(&other, &ids).await;
    other.until_settled(&ids).await;
    let charged = default.processor.payments().len() + fallback.processor.payments().len();
    assert_eq!(charged, ids.len(), "charged once each");
    let told =
        [&one, &other].map(|gateway| gateway.log().contains("has emptied the unlogged queue"));
    assert!(told[1], "{}", other.log());
}

#[tokio::test]
async fn a_transaction_that_the_pooler_leads_to_another_queue_changes_nothing() {
    let database = Database::migrated().await;
    let accept = "SELECT check_queue('somewhere else', 'on')
        FROM accept_payment(gen_random_uuid(), 1.00, NULL, NULL, NULL, NULL)";
    let refused = sqlx::query(accept).execute(&database.pool).await;
    let error = refused.expect_err("it is not there");
    let code = error.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("PP001"), "{error}");
    assert!(payment_proxy::store::database::is_transient(&error));
    assert_eq!(database.count("payment_queue").await, 0);
}

/// PgBouncer with the page's settings before a managed server, and with the name by which that is
/// known.
async fn before(managed: &Managed) -> PgBouncer {
    let (folder, port) = (pgbouncer::folder(), free_port());
    let (certificate, key) = managed.authority.issue("localhost");
    let block = managed::blocks("ini")[0];
    let ini = format!("{}{block}unix_socket_dir =\n", settings());
    // What is a placeholder on the page, each of which has to be there.
    let places = [
        (
            "host=db port=5432",
            format!("host=localhost port={}", managed.port),
        ),
        ("listen_port = 6432", format!("listen_port = {port}")),
        ("/etc/pgbouncer/provider.pem", managed.authority.file()),
        ("/etc/pgbouncer/", format!("{}/", folder.path().display())),
    ];
    let ini = places.into_iter().fold(ini, |ini, (placeholder, place)| {
        assert!(ini.contains(placeholder), "no {placeholder} in {ini}");
        ini.replace(placeholder, &place)
    });
    let password = SERVICES_PASSWORD.replace('"', "\"\"");
    let files = [
        ("ini", ini.as_str()),
        (
            "userlist.txt",
            &format!("\"payment_proxy\" \"{password}\"\n"),
        ),
        ("pooler.pem", &certificate.pem()),
        ("pooler.key", &key.serialize_pem()),
    ];
    // As the page sets it.
    let commands = managed::until_serve(managed::blocks("sh")[2]);
    let script = format!("{commands}\nprintf '%s\\n%s' \"$DIRECT_DATABASE_URL\" \"$DATABASE_URL\"");
    let walked = [
        ("DATABASE_URL", managed.url.as_str()),
        ("POOLER", &format!("localhost:{port}")),
    ];
    let told = managed.shell(&script, &walked).await;
    let told = String::from_utf8(told.stdout).expect("URLs");
    let (direct, url) = told.rsplit_once('\n').expect("two URLs");
    assert_eq!(direct, managed.url);
    PgBouncer::start_in(folder, &files, url, Some(SERVICES_PASSWORD)).await
}

#[tokio::test]
async fn the_page_leads_through_a_pooler_in_transaction_mode_to_a_managed_server() {
    let managed = Managed::walk().await;
    let pooler = before(&managed).await;
    let (default, fallback) = (processor().await, processor().await);
    let direct = [("DIRECT_DATABASE_URL", managed.url.as_str())];
    let configured = [managed::SERVICE.as_slice(), &direct].concat();
    let processors = processors(&[&default, &fallback]);
    let gateway = Gateway::spawn(&pooler.url(), &processors, &configured);
    gateway.until_ready().await;
    managed.first_payment(&gateway, &pooler.url()).await;
    gateway.until_settled(&gateway.post_many(40).await).await;

    managed.connections_are_encrypted().await;
    let provider = managed.provider();
    // Past the pooler one connection listens, and the others are the pool's.
    let sessions = "pg_stat_activity WHERE usename = 'payment_proxy'";
    let listens = format!("{sessions} AND query LIKE 'LISTEN %'");
    assert_eq!(provider.count(&listens).await, 1);
    let pool = settings()
        .lines()
        .find_map(|line| line.strip_prefix("default_pool_size = "));
    let pool: i64 = pool.expect("its size").parse().expect("a number");
    assert!(provider.count(sessions).await <= pool + 1);
    let (_, log) = gateway.stop().await;
    assert!(log.contains("in transaction mode"), "{log}");
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}
