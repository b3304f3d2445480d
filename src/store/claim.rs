//! Claim: a worker takes payments for the length of a lease. The claim writes down to which
//! processor each payment goes, before the first byte is sent there.
//!
//! While few payments wait, the commit that accepts a payment claims it, too ([`ClaimedFor`], see
//! [`accept`](crate::pipeline::accept)). For all others there are two kinds of claim.
//! [`claim_queued`] takes queued payments, which no processor can have charged, for a processor
//! that the router chose. [`claim_in_doubt`] takes payments in doubt, which one processor may have
//! charged (the worker died, or got no proof), to ask that processor.
//!
//! These statements decide where money goes. What each must keep, and why, stands beside it. Two
//! transactions race for one payment at each of them in `tests/gateway/races`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::PgPool;
use uuid::Uuid;

use crate::domain::lease::LeasePolicy;
use crate::domain::payment::Payment;
use crate::domain::traceparent::Traceparent;
use crate::domain::uptime::Uptime;
use crate::store::clock::{DatabaseClock, WATCH_GAP};
use crate::store::database::{Connections, interval};

/// Payments in one claim, at most, so that one statement is short. How many are claimed is what the
/// router has permits for, which it shares out among the instances that are alive.
pub const CLAIM_BATCH: usize = 390;
/// Payments in doubt in one claim, at most.
pub const IN_DOUBT_BATCH: usize = 64;
/// A payment that is not sent this long after its claim is released instead.
pub const SEND_WITHIN: Duration = Duration::from_secs(3);
/// The pause before a payment in doubt is claimed again, doubled with every attempt.
pub(crate) const FIRST_DOUBT_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
pub const LONGEST_DOUBT_PAUSE: Duration = Duration::from_secs(2);

/// A processor for which payments are claimed by the commit that accepts them.
#[derive(Debug, Clone, Copy)]
pub struct ClaimedFor<'a> {
    /// The only processor that may get them under this claim.
    pub processor: &'a str,
    /// How long the claim lasts.
    pub terms: LeasePolicy,
}

/// A payment that this instance holds until its lease is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The row of the queue.
    pub id: i64,
    /// What is to be charged.
    pub payment: Payment,
    /// When it was accepted.
    pub accepted_at: DateTime<Utc>,
    /// Claims made so far, this one included: the fence of later writes.
    pub attempt: i32,
    /// The only processor that may get it under this claim.
    pub processor: String,
    /// The `requestedAt` that the processor is sent.
    pub requested_at: DateTime<Utc>,
    /// From this moment on it must not be sent any more: others may soon hold it.
    pub send_by: Uptime,
    /// What is known of earlier attempts that were left open, all at the same processor.
    pub earlier: Option<EarlierAttempt>,
}

/// An attempt whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlierAttempt {
    /// From then on (database clock) a 404 of the processor proves that it did not charge.
    pub doubt_until: DateTime<Utc>,
    /// Whether that time had come at the claim, by the database's clock and by this instance's.
    pub over: bool,
}

/// A claimed row, as both statements return it.
struct ClaimRow {
    id: i64,
    correlation_id: Uuid,
    amount: Decimal,
    accepted_at: DateTime<Utc>,
    attempt: i32,
    processor: String,
    requested_at: DateTime<Utc>,
    doubt_until: Option<DateTime<Utc>>,
    /// The time that the statement read, where doubts are compared with it.
    database_now: Option<DateTime<Utc>>,
    traceparent: Option<String>,
    /// Of no interest: where this is not the queue that was expected, there are no rows.
    #[expect(dead_code, reason = "the statement fails otherwise")]
    here: Option<bool>,
}

impl ClaimRow {
    fn held(self, send_by: Uptime, is_over: impl Fn(DateTime<Utc>) -> bool) -> Claim {
        Claim {
            id: self.id,
            payment: Payment {
                correlation_id: self.correlation_id,
                amount: self.amount,
                traceparent: self
                    .traceparent
                    .and_then(|header| Traceparent::read(&header)),
            },
            accepted_at: self.accepted_at,
            attempt: self.attempt,
            processor: self.processor,
            requested_at: self.requested_at,
            send_by,
            earlier: self.doubt_until.map(|doubt_until| EarlierAttempt {
                doubt_until,
                over: is_over(doubt_until),
            }),
        }
    }
}

/// Claims for one processor up to `limit` of the oldest payments that no processor can have
/// charged, from row `from_id` on.
///
/// Rows of payments that are settled, dead or archived already are removed instead.
///
/// # Errors
/// The database did not confirm the claim. What it may have claimed can be claimed again after the
/// lease.
pub async fn claim_queued(
    pool: &impl Connections,
    terms: LeasePolicy,
    processor: &str,
    limit: usize,
    from_id: i64,
) -> Result<Vec<Claim>, sqlx::Error> {
    claim_up_to(i32::MAX, pool, terms, processor, limit, from_id).await
}

/// As [`claim_queued`], of payments that were never claimed before.
///
/// # Errors
/// As for [`claim_queued`].
pub async fn claim_untried(
    pool: &impl Connections,
    terms: LeasePolicy,
    processor: &str,
    limit: usize,
    from_id: i64,
) -> Result<Vec<Claim>, sqlx::Error> {
    claim_up_to(0, pool, terms, processor, limit, from_id).await
}

/// Claims queued payments that were claimed at most `attempts` times before.
///
/// What the statement must keep:
/// - `processor IS NULL` in the query that locks (Guard: QueuedOnly): a payment that a processor
///   may have charged goes to no other one. The snapshot may be older than the claim of another
///   instance; PostgreSQL checks the condition again on the newest version of each row that it
///   locks.
/// - `FOR NO KEY UPDATE` (Guard: RowIsLocked): the row is locked before it is read for the last
///   time. Without it a second claim would wait in its UPDATE, which no longer asks whether the row
///   is queued.
/// - `SKIP LOCKED`: whoever holds the row decides about the payment, and a later claim finds the
///   result. A claim waits for nobody, so the order of its locks cannot cause a deadlock.
/// - `MATERIALIZED`: the query that locks runs once. Otherwise the UPDATE may take more rows than
///   the limit.
/// - One UPDATE writes `processor`, `requested_at`, `attempt`, `lease_until` and `doubt_until`
///   (Guard: ClaimWritesEvidence): a crash right after the commit finds all of the evidence.
/// - `attempt + 1` of the newest version of the row (Guard: AttemptGrows): the fence of release,
///   dead letter and `assign`.
/// - `requested_at` is of `clock_timestamp()` (`claim_moment`), read once, when the rows are
///   locked: a statement that was delayed sends the time of its end. It is in whole milliseconds:
///   what is sent, recorded and added up is one value.
/// - `lease_until` and `doubt_until` (Guard: ClaimBeginsDoubt) count from `now()`, the begin of the
///   transaction by the database's clock. The instance counts `send_by` from an earlier moment,
///   before it sends the statement, so a POST ends before its lease.
/// - The look into ledger, dead letters and archive, in the same snapshot (Guard:
///   ClaimLooksIntoLedger): the row of a payment that is settled must not be charged. The snapshot
///   may miss a charge that commits meanwhile. That is a charge which its processor had denied,
///   since the row names no processor.
/// - The connection is taken before it is asked whether it [leads to the known
///   queue](Connections::leads_to_known_queue) (Guard: ClaimInKnownQueue): a new queue knows
///   nothing yet of what instances have sent.
/// - `check_queue`, behind a pooler in transaction mode: nothing is claimed where another database
///   or another life of the queue is found.
/// - `= ANY (ARRAY(...))`: in a join the planner may choose the wrong outer table and scan it
///   whole.
/// - No VOLATILE function, and none in RETURNING: Citus would take it to pieces, or refuse it.
///
/// Twins: [`claim_in_doubt`]; claim-on-accept in `accept_payment` and `accept_payments`.
async fn claim_up_to(
    attempts: i32,
    pool: &impl Connections,
    terms: LeasePolicy,
    processor: &str,
    limit: usize,
    from_id: i64,
) -> Result<Vec<Claim>, sqlx::Error> {
    let send_by = Uptime::now() + SEND_WITHIN;
    let mut connection = pool.pool().acquire().await?;
    let expected = pool.expected();
    if !pool.leads_to_known_queue() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as!(
        ClaimRow,
        r#"WITH queued AS MATERIALIZED (
            SELECT id, correlation_id FROM payment_queue
            WHERE id >= $3 AND processor IS NULL AND lease_until <= now() AND attempt <= $6
            ORDER BY id LIMIT $2
            FOR NO KEY UPDATE SKIP LOCKED
        ), recorded AS MATERIALIZED (
            SELECT correlation_id FROM payment_processed
            WHERE correlation_id = ANY (ARRAY(SELECT correlation_id FROM queued))
            UNION ALL
            SELECT correlation_id FROM payment_dead_letter
            WHERE correlation_id = ANY (ARRAY(SELECT correlation_id FROM queued))
            UNION ALL
            SELECT correlation_id FROM payment_archived
            WHERE correlation_id = ANY (ARRAY(SELECT correlation_id FROM queued))
        ), removed AS (
            DELETE FROM payment_queue WHERE correlation_id = ANY (ARRAY(SELECT correlation_id
                FROM recorded))
        ), clock AS MATERIALIZED (
            SELECT claim_moment() AS moment
        ), here AS MATERIALIZED (
            SELECT check_queue($7, 'on') AS here
        )
        UPDATE payment_queue
        SET attempt = attempt + 1,
            processor = $1,
            requested_at = (SELECT moment FROM clock),
            lease_until = now() + $4::interval,
            doubt_until = now() + $4::interval + $5::interval
        WHERE id = ANY (ARRAY(
            SELECT q.id FROM queued q
            WHERE NOT EXISTS (SELECT FROM recorded b WHERE b.correlation_id = q.correlation_id)
        ))
        RETURNING id, correlation_id, amount, accepted_at, attempt,
            processor AS "processor!", requested_at AS "requested_at!",
            NULL::timestamptz AS doubt_until, NULL::timestamptz AS database_now, traceparent,
            (SELECT here FROM here) AS here"#,
        processor,
        i64::try_from(limit).unwrap_or(i64::MAX),
        from_id,
        interval(terms.lease),
        interval(terms.late_charge),
        attempts,
        expected.as_deref(),
    )
    .fetch_all(&mut *connection)
    .await?;
    let claims = rows.into_iter().map(|row| row.held(send_by, |_| false));
    Ok(claims.collect())
}

/// Claims payments that one of `processors` may have charged, whose lease or pause is over, up to
/// row `up_to_id`. Processor and `requested_at` stay what they are.
///
/// What the statement must keep:
/// - `processor` and `requested_at` stay as they are (Guard: SameProcessorInDoubt, Guard:
///   SameRequestedAtInDoubt): the retry is the same payment to its processor.
/// - A lease that has ended ends the claim, whoever holds it (Guard: LeaseEnds).
/// - `lease_until <= now()` and `processor = ANY` in the query that locks: PostgreSQL checks both
///   again on the newest version of the row, where another claim, a release or a decision committed
///   after the snapshot.
/// - A lease or a doubt that ends later than one which begins now was written before the database's
///   clock was set back: such a lease has ended (Guard: LeaseOfTheFuture), and such a doubt lasts
///   as long as one that begins now (`least`). [`WATCH_GAP`] allows for leases of statements that
///   began a little later.
/// - The doubt before this claim is returned, from the locked version of the row; the UPDATE begins
///   a new one. `clock` notes the time that the statement read, and says which doubts are over.
/// - No look into the ledger: a row that names a processor goes by the settle for that processor,
///   and this claim sends nothing before it has asked that processor.
/// - As in [`claim_queued`]: `FOR NO KEY UPDATE SKIP LOCKED` in a materialized query, `attempt +
///   1`, times that count from `now()`, and a connection that leads to the known queue.
///
/// Twin: `claim_up_to`, the claim of queued payments.
///
/// # Errors
/// As for [`claim_queued`].
pub async fn claim_in_doubt(
    pool: &impl Connections,
    terms: LeasePolicy,
    clock: &DatabaseClock,
    processors: &[String],
    limit: usize,
    up_to_id: i64,
) -> Result<Vec<Claim>, sqlx::Error> {
    let send_by = Uptime::now() + SEND_WITHIN;
    let mut connection = pool.pool().acquire().await?;
    let expected = pool.expected();
    if !pool.leads_to_known_queue() {
        return Ok(Vec::new());
    }
    let sent_at = tokio::time::Instant::now();
    let rows = sqlx::query_as!(
        ClaimRow,
        r#"WITH in_doubt AS MATERIALIZED (
            SELECT id, least(doubt_until, now() + $3::interval + $4::interval) AS doubt_until
                FROM payment_queue
            WHERE id <= $2 AND processor = ANY ($6)
                AND (lease_until <= now() OR lease_until > now() + $3::interval + $5::interval)
            ORDER BY id LIMIT $1
            FOR NO KEY UPDATE SKIP LOCKED
        ), clock AS MATERIALIZED (
            SELECT now() AS moment
        ), here AS MATERIALIZED (
            SELECT check_queue($7, 'on') AS here
        )
        UPDATE payment_queue q
        SET attempt = q.attempt + 1,
            lease_until = now() + $3::interval,
            doubt_until = now() + $3::interval + $4::interval
        WHERE id = ANY (ARRAY(SELECT id FROM in_doubt))
        RETURNING q.id, q.correlation_id, q.amount, q.accepted_at, q.attempt,
            q.processor AS "processor!", q.requested_at AS "requested_at!",
            (SELECT d.doubt_until FROM in_doubt d WHERE d.id = q.id) AS doubt_until, q.traceparent,
            (SELECT moment FROM clock) AS database_now, (SELECT here FROM here) AS here"#,
        i64::try_from(limit).unwrap_or(i64::MAX),
        up_to_id,
        interval(terms.lease),
        interval(terms.late_charge),
        // Leases of statements that began a little later end later, too.
        interval(WATCH_GAP),
        processors,
        expected.as_deref(),
    )
    .fetch_all(&mut *connection)
    .await?;
    let received_at = tokio::time::Instant::now();
    if let Some(read_at) = rows.first().and_then(|row| row.database_now) {
        clock.observe(sent_at, read_at, received_at);
    }
    let claims = rows.into_iter().map(|row| {
        let read_at = row.database_now;
        row.held(send_by, |doubt_until| {
            read_at.is_some_and(|read_at| clock.is_over(doubt_until, sent_at, read_at))
        })
    });
    Ok(claims.collect())
}

/// The payments with rows between the two of `rows` (without the first) that were claimed for one
/// of `processors` at least `age` ago, and whose lease goes on for longer than a pause of a payment
/// in doubt: in the order of their rows, at most `limit`.
///
/// It claims nothing, so nothing may be sent, and no absence is proof (Guard: AbsenceElsewhere):
/// who holds them may be at it.
///
/// What the statement must keep:
/// - It locks no row: a claim that skips locked rows finds all of them.
/// - A lease that ends later than one which begins now is not of the present
///   ([`claim_in_doubt`]).
///
/// # Errors
/// The database did not answer.
pub async fn held_for(
    pool: &PgPool,
    terms: LeasePolicy,
    age: Duration,
    processors: &[String],
    rows: (i64, i64),
    limit: usize,
) -> Result<Vec<Claim>, sqlx::Error> {
    // Nothing is sent by such a claim, however early.
    let send_by = Uptime::now();
    let rows = sqlx::query_as!(
        ClaimRow,
        r#"SELECT id, correlation_id, amount, accepted_at, attempt, processor AS "processor!",
            requested_at AS "requested_at!", NULL::timestamptz AS doubt_until,
            NULL::timestamptz AS database_now, traceparent, NULL::boolean AS here
        FROM payment_queue
        WHERE id > $1 AND id <= $2 AND processor = ANY ($3)
            AND lease_until > now() + $4::interval
            AND lease_until <= now() + $5::interval - $6::interval
        ORDER BY id LIMIT $7"#,
        rows.0,
        rows.1,
        processors,
        interval(LONGEST_DOUBT_PAUSE),
        interval(terms.lease),
        interval(age),
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
    .fetch_all(pool)
    .await?;
    let claims = rows.into_iter().map(|row| row.held(send_by, |_| false));
    Ok(claims.collect())
}

/// The highest row of the queue, to bound a search for payments in doubt.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn newest_id(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT coalesce(max(id), 0) AS "id!" FROM payment_queue"#)
        .fetch_one(pool)
        .await
}

/// The pause before a payment in doubt is claimed again after `attempt` claims.
#[must_use]
pub(crate) fn doubt_pause(attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt.clamp(1, 16) - 1).unwrap_or_default();
    (FIRST_DOUBT_PAUSE * 2_u32.pow(doublings)).min(LONGEST_DOUBT_PAUSE)
}
