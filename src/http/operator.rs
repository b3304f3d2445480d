//! The operator's API, on an address of its own and never behind the public load balancer: what the
//! router knows and why it decides as it does, and switches to take a processor out of use.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use sqlx::PgPool;

use super::{Problem, problem};
use crate::config::OperatorToken;
use crate::deployment;
use crate::metrics::Scrape;
use crate::route::{Explanation, SharedRouter};

/// What Prometheus asks for. Its token opens nothing else.
const METRICS: &str = "/metrics";
/// The text format of Prometheus.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the operator's handlers share.
#[derive(Clone)]
pub struct OperatorApi {
    /// Connections for requests.
    pub pool: PgPool,
    /// What is explained.
    pub router: SharedRouter,
    /// Names of the configured processors.
    pub processors: Arc<[String]>,
    /// What every request has to bear, but for the next.
    pub token: OperatorToken,
    /// What a request for `/metrics` may bear instead.
    pub metrics_token: Option<OperatorToken>,
    /// What `/metrics` looks at.
    pub scrape: Arc<Scrape>,
}

impl OperatorApi {
    /// The routes.
    pub fn routes(self) -> Router {
        Router::new()
            .route(METRICS, get(metrics))
            .route("/routing", get(explain))
            .route("/routing/{processor}/disable", post(disable))
            .route("/routing/{processor}/enable", post(enable))
            .fallback(problem::not_found)
            .method_not_allowed_fallback(problem::method_not_allowed)
            .layer(middleware::from_fn_with_state(self.clone(), authorize))
            .with_state(self)
    }

    /// Whether whoever bears that token may ask for that path.
    fn admits(&self, token: &str, path: &str) -> bool {
        let metrics_token = self.metrics_token.as_ref().filter(|_| path == METRICS);
        self.token.is(token) || metrics_token.is_some_and(|metrics| metrics.is(token))
    }
}

async fn authorize(State(api): State<OperatorApi>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    if api.admits(given, request.uri().path()) {
        return next.run(request).await;
    }
    let problem = Problem::new(
        StatusCode::UNAUTHORIZED,
        "the operator's token is missing or wrong",
    );
    ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

async fn metrics(State(api): State<OperatorApi>) -> impl IntoResponse {
    ([(CONTENT_TYPE, METRICS_TYPE)], api.scrape.text().await)
}

async fn explain(State(api): State<OperatorApi>) -> Json<Explanation> {
    Json(api.router.explain())
}

async fn disable(
    State(api): State<OperatorApi>,
    Path(processor): Path<String>,
) -> Result<StatusCode, Problem> {
    switch(&api, &processor, false).await
}

async fn enable(
    State(api): State<OperatorApi>,
    Path(processor): Path<String>,
) -> Result<StatusCode, Problem> {
    switch(&api, &processor, true).await
}

async fn switch(api: &OperatorApi, processor: &str, enabled: bool) -> Result<StatusCode, Problem> {
    let configured = api.processors.iter().any(|name| name == processor);
    if configured && deployment::switch(&api.pool, processor, enabled).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let names = api.processors.join(", ");
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is no processor {processor:?}; there are {names}"),
    ))
}
