//! The statements, as functions of the tables: each is one transaction. The simulation against the
//! real database (`tests/simulation`) executes the same statements and compares the tables.

use crate::guard::Guard;
use crate::protocol::Config;
use crate::state::{
    Assigned, Charge, Claim, Db, DeadLetter, Earlier, Era, FAR, Open, Outcome, Row, Tables,
};

/// What a claim has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The row after it.
    pub row: Row,
    /// What is known of earlier attempts.
    pub earlier: Option<u8>,
}

/// What came of a decision of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It is done.
    Done,
    /// Nothing is: why.
    Refused,
}

impl Db {
    fn of(&mut self, payment: u8) -> &mut Tables {
        &mut self.payments[usize::from(payment)]
    }

    /// `accept_payment`, after its look: queues a payment that no table has, claimed for a
    /// processor or not.
    pub fn accept(
        &mut self,
        config: &Config,
        payment: u8,
        amount: u8,
        claimed_for: Option<(u8, u8)>,
    ) -> Row {
        self.last_id += 1;
        let times = config.times;
        let row = Row {
            id: self.last_id,
            amount,
            attempt: u8::from(claimed_for.is_some()),
            lease: claimed_for.map_or(0, |_| times.lease),
            accepted: self.era(config),
            assigned: claimed_for.map(|(processor, requested_at)| Assigned {
                processor,
                requested_at,
                doubt: times.longest_doubt(),
            }),
        };
        self.of(payment).row = Some(row);
        row
    }

    /// When a payment is accepted that is accepted now.
    fn era(&self, config: &Config) -> Era {
        let doubt = config.times.longest_doubt();
        match self.since {
            _ if self.life == 0 => Era::Later,
            since if since < doubt => Era::WithinOneDoubt,
            since if since < 2 * doubt => Era::WithinTwo,
            _ => Era::Later,
        }
    }

    /// Whether a claim of queued payments finds this one.
    #[must_use]
    pub fn is_queued(&self, config: &Config, payment: u8) -> bool {
        self.payments[usize::from(payment)].row.is_some_and(|row| {
            (row.assigned.is_none() || !config.keeps(Guard::QueuedOnly)) && row.lease == 0
        })
    }

    /// `claim_queued`, of one payment. Removes the row of one that is settled or dead.
    pub fn claim_queued(
        &mut self,
        config: &Config,
        payment: u8,
        processor: u8,
        requested_at: u8,
    ) -> Option<Taken> {
        let times = config.times;
        let tables = self.of(payment);
        if tables.has_ended() && config.keeps(Guard::ClaimLooksIntoLedger) {
            tables.row = None;
            return None;
        }
        let row = tables.row.as_mut()?;
        row.attempt += u8::from(config.keeps(Guard::AttemptGrows));
        row.lease = times.lease;
        row.assigned = config
            .keeps(Guard::ClaimWritesEvidence)
            .then_some(Assigned {
                processor,
                requested_at,
                doubt: times.longest_doubt(),
            });
        Some(Taken {
            row: *row,
            earlier: None,
        })
    }

    /// Whether a claim of payments in doubt finds this one.
    #[must_use]
    pub fn is_in_doubt(&self, config: &Config, payment: u8) -> bool {
        self.payments[usize::from(payment)].row.is_some_and(|row| {
            let ended = match row.lease {
                0 => config.keeps(Guard::LeaseEnds),
                FAR => config.keeps(Guard::LeaseOfTheFuture),
                _ => false,
            };
            row.assigned.is_some() && ended
        })
    }

    /// `claim_in_doubt`, of one payment. `otherwise` is the processor and the `requested_at` of a
    /// claim that keeps neither.
    pub fn claim_in_doubt(
        &mut self,
        config: &Config,
        payment: u8,
        otherwise: (u8, u8),
    ) -> Option<Taken> {
        let times = config.times;
        let row = self.of(payment).row.as_mut()?;
        let assigned = row.assigned.as_mut()?;
        let earlier = assigned.doubt.min(times.longest_doubt());
        row.attempt += u8::from(config.keeps(Guard::AttemptGrows));
        row.lease = times.lease;
        if config.keeps(Guard::ClaimBeginsDoubt) {
            assigned.doubt = times.longest_doubt();
        }
        if !config.keeps(Guard::SameProcessorInDoubt) {
            assigned.processor = otherwise.0;
        }
        if !config.keeps(Guard::SameRequestedAtInDoubt) {
            assigned.requested_at = otherwise.1;
        }
        Some(Taken {
            row: *row,
            earlier: Some(earlier),
        })
    }

    /// `settle_payments`, of one payment.
    pub fn settle(&mut self, config: &Config, payment: u8, charge: Charge) {
        if self.remove_charged(config, payment, charge.processor) {
            self.record_charge(payment, charge);
        }
    }

    /// Removes the row of a payment that this processor has charged. False where the charge is not
    /// to be recorded.
    pub(crate) fn remove_charged(&mut self, config: &Config, payment: u8, processor: u8) -> bool {
        let tables = self.of(payment);
        let assigned = tables.row.and_then(|row| row.assigned);
        let is_its_own = assigned.is_some_and(|assigned| assigned.processor == processor);
        if is_its_own {
            tables.row = None;
        }
        is_its_own || config.keeps(Guard::ChargeIsAFact)
    }

    pub(crate) fn record_charge(&mut self, payment: u8, charge: Charge) {
        self.of(payment).ledger.get_or_insert(charge);
    }

    /// The row of a claim, if the fence of `release` and `dead_letter` lets its outcome through:
    /// that of its newest claim, or of any where that guard is taken away.
    fn fenced(&mut self, config: &Config, claim: &Claim, newest: Guard) -> Option<&mut Row> {
        let row = self.of(claim.payment).row.as_mut()?;
        let requested_at = row.assigned.map(|assigned| assigned.requested_at);
        let is_its_attempt = requested_at == Some(claim.requested_at)
            || !config.keeps(Guard::ReleaseOfItsAttempt)
            || !config.keeps(Guard::ClaimWritesEvidence);
        let is_newest = row.attempt == claim.attempt || !config.keeps(newest);
        (row.id == claim.id && is_its_attempt && is_newest).then_some(row)
    }

    /// `release`, of one claim. False where the database refuses it: the row would have half of the
    /// evidence.
    #[must_use]
    pub fn release(&mut self, config: &Config, claim: &Claim, in_doubt: Option<bool>) -> bool {
        let Some(row) = self.fenced(config, claim, Guard::ReleaseOfNewestClaim) else {
            return true;
        };
        row.lease = 0;
        match (in_doubt, row.assigned.as_mut()) {
            (None, _) => row.assigned = None,
            (Some(anew), Some(assigned)) => {
                assigned.doubt = match claim.earlier {
                    Some(earlier) if !anew => earlier.doubt,
                    _ => config.times.late,
                };
            }
            (Some(_), None) => return false,
        }
        true
    }

    /// `dead_letter`, of one claim.
    pub fn dead_letter(&mut self, config: &Config, claim: &Claim, held: bool) {
        let Some(row) = self.fenced(config, claim, Guard::DeadLetterOfNewestClaim) else {
            return;
        };
        let Row {
            amount,
            attempt,
            accepted,
            assigned,
            ..
        } = *row;
        let assigned = assigned.filter(|_| held);
        let held = assigned.map(|it| (it.processor, it.requested_at));
        let tables = self.of(claim.payment);
        tables.row = None;
        tables.dead.get_or_insert(DeadLetter {
            amount,
            attempt,
            accepted,
            held,
        });
    }

    /// `record`, of one outcome. False where the database refuses it.
    #[must_use]
    pub fn record(&mut self, config: &Config, claim: &Claim, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Charged { requested_at } => {
                let charge = Charge {
                    requested_at,
                    ..claim.charge()
                };
                self.settle(config, claim.payment, charge);
                true
            }
            Outcome::NotCharged => self.release(config, claim, None),
            Outcome::InDoubt { anew } => self.release(config, claim, Some(anew)),
            Outcome::Dead { held } => {
                self.dead_letter(config, claim, held);
                true
            }
        }
    }

    /// `assign`, after each processor was asked.
    pub fn assign(&mut self, claim: &Claim, processor: u8, requested_at: u8) {
        let row = self.of(claim.payment).row.as_mut();
        if let Some(row) = row.filter(|row| (row.id, row.attempt) == (claim.id, claim.attempt))
            && let Some(assigned) = row.assigned.as_mut()
            && assigned.requested_at == claim.requested_at
        {
            (assigned.processor, assigned.requested_at) = (processor, requested_at);
        }
    }

    /// `retry`, of one dead letter.
    pub fn retry(&mut self, config: &Config, payment: u8) {
        let id = self.last_id + 1;
        let tables = self.of(payment);
        let Some(dead) = tables.dead.take() else {
            return;
        };
        let held = dead.held.filter(|_| config.keeps(Guard::RetryKeepsHolder));
        let assigned = held.map(|(processor, requested_at)| Assigned {
            processor,
            requested_at,
            doubt: FAR,
        });
        match tables.row.as_mut() {
            Some(row) => row.assigned = assigned,
            None => {
                tables.row = Some(Row {
                    id,
                    amount: dead.amount,
                    attempt: dead.attempt,
                    lease: 0,
                    accepted: dead.accepted,
                    assigned,
                });
                self.last_id = id;
            }
        }
    }

    /// `decide_in_doubt`, of one payment, under the `requested_at` of its row or another one.
    pub fn decide_in_doubt(
        &mut self,
        config: &Config,
        payment: u8,
        charged_at: Option<u8>,
    ) -> Word {
        let tables = self.of(payment);
        let (Some(row), None) = (tables.row.as_mut(), tables.ledger) else {
            return Word::Refused;
        };
        let Some(assigned) = row.assigned else {
            return Word::Refused;
        };
        if row.lease > 0 {
            return Word::Refused;
        }
        if let Some(requested_at) = charged_at {
            let (processor, amount) = (assigned.processor, row.amount);
            tables.row = None;
            tables.ledger = Some(Charge {
                processor,
                requested_at,
                amount,
            });
            return Word::Done;
        }
        if assigned.doubt > 0 && config.keeps(Guard::WordWaitsForDoubt) {
            return Word::Refused;
        }
        row.assigned = None;
        row.attempt += u8::from(config.keeps(Guard::WordCountsOn));
        Word::Done
    }

    /// `put_back_payments`, of one payment.
    pub fn put_back(&mut self, config: &Config, payment: u8, open: Open) {
        let id = self.last_id + 1;
        let times = config.times;
        let Open {
            attempt,
            amount,
            claimed,
        } = open;
        let jumps = claimed.is_some() && config.keeps(Guard::PutBackCountsOn);
        let attempt = attempt + if jumps { config.put_back_jump } else { 0 };
        let tables = self.of(payment);
        if tables.has_ended() {
            tables.row = None;
            return;
        }
        let assigned = claimed.map(|claimed| Assigned {
            processor: claimed.processor,
            requested_at: claimed.requested_at,
            doubt: times.longest_doubt(),
        });
        match tables.row.as_mut() {
            None => {
                let lease = if assigned.is_some() { times.lease } else { 0 };
                let accepted = Era::WithinOneDoubt;
                tables.row = Some(Row {
                    id,
                    amount,
                    attempt,
                    lease,
                    accepted,
                    assigned,
                });
                self.last_id = id;
            }
            Some(row) => {
                let newest = row.assigned.map(|assigned| assigned.requested_at);
                let yields = newest > assigned.map(|assigned| assigned.requested_at)
                    && config.keeps(Guard::PutBackYields);
                if assigned.is_some() && !yields && config.keeps(Guard::PutBackOverPosted) {
                    row.lease = times.lease;
                    row.attempt = row.attempt.max(attempt);
                    row.assigned = assigned;
                }
            }
        }
    }

    /// A tick of the clock.
    pub(crate) fn tick(&mut self, longest_doubt: u8) {
        for row in self.payments.iter_mut().flat_map(|tables| &mut tables.row) {
            pass(&mut row.lease);
            row.assigned
                .iter_mut()
                .for_each(|assigned| pass(&mut assigned.doubt));
        }
        if self.life > 0 && !self.is_unnoticed {
            self.since = (self.since + 1).min(2 * longest_doubt);
        }
        pass(&mut self.died);
    }

    /// The clock is set forward beyond everything, or back before everything.
    pub(crate) fn set_clock(&mut self, forward: bool) {
        let rows = self.payments.iter_mut().flat_map(|tables| &mut tables.row);
        for row in rows {
            if let Some(assigned) = row.assigned.as_mut() {
                let left = if forward { 0 } else { FAR };
                (row.lease, assigned.doubt) = (left, left);
            }
        }
    }
}

/// What is known of earlier attempts, of a claim in doubt.
#[must_use]
pub fn earlier(doubt: u8, is_proof: bool) -> Earlier {
    Earlier {
        doubt,
        over: doubt == 0 && is_proof,
    }
}

/// Lets a tick go by of what is left of a time.
pub(crate) fn pass(left: &mut u8) {
    if *left != FAR {
        *left = left.saturating_sub(1);
    }
}
