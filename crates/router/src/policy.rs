//! The constants of the router, each with its unit.

use std::time::Duration;

/// The longest time for which a processor that says `Retry-After` is left alone. A longer one is
/// cut to this, so that no header takes a processor out of use for good.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// Every constant of the router. The default is what is shipped; `make routing-bench` shows what it
/// earns.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Successes that every processor is credited with before anything is known of it.
    pub prior_successes: f64,
    /// Failures that every processor is charged with before anything is known of it.
    pub prior_failures: f64,
    /// Time in which half of what was seen of successes and failures is forgotten.
    pub forget_half_life: Duration,

    /// Price of one second until a payment is settled, as a share of its amount.
    pub price_per_second: f64,
    /// A wait for a slot that is this long costs twice the price per second, and a longer one more
    /// than in proportion: what waits is a backlog, and all of it is lost if there is no time left
    /// to drain it.
    pub wait_doubles_at: Duration,
    /// Price of a failed attempt, as a share of the amount.
    pub price_per_failure: f64,
    /// Price of a payment in flight for longer than the lag of an audit, as a share of the amount.
    pub price_of_slowness: f64,
    /// Latency from which the price of slowness begins to be charged.
    pub slow_from: Duration,
    /// Latency from which it is charged in full.
    pub slow_fully: Duration,

    /// For how long an outage of a cheaper processor is waited for before a higher fee is paid.
    pub hold: Duration,

    /// For how long a cheaper processor that is out, too, is waited for after a dearer one has come
    /// back: what ended one outage has often ended the other, and the probes will tell in a moment.
    pub shared_outage_hold: Duration,
    /// Latency from which payments are sent in bursts.
    pub burst_from: Duration,
    /// Payments to a processor slower than `burst_from` go out together within this time, and the
    /// next ones only when those are back. An audit can then disagree only in the moment in which a
    /// burst ends.
    pub burst: Duration,

    /// Payments in flight at one processor from all instances together, at most. Below the 800 that
    /// a processor serves at once, because look-ups of single payments share those.
    pub shared_cap: u32,
    /// Payments in flight at one processor from this instance, at most: it has files for the
    /// connections of so many.
    pub own_cap: u32,
    /// Payments in flight at one processor from all instances together that are always allowed.
    pub floor: u32,
    /// Payments in flight for each payment that arrives during one latency (Little's law asks for
    /// 1).
    pub headroom: f64,
    /// The least time for which arrivals find room, however fast the processor is: that of eight
    /// commits of a crowd. They come all to one instance for a moment where the load balancer turns
    /// from one to another, and together after a stall of the database.
    pub room_for: Duration,
    /// Time in which a backlog is meant to be gone; it counts as arrivals spread over that time.
    pub drain_within: Duration,

    /// Consecutive failures that open a breaker.
    pub failures_to_open: u32,
    /// Time between two probes of an open breaker, by all instances together.
    pub probe_every: Duration,
    /// Probes in flight at one processor from all instances together, at most.
    pub probes_in_flight: u32,
    /// A processor that reports a higher minimal response time than this is not probed, because a
    /// slow probe may be in flight while an audit looks.
    pub probe_slowest: Duration,
    /// Permits at a time while a breaker is half open, in each instance.
    pub trial_permits: u32,
    /// Successes in a row that close a half-open breaker.
    pub successes_to_close: u32,

    /// Weight of the newest reply in the moving average of the latency (0 to 1).
    pub latency_weight: f64,
    /// Silence after which the newest reply weighs a half at least.
    pub latency_memory: Duration,
    /// Latency that is assumed before anything is known.
    pub latency_prior: Duration,
    /// Latencies above this are not told apart, so that one absurd reply is forgotten in finite
    /// time.
    pub latency_longest: Duration,
    /// A reply to a request this much older than the newest one answered says nothing about the
    /// present.
    pub latency_disorder: Duration,
    /// Silence after which a newer report of the health endpoint replaces the measured latency.
    pub latency_stale: Duration,
    /// Time in which half of the distance to the prior is covered when neither replies nor reports
    /// come.
    pub latency_half_life: Duration,
    /// Time after which a report of the health endpoint is too old to be used.
    pub health_expires: Duration,

    /// Time over which arrivals are averaged (half-life).
    pub arrivals_half_life: Duration,
    /// Longest time that a processor may keep us away with `Retry-After`.
    pub longest_throttle: Duration,
    /// Shortest time before a caller that was told to wait is asked to come back.
    pub shortest_wait: Duration,
    /// Longest time before a caller that was told to wait is asked to come back.
    pub longest_wait: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            prior_successes: 9.0,
            prior_failures: 1.0,
            forget_half_life: Duration::from_secs(2),
            price_per_second: 0.01,
            wait_doubles_at: Duration::from_millis(2_500),
            price_per_failure: 0.02,
            price_of_slowness: 0.02,
            slow_from: Duration::from_millis(1_100),
            slow_fully: Duration::from_millis(1_300),
            hold: Duration::from_secs(2),
            shared_outage_hold: Duration::from_millis(100),
            burst_from: Duration::from_millis(400),
            burst: Duration::from_millis(50),
            shared_cap: 780,
            own_cap: 780,
            floor: 32,
            headroom: 3.0,
            room_for: Duration::from_millis(32),
            drain_within: Duration::from_secs(1),
            failures_to_open: 10,
            probe_every: Duration::from_millis(100),
            probes_in_flight: 8,
            probe_slowest: Duration::from_millis(1_200),
            trial_permits: 10,
            successes_to_close: 3,
            latency_weight: 0.1,
            latency_memory: Duration::from_millis(200),
            latency_prior: Duration::from_millis(50),
            latency_longest: Duration::from_secs(15),
            latency_disorder: Duration::from_millis(50),
            latency_stale: Duration::from_secs(1),
            latency_half_life: Duration::from_secs(10),
            health_expires: Duration::from_secs(15),
            arrivals_half_life: Duration::from_secs(1),
            longest_throttle: MAX_RETRY_AFTER,
            shortest_wait: Duration::from_millis(1),
            longest_wait: Duration::from_millis(100),
        }
    }
}
