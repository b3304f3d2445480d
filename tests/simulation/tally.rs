//! What the sequences came across, so that a run that met nothing cannot pass for one that proved
//! something.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

/// An event worth meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Met {
    Accepted,
    Duplicate,
    Conflict,
    RacedPost,
    ClaimOnArrival,
    FreeClaim,
    DoubtfulClaim,
    SettledAtOnce,
    SettledAfterDoubt,
    FreedAtOnce,
    FreedAfterDoubt,
    LeftInDoubt,
    DeadLetter,
    Revived,
    LateEnd,
    RecordedBefore,
    ChargeAfterItsCall,
    ClaimLost,
    CallLost,
    EndLost,
    NotSentInTime,
    ClockStep,
    StepSeenByClaim,
    FoundElsewhere,
}

/// Those that every run meets often enough not to be missed by chance: all but `Revived`.
const EVENTS: [Met; 23] = [
    Met::Accepted,
    Met::Duplicate,
    Met::Conflict,
    Met::RacedPost,
    Met::ClaimOnArrival,
    Met::FreeClaim,
    Met::DoubtfulClaim,
    Met::SettledAtOnce,
    Met::SettledAfterDoubt,
    Met::FreedAtOnce,
    Met::FreedAfterDoubt,
    Met::LeftInDoubt,
    Met::DeadLetter,
    Met::LateEnd,
    Met::RecordedBefore,
    Met::ChargeAfterItsCall,
    Met::ClaimLost,
    Met::CallLost,
    Met::EndLost,
    Met::NotSentInTime,
    Met::ClockStep,
    Met::StepSeenByClaim,
    Met::FoundElsewhere,
];

/// How often each event was met, over all sequences.
#[derive(Default)]
pub struct Tally(RefCell<BTreeMap<Met, usize>>);

impl Tally {
    pub fn add(&self, met: Met, times: usize) {
        *self.0.borrow_mut().entry(met).or_default() += times;
    }

    /// The events that no sequence came across.
    pub fn never(&self) -> Vec<Met> {
        let met = self.0.borrow();
        let never = |event: &Met| met.get(event).is_none_or(|times| *times == 0);
        EVENTS.into_iter().filter(never).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (met, times) in &*self.0.borrow() {
            write!(f, "{met:?} {times}, ")?;
        }
        Ok(())
    }
}
