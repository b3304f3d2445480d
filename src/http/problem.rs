//! Errors as RFC 9457 problem details.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use problem_details::ProblemDetails;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, Ref, RefOr, Response as ResponseDoc, ResponseBuilder,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use super::MAX_BODY_BYTES;
use super::patience::TooSlow;
use super::payments::check_content_type;
use crate::database::{Condition, heed, within};

/// Seconds after which a client should try again what could not be done, for want of the database or of room.
const RETRY_AFTER_SECONDS: &str = "1";

/// An error (RFC 9457): `detail` says what to change, or when to try again
#[derive(ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code)] // the shape of what `ProblemDetails` writes, for the document
pub(super) struct ProblemBody {
    /// What kind of error this is; `about:blank`: what the status says
    #[schema(required = false)]
    r#type: String,
    /// The status in words
    title: String,
    /// The status
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What to change
    detail: String,
}

/// What any request that needs the database may be answered.
pub(super) struct DatabaseProblems;

impl IntoResponses for DatabaseProblems {
    fn responses() -> BTreeMap<String, RefOr<ResponseDoc>> {
        let problem = |description: &str| {
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name(ProblemBody::name())))
                .build();
            ResponseBuilder::new()
                .description(description)
                .content("application/problem+json", content)
        };
        let retry_after = HeaderBuilder::new()
            .description(Some("Seconds after which to try again"))
            .schema(Some(String::schema()))
            .build();
        let unavailable = problem("The database is away, or too much waits for it: try again")
            .header("Retry-After", retry_after)
            .build();
        let failed = problem("The request failed; the log says why").build();
        [("500", failed), ("503", unavailable)]
            .map(|(status, response)| (status.to_owned(), RefOr::T(response)))
            .into()
    }
}

/// An error reply whose `detail` tells the caller what to change.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// A problem with that status.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
        }
    }

    /// The request is wrong.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The body could not be read: it is too long, came too slowly, or was broken off.
    fn unread_body(error: &axum::Error) -> Self {
        for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
            if cause.is::<LengthLimitError>() {
                return Self::too_long();
            }
            if let Some(slow) = cause.downcast_ref::<TooSlow>() {
                return Self::new(StatusCode::REQUEST_TIMEOUT, slow.to_string());
            }
        }
        Self::bad_request("the body ended too early")
    }

    /// The body is longer than [`MAX_BODY_BYTES`].
    #[must_use]
    pub fn too_long() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body must be at most {MAX_BODY_BYTES} bytes"),
        )
    }

    /// It cannot be done now; the same request may succeed soon.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

/// What a request with a JSON body may be answered.
pub(super) struct BodyProblems;

impl IntoResponses for BodyProblems {
    fn responses() -> BTreeMap<String, RefOr<ResponseDoc>> {
        responses([
            ("400", "The body is not JSON"),
            ("408", "The body did not arrive in time"),
            ("413", "The body is too long"),
            ("415", "The Content-Type is not application/json"),
            (
                "422",
                "The body is not an object, or a field is missing, unknown or not what it must be",
            ),
        ])
    }
}

/// What a request of somebody who is no operator is answered.
pub(super) struct OperatorProblems;

impl IntoResponses for OperatorProblems {
    fn responses() -> BTreeMap<String, RefOr<ResponseDoc>> {
        responses([
            ("401", "The token is missing or wrong"),
            (
                "403",
                "The cookie of a browser came from another page than ours",
            ),
        ])
    }
}

fn responses<const N: usize>(described: [(&str, &str); N]) -> BTreeMap<String, RefOr<ResponseDoc>> {
    let described = described.map(|(status, description)| {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(ProblemBody::name())))
            .build();
        let response = ResponseBuilder::new()
            .description(description)
            .content("application/problem+json", content);
        (status.to_owned(), RefOr::T(response.build()))
    });
    described.into()
}

/// Reads a body of at most [`MAX_BODY_BYTES`].
pub(super) async fn read(body: Body) -> Result<Bytes, Problem> {
    let read = to_bytes(body, MAX_BODY_BYTES).await;
    read.map_err(|error| Problem::unread_body(&error))
}

/// The fields of a JSON object, as the body of a request.
pub(super) struct Fields<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Fields<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let content_type = check_content_type(request.headers());
        // It is read whatever it is: a connection with half a request on it cannot be used again.
        let body = read(request.into_body()).await?;
        content_type?;
        // An array is not an object, though serde takes it for the fields in their order.
        let object: Map<String, Value> =
            serde_json::from_slice(&body).map_err(|error| match error.is_data() {
                true => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "expected a JSON object"),
                false => Problem::bad_request(format!("the body is not JSON: {error}")),
            })?;
        serde_json::from_value(Value::Object(object))
            .map(Self)
            .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        heed(&error);
        if crate::database::is_transient(&error) {
            LOST_REQUESTS.note(&error);
            Self::unavailable(format!("{}; try again", Condition::of(&error)))
        } else {
            tracing::error!(error = %error, "a request failed");
            Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the request failed; the log says why",
            )
        }
    }
}

/// How often requests that fail for want of the database are told of in the log.
const LOST_REQUESTS_PAUSE: Duration = Duration::from_secs(10);

/// Requests that failed for want of the database: a line for all of them now and then, and not one for each.
struct LostRequests(Mutex<(Option<Instant>, u64)>);

static LOST_REQUESTS: LostRequests = LostRequests(Mutex::new((None, 0)));

impl LostRequests {
    fn note(&self, error: &sqlx::Error) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told_at, lost) = &mut *noted;
        *lost += 1;
        if told_at.is_none_or(|at| at.elapsed() >= LOST_REQUESTS_PAUSE) {
            tracing::warn!(requests.failed = *lost, error = %error, "requests fail for want of the database");
            *told_at = Some(Instant::now());
            *lost = 0;
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = ProblemDetails::from_status_code(self.status)
            .with_detail(self.detail)
            .into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}

/// Answers in time, even if the database does not.
pub(super) async fn in_time(request: Request, next: Next) -> Response {
    let answer = within(async { Ok(next.run(request).await) }).await;
    answer.unwrap_or_else(|error| Problem::from(error).into_response())
}

pub(super) async fn not_found(uri: Uri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing at {}", uri.path()),
    )
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!(
            "{} does not take {method}; the Allow header says what it takes",
            uri.path()
        ),
    )
}
