//! The stages of a payment as loops around one step each, and what instances know of each other.

pub mod accept;
pub(crate) mod batcher;
pub mod deployment;
pub mod history;
pub mod in_flight;
pub mod queue_limit;
pub mod reconcile;
pub mod restored;
pub mod route;
pub mod settle;
pub mod worker;
