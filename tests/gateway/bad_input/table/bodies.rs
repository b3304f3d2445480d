//! What stands in the body of a POST, and what it is said to be.

use super::{
    ACCEPTED, NO_AMOUNT, NO_ID, NOT_A_NUMBER, NOT_A_UUID, NOT_POSITIVE, NOT_UTF8, OTHER_JSON, Row,
    TOO_LARGE, TOO_LONG, TOO_PRECISE, malformed, post, problem, raw, twice, with_id,
};

/// `amount` in a body that is good otherwise.
#[rustfmt::skip]
pub(super) fn amounts() -> Vec<Row> {
    [
        // The same number in many spellings.
        ("19.90", ACCEPTED), ("1990e-2", ACCEPTED), ("0.199E+2", ACCEPTED), ("19.9000000000", ACCEPTED),
        ("19.9000000000000000000000000000", ACCEPTED), ("0.0099999999999999999999999999999999e0", TOO_PRECISE),
        ("0.01", ACCEPTED), ("999999999999.99", ACCEPTED), ("1e11", ACCEPTED), ("0.0000000001e10", ACCEPTED),
        // Nothing, or less.
        ("0", NOT_POSITIVE), ("-0", NOT_POSITIVE), ("0.00", NOT_POSITIVE), ("-0.0", NOT_POSITIVE),
        ("0e400", NOT_POSITIVE), ("-1", NOT_POSITIVE), ("-19.90", NOT_POSITIVE), ("-1e400", NOT_POSITIVE),
        ("-1e-400", NOT_POSITIVE), ("-0.001", NOT_POSITIVE),
        // Less than a cent of something.
        ("0.001", TOO_PRECISE), ("19.901", TOO_PRECISE), ("0.0000000000000000000000000001", TOO_PRECISE),
        ("1e-3", TOO_PRECISE), ("1e-400", TOO_PRECISE), ("1E-99999999999999999999", TOO_PRECISE),
        ("19.9000000000000000000000000000000000001", TOO_PRECISE), ("999999999999.999", TOO_PRECISE),
        // More than the ledgers hold.
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
        ("-", "invalid number at line 1 column 67"), ("0x10", "expected `,` or `}` at line 1 \
            column 67"),
        ("1_000", "expected `,` or `}` at line 1 column 67"), ("1,5", "key must be a string at \
            line 1 column 68"),
        ("NaN", "expected value at line 1 column 66"), ("Infinity", "expected value at line 1 \
            column 66"),
        ("-Infinity", "invalid number at line 1 column 67"), ("nul", "expected ident at line 1 \
            column 69"),
        ("'19.90'", "expected value at line 1 column 66"), ("1 9", "expected `,` or `}` at line 1 \
            column 68"),
        ("１９", "expected value at line 1 column 66"), ("", "expected value at line 1 column 66"),
    ]
    .into_iter()
    .map(|(amount, detail)| malformed(format!(r#"{{"correlationId":"$id","amount":{amount}}}"#), detail)))
    .collect()
}

/// `correlationId` in a body that is good otherwise.
#[rustfmt::skip]
pub(super) fn ids() -> Vec<Row> {
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
pub(super) fn bodies() -> Vec<Row> {
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
        malformed("{\"note\":\"\n\"}", "control character (\\u0000-\\u001F) found while parsing a \
            string at line 1 column 9"),
        malformed(r#"{"note":"\x"}"#, "invalid escape at line 1 column 11"), malformed(r#"{"note":"\u12"}"#, "invalid escape at line 1 column 15"),
        malformed(r#"{"\ud800":1}"#, "unexpected end of hex escape at line 1 column 9"),
        malformed("[".repeat(4_000), "EOF while parsing a list at line 1 column 4000"), malformed(r#"{"a":"#.repeat(600), "EOF while parsing a value at line 1 column 3000"),
        // No UTF-8, in what counts and in what is ignored; an overlong zero, a surrogate, UTF-16.
        post(b"{\"correlationId\":\"\xff\",\"amount\":1}", NOT_UTF8), post(b"{\"amount\":1,\"note\":\"\xff\"}", NOT_UTF8), post(b"{\"\xc3\x28\":1}", NOT_UTF8),
        post(b"{\"note\":\"\xc0\x80\"}", NOT_UTF8), post(b"{\"note\":\"\xed\xa0\x80\"}", NOT_UTF8), post(b"\xff\xfe{\0}\0", NOT_UTF8), post(b"\x1f\x8b\x08\0", NOT_UTF8),
        // Too long: one byte, and said to be much more than is sent.
        post(format!("{good}{}", " ".repeat(4_096 - 71)), ACCEPTED), post(format!("{good}{}", " ".repeat(4_097 - 71)), TOO_LONG),
        post("x".repeat(100_000), TOO_LONG), raw("POST /payments", "Content-Type: \
            application/json\r\nContent-Length: 9223372036854775807", "", TOO_LONG),
    ]
}

/// `Content-Type` of a body that is good.
#[rustfmt::skip]
pub(super) fn media_types() -> Vec<Row> {
    [
        ("Content-Type: application/json; charset=utf-8", ACCEPTED), ("content-type:APPLICATION/JSON", ACCEPTED),
        ("Content-Type: application/json ;", ACCEPTED), ("CONTENT-TYPE: \
            Application/Json;Charset=\"utf-8\"", ACCEPTED),
        // What is done to a body on its way.
        ("Content-Type: application/json\r\nContent-Encoding: identity", ACCEPTED), ("Content-Type: application/json\r\nContent-Encoding:", ACCEPTED),
        ("Content-Type: application/json\r\nCONTENT-ENCODING: Identity, identity", ACCEPTED),
        ("Content-Type: application/json\r\nContent-Encoding: gzip", problem(415, "the body must be sent as it is, without the Content-Encoding \"gzip\"")),
        ("Content-Type: application/json\r\nContent-Encoding: X-GZIP", problem(415, "the body must be sent as it is, without the Content-Encoding \"X-GZIP\"")),
        ("Content-Type: application/json\r\nContent-Encoding: identity, br", problem(415, "the body must be sent as it is, without the Content-Encoding \"br\"")),
        ("Content-Type: application/json\r\nContent-Encoding: identity\r\nContent-Encoding: zstd", problem(415, "the body must be sent as it is, without the Content-Encoding \"zstd\"")),
        ("Content-Type: text/plain\r\nContent-Encoding: deflate", problem(415, "the body must be \
            sent as it is, without the Content-Encoding \"deflate\"")),
        ("X-Nothing: here", problem(415, "the Content-Type must be application/json, not \"\"")),
        ("Content-Type:", problem(415, "the Content-Type must be application/json, not \"\"")),
        ("Content-Type: text/plain", problem(415, "the Content-Type must be application/json, not \
            \"text/plain\"")),
        ("Content-Type: application/jsonp", problem(415, "the Content-Type must be \
            application/json, not \"application/jsonp\"")),
        ("Content-Type: json", problem(415, "the Content-Type must be application/json, not \
            \"json\"")),
        ("Content-Type: application/json, text/plain", problem(415, "the Content-Type must be \
            application/json, not \"application/json, text/plain\"")),
        ("Content-Type: application/x-www-form-urlencoded", problem(415, "the Content-Type must be \
            application/json, not \"application/x-www-form-urlencoded\"")),
        ("Content-Type: \u{e9}", problem(415, "the Content-Type must be application/json, not \"\"")),
    ]
    .into_iter()
    .map(|(header, answer)| {
        let body = r#"{"correlationId":"$id","amount":19.90}"#;
        raw("POST /payments", &format!("{header}\r\nContent-Length: {}", with_id(body.as_bytes()).len()), body, answer)
    })
    .collect()
}
