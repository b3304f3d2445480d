//! What holds after any sequence of events.

use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use router::breaker::State;
use router::{Decision, Event, Explanation, Policy, Queue, Router, Time, Verdict};

use crate::simulation::chooser::terms;

const FEES: [f64; 3] = [0.05, 0.10, 0.15];

/// What a test does next.
#[derive(Debug, Clone)]
enum Step {
    Pass(Duration),
    Arrive(u32),
    Decide(u64),
    Pinned(usize),
    /// The permit with this number (modulo those that are out) comes back.
    Finish(usize, bool, Verdict),
    Health(usize, bool, u64),
    Instances(u32),
    Switch(usize, bool),
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        3 => Just(Verdict::Charged),
        3 => Just(Verdict::Declined),
        1 => Just(Verdict::NotSent),
        1 => Just(Verdict::Unknown),
        1 => Just(Verdict::Abandoned),
        1 => (0..1_000_000u64).prop_map(|s| Verdict::Throttled { retry_after: Duration::from_secs(s) }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..300u64).prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
        1 => prop_oneof![Just(0), Just(1), Just(86_400)].prop_map(|s| Step::Pass(Duration::from_secs(s))),
        2 => (0..1_000u32).prop_map(Step::Arrive),
        12 => (0..100_000u64).prop_map(Step::Decide),
        2 => (0..FEES.len()).prop_map(Step::Pinned),
        10 => (any::<usize>(), any::<bool>(), verdict()).prop_map(|(i, sent, v)| Step::Finish(i, sent, v)),
        1 => (0..FEES.len(), any::<bool>(), 0..10_000u64).prop_map(|(i, f, ms)| Step::Health(i, f, ms)),
        1 => (0..5u32).prop_map(Step::Instances),
        1 => (0..FEES.len(), any::<bool>()).prop_map(|(i, on)| Step::Switch(i, on)),
    ]
}

/// A permit that is out.
#[derive(Debug, Clone, Copy)]
struct Out {
    processor: usize,
    probe: bool,
    at: Time,
}

struct Bench {
    router: Router,
    rng: SmallRng,
    now: Time,
    alive: u32,
    out: Vec<Out>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let router = Router::new(Policy::default(), terms(&FEES), Time::ZERO);
        Self {
            router,
            rng: SmallRng::seed_from_u64(seed),
            now: Time::ZERO,
            alive: 1,
            out: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) -> Option<Decision> {
        match *step {
            Step::Pass(time) => self.now += time,
            Step::Arrive(count) => self.tell(Event::Arrived { count }),
            Step::Decide(waiting) => {
                let queue = Queue {
                    waiting,
                    oldest_age: Duration::ZERO,
                };
                let decision = self.router.decide(self.now, &mut self.rng, queue);
                if let Decision::Send { processor, probe } = decision {
                    self.out.push(Out {
                        processor,
                        probe,
                        at: self.now,
                    });
                }
                return Some(decision);
            }
            Step::Pinned(processor) => {
                if let Some(probe) = self.router.permit_for(processor, self.now) {
                    self.out.push(Out {
                        processor,
                        probe,
                        at: self.now,
                    });
                }
            }
            Step::Finish(which, sent, verdict) => {
                if !self.out.is_empty() {
                    let Out {
                        processor,
                        probe,
                        at,
                    } = self.out.swap_remove(which % self.out.len());
                    if sent {
                        self.tell(Event::Dispatched { processor, at });
                    }
                    self.tell(Event::Finished {
                        processor,
                        sent_at: sent.then_some(at),
                        probe,
                        verdict,
                    });
                }
            }
            Step::Health(processor, failing, ms) => {
                let min_response_time = Duration::from_millis(ms);
                self.tell(Event::Health {
                    processor,
                    failing,
                    min_response_time,
                });
            }
            Step::Instances(alive) => {
                self.alive = alive.max(1);
                self.tell(Event::Instances { alive });
            }
            Step::Switch(processor, enabled) => self.tell(Event::Switched { processor, enabled }),
        }
        None
    }

    fn tell(&mut self, event: Event) {
        self.router.observe(event, self.now);
    }

    fn in_flight(&self, processor: usize) -> u32 {
        self.out
            .iter()
            .filter(|out| out.processor == processor)
            .count() as u32
    }
}

fn all_finite(explanation: &Explanation) -> bool {
    explanation.arrivals_per_second.is_finite()
        && explanation.processors.iter().all(|processor| {
            let health = processor
                .health
                .as_ref()
                .map_or(0.0, |h| h.age_ms + h.min_response_time_ms);
            [
                processor.posterior_successes,
                processor.posterior_failures,
                processor.success_probability.unwrap_or(0.0),
                processor.latency_ms,
                processor.throttled_for_ms,
                processor.utility.unwrap_or(0.0),
                processor.breaker.for_ms,
                health,
            ]
            .iter()
            .all(|value| value.is_finite())
                && (0.0..=1.0).contains(&processor.success_probability.unwrap_or(0.0))
                && processor.latency_ms >= 0.0
        })
        && (explanation
            .decisions
            .iter()
            .flat_map(|decision| &decision.alternatives))
        .all(|alternative| alternative.utility.is_none_or(f64::is_finite))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn values_are_finite_permits_are_counted_and_caps_hold(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let policy = Policy::default();
        let mut bench = Bench::new(seed);
        for step in &steps {
            let before: Vec<u32> = (0..FEES.len()).map(|i| bench.in_flight(i)).collect();
            let decision = bench.step(step);
            if let Some(Decision::Hold { until } | Decision::Wait { until }) = decision {
                prop_assert!(until > bench.now, "told to come back in the past");
                prop_assert!(until <= bench.now + policy.longest_wait);
            }
            for (i, before) in before.iter().enumerate() {
                let now = bench.in_flight(i);
                prop_assert!(now <= *before || now <= (policy.shared_cap / bench.alive).max(1));
            }
        }
        let explanation = bench.router.explain(bench.now);
        prop_assert!(all_finite(&explanation), "{explanation:?}");
        prop_assert!(all_finite(&bench.router.explain(bench.now + Duration::from_secs(86_400))));
        serde_json::to_string(&explanation).expect("an explanation can be written");
        for (i, processor) in explanation.processors.iter().enumerate() {
            prop_assert_eq!(processor.in_flight, bench.in_flight(i));
        }
    }

    #[test]
    fn no_state_is_without_a_way_out(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut bench = Bench::new(seed);
        for step in &steps {
            bench.step(step);
        }
        // From here on the operator lets everything take part, all permits come back, and every
        // attempt succeeds. Nobody reports any health.
        while !bench.out.is_empty() {
            bench.step(&Step::Finish(0, false, Verdict::Abandoned));
        }
        for processor in 0..FEES.len() {
            bench.step(&Step::Switch(processor, true));
        }
        // A processor that asked to be left alone is obeyed, for an hour at most, whatever others
        // do.
        let throttled = bench.router.explain(bench.now).processors.into_iter();
        let throttled = throttled.map(|processor| processor.throttled_for_ms).fold(0.0, f64::max);
        bench.now += Duration::from_secs_f64(throttled / 1_000.0);
        let end = bench.now + Duration::from_secs(120);
        let mut in_a_row = 0;
        while bench.now < end && in_a_row < 100 {
            match bench.step(&Step::Decide(50)) {
                Some(Decision::Send { processor, probe }) => {
                    bench.now += Duration::from_millis(2);
                    bench.step(&Step::Finish(0, true, Verdict::Charged));
                    in_a_row = if processor == 0 && !probe { in_a_row + 1 } else { 0 };
                }
                _ => bench.now += Duration::from_millis(20),
            }
        }
        let explanation = bench.router.explain(bench.now);
        let cheapest = &explanation.processors[0];
        prop_assert_eq!(cheapest.breaker.state, State::Closed, "{:?}", explanation);
        // The next one may be a probe of another.
        prop_assert_eq!(in_a_row, 100, "{:?}", explanation);
    }

    #[test]
    fn the_same_seed_and_events_give_the_same_decisions(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let decide = || {
            let mut bench = Bench::new(seed);
            steps.iter().filter_map(|step| bench.step(step)).collect::<Vec<_>>()
        };
        prop_assert_eq!(decide(), decide());
    }
}

#[test]
fn a_429_is_obeyed_for_as_long_as_it_asks() {
    for (asked, obeyed) in [(5, 5), (90, 90), (3_600, 3_600), (u64::MAX, 3_600)] {
        obeys(Duration::from_secs(asked), Duration::from_secs(obeyed));
    }
}

/// Checks that a processor which asks for that time is left alone for this one.
fn obeys(retry_after: Duration, obeyed: Duration) {
    let mut bench = Bench::new(1);
    let Some(Decision::Send { processor: 0, .. }) = bench.step(&Step::Decide(1)) else {
        panic!("not sent")
    };
    bench.step(&Step::Finish(0, true, Verdict::Throttled { retry_after }));
    for _ in 0..499 {
        bench.now += obeyed / 500;
        assert_eq!(bench.router.permit_for(0, bench.now), None);
        let decision = bench.step(&Step::Decide(1));
        assert!(
            !matches!(decision, Some(Decision::Send { processor: 0, .. })),
            "{decision:?}"
        );
    }
    bench.now += obeyed / 500;
    assert_eq!(bench.router.permit_for(0, bench.now), Some(false));
}

#[test]
fn a_young_outage_of_the_cheaper_processor_is_waited_for_and_then_the_fee_is_paid() {
    let mut bench = Bench::new(1);
    bench.step(&Step::Health(0, true, 0));
    let hold = Policy::default().hold;
    let (mut held, mut paid) = (false, false);
    while bench.now < hold + Duration::from_secs(1) {
        match bench.step(&Step::Decide(10)) {
            Some(Decision::Send { processor: 0, .. }) => {
                bench.step(&Step::Finish(0, true, Verdict::Declined));
            }
            Some(Decision::Send { .. }) => {
                assert!(bench.now >= hold, "the fee was paid after {:?}", bench.now);
                paid = true;
                bench.step(&Step::Finish(0, true, Verdict::Charged));
            }
            Some(Decision::Hold { .. }) => held = true,
            _ => {}
        }
        bench.now += Duration::from_millis(20);
    }
    assert!(held && paid);
}

#[test]
fn an_unused_probe_is_given_again_at_once() {
    let mut bench = Bench::new(1);
    bench.step(&Step::Health(0, true, 0));
    bench.now += Duration::from_millis(200);
    for _ in 0..100 {
        assert_eq!(
            bench.step(&Step::Decide(1)),
            Some(Decision::Send {
                processor: 0,
                probe: true
            })
        );
        bench.step(&Step::Finish(0, false, Verdict::Abandoned));
    }
    assert_eq!(
        bench.router.explain(bench.now).processors[0]
            .breaker
            .probes_in_flight,
        0
    );
}

#[test]
fn a_processor_that_reports_to_be_slow_is_not_probed() {
    let mut bench = Bench::new(1);
    bench.step(&Step::Health(0, true, 2_000));
    for _ in 0..40 {
        bench.now += Duration::from_millis(100);
        let decision = bench.step(&Step::Decide(1));
        assert!(
            !matches!(decision, Some(Decision::Send { processor: 0, .. })),
            "{decision:?}"
        );
    }
}

#[test]
fn a_disabled_processor_gets_nothing_until_it_is_enabled() {
    let mut bench = Bench::new(1);
    bench.step(&Step::Switch(0, false));
    assert_eq!(
        bench.step(&Step::Decide(1)),
        Some(Decision::Send {
            processor: 1,
            probe: false
        })
    );
    assert_eq!(bench.router.permit_for(0, bench.now), None);
    bench.step(&Step::Switch(0, true));
    assert_eq!(
        bench.step(&Step::Decide(1)),
        Some(Decision::Send {
            processor: 0,
            probe: false
        })
    );
}
