//! Which processor a payment is sent to, and when none is.
//!
//! [`Router`] is a pure core: it is told what happened ([`Router::observe`]) and asked what to do
//! with the next payment ([`Router::decide`]); time and randomness are arguments. [`SharedRouter`]
//! puts it behind a lock for the threads of an instance and hands out [`Permit`]s that find their
//! own way back; it is given a clock, a source of randomness, and whom to tell of a breaker that
//! changed.
//!
//! For each processor that can take a payment the router computes a [utility](utility::utility) in
//! shares of the amount: what is left after the fee, less the price of its latency, of failed
//! attempts, of waiting for a free slot and of being too slow for an audit. How likely an attempt
//! succeeds is sampled from a [posterior](posterior::Posterior) that forgets (Thompson sampling),
//! so an uncertain processor is tried now and then. The best processor gets the payment, unless
//!
//! - its [breaker](breaker::Breaker) is open: then it gets one real payment now and then as a
//!   probe;
//! - its slots are all taken, and waiting for one is still worth more than the next best: then
//!   [`Decision::Wait`];
//! - a cheaper one has gone out only just now: then [`Decision::Hold`].

use std::time::Duration;

use rust_decimal::Decimal;

mod arrivals;
pub mod breaker;
mod explain;
pub mod latency;
mod permit;
mod policy;
pub mod posterior;
mod processor_state;
mod router;
pub mod utility;

/// What threads share the router with. `tests/permit_model.rs` puts loom's in its place.
mod sync {
    pub(super) use std::sync::{Arc, Mutex, MutexGuard};
}

pub use breaker::State as BreakerState;
pub use explain::{
    Alternative, BreakerReport, Choice, Explanation, HealthReport, PastDecision, ProcessorReport,
};
pub use permit::{Permit, Plan, SharedRouter};
pub use policy::{MAX_RETRY_AFTER, Policy};
pub use router::{LeftOut, Router, StateChange};

/// A moment of monotonic time, counted from an epoch that the caller chooses.
pub type Time = Duration;

/// What a processor asks for its service. The router takes processors in order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessorTerms {
    /// The name in reports and logs.
    pub name: String,
    /// The share of the amount that it keeps: 0.05 is five per cent.
    pub fee: Decimal,
}

/// What is known of the queue of the whole deployment. Estimates will do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queue {
    /// Payments that wait to be sent.
    pub waiting: u64,
    /// For how long the oldest of them has been waiting.
    pub oldest_age: Duration,
}

/// What to do with the next payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send it to this processor. A permit has been taken, which [`Event::Finished`] gives back.
    Send {
        /// Its place in the terms.
        processor: usize,
        /// Whether the permit was given to find out about a processor whose breaker is not closed.
        probe: bool,
    },
    /// Keep it: a cheaper processor went out only just now and may be back soon. Ask again at
    /// `until`.
    Hold {
        /// When to ask again.
        until: Time,
    },
    /// Keep it: nothing better can be done at present. Ask again at `until`, or when a permit comes
    /// back.
    Wait {
        /// When to ask again.
        until: Time,
    },
}

/// How an attempt ended, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The processor has charged the payment.
    Charged,
    /// The processor has charged the payment, as a look-up found: it did not answer, or has not
    /// yet. It is slow, not failing.
    Unanswered,
    /// The processor has answered that it did not charge.
    Declined,
    /// Nothing reached the processor (no connection).
    NotSent,
    /// It was sent, and nobody knows what became of it.
    Unknown,
    /// 429: not charged, and nothing may be sent for that long.
    Throttled {
        /// The time that the processor asked for.
        retry_after: Duration,
    },
    /// The permit came back unused. No evidence of anything.
    Abandoned,
}

/// What the router learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// This instance has accepted payments.
    Arrived {
        /// How many.
        count: u32,
    },
    /// The first byte of a request goes out.
    Dispatched {
        /// To this processor.
        processor: usize,
        /// Then.
        at: Time,
    },
    /// A permit comes back.
    Finished {
        /// The processor that it was for.
        processor: usize,
        /// When the first byte went out, if it did.
        sent_at: Option<Time>,
        /// Whether the permit was given as a probe, see [`Decision::Send`].
        probe: bool,
        /// What became of the attempt.
        verdict: Verdict,
    },
    /// The health endpoint of a processor has answered.
    Health {
        /// The processor.
        processor: usize,
        /// It fails at present.
        failing: bool,
        /// No payment takes less than this at present.
        min_response_time: Duration,
    },
    /// An attempt of another instance succeeded at a processor that it had given up.
    Recovered {
        /// The processor.
        processor: usize,
    },
    /// How many instances are alive, this one included; they share the caps.
    Instances {
        /// At least 1.
        alive: u32,
    },
    /// An operator takes a processor out, or puts it back.
    Switched {
        /// The processor.
        processor: usize,
        /// Whether payments may be sent to it.
        enabled: bool,
    },
}
