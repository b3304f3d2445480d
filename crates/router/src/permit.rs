//! The router behind a lock, and permits that find their own way back.

use std::sync::PoisonError;
use std::time::Duration;

use rand::rngs::SmallRng;

use super::sync::{Arc, Mutex, MutexGuard};
use super::{Decision, Event, Explanation, Queue, Router, StateChange, Time, Verdict};

/// A [`Router`] for all tasks of an instance.
#[derive(Clone)]
pub struct SharedRouter {
    shared: Arc<Shared>,
}

type Clock = dyn Fn() -> Time + Send + Sync;
type OnChange = dyn Fn(&str, StateChange) + Send + Sync;

struct Shared {
    /// Held for about a microsecond per decision, never across an await.
    state: Mutex<Deciding>,
    clock: Box<Clock>,
    on_change: Box<OnChange>,
}

struct Deciding {
    router: Router,
    rng: SmallRng,
}

/// What [`SharedRouter::plan`] comes to.
#[derive(Debug)]
pub struct Plan {
    /// One for each payment that may be sent now.
    pub permits: Vec<Permit>,
    /// When to ask again, if less was granted than wanted. A permit that comes back is a reason to
    /// ask sooner.
    pub retry_in: Option<Duration>,
}

impl SharedRouter {
    /// Shares a router that decides by `rng`.
    ///
    /// `clock` tells the time. `on_change` is told of each change of a breaker, with the name of
    /// its processor; it is called after the decision, by the thread whose event brought the change
    /// about.
    pub fn new(
        router: Router,
        rng: SmallRng,
        clock: impl Fn() -> Time + Send + Sync + 'static,
        on_change: impl Fn(&str, StateChange) + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(Deciding { router, rng }),
                clock: Box::new(clock),
                on_change: Box::new(on_change),
            }),
        }
    }

    /// Decides for up to `want` payments. Permits that turn out not to be needed are dropped.
    pub fn plan(&self, want: usize, queue: Queue) -> Plan {
        let now = self.now();
        let mut plan = Plan {
            permits: Vec::with_capacity(want),
            retry_in: None,
        };
        let mut deciding = self.lock();
        let Deciding { router, rng } = &mut *deciding;
        for granted in 0..want {
            let ahead = Queue {
                waiting: queue.waiting.saturating_sub(granted as u64),
                ..queue
            };
            match router.decide(now, rng, ahead) {
                Decision::Send { processor, probe } => {
                    plan.permits.push(self.permit(processor, probe, Some(now)))
                }
                Decision::Hold { until } | Decision::Wait { until } => {
                    plan.retry_in = Some(until.saturating_sub(now));
                    break;
                }
            }
        }
        plan
    }

    /// A permit for a payment that can go nowhere but to this processor, if it has room for it:
    /// caps and a 429 are respected, and so is the pacing of a breaker that is not closed, but no
    /// preference is. None while an operator has taken the processor out.
    pub fn try_permit(&self, processor: usize) -> Option<Permit> {
        let now = self.now();
        let probe = self.lock().router.permit_for(processor, now)?;
        Some(self.permit(processor, probe, None))
    }

    /// How many instances share the caps, this one included.
    pub fn instances(&self) -> u32 {
        self.lock().router.instances()
    }

    /// Learns from what has happened.
    pub fn observe(&self, event: Event) {
        let now = self.now();
        let mut deciding = self.lock();
        if let Some(change) = deciding.router.observe(event, now) {
            let name = deciding.router.name(change.processor);
            let name = name.unwrap_or_default().to_owned();
            drop(deciding);
            (self.shared.on_change)(&name, change);
        }
    }

    /// What the router knows, and why it decided as it did.
    pub fn explain(&self) -> Explanation {
        let now = self.now();
        self.lock().router.explain(now)
    }

    fn permit(&self, processor: usize, probe: bool, decided_at: Option<Time>) -> Permit {
        Permit {
            router: self.clone(),
            processor,
            probe,
            decided_at,
            sent_at: None,
            back: false,
        }
    }

    fn now(&self) -> Time {
        (self.shared.clock)()
    }

    fn lock(&self) -> MutexGuard<'_, Deciding> {
        // A panic while deciding leaves estimates a little off at worst; payments must go on.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to have one payment in flight at a processor. It gives itself back, whatever happens
/// to the future that holds it: unused if nothing was sent, and with an unknown outcome if
/// something was.
#[must_use = "dropping a permit gives it back unused"]
pub struct Permit {
    router: SharedRouter,
    processor: usize,
    probe: bool,
    /// When the router chose the processor; None where the payment could go nowhere else.
    decided_at: Option<Time>,
    sent_at: Option<Time>,
    back: bool,
}

impl Permit {
    /// The processor that it is for: its place in the terms.
    pub fn processor(&self) -> usize {
        self.processor
    }

    /// Whether it was given to find out about a processor whose breaker is not closed.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// How many instances share the caps, this one included.
    pub fn instances(&self) -> u32 {
        self.router.instances()
    }

    /// The first byte goes out now. Returns how long the processor takes for its answers, by those
    /// that came.
    pub fn sent(&mut self) -> Duration {
        let at = self.router.now();
        let is_first = self.sent_at.replace(at).is_none();
        let processor = self.processor;
        let mut deciding = self.router.lock();
        if is_first {
            // It changes no breaker, so there is nothing to log.
            deciding
                .router
                .observe(Event::Dispatched { processor, at }, at);
            if let Some(decided_at) = self.decided_at {
                deciding.router.carried_out(processor, decided_at);
            }
        }
        deciding.router.answers_in(processor)
    }

    /// Gives it back with what became of the attempt.
    pub fn finish(mut self, verdict: Verdict) {
        self.give_back(verdict);
    }

    fn give_back(&mut self, verdict: Verdict) {
        if !std::mem::replace(&mut self.back, true) {
            let Self {
                processor,
                sent_at,
                probe,
                ..
            } = *self;
            self.router.observe(Event::Finished {
                processor,
                sent_at,
                probe,
                verdict,
            });
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let verdict = if self.sent_at.is_some() {
            Verdict::Unknown
        } else {
            Verdict::Abandoned
        };
        self.give_back(verdict);
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit")
            .field("processor", &self.processor)
            .field("probe", &self.probe)
            .field("sent_at", &self.sent_at)
            .finish_non_exhaustive()
    }
}
