//! Our side: what the database has of payments, and what is written there.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::PgPool;
use uuid::Uuid;

use super::ask::Charge;
use super::report::{Archived, Difference, Finding, Ours, Report, Scope};
use crate::pipeline::restored::BACKUP_AGE_LIMIT;
use crate::processors::RECORD_TIME_LIMIT;
use crate::store::database::interval;

/// Payments that are read from the database at a time.
pub const PAGE: i64 = 500;

/// Our side of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) correlation_id: Uuid,
    /// None, as `accepted_at`, of one that we do not have.
    pub(super) amount: Option<Decimal>,
    pub(super) accepted_at: Option<DateTime<Utc>>,
    pub(super) ours: Ours,
    /// The processor that has charged it, or may have, as far as we know.
    pub(super) processor: Option<String>,
    /// Of a settled one.
    pub(super) requested_at: Option<DateTime<Utc>>,
}

/// The processors that the database knows. Payments may be at any of them.
pub(super) async fn known_processors(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT processor AS "processor!" FROM processor_fee
        UNION SELECT processor FROM processor_health
        UNION SELECT processor FROM payment_rollup WHERE unit = 'hour' AND requests <> 0
        UNION SELECT processor FROM payment_archived_hour WHERE requests <> 0
        UNION SELECT processor FROM payment_dead_letter
        ORDER BY 1"#
    )
    .fetch_all(pool)
    .await
}

/// What is archived of hours that the range has a part of.
pub(super) async fn archived(pool: &PgPool, scope: &Scope) -> Result<Archived, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT coalesce(sum(requests), 0)::bigint AS "payments!", coalesce(sum(amount),
            0) AS "amount!"
        FROM payment_archived_hour
        WHERE starts_at > coalesce($1::timestamptz, '-infinity') - interval '1 hour'
            AND starts_at <= coalesce($2::timestamptz, 'infinity')"#,
        scope.from,
        scope.to
    )
    .fetch_one(pool)
    .await?;
    Ok(Archived {
        payments: row.payments,
        amount: row.amount,
    })
}

/// About how many payments there are to compare.
pub(super) async fn about(pool: &PgPool, scope: &Scope) -> Result<u64, sqlx::Error> {
    let settled = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(requests), 0)::bigint AS "settled!" FROM payment_rollup
        WHERE unit = 'minute' AND starts_at > coalesce($1::timestamptz,
            '-infinity') - interval '1 minute'
            AND starts_at <= coalesce($2::timestamptz, 'infinity')"#,
        scope.from,
        scope.to
    )
    .fetch_one(pool)
    .await?;
    Ok(settled.unsigned_abs())
}

/// The next settled payments after that one.
pub(super) async fn settled(
    pool: &PgPool,
    scope: &Scope,
    after: Option<(DateTime<Utc>, Uuid)>,
) -> Result<Vec<Row>, sqlx::Error> {
    let (after, after_id) = after.unzip();
    let rows = sqlx::query!(
        "SELECT correlation_id, amount, accepted_at, processor, requested_at FROM payment_processed
        WHERE requested_at >= coalesce($1::timestamptz, '-infinity')
            AND requested_at <= coalesce($3::timestamptz, 'infinity')
            AND (requested_at, correlation_id) > (coalesce($1::timestamptz, '-infinity'), $2)
        ORDER BY requested_at, correlation_id LIMIT $4",
        after.or(scope.from),
        after_id.unwrap_or_default(),
        scope.to,
        PAGE
    )
    .fetch_all(pool)
    .await?;
    let rows = rows.into_iter().map(|row| Row {
        correlation_id: row.correlation_id,
        amount: Some(row.amount),
        accepted_at: Some(row.accepted_at),
        ours: Ours::Settled,
        processor: Some(row.processor),
        requested_at: Some(row.requested_at),
    });
    Ok(rows.collect())
}

/// The next payments after that id that nobody works on now. Those in flight have not been decided
/// yet.
pub(super) async fn open(
    pool: &PgPool,
    scope: &Scope,
    after: Uuid,
) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT correlation_id AS "correlation_id!", amount AS "amount!",
            accepted_at AS "accepted_at!", processor,
            dead AS "dead!"
        FROM (
            SELECT correlation_id, amount, accepted_at, processor, false AS dead
            FROM payment_queue WHERE lease_until <= now()
            UNION ALL
            SELECT correlation_id, amount, accepted_at, processor, true FROM payment_dead_letter
        ) AS open
        WHERE correlation_id > $1
            AND accepted_at BETWEEN coalesce($2::timestamptz, '-infinity')
                AND coalesce($3::timestamptz, 'infinity')
        ORDER BY correlation_id LIMIT $4"#,
        after,
        scope.from,
        scope.to,
        PAGE
    )
    .fetch_all(pool)
    .await?;
    let rows = rows.into_iter().map(|row| Row {
        correlation_id: row.correlation_id,
        amount: Some(row.amount),
        accepted_at: Some(row.accepted_at),
        ours: if row.dead { Ours::Dead } else { Ours::Queued },
        processor: row.processor,
        requested_at: None,
    });
    Ok(rows.collect())
}

/// Our side of some ids.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// What is to be compared, payments that we do not have included, in the order of the ids.
    pub(super) rows: Vec<Row>,
    /// Payments that a worker holds, each with the processor that it holds it for. They have not
    /// been decided yet.
    pub(super) in_flight: Vec<(Uuid, String)>,
    pub(super) archived: Archived,
}

/// Our side of those ids, of each in the table that counts: a row of the queue whose payment is
/// settled is a leftover.
pub(super) async fn given(pool: &PgPool, ids: &[Uuid]) -> Result<Given, sqlx::Error> {
    let found = sqlx::query!(
        r#"SELECT DISTINCT ON (correlation_id) correlation_id AS "id!", place AS "place!",
            amount AS "amount!", accepted_at,
            processor, requested_at
        FROM (
            SELECT correlation_id, 1 AS place, amount, accepted_at, processor, requested_at
            FROM payment_processed WHERE correlation_id = ANY ($1)
            UNION ALL SELECT correlation_id, 2, amount, NULL, NULL, NULL
            FROM payment_archived WHERE correlation_id = ANY ($1)
            UNION ALL SELECT correlation_id, 3, amount, accepted_at, processor, NULL
            FROM payment_dead_letter WHERE correlation_id = ANY ($1)
            UNION ALL SELECT correlation_id, CASE WHEN lease_until <= now() THEN 4 ELSE 5 END,
                amount, accepted_at,
                processor, NULL
            FROM payment_queue WHERE correlation_id = ANY ($1)
        ) AS ours ORDER BY correlation_id, place"#,
        ids
    )
    .fetch_all(pool)
    .await?;
    let mut found: HashMap<Uuid, _> = found.into_iter().map(|row| (row.id, row)).collect();
    let mut given = Given::default();
    for id in ids {
        let mut row = Row {
            correlation_id: *id,
            amount: None,
            accepted_at: None,
            ours: Ours::Unknown,
            processor: None,
            requested_at: None,
        };
        if let Some(ours) = found.remove(id) {
            row.ours = match ours.place {
                1 => Ours::Settled,
                2 => {
                    given.archived.payments += 1;
                    given.archived.amount += ours.amount;
                    continue;
                }
                3 => Ours::Dead,
                4 => Ours::Queued,
                _ => {
                    let processor = ours.processor.unwrap_or_else(|| "any".to_owned());
                    given.in_flight.push((*id, processor));
                    continue;
                }
            };
            row.amount = Some(ours.amount);
            row.accepted_at = ours.accepted_at;
            row.processor = ours.processor;
            row.requested_at = ours.requested_at;
        }
        given.rows.push(row);
    }
    Ok(given)
}

/// Records the charge of a payment that was in none of our tables. When the payment was accepted is
/// not known, at the latest when it was charged. So the processor's `requestedAt` stands for that.
/// It must be at most [`BACKUP_AGE_LIMIT`] before this moment, and [`RECORD_TIME_LIMIT`] after it.
///
/// What the transaction must keep:
/// - It puts a row into the queue first: an accept of this id waits for that row until the commit,
///   and finds the payment recorded then. No claim can see the row.
/// - It gives up if the queue has a row: whatever queued the payment decides about it.
/// - It records by a second statement, which sees what was committed before the row was there.
/// - The last look is by `processor` and `requested_at`: an attempt whose commit was not confirmed
///   may have recorded the same charge.
///
/// Twins: `accept_payment` and `settle_payments`. Returns whether it is recorded so.
pub(super) async fn record(pool: &PgPool, id: Uuid, charge: &Charge) -> Result<bool, sqlx::Error> {
    let Some(amount) = charge.amount else {
        return Ok(false);
    };
    let mut transaction = pool.begin().await?;
    let reserved = sqlx::query!(
        "INSERT INTO payment_queue (correlation_id, amount, accepted_at) VALUES ($1, $2, now())
        ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO NOTHING",
        id,
        amount
    )
    .execute(&mut *transaction)
    .await?;
    if reserved.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!(
        "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
            accepted_at, attempt)
        SELECT $1, $2, $3, $4, least($4, now()), 0
        WHERE $4::timestamptz BETWEEN now() - $5::interval AND now() + $6::interval
            AND NOT EXISTS (SELECT FROM payment_dead_letter WHERE correlation_id = $1)
            AND NOT EXISTS (SELECT FROM payment_archived WHERE correlation_id = $1)
        ON CONFLICT ON CONSTRAINT payment_processed_pkey DO NOTHING",
        id,
        amount,
        charge.processor,
        charge.requested_at,
        interval(BACKUP_AGE_LIMIT.to_std().expect("it is positive")),
        interval(RECORD_TIME_LIMIT.to_std().expect("it is positive"))
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!("DELETE FROM payment_queue WHERE correlation_id = $1", id)
        .execute(&mut *transaction)
        .await?;
    let is_recorded = sqlx::query_scalar!(
        r#"SELECT EXISTS (
            SELECT FROM payment_processed WHERE correlation_id = $1 AND processor = $2
                AND requested_at = $3
        ) AS "is_recorded!""#,
        id,
        charge.processor,
        charge.requested_at
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(is_recorded)
}

/// Records the one charge that there is. Returns false where a worker has taken the payment up in
/// the meantime, or where the charge is too far from it.
///
/// What the statement must keep:
/// - It is one statement: the payment stays in exactly one table.
/// - `lease_until <= now()` is the fence of the row. It may wait for a claim, and PostgreSQL then
///   checks the lease again; a claim that committed keeps its payment.
/// - No `attempt`: what all processors say of a payment counts more than the end of any claim.
/// - `FOR UPDATE` of the ledger row: it waits for an archive that is taking the row out, and does
///   not record the payment again then.
/// - It records only what left the queue or the dead letters by it, or is in the ledger: a payment
///   that a settle has moved since the snapshot is left as the settle recorded it.
///
/// Twins: `settle_payments`, and `decide_in_doubt` for an operator's word.
pub(super) async fn put_right(
    pool: &PgPool,
    row: &Row,
    charge: &Charge,
) -> Result<bool, sqlx::Error> {
    let written = sqlx::query!(
        "WITH near AS (
            SELECT $4::timestamptz AS requested_at WHERE $4 BETWEEN $5::timestamptz - $6::interval
                AND now() + $6
        ), unqueued AS (
            DELETE FROM payment_queue WHERE correlation_id = $1 AND lease_until <= now()
                AND EXISTS (SELECT FROM near)
            RETURNING attempt
        ), revived AS (
            DELETE FROM payment_dead_letter WHERE correlation_id = $1 AND EXISTS (SELECT FROM near)
            RETURNING attempt
        ), recorded AS (
            -- Not one that `archive` is taking out at this moment.
            SELECT attempt FROM payment_processed WHERE correlation_id = $1 FOR UPDATE
        ), ours AS (
            SELECT attempt FROM unqueued UNION ALL SELECT attempt
                FROM revived UNION ALL SELECT attempt FROM recorded
        )
        INSERT INTO payment_processed AS p (correlation_id, amount, processor, requested_at,
            accepted_at, attempt)
        SELECT $1, $2, $3, near.requested_at, $5, ours.attempt FROM ours, near LIMIT 1
        ON CONFLICT ON CONSTRAINT payment_processed_pkey
        DO UPDATE SET processor = excluded.processor, requested_at = excluded.requested_at",
        row.correlation_id,
        row.amount,
        charge.processor,
        charge.requested_at,
        row.accepted_at,
        interval(RECORD_TIME_LIMIT.to_std().expect("it is positive"))
    )
    .execute(pool)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// Leaves what was found of payments that were compared just now, and nothing else of them.
pub(super) async fn leave_findings(
    pool: &PgPool,
    compared: &[Uuid],
    findings: &[&Finding],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = findings.iter().map(|each| each.correlation_id).collect();
    let kinds: Vec<String> = findings
        .iter()
        .map(|each| each.difference.kind().to_owned())
        .collect();
    let recorded: Vec<Option<String>> = findings.iter().map(|each| each.recorded.clone()).collect();
    let charged: Vec<String> = findings
        .iter()
        .map(|each| each.difference.charged_by().join(" "))
        .collect();
    let details: Vec<String> = findings
        .iter()
        .map(|each| each.difference.to_string())
        .collect();
    sqlx::query!(
        "WITH settled AS (
            DELETE FROM reconcile_finding WHERE correlation_id = ANY ($1)
                AND correlation_id <> ALL ($2)
        )
        INSERT INTO reconcile_finding (correlation_id, kind, recorded_by, charged_by, detail)
        -- No name of a processor has white space.
        SELECT f.id, f.kind, f.recorded_by, string_to_array(f.charged_by, ' '), f.detail
        FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[])
            AS f (id, kind, recorded_by, charged_by, detail)
        ON CONFLICT ON CONSTRAINT reconcile_finding_pkey DO UPDATE
        SET kind = excluded.kind, recorded_by = excluded.recorded_by,
            charged_by = excluded.charged_by,
            detail = excluded.detail, found_at = excluded.found_at",
        compared,
        &ids,
        &kinds,
        &recorded as &[Option<String>],
        &charged,
        &details
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Leaves what the run came to.
pub(super) async fn leave_run(
    pool: &PgPool,
    began_at: DateTime<Utc>,
    scope: &Scope,
    report: &Report,
) -> Result<(), sqlx::Error> {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let totals = report.totals.iter().filter(|each| each.charged.is_ok());
    let totals: Vec<String> = totals.map(|each| each.processor.clone()).collect();
    let repaired = report.findings.iter().filter(|each| each.repaired).count();
    sqlx::query!(
        "INSERT INTO reconcile_run
            (began_at, from_time, to_time, compared, differ, repaired, not_known, archived,
                totals_differ)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        began_at,
        scope.from,
        scope.to,
        count(report.compared),
        count(report.findings.len() as u64),
        count(repaired as u64),
        count(report.payments_not_known),
        report.archived.payments,
        &totals
    )
    .execute(pool)
    .await?;
    Ok(())
}

impl Difference {
    /// What differs, as `reconcile_finding` has it.
    fn kind(&self) -> &'static str {
        match self {
            Self::ChargedTwice { .. } => "charged twice",
            Self::NotCharged => "not charged",
            Self::NotRecorded { .. } => "not recorded",
            Self::OtherProcessor { .. } => "other processor",
            Self::OtherStamp { .. } => "other requested_at",
            Self::OtherAmount { .. } => "other amount",
        }
    }

    /// The processors that have the payment.
    fn charged_by(&self) -> Vec<String> {
        match self {
            Self::ChargedTwice { processors } => processors.clone(),
            Self::NotCharged => Vec::new(),
            Self::NotRecorded { processor }
            | Self::OtherProcessor { processor }
            | Self::OtherStamp { processor, .. }
            | Self::OtherAmount { processor, .. } => vec![processor.clone()],
        }
    }
}
