//! Simulated processors under the operator's hand, and payments that are made up: there only where
//! `SIMULATOR_TOKEN` is set, so that one can watch the router at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use futures_util::future::join_all;
use rand::RngExt;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

use super::feed::Feed;
use crate::accept::Acceptor;
use crate::config::{ProcessorSettings, SimulatorToken};
use crate::http::problem::{BODY, Fields, OPERATOR, problems};
use crate::http::{OperatorApi, Problem, ProblemKind};
use crate::payment::Payment;
use crate::tls;

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

/// How a simulated processor is to behave; what is not said stays
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SimulationChange)]
pub(super) struct Change {
    /// Milliseconds that each payment takes
    #[schema(value_type = Option<u32>, maximum = 60_000)]
    delay: Option<Whole<MAX_DELAY_MS>>,
    /// Whether each payment is answered with 500
    failure: Option<bool>,
}

/// A whole number up to `MOST`. In JSON 5.0 is one, too.
#[derive(Debug, Clone, Copy)]
struct Whole<const MOST: u32>(u32);

impl<'de, const MOST: u32> Deserialize<'de> for Whole<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?.as_f64();
        let whole = number.filter(|number| number.fract() == 0.0);
        let whole = whole.filter(|whole| (0.0..=f64::from(MOST)).contains(whole));
        // It is whole, not negative and no more than a u32, so the cast changes nothing.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        whole.map(|whole| Self(whole as u32)).ok_or_else(|| {
            serde::de::Error::custom(format!("expected a whole number from 0 to {MOST}"))
        })
    }
}

/// Payments that are made up
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Traffic {
    /// At most 1,000
    #[schema(value_type = u32, maximum = 1_000)]
    payments_per_second: Whole<MAX_MADE_UP>,
}

/// The hand.
#[derive(Debug)]
pub struct Simulator {
    http: Client,
    token: SimulatorToken,
    processors: Vec<ProcessorSettings>,
    acceptor: Acceptor,
    payments_per_second: AtomicU32,
}

impl Simulator {
    /// For those processors.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(
        token: SimulatorToken,
        processors: &[ProcessorSettings],
        acceptor: Acceptor,
    ) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            http: tls::plain()
                .redirect(Policy::none())
                .timeout(SIMULATOR_TIMEOUT)
                .build()?,
            token,
            processors: processors.to_vec(),
            acceptor,
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

    async fn put(&self, url: Url, body: &impl Serialize) -> Result<(), reqwest::Error> {
        let request = self.http.put(url).header(TOKEN_HEADER, &self.token.0);
        request.json(body).send().await?.error_for_status()?;
        Ok(())
    }

    /// Makes payments up, at the rate that is asked for, until `stop`.
    pub(super) async fn run(self: Arc<Self>, feed: Arc<Feed>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(MADE_UP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut last, mut owed, mut watched_at) = (Instant::now(), 0.0, Instant::now());
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if feed.is_watched() {
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
                let acceptor = self.acceptor.clone();
                tokio::spawn(async move {
                    // Refused while the database is away, as any client's is.
                    let _ = acceptor.accept(payment).await;
                });
            }
        }
    }
}

problems!(
    pub(super) ChangeProblems: OPERATOR, BODY,
    [ProblemKind::ProcessorNotFound, ProblemKind::ProcessorNotConfirmed]
);
problems!(pub(super) TrafficProblems: OPERATOR, BODY, [ProblemKind::ProcessorNotFound]);

/// Makes a simulated processor slow or failing, or well again
///
/// There is one only where `SIMULATOR_TOKEN` is set.
#[utoipa::path(
    put, path = "/simulator/processors/{processor}", tag = "simulation",
    operation_id = "changeSimulatedProcessor", request_body = Change,
    params(("processor" = String, Path, description = "Its name")),
    responses(
        (status = 204, description = "The processor behaves so"),
        ChangeProblems,
    )
)]
pub(super) async fn change(
    State(api): State<OperatorApi>,
    name: Result<Path<String>, PathRejection>,
    Fields(change): Fields<Change>,
) -> Result<StatusCode, Problem> {
    let simulator = simulator(&api)?;
    // What is not text is no name of a processor.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let processor = simulator.processors.iter().find(|known| known.name == name);
    let processor = processor.ok_or_else(|| {
        let names = api.processors.join(", ");
        Problem::new(
            ProblemKind::ProcessorNotFound,
            format!("there is no processor {name:?}; there are {names}"),
        )
    })?;
    let no_answer = |error: reqwest::Error| {
        Problem::new(
            ProblemKind::ProcessorNotConfirmed,
            format!("processor {name} did not confirm: {}", error.without_url()),
        )
    };
    if let Some(Whole(delay)) = change.delay {
        let body = serde_json::json!({ "delay": delay });
        let url = configuration(processor, Some("delay"))?;
        simulator.put(url, &body).await.map_err(no_answer)?;
    }
    if let Some(failure) = change.failure {
        let body = serde_json::json!({ "failure": failure });
        let url = configuration(processor, Some("failure"))?;
        simulator.put(url, &body).await.map_err(no_answer)?;
    }
    tracing::info!(
        processor.name = name,
        ?change,
        "simulation changed by an operator"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// Sets how many payments the instance makes up per second
///
/// It makes them up while somebody looks at the live page.
#[utoipa::path(
    put, path = "/simulator/traffic", tag = "simulation", operation_id = "setSimulatedTraffic",
    request_body = Traffic,
    responses(
        (status = 204, description = "The instance makes them up"),
        TrafficProblems,
    )
)]
pub(super) async fn traffic(
    State(api): State<OperatorApi>,
    Fields(traffic): Fields<Traffic>,
) -> Result<StatusCode, Problem> {
    let simulator = simulator(&api)?;
    let rate = &simulator.payments_per_second;
    rate.store(traffic.payments_per_second.0, Ordering::Relaxed);
    Ok(StatusCode::NO_CONTENT)
}

fn simulator(api: &OperatorApi) -> Result<&Simulator, Problem> {
    api.simulator.as_deref().ok_or_else(|| {
        Problem::new(
            ProblemKind::ProcessorNotFound,
            "no processors are simulated here (SIMULATOR_TOKEN is not set)",
        )
    })
}

fn configuration(processor: &ProcessorSettings, what: Option<&str>) -> Result<Url, Problem> {
    let mut url = processor.url.clone();
    url.path_segments_mut()
        .map_err(|()| Problem::invalid_parameter("the processor's URL cannot take a path"))?
        .pop_if_empty()
        .extend(["admin", "configurations"].into_iter().chain(what));
    Ok(url)
}
