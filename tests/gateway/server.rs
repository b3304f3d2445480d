//! PostgreSQL servers: one of a test's own, and the roles that an installation has.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{Database, eventually};

/// A PostgreSQL server of its own, which can be stopped and crashed.
pub struct Server {
    folder: TempDir,
    postgres: Option<Child>,
    settings: Vec<String>,
    port: u16,
    /// Whether its clock can be [set](Self::set_clock).
    clock_can_be_set: bool,
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres.sh");

impl Server {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// One with these settings, `name=value` each.
    pub async fn start_with(settings: &[&str]) -> Self {
        let mut server = Self::prepare(settings);
        server.run().await;
        server
    }

    /// One whose clock can be set while it runs.
    pub async fn start_with_own_clock() -> Self {
        let mut server = Self::prepare(&[]);
        server.clock_can_be_set = true;
        server.set_clock(0);
        server.run().await;
        server
    }

    /// Sets its clock, which is then so many seconds ahead of the machine's, or behind it.
    pub fn set_clock(&self, seconds: i64) {
        use std::os::unix::fs::PermissionsExt;
        let (file, written) = (self.clock_file(), self.folder.path().join("clock.written"));
        std::fs::write(&written, format!("{seconds:+}\n")).expect("a file");
        let all = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&written, all).expect("it is ours");
        std::fs::rename(written, file).expect("it is ours");
    }

    fn clock_file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// A standby of that server, which streams what it commits.
    pub async fn standby_of(primary: &Self) -> Self {
        let mut server = Self::prepare(&[]);
        let copied = Command::new(SCRIPT)
            .arg("standby")
            .arg(primary.folder.path().join("s"))
            .arg(primary.port.to_string())
            .arg(server.folder.path().join("d"))
            .stderr(Stdio::null())
            .status();
        assert!(copied.expect("the script runs").success());
        server.run().await;
        server
    }

    /// One that also listens on that port of this machine.
    pub async fn start_on(port: u16) -> Self {
        let mut server = Self::prepare(&["listen_addresses=127.0.0.1"]);
        server.port = port;
        server.run().await;
        server
    }

    fn prepare(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pp")
            .tempdir_in("/tmp")
            .expect("a folder");
        open_to_all(folder.path());
        std::fs::create_dir(folder.path().join("s")).expect("a folder for the socket");
        Self {
            folder,
            postgres: None,
            settings: settings
                .iter()
                .map(|setting| (*setting).to_owned())
                .collect(),
            port: 5432,
            clock_can_be_set: false,
        }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(format!("s/.s.PGSQL.{}", self.port))
    }

    pub fn url(&self) -> String {
        let socket = self
            .folder
            .path()
            .join("s")
            .display()
            .to_string()
            .replace('/', "%2F");
        format!("postgres://postgres@{socket}:{}/postgres", self.port)
    }

    /// Replaces who is let in and how, from the next reload on.
    pub fn allow(&self, rules: &str) {
        let file = self.folder.path().join("d/pg_hba.conf");
        std::fs::write(file, rules).expect("the rules are ours to write");
    }

    pub async fn run(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log file");
        let (data, socket) = (self.folder.path().join("d"), self.folder.path().join("s"));
        let mut command = Command::new(SCRIPT);
        if self.clock_can_be_set {
            command.env("CLOCK_FILE", self.clock_file());
        }
        let command = command
            .env("STOP_WITH_PARENT", "yes")
            .arg("run")
            .args([&data, &socket])
            .arg(self.port.to_string())
            .args(&self.settings)
            .stdin(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn();
        self.postgres = Some(command.expect("the server starts"));
        let database = Database::at(&self.url());
        eventually("the server answers", async || {
            sqlx::query("SELECT 1")
                .execute(&database.pool)
                .await
                .is_ok()
        })
        .await;
    }

    /// Ends every process of the server at once, as a power cut would.
    pub async fn crash(&mut self) {
        let mut postgres = self.postgres.take().expect("it runs");
        let pid = i32::try_from(postgres.id()).expect("a pid");
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .expect("its children");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
        for child in children.split_whitespace() {
            let _ = kill(
                Pid::from_raw(child.parse().expect("a pid")),
                Signal::SIGKILL,
            );
        }
        postgres.wait().expect("it ends");
    }

    /// Stops it as an administrator would.
    pub async fn stop(&mut self) {
        let mut postgres = self.postgres.take().expect("it runs");
        let pid = Pid::from_raw(i32::try_from(postgres.id()).expect("a pid"));
        kill(pid, Signal::SIGINT).expect("it is there");
        postgres.wait().expect("it ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut postgres) = self.postgres.take() {
            let _ = killpg(
                Pid::from_raw(i32::try_from(postgres.id()).expect("a pid")),
                Signal::SIGQUIT,
            );
            let _ = postgres.wait();
        }
    }
}

fn open_to_all(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).expect("it is ours");
}

/// The same database as another role.
pub fn connect_as(database: &Database, role: &str) -> Database {
    let name = database
        .url
        .replacen("//postgres@", &format!("//{role}@"), 1);
    assert_ne!(name, database.url, "the cluster's user is postgres");
    Database::at(&name)
}

/// The program `psql` of this machine.
pub fn psql() -> PathBuf {
    let bin = Command::new(SCRIPT)
        .arg("bin")
        .output()
        .expect("scripts/postgres.sh runs");
    Path::new(String::from_utf8_lossy(&bin.stdout).trim()).join("psql")
}

/// The service's password, with characters that mean something in URLs, shells, SQL and files of
/// settings.
pub const SERVICES_PASSWORD: &str = "/#?@:% it's a \"nasty\" \\ one $1 ü";

/// Runs init.sql, as an installation does, on a database of that name. The roles are those of the
/// cluster, so tests do it one after the other.
pub fn run_init_sql(database: &Database) {
    let name = database.url.rsplit('/').next().expect("a name");
    let cluster = std::env::var("TEST_DATABASE_URL").expect("a cluster");
    let said = init_sql(&cluster, name);
    assert!(said.is_ok(), "{said:?}");
}

/// Runs init.sql on a database of that name, as whom that URL says. Returns what it said, or why it
/// stopped.
pub fn init_sql(url: &str, name: &str) -> Result<String, String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut turn = std::fs::File::open(format!("{root}/init.sql")).expect("init.sql");
    turn.lock().expect("a lock");
    let init = std::io::read_to_string(&mut turn).expect("init.sql");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("init.sql");
    std::fs::write(&file, init.replace("payments", name)).expect("a file");
    let done = Command::new(psql())
        .args(["--no-psqlrc", "--quiet", "--file"])
        .arg(&file)
        .arg(url)
        .env("PAYMENT_PROXY_PASSWORD", SERVICES_PASSWORD)
        .envs([
            ("PAYMENT_PROXY_OWNER_PASSWORD", "test"),
            ("AUDITOR_PASSWORD", "test"),
        ])
        .output()
        .expect("psql runs");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if done.status.success() {
        Ok(said)
    } else {
        Err(said)
    }
}
