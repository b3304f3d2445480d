//! What clients may hold of an address, and for how long.

use std::time::Duration;

/// The longest request body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 4 * 1024;

/// What clients may hold of an address, and for how long. All of it is the same everywhere: whoever
/// waits longer is broken, or means harm.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections, and so requests in progress. Beyond that a new one takes the place of the
    /// one whose client has kept us waiting for longest, or waits, where all wait for us.
    pub connections: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// From the first byte of a request's head to its last, at most.
    pub head: Duration,
    /// From the last byte of the head to the last of the body, at most.
    pub body: Duration,
    /// How long either may take before its rate counts: three times what a lost packet costs.
    pub slack: Duration,
    /// Bytes a second of a head or a body from then on, on average. Either comes in one packet or a
    /// few; who sends it byte by byte only wants to hold a place.
    pub least_rate: u32,
    /// How long a connection may be open without a request, and without a byte in either direction.
    /// Longer than the 60 s after which nginx closes an idle connection by itself, so that it never
    /// sends a request on one that is being closed here.
    pub idle: Duration,
    /// How long a client may take nothing of a reply that waits for it.
    pub stall: Duration,
    /// Whether it is noticed at once that a client left before it had its reply, as whoever serves
    /// a feed wants to know. It takes a buffer of 8 KiB for each request, and a payment is accepted
    /// all the same.
    pub notice_leaving: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            head_bytes: 16 * 1024,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            slack: Duration::from_secs(3),
            least_rate: 1_024,
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(10),
            notice_leaving: false,
        }
    }
}

impl Limits {
    /// How long something may take, of which so many bytes have come, and which has `most` in all.
    pub(super) fn due(&self, most: Duration, received: usize) -> Duration {
        let bytes = u32::try_from(received).unwrap_or(u32::MAX);
        let earned = Duration::from_secs(1) * bytes / self.least_rate.max(1);
        most.min(self.slack + earned)
    }
}
