//! What clients send, and what they are told.
//!
//! `$id` stands for a new UUID. A status of 0 is a connection closed without a word.

mod bodies;
mod wire;

use uuid::Uuid;

/// What is to come back.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub status: u16,
    /// The `detail` of the problem document; none where there is no document to be.
    pub detail: Option<&'static str>,
}

/// A request and its answer.
pub struct Row {
    pub sent: Vec<u8>,
    pub answer: Answer,
}

const fn plain(status: u16) -> Answer {
    Answer {
        status,
        detail: None,
    }
}

const fn problem(status: u16, detail: &'static str) -> Answer {
    Answer {
        status,
        detail: Some(detail),
    }
}

const ACCEPTED: Answer = plain(202);
const OK: Answer = plain(200);
/// The HTTP library refuses what is no HTTP before anybody can write a document.
const NO_HTTP: Answer = plain(400);
const HEAD_TOO_LONG: Answer = plain(431);

const NOT_A_NUMBER: Answer = problem(422, "`amount` must be a JSON number such as 19.90");
const NOT_POSITIVE: Answer = problem(422, "`amount` must be more than 0");
const TOO_PRECISE: Answer = problem(422, "`amount` must have at most two decimals");
const TOO_LARGE: Answer = problem(422, "`amount` must be less than 1000000000000");
const NOT_A_UUID: Answer = problem(
    422,
    "`correlationId` must be a string with a UUID such as \"4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3\"",
);
const NO_AMOUNT: Answer = problem(422, "the field `amount` is missing");
const NO_ID: Answer = problem(422, "the field `correlationId` is missing");
const OTHER_JSON: Answer = problem(
    400,
    "the body is not a JSON object: it is another JSON value",
);
const NOT_UTF8: Answer = problem(400, "the body is not a JSON object: it is not UTF-8");
const TOO_LONG: Answer = problem(413, "the body must be at most 4096 bytes");
const NO_FROM: Answer = problem(
    400,
    "`from` must be a time such as 2026-07-10T12:34:56.000Z (a + stands as %2B in a query)",
);
const NO_TO: Answer = problem(
    400,
    "`to` must be a time such as 2026-07-10T12:34:56.000Z (a + stands as %2B in a query)",
);
const SWAPPED: Answer = problem(400, "`from` must not be after `to`");
const NOT_A_PATH_ID: Answer = problem(400, "the id in the path must be a UUID with hyphens");
const NO_HOST: Answer = problem(400, "a request must have exactly one Host header");

const BAD_HOST: Answer = problem(
    400,
    "the Host header must be a host, with a port or without",
);

/// Everything, in the order of a request: what a body may be, then a query, a path, a head, the
/// wire.
pub fn sections() -> Vec<(&'static str, Vec<Row>)> {
    vec![
        ("amounts", bodies::amounts()),
        ("ids", bodies::ids()),
        ("bodies", bodies::bodies()),
        ("media types", bodies::media_types()),
        ("ranges", ranges()),
        ("paths", paths()),
        ("the wire", wire::requests()),
    ]
}

/// The query of `GET /payments-summary`.
#[rustfmt::skip]
fn ranges() -> Vec<Row> {
    [
        // Times as RFC 3339 has them: offsets, the leap second, the first year and the last.
        ("", OK), ("from=&to=", OK), ("from=2026-07-10T12:34:56.000Z&to=2026-07-10T12:34:56.000Z", OK),
        ("from=2026-07-10t12:34:56z", OK), ("from=2026-07-10T12:34:56.123456789012345Z", OK),
        ("from=2026-07-10T12:34:56-03:00", OK), ("from=2026-07-10T12:34:56%2B23:59", OK), ("from=2026-07-10T12:34:56-00:00", OK),
        ("from=2016-12-31T23:59:60Z", OK), ("to=2016-12-31T23:59:60.999Z", OK), ("from=2024-02-29T00:00:00Z", OK),
        ("from=0000-01-01T00:00:00Z", OK), ("from=0000-01-01T00:00:00%2B23:59&to=9999-12-31T23:59:59.999999-23:59", OK),
        ("from=%32026-07-10T12:34:56Z", OK), ("%66rom=2026-07-10T12:34:56Z", OK), ("from=&&to", OK),
        // A parameter that there is not is not ignored: it may be a slip of the pen.
        ("unknown=x&&=&from", problem(400, "there is no parameter \"unknown\"; there are from, to")),
        ("From=2026-07-10T12:34:56Z", problem(400, "there is no parameter \"From\"; there are \
            from, to")),
        // Two ends in the wrong order; offsets count.
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", SWAPPED), ("to=2026-07-10T12:00:00Z&from=2026-07-10T12:00:00.001Z", SWAPPED),
        ("from=2026-07-10T12:00:00-01:00&to=2026-07-10T12:00:00Z", SWAPPED), ("from=9999-12-31T23:59:59Z&to=0000-01-01T00:00:00Z", SWAPPED),
        // One end given twice.
        ("from=2026-01-01T00:00:00Z&from=2026-01-01T00:00:00Z", problem(400, "Failed to deserialize query string: duplicate field `from`")),
        ("from=&from=", problem(400, "Failed to deserialize query string: duplicate field `from`")),
        ("to=2026-01-01T00:00:00Z&%74o=2026-01-01T00:00:00Z", problem(400, "Failed to deserialize \
            query string: duplicate field `to`")),
        // A plus that was not escaped is a space.
        ("from=2026-07-10T12:34:56+03:00", NO_FROM), ("to=2026-07-10T12:34:56+03:00", NO_TO),
        // Days and hours that do not exist.
        ("from=2026-13-01T00:00:00Z", NO_FROM), ("from=2026-00-01T00:00:00Z", NO_FROM), ("from=2026-02-30T00:00:00Z", NO_FROM),
        ("from=2025-02-29T00:00:00Z", NO_FROM), ("from=2026-01-00T00:00:00Z", NO_FROM), ("from=2026-01-32T00:00:00Z", NO_FROM),
        ("from=2026-01-01T24:00:00Z", NO_FROM), ("from=2026-01-01T23:60:00Z", NO_FROM), ("from=2026-01-01T23:59:61Z", NO_FROM),
        ("from=2026-01-01T00:00:00%2B24:00", NO_FROM), ("from=2026-01-01T00:00:00-01:60", NO_FROM),
        // Years with other than four digits.
        ("from=10000-01-01T00:00:00Z", NO_FROM), ("to=%2B10000-01-01T00:00:00Z", NO_TO), ("from=-0001-01-01T00:00:00Z", NO_FROM),
        ("to=999-01-01T00:00:00Z", NO_TO), ("to=26-01-01T00:00:00Z", NO_TO),
        // Other spellings.
        ("from=yesterday", NO_FROM), ("from=now", NO_FROM), ("from=1783686896", NO_FROM), ("from=1e400", NO_FROM), ("from=null", NO_FROM),
        ("from=2026-07-10", NO_FROM), ("from=2026-07-10T12:34:56", NO_FROM), ("from=2026-07-10T12:34Z", NO_FROM), ("from=12:34:56Z", NO_FROM),
        ("from=20260710T123456Z", NO_FROM), ("from=2026-W28-5T12:34:56Z", NO_FROM), ("from=2026-07-10T12:34:56,5Z", NO_FROM),
        ("from=2026-07-10T12:34:56.Z", NO_FROM), ("from=2026-07-10T12:34:56%20Z", NO_FROM), ("from=%202026-07-10T12:34:56Z", NO_FROM),
        ("from=2026-07-10T12:34:56UTC", NO_FROM), ("from=2026-07-10T12:34:56%2B0300", NO_FROM), ("from=2026-07-10T12:34:56%2B3", NO_FROM),
        ("from=Fri,%2010%20Jul%202026%2012:34:56%20GMT", NO_FROM), ("from=infinity", NO_FROM), ("to=-infinity", NO_TO), ("from=NaN", NO_FROM),
        // Percent signs that say nothing, bytes that are no text, and text that is no time.
        ("from=%", NO_FROM), ("from=%ZZ", NO_FROM), ("from=%2", NO_FROM), ("from=%00", NO_FROM), ("from=%FF%FE", NO_FROM), ("to=%C0%80", NO_TO),
        ("from=2026-07-10T12:34:56Z%00", NO_FROM), ("from=%252026-07-10T12:34:56Z", NO_FROM), ("from=2026%2D07-10T12:34:56Z&to=%0d%0aX:%20y", NO_TO),
        ("from[]=2026-07-10T12:34:56Z&to=[]", problem(400, "there is no parameter \"from[]\"; \
            there are from, to")), ("from='%20OR%201=1%20--", NO_FROM), ("from=２０２６-07-10T12:34:56Z", NO_FROM),
    ]
    .into_iter()
    .map(|(query, answer)| raw(&format!("GET /payments-summary?{query}"), "", "", answer))
    .collect()
}

/// Paths and methods.
#[rustfmt::skip]
fn paths() -> Vec<Row> {
    [
        ("GET /payments/4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3", problem(404, "payment 4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3 is not known")),
        ("GET /payments/%34A7901B8-7D26-4D9D-AA19-4DC1C7CF60B3", problem(404, "payment 4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3 is not known")),
        ("GET /payments/4a7901b87d264d9daa194dc1c7cf60b3", NOT_A_PATH_ID), ("GET /payments/x", NOT_A_PATH_ID), ("GET /payments/%00", NOT_A_PATH_ID),
        ("GET /payments/%FF%FE", NOT_A_PATH_ID), ("GET /payments/%", NOT_A_PATH_ID), ("GET /payments/..", NOT_A_PATH_ID),
        ("GET /payments/..%2f..%2fetc%2fpasswd", NOT_A_PATH_ID), ("GET /payments/4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3%0a", NOT_A_PATH_ID),
        ("GET /payments/{4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3}", NOT_A_PATH_ID), ("GET /payments/service-health", NOT_A_PATH_ID),
        ("GET /payments/'%20OR%20''='", NOT_A_PATH_ID), ("GET /payments/é", NOT_A_PATH_ID),
        ("GET /", problem(404, "there is nothing at /")), ("GET //payments", problem(404, "there is nothing at //payments")),
        ("GET /payments/", problem(404, "there is nothing at /payments/")), ("GET /Payments", problem(404, "there is nothing at /Payments")),
        ("GET /payments/a/b", problem(404, "there is nothing at /payments/a/b")), ("GET /%70ayments", problem(404, "there is nothing at /%70ayments")),
        ("GET /../etc/passwd", problem(404, "there is nothing at /../etc/passwd")), ("GET /metrics", problem(404, "there is nothing at /metrics")),
        ("GET /openapi.json/x", problem(404, "there is nothing at /openapi.json/x")), ("GET /docs/", problem(404, "there is nothing at /docs/")),
        ("GET http://gateway/nowhere", problem(404, "there is nothing at /nowhere")), ("GET http://gateway/payments-summary", OK),
        ("OPTIONS *", plain(204)), ("OPTIONS /payments", plain(204)), ("OPTIONS /readyz", plain(204)), ("GET *", problem(404, "there is nothing at *")),
        ("GET /payments", problem(405, "/payments does not take GET; the Allow header says what it \
            takes")),
        ("PUT /payments", problem(405, "/payments does not take PUT; the Allow header says what it \
            takes")),
        ("TRACE /payments", problem(405, "/payments does not take TRACE; the Allow header says \
            what it takes")),
        ("BREW /payments", problem(405, "/payments does not take BREW; the Allow header says what \
            it takes")),
        ("post /payments", problem(405, "/payments does not take post; the Allow header says what \
            it takes")),
        ("POST /payments-summary", problem(405, "/payments-summary does not take POST; the Allow \
            header says what it takes")),
        ("DELETE /payments/4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3", problem(405, "/payments/4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3 does not take DELETE; the Allow header says what it takes")),
        ("GET /purge-payments", problem(405, "/purge-payments does not take GET; the Allow header \
            says what it takes")),
        ("POST /purge-payments", problem(403, "purging is off; ALLOW_PURGE=true turns it on")),
        ("POST /livez", problem(405, "/livez does not take POST; the Allow header says what it \
            takes")),
        ("POST /openapi.json", problem(405, "/openapi.json does not take POST; the Allow header \
            says what it takes")),
        ("POST /problems/", problem(405, "/problems/ does not take POST; the Allow header says \
            what it takes")),
        ("HEAD /payments-summary", OK), ("HEAD /nowhere", plain(404)), ("CONNECT gateway:443", problem(404, "there is nothing at ")),
    ]
    .into_iter()
    .map(|(line, answer)| raw(line, "", "", answer))
    .collect()
}

fn post(body: impl AsRef<[u8]>, answer: Answer) -> Row {
    let body = with_id(body.as_ref());
    let headers = format!(
        "Content-Type: application/json\r\nContent-Length: {}",
        body.len()
    );
    raw("POST /payments", &headers, body, answer)
}

fn twice(field: &str, column: usize) -> Answer {
    problem(
        422,
        format!("duplicate field `{field}` at line 1 column {column}").leak(),
    )
}

fn malformed(body: impl AsRef<[u8]>, detail: &str) -> Row {
    let detail = format!("the body is not a JSON object: {detail}");
    post(body, problem(400, detail.leak()))
}

/// A request with what every request has.
fn raw(line: &str, headers: &str, body: impl AsRef<[u8]>, answer: Answer) -> Row {
    let headers = if headers.is_empty() {
        String::new()
    } else {
        format!("{headers}\r\n")
    };
    let mut sent =
        format!("{line} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{headers}\r\n")
            .into_bytes();
    sent.extend(with_id(body.as_ref()));
    Row { sent, answer }
}

/// Puts a new UUID in the place of every `$id`, one for all of them.
fn with_id(sent: &[u8]) -> Vec<u8> {
    let id = Uuid::new_v4().to_string();
    let mut rest = sent;
    let mut filled = Vec::new();
    while let Some(at) = rest.windows(3).position(|bytes| bytes == b"$id") {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(id.as_bytes());
        rest = &rest[at + 3..];
    }
    filled.extend_from_slice(rest);
    filled
}
