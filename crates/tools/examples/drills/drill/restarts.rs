//! "Can I restart now?"

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::outcome::millis;
use crate::site::Site;
use tools::deployment::stack::INSTANCE_STOP;

/// How often each of the two instances is restarted.
const ROUNDS: usize = 5;
/// The pause before the next: nginx leaves an instance alone for a second that it has not reached.
const PAUSE: Duration = Duration::from_secs(2);
/// How long an instance has to be ready after its start.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Calls are open for so long.
const SLOW: Duration = Duration::from_millis(300);

pub(super) async fn one_by_one(site: &Site) -> anyhow::Result<()> {
    site.slow_processors(SLOW).await?;
    let (mut slowest_stop, mut slowest_start) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        for (index, instance) in site.stack.instances.iter().enumerate() {
            // The first step of the runbook.
            let attention = site.attention().await?;
            site.must(!attention.iter().any(|kind| kind == "unrecorded"), || {
                "charges wait to be recorded, and nothing is wrong".to_owned()
            });
            site.outage("restart");
            let mut instance = instance.lock().await;
            let asked_at = Instant::now();
            let stopped = instance.stop(Signal::SIGTERM, INSTANCE_STOP).await;
            slowest_stop = slowest_stop.max(asked_at.elapsed());
            site.must(stopped, || {
                format!("an instance did not stop within {}", millis(INSTANCE_STOP))
            });
            let started_at = Instant::now();
            instance.start()?;
            loop {
                let readiness = site.stack.readiness(index).await;
                if readiness.is_some_and(|(status, _)| status.is_success()) {
                    break;
                }
                anyhow::ensure!(started_at.elapsed() < READY_LIMIT, "it is not ready again");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            slowest_start = slowest_start.max(started_at.elapsed());
            drop(instance);
            tokio::time::sleep(PAUSE).await;
        }
    }
    site.note(format!(
        "{} restarts under load: the slowest stop {}, the slowest start until ready {}",
        2 * ROUNDS,
        millis(slowest_stop),
        millis(slowest_start)
    ));
    Ok(())
}
