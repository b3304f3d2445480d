//! A server that is somebody else's: no superuser, other names, TLS only.

use std::path::Path;
use std::process::Output;

use tokio::process::Command;
use uuid::Uuid;

use crate::server::{SERVICES_PASSWORD, Server, psql};
use crate::support::{Database, Gateway, eventually, eventually_some, processor, processors};
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

/// The blocks of the page's section on managed servers in that language, in their order.
pub fn blocks(language: &str) -> Vec<&'static str> {
    let section = PAGE.split("\n## Managed services\n").nth(1);
    let section = section.and_then(|rest| rest.split("\n## ").next());
    let fence = format!("```{language}\n");
    let blocks = section.expect("a section").split(&fence).skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().expect("an end"));
    blocks.collect()
}

/// The commands of a block, without the last, which stays.
pub fn until_serve(block: &'static str) -> &'static str {
    let (first, last) = block.trim_end().rsplit_once('\n').expect("several lines");
    assert_eq!(last, "payment-proxy serve");
    first
}

/// A managed server after the page's commands up to `payment-proxy serve`.
pub struct Managed {
    pub server: Server,
    pub port: u16,
    pub authority: Authority,
    /// The service's, as the page has it.
    pub url: String,
}

impl Managed {
    /// Walks the page as the administrator of an empty server.
    pub async fn walk() -> Self {
        let (server, port, authority) = empty_server().await;
        let walked = Self {
            server,
            port,
            authority,
            url: String::new(),
        };
        // What comes after the page's commands tells what they have set.
        let told = "printf '\\n%s\\n%s' \"$QUEUE_DURABILITY\" \"$DATABASE_URL\"";
        let script = format!("{}\n{told}", until_serve(blocks("sh")[0]));
        let done = walked.shell(&script, &[]).await;
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        assert!(said.contains("temp_file_limit is not set"), "{said}");
        let printed = String::from_utf8_lossy(&done.stdout).into_owned();
        let (rest, url) = printed.rsplit_once('\n').expect("the URL");
        assert!(rest.ends_with("\nlogged"), "{printed}");
        Self {
            url: url.to_owned(),
            ..walked
        }
    }

    /// What a shell of that administrator does.
    pub async fn shell(&self, script: &str, settings: &[(&str, &str)]) -> Output {
        let programs = Path::new(env!("CARGO_BIN_EXE_payment-proxy")).parent();
        let path = [psql().parent(), programs].map(|folder| folder.expect("a folder").to_owned());
        let before = std::env::var_os("PATH").expect("a path");
        let path = path.into_iter().chain(std::env::split_paths(&before));
        let of_the_administrator = [
            ("PGHOST", "localhost"),
            ("PGPORT", &self.port.to_string()),
            ("PGPASSWORD", PASSWORD),
            ("ADMINISTRATOR", ADMINISTRATOR),
            ("CERTIFICATES", &self.authority.file()),
            ("PAYMENT_PROXY_PASSWORD", SERVICES_PASSWORD),
            ("PAYMENT_PROXY_OWNER_PASSWORD", "the owner's"),
            ("AUDITOR_PASSWORD", "the auditor's"),
        ];
        let shell = Command::new("bash")
            .args(["-euc", script])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", std::env::join_paths(path).expect("folders"))
            .envs(of_the_administrator)
            .envs(settings.iter().copied())
            .output();
        shell.await.expect("bash runs")
    }

    /// The page's first payment, which is posted to that instance, and told of until it is settled.
    pub async fn first_payment(&self, gateway: &Gateway, url: &str) {
        let block = blocks("sh")[1];
        let instance = format!(
            "--unix-socket {} http://gateway",
            gateway.socket().display()
        );
        let script = block.replace("http://127.0.0.1:8080", &instance);
        assert_ne!(script, block, "the page posts to where an instance listens");
        let settings = [
            ("DATABASE_URL", url),
            ("DATABASE_PASSWORD", SERVICES_PASSWORD),
        ];
        let id = eventually_some("a payment is accepted", async || {
            let done = self
                .shell(&format!("{script}printf '%s' \"$id\""), &settings)
                .await;
            let told = String::from_utf8(done.stdout).expect("a text");
            let id = told
                .get(told.len().checked_sub(36)?..)?
                .parse::<Uuid>()
                .ok()?;
            done.status.success().then_some(id)
        })
        .await;
        gateway.until_settled(&[id]).await;
        let ask = format!("payment-proxy payment {id}");
        let done = self.shell(&ask, &settings).await;
        let told = String::from_utf8_lossy(&done.stdout);
        assert!(told.contains("settled"), "{told}");
    }

    /// The database as the provider sees it.
    pub fn provider(&self) -> Database {
        let cluster = self.server.url();
        let (cluster, _) = cluster.rsplit_once('/').expect("a path");
        Database::at(&format!("{cluster}/payments"))
    }

    /// The service is connected, and nobody is without TLS.
    pub async fn connections_are_encrypted(&self) {
        let provider = self.provider();
        let open = "pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'payment_proxy'";
        assert!(provider.count(open).await > 0);
        assert_eq!(provider.count(&format!("{open} AND NOT ssl")).await, 0);
    }
}

/// What the page has an instance set besides its URL.
pub const SERVICE: [(&str, &str); 3] = [
    ("DATABASE_PASSWORD", SERVICES_PASSWORD),
    ("QUEUE_DURABILITY", "logged"),
    ("ALLOW_PURGE", "false"),
];

#[tokio::test]
async fn the_page_leads_from_an_empty_managed_server_to_the_first_settled_payment() {
    let managed = Managed::walk().await;
    let (default, fallback) = (processor().await, processor().await);
    let configured = processors(&[&default, &fallback]);
    let gateway = Gateway::spawn(&managed.url, &configured, &SERVICE);
    gateway.until_ready().await;
    managed.first_payment(&gateway, &managed.url).await;

    // Nobody was let in otherwise, and nobody has more than the page says.
    managed.connections_are_encrypted().await;
    let powerful =
        "pg_roles WHERE rolname ~ '^(payment_proxy|auditor)' AND (rolsuper OR rolcreaterole
        OR rolcreatedb OR rolreplication OR rolbypassrls)";
    assert_eq!(managed.provider().count(powerful).await, 0);
    let plain = managed.url.replace("verify-full", "disable");
    let refused = Gateway::spawn(&plain, &configured, &SERVICE);
    eventually("it is not let in without TLS", async || {
        refused.log().contains("no pg_hba.conf entry")
    })
    .await;
    let (_, log) = gateway.stop().await;
    assert!(!log.contains("ERROR"), "{log}");
}
