//! How many payments this instance has accepted, by hour, until the database has them in
//! `payment_accepted_hour`.
//!
//! An auditor compares them with what became of them. They are kept here and added once a second,
//! because a statement more for each payment would cost more than the count is worth. What an
//! instance has counted less than a second before it is killed is not counted: then the database
//! has more payments than were counted, and never fewer.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::store::database::Pool;

/// The time between two additions.
pub(crate) const TALLY_INTERVAL: Duration = Duration::from_secs(1);

/// Number and sum by hour.
type Hours = BTreeMap<DateTime<Utc>, (i64, Decimal)>;

/// What is not added yet.
#[derive(Debug)]
pub struct Tally {
    /// Names this counter in the database.
    counter: Uuid,
    counted: Mutex<Hours>,
    /// Held by whoever adds.
    batch: tokio::sync::Mutex<Batch>,
}

/// The batch that is being added. One whose commit was not confirmed is tried again under its
/// number, until it is known to be in the database, where it is added once.
#[derive(Debug, Default)]
struct Batch {
    number: i64,
    hours: Hours,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            counter: Uuid::new_v4(),
            counted: Mutex::default(),
            batch: tokio::sync::Mutex::default(),
        }
    }
}

impl Tally {
    /// The commit of one more payment was confirmed, which was accepted at that moment by the
    /// database's clock.
    pub(super) fn add(&self, accepted_at: DateTime<Utc>, amount: Decimal) {
        let hour = accepted_at
            .duration_trunc(TimeDelta::hours(1))
            .unwrap_or(accepted_at);
        let mut hours = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let total = hours.entry(hour).or_default();
        total.0 += 1;
        total.1 += amount;
    }

    /// Adds what was counted to the database.
    ///
    /// # Errors
    /// The database did not confirm. The same is added the next time, and counts once.
    pub async fn flush(&self, pool: &Pool) -> Result<(), sqlx::Error> {
        let mut batch = self.batch.lock().await;
        if batch.hours.is_empty() {
            let counted = &mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            if counted.is_empty() {
                return Ok(());
            }
            batch.hours = std::mem::take(counted);
            batch.number += 1;
        }
        let hours: Vec<DateTime<Utc>> = batch.hours.keys().copied().collect();
        let (counts, amounts): (Vec<i64>, Vec<Decimal>) = batch.hours.values().copied().unzip();
        pool.with_deadline(
            sqlx::query!(
                "SELECT count_accepted($1, $2, $3, $4, $5) IS NULL AS added",
                self.counter,
                batch.number,
                &hours,
                &counts,
                &amounts
            )
            .fetch_one(&**pool),
        )
        .await?;
        batch.hours.clear();
        Ok(())
    }

    /// Adds again and again, until the stop.
    pub async fn run(&self, pool: &Pool, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TALLY_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.flush(pool).await {
                // Those who accept say what is wrong with the database.
                tracing::debug!(error = %error, "accepted payments are not counted yet");
            }
        }
    }
}
