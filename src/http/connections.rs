//! The open connections of an address. Where there are too many, the one whose client has kept us
//! waiting for longest makes room for the next: clients that send a byte now and then cannot keep
//! others out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::telemetry::log::Storm;
use crate::telemetry::metrics::Total;

/// How long a client may keep us waiting before its connection can be taken for another.
pub(super) const EVICTABLE_AFTER: Duration = Duration::from_secs(1);
/// How soon it is looked again whether there is room.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// All of one address.
pub(super) struct OpenConnections {
    most: usize,
    epoch: Instant,
    open: Mutex<Open>,
    left: Notify,
    evictions: Storm,
    evicted: Total,
}

#[derive(Default)]
struct Open {
    last_id: u64,
    waits: HashMap<u64, Arc<Wait>>,
}

/// Whose turn it is on a connection: the client's, to send a request or to take a reply, or ours.
pub(super) struct Wait {
    epoch: Instant,
    /// Since when it is the client's turn, in milliseconds since the epoch; [`OURS`] if it is ours.
    since: AtomicU64,
    evicted: AtomicBool,
    eviction: Notify,
}

const OURS: u64 = u64::MAX;

impl Wait {
    fn new(epoch: Instant) -> Self {
        let wait = Self {
            epoch,
            since: AtomicU64::new(OURS),
            evicted: AtomicBool::new(false),
            eviction: Notify::new(),
        };
        wait.for_client();
        wait
    }

    /// The client has to do something from now on.
    pub(super) fn for_client(&self) {
        let since = self.epoch.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(OURS - 1);
        self.since.store(since, Ordering::Relaxed);
    }

    /// A request is there as a whole: the client waits for us.
    pub(super) fn for_us(&self) {
        self.since.store(OURS, Ordering::Relaxed);
    }

    /// For how long the client has kept us waiting; none where it waits for us.
    fn lasts(&self) -> Option<Duration> {
        let since = self.since.load(Ordering::Relaxed);
        let since = (since != OURS).then(|| Duration::from_millis(since))?;
        Some(self.epoch.elapsed().saturating_sub(since))
    }

    /// Waits until the connection is to be closed for another. A client that has sent its request
    /// meanwhile keeps it.
    pub(super) async fn evicted(&self) {
        loop {
            self.eviction.notified().await;
            if self.lasts().is_some() {
                return;
            }
            self.evicted.store(false, Ordering::Relaxed);
        }
    }
}

impl OpenConnections {
    /// None yet, and never more than `most`; `evicted` is how many made room.
    pub(super) fn new(most: usize, evicted: Total) -> Arc<Self> {
        Arc::new(Self {
            most,
            epoch: Instant::now(),
            open: Mutex::default(),
            left: Notify::new(),
            evictions: Storm::default(),
            evicted,
        })
    }

    /// Waits until there is room for another one, and makes room.
    pub(super) async fn room(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.place() {
                return place;
            }
            let _ = timeout(LOOK_AGAIN, self.left.notified()).await;
        }
    }

    /// A place, if there is one. Otherwise one is on its way, unless all clients wait for us.
    fn place(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.waits.len() < self.most {
            open.last_id += 1;
            let (id, wait) = (open.last_id, Arc::new(Wait::new(self.epoch)));
            open.waits.insert(id, Arc::clone(&wait));
            let connections = Arc::clone(self);
            return Some(Place {
                connections,
                id,
                wait,
            });
        }
        let longest = open
            .waits
            .values()
            .filter(|wait| !wait.evicted.load(Ordering::Relaxed))
            .filter_map(|wait| Some((wait.lasts()?, wait)))
            .max_by_key(|(lasts, _)| *lasts)
            .filter(|(lasts, _)| *lasts >= EVICTABLE_AFTER);
        if let Some((_, wait)) = longest {
            wait.evicted.store(true, Ordering::Relaxed);
            wait.eviction.notify_one();
            self.evicted.add(1);
            if let Some(times) = self.evictions.note() {
                tracing::warn!(
                    connections.closed = times,
                    connections.most = self.most,
                    "too many clients: those that have been silent or slow for longest are \
                    disconnected"
                );
            }
        }
        None
    }
}

/// The right to have one connection open, until it is dropped.
pub(super) struct Place {
    connections: Arc<OpenConnections>,
    id: u64,
    /// Whose turn it is.
    pub(super) wait: Arc<Wait>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = self.connections.open.lock();
        let mut open = open.unwrap_or_else(PoisonError::into_inner);
        open.waits.remove(&self.id);
        drop(open);
        self.connections.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_client_that_kept_us_waiting_longest_makes_room_and_one_that_waits_never_does() {
        let connections = OpenConnections::new(3, Total::default());
        let served = connections.room().await;
        served.wait.for_us();
        tokio::time::advance(Duration::from_millis(10)).await;
        let slow = connections.room().await;
        tokio::time::advance(Duration::from_millis(10)).await;
        let later = connections.room().await;
        tokio::time::advance(2 * EVICTABLE_AFTER).await;
        let waits = Arc::clone(&slow.wait);
        let closing = tokio::spawn(async move {
            waits.evicted().await;
            drop(slow);
        });
        let new = connections.room().await;
        closing.await.expect("it ends");
        let evicted = timeout(EVICTABLE_AFTER, later.wait.evicted()).await;
        assert!(evicted.is_err(), "one is enough");
        // The new one has a moment of its own, and then it is the turn of the others.
        later.wait.for_us();
        let begun_at = Instant::now();
        let (next, ()) = tokio::join!(connections.room(), async {
            new.wait.evicted().await;
            drop(new);
        });
        assert!(begun_at.elapsed() <= EVICTABLE_AFTER);
        drop((served, later, next));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_sent_its_request_meanwhile_is_not_disconnected() {
        let wait = Wait::new(Instant::now());
        wait.eviction.notify_one();
        wait.for_us();
        assert!(timeout(EVICTABLE_AFTER, wait.evicted()).await.is_err());
        wait.eviction.notify_one();
        wait.for_client();
        wait.evicted().await;
    }
}
