//! The processes: two clusters with two databases each, two processors, two instances.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use payment_proxy::config::QueueDurability;
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;

use super::load;
use crate::deployment::Setup;
use crate::deployment::cluster::{Cluster, PASSWORD};
use crate::deployment::process::{Process, cpu_time};
use crate::deployment::processor::Processor;
use crate::deployment::stack::{Folder, PROCESSORS, start_processor};

/// The database that is made first in each cluster, from which the others are made.
pub(super) const EMPTY: &str = "empty";
/// How long anything may take that has to happen.
const LIMIT: Duration = Duration::from_secs(60);
/// How long an instance has to end.
const STOP: Duration = Duration::from_secs(15);
/// The time between two looks whether it has happened.
const POLL: Duration = Duration::from_millis(50);

/// A database: in which cluster, and its name.
pub(crate) type Place = (usize, String);

/// What a deployment has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    /// CPU time of the database servers.
    pub(crate) databases: Duration,
    /// CPU time of the instances.
    pub(crate) instances: Duration,
    /// Transactions that the databases committed.
    pub(crate) commits: i64,
}

/// A deployment of several cells.
pub(crate) struct Site {
    folder: Folder,
    binary: PathBuf,
    clusters: Vec<Cluster>,
    /// Of each cell, where it is.
    pub(crate) places: Vec<Place>,
    instances: Vec<Process>,
    sockets: Vec<PathBuf>,
    pub(crate) processors: [Processor; 2],
    _simulators: [Process; 2],
}

impl Site {
    /// Starts all of it.
    pub(crate) async fn start(binary: PathBuf, cells: usize) -> anyhow::Result<Self> {
        let mut site = Self::prepare(binary, &["one", "two"], &[]).await?;
        let places = site.databases("cell", cells).await?;
        site.serve(places).await?;
        Ok(site)
    }

    /// Starts clusters with those settings, in which no database is a cell yet, and processors.
    pub(super) async fn prepare(
        binary: PathBuf,
        names: &[&str],
        settings: &[&str],
    ) -> anyhow::Result<Self> {
        let folder = Folder::create()?;
        let mut setup = Setup::plain(
            binary.clone(),
            QueueDurability::Logged,
            0,
            Duration::from_secs(5),
            Duration::from_secs(5),
        );
        setup.server_settings = settings.iter().map(ToString::to_string).collect();
        let mut clusters = Vec::new();
        for name in names {
            let own = folder.path().join(name);
            std::fs::create_dir(&own)?;
            std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o711))?;
            let logs = folder.logs().join(name);
            std::fs::create_dir(&logs)?;
            let cluster = Cluster::create(&setup, &own, &logs).await?;
            copy(&cluster, "payments", EMPTY).await?;
            clusters.push(cluster);
        }
        let (default, one) = start_processor(&setup, &folder, PROCESSORS[0]).await?;
        let (fallback, other) = start_processor(&setup, &folder, PROCESSORS[1]).await?;
        Ok(Self {
            binary,
            clusters,
            places: Vec::new(),
            instances: Vec::new(),
            sockets: ["api1", "api2"]
                .map(|name| folder.path().join(name))
                .to_vec(),
            processors: [default, fallback],
            _simulators: [one, other],
            folder,
        })
    }

    /// Its clusters.
    pub(super) fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// New databases, half of them in each cluster.
    pub(crate) async fn databases(&self, name: &str, count: usize) -> anyhow::Result<Vec<Place>> {
        let mut places = Vec::new();
        for number in 0..count {
            let (cluster, name) = (
                number * self.clusters.len() / count,
                format!("{name}{number}"),
            );
            copy(&self.clusters[cluster], EMPTY, &name).await?;
            places.push((cluster, name));
        }
        Ok(places)
    }

    /// The cells that are in a cluster.
    pub(crate) fn cells_in(&self, cluster: usize) -> Vec<usize> {
        let numbered = (1..).zip(&self.places);
        let there = numbered.filter(|(_, (its, _))| *its == cluster);
        there.map(|(cell, _)| cell).collect()
    }

    /// Makes those databases the cells of a deployment, and starts the instances there.
    pub(crate) async fn serve(&mut self, places: Vec<Place>) -> anyhow::Result<()> {
        self.places = places;
        self.operate(&["migrate"]).await?;
        self.instances = (self.sockets.iter().zip(["api1", "api2"]))
            .map(|(socket, name)| {
                let program = vec![self.binary.display().to_string(), "serve".to_owned()];
                let mut environment = self.environment();
                let listen = format!("unix:{}", socket.display());
                environment.push(("LISTEN".to_owned(), listen));
                let logs = self.folder.logs();
                Process::new(name, &logs, Signal::SIGKILL, program, environment)
            })
            .collect();
        for index in 0..self.instances.len() {
            self.start_instance(index).await?;
        }
        Ok(())
    }

    fn environment(&self) -> Vec<(String, String)> {
        let processors = PROCESSORS.iter().zip(&self.processors);
        let processors = processors.map(|((name, fee), it)| format!("{name},{fee},{}", it.url()));
        let role = |role: String| {
            let urls = self.places.iter();
            let urls = urls.map(|(cluster, name)| self.clusters[*cluster].url(&role, name));
            urls.collect::<Vec<_>>().join(",")
        };
        [
            ("DATABASE_URL", role(format!("payment_proxy:{PASSWORD}"))),
            (
                "MIGRATE_DATABASE_URL",
                role("payment_proxy_owner".to_owned()),
            ),
            ("PROCESSORS", processors.collect::<Vec<_>>().join(" ")),
            ("PROCESSOR_TOKEN", "123".to_owned()),
            ("QUEUE_DURABILITY", "logged".to_owned()),
            ("PROCESSOR_TIMEOUT_MS", "5000".to_owned()),
            ("LATE_CHARGE_MS", "5000".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Runs a command of operators. Returns what it printed.
    pub(crate) async fn operate(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let done = Command::new(&self.binary)
            .args(arguments)
            .envs(self.environment())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&done.stderr);
        anyhow::ensure!(
            done.status.success(),
            "{arguments:?}: {}: {said}",
            done.status
        );
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Starts an instance and waits until it takes all payments.
    async fn start_instance(&mut self, index: usize) -> anyhow::Result<()> {
        self.instances[index].start()?;
        self.until_ready_at(index).await
    }

    /// Waits until both instances take all payments.
    pub(crate) async fn until_ready(&self) -> anyhow::Result<()> {
        for index in 0..self.sockets.len() {
            self.until_ready_at(index).await?;
        }
        Ok(())
    }

    async fn until_ready_at(&self, index: usize) -> anyhow::Result<()> {
        let client = load::clients(&self.sockets[index..=index]).remove(0);
        let begun_at = Instant::now();
        loop {
            let reply = client.get("http://instance/readyz").send().await;
            if reply.is_ok_and(|reply| reply.status() == reqwest::StatusCode::NO_CONTENT) {
                return Ok(());
            }
            anyhow::ensure!(begun_at.elapsed() < LIMIT, "an instance is not ready");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Where the instances listen.
    pub(crate) fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// Kills a cluster with all its processes.
    pub(crate) async fn crash(&mut self, cluster: usize) -> anyhow::Result<()> {
        self.clusters[cluster].crash().await?;
        Ok(())
    }

    /// Starts it again.
    pub(crate) async fn restart(&mut self, cluster: usize) -> anyhow::Result<()> {
        self.clusters[cluster].start().await
    }

    /// What an instance says of whether it is ready.
    pub(crate) async fn readiness(&self) -> anyhow::Result<String> {
        let client = &load::clients(&self.sockets)[0];
        let reply = client.get("http://instance/readyz").send().await?;
        Ok(reply.text().await?)
    }

    /// The status with which a summary is answered.
    pub(crate) async fn summary_status(&self) -> anyhow::Result<u16> {
        let client = &load::clients(&self.sockets)[0];
        let reply = client
            .get("http://instance/payments-summary")
            .send()
            .await?;
        Ok(reply.status().as_u16())
    }

    /// A connection to the database of a cell, as the superuser.
    pub(crate) async fn connect(&self, cell: usize) -> anyhow::Result<PgConnection> {
        let (cluster, name) = &self.places[cell - 1];
        let url = self.clusters[*cluster].url("postgres", name);
        Ok(PgConnection::connect(&url).await?)
    }

    /// What the deployment has used so far.
    pub(crate) async fn used(&self) -> anyhow::Result<Used> {
        let mut commits = 0;
        for cell in 1..=self.places.len() {
            let mut connection = self.connect(cell).await?;
            let own: i64 = sqlx::query_scalar(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()",
            )
            .fetch_one(&mut connection)
            .await?;
            commits += own;
        }
        let instances = self.instances.iter().filter_map(Process::pid);
        Ok(Used {
            databases: self.clusters.iter().map(Cluster::cpu_time).sum(),
            instances: instances.map(cpu_time).sum(),
            commits,
        })
    }

    /// Moves a cell to the first cluster, as docs/scaling.md has it. Returns how long that took.
    pub(crate) async fn move_cell(&mut self, cell: usize) -> anyhow::Result<Duration> {
        let begun_at = Instant::now();
        let (from, old) = self.places[cell - 1].clone();
        let new = format!("{old}_moved");
        let cluster = &self.clusters[from];
        // Committed before the connections are ended: they would be made anew otherwise.
        let revoke = format!("REVOKE CONNECT ON DATABASE {old} FROM PUBLIC");
        cluster.execute(&revoke).await?;
        let ends = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = '{old}' AND usename = 'payment_proxy'"
        );
        cluster.execute(&ends).await?;
        self.until_nobody_writes(cell).await?;
        let dump = self.folder.path().join("dump");
        let file = dump.display().to_string();
        let dumps = ["--format=custom", "--file", &file];
        self.clusters[from].tool_on(&old, "pg_dump", &dumps).await?;
        copy(&self.clusters[0], EMPTY, &new).await?;
        let restores = ["--clean", "--if-exists", "--exit-on-error", &file];
        self.clusters[0]
            .tool_on(&new, "pg_restore", &restores)
            .await?;
        self.places[cell - 1] = (0, new);
        let number = cell.to_string();
        let declare = ["deployment", "declare", "moved", "--cell", &number];
        self.operate(&[&declare[..], &["--reason", "make cells"]].concat())
            .await?;
        for index in 0..self.instances.len() {
            let mut environment = self.environment();
            let listen = format!("unix:{}", self.sockets[index].display());
            environment.push(("LISTEN".to_owned(), listen));
            self.instances[index].stop(Signal::SIGTERM, STOP).await;
            self.instances[index].set_environment(environment);
            self.start_instance(index).await?;
        }
        Ok(begun_at.elapsed())
    }

    /// Waits until no connection of the service to the database of a cell is left.
    async fn until_nobody_writes(&self, cell: usize) -> anyhow::Result<()> {
        let mut connection = self.connect(cell).await?;
        let begun_at = Instant::now();
        loop {
            let left: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND usename = 'payment_proxy'",
            )
            .fetch_one(&mut connection)
            .await?;
            if left == 0 {
                return Ok(connection.close().await?);
            }
            anyhow::ensure!(begun_at.elapsed() < LIMIT, "{left} connections are left");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends the instances in order.
    pub(crate) async fn stop_instances(&mut self) {
        for instance in &mut self.instances {
            instance.stop(Signal::SIGTERM, STOP).await;
        }
    }

    /// Ends all of it in order.
    pub(crate) async fn stop(mut self) {
        self.stop_instances().await;
        for cluster in &mut self.clusters {
            if let Err(error) = cluster.stop().await {
                println!("{error:#}");
            }
        }
    }
}

/// Makes a database as another one is, to which nobody is connected.
pub(super) async fn copy(cluster: &Cluster, from: &str, to: &str) -> anyhow::Result<()> {
    let owner = "payment_proxy_owner";
    let create = format!("CREATE DATABASE {to} TEMPLATE {from} OWNER {owner}");
    cluster.execute(&create).await
}
