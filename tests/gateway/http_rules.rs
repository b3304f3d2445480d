//! What HTTP allows a client to send, and what it makes of the replies (RFC 9110 and RFC 9112).

use reqwest::StatusCode;
use reqwest::header::AUTHORIZATION;
use simulator::Running;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use uuid::Uuid;

use crate::bad_input::{Reply, exchange, header};
use crate::metrics::Watched;
use crate::support::{CENTS, Database, Gateway, TIMEOUT, payment_json, processor, processors};

const TOKEN: &str = "the-operators-own-token";

async fn ask(gateway: &Gateway, line: &str) -> Reply {
    let request = format!("{line} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n");
    exchange(gateway, request.as_bytes()).await
}

async fn gateway() -> (Database, Running, Gateway) {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    (database, default, gateway)
}

#[tokio::test]
async fn a_reply_says_which_methods_media_types_and_codings_are_taken() {
    let (_database, _default, gateway) = gateway().await;
    let id = Uuid::new_v4();
    assert_eq!(gateway.post(id, CENTS).await, StatusCode::ACCEPTED);
    gateway.until_settled(&[id]).await;
    for (path, methods) in [
        ("/payments".to_owned(), "post"),
        (format!("/payments/{id}"), "get,head"),
        ("/payments-summary".to_owned(), "get,head"),
        ("/purge-payments".to_owned(), "post"),
        ("/livez".to_owned(), "get,head"),
        ("/readyz".to_owned(), "get,head"),
        ("/openapi.json".to_owned(), "get,head"),
    ] {
        for (method, status) in [
            ("DELETE", 405),
            ("PATCH", 405),
            ("BREW", 405),
            ("OPTIONS", 204),
        ] {
            let reply = ask(&gateway, &format!("{method} {path}")).await;
            let allowed = header(&reply.head, "allow");
            assert_eq!(
                (reply.status, allowed),
                (status, Some(methods)),
                "{method} {path}"
            );
        }
        if methods.contains("head") {
            let get = ask(&gateway, &format!("GET {path}")).await;
            let head = ask(&gateway, &format!("HEAD {path}")).await;
            assert_eq!(head.status, get.status, "{path}");
            assert!(head.body.is_empty(), "{path}");
            for name in ["content-type", "content-length", "cache-control"] {
                assert_eq!(
                    header(&head.head, name),
                    header(&get.head, name),
                    "{name} of {path}"
                );
            }
        }
    }
    let post = |headers: &str| {
        let body = payment_json(Uuid::new_v4(), CENTS);
        let length = body.len();
        let head = format!("POST /payments HTTP/1.1\r\nHost: a\r\nContent-Length: {length}");
        format!("{head}\r\n{headers}\r\n\r\n{body}").into_bytes()
    };
    let compressed = post("Content-Type: application/json\r\nContent-Encoding: gzip");
    let reply = exchange(&gateway, &compressed).await;
    assert_eq!(
        (reply.status, header(&reply.head, "accept-encoding")),
        (415, Some("identity"))
    );
    let reply = exchange(&gateway, &post("Content-Type: text/xml")).await;
    assert_eq!(
        (reply.status, header(&reply.head, "accept")),
        (415, Some("application/json"))
    );
}

#[tokio::test]
async fn no_cache_keeps_what_is_true_now() {
    let (_database, _default, gateway) = gateway().await;
    let id = Uuid::new_v4();
    for (path, status) in [
        ("/livez".to_owned(), 204),
        ("/readyz".to_owned(), 204),
        ("/payments-summary".to_owned(), 200),
        // It may be posted the next moment.
        (format!("/payments/{id}"), 404),
        ("/nowhere".to_owned(), 404),
        ("/payments".to_owned(), 405),
    ] {
        let reply = ask(&gateway, &format!("GET {path}")).await;
        let kept = header(&reply.head, "cache-control");
        assert_eq!((reply.status, kept), (status, Some("no-store")), "{path}");
    }
}

#[tokio::test]
async fn a_health_check_by_head_says_the_same_as_by_get() {
    let default = processor().await;
    let nowhere = "postgres://nobody@127.0.0.1:1/none";
    let gateway = Gateway::start_unready(nowhere, &processors(&[&default])).await;
    for (method, has_body) in [("GET", true), ("HEAD", false)] {
        let reply = ask(&gateway, &format!("{method} /readyz")).await;
        let again = header(&reply.head, "retry-after");
        assert_eq!((reply.status, again), (503, Some("1")), "{method}");
        assert_eq!(!reply.body.is_empty(), has_body, "{method}");
        let reply = ask(&gateway, &format!("{method} /livez")).await;
        assert_eq!(reply.status, 204, "{method}");
    }
}

#[tokio::test]
async fn a_body_is_asked_for_where_the_client_waits_to_be_asked() {
    let (_database, _default, gateway) = gateway().await;
    let body = payment_json(Uuid::new_v4(), CENTS);
    let length = body.len();
    for (expectation, asked) in [
        ("100-continue", true),
        ("100-Continue", true),
        ("more", false),
    ] {
        let mut stream = UnixStream::connect(gateway.socket())
            .await
            .expect("it listens");
        let head = format!(
            "POST /payments HTTP/1.1\r\nhost: a\r\nCONTENT-TYPE: application/json\r\n\
             Content-Length: {length}\r\nExpect: {expectation}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("written");
        if asked {
            let mut interim = [0; 25];
            let read = tokio::time::timeout(TIMEOUT, stream.read_exact(&mut interim)).await;
            read.expect("in time").expect("a reply before the body");
            assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        stream.write_all(body.as_bytes()).await.expect("written");
        let mut reply = String::new();
        let read = tokio::time::timeout(TIMEOUT, stream.read_to_string(&mut reply)).await;
        read.expect("in time").expect("a reply");
        assert!(reply.starts_with("HTTP/1.1 202 "), "{expectation}: {reply}");
    }
    // Whoever speaks HTTP/1.0 does not know such replies.
    let request = format!(
        "POST /payments HTTP/1.0\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n{body}"
    );
    assert_eq!(exchange(&gateway, request.as_bytes()).await.status, 202);
}

#[tokio::test]
async fn the_scheme_of_credentials_is_written_in_any_case() {
    let (database, default) = (Database::create().await, processor().await);
    let watched = Watched::start(&database, &processors(&[&default])).await;
    let http = payment_proxy::config::tls::plain()
        .build()
        .expect("a client");
    for (credentials, status) in [
        (format!("Bearer {TOKEN}"), StatusCode::OK),
        (format!("bearer {TOKEN}"), StatusCode::OK),
        (format!("BEARER   {TOKEN}"), StatusCode::OK),
        (format!("Basic {TOKEN}"), StatusCode::UNAUTHORIZED),
        (format!("Bearer{TOKEN}"), StatusCode::UNAUTHORIZED),
        (TOKEN.to_owned(), StatusCode::UNAUTHORIZED),
        (
            format!("Bearer {}", TOKEN.to_uppercase()),
            StatusCode::UNAUTHORIZED,
        ),
    ] {
        let get = http.get(format!("http://{}/routing", watched.address));
        let reply = get.header(AUTHORIZATION, &credentials).send().await;
        assert_eq!(reply.expect("a reply").status(), status, "{credentials}");
    }
}
