//! The clock of this machine that goes on while the machine is suspended (Linux: `CLOCK_BOOTTIME`).
//!
//! What must *not* happen any more after a deadline is compared with this clock: a machine that
//! resumes sends no charge whose time is over, and claims nothing before it has asked what became
//! of the deployment. What may happen only *after* enough time has passed is compared with the
//! monotonic clock ([`Instant`](std::time::Instant)), which stands still meanwhile and at worst
//! makes an instance wait longer.
//!
//! A hypervisor that stops a machine and gives it back the time of before (a snapshot, a pause that
//! the guest is not told of) stops both clocks, and nothing on that machine can tell.

use std::fmt;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Where the system has no such clock, its monotonic one.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// A moment: the time since the machine was started, that of its suspensions included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    /// What the clock shows now.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(CLOCK).expect("Linux has had this clock since 2.6.39");
        Self(time.into())
    }

    /// The time from `earlier` to this moment; zero where `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Uptime {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        Self(self.0.saturating_add(length))
    }
}

/// Something that shows the time: [`Uptime::now`], but in tests of machines that are suspended.
#[derive(Clone)]
pub struct UptimeClock(Arc<dyn Fn() -> Uptime + Send + Sync>);

impl UptimeClock {
    /// A clock that shows what `read` returns.
    pub fn new(read: impl Fn() -> Uptime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// What it shows now.
    #[must_use]
    pub fn now(&self) -> Uptime {
        (self.0)()
    }
}

impl Default for UptimeClock {
    /// The machine's.
    fn default() -> Self {
        Self::new(Uptime::now)
    }
}

impl fmt::Debug for UptimeClock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "UptimeClock({:?})", self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/proc/uptime` tells the same clock, in hundredths of a second.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_time_of_suspensions_counts() {
        let before = Uptime::now();
        let told = std::fs::read_to_string("/proc/uptime").expect("it is there");
        let seconds = told
            .split_whitespace()
            .next()
            .and_then(|it| it.parse().ok());
        let told = Duration::from_secs_f64(seconds.expect("seconds"));
        let grain = Duration::from_millis(20);
        let span = before.0.saturating_sub(grain)..=Uptime::now().0 + grain;
        assert!(span.contains(&told), "{told:?} is not in {span:?}");
    }
}
