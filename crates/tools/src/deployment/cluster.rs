//! The PostgreSQL cluster of a deployment, with the durability of production, to be crashed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::Setup;
use super::process::{Process, children, cpu_time, lives};

/// How long a server has to start, a recovery from a crash included.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a server has to stop cleanly.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The time between two looks whether something has happened.
const POLL: Duration = Duration::from_millis(50);
/// A name in a folder of our own, so it is never taken.
const SOCKET_PORT: u16 = 5432;
/// The role of the instances.
pub(super) const SERVICE: &str = "payment_proxy";
/// The passwords of all roles.
pub const PASSWORD: &str = "torture";
/// The line that makes a password matter over the socket. Not scram, whose client would hash for
/// most of the time in a build without optimisation; a wrong password is refused with the same
/// SQLSTATE.
const SERVICE_NEEDS_PASSWORD: &str = "local all payment_proxy password\n";

/// Where a server is reached that is not ours to start, over TCP.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

/// A cluster and its server.
#[derive(Debug)]
pub struct Cluster {
    process: Process,
    /// The folder of the socket; or the address of a server that is not ours to start.
    host: String,
    port: u16,
    /// What a role needs a password for besides the service's: TCP.
    over_tcp: bool,
    /// What its clock differs by from the machine's stands there, if it can be set.
    clock_file: Option<PathBuf>,
}

impl Cluster {
    /// Makes a cluster in that folder, and starts it; or prepares the one that the setup names.
    pub async fn create(setup: &Setup, folder: &Path, logs: &Path) -> anyhow::Result<Self> {
        if let Some(Endpoint { host, port }) = setup.database.clone() {
            let cluster = Self {
                process: Process::new("postgres", logs, Signal::SIGINT, Vec::new(), Vec::new()),
                host,
                port,
                over_tcp: true,
                clock_file: None,
            };
            cluster.init().await?;
            return Ok(cluster);
        }
        let sockets = folder.join("postgres");
        std::fs::create_dir(&sockets)?;
        let sockets = sockets.display().to_string();
        let data = setup.data.clone().unwrap_or_else(|| folder.join("data"));
        let mut arguments = vec![
            script(),
            "run".into(),
            data.display().to_string(),
            sockets.clone(),
            SOCKET_PORT.to_string(),
        ];
        arguments.extend(setup.server_settings.iter().cloned());
        let mut environment = vec![("STOP_WITH_PARENT".to_owned(), "yes".to_owned())];
        if let Some(wal) = &setup.wal {
            environment.push(("WAL_FOLDER".to_owned(), wal.display().to_string()));
        }
        let clock_file = setup.clock_can_be_set.then(|| folder.join("clock"));
        if let Some(file) = &clock_file {
            environment.push(("CLOCK_FILE".to_owned(), file.display().to_string()));
        }
        let mut cluster = Self {
            process: Process::new("postgres", logs, Signal::SIGINT, arguments, environment),
            host: sockets,
            port: SOCKET_PORT,
            over_tcp: false,
            clock_file,
        };
        cluster.set_clock(0)?;
        cluster.start().await?;
        cluster.init().await?;
        let rules = data.join("pg_hba.conf");
        let others = fs::read_to_string(&rules)?;
        fs::write(&rules, SERVICE_NEEDS_PASSWORD.to_owned() + &others)?;
        cluster.execute("SELECT pg_reload_conf()").await?;
        Ok(cluster)
    }

    /// Makes roles and database.
    async fn init(&self) -> anyhow::Result<()> {
        let file = crate::repository().join("init.sql");
        let file = file.to_str().context("a path of text")?;
        let arguments = [
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--file",
            file,
        ];
        self.tool_on("postgres", "psql", &arguments).await
    }

    /// The URL for that user and database.
    pub fn url(&self, user: &str, database: &str) -> String {
        let password = if self.over_tcp && !user.contains(':') {
            format!(":{PASSWORD}")
        } else {
            String::new()
        };
        let (host, port) = (self.host.replace('/', "%2F"), self.port);
        format!("postgres://{user}{password}@{host}:{port}/{database}")
    }

    /// The folder of its socket, or the name of its machine, and the port.
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The URL of the instances for that database.
    pub fn service_url(&self, database: &str) -> String {
        self.url(&format!("{SERVICE}:{PASSWORD}"), database)
    }

    /// Sets the clock, which is then so many seconds ahead of the machine's, or behind it.
    pub fn set_clock(&self, seconds: i64) -> anyhow::Result<()> {
        let Some(file) = &self.clock_file else {
            return Ok(());
        };
        // The server reads it at any moment, as its own user, and must not find half of it.
        let written = file.with_extension("written");
        fs::write(&written, format!("{seconds:+}\n"))?;
        fs::set_permissions(&written, fs::Permissions::from_mode(0o644))?;
        Ok(fs::rename(written, file)?)
    }

    /// Gives the role of the instances another password, which nobody told them, and ends its
    /// connections.
    pub async fn change_password(&self) -> anyhow::Result<()> {
        self.execute(&format!("ALTER ROLE {SERVICE} PASSWORD 'another'"))
            .await?;
        self.end_connections().await
    }

    /// Gives the role of the instances its password back.
    pub async fn restore_password(&self) -> anyhow::Result<()> {
        self.execute(&format!("ALTER ROLE {SERVICE} PASSWORD '{PASSWORD}'"))
            .await
    }

    /// Ends all connections of the instances.
    pub async fn end_connections(&self) -> anyhow::Result<()> {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ";
        self.execute(&format!("{end}'{SERVICE}'")).await
    }

    /// Runs a program of PostgreSQL as its superuser, on the database of the payments.
    pub async fn tool(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        self.tool_on("payments", program, arguments).await
    }

    /// The same on another database.
    pub async fn tool_on(
        &self,
        database: &str,
        program: &str,
        arguments: &[&str],
    ) -> anyhow::Result<()> {
        let done = tokio::process::Command::new(Path::new(&programs()?).join(program))
            .args(["--host", &self.host, "--username=postgres"])
            .args(["--dbname", database])
            .args(arguments)
            .env("PGPORT", self.port.to_string())
            .env("PGPASSWORD", PASSWORD)
            .env("PAYMENT_PROXY_PASSWORD", PASSWORD)
            .env("PAYMENT_PROXY_OWNER_PASSWORD", PASSWORD)
            .env("AUDITOR_PASSWORD", PASSWORD)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&done.stderr);
        anyhow::ensure!(done.status.success(), "{program}: {said}");
        Ok(())
    }

    /// As the superuser; again where it fails, because the server may be recovering.
    pub async fn execute(&self, statement: &str) -> anyhow::Result<()> {
        let begun_at = Instant::now();
        let url = self.url("postgres", "postgres");
        loop {
            let executed = async {
                let mut connection = PgConnection::connect(&url).await?;
                connection
                    .execute(AssertSqlSafe(statement.to_owned()))
                    .await?;
                connection.close().await
            };
            match executed.await {
                Err(_) if begun_at.elapsed() < START_LIMIT => tokio::time::sleep(POLL).await,
                executed => return Ok(executed?),
            }
        }
    }

    /// Writes a table as CSV.
    pub async fn dump(&self, table: &str, to: &Path) -> anyhow::Result<()> {
        let command = format!(
            "\\copy (SELECT * FROM {table} ORDER BY 1) TO '{}' CSV HEADER",
            to.display()
        );
        let arguments = ["--no-psqlrc", "--quiet", "--command", &command];
        self.tool("psql", &arguments).await
    }

    /// Writes all of the deployment's database into a file.
    pub async fn dump_database(&self, to: &Path) -> anyhow::Result<()> {
        let file = to.display().to_string();
        self.tool("pg_dump", &["--format=custom", "--file", &file])
            .await
    }

    /// Puts what is in such a file in the place of what is in the deployment's database.
    pub async fn restore_database(&self, from: &Path) -> anyhow::Result<()> {
        let file = from.display().to_string();
        let replace = ["--clean", "--if-exists", "--exit-on-error", &file];
        self.tool("pg_restore", &replace).await
    }

    /// Starts the server and waits until it answers.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        let begun_at = Instant::now();
        let url = self.url("postgres", "postgres");
        loop {
            if let Ok(connection) = PgConnection::connect(&url).await {
                let _ = connection.close().await;
                return Ok(());
            }
            if let Some(status) = self.process.ended_by_itself() {
                anyhow::bail!("PostgreSQL does not start: {status}, see postgres.log");
            }
            anyhow::ensure!(
                begun_at.elapsed() < START_LIMIT,
                "PostgreSQL takes longer than {START_LIMIT:?} to start"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops the server in order.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.process.stop(Signal::SIGINT, STOP_LIMIT).await,
            "PostgreSQL does not stop within {STOP_LIMIT:?}"
        );
        Ok(())
    }

    /// Kills the server with all its processes at once. Returns how many they were.
    pub async fn crash(&mut self) -> anyhow::Result<usize> {
        let all = self.freeze()?;
        for pid in &all {
            kill(*pid, Signal::SIGKILL).context("a process of PostgreSQL")?;
        }
        self.process.crash().await;
        let begun_at = Instant::now();
        while all.iter().any(|pid| lives(*pid)) {
            anyhow::ensure!(
                begun_at.elapsed() < STOP_LIMIT,
                "a killed process of PostgreSQL is still there"
            );
            tokio::time::sleep(POLL).await;
        }
        // What libfaketime removes at a server's end in order.
        for file in ["faketime_shm", "sem.faketime_sem"] {
            let _ = fs::remove_file(format!("/dev/shm/{file}_{}", all[0]));
        }
        Ok(all.len())
    }

    /// Kills one process of the server that serves a client, as the kernel does when memory is
    /// short; the server then ends all the others and recovers. False if there was none.
    pub fn crash_one(&self, choose: impl FnOnce(usize) -> usize) -> bool {
        let Some(server) = self.process.pid() else {
            return false;
        };
        let clients: Vec<Pid> = children(server)
            .into_iter()
            .filter(|pid| command_line(*pid).contains("payment_proxy"))
            .collect();
        if clients.is_empty() {
            return false;
        }
        kill(clients[choose(clients.len())], Signal::SIGKILL).is_ok()
    }

    /// Stops all processes of the server where they stand until they are told to go on.
    pub fn freeze(&self) -> anyhow::Result<Vec<Pid>> {
        self.process.freeze().context("PostgreSQL does not run")
    }

    /// The CPU time that the server has used since its start.
    pub fn cpu_time(&self) -> Duration {
        self.process.pid().map(cpu_time).unwrap_or_default()
    }

    /// Whether the server was started and has not been seen to end.
    pub fn runs(&self) -> bool {
        self.process.pid().is_some()
    }

    /// Whether the server has ended though nobody told it to.
    pub fn ended_by_itself(&mut self) -> Option<std::process::ExitStatus> {
        self.process.ended_by_itself()
    }
}

/// The setting without which a checkpoint writes a file of its own about what is replicated from
/// elsewhere, and stops the server where it cannot.
pub fn no_replication_origins() -> anyhow::Result<&'static str> {
    let program = Path::new(&programs()?).join("postgres");
    let told = std::process::Command::new(program)
        .arg("--version")
        .output()?;
    let told = String::from_utf8(told.stdout)?;
    let digits = told.split(|letter: char| !letter.is_ascii_digit());
    let major = digits.filter_map(|digits| digits.parse().ok()).next();
    Ok(match major.context("PostgreSQL tells its version")? {
        ..18 => "max_replication_slots=0",
        18_u32.. => "max_active_replication_origins=0",
    })
}

/// The folder of PostgreSQL's programs.
pub fn programs() -> anyhow::Result<String> {
    let folder = std::process::Command::new(script()).arg("bin").output()?;
    Ok(String::from_utf8(folder.stdout)?.trim().to_owned())
}

fn script() -> String {
    let script = crate::repository().join("scripts/postgres.sh");
    script.display().to_string()
}

/// What `ps` shows of it, which PostgreSQL sets to the user and the database that it serves.
fn command_line(pid: Pid) -> String {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
