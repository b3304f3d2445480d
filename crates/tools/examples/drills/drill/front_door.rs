//! Attacks on the front door, through the real nginx or at the instances themselves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::RngExt as _;
use reqwest::StatusCode;
use reqwest::header::ACCEPT_ENCODING;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::load::payment;
use crate::outcome::millis;
use crate::site::Site;
use tools::deployment::generator;
use tools::deployment::ledger::Reply;
use tools::deployment::process::thaw;
use tools::deployment::stack::OPERATOR_TOKEN;

/// As many as one who means harm needs.
const SLOW_CLIENTS: usize = 4_200;
/// The pause between two bytes of a slow client; the shorter one is below each time that nginx
/// allows between two reads.
const BYTE_EVERY: Duration = Duration::from_secs(6);
const BYTE_BELOW_LIMITS_EVERY: Duration = Duration::from_millis(800);
/// How long they go on: several times longer than nginx waits for a head.
const SLOW_FOR: Duration = Duration::from_secs(24);

/// Idle clients at each instance that may open 1,024 files.
const IDLE_CLIENTS: usize = 1_300;
/// The pause between two of them. A client may be silent for a second before it makes room, so an
/// instance with 1,024 files takes some 400 a second.
const IDLE_EVERY: Duration = Duration::from_millis(8);
const IDLE_FOR: Duration = Duration::from_secs(6);

/// Clients that connect while nginx stands still.
const CROWD: u32 = 2_000;
const CROWD_WAITS: Duration = Duration::from_secs(1);
/// How long each of them waits for its reply.
const CROWD_PATIENCE: Duration = Duration::from_secs(20);

/// Requests for the page of the API.
const DOCS_PER_SECOND: u32 = 200;
const DOCS_TURN: Duration = Duration::from_secs(4);
const DOCS_TURNS: usize = 3;

/// nginx's address.
fn address(site: &Site) -> anyhow::Result<(String, u16)> {
    let url = site.stack.url();
    let host = url.host_str().context("a host")?.to_owned();
    Ok((host, url.port().context("a port")?))
}

#[derive(Debug, Default)]
struct Slow {
    opened: AtomicU64,
    closed: AtomicU64,
    bytes: AtomicU64,
}

pub(super) async fn slow_clients(site: &Site) -> anyhow::Result<()> {
    let address = address(site)?;
    let calm = site.load.figures(site.begun_at..Instant::now());
    let slow = Arc::new(Slow::default());
    let mut clients = JoinSet::new();
    let since = Instant::now();
    site.outage("slow clients");
    for index in 0..SLOW_CLIENTS {
        let mut rng = generator(site.seed, 100_000 + index as u64);
        // One third each: heads, bodies, and bodies that are below every limit.
        let (complete, pause) = match index % 3 {
            0 => ("", BYTE_EVERY),
            1 => (SLOW_BODY, BYTE_EVERY),
            _ => (SLOW_BODY, BYTE_BELOW_LIMITS_EVERY),
        };
        let first = rng.random_range(Duration::ZERO..BYTE_EVERY);
        let (address, slow) = (address.clone(), Arc::clone(&slow));
        clients.spawn(drip(address, complete, first, pause, slow));
    }
    tokio::time::sleep(SLOW_FOR).await;
    let during = site.load.figures(since..Instant::now());
    clients.shutdown().await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (opened, closed) = (count(&slow.opened), count(&slow.closed));
    site.must(opened >= SLOW_CLIENTS as u64, || {
        format!("only {opened} slow clients found a place, so this drill shows little")
    });
    site.must(closed > 0, || "nobody was sent away".to_owned());
    site.note(format!(
        "{SLOW_CLIENTS} slow clients, {} bytes/s in all, {opened} connections, {closed} of them \
        closed by nginx; others' p99 {} before, {} meanwhile",
        count(&slow.bytes) / SLOW_FOR.as_secs(),
        millis(calm.p99),
        millis(during.p99)
    ));
    Ok(())
}

/// A head that is complete, of a body that does not come.
const SLOW_BODY: &str = "POST /payments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
    Content-Length: 71\r\n\r\n";
/// What is sent byte by byte where not even the head is.
const SLOW_HEAD: &[u8] =
    b"POST /payments HTTP/1.1\r\nHost: a\r\nX-Padding: aaaaaaaaaaaaaaaaaaaaaaaaa";

async fn drip(
    address: (String, u16),
    complete: &'static str,
    first: Duration,
    pause: Duration,
    slow: Arc<Slow>,
) {
    tokio::time::sleep(first).await;
    let add = |counter: &AtomicU64, count| counter.fetch_add(count, Ordering::Relaxed);
    loop {
        if let Ok(mut stream) = TcpStream::connect((address.0.as_str(), address.1)).await {
            add(&slow.opened, 1);
            let mut sent = stream.write_all(complete.as_bytes()).await.is_ok();
            for byte in SLOW_HEAD {
                sent = sent && stream.write_all(&[*byte]).await.is_ok();
                if !sent {
                    add(&slow.closed, 1);
                    break;
                }
                add(&slow.bytes, 1);
                tokio::time::sleep(pause).await;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

pub(super) async fn few_files(site: &Site) -> anyhow::Result<()> {
    // Calls that are open for a while need files, too.
    site.slow_processors(Duration::from_millis(500)).await?;
    site.outage("idle clients");
    let since = Instant::now();
    let mut idle = Vec::new();
    for _ in 0..IDLE_CLIENTS {
        for socket in site.stack.sockets() {
            idle.push(connect(socket).await?);
        }
        tokio::time::sleep(IDLE_EVERY).await;
    }
    tokio::time::sleep(IDLE_FOR).await;
    let during = site.load.figures(since..Instant::now());
    let mut open = 0;
    for stream in &idle {
        let mut byte = [0];
        // An idle client that made room has been hung up on.
        let ended = matches!(stream.try_read(&mut byte), Ok(0));
        open += usize::from(!ended);
    }
    for log in &site.logs {
        site.must(!log.contains("the breaker of"), || {
            "a processor was blamed for files that are missing here".to_owned()
        });
    }
    let queued = site.stack.queued().await?;
    site.note(format!(
        "{} idle clients at 1,024 files each, {open} of them still connected; {queued} in the queue; \
        p99 meanwhile {}",
        idle.len(),
        millis(during.p99)
    ));
    Ok(())
}

/// A connection to an instance. Its backlog may be full: at a unix socket the kernel says so.
async fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    let begun_at = Instant::now();
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(_) if begun_at.elapsed() < CROWD_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) async fn crowd(site: &Site) -> anyhow::Result<()> {
    let address = address(site)?;
    site.outage("a crowd before an nginx that stands still");
    let nginx = site.stack.nginx.lock().await;
    let stopped = nginx.freeze().context("nginx runs")?;
    let mut posts = JoinSet::new();
    for index in 0..CROWD {
        let mut rng = generator(site.seed, 200_000 + u64::from(index));
        let id = uuid::Builder::from_random_bytes(rng.random()).into_uuid();
        let (address, ledger) = (address.clone(), Arc::clone(&site.ledger));
        posts.spawn(async move {
            ledger.open(id, i64::from(index) + 1);
            let begun_at = Instant::now();
            let posted = post_once(&address, id, index);
            let reply = tokio::time::timeout(CROWD_PATIENCE, posted).await;
            let reply = match reply {
                Ok(Ok(status)) => Reply::Status(status),
                Ok(Err(_)) | Err(_) => Reply::None,
            };
            ledger.reply(id, reply);
            (reply, begun_at.elapsed())
        });
    }
    tokio::time::sleep(CROWD_WAITS).await;
    thaw(&stopped);
    drop(nginx);
    let replies = posts.join_all().await;
    let accepted = replies.iter().filter(|(reply, _)| reply.is_acceptance());
    let accepted = accepted.count();
    let slowest = replies.iter().map(|(_, took)| *took).max();
    let slowest = slowest.unwrap_or_default();
    // Whatever is more than can be written down at once is told so, and posts again.
    let told = |status| {
        let told = replies
            .iter()
            .filter(|(reply, _)| *reply == Reply::Status(status));
        told.count()
    };
    let refused = told(StatusCode::SERVICE_UNAVAILABLE);
    site.must(accepted + refused == replies.len(), || {
        format!(
            "{accepted} of {} accepted, {refused} refused, the others heard nothing",
            replies.len()
        )
    });
    // A client that the kernel did not take at once tries again after 1, 3 and 7 s.
    site.must(slowest < CROWD_WAITS + Duration::from_secs(2), || {
        format!("the slowest of the crowd waited {}", millis(slowest))
    });
    site.note(format!(
        "{CROWD} clients at once while nginx stood still for {}, half of them HTTP/1.0 without Host: \
        {accepted} accepted, {refused} told 503, the slowest after {}",
        millis(CROWD_WAITS),
        millis(slowest)
    ));
    Ok(())
}

/// Posts on a connection of its own; every other one in HTTP/1.0 without a Host.
async fn post_once(address: &(String, u16), id: Uuid, index: u32) -> anyhow::Result<StatusCode> {
    let body = payment(id, i64::from(index) + 1);
    let head = match index % 2 {
        0 => "POST /payments HTTP/1.0\r\n",
        _ => "POST /payments HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n",
    };
    let length = body.len();
    let request =
        format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
    let stream = TcpStream::connect((address.0.as_str(), address.1)).await?;
    exchange(stream, request.as_bytes()).await
}

/// The status of the reply to a request, after which the server hangs up.
pub(super) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
) -> anyhow::Result<StatusCode> {
    stream.write_all(request).await?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await?;
    let status = reply.get(9..12).context("a status line")?;
    Ok(StatusCode::from_bytes(status)?)
}

pub(super) async fn docs_load(site: &Site) -> anyhow::Result<()> {
    let plain = || payment_proxy::config::tls::plain().timeout(Duration::from_secs(5));
    let public = (
        plain().build()?,
        site.stack.url().join("/docs/")?.to_string(),
    );
    let operators = plain().unix_socket(site.stack.operators()[0].clone());
    let operators = (operators.build()?, "http://instance/docs/".to_owned());
    let (mut calm, mut loaded) = (Vec::new(), Vec::new());
    let mut asked = [0_u32; 2];
    let mut bytes = 0;
    for _ in 0..DOCS_TURNS {
        let since = Instant::now();
        tokio::time::sleep(DOCS_TURN).await;
        calm.push(site.load.figures(since..Instant::now()).p99);
        site.outage("load on /docs/");
        let since = Instant::now();
        let mut requests = JoinSet::new();
        for index in 0..DOCS_PER_SECOND * DOCS_TURN.as_secs() as u32 {
            tokio::time::sleep_until(
                (since + index * (Duration::from_secs(1) / DOCS_PER_SECOND)).into(),
            )
            .await;
            let (client, url) = if index % 2 == 0 { &public } else { &operators };
            let request = client.get(url).header(ACCEPT_ENCODING, "gzip");
            let request = request.bearer_auth(OPERATOR_TOKEN);
            requests.spawn(async move {
                let reply = request.send().await?;
                let status = reply.status();
                Ok::<_, reqwest::Error>((status, reply.bytes().await?.len()))
            });
        }
        for reply in requests.join_all().await {
            match reply {
                Ok((StatusCode::NOT_FOUND, _)) => asked[0] += 1,
                Ok((StatusCode::OK, length)) => {
                    asked[1] += 1;
                    bytes = length;
                }
                other => site.must(false, || format!("/docs/ answered {other:?}")),
            }
        }
        loaded.push(site.load.figures(since..Instant::now()).p99);
    }
    calm.sort_unstable();
    loaded.sort_unstable();
    site.must(asked[0] > 0 && asked[1] > 0, || {
        format!("{asked:?} replies")
    });
    site.note(format!(
        "{DOCS_PER_SECOND}/s of /docs/, half in public (404) and half as an operator ({bytes} bytes \
        each); median p99 of {DOCS_TURNS} turns {} without, {} with them",
        millis(calm[DOCS_TURNS / 2]),
        millis(loaded[DOCS_TURNS / 2])
    ));
    Ok(())
}
