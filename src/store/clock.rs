//! The database server's clock, as one instance may believe it.
//!
//! Leases, doubts and polls are stored with times of the database's clock, which all instances
//! share. That clock can be set, and a failover can lead to a server with another one. An early end
//! of a lease or a poll is harmless: the next claim asks, and posts to, the same processor under
//! the same `requested_at`. An early end of a doubt is not: a payment that its processor may still
//! charge would go to another one.
//!
//! So no doubt has ended (Guard: ClockIsWatched) before this instance, by its own monotonic clock,
//! has seen enough time pass. It compares both clocks whenever it reads the database's: in its
//! heartbeat, and in the very statement that claims payments in doubt. An absence is proof only if
//!
//! - the instance has watched the database's clock for as long as the longest doubt, without a step
//!   and without a gap (an attempt from before that time is old enough whatever the clocks said
//!   then), and
//! - the doubt is over by the database's clock *and* by the time that the instance has computed
//!   from its own.
//!
//! The monotonic clock stands still while the machine is suspended. Then the database's clock seems
//! to have stepped forward, and the instance waits longer than it must.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::domain::attention::{Attention, Item};
use crate::domain::lease::LeasePolicy;
use crate::telemetry::metrics::Total;

/// Clocks may differ in rate by one part in so many before that counts as a step. A server that
/// slews its clock does so by a twelfth at most.
pub const RATE_PARTS: u32 = 10;
/// A difference beyond that is a step.
pub const STEP_TOLERANCE: Duration = Duration::from_millis(500);
/// The longest time between two looks at the database's clock for which it counts as watched.
pub const WATCH_GAP: Duration = Duration::from_secs(10);

/// How long operators are told of a step.
pub(crate) const STEP_TOLD: Duration = Duration::from_secs(3_600);

/// A step of the database's clock against this instance's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStep {
    /// How far it went, in microseconds; below zero: back.
    pub micros: i64,
    /// When this instance saw it.
    pub seen_at: Instant,
}

impl fmt::Display for ClockStep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.micros.unsigned_abs() as f64 / 1e6;
        let direction = if self.micros < 0 { "back" } else { "forward" };
        write!(out, "{seconds:.1} s {direction}")
    }
}

/// What an instance knows of the database's clock.
#[derive(Debug)]
pub struct DatabaseClock {
    longest_doubt: Duration,
    /// How many steps it made.
    steps: Total,
    watch: Mutex<Watch>,
}

#[derive(Debug, Default)]
struct Watch {
    /// An instant from which others are counted.
    origin: Option<Instant>,
    steady: Option<Steady>,
    last_step: Option<ClockStep>,
}

/// A time in which the clock was watched. Offsets are microseconds by which the database's clock is
/// ahead of a clock that showed 1970 at the origin.
#[derive(Debug, Clone, Copy)]
struct Steady {
    since: Instant,
    seen_at: Instant,
    /// The bounds of the offset.
    low: i64,
    high: i64,
    /// An offset that is not above the lowest of this time, but for the difference in rate.
    floor: i64,
}

impl DatabaseClock {
    /// A clock of which nothing is known, where claims and doubts last for these terms. Its `steps`
    /// are counted.
    #[must_use]
    pub fn new(terms: LeasePolicy, steps: Total) -> Self {
        Self {
            longest_doubt: terms.doubt(),
            steps,
            watch: Mutex::default(),
        }
    }

    /// Takes note of a time that the database read between these two instants.
    pub fn observe(&self, sent_at: Instant, database: DateTime<Utc>, received_at: Instant) {
        let mut watch = self.lock();
        let origin = *watch.origin.get_or_insert(sent_at);
        let low = offset(database, received_at, origin);
        let high = offset(database, sent_at, origin);
        let begin = Steady {
            since: received_at,
            seen_at: received_at,
            low,
            high,
            floor: low,
        };
        let Some(before) = watch.steady else {
            watch.steady = Some(begin);
            return;
        };
        let unseen = sent_at.saturating_duration_since(before.seen_at);
        let drift = micros(unseen / RATE_PARTS);
        let (lowest, highest) = (before.low - drift, before.high + drift);
        let tolerance = micros(STEP_TOLERANCE);
        if high < lowest - tolerance || low > highest + tolerance {
            let step = ClockStep {
                micros: (low / 2 + high / 2) - (before.low / 2 + before.high / 2),
                seen_at: received_at,
            };
            let told = watch
                .last_step
                .is_some_and(|last| received_at - last.seen_at <= WATCH_GAP);
            watch.steady = Some(begin);
            watch.last_step = Some(step);
            self.steps.add(1);
            // Connections that lead to two servers would tell of it again and again.
            if !told {
                tracing::warn!(
                    clock.step_seconds = step.micros as f64 / 1e6,
                    "the database server's clock went {step} against this instance's; \
                    for {:?} no absence of a payment is proof",
                    self.longest_doubt
                );
            }
            return;
        }
        if unseen > WATCH_GAP {
            watch.steady = Some(begin);
            return;
        }
        let followed = low.clamp(lowest, highest);
        watch.steady = Some(Steady {
            since: before.since,
            seen_at: before.seen_at.max(received_at),
            low: followed,
            high: high.clamp(followed, highest),
            floor: (before.floor + drift).min(followed),
        });
    }

    /// Whether a doubt that lasts until then is over beyond doubt, where a statement that was sent
    /// at that instant read this time. The statement has to be [observed](Self::observe) before.
    #[must_use]
    pub fn is_over(
        &self,
        doubt_until: DateTime<Utc>,
        sent_at: Instant,
        database: DateTime<Utc>,
    ) -> bool {
        let watch = self.lock();
        let Some((origin, steady)) = watch.origin.zip(watch.steady) else {
            return false;
        };
        let watched = sent_at.saturating_duration_since(steady.since);
        let computed = steady.floor + micros(sent_at.saturating_duration_since(origin));
        let now = computed.min(database.timestamp_micros());
        let allowance = micros(STEP_TOLERANCE + self.longest_doubt / RATE_PARTS);
        watched >= self.longest_doubt && doubt_until.timestamp_micros() + allowance <= now
    }

    /// Whether the clock has been watched for as long as the longest doubt: whatever was sent by
    /// anybody before that time is answered or lost.
    #[must_use]
    pub(crate) fn is_trusted(&self, now: Instant) -> bool {
        self.lock().steady.is_some_and(|steady| {
            let watched = now.saturating_duration_since(steady.since);
            let unseen = now.saturating_duration_since(steady.seen_at);
            watched >= self.longest_doubt && unseen <= WATCH_GAP
        })
    }

    /// What the database's clock shows at that instant, as far as this instance knows: for labels,
    /// not for proofs.
    #[must_use]
    pub fn estimate(&self, at: Instant) -> Option<DateTime<Utc>> {
        let watch = self.lock();
        let (origin, steady) = watch.origin.zip(watch.steady)?;
        let offset = steady.low + (steady.high - steady.low) / 2;
        DateTime::from_timestamp_micros(offset + micros(at.saturating_duration_since(origin)))
    }

    /// The last step that this instance saw.
    #[must_use]
    pub fn last_step(&self) -> Option<ClockStep> {
        self.lock().last_step
    }

    /// Tells of a step for [`STEP_TOLD`].
    #[must_use]
    pub fn attention(&self, now: Instant) -> Option<Item> {
        let step = self.last_step()?;
        let told = now.saturating_duration_since(step.seen_at) <= STEP_TOLD;
        told.then(|| Attention::ClockStep.item(format!("the database server's clock went {step}")))
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn offset(database: DateTime<Utc>, at: Instant, origin: Instant) -> i64 {
    let since = match at.checked_duration_since(origin) {
        Some(since) => micros(since),
        None => -micros(origin - at),
    };
    database.timestamp_micros() - since
}

fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TERMS: LeasePolicy = LeasePolicy {
        lease: Duration::from_secs(20),
        late_charge: Duration::from_secs(60),
    };
    const DOUBT: Duration = Duration::from_secs(80);

    /// A database server whose clock can be set, and an instance that reads it every second.
    struct Site {
        clock: DatabaseClock,
        now: Instant,
        database: DateTime<Utc>,
    }

    impl Site {
        fn new() -> Self {
            let site = Self {
                clock: DatabaseClock::new(TERMS, Total::default()),
                now: Instant::now(),
                database: "2026-01-01T00:00:00Z".parse().expect("a time"),
            };
            site.look(Duration::ZERO);
            site
        }

        /// A look whose statement took that long, half of it before the clock was read.
        fn look(&self, took: Duration) {
            let (before, after) = (self.now - took / 2, self.now + took / 2);
            self.clock.observe(before, self.database, after);
        }

        /// Lets time go by, of which the database's clock shows `rate` times as much.
        fn pass(&mut self, seconds: u32, rate: f64) {
            for _ in 0..seconds {
                self.now += SECOND;
                self.database += SECOND.mul_f64(rate);
                self.look(Duration::from_millis(2));
            }
        }

        fn step(&mut self, millis: i64) {
            self.database += chrono::TimeDelta::milliseconds(millis);
        }

        /// What is said of a doubt in a statement that begins now and takes no time.
        fn is_over(&self, doubt_until: DateTime<Utc>) -> bool {
            self.look(Duration::ZERO);
            self.clock.is_over(doubt_until, self.now, self.database)
        }

        fn steps(&self) -> Option<i64> {
            let step = self.clock.last_step();
            step.map(|step| (step.micros as f64 / 1e6).round() as i64)
        }
    }

    #[test]
    fn a_doubt_is_over_when_both_clocks_say_so() {
        let mut site = Site::new();
        site.pass(200, 1.0);
        let until = site.database + DOUBT;
        site.pass(87, 1.0);
        assert!(!site.is_over(until));
        site.pass(2, 1.0);
        assert!(site.is_over(until));
    }

    #[test]
    fn its_time_is_estimated_between_looks_and_follows_a_step() {
        let mut site = Site::new();
        let clock = &site.clock;
        assert_eq!(
            DatabaseClock::new(TERMS, Total::default()).estimate(site.now),
            None
        );
        assert_eq!(
            clock.estimate(site.now + SECOND),
            Some(site.database + SECOND)
        );
        site.pass(10, 1.0);
        site.step(-3_600_000);
        site.pass(1, 1.0);
        let estimate = site.clock.estimate(site.now).expect("it was seen");
        assert!(
            (estimate - site.database).num_milliseconds().abs() <= 2,
            "{estimate}"
        );
    }

    #[test]
    fn an_instance_that_has_just_started_believes_no_doubt_to_be_over() {
        let mut site = Site::new();
        let long_ago = site.database - DOUBT * 10;
        site.pass(79, 1.0);
        assert!(!site.is_over(long_ago) && !site.clock.is_trusted(site.now));
        site.pass(2, 1.0);
        assert!(site.is_over(long_ago) && site.clock.is_trusted(site.now));
    }

    #[test]
    fn a_step_forward_ends_no_doubt_even_if_the_claim_is_the_first_to_see_it() {
        let mut site = Site::new();
        site.pass(200, 1.0);
        let until = site.database + DOUBT;
        site.pass(1, 1.0);
        site.step(85_000);
        assert!(!site.is_over(until));
        assert_eq!(site.steps(), Some(85));
        // Nor while the step is fresh.
        site.pass(78, 1.0);
        assert!(!site.is_over(until));
        site.pass(3, 1.0);
        assert!(site.is_over(until), "as much time has really passed");
    }

    #[test]
    fn a_step_back_and_forth_ends_no_doubt_that_was_written_between() {
        let mut site = Site::new();
        site.pass(200, 1.0);
        site.step(-85_000);
        site.pass(1, 1.0);
        let until = site.database + DOUBT;
        site.step(85_000);
        site.pass(1, 1.0);
        assert!(!site.is_over(until));
        assert_eq!(site.steps(), Some(85));
        site.pass(77, 1.0);
        assert!(!site.is_over(until));
    }

    #[test]
    fn a_step_smaller_than_any_that_is_noticed_takes_nothing_off_a_doubt() {
        for millis in [-450, 450] {
            let mut site = Site::new();
            site.pass(200, 1.0);
            site.step(millis);
            site.pass(1, 1.0);
            let until = site.database + DOUBT;
            site.step(-millis);
            for second in 0..80 {
                assert!(!site.is_over(until), "after {second} s");
                site.pass(1, 1.0);
            }
            assert_eq!(site.steps(), None);
            site.pass(10, 1.0);
            assert!(site.is_over(until));
        }
    }

    #[test]
    fn a_clock_that_is_slewed_does_not_step_and_takes_nothing_off_a_doubt() {
        // As fast as chrony slews, for ten minutes, and slower.
        for rate in [1.083, 0.917, 1.0005, 0.9995] {
            let mut site = Site::new();
            site.pass(600, rate);
            let until = site.database + DOUBT;
            for second in 0..80 {
                assert!(!site.is_over(until), "after {second} s at {rate}");
                site.pass(1, rate);
            }
            assert_eq!(site.steps(), None, "{rate}");
            site.pass(25, rate);
            assert!(site.is_over(until), "{rate}");
        }
    }

    #[test]
    fn slow_statements_are_no_steps_and_hide_none_that_lasts() {
        let mut site = Site::new();
        site.pass(100, 1.0);
        for _ in 0..20 {
            site.now += SECOND * 5;
            site.database += SECOND * 5;
            site.look(SECOND * 5);
        }
        assert_eq!(site.steps(), None);
        // It may be hidden by the statement that is as slow, and ends no doubt.
        let until = site.database + DOUBT;
        site.step(4_000);
        site.look(SECOND * 9);
        site.pass(1, 1.0);
        assert_eq!(site.steps(), Some(4));
        site.pass(79, 1.0);
        assert!(!site.is_over(until));
    }

    #[test]
    fn a_step_that_a_slow_reply_hides_ends_no_doubt() {
        let mut site = Site::new();
        site.pass(200, 1.0);
        let until = site.database + DOUBT;
        site.pass(79, 1.0);
        // Set just before it is read, by as much as the reply takes to come.
        site.step(10_000);
        let received_at = site.now + SECOND * 10;
        site.clock.observe(site.now, site.database, received_at);
        assert_eq!(site.steps(), None);
        assert!(!site.clock.is_over(until, site.now, site.database));
    }

    #[test]
    fn a_time_in_which_nobody_looked_is_no_step_and_begins_the_watch_anew() {
        let mut site = Site::new();
        site.pass(200, 1.0);
        let long_ago = site.database - DOUBT * 10;
        assert!(site.is_over(long_ago));
        site.now += WATCH_GAP + SECOND;
        site.database += WATCH_GAP + SECOND;
        assert!(!site.clock.is_trusted(site.now));
        assert!(!site.is_over(long_ago));
        assert_eq!(site.steps(), None);
        // A machine that slept: its own clock stood still.
        site.pass(200, 1.0);
        site.step(3_600_000);
        assert!(!site.is_over(long_ago));
        assert_eq!(site.steps(), Some(3_600));
    }
}
