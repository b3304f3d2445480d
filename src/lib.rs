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
//! The folders are floors, from the ground up; a module imports from its own floor and those below.
//! [`domain`] has the values. [`config`] has one flag, one variable and one default per setting.
//! [`telemetry`] is the log, the counters and the traces. [`store`] has the SQL statements,
//! [`processors`] the calls to processors and what their replies prove. [`pipeline`] has the
//! stages: [`pipeline::accept`] puts a payment into the queue if [`pipeline::queue_limit`] has
//! space for it, [`store::claim`] takes it out for the length of a lease, [`pipeline::route`]
//! chooses the processor (by the crate `router`), [`processors`] calls the processor and judges
//! what its reply proves, [`pipeline::settle`] records the outcome, [`store::summary`] adds up.
//! [`pipeline::worker`] moves payments from stage to stage. [`http`], [`cli`], [`scrape`] and
//! [`probe`] are the interfaces, [`serve`] runs an instance from its start to its end, [`command`]
//! is the command line, [`program`] the process.
//!
//! # What is guaranteed
//!
//! - A payment that was answered with 202 is committed.
//! - A payment is sent to a second processor only when it is proved that no other has charged it.
//! - Where a payment may have been charged is committed before the first byte is sent.
//! - A charge is recorded with the `requested_at` that the processor recorded.

#![warn(clippy::print_stdout, clippy::print_stderr)] // Nobody may read it: see `cli::output`.

pub mod cli;
pub mod command;
pub mod config;
pub mod domain;
pub mod environment;
pub mod http;
pub mod pipeline;
pub mod probe;
pub mod processors;
pub mod program;
pub mod scrape;
pub mod serve;
pub mod store;
pub mod telemetry;
