//! What the router knows and why it does what it does, for people to read.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::breaker::State;
use super::lane::{self, Lane};
use super::router::{Record, Router};
use super::{Decision, Queue, Time};

/// A picture of the router at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Instances that share the caps.
    pub instances: u32,
    /// Payments that arrive at this instance per second.
    pub arrivals_per_second: f64,
    /// The processors in order of preference.
    pub processors: Vec<ProcessorReport>,
    /// The last decisions, newest first. One of each run of equal ones is kept, and one each 100 ms.
    pub decisions: Vec<PastDecision>,
}

/// What is known of a processor.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorReport {
    /// Its name.
    pub name: String,
    /// The share of the amount that it keeps.
    pub fee: f64,
    /// Whether an operator lets it take part.
    pub enabled: bool,
    /// Its breaker.
    pub breaker: BreakerReport,
    /// Successes, the prior included, that count at present.
    pub posterior_successes: f64,
    /// Failures, the prior included, that count at present.
    pub posterior_failures: f64,
    /// The mean of the posterior.
    pub success_probability: f64,
    /// Expected milliseconds until it answers.
    pub latency_ms: f64,
    /// Permits of this instance that are out.
    pub in_flight: u32,
    /// Permits that this instance may have out at present.
    pub cap: u32,
    /// Milliseconds for which it has told us to stay away.
    pub throttled_for_ms: f64,
    /// The utility of sending it a payment now, by the mean of the posterior. None if none may be sent.
    pub utility: Option<f64>,
    /// What its health endpoint said last.
    pub health: Option<HealthReport>,
}

/// State of a breaker, and why.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerReport {
    /// The state.
    pub state: State,
    /// What brought it about, in words.
    pub reason: String,
    /// For how many milliseconds it has been in this state.
    pub for_ms: f64,
    /// For how many milliseconds it has not been closed.
    pub outage_ms: Option<f64>,
    /// Probes and trials that are out.
    pub probes_in_flight: u32,
}

/// What a health endpoint said.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// It fails.
    pub failing: bool,
    /// No payment takes fewer milliseconds.
    pub min_response_time_ms: f64,
    /// How many milliseconds ago.
    pub age_ms: f64,
}

/// A decision of the past.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastDecision {
    /// How many milliseconds ago.
    pub age_ms: f64,
    /// What was decided.
    pub choice: Choice,
    /// The processor that the payment was sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// By which utilities.
    pub alternatives: Vec<Alternative>,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The payment was sent.
    Send,
    /// The payment was sent to find out whether the processor is back.
    Probe,
    /// The payment was kept, because a cheaper processor may be back soon.
    Hold,
    /// The payment was kept, because the best processor had no slot free, or there was none.
    Wait,
}

/// A processor that could have had the payment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alternative {
    /// Its name.
    pub processor: String,
    /// Its utility with the sampled probability of success. None if it was not asked.
    pub utility: Option<f64>,
}

impl Router {
    /// What the router knows, and what it decided by which utilities.
    pub fn explain(&self, now: Time) -> Explanation {
        let now = self.now.max(now);
        Explanation {
            instances: self.alive,
            arrivals_per_second: self.arrivals.rate(now),
            processors: self
                .lanes
                .iter()
                .map(|lane| self.report(lane, now))
                .collect(),
            decisions: self
                .decisions
                .iter()
                .map(|record| self.past(record, now))
                .collect(),
        }
    }

    fn report(&self, lane: &Lane, now: Time) -> ProcessorReport {
        let policy = &self.policy;
        let (successes, failures) = lane.posterior.parameters(now);
        let latency = lane.latency.estimate(now, policy);
        let load = self.load(now, Queue::default());
        let (reason, since) = lane.breaker.reason();
        let success = lane.posterior.mean(now);
        let slot = lane.slot(latency, load, now, policy, self.alive);
        ProcessorReport {
            name: lane.name.clone(),
            fee: lane.fee,
            enabled: lane.enabled,
            breaker: BreakerReport {
                state: lane.breaker.state(),
                reason: reason.to_string(),
                for_ms: ms(now.saturating_sub(since)),
                outage_ms: lane
                    .breaker
                    .out_since()
                    .map(|since| ms(now.saturating_sub(since))),
                probes_in_flight: lane.breaker.probing(),
            },
            posterior_successes: successes,
            posterior_failures: failures,
            success_probability: success,
            latency_ms: latency * 1e3,
            in_flight: lane.in_flight,
            cap: lane::cap(latency, load.demand, policy, self.alive),
            throttled_for_ms: ms(lane.throttled_until.saturating_sub(now)),
            utility: slot
                .wait()
                .map(|wait| lane.worth(success, latency, wait, policy)),
            health: lane.health.map(|health| HealthReport {
                failing: health.failing,
                min_response_time_ms: ms(health.min_response_time),
                age_ms: ms(now.saturating_sub(health.at)),
            }),
        }
    }

    fn past(&self, record: &Record, now: Time) -> PastDecision {
        let name = |i: usize| self.lanes[i].name.clone();
        let (choice, processor) = match record.decision {
            Decision::Send { processor, probe } => {
                let choice = if probe { Choice::Probe } else { Choice::Send };
                (choice, Some(name(processor)))
            }
            Decision::Hold { .. } => (Choice::Hold, None),
            Decision::Wait { .. } => (Choice::Wait, None),
        };
        PastDecision {
            age_ms: ms(now.saturating_sub(record.at)),
            choice,
            processor,
            alternatives: (record.utilities.iter().enumerate())
                .map(|(i, utility)| Alternative {
                    processor: name(i),
                    utility: *utility,
                })
                .collect(),
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
