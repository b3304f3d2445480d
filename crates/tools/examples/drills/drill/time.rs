//! The clock of the database server.

use std::time::{Duration, Instant};

use simulator::Faults;

use crate::outcome::millis;
use crate::site::Site;
use tools::deployment::processor::Behaviour;

/// The share of payments that take longer than their call may, so that they are in doubt.
const SLOW: f64 = 0.3;
const SLOW_MS: u64 = 3_000;
/// How long calls are open before the first step, and how long each step stays.
const STAYS: Duration = Duration::from_secs(6);
/// The steps, in seconds against the machine's clock: 85 s ahead; 10 hours back, with a crash of an
/// instance; 10 minutes further back; and right again.
const STEPS: [(i64, bool); 4] = [(85, false), (-36_000, true), (-36_600, false), (0, false)];

pub(super) async fn clock_steps(site: &Site) -> anyhow::Result<()> {
    let behaviour = Behaviour {
        faults: Faults {
            slow: SLOW,
            slow_ms: SLOW_MS,
            ..Faults::default()
        },
        ..Behaviour::default()
    };
    for processor in &site.stack.processors {
        processor.behave(&behaviour).await?;
    }
    tokio::time::sleep(STAYS).await;
    let since = Instant::now();
    for (seconds, crash) in STEPS {
        site.outage("a step of the database's clock");
        site.stack.cluster.lock().await.set_clock(seconds)?;
        if crash {
            let mut instance = site.stack.instances[0].lock().await;
            instance.crash().await;
            instance.start()?;
        }
        tokio::time::sleep(STAYS).await;
    }
    let attention = site.attention().await?;
    site.must(attention.iter().any(|kind| kind == "clock_step"), || {
        format!("status does not tell of the steps: {attention:?}")
    });
    let span = since..Instant::now();
    let figures = site.load.figures(span.clone());
    site.note(format!(
        "{} steps while {:.0} % of the calls are open for longer than they may: {} refused, nobody \
        accepted for {} at the longest",
        STEPS.len(),
        SLOW * 100.0,
        figures.refused,
        millis(site.load.longest_gap(&span))
    ));
    Ok(())
}
