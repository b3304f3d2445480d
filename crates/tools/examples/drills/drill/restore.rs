//! A dump that is older than what was settled.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::Connection as _;
use uuid::Uuid;

use crate::outcome::millis;
use crate::site::Site;
use tools::deployment::stack::INSTANCE_STOP;

/// How long payments gather in the queue before the dump is made.
const GATHER: Duration = Duration::from_secs(5);
/// How long everything goes on after it.
const GO_ON: Duration = Duration::from_secs(4);
/// How long a deployment that is held has to charge nothing.
const HELD: Duration = Duration::from_secs(4);
/// How long it may take until all are ready again after the word: the longest doubt, and some time.
const READY_LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn restored_dump(site: &Site) -> anyhow::Result<()> {
    let stack = &site.stack;
    site.failing_processors(true).await?;
    tokio::time::sleep(GATHER).await;
    let file = site.folder.path().join("dump").display().to_string();
    {
        let cluster = stack.cluster.lock().await;
        let to = format!("--file={file}");
        cluster
            .tool("pg_dump", &["--format=custom", "--no-privileges", &to])
            .await?;
    }
    site.failing_processors(false).await?;
    tokio::time::sleep(GO_ON).await;
    let before = charges(site).await?;

    // The database is lost: it is restored in place, while nobody is there.
    site.outage("a restored dump");
    let since = Instant::now();
    for instance in &stack.instances {
        instance
            .lock()
            .await
            .stop(Signal::SIGTERM, INSTANCE_STOP)
            .await;
    }
    let settled = ledger_ids(site).await?;
    {
        let cluster = stack.cluster.lock().await;
        cluster
            .tool(
                "pg_restore",
                &["--clean", "--if-exists", "--exit-on-error", &file],
            )
            .await?;
    }
    run(site, &["migrate"]).await?;
    let queued = stack.queued().await?;
    site.must(queued > 0, || {
        "the dump has no queue, so this drill shows little".to_owned()
    });
    let known = known_ids(site).await?;
    let charged = charges(site).await?;
    for instance in &stack.instances {
        instance.lock().await.start()?;
    }
    tokio::time::sleep(HELD).await;
    for index in [0, 1] {
        let said = stack.readiness(index).await;
        let held = said.as_ref().is_some_and(|(status, text)| {
            !status.is_success() && text.contains("this database is a copy")
        });
        site.must(held, || {
            format!("an instance does not say that it is held: {said:?}")
        });
    }
    let charged_while_held = charges(site).await? - charged;
    site.must(charged_while_held == 0, || {
        format!("{charged_while_held} payments were charged before anybody said what this is")
    });

    run(
        site,
        &["deployment", "declare", "restored", "--reason", "a drill"],
    )
    .await?;
    let declared_at = Instant::now();
    stack.until_ready().await?;
    let ready = declared_at.elapsed();
    site.must(ready < READY_LIMIT, || {
        format!("ready only after {}", millis(ready))
    });

    // Half of what was settled after the dump comes back by a list of ids, and the rest as clients
    // post it again, together with what waited in the lost queue.
    let lacking: Vec<Uuid> = settled.difference(&known).copied().collect();
    site.must(lacking.len() > 1, || "the dump lacks nothing".to_owned());
    let listed = &lacking[..lacking.len() / 2];
    let ids: String = listed.iter().map(|id| format!("{id}\n")).collect();
    let list = site.folder.path().join("lacking").display().to_string();
    std::fs::write(&list, ids)?;
    run(
        site,
        &["reconcile", "--repair", "--rate", "10000", "--ids", &list],
    )
    .await?;
    let known = known_ids(site).await?;
    let (clients, _) = site.ledger.contents();
    let lost = clients
        .iter()
        .filter(|(id, client)| client.accepted && !known.contains(id));
    let lost: Vec<(Uuid, i64)> = lost.map(|(id, client)| (*id, client.cents)).collect();
    let posted_again = lost.len();
    site.load.post_again(lost, site.seed).await;
    let posted_at = Instant::now();
    while !ledger_ids(site).await?.is_superset(&settled) {
        let waited = posted_at.elapsed();
        anyhow::ensure!(
            waited < READY_LIMIT,
            "what the dump lacked is not settled again"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    run(
        site,
        &["deployment", "declare", "checked", "--reason", "a drill"],
    )
    .await?;
    site.note(format!(
        "{before} charges, {queued} payments in the dump's queue that were settled after it, and {} that \
        it lacks: {charged_while_held} charged while held, ready {} after the word, {} recorded from a list, \
        {posted_again} posted again; {} from the stop to the end",
        lacking.len(),
        millis(ready),
        listed.len(),
        millis(since.elapsed())
    ));
    Ok(())
}

/// A command of the operator that has to succeed.
async fn run(site: &Site, command: &[&str]) -> anyhow::Result<()> {
    let done = site.stack.command(command).await?;
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    anyhow::ensure!(
        done.status.success(),
        "{command:?}: {}: {said}",
        done.status
    );
    Ok(())
}

/// What both processors have charged.
async fn charges(site: &Site) -> anyhow::Result<i64> {
    let mut charges = 0;
    for processor in &site.stack.processors {
        charges += processor.summary(None).await?.total_requests;
    }
    Ok(charges)
}

/// The payments that are settled.
async fn ledger_ids(site: &Site) -> anyhow::Result<HashSet<Uuid>> {
    ids(site, "SELECT correlation_id FROM payment_processed").await
}

/// The payments that the database knows.
async fn known_ids(site: &Site) -> anyhow::Result<HashSet<Uuid>> {
    let query = "SELECT correlation_id FROM payment_processed UNION SELECT correlation_id FROM \
        payment_queue";
    ids(site, query).await
}

async fn ids(site: &Site, query: &'static str) -> anyhow::Result<HashSet<Uuid>> {
    let mut connection = site.stack.connect().await?;
    let ids: Vec<Uuid> = sqlx::query_scalar(query).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(ids.into_iter().collect())
}
