//! Three PostgreSQL under Patroni, etcd and HAProxy, each on a loopback address of its own, with
//! the files of `deploy/ha`: the database of a deployment that may not fail.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Client;
use serde::Deserialize;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::cluster::{Endpoint, PASSWORD, programs};
use super::process::{Process, children, lives, thaw};

/// The members, as Patroni and HAProxy call them.
pub const MEMBERS: [&str; 3] = ["postgres1", "postgres2", "postgres3"];
/// How long three members have to find a leader and to copy its data.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long a member, etcd or HAProxy has to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long a call of Patroni's API may take.
const API_LIMIT: Duration = Duration::from_secs(10);
/// The time between two looks at a member.
const POLL: Duration = Duration::from_millis(50);
/// How long a look at a member may take.
const LOOK_LIMIT: Duration = Duration::from_millis(300);
/// The ports of PostgreSQL and Patroni's API at the members, of PostgreSQL at HAProxy, and of etcd.
const POSTGRES: u16 = 5432;
const API: u16 = 8008;
const ETCD: u16 = 2379;
const ETCD_PEERS: u16 = 2380;
/// The last bytes of the addresses.
const ETCD_HOST: u8 = 1;
const FIRST_MEMBER: u8 = 11;
const HAPROXY_HOST: u8 = 20;

/// The cluster and what is around it.
#[derive(Debug)]
pub struct Replicas {
    members: [Mutex<Member>; 3],
    etcd: Mutex<Process>,
    haproxy: Mutex<Process>,
    network: u8,
    http: Client,
    leaders: Arc<StdMutex<Vec<Lead>>>,
    _watch: JoinSet<()>,
}

/// A machine with PostgreSQL and Patroni.
#[derive(Debug)]
struct Member {
    patroni: Process,
    data: PathBuf,
}

/// When a member was first seen to be the leader, after another had been.
#[derive(Debug, Clone, Copy)]
pub struct Lead {
    member: usize,
    /// It takes writes.
    pub promoted_at: Instant,
    /// A commit is confirmed, for which a standby has to have it, too.
    pub commits_at: Instant,
}

/// What Patroni's API says of the cluster.
#[derive(Debug, Deserialize)]
struct View {
    members: Vec<Seen>,
}

#[derive(Debug, Deserialize)]
struct Seen {
    name: String,
    role: String,
    state: String,
}

impl Replicas {
    /// Starts everything, and waits until a leader has a synchronous standby and another one.
    pub async fn start(folder: &Path, logs: &Path) -> anyhow::Result<Self> {
        let network = free_network().context("no free loopback addresses 127.77.*")?;
        let deploy = crate::repository().join("deploy/ha");
        let mut etcd = etcd(network, folder, logs);
        etcd.start()?;
        let members = [0, 1, 2].map(|index| member(index, network, folder, logs, &deploy));
        let [one, two, three] = members;
        let members = [one?, two?, three?].map(Mutex::new);
        let mut haproxy = haproxy(network, logs, &deploy);
        haproxy.start()?;
        let http = payment_proxy::config::tls::plain()
            .timeout(API_LIMIT)
            .build()?;
        let leaders = Arc::default();
        let replicas = Self {
            _watch: watch(network, &leaders),
            members,
            etcd: Mutex::new(etcd),
            haproxy: Mutex::new(haproxy),
            network,
            http,
            leaders,
        };
        // The first makes the cluster, the others copy it.
        for member in &replicas.members {
            member.lock().await.patroni.start()?;
        }
        replicas.until_complete().await?;
        Ok(replicas)
    }

    /// Where the leader is reached, through HAProxy.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            host: address(self.network, HAPROXY_HOST),
            port: POSTGRES,
        }
    }

    /// The member that was seen last to be the leader.
    pub fn leader(&self) -> anyhow::Result<usize> {
        let leaders = self.leaders.lock().expect("no code panics under this lock");
        Ok(leaders.last().context("there was no leader yet")?.member)
    }

    /// The first other leader than `old` since that time, once it has confirmed a commit.
    pub fn new_leader_since(&self, old: usize, since: Instant) -> Option<Lead> {
        let leaders = self.leaders.lock().expect("no code panics under this lock");
        let mut leaders = leaders.iter().copied();
        leaders.find(|lead| lead.promoted_at >= since && lead.member != old)
    }

    /// Waits until there is a leader, a synchronous standby, and another standby, all running.
    pub async fn until_complete(&self) -> anyhow::Result<()> {
        let begun_at = Instant::now();
        loop {
            let view = self.view().await;
            if view.as_ref().is_some_and(View::is_complete) {
                return Ok(());
            }
            anyhow::ensure!(
                begun_at.elapsed() < START_LIMIT,
                "not within {START_LIMIT:?}: a leader and two standbys: {view:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// What the first member says of the cluster that says anything.
    async fn view(&self) -> Option<View> {
        for index in 0..MEMBERS.len() {
            let url = format!("{}/cluster", self.api(index));
            if let Ok(reply) = self.http.get(url).send().await
                && let Ok(view) = reply.json().await
            {
                return Some(view);
            }
        }
        None
    }

    fn api(&self, member: usize) -> String {
        format!("http://{}:{API}", member_address(self.network, member))
    }

    /// Makes the synchronous standby the leader, as planned.
    pub async fn switch_over(&self) -> anyhow::Result<()> {
        let leader = self.leader()?;
        let reply = self
            .http
            .post(format!("{}/switchover", self.api(leader)))
            .json(&json!({ "leader": MEMBERS[leader] }))
            .timeout(START_LIMIT)
            .send()
            .await?;
        let status = reply.status();
        let text = reply.text().await?;
        anyhow::ensure!(status.is_success(), "switchover: {status} {text}");
        Ok(())
    }

    /// A standby that commits wait for.
    pub async fn synchronous_standby(&self) -> anyhow::Result<usize> {
        let view = self.view().await.context("no member says anything")?;
        let standby = view
            .members
            .iter()
            .find(|seen| seen.role == "sync_standby")
            .context("there is no synchronous standby")?;
        let index = MEMBERS.iter().position(|name| *name == standby.name);
        index.context("an unknown member")
    }

    /// Kills a machine: Patroni and all processes of PostgreSQL at once.
    pub async fn kill(&self, member: usize) -> anyhow::Result<()> {
        let mut member = self.members[member].lock().await;
        let all = member.freeze()?;
        for pid in &all {
            kill(*pid, Signal::SIGKILL).context("a process of a member")?;
        }
        member.patroni.crash().await;
        let begun_at = Instant::now();
        while all.iter().any(|pid| lives(*pid)) {
            anyhow::ensure!(begun_at.elapsed() < STOP_LIMIT, "a killed process lives");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Starts a machine again.
    pub async fn revive(&self, member: usize) -> anyhow::Result<()> {
        Ok(self.members[member].lock().await.patroni.start()?)
    }

    /// Stops a machine where it stands; [`thaw`] lets it go on.
    pub async fn freeze(&self, member: usize) -> anyhow::Result<Vec<Pid>> {
        self.members[member].lock().await.freeze()
    }

    /// Ends etcd.
    pub async fn stop_etcd(&self) {
        let mut etcd = self.etcd.lock().await;
        etcd.stop(Signal::SIGTERM, STOP_LIMIT).await;
    }

    /// Starts etcd again.
    pub async fn start_etcd(&self) -> anyhow::Result<()> {
        Ok(self.etcd.lock().await.start()?)
    }

    /// Ends HAProxy, and with it every connection to the database, and starts it again after that
    /// time.
    pub async fn restart_haproxy(&self, away: Duration) -> anyhow::Result<()> {
        let mut haproxy = self.haproxy.lock().await;
        haproxy.stop(Signal::SIGTERM, STOP_LIMIT).await;
        tokio::time::sleep(away).await;
        Ok(haproxy.start()?)
    }

    /// Stops everything in order.
    pub async fn stop(&self) {
        self.haproxy
            .lock()
            .await
            .stop(Signal::SIGTERM, STOP_LIMIT)
            .await;
        let stops = self.members.iter().map(async |member| {
            let mut member = member.lock().await;
            member.patroni.stop(Signal::SIGTERM, STOP_LIMIT).await;
        });
        futures_util::future::join_all(stops).await;
        self.etcd
            .lock()
            .await
            .stop(Signal::SIGTERM, STOP_LIMIT)
            .await;
    }
}

impl View {
    fn is_complete(&self) -> bool {
        let count = |role: &str| {
            let runs = |seen: &&Seen| matches!(&*seen.state, "running" | "streaming");
            let members = self.members.iter().filter(|seen| seen.role == role);
            members.filter(runs).count()
        };
        count("leader") == 1 && count("sync_standby") == 1 && count("replica") == 1
    }
}

impl Member {
    /// Patroni first, so that it starts nothing else.
    fn freeze(&self) -> anyhow::Result<Vec<Pid>> {
        let mut all = self.patroni.freeze().context("Patroni does not run")?;
        if let Some(server) = self.postmaster() {
            let _ = kill(server, Signal::SIGSTOP);
            all.push(server);
            for child in children(server) {
                let _ = kill(child, Signal::SIGSTOP);
                all.push(child);
            }
        }
        Ok(all)
    }

    /// Its PostgreSQL, which is no child of Patroni.
    fn postmaster(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let pid = Pid::from_raw(file.lines().next()?.trim().parse().ok()?);
        lives(pid).then_some(pid)
    }
}

impl Drop for Member {
    /// PostgreSQL goes on without a Patroni that was killed.
    fn drop(&mut self) {
        self.patroni.signal(Signal::SIGKILL);
        if let Some(server) = self.postmaster() {
            let mut all = children(server);
            all.push(server);
            for pid in &all {
                let _ = kill(*pid, Signal::SIGKILL);
            }
            thaw(&all);
        }
    }
}

/// Notes which member is the leader, from connections of its own to each.
fn watch(network: u8, leaders: &Arc<StdMutex<Vec<Lead>>>) -> JoinSet<()> {
    let mut looks = JoinSet::new();
    for member in 0..MEMBERS.len() {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&member_address(network, member))
            .port(POSTGRES)
            .username("postgres")
            .password(PASSWORD)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable);
        let leaders = Arc::clone(leaders);
        looks.spawn(async move {
            let mut open = None;
            let mut led = false;
            loop {
                let look = tokio::time::timeout(LOOK_LIMIT, leads(&options, &mut open)).await;
                let leads = matches!(look, Ok(Ok(true)));
                if leads && !led {
                    let promoted_at = Instant::now();
                    let connection = open.as_mut();
                    let commit = async { commit(connection.context("it is open")?).await };
                    led = matches!(tokio::time::timeout(START_LIMIT, commit).await, Ok(Ok(())));
                    if led {
                        let mut leaders = leaders.lock().expect("no code panics under this lock");
                        leaders.push(Lead {
                            member,
                            promoted_at,
                            commits_at: Instant::now(),
                        });
                    }
                }
                led &= leads;
                if !matches!(look, Ok(Ok(_))) || leads != led {
                    open = None;
                }
                tokio::time::sleep(POLL).await;
            }
        });
    }
    looks
}

/// Whether a member takes writes. The connection is kept for the next look.
async fn leads(
    options: &PgConnectOptions,
    open: &mut Option<PgConnection>,
) -> Result<bool, sqlx::Error> {
    let mut connection = match open.take() {
        Some(connection) => connection,
        None => options.connect().await?,
    };
    let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()")
        .fetch_one(&mut connection)
        .await?;
    *open = Some(connection);
    Ok(!standby)
}

/// A commit that changes no table.
async fn commit(connection: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::query("SELECT pg_logical_emit_message(true, 'failover', '')")
        .execute(connection)
        .await?;
    Ok(())
}

fn address(network: u8, host: u8) -> String {
    Ipv4Addr::new(127, 77, network, host).to_string()
}

fn member_address(network: u8, member: usize) -> String {
    let host = u8::try_from(member).map_or(FIRST_MEMBER, |member| FIRST_MEMBER + member);
    address(network, host)
}

/// The third byte of addresses that nobody listens at.
fn free_network() -> Option<u8> {
    let is_free = |address: String, port| TcpListener::bind((address, port)).is_ok();
    (1..=254).find(|network| {
        let members = (0..MEMBERS.len()).all(|member| {
            let address = member_address(*network, member);
            is_free(address.clone(), POSTGRES) && is_free(address, API)
        });
        members
            && is_free(address(*network, ETCD_HOST), ETCD)
            && is_free(address(*network, HAPROXY_HOST), POSTGRES)
    })
}

fn etcd(network: u8, folder: &Path, logs: &Path) -> Process {
    let url = |port| format!("http://{}:{port}", address(network, ETCD_HOST));
    let program = [
        "etcd".to_owned(),
        "--name=etcd".to_owned(),
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={}", url(ETCD)),
        format!("--advertise-client-urls={}", url(ETCD)),
        format!("--listen-peer-urls={}", url(ETCD_PEERS)),
        format!("--initial-advertise-peer-urls={}", url(ETCD_PEERS)),
        format!("--initial-cluster=etcd={}", url(ETCD_PEERS)),
    ];
    let end = Signal::SIGKILL;
    Process::new("etcd", logs, end, program.into(), Vec::new())
}

fn haproxy(network: u8, logs: &Path, deploy: &Path) -> Process {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    let file = deploy.join("haproxy.cfg").display().to_string();
    let program = ["haproxy", "-db", "-f", &file].map(str::to_owned);
    let mut environment = vec![
        ("PATH".to_owned(), path),
        ("HAPROXY_ADDRESS".to_owned(), address(network, HAPROXY_HOST)),
    ];
    for member in 0..MEMBERS.len() {
        let name = format!("POSTGRES{}", member + 1);
        environment.push((name, member_address(network, member)));
    }
    Process::new(
        "haproxy",
        logs,
        Signal::SIGKILL,
        program.into(),
        environment,
    )
}

fn member(
    index: usize,
    network: u8,
    folder: &Path,
    logs: &Path,
    deploy: &Path,
) -> anyhow::Result<Member> {
    let name = MEMBERS[index];
    let home = folder.join(name);
    fs::create_dir(&home)?;
    let mut program = Vec::new();
    // PostgreSQL refuses to run as root.
    if fs::metadata(&home)?.uid() == 0 {
        let owned = std::process::Command::new("chown")
            .arg("postgres:")
            .arg(&home)
            .status()?;
        anyhow::ensure!(owned.success(), "there is no user postgres");
        let change = "setpriv --reuid=postgres --regid=postgres --init-groups --";
        // After the change of user, which would undo it.
        let end = "setpriv --pdeathsig TERM --";
        program.extend(change.split(' ').chain(end.split(' ')).map(str::to_owned));
    }
    // It is read as that user, who may not be allowed to enter the repository's folder.
    let settings = folder.join("patroni.yml");
    let mut text = fs::read_to_string(deploy.join("patroni.yml"))?;
    // A client that is built without optimisation would hash for most of the time.
    if cfg!(debug_assertions) {
        text = text.replace("all scram-sha-256", "all password");
    }
    fs::write(&settings, text)?;
    program.extend(["patroni".to_owned(), settings.display().to_string()]);
    let data = home.join("data");
    let postgres = format!("{}:{POSTGRES}", member_address(network, index));
    let api = format!("{}:{API}", member_address(network, index));
    let environment = [
        ("HOME", home.display().to_string()),
        ("PATRONI_NAME", name.to_owned()),
        ("PATRONI_RESTAPI_LISTEN", api.clone()),
        ("PATRONI_RESTAPI_CONNECT_ADDRESS", api),
        ("PATRONI_POSTGRESQL_LISTEN", postgres.clone()),
        ("PATRONI_POSTGRESQL_CONNECT_ADDRESS", postgres),
        ("PATRONI_POSTGRESQL_DATA_DIR", data.display().to_string()),
        ("PATRONI_POSTGRESQL_BIN_DIR", programs()?),
        (
            "PATRONI_POSTGRESQL_PGPASS",
            home.join("pgpass").display().to_string(),
        ),
        (
            "PATRONI_ETCD3_HOSTS",
            format!("{}:{ETCD}", address(network, ETCD_HOST)),
        ),
        ("PATRONI_SUPERUSER_USERNAME", "postgres".to_owned()),
        ("PATRONI_SUPERUSER_PASSWORD", PASSWORD.to_owned()),
        ("PATRONI_REPLICATION_USERNAME", "replicator".to_owned()),
        ("PATRONI_REPLICATION_PASSWORD", PASSWORD.to_owned()),
    ];
    let environment = environment
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    let patroni = Process::new(name, logs, Signal::SIGTERM, program, environment.collect());
    Ok(Member { patroni, data })
}
