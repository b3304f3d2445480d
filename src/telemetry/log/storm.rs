//! Events that come by the hundred: a line for all of them now and then, and not one for each.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The least time between two lines about events of one kind.
pub const STORM_PAUSE: Duration = Duration::from_secs(10);

/// How many events of a kind there were that no line tells of yet.
#[derive(Debug, Default)]
pub(crate) struct Storm(Mutex<(Option<Instant>, u64)>);

impl Storm {
    /// None yet.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Counts an event. Returns how many a line has to tell of now: the first at once, and after
    /// that what came in [`STORM_PAUSE`] since the last line.
    pub(crate) fn note(&self) -> Option<u64> {
        self.note_all(1)
    }

    /// The same for so many events at once; none, if there was none.
    pub(crate) fn note_all(&self, events: usize) -> Option<u64> {
        self.note_at(events, Instant::now())
    }

    fn note_at(&self, events: usize, now: Instant) -> Option<u64> {
        if events == 0 {
            return None;
        }
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told_at, untold) = &mut *noted;
        *untold += events as u64;
        if told_at.is_some_and(|at| now < at + STORM_PAUSE) {
            return None;
        }
        *told_at = Some(now);
        Some(std::mem::take(untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_together() {
        let (storm, begin) = (Storm::default(), Instant::now());
        assert_eq!(storm.note_at(0, begin), None);
        assert_eq!(storm.note_at(1, begin), Some(1));
        for millisecond in 1..500 {
            let now = begin + Duration::from_millis(millisecond);
            assert_eq!(storm.note_at(1, now), None);
        }
        assert_eq!(storm.note_at(2, begin + STORM_PAUSE), Some(501));
        assert_eq!(storm.note_at(1, begin + STORM_PAUSE), None);
    }
}
