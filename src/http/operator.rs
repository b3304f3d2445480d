//! The operator's API, on an address of its own and never behind the public load balancer: what the
//! router knows and why it decides as it does, and switches to take a processor out of use.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use sqlx::PgPool;

use super::{Problem, problem};
use crate::config::OperatorToken;
use crate::deployment;
use crate::route::{Explanation, SharedRouter};

/// What the operator's handlers share.
#[derive(Clone)]
pub struct OperatorApi {
    /// Connections for requests.
    pub pool: PgPool,
    /// What is explained.
    pub router: SharedRouter,
    /// Names of the configured processors.
    pub processors: Arc<[String]>,
    /// What every request has to bear.
    pub token: OperatorToken,
}

impl OperatorApi {
    /// The routes.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/routing", get(explain))
            .route("/routing/{processor}/disable", post(disable))
            .route("/routing/{processor}/enable", post(enable))
            .fallback(problem::not_found)
            .method_not_allowed_fallback(problem::method_not_allowed)
            .layer(middleware::from_fn_with_state(
                self.token.clone(),
                authorize,
            ))
            .with_state(self)
    }
}

async fn authorize(State(token): State<OperatorToken>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    if token.is(given) {
        return next.run(request).await;
    }
    let problem = Problem::new(
        StatusCode::UNAUTHORIZED,
        "the operator's token is missing or wrong",
    );
    ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
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
