//! What this instance knows of payments that are accepted and not settled.
//!
//! The queue has all of this, too. It is what is left of an unlogged queue that a crash of the
//! server, or a failover to a standby, has emptied:
//!
//! - each claim of this instance whose outcome is not recorded: where the payment may have been
//!   charged, and under which `requested_at`;
//! - each payment that this instance left in doubt, for as long as a doubt lasts. Another instance
//!   may have claimed it since, and knows more;
//! - payments that wait: accepted by this instance and not claimed, as far as it knows, or proved
//!   not charged by its claim. At most [`WAITING_KEPT`], since a backlog may be long.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::domain::uptime::Uptime;
use crate::processors::{CompletedClaim, Outcome};
use crate::store::claim::Claim;

/// Waiting payments that one instance remembers, at most: some 5 MB.
pub(crate) const WAITING_KEPT: usize = 50_000;

/// What one instance knows of open payments.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    claimed: HashMap<Uuid, Claimed>,
    waiting: HashMap<Uuid, Waiting>,
    /// Numbers waiting payments in the order in which they came.
    next: u64,
    /// Payments that wait and are not kept, since the queue was last known to hold none.
    not_kept: usize,
    /// Of a queue that is gone, and learnt of after the others were put back.
    late: Vec<Uuid>,
}

/// What a claim has written into its row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claimed {
    amount: Decimal,
    accepted_at: DateTime<Utc>,
    attempt: i32,
    processor: String,
    requested_at: DateTime<Utc>,
    /// The outcome is recorded and leaves the payment in doubt, since then.
    left_at: Option<Uptime>,
    /// The claim was made in a queue that was gone before anything was sent.
    is_stale: bool,
    /// It was put back into another queue than that of the claim, in doubt. Whatever ends the claim
    /// without a charge ends nothing there.
    is_put_back: bool,
}

/// A payment that waits in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    number: u64,
    amount: Decimal,
    accepted_at: DateTime<Utc>,
    attempt: i32,
}

/// A payment that an instance puts back into a queue that was emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutBack {
    /// The client's id of the payment.
    pub correlation_id: Uuid,
    /// What is charged.
    pub amount: Decimal,
    /// When the payment was accepted.
    pub accepted_at: DateTime<Utc>,
    /// Claims made so far.
    pub attempt: i32,
    /// The processor that may have charged it, and the `requestedAt` that it was sent; `None`: this
    /// instance knows of no claim that may have charged it.
    pub evidence: Option<(String, DateTime<Utc>)>,
}

/// How many open payments an instance knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenPayments {
    /// Claims whose outcome is not recorded.
    pub claimed: usize,
    /// Payments that were left in doubt.
    pub in_doubt: usize,
    /// Payments that wait.
    pub waiting: usize,
    /// Payments that wait, and are not remembered.
    pub not_kept: usize,
}

impl InFlight {
    /// Claims were made; nothing of them has been sent yet.
    pub fn add_all(&self, claims: &[Claim]) {
        let mut open = self.lock();
        for claim in claims {
            open.add(claim);
        }
    }

    /// Claims were made in a queue that was then found emptied, and nothing of them will be sent.
    /// What is known of a payment that may have been charged stays.
    pub fn add_stale(&self, claims: &[Claim]) {
        let mut open = self.lock();
        for claim in claims {
            if !open.claimed.contains_key(&claim.payment.correlation_id) {
                open.add(claim);
            }
        }
    }

    /// The claim was made in a queue that is gone, and nothing is sent.
    pub fn note_stale(&self, claim: &Claim) {
        if let Some(claimed) = self.lock().claimed.get_mut(&claim.payment.correlation_id) {
            claimed.is_stale |= claimed.attempt == claim.attempt && claimed.is_of_call(claim);
        }
    }

    /// Payments of this instance wait in the queue: id, amount, time of acceptance.
    pub fn wait(&self, payments: impl Iterator<Item = (Uuid, Decimal, DateTime<Utc>)>) {
        let mut open = self.lock();
        for (id, amount, accepted_at) in payments {
            open.wait(id, amount, accepted_at, 0);
        }
    }

    /// Marks this moment for [`none_waits`](Self::none_waits).
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.lock().next
    }

    /// A claim found that no payment waits in the queue any more of those that did at the mark.
    pub(crate) fn none_waits(&self, mark: u64) {
        let mut open = self.lock();
        if open.waiting.is_empty() && open.not_kept == 0 {
            return;
        }
        open.waiting.retain(|_, waiting| waiting.number >= mark);
        open.not_kept = 0;
    }

    /// Outcomes were recorded. A newer claim of the same payment stays.
    pub fn recorded(&self, batch: &[CompletedClaim], now: Uptime) {
        let mut open = self.lock();
        for CompletedClaim { claim, outcome } in batch {
            let id = &claim.payment.correlation_id;
            let Some(newest) = open.claimed.get_mut(id) else {
                continue;
            };
            let is_newest = newest.attempt <= claim.attempt;
            match outcome {
                Outcome::Charged { .. } => {
                    open.claimed.remove(id);
                }
                // A processor that was asked before the charge may have another `requested_at`.
                Outcome::Dead { .. } if is_newest && !newest.is_put_back => {
                    open.claimed.remove(id);
                }
                Outcome::Dead { .. } if is_newest => newest.left_at = Some(now),
                _ if !is_newest || !newest.is_of_call(claim) => {}
                Outcome::NotCharged { .. } if !newest.is_put_back => open.release(*id),
                // Guard: LeftInDoubtIsKept.
                _ => newest.left_at = Some(now),
            }
        }
    }

    /// Forgets payments that were left in doubt for longer than `doubt` before the queue was last
    /// known to be the same: another instance has claimed them since.
    pub fn forget(&self, doubt: Duration, known_at: Uptime) {
        let mut open = self.lock();
        open.claimed
            .retain(|_, claimed| claimed.left_at.is_none_or(|at| known_at.since(at) <= doubt));
    }

    /// Whether this instance has claimed the payment and not recorded the outcome.
    #[must_use]
    pub fn has(&self, correlation_id: &Uuid) -> bool {
        let open = self.lock();
        let claimed = open.claimed.get(correlation_id);
        claimed.is_some_and(|claimed| claimed.left_at.is_none())
    }

    /// How many open payments this instance knows.
    #[must_use]
    pub fn known(&self) -> OpenPayments {
        let open = self.lock();
        let left = open.claimed.values().filter(|it| it.left_at.is_some());
        let in_doubt = left.count();
        OpenPayments {
            claimed: open.claimed.len() - in_doubt,
            in_doubt,
            waiting: open.waiting.len(),
            not_kept: open.not_kept,
        }
    }

    /// All payments, which are to be put back, in the order of their ids.
    #[must_use]
    pub fn all(&self) -> Vec<PutBack> {
        let open = &mut *self.lock();
        open.late.clear();
        let claimed = open.claimed.iter_mut().map(|(id, it)| {
            it.is_put_back = true;
            it.put_back(*id)
        });
        let waiting = open.waiting.iter().map(|(id, it)| it.put_back(*id));
        let mut all: Vec<PutBack> = claimed.chain(waiting).collect();
        all.sort_unstable_by_key(|it| it.correlation_id);
        all
    }

    /// Those that were learnt of since [`all`](Self::all).
    #[must_use]
    pub fn late(&self) -> Vec<PutBack> {
        let mut open = self.lock();
        let late = std::mem::take(&mut open.late);
        let waiting = late
            .iter()
            .filter_map(|id| Some(open.waiting.get(id)?.put_back(*id)));
        waiting.collect()
    }

    /// These could not be put back, and are to be tried again.
    pub(crate) fn not_put_back(&self, late: &[PutBack]) {
        let ids = late.iter().map(|it| it.correlation_id);
        self.lock().late.extend(ids);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn add(&mut self, claim: &Claim) {
        let claimed = Claimed {
            amount: claim.payment.amount,
            accepted_at: claim.accepted_at,
            attempt: claim.attempt,
            processor: claim.processor.clone(),
            requested_at: claim.requested_at,
            left_at: None,
            is_stale: false,
            is_put_back: false,
        };
        let id = claim.payment.correlation_id;
        if !self.waiting.is_empty() {
            self.waiting.remove(&id);
        }
        self.claimed.insert(id, claimed);
    }

    fn wait(&mut self, id: Uuid, amount: Decimal, accepted_at: DateTime<Utc>, attempt: i32) {
        // It was claimed before its commit was heard of here.
        if self.claimed.contains_key(&id) {
            return;
        }
        if self.waiting.len() == WAITING_KEPT {
            self.not_kept += 1;
            return;
        }
        let waiting = Waiting {
            number: self.next,
            amount,
            accepted_at,
            attempt,
        };
        self.next += 1;
        self.waiting.insert(id, waiting);
    }

    /// The newest claim of a payment is proved not to have charged it.
    fn release(&mut self, id: Uuid) {
        let Some(claimed) = self.claimed.remove(&id) else {
            return;
        };
        self.wait(id, claimed.amount, claimed.accepted_at, claimed.attempt);
        if claimed.is_stale {
            self.late.push(id);
        }
    }
}

impl Claimed {
    /// Whether that claim sends the same call. The numbers of claims begin anew in another queue.
    fn is_of_call(&self, claim: &Claim) -> bool {
        self.requested_at == claim.requested_at && self.processor == claim.processor
    }

    fn put_back(&self, correlation_id: Uuid) -> PutBack {
        PutBack {
            correlation_id,
            amount: self.amount,
            accepted_at: self.accepted_at,
            attempt: self.attempt,
            evidence: Some((self.processor.clone(), self.requested_at)),
        }
    }
}

impl Waiting {
    fn put_back(&self, correlation_id: Uuid) -> PutBack {
        PutBack {
            correlation_id,
            amount: self.amount,
            accepted_at: self.accepted_at,
            attempt: self.attempt,
            evidence: None,
        }
    }
}

impl OpenPayments {
    /// Payments that were accepted and not settled, as far as the instance knows.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.claimed + self.in_doubt + self.waiting + self.not_kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::payment::Payment;

    fn claim(id: Uuid, attempt: i32) -> Claim {
        Claim {
            id: 1,
            payment: Payment {
                correlation_id: id,
                amount: Decimal::ONE,
                traceparent: None,
            },
            accepted_at: DateTime::UNIX_EPOCH,
            attempt,
            processor: "default".to_owned(),
            requested_at: DateTime::UNIX_EPOCH,
            send_by: Uptime::now(),
            earlier: None,
        }
    }

    fn ended(id: Uuid, attempt: i32, outcome: Outcome) -> CompletedClaim {
        CompletedClaim {
            claim: claim(id, attempt),
            outcome,
        }
    }

    fn free() -> Outcome {
        let reason = "declined".to_owned();
        Outcome::NotCharged { reason }
    }

    fn in_doubt() -> Outcome {
        Outcome::InDoubt {
            until: None,
            reason: "no reply".to_owned(),
        }
    }

    /// Ids of what would be put back, and whether with evidence.
    fn put_back(open: &InFlight) -> Vec<(Uuid, bool)> {
        let open = open.lock();
        let claimed = open.claimed.keys().map(|id| (*id, true));
        let waiting = open.waiting.keys().map(|id| (*id, false));
        let mut all: Vec<_> = claimed.chain(waiting).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn what_waits_is_put_back_without_evidence_until_it_is_claimed_or_none_waits() {
        let (open, now) = (InFlight::default(), Uptime::now());
        let ids = [1, 2, 3].map(Uuid::from_u128);
        let wait = |id: Uuid| open.wait([(id, Decimal::ONE, DateTime::UNIX_EPOCH)].into_iter());
        wait(ids[0]);
        wait(ids[1]);
        let mark = open.mark();
        wait(ids[2]);
        open.add_all(&[claim(ids[0], 1)]);
        // It is heard of late that it was accepted.
        wait(ids[0]);
        let all = [(ids[0], true), (ids[1], false), (ids[2], false)];
        assert_eq!(put_back(&open), all);
        // The claim found none but its own; what came after it began may be there.
        open.none_waits(mark);
        assert_eq!(put_back(&open), [(ids[0], true), (ids[2], false)]);
        open.recorded(&[ended(ids[0], 1, free())], now);
        assert_eq!(put_back(&open), [(ids[0], false), (ids[2], false)]);
        let charged = Outcome::Charged {
            requested_at: DateTime::UNIX_EPOCH,
        };
        open.add_all(&[claim(ids[0], 2)]);
        open.recorded(&[ended(ids[0], 2, charged)], now);
        assert_eq!(put_back(&open), [(ids[2], false)]);
    }

    #[test]
    fn what_is_left_in_doubt_keeps_its_evidence_for_as_long_as_a_doubt_lasts() {
        let (open, now, id) = (InFlight::default(), Uptime::now(), Uuid::from_u128(1));
        let doubt = Duration::from_secs(80);
        open.add_all(&[claim(id, 1)]);
        open.add_all(&[claim(id, 2)]);
        // A newer claim is under way.
        open.recorded(&[ended(id, 1, in_doubt())], now);
        open.forget(doubt, now + doubt * 2);
        assert_eq!((open.known().claimed, open.known().in_doubt), (1, 0));
        open.recorded(&[ended(id, 2, in_doubt())], now);
        open.forget(doubt, now + doubt);
        assert_eq!((open.known().claimed, open.known().in_doubt), (0, 1));
        assert_eq!(put_back(&open), [(id, true)]);
        open.forget(doubt, now + doubt + Duration::from_millis(1));
        assert_eq!(open.known().unsettled(), 0);
    }

    #[test]
    fn a_claim_of_a_queue_that_was_gone_before_it_was_sent_is_put_back_late() {
        let (open, now) = (InFlight::default(), Uptime::now());
        let [id, other] = [1, 2].map(Uuid::from_u128);
        assert!(open.all().is_empty());
        for id in [id, other] {
            open.add_all(&[claim(id, 1)]);
        }
        open.note_stale(&claim(id, 1));
        open.recorded(&[ended(id, 1, free()), ended(other, 1, free())], now);
        let late = open.late();
        assert_eq!(late.len(), 1);
        assert_eq!((late[0].correlation_id, &late[0].evidence), (id, &None));
        assert!(open.late().is_empty());
        open.not_put_back(&late);
        assert_eq!(open.late(), late);
    }

    #[test]
    fn a_claim_of_a_new_queue_that_is_not_sent_takes_no_evidence_away() {
        let (open, now) = (InFlight::default(), Uptime::now());
        let [id, other] = [1, 2].map(Uuid::from_u128);
        open.add_all(&[claim(id, 1)]);
        // The payment was posted again, and the number of its claim is as high or higher.
        for attempt in [1, 2] {
            let elsewhere = Claim {
                processor: "fallback".to_owned(),
                requested_at: DateTime::UNIX_EPOCH + Duration::from_secs(1),
                ..claim(id, attempt)
            };
            open.add_stale(&[elsewhere.clone(), claim(other, attempt)]);
            open.note_stale(&elsewhere);
            let released = CompletedClaim {
                claim: elsewhere,
                outcome: free(),
            };
            open.recorded(&[released], now);
        }
        assert_eq!(put_back(&open), [(id, true), (other, true)]);
        open.recorded(&[ended(id, 1, free())], now);
        assert_eq!(put_back(&open), [(id, false), (other, true)]);
    }

    #[test]
    fn a_backlog_is_remembered_up_to_a_limit_and_the_rest_is_counted() {
        let open = InFlight::default();
        let ids = (0..=WAITING_KEPT).map(|number| Uuid::from_u128(number as u128));
        open.wait(ids.map(|id| (id, Decimal::ONE, DateTime::UNIX_EPOCH)));
        let known = open.known();
        assert_eq!((known.waiting, known.not_kept), (WAITING_KEPT, 1));
        assert_eq!(known.unsettled(), WAITING_KEPT + 1);
        open.none_waits(open.mark());
        assert_eq!(open.known().unsettled(), 0);
    }

    #[test]
    fn what_was_put_back_in_doubt_stays_in_doubt_until_it_is_charged_or_claimed_again() {
        let (open, now, id) = (InFlight::default(), Uptime::now(), Uuid::from_u128(1));
        let dead = || Outcome::Dead {
            reason: "refused".to_owned(),
            held: false,
        };
        for outcome in [free(), in_doubt(), dead()] {
            open.add_all(&[claim(id, 1)]);
            assert_eq!(open.all().len(), 1);
            // It releases no row of the queue that the payment is in now.
            open.recorded(&[ended(id, 1, outcome)], now);
            assert_eq!(put_back(&open), [(id, true)]);
            assert_eq!(open.known().in_doubt, 1);
        }
        open.add_all(&[claim(id, 2)]);
        open.recorded(&[ended(id, 2, free())], now);
        assert_eq!(put_back(&open), [(id, false)], "claimed in that queue");
    }
}
