//! What runs: PostgreSQL, two processors, two instances and nginx, all processes.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use nix::sys::signal::Signal;
use payment_proxy::config::QueueDurability;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::cluster::Cluster;
use super::process::Process;
use super::processor::{Behaviour, Processor, Totals};
use super::timeline::Timeline;
use super::{Setup, pooler, simulator};

/// How long anything has to be ready after its start.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long an instance has to stop after SIGTERM; it promises 10 s, and a busy machine may add to
/// that.
pub const INSTANCE_STOP: Duration = Duration::from_secs(15);
/// How long processors and nginx have to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// The time between two looks whether something is ready.
pub const POLL: Duration = Duration::from_millis(50);
/// How long an instance may take to say whether it is ready.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// How long a look for the line of progress may take.
const OBSERVE_LIMIT: Duration = Duration::from_millis(700);
/// Lines of a command that are quoted.
const SAID_LINES: usize = 40;
/// How often a port is chosen anew that another program has taken meanwhile.
const PORT_ATTEMPTS: usize = 10;

/// The instances, as `nginx.conf` calls them.
const INSTANCES: [&str; 2] = ["api1", "api2"];
/// The processors with their fees.
pub const PROCESSORS: [(&str, &str); 2] = [("default", "0.05"), ("fallback", "0.15")];
/// What operators say.
pub const OPERATOR_TOKEN: &str = "an-operator-of-this-deployment";
/// What a dump consists of.
const TABLES: [&str; 3] = ["payment_queue", "payment_processed", "payment_dead_letter"];

/// All files of a deployment; gone at its end unless they are kept.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Folder {
    /// A new one, where the users of PostgreSQL and nginx reach their sockets.
    pub fn create() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("payment-proxy.")
            .tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
        let folder = Self(folder);
        fs::create_dir(folder.logs())?;
        fs::create_dir(folder.journals())?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where logs, dumps and the timeline are.
    pub fn logs(&self) -> PathBuf {
        self.path().join("logs")
    }

    fn journals(&self) -> PathBuf {
        self.path().join("journals")
    }

    /// Copies what helps to understand a failure into a new folder of `reports`, called `name`.
    pub fn keep(&self, reports: &Path, name: &str, report: &str) -> anyhow::Result<PathBuf> {
        let time = chrono::Utc::now().format("%Y%m%dT%H%M%S%.3fZ");
        let kept = reports.join(format!("{name}-{time}"));
        for part in [self.logs(), self.journals()] {
            let to = kept.join(part.file_name().context("a named folder")?);
            fs::create_dir_all(&to)?;
            for file in fs::read_dir(part)? {
                let file = file?;
                fs::copy(file.path(), to.join(file.file_name()))?;
            }
        }
        fs::write(kept.join("report.txt"), report)?;
        Ok(kept)
    }
}

/// The deployment.
#[derive(Debug)]
pub struct Stack {
    pub cluster: Mutex<Cluster>,
    pub instances: [Mutex<Process>; 2],
    pub processors: [Processor; 2],
    pub timeline: Arc<Timeline>,
    /// The processes of the processors.
    pub simulators: [Mutex<Process>; 2],
    pub nginx: Mutex<Process>,
    /// What is between the instances and the database, where the setup has it.
    pub pooler: Option<Mutex<Process>>,
    url: Url,
    sockets: [PathBuf; 2],
    /// Where the instances listen for operators.
    operators: [PathBuf; 2],
    /// Clients of the instances' sockets, for their probes.
    probes: [Client; 2],
    database_url: String,
    owner_url: String,
    dump: PathBuf,
    binary: PathBuf,
    environment: Vec<(String, String)>,
    /// `PROCESSORS` with the URL of each at the other's name.
    swapped: String,
    http: Client,
    settled: AtomicI64,
    broken: StdMutex<Option<String>>,
}

/// What `GET /payments-summary` answers.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub default: Totals,
    pub fallback: Totals,
}

impl Stack {
    /// Starts everything and waits until it is ready.
    pub async fn start(
        setup: &Setup,
        folder: &Folder,
        timeline: Arc<Timeline>,
    ) -> anyhow::Result<Self> {
        let (path, logs) = (folder.path(), folder.logs());
        let cluster = Cluster::create(setup, path, &logs).await?;
        let (default, one) = start_processor(setup, folder, PROCESSORS[0]).await?;
        let (fallback, other) = start_processor(setup, folder, PROCESSORS[1]).await?;
        let processors = [default, fallback];
        let sockets = INSTANCES.map(|name| path.join(format!("{name}.sock")));
        let operators = INSTANCES.map(|name| path.join(format!("{name}.operators")));
        let mut environment = environment(setup, &cluster, &processors);
        let mut pooler = None;
        if setup.pooled {
            let (mut process, url) = pooler::prepare(&cluster, path, &logs)?;
            process.start()?;
            pooler = Some(Mutex::new(process));
            environment.insert(0, ("DATABASE_URL".to_owned(), url));
            let direct = cluster.service_url("payments");
            environment.push(("DIRECT_DATABASE_URL".to_owned(), direct));
            environment.dedup_by(|later, first| later.0 == first.0);
        }
        let instance_logs = setup.instance_logs.as_ref().unwrap_or(&logs);
        let instances = [0, 1].map(|index| {
            let mut environment = environment.clone();
            let listen = |path: &Path| format!("unix:{}", path.display());
            environment.push(("LISTEN".to_owned(), listen(&sockets[index])));
            environment.push(("OPERATOR_LISTEN".to_owned(), listen(&operators[index])));
            let mut program = Vec::new();
            if let Some(files) = setup.most_files {
                let limit = format!("--nofile={files}:{files}");
                program.extend(["prlimit".to_owned(), limit, "--".to_owned()]);
            }
            program.extend([setup.binary.display().to_string(), "serve".to_owned()]);
            // SIGKILL, because an instance that is stopped does not hear anything else.
            let end = Signal::SIGKILL;
            let name = INSTANCES[index];
            Mutex::new(Process::new(name, instance_logs, end, program, environment))
        });
        // As in production: the instances' own role may not change the tables.
        let owner = cluster.url("payment_proxy_owner", "payments");
        let migrated = tokio::process::Command::new(&setup.binary)
            .arg("migrate")
            .envs(environment.iter().cloned())
            .env("MIGRATE_DATABASE_URL", &owner)
            .output()
            .await?;
        let said = [migrated.stdout, migrated.stderr].concat();
        fs::write(logs.join("migrate.log"), &said)?;
        anyhow::ensure!(
            migrated.status.success(),
            "the migrations are refused: {}",
            String::from_utf8_lossy(&said)
        );
        for instance in &instances {
            instance.lock().await.start()?;
        }
        let (nginx, port) = start_nginx(path, &logs).await?;
        let [one_probe, other_probe] = sockets.clone().map(|socket| {
            let client = payment_proxy::config::tls::plain().unix_socket(socket);
            client.timeout(PROBE_LIMIT).build()
        });
        let [default, fallback] = &processors;
        let stack = Self {
            probes: [one_probe?, other_probe?],
            swapped: configured([fallback, default]),
            database_url: cluster.url("postgres", "payments"),
            owner_url: owner,
            dump: path.join("dump"),
            cluster: Mutex::new(cluster),
            binary: setup.binary.clone(),
            environment,
            instances,
            processors,
            timeline,
            simulators: [one, other].map(Mutex::new),
            nginx: Mutex::new(nginx),
            pooler,
            operators,
            url: format!("http://127.0.0.1:{port}").parse()?,
            sockets,
            http: payment_proxy::config::tls::plain()
                .timeout(READY_LIMIT)
                .build()?,
            settled: AtomicI64::new(0),
            broken: StdMutex::default(),
        };
        stack.until_ready().await?;
        Ok(stack)
    }

    /// Where nginx listens.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Where the instances listen.
    pub fn sockets(&self) -> &[PathBuf; 2] {
        &self.sockets
    }

    /// Where the instances listen for operators, who say [`OPERATOR_TOKEN`].
    pub fn operators(&self) -> &[PathBuf; 2] {
        &self.operators
    }

    /// The URL of the database for the role that owns the tables.
    pub fn owner_url(&self) -> &str {
        &self.owner_url
    }

    /// Payments in the ledger, by the last summary that was got.
    pub fn settled(&self) -> i64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Says that the round cannot go on.
    pub fn break_off(&self, error: &anyhow::Error) {
        let mut broken = self.broken.lock().expect("no code panics under this lock");
        broken.get_or_insert(format!("{error:#}"));
    }

    /// Why the round cannot go on, if it cannot.
    pub fn broken(&self) -> Option<String> {
        let broken = self.broken.lock().expect("no code panics under this lock");
        broken.clone()
    }

    /// Reads what the line of progress shows. What does not answer is left out.
    pub async fn observe(&self) {
        let _ = tokio::time::timeout(OBSERVE_LIMIT, async {
            let summary = async {
                if let Ok(summary) = self.summary(None).await {
                    let settled = summary.default.total_requests + summary.fallback.total_requests;
                    self.settled.store(settled, Ordering::Relaxed);
                }
            };
            let [default, fallback] = &self.processors;
            tokio::join!(summary, default.observe(), fallback.observe());
        })
        .await;
    }

    /// What the API says was settled.
    pub async fn summary(&self, range: Option<&str>) -> anyhow::Result<Summary> {
        let mut url = self.url.join("/payments-summary")?;
        url.set_query(range);
        let reply = self.http.get(url).send().await?.error_for_status()?;
        Ok(serde_json::from_str(&reply.text().await?)?)
    }

    /// A connection to the database, as its superuser.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.database_url).await?)
    }

    /// `PROCESSORS` with the URL of each processor at the other's name.
    pub fn swapped_processors(&self) -> &str {
        &self.swapped
    }

    /// Waits until an instance that serves has written its next heartbeat.
    pub async fn until_heartbeat(&self) -> anyhow::Result<()> {
        let begun_at = Instant::now();
        let mut since = None;
        loop {
            // The server may be recovering.
            if let Ok((now, Some(seen_at))) = self.last_heartbeat().await
                && seen_at > *since.get_or_insert(now)
            {
                return Ok(());
            }
            anyhow::ensure!(
                begun_at.elapsed() < READY_LIMIT,
                "not within {READY_LIMIT:?}: a heartbeat"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// The time of the database, and when the last heartbeat was written of an instance that
    /// serves. One that ended before the clock was set back has its last in the future, and does
    /// not count.
    async fn last_heartbeat(&self) -> anyhow::Result<(DateTime<Utc>, Option<DateTime<Utc>>)> {
        let mut connection = self.connect().await?;
        let read = sqlx::query_as(
            "SELECT now(), max(seen_at) FILTER (WHERE seen_at <= now())
            FROM service_instance WHERE held IS NULL",
        )
        .fetch_one(&mut connection)
        .await?;
        connection.close().await?;
        Ok(read)
    }

    /// Those payments that are in no table.
    pub(crate) async fn lacks(&self, ids: &[Uuid]) -> anyhow::Result<Vec<Uuid>> {
        let mut connection = self.connect().await?;
        let lacking = sqlx::query_scalar(
            "SELECT id FROM unnest($1) AS posted (id) WHERE NOT EXISTS (
                SELECT FROM payment_queue q WHERE q.correlation_id = posted.id
                UNION ALL
                SELECT FROM payment_processed p WHERE p.correlation_id = posted.id
                UNION ALL
                SELECT FROM payment_dead_letter d WHERE d.correlation_id = posted.id
            )",
        )
        .bind(ids)
        .fetch_all(&mut connection)
        .await?;
        connection.close().await?;
        Ok(lacking)
    }

    /// Payments that are not settled.
    pub async fn queued(&self) -> anyhow::Result<i64> {
        self.number("SELECT count(*) FROM payment_queue").await
    }

    async fn number(&self, query: &str) -> anyhow::Result<i64> {
        let mut connection = self.connect().await?;
        let number = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(number)
    }

    /// Starts an instance again that has ended though nobody told it to, and complains.
    pub fn revive(&self, instance: &mut Process) -> anyhow::Result<()> {
        if let Some(status) = instance.ended_by_itself() {
            let name = instance.name();
            self.timeline
                .complain(format!("{name} ended by itself: {status}"));
            instance.start()?;
        }
        Ok(())
    }

    /// Ends all faults, and waits until everything runs again.
    pub async fn heal(&self) -> anyhow::Result<()> {
        if let Some(error) = self.broken() {
            anyhow::bail!(error);
        }
        for processor in &self.processors {
            processor.behave(&Behaviour::default()).await?;
            processor.observe().await;
        }
        let mut cluster = self.cluster.lock().await;
        if let Some(status) = cluster.ended_by_itself() {
            anyhow::bail!("PostgreSQL ended by itself: {status}");
        }
        cluster.set_clock(0)?;
        drop(cluster);
        for instance in &self.instances {
            self.revive(&mut *instance.lock().await)?;
        }
        self.until_ready().await
    }

    /// What an instance answers when it is asked whether it is ready, if it does.
    pub async fn readiness(&self, index: usize) -> Option<(StatusCode, String)> {
        let request = self.probes[index].get("http://instance/readyz");
        let reply = request.send().await.ok()?;
        Some((reply.status(), reply.text().await.ok()?))
    }

    /// Where a dump of the database goes.
    pub fn dump(&self) -> &Path {
        &self.dump
    }

    /// Runs a command of operators, which has to succeed.
    async fn operate(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let done = self.command(arguments).await?;
        anyhow::ensure!(done.status.success(), "{arguments:?}: {}", said(&done));
        Ok(())
    }

    /// Says what the database is.
    pub async fn declare(&self, word: &str) -> anyhow::Result<()> {
        self.operate(&["deployment", "declare", word, "--reason", "torture"])
            .await
    }

    /// How often a crash of the server has emptied the queue, as the service reports it.
    pub(crate) async fn emptied_queues(&self) -> anyhow::Result<i64> {
        self.number("SELECT count(*) FROM payment_queue_emptied")
            .await
    }

    /// Says that what an emptied queue lost is seen to.
    pub(crate) async fn acknowledge(&self) -> anyhow::Result<()> {
        self.operate(&["deployment", "acknowledge", "--reason", "torture"])
            .await
    }

    /// How many payments each processor has.
    pub async fn charges(&self) -> anyhow::Result<[usize; 2]> {
        let [one, other] = &self.processors;
        Ok([one.stored().await?.len(), other.stored().await?.len()])
    }

    /// Records what processors have charged beyond the first so many payments of each, where the
    /// ledger lacks it.
    pub async fn record_charges_after(&self, counts: [usize; 2]) -> anyhow::Result<()> {
        let mut ids = String::new();
        for (processor, count) in self.processors.iter().zip(counts) {
            let stored = processor.stored().await?;
            ids.extend(
                stored[count..]
                    .iter()
                    .map(|one| format!("{}\n", one.correlation_id)),
            );
        }
        // A list without any is an error.
        if ids.is_empty() {
            return Ok(());
        }
        let file = self.dump.with_extension("ids");
        fs::write(&file, ids)?;
        let file = file.display().to_string();
        let begun_at = Instant::now();
        loop {
            // What a worker holds at that moment is not known, and asked for once more.
            let command = ["reconcile", "--repair", "--rate", "10000", "--ids", &file];
            match self.operate(&command).await {
                Err(_) if begun_at.elapsed() < READY_LIMIT => tokio::time::sleep(POLL).await,
                done => return done,
            }
        }
    }

    /// Waits until all that is in the queue now is settled.
    pub async fn until_settled_so_far(&self, within: Duration) -> anyhow::Result<()> {
        let newest = "SELECT coalesce(max(id), 0) FROM payment_queue";
        let newest = self.number(newest).await?;
        let left = format!("SELECT count(*) FROM payment_queue WHERE id <= {newest}");
        let begun_at = Instant::now();
        loop {
            let left = self.number(&left).await?;
            if left == 0 {
                return Ok(());
            }
            anyhow::ensure!(
                begun_at.elapsed() < within,
                "{left} are not settled within {within:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until both instances are ready, and nginx passes requests on.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        for (index, name) in INSTANCES.iter().enumerate() {
            until(&format!("{name} is ready"), async || {
                let readiness = self.readiness(index).await;
                readiness.is_some_and(|(status, _)| status.is_success())
            })
            .await?;
        }
        until("nginx passes requests on", async || {
            self.summary(None).await.is_ok()
        })
        .await
    }

    /// Runs a command of `payment-proxy`, as an operator with all rights would.
    pub async fn command(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let operators = format!("unix:{}", self.operators[0].display());
        let done = tokio::process::Command::new(&self.binary)
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .env("MIGRATE_DATABASE_URL", &self.owner_url)
            .env("OPERATOR_LISTEN", operators)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        Ok(done.await?)
    }

    /// What `payment-proxy reconcile` finds wrong; nothing if it finds ledger and processors equal.
    pub async fn reconcile(&self) -> anyhow::Result<Option<String>> {
        let command = ["reconcile", "--token", "123", "--rate", "10000"];
        let done = self.command(&command).await?;
        if done.status.success() {
            return Ok(None);
        }
        Ok(Some(format!("reconcile: {}", said(&done))))
    }

    /// Writes the tables down. After a failure anything may be broken, so it does what it can.
    pub async fn dump_tables(&self, folder: &Folder) {
        let cluster = self.cluster.lock().await;
        for table in TABLES {
            let file = folder.logs().join(format!("{table}.csv"));
            if let Err(error) = cluster.dump(table, &file).await {
                self.timeline
                    .note("no dump", &format!("{table}: {error:#}"));
            }
        }
    }

    /// Stops everything, in the order of `make run`.
    pub async fn stop(&self) {
        let mut nginx = self.nginx.lock().await;
        nginx.signal(Signal::SIGCONT);
        nginx.stop(Signal::SIGTERM, STOP_LIMIT).await;
        for instance in &self.instances {
            let mut instance = instance.lock().await;
            instance.signal(Signal::SIGCONT);
            instance.stop(Signal::SIGTERM, INSTANCE_STOP).await;
        }
        for simulator in &self.simulators {
            let mut simulator = simulator.lock().await;
            simulator.signal(Signal::SIGCONT);
            simulator.stop(Signal::SIGTERM, STOP_LIMIT).await;
        }
        if let Some(pooler) = &self.pooler {
            pooler.lock().await.stop(Signal::SIGINT, STOP_LIMIT).await;
        }
        if let Err(error) = self.cluster.lock().await.stop().await {
            self.timeline.note("stop", &format!("{error:#}"));
        }
    }
}

fn environment(
    setup: &Setup,
    cluster: &Cluster,
    processors: &[Processor; 2],
) -> Vec<(String, String)> {
    let durability = match setup.durability {
        QueueDurability::Unlogged => "unlogged",
        QueueDurability::Logged => "logged",
    };
    let millis = |time: Duration| time.as_millis().to_string();
    [
        ("DATABASE_URL", cluster.service_url("payments")),
        ("PROCESSORS", configured(processors.each_ref())),
        ("QUEUE_DURABILITY", durability.to_owned()),
        ("PROCESSOR_TIMEOUT_MS", millis(setup.processor_timeout)),
        ("LATE_CHARGE_MS", millis(setup.late_charge)),
        ("ALLOW_PURGE", "false".to_owned()),
        ("OPERATOR_TOKEN", OPERATOR_TOKEN.to_owned()),
    ]
    .into_iter()
    .chain(
        setup
            .settings
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned())),
    )
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// `PROCESSORS` where the first name is that of the first of these, and so on.
fn configured(processors: [&Processor; 2]) -> String {
    let configured = PROCESSORS
        .iter()
        .zip(processors)
        .map(|((name, fee), processor)| format!("{name},{fee},{}", processor.url()));
    configured.collect::<Vec<_>>().join(" ")
}

/// How a command ended, and the first lines of what it said.
fn said(done: &Output) -> String {
    let text = [&done.stdout[..], &done.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().take(SAID_LINES).collect();
    format!("{}: {}", done.status, lines.join("; "))
}

/// Starts a simulated processor, and waits until it answers.
pub async fn start_processor(
    setup: &Setup,
    folder: &Folder,
    (name, fee): (&'static str, &str),
) -> anyhow::Result<(Processor, Process)> {
    let program = simulator(&setup.binary)?.display().to_string();
    for _ in 0..PORT_ATTEMPTS {
        let port = free_port()?;
        let journal = folder.journals().join(name).display().to_string();
        let command = [
            program.clone(),
            format!("--listen=127.0.0.1:{port}"),
            format!("--fee={fee}"),
            format!("--seed={}", setup.seed),
            format!("--journal={journal}"),
        ];
        let end = Signal::SIGKILL;
        let mut process = Process::new(name, &folder.logs(), end, command.into(), Vec::new());
        process.start()?;
        let processor = Processor::new(name, port)?;
        if until_answers(&mut process, async || processor.summary(None).await.is_ok()).await? {
            return Ok((processor, process));
        }
    }
    anyhow::bail!("{name} does not start, see its log")
}

async fn start_nginx(folder: &Path, logs: &Path) -> anyhow::Result<(Process, u16)> {
    let root = crate::repository();
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    for _ in 0..PORT_ATTEMPTS {
        let port = free_port()?;
        let derived = tokio::process::Command::new(root.join("scripts/nginx-config.sh"))
            .arg(port.to_string())
            .arg(folder)
            .output()
            .await?;
        anyhow::ensure!(
            derived.status.success(),
            "nginx-config.sh: {}",
            String::from_utf8_lossy(&derived.stderr)
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, derived.stdout)?;
        let (folder, file) = (folder.display().to_string(), file.display().to_string());
        let program = ["nginx", "-e", "stderr", "-p", &folder, "-c", &file];
        let mut program = program.map(str::to_owned).to_vec();
        program.extend(["-g", "daemon off;"].map(str::to_owned));
        let environment = vec![("PATH".to_owned(), path.clone())];
        // Not SIGKILL, which would leave nginx's worker behind.
        let mut process = Process::new("nginx", logs, Signal::SIGTERM, program, environment);
        process.start()?;
        let url = format!("http://127.0.0.1:{port}/");
        if until_answers(&mut process, async || {
            payment_proxy::config::tls::plain()
                .build()
                .expect("a client")
                .get(&url)
                .send()
                .await
                .is_ok()
        })
        .await?
        {
            return Ok((process, port));
        }
    }
    anyhow::bail!("nginx does not start, see its log")
}

/// False when the process has ended instead: another program may have taken its port.
async fn until_answers(
    process: &mut Process,
    mut answers: impl AsyncFnMut() -> bool,
) -> anyhow::Result<bool> {
    let name = process.name();
    let mut ended = false;
    until(&format!("{name} answers"), async || {
        ended = process.ended_by_itself().is_some();
        ended || answers().await
    })
    .await?;
    Ok(!ended)
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let begun_at = Instant::now();
    while !check().await {
        anyhow::ensure!(
            begun_at.elapsed() < READY_LIMIT,
            "not within {READY_LIMIT:?}: {what}"
        );
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
