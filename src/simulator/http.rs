//! The table of endpoints, and how replies are made.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use uuid::Uuid;

use super::connection::Work;
use super::listing::Listing;
use super::settings::RETRY_AFTER_SECONDS;
use super::wire::{HealthReply, Message};
use super::{Processor, admin, payments};

/// The largest request body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// A reply.
pub(super) type Reply = Response<Either<Full<Bytes>, Listing>>;

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
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path == "/payments" {
        return match head.method {
            Method::POST => match read(body).await {
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
        Err(error) => Err(message(StatusCode::BAD_REQUEST, error.to_string())),
    }
}

/// A reply without a body, as the real processor's configured failure is.
pub(super) fn empty(status: StatusCode) -> Reply {
    fixed(status, Bytes::new())
}

/// A reply whose JSON is the same each time.
pub(super) fn fixed(status: StatusCode, json: impl Into<Bytes>) -> Reply {
    let json = json.into();
    let has_body = !json.is_empty();
    let mut reply = Response::new(Either::Left(Full::new(json)));
    *reply.status_mut() = status;
    if has_body {
        reply
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    reply
}

/// A reply in JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    let body = serde_json::to_vec(body).expect("replies are plain structures of JSON values");
    fixed(status, body)
}

/// A reply in words.
pub(super) fn message(status: StatusCode, message: String) -> Reply {
    json(status, &Message { message })
}

/// The reply to a client that shall come back later.
pub(super) fn too_many() -> Reply {
    let mut reply = empty(StatusCode::TOO_MANY_REQUESTS);
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
