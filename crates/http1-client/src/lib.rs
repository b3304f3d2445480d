//! An HTTP/1.1 client for calls that must not be repeated: one request, one response, and what
//! proves that no byte of the request was written.
//!
//! [`Connections`] keeps the connections to one server and uses them again. [`exchange`] writes a
//! request and reads its response over one of them, and decides whether another request may follow
//! it. [`Resolver`] finds addresses as the system does, within limits.
//!
//! A request is sent once. [`Failed`] tells what is certain where no response came: every kind but
//! [`Failed::NoReply`] and [`Failed::GivenUp`] proves that nothing was sent.

mod connect;
pub mod exchange;
mod pool;
mod resolver;

pub use connect::CONNECT_TIMEOUT;
pub use pool::{Answer, Connections, Failed, Line, MAX_BODY_BYTES, MOST_CONNECTIONS, Patience};
pub use resolver::{NAME_TTL, Resolver};
