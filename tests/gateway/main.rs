//! The gateway against a real PostgreSQL, real HTTP and real processes.

#![allow(missing_docs, unreachable_pub)]

mod api;
mod archive;
mod archived;
mod auditing;
mod bad_input;
mod books;
mod census;
mod command_line;
mod duplicates;
mod durability;
mod executed_plans;
mod fencing;
mod forwarder;
mod hostile;
mod lifecycle;
mod logs;
mod metrics;
mod moved;
mod neighbours;
mod observability;
mod openapi;
mod operating;
mod outcomes;
mod overload;
mod page;
mod plans;
mod privileges;
mod routing;
mod secrets;
mod server;
mod support;
mod tls;
mod traces;
mod unwritable_log;
