//! The verdict: what is wrong with the facts. Pure, so that it can be tested to notice everything.

use std::collections::{HashMap, HashSet};
use std::fmt;

use uuid::Uuid;

use super::facts::{Facts, Recorded};
use super::processor::Stored;

/// Payments that are named for one kind of finding; of the rest only the number is told.
const NAMED: usize = 20;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What, in the words of a report.
    pub kind: &'static str,
    /// How often.
    pub count: usize,
    /// The first of them.
    named: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}", self.count, self.kind, self.named)
    }
}

/// The kind of a payment that was accepted, and stands nowhere.
pub const LOST: &str = "accepted and lost";
/// The kind of a payment that more than one processor has, or one has twice.
pub const TWICE: &str = "charged twice";

/// Compares what clients, ledger and processors say, payment by payment. An empty list: nothing is
/// wrong.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |kind, what: Vec<String>| {
        if !what.is_empty() {
            findings.push(Finding {
                kind,
                count: what.len(),
                named: what[..what.len().min(NAMED)].join("; "),
            });
        }
    };
    let recorded_payments: HashMap<Uuid, &Recorded> = facts
        .recorded_payments
        .iter()
        .map(|recorded| (recorded.correlation_id, recorded))
        .collect();
    let dead: HashSet<Uuid> = facts.dead.iter().map(|row| row.correlation_id).collect();
    let queued: HashSet<Uuid> = facts.queue.iter().map(|row| row.correlation_id).collect();
    let mut charges: HashMap<Uuid, Vec<(&str, &Stored)>> = HashMap::new();
    for (name, stored) in &facts.processors {
        for payment in stored {
            let charge = (name.as_str(), payment);
            charges
                .entry(payment.correlation_id)
                .or_default()
                .push(charge);
        }
    }

    let accepted = facts.clients.iter().filter(|(_, known)| known.accepted);
    let lost = accepted.filter(|(id, _)| {
        !recorded_payments.contains_key(*id) && !dead.contains(*id) && !queued.contains(*id)
    });
    found(
        LOST,
        lost.map(|(id, known)| format!("{id} {known:?}")).collect(),
    );
    let twice = charges.iter().filter(|(_, charges)| charges.len() > 1);
    found(
        TWICE,
        twice
            .map(|(id, charges)| format!("{id} {charges:?}"))
            .collect(),
    );
    let unrecorded_ids = charges
        .iter()
        .filter(|(id, _)| !recorded_payments.contains_key(*id));
    found(
        "charged and not in the ledger",
        unrecorded_ids
            .map(|(id, charges)| format!("{id} {charges:?}"))
            .collect(),
    );
    let uncharged = recorded_payments.values().filter(|recorded| {
        !charges
            .get(&recorded.correlation_id)
            .is_some_and(|charges| charges.iter().any(|(name, _)| *name == recorded.processor))
    });
    found(
        "in the ledger and not charged there",
        uncharged.map(|recorded| format!("{recorded:?}")).collect(),
    );
    let differing = recorded_payments.values().filter_map(|recorded| {
        let charges = charges.get(&recorded.correlation_id)?;
        let (_, charge) = charges
            .iter()
            .find(|(name, _)| *name == recorded.processor)?;
        let same = charge.amount == recorded.amount && charge.requested_at == recorded.requested_at;
        (!same).then(|| format!("{recorded:?} {charge:?}"))
    });
    found("recorded otherwise than charged", differing.collect());
    let otherwise = recorded_payments.values().filter_map(|recorded| {
        match facts.clients.get(&recorded.correlation_id) {
            Some(known) if known.amount() == recorded.amount => None,
            known => Some(format!("{recorded:?} {known:?}")),
        }
    });
    found("recorded otherwise than posted", otherwise.collect());
    let both = facts.dead.iter().chain(&facts.queue);
    let both = both.filter(|row| recorded_payments.contains_key(&row.correlation_id));
    found(
        "in two tables",
        both.map(|row| format!("{row:?}")).collect(),
    );
    found(
        "still in the queue",
        facts.queue.iter().map(|row| format!("{row:?}")).collect(),
    );
    // No processor here ever refuses a payment for good.
    found(
        "in the dead letters",
        facts.dead.iter().map(|row| format!("{row:?}")).collect(),
    );
    found("answered wrongly", facts.wrong_replies.clone());
    findings
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use rust_decimal::Decimal;

    use super::super::facts::Unsettled;
    use super::super::ledger::Known;
    use super::*;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn time(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + millis).expect("a time")
    }

    fn stored(n: u128) -> Stored {
        Stored {
            correlation_id: id(n),
            amount: Decimal::new(1990, 2),
            requested_at: time(1),
        }
    }

    fn known(accepted: bool) -> Known {
        Known {
            cents: 1990,
            accepted,
            posts: 1,
            refused: 0,
            unanswered: u32::from(!accepted),
        }
    }

    /// Payment 1 was accepted; of 2 nobody knows, and it was not.
    fn sound() -> Facts {
        Facts {
            clients: [(id(1), known(true)), (id(2), known(false))].into(),
            recorded_payments: vec![Recorded {
                correlation_id: id(1),
                amount: Decimal::new(1990, 2),
                processor: "default".to_owned(),
                requested_at: time(1),
            }],
            processors: vec![
                ("default".to_owned(), vec![stored(1)]),
                ("fallback".to_owned(), Vec::new()),
            ],
            ..Facts::default()
        }
    }

    fn unsettled(n: u128) -> Unsettled {
        Unsettled {
            correlation_id: id(n),
            amount: Decimal::new(1990, 2),
            detail: "why".to_owned(),
        }
    }

    #[track_caller]
    fn finds(expected: &[&str], change: impl FnOnce(&mut Facts)) {
        let mut facts = sound();
        change(&mut facts);
        let findings = judge(&facts);
        for (finding, expected) in findings.iter().zip(expected) {
            let finding = finding.to_string();
            assert!(finding.contains(expected), "{finding} for {expected}");
        }
        assert_eq!(findings.len(), expected.len(), "{findings:?}");
    }

    #[test]
    fn sound_facts_are_sound() {
        finds(&[], |_| ());
    }

    #[test]
    fn a_lost_payment_is_noticed() {
        finds(&["1 accepted and lost"], |facts| {
            facts.recorded_payments.clear();
            facts.processors[0].1.clear();
        });
    }

    #[test]
    fn a_payment_charged_twice_is_noticed() {
        finds(&["1 charged twice"], |facts| {
            facts.processors[1].1.push(stored(1));
        });
    }

    #[test]
    fn a_charge_without_a_recording_is_noticed() {
        finds(&["1 charged and not in the ledger"], |facts| {
            facts.processors[1].1.push(stored(2));
        });
    }

    #[test]
    fn a_recording_without_a_charge_is_noticed() {
        finds(&["1 in the ledger and not charged there"], |facts| {
            facts.processors[0].1.clear();
        });
        finds(&["1 in the ledger and not charged there"], |facts| {
            facts.recorded_payments[0].processor = "fallback".to_owned();
        });
    }

    #[test]
    fn another_stamp_or_amount_than_the_processor_has_is_noticed() {
        finds(&["1 recorded otherwise than charged"], |facts| {
            facts.recorded_payments[0].requested_at = time(2);
        });
        finds(&["1 recorded otherwise than charged"], |facts| {
            facts.processors[0].1[0].amount = Decimal::new(1991, 2);
        });
    }

    #[test]
    fn another_amount_than_the_client_posted_is_noticed() {
        finds(&["1 recorded otherwise than posted"], |facts| {
            facts.recorded_payments[0].amount = Decimal::new(1, 2);
            facts.processors[0].1[0].amount = Decimal::new(1, 2);
        });
        finds(&["1 recorded otherwise than posted"], |facts| {
            facts.clients.remove(&id(1));
        });
    }

    #[test]
    fn what_is_left_in_the_queue_or_dead_is_noticed() {
        finds(&["1 still in the queue"], |facts| {
            facts.queue.push(unsettled(2));
        });
        finds(&["1 in two tables", "1 in the dead letters"], |facts| {
            facts.dead.push(unsettled(1));
        });
    }
}
