//! How long claims last, the doubts that they leave, and the sign of life of an instance.

use std::time::Duration;

/// What a lease lasts beyond the longest call: the time between claim and send, and to record the end.
pub const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// An instance that gave no sign of life for so long does not count any more.
pub const INSTANCE_TTL: Duration = Duration::from_secs(5);
/// The rows of instances are removed after so long, by instances that serve: a row that is not there is proof that its
/// instance has signed off, or that another one serves.
pub const INSTANCE_FORGOTTEN: Duration = Duration::from_secs(300);

/// How long claims and doubts last.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTerms {
    /// How long a claim lasts.
    pub lease: Duration,
    /// How long after the end of a lease, or after an unanswered call, a processor may still charge.
    pub late_charge: Duration,
}

impl LeaseTerms {
    /// The terms that outlast a call of `processor_timeout`.
    #[must_use]
    pub fn new(processor_timeout: Duration, late_charge: Duration) -> Self {
        Self {
            lease: processor_timeout + LEASE_MARGIN,
            late_charge,
        }
    }
}
