//! How many payments this instance has accepted, by hour, until the database has them in `payment_accepted_hour`.
//!
//! An auditor compares them with what became of them. They are kept here and added once a second, because a statement
//! more for each payment would cost more than the count is worth. What an instance has counted less than a second
//! before it is killed is not counted: then the database has more payments than were counted, and never fewer.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use rust_decimal::Decimal;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::store::database::within;

/// The time between two additions.
pub const TALLY_INTERVAL: Duration = Duration::from_secs(1);

/// Number and sum by hour.
type Hours = BTreeMap<DateTime<Utc>, (i64, Decimal)>;

/// What is not added yet.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Hours>);

impl Tally {
    /// The commit of one more payment was confirmed, which was accepted at that moment by the database's clock.
    pub(super) fn add(&self, accepted_at: DateTime<Utc>, amount: Decimal) {
        self.add_all([(accepted_at, (1, amount))]);
    }

    fn add_all(&self, counted: impl IntoIterator<Item = (DateTime<Utc>, (i64, Decimal))>) {
        let mut hours = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (time, (payments, amount)) in counted {
            let hour = time.duration_trunc(TimeDelta::hours(1)).unwrap_or(time);
            let total = hours.entry(hour).or_default();
            total.0 += payments;
            total.1 += amount;
        }
    }

    /// Adds what was counted to the database.
    ///
    /// # Errors
    /// The database did not confirm. What it refused is added the next time; what it may have added is not, because
    /// a payment that is counted twice would seem to be missing.
    pub async fn flush(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let counted = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if counted.is_empty() {
            return Ok(());
        }
        let hours: Vec<DateTime<Utc>> = counted.keys().copied().collect();
        let (counts, amounts): (Vec<i64>, Vec<Decimal>) = counted.values().copied().unzip();
        let mut sent = false;
        let added = within(async {
            let mut connection = pool.acquire().await?;
            sent = true;
            sqlx::query!(
                "SELECT count_accepted($1, $2, $3) IS NULL AS added",
                &hours,
                &counts,
                &amounts
            )
            .fetch_one(&mut *connection)
            .await
        });
        match added.await {
            Ok(_) => Ok(()),
            Err(error) => {
                // A statement that ended with an error of its own has not been committed.
                let refused = error.as_database_error().is_some_and(|error| {
                    let code = error.code().unwrap_or_default();
                    !code.starts_with("08") && !code.starts_with("57P")
                });
                if refused || !sent {
                    self.add_all(counted);
                } else {
                    let payments: i64 = counts.iter().sum();
                    tracing::warn!(payments, error = %error, "accepted payments may not be counted for audit.balance");
                }
                Err(error)
            }
        }
    }

    /// Adds again and again, until the stop.
    pub async fn run(&self, pool: &PgPool, stop: CancellationToken) {
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
