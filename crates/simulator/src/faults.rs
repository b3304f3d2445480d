//! What goes wrong on purpose: the rates, and the pure decision what happens to one payment.

use std::time::Duration;

use clap::Args;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// How often each fault is injected: rates from 0 (never) to 1 (always).
///
/// The first nine exclude each other, so their sum is at most 1.
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
    /// Rate of payments whose gateway gives up at once, with a status or page of its own; they are
    /// stored all the same
    #[arg(long = "fault-gateway-gave-up", env = "SIMULATOR_FAULT_GATEWAY_GAVE_UP", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub gateway_gave_up: f64,
    /// Rate of payments that a gateway turns away with a status or page of its own, nothing stored
    #[arg(long = "fault-gateway-refused", env = "SIMULATOR_FAULT_GATEWAY_REFUSED", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub gateway_refused: f64,
    /// Rate of payments that are answered with 500 and an error of the processor's database; half
    /// of them are stored
    #[arg(long = "fault-fail-with-text", env = "SIMULATOR_FAULT_FAIL_WITH_TEXT", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub fail_with_text: f64,
    /// Rate of payments that are slow, whatever else happens to them
    #[arg(long = "fault-slow", env = "SIMULATOR_FAULT_SLOW", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub slow: f64,
    /// How much longer a slow payment takes, in milliseconds
    #[arg(long = "fault-slow-ms", env = "SIMULATOR_FAULT_SLOW_MS", default_value_t = 0, value_name = "MS", help_heading = HEADING)]
    pub slow_ms: u64,
    /// Rate of payments whose reply is followed by another one that nobody asked for, at once or
    /// when the next request comes
    #[arg(long = "fault-unasked", env = "SIMULATOR_FAULT_UNASKED", default_value_t = 0.0, value_name = "RATE", help_heading = HEADING)]
    pub unasked: f64,
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
            ("gatewayGaveUp", self.gateway_gave_up),
            ("gatewayRefused", self.gateway_refused),
            ("failWithText", self.fail_with_text),
            ("slow", self.slow),
            ("unasked", self.unasked),
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

    /// Whether any request can meet any of them.
    pub(super) fn touches_requests(&self) -> bool {
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
        let (which, unasked): (usize, f64) = (rng.random_range(0..WHICH), rng.random());
        let stack = [
            (Ending::ReplyLost, self.reply_lost),
            (Ending::RequestLost, self.request_lost),
            (Ending::ReplyHangs, self.reply_hangs),
            (Ending::FailAfter, self.fail_after),
            (Ending::FailBefore, self.fail_before),
            (Ending::TooMany, self.too_many),
            (Ending::GatewayGaveUp, self.gateway_gave_up),
            (Ending::GatewayRefused, self.gateway_refused),
            (Ending::FailWithText, self.fail_with_text),
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
            which,
            unasked: unasked < self.unasked,
        }
    }
}

/// How many of the rates exclude each other.
const ENDINGS: usize = 9;

/// Numbers that choose among the replies of gateways, or those that nobody asked for.
const WHICH: usize = 1 << 16;

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
    GatewayGaveUp,
    GatewayRefused,
    FailWithText,
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) ending: Ending,
    /// A lost connection ends with a reset instead of an orderly close.
    pub(super) reset: bool,
    pub(super) slower: Option<Duration>,
    /// Chooses a reply where there are several.
    pub(super) which: usize,
    /// A reply that nobody asked for follows.
    pub(super) unasked: bool,
}

impl Plan {
    /// Nothing goes wrong.
    pub(super) const SMOOTH: Self = Self {
        ending: Ending::Answered,
        reset: false,
        slower: None,
        which: 0,
        unasked: false,
    };
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

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
