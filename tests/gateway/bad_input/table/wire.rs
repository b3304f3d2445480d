//! What only a client that writes its bytes itself can send.

use super::{
    ACCEPTED, BAD_HOST, HEAD_TOO_LONG, NO_HOST, NO_HTTP, OK, Row, TOO_LONG, plain, problem, with_id,
};

/// Whole requests, byte by byte.
#[rustfmt::skip]
pub(super) fn requests() -> Vec<Row> {
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
        row(format!("{summary}\r\nHost: a b\r\nConnection: close\r\n\r\n"), BAD_HOST), row(format!("{summary}\r\nHost: me@gateway\r\nConnection: close\r\n\r\n"), BAD_HOST),
        row(format!("{summary}\r\nHost: gateway:port\r\nConnection: close\r\n\r\n"), BAD_HOST), row(format!("{summary}\r\nHost: /\r\nConnection: close\r\n\r\n"), BAD_HOST),
        row(format!("{summary}\r\nHost: [::1]:9999\r\nConnection: close\r\n\r\n"), OK), row(format!("{summary}\r\nHost:\r\nConnection: close\r\n\r\n"), OK),
        row("GET /payments-summary HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".into(), NO_HOST),
        // Headers.
        row(format!("{summary}\r\n{host}\r\nNo colon\r\n\r\n"), NO_HTTP), row(format!("{summary}\r\n{host}\r\n: no name\r\n\r\n"), NO_HTTP),
        row(format!("{summary}\r\n{host}\r\nName : space\r\n\r\n"), NO_HTTP), row(format!("{summary}\r\n{host}\r\nA: b\r\n folded\r\n\r\n"), NO_HTTP),
        row(format!("{summary}\r\n{host}\r\nA: b\0c\r\n\r\n"), NO_HTTP), row(format!("{summary}\r\n{host}\r\nA: b\rc\r\n\r\n"), NO_HTTP),
        row(format!("{summary}\r\n{host}\r\n{}\r\n\r\n", "A: b\r\n".repeat(200).trim_end()), HEAD_TOO_LONG),
        row(format!("{summary}\r\n{host}\r\nA: {}\r\n\r\n", "b".repeat(70_000)), HEAD_TOO_LONG),
        row(format!("{summary}\r\n{host}\r\nExpect: a miracle\r\nUpgrade: h2c\r\nTransfer: \
            all\r\n\r\n"), OK),
        // Lengths.
        row(format!("{json}\r\nContent-Length: 71\r\nContent-Length: 71\r\n\r\n{good}"), ACCEPTED),
        row(format!("{json}\r\nContent-Length: 71\r\nContent-Length: 5\r\n\r\n{good}"), NO_HTTP), row(format!("{json}\r\nContent-Length: 71, 5\r\n\r\n{good}"), NO_HTTP),
        row(format!("{json}\r\nContent-Length: -1\r\n\r\n{good}"), NO_HTTP), row(format!("{json}\r\nContent-Length: +71\r\n\r\n{good}"), NO_HTTP),
        row(format!("{json}\r\nContent-Length: 0x47\r\n\r\n{good}"), NO_HTTP), row(format!("{json}\r\nContent-Length:\r\n\r\n{good}"), NO_HTTP),
        row(format!("{json}\r\nContent-Length: 99999999999999999999\r\n\r\n{good}"), NO_HTTP), row(format!("{json}\r\nContent-Length: 18446744073709551614\r\n\r\n{good}"), HEAD_TOO_LONG),
        row(format!("{json}\r\nContent-Length: 5\r\n\r\n{good}"), problem(400, "the body is not a \
            JSON object: EOF while parsing a string at line 1 column 5")),
        row(format!("{json}\r\n\r\n{good}"), problem(400, "the body is not a JSON object: EOF \
            while parsing a value at line 1 column 0")),
        // Chunks.
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n47\r\n{good}\r\n0\r\n\r\n"), ACCEPTED),
        row(format!("{json}\r\nTransfer-Encoding: \
            chunked\r\n\r\n47;a=b\r\n{good}\r\n000\r\nTrailer: x\r\n\r\n"), ACCEPTED),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{good}\r\n0\r\n\r\n"), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n-47\r\n{good}\r\n0\r\n\r\n"), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n47{good}\r\n0\r\n\r\n"), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{good}\r\n0\r\n\r\n"), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: \
            chunked\r\n\r\nffffffffffffffffff\r\n{good}\r\n0\r\n\r\n"), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n{}", "x".repeat(5_000)), TOO_LONG),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\n\r\n1;{}\r\n{{\r\n0\r\n\r\n", "x".repeat(20_000)), problem(400, "the body ended too early")),
        row(format!("{json}\r\nTransfer-Encoding: gzip\r\n\r\n{good}"), NO_HTTP), row(format!("{json}\r\nTransfer-Encoding: chunked, gzip\r\n\r\n{good}"), NO_HTTP),
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: \
            identity\r\n\r\n0\r\n\r\n"), NO_HTTP),
        row(format!("POST /payments HTTP/1.0\r\n{host}\r\nTransfer-Encoding: \
            chunked\r\n\r\n0\r\n\r\n"), NO_HTTP),
        // With both, the chunks count (RFC 9112, 6.1).
        row(format!("{json}\r\nTransfer-Encoding: chunked\r\nContent-Length: \
            5\r\n\r\n47\r\n{good}\r\n0\r\n\r\n"), ACCEPTED),
        row(format!("{json}\r\nContent-Length: 5\r\nTransfer-Encoding: \
            chunked\r\n\r\n47\r\n{good}\r\n0\r\n\r\n"), ACCEPTED),
    ]
}
