//! What is done to a deployment from outside, as a user, an operator and an accident would: real
//! processes of the service, the database and the processors, and a verdict on every payment.
//!
//! [`deployment`] starts, kills and examines one; [`torture`] is a round of `make torture`,
//! [`cells`] one of `make cells`. The programs are examples: `torture`, `drills` (and
//! `make failover`), `cells`, `open_loop` (the load of the bench), `durability_bench`.

#![allow(missing_docs, reason = "the programs beside it are its only users")]

use std::path::Path;

pub mod cells;
pub mod deployment;
pub mod torture;

/// The checkout: scripts, configuration, reports.
pub fn repository() -> &'static Path {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    (crates.and_then(Path::parent)).expect("the crate is in crates/ of the repository")
}
