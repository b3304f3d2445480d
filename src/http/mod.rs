//! The HTTP API.

mod api;
mod connections;
mod file;
mod limits;
pub mod live;
mod openapi;
mod operator;
mod operator_api;
mod parameters;
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
mod timeouts;
mod wrong_tokens;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::store::database::Validity;

pub use api::{Api, ApiCell, Readiness};
pub use limits::{Limits, MAX_BODY_BYTES};
pub use openapi::DOCUMENT_PATH;
pub use operator_api::OperatorApi;
use problem::FailedRequests;
pub use problem::Problem;
pub use problem_kind::ProblemKind;
pub use reference::PAGE_PATH;
pub use revoked::Revoked;
pub use server::serve;
pub use summary::range;
pub use wrong_tokens::WrongTokens;

/// The groups of operations, and what they are for.
const TAGS: [(&str, &str); 2] = [
    ("payments", "Payments and the totals of what was settled"),
    (
        "probes",
        "Whether an instance lives, and whether it takes payments",
    ),
];

impl Api {
    /// The routes.
    pub fn routes(self) -> Router {
        let (routes, document) = Self::documented(self.cells.first().pool.validity());
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
        Self::documented(&Arc::default()).1
    }

    fn documented(validity: &Arc<Validity>) -> (Router<Arc<Self>>, OpenApi) {
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
            .layer(from_fn_with_state(
                FailedRequests::new(validity),
                problem::in_time,
            ))
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
