//! The HTTP API.

mod connections;
mod file;
pub mod live;
mod openapi;
mod operator;
mod parameters;
mod patience;
mod payments;
mod probes;
mod problem;
mod problem_kind;
mod purge;
mod reference;
mod revoked;
mod server;
mod session;
mod summary;
mod wrong_tokens;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use sqlx::PgPool;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use openapi::DOCUMENT_PATH;
pub use operator::OperatorApi;
pub use probes::Readiness;
pub use problem::Problem;
pub use problem_kind::{PROBLEMS_PATH, ProblemKind};
pub use reference::PAGE_PATH;
pub use revoked::Revoked;
pub use server::{Limits, serve};
pub use summary::{Bounds, range};
pub use wrong_tokens::WrongTokens;

use crate::accept::Acceptor;
use crate::settle::Unrecorded;

/// The longest request body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 4 * 1024;

/// The groups of operations, and what they are for.
const TAGS: [(&str, &str); 2] = [
    ("payments", "Payments and the totals of what was settled"),
    (
        "probes",
        "Whether an instance lives, and whether it takes payments",
    ),
];

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
    /// What cannot be recorded.
    pub unrecorded: Arc<Unrecorded>,
    /// Whether the instance has found its database prepared, and claims payments.
    pub started: Arc<AtomicBool>,
    /// Asks the database whether it takes payments.
    pub readiness: Arc<Readiness>,
    /// Whether the instance is shutting down.
    pub stopping: Arc<AtomicBool>,
}

impl Api {
    /// The routes.
    pub fn routes(self) -> Router {
        let (routes, document) = Self::documented();
        routes
            .merge(openapi::document(&document))
            .merge(reference::problems())
            .fallback(problem::nowhere)
            .method_not_allowed_fallback(problem::method_not_allowed)
            .with_state(Arc::new(self))
    }

    /// What the routes are, for a client.
    #[must_use]
    pub fn document() -> OpenApi {
        Self::documented().1
    }

    fn documented() -> (Router<Arc<Self>>, OpenApi) {
        let router = OpenApiRouter::new()
            .routes(routes!(payments::get))
            .routes(routes!(summary::get))
            .routes(routes!(purge::post));
        let parameters = parameters::of(router.get_openapi());
        let router = router
            .layer(from_fn_with_state(parameters, parameters::check))
            // Whatever a load balancer adds to them, an instance that is well is well.
            .routes(routes!(probes::live))
            .routes(routes!(probes::ready))
            .layer(from_fn(problem::in_time))
            .layer(from_fn(file::keep_from_caches))
            // It has a limit of its own, and a layer takes its part of each payment.
            .routes(routes!(payments::post));
        let about = "Settles each payment on exactly one of several payment processors. Errors are \
            problem details (RFC 9457): `type` says what kind an error is, `detail` what to change. \
            This API asks nobody who they are: it belongs behind a network that does.";
        let (routes, mut document) = openapi::split(router, "payment-proxy", about, &TAGS);
        document.security = Some(Vec::new());
        openapi::allow_empty_parameters(&mut document, summary::PATH);
        (routes, document)
    }
}
