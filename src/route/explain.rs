//! What the router knows and why it does what it does, for people to read.

use serde::Serialize;
use utoipa::ToSchema;

use super::breaker::State;

/// A picture of the router at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
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
pub struct PastDecision {
    /// How many milliseconds ago.
    pub age_ms: f64,
    /// What was decided.
    #[serde(flatten)]
    pub choice: Choice,
    /// By which utilities.
    pub alternatives: Vec<Alternative>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "choice", rename_all = "snake_case")]
pub enum Choice {
    /// The payment was sent.
    Send {
        /// To this processor.
        processor: String,
    },
    /// The payment was sent to find out whether the processor is back.
    Probe {
        /// To this processor.
        processor: String,
    },
    /// The payment was kept, because a cheaper processor may be back soon.
    Hold,
    /// The payment was kept, because the best processor had no slot free, or there was none.
    Wait,
}

/// A processor that could have had the payment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Alternative {
    /// Its name.
    pub processor: String,
    /// Its utility with the sampled probability of success. None if it was not asked.
    pub utility: Option<f64>,
}
