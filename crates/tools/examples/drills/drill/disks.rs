//! Disks that are full.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::outcome::millis;
use crate::site::Site;

/// How long a disk stays full.
const FULL: Duration = Duration::from_secs(8);
/// How soon a full disk is noticed under load.
const NOTICED: Duration = Duration::from_secs(30);
/// What is freed meanwhile is taken again so often.
const REFILL: Duration = Duration::from_millis(250);
/// How soon payments are accepted again.
const BACK: Duration = Duration::from_secs(20);

pub(super) async fn full_disk(site: &Site) -> anyhow::Result<()> {
    let volume = site.volume.as_ref().context("a volume")?;
    site.outage("the disk of the database full");
    let since = Instant::now();
    volume.fill()?;
    let noticed = site.load.refused(NOTICED).await;
    site.must(noticed, || "the full disk was not noticed".to_owned());
    let noticed = since.elapsed();
    let full_at = Instant::now();
    let mut checkpoint = None;
    while full_at.elapsed() < FULL {
        volume.fill()?;
        tokio::time::sleep(REFILL).await;
        if checkpoint.is_none() && full_at.elapsed() > FULL / 2 {
            let cluster = site.stack.cluster.lock().await;
            let done = cluster.tool("psql", &["--command=CHECKPOINT"]).await;
            checkpoint = Some(done.is_ok());
        }
    }
    let said = site
        .watch
        .has_said(since, "the disk of the database is full");
    site.must(said, || {
        format!(
            "readyz does not say that the disk is full: {:?}",
            site.watch.refusals(since)
        )
    });
    volume.empty()?;
    let restarted = start_again(site).await?;
    site.must(checkpoint.is_some() && !restarted, || {
        "a checkpoint stopped the server, as it must not with this setting".to_owned()
    });
    let back = site.recovers(BACK).await;
    let figures = site.load.figures(since..Instant::now());
    site.note(format!(
        "noticed after {}, full for {} more: {} accepted, {} told 503, a checkpoint meanwhile {}, the \
        server {}; accepted again {} after there was room",
        millis(noticed),
        millis(FULL),
        figures.accepted,
        figures.refused,
        if checkpoint == Some(true) { "succeeded" } else { "failed" },
        if restarted { "stopped" } else { "went on" },
        millis(back)
    ));
    Ok(())
}

pub(super) async fn full_wal(site: &Site) -> anyhow::Result<()> {
    let volume = site.volume.as_ref().context("a volume")?;
    site.outage("the volume of the WAL full");
    let since = Instant::now();
    volume.fill()?;
    let mut stopped = false;
    while !stopped && since.elapsed() < NOTICED {
        {
            let mut cluster = site.stack.cluster.lock().await;
            // The next segment of the WAL is begun sooner than by the load alone.
            let switch = "--command=SELECT pg_switch_wal()";
            let _ = cluster.tool("psql", &["--no-psqlrc", switch]).await;
            stopped = cluster.ended_by_itself().is_some();
        }
        volume.fill()?;
        tokio::time::sleep(REFILL).await;
    }
    let stopped_after = since.elapsed();
    let refused = site.load.refused(NOTICED).await;
    site.must(refused, || "nobody was refused".to_owned());
    tokio::time::sleep(FULL).await;
    volume.empty()?;
    stopped |= start_again(site).await?;
    let back = site.recovers(BACK).await;
    let figures = site.load.figures(since..Instant::now());
    site.note(format!(
        "the server {} after {}: {} accepted, {} told 503; accepted again {} after there was room",
        if stopped { "stopped" } else { "went on" },
        millis(stopped_after),
        figures.accepted,
        figures.refused,
        millis(back)
    ));
    Ok(())
}

/// Starts the server where it has ended. Returns whether it had.
async fn start_again(site: &Site) -> anyhow::Result<bool> {
    let mut cluster = site.stack.cluster.lock().await;
    let ended = cluster.ended_by_itself().is_some() || !cluster.runs();
    if ended {
        cluster.start().await?;
    }
    Ok(ended)
}

pub(super) async fn full_log(site: &Site) -> anyhow::Result<()> {
    let volume = site.volume.as_ref().context("a volume")?;
    site.outage("the disk of the log full");
    let since = Instant::now();
    volume.fill()?;
    tokio::time::sleep(FULL).await;
    let attention = site.attention().await?;
    site.must(
        attention.iter().any(|kind| kind == "log_lines_dropped"),
        || format!("status does not say that lines are missing: {attention:?}"),
    );
    let during = site.load.figures(since..Instant::now());
    volume.empty()?;
    let freed_at = Instant::now();
    let told = || {
        let mut logs = site.logs.iter();
        logs.all(|log| log.contains("lines of this log were dropped"))
    };
    while !told() && freed_at.elapsed() < NOTICED {
        tokio::time::sleep(REFILL).await;
    }
    site.must(told(), || {
        "the log does not say that lines are missing".to_owned()
    });
    site.note(format!(
        "full for {} at level debug: {} accepted, {} refused, p99 {}; the log says what is missing {} after \
        there was room",
        millis(FULL),
        during.accepted,
        during.refused,
        millis(during.p99),
        millis(freed_at.elapsed())
    ));
    Ok(())
}
