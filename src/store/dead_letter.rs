//! Dead letters: payments that no processor will take, and what an operator may do with them.

use std::cmp::Reverse;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::printable::printable;
use crate::store::database::interval;
use crate::store::in_doubt::Author;

/// How long a payment whose id was held by a processor stays with it after a retry, whatever it
/// answers.
pub(crate) const HELD_DOUBT: Duration = Duration::from_secs(24 * 60 * 60);

/// A payment that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// The client's id of the payment.
    pub correlation_id: Uuid,
    /// What was to be charged.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    #[schema(value_type = crate::domain::payment::Amount)]
    pub amount: Decimal,
    /// When it was accepted.
    pub accepted_at: DateTime<Utc>,
    /// When it was given up.
    pub died_at: DateTime<Utc>,
    /// Claims made until then.
    pub attempt: i32,
    /// The processor that refused it.
    pub processor: String,
    /// Why.
    pub reason: String,
    /// Set where that processor holds the id, so that a retry asks nobody else.
    pub requested_at: Option<DateTime<Utc>>,
}

/// The newest dead letters, or the one with that id.
///
/// # Errors
/// The database did not answer.
pub async fn list(
    pool: &PgPool,
    id: Option<Uuid>,
    limit: i64,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let mut letters = sqlx::query_as!(
        DeadLetter,
        "SELECT correlation_id, amount, accepted_at, died_at, attempt, processor, reason,
            requested_at
        FROM payment_dead_letter WHERE $1::uuid IS NULL OR correlation_id = $1
        ORDER BY died_at DESC LIMIT $2",
        id,
        limit
    )
    .fetch_all(pool)
    .await?;
    for letter in &mut letters {
        letter.reason = printable(&letter.reason).collect();
    }
    Ok(letters)
}

/// The newest of the dead letters that were listed in several cells, at most `limit` of them.
#[must_use]
pub fn newest(listed: Vec<Vec<DeadLetter>>, limit: i64) -> Vec<DeadLetter> {
    let mut letters: Vec<DeadLetter> = listed.into_iter().flatten().collect();
    letters.sort_by_key(|letter| Reverse(letter.died_at));
    letters.truncate(usize::try_from(limit).unwrap_or_default());
    letters
}

/// Puts dead letters back into the queue, all of them where no ids are given. One whose id is held
/// by its processor goes back in doubt: only that processor is asked (Guard: RetryKeepsHolder).
/// Returns the ids that went back.
///
/// What the statement must keep:
/// - The DELETE is the fence: of two who retry, discard or put right one dead letter the second
///   waits, and finds it gone.
/// - The INSERT is part of the same statement: an accept of the payment waits for the new row.
/// - `attempt` counts on from the claim that ended: that claim is older than every later one.
/// - It does not look into the ledger. The claim of queued payments does, and removes the row of a
///   payment that is settled.
///
/// # Errors
/// The database did not confirm; doing it again is safe.
pub async fn retry(pool: &PgPool, ids: Option<&[Uuid]>) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "WITH revived AS (
            DELETE FROM payment_dead_letter WHERE $1::uuid[] IS NULL OR correlation_id = ANY ($1)
            RETURNING correlation_id, amount, accepted_at, attempt,
                CASE WHEN requested_at IS NOT NULL THEN processor END AS processor, requested_at
        )
        INSERT INTO payment_queue
            (correlation_id, amount, accepted_at, attempt, processor, requested_at, doubt_until)
        SELECT correlation_id, amount, accepted_at, attempt, processor, requested_at,
            CASE WHEN requested_at IS NOT NULL THEN now() + $2::interval END
        FROM revived ORDER BY correlation_id
        -- A payment that was posted again while it died: what is known of it counts.
        ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO UPDATE
        SET processor = excluded.processor, requested_at = excluded.requested_at,
            doubt_until = excluded.doubt_until
        RETURNING correlation_id",
        ids,
        interval(HELD_DOUBT)
    )
    .fetch_all(pool)
    .await
}

/// Forgets dead letters for good, and records who did so and why. Their ids may be posted again.
/// Returns the ids that are gone. Fence: as for [`retry`], the row of the dead letter is deleted.
/// An accept at the same moment still finds the dead letter, as if it had come before.
///
/// # Errors
/// The database did not confirm; doing it again is safe.
pub async fn discard(
    pool: &PgPool,
    ids: &[Uuid],
    author: &Author,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT discard_dead_letters($1, $2, $3) AS "id!""#,
        ids,
        author.name(),
        author.reason()
    )
    .fetch_all(pool)
    .await
}
