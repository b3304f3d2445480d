//! What the router knows and why it does what it does, for people to read.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::breaker::State;
use super::processor_state::{self, ProcessorState};
use super::router::{LeftOut, Record, Router, Weighed};
use super::{Decision, Queue, Time};

/// For so long after its last payment something is known of a processor's chance to charge. The
/// belief forgets with a half-life of two seconds, so after that little is left of it but the
/// prior.
pub(super) const CHANCE_KNOWN: Duration = Duration::from_secs(30);

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
    /// The last decisions about payments, newest first. One of each run of equal ones is kept, and
    /// one each 100 ms.
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
    /// The mean of the posterior. None if no payment went there for 30 s: nothing is known of it
    /// then.
    pub success_probability: Option<f64>,
    /// How many milliseconds ago the last payment of this instance went there or came back. None:
    /// none ever did.
    pub asked_ms_ago: Option<f64>,
    /// Expected milliseconds until it answers.
    pub latency_ms: f64,
    /// Permits of this instance that are out.
    pub in_flight: u32,
    /// Permits that this instance may have out at present.
    pub cap: u32,
    /// Milliseconds for which it has told us to stay away.
    pub throttled_for_ms: f64,
    /// The utility of sending it a payment now, by the mean of the posterior. None if none may be
    /// sent.
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
    /// Why, in words.
    pub reason: String,
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
    /// Its utility with the sampled probability of success. None if it could not have the payment.
    pub utility: Option<f64>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
}

impl Router {
    /// What the router knows, and what it decided by which utilities.
    pub fn explain(&self, now: Time) -> Explanation {
        let now = self.now.max(now);
        Explanation {
            instances: self.alive,
            arrivals_per_second: self.arrivals.rate(now),
            processors: self
                .states
                .iter()
                .map(|state| self.report(state, now))
                .collect(),
            decisions: self
                .decisions
                .iter()
                .map(|record| self.past(record, now))
                .collect(),
        }
    }

    fn report(&self, state: &ProcessorState, now: Time) -> ProcessorReport {
        let policy = &self.policy;
        let (successes, failures) = state.posterior.parameters(now);
        let latency = state.latency.estimate(now, policy);
        let load = self.load(now, Queue::default());
        let (reason, since) = state.breaker.reason();
        let success = state.posterior.mean(now);
        let asked_ago = state.asked_at.map(|at| now.saturating_sub(at));
        let slot = state.slot(latency, load, now, policy, self.alive);
        ProcessorReport {
            name: state.name.clone(),
            fee: state.fee,
            enabled: state.enabled,
            breaker: BreakerReport {
                state: state.breaker.state(),
                reason: reason.to_string(),
                for_ms: ms(now.saturating_sub(since)),
                outage_ms: state
                    .breaker
                    .out_since()
                    .map(|since| ms(now.saturating_sub(since))),
                probes_in_flight: state.breaker.probing(),
            },
            posterior_successes: successes,
            posterior_failures: failures,
            success_probability: asked_ago
                .is_some_and(|ago| ago < CHANCE_KNOWN)
                .then_some(success),
            asked_ms_ago: asked_ago.map(ms),
            latency_ms: latency * 1e3,
            in_flight: state.in_flight,
            cap: processor_state::cap(latency, load.demand, policy, self.alive),
            throttled_for_ms: ms(state.throttled_until.saturating_sub(now)),
            utility: slot
                .wait()
                .map(|wait| state.worth(success, latency, wait, policy)),
            health: state.health.map(|health| HealthReport {
                failing: health.failing,
                min_response_time_ms: ms(health.min_response_time),
                age_ms: ms(now.saturating_sub(health.at)),
            }),
        }
    }

    fn past(&self, record: &Record, now: Time) -> PastDecision {
        let name = |i: usize| self.states[i].name.clone();
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
            reason: reason(record).to_owned(),
            alternatives: (record.weighed.iter().enumerate())
                .map(|(i, weighed)| Alternative {
                    processor: name(i),
                    utility: match weighed {
                        Weighed::Utility(utility) => Some(*utility),
                        Weighed::LeftOut(_) => None,
                    },
                    left_out: match weighed {
                        Weighed::Utility(_) => None,
                        Weighed::LeftOut(reason) => Some(*reason),
                    },
                })
                .collect(),
        }
    }
}

/// Why a decision was made.
fn reason(record: &Record) -> &'static str {
    let weighed = |each: &&Weighed| matches!(each, Weighed::Utility(_));
    let weighed = record.weighed.iter().filter(weighed).count();
    match (record.decision, weighed) {
        (Decision::Send { probe: true, .. }, 0) => {
            "its breaker is open: one payment now and then finds out whether it is back"
        }
        (Decision::Send { probe: true, .. }, 1) => {
            "a trial, as its breaker is half open; no other could have it"
        }
        (Decision::Send { probe: true, .. }, _) => {
            "worth most, and a trial: its breaker is half open"
        }
        (Decision::Send { probe: false, .. }, 1) => "no other could have it",
        (Decision::Send { probe: false, .. }, _) => "worth most",
        (Decision::Hold { .. }, _) => {
            "a processor that is worth more went out only just now, and may be back soon"
        }
        (Decision::Wait { .. }, 0) => "no processor may be asked",
        (Decision::Wait { .. }, _) => "the processor that is worth most has no slot free",
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
