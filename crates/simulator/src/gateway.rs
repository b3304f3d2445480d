//! What answers in the place of a processor: gateways and balancers with pages and statuses of
//! their own, and replies that nobody asked for.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::body::Body;
use super::http::{Reply, empty};

/// Statuses with which gateways give up, turn away and send elsewhere, and those of a processor,
/// which they have, too.
const STATUSES: [u16; 26] = [
    200, 201, 202, 204, 302, 307, 400, 401, 403, 404, 408, 409, 413, 415, 422, 425, 429, 499, 500,
    502, 503, 504, 520, 522, 524, 599,
];
/// A page as balancers send it.
const PAGE: &[u8] =
    b"<html><head><title>Gateway</title></head><body><center>balancer</center></body></html>";
/// An error as gateways send it.
const ERROR: &[u8] = br#"{"message":"upstream request timeout","request_id":"7d3f"}"#;

/// A reply that no processor sends, whatever its status: a page, an error in JSON, or nothing at
/// all.
pub(super) fn reply(which: usize) -> Reply {
    let status = STATUSES[which % STATUSES.len()];
    let code = StatusCode::from_u16(status).expect("a status");
    // Without a body these would be the processor's own.
    let must_speak = matches!(status, 400 | 415 | 500);
    let (media_type, body) = match which / STATUSES.len() % 3 {
        _ if status == 204 => return empty(code),
        0 if !must_speak => return empty(code),
        1 => ("application/json", ERROR),
        _ => ("text/html", PAGE),
    };
    let mut reply = Reply::new(Body::chunks([Bytes::from_static(body)]));
    *reply.status_mut() = code;
    let media_type = HeaderValue::from_static(media_type);
    reply.headers_mut().insert(CONTENT_TYPE, media_type);
    reply
}

/// A reply for which nobody asked, to be sent after another one over the same connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unasked {
    pub(super) bytes: &'static [u8],
    /// It comes when the next request has come, in the place of the reply to that.
    pub(super) waits: bool,
}

impl Unasked {
    /// One that looks like the processor's own. None of them says that something is stored: whoever
    /// believes its processor cannot tell that one from the answer to its request.
    pub(super) fn new(which: usize) -> Self {
        const REPLIES: [&[u8]; 7] = [
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 415 Unsupported Media Type\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nwait",
            b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        ];
        Self {
            bytes: REPLIES[which % REPLIES.len()],
            waits: (which / REPLIES.len()).is_multiple_of(2),
        }
    }
}
