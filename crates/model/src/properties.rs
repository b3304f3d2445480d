//! What must hold in every state, with the names that `docs/guarantees.md` and `docs/protocol.md`
//! use.

use stateright::Property;

use crate::healing;
use crate::protocol::{Durability, Protocol};
use crate::state::{PAYMENTS, PROCESSORS, State};

/// A property of all states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// No two processors have charged one payment.
    NeverChargedTwice,
    /// What the ledger has, its processor has, too, to the amount and the `requested_at`.
    RecordedIsCharged,
    /// A table or a processor has no other amount than the client was told is accepted.
    OtherAmountChangesNothing,
    /// A payment that a client was told is accepted is in a table, at any moment.
    AcceptedIsInATable,
    /// Whatever a processor has stored, or may yet store, is in the ledger or beside the payment.
    EveryChargeIsKnown,
    /// Once nothing goes wrong any more, all that was accepted is settled or a dead letter.
    AcceptedEnds,
    /// and what is not was reported as lost.
    LostIsReported,
    /// Once nothing goes wrong any more, what a processor has charged is in the ledger.
    ChargedIsRecorded,
    /// There is no outcome that the database refuses for ever.
    OutcomesCanBeRecorded,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NeverChargedTwice,
        Self::RecordedIsCharged,
        Self::OtherAmountChangesNothing,
        Self::AcceptedIsInATable,
        Self::EveryChargeIsKnown,
        Self::AcceptedEnds,
        Self::LostIsReported,
        Self::ChargedIsRecorded,
        Self::OutcomesCanBeRecorded,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NeverChargedTwice => "never charged twice",
            Self::RecordedIsCharged => "recorded is charged, with that processor and requested_at",
            Self::OtherAmountChangesNothing => "one id with another amount changes nothing",
            Self::AcceptedIsInATable => "accepted is in a table at any moment",
            Self::EveryChargeIsKnown => "every charge is known before it is made",
            Self::AcceptedEnds => "accepted ends settled or as a dead letter",
            Self::LostIsReported => "what is lost is reported",
            Self::ChargedIsRecorded => "charged is recorded",
            Self::OutcomesCanBeRecorded => "every outcome can be recorded",
        }
    }

    /// Whether it is promised of this queue.
    #[must_use]
    pub fn is_promised(self, durability: Durability) -> bool {
        match self {
            Self::OtherAmountChangesNothing
            | Self::AcceptedIsInATable
            | Self::EveryChargeIsKnown
            | Self::AcceptedEnds => durability == Durability::Logged,
            Self::LostIsReported => durability == Durability::Unlogged,
            _ => true,
        }
    }

    /// Whether it holds.
    #[must_use]
    pub fn holds(self, protocol: &Protocol, state: &State) -> bool {
        match self {
            Self::NeverChargedTwice => {
                (0..PAYMENTS).all(|payment| {
                    let records = state.processors.iter().filter(|of| of[payment].is_some());
                    records.count() < 2 || state.ghost.excused[payment]
                }) && healing::of(protocol, state).charged_once
            }
            Self::RecordedIsCharged => (0..).zip(&state.db.payments).all(|(payment, tables)| {
                tables.ledger.is_none_or(|charge| {
                    let record = state.record(charge.processor, payment);
                    record.is_some_and(|record| {
                        (record.requested_at, record.amount) == (charge.requested_at, charge.amount)
                    })
                })
            }),
            Self::OtherAmountChangesNothing => (0..PAYMENTS).all(|payment| {
                state.told[payment].is_none_or(|told| {
                    let tables = &state.db.payments[payment];
                    let records = state.processors.iter().filter_map(|of| of[payment]);
                    tables.row.is_none_or(|row| row.amount == told)
                        && tables.ledger.is_none_or(|charge| charge.amount == told)
                        && tables.dead.is_none_or(|dead| dead.amount == told)
                        && records.into_iter().all(|record| record.amount == told)
                })
            }),
            Self::AcceptedIsInATable => (0..PAYMENTS).all(|payment| {
                state.told[payment].is_none() || state.db.payments[payment].has_it()
            }),
            Self::EveryChargeIsKnown => every_charge_is_known(state),
            Self::AcceptedEnds => healing::of(protocol, state).accepted_ends,
            Self::LostIsReported => healing::of(protocol, state).lost_is_reported,
            Self::ChargedIsRecorded => healing::of(protocol, state).charged_is_recorded,
            Self::OutcomesCanBeRecorded => !state.ghost.unrecordable,
        }
    }
}

fn every_charge_is_known(state: &State) -> bool {
    let is_known = |payment: usize, charge: (u8, u8)| {
        let tables = &state.db.payments[payment];
        let row = tables.row.and_then(|row| row.assigned);
        row.is_some_and(|row| (row.processor, row.requested_at) == charge)
            || tables
                .ledger
                .is_some_and(|it| (it.processor, it.requested_at) == charge)
            || tables.dead.is_some_and(|dead| dead.held == Some(charge))
    };
    let stored = (0..PROCESSORS as u8).all(|processor| {
        (0..PAYMENTS as u8).all(|payment| {
            state.record(processor, payment).is_none_or(|record| {
                is_known(usize::from(payment), (processor, record.requested_at))
            })
        })
    });
    stored
        && state.open_requests().all(|(payment, charge)| {
            is_known(
                usize::from(payment),
                (charge.processor, charge.requested_at),
            )
        })
}

/// What is checked of each state.
type Condition = fn(&Protocol, &State) -> bool;

/// The properties that are promised of such a queue, for the model checker. It keeps the last state
/// that it finds in which one does not hold; so after the first one each counts as holding.
pub(crate) fn of(durability: Durability) -> Vec<Property<Protocol>> {
    macro_rules! conditions {
        ($($rule:ident),+) => {
            [$((Rule::$rule, |protocol: &Protocol, state: &State| {
                protocol.holds_or_broke_before(Rule::$rule, state)
            })),+]
        };
    }
    let conditions: [(Rule, Condition); 9] = conditions![
        NeverChargedTwice,
        RecordedIsCharged,
        OtherAmountChangesNothing,
        AcceptedIsInATable,
        EveryChargeIsKnown,
        AcceptedEnds,
        LostIsReported,
        ChargedIsRecorded,
        OutcomesCanBeRecorded
    ];
    let promised = conditions
        .into_iter()
        .filter(|(rule, _)| rule.is_promised(durability));
    promised
        .map(|(rule, condition)| Property::always(rule.name(), condition))
        .collect()
}
