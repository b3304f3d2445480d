//! A server that is somebody else's: no superuser, other names, TLS only.

use std::path::Path;

use tokio::process::Command;
use uuid::Uuid;

use crate::server::{SERVICES_PASSWORD, Server, psql};
use crate::support::{CENTS, Database, Gateway, eventually, processor, processors};
use crate::tls::{Authority, encrypt, free_port};

const PAGE: &str = include_str!("../../docs/databases.md");
const ADMINISTRATOR: &str = "dba@books";
const PASSWORD: &str = "an administrator's";

/// As a provider leaves it: the superuser is the provider's own, and the administrator has what
/// `rds_superuser` has. Nobody comes in but with a password and by TLS.
async fn empty_server() -> (Server, u16, Authority) {
    let port = free_port();
    let server = Server::start_on(port).await;
    let provider = Database::at(&server.url());
    for statement in [
        "CREATE ROLE rds_superuser CREATEROLE CREATEDB NOLOGIN",
        "GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO rds_superuser WITH ADMIN OPTION",
        "CREATE ROLE \"dba@books\" LOGIN CREATEROLE CREATEDB IN ROLE rds_superuser
            PASSWORD 'an administrator''s'",
        "GRANT CREATE ON DATABASE postgres TO \"dba@books\"",
    ] {
        provider.execute(statement).await;
    }
    let authority = Authority::new();
    encrypt(&server, &authority, "localhost").await;
    server.allow("local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n");
    provider.execute("SELECT pg_reload_conf()").await;
    (server, port, authority)
}

/// The commands of the page, without the one that stays.
fn walk() -> (String, String) {
    let section = PAGE
        .split("\n## Managed services\n")
        .nth(1)
        .expect("a section");
    let block = section.split("```sh\n").nth(1).expect("commands");
    let block = block.split("```").next().expect("an end");
    let (first, last) = block.trim_end().rsplit_once('\n').expect("several lines");
    assert_eq!(last, "payment-proxy serve");
    (first.to_owned(), last.to_owned())
}

#[tokio::test]
async fn the_page_leads_from_an_empty_managed_server_to_the_first_settled_payment() {
    let (server, port, authority) = empty_server().await;
    let (prepares, _) = walk();
    let programs = Path::new(env!("CARGO_BIN_EXE_payment-proxy")).parent();
    let path =
        [psql().parent(), programs].map(|folder| folder.expect("a folder").display().to_string());
    let path = format!(
        "{}:{}",
        path.join(":"),
        std::env::var("PATH").expect("a path")
    );
    let settings = [
        ("PATH", path.as_str()),
        ("PGHOST", "localhost"),
        ("PGPORT", &port.to_string()),
        ("PGPASSWORD", PASSWORD),
        ("ADMINISTRATOR", ADMINISTRATOR),
        ("CERTIFICATES", &authority.file()),
        ("PAYMENT_PROXY_PASSWORD", SERVICES_PASSWORD),
        ("PAYMENT_PROXY_OWNER_PASSWORD", "the owner's"),
        ("AUDITOR_PASSWORD", "the auditor's"),
        ("QUEUE_DURABILITY", "logged"),
    ];
    // What comes after the page's commands tells what they have set.
    let script = format!("{prepares}\nprintf '\\n%s' \"$DATABASE_URL\"");
    let done = Command::new("bash")
        .args(["-euc", &script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .envs(settings)
        .output()
        .await
        .expect("bash runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("temp_file_limit is not set"), "{said}");
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    let (_, url) = printed.rsplit_once('\n').expect("the URL");

    let (default, fallback) = (processor().await, processor().await);
    let configured = processors(&[&default, &fallback]);
    let settings = [
        ("DATABASE_PASSWORD", SERVICES_PASSWORD),
        ("QUEUE_DURABILITY", "logged"),
        ("ALLOW_PURGE", "false"),
    ];
    let gateway = Gateway::spawn(url, &configured, &settings);
    gateway.until_ready().await;
    let id = Uuid::new_v4();
    eventually("a payment is accepted", async || {
        gateway.post(id, CENTS).await.is_success()
    })
    .await;
    gateway.until_settled(&[id]).await;

    // Nobody was let in otherwise, and nobody has more than the page says.
    let cluster = server.url();
    let (cluster, _) = cluster.rsplit_once('/').expect("a path");
    let provider = Database::at(&format!("{cluster}/payments"));
    let open = "pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'payment_proxy'";
    assert!(provider.count(open).await > 0);
    assert_eq!(provider.count(&format!("{open} AND NOT ssl")).await, 0);
    let powerful =
        "pg_roles WHERE rolname ~ '^(payment_proxy|auditor)' AND (rolsuper OR rolcreaterole
        OR rolcreatedb OR rolreplication OR rolbypassrls)";
    assert_eq!(provider.count(powerful).await, 0);
    let plain = url.replace("verify-full", "disable");
    let refused = Gateway::spawn(&plain, &configured, &settings);
    eventually("it is not let in without TLS", async || {
        refused.log().contains("no pg_hba.conf entry")
    })
    .await;
    let (_, log) = gateway.stop().await;
    assert!(!log.contains("ERROR"), "{log}");
}
