//! Payments in doubt that the service cannot decide: those at a processor that left `PROCESSORS`,
//! or that never says what it did. An operator asks that processor by other means, and decides by
//! his word.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::lease::INSTANCE_TTL;
use crate::domain::printable::{one_line, printable};
use crate::store::claim::LONGEST_DOUBT_PAUSE;
use crate::store::database::{Pool, interval};
use crate::store::queue_statistics::{CALL_OVERDUE, COUNTED};

/// Payments that are decided in one transaction, at most.
pub(crate) const DECIDED_AT_ONCE: usize = 500;
/// The time between two polls for stranded payments.
pub(crate) const STRANDED_POLL: Duration = Duration::from_secs(10);
/// The least time between two lines of the log about the stranded payments of one processor.
pub(crate) const STRANDED_TOLD: Duration = Duration::from_secs(60);

/// Who decides something, and why, in his own words: printable, and neither is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    name: String,
    reason: String,
}

impl Author {
    /// Who says who he is and why, or does not. What is no visible character becomes a space: it is
    /// shown to others, and the database takes no NUL.
    #[must_use]
    pub fn new(name: &str, reason: &str) -> Self {
        let given = |text: &str, otherwise: &str| match one_line(text).trim() {
            "" => otherwise.to_owned(),
            text => text.to_owned(),
        };
        Self {
            name: given(name, "an operator who gave no name"),
            reason: given(reason, "no reason was given"),
        }
    }

    /// Who.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// A payment in doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InDoubt {
    /// The client's id of the payment.
    pub correlation_id: Uuid,
    /// What was to be charged.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    #[schema(value_type = crate::domain::payment::Amount)]
    pub amount: Decimal,
    /// The processor that may have charged it.
    pub processor: String,
    /// Whether a living instance asks that processor; null where that is not known.
    pub configured: Option<bool>,
    /// The `requestedAt` that it was sent.
    pub requested_at: DateTime<Utc>,
    /// From then on an absence proves that it did not charge.
    pub doubt_until: DateTime<Utc>,
    /// When the payment was accepted.
    pub accepted_at: DateTime<Utc>,
    /// What the last attempt saw; null where its worker died.
    pub reason: Option<String>,
}

/// The oldest payments in doubt, of one processor or of all, among the oldest `among` of the queue
/// or in all of it.
///
/// # Errors
/// The database did not answer.
pub async fn list(
    pool: &PgPool,
    processor: Option<&str>,
    among: Option<i64>,
    limit: i64,
) -> Result<Vec<InDoubt>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let configured = configured(&mut connection).await?;
    let rows = sqlx::query!(
        r#"SELECT q.correlation_id, q.amount, q.processor AS "processor!",
            q.requested_at AS "requested_at!",
            q.doubt_until AS "doubt_until!", q.accepted_at, a.reason AS "reason?"
        FROM (
            SELECT * FROM (SELECT * FROM payment_queue ORDER BY id LIMIT $5) AS oldest
            WHERE processor IS NOT NULL AND ($1::text IS NULL OR processor = $1)
                AND (lease_until <= now() + $3
                    -- Of the future: sent before the clock was set back.
                    OR requested_at NOT BETWEEN now() - $4::interval AND now() + $4::interval)
            ORDER BY id LIMIT $2
        ) AS q LEFT JOIN LATERAL (
            SELECT t.reason FROM payment_attempt t
            WHERE t.correlation_id = q.correlation_id ORDER BY t.last_ended_at DESC LIMIT 1
        ) AS a ON true
        ORDER BY q.id"#,
        processor,
        limit,
        interval(LONGEST_DOUBT_PAUSE),
        interval(CALL_OVERDUE),
        among,
    )
    .fetch_all(&mut *connection)
    .await?;
    let payments = rows.into_iter().map(|row| InDoubt {
        configured: is_configured(configured.as_deref(), &row.processor),
        correlation_id: row.correlation_id,
        amount: row.amount,
        processor: row.processor,
        requested_at: row.requested_at,
        doubt_until: row.doubt_until,
        accepted_at: row.accepted_at,
        reason: row.reason.map(|reason| printable(&reason).collect()),
    });
    Ok(payments.collect())
}

/// The oldest of the payments in doubt that were listed in several cells, at most `limit` of them.
#[must_use]
pub fn oldest(mut listed: Vec<Vec<InDoubt>>, limit: i64) -> Vec<InDoubt> {
    if listed.len() == 1 {
        return listed.swap_remove(0);
    }
    let mut payments: Vec<InDoubt> = listed.into_iter().flatten().collect();
    payments.sort_by_key(|payment| payment.accepted_at);
    payments.truncate(usize::try_from(limit).unwrap_or_default());
    payments
}

/// What an operator knows of payments in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Their processor charged them.
    Charged,
    /// It did not, and never will.
    NotCharged,
}

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decided {
    /// The payment.
    pub correlation_id: Uuid,
    /// `done`, or why not: `unknown`, `queued` (no processor may have charged it), `in_flight` (a
    /// worker holds it), `too early` (a call may still charge it), `out of range` (that
    /// `requestedAt` cannot be), `settled`, `dead`.
    pub outcome: String,
    /// The processor that the decision is about, where the payment is in the queue.
    pub processor: Option<String>,
    /// The `requestedAt` of it; of a charge, the one that is recorded.
    pub requested_at: Option<DateTime<Utc>>,
}

/// Ends payments in doubt on an operator's decision, in the order of their ids: a charge is
/// recorded under the `requestedAt` given, or else the one that was sent; a payment that was not
/// charged is free for any processor. Nothing is done with `dry_run`.
///
/// `decide_in_doubt` (in `migrations`) lists what it must keep.
///
/// # Errors
/// The database did not confirm. What was decided before is decided; doing it again is safe.
pub async fn decide(
    pool: &PgPool,
    payments: &[(Uuid, Option<DateTime<Utc>>)],
    resolution: Resolution,
    author: &Author,
    dry_run: bool,
) -> Result<Vec<Decided>, sqlx::Error> {
    let mut payments = payments.to_vec();
    payments.sort_unstable_by_key(|(id, _)| *id);
    let mut decided = Vec::with_capacity(payments.len());
    for part in payments.chunks(DECIDED_AT_ONCE) {
        let (ids, requested): (Vec<Uuid>, Vec<_>) = part.iter().copied().unzip();
        let rows = sqlx::query_as!(
            Decided,
            r#"SELECT correlation_id AS "correlation_id!", outcome AS "outcome!", processor,
                requested_at
            FROM decide_in_doubt($1, $2, $3, $4, $5, $6)"#,
            &ids,
            &requested as &[Option<DateTime<Utc>>],
            resolution == Resolution::Charged,
            author.name(),
            author.reason(),
            dry_run
        )
        .fetch_all(pool)
        .await?;
        decided.extend(rows);
    }
    Ok(decided)
}

/// The processors that any living instance is configured with; `None`: not all instances say.
///
/// # Errors
/// The database did not answer.
pub async fn configured(connection: &mut PgConnection) -> Result<Option<Vec<String>>, sqlx::Error> {
    let instances = sqlx::query_scalar!(
        "SELECT processors FROM service_instance
        WHERE seen_at BETWEEN now() - $1::interval AND now() + $1::interval",
        interval(INSTANCE_TTL)
    )
    .fetch_all(connection)
    .await?;
    Ok(of_instances(instances.iter().map(Vec::as_slice)))
}

/// Whether a processor is among those that [`configured`] knows; none where it does not know.
pub(crate) fn is_configured(configured: Option<&[String]>, processor: &str) -> Option<bool> {
    configured.map(|names| names.iter().any(|name| name == processor))
}

/// As [`configured`], of what the living instances said.
pub(crate) fn of_instances<'a>(
    instances: impl Iterator<Item = &'a [String]>,
) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for processors in instances {
        if processors.is_empty() {
            return None;
        }
        names.extend(processors.iter().cloned());
    }
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then_some(names)
}

/// Payments in doubt at processors that no living instance is configured with, among the oldest of
/// the queue: by processor, how many.
///
/// # Errors
/// The database did not answer.
pub async fn stranded(
    connection: &mut PgConnection,
    configured: &[String],
) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT processor AS "processor!", count(*) AS "payments!"
        FROM (SELECT processor FROM payment_queue ORDER BY id LIMIT $1) AS oldest
        WHERE processor IS NOT NULL AND processor <> ALL ($2::text[])
        GROUP BY processor"#,
        COUNTED,
        configured
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.processor, row.payments))
        .collect())
}

/// Logs stranded payments, and that there are none any more, until `stop`.
pub async fn watch(pool: &Pool, stop: CancellationToken) {
    let mut told: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let look = async {
            let mut connection = pool.acquire().await?;
            match configured(&mut connection).await? {
                Some(names) => stranded(&mut connection, &names).await.map(Some),
                None => Ok(None),
            }
        };
        match pool.with_deadline(look).await {
            Ok(Some(stranded)) => tell(&mut told, &stranded, Instant::now()),
            Ok(None) => {}
            // Accept, claim and settle log the outage.
            Err(error) => tracing::debug!(error = %error, "no look for stranded payments"),
        }
        tokio::select! {
            () = tokio::time::sleep(STRANDED_POLL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Logs each processor that is new, or was not logged for [`STRANDED_TOLD`].
fn tell(told: &mut BTreeMap<String, Instant>, stranded: &BTreeMap<String, i64>, now: Instant) {
    told.retain(|processor, _| {
        let lasts = stranded.contains_key(processor);
        if !lasts {
            tracing::info!(
                processor.name = processor,
                "no payment is in doubt there any more"
            );
        }
        lasts
    });
    for (processor, payments) in stranded {
        let due = |at: &Instant| now.duration_since(*at) >= STRANDED_TOLD;
        if told.get(processor).is_none_or(due) {
            told.insert(processor.clone(), now);
            tracing::error!(
                processor.name = processor,
                payments.in_doubt = payments,
                "payments are in doubt at a processor that no living instance has in PROCESSORS; add it again, or ask \
                 it by other means and say so with `payment-proxy in-doubt`"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_of_the_api_has_a_name_and_a_reason_that_can_be_kept() {
        let author = Author::new("", "\0\n\u{202e}");
        assert!(!author.name.is_empty() && author.reason == "no reason was given");
        assert_eq!(Author::new("a\0b", " so ").reason(), "so");
        assert_eq!(Author::new("a\0b", "so").name(), "a b");
    }

    #[test]
    fn a_processor_counts_as_removed_only_where_every_living_instance_says_its_own() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let (both, one, silent) = (names(&["a", "b"]), names(&["a"]), names(&[]));
        let of =
            |instances: &[&Vec<String>]| of_instances(instances.iter().map(|it| it.as_slice()));
        assert_eq!(of(&[&both, &one]), Some(names(&["a", "b"])));
        assert_eq!(of(&[&one]), Some(names(&["a"])));
        assert_eq!(of(&[&one, &silent]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn stranded_payments_are_told_of_once_a_minute_at_most() {
        let (mut told, start) = (BTreeMap::new(), Instant::now());
        let stranded = BTreeMap::from([("old".to_owned(), 3)]);
        tell(&mut told, &stranded, start);
        tell(&mut told, &stranded, start + STRANDED_TOLD - STRANDED_POLL);
        assert_eq!(told["old"], start, "not told again");
        tell(&mut told, &stranded, start + STRANDED_TOLD);
        assert_eq!(told["old"], start + STRANDED_TOLD);
        tell(&mut told, &BTreeMap::new(), start + STRANDED_TOLD);
        assert!(told.is_empty(), "told anew when there are some again");
    }
}
