//! The HTTP API.

mod operator;
mod payments;
mod probes;
mod problem;
mod purge;
mod server;
mod summary;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use sqlx::PgPool;

pub use operator::OperatorApi;
pub use problem::Problem;
pub use server::{HEAD_TIMEOUT, MAX_CONNECTIONS, serve};

use crate::accept::Acceptor;

/// The longest request body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 4 * 1024;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    /// Takes payments to the queue.
    pub acceptor: Acceptor,
    /// Connections for requests.
    pub pool: PgPool,
    /// Names of the configured processors, in order of preference.
    pub processors: Arc<[String]>,
    /// Whether the books may be emptied.
    pub allow_purge: bool,
    /// Whether the instance is shutting down.
    pub stopping: Arc<AtomicBool>,
}

impl Api {
    /// The routes.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/payments", post(payments::post))
            .route("/payments/{id}", get(payments::get))
            .route("/payments-summary", get(summary::get))
            .route("/purge-payments", post(purge::post))
            .route("/livez", get(probes::live))
            .route("/readyz", get(probes::ready))
            .fallback(problem::not_found)
            .method_not_allowed_fallback(problem::method_not_allowed)
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(self)
    }
}
