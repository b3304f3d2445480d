//! The operator's API, on an address of its own and never behind the public load balancer: what the
//! router knows and why it decides as it does, switches to take a processor out of use, and the
//! live page.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::IntoResponse;
use axum::{Json, Router};
use router::Explanation;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::live;
use super::problem::{BODY, DATABASE, OPERATOR, Optional, problems};
use super::{
    Api, OperatorApi, Problem, ProblemKind, file, openapi, parameters, problem, reference, session,
};
use crate::domain::attention::Item;
use crate::store::in_doubt::Author;
use crate::store::switch::{self, Switch};

/// The text format of Prometheus.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The name of the scheme by which operators identify themselves.
const TOKEN: &str = "token";

/// The groups of operations, and what they are for.
const TAGS: [(&str, &str); 8] = [
    ("attention", "What wants an operator's attention"),
    ("metrics", "Numbers for Prometheus"),
    (
        "routing",
        "What the router knows, and the switches that overrule it",
    ),
    ("dead letters", "Payments that no processor takes"),
    (
        "in doubt",
        "Payments that a processor may have charged and has not said so",
    ),
    ("history", "What was in the last hours"),
    (
        "simulation",
        "Simulated processors and traffic, for demonstrations",
    ),
    ("session", "How a browser signs in and out"),
];

impl OperatorApi {
    /// The routes.
    pub fn routes(self) -> Router {
        let (routes, document) = Self::documented();
        let authorize = middleware::from_fn_with_state(self.clone(), session::authorize);
        let failed = problem::FailedRequests::new(self.pool.validity());
        let in_time = middleware::from_fn_with_state(failed, problem::in_time);
        // No secrets are in them, and a browser that opens the page has no token yet.
        let open = Self::sessions()
            .split_for_parts()
            .0
            .layer(in_time.clone())
            .layer(middleware::from_fn(file::keep_from_caches));
        let open = live::page()
            .merge(open)
            .method_not_allowed_fallback(problem::method_not_allowed);
        routes
            .merge(live::stream())
            .fallback(problem::nowhere)
            .method_not_allowed_fallback(problem::method_not_allowed)
            .layer(authorize)
            .layer(in_time)
            .layer(middleware::from_fn(file::keep_from_caches))
            .merge(open)
            .merge(openapi::document(&document))
            .merge(reference::page(&[Api::document(), document]))
            .merge(reference::problems())
            .with_state(self)
    }

    /// What the routes are, for a client.
    #[must_use]
    pub fn document() -> OpenApi {
        Self::documented().1
    }

    fn documented() -> (Router<Self>, OpenApi) {
        let router = OpenApiRouter::new()
            .routes(routes!(metrics))
            .routes(routes!(attention))
            .routes(routes!(explain))
            .routes(routes!(switches))
            .routes(routes!(disable))
            .routes(routes!(enable))
            .merge(live::routes());
        let parameters = parameters::of(router.get_openapi());
        let router = router.layer(middleware::from_fn_with_state(
            parameters,
            parameters::check,
        ));
        let about = "What the router knows of the processors, switches to take one out of use, and what \
            the live page at / calls. Every call bears the operator's token, or the cookie of a browser \
            that said it.";
        let title = "payment-proxy for operators";
        let (routes, mut document) = openapi::split(router, title, about, &TAGS);
        for path in [
            "/routing/{processor}/disable",
            "/routing/{processor}/enable",
        ] {
            openapi::allow_no_body(&mut document, path);
        }
        document.merge(Self::sessions().split_for_parts().1);
        let bearer = SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("OPERATOR_TOKEN"))
                .build(),
        );
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(TOKEN, bearer);
        document.security = Some(vec![SecurityRequirement::new(TOKEN, [""; 0])]);
        (routes, document)
    }

    /// How a browser gets in, so these are open.
    fn sessions() -> OpenApiRouter<Self> {
        let router = OpenApiRouter::new().routes(routes!(
            session::show,
            session::sign_in,
            session::sign_out
        ));
        let parameters = parameters::of(router.get_openapi());
        router.layer(middleware::from_fn_with_state(
            parameters,
            parameters::check,
        ))
    }
}

problems!(pub(super) OperatorProblems: OPERATOR);
problems!(pub(super) SwitchListProblems: OPERATOR, DATABASE);
problems!(
    pub(super) SwitchProblems: OPERATOR, DATABASE, BODY, [ProblemKind::ProcessorNotFound]
);

/// Which processors are in use, and who switched them, when and why
///
/// All that an instance has ever asked, those that are not configured any more included.
#[utoipa::path(
    get, path = "/routing/switches", tag = "routing", operation_id = "listSwitches",
    responses((status = 200, description = "By name", body = Vec<Switch>), SwitchListProblems)
)]
async fn switches(State(api): State<OperatorApi>) -> Result<Json<Vec<Switch>>, Problem> {
    Ok(Json(switch::list(&mut *api.pool.acquire().await?).await?))
}

/// What Prometheus collects
///
/// `METRICS_TOKEN` opens it, too, where that is set.
#[utoipa::path(
    get, path = "/metrics", tag = "metrics", operation_id = "getMetrics",
    responses(
        (status = 200, description = "Metrics in the text format of Prometheus", body = String, content_type = "text/plain"),
        OperatorProblems,
    )
)]
async fn metrics(State(api): State<OperatorApi>) -> impl IntoResponse {
    ([(CONTENT_TYPE, METRICS_TYPE)], api.scrape.text().await)
}

/// What wants an operator's attention, the most urgent first
///
/// As this instance and the database tell it.
#[utoipa::path(
    get, path = "/attention", tag = "attention", operation_id = "getAttention",
    responses(
        (status = 200, description = "Empty where all is well", body = Vec<Item>),
        OperatorProblems,
    )
)]
async fn attention(State(api): State<OperatorApi>) -> Json<Vec<Item>> {
    Json(api.scrape.attention().await)
}

/// What the router knows of each processor, and its last decisions
///
/// Breakers, beliefs and decisions are those of the instance that answers.
#[utoipa::path(
    get, path = "/routing", tag = "routing", operation_id = "getRouting",
    responses(
        (status = 200, description = "What is known now", body = Explanation),
        OperatorProblems,
    )
)]
async fn explain(State(api): State<OperatorApi>) -> Json<Explanation> {
    Json(api.router.explain())
}

/// Takes a processor out of use, for all instances, until it is enabled
///
/// Payments that it may have charged already stay with it.
#[utoipa::path(
    post, path = "/routing/{processor}/disable", tag = "routing", operation_id = "disableProcessor",
    params(("processor" = String, Path, description = "Its name")), request_body = SwitchReason,
    responses(
        (status = 204, description = "All instances know it within a second"),
        SwitchProblems,
    )
)]
async fn disable(
    State(api): State<OperatorApi>,
    processor: Result<Path<String>, PathRejection>,
    Optional(why): Optional<SwitchReason>,
) -> Result<StatusCode, Problem> {
    switch(&api, processor, false, why).await
}

/// Puts a processor back into use, for all instances
///
/// Putting one into use that is in use changes nothing.
#[utoipa::path(
    post, path = "/routing/{processor}/enable", tag = "routing", operation_id = "enableProcessor",
    params(("processor" = String, Path, description = "Its name")), request_body = SwitchReason,
    responses(
        (status = 204, description = "All instances know it within a second"),
        SwitchProblems,
    )
)]
async fn enable(
    State(api): State<OperatorApi>,
    processor: Result<Path<String>, PathRejection>,
    Optional(why): Optional<SwitchReason>,
) -> Result<StatusCode, Problem> {
    switch(&api, processor, true, why).await
}

/// Why a processor is switched, and by whom: kept, and shown to all operators
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SwitchReason {
    /// Why
    #[serde(default)]
    reason: String,
    /// Who switches it
    #[serde(default)]
    by: String,
}

async fn switch(
    api: &OperatorApi,
    processor: Result<Path<String>, PathRejection>,
    enabled: bool,
    why: SwitchReason,
) -> Result<StatusCode, Problem> {
    // What is not text is no name of a processor.
    let processor = &processor.map(|Path(name)| name).unwrap_or_default();
    let configured = api.processors.iter().any(|name| name == processor);
    let author = Author::new(&why.by, &why.reason);
    if configured && switch::set(&api.pool, processor, enabled, &author).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let names = api.processors.join(", ");
    Err(Problem::new(
        ProblemKind::ProcessorNotFound,
        format!("there is no processor {processor:?}; there are {names}"),
    ))
}
