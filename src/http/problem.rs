//! Errors as RFC 9457 problem details.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use problem_details::ProblemDetails;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, Ref, RefOr, Response as ResponseDoc, ResponseBuilder,
    example::ExampleBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use super::MAX_BODY_BYTES;
use super::problem_kind::ProblemKind::{self, *};
use super::timeouts::TooSlow;
use crate::domain::cell::Cell;
use crate::store::database::{Condition, InCell, Validity, is_transient};
use crate::telemetry::log::Storm;

/// Seconds after which a client should try again what could not be done, for want of the database
/// or of room.
const RETRY_AFTER_SECONDS: &str = "1";

/// An error (RFC 9457): `type` says what kind it is, `detail` what to change, or when to try again
#[derive(ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code)] // the shape of what `ProblemDetails` writes, for the document
pub(super) struct ProblemBody {
    /// What kind of problem this is: a reference to the page that explains it
    #[schema(format = "uri-reference", example = "/problems/outcome-unknown")]
    r#type: String,
    /// The kind in words
    title: String,
    /// The status
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What to change, or when to try again
    detail: String,
}

/// The media type of problems.
pub(super) const PROBLEM_TYPE: &str = "application/problem+json";

/// The responses of a document for those kinds: one for each status, with an example of each kind.
pub(super) fn responses(kinds: &[ProblemKind]) -> BTreeMap<String, RefOr<ResponseDoc>> {
    let mut by_status: BTreeMap<u16, Vec<ProblemKind>> = BTreeMap::new();
    for kind in kinds {
        let same = by_status.entry(kind.status().as_u16()).or_default();
        if !same.contains(kind) {
            same.push(*kind);
        }
    }
    by_status
        .into_iter()
        .map(|(status, kinds)| (status.to_string(), RefOr::T(response(status, &kinds))))
        .collect()
}

fn response(status: u16, kinds: &[ProblemKind]) -> ResponseDoc {
    let meanings = kinds
        .iter()
        .map(|kind| format!("`{}`: {}", kind.reference(), kind.meaning()));
    let examples = kinds.iter().map(|kind| {
        let value = serde_json::json!({
            "type": kind.reference(),
            "title": kind.title(),
            "status": status,
            "detail": "what to change, in words",
        });
        let example = ExampleBuilder::new()
            .summary(kind.title())
            .value(Some(value))
            .build();
        (kind.name(), RefOr::T(example))
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(ProblemBody::name())))
        .examples_from_iter(examples)
        .build();
    let response = ResponseBuilder::new()
        .description(meanings.collect::<Vec<_>>().join("\n\n"))
        .content(PROBLEM_TYPE, content);
    if !tells_when(kinds[0]) {
        return response.build();
    }
    let retry_after = HeaderBuilder::new()
        .description(Some("Seconds after which to try again"))
        .schema(Some(i32::schema()))
        .build();
    response.header(RETRY_AFTER.as_str(), retry_after).build()
}

/// Declares the problems that an operation may answer, for its `responses(...)`.
macro_rules! problems {
    ($visibility:vis $name:ident: $($kinds:expr),+) => {
        $visibility struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::Response>,
            > {
                $crate::http::problem::responses(&[$(&$kinds[..]),+].concat())
            }
        }
    };
}
pub(super) use problems;

/// What any request that needs the database may be answered.
pub(super) const DATABASE: [ProblemKind; 2] = [InternalError, Unavailable];
/// What any request with a JSON body may be answered.
pub(super) const BODY: [ProblemKind; 6] = [
    MalformedBody,
    BodyTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    UnsupportedContentCoding,
    InvalidField,
];
/// What any request to the operators' API may be answered.
pub(super) const OPERATOR: [ProblemKind; 4] = [
    TokenMissingOrWrong,
    ForeignPage,
    TooManyWrongTokens,
    InvalidParameter,
];

/// An error reply whose `detail` tells the caller what to change.
#[derive(Debug)]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
    cause: Option<Cause>,
}

/// What the database said, for the log and for the connections of the instance.
#[derive(Debug, Clone)]
struct Cause {
    error: Arc<sqlx::Error>,
    /// A standby said it, whose connections are others.
    of_standby: bool,
}

/// Requests that failed for want of the database, or were refused by it: logged now and then, with
/// their number.
#[derive(Debug)]
pub(super) struct FailedRequests {
    validity: Arc<Validity>,
    away: Storm,
    standby: Storm,
    refused: Storm,
}

impl FailedRequests {
    /// None has failed yet, of those whose connections these are.
    pub(super) fn new(validity: &Arc<Validity>) -> Arc<Self> {
        Arc::new(Self {
            validity: Arc::clone(validity),
            away: Storm::default(),
            standby: Storm::default(),
            refused: Storm::default(),
        })
    }

    fn note(&self, Cause { error, of_standby }: &Cause) {
        if *of_standby {
            if let Some(failed) = self.standby.note() {
                let error = error.to_string();
                tracing::warn!(
                    requests.failed = failed,
                    error,
                    "requests fail for want of the standby at READ_DATABASE_URL"
                );
            }
            return;
        }
        self.validity.heed(error);
        let (passes, error) = (is_transient(error), error.to_string());
        if passes && let Some(failed) = self.away.note() {
            tracing::warn!(
                requests.failed = failed,
                error,
                "requests fail for want of the database"
            );
        }
        if !passes && let Some(failed) = self.refused.note() {
            tracing::error!(requests.failed = failed, error, "a request failed");
        }
    }
}

impl Problem {
    /// A problem of that kind.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            cause: None,
        }
    }

    /// A part of the path or the query is wrong.
    #[must_use]
    pub(crate) fn invalid_parameter(detail: impl Into<String>) -> Self {
        Self::new(InvalidParameter, detail)
    }

    /// The body could not be read: it is too long, came too slowly, or was broken off.
    fn unread_body(error: &axum::Error) -> Self {
        for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
            if cause.is::<LengthLimitError>() {
                return Self::too_long();
            }
            if let Some(slow) = cause.downcast_ref::<TooSlow>() {
                return Self::new(BodyTimeout, slow.to_string());
            }
        }
        Self::new(MalformedBody, "the body ended too early")
    }

    /// The body is longer than [`MAX_BODY_BYTES`].
    #[must_use]
    pub(crate) fn too_long() -> Self {
        Self::new(
            BodyTooLarge,
            format!("the body must be at most {MAX_BODY_BYTES} bytes"),
        )
    }

    /// The same, whose `detail` names the cell where there are others.
    #[must_use]
    pub(super) fn of_cell(self, cell: Cell) -> Self {
        Self {
            detail: cell.named(self.detail),
            ..self
        }
    }

    /// What to change, or when to try again.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// The standby did not answer, or cannot: why.
    pub(super) fn of_standby(error: sqlx::Error) -> Self {
        let why = match &error {
            sqlx::Error::Database(error) => error.message().to_owned(),
            sqlx::Error::RowNotFound => "it has no heartbeat of an instance yet".to_owned(),
            error => Condition::of(error).to_string(),
        };
        Self {
            cause: Some(Cause {
                error: Arc::new(error),
                of_standby: true,
            }),
            ..Self::unavailable(format!(
                "the standby at READ_DATABASE_URL: {why}; try again"
            ))
        }
    }

    /// Nothing was done; the same request may succeed soon.
    #[must_use]
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Unavailable, detail)
    }
}

/// Reads a body of at most [`MAX_BODY_BYTES`].
pub(super) async fn read(body: Body) -> Result<Bytes, Problem> {
    let read = to_bytes(body, MAX_BODY_BYTES).await;
    read.map_err(|error| Problem::unread_body(&error))
}

/// Whether a body is announced as JSON that is not compressed.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    for codings in headers.get_all(CONTENT_ENCODING) {
        let codings = String::from_utf8_lossy(codings.as_bytes());
        let mut codings = codings.split(',').map(str::trim);
        if let Some(coding) =
            codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
        {
            return Err(Problem::new(
                ProblemKind::UnsupportedContentCoding,
                format!("the body must be sent as it is, without the Content-Encoding {coding:?}"),
            ));
        }
    }
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        ProblemKind::UnsupportedMediaType,
        format!("the Content-Type must be application/json, not {media_type:?}"),
    ))
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
        fields(&body).map(Self)
    }
}

/// The fields of a JSON object, or their defaults where there is no body.
pub(super) struct Optional<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Optional<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let content_type = check_content_type(request.headers());
        let body = read(request.into_body()).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        content_type?;
        fields(&body).map(Self)
    }
}

fn fields<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // An array is not an object, though serde takes it for the fields in their order.
    let object: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| match error.is_data() {
            true => Problem::new(InvalidField, "expected a JSON object"),
            false => Problem::new(MalformedBody, format!("the body is not JSON: {error}")),
        })?;
    serde_json::from_value(Value::Object(object))
        .map_err(|error| Problem::new(InvalidField, error.to_string()))
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        let problem = match is_transient(&error) {
            true => Self::unavailable(format!("{}; try again", Condition::of(&error))),
            false => Self::new(InternalError, "the request failed; the log says why"),
        };
        Self {
            cause: Some(Cause {
                error: Arc::new(error),
                of_standby: false,
            }),
            ..problem
        }
    }
}

impl From<InCell> for Problem {
    fn from(InCell(cell, error): InCell) -> Self {
        Self::from(error).of_cell(cell)
    }
}

/// Whether replies of a kind say when to try again.
fn tells_when(kind: ProblemKind) -> bool {
    matches!(
        kind.status(),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    )
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = ProblemDetails::from_status_code(self.kind.status())
            .with_type(Uri::from_static(self.kind.reference()))
            .with_title(self.kind.title())
            .with_detail(self.detail)
            .into_response();
        let headers = response.headers_mut();
        // Some statuses may be kept by caches that are told nothing, 404 among them (RFC 9110,
        // 15.1).
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let more = match self.kind {
            kind if tells_when(kind) => Some((RETRY_AFTER, RETRY_AFTER_SECONDS)),
            UnsupportedMediaType => Some((ACCEPT, "application/json")),
            UnsupportedContentCoding => Some((ACCEPT_ENCODING, "identity")),
            _ => None,
        };
        if let Some((name, value)) = more {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}

/// Answers in time, even if the database does not, and tells the log of what the database did not
/// do.
pub(super) async fn in_time(
    State(failed): State<Arc<FailedRequests>>,
    request: Request,
    next: Next,
) -> Response {
    let answered = async { Ok(next.run(request).await) };
    let answer = failed.validity.with_deadline(answered).await;
    let answer = answer.unwrap_or_else(|error| Problem::from(error).into_response());
    if let Some(cause) = answer.extensions().get() {
        failed.note(cause);
    }
    answer
}

/// There is nothing there; of the server as a whole (`*`) a client may ask what it can do.
pub(super) async fn nowhere(method: Method, uri: Uri) -> Result<StatusCode, Problem> {
    match method == Method::OPTIONS && uri.path() == "*" {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(not_found(uri).await),
    }
}

pub(super) async fn not_found(uri: Uri) -> Problem {
    Problem::new(NotFound, format!("there is nothing at {}", uri.path()))
}

/// Another method is needed. The router adds the `Allow` header, which is what OPTIONS asks for.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Result<StatusCode, Problem> {
    if method == Method::OPTIONS {
        return Ok(StatusCode::NO_CONTENT);
    }
    let detail = format!(
        "{} does not take {method}; the Allow header says what it takes",
        uri.path()
    );
    Err(Problem::new(MethodNotAllowed, detail))
}
