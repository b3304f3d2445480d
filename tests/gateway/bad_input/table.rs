//! What clients send, and what they are told.
//!
//! `$id` stands for a new UUID. A status of 0 is a connection closed without a word.

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

/// Everything, in the order of a request: what a body may be, then a query, a path, a head, the wire.
pub fn sections() -> Vec<(&'static str, Vec<Row>)> {
    vec![
        ("amounts", amounts()),
        ("ids", ids()),
        ("bodies", bodies()),
        ("media types", media_types()),
        ("ranges", ranges()),
        ("paths", paths()),
        ("the wire", wire()),
    ]
}

/// `amount` in a body that is good otherwise.
#[rustfmt::skip]
fn amounts() -> Vec<Row> {
    [
        // The same number in many spellings.
        ("19.90", ACCEPTED), ("1990e-2", ACCEPTED), ("0.199E+2", ACCEPTED), ("19.9000000000", ACCEPTED),
        ("0.01", ACCEPTED), ("999999999999.99", ACCEPTED), ("1e11", ACCEPTED), ("0.0000000001e10", ACCEPTED),
        // Nothing, or less.
        ("0", NOT_POSITIVE), ("-0", NOT_POSITIVE), ("0.00", NOT_POSITIVE), ("-0.0", NOT_POSITIVE),
        ("0e400", NOT_POSITIVE), ("-1", NOT_POSITIVE), ("-19.90", NOT_POSITIVE), ("-1e400", NOT_POSITIVE),
        ("-1e-400", NOT_POSITIVE), ("-0.001", NOT_POSITIVE),
        // Less than a cent of something.
        ("0.001", TOO_PRECISE), ("19.901", TOO_PRECISE), ("0.0000000000000000000000000001", TOO_PRECISE),
        ("1e-3", TOO_PRECISE), ("1e-400", TOO_PRECISE), ("1E-99999999999999999999", TOO_PRECISE),
        ("19.9000000000000000000000000000000000001", TOO_PRECISE), ("999999999999.999", TOO_PRECISE),
        // More than the books hold.
        ("1000000000000", TOO_LARGE), ("1e12", TOO_LARGE), ("1e400", TOO_LARGE), ("1E+400", TOO_LARGE),
        ("1e99999999999999999999", TOO_LARGE), ("123456789012345678901234567890", TOO_LARGE),
        ("79228162514264337593543950336", TOO_LARGE), ("9223372036854775808", TOO_LARGE),
        // Other JSON.
        (r#""19.90""#, NOT_A_NUMBER), (r#""""#, NOT_A_NUMBER), ("true", NOT_A_NUMBER), ("false", NOT_A_NUMBER),
        ("[19.90]", NOT_A_NUMBER), ("[]", NOT_A_NUMBER), (r#"{"value":19.90}"#, NOT_A_NUMBER), ("{}", NOT_A_NUMBER),
        (r#"{"$serde_json::private::Number":"19.90"}"#, NOT_A_NUMBER), ("null", NO_AMOUNT),
    ]
    .into_iter()
    .map(|(amount, answer)| post(format!(r#"{{"correlationId":"$id","amount":{amount}}}"#), answer))
    // What is no JSON number at all; the position is where the reader stopped.
    .chain([
        ("+1", "expected value at line 1 column 66"), ("01", "invalid number at line 1 column 67"),
        (".5", "expected value at line 1 column 66"), ("1.", "invalid number at line 1 column 68"),
        ("1.e2", "invalid number at line 1 column 68"), ("1e", "invalid number at line 1 column 68"),
        ("1e+", "invalid number at line 1 column 69"), ("--1", "invalid number at line 1 column 67"),
        ("-", "invalid number at line 1 column 67"), ("0x10", "expected `,` or `}` at line 1 column 67"),
        ("1_000", "expected `,` or `}` at line 1 column 67"), ("1,5", "key must be a string at line 1 column 68"),
        ("NaN", "expected value at line 1 column 66"), ("Infinity", "expected value at line 1 column 66"),
        ("-Infinity", "invalid number at line 1 column 67"), ("nul", "expected ident at line 1 column 69"),
        ("'19.90'", "expected value at line 1 column 66"), ("1 9", "expected `,` or `}` at line 1 column 68"),
        ("１９", "expected value at line 1 column 66"), ("", "expected value at line 1 column 66"),
    ]
    .into_iter()
    .map(|(amount, detail)| malformed(format!(r#"{{"correlationId":"$id","amount":{amount}}}"#), detail)))
    .collect()
}

/// `correlationId` in a body that is good otherwise.
#[rustfmt::skip]
fn ids() -> Vec<Row> {
    [
        // One spelling, in either case, however JSON writes its letters. Any version, and none.
        (r#""$id""#, ACCEPTED), (r#""6F9619FF-8B86-D011-B42D-00CF4FC964FF""#, ACCEPTED),
        (r#""\u0034a7901b8-7d26-4d9d-aa19-4dc1c7cf60b1""#, ACCEPTED),
        (r#""00000000-0000-0000-0000-000000000000""#, ACCEPTED), (r#""ffffffff-ffff-ffff-ffff-ffffffffffff""#, ACCEPTED),
        // Spellings that auditors would not search for.
        (r#""4a7901b87d264d9daa194dc1c7cf60b3""#, NOT_A_UUID), (r#""{4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3}""#, NOT_A_UUID),
        (r#""urn:uuid:4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3""#, NOT_A_UUID),
        (r#""4a7901b8_7d26_4d9d_aa19_4dc1c7cf60b3""#, NOT_A_UUID), (r#""4a79-01b87d26-4d9d-aa19-4dc1c7cf60b3""#, NOT_A_UUID),
        (r#"" 4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3""#, NOT_A_UUID), (r#""4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3\n""#, NOT_A_UUID),
        // Too short, too long, not hexadecimal, not even ASCII where the length is right.
        (r#""4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b""#, NOT_A_UUID), (r#""4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b33""#, NOT_A_UUID),
        (r#""4a7901b8-7d26-4d9d-aa19-4dc1c7cf60bg""#, NOT_A_UUID), (r#""4a7901b8-7d26-4d9d-aa19-4dc1c7cf60é""#, NOT_A_UUID),
        (r#""４a7901b8-7d26-4d9d-aa19-4dc1c7cf60""#, NOT_A_UUID), (r#""4a7901b8–7d26-4d9d-aa19-4dc1c7cf60""#, NOT_A_UUID),
        (r#""4a7901b8-7d26-4d9d-aa19-4dc1c7cf60\u0000\u0000""#, NOT_A_UUID), (r#""\ud800""#, NOT_A_UUID),
        (r#""""#, NOT_A_UUID), (r#""null""#, NOT_A_UUID), (r#""'; DROP TABLE payment_queue; --""#, NOT_A_UUID),
        // Other JSON.
        ("7", NOT_A_UUID), ("true", NOT_A_UUID), ("[]", NOT_A_UUID), (r#"["$id"]"#, NOT_A_UUID),
        (r#"{"id":"$id"}"#, NOT_A_UUID), ("1e400", NOT_A_UUID), ("null", NO_ID),
    ]
    .into_iter()
    .map(|(id, answer)| post(format!(r#"{{"correlationId":{id},"amount":19.90}}"#), answer))
    .collect()
}

/// Whole bodies.
#[rustfmt::skip]
fn bodies() -> Vec<Row> {
    let good = r#"{"correlationId":"$id","amount":19.90}"#;
    let with = |more: &str| format!(r#"{{"correlationId":"$id","amount":19.90{more}}}"#);
    let nested = |depth: usize| with(&format!(r#","note":{}{}"#, "[".repeat(depth), "]".repeat(depth)));
    vec![
        // What is not asked for is ignored, however odd it is, as long as it is JSON.
        post(with(r#","note":"\ud83d\ude00 é""#), ACCEPTED), post(with(r#","":null"#), ACCEPTED),
        post(with(r#","note":1e400"#), ACCEPTED), post(with(r#","note":1,"note":2"#), ACCEPTED),
        post(with(r#","Amount":1,"AMOUNT":2,"amount ":3"#), ACCEPTED), post(with(r#","__proto__":{"amount":1}"#), ACCEPTED),
        post(nested(127), ACCEPTED), post(nested(2_000), ACCEPTED), post(with(&format!(r#","{}":1"#, "k".repeat(3_000))), ACCEPTED),
        post(format!("\r\n\t {good} \n"), ACCEPTED), post(r#"{"correl\u0061tionId":"$id","\u0061mount":19.90}"#, ACCEPTED),
        // Fields that are missing, or stand twice, also where JSON writes them differently.
        post("{}", NO_ID), post(r#"{"amount":19.90}"#, NO_ID), post(r#"{"correlationId":"$id"}"#, NO_AMOUNT),
        post(r#"{"correlationid":"$id","amount":19.90}"#, NO_ID), post(r#"{"correlation_id":"$id","amount":19.90}"#, NO_ID),
        post(r#"{"payment":{"correlationId":"$id","amount":19.90}}"#, NO_ID),
        post(with(r#","amount":19.90"#), twice("amount", 79)), post(with(r#","amount":1"#), twice("amount", 79)),
        post(with(r#","\u0061mount":1"#), twice("amount", 84)), post(with(r#","amount":null"#), twice("amount", 79)),
        post(with(r#","correlationId":"$id""#), twice("correlationId", 86)),
        post(r#"{"amount":null,"correlationId":"$id","amount":1}"#, twice("amount", 78)),
        // Other JSON.
        post("[]", OTHER_JSON), post(r#"["$id",19.90]"#, OTHER_JSON), post(format!("[{good}]"), OTHER_JSON), post("null", OTHER_JSON),
        post("19.90", OTHER_JSON), post(r#""$id""#, OTHER_JSON), post("true", OTHER_JSON), post(" 0 ", OTHER_JSON),
        post("[".repeat(2_000) + &"]".repeat(2_000), OTHER_JSON),
        // No JSON.
        malformed("", "EOF while parsing a value at line 1 column 0"), malformed(" \n", "EOF while parsing a value at line 2 column 0"),
        malformed("{", "EOF while parsing an object at line 1 column 1"), malformed("}", "expected value at line 1 column 1"),
        malformed("{]", "key must be a string at line 1 column 2"), malformed("{{}}", "key must be a string at line 1 column 2"),
        malformed(r#"{"correlationId""#, "EOF while parsing an object at line 1 column 16"),
        malformed(r#"{"correlationId":"#, "EOF while parsing a value at line 1 column 17"),
        malformed(r#"{"correlationId":"$id","amount":19.90"#, "EOF while parsing an object at line 1 column 70"),
        malformed(r#"{"correlationId":"$id","amount":19.9"#, "EOF while parsing an object at line 1 column 69"),
        malformed(r#"{"correlationId":"$id""amount":19.90}"#, "expected `,` or `}` at line 1 column 56"),
        malformed(r#"{"correlationId" "$id"}"#, "expected `:` at line 1 column 18"), malformed(with(","), "trailing comma at line 1 column 72"),
        malformed(format!("{good}{good}"), "trailing characters at line 1 column 72"), malformed(format!("{good}\0"), "trailing characters at line 1 column 72"),
        malformed(format!("{good};"), "trailing characters at line 1 column 72"), malformed(format!("{good}// note"), "trailing characters at line 1 column 72"),
        malformed("{'correlationId':'x','amount':1}", "key must be a string at line 1 column 2"),
        malformed("{correlationId:1}", "key must be a string at line 1 column 2"), malformed("{1:2}", "key must be a string at line 1 column 2"),
        malformed("/* note */{}", "expected value at line 1 column 1"), malformed("correlationId=$id&amount=19.90", "expected value at line 1 column 1"),
        malformed("<payment amount=\"19.90\"/>", "expected value at line 1 column 1"), malformed("\u{feff}{}", "expected value at line 1 column 1"),
        malformed("\0", "expected value at line 1 column 1"), malformed("{\"amount\0\":1}", "control character (\\u0000-\\u001F) found while parsing a string at line 1 column 9"),
        malformed("{\"note\":\"\n\"}", "control character (\\u0000-\\u001F) found while parsing a string at line 1 column 9"),
        malformed(r#"{"note":"\x"}"#, "invalid escape at line 1 column 11"), malformed(r#"{"note":"\u12"}"#, "invalid escape at line 1 column 15"),
        malformed(r#"{"\ud800":1}"#, "unexpected end of hex escape at line 1 column 9"),
        malformed("[".repeat(4_000), "EOF while parsing a list at line 1 column 4000"), malformed(r#"{"a":"#.repeat(600), "EOF while parsing a value at line 1 column 3000"),
        // No UTF-8, in what counts and in what is ignored; an overlong zero, a surrogate, UTF-16.
        post(b"{\"correlationId\":\"\xff\",\"amount\":1}", NOT_UTF8), post(b"{\"amount\":1,\"note\":\"\xff\"}", NOT_UTF8), post(b"{\"\xc3\x28\":1}", NOT_UTF8),
        post(b"{\"note\":\"\xc0\x80\"}", NOT_UTF8), post(b"{\"note\":\"\xed\xa0\x80\"}", NOT_UTF8), post(b"\xff\xfe{\0}\0", NOT_UTF8), post(b"\x1f\x8b\x08\0", NOT_UTF8),
        // Too long: one byte, and said to be much more than is sent.
        post(format!("{good}{}", " ".repeat(4_096 - 71)), ACCEPTED), post(format!("{good}{}", " ".repeat(4_097 - 71)), TOO_LONG),
        post("x".repeat(100_000), TOO_LONG), raw("POST /payments", "Content-Type: application/json\r\nContent-Length: 9223372036854775807", "", TOO_LONG),
    ]
}

/// `Content-Type` of a body that is good.
#[rustfmt::skip]
fn media_types() -> Vec<Row> {
    [
        ("Content-Type: application/json; charset=utf-8", ACCEPTED), ("content-type:APPLICATION/JSON", ACCEPTED),
        ("Content-Type: application/json ;", ACCEPTED),
        ("X-Nothing: here", problem(415, "the Content-Type must be application/json, not \"\"")),
        ("Content-Type:", problem(415, "the Content-Type must be application/json, not \"\"")),
        ("Content-Type: text/plain", problem(415, "the Content-Type must be application/json, not \"text/plain\"")),
        ("Content-Type: application/jsonp", problem(415, "the Content-Type must be application/json, not \"application/jsonp\"")),
        ("Content-Type: json", problem(415, "the Content-Type must be application/json, not \"json\"")),
        ("Content-Type: application/json, text/plain", problem(415, "the Content-Type must be application/json, not \"application/json, text/plain\"")),
        ("Content-Type: application/x-www-form-urlencoded", problem(415, "the Content-Type must be application/json, not \"application/x-www-form-urlencoded\"")),
        ("Content-Type: \u{e9}", problem(415, "the Content-Type must be application/json, not \"\"")),
    ]
    .into_iter()
    .map(|(header, answer)| {
        let body = r#"{"correlationId":"$id","amount":19.90}"#;
        raw("POST /payments", &format!("{header}\r\nContent-Length: {}", with_id(body.as_bytes()).len()), body, answer)
    })
    .collect()
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
        ("from=%32026-07-10T12:34:56Z", OK), ("%66rom=2026-07-10T12:34:56Z", OK), ("unknown=x&&=&from", OK),
        // Two ends in the wrong order; offsets count.
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", SWAPPED), ("to=2026-07-10T12:00:00Z&from=2026-07-10T12:00:00.001Z", SWAPPED),
        ("from=2026-07-10T12:00:00-01:00&to=2026-07-10T12:00:00Z", SWAPPED), ("from=9999-12-31T23:59:59Z&to=0000-01-01T00:00:00Z", SWAPPED),
        // One end given twice.
        ("from=2026-01-01T00:00:00Z&from=2026-01-01T00:00:00Z", problem(400, "Failed to deserialize query string: duplicate field `from`")),
        ("from=&from=", problem(400, "Failed to deserialize query string: duplicate field `from`")),
        ("to=2026-01-01T00:00:00Z&%74o=2026-01-01T00:00:00Z", problem(400, "Failed to deserialize query string: duplicate field `to`")),
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
        ("from[]=2026-07-10T12:34:56Z&to=[]", NO_TO), ("from='%20OR%201=1%20--", NO_FROM), ("from=２０２６-07-10T12:34:56Z", NO_FROM),
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
        ("GET /openapi.json/x", problem(404, "there is nothing at /openapi.json/x")), ("GET /docs/nothing.js", problem(404, "there is nothing at /docs/nothing.js")),
        ("GET http://gateway/nowhere", problem(404, "there is nothing at /nowhere")), ("GET http://gateway/payments-summary", OK),
        ("OPTIONS *", problem(404, "there is nothing at *")),
        ("GET /payments", problem(405, "/payments does not take GET; the Allow header says what it takes")),
        ("PUT /payments", problem(405, "/payments does not take PUT; the Allow header says what it takes")),
        ("TRACE /payments", problem(405, "/payments does not take TRACE; the Allow header says what it takes")),
        ("BREW /payments", problem(405, "/payments does not take BREW; the Allow header says what it takes")),
        ("post /payments", problem(405, "/payments does not take post; the Allow header says what it takes")),
        ("POST /payments-summary", problem(405, "/payments-summary does not take POST; the Allow header says what it takes")),
        ("DELETE /payments/4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3", problem(405, "/payments/4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3 does not take DELETE; the Allow header says what it takes")),
        ("GET /purge-payments", problem(405, "/purge-payments does not take GET; the Allow header says what it takes")),
        ("POST /purge-payments", problem(403, "purging is off; ALLOW_PURGE=true turns it on")),
        ("POST /livez", problem(405, "/livez does not take POST; the Allow header says what it takes")),
        ("POST /openapi.json", problem(405, "/openapi.json does not take POST; the Allow header says what it takes")),
        ("POST /docs/", problem(405, "/docs/ does not take POST; the Allow header says what it takes")),
        ("HEAD /payments-summary", OK), ("HEAD /nowhere", plain(404)), ("CONNECT gateway:443", problem(404, "there is nothing at ")),
    ]
    .into_iter()
    .map(|(line, answer)| raw(line, "", "", answer))
    .collect()
}

/// Whole requests, byte by byte.
#[rustfmt::skip]
fn wire() -> Vec<Row> {
    let host = "Host: gateway\r\nConnection: close";
    let summary = "GET /payments-summary HTTP/1.1";
    let json = format!("POST /payments HTTP/1.1\r\n{host}\r\nContent-Type: application/json");
    let good = r#"{"correlationId":"$id","amount":19.90}"#; // 71 bytes with its id: 47 in hexadecimal
    let row = |sent: String, answer| Row { sent: with_id(sent.as_bytes()), answer };
    vec![
        // The request line.
        row("\r\n\r\nGET /livez HTTP/1.0\r\n\r\n".into(), plain(204)), row("GET\r\n\r\n".into(), NO_HTTP), row("GET /\r\n\r\n".into(), NO_HTTP),
        row(format!("GET  /payments-summary HTTP/1.1\r\n{host}\r\n\r\n"), NO_HTTP), row(format!("GET /payments summary HTTP/1.1\r\n{host}\r\n\r\n"), NO_HTTP),
        row(format!("GET /payments-summary HTTP/1.2\r\n{host}\r\n\r\n"), NO_HTTP), row(format!("GET /payments-summary HTTP/3\r\n{host}\r\n\r\n"), NO_HTTP),
        row(format!("GET /payments-summary http/1.1\r\n{host}\r\n\r\n"), NO_HTTP), row(format!("GET payments-summary HTTP/1.1\r\n{host}\r\n\r\n"), problem(404, "there is nothing at ")),
        row(format!("G\0T /livez HTTP/1.1\r\n{host}\r\n\r\n"), NO_HTTP), row(format!("GET /li\0vez HTTP/1.1\r\n{host}\r\n\r\n"), NO_HTTP),
        row(format!("(GET) /livez HTTP/1.1\r\n{host}\r\n\r\n"), NO_HTTP), row(format!("GET /livez#top HTTP/1.1\r\n{host}\r\n\r\n"), plain(204)),
        row("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), plain(0)), row("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03".into(), NO_HTTP),
        row("SSH-2.0-OpenSSH_9.2\r\n".into(), NO_HTTP), row("{\"correlationId\":1}\r\n\r\n".into(), NO_HTTP),
        row(format!("GET /livez?{} HTTP/1.1\r\n{host}\r\n\r\n", "x".repeat(8_000)), plain(204)),
        row(format!("GET /{} HTTP/1.1\r\n{host}\r\n\r\n", "x".repeat(70_000)), HEAD_TOO_LONG),
        // Host.
        row(format!("{summary}\r\nConnection: close\r\n\r\n"), NO_HOST), row(format!("{summary}\r\n{host}\r\nHost: gateway\r\n\r\n"), NO_HOST),
        row(format!("{summary}\r\n{host}\r\nhost: other\r\n\r\n"), NO_HOST), row("GET /payments-summary HTTP/1.0\r\n\r\n".into(), OK),
        // Headers.
        row(format!("{summary}\r\n{host}\r\nNo colon\r\n\r\n"), NO_HTTP), row(format!("{summary}\r\n{host}\r\n: no name\r\n\r\n"), NO_HTTP),
        row(format!("{summary}\r\n{host}\r\nName : space\r\n\r\n"), NO_HTTP), row(format!("{summary}\r\n{host}\r\nA: b\r\n folded\r\n\r\n"), NO_HTTP),
        row(format!("{summary}\r\n{host}\r\nA: b\0c\r\n\r\n"), NO_HTTP), row(format!("{summary}\r\n{host}\r\nA: b\rc\r\n\r\n"), NO_HTTP),
        row(format!("{summary}\r\n{host}\r\n{}\r\n\r\n", "A: b\r\n".repeat(200).trim_end()), HEAD_TOO_LONG),
        row(format!("{summary}\r\n{host}\r\nA: {}\r\n\r\n", "b".repeat(70_000)), HEAD_TOO_LONG),
        row(format!("{summary}\r\n{host}\r\nExpect: a miracle\r\nUpgrade: h2c\r\nTransfer: all\r\n\r\n"), OK),
        // Lengths.
        row(format!("{json}\r\nContent-Length: 71\r\nContent-Length: 71\r\n\r\n{good}"), ACCEPTED),
        row(format!("{json}\r\nContent-Length: 71\r\nContent-Length: 5\r\n\r\n{good}"), NO_HTTP), row(format!("{json}\r\nContent-Length: 71, 5\r\n\r\n{good}"), NO_HTTP),
        row(format!("{json}\r\nContent-Length: -1\r\n\r\n{good}"), NO_HTTP), row(format!("{json}\r\nContent-Length: +71\r\n\r\n{good}"), NO_HTTP),
        row(format!("{json}\r\nContent-Length: 0x47\r\n\r\n{good}"), NO_HTTP), row(format!("{json}\r\nContent-Length:\r\n\r\n{good}"), NO_HTTP),
        row(format!("{json}\r\nContent-Length: 99999999999999999999\r\n\r\n{good}"), NO_HTTP), row(format!("{json}\r\nContent-Length: 18446744073709551614\r\n\r\n{good}"), HEAD_TOO_LONG),
        row(format!("{json}\r\nContent-Length: 5\r\n\r\n{good}"), problem(400, "the body is not a JSON object: EOF while parsing a string at line 1 column 5")),
        row(format!("{json}\r\n\r\n{good}"), problem(400, "the body is not a JSON object: EOF while parsing a value at line 1 column 0")),
        // Chunks.
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n47\r\n{good}\r\n0\r\n\r\n"), ACCEPTED),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n47;a=b\r\n{good}\r\n000\r\nTrailer: x\r\n\r\n"), ACCEPTED),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{good}\r\n0\r\n\r\n"), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n-47\r\n{good}\r\n0\r\n\r\n"), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n47{good}\r\n0\r\n\r\n"), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{good}\r\n0\r\n\r\n"), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{good}\r\n0\r\n\r\n"), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n{}", "x".repeat(5_000)), TOO_LONG),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n1;{}\r\n{{\r\n0\r\n\r\n", "x".repeat(20_000)), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: gzip\r\n\r\n{good}"), NO_HTTP), row(format!("{json}\r\nTransfer-Encoding: chunked, gzip\r\n\r\n{good}"), NO_HTTP),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"), NO_HTTP),
        row(format!("POST /payments HTTP/1.0\r\n{host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), NO_HTTP),
        // With both, the chunks count (RFC 9112, 6.1).
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n47\r\n{good}\r\n0\r\n\r\n"), ACCEPTED),
        row(format!("{json}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n47\r\n{good}\r\n0\r\n\r\n"), ACCEPTED),
    ]
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
