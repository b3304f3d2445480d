//! What this instance has claimed and not recorded yet.
//!
//! The queue has all of this, too. It is the evidence of what may have been charged where an
//! unlogged queue is emptied, by a crash of the server or a failover to a standby.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::processors::{CompletedClaim, Outcome};
use crate::store::claim::Claim;

/// Claims of this instance, by payment.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<HashMap<Uuid, Claimed>>);

/// What a claim has written into its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// What is charged.
    pub amount: Decimal,
    /// When the payment was accepted.
    pub accepted_at: DateTime<Utc>,
    /// Claims made so far.
    pub attempt: i32,
    /// The processor that may have charged it.
    pub processor: String,
    /// The `requestedAt` that it was sent.
    pub requested_at: DateTime<Utc>,
}

impl InFlight {
    /// A claim was made; nothing of it has been sent yet.
    pub fn add(&self, claim: &Claim) {
        let claimed = Claimed {
            amount: claim.payment.amount,
            accepted_at: claim.accepted_at,
            attempt: claim.attempt,
            processor: claim.processor.clone(),
            requested_at: claim.requested_at,
        };
        self.lock().insert(claim.payment.correlation_id, claimed);
    }

    /// Outcomes were recorded. A newer claim of the same payment stays.
    pub fn recorded(&self, batch: &[CompletedClaim]) {
        let mut claims = self.lock();
        for CompletedClaim { claim, outcome } in batch {
            let id = &claim.payment.correlation_id;
            let is_over = matches!(outcome, Outcome::Charged { .. })
                || claims
                    .get(id)
                    .is_some_and(|newest| newest.attempt <= claim.attempt);
            if is_over {
                claims.remove(id);
            }
        }
    }

    /// Whether this instance has claimed the payment and not recorded the outcome.
    #[must_use]
    pub fn has(&self, correlation_id: &Uuid) -> bool {
        self.lock().contains_key(correlation_id)
    }

    /// All claims whose outcome is not recorded.
    #[must_use]
    pub fn claims(&self) -> Vec<(Uuid, Claimed)> {
        let claims = self.lock();
        claims.iter().map(|(id, it)| (*id, it.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Claimed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
