//! What goes wrong on purpose.
//!
//! Which fault a request meets is a pure function of the rates and of a random number generator.
//! That generator is seeded with the simulator's seed, the id of the payment and how often that id
//! has come: the same seed and ids meet the same faults, in whatever order they arrive.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How often each fault is injected: rates from 0 (never) to 1 (always).
///
/// The first six exclude each other, so their sum is at most 1.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Faults {
    /// Rate of payments that are stored while the connection is closed or reset without a reply
    #[arg(long = "fault-reply-lost", env = "SIMULATOR_FAULT_REPLY_LOST", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub reply_lost: f64,
    /// Rate of payments that are lost on the way: connection closed or reset, nothing stored
    #[arg(long = "fault-request-lost", env = "SIMULATOR_FAULT_REQUEST_LOST", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub request_lost: f64,
    /// Rate of payments that are stored and never answered; the connection stays open
    #[arg(long = "fault-reply-hangs", env = "SIMULATOR_FAULT_REPLY_HANGS", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub reply_hangs: f64,
    /// Rate of payments that are stored and answered with 500 and an empty body
    #[arg(long = "fault-fail-after", env = "SIMULATOR_FAULT_FAIL_AFTER", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub fail_after: f64,
    /// Rate of payments that are answered with 500 and an empty body, nothing stored
    #[arg(long = "fault-fail-before", env = "SIMULATOR_FAULT_FAIL_BEFORE", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub fail_before: f64,
    /// Rate of payments that are refused with 429, nothing stored
    #[arg(long = "fault-too-many", env = "SIMULATOR_FAULT_TOO_MANY", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub too_many: f64,
    /// Rate of payments that are slow, whatever else happens to them
    #[arg(long = "fault-slow", env = "SIMULATOR_FAULT_SLOW", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub slow: f64,
    /// How much longer a slow payment takes, in milliseconds
    #[arg(long = "fault-slow-ms", env = "SIMULATOR_FAULT_SLOW_MS", default_value_t = 0, value_name = "MS", help_heading = HEADING)]
    pub slow_ms: u64,
    /// Rate of lookups (GET /payments/{id}) whose connection is closed or reset without a reply
    #[arg(long = "fault-lookup-lost", env = "SIMULATOR_FAULT_LOOKUP_LOST", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub lookup_lost: f64,
    /// Rate of new connections that are reset as soon as they are accepted
    #[arg(long = "fault-connection-reset", env = "SIMULATOR_FAULT_CONNECTION_RESET", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub connection_reset: f64,
    /// For how long from now on nothing listens, in milliseconds: connections are refused, open
    /// ones are cut, the admin endpoints cannot be reached either
    #[arg(long = "fault-refuse-for-ms", env = "SIMULATOR_FAULT_REFUSE_FOR_MS", default_value_t = 0, value_name = "MS", help_heading = HEADING)]
    pub refuse_for_ms: u64,
}

const HEADING: &str = "Faults (rates from 0 to 1)";

impl Faults {
    /// Says what is wrong with these rates, if anything is.
    pub fn check(&self) -> Result<(), String> {
        let rates = [
            ("replyLost", self.reply_lost),
            ("requestLost", self.request_lost),
            ("replyHangs", self.reply_hangs),
            ("failAfter", self.fail_after),
            ("failBefore", self.fail_before),
            ("tooMany", self.too_many),
            ("slow", self.slow),
            ("lookupLost", self.lookup_lost),
            ("connectionReset", self.connection_reset),
        ];
        for (name, rate) in rates {
            if !(0.0..=1.0).contains(&rate) {
                return Err(format!("{name} is {rate}, a rate is a number from 0 to 1"));
            }
        }
        let sum: f64 = rates[..ENDINGS].iter().map(|(_, rate)| rate).sum();
        if sum > 1.0 + f64::EPSILON * 8.0 {
            let names: Vec<_> = rates[..ENDINGS].iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "{} exclude each other and add up to {sum}, at most 1 is possible",
                names.join(", ")
            ));
        }
        Ok(())
    }

    fn touches_requests(&self) -> bool {
        let quiet = Self {
            connection_reset: self.connection_reset,
            refuse_for_ms: self.refuse_for_ms,
            slow_ms: self.slow_ms,
            ..Self::default()
        };
        *self != quiet
    }

    /// Draws what happens to one payment. Always takes the same number of random values.
    pub(super) fn draw(&self, rng: &mut impl Rng) -> Plan {
        let (ending, reset, slow): (f64, bool, f64) = (rng.random(), rng.random(), rng.random());
        let stack = [
            (Ending::ReplyLost, self.reply_lost),
            (Ending::RequestLost, self.request_lost),
            (Ending::ReplyHangs, self.reply_hangs),
            (Ending::FailAfter, self.fail_after),
            (Ending::FailBefore, self.fail_before),
            (Ending::TooMany, self.too_many),
        ];
        let mut below = 0.0;
        let met = stack.into_iter().find_map(|(fault, rate)| {
            below += rate;
            (ending < below).then_some(fault)
        });
        Plan {
            ending: met.unwrap_or(Ending::Answered),
            reset,
            slower: (slow < self.slow).then(|| Duration::from_millis(self.slow_ms)),
        }
    }
}

/// How many of the rates exclude each other.
const ENDINGS: usize = 6;

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Answered,
    ReplyLost,
    RequestLost,
    ReplyHangs,
    FailAfter,
    FailBefore,
    TooMany,
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) ending: Ending,
    /// A lost connection ends with a reset instead of an orderly close.
    pub(super) reset: bool,
    pub(super) slower: Option<Duration>,
}

impl Plan {
    /// Nothing goes wrong.
    pub(super) const SMOOTH: Self = Self {
        ending: Ending::Answered,
        reset: false,
        slower: None,
    };
}

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

/// The two calls about one payment, whose faults are drawn independently.
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

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
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
        let injected = &mut state.injected;
        injected.slow += u64::from(plan.slower.is_some());
        match plan.ending {
            Ending::Answered => {}
            Ending::ReplyLost => injected.reply_lost += 1,
            Ending::RequestLost => injected.request_lost += 1,
            Ending::ReplyHangs => injected.reply_hangs += 1,
            Ending::FailAfter => injected.fail_after += 1,
            Ending::FailBefore => injected.fail_before += 1,
            Ending::TooMany => injected.too_many += 1,
        }
        plan
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

    /// Forgets which ids came, because the books were emptied.
    pub(super) fn forget(&self) {
        self.state().seen.clear();
    }
}

impl State {
    /// Counts this arrival of an id while it meets faults; once it was answered it is not expected
    /// back, so that the memory needed stays small.
    fn remember(&mut self, id: Uuid, call: Call, nth: u64, again: bool) {
        if again {
            self.seen.insert((id, call), nth + 1);
        } else if nth > 0 {
            self.seen.remove(&(id, call));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates that leave some payments alone.
    fn mix() -> Faults {
        Faults {
            reply_lost: 0.05,
            request_lost: 0.1,
            reply_hangs: 0.15,
            fail_after: 0.2,
            fail_before: 0.25,
            too_many: 0.05,
            slow: 0.3,
            slow_ms: 7,
            ..Faults::default()
        }
    }

    #[test]
    fn faults_come_as_often_as_their_rates_say() {
        const DRAWS: u32 = 20_000;
        let mut rng = StdRng::seed_from_u64(1);
        let plans: Vec<_> = (0..DRAWS).map(|_| mix().draw(&mut rng)).collect();
        let share = |is: &dyn Fn(&Plan) -> bool| {
            plans.iter().filter(|plan| is(plan)).count() as f64 / f64::from(DRAWS)
        };
        for (ending, rate) in [
            (Ending::ReplyLost, 0.05),
            (Ending::RequestLost, 0.1),
            (Ending::ReplyHangs, 0.15),
            (Ending::FailAfter, 0.2),
            (Ending::FailBefore, 0.25),
            (Ending::TooMany, 0.05),
            (Ending::Answered, 0.2),
        ] {
            let met = share(&|plan| plan.ending == ending);
            assert!((met - rate).abs() < 0.02, "{ending:?}: {met} for {rate}");
        }
        let slow = share(&|plan| plan.slower == Some(Duration::from_millis(7)));
        assert!((slow - 0.3).abs() < 0.02, "{slow}");
        let reset = share(&|plan| plan.reset);
        assert!((reset - 0.5).abs() < 0.02, "{reset}");
    }

    #[test]
    fn a_rate_of_one_is_always_and_of_nothing_never() {
        let always = Faults {
            fail_after: 1.0,
            ..Faults::default()
        };
        let mut rng = StdRng::seed_from_u64(2);
        for _ in 0..1_000 {
            assert_eq!(always.draw(&mut rng).ending, Ending::FailAfter);
            let never = Faults::default().draw(&mut rng);
            assert_eq!((never.ending, never.slower), (Ending::Answered, None));
        }
    }

    #[test]
    fn a_change_of_one_rate_does_not_shift_the_draws_that_follow() {
        let (mut one, mut other) = (StdRng::seed_from_u64(3), StdRng::seed_from_u64(3));
        mix().draw(&mut one);
        Faults::default().draw(&mut other);
        assert_eq!(mix().draw(&mut one), mix().draw(&mut other));
    }

    #[test]
    fn a_payment_that_comes_again_meets_another_fault_in_the_end() {
        let injector = FaultInjector::new(4, mix());
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

    #[test]
    fn rates_that_cannot_be_are_named() {
        let negative = Faults {
            slow: -0.1,
            ..Faults::default()
        };
        assert!(negative.check().unwrap_err().contains("slow is -0.1"));
        let not_a_number = Faults {
            lookup_lost: f64::NAN,
            ..Faults::default()
        };
        assert!(not_a_number.check().is_err());
        let tenths = Faults {
            reply_lost: 0.1,
            request_lost: 0.2,
            reply_hangs: 0.3,
            fail_after: 0.4,
            ..Faults::default()
        };
        assert_eq!(
            tenths.check(),
            Ok(()),
            "a sum of one, to the last bit or so"
        );
    }
}
