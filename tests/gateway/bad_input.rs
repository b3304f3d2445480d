//! Whatever a client sends, it is told what is wrong, and the service goes on.

mod table;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::support::{Database, Gateway, TIMEOUT, eventually, problem_kind, processor, processors};
use table::{Answer, Row};

/// The least number of rows that are refused.
const REFUSED_ROWS: usize = 250;

/// What came back: the status (0: the connection was closed without a word), the head, the body.
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// Sends those bytes on a connection of their own. They may be refused before all of them are sent.
pub async fn exchange(gateway: &Gateway, request: &[u8]) -> Reply {
    let mut stream = UnixStream::connect(gateway.socket())
        .await
        .expect("it listens");
    let _ = stream.write_all(request).await;
    let mut received = Vec::new();
    let whole = async {
        while stream
            .read_buf(&mut received)
            .await
            .is_ok_and(|read| read > 0)
        {
            if let Some(reply) = parse(&received)
                && (request.starts_with(b"HEAD") || reply.body.len() >= content_length(&reply.head))
            {
                break;
            }
        }
    };
    tokio::time::timeout(TIMEOUT, whole)
        .await
        .expect("a reply or the end of the connection");
    parse(&received).unwrap_or(Reply {
        status: 0,
        head: String::new(),
        body: Vec::new(),
    })
}

fn parse(received: &[u8]) -> Option<Reply> {
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
    Some(Reply {
        status: head.split(' ').nth(1)?.parse().ok()?,
        body: received[end + 4..].to_vec(),
        head,
    })
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .clone()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn content_length(head: &str) -> usize {
    header(head, "content-length").map_or(0, |length| length.parse().expect("a length"))
}

/// What is wrong with the reply to a row, if anything.
fn complaint(reply: &Reply, expected: &Answer) -> Option<String> {
    let told = || match serde_json::from_slice::<Value>(&reply.body) {
        Ok(problem) => problem["detail"].as_str().unwrap_or_default().to_owned(),
        Err(_) => String::new(),
    };
    if reply.status != expected.status {
        return Some(format!("{}, {:?}", reply.status, told()));
    }
    let detail = expected.detail?;
    if header(&reply.head, "content-type") != Some("application/problem+json") {
        return Some(format!("no problem document: {}", reply.head));
    }
    let problem: Value = serde_json::from_slice(&reply.body).ok()?;
    let kind = problem_kind(&problem);
    let is_as_expected = problem["status"] == expected.status
        && problem["title"] == kind.title()
        && told() == detail;
    (!is_as_expected).then(|| problem.to_string())
}

#[tokio::test]
async fn every_malformed_request_is_told_what_is_wrong_and_the_service_goes_on() {
    let (database, default) = (Database::create().await, processor().await);
    let settings = [("ALLOW_PURGE", "false")];
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    let (mut complaints, mut refused, mut accepted) = (Vec::new(), 0, 0);
    for (section, rows) in table::sections() {
        for Row { sent, answer } in rows {
            let reply = exchange(&gateway, &sent).await;
            if let Some(complaint) = complaint(&reply, &answer) {
                let sent = &sent[..sent.len().min(400)];
                let sent = String::from_utf8_lossy(sent);
                complaints.push(format!(
                    "{section}: {sent:?}\n  expected {answer:?}\n  was told {complaint}"
                ));
            }
            refused += usize::from(answer.status >= 400 || answer.status == 0);
            accepted += i64::from(answer.status == 202);
        }
        let summary = gateway.json("/payments-summary").await;
        assert!(
            summary["default"]["totalRequests"].is_u64(),
            "after {section}: {summary}"
        );
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(refused >= REFUSED_ROWS, "{refused} rows are refused");
    let ids = gateway.post_many(1).await;
    gateway.until_settled(&ids).await;
    // What was refused left nothing behind.
    eventually("all that was accepted is settled", async || {
        database.count("payment_queue").await == 0
    })
    .await;
    let settled = database.count("payment_processed").await;
    assert_eq!(settled, accepted + 1);
}
