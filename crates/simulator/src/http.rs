//! The table of endpoints, and how replies are made.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, SERVER};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use uuid::Uuid;

use super::body::Body;
use super::connection::Work;
use super::settings::RETRY_AFTER_SECONDS;
use super::wire::{HealthReply, Message};
use super::{Processor, admin, payments};

/// The largest request body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// What a request that is refused for the moment is told.
const TOO_MANY: &[u8] = b"Too many requests. Please try again after 5 second(s).";

/// A line of what the real processor says of where an error came from, and how often it stands
/// there: some 2 KB.
const STACK: &str =
    "   at Npgsql.Internal.NpgsqlConnector.ReadMessage(\"INSERT INTO \\\"payments\\\"\")\n";
/// See [`STACK`].
const STACK_FRAMES: usize = 26;

/// A reply.
pub(super) type Reply = Response<Body>;

/// The connection ends without a reply.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection is cut on purpose")]
pub(super) struct Cut {
    /// It is reset instead of closed in order.
    pub(super) reset: bool,
}

/// Answers one request.
pub(super) async fn answer(
    processor: &Arc<Processor>,
    work: &Work,
    request: Request<Incoming>,
) -> Result<Reply, Cut> {
    let mut reply = route(processor, work, request).await?;
    reply
        .headers_mut()
        .insert(SERVER, HeaderValue::from_static("simulator"));
    Ok(reply)
}

async fn route(
    processor: &Arc<Processor>,
    work: &Work,
    request: Request<Incoming>,
) -> Result<Reply, Cut> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    // A slash at the end makes no other path.
    let path = path.strip_suffix('/').unwrap_or(path);
    if path == "/payments" {
        return match head.method {
            Method::POST => match read(body).await {
                Ok(body) if !body.is_empty() && !is_json(&head.headers) => {
                    Ok(empty(StatusCode::UNSUPPORTED_MEDIA_TYPE))
                }
                Ok(body) => payments::charge(processor, work, &body).await,
                Err(reply) => Ok(reply),
            },
            _ => Ok(not_allowed("POST")),
        };
    }
    if path == "/payments/service-health" {
        return Ok(match head.method {
            Method::GET => health(processor).await,
            _ => not_allowed("GET"),
        });
    }
    if let Some(id) = path.strip_prefix("/payments/") {
        return match (head.method, Uuid::try_parse(id)) {
            (Method::GET, Ok(id)) => payments::look_up(processor, id).await,
            (Method::GET, Err(_)) => Ok(empty(StatusCode::BAD_REQUEST)),
            _ => Ok(not_allowed("GET")),
        };
    }
    if path.starts_with("/admin/") {
        return Ok(match read(body).await {
            Ok(body) => admin::answer(processor, &head, &body),
            Err(reply) => reply,
        });
    }
    Ok(empty(StatusCode::NOT_FOUND))
}

/// Whether a body is said to be JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next());
    media_type.is_some_and(|media_type| {
        let media_type = media_type.trim().to_ascii_lowercase();
        media_type == "application/json" || media_type.ends_with("+json")
    })
}

/// `GET /payments/service-health`. It is limited by calls per window, whoever calls.
async fn health(processor: &Processor) -> Reply {
    if processor.health.pass().await.is_err() {
        return too_many();
    }
    let min_response_time = u64::try_from(processor.delay().as_millis()).unwrap_or(u64::MAX);
    json(
        StatusCode::OK,
        &HealthReply {
            failing: processor.failing(),
            min_response_time,
        },
    )
}

async fn read(body: Incoming) -> Result<Bytes, Reply> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(empty(StatusCode::PAYLOAD_TOO_LARGE))
        }
        Err(_) => Err(empty(StatusCode::BAD_REQUEST)),
    }
}

/// A reply without a body, as the real processor's configured failure is: `Content-Length: 0`.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::none());
    *reply.status_mut() = status;
    reply
}

/// A reply whose JSON is sent in these chunks.
pub(super) fn chunked(status: StatusCode, chunks: impl IntoIterator<Item = Bytes>) -> Reply {
    let mut reply = Response::new(Body::chunks(chunks));
    *reply.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    reply.headers_mut().insert(CONTENT_TYPE, json);
    reply
}

/// A reply in JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    let body = serde_json::to_vec(body).expect("replies are plain structures of JSON values");
    chunked(status, [body.into()])
}

/// A reply in words.
pub(super) fn message(status: StatusCode, message: String) -> Reply {
    json(status, &Message { message })
}

/// A reply with an error and where it came from, which the real processor sends in two chunks.
pub(super) fn trace(status: StatusCode, error: &str) -> Reply {
    const BEGIN: &[u8] = br#"{"message":"#;
    let whole = Message {
        message: format!("{error}\n{}", STACK.repeat(STACK_FRAMES)),
    };
    let whole: Bytes = serde_json::to_vec(&whole)
        .expect("replies are plain structures of JSON values")
        .into();
    chunked(
        status,
        [whole.slice(..BEGIN.len()), whole.slice(BEGIN.len()..)],
    )
}

/// The reply to a client that shall come back later: a text that does not say that it is one.
pub(super) fn too_many() -> Reply {
    let mut reply = Response::new(Body::chunks([Bytes::from_static(TOO_MANY)]));
    *reply.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    reply
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    reply
}

/// The reply to a method that the path does not know.
pub(super) fn not_allowed(allowed: &'static str) -> Reply {
    let mut reply = empty(StatusCode::METHOD_NOT_ALLOWED);
    reply
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}
