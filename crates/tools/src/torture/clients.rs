//! The clients: they post payments through nginx, again when they got no acceptance, and some of
//! them more often than they should.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};
use rust_decimal::Decimal;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Plan;
use crate::deployment::generator;
use crate::deployment::ledger::{Ledger, Reply};
use crate::deployment::stack::Stack;

/// Clients at once: enough that some of them go on while others wait for an instance that is
/// stopped.
const CLIENTS: u32 = 256;
/// How long a client waits for a reply; nginx may ask two instances for 5 s each.
const TIMEOUT: Duration = Duration::from_secs(12);
/// How often a client posts a payment that is not accepted, at most.
const ATTEMPTS: usize = 30;
/// The time between two posts of a payment that has to be accepted.
const POST_PAUSE: Duration = Duration::from_millis(500);
/// Payments that are posted again at the same time.
const POSTED_TOGETHER: usize = 64;
/// The share of failed posts after which a client gives up.
const GIVES_UP: f64 = 0.03;
/// The share of payments that are posted through nginx and to both instances at the same time.
const AT_ONCE: f64 = 0.06;
/// The share of payments that are posted again soon after they were accepted.
const SOON_AGAIN: f64 = 0.06;
/// The share of payments after which some accepted one is posted again.
const MUCH_LATER: f64 = 0.06;
/// The share of payments that are posted once more with another amount.
const OTHER_AMOUNT: f64 = 0.02;
/// The highest amount, in cents.
const MOST_CENTS: i64 = 100_000;

/// Where a payment is posted to: nginx, or an instance itself.
#[derive(Debug, Clone)]
struct Way {
    http: Client,
    url: Url,
}

/// All clients of a round.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    nginx: Way,
    instances: [Way; 2],
    ledger: Arc<Ledger>,
    over: CancellationToken,
    pause: Duration,
}

impl Clients {
    /// Those of a round, which have not begun.
    pub(super) fn new(
        plan: &Plan,
        stack: &Stack,
        ledger: &Arc<Ledger>,
        over: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let client = || payment_proxy::config::tls::plain().timeout(TIMEOUT);
        let [one, other] = stack.sockets();
        let direct = |socket: &std::path::Path| -> anyhow::Result<Way> {
            Ok(Way {
                http: client().unix_socket(socket.to_owned()).build()?,
                url: "http://instance/payments".parse()?,
            })
        };
        Ok(Self {
            nginx: Way {
                http: client().build()?,
                url: stack.url().join("/payments")?,
            },
            instances: [direct(one)?, direct(other)?],
            ledger: Arc::clone(ledger),
            over: over.clone(),
            pause: Duration::from_secs(1) * CLIENTS / plan.rate.max(1),
        })
    }

    /// Starts them; they end soon after `over`.
    pub(super) fn begin(&self, plan: &Plan) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for index in 0..CLIENTS {
            let rng = generator(plan.seed, 1_000 + u64::from(index));
            tasks.spawn(self.clone().run(rng));
        }
        tasks
    }

    /// How many payments were accepted so far.
    pub(super) fn accepted(&self) -> usize {
        self.ledger.accepted()
    }

    /// Posts again those of the first `accepted` payments that were accepted and are nowhere in the
    /// database, each until it is accepted. Returns how many.
    pub(crate) async fn post_lost_again(
        &self,
        stack: &Stack,
        accepted: usize,
    ) -> anyhow::Result<usize> {
        let mut payments = self.ledger.accepted_after(0);
        payments.truncate(accepted);
        let ids: Vec<Uuid> = payments.iter().map(|(id, _)| *id).collect();
        let lost: HashSet<Uuid> = stack.lacks(&ids).await?.into_iter().collect();
        payments.retain(|(id, _)| lost.contains(id));
        self.post_all(payments).await
    }

    /// Posts again what was accepted after the first `count` payments, each until it is accepted.
    /// Returns how many.
    pub(super) async fn post_again(&self, count: usize) -> anyhow::Result<usize> {
        self.post_all(self.ledger.accepted_after(count)).await
    }

    async fn post_all(&self, payments: Vec<(Uuid, i64)>) -> anyhow::Result<usize> {
        let posted = payments.len();
        let places = Arc::new(Semaphore::new(POSTED_TOGETHER));
        let mut posts = JoinSet::new();
        for (id, cents) in payments {
            let (clients, place) = (self.clone(), Arc::clone(&places).acquire_owned().await?);
            posts.spawn(async move {
                let accepted = clients.until_accepted(id, cents).await;
                drop(place);
                accepted
            });
        }
        while let Some(accepted) = posts.join_next().await {
            accepted??;
        }
        Ok(posted)
    }

    async fn until_accepted(&self, id: Uuid, cents: i64) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            if self.post(&self.nginx, id, cents).await.is_acceptance() {
                return Ok(());
            }
            tokio::time::sleep(POST_PAUSE).await;
        }
        anyhow::bail!("{id} is not accepted again")
    }

    async fn run(self, mut rng: StdRng) {
        loop {
            let pause = self.pause.mul_f64(rng.random_range(0.0..2.0));
            tokio::select! {
                () = tokio::time::sleep(pause) => self.pay(&mut rng).await,
                () = self.over.cancelled() => return,
            }
        }
    }

    /// One new payment, and perhaps a duplicate.
    async fn pay(&self, rng: &mut StdRng) {
        let id = uuid::Builder::from_random_bytes(rng.random()).into_uuid();
        let cents = rng.random_range(1..=MOST_CENTS);
        self.ledger.open(id, cents);
        let habit: f64 = rng.random();
        if habit < AT_ONCE {
            let [one, other] = &self.instances;
            tokio::join!(
                self.post(&self.nginx, id, cents),
                self.post(one, id, cents),
                self.post(other, id, cents)
            );
        }
        if !self.deliver(rng, id, cents).await {
            return;
        }
        if habit > 1.0 - SOON_AGAIN {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
            let way = self.any_way(rng);
            self.post(way, id, cents).await;
        } else if habit > 1.0 - SOON_AGAIN - MUCH_LATER {
            if let Some((id, cents)) = self.ledger.any_accepted(|count| rng.random_range(0..count))
            {
                let way = self.any_way(rng);
                self.post(way, id, cents).await;
            }
        } else if habit > 1.0 - SOON_AGAIN - MUCH_LATER - OTHER_AMOUNT {
            let way = self.any_way(rng);
            let reply = send(way, id, cents + 1).await;
            self.ledger.reply_to_other_amount(id, reply);
        }
    }

    /// Posts a payment until it is accepted, or the client gives up.
    async fn deliver(&self, rng: &mut StdRng, id: Uuid, cents: i64) -> bool {
        for _ in 0..ATTEMPTS {
            if self.post(&self.nginx, id, cents).await.is_acceptance() {
                return true;
            }
            if rng.random::<f64>() < GIVES_UP {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(50..1_000))).await;
        }
        false
    }

    fn any_way(&self, rng: &mut StdRng) -> &Way {
        match rng.random_range(0..3) {
            0 => &self.nginx,
            1 => &self.instances[0],
            _ => &self.instances[1],
        }
    }

    async fn post(&self, way: &Way, id: Uuid, cents: i64) -> Reply {
        let reply = send(way, id, cents).await;
        self.ledger.reply(id, reply);
        reply
    }
}

async fn send(way: &Way, id: Uuid, cents: i64) -> Reply {
    let amount = Decimal::new(cents, 2);
    let request = way
        .http
        .post(way.url.clone())
        .header(CONTENT_TYPE, "application/json")
        .body(format!(r#"{{"correlationId":"{id}","amount":{amount}}}"#));
    match request.send().await {
        Ok(reply) => Reply::Status(reply.status()),
        Err(_) => Reply::None,
    }
}
