//! How long claims, the doubts that they leave, and heartbeats of instances last.

use std::time::Duration;

/// How much longer a lease lasts than the longest call: the time between claim and send, and the
/// time to record the outcome.
pub(crate) const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// An instance without a heartbeat for this long does not count as alive.
pub const INSTANCE_TTL: Duration = Duration::from_secs(5);
/// Instances that serve remove the rows of others after this time, or twice the longest doubt where
/// that is longer: a row that is not there is proof
/// that its instance has signed off, or that another one serves.
pub(crate) const INSTANCE_FORGOTTEN: Duration = Duration::from_secs(300);

/// How long claims and doubts last.
#[derive(Debug, Clone, Copy)]
pub struct LeasePolicy {
    /// How long a claim lasts.
    pub lease: Duration,
    /// How long after the end of a lease, or after an unanswered call, a processor may still
    /// charge.
    pub late_charge: Duration,
}

impl LeasePolicy {
    /// The terms that outlast a call of `processor_timeout`.
    #[must_use]
    pub fn new(processor_timeout: Duration, late_charge: Duration) -> Self {
        Self {
            lease: processor_timeout + LEASE_MARGIN,
            late_charge,
        }
    }

    /// How long a claim and the doubt that it leaves last: after that a processor has charged what
    /// was sent under the claim, or never will.
    #[must_use]
    pub fn doubt(self) -> Duration {
        self.lease + self.late_charge
    }
}
