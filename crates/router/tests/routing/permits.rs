//! Permits under threads: never more than the cap, and none is lost.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use router::breaker::State;
use router::{Event, Policy, Queue, Router, SharedRouter, Time, Verdict};

use crate::simulation::chooser::terms;

const THREADS: u32 = 8;
const ROUNDS: u32 = 400;
const INSTANCES: u32 = 4;

/// A router for processors with these fees.
pub(crate) fn shared(policy: Policy, fees: &[f64]) -> SharedRouter {
    let begun_at = Instant::now();
    let router = Router::new(policy, terms(fees), Time::ZERO);
    let rng = SmallRng::seed_from_u64(2026);
    SharedRouter::new(router, rng, move || begun_at.elapsed(), |_, _| {})
}

fn queue() -> Queue {
    Queue {
        waiting: 100_000,
        ..Queue::default()
    }
}

#[test]
fn threads_never_exceed_the_cap_and_leak_no_permit() {
    let policy = Policy::default();
    let cap = policy.shared_cap / INSTANCES;
    never_more_than(cap, policy);
    // An instance that has few files for connections.
    let few = Policy {
        own_cap: 21,
        ..Policy::default()
    };
    never_more_than(21, few);
}

fn never_more_than(cap: u32, policy: Policy) {
    let shared = shared(policy, &[0.05, 0.15]);
    shared.observe(Event::Instances { alive: INSTANCES });
    let out = [AtomicU32::new(0), AtomicU32::new(0)];
    let (shared, out) = (&shared, &out);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let mut plan = shared.plan(40, queue());
                    plan.permits.extend(shared.try_permit((round % 2) as usize));
                    for permit in &mut plan.permits {
                        // Counted up after it was granted and down before it is given back: never
                        // too high.
                        let before = out[permit.processor()].fetch_add(1, Ordering::SeqCst);
                        assert!(before < cap, "{before} and one more");
                    }
                    for (i, mut permit) in plan.permits.into_iter().enumerate() {
                        out[permit.processor()].fetch_sub(1, Ordering::SeqCst);
                        match (thread + round + i as u32) % 7 {
                            0 => drop(permit),
                            1 => {
                                permit.sent();
                                drop(permit);
                            }
                            2 => permit.finish(Verdict::NotSent),
                            3 => {
                                permit.sent();
                                permit.finish(Verdict::Declined);
                            }
                            _ => {
                                permit.sent();
                                permit.finish(Verdict::Charged);
                            }
                        }
                    }
                }
            });
        }
    });
    for processor in shared.explain().processors {
        assert_eq!(
            (processor.in_flight, processor.breaker.probes_in_flight),
            (0, 0),
            "{}",
            processor.name
        );
    }
}

#[test]
fn a_permit_comes_back_when_the_task_that_holds_it_panics() {
    let shared = shared(Policy::default(), &[0.05]);
    let panicking = shared.clone();
    let result = thread::spawn(move || {
        let plan = panicking.plan(5, queue());
        assert_eq!(
            plan.permits.len(),
            0,
            "this is the panic that the test wants"
        );
    })
    .join();
    assert!(result.is_err());
    assert_eq!(shared.explain().processors[0].in_flight, 0);
    assert_eq!(shared.plan(5, queue()).permits.len(), 5);
}

#[test]
fn instances_share_the_cap() {
    let shared = shared(Policy::default(), &[0.05]);
    let mut pinned = Vec::new();
    while let Some(permit) = shared.try_permit(0) {
        pinned.push(permit);
    }
    assert_eq!(pinned.len(), 780);
    shared.observe(Event::Instances { alive: 3 });
    pinned.truncate(260);
    assert!(shared.try_permit(0).is_none());
    pinned.pop();
    assert!(shared.try_permit(0).is_some());
}

#[test]
fn whoever_shares_a_router_is_told_once_of_each_change_of_a_breaker() {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&changes);
    let router = Router::new(Policy::default(), terms(&[0.05, 0.15]), Time::ZERO);
    let rng = SmallRng::seed_from_u64(2026);
    let shared = SharedRouter::new(
        router,
        rng,
        || Time::ZERO,
        move |name, change| told.lock().unwrap().push((name.to_owned(), change)),
    );
    let failing = |failing| Event::Health {
        processor: 1,
        failing,
        min_response_time: Time::ZERO,
    };
    for report in [false, true, true, false] {
        shared.observe(failing(report));
    }
    let changes = changes.lock().unwrap();
    let told: Vec<_> = changes
        .iter()
        .map(|(name, change)| (name.as_str(), change.processor, change.change.to))
        .collect();
    let expected = [
        ("processor-1", 1, State::Open),
        ("processor-1", 1, State::HalfOpen),
    ];
    assert_eq!(told, expected);
}
