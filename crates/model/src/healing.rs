//! What becomes of a state once nothing goes wrong any more: instances live and go on where they
//! are, processors answer, and time goes by. There is one next step then, so the end is one state.
//!
//! This is how "ends settled or as a dead letter" is checked: not of runs in which faults go on for
//! ever, which need not end, but of every state that can be reached, from which all has to end once
//! faults do.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::PoisonError;

use crate::protocol::{Action, Durability, Protocol, Work};
use crate::state::{INSTANCES, PAYMENTS, PROCESSORS, Phase, State};

/// Steps after which a deployment with nothing wrong has settled everything.
const STEPS: usize = 300;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Healed {
    pub(crate) accepted_ends: bool,
    pub(crate) lost_is_reported: bool,
    pub(crate) charged_is_recorded: bool,
    pub(crate) charged_once: bool,
}

const WELL: Healed = Healed {
    accepted_ends: true,
    lost_is_reported: true,
    charged_is_recorded: true,
    charged_once: true,
};

/// What becomes of this state. States that are known to end well are remembered: all on the way of
/// one that does do so, too.
pub(crate) fn of(protocol: &Protocol, state: &State) -> Healed {
    let mut way = Vec::new();
    let mut state = *state;
    let ended = loop {
        let print = print(&state);
        if protocol.known_to_heal(print) {
            break WELL;
        }
        way.push(print);
        let Some(action) = next(protocol, &state) else {
            break end(protocol, &state);
        };
        if way.len() > STEPS {
            break Healed {
                accepted_ends: false,
                lost_is_reported: false,
                charged_is_recorded: false,
                ..WELL
            };
        }
        if let Some(after) = protocol.after(&state, action) {
            state = after;
        } else {
            way.pop();
            break end(protocol, &state);
        }
    };
    if ended == WELL {
        protocol
            .heals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(way);
    }
    ended
}

fn print(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// The steps by which a state heals.
#[must_use]
pub fn steps(protocol: &Protocol, state: &State) -> Vec<String> {
    let (mut told, mut state) = (Vec::new(), *state);
    while let Some(action) = next(protocol, &state)
        && told.len() < STEPS
    {
        told.push(action.told(&state));
        let Some(after) = protocol.after(&state, action) else {
            break;
        };
        state = after;
    }
    told
}

fn end(protocol: &Protocol, state: &State) -> Healed {
    let mut ended = WELL;
    for payment in 0..PAYMENTS {
        let tables = &state.db.payments[payment];
        let is_over = state.told[payment].is_none() || tables.has_ended();
        ended.accepted_ends &= is_over && tables.row.is_none();
        ended.lost_is_reported &= is_over || state.ghost.reported;
        let charged = |processor: &usize| state.processors[*processor][payment].is_some();
        let charged: Vec<usize> = (0..PROCESSORS).filter(charged).collect();
        let excused = state.ghost.excused[payment];
        ended.charged_once &= charged.len() < 2 || excused;
        if let [processor] = charged[..] {
            let recorded = tables.ledger.map(|it| it.processor);
            let held = tables.dead.and_then(|dead| dead.held);
            let known = recorded.or(held.map(|(processor, _)| processor));
            ended.charged_is_recorded &= known.is_some_and(|it| usize::from(it) == processor)
                || state.ghost.forgotten[processor][payment]
                || excused;
        }
    }
    if protocol.config.durability == Durability::Unlogged {
        let rows = state.db.payments.iter().any(|tables| tables.row.is_some());
        ended.lost_is_reported &= !rows;
    }
    ended
}

/// The next step, where nothing goes wrong; none when all is done.
fn next(protocol: &Protocol, state: &State) -> Option<Action> {
    let payments = 0..PAYMENTS as u8;
    let waiting = payments
        .clone()
        .find(|it| state.posting[usize::from(*it)].is_some());
    if let Some(payment) = waiting {
        let room = state.claims.iter().any(Option::is_none);
        let claimed =
            state.posting[usize::from(payment)].is_some_and(|it| it.claimed_for.is_some());
        if room || !claimed {
            return Some(Action::Accept {
                payment,
                heard: true,
            });
        }
    }
    for (instance, known) in (0..).zip(&state.instances) {
        if known.life != state.db.life {
            return Some(Action::Notice { instance });
        }
        if (!known.has_put_back || known.late.contains(&true)) && waiting.is_none() {
            return Some(Action::PutBack { instance });
        }
    }
    for (claim, held) in (0..).zip(&state.claims) {
        let Some(held) = held else {
            continue;
        };
        let answered = true;
        return Some(match held.phase {
            Phase::Claimed => Action::Start { claim },
            Phase::Held if Protocol::asks_all(held) => Action::AskAll { claim, answered },
            Phase::Held if held.earlier.is_some() => Action::Ask { claim, answered },
            Phase::Held | Phase::Absent if held.send > 0 => Action::Send { claim },
            Phase::Held | Phase::Absent => Action::NotSent { claim },
            Phase::Out { left: 0 } => Action::GiveUp { claim },
            Phase::Out { .. } => Action::Work {
                claim,
                work: Work::Stores,
            },
            Phase::Replied(_) => Action::Ask { claim, answered },
            Phase::Ended(_) | Phase::Removed { .. } => Action::Record { claim, heard: true },
        });
    }
    for instance in 0..INSTANCES as u8 {
        if protocol.may_gather(state, instance) {
            return Some(Action::Gathered { instance });
        }
    }
    let (instance, processor) = (0, 0);
    if state.instances[0].is_gathering {
        return Some(Action::Tick);
    }
    for payment in payments.clone() {
        if state.db.is_queued(&protocol.config, payment) {
            return Some(Action::ClaimQueued {
                instance,
                processor,
                payment,
            });
        }
        if state.db.is_in_doubt(&protocol.config, payment) {
            return Some(Action::ClaimInDoubt { instance, payment });
        }
    }
    let rows = state.db.payments.iter().any(|tables| tables.row.is_some());
    rows.then_some(Action::Tick)
}
