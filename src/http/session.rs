//! Who is an operator: a program says the token with every call, a browser says it once and gets a
//! cookie.
//!
//! The cookie holds the id of a session, the time at which it ends, and a seal of both that only
//! the token can make. So every instance believes it, it outlives restarts and ends by itself, and
//! whoever gets hold of it does not have the token. What is kept is which sessions were [signed
//! out](super::Revoked) before their end.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::problem::{BODY, DATABASE, Fields, OPERATOR, problems};
use super::revoked::REVOKED_POLL;
use super::wrong_tokens::unauthorized;
use super::{OperatorApi, Problem, ProblemKind};
use crate::config::OperatorToken;
use crate::domain::payment::parse_uuid;

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
    if !given.is_empty() {
        return api.wrong_tokens.refuse().await;
    }
    let Some(session) = session(headers, &api).await else {
        return unauthorized();
    };
    // A browser sends the cookie whoever wrote the page that makes it ask.
    let safe = [Method::GET, Method::HEAD].contains(request.method());
    if !safe && !is_our_page(headers) {
        return foreign_page().into_response();
    }
    request.extensions_mut().insert(session);
    next.run(request).await
}

/// The token of credentials of the scheme `Bearer`, whose name is written in any case (RFC 9110,
/// 11.1 and 11.4).
fn bearer_token(credentials: &str) -> Option<&str> {
    let (scheme, token) = credentials.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("Bearer");
    is_bearer.then(|| token.trim_start_matches(' '))
}

/// The session of the browser that asks. A program, which says the token itself, has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionId {
    id: Uuid,
    ends_at: DateTime<Utc>,
}

impl SessionId {
    /// Returns when the session has ended, or was signed out.
    pub(super) async fn over(self, api: &OperatorApi) {
        loop {
            let left = (self.ends_at - Utc::now()).to_std().unwrap_or_default();
            tokio::time::sleep(left.min(REVOKED_POLL)).await;
            if left <= REVOKED_POLL || api.revoked.has(&api.pool, self.id).await {
                return;
            }
        }
    }

    fn sealed(self) -> String {
        format!(
            "operator session {} until {}",
            self.id,
            self.ends_at.timestamp()
        )
    }

    /// The value of its cookie.
    fn value(self, token: &OperatorToken) -> String {
        let seal = token.seal(&self.sealed());
        format!("{}.{}.{seal}", self.ends_at.timestamp(), self.id)
    }

    /// Reads the value of a cookie, if its seal is right and its time not over.
    fn read(value: &str, token: &OperatorToken) -> Option<Self> {
        let (ends_at, rest) = value.split_once('.')?;
        let (id, seal) = rest.split_once('.')?;
        let session = Self {
            id: parse_uuid(id)?,
            ends_at: DateTime::from_timestamp(ends_at.parse().ok()?, 0)?,
        };
        let expected = token.seal(&session.sealed());
        let is_ours = constant_time_eq::constant_time_eq(expected.as_bytes(), seal.as_bytes());
        (is_ours && session.ends_at > Utc::now()).then_some(session)
    }
}

/// What a sign-in says.
#[derive(Deserialize, ToSchema)]
pub(super) struct SignIn {
    /// The operator's token
    token: String,
}

problems!(pub(super) SessionProblems: [ProblemKind::InvalidParameter]);
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
    State(api): State<OperatorApi>,
    headers: HeaderMap,
    Fields(SignIn { token: given }): Fields<SignIn>,
) -> Result<Response, Problem> {
    if !is_our_page(&headers) {
        return Err(foreign_page());
    }
    if !api.token.is(&given) {
        return Ok(api.wrong_tokens.refuse().await);
    }
    let session = SessionId {
        id: Uuid::new_v4(),
        ends_at: Utc::now() + SESSION_LIFETIME,
    };
    let cookie = cookie(&headers, &session.value(&api.token), SESSION_LIFETIME);
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response())
}

problems!(
    pub(super) SignOutProblems: [ProblemKind::ForeignPage, ProblemKind::InvalidParameter], DATABASE
);

/// Ends the session of a browser, at every instance
///
/// Without a session nothing happens. Where the database does not confirm, the session goes on.
#[utoipa::path(
    delete, path = "/session", tag = "session", operation_id = "signOut", security(()),
    responses((status = 204, description = "The browser is signed out"), SignOutProblems)
)]
pub(super) async fn sign_out(
    State(api): State<OperatorApi>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    if let Some(session) = sealed_session(&headers, &api.token) {
        if !is_our_page(&headers) {
            return Err(foreign_page());
        }
        let added = api.revoked.add(&api.pool, session.id, session.ends_at);
        api.pool.with_deadline(added).await?;
    }
    let cookie = cookie(&headers, "", TimeDelta::zero());
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]))
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
    responses(
        (status = 200, description = "Whether the cookie is good", body = Session),
        SessionProblems,
    )
)]
pub(super) async fn show(State(api): State<OperatorApi>, headers: HeaderMap) -> Json<Session> {
    Json(Session {
        signed_in: session(&headers, &api).await.is_some(),
    })
}

/// The session of a browser, if it is signed in.
async fn session(headers: &HeaderMap, api: &OperatorApi) -> Option<SessionId> {
    let session = sealed_session(headers, &api.token)?;
    let revoked = api.revoked.has(&api.pool, session.id).await;
    (!revoked).then_some(session)
}

/// The session of a cookie, whether it was signed out or not.
fn sealed_session(headers: &HeaderMap, token: &OperatorToken) -> Option<SessionId> {
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
        .find_map(|value| SessionId::read(value, token))
}

/// Whether a page of this address asks. The cookie's `SameSite` does not tell ports of a host
/// apart.
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
        "with a cookie only pages of this address may ask for that; programs use Authorization: \
        Bearer",
    )
}
