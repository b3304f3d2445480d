//! The pure core: learns from events, decides for one payment after the other.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;
use serde::Serialize;
use utoipa::ToSchema;

use super::arrivals::Arrivals;
use super::breaker::{Change, Reason, State};
use super::processor_state::{self, Health, Load, ProcessorState, Slot};
use super::{Decision, Event, Policy, ProcessorTerms, Queue, Time};

/// How many past decisions are kept for an explanation.
const DECISIONS_KEPT: usize = 16;

/// Equal decisions are kept only this far apart.
const DECISIONS_APART: Duration = Duration::from_millis(100);

/// A breaker that changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateChange {
    /// The place of the processor in the terms.
    pub processor: usize,
    /// What changed.
    pub change: Change,
}

impl StateChange {
    /// The processor, if an attempt has shown that it is back.
    pub fn recovered(&self) -> Option<usize> {
        (self.change.reason == Reason::ProbeSucceeded).then_some(self.processor)
    }
}

/// Decides which processor gets the next payment. See the [module](super) for how.
#[derive(Debug, Clone)]
pub struct Router {
    pub(super) policy: Policy,
    pub(super) states: Vec<ProcessorState>,
    pub(super) arrivals: Arrivals,
    pub(super) alive: u32,
    /// When a processor last turned out not to be failing any more.
    recovery: Time,
    /// Payments that waited for this instance at the last decision.
    waiting: f64,
    /// Time never runs backwards here, whatever the callers say.
    pub(super) now: Time,
    /// What the decision that is being made makes of each processor.
    weighed: Vec<Weighed>,
    /// The last decision to send to each processor: an explanation as soon as a payment goes out by
    /// it.
    granted: Vec<Option<Record>>,
    /// Decisions about payments, the newest first. One that gave a permit for which there was no
    /// payment is not there.
    pub(super) decisions: VecDeque<Record>,
}

/// A decision as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) at: Time,
    pub(super) decision: Decision,
    /// By place of the processor.
    pub(super) weighed: Vec<Weighed>,
}

/// What a decision makes of a processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Weighed {
    /// Its utility with the sampled chance of success.
    Utility(f64),
    /// It could not have the payment.
    LeftOut(LeftOut),
}

/// Why a processor could not have a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// An operator has taken it out of use.
    SwitchedOff,
    /// Its breaker is open.
    BreakerOpen,
    /// Its breaker is half open, and as many trials as it permits are under way.
    TrialsOut,
    /// A probe of another processor was due, which goes first whatever others are worth.
    ProbeDue,
}

impl Router {
    /// A router that knows the terms and nothing else.
    pub fn new(policy: Policy, terms: Vec<ProcessorTerms>, now: Time) -> Self {
        let states: Vec<ProcessorState> = terms
            .into_iter()
            .map(|terms| ProcessorState::new(terms, &policy, now))
            .collect();
        Self {
            arrivals: Arrivals::new(policy.arrivals_half_life, now),
            weighed: vec![Weighed::LeftOut(LeftOut::ProbeDue); states.len()],
            granted: vec![None; states.len()],
            decisions: VecDeque::with_capacity(DECISIONS_KEPT),
            policy,
            states,
            alive: 1,
            recovery: now,
            waiting: 0.0,
            now,
        }
    }

    /// The latest moment that the router has been told of.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The name of a processor.
    pub fn name(&self, processor: usize) -> Option<&str> {
        self.states.get(processor).map(|state| state.name.as_str())
    }

    /// How long a processor takes for its answers, as far as they came; nothing where it is not in
    /// the terms.
    pub fn answers_in(&self, processor: usize) -> Duration {
        let state = self.states.get(processor);
        state.map_or(Duration::ZERO, |state| {
            state.latency.answers_in(self.now, &self.policy)
        })
    }

    /// How many instances share the caps.
    pub fn instances(&self) -> u32 {
        self.alive
    }

    /// Learns from what has happened. Returns the change of state that it brought about, if any,
    /// for the caller to log. Events of processors that are not in the terms are ignored.
    pub fn observe(&mut self, event: Event, now: Time) -> Option<StateChange> {
        let now = self.advance(now);
        let policy = &self.policy;
        let (processor, change) = match event {
            Event::Arrived { count } => {
                self.arrivals.record(count, now);
                return None;
            }
            Event::Instances { alive } => {
                self.alive = alive.max(1);
                return None;
            }
            Event::Switched { processor, enabled } => {
                self.states.get_mut(processor)?.enabled = enabled;
                return None;
            }
            Event::Dispatched { processor, at } => {
                let state = self.states.get_mut(processor)?;
                state.latency.sent(at.min(now));
                state.asked_at = Some(now);
                return None;
            }
            Event::Finished {
                processor,
                sent_at,
                probe,
                verdict,
            } => {
                let sent_at = sent_at.map(|at| at.min(now));
                (
                    processor,
                    self.states
                        .get_mut(processor)?
                        .finished(sent_at, probe, verdict, now, policy),
                )
            }
            Event::Recovered { processor } => {
                let state = self.states.get_mut(processor)?;
                (processor, state.breaker.recovered(now))
            }
            Event::Health {
                processor,
                failing,
                min_response_time,
            } => {
                let health = Health {
                    failing,
                    min_response_time,
                    at: now,
                };
                (
                    processor,
                    self.states.get_mut(processor)?.reported(health, policy),
                )
            }
        };
        let mut change = change?;
        if change.from == State::Open {
            self.recovery = now;
            // More waits than a processor takes from this instance at once.
            if self.waiting >= f64::from(processor_state::hard_cap(&self.policy, self.alive)) {
                change = self.states[processor].trust(now, change);
            }
        }
        Some(StateChange { processor, change })
    }

    /// Decides for the next payment. With [`Decision::Send`] a permit is taken, which has to come
    /// back by [`Event::Finished`].
    pub fn decide<R: Rng + ?Sized>(&mut self, now: Time, rng: &mut R, queue: Queue) -> Decision {
        let now = self.advance(now);
        let decision = self.choose(now, rng, queue);
        if let Decision::Send { processor, .. } = decision
            && let Some(state) = self.states.get_mut(processor)
        {
            state.take(now, &self.policy, self.alive);
        }
        self.remember(now, decision, queue);
        decision
    }

    /// A payment goes out by the permit that [`Router::decide`] gave at that moment for this
    /// processor.
    pub fn carried_out(&mut self, processor: usize, decided_at: Time) {
        let granted = self.granted.get_mut(processor);
        // Another decision for that processor may have come in between.
        let of_it = |record: &mut Record| record.at.saturating_sub(decided_at) < DECISIONS_APART;
        if let Some(record) = granted.and_then(|granted| granted.take_if(of_it)) {
            self.keep(record);
        }
    }

    /// A permit for a payment that can go nowhere else, if the processor has room. It respects the
    /// caps and a 429, and the pacing of a breaker that is not closed, but no preference. Returns
    /// whether it is a probe.
    pub fn permit_for(&mut self, processor: usize, now: Time) -> Option<bool> {
        let now = self.advance(now);
        let state = self.states.get_mut(processor)?;
        let free = state.enabled
            && now >= state.throttled_until
            && state.in_flight < processor_state::hard_cap(&self.policy, self.alive)
            && state.breaker.permits(now, &self.policy, self.alive);
        free.then(|| state.take(now, &self.policy, self.alive))
    }

    fn choose<R: Rng + ?Sized>(&mut self, now: Time, rng: &mut R, queue: Queue) -> Decision {
        self.weighed.fill(Weighed::LeftOut(LeftOut::ProbeDue));
        let (policy, alive, recovery) = (&self.policy, self.alive, self.recovery);
        if let Some(processor) = self
            .states
            .iter()
            .position(|state| state.enabled && state.probe_due(now, recovery, policy, alive))
        {
            return Decision::Send {
                processor,
                probe: true,
            };
        }

        let load = self.load(now, queue);
        self.waiting = load.waiting;
        let mut best: Option<(f64, usize, Slot)> = None;
        for (i, state) in self.states.iter_mut().enumerate() {
            let latency = state.latency.estimate(now, policy);
            let slot = state.slot(latency, load, now, policy, alive);
            let Some(wait) = slot.wait() else {
                self.weighed[i] = Weighed::LeftOut(state.left_out());
                continue;
            };
            let success = state.posterior.sample(now, rng);
            let worth = state.worth(success, latency, wait, policy);
            self.weighed[i] = Weighed::Utility(worth);
            if best.as_ref().is_none_or(|(highest, ..)| worth > *highest) {
                best = Some((worth, i, slot));
            }
        }

        let (later, soonest) = (now + policy.longest_wait, now + policy.shortest_wait);
        let wake = self
            .next_probe(now)
            .map_or(later, |probe| probe.min(later))
            .max(soonest);
        match best {
            None | Some((_, _, Slot::Closed)) => Decision::Wait { until: wake },
            Some((_, _, Slot::Taken { until, .. })) => Decision::Wait {
                until: until.clamp(soonest, wake),
            },
            Some((worth, processor, Slot::Free)) => match self.worth_holding(worth, now) {
                Some(until) => Decision::Hold {
                    until: until.clamp(soonest, wake),
                },
                None => {
                    let probe = self.states[processor].breaker.state() != State::Closed;
                    Decision::Send { processor, probe }
                }
            },
        }
    }

    /// What this instance has to send: its arrivals, and its share of the backlog.
    pub(super) fn load(&self, now: Time, queue: Queue) -> Load {
        let waiting = queue.waiting as f64 / f64::from(self.alive);
        Load {
            demand: self.arrivals.rate(now) + waiting / self.policy.drain_within.as_secs_f64(),
            waiting,
        }
    }

    /// Until when to wait for a processor that has just gone out and is worth more than that when
    /// it is up.
    fn worth_holding(&self, worth: f64, now: Time) -> Option<Time> {
        let policy = &self.policy;
        let prior = policy.prior_successes / (policy.prior_successes + policy.prior_failures);
        self.states
            .iter()
            .filter(|state| state.enabled)
            .filter_map(|state| {
                let until = (state.breaker.out_since()? + policy.hold)
                    .max(self.recovery + policy.shared_outage_hold);
                let latency = state.latency.estimate(now, policy);
                let up = state.worth(prior, latency, 0.0, policy);
                (now < until && up > worth).then_some(until)
            })
            .max()
    }

    fn next_probe(&self, now: Time) -> Option<Time> {
        self.states
            .iter()
            .filter(|state| state.enabled && state.breaker.state() == State::Open)
            .filter(|state| !state.too_slow_to_probe(now, self.recovery, &self.policy))
            .map(|state| state.breaker.next_probe().max(state.throttled_until))
            .min()
    }

    fn advance(&mut self, now: Time) -> Time {
        self.now = self.now.max(now);
        self.now
    }

    /// A decision to send is kept when a payment goes out by it: a worker that finds the queue
    /// empty asks, too. One to keep payments is kept where there are some.
    fn remember(&mut self, now: Time, decision: Decision, queue: Queue) {
        let weighed = &self.weighed;
        let record = || Record {
            at: now,
            decision,
            weighed: weighed.clone(),
        };
        match decision {
            Decision::Send { processor, .. } => match self.granted.get_mut(processor) {
                Some(Some(granted)) => {
                    (granted.at, granted.decision) = (now, decision);
                    granted.weighed.clone_from(weighed);
                }
                Some(none) => *none = Some(record()),
                None => {}
            },
            Decision::Hold { .. } | Decision::Wait { .. } if queue.waiting > 0 => {
                let record = record();
                self.keep(record);
            }
            Decision::Hold { .. } | Decision::Wait { .. } => {}
        }
    }

    fn keep(&mut self, record: Record) {
        let same = self.decisions.front().is_some_and(|last| {
            same_choice(&last.decision, &record.decision)
                && record.at.saturating_sub(last.at) < DECISIONS_APART
        });
        if !same {
            self.decisions.truncate(DECISIONS_KEPT - 1);
            self.decisions.push_front(record);
        }
    }
}

fn same_choice(a: &Decision, b: &Decision) -> bool {
    match (a, b) {
        (Decision::Send { .. }, Decision::Send { .. }) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}
