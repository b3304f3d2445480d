//! The end of a sequence: all is well again, and every payment finds its end.

use std::sync::Arc;
use std::time::Duration;

use payment_proxy::pipeline::worker::Step;
use proptest::prop_assert_eq;

use crate::clock;
use crate::site::Site;
use crate::step::WORKERS;
use crate::support::{Bench, watched_clock_at};
use crate::world::{Checked, World};

/// Longer than any call, lease and doubt together.
const LONG_ENOUGH: Duration = Duration::from_secs(95);
/// Rounds of claims after which a deployment with nothing wrong has settled everything.
const ROUNDS: usize = 6;
/// Payments that a worker asks for in one claim.
const CLAIM: usize = 16;

impl World<'_> {
    /// Ends all faults, and lets a worker of production do its work until the queue is empty. The
    /// workers of the sequence meanwhile do nothing.
    pub async fn heal(&mut self) -> Checked {
        self.sites.iter_mut().for_each(Site::heal);
        self.pass(LONG_ENOUGH).await;
        let running: Vec<_> = self.sites.iter().map(Site::running).collect();
        let mut bench = Bench::new(&self.ground.database, &running, self.terms);
        bench.worker.pool = self.pools.claims.clone();
        let clock = Arc::new(watched_clock_at(self.terms, self.clock.database()));
        bench.worker.clock = Arc::clone(&clock);
        self.healer = Some(clock);
        for _ in 0..ROUNDS {
            if self.ground.database.count("payment_queue").await == 0 {
                return Ok(());
            }
            let (step, _) = bench
                .worker
                .claim_step(CLAIM, 0)
                .await
                .expect("the database answers");
            let free = match step {
                Step::More(count) | Step::Drained(count) => count,
                Step::NoPermit(_) | Step::NoSettleSlot => 0,
            };
            let doubtful = bench
                .worker
                .in_doubt_step()
                .await
                .expect("the database answers");
            let ended = &mut bench.ended;
            clock::until("the worker's calls end", || ended.len() == free + doubtful).await;
            let mut ends = Vec::new();
            while let Ok(end) = ended.try_recv() {
                ends.push(end);
            }
            self.record(&ends).await?;
            self.pass(LONG_ENOUGH).await;
        }
        let left = self.ground.database.count("payment_queue").await;
        prop_assert_eq!(left, 0, "payments that are never settled");
        Ok(())
    }

    /// The workers of the sequence wake up and go on where they were, long after their leases.
    pub async fn come_back_late(&mut self) -> Checked {
        for worker in 0..WORKERS {
            self.send_all(worker).await;
            self.record_ends_of(worker, usize::MAX, false).await?;
        }
        Ok(())
    }
}
