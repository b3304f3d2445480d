//! Encrypted ways to PostgreSQL and to processors, and whom they lead to.

use std::future::pending;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use payment_proxy::processors::{Lookup, OVERDUE_AFTER, ProcessorClient, Reply};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use uuid::Uuid;

use crate::server::Server;
use crate::support::{Database, Gateway, default_at, eventually, new_claim, processor, resolver};

/// An authority, and its certificate in a file.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, Uuid::new_v4().to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("a file");
        Self {
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    pub fn file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }

    /// A certificate for a host, and its key.
    pub fn issue(&self, host: &str) -> (rcgen::Certificate, KeyPair) {
        let params = CertificateParams::new([host.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        (
            params.signed_by(&key, &self.issuer).expect("a certificate"),
            key,
        )
    }
}

/// An address that speaks TLS as `host`, and leads to a processor that does not.
async fn encrypted(authority: &Authority, host: &str, processor: &str) -> u16 {
    payment_proxy::config::tls::provide();
    let (certificate, key) = authority.issue(host);
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("they match")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let processor = processor.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        loop {
            let client = listener.accept().await.expect("a connection").0;
            let (acceptor, processor) = (acceptor.clone(), processor.clone());
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await?;
                let mut processor = TcpStream::connect(processor).await?;
                tokio::io::copy_bidirectional(&mut client, &mut processor).await
            });
        }
    });
    port
}

#[tokio::test]
async fn a_processor_is_called_by_tls_only_if_our_authority_vouches_for_its_name() {
    let database = Database::migrated().await;
    let (default, fallback) = (processor().await, processor().await);
    let (ours, other) = (Authority::new(), Authority::new());
    for (authority, host, trusted) in [
        (&ours, "localhost", true),
        (&other, "localhost", false),
        (&ours, "elsewhere.example", false),
    ] {
        let before = default.processor.payments().len();
        let port = encrypted(authority, host, &default.url()).await;
        let both = format!(
            "default,0.05,https://localhost:{port} fallback,0.15,{}",
            fallback.url()
        );
        let settings = [("PROCESSOR_CA_FILE", ours.file())];
        let settings = settings
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let gateway = Gateway::start(&database, &both, &settings).await;
        let ids = gateway.post_many(10).await;
        gateway.until_settled(&ids).await;
        let charged = default.processor.payments().len() - before;
        assert_eq!(charged > 0, trusted, "{host}: {charged}");
        if !trusted {
            // Nothing was sent, which is proof; and the history of the payments says why.
            let reason =
                "payment_attempt WHERE outcome = 'not_charged' AND reason LIKE '%certificate%'";
            assert!(database.count(reason).await > 0);
        }
        database.execute("TRUNCATE payment_attempt").await;
        gateway.stop().await;
    }
}

/// Answers a POST with so many bytes and, in the same breath, with what nobody asked for; anything
/// else with 503.
async fn say_too_much(listener: TcpListener, bytes: usize) {
    loop {
        let mut client = listener.accept().await.expect("a connection").0;
        tokio::spawn(async move {
            let mut request = [0; 4_096];
            while let Ok(1..) = client.read(&mut request).await {
                let mut reply = "HTTP/1.1 503 S\r\nContent-Length: 0\r\n\r\n".to_owned();
                if request.starts_with(b"POST") {
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: \
                        application/json\r\nContent-Length: 900\r\nX: ";
                    let stored = r#"{"message":"payment processed successfully"}"#;
                    let rest = format!("\r\n\r\n{stored:<900}");
                    let filled = "x".repeat(bytes - head.len() - rest.len());
                    let more = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
                    reply = format!("{head}{filled}{rest}{more}");
                }
                if client.write_all(reply.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn what_follows_a_reply_by_tls_is_not_taken_for_the_next() {
    let authority = Authority::new();
    // As much as is read at once, a little less, and a little more: the rest is where the last read
    // left it.
    for bytes in 1_020..=1_028 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let plain = listener.local_addr().expect("an address").to_string();
        tokio::spawn(say_too_much(listener, bytes));
        let port = encrypted(&authority, "localhost", &plain).await;
        let settings = default_at(&format!("https://localhost:{port}"));
        let pem = std::fs::read_to_string(authority.file()).expect("a file");
        let authorities = pem.parse().expect("an authority");
        let timeout = Duration::from_secs(5);
        let client = ProcessorClient::new(&settings, timeout, &resolver(), Some(&authorities));
        let (client, claim) = (client.expect("a client"), new_claim());
        let reply = client
            .post(&claim, None, OVERDUE_AFTER, pending::<()>)
            .await
            .reply;
        // It may be the answer to something else, and so may what comes next.
        assert!(
            matches!(reply, Reply::Undocumented { code: 200, .. }),
            "{bytes}: {reply:?}"
        );
        let lookup = client.lookup(claim.payment.correlation_id).await;
        assert!(matches!(lookup, Lookup::NoAnswer(_)), "{bytes}: {lookup:?}");
    }
}

/// Gives a server a certificate, and a role that gets in with a password and by TLS only.
pub async fn encrypt(server: &Server, authority: &Authority, host: &str) {
    let (certificate, key) = authority.issue(host);
    let folder = authority.folder.path();
    let write = |name: &str, text: String| -> String {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        let path = path.display().to_string();
        Command::new("chmod")
            .args(["600", &path])
            .status()
            .expect("chmod runs");
        if std::fs::metadata(folder).expect("a folder").uid() == 0 {
            Command::new("chown")
                .args(["postgres", &path])
                .status()
                .expect("chown runs");
        }
        path
    };
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("ours");
    let file = format!("{host}.pem");
    let (certificate, key) = (
        write(&file, certificate.pem()),
        write(&format!("{file}.key"), key.serialize_pem()),
    );
    let mut connection = PgConnection::connect(&server.url())
        .await
        .expect("a connection");
    for statement in [
        format!("ALTER SYSTEM SET ssl_cert_file = '{certificate}'"),
        format!("ALTER SYSTEM SET ssl_key_file = '{key}'"),
        "ALTER SYSTEM SET ssl = on".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        let statement = sqlx::AssertSqlSafe(statement);
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .expect("it is set");
    }
}

#[tokio::test]
async fn postgresql_is_trusted_only_if_our_authority_vouches_for_its_name() {
    let port = free_port();
    let server = Server::start_on(port).await;
    let admin = Database::at(&server.url());
    admin
        .execute("CREATE ROLE by_tls SUPERUSER LOGIN PASSWORD 'of-a-test'")
        .await;
    let (ours, other) = (Authority::new(), Authority::new());
    let password = ours.folder.path().join("password");
    std::fs::write(&password, "of-a-test\n").expect("a file");
    let password = password.display().to_string();
    let url = |authority: &Authority| {
        let ca = authority.file().replace('/', "%2F");
        format!("postgres://by_tls@localhost:{port}/postgres?sslmode=verify-full&sslrootcert={ca}")
    };
    let default = processor().await;
    let processors = format!("default,0.05,{}", default.url());
    let settings = [("DATABASE_PASSWORD_FILE", password.as_str())];

    // Another name, and another authority.
    for (host, trusts, expected) in [
        ("elsewhere.example", &ours, "not valid for name"),
        ("localhost", &other, "UnknownIssuer"),
    ] {
        encrypt(&server, &ours, host).await;
        let gateway = Gateway::spawn(&url(trusts), &processors, &settings);
        eventually(expected, async || gateway.log().contains(expected)).await;
        let told = gateway.log().matches("; trying again").count();
        assert_eq!(told, 1, "{}", gateway.log());
        gateway.refuses().await;
    }

    let gateway = Gateway::spawn(&url(&ours), &processors, &settings);
    gateway.until_ready().await;
    gateway.until_settled(&gateway.post_many(5).await).await;
    let encrypted =
        "pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'by_tls' AND NOT ssl";
    assert_eq!(admin.count(encrypted).await, 0);
    assert!(admin.count("pg_stat_ssl WHERE ssl").await > 0);
}

pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
