//! How hard a round is: the times that the instances are run with, and how often trouble comes.

use std::ops::Range;
use std::time::Duration;

use payment_proxy::domain::lease::LeasePolicy;

/// The times of a round.
#[derive(Debug, Clone)]
pub struct Pace {
    /// `PROCESSOR_TIMEOUT_MS` of the instances. Shorter than the slowest charge, so that payments
    /// are stored after their call was given up.
    pub processor_timeout: Duration,
    /// `LATE_CHARGE_MS` of the instances. Longer than the slowest charge, as it has to be.
    pub late_charge: Duration,
    /// The longest delay that a processor is configured with.
    pub longest_delay: Duration,
    /// How much longer than that a slow payment takes, at most.
    pub longest_slow: Duration,
    /// The time between two troubles of one instance.
    pub instance_pause: Range<Duration>,
    /// The time between two troubles of the database.
    pub database_pause: Range<Duration>,
    /// How long a killed instance, or the database, stays away.
    pub away: Range<Duration>,
    /// The time between two mixes of faults of one processor.
    pub faults_pause: Range<Duration>,
    /// Whether instances are also stopped, and also spared, for longer than a doubt lasts.
    pub long_stops: bool,
    /// How far the clock of the database server is set ahead and back; `None`: it goes right.
    /// Longer than a doubt, and far below the day that a record's time may be off.
    pub clock_off: Option<Range<Duration>>,
    /// Whether dumps of the database are restored. It takes some doubts' time, and load meanwhile.
    pub restores: bool,
}

impl Pace {
    /// How long a claim lasts.
    pub fn lease(&self) -> Duration {
        LeasePolicy::new(self.processor_timeout, self.late_charge).lease
    }

    /// How long a payment may be in doubt whose worker died.
    pub fn longest_doubt(&self) -> Duration {
        self.lease() + self.late_charge
    }

    /// How long a processor may take for one payment.
    pub fn longest_charge(&self) -> Duration {
        self.longest_delay + self.longest_slow
    }
}
