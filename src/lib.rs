//! A payment gateway that settles each payment on exactly one of several unstable payment
//! processors, as cheaply and as soon as possible. PostgreSQL is the queue and the ledger.
//! `docs/architecture.md` walks one payment through the code, with its states, statements, fences
//! and crash points.
//!
//! # The life of a payment
//!
//! ```text
//! POST -> accept -> payment_queue -> claim -> charge -> settle -> payment_processed -> summary
//!                        ^          (route)     |
//!                        |-- proved not charged-|
//!                        |-- in doubt: stays with that processor until it is known
//! ```
//!
//! The modules are these stages, in order: [`payment`] and [`http`] read what a client asks for,
//! [`accept`] puts the payment into the queue if [`room`] has space for it, [`claim`] takes it out
//! for the length of a lease, [`route`] chooses the processor (by the crate `router`), [`charge`]
//! calls the processor and judges what its reply proves, [`settle`] records the outcome,
//! [`summary`] adds up. [`worker`] moves payments from stage to stage, [`together`] begins several
//! charges at once, [`deployment`] keeps what the instances know of each other, [`serve`] runs an
//! instance from its start to its end. What is seen of it from outside: [`metrics`] and [`census`]
//! in numbers, [`attention`] in what wants an operator, [`history`] in what was, [`trace`] payment
//! by payment, [`telemetry`] in words. [`tls`] says which authorities calls trust.
//!
//! # What is guaranteed
//!
//! - A payment that was answered with 202 is committed.
//! - A payment is sent to a second processor only when it is proved that no other has charged it.
//! - Where a payment may have been charged is committed before the first byte is sent.
//! - A charge is recorded with the `requested_at` that the processor recorded.

#![warn(clippy::print_stdout, clippy::print_stderr)] // Nobody may read it: see `operate::output`.

pub mod accept;
pub mod archive;
pub mod attention;
pub mod census;
pub mod charge;
pub mod claim;
pub mod cli;
pub mod clock;
pub mod config;
pub mod database;
pub mod dead_letter;
pub mod deployment;
pub mod environment;
pub mod fee;
pub mod history;
pub mod http;
pub mod in_doubt;
pub mod lease;
pub mod metrics;
pub mod moment;
pub mod operate;
pub mod payment;
pub mod printable;
pub mod probe;
pub mod reconcile;
pub mod restored;
pub mod room;
pub mod route;
pub mod scrape;
pub mod serve;
pub mod settle;
pub mod situation;
pub mod summary;
pub mod switch;
pub mod telemetry;
pub mod tls;
pub mod together;
pub mod trace;
pub mod traceparent;
pub mod uptime;
pub mod worker;
