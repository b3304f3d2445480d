//! When which payment is due.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

/// Payments come due on this grid, or on one that is twice, four or eight times as coarse, where
/// that is fine enough for their rate: each tick wakes a CPU that the service could use. tokio's
/// own timer knows whole milliseconds only, which is coarser than what is measured; this one is the
/// kernel's.
const TICK: Duration = Duration::from_micros(250);

/// Payments due at a constant rate from its start on.
pub(crate) struct Schedule {
    rate: u32,
    total: u64,
    start: Instant,
    /// One permit for each payment that has come due and is not taken yet.
    due: Semaphore,
    taken: Cell<u64>,
}

impl Schedule {
    /// A schedule that starts now.
    pub(crate) fn start(rate: u32, seconds: u32) -> Self {
        Self {
            rate,
            total: u64::from(rate) * u64::from(seconds),
            start: Instant::now(),
            due: Semaphore::new(0),
            taken: Cell::new(0),
        }
    }

    /// Lets payments come due until all are, and then lets those who wait for another go home.
    pub(crate) async fn pace(&self, waiting: usize) -> anyhow::Result<()> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        timer.set(
            Expiration::Interval(TimeSpec::from_duration(tick(self.rate))),
            TimerSetTimeFlags::empty(),
        )?;
        #[expect(
            deprecated,
            reason = "what follows it is `unsafe`, and an OwnedFd is what it asks for: open and \
                ours"
        )]
        let timer = AsyncFd::new(OwnedFd::from(timer))?;
        let mut released = 0;
        while released < self.total {
            let mut ticked = timer.readable().await?;
            let read = ticked.try_io(|timer| {
                let mut expirations = [0; 8];
                Ok(nix::unistd::read(timer, &mut expirations)?)
            });
            if let Ok(read) = read {
                read?;
            }
            let due = due_after(self.rate, self.start.elapsed()).min(self.total);
            let new = usize::try_from(due - released)?;
            self.due.add_permits(new);
            released = due;
        }
        self.due.add_permits(waiting);
        Ok(())
    }

    /// Waits until the next payment is due. Returns the moment at which it was, or none after the
    /// last.
    pub(crate) async fn next(&self) -> Option<Instant> {
        self.due
            .acquire()
            .await
            .expect("nobody closes the semaphore")
            .forget();
        let index = self.taken.replace(self.taken.get() + 1);
        (index < self.total).then(|| self.start + due_at(self.rate, index))
    }
}

/// The time from one tick to the next: no two payments of that rate need be due on one, if they
/// need not on the finest.
fn tick(rate: u32) -> Duration {
    let coarser = [8, 4, 2].map(|times| TICK * times);
    let fine_enough = |tick: &Duration| *tick * rate <= Duration::from_secs(1);
    coarser.into_iter().find(fine_enough).unwrap_or(TICK)
}

/// When a payment is due, from the start: on the tick by which the rate asks for it.
fn due_at(rate: u32, index: u64) -> Duration {
    let exact = Duration::from_nanos(
        u64::try_from((u128::from(index) + 1) * 1_000_000_000 / u128::from(rate))
            .unwrap_or(u64::MAX),
    );
    let tick = tick(rate);
    let ticks = exact.as_nanos().div_ceil(tick.as_nanos());
    tick * u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// How many payments are due at that time from the start.
fn due_after(rate: u32, elapsed: Duration) -> u64 {
    let tick = tick(rate).as_nanos();
    let whole_ticks = elapsed.as_nanos() / tick * tick;
    u64::try_from(whole_ticks * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_is_due_at_the_first_tick_that_releases_it() {
        for rate in [1, 7, 1_500, 2_000, 12_000, 33_333] {
            for index in [0, 1, 2, 999, 123_456] {
                let due = due_at(rate, index);
                assert!(due_after(rate, due) > index, "{rate}/s, payment {index}");
                assert!(
                    due_after(rate, due - tick(rate)) <= index,
                    "{rate}/s, payment {index}"
                );
            }
        }
    }

    #[test]
    fn ticks_are_as_coarse_as_the_rate_allows() {
        for (rate, micros) in [
            (1, 2_000),
            (500, 2_000),
            (501, 1_000),
            (1_500, 500),
            (2_000, 500),
        ] {
            assert_eq!(tick(rate), Duration::from_micros(micros), "{rate}/s");
        }
        assert_eq!(tick(2_001), TICK);
        assert_eq!(tick(1_000_000), TICK);
    }

    #[test]
    fn the_rate_is_kept_to_the_payment() {
        for rate in [1, 7, 1_500, 33_333] {
            assert_eq!(
                due_after(rate, Duration::from_secs(60)),
                u64::from(rate) * 60
            );
        }
    }
}
