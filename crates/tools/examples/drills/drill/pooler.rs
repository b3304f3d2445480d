//! A database behind PgBouncer in transaction mode.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::outcome::millis;
use crate::site::Site;

/// How often each is killed, and for how long it is away.
const KILLS: usize = 3;
const AWAY: Duration = Duration::from_secs(1);
/// Some time in which all is well.
const CALM: Duration = Duration::from_secs(4);
/// Calls are open for so long.
const SLOW: Duration = Duration::from_millis(300);
/// How soon payments are accepted again.
const BACK: Duration = Duration::from_secs(10);

pub(super) async fn killed(site: &Site) -> anyhow::Result<()> {
    site.slow_processors(SLOW).await?;
    let since = Instant::now();
    let pooler = site.stack.pooler.as_ref().context("it has a pooler")?;
    let mut longest = Duration::ZERO;
    for _ in 0..KILLS {
        site.outage("PgBouncer killed");
        {
            let mut pooler = pooler.lock().await;
            pooler.crash().await;
            tokio::time::sleep(AWAY).await;
            pooler.start()?;
        }
        longest = longest.max(site.recovers(BACK).await);
        tokio::time::sleep(CALM).await;
    }
    let figures = site.load.figures(since..Instant::now());
    site.note(format!(
        "PgBouncer killed {KILLS} times for {}: {} told 503, accepted again {} later at most",
        millis(AWAY),
        figures.refused,
        millis(longest)
    ));
    Ok(())
}

pub(super) async fn killed_instances(site: &Site) -> anyhow::Result<()> {
    site.slow_processors(SLOW).await?;
    for _ in 0..KILLS {
        for instance in &site.stack.instances {
            site.outage("an instance killed");
            let mut instance = instance.lock().await;
            instance.crash().await;
            instance.start()?;
            drop(instance);
            site.stack.until_ready().await?;
            tokio::time::sleep(CALM / 2).await;
        }
    }
    site.note(format!("{} instances killed", 2 * KILLS));
    Ok(())
}
