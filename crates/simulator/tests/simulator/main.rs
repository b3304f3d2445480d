//! The simulated processor, over real HTTP.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap is how a test fails, also in what tests share"
)]

mod admin;
mod client;
mod faults;
mod health;
mod limits;
mod payments;
mod program;
mod recording;
mod replies;
mod restart;
