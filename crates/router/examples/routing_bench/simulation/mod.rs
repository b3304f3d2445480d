//! The deployment in virtual time: the shipped router against a model of the processors.
//!
//! A discrete-event simulation. Nothing sleeps and nothing reads a clock, so a run of five minutes
//! takes a fraction of a second and gives the same numbers for the same seed. What is modelled:
//! instances that share a queue, claim in batches and route each for itself; processors with a
//! concurrency limit and a waiting room, a delay, failures that are decided *after* the delay,
//! replies that get lost and payments that are stored although nobody learned of it; a health
//! poller; settling some milliseconds after the reply; an audit. What is not: CPU, and the network
//! beyond a constant.

#![allow(dead_code, reason = "the benchmark and the tests each use a part")]

pub(crate) mod chooser;
pub(crate) mod oracle;
pub(crate) mod outcome;
pub(crate) mod processor;
pub(crate) mod run;
pub(crate) mod scenario;

/// Microseconds since the begin of a run.
pub(crate) type Micros = u64;

/// Microseconds in a millisecond.
pub(crate) const MILLISECOND: Micros = 1_000;

/// Microseconds in a second.
pub(crate) const SECOND: Micros = 1_000_000;

/// The same in the router's terms.
pub(crate) fn time(at: Micros) -> std::time::Duration {
    std::time::Duration::from_micros(at)
}
