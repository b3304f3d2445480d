//! What the clients know: which payments they posted, and what they were told.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use reqwest::StatusCode;
use rust_decimal::Decimal;
use uuid::Uuid;

/// What became of one post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// A status.
    Status(StatusCode),
    /// No reply, or none in time.
    None,
}

impl Reply {
    /// Whether it promises that the payment will be settled.
    pub fn is_acceptance(self) -> bool {
        matches!(self, Self::Status(status) if status.is_success())
    }
}

/// What is known of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// In cents.
    pub cents: i64,
    /// It got at least one 2xx.
    pub accepted: bool,
    /// How often it was posted.
    pub posts: u32,
    /// How often it was refused.
    pub refused: u32,
    /// How often there was no answer.
    pub unanswered: u32,
}

impl Known {
    /// What has to be charged for it.
    pub fn amount(&self) -> Decimal {
        Decimal::new(self.cents, 2)
    }
}

/// All payments of a round.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    payments: HashMap<Uuid, Known>,
    accepted: Vec<Uuid>,
    complaints: Vec<String>,
}

/// Sums over a ledger.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Payments.
    pub payments: usize,
    /// Payments that got a 2xx.
    pub accepted: usize,
    /// Payments that were refused each time.
    pub refused: usize,
    /// Payments without a 2xx that may have been accepted.
    pub unanswered: usize,
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics under this lock")
    }

    /// A payment is about to be posted.
    pub fn open(&self, id: Uuid, cents: i64) {
        let known = Known {
            cents,
            accepted: false,
            posts: 0,
            refused: 0,
            unanswered: 0,
        };
        self.state().payments.insert(id, known);
    }

    /// A post of a payment ended.
    pub fn reply(&self, id: Uuid, reply: Reply) {
        let state = &mut *self.state();
        let Some(known) = state.payments.get_mut(&id) else {
            return;
        };
        known.posts += 1;
        match reply {
            Reply::None => known.unanswered += 1,
            Reply::Status(status) if status.is_success() => {
                if !known.accepted {
                    state.accepted.push(id);
                }
                known.accepted = true;
            }
            Reply::Status(status) => {
                known.refused += 1;
                if !status.is_server_error() {
                    let complaint = format!("{id}: a sound payment was answered {status}");
                    state.complaints.push(complaint);
                }
            }
        }
    }

    /// A client was answered in a way in which none should be.
    pub fn complain(&self, complaint: String) {
        self.state().complaints.push(complaint);
    }

    /// A post of an accepted payment with another amount ended.
    pub fn reply_to_other_amount(&self, id: Uuid, reply: Reply) {
        let mut state = self.state();
        match reply {
            Reply::Status(status)
                if status != StatusCode::CONFLICT && !status.is_server_error() =>
            {
                let complaint = format!("{id}: another amount for it was answered {status}");
                state.complaints.push(complaint);
            }
            Reply::Status(_) | Reply::None => {}
        }
    }

    /// One of the accepted payments, with its cents.
    pub fn any_accepted(&self, choose: impl FnOnce(usize) -> usize) -> Option<(Uuid, i64)> {
        let state = self.state();
        let count = state.accepted.len();
        let id = *state.accepted.get((count > 0).then(|| choose(count))?)?;
        Some((id, state.payments[&id].cents))
    }

    /// How many payments were accepted so far.
    pub fn accepted(&self) -> usize {
        self.state().accepted.len()
    }

    /// Those that were accepted after the first so many, with their cents.
    pub fn accepted_after(&self, count: usize) -> Vec<(Uuid, i64)> {
        let state = self.state();
        let ids = state.accepted[count..].iter();
        ids.map(|id| (*id, state.payments[id].cents)).collect()
    }

    /// Sums.
    pub fn totals(&self) -> Totals {
        let state = self.state();
        let open = state.payments.values().filter(|known| !known.accepted);
        let (refused, unanswered): (Vec<&Known>, _) = open.partition(|known| known.unanswered == 0);
        Totals {
            payments: state.payments.len(),
            accepted: state.accepted.len(),
            refused: refused.len(),
            unanswered: unanswered.len(),
        }
    }

    /// Everything, and what was answered wrongly.
    pub fn contents(&self) -> (HashMap<Uuid, Known>, Vec<String>) {
        let state = self.state();
        (state.payments.clone(), state.complaints.clone())
    }
}
