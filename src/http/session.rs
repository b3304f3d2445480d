//! Who is an operator: a program says the token with every call, a browser says it once and gets a
//! cookie.
//!
//! The cookie holds the time at which it ends and a seal of that time that only the token can make. So
//! every instance believes it, no instance keeps anything, it outlives restarts and ends by itself, and
//! whoever gets hold of it does not have the token.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::{BODY, Fields, OPERATOR, problems};
use super::{OperatorApi, Problem, ProblemKind};
use crate::config::OperatorToken;

/// How long a browser is signed in.
pub(super) const SESSION_LIFETIME: TimeDelta = TimeDelta::hours(12);
/// The name of the cookie.
const SESSION_COOKIE: &str = "payment_proxy_operator";
/// Set by browsers, and by them alone: how the page that asks is related to us.
const FETCH_SITE: &str = "sec-fetch-site";

/// Lets operators pass.
pub(super) async fn authorize(
    State(api): State<OperatorApi>,
    mut request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let given = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given.and_then(bearer_token).unwrap_or_default();
    if api.admits(given, request.uri().path()) {
        return next.run(request).await;
    }
    let Some(ends_at) = session_end(headers, &api.token) else {
        return unauthorized();
    };
    // A browser sends the cookie whoever wrote the page that makes it ask.
    let safe = [Method::GET, Method::HEAD].contains(request.method());
    if !safe && !is_our_page(headers) {
        return foreign_page().into_response();
    }
    request.extensions_mut().insert(SessionEnd(ends_at));
    next.run(request).await
}

/// The token of credentials of the scheme `Bearer`, whose name is written in any case (RFC 9110, 11.1 and 11.4).
fn bearer_token(credentials: &str) -> Option<&str> {
    let (scheme, token) = credentials.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("Bearer");
    is_bearer.then(|| token.trim_start_matches(' '))
}

/// When the session of the browser that asks ends. A program, which says the token itself, has none.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionEnd(DateTime<Utc>);

impl SessionEnd {
    /// Ends then.
    pub(super) async fn reached(self) {
        let left = (self.0 - Utc::now()).to_std().unwrap_or_default();
        tokio::time::sleep(left).await;
    }
}

/// What a sign-in says.
#[derive(Deserialize, ToSchema)]
pub(super) struct SignIn {
    /// The operator's token
    token: String,
}

problems!(pub(super) SignInProblems: OPERATOR, BODY);

/// Gives a browser that knows the token a cookie
///
/// The cookie is good for 12 hours, or until the browser signs out.
#[utoipa::path(
    post, path = "/session", tag = "session", operation_id = "signIn", request_body = SignIn,
    security(()),
    responses((status = 204, description = "The browser is signed in"), SignInProblems)
)]
pub(super) async fn sign_in(
    State(token): State<OperatorToken>,
    headers: HeaderMap,
    Fields(SignIn { token: given }): Fields<SignIn>,
) -> Result<Response, Problem> {
    if !is_our_page(&headers) {
        return Err(foreign_page());
    }
    if !token.is(&given) {
        return Ok(unauthorized());
    }
    let ends_at = (Utc::now() + SESSION_LIFETIME).timestamp();
    let value = format!("{ends_at}.{}", token.seal(&sealed(ends_at)));
    let cookie = cookie(&headers, &value, SESSION_LIFETIME);
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response())
}

/// Takes the cookie back
///
/// Without a cookie nothing happens.
#[utoipa::path(
    delete, path = "/session", tag = "session", operation_id = "signOut", security(()),
    responses((status = 204, description = "The browser is signed out"))
)]
pub(super) async fn sign_out(headers: HeaderMap) -> impl IntoResponse {
    let cookie = cookie(&headers, "", TimeDelta::zero());
    (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)])
}

/// Whether the browser is signed in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    /// Whether its cookie is valid
    signed_in: bool,
}

/// Whether the browser is signed in
///
/// Whether its cookie is one that was given, has not ended and was not taken back.
#[utoipa::path(
    get, path = "/session", tag = "session", operation_id = "getSession", security(()),
    responses((status = 200, description = "Whether the cookie is good", body = Session))
)]
pub(super) async fn show(State(token): State<OperatorToken>, headers: HeaderMap) -> Json<Session> {
    Json(Session {
        signed_in: session_end(&headers, &token).is_some(),
    })
}

/// When the session of a browser ends, if it is signed in.
fn session_end(headers: &HeaderMap, token: &OperatorToken) -> Option<DateTime<Utc>> {
    let cookies = headers.get_all(COOKIE).iter();
    cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| {
            cookie
                .trim()
                .strip_prefix(SESSION_COOKIE)?
                .strip_prefix('=')
        })
        .find_map(|session| valid_until(session, token))
}

fn valid_until(session: &str, token: &OperatorToken) -> Option<DateTime<Utc>> {
    let (ends_at, seal) = session.split_once('.')?;
    let ends_at = ends_at.parse::<i64>().ok()?;
    let expected = token.seal(&sealed(ends_at));
    if !constant_time_eq::constant_time_eq(expected.as_bytes(), seal.as_bytes()) {
        return None;
    }
    DateTime::from_timestamp(ends_at, 0).filter(|ends_at| *ends_at > Utc::now())
}

fn sealed(ends_at: i64) -> String {
    format!("operator until {ends_at}")
}

/// Whether a page of this address asks. The cookie's `SameSite` does not tell ports of a host apart.
fn is_our_page(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match (text(FETCH_SITE), text(ORIGIN.as_str())) {
        (Some(site), _) => site == "same-origin",
        // A browser that is older than the header above.
        (None, Some(origin)) => origin
            .split_once("://")
            .zip(text(HOST.as_str()))
            .is_some_and(|((_, theirs), ours)| theirs.eq_ignore_ascii_case(ours)),
        (None, None) => false,
    }
}

/// Scripts cannot read it, other sites cannot send it, and behind TLS it never goes without.
fn cookie(headers: &HeaderMap, value: &str, lifetime: TimeDelta) -> String {
    let origin = headers.get(ORIGIN).map(|origin| origin.as_bytes());
    let secure = match origin {
        Some(origin) if origin.starts_with(b"https:") => "; Secure",
        _ => "",
    };
    format!(
        "{SESSION_COOKIE}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict{secure}",
        lifetime.num_seconds()
    )
}

fn foreign_page() -> Problem {
    Problem::new(
        ProblemKind::ForeignPage,
        "with a cookie only pages of this address may ask for that; programs use Authorization: Bearer",
    )
}

fn unauthorized() -> Response {
    let problem = Problem::new(
        ProblemKind::TokenMissingOrWrong,
        "the operator's token is missing or wrong",
    );
    ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}
