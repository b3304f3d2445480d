//! The calls by which an operator changes simulated processors and the payments that are made up.

use std::sync::atomic::Ordering;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::simulation::{MAX_DELAY_MS, MAX_MADE_UP, Simulator, configuration};
use crate::http::problem::{BODY, Fields, OPERATOR, problems};
use crate::http::{OperatorApi, Problem, ProblemKind};

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
