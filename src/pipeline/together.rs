//! Together: charges of payments that were claimed on accept begin at one time. To wake a sleeping
//! process and to fill the caches with the code of a call costs as much as the call, on any machine,
//! and no client waits for a charge. Together with the batches of [settle](super::settle) it saves
//! a sixth of the whole work for a payment at 1,500 payments a second (docs/performance.md).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest time that a charge waits for others: little beside the call, and beside the 1.5 s after
/// which an audit may compare.
pub const CHARGE_MAX_WAIT: Duration = Duration::from_millis(6);
/// Number of charges that begin at once, without waiting for more.
pub const CHARGE_MAX_ITEMS: usize = 16;

/// Items that wait to begin.
#[derive(Debug)]
pub struct Together<T> {
    waiting: Mutex<Vec<T>>,
}

/// When the items that joined begin.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin<T> {
    /// Now, together with all that waited.
    Now(Vec<T>),
    /// After [`CHARGE_MAX_WAIT`], with all that join until then: the caller has to
    /// [take](Together::take) them.
    AfterPause,
    /// With the items that wait already.
    WithOthers,
}

impl<T> Default for Together<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
        }
    }
}

impl<T> Together<T> {
    /// Adds items; an empty iterator has no effect.
    pub fn join(&self, more: impl IntoIterator<Item = T>) -> Begin<T> {
        let mut waiting = self.lock();
        let is_first = waiting.is_empty();
        waiting.extend(more);
        match waiting.len() {
            CHARGE_MAX_ITEMS.. => Begin::Now(std::mem::take(&mut *waiting)),
            1.. if is_first => Begin::AfterPause,
            _ => Begin::WithOthers,
        }
    }

    /// Takes all items that wait.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_waits_for_others_and_enough_of_them_for_nobody() {
        let together = Together::default();
        assert_eq!(together.join([]), Begin::WithOthers, "nobody came");
        assert_eq!(together.join([0]), Begin::AfterPause);
        for number in 1..CHARGE_MAX_ITEMS - 1 {
            assert_eq!(together.join([number]), Begin::WithOthers);
        }
        let all = (0..CHARGE_MAX_ITEMS).collect();
        assert_eq!(together.join([CHARGE_MAX_ITEMS - 1]), Begin::Now(all));
        assert!(together.take().is_empty(), "they have begun");
        assert_eq!(together.join([7]), Begin::AfterPause, "the first again");
        assert_eq!(together.join([8, 9]), Begin::WithOthers);
        assert_eq!(together.take(), [7, 8, 9]);
    }

    #[test]
    fn a_crowd_waits_for_nobody() {
        let crowd: Vec<usize> = (0..CHARGE_MAX_ITEMS + 3).collect();
        let together = Together::default();
        assert_eq!(together.join(crowd.clone()), Begin::Now(crowd));
    }
}
