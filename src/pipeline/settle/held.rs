//! Outcomes that the database has refused to record, kept until it records them.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;
use uuid::Uuid;

use crate::domain::attention::{Attention, Item};
use crate::domain::payment::format_time;
use crate::processors::{CompletedClaim, Outcome};
use crate::store::database::{Condition, Outage, Pool, RETRY_PAUSE, concerns_all};

/// Most outcomes that are kept after the database has refused them. Beyond that no more are taken
/// in: later ones wait in their channel, and when the channel is full nothing more is claimed.
pub(crate) const SETTLE_HELD: usize = 1_024;
/// The longest pause between two attempts to record refused outcomes while others are recorded.
pub(crate) const HELD_PAUSE: Duration = Duration::from_secs(5);
/// The time between two lines in the log about a payment that cannot be recorded.
const NAMED_PAUSE: Duration = Duration::from_secs(60);

/// Outcomes of claims that cannot be recorded at present.
#[derive(Debug)]
pub(super) struct Held {
    ends: VecDeque<CompletedClaim>,
    /// When to try again; none: nothing is held.
    retry_at: Option<Instant>,
    pause: Duration,
    /// The last error concerned all statements.
    away: Outage,
    is_away: bool,
    refused: Outage,
    condition: Condition,
    named_at: Option<Instant>,
}

impl Held {
    pub(super) fn new() -> Self {
        Self {
            ends: VecDeque::new(),
            retry_at: None,
            pause: RETRY_PAUSE,
            away: Outage::new("settle"),
            is_away: false,
            refused: Outage::new("settle"),
            condition: Condition::Failing,
            named_at: None,
        }
    }

    /// When the kept outcomes are to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether more outcomes may be taken in: the database records some, and not too many are kept.
    pub(super) fn has_room(&self) -> bool {
        !self.is_away && self.ends.len() < SETTLE_HELD
    }

    /// Takes out all kept outcomes, to be tried again now.
    pub(super) fn take(&mut self) -> Vec<CompletedClaim> {
        self.ends.drain(..).collect()
    }

    /// Notes that something was recorded.
    pub(super) fn progress(&mut self) {
        self.away.over();
        self.is_away = false;
    }

    /// Keeps outcomes that were not tried: they come first at the next attempt.
    pub(super) fn keep_untried(&mut self, part: Vec<CompletedClaim>) {
        for ended in part.into_iter().rev() {
            if self.is_news(&ended) {
                self.ends.push_front(ended);
            }
        }
    }

    /// Keeps outcomes that the database has refused.
    pub(super) async fn keep(
        &mut self,
        part: Vec<CompletedClaim>,
        error: &sqlx::Error,
        pool: &Pool,
    ) {
        self.is_away = concerns_all(error);
        self.condition = match self.is_away {
            true => self.away.goes_on(error, pool).await,
            false => self.refused.goes_on(error, pool).await,
        };
        let named = self.named_at.is_some_and(|at| at.elapsed() < NAMED_PAUSE);
        if let ([ended], false, false) = (&part[..], self.is_away, named) {
            self.named_at = Some(Instant::now());
            tracing::error!(
                payment.id = %ended.claim.payment.correlation_id,
                processor.name = ended.claim.processor,
                error = %error,
                "what became of this payment cannot be recorded; it is kept; trying again"
            );
        }
        for ended in part {
            if self.is_news(&ended) {
                self.ends.push_back(ended);
            }
        }
    }

    /// Publishes the number of kept outcomes, and plans the next attempt.
    pub(super) fn settle_down(&mut self, unrecorded: &Unrecorded) {
        if self.ends.is_empty() {
            if self.retry_at.take().is_some() {
                self.refused.over();
                self.pause = RETRY_PAUSE;
                self.named_at = None;
                unrecorded.set(None);
            }
            return;
        }
        let now = Instant::now();
        if self.retry_at.is_none_or(|at| at <= now) {
            self.retry_at = Some(now + self.pause);
            self.pause = match self.is_away {
                true => RETRY_PAUSE,
                false => (self.pause * 2).min(HELD_PAUSE),
            };
        }
        unrecorded.set(Some((self.ends.len(), self.condition)));
    }

    /// Whether an outcome is new beside the kept ones. A payment that stays in the queue is claimed
    /// and looked up again and again: a charge is kept once, and of other outcomes the newest.
    fn is_news(&mut self, new: &CompletedClaim) -> bool {
        let Some(old) = self.ends.iter_mut().find(|old| fact(old) == fact(new)) else {
            return true;
        };
        if old.claim.attempt < new.claim.attempt && charged_by(new).is_none() {
            old.clone_from(new);
        }
        false
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for CompletedClaim { claim, outcome } in &self.ends {
            if let Outcome::Charged { requested_at } = outcome {
                tracing::error!(
                    payment.id = %claim.payment.correlation_id,
                    payment.amount = %claim.payment.amount,
                    processor.name = claim.processor,
                    charge.requested_at = %format_time(*requested_at),
                    "charged, and not recorded when the instance ended; its processor is asked \
                    after the lease"
                );
            }
        }
    }
}

/// What identifies the fact in an outcome: the payment, and the processor that has charged it, if
/// any.
fn fact(ended: &CompletedClaim) -> (Uuid, Option<&str>) {
    (ended.claim.payment.correlation_id, charged_by(ended))
}

fn charged_by(ended: &CompletedClaim) -> Option<&str> {
    matches!(ended.outcome, Outcome::Charged { .. }).then_some(&*ended.claim.processor)
}

/// How many outcomes an instance cannot record at present, for its status.
#[derive(Debug)]
pub struct Unrecorded {
    state: Mutex<Option<(usize, Condition)>>,
    gauge: Gauge,
}

impl Unrecorded {
    /// Everything is recorded; `gauge` is the number of outcomes that are not, in all cells.
    pub(super) fn new(gauge: Gauge) -> Self {
        Self {
            state: Mutex::default(),
            gauge,
        }
    }

    /// How many outcomes cannot be recorded, and why not; `None`: everything is recorded.
    #[must_use]
    pub fn now(&self) -> Option<(usize, Condition)> {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The item for operators, if there is one.
    #[must_use]
    pub fn attention(&self) -> Option<Item> {
        let (count, condition) = self.now()?;
        Some(Attention::Unrecorded.item(format!(
            "an instance cannot record what became of {count} payments: {condition}"
        )))
    }

    fn set(&self, state: Option<(usize, Condition)>) {
        let count = |state: Option<(usize, Condition)>| {
            i64::try_from(state.map_or(0, |(count, _)| count)).unwrap_or(i64::MAX)
        };
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Others, which record in other cells, add to it, too.
        self.gauge.inc_by(count(state) - count(*known));
        *known = state;
    }
}
