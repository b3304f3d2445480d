//! The simulator answers what the real processor answered.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use simulator::{Faults, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{id, started, until};
use crate::recording::recorded;

/// Characters of the stack traces in the recording, whose texts were left out.
const TRACE_CHARS: usize = 2_000;

#[tokio::test]
async fn the_simulator_answers_as_the_real_processor_did() {
    let mut settings = Settings::default();
    settings.limits.health_window = Duration::from_secs(60);
    let simulator = started(settings).await;
    for (number, recorded) in recorded().iter().enumerate() {
        let (method, path) = recorded.parts();
        let told = format!("{number}: {} {:?}", recorded.call, recorded.body);
        if recorded.is_said_in("five at once") {
            // The one before has had the call of this window, and two more wait.
            for _ in 0..2 {
                let health = simulator.request(Method::GET, path).send();
                tokio::spawn(health);
            }
            until("two calls wait", || {
                simulator.running.processor.waiting_for_health() == 2
            })
            .await;
        }
        if recorded.is_said_in("its database is away") {
            let fail_with_text = 1.0;
            let faults = Faults {
                fail_with_text,
                ..Faults::default()
            };
            simulator.running.processor.set_faults(faults).unwrap();
        }
        let mut request = simulator.request(method.clone(), path);
        for (name, value) in &recorded.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &recorded.body {
            if recorded.note.is_none() {
                request = request.header("Content-Type", "application/json");
            }
            request = request.body(body.clone());
        }
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status().as_u16(), recorded.answer.status, "{told}");
        let headers = reply.headers().clone();
        for (name, value) in &recorded.answer.headers {
            assert_eq!(
                headers.get(name).map(|it| it.to_str().unwrap()),
                Some(value.as_str()),
                "{told}"
            );
        }
        for name in ["Date", "Server"] {
            assert!(headers.contains_key(name), "{told}: no {name}");
        }
        for name in ["Content-Type", "Transfer-Encoding", "Retry-After", "Allow"] {
            let is_there = recorded.answer.headers.contains_key(name);
            assert_eq!(headers.contains_key(name), is_there, "{told}: {name}");
        }
        let body = reply.text().await.unwrap();
        match recorded.answer.body.as_str() {
            left_out if left_out.contains("<some") || left_out.contains("<the error") => {
                let said: Value = serde_json::from_str(&body).unwrap();
                let message = said["message"].as_str().unwrap();
                assert!(
                    message.len() >= TRACE_CHARS && message.contains('"'),
                    "{told}: {body}"
                );
            }
            left_out if left_out.contains("<a short text") => {
                assert!(!body.is_empty() && body.len() < 100, "{told}: {body}");
            }
            expected => assert_eq!(body, expected, "{told}"),
        }
    }
}

#[tokio::test]
async fn a_second_payment_is_refused_in_two_chunks() {
    let simulator = started(Settings::default()).await;
    assert_eq!(simulator.posted(id(1)).await.0, 200);
    let mut stream = TcpStream::connect(simulator.running.addr).await.unwrap();
    let body = format!(
        r#"{{"correlationId":"{}","amount":19.9,"requestedAt":"2026-07-15T12:34:56Z"}}"#,
        id(1)
    );
    let request = format!(
        "POST /payments HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: \
        application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 422 "), "{head}");
    assert!(
        body.starts_with("B\r\n{\"message\":\r\n") && body.ends_with("\r\n0\r\n\r\n"),
        "{body}"
    );
}
