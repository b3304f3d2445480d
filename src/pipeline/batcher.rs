//! Batches of items that arrive one by one. Accepts are committed, charges begin and outcomes are
//! recorded in batches, because each of these costs less for an item of a batch than for an item
//! alone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Decides when a batch begins. Each stage that works in batches has one, with its own limits.
#[derive(Debug)]
pub(crate) struct Batcher {
    /// Number of items with which a batch begins at once.
    pub(crate) max_items: usize,
    /// Number of items with which a batch begins once `spacing` has passed since the last one
    /// began.
    pub(crate) min_items: usize,
    /// See `min_items`.
    pub(crate) spacing: Duration,
    /// When the last batch began.
    began_at: Option<Instant>,
}

impl Batcher {
    pub(crate) const fn new(max_items: usize, min_items: usize, spacing: Duration) -> Self {
        Self {
            max_items,
            min_items,
            spacing,
            began_at: None,
        }
    }

    /// When a batch of `count` items begins that can wait for more items until `deadline`. None, or
    /// a time that has passed: now.
    pub(crate) fn begins_at(&self, count: usize, deadline: Instant) -> Option<Instant> {
        if count >= self.max_items {
            None
        } else if count >= self.min_items {
            self.began_at.map(|at| deadline.min(at + self.spacing))
        } else {
            Some(deadline)
        }
    }

    /// Notes that a batch begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.began_at = Some(now);
    }
}

/// Items that tasks hand in and that begin in batches, without a task that waits for them.
#[derive(Debug)]
pub struct Gathering<T> {
    batcher: Batcher,
    max_wait: Duration,
    waiting: Mutex<Vec<T>>,
}

/// When the items that were handed in begin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begin<T> {
    /// Now, with all that waited.
    Now(Vec<T>),
    /// At this time, with all that are handed in until then: the caller has to
    /// [take](Gathering::take) them.
    At(Instant),
    /// With the items that wait already.
    WithOthers,
}

impl<T> Gathering<T> {
    /// Of batches that begin with `max_items` items, or `max_wait` after their first item.
    #[must_use]
    pub fn new(max_items: usize, max_wait: Duration) -> Self {
        Self {
            batcher: Batcher::new(max_items, max_items, Duration::ZERO),
            max_wait,
            waiting: Mutex::default(),
        }
    }

    /// Hands in items; an empty iterator has no effect.
    pub(crate) fn join(&self, more: impl IntoIterator<Item = T>, now: Instant) -> Begin<T> {
        let mut waiting = self.lock();
        let is_first = waiting.is_empty();
        waiting.extend(more);
        if waiting.is_empty() {
            return Begin::WithOthers;
        }
        match self.batcher.begins_at(waiting.len(), now + self.max_wait) {
            None => Begin::Now(std::mem::take(&mut *waiting)),
            Some(at) if is_first => Begin::At(at),
            Some(_) => Begin::WithOthers,
        }
    }

    /// Takes all items that wait.
    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_batch_begins_when_it_is_full_or_spaced_or_when_an_item_cannot_wait() {
        let mut batcher = Batcher::new(128, 16, 50 * MS);
        let now = Instant::now();
        let deadline = now + 100 * MS;
        assert_eq!(batcher.begins_at(1, deadline), Some(deadline));
        assert_eq!(batcher.begins_at(16, deadline), None, "the first of all");
        batcher.begin(now);
        assert_eq!(batcher.begins_at(15, deadline), Some(deadline));
        assert_eq!(batcher.begins_at(16, deadline), Some(now + 50 * MS));
        assert_eq!(batcher.begins_at(16, now + 25 * MS), Some(now + 25 * MS));
        assert_eq!(batcher.begins_at(128, deadline), None);
    }

    #[test]
    fn the_first_item_waits_for_others_and_a_full_batch_for_nobody() {
        let gathering = Gathering::new(4, 6 * MS);
        let now = Instant::now();
        assert_eq!(gathering.join([], now), Begin::WithOthers, "nobody came");
        assert_eq!(gathering.join([0], now), Begin::At(now + 6 * MS));
        assert_eq!(gathering.join([1, 2], now + MS), Begin::WithOthers);
        assert_eq!(gathering.join([3], now), Begin::Now(vec![0, 1, 2, 3]));
        assert!(gathering.take().is_empty(), "they have begun");
        assert_eq!(gathering.join([7], now), Begin::At(now + 6 * MS));
        assert_eq!(gathering.take(), [7]);
        let more = vec![1, 2, 3, 4, 5, 6];
        assert_eq!(gathering.join(more.clone(), now), Begin::Now(more));
    }
}
