//! Accept: a payment is in `payment_queue`, committed, before the client hears 202.
//!
//! All payments that arrive while a commit is under way go into the next one together (group commit):
//! nobody waits when it is calm, and one commit serves hundreds when it is not.

use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;

use rust_decimal::Decimal;
use sqlx::PgPool;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::metrics::COUNTS;
use crate::payment::Payment;
use crate::route::{Event, SharedRouter};

/// Payments in one INSERT, at most.
pub const ACCEPT_BATCH: usize = 500;
/// INSERTs under way at once in one instance.
pub const ACCEPT_WRITERS: usize = 2;
/// Payments that wait for a writer, at most; beyond that clients get 503.
pub const ACCEPT_BACKLOG: usize = 8_192;
/// How often a payment that is neither inserted nor found is looked for again: it was settled, or
/// died, between the two looks.
const LOOKS: usize = 5;

/// What became of a payment that was posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is in the queue now.
    Queued,
    /// The same payment was accepted before; nothing happened.
    Known,
    /// A payment with this id and another amount was accepted before; nothing happened.
    Conflict {
        /// The amount that stands in the books.
        known: Decimal,
    },
}

/// Why a payment was not accepted. It may be posted again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotAccepted {
    /// [`ACCEPT_BACKLOG`] payments wait already.
    #[error("too many payments are waiting to be accepted")]
    Overloaded,
    /// The database did not confirm the payment. It may or may not have it.
    #[error("the database did not confirm the payment: {0}")]
    Database(Arc<sqlx::Error>),
}

struct Posted {
    payment: Payment,
    reply: oneshot::Sender<Result<Accepted, NotAccepted>>,
}

/// Takes payments from the request handlers to the queue.
#[derive(Debug, Clone)]
pub struct Acceptor {
    posted: mpsc::Sender<Posted>,
}

impl Acceptor {
    /// Starts the writers on `tasks`. They end when the last clone of this is dropped.
    #[must_use]
    pub fn start(
        pool: &PgPool,
        tasks: &TaskTracker,
        router: &SharedRouter,
        arrived: &Arc<Notify>,
    ) -> Self {
        let (posted, waiting) = mpsc::channel(ACCEPT_BACKLOG);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..ACCEPT_WRITERS {
            tasks.spawn(write(
                pool.clone(),
                Arc::clone(&waiting),
                router.clone(),
                Arc::clone(arrived),
            ));
        }
        Self { posted }
    }

    /// Accepts one payment.
    ///
    /// # Errors
    /// Where [`NotAccepted`] says so; then nothing is promised to the client.
    pub async fn accept(&self, payment: Payment) -> Result<Accepted, NotAccepted> {
        let (reply, answer) = oneshot::channel();
        self.posted
            .try_send(Posted { payment, reply })
            .map_err(|_| NotAccepted::Overloaded)?;
        answer.await.unwrap_or(Err(NotAccepted::Overloaded))
    }
}

async fn write(
    pool: PgPool,
    waiting: Arc<Mutex<mpsc::Receiver<Posted>>>,
    router: SharedRouter,
    arrived: Arc<Notify>,
) {
    let mut batch = Vec::with_capacity(ACCEPT_BATCH);
    while waiting
        .lock()
        .await
        .recv_many(&mut batch, ACCEPT_BATCH)
        .await
        > 0
    {
        let payments: Vec<Payment> = batch.iter().map(|posted| posted.payment).collect();
        let mut outcome = enqueue(&pool, &payments).await;
        if matches!(outcome, Err(sqlx::Error::Io(_))) {
            // The connection was of a server that restarted since. Doing it again is safe.
            outcome = enqueue(&pool, &payments).await;
        }
        match outcome {
            Ok(outcomes) => {
                let queued = outcomes
                    .iter()
                    .filter(|outcome| **outcome == Accepted::Queued)
                    .count();
                COUNTS.accepted.add_batch(queued);
                router.observe(Event::Arrived {
                    count: u32::try_from(queued).unwrap_or(u32::MAX),
                });
                arrived.notify_one();
                for (posted, outcome) in batch.drain(..).zip(outcomes) {
                    // A client that went away is told nothing; its payment is accepted all the same.
                    let _ = posted.reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                tracing::warn!(accept.refused = batch.len(), error = %error, "payments not accepted");
                let error = Arc::new(error);
                for posted in batch.drain(..) {
                    let _ = posted
                        .reply
                        .send(Err(NotAccepted::Database(Arc::clone(&error))));
                }
            }
        }
    }
}

/// Puts the payments that are new into the queue, in one commit, and says of each what became of it.
///
/// A payment that is being settled at this moment may enter the queue once more; the claim sees that
/// it is settled and removes it. The client hears what stands in the books all the same.
///
/// # Errors
/// The database did not confirm; each payment may or may not be in the queue.
pub async fn enqueue(pool: &PgPool, payments: &[Payment]) -> Result<Vec<Accepted>, sqlx::Error> {
    // In the order of their ids: two instances that insert the same ids wait for each other in the
    // same order, which excludes a deadlock. The first of several with one id is the one that counts.
    let mut open = BTreeMap::new();
    for payment in payments {
        open.entry(payment.correlation_id).or_insert(payment.amount);
    }
    let mut amounts: BTreeMap<Uuid, (Decimal, bool)> = BTreeMap::new();
    for _ in 0..LOOKS {
        let known = insert_new(pool, &open).await?;
        let mut unseen = BTreeMap::new();
        for (id, amount) in open {
            match known.get(&id) {
                None => drop(amounts.insert(id, (amount, true))),
                Some(Some(booked)) => drop(amounts.insert(id, (*booked, false))),
                Some(None) => drop(unseen.insert(id, amount)),
            }
        }
        if !unseen.is_empty() {
            for (id, booked) in find(pool, &unseen).await? {
                unseen.remove(&id);
                amounts.insert(id, (booked, false));
            }
        }
        open = unseen;
        if open.is_empty() {
            break;
        }
    }
    payments
        .iter()
        .map(|payment| match amounts.entry(payment.correlation_id) {
            Entry::Vacant(_) => Err(sqlx::Error::RowNotFound),
            Entry::Occupied(mut entry) => {
                let (booked, new) = *entry.get();
                entry.get_mut().1 = false;
                Ok(match (booked == payment.amount, new) {
                    (true, true) => Accepted::Queued,
                    (true, false) => Accepted::Known,
                    (false, _) => Accepted::Conflict { known: booked },
                })
            }
        })
        .collect()
}

/// Inserts what is in no table yet. Returns the ids that were known, with the amount where they are
/// settled or dead, without it where they are in the queue.
///
/// A payment whose settle commits after this statement began leaves the queue and is not booked in the
/// eyes of the statement, so it is inserted; `booked_now`, called after that, sees it.
async fn insert_new(
    pool: &PgPool,
    payments: &BTreeMap<Uuid, Decimal>,
) -> Result<BTreeMap<Uuid, Option<Decimal>>, sqlx::Error> {
    let ids: Vec<Uuid> = payments.keys().copied().collect();
    let amounts: Vec<Decimal> = payments.values().copied().collect();
    // `queued` is null where all are new, which is the rule.
    let row = sqlx::query!(
        r#"WITH booked AS MATERIALIZED (
            SELECT correlation_id, amount FROM payment_processed WHERE correlation_id = ANY ($1)
            UNION ALL
            SELECT correlation_id, amount FROM payment_dead_letter WHERE correlation_id = ANY ($1)
        ), queued AS (
            INSERT INTO payment_queue (correlation_id, amount)
            SELECT i.correlation_id, i.amount FROM UNNEST($1::uuid[], $2::numeric[]) AS i (correlation_id, amount)
            WHERE NOT EXISTS (SELECT FROM booked b WHERE b.correlation_id = i.correlation_id)
            ORDER BY i.correlation_id
            ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO NOTHING
            RETURNING correlation_id
        ), booked_since AS MATERIALIZED (
            SELECT b.correlation_id, b.amount FROM booked_now(ARRAY(SELECT correlation_id FROM queued)) b
        ), known AS (
            SELECT * FROM booked UNION ALL SELECT * FROM booked_since
        )
        SELECT
            CASE WHEN (SELECT count(*) FROM queued) < cardinality($1) OR EXISTS (SELECT FROM booked_since)
                THEN ARRAY(SELECT correlation_id FROM queued) END AS queued,
            ARRAY(SELECT correlation_id FROM known) AS "booked_ids!",
            ARRAY(SELECT amount FROM known) AS "booked_amounts!: Vec<Decimal>""#,
        &ids,
        &amounts,
    )
    .fetch_one(pool)
    .await?;
    let Some(queued) = row.queued else {
        return Ok(BTreeMap::new());
    };
    let mut others: BTreeMap<Uuid, Option<Decimal>> =
        ids.into_iter().map(|id| (id, None)).collect();
    for id in queued {
        others.remove(&id);
    }
    others.extend(
        row.booked_ids
            .into_iter()
            .zip(row.booked_amounts.into_iter().map(Some)),
    );
    Ok(others)
}

/// The amounts of those payments that are in any of the tables now.
async fn find(
    pool: &PgPool,
    payments: &BTreeMap<Uuid, Decimal>,
) -> Result<BTreeMap<Uuid, Decimal>, sqlx::Error> {
    let ids: Vec<Uuid> = payments.keys().copied().collect();
    let rows = sqlx::query!(
        r#"SELECT correlation_id AS "correlation_id!", amount AS "amount!"
        FROM payment_queue WHERE correlation_id = ANY ($1)
        UNION ALL SELECT correlation_id, amount FROM payment_processed WHERE correlation_id = ANY ($1)
        UNION ALL SELECT correlation_id, amount FROM payment_dead_letter WHERE correlation_id = ANY ($1)"#,
        &ids,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.correlation_id, row.amount))
        .collect())
}
