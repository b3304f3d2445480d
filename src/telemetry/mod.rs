//! What an instance says of itself: log, counters, traces. It takes words and numbers.

pub mod log;
pub mod metrics;
pub mod trace;
