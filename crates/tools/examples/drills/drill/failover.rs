//! A replicated database that changes its leader, or loses what it has around it.

use std::time::{Duration, Instant};

use sqlx::Connection as _;

use crate::outcome::millis;
use crate::site::Site;
use tools::deployment::facts;
use tools::deployment::process::thaw;
use tools::deployment::verdict::{LOST, judge};

/// How long the leader stands still, and etcd is away.
const AWAY: Duration = Duration::from_secs(60);
/// How long HAProxy is away.
const HAPROXY_AWAY: Duration = Duration::from_secs(1);
/// How long a payment takes at the processors, so that calls are open when the leader goes.
const DELAY: Duration = Duration::from_millis(300);
/// How soon there is a new leader: Patroni's `ttl`, and what it takes to promote one on a busy
/// machine.
const LEADER_LIMIT: Duration = Duration::from_secs(60);
/// The time between two looks for it.
const LEADER_POLL: Duration = Duration::from_millis(10);
/// How soon the first payment is accepted after there is a new leader.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(2);
/// How long the first payment after the outage is waited for before the drill is given up.
const BACK: Duration = Duration::from_secs(30);
/// The load that goes on after the change.
const AFTER: Duration = Duration::from_secs(5);
/// How long nobody may be accepted while HAProxy is away, or a standby is lost.
const HAPROXY_GAP: Duration = Duration::from_secs(5);
const STANDBY_GAP: Duration = Duration::from_secs(10);
/// How often an auditor looks whether what was counted is there.
const BALANCE_POLL: Duration = Duration::from_millis(200);
/// How long instances have to add what they have counted.
const BALANCE_LIMIT: Duration = Duration::from_secs(10);

/// What was before an outage.
struct Before {
    leader: usize,
    since: Instant,
    accepted: usize,
}

async fn begin(site: &Site, what: &'static str) -> anyhow::Result<Before> {
    site.slow_processors(DELAY).await?;
    begin_with(site, what).await
}

/// The same with payments that wait in the queue, because both processors fail until there is a new
/// leader.
async fn begin_with_backlog(site: &Site, what: &'static str) -> anyhow::Result<Before> {
    site.slow_processors(DELAY).await?;
    tokio::time::sleep(DELAY * 2).await;
    site.failing_processors(true).await?;
    begin_with(site, what).await
}

async fn begin_with(site: &Site, what: &'static str) -> anyhow::Result<Before> {
    let before = Before {
        leader: site.replicas()?.leader()?,
        // What is posted again later was accepted shortly before.
        accepted: site.ledger.accepted(),
        since: Instant::now(),
    };
    tokio::time::sleep(DELAY * 3).await;
    site.outage(what);
    Ok(Before {
        since: Instant::now(),
        ..before
    })
}

/// Waits for the new leader and the first acceptance after it. Every other payment that was
/// accepted shortly before is posted again at that moment, by impatient clients: some of these are
/// being charged. The rest shows what is lost.
async fn new_leader(site: &Site, before: &Before) -> anyhow::Result<()> {
    let replicas = site.replicas()?;
    let lead = loop {
        if let Some(lead) = replicas.new_leader_since(before.leader, before.since) {
            break lead;
        }
        anyhow::ensure!(
            before.since.elapsed() < LEADER_LIMIT,
            "no new leader within {LEADER_LIMIT:?}"
        );
        tokio::time::sleep(LEADER_POLL).await;
    };
    let accepted_at = loop {
        if let Some(at) = site.load.first_accepted(lead.promoted_at) {
            break at;
        }
        anyhow::ensure!(
            lead.commits_at.elapsed() < BACK,
            "no payment was accepted within {BACK:?} of the new leader"
        );
        tokio::time::sleep(LEADER_POLL).await;
    };
    let took = accepted_at.saturating_duration_since(lead.commits_at);
    site.must(took <= ACCEPTED_WITHIN, || {
        format!(
            "the first payment was accepted {} after the new leader",
            millis(took)
        )
    });
    site.note(format!(
        "a standby promoted after {}, first commit there {} later, first 202 {} after that",
        millis(lead.promoted_at - before.since),
        millis(lead.commits_at - lead.promoted_at),
        millis(took)
    ));
    site.slow_processors(DELAY).await?;
    let again = site.ledger.accepted_after(before.accepted);
    let again = again.into_iter().step_by(2).collect();
    site.load.post_again(again, site.seed).await;
    Ok(())
}

/// Notes the gap that clients have seen since then.
fn note_gap(site: &Site, before: &Before) -> Duration {
    let span = before.since..Instant::now();
    let gap = site.load.longest_gap(&span);
    let figures = site.load.figures(span);
    site.note(format!(
        "nobody accepted for {} at the longest, {} told 503",
        millis(gap),
        figures.refused
    ));
    gap
}

pub(super) async fn switchover(site: &Site) -> anyhow::Result<()> {
    let before = begin_with_backlog(site, "a planned switchover").await?;
    let replicas = site.replicas()?;
    let (switched, changed) = tokio::join!(replicas.switch_over(), new_leader(site, &before));
    switched?;
    changed?;
    tokio::time::sleep(AFTER).await;
    note_gap(site, &before);
    replicas.until_complete().await
}

pub(super) async fn killed_leader(site: &Site) -> anyhow::Result<()> {
    let before = begin_with_backlog(site, "the leader killed").await?;
    let replicas = site.replicas()?;
    replicas.kill(before.leader).await?;
    new_leader(site, &before).await?;
    tokio::time::sleep(AFTER).await;
    note_gap(site, &before);
    // It comes back as a standby, without what only it had.
    replicas.revive(before.leader).await?;
    replicas.until_complete().await
}

pub(super) async fn frozen_leader(site: &Site) -> anyhow::Result<()> {
    let before = begin(site, "the leader stopped where it stands").await?;
    let replicas = site.replicas()?;
    let frozen = replicas.freeze(before.leader).await?;
    let changed = new_leader(site, &before).await;
    tokio::time::sleep_until((before.since + AWAY).into()).await;
    thaw(&frozen);
    changed?;
    // It believes to be the leader for a moment, which must not matter.
    replicas.until_complete().await?;
    tokio::time::sleep(AFTER).await;
    note_gap(site, &before);
    Ok(())
}

pub(super) async fn etcd_away(site: &Site) -> anyhow::Result<()> {
    let before = begin(site, "etcd away").await?;
    let replicas = site.replicas()?;
    replicas.stop_etcd().await;
    tokio::time::sleep(AWAY).await;
    replicas.start_etcd().await?;
    replicas.until_complete().await?;
    site.recovers(BACK).await;
    tokio::time::sleep(AFTER).await;
    let gap = note_gap(site, &before);
    // The leader stays, because all members see it (`failsafe_mode`).
    site.must(gap < ACCEPTED_WITHIN, || {
        format!("nobody was accepted for {}", millis(gap))
    });
    Ok(())
}

pub(super) async fn restarted_haproxy(site: &Site) -> anyhow::Result<()> {
    let before = begin(site, "HAProxy restarted").await?;
    site.replicas()?.restart_haproxy(HAPROXY_AWAY).await?;
    site.recovers(BACK).await;
    tokio::time::sleep(AFTER).await;
    let gap = note_gap(site, &before);
    site.must(gap < HAPROXY_GAP, || {
        format!("nobody was accepted for {}", millis(gap))
    });
    Ok(())
}

pub(super) async fn lost_standby(site: &Site) -> anyhow::Result<()> {
    let before = begin(site, "the synchronous standby killed").await?;
    let replicas = site.replicas()?;
    let standby = replicas.synchronous_standby().await?;
    replicas.kill(standby).await?;
    tokio::time::sleep(AFTER).await;
    site.recovers(BACK).await;
    tokio::time::sleep(AFTER).await;
    let gap = note_gap(site, &before);
    site.must(gap < STANDBY_GAP, || {
        format!("nobody was accepted for {}", millis(gap))
    });
    replicas.revive(standby).await?;
    replicas.until_complete().await
}

/// After the loss of an unlogged queue: compares what was lost with what an auditor is told, and
/// posts all accepted payments again, as careful clients do. Returns how many were lost, all of
/// which nobody had charged if the verdict that follows finds nothing wrong.
pub(crate) async fn post_all_again(site: &Site) -> anyhow::Result<usize> {
    let facts = facts::gather(&site.stack, &site.ledger).await?;
    let lost = judge(&facts);
    let lost = lost.iter().find(|finding| finding.kind == LOST);
    let lost = lost.map_or(0, |finding| finding.count);
    // One that was lost and posted again was accepted twice, and is missing once.
    let more = facts.clients.values();
    let more = more.filter(|known| known.accepted && known.posts > 1);
    let most = lost + more.count();
    let begun_at = Instant::now();
    let told = loop {
        let told = missing(site).await?;
        if told >= lost || begun_at.elapsed() > BALANCE_LIMIT {
            break told;
        }
        tokio::time::sleep(BALANCE_POLL).await;
    };
    site.must((lost..=most).contains(&told), || {
        format!("{lost} to {most} accepted payments were lost, and audit.balance says {told}")
    });
    site.note(format!(
        "audit.balance tells of {told} lost, {lost} of which were not posted again"
    ));
    let all = site.ledger.accepted_after(0);
    site.load.post_again(all, site.seed + 1).await;
    Ok(lost)
}

/// What an auditor reads: payments that were accepted and are nowhere.
async fn missing(site: &Site) -> anyhow::Result<usize> {
    let mut connection = site.stack.connect().await?;
    let missing: i64 =
        sqlx::query_scalar("SELECT coalesce(sum(missing), 0)::bigint FROM audit.balance()")
            .fetch_one(&mut connection)
            .await?;
    connection.close().await?;
    Ok(usize::try_from(missing)?)
}
