//! The clients of a drill. Payments are due at a constant rate, whatever the replies are (open
//! loop); each is posted through nginx until it is accepted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use rust_decimal::Decimal;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use tools::deployment::generator;
use tools::deployment::ledger::{Ledger, Reply};

/// How long a client waits for a reply; nginx may ask two instances for 5 s each.
const TIMEOUT: Duration = Duration::from_secs(12);
/// The pause of a client whose payment was not accepted, times the number of posts, up to the
/// limit.
const RETRY: Range<Duration> = Duration::from_millis(300)..Duration::from_millis(1_000);
const RETRY_TIMES: u32 = 5;
/// Payments that are posted again at once.
const AGAIN_AT_ONCE: usize = 50;
/// How long clients go on with what they have begun, after the drill.
const END: Duration = Duration::from_secs(40);
/// The share of payments that are posted once more when they were accepted.
const AGAIN: f64 = 0.05;
/// The highest amount, in cents.
const MOST_CENTS: i64 = 100_000;

/// The JSON of a payment.
pub(crate) fn payment(id: Uuid, cents: i64) -> String {
    let amount = Decimal::new(cents, 2);
    format!(r#"{{"correlationId":"{id}","amount":{amount}}}"#)
}

/// One post.
#[derive(Debug, Clone, Copy)]
struct Post {
    /// The first of its payment.
    first: bool,
    /// When it was due.
    due: Instant,
    /// From then until its reply.
    took: Duration,
    reply: Reply,
}

/// What clients met in a span of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// Payments that were due.
    pub(crate) offered: usize,
    /// Posts that were answered 202.
    pub(crate) accepted: usize,
    /// Posts that were answered 503.
    pub(crate) refused: usize,
    /// Posts that ended otherwise.
    pub(crate) other: BTreeMap<String, usize>,
    /// Percentiles of the time until a payment's first reply.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// The longest time until any reply.
    pub(crate) longest: Duration,
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    over: CancellationToken,
    clients: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    http: Client,
    url: Url,
    ledger: Arc<Ledger>,
    posts: Mutex<Vec<Post>>,
}

impl Load {
    /// Starts them.
    pub(crate) fn begin(
        url: &Url,
        ledger: &Arc<Ledger>,
        rate: u32,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            http: payment_proxy::config::tls::plain()
                .timeout(TIMEOUT)
                .build()?,
            url: url.join("/payments")?,
            ledger: Arc::clone(ledger),
            posts: Mutex::default(),
        });
        let over = CancellationToken::new();
        let clients = tokio::spawn(offer(Arc::clone(&shared), over.clone(), rate, seed));
        Ok(Self {
            shared,
            over,
            clients,
        })
    }

    /// No new payments; returns when those that were begun are accepted, or given up.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        self.over.cancel();
        Ok((&mut self.clients).await?)
    }

    fn posts(&self) -> MutexGuard<'_, Vec<Post>> {
        self.shared.posts()
    }

    /// What clients met whose posts were due in that span.
    pub(crate) fn figures(&self, span: Range<Instant>) -> Figures {
        let posts = self.posts();
        let posts = posts.iter().filter(|post| span.contains(&post.due));
        let mut figures = Figures::default();
        let mut times = Vec::new();
        for post in posts {
            match post.reply {
                reply if reply.is_acceptance() => figures.accepted += 1,
                Reply::Status(StatusCode::SERVICE_UNAVAILABLE) => figures.refused += 1,
                Reply::Status(status) => *figures.other.entry(status.to_string()).or_default() += 1,
                Reply::None => *figures.other.entry("no reply".to_owned()).or_default() += 1,
            }
            figures.longest = figures.longest.max(post.took);
            if post.first {
                figures.offered += 1;
                times.push(post.took);
            }
        }
        times.sort_unstable();
        let at = |share: usize| times.get(times.len().saturating_sub(1) * share / 100);
        figures.p50 = at(50).copied().unwrap_or_default();
        figures.p99 = at(99).copied().unwrap_or_default();
        figures
    }

    /// How long nobody was accepted, at the longest, in that span.
    pub(crate) fn longest_gap(&self, span: &Range<Instant>) -> Duration {
        let posts = self.posts();
        let mut accepted: Vec<Instant> = posts
            .iter()
            .filter(|post| post.reply.is_acceptance())
            .map(|post| post.due + post.took)
            .filter(|at| span.contains(at))
            .collect();
        accepted.extend([span.start, span.end]);
        accepted.sort_unstable();
        let gaps = accepted.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    /// When the first reply came that accepted a payment, from that time on.
    pub(crate) fn first_accepted(&self, since: Instant) -> Option<Instant> {
        let posts = self.posts();
        let accepted = posts.iter().filter(|post| post.reply.is_acceptance());
        let replied_at = accepted.map(|post| post.due + post.took);
        replied_at.filter(|at| *at >= since).min()
    }

    /// Waits for the next acceptance of something that is due from now on. Returns how long that
    /// took, or nothing if it took longer than `limit`.
    pub(crate) async fn accepted_again(&self, limit: Duration) -> Option<Duration> {
        let since = Instant::now();
        let mut seen = self.posts().len();
        while since.elapsed() < limit {
            {
                let posts = self.posts();
                let accepted = |post: &&Post| post.reply.is_acceptance() && post.due >= since;
                if posts[seen..].iter().any(|post| accepted(&post)) {
                    return Some(since.elapsed());
                }
                seen = posts.len();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Posts payments again that were accepted once, each until it is accepted.
    pub(crate) async fn post_again(&self, payments: Vec<(Uuid, i64)>, seed: u64) {
        let mut clients = JoinSet::new();
        for (index, (id, cents)) in payments.into_iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            let mut rng = generator(seed, 300_000 + index as u64);
            clients.spawn(async move { shared.retry(id, cents, &mut rng).await });
            if clients.len() >= AGAIN_AT_ONCE {
                clients.join_next().await;
            }
        }
        while clients.join_next().await.is_some() {}
    }

    /// Waits until somebody is refused, or the limit is over. Returns whether somebody was.
    pub(crate) async fn refused(&self, limit: Duration) -> bool {
        let since = Instant::now();
        loop {
            let refused = self.figures(since..Instant::now()).refused;
            if refused > 0 || since.elapsed() > limit {
                return refused > 0;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.clients.abort();
    }
}

impl Shared {
    fn posts(&self) -> MutexGuard<'_, Vec<Post>> {
        self.posts.lock().expect("no code panics under this lock")
    }
}

async fn offer(shared: Arc<Shared>, over: CancellationToken, rate: u32, seed: u64) {
    let begun_at = Instant::now();
    let pause = Duration::from_secs(1) / rate;
    let mut clients = JoinSet::new();
    for index in 0_u32.. {
        let due = begun_at + pause * index;
        let waiting = tokio::time::sleep_until(due.into());
        if over.run_until_cancelled(waiting).await.is_none() {
            break;
        }
        let rng = generator(seed, 1_000 + u64::from(index));
        clients.spawn(pay(Arc::clone(&shared), due, rng));
        while clients.try_join_next().is_some() {}
    }
    let _ = tokio::time::timeout(END, async { while clients.join_next().await.is_some() {} }).await;
}

/// One payment, until it is accepted.
async fn pay(shared: Arc<Shared>, due: Instant, mut rng: StdRng) {
    let id = uuid::Builder::from_random_bytes(rng.random()).into_uuid();
    let cents = rng.random_range(1..=MOST_CENTS);
    let again = rng.random_bool(AGAIN);
    shared.ledger.open(id, cents);
    if !shared.post(id, cents, due, true).await.is_acceptance() {
        shared.retry(id, cents, &mut rng).await;
    }
    if again {
        tokio::time::sleep(rng.random_range(RETRY)).await;
        shared.post(id, cents, Instant::now(), false).await;
    }
}

impl Shared {
    /// Posts a payment again until it is accepted.
    async fn retry(&self, id: Uuid, cents: i64, rng: &mut StdRng) {
        for posts in 1.. {
            tokio::time::sleep(rng.random_range(RETRY) * RETRY_TIMES.min(posts)).await;
            let reply = self.post(id, cents, Instant::now(), false).await;
            if reply.is_acceptance() {
                return;
            }
        }
    }

    async fn post(&self, id: Uuid, cents: i64, due: Instant, first: bool) -> Reply {
        let request = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(payment(id, cents));
        let reply = match request.send().await {
            Ok(reply) => {
                let status = reply.status();
                if status == StatusCode::SERVICE_UNAVAILABLE
                    && !reply.headers().contains_key(RETRY_AFTER)
                {
                    self.ledger
                        .complain(format!("{id}: 503 without Retry-After"));
                }
                Reply::Status(status)
            }
            Err(_) => Reply::None,
        };
        self.ledger.reply(id, reply);
        self.posts().push(Post {
            first,
            due,
            took: due.elapsed(),
            reply,
        });
        reply
    }
}
