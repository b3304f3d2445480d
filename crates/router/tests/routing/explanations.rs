//! What the router says of itself is about payments, and true.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use router::{Choice, Decision, Event, Explanation, LeftOut, Policy, Queue, Router, Time, Verdict};

use crate::permits::shared;
use crate::simulation::chooser::terms;

const DEFAULT: usize = 0;
const FALLBACK: usize = 1;

struct Bench {
    router: Router,
    rng: SmallRng,
    now: Time,
}

impl Bench {
    fn new() -> Self {
        Self {
            router: Router::new(Policy::default(), terms(&[0.05, 0.15]), Time::ZERO),
            rng: SmallRng::seed_from_u64(1),
            now: Time::ZERO,
        }
    }

    fn decide(&mut self, waiting: u64) -> Decision {
        let queue = Queue {
            waiting,
            ..Queue::default()
        };
        self.router.decide(self.now, &mut self.rng, queue)
    }

    fn tell(&mut self, event: Event) {
        self.router.observe(event, self.now);
    }

    /// A payment goes out by a permit that was given at that moment, and comes back at once.
    fn send(&mut self, decision: Decision, decided_at: Time, verdict: Verdict) {
        let Decision::Send { processor, probe } = decision else {
            panic!("nothing is sent by {decision:?}");
        };
        let at = self.now;
        self.tell(Event::Dispatched { processor, at });
        self.router.carried_out(processor, decided_at);
        self.tell(Event::Finished {
            processor,
            sent_at: Some(at),
            probe,
            verdict,
        });
    }

    fn abandon(&mut self, decision: Decision) {
        if let Decision::Send { processor, probe } = decision {
            self.tell(Event::Finished {
                processor,
                sent_at: None,
                probe,
                verdict: Verdict::Abandoned,
            });
        }
    }

    fn explain(&self) -> Explanation {
        self.router.explain(self.now)
    }

    /// Lets so many milliseconds pass.
    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn fail(&mut self, processor: usize) {
        self.tell(Event::Health {
            processor,
            failing: true,
            min_response_time: Duration::ZERO,
        });
    }
}

#[test]
fn a_worker_that_finds_no_payment_leaves_no_decision() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        let decision = bench.decide(0);
        bench.abandon(decision);
        bench.pass(500);
    }
    // With one processor out, the other out, and both switched off.
    for processor in [DEFAULT, FALLBACK] {
        bench.fail(processor);
        for _ in 0..20 {
            let decision = bench.decide(0);
            bench.abandon(decision);
            bench.pass(50);
        }
    }
    for processor in [DEFAULT, FALLBACK] {
        bench.tell(Event::Switched {
            processor,
            enabled: false,
        });
    }
    assert!(matches!(bench.decide(0), Decision::Wait { .. }));
    assert_eq!(bench.explain().decisions, []);

    // Payments wait: that they are kept is a decision about them.
    bench.decide(3);
    let decisions = bench.explain().decisions;
    assert_eq!(decisions.len(), 1);
    assert_eq!(decisions[0].choice, Choice::Wait);
    assert_eq!(decisions[0].reason, "no processor may be asked");
    let left_out = decisions[0].alternatives.iter().map(|other| other.left_out);
    assert!(left_out.eq([Some(LeftOut::SwitchedOff); 2]));
}

#[test]
fn a_decision_is_told_once_a_payment_goes_out_by_it() {
    let mut bench = Bench::new();
    let decision = bench.decide(0);
    let decided_at = bench.now;
    assert_eq!(bench.explain().decisions, []);
    bench.pass(3);
    bench.send(decision, decided_at, Verdict::Charged);
    let decisions = bench.explain().decisions;
    assert_eq!(decisions.len(), 1);
    let told = &decisions[0];
    assert_eq!((told.choice, told.age_ms), (Choice::Send, 3.0));
    assert_eq!(told.reason, "worth most");
    let both_weighed =
        |other: &router::Alternative| other.utility.is_some() && other.left_out.is_none();
    assert!(told.alternatives.iter().all(both_weighed), "{told:?}");

    // A permit of long ago, or for a processor that the payment had to go to, explains nothing.
    bench.pass(60_000);
    let decision = bench.decide(0);
    bench.send(decision, Time::ZERO, Verdict::Charged);
    assert_eq!(bench.explain().decisions.len(), 1);
}

#[test]
fn a_probe_says_that_it_is_one_and_why_no_other_was_weighed() {
    let mut bench = Bench::new();
    bench.fail(DEFAULT);
    bench.pass(200);
    let decision = bench.decide(1);
    assert!(
        matches!(
            decision,
            Decision::Send {
                processor: DEFAULT,
                probe: true
            }
        ),
        "{decision:?}"
    );
    bench.send(decision, bench.now, Verdict::Declined);
    bench.pass(10);
    // No probe is due, and the cheaper one has been out for longer than it is waited for.
    bench.pass(60_000);
    let decision = bench.decide(1);
    bench.send(decision, bench.now, Verdict::Declined);
    bench.pass(1);
    let decision = bench.decide(1);
    assert!(
        matches!(
            decision,
            Decision::Send {
                processor: FALLBACK,
                probe: false
            }
        ),
        "{decision:?}"
    );
    bench.send(decision, bench.now, Verdict::Charged);

    let decisions = bench.explain().decisions;
    let told = |choice| decisions.iter().find(|told| told.choice == choice);
    let probe = told(Choice::Probe).expect("a probe");
    assert!(probe.reason.contains("its breaker is open"), "{probe:?}");
    let left_out: Vec<_> = probe.alternatives.iter().map(|it| it.left_out).collect();
    assert_eq!(left_out, [Some(LeftOut::ProbeDue); 2]);
    let sent = told(Choice::Send).expect("one that was sent");
    assert_eq!(sent.reason, "no other could have it");
    let left_out: Vec<_> = sent.alternatives.iter().map(|it| it.left_out).collect();
    assert_eq!(left_out, [Some(LeftOut::BreakerOpen), None]);
}

#[test]
fn of_a_processor_that_was_not_asked_for_30_s_no_chance_is_told() {
    let mut bench = Bench::new();
    let chance = |bench: &Bench| bench.explain().processors[DEFAULT].success_probability;
    let asked_ago = |bench: &Bench| bench.explain().processors[DEFAULT].asked_ms_ago;
    assert_eq!((chance(&bench), asked_ago(&bench)), (None, None));
    let decision = Decision::Send {
        processor: DEFAULT,
        probe: false,
    };
    bench.send(decision, bench.now, Verdict::Charged);
    bench.pass(29_999);
    assert!(chance(&bench).is_some_and(|chance| chance > 0.89));
    bench.pass(1);
    assert_eq!(chance(&bench), None);
    assert_eq!(asked_ago(&bench), Some(30_000.0));
}

#[test]
fn the_router_that_threads_share_tells_the_decisions_of_its_permits() {
    let shared = shared(Policy::default(), &[0.05, 0.15]);
    // As a worker does: permits for more payments than there are.
    let mut permits = shared.plan(32, Queue::default()).permits;
    let mut permit = permits.pop().expect("a permit");
    drop(permits);
    assert_eq!(shared.explain().decisions, []);
    permit.sent();
    permit.finish(Verdict::Charged);
    assert_eq!(shared.explain().decisions.len(), 1);
    // Another one that could go nowhere else.
    let mut pinned = shared.try_permit(FALLBACK).expect("a permit");
    pinned.sent();
    pinned.finish(Verdict::Charged);
    assert_eq!(shared.explain().decisions.len(), 1);
}
