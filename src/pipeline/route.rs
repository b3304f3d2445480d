//! The router in this process: with its monotonic clock, randomness, log and counters.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use router::{Router, SharedRouter, StateChange};
use tokio::sync::Notify;

use crate::telemetry::metrics::Counts;

/// Processors that attempts of this instance have shown to be back, until the other instances are
/// told.
#[derive(Debug, Default)]
pub struct Recovered {
    processors: Mutex<Vec<usize>>,
    news: Notify,
}

impl Recovered {
    /// Waits until there is one, and returns all of them, each once. One task may wait.
    pub async fn next(&self) -> Vec<usize> {
        self.news.notified().await;
        std::mem::take(&mut *self.lock())
    }

    fn note(&self, processor: usize) {
        let mut processors = self.lock();
        if !processors.contains(&processor) {
            processors.push(processor);
        }
        drop(processors);
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        (self.processors.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shares a router among the tasks of an instance. Its time goes on from here. A breaker that
/// changes its state is counted, and logged once.
pub fn share(router: Router, recovered: &Arc<Recovered>, counts: &Arc<Counts>) -> SharedRouter {
    let (origin, epoch) = (router.now(), Instant::now());
    let rng = SmallRng::from_rng(&mut rand::rng());
    let (recovered, counts) = (Arc::clone(recovered), Arc::clone(counts));
    SharedRouter::new(
        router,
        rng,
        move || origin + epoch.elapsed(),
        move |name, change| {
            if let Some(processor) = change.recovered() {
                recovered.note(processor);
            }
            counts.breaker_changed(name, change.change.to.as_str());
            log(name, change);
        },
    )
}

fn log(processor: &str, StateChange { change, .. }: StateChange) {
    tracing::info!(
        processor.name = processor,
        breaker.from = change.from.as_str(),
        breaker.to = change.to.as_str(),
        breaker.reason = %change.reason,
        "the breaker of {processor} is now {}: {}",
        change.to.as_str().replace('_', " "),
        change.reason,
    );
}
