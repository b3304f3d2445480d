//! What stands between us and a processor, and answers for it; and replies that nobody asked for.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use payment_proxy::processors::{OVERDUE_AFTER, ProcessorClient, Verdict, judge};
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::outcomes::agree;
use crate::support::{Database, Gateway, default_at, eventually, new_claim, processor, resolver};

/// How long after its gateway gave up a processor stores a payment.
const LATE: Duration = Duration::from_secs(1);
const STORED: &str = r#"{"message":"payment processed successfully"}"#;

/// One request, as it came.
struct Request {
    line: String,
    headers: String,
    body: String,
}

/// Reads a request. None at the end of the connection.
async fn request(stream: &mut TcpStream) -> Option<Request> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.parse().expect("a length"));
            if body.len() >= length {
                let (line, headers) = head.split_once("\r\n").expect("a line");
                return Some(Request {
                    line: line.to_owned(),
                    headers: headers.to_owned(),
                    body: body.to_owned(),
                });
            }
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

fn reply(status: u16, media_type: Option<&str>, body: &str) -> String {
    let media_type = media_type.map_or_else(String::new, |it| format!("Content-Type: {it}\r\n"));
    let length = body.len();
    format!("HTTP/1.1 {status} S\r\n{media_type}Content-Length: {length}\r\n\r\n{body}")
}

/// A gateway before a processor. It answers every POST at once with the next of these replies, and
/// passes it on [`LATE`] all the same; GETs it passes on, unless it has a page of its own for them.
struct Front {
    url: String,
    /// Whether it answers look-ups with a page that says 404.
    blind: Arc<AtomicBool>,
    posts: Arc<AtomicUsize>,
}

impl Front {
    async fn before(processor: &str, replies: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (blind, posts) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let front = Self {
            url,
            blind: Arc::clone(&blind),
            posts: Arc::clone(&posts),
        };
        let http = payment_proxy::config::tls::plain()
            .build()
            .expect("a client");
        let (processor, replies) = (processor.to_owned(), Arc::new(replies));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (http, processor) = (http.clone(), processor.clone());
                let (replies, blind, posts) =
                    (Arc::clone(&replies), Arc::clone(&blind), Arc::clone(&posts));
                tokio::spawn(async move {
                    while let Some(request) = request(&mut client).await {
                        let path = request.line.split(' ').nth(1).expect("a path");
                        let url = format!("{processor}{path}");
                        let answer = if request.line.starts_with("POST") {
                            let post = http.post(url).header(CONTENT_TYPE, "application/json");
                            tokio::spawn(async move {
                                tokio::time::sleep(LATE).await;
                                // Nobody waits for the reply.
                                let _ = post.body(request.body).send().await;
                            });
                            let nth = posts.fetch_add(1, Ordering::Relaxed);
                            replies[nth % replies.len()].clone()
                        } else if blind.load(Ordering::Relaxed) && !path.ends_with("health") {
                            reply(404, Some("text/html"), "<html>no such route</html>")
                        } else {
                            passed_on(&http, &url).await
                        };
                        if client.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        front
    }
}

async fn passed_on(http: &Client, url: &str) -> String {
    let Ok(answer) = http.get(url).send().await else {
        return reply(502, Some("text/html"), "<html>away</html>");
    };
    let media_type = answer.headers().get(CONTENT_TYPE).cloned();
    let media_type = media_type.as_ref().map(|it| it.to_str().expect("text"));
    let status = answer.status().as_u16();
    reply(status, media_type, &answer.text().await.expect("a body"))
}

#[tokio::test]
async fn a_gateway_that_gives_up_proves_nothing_while_its_processor_goes_on() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let html = Some("text/html");
    let page = "<html>balancer</html>";
    let bare = [200, 202, 204, 302, 404, 408, 429, 499, 502, 503, 504, 520]
        .map(|code| reply(code, None, ""));
    let pages = [200, 400, 415, 422, 429, 500, 503].map(|code| reply(code, html, page));
    let json = [200, 202, 400, 422, 500, 504].map(|code| {
        reply(
            code,
            Some("application/json"),
            r#"{"message":"upstream timeout"}"#,
        )
    });
    let replies = [bare.to_vec(), pages.to_vec(), json.to_vec()].concat();
    let count = replies.len();
    let front = Front::before(&default.url(), replies).await;
    let both = format!(
        "default,0.05,{} fallback,0.15,{}",
        front.url,
        fallback.url()
    );
    let settings = [("LATE_CHARGE_MS", "5000")];
    let gateway = Gateway::start(&database, &both, &settings).await;
    let ids = gateway.post_many(2 * count).await;
    gateway.until_settled(&ids).await;
    assert!(front.posts.load(Ordering::Relaxed) > 0);
    // What was passed on more than once is stored once.
    tokio::time::sleep(LATE + LATE / 2).await;
    agree(&database, &default, &fallback, ids.len()).await;
}

#[tokio::test]
async fn a_page_that_says_404_is_no_absence() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let replies = vec![reply(504, Some("text/html"), "<html>timeout</html>")];
    let front = Front::before(&default.url(), replies).await;
    front.blind.store(true, Ordering::Relaxed);
    let settings = [("PROCESSOR_TIMEOUT_MS", "500"), ("LATE_CHARGE_MS", "1000")];
    let default_only = format!("default,0.05,{}", front.url);
    let gateway = Gateway::start(&database, &default_only, &settings).await;
    let ids = gateway.post_many(1).await;
    eventually("it is in doubt", async || {
        database
            .count("payment_attempt WHERE outcome = 'in_doubt'")
            .await
            > 0
    })
    .await;
    // By now every doubt would be over, and the page would have set it free for the other one.
    gateway.stop().await;
    let both = format!("{default_only} fallback,0.15,{}", fallback.url());
    let gateway = Gateway::start(&database, &both, &settings).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(fallback.processor.payments().len(), 0);
    assert_eq!(
        database
            .count("payment_queue WHERE processor = 'default'")
            .await,
        1
    );
    front.blind.store(false, Ordering::Relaxed);
    gateway.until_settled(&ids).await;
    agree(&database, &default, &fallback, 1).await;
}

/// Answers over every connection the first POST as a processor does, and all others with `stray`
/// first, as if that had been meant for the one before; look-ups with 404.
async fn out_of_step(listener: TcpListener, stray: String) {
    while let Ok((mut client, _)) = listener.accept().await {
        let stray = stray.clone();
        tokio::spawn(async move {
            let mut posts = 0;
            while let Some(request) = request(&mut client).await {
                let is_post = request.line.starts_with("POST");
                posts += usize::from(is_post);
                let answer = match is_post {
                    true => reply(200, Some("application/json"), STORED),
                    false => reply(404, None, ""),
                };
                if is_post && posts > 1 {
                    let _ = client.write_all(stray.as_bytes()).await;
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                let _ = client.write_all(answer.as_bytes()).await;
            }
        });
    }
}

#[tokio::test]
async fn a_reply_that_nobody_asked_for_is_not_taken_for_the_answer() {
    let too_many = "HTTP/1.1 429 S\r\nRetry-After: 5\r\nContent-Length: 4\r\n\r\nwait";
    for stray in [
        reply(400, None, ""),
        reply(415, None, ""),
        reply(404, None, ""),
        reply(500, None, ""),
        too_many.to_owned(),
        reply(400, None, "").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"),
        reply(408, Some("text/html"), "<html>too slow</html>"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(out_of_step(listener, stray.clone()));
        let timeout = Duration::from_secs(5);
        let client = ProcessorClient::new(&default_at(&url), timeout, &resolver(), None);
        let client = client.expect("a client");
        let first = client
            .post(&new_claim(), None, OVERDUE_AFTER, pending::<()>)
            .await;
        let charged = judge(&new_claim(), &first.reply, None).map(|verdict| verdict.as_str());
        assert_eq!(charged, Some("charged"));
        drop(first);

        let claim = new_claim();
        let mut posted = client
            .post(&claim, None, OVERDUE_AFTER, pending::<()>)
            .await;
        assert_eq!(judge(&claim, &posted.reply, None), None, "{stray}");
        let id = claim.payment.correlation_id;
        let lookup = client.lookup_after(&mut posted, id).await;
        let verdict = judge(&claim, &posted.reply, Some(&lookup));
        assert_eq!(
            verdict,
            Some(Verdict::Unknown),
            "{stray}: {posted:?} {lookup:?}"
        );
        // Nor is what was left of it taken for the answer to the next.
        let claim = new_claim();
        let next = client
            .post(&claim, None, OVERDUE_AFTER, pending::<()>)
            .await;
        let charged = judge(&claim, &next.reply, None).map(|verdict| verdict.as_str());
        assert_eq!(charged, Some("charged"), "{stray}: {next:?}");
    }
}

#[tokio::test]
async fn an_absence_that_is_told_once_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let claim = new_claim();
    let record = format!(
        r#"{{"correlationId":"{}","amount":{},"requestedAt":"2026-07-15T12:34:56.5"}}"#,
        claim.payment.correlation_id, claim.payment.amount
    );
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let record = record.clone();
            tokio::spawn(async move {
                let mut is_first = true;
                while request(&mut client).await.is_some() {
                    // It was on its way when the connection was made.
                    if std::mem::take(&mut is_first) {
                        let _ = client.write_all(reply(404, None, "").as_bytes()).await;
                        tokio::time::sleep(Duration::from_millis(30)).await;
                    }
                    let answer = reply(200, Some("application/json"), &record);
                    let _ = client.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    let timeout = Duration::from_secs(5);
    let client = ProcessorClient::new(&default_at(&url), timeout, &resolver(), None);
    let client = client.expect("a client");
    let lookup = client.lookup_anew(claim.payment.correlation_id).await;
    let told = lookup.to_string();
    assert!(told.starts_with("it has the payment with"), "{told}");
}

#[tokio::test]
async fn a_processor_that_asks_for_patience_by_a_date_gets_it() {
    let (database, default) = (Database::create().await, processor().await);
    let wait = Duration::from_secs(4);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let posts = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&posts);
    let processor_url = default.url();
    tokio::spawn(async move {
        let http = payment_proxy::config::tls::plain()
            .build()
            .expect("a client");
        while let Ok((mut client, _)) = listener.accept().await {
            let (http, url, counted) = (http.clone(), processor_url.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                while let Some(request) = request(&mut client).await {
                    let path = request.line.split(' ').nth(1).expect("a path");
                    let answer = if request.line.starts_with("POST") {
                        counted.fetch_add(1, Ordering::Relaxed);
                        let until = std::time::SystemTime::now() + wait;
                        let until = httpdate::fmt_http_date(until);
                        format!(
                            "HTTP/1.1 429 S\r\nRetry-After: {until}\r\nContent-Length: \
                            4\r\n\r\nwait"
                        )
                    } else {
                        passed_on(&http, &format!("{url}{path}")).await
                    };
                    if client.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let gateway = Gateway::start(&database, &format!("default,0.05,{url}"), &[]).await;
    let ids = gateway.post_many(1).await;
    eventually("it was asked", async || {
        database
            .count("payment_attempt WHERE outcome = 'not_charged'")
            .await
            > 0
    })
    .await;
    gateway.post_many(5).await;
    // A date has whole seconds.
    tokio::time::sleep(wait - Duration::from_millis(1_500)).await;
    assert_eq!(posts.load(Ordering::Relaxed), 1, "left alone");
    eventually("it is asked again", async || {
        posts.load(Ordering::Relaxed) > 1
    })
    .await;
    assert_ne!(gateway.state(ids[0]).await, "settled");
}

/// Says what it was asked, and for which host.
async fn asked(base: impl Fn(u16) -> String, bind: &str) -> Option<(String, Vec<String>)> {
    let listener = TcpListener::bind(bind).await.ok()?;
    let port = listener.local_addr().expect("an address").port();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                while let Some(request) = request(&mut client).await {
                    let _ = told.send((request.line, request.headers));
                    let _ = client.write_all(reply(404, None, "").as_bytes()).await;
                }
            });
        }
    });
    let url = base(port);
    let timeout = Duration::from_secs(5);
    let settings = format!("default,0.05,{url}").parse::<payment_proxy::config::Processors>();
    let settings = settings.expect("a URL").0.remove(0);
    let client = ProcessorClient::new(&settings, timeout, &resolver(), None).expect("a client");
    let claim = new_claim();
    let _ = client
        .post(&claim, None, OVERDUE_AFTER, pending::<()>)
        .await;
    let _ = client.lookup(claim.payment.correlation_id).await;
    let _ = client.health().await;
    let at = "2026-07-15T12:34:56Z".parse().expect("a time");
    let _ = client.totals("123", at, at).await;
    let (mut lines, mut hosts) = (Vec::new(), Vec::new());
    while lines.len() < 4 {
        let (line, headers) = heard.recv().await.expect("a call");
        let line = line.replace(&claim.payment.correlation_id.to_string(), "ID");
        lines.push(line.trim_end_matches(" HTTP/1.1").to_owned());
        let host = headers
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("host: ")
                    .map(str::to_owned)
            })
            .expect("a host");
        hosts.push(host.replace(&port.to_string(), "PORT"));
    }
    hosts.dedup();
    assert_eq!(hosts.len(), 1, "{hosts:?}");
    Some((hosts.remove(0), lines))
}

#[tokio::test]
async fn every_call_is_made_at_the_configured_url_with_its_path_and_query() {
    let range = "from=2026-07-15T12%3A34%3A56%2B00%3A00&to=2026-07-15T12%3A34%3A56%2B00%3A00";
    for (base, bind, host, path, query) in [
        (
            "http://127.0.0.1:PORT",
            "127.0.0.1:0",
            "127.0.0.1:PORT",
            "",
            "",
        ),
        (
            "http://127.0.0.1:PORT/",
            "127.0.0.1:0",
            "127.0.0.1:PORT",
            "",
            "",
        ),
        (
            "HTTP://127.0.0.1:PORT/",
            "127.0.0.1:0",
            "127.0.0.1:PORT",
            "",
            "",
        ),
        (
            "http://127.0.0.1:PORT/a/b",
            "127.0.0.1:0",
            "127.0.0.1:PORT",
            "/a/b",
            "",
        ),
        (
            "http://127.0.0.1:PORT/a/b/",
            "127.0.0.1:0",
            "127.0.0.1:PORT",
            "/a/b",
            "",
        ),
        (
            "http://127.0.0.1:PORT/a%20b%2Fc/",
            "127.0.0.1:0",
            "127.0.0.1:PORT",
            "/a%20b%2Fc",
            "",
        ),
        (
            "http://127.0.0.1:PORT?code=k",
            "127.0.0.1:0",
            "127.0.0.1:PORT",
            "",
            "code=k",
        ),
        (
            "http://127.0.0.1:PORT/?code=k%2B%3D&x",
            "127.0.0.1:0",
            "127.0.0.1:PORT",
            "",
            "code=k%2B%3D&x",
        ),
        (
            "http://127.0.0.1:PORT/a?code=k/b",
            "127.0.0.1:0",
            "127.0.0.1:PORT",
            "/a",
            "code=k/b",
        ),
        (
            "http://localhost:PORT",
            "127.0.0.1:0",
            "localhost:PORT",
            "",
            "",
        ),
        ("http://[::1]:PORT/a", "[::1]:0", "[::1]:PORT", "/a", ""),
    ] {
        let told = asked(|port| base.replace("PORT", &port.to_string()), bind).await;
        let Some(told) = told else {
            // A machine without IPv6.
            assert!(bind.starts_with('['), "{bind}");
            continue;
        };
        let with = |query: &str| {
            if query.is_empty() {
                String::new()
            } else {
                format!("?{query}")
            }
        };
        let own = with(query);
        let both = if query.is_empty() {
            range.to_owned()
        } else {
            format!("{query}&{range}")
        };
        let expected = vec![
            format!("POST {path}/payments{own}"),
            format!("GET {path}/payments/ID{own}"),
            format!("GET {path}/payments/service-health{own}"),
            format!("GET {path}/admin/payments-summary{}", with(&both)),
        ];
        assert_eq!(told, (host.to_owned(), expected), "{base}");
    }
}

#[tokio::test]
async fn a_query_in_the_url_of_a_processor_charges_once() {
    let (database, default) = (Database::create().await, processor().await);
    let at = format!("default,0.05,{}?code=k", default.url());
    let faults = simulator::Faults {
        reply_lost: 0.5,
        fail_after: 0.2,
        ..Default::default()
    };
    default.processor.set_faults(faults).expect("valid faults");
    let gateway = Gateway::start(&database, &at, &[]).await;
    let ids = gateway.post_many(20).await;
    gateway.until_settled(&ids).await;
    assert_eq!(default.processor.payments().len(), ids.len());
    assert!(!gateway.log().contains("code=k"), "{}", gateway.log());
}
