//! The cells in one Citus cluster, a coordinator and two workers: each is a database of all three
//! servers, whose tables of payments are on one of the workers.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::load::Load;
use super::site::{EMPTY, Site, copy};
use super::{BACK_WITHIN, Plan, Report, lose, report};
use crate::deployment::cluster::{Cluster, PASSWORD, programs};

/// What each server needs. Two background workers for each database, and more while a cell moves;
/// one that moves gets no slot without them, and waits in silence.
const SETTINGS: [&str; 6] = [
    "shared_preload_libraries=citus",
    "wal_level=logical",
    "max_connections=200",
    "max_worker_processes=64",
    // Over sockets of this machine.
    "citus.node_conninfo=sslmode=disable",
    // What a worker had prepared when it was lost holds its rows, and a move, until then.
    "citus.recover_2pc_interval=10s",
];
/// The number of the coordinator among the servers; the others are workers.
const COORDINATOR: usize = 0;
const WORKERS: usize = 2;
/// The worker that is killed, and from which a cell moves to the other one.
const LOST: usize = 2;
/// How long a move may take; it has little to copy.
const MOVED_WITHIN: Duration = Duration::from_secs(120);

/// Whether the extension is there for the servers that are started here.
pub(super) fn is_installed() -> anyhow::Result<bool> {
    let program = Path::new(&programs()?).join("pg_config");
    // Debian has it with the client's programs, others may have it elsewhere or not at all.
    let Ok(said) = std::process::Command::new(program)
        .arg("--sharedir")
        .output()
    else {
        return Ok(false);
    };
    let folder = String::from_utf8(said.stdout)?;
    Ok(Path::new(folder.trim())
        .join("extension/citus.control")
        .exists())
}

/// The worker on which a cell is at first, from 1 on.
fn worker_of(cell: usize) -> usize {
    1 + (cell - 1) % WORKERS
}

/// Walks all of it.
pub(super) async fn walk(plan: &Plan) -> anyhow::Result<Report> {
    let names = ["coordinator", "worker1", "worker2"];
    let mut site = Site::prepare(plan.binary.clone(), &names, &SETTINGS).await?;
    for cluster in site.clusters() {
        // How a server reaches itself, which is TCP by default.
        let host = cluster.address().0;
        let own = format!("ALTER SYSTEM SET citus.local_hostname = '{host}'");
        cluster.execute(&own).await?;
        cluster.execute("SELECT pg_reload_conf()").await?;
    }
    let mut places = Vec::new();
    for cell in 1..=plan.cells {
        let name = format!("cell{cell}");
        make_database(site.clusters(), &name, worker_of(cell)).await?;
        places.push((COORDINATOR, name));
    }
    site.serve(places).await?;
    for cell in 1..=plan.cells {
        let mut connection = site.connect(cell).await?;
        let on = worker(&mut connection, &site).await?;
        anyhow::ensure!(on == worker_of(cell), "cell {cell} is on worker {on}");
        open_all(&mut connection).await?;
    }
    let cells = |on| (1..=plan.cells).filter(move |cell| worker_of(*cell) == on);
    let (stay, go): (Vec<usize>, Vec<usize>) = (cells(1).collect(), cells(LOST).collect());
    let moves = *go.last().context("a cell on each worker")?;
    let mut wrong = Vec::new();
    let load = Load::start(site.sockets(), plan.rate, plan.cells);

    load.phase("all is well");
    tokio::time::sleep(plan.while_it_runs).await;
    load.phase("a worker is away");
    lose(&mut site, &load, plan, (LOST, &go), &mut wrong).await?;

    load.phase("a cell moves online");
    let mut connection = site.connect(moves).await?;
    let (host, port) = site.clusters()[1].address();
    let begun_at = std::time::Instant::now();
    tokio::time::timeout(MOVED_WITHIN, relocate(&mut connection, host, port)).await??;
    println!(
        "cell {moves} moved to the other worker in {:.1} s",
        begun_at.elapsed().as_secs_f64()
    );
    load.until_accepted_in(&[moves], BACK_WITHIN).await?;

    load.phase("all is well again");
    if worker(&mut connection, &site).await? != 1 {
        wrong.push(format!("cell {moves} has not moved"));
    }
    tokio::time::sleep(plan.while_it_runs).await;
    let load = load.stop().await;
    println!("\n{load}");
    let all: Vec<usize> = (1..=plan.cells).collect();
    let phases = [
        ("all is well", all.clone()),
        ("a worker is away", stay.clone()),
        ("it comes back", stay),
        ("a cell moves online", all.clone()),
        ("all is well again", all),
    ];
    if load.accepted_in("a cell moves online", moves) == 0 {
        wrong.push(format!("cell {moves} took no payments while it moved"));
    }
    let report = report(&site, &load, &phases, &go, wrong).await?;
    site.stop().await;
    Ok(report)
}

/// Makes a database of all servers one of the cluster, in which new tables get to that worker.
async fn make_database(clusters: &[Cluster], name: &str, on: usize) -> anyhow::Result<()> {
    for cluster in clusters {
        copy(cluster, EMPTY, name).await?;
        let mut connection = PgConnection::connect(&cluster.url("postgres", name)).await?;
        // The coordinator, and a worker that has moved something, log in as the role they serve.
        let citus = format!(
            "CREATE EXTENSION citus;
            INSERT INTO pg_dist_authinfo (nodeid, rolename, authinfo)
            VALUES (0, 'payment_proxy', 'password={PASSWORD}')"
        );
        connection.execute(AssertSqlSafe(citus)).await?;
        connection.close().await?;
    }
    let (host, port) = clusters[COORDINATOR].address();
    let url = clusters[COORDINATOR].url("postgres", name);
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::query("SELECT citus_set_coordinator_host($1, $2)")
        .bind(host)
        .bind(i32::from(port))
        .execute(&mut connection)
        .await?;
    for (number, worker) in clusters.iter().enumerate().skip(1) {
        let (host, port) = worker.address();
        sqlx::query("SELECT citus_add_node($1, $2)")
            .bind(host)
            .bind(i32::from(port))
            .execute(&mut connection)
            .await?;
        sqlx::query("SELECT citus_set_node_property($1, $2, 'shouldhaveshards', $3)")
            .bind(host)
            .bind(i32::from(port))
            .bind(number == on)
            .execute(&mut connection)
            .await?;
    }
    Ok(connection.close().await?)
}

/// Lets every worker have tables.
async fn open_all(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection
        .execute(
            "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', true)
            FROM pg_dist_node WHERE groupid <> 0",
        )
        .await?;
    Ok(())
}

/// The number of the worker that a cell is on.
async fn worker(connection: &mut PgConnection, site: &Site) -> anyhow::Result<usize> {
    let hosts: Vec<String> = sqlx::query_scalar("SELECT DISTINCT nodename FROM citus_shards")
        .fetch_all(connection)
        .await?;
    anyhow::ensure!(hosts.len() == 1, "the tables of a cell are on {hosts:?}");
    let is_there = |cluster: &Cluster| cluster.address().0 == hosts[0];
    let number = site.clusters().iter().position(is_there);
    number.with_context(|| format!("{} is none of the servers", hosts[0]))
}

/// Moves all tables of a cell to that worker, while payments go on.
async fn relocate(connection: &mut PgConnection, host: &str, port: u16) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT citus_move_shard_placement(shardid, nodename, nodeport, $1, $2)
        FROM citus_shards WHERE table_name = 'payment_queue'::regclass",
    )
    .bind(host)
    .bind(i32::from(port))
    .execute(connection)
    .await?;
    Ok(())
}
