//! The pure core: learns from events, decides for one payment after the other.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;

use super::arrivals::Arrivals;
use super::breaker::{Change, Reason, State};
use super::lane::{self, Health, Lane, Load, Slot};
use super::{Decision, Event, Policy, Queue, Terms, Time};

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
    pub(super) lanes: Vec<Lane>,
    pub(super) arrivals: Arrivals,
    pub(super) alive: u32,
    /// When a processor last turned out not to be failing any more.
    recovery: Time,
    /// Payments that waited for this instance at the last decision.
    waiting: f64,
    /// Time never runs backwards here, whatever the callers say.
    pub(super) now: Time,
    /// Utilities of the decision that is being made.
    utilities: Vec<Option<f64>>,
    pub(super) decisions: VecDeque<Record>,
}

/// A decision as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) at: Time,
    pub(super) decision: Decision,
    pub(super) utilities: Vec<Option<f64>>,
}

impl Router {
    /// A router that knows the terms and nothing else.
    pub fn new(policy: Policy, terms: Vec<Terms>, now: Time) -> Self {
        let lanes: Vec<Lane> = terms
            .into_iter()
            .map(|terms| Lane::new(terms, &policy, now))
            .collect();
        Self {
            arrivals: Arrivals::new(policy.arrivals_half_life, now),
            utilities: vec![None; lanes.len()],
            decisions: VecDeque::with_capacity(DECISIONS_KEPT),
            policy,
            lanes,
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
        self.lanes.get(processor).map(|lane| lane.name.as_str())
    }

    /// Learns from what has happened. Returns the change of state that it brought about, if any, for the
    /// caller to log. Events of processors that are not in the terms are ignored.
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
                self.lanes.get_mut(processor)?.enabled = enabled;
                return None;
            }
            Event::Dispatched { processor, at } => {
                self.lanes.get_mut(processor)?.latency.sent(at.min(now));
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
                    self.lanes
                        .get_mut(processor)?
                        .finished(sent_at, probe, verdict, now, policy),
                )
            }
            Event::Recovered { processor } => {
                let lane = self.lanes.get_mut(processor)?;
                (processor, lane.breaker.recovered(now))
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
                    self.lanes.get_mut(processor)?.reported(health, policy),
                )
            }
        };
        let mut change = change?;
        if change.from == State::Open {
            self.recovery = now;
            // More waits than a processor takes from this instance at once.
            if self.waiting >= f64::from(lane::hard_cap(&self.policy, self.alive)) {
                change = self.lanes[processor].trust(now, change);
            }
        }
        Some(StateChange { processor, change })
    }

    /// Decides for the next payment. With [`Decision::Send`] a permit is taken, which has to come back by
    /// [`Event::Finished`].
    pub fn decide<R: Rng + ?Sized>(&mut self, now: Time, rng: &mut R, queue: Queue) -> Decision {
        let now = self.advance(now);
        let decision = self.choose(now, rng, queue);
        if let Decision::Send { processor, .. } = decision
            && let Some(lane) = self.lanes.get_mut(processor)
        {
            lane.take(now, &self.policy, self.alive);
        }
        self.remember(now, decision);
        decision
    }

    /// A permit for a payment that can go nowhere else, if the processor has room. It respects the caps and
    /// a 429, and the pacing of a breaker that is not closed, but no preference. Returns whether it is a probe.
    pub fn permit_for(&mut self, processor: usize, now: Time) -> Option<bool> {
        let now = self.advance(now);
        let lane = self.lanes.get_mut(processor)?;
        let free = lane.enabled
            && now >= lane.throttled_until
            && lane.in_flight < lane::hard_cap(&self.policy, self.alive)
            && lane.breaker.permits(now, &self.policy, self.alive);
        free.then(|| lane.take(now, &self.policy, self.alive))
    }

    fn choose<R: Rng + ?Sized>(&mut self, now: Time, rng: &mut R, queue: Queue) -> Decision {
        self.utilities.fill(None);
        let (policy, alive, recovery) = (&self.policy, self.alive, self.recovery);
        if let Some(processor) = self
            .lanes
            .iter()
            .position(|lane| lane.enabled && lane.probe_due(now, recovery, policy, alive))
        {
            return Decision::Send {
                processor,
                probe: true,
            };
        }

        let load = self.load(now, queue);
        self.waiting = load.waiting;
        let mut best: Option<(f64, usize, Slot)> = None;
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            let latency = lane.latency.estimate(now, policy);
            let slot = lane.slot(latency, load, now, policy, alive);
            let Some(wait) = slot.wait() else { continue };
            let success = lane.posterior.sample(now, rng);
            let worth = lane.worth(success, latency, wait, policy);
            self.utilities[i] = Some(worth);
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
                    let probe = self.lanes[processor].breaker.state() != State::Closed;
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

    /// Until when to wait for a processor that has just gone out and is worth more than that when it is up.
    fn worth_holding(&self, worth: f64, now: Time) -> Option<Time> {
        let policy = &self.policy;
        let prior = policy.prior_successes / (policy.prior_successes + policy.prior_failures);
        self.lanes
            .iter()
            .filter(|lane| lane.enabled)
            .filter_map(|lane| {
                let until =
                    (lane.breaker.out_since()? + policy.hold).max(self.recovery + policy.regroup);
                let latency = lane.latency.estimate(now, policy);
                let up = lane.worth(prior, latency, 0.0, policy);
                (now < until && up > worth).then_some(until)
            })
            .max()
    }

    fn next_probe(&self, now: Time) -> Option<Time> {
        self.lanes
            .iter()
            .filter(|lane| lane.enabled && lane.breaker.state() == State::Open)
            .filter(|lane| !lane.too_slow_to_probe(now, self.recovery, &self.policy))
            .map(|lane| lane.breaker.next_probe().max(lane.throttled_until))
            .min()
    }

    fn advance(&mut self, now: Time) -> Time {
        self.now = self.now.max(now);
        self.now
    }

    fn remember(&mut self, now: Time, decision: Decision) {
        let same = self.decisions.front().is_some_and(|last| {
            same_choice(&last.decision, &decision) && now.saturating_sub(last.at) < DECISIONS_APART
        });
        if same {
            return;
        }
        let mut record = if self.decisions.len() < DECISIONS_KEPT {
            None
        } else {
            self.decisions.pop_back()
        }
        .unwrap_or_else(|| Record {
            at: now,
            decision,
            utilities: Vec::with_capacity(self.lanes.len()),
        });
        (record.at, record.decision) = (now, decision);
        record.utilities.clone_from(&self.utilities);
        self.decisions.push_front(record);
    }
}

fn same_choice(a: &Decision, b: &Decision) -> bool {
    match (a, b) {
        (Decision::Send { .. }, Decision::Send { .. }) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}
