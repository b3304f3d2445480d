//! What is talked about: payments, amounts, times, leases, and what wants attention. No I/O.

pub mod attention;
pub mod cell;
pub mod lease;
pub mod moment;
pub mod payment;
pub(crate) mod printable;
pub mod traceparent;
pub mod uptime;
