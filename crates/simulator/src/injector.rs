//! The faults in force, who meets them, and what they did so far.
//!
//! The generator behind each decision is seeded with the simulator's seed, the id of the payment
//! and how often that id has come: the same seed and ids meet the same faults, in whatever order
//! they arrive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use uuid::Uuid;

use super::faults::{Ending, Faults, Plan};

/// How often each fault was injected since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Injected {
    /// Stored, connection closed without a reply.
    pub reply_lost: u64,
    /// Connection closed without a reply, nothing stored.
    pub request_lost: u64,
    /// Stored, never answered.
    pub reply_hangs: u64,
    /// Stored, answered with 500.
    pub fail_after: u64,
    /// Answered with 500, nothing stored.
    pub fail_before: u64,
    /// Refused with 429 by chance; those that the limit refused are not counted.
    pub too_many: u64,
    /// Answered by a gateway that gave up, stored all the same.
    pub gateway_gave_up: u64,
    /// Turned away by a gateway, nothing stored.
    pub gateway_refused: u64,
    /// Answered with 500 and an error of the database.
    pub fail_with_text: u64,
    /// Replies that were followed by one that nobody asked for.
    pub unasked: u64,
    /// Took longer.
    pub slow: u64,
    /// Lookups without a reply.
    pub lookup_lost: u64,
    /// New connections that were reset.
    pub connection_reset: u64,
    /// Times in which nothing listened.
    pub outages: u64,
}

/// The faults in force, and what they did so far.
#[derive(Debug)]
pub(super) struct FaultInjector {
    seed: u64,
    /// False spares the hot path the lock below.
    armed: AtomicBool,
    state: Mutex<State>,
    connections: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    injected: Injected,
    /// How often an id came, for those that met a fault and may come again.
    seen: HashMap<(Uuid, Call), u64>,
}

/// What faults are drawn for, independently of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Call {
    Payment = 1,
    Lookup = 2,
    Connection = 3,
}

fn generator(seed: u64, id: Uuid, call: Call, nth: u64) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    // The call takes the top byte of the count, which no count reaches.
    bytes[8..16].copy_from_slice(&(nth | (call as u64) << 56).to_le_bytes());
    bytes[16..].copy_from_slice(id.as_bytes());
    StdRng::from_seed(bytes)
}

impl FaultInjector {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let injector = Self {
            seed,
            armed: AtomicBool::new(false),
            state: Mutex::default(),
            connections: AtomicU64::new(0),
        };
        injector.set(faults);
        injector
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics under this lock")
    }

    pub(super) fn set(&self, faults: Faults) {
        let mut state = self.state();
        self.armed
            .store(faults.touches_requests(), Ordering::Release);
        state.faults = faults;
    }

    pub(super) fn get(&self) -> (Faults, Injected) {
        let state = self.state();
        (state.faults.clone(), state.injected.clone())
    }

    pub(super) fn count_unasked(&self) {
        self.state().injected.unasked += 1;
    }

    pub(super) fn count_outage(&self) {
        self.state().injected.outages += 1;
    }

    /// What happens to this payment, this time.
    pub(super) fn plan_payment(&self, id: Uuid) -> Plan {
        if !self.armed.load(Ordering::Acquire) {
            return Plan::SMOOTH;
        }
        let mut state = self.state();
        let nth = state.seen.get(&(id, Call::Payment)).copied().unwrap_or(0);
        let plan = state
            .faults
            .draw(&mut generator(self.seed, id, Call::Payment, nth));
        state.remember(id, Call::Payment, nth, plan.ending != Ending::Answered);
        plan
    }

    /// Counts what the plan did, when it has happened.
    pub(super) fn count(&self, plan: Plan) {
        if plan.ending == Ending::Answered && plan.slower.is_none() {
            return;
        }
        let injected = &mut self.state().injected;
        // These end before a payment can be slow.
        let is_early = matches!(
            plan.ending,
            Ending::RequestLost | Ending::TooMany | Ending::GatewayRefused
        );
        injected.slow += u64::from(plan.slower.is_some() && !is_early);
        match plan.ending {
            Ending::Answered => {}
            Ending::ReplyLost => injected.reply_lost += 1,
            Ending::RequestLost => injected.request_lost += 1,
            Ending::ReplyHangs => injected.reply_hangs += 1,
            Ending::FailAfter => injected.fail_after += 1,
            Ending::FailBefore => injected.fail_before += 1,
            Ending::TooMany => injected.too_many += 1,
            Ending::GatewayGaveUp => injected.gateway_gave_up += 1,
            Ending::GatewayRefused => injected.gateway_refused += 1,
            Ending::FailWithText => injected.fail_with_text += 1,
        }
    }

    /// Whether the reply to this lookup is lost, and if so whether by a reset.
    pub(super) fn plan_lookup(&self, id: Uuid) -> Option<bool> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.state();
        let nth = state.seen.get(&(id, Call::Lookup)).copied().unwrap_or(0);
        let mut rng = generator(self.seed, id, Call::Lookup, nth);
        let lost = rng.random::<f64>() < state.faults.lookup_lost;
        state.remember(id, Call::Lookup, nth, lost);
        state.injected.lookup_lost += u64::from(lost);
        lost.then(|| rng.random())
    }

    /// Whether a new connection is reset at once.
    pub(super) fn resets_connection(&self) -> bool {
        let nth = self.connections.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        let mut rng = generator(self.seed, Uuid::nil(), Call::Connection, nth);
        let reset = rng.random::<f64>() < state.faults.connection_reset;
        state.injected.connection_reset += u64::from(reset);
        reset
    }

    /// Forgets which ids came, because the records were emptied.
    pub(super) fn forget(&self) {
        self.state().seen.clear();
    }
}

impl State {
    /// Counts this arrival of an id while it meets faults; a payment that was answered is not
    /// expected back, so that the memory needed stays small. Who asks for one may ask again.
    fn remember(&mut self, id: Uuid, call: Call, nth: u64, again: bool) {
        if again || (call == Call::Lookup && nth > 0) {
            self.seen.insert((id, call), nth + 1);
        } else if nth > 0 {
            self.seen.remove(&(id, call));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_can_be_answered_twice_in_a_row() {
        let lookup_lost = 0.5;
        let injector = FaultInjector::new(
            4,
            Faults {
                lookup_lost,
                ..Faults::default()
            },
        );
        for n in 0..200 {
            let id = Uuid::from_u128(n);
            let lost = (0..64).map(|_| injector.plan_lookup(id).is_some());
            let lost: Vec<bool> = lost.collect();
            assert!(
                lost.windows(2).any(|pair| pair == [false, false]),
                "{lost:?}"
            );
        }
    }

    #[test]
    fn a_payment_that_comes_again_meets_another_fault_in_the_end() {
        let injector = FaultInjector::new(
            4,
            Faults {
                fail_before: 0.4,
                too_many: 0.4,
                ..Faults::default()
            },
        );
        for n in 0..200 {
            let id = Uuid::from_u128(n);
            let answered = (0..200).any(|_| injector.plan_payment(id).ending == Ending::Answered);
            assert!(answered, "{id} met a fault two hundred times in a row");
        }
        assert!(
            injector.state().seen.is_empty(),
            "answered ids are forgotten"
        );
    }
}
