//! `src/permit.rs`, the shipped file, compiled against loom's locks and run in every interleaving
//! of its threads: permits never exceed the cap and none is lost.
//!
//! loom repeats a run until all orders of its lock operations have been seen, so what a run does
//! must not depend on time or chance. One processor, whose breaker does not trip, sees to that.

use std::sync::atomic::{AtomicU32, Ordering};

use loom::thread;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use router::{
    Decision, Event, Explanation, Policy, ProcessorTerms, Queue, Router, StateChange, Time, Verdict,
};

#[path = "../src/permit.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "it is public where it is shipped"
)]
mod permit;

mod sync {
    pub(super) use loom::sync::{Arc, Mutex, MutexGuard};
}

use permit::{Permit, SharedRouter};
use sync::Arc;

/// Permits at a time. With two, one that is returned twice lets a third one out.
const CAP: u32 = 2;

const QUEUE: Queue = Queue {
    waiting: 10,
    oldest_age: std::time::Duration::ZERO,
};

/// A router and how many of its permits are out.
struct Model {
    router: SharedRouter,
    /// Not loom's: it is not part of what is checked, and would only multiply the interleavings.
    out: AtomicU32,
}

impl Model {
    fn new() -> Arc<Self> {
        let policy = Policy {
            shared_cap: CAP,
            floor: CAP,
            failures_to_open: u32::MAX,
            ..Policy::default()
        };
        let terms = vec![ProcessorTerms {
            name: "only".to_owned(),
            fee: rust_decimal::Decimal::new(5, 2),
        }];
        Arc::new(Self {
            router: SharedRouter::new(
                Router::new(policy, terms, Time::ZERO),
                SmallRng::seed_from_u64(1),
                || Time::ZERO,
                |_, _| {},
            ),
            out: AtomicU32::new(0),
        })
    }

    /// Counted up after it was granted and down before it is given back, so never too high.
    fn granted(&self, permit: Permit) -> Permit {
        let before = self.out.fetch_add(1, Ordering::SeqCst);
        assert!(before < CAP, "{before} permits are out, and one more");
        permit
    }

    fn take_and_give_back(&self, want: usize, give_back: fn(Permit)) {
        let permits: Vec<Permit> = (self.router.plan(want, QUEUE).permits.into_iter())
            .map(|permit| self.granted(permit))
            .collect();
        for permit in permits {
            self.give_back(permit, give_back);
        }
    }

    fn give_back(&self, permit: Permit, how: fn(Permit)) {
        self.out.fetch_sub(1, Ordering::SeqCst);
        how(permit);
    }

    /// None is lost: as many as in the beginning can be had again, and not one more.
    fn assert_all_back(&self) {
        assert_eq!(self.router.explain().processors[0].in_flight, 0);
        let again = self.router.plan(CAP as usize + 1, QUEUE).permits;
        assert_eq!(again.len(), CAP as usize);
    }
}

fn charged(mut permit: Permit) {
    permit.sent();
    permit.finish(Verdict::Charged);
}

/// The future that waited for the reply was dropped.
fn broken_off(mut permit: Permit) {
    permit.sent();
    drop(permit);
}

#[test]
fn in_every_interleaving_permits_stay_below_the_cap_and_none_is_lost() {
    loom::model(|| {
        let model = Model::new();
        let other = Arc::clone(&model);
        let charging = thread::spawn(move || {
            other.take_and_give_back(2, charged);
        });
        model.take_and_give_back(2, drop);
        charging.join().expect("no thread panics");
        model.assert_all_back();
    });
}

#[test]
fn in_every_interleaving_a_pinned_payment_respects_the_cap_too() {
    loom::model(|| {
        let model = Model::new();
        let other = Arc::clone(&model);
        let pinned = thread::spawn(move || {
            for _ in 0..2 {
                if let Some(permit) = other.router.try_permit(0) {
                    let permit = other.granted(permit);
                    other.give_back(permit, broken_off);
                }
            }
        });
        model.take_and_give_back(2, drop);
        pinned.join().expect("no thread panics");
        model.assert_all_back();
    });
}

#[test]
fn in_every_interleaving_another_instance_halves_the_cap() {
    loom::model(|| {
        let model = Model::new();
        let other = Arc::clone(&model);
        let joins = thread::spawn(move || other.router.observe(Event::Instances { alive: 2 }));
        model.take_and_give_back(1, broken_off);
        joins.join().expect("no thread panics");
        assert_eq!(model.router.plan(2, QUEUE).permits.len(), 1);
    });
}
