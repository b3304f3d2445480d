//! Processors that answer with anything but what they should.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use payment_proxy::processors::{Lookup, OVERDUE_AFTER, ProcessorClient, Reply, Verdict, judge};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uuid::Uuid;

use crate::support::{Database, Gateway, default_at, eventually, new_claim, processor, resolver};

/// What a processor answers to every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// What the real one behind it answers.
    Honest,
    /// This status with a body that never ends.
    Endless(u16),
    /// This status with a chunk whose size never ends.
    EndlessSize(u16),
    /// Bytes that are no HTTP.
    Garbage,
    /// Another address, where nobody should ever be called.
    Redirect,
    /// This status with JSON that is not what it should be.
    WrongJson(u16),
    /// One header of a megabyte.
    HugeHeader,
    /// Thousands of headers.
    ManyHeaders,
    /// A connection reset.
    Reset,
    /// `100 Continue`, again and again.
    Continue,
    /// A byte of a head now and then.
    Trickle,
    /// A body that ends before its length.
    Short(u16),
}

/// A processor on a port of its own.
struct Hostile {
    port: u16,
    mode: watch::Sender<Mode>,
    calls: Arc<AtomicU64>,
}

impl Hostile {
    /// One with an honest one behind it.
    async fn before(honest: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (mode, calls) = (
            watch::Sender::new(Mode::Honest),
            Arc::new(AtomicU64::new(0)),
        );
        let (honest, modes, counter) = (
            honest.trim_start_matches("http://").to_owned(),
            mode.clone(),
            Arc::clone(&calls),
        );
        tokio::spawn(async move {
            loop {
                let client = listener.accept().await.expect("a connection").0;
                let (honest, mut modes) = (honest.clone(), modes.subscribe());
                modes.mark_unchanged();
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mode = *modes.borrow();
                    // A change of mode ends what was open.
                    tokio::select! {
                        _ = answer(client, mode, &honest) => {}
                        _ = modes.changed() => {}
                    }
                });
            }
        });
        Self { port, mode, calls }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

async fn answer(mut client: TcpStream, mode: Mode, honest: &str) -> std::io::Result<()> {
    if mode == Mode::Honest {
        let mut honest = TcpStream::connect(honest).await?;
        tokio::io::copy_bidirectional(&mut client, &mut honest).await?;
        return Ok(());
    }
    let mut request = [0; 4096];
    if client.read(&mut request).await? == 0 {
        return Ok(());
    }
    let block = [b'x'; 64 * 1024];
    match mode {
        Mode::Honest => {}
        Mode::Endless(status) => {
            let head = format!("HTTP/1.1 {status} S\r\nContent-Length: 99999999999\r\n\r\n");
            client.write_all(head.as_bytes()).await?;
            loop {
                client.write_all(&block).await?;
            }
        }
        Mode::EndlessSize(status) => {
            let head = format!("HTTP/1.1 {status} S\r\nTransfer-Encoding: chunked\r\n\r\n1;");
            client.write_all(head.as_bytes()).await?;
            loop {
                client.write_all(&block).await?;
            }
        }
        Mode::Garbage => client.write_all(&block).await?,
        Mode::Redirect => {
            let head =
                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
            client.write_all(head.as_bytes()).await?;
        }
        Mode::WrongJson(status) => {
            let body = r#"{"correlationId":17,"failing":"perhaps"}"#;
            let length = body.len();
            let reply = format!("HTTP/1.1 {status} S\r\nContent-Length: {length}\r\n\r\n{body}");
            client.write_all(reply.as_bytes()).await?;
        }
        Mode::HugeHeader => {
            client.write_all(b"HTTP/1.1 200 OK\r\nX: ").await?;
            for _ in 0..16 {
                client.write_all(&block).await?;
            }
        }
        Mode::ManyHeaders => {
            client.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            for number in 0..5_000 {
                client
                    .write_all(format!("X-{number}: y\r\n").as_bytes())
                    .await?;
            }
            client.write_all(b"\r\n").await?;
        }
        Mode::Reset => client.set_zero_linger()?,
        Mode::Continue => loop {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        },
        Mode::Trickle => loop {
            client.write_all(b"H").await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        },
        Mode::Short(status) => {
            let reply = format!("HTTP/1.1 {status} S\r\nContent-Length: 100\r\n\r\n{{");
            client.write_all(reply.as_bytes()).await?;
        }
    }
    Ok(())
}

/// What one call, and the question after it, prove.
async fn verdict(client: &ProcessorClient) -> (Verdict, Reply, Option<Lookup>) {
    let claim = new_claim();
    let mut posted = client
        .post(&claim, None, OVERDUE_AFTER, pending::<()>)
        .await;
    if let Some(verdict) = judge(&claim, &posted.reply, None) {
        return (verdict, posted.reply, None);
    }
    let id = claim.payment.correlation_id;
    let lookup = client.lookup_after(&mut posted, id).await;
    let verdict = judge(&claim, &posted.reply, Some(&lookup)).expect("a lookup decides");
    (verdict, posted.reply, Some(lookup))
}

#[tokio::test]
async fn whatever_a_processor_answers_proves_no_more_than_it_should() {
    let honest = processor().await;
    let hostile = Hostile::before(&honest.url()).await;
    let settings = default_at(&hostile.url());
    let timeout = Duration::from_millis(1_500);
    let client = ProcessorClient::new(&settings, timeout, &resolver(), None).expect("a client");
    for mode in [
        Mode::Endless(200),
        Mode::EndlessSize(200),
        Mode::WrongJson(200),
        Mode::Short(200),
        Mode::Endless(500),
        Mode::WrongJson(500),
        Mode::Short(500),
        Mode::Garbage,
        Mode::Redirect,
        Mode::HugeHeader,
        Mode::ManyHeaders,
        Mode::Reset,
        Mode::Continue,
        Mode::Trickle,
    ] {
        hostile.mode.send_replace(mode);
        let begun_at = Instant::now();
        let (verdict, reply, lookup) = verdict(&client).await;
        let told = format!("{mode:?}: {verdict:?} of {reply:?} and {lookup:?}");
        assert_eq!(verdict, Verdict::Unknown, "{told}");
        // A call and a question, each of which has its time.
        assert!(
            begun_at.elapsed() < Duration::from_secs(12),
            "{told}: {:?}",
            begun_at.elapsed()
        );
        assert!(told.len() < 2_000, "{} bytes: {}", told.len(), &told[..200]);
        assert!(client.health().await.is_err(), "{mode:?}");
    }
    assert_eq!(honest.processor.payments().len(), 0);
}

#[tokio::test]
async fn a_processor_that_answers_nonsense_harms_nothing() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let hostile = Hostile::before(&default.url()).await;
    let both = format!(
        "default,0.05,{} fallback,0.15,{}",
        hostile.url(),
        fallback.url()
    );
    let settings = [("PROCESSOR_TIMEOUT_MS", "500"), ("LATE_CHARGE_MS", "1000")];
    let gateway = Gateway::start(&database, &both, &settings).await;
    let mut ids: Vec<Uuid> = gateway.post_many(20).await;
    gateway.until_settled(&ids).await;
    let (lines, memory) = (gateway.log().lines().count(), gateway.peak_memory());
    // None of these says that it charged what it did not.
    for mode in [
        Mode::Endless(500),
        Mode::EndlessSize(500),
        Mode::Garbage,
        Mode::Redirect,
        Mode::HugeHeader,
        Mode::ManyHeaders,
        Mode::Reset,
        Mode::Continue,
    ] {
        let calls = hostile.calls.load(Ordering::Relaxed);
        hostile.mode.send_replace(mode);
        ids.extend(gateway.post_many(20).await);
        eventually("it is called", async || {
            hostile.calls.load(Ordering::Relaxed) >= calls + 3
        })
        .await;
        assert!(gateway.is_ready().await, "{mode:?}");
    }
    let grown = gateway.peak_memory() - memory;
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more");
    hostile.mode.send_replace(Mode::Honest);
    gateway.until_settled(&ids).await;
    let charged = default.processor.payments().len() + fallback.processor.payments().len();
    assert_eq!(charged, ids.len());
    let told = gateway.log().lines().count() - lines;
    assert!(told < 60, "{told} lines: {}", gateway.log());
    assert!(!gateway.log().contains("ERROR"), "{}", gateway.log());
}
