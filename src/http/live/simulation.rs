//! Simulated processors under the operator's hand, and payments that are made up: there only where
//! `SIMULATOR_TOKEN` is set, so that one can watch the router at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::RngExt;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::tls;
use crate::config::{ProcessorSettings, SimulatorToken};
use crate::domain::cell::Cells;
use crate::domain::payment::Payment;
use crate::http::Problem;
use crate::pipeline::accept::Acceptor;

/// How long a simulated processor has to answer.
pub(super) const SIMULATOR_TIMEOUT: Duration = Duration::from_millis(500);
/// Milliseconds that a simulated processor can be made to take, at most.
pub(super) const MAX_DELAY_MS: u32 = 60_000;
/// Payments per second that are made up, at most.
pub(super) const MAX_MADE_UP: u32 = 1_000;
/// The time between two batches of them.
pub(super) const MADE_UP_INTERVAL: Duration = Duration::from_millis(50);
/// They end when nobody has looked for so long.
pub(super) const UNWATCHED: Duration = Duration::from_secs(60);
/// The cents of one, at least and at most.
const MADE_UP_CENTS: std::ops::RangeInclusive<i64> = 100..=20_000;
/// The header that simulated processors want to see.
const TOKEN_HEADER: &str = "X-Rinha-Token";

/// What an operator may change.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Simulation {
    /// Payments that this instance makes up per second.
    pub payments_per_second: u32,
    /// The processors in order of preference; None: it does not answer.
    pub processors: Vec<Option<Behaviour>>,
}

/// How a simulated processor behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Behaviour {
    /// Milliseconds that each payment takes.
    pub delay: u32,
    /// Whether each payment is answered with 500.
    pub failure: bool,
}

/// The hand.
#[derive(Debug)]
pub struct Simulator {
    http: Client,
    token: SimulatorToken,
    pub(super) processors: Vec<ProcessorSettings>,
    acceptors: Cells<Acceptor>,
    pub(super) payments_per_second: AtomicU32,
}

impl Simulator {
    /// For those processors.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(
        token: SimulatorToken,
        processors: &[ProcessorSettings],
        acceptors: Cells<Acceptor>,
    ) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            http: tls::plain()
                .redirect(Policy::none())
                .timeout(SIMULATOR_TIMEOUT)
                .build()?,
            token,
            processors: processors.to_vec(),
            acceptors,
            payments_per_second: AtomicU32::new(0),
        }))
    }

    pub(super) async fn look(&self) -> Simulation {
        let processors = self.processors.iter().map(|processor| async {
            let url = configuration(processor, None).ok()?;
            let request = self.http.get(url).header(TOKEN_HEADER, &self.token.0);
            request.send().await.ok()?.json::<Behaviour>().await.ok()
        });
        Simulation {
            payments_per_second: self.payments_per_second.load(Ordering::Relaxed),
            processors: join_all(processors).await,
        }
    }

    pub(super) async fn put(&self, url: Url, body: &impl Serialize) -> Result<(), reqwest::Error> {
        let request = self.http.put(url).header(TOKEN_HEADER, &self.token.0);
        request.json(body).send().await?.error_for_status()?;
        Ok(())
    }

    /// Makes payments up while somebody looks, at the rate that is asked for, until `stop`.
    pub(super) async fn run(
        self: Arc<Self>,
        is_watched: impl Fn() -> bool + Send,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(MADE_UP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut last, mut owed, mut watched_at) = (Instant::now(), 0.0, Instant::now());
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if is_watched() {
                watched_at = Instant::now();
            } else if watched_at.elapsed() > UNWATCHED {
                self.payments_per_second.store(0, Ordering::Relaxed);
            }
            let rate = self.payments_per_second.load(Ordering::Relaxed);
            // After a stall only one interval's worth is made good.
            let elapsed = last.elapsed().min(MADE_UP_INTERVAL * 2);
            last = Instant::now();
            owed = if rate == 0 {
                0.0
            } else {
                owed + f64::from(rate) * elapsed.as_secs_f64()
            };
            while owed >= 1.0 {
                owed -= 1.0;
                let payment = Payment {
                    correlation_id: Uuid::new_v4(),
                    amount: Decimal::new(rand::rng().random_range(MADE_UP_CENTS), 2),
                    traceparent: None,
                };
                let acceptor = self.acceptors.of(payment.correlation_id).clone();
                tokio::spawn(async move {
                    // Refused while the database is away, as any client's is.
                    let _ = acceptor.accept(payment).await;
                });
            }
        }
    }
}

/// The address at which a processor tells how it behaves, or is told.
pub(super) fn configuration(
    processor: &ProcessorSettings,
    what: Option<&str>,
) -> Result<Url, Problem> {
    let mut url = processor.url.clone();
    url.path_segments_mut()
        .map_err(|()| Problem::invalid_parameter("the processor's URL cannot take a path"))?
        .pop_if_empty()
        .extend(["admin", "configurations"].into_iter().chain(what));
    Ok(url)
}
