//! The limit on health calls: one in each window, a few wait for a later one, the rest are refused.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Fixed windows of equal length, each of which has one call to give.
#[derive(Debug)]
struct Windows {
    origin: Instant,
    length: Duration,
    /// The first window whose call is not taken.
    free: u32,
}

impl Windows {
    /// Takes the call of the window that `now` lies in, or says when to try again.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let elapsed = now.saturating_duration_since(self.origin).as_nanos();
        let current = u32::try_from(elapsed / self.length.as_nanos().max(1)).unwrap_or(u32::MAX);
        if self.free <= current {
            self.free = current.saturating_add(1);
            Ok(())
        } else {
            Err(self.origin + self.length * self.free)
        }
    }
}

/// The gate in front of the health endpoint. It counts calls, whoever they come from.
#[derive(Debug)]
pub(super) struct HealthGate {
    windows: Mutex<Windows>,
    waiting: AtomicUsize,
    most_waiting: usize,
    /// Those that wait stand in line here, first in first out.
    line: tokio::sync::Mutex<()>,
}

/// The gate is shut: too many calls are waiting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// Counts one waiting call, also when its client hangs up.
struct Position<'a>(&'a AtomicUsize);

impl Drop for Position<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl HealthGate {
    pub(super) fn new(origin: Instant, length: Duration, most_waiting: usize) -> Self {
        Self {
            windows: Mutex::new(Windows {
                origin,
                length,
                free: 0,
            }),
            waiting: AtomicUsize::new(0),
            most_waiting,
            line: tokio::sync::Mutex::new(()),
        }
    }

    fn take(&self) -> Result<(), Instant> {
        self.windows
            .lock()
            .expect("no code panics under this lock")
            .take(Instant::now())
    }

    /// Calls that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Returns when the call may be answered.
    pub(super) async fn pass(&self) -> Result<(), Refused> {
        // Whoever comes while others wait stands behind them, even in a new window.
        if self.waiting.load(Ordering::Acquire) == 0 && self.take().is_ok() {
            return Ok(());
        }
        self.waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < self.most_waiting).then_some(waiting + 1)
            })
            .map_err(|_| Refused)?;
        let _position = Position(&self.waiting);
        let _first_in_line = self.line.lock().await;
        while let Err(next) = self.take() {
            tokio::time::sleep_until(next).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(5);

    #[test]
    fn a_window_has_one_call() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let mut windows = Windows {
            origin,
            length: WINDOW,
            free: 0,
        };
        assert_eq!(windows.take(at(4_999)), Ok(()));
        assert_eq!(windows.take(at(4_999)), Err(at(5_000)));
        assert_eq!(windows.take(at(5_000)), Ok(()));
        assert_eq!(windows.take(at(9_999)), Err(at(10_000)));
        // Calls that were not taken are not saved up.
        assert_eq!(windows.take(at(31_000)), Ok(()));
        assert_eq!(windows.take(at(31_001)), Err(at(35_000)));
    }

    #[tokio::test]
    async fn two_more_calls_wait_for_the_next_windows_and_the_rest_are_refused() {
        let window = Duration::from_millis(100);
        let start = Instant::now();
        let gate = HealthGate::new(start, window, 2);
        assert_eq!(gate.pass().await, Ok(()));
        let timed = async || gate.pass().await.map(|()| start.elapsed());
        let (second, third, fourth) = tokio::join!(timed(), timed(), timed());
        assert_eq!(fourth, Err(Refused));
        let (second, third) = (second.unwrap(), third.unwrap());
        assert!(second >= window, "{second:?}");
        assert!(third >= window * 2, "{third:?}");
        assert!(third >= second);
    }

    #[tokio::test]
    async fn a_waiting_call_whose_client_hangs_up_leaves_its_place_to_another() {
        let gate = HealthGate::new(Instant::now(), Duration::from_millis(100), 1);
        assert_eq!(gate.pass().await, Ok(()));
        let mut waiting = Box::pin(gate.pass());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(gate.pass().await, Err(Refused));
        drop(waiting);
        assert_eq!(gate.pass().await, Ok(()));
    }
}
