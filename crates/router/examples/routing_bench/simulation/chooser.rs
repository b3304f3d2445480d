//! The policies that are compared: the shipped router, and the ones that it has to beat.

use rand::rngs::SmallRng;
use rand_distr::{Beta, Distribution};
use router::breaker::State;
use router::{Decision, Event, Policy, ProcessorTerms, Queue, Router, Time, Verdict};
use rust_decimal::Decimal;
use rust_decimal::prelude::FromPrimitive;
use std::time::Duration;

/// Something that decides for one instance where payments go.
pub(crate) trait Chooser {
    /// Learns from what has happened. Returns the processor that has come back, if the others
    /// should know.
    fn observe(&mut self, event: Event, now: Time) -> Option<usize>;
    /// Decides for the next payment.
    fn decide(&mut self, now: Time, rng: &mut SmallRng, queue: Queue) -> Decision;
    /// A permit for a payment that can go nowhere else; whether it is a probe.
    fn permit_for(&mut self, processor: usize, now: Time) -> Option<bool>;
    /// For the picture: 0 closed, 1 half open, 2 open.
    fn breakers(&self, now: Time) -> Vec<u8>;
}

/// The fees as the router takes them.
pub(crate) fn terms(fees: &[f64]) -> Vec<ProcessorTerms> {
    fees.iter()
        .enumerate()
        .map(|(i, fee)| ProcessorTerms {
            name: format!("processor-{i}"),
            fee: Decimal::from_f64(*fee).expect("a fee is a number"),
        })
        .collect()
}

/// The shipped router, the very one.
pub(crate) fn shipped(policy: Policy, fees: &[f64]) -> Router {
    Router::new(policy, terms(fees), Time::ZERO)
}

impl Chooser for Router {
    fn observe(&mut self, event: Event, now: Time) -> Option<usize> {
        Self::observe(self, event, now)?.recovered()
    }

    fn decide(&mut self, now: Time, rng: &mut SmallRng, queue: Queue) -> Decision {
        Self::decide(self, now, rng, queue)
    }

    fn permit_for(&mut self, processor: usize, now: Time) -> Option<bool> {
        Self::permit_for(self, processor, now)
    }

    fn breakers(&self, now: Time) -> Vec<u8> {
        (self.explain(now).processors.iter())
            .map(|processor| match processor.breaker.state {
                State::Closed => 0,
                State::HalfOpen => 1,
                State::Open => 2,
            })
            .collect()
    }
}

/// A policy to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The first processor, whatever happens.
    FirstAndWait,
    /// The first processor that is not reported failing.
    UntilFailing,
    /// Like that, but a processor is passed over, too, when it is reported more than 30 % slower
    /// than the next one.
    UntilSlower,
    /// The highest sampled probability of success times what is left after the fee, over the
    /// latency; nothing is forgotten; a breaker opens for 5 s after 5 failures in a row.
    PlainThompson,
}

/// Slots of each processor in each of two instances: as many as the processors bear. What a rule
/// with a smaller fixed cap would lose is not held against it.
const SLOTS: u32 = 390;
/// The time until a rule that can do nothing looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const BREAKER_FAILURES: u32 = 5;
const BREAKER_OPEN: Duration = Duration::from_secs(5);
/// Reported latencies below this are not told apart: 30 % of nothing is nothing.
const LEAST_LATENCY: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
struct ProcessorState {
    fee: f64,
    in_flight: u32,
    throttled_until: Time,
    failing: bool,
    min_response_time: Duration,
    successes: f64,
    failures: f64,
    latency: f64,
    in_a_row: u32,
    open_until: Option<Time>,
    trial: bool,
}

/// A rule at work in one instance.
#[derive(Debug, Clone)]
pub(crate) struct Ruled {
    rule: Rule,
    states: Vec<ProcessorState>,
}

impl Ruled {
    /// Knows the fees and nothing else.
    pub(crate) fn new(rule: Rule, fees: &[f64]) -> Self {
        let state = |fee: &f64| ProcessorState {
            fee: *fee,
            in_flight: 0,
            throttled_until: Time::ZERO,
            failing: false,
            min_response_time: Duration::ZERO,
            successes: 1.0,
            failures: 1.0,
            latency: 0.0,
            in_a_row: 0,
            open_until: None,
            trial: false,
        };
        Self {
            rule,
            states: fees.iter().map(state).collect(),
        }
    }

    fn preferred(&self, now: Time, rng: &mut SmallRng) -> Option<usize> {
        match self.rule {
            Rule::FirstAndWait => Some(0),
            Rule::UntilFailing => self.states.iter().position(|state| !state.failing),
            Rule::UntilSlower => {
                let up = |state: &ProcessorState| {
                    (!state.failing).then(|| state.min_response_time.max(LEAST_LATENCY))
                };
                let mut best: Option<(usize, Duration)> = None;
                for (i, state) in self.states.iter().enumerate() {
                    let Some(latency) = up(state) else { continue };
                    if best.is_none_or(|(_, least)| least > latency.mul_f64(1.3)) {
                        best = Some((i, latency));
                    }
                }
                best.map(|(i, _)| i)
            }
            Rule::PlainThompson => {
                let mut best: Option<(usize, f64)> = None;
                for (i, state) in self.states.iter().enumerate() {
                    if state
                        .open_until
                        .is_some_and(|until| now < until || state.trial)
                    {
                        continue;
                    }
                    let theta = Beta::new(state.successes, state.failures)
                        .map_or(0.5, |beta| beta.sample(rng));
                    let score = theta * (1.0 - state.fee) / (1.0 + state.latency);
                    if best.is_none_or(|(_, highest)| score > highest) {
                        best = Some((i, score));
                    }
                }
                best.map(|(i, _)| i)
            }
        }
    }
}

impl Chooser for Ruled {
    fn observe(&mut self, event: Event, now: Time) -> Option<usize> {
        match event {
            Event::Health {
                processor,
                failing,
                min_response_time,
            } => {
                let state = &mut self.states[processor];
                (state.failing, state.min_response_time) = (failing, min_response_time);
            }
            Event::Finished {
                processor,
                sent_at,
                verdict,
                ..
            } => {
                let state = &mut self.states[processor];
                state.in_flight -= 1;
                let success = match verdict {
                    Verdict::Charged => true,
                    Verdict::Throttled { retry_after } => {
                        state.throttled_until = now + retry_after;
                        return None;
                    }
                    _ => false,
                };
                if let Some(sent_at) = sent_at {
                    state.latency += 0.1 * ((now - sent_at).as_secs_f64() - state.latency);
                }
                state.trial = false;
                if success {
                    state.successes += 1.0;
                    (state.in_a_row, state.open_until) = (0, None);
                } else {
                    state.failures += 1.0;
                    state.in_a_row += 1;
                    if self.rule == Rule::PlainThompson && state.in_a_row >= BREAKER_FAILURES {
                        state.open_until = Some(now + BREAKER_OPEN);
                    }
                }
            }
            _ => {}
        }
        None
    }

    fn decide(&mut self, now: Time, rng: &mut SmallRng, _queue: Queue) -> Decision {
        match self.preferred(now, rng) {
            Some(processor) if self.permit_for(processor, now).is_some() => Decision::Send {
                processor,
                probe: false,
            },
            _ => Decision::Wait {
                until: now + LOOK_AGAIN,
            },
        }
    }

    fn permit_for(&mut self, processor: usize, now: Time) -> Option<bool> {
        let state = &mut self.states[processor];
        let free = state.in_flight < SLOTS && now >= state.throttled_until;
        free.then(|| {
            state.in_flight += 1;
            state.trial = state.open_until.is_some();
            false
        })
    }

    fn breakers(&self, now: Time) -> Vec<u8> {
        (self.states.iter())
            .map(|state| 2 * u8::from(state.open_until.is_some_and(|until| now < until)))
            .collect()
    }
}
