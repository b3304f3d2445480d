//! A simulated payment processor: a library for tests, and the program `processor-simulator`.
//!
//! It has every endpoint and rule of the real one, and faults that the real one does not offer on
//! demand. A request to `POST /payments` goes through these steps, in this order:
//!
//! ```text
//! concurrency limit -> delay -> configured failure -> insert -> reply
//!   800 at once,        ms       500, empty body,     422 when   200
//!   500 wait (FIFO),             nothing stored       the id is
//!   the rest get 429                                  there already
//! ```
//!
//! Once a request is read, the work goes on even if its client hangs up: after a timeout on the
//! client's side the payment may still be stored, up to the whole delay later.
//!
//! The parts: [`Settings`] say how it starts, [`Processor`] is its state (records, limits, faults),
//! `serve` moves bytes, `http` is the table of endpoints. Tests start it in their own process:
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use simulator::Settings;
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let running = simulator::start(Settings::default(), listener)?;
//! println!("{} has {} payments", running.url(), running.processor.payments().len());
//! running.stop().await;
//! # Ok(())
//! # }
//! ```

mod admin;
mod args;
mod body;
mod connection;
mod faults;
mod gateway;
mod health;
mod http;
mod injector;
mod journal;
mod limiter;
mod listing;
mod payments;
mod processor;
mod records;
mod serve;
mod settings;
mod wire;

pub use args::{Args, run};
pub use faults::Faults;
pub use injector::Injected;
pub use processor::Processor;
pub use records::{Payment, Summary};
pub use serve::{Running, serve, start};
pub use settings::{Limits, Settings};
