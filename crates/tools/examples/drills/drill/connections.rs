//! Connections that break by the hundred.

use std::time::{Duration, Instant};

use crate::outcome::millis;
use crate::site::Site;

/// How often each side breaks all of its connections.
const OUTAGES: usize = 3;
/// How long processors stay away.
const AWAY: Duration = Duration::from_millis(1_500);
/// The pause between two outages.
const PAUSE: Duration = Duration::from_secs(3);
/// How often the connections to the database are ended in one outage, and the pause between.
const CUTS: usize = 10;
const CUT_PAUSE: Duration = Duration::from_millis(150);
/// Calls are open for so long.
const SLOW: Duration = Duration::from_millis(300);
/// Lines at WARN or ERROR that an instance may write in all: the three outages of each side, some
/// kinds each.
const MOST_LINES: usize = 30;

pub(super) async fn broken(site: &Site) -> anyhow::Result<()> {
    site.slow_processors(SLOW).await?;
    for _ in 0..OUTAGES {
        site.outage("processors killed");
        for simulator in &site.stack.simulators {
            simulator.lock().await.crash().await;
        }
        tokio::time::sleep(AWAY).await;
        for simulator in &site.stack.simulators {
            simulator.lock().await.start()?;
        }
        site.slow_processors(SLOW).await?;
        tokio::time::sleep(PAUSE).await;
    }
    let since = Instant::now();
    for _ in 0..OUTAGES {
        site.outage("connections to the database ended");
        for _ in 0..CUTS {
            site.stack.cluster.lock().await.end_connections().await?;
            tokio::time::sleep(CUT_PAUSE).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let refused = site.load.figures(since..Instant::now()).refused;
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for log in &site.logs {
        let complaints = log.complaints();
        let lines: usize = complaints.values().sum();
        site.must(lines <= MOST_LINES, || {
            format!(
                "{lines} lines of one instance about {} outages: {complaints:?}",
                2 * OUTAGES
            )
        });
        for (kind, count) in complaints {
            let most = kinds.entry(kind).or_default();
            *most = count.max(*most);
        }
    }
    let most = kinds.values().max().copied().unwrap_or_default();
    let cuts = OUTAGES * CUTS;
    site.note(format!(
        "both processors killed {OUTAGES} times for {}, the database cut off all instances {cuts} times \
        in {OUTAGES} storms ({refused} refused): {} kinds of lines, at most {most} of one kind by one \
        instance",
        millis(AWAY),
        kinds.len(),
    ));
    Ok(())
}
