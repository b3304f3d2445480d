//! Everything that the router knows of one processor.

use std::time::Duration;

use rust_decimal::prelude::ToPrimitive;

use super::breaker::{Breaker, Change, State};
use super::latency::Latency;
use super::posterior::Posterior;
use super::router::LeftOut;
use super::utility::{Outlook, utility};
use super::{Policy, ProcessorTerms, Time, Verdict};

/// What the health endpoint said last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Health {
    pub(super) failing: bool,
    pub(super) min_response_time: Duration,
    pub(super) at: Time,
}

/// What an instance has to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Payments per second, the backlog included.
    pub(super) demand: f64,
    /// Payments that wait in front of a new one.
    pub(super) waiting: f64,
}

/// Whether a processor can take a payment.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slot {
    /// Now.
    Free,
    /// It has no slot free; one is expected then, and the seconds until one is left for the next
    /// payment.
    Taken { until: Time, wait: f64 },
    /// Not in any foreseeable time.
    Closed,
}

impl Slot {
    /// Seconds until the payment could go.
    pub(super) fn wait(self) -> Option<f64> {
        match self {
            Self::Free => Some(0.0),
            Self::Taken { wait, .. } => Some(wait),
            Self::Closed => None,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct ProcessorState {
    pub(super) name: String,
    pub(super) fee: f64,
    pub(super) enabled: bool,
    pub(super) breaker: Breaker,
    pub(super) posterior: Posterior,
    pub(super) latency: Latency,
    pub(super) in_flight: u32,
    pub(super) throttled_until: Time,
    /// When the present burst of payments to a slow processor began.
    burst_began: Time,
    pub(super) health: Option<Health>,
    /// When a payment last went there, or its end came back.
    pub(super) asked_at: Option<Time>,
}

impl ProcessorState {
    pub(super) fn new(terms: ProcessorTerms, policy: &Policy, now: Time) -> Self {
        let prior = (policy.prior_successes, policy.prior_failures);
        Self {
            name: terms.name,
            // A fee that no float can tell (there is none in a decimal's range) would be all of the
            // amount.
            fee: terms.fee.to_f64().unwrap_or(1.0),
            enabled: true,
            breaker: Breaker::new(now),
            posterior: Posterior::new(prior, policy.forget_half_life, now),
            latency: Latency::new(policy, now),
            in_flight: 0,
            throttled_until: now,
            burst_began: now,
            health: None,
            asked_at: None,
        }
    }

    pub(super) fn finished(
        &mut self,
        sent_at: Option<Time>,
        probe: bool,
        verdict: Verdict,
        now: Time,
        policy: &Policy,
    ) -> Option<Change> {
        self.in_flight = self.in_flight.saturating_sub(1);
        if probe {
            self.breaker.returned(verdict != Verdict::Abandoned);
        }
        if sent_at.is_some() {
            self.asked_at = Some(now);
        }
        if let Some(sent_at) = sent_at {
            match verdict {
                Verdict::Charged | Verdict::Declined => {
                    self.latency.ended(sent_at, now, true, policy);
                }
                Verdict::Unanswered | Verdict::Unknown => {
                    self.latency.ended(sent_at, now, false, policy);
                }
                Verdict::NotSent | Verdict::Throttled { .. } | Verdict::Abandoned => {
                    self.latency.gone(sent_at)
                }
            }
        }
        match verdict {
            Verdict::Charged | Verdict::Unanswered => {
                self.posterior.record(true, now);
                self.breaker.succeeded(now, policy)
            }
            Verdict::Declined | Verdict::NotSent => {
                self.posterior.record(false, now);
                self.breaker.failed(now, None, policy)
            }
            Verdict::Unknown => {
                self.posterior.record(false, now);
                self.breaker.failed(now, sent_at, policy)
            }
            Verdict::Throttled { retry_after } => {
                let until = now + retry_after.min(policy.longest_throttle);
                self.throttled_until = self.throttled_until.max(until);
                None
            }
            Verdict::Abandoned => None,
        }
    }

    pub(super) fn reported(&mut self, health: Health, policy: &Policy) -> Option<Change> {
        self.health = Some(health);
        self.latency
            .reported(health.min_response_time, health.at, policy);
        self.breaker.reported(health.failing, health.at, policy)
    }

    /// It is back, as `change` says, and a backlog waits, which is not kept waiting for the probes
    /// that are still under way.
    pub(super) fn trust(&mut self, now: Time, change: Change) -> Change {
        self.burst_began = now;
        Change {
            from: change.from,
            ..self.breaker.close(change.reason, now)
        }
    }

    /// Whether a probe could still be under way while an audit looks, as far as the health endpoint
    /// knows. What it said before the last processor came back is out of date; then one probe is
    /// risked.
    pub(super) fn too_slow_to_probe(&self, now: Time, recovery: Time, policy: &Policy) -> bool {
        self.health.is_some_and(|health| {
            health.min_response_time > policy.probe_slowest
                && now.saturating_sub(health.at) < policy.health_expires
                && (health.at >= recovery || self.breaker.probing() > 0)
        })
    }

    /// What it is worth to send it a payment, with that chance of success, in those seconds and
    /// after that wait.
    pub(super) fn worth(&self, success: f64, latency: f64, wait: f64, policy: &Policy) -> f64 {
        let outlook = Outlook {
            fee: self.fee,
            success,
            latency,
            wait,
        };
        utility(outlook, policy)
    }

    /// Whether a payment can go now, or when it is expected to.
    pub(super) fn slot(
        &self,
        latency: f64,
        load: Load,
        now: Time,
        policy: &Policy,
        alive: u32,
    ) -> Slot {
        if !self.enabled
            || self.breaker.state() == State::Open
            || !self.breaker.permits(now, policy, alive)
        {
            return Slot::Closed;
        }
        if now < self.throttled_until {
            return Slot::Taken {
                until: self.throttled_until,
                wait: (self.throttled_until - now).as_secs_f64(),
            };
        }
        let cap = cap(latency, load.demand, policy, alive);
        // With `cap` slots a processor serves cap / latency payments per second.
        let turn = latency / f64::from(cap);
        let wait = ((load.waiting + 1.0) * turn).min(LONGEST_RECKONED_WAIT);
        if let Some(until) = self.next_burst(latency, now, policy) {
            let rest = until.saturating_sub(now).as_secs_f64();
            return Slot::Taken {
                until,
                wait: wait.max(rest),
            };
        }
        if self.in_flight < cap {
            return Slot::Free;
        }
        Slot::Taken {
            until: now + Duration::from_secs_f64(turn.min(LONGEST_RECKONED_WAIT)),
            wait,
        }
    }

    /// Why [`Slot::Closed`] is all that it has.
    pub(super) fn left_out(&self) -> LeftOut {
        match self.breaker.state() {
            _ if !self.enabled => LeftOut::SwitchedOff,
            State::Open => LeftOut::BreakerOpen,
            State::Closed | State::HalfOpen => LeftOut::TrialsOut,
        }
    }

    /// When the next payment may go to a slow processor, if not now.
    fn next_burst(&self, latency: f64, now: Time, policy: &Policy) -> Option<Time> {
        let slow = latency >= policy.burst_from.as_secs_f64();
        if !slow || self.in_flight == 0 || now < self.burst_began + policy.burst {
            return None;
        }
        // A straggler does not keep the others waiting for ever.
        let latest = self.burst_began
            + Duration::from_secs_f64(latency.min(LONGEST_BURST)).mul_f64(BURST_TIMEOUT);
        (now < latest).then_some(latest)
    }

    /// Whether the only thing to send is a probe, and it may go now.
    pub(super) fn probe_due(&self, now: Time, recovery: Time, policy: &Policy, alive: u32) -> bool {
        self.breaker.state() == State::Open
            && now >= self.throttled_until
            && self.in_flight < hard_cap(policy, alive)
            && self.breaker.permits(now, policy, alive)
            && !self.too_slow_to_probe(now, recovery, policy)
    }

    /// Takes a permit; returns whether it is a probe.
    pub(super) fn take(&mut self, now: Time, policy: &Policy, alive: u32) -> bool {
        if self.in_flight == 0 || now >= self.burst_began + policy.burst {
            self.burst_began = now;
        }
        self.in_flight += 1;
        self.breaker.take(now, policy, alive)
    }
}

/// Longest wait for a slot that is told apart from none, in seconds.
const LONGEST_RECKONED_WAIT: f64 = 3_600.0;

/// The next burst begins after this many latencies, although not all of the last one are back.
const BURST_TIMEOUT: f64 = 1.25;

/// Longest latency that a burst is waited for, in seconds.
const LONGEST_BURST: f64 = 15.0;

/// The share of this instance in the slots of a processor, never less than one.
pub(super) fn hard_cap(policy: &Policy, alive: u32) -> u32 {
    (policy.shared_cap / alive.max(1))
        .min(policy.own_cap)
        .max(1)
}

/// How many payments this instance keeps in flight at a processor with that latency (seconds) while
/// it has that many to send (per second): Little's law with headroom, so that a processor that
/// becomes slow gets more slots, not fewer. It is slow by decree, not by load; a limiter that
/// follows the gradient of the latency would starve it. The fastest gets slots for what commits
/// bring at once.
pub(super) fn cap(latency: f64, demand: f64, policy: &Policy, alive: u32) -> u32 {
    let floor = f64::from((policy.floor / alive.max(1)).max(1));
    let latency = latency.max(policy.room_for.as_secs_f64());
    // The cast saturates, and the hard cap is far below any imprecision.
    ((floor + policy.headroom * demand * latency) as u32).min(hard_cap(policy, alive))
}
