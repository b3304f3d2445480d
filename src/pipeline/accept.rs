//! Accept: a payment is in `payment_queue`, committed, before the client hears 202.
//!
//! All payments that arrive while a commit is under way go into the next one together (group
//! commit): no payment waits at a low rate, and one commit serves hundreds at a high one. In
//! between, where each commit would have a few, commits are spaced.

mod tally;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use router::{Event, SharedRouter};
use rust_decimal::Decimal;
use sqlx::PgConnection;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use tally::Tally;

use crate::domain::payment::Payment;
use crate::domain::uptime::Uptime;
use crate::pipeline::batcher::Batcher;
use crate::pipeline::deployment::Admission;
use crate::pipeline::queue_limit::QueueLimit;
use crate::pipeline::worker::{ClaimOnAccept, Worker};
use crate::store::claim::{Claim, ClaimedFor, SEND_WITHIN};
use crate::store::database::{
    Condition, Connections as _, DedicatedConnection, Pool, Writes, interval,
};
use crate::telemetry::metrics::Counts;

/// Payments in one INSERT, at most.
pub(crate) const ACCEPT_BATCH: usize = 500;
/// Commit rate of one instance, in payments per second, above which commits are spaced. An INSERT
/// that is committed alone takes 31 us of a CPU of the database, and 5 us in a batch of 100
/// (docs/performance.md). All instances share the database, however many CPUs each has, so at this
/// rate its CPU is worth more than the 2 ms by which spacing delays a reply on average.
pub(crate) const ACCEPT_SPACING_FROM: f64 = 4_000.0;
/// Shortest time over which that rate is measured: long enough that a few payments which arrive
/// together do not exceed it, and short enough that a rush of a tenth of a second is spaced.
pub(crate) const ACCEPT_RATE_SPAN: Duration = Duration::from_millis(16);
/// The time from the beginning of one spaced commit to the next: at the rate above, 16 payments.
pub(crate) const ACCEPT_SPACING: Duration = Duration::from_millis(4);
/// How long what arrives waits for the INSERT under way, to go into the next one together, before
/// another writer takes it: that INSERT may be waiting for a lock.
pub(crate) const ACCEPT_WAIT: Duration = Duration::from_millis(5);
/// Payments of one instance that wait for their commit, at most; beyond that clients get 503 at
/// once. A database that commits 3,000 payments of this instance a second works them off in a fifth
/// of a second; who waits longer is better told to come again.
pub const ACCEPT_BACKLOG: usize = 600;
/// How long a client waits for its commit before it gets 503. Less than the 5 s after which nginx
/// gives up, and more than [`ACQUIRE_TIMEOUT`](crate::store::database::ACQUIRE_TIMEOUT), after
/// which the reason is known.
pub const ACCEPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Attempts to write, each on a new connection: that of a server that restarted or became a standby
/// since is of no use, a new one is.
const WRITE_ATTEMPTS: usize = 2;
/// An attempt that the server refused is made again if it took no longer than this: whoever waits
/// for the next has the time that it takes.
const RETRY_REFUSED_WITHIN: Duration = Duration::from_secs(1);
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
        /// The amount that was accepted before.
        known: Decimal,
    },
}

/// Why a payment was not accepted, as far as is known. It may be posted again, and has to be under
/// the same id: after [`TooLate`](Self::TooLate) and [`Unconfirmed`](Self::Unconfirmed) it may be
/// in the queue.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotAccepted {
    /// The instance must not accept payments: why.
    #[error("not accepted, post it again: {0}")]
    Held(String),
    /// [`ACCEPT_BACKLOG`] payments wait already.
    #[error("too many payments are waiting to be accepted; try again")]
    Overloaded,
    /// The queue is as long as it may get.
    #[error("too many payments are waiting to be settled; try again")]
    QueueFull,
    /// No writer took the payment up within [`ACCEPT_TIMEOUT`]: the database was not sent it.
    #[error("too many payments are waiting to be accepted; try again")]
    Expired,
    /// There was no commit within [`ACCEPT_TIMEOUT`]. The database may or may not have the payment.
    #[error("the payment was not confirmed within {ACCEPT_TIMEOUT:?}; post it again")]
    TooLate,
    /// The database was not sent the payment, or refused it: it does not have it.
    #[error("the database did not take the payment: {0}")]
    Refused(Arc<sqlx::Error>),
    /// The database was sent the payment and did not confirm it. It may or may not have it.
    #[error("the database did not confirm the payment: {0}")]
    Unconfirmed(Arc<sqlx::Error>),
}

struct Posted {
    payment: Payment,
    give_up_at: Instant,
    reply: oneshot::Sender<Result<Accepted, NotAccepted>>,
}

/// Takes payments from the request handlers to the queue.
#[derive(Debug, Clone)]
pub struct Acceptor {
    posted: mpsc::Sender<Posted>,
    /// Cancelled by the first writer that ends.
    writers: CancellationToken,
    writes: Arc<Writes>,
    /// One for each payment that may wait.
    places: Arc<Semaphore>,
    queue_limit: Arc<QueueLimit>,
    tally: Arc<Tally>,
    admission: Arc<Admission>,
}

impl Acceptor {
    /// Starts a writer for each of those pools. They end when the last clone of this is dropped.
    ///
    /// While few wait in the queue, payments are claimed for `worker` by the commit that accepts
    /// them. Without a worker all of them are left in the queue.
    #[must_use]
    pub fn start(
        pools: &[Pool],
        router: &SharedRouter,
        worker: &Weak<Worker>,
        queue_limit: &Arc<QueueLimit>,
        admission: &Arc<Admission>,
        counts: &Arc<Counts>,
    ) -> Self {
        let (posted, waiting) = mpsc::channel(ACCEPT_BACKLOG);
        let waiting = Arc::new(Mutex::new(Waiting {
            posted: waiting,
            commits: Commits::default(),
        }));
        let writes = Arc::new(Writes::new("accept"));
        let tally = Arc::new(Tally::default());
        let writers = CancellationToken::new();
        for pool in pools {
            let writer = Writer {
                pool: pool.clone(),
                waiting: Arc::clone(&waiting),
                router: router.clone(),
                worker: Weak::clone(worker),
                writes: Arc::clone(&writes),
                queue_limit: Arc::clone(queue_limit),
                tally: Arc::clone(&tally),
                counts: Arc::clone(counts),
            };
            let ended = writers.clone().drop_guard();
            tokio::spawn(async move {
                writer.run().await;
                drop(ended);
            });
        }
        Self {
            posted,
            writers,
            writes,
            places: Arc::new(Semaphore::new(ACCEPT_BACKLOG)),
            queue_limit: Arc::clone(queue_limit),
            tally,
            admission: Arc::clone(admission),
        }
    }

    /// Is cancelled when a writer ends: with the last clone of this, or because it broke.
    #[must_use]
    pub fn writers(&self) -> CancellationToken {
        self.writers.clone()
    }

    /// What was accepted and is not counted in the database yet.
    #[must_use]
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// Whether the instance may accept payments.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// What keeps payments from being accepted, as far as was seen lately.
    #[must_use]
    pub fn failing(&self) -> Option<Condition> {
        self.writes.failing()
    }

    /// Accepts one payment.
    ///
    /// # Errors
    /// Where [`NotAccepted`] says so; then nothing is promised to the client.
    pub async fn accept(&self, payment: Payment) -> Result<Accepted, NotAccepted> {
        if let Some(reason) = self.admission.held() {
            return Err(NotAccepted::Held(reason));
        }
        let waiting = ACCEPT_BACKLOG - self.places.available_permits();
        if self.queue_limit.is_full(waiting) {
            return Err(NotAccepted::QueueFull);
        }
        let place = self.places.try_acquire();
        let _place = place.map_err(|_| NotAccepted::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        let posted = Posted {
            payment,
            give_up_at: Instant::now() + ACCEPT_TIMEOUT,
            reply,
        };
        self.posted
            .try_send(posted)
            .map_err(|_| NotAccepted::Overloaded)?;
        match tokio::time::timeout(ACCEPT_TIMEOUT, answer).await {
            // A writer that broke may have sent it.
            Ok(answer) => answer.unwrap_or(Err(NotAccepted::TooLate)),
            Err(_) => Err(NotAccepted::TooLate),
        }
    }
}

/// Payments that wait for their commit.
struct Waiting {
    posted: mpsc::Receiver<Posted>,
    commits: Commits,
}

impl Waiting {
    /// Moves what waits into `batch`; where nothing does, waits for it. False when nothing will
    /// come any more.
    async fn take(&mut self, batch: &mut Vec<Posted>) -> bool {
        if self.posted.recv_many(batch, ACCEPT_BATCH).await == 0 {
            return false;
        }
        if let Some(at) = self.commits.next_at(batch.len(), Instant::now()) {
            tokio::time::sleep_until(at.into()).await;
            while batch.len() < ACCEPT_BATCH
                && let Ok(posted) = self.posted.try_recv()
            {
                batch.push(posted);
            }
        }
        self.commits.begin(batch.len(), Instant::now());
        true
    }
}

/// How fast one commit follows another: at once as long as few payments come, and
/// [`ACCEPT_SPACING`] apart from [`ACCEPT_SPACING_FROM`] on. Spaced commits are larger, which
/// halves the work for each payment; at that rate a payment waits longer for a CPU than for the
/// commit.
#[derive(Debug)]
struct Commits {
    batcher: Batcher,
    /// From when on payments are counted.
    since: Option<Instant>,
    /// Payments committed since then.
    counted: u32,
}

impl Default for Commits {
    fn default() -> Self {
        Self {
            batcher: Batcher::new(ACCEPT_BATCH, 1, Duration::ZERO),
            since: None,
            counted: 0,
        }
    }
}

impl Commits {
    /// When a commit of `count` payments begins; none if that is now.
    fn next_at(&self, count: usize, now: Instant) -> Option<Instant> {
        let at = self.batcher.begins_at(count, now + ACCEPT_SPACING);
        at.filter(|at| *at > now)
    }

    /// Notes that a commit of `count` payments begins.
    fn begin(&mut self, count: usize, now: Instant) {
        self.batcher.begin(now);
        self.counted += u32::try_from(count).unwrap_or(u32::MAX);
        let span = now - *self.since.get_or_insert(now);
        if span >= ACCEPT_RATE_SPAN {
            let is_spaced = f64::from(self.counted) >= ACCEPT_SPACING_FROM * span.as_secs_f64();
            self.batcher.spacing = if is_spaced {
                ACCEPT_SPACING
            } else {
                Duration::ZERO
            };
            self.since = Some(now);
            self.counted = 0;
        }
    }
}

/// Why a commit is not known to have happened.
struct NotWritten {
    error: sqlx::Error,
    /// Whether it may have happened all the same.
    in_doubt: bool,
}

/// What one commit came to.
struct Written {
    /// Of each payment, in their order.
    outcomes: Vec<Accepted>,
    /// The right to charge what was claimed.
    claim_on_accept: Option<ClaimOnAccept>,
    claims: Vec<Claim>,
}

struct Writer {
    pool: Pool,
    waiting: Arc<Mutex<Waiting>>,
    router: SharedRouter,
    /// Weak, because settling ends with the last worker, and must not wait for writers.
    worker: Weak<Worker>,
    writes: Arc<Writes>,
    queue_limit: Arc<QueueLimit>,
    tally: Arc<Tally>,
    counts: Arc<Counts>,
}

impl Writer {
    /// Writes what arrives, as long as the others need not: a statement that always runs on one
    /// connection finds the caches of its server process warm.
    async fn run(self) {
        let mut batch = Vec::with_capacity(ACCEPT_BATCH);
        let mut connection = DedicatedConnection::new(self.pool.clone());
        let mut turn = self.waiting.lock().await;
        while turn.take(&mut batch).await {
            // Drops requests whose deadline has passed.
            let now = Instant::now();
            for late in batch.extract_if(.., |posted| posted.give_up_at <= now) {
                let _ = late.reply.send(Err(NotAccepted::Expired));
            }
            if batch.is_empty() {
                continue;
            }
            let payments: Vec<Payment> = batch.iter().map(|posted| posted.payment).collect();
            let mut write = pin!(self.write(&mut connection, &payments));
            match tokio::time::timeout(ACCEPT_WAIT, &mut write).await {
                Ok(outcome) => self.answer(&mut batch, outcome).await,
                Err(_) => {
                    drop(turn);
                    self.answer(&mut batch, write.await).await;
                    turn = self.waiting.lock().await;
                }
            }
        }
    }

    /// Answers after the commit (Guard: AcceptBeforeReply). A client that went away is told
    /// nothing; its payment is accepted all the same. Clients first: they wait for their answer,
    /// and of what was claimed nobody waits for the charge.
    async fn answer(&self, batch: &mut Vec<Posted>, outcome: Result<Written, NotWritten>) {
        match outcome {
            Ok(written) => {
                self.writes.succeeded().await;
                for (posted, outcome) in batch.drain(..).zip(written.outcomes) {
                    let _ = posted.reply.send(Ok(outcome));
                }
                if let Some(claim_on_accept) = written.claim_on_accept {
                    claim_on_accept.start(written.claims);
                }
            }
            Err(NotWritten { error, in_doubt }) => {
                self.writes.failed(&error, &self.pool).await;
                let error = Arc::new(error);
                let told = match in_doubt {
                    true => NotAccepted::Unconfirmed,
                    false => NotAccepted::Refused,
                };
                for posted in batch.drain(..) {
                    let _ = posted.reply.send(Err(told(Arc::clone(&error))));
                }
            }
        }
    }

    /// One commit.
    async fn write(
        &self,
        connection: &mut DedicatedConnection,
        payments: &[Payment],
    ) -> Result<Written, NotWritten> {
        let worker = self.worker.upgrade();
        let mut claim_on_accept = worker
            .as_ref()
            .and_then(|worker| worker.claim_on_accept(payments.len()));
        let (mut attempt, begun_at) = (1, Instant::now());
        // Whether any attempt may have been committed.
        let mut in_doubt = false;
        let enqueued = loop {
            let mut progress = Progress::NotSent;
            let written = {
                // Pinned here, because it is large and would be moved.
                let written = pin!(async {
                    let connection = connection.get().await?;
                    let expected = self.pool.expected();
                    // Guard: ClaimInKnownQueue.
                    claim_on_accept = claim_on_accept
                        .take()
                        .filter(ClaimOnAccept::leads_to_known_queue);
                    let claimed_for = claim_on_accept.as_ref().map(ClaimOnAccept::claimed_for);
                    let to = (expected.as_deref(), claimed_for);
                    enqueue_step(connection, payments, to, &mut progress, &self.tally).await
                });
                self.pool.with_deadline(written).await
            };
            match written {
                Ok(written) => break written,
                Err(error) => {
                    connection.give_up();
                    in_doubt |= progress.is_in_doubt_after(&error);
                    // Doing it again is safe, and what the server refused it has not written.
                    let again = match &error {
                        sqlx::Error::Io(_) => true,
                        sqlx::Error::Database(_) => begun_at.elapsed() < RETRY_REFUSED_WITHIN,
                        _ => false,
                    };
                    if !again || attempt == WRITE_ATTEMPTS {
                        return Err(NotWritten { error, in_doubt });
                    }
                    attempt += 1;
                }
            }
        };
        let queued = enqueued
            .outcomes
            .iter()
            .filter(|outcome| **outcome == Accepted::Queued)
            .count();
        self.counts.accepted.add_batch(queued);
        self.queue_limit.accepted(queued);
        self.router.observe(Event::Arrived {
            count: u32::try_from(queued).unwrap_or(u32::MAX),
        });
        if let (None, Some(worker)) = (&claim_on_accept, worker)
            && queued > 0
        {
            worker.left_in_queue(&enqueued.waiting);
        }
        Ok(Written {
            outcomes: enqueued.outcomes,
            claim_on_accept,
            claims: enqueued.claims,
        })
    }
}

/// Puts the payments that are new into the queue, in one commit, and says of each what became of
/// it.
///
/// With `claimed_for` they are claimed by the same commit, as
/// [`claim_queued`](crate::store::claim::claim_queued) would right after it. The claims are
/// returned.
///
/// A payment that is being settled at this moment may enter the queue once more; the claim sees
/// that it is settled and removes it. The client is answered by the ledger all the same.
///
/// # Errors
/// The database did not confirm; each payment may or may not be in the queue. What it may have
/// claimed is claimable again after the lease.
pub async fn enqueue(
    connection: &mut PgConnection,
    payments: &[Payment],
    claimed_for: Option<ClaimedFor<'_>>,
) -> Result<(Vec<Accepted>, Vec<Claim>), sqlx::Error> {
    let (tally, mut progress) = (Tally::default(), Progress::NotSent);
    let to = (None, claimed_for);
    let enqueued = enqueue_step(connection, payments, to, &mut progress, &tally).await?;
    Ok((enqueued.outcomes, enqueued.claims))
}

/// What became of payments that were posted.
struct Enqueued {
    /// Of each, in their order.
    outcomes: Vec<Accepted>,
    /// Those that were put into the queue and claimed.
    claims: Vec<Claim>,
    /// Those that were put into the queue and not claimed: id, amount, time of acceptance.
    waiting: Vec<(Uuid, Decimal, DateTime<Utc>)>,
}

/// How far an attempt to write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// The server was sent nothing.
    NotSent,
    /// The server was sent the statement that commits.
    Sent,
    /// The server confirmed that statement.
    Committed,
}

impl Progress {
    /// Whether payments may be in the queue after an attempt that came this far and ended with
    /// `error`.
    ///
    /// An error of the statement itself proves that the statement was rolled back, which is a
    /// transaction by itself. An error that ends the connection does not: the server may have
    /// committed before.
    fn is_in_doubt_after(self, error: &sqlx::Error) -> bool {
        match self {
            Self::NotSent => false,
            Self::Committed => true,
            Self::Sent => {
                let error = error.as_database_error();
                let error = error.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
                error.is_none_or(|error| {
                    error.severity() != PgSeverity::Error || error.code().starts_with("08")
                })
            }
        }
    }
}

async fn enqueue_step(
    connection: &mut PgConnection,
    payments: &[Payment],
    to: (Option<&str>, Option<ClaimedFor<'_>>),
    progress: &mut Progress,
    tally: &Tally,
) -> Result<Enqueued, sqlx::Error> {
    // In the order of their ids: two instances that insert the same ids wait for each other in the
    // same order, which excludes a deadlock. The first of several with one id is the one that
    // counts.
    let mut open = BTreeMap::new();
    for payment in payments {
        open.entry(payment.correlation_id).or_insert(payment);
    }
    // What stands in the tables under each id, and whether it is new there.
    let mut amounts: BTreeMap<Uuid, (Decimal, bool)> = BTreeMap::new();
    let (mut claims, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        let send_by = Uptime::now() + SEND_WITHIN;
        // Once one of these statements was committed, what follows takes nothing back.
        *progress = (*progress).max(Progress::Sent);
        let inserted = insert_new(&mut *connection, &open, to).await?;
        *progress = Progress::Committed;
        for (id, recorded) in inserted.recorded {
            open.remove(&id);
            amounts.insert(id, (recorded, false));
        }
        for (id, row) in inserted.queued {
            let Some(payment) = open.remove(&id) else {
                continue;
            };
            amounts.insert(id, (payment.amount, true));
            tally.add(inserted.moment, payment.amount);
            match to.1.zip(inserted.requested_at) {
                Some((claim, requested_at)) => claims.push(Claim {
                    id: row,
                    payment: *payment,
                    accepted_at: inserted.moment,
                    attempt: 1,
                    processor: claim.processor.to_owned(),
                    requested_at,
                    send_by,
                    earlier: None,
                }),
                None => waiting.push((id, payment.amount, inserted.moment)),
            }
        }
        if !open.is_empty() {
            for (id, known) in find(&mut *connection, &open).await? {
                open.remove(&id);
                amounts.insert(id, (known, false));
            }
        }
        if open.is_empty() {
            break;
        }
    }
    let outcomes = payments.iter().map(|payment| {
        let (known, new) = amounts
            .get_mut(&payment.correlation_id)
            .ok_or(sqlx::Error::RowNotFound)?;
        let new = std::mem::take(new);
        Ok(match (*known == payment.amount, new) {
            (true, true) => Accepted::Queued,
            (true, false) => Accepted::Known,
            (false, _) => Accepted::Conflict { known: *known },
        })
    });
    Ok(Enqueued {
        outcomes: outcomes.collect::<Result<_, sqlx::Error>>()?,
        claims,
        waiting,
    })
}

/// What one call of `accept_payments` did. A payment that is in neither list was in the queue
/// before.
struct Inserted {
    /// Payments that were put into the queue, and their rows.
    queued: Vec<(Uuid, i64)>,
    /// Payments that are settled or dead, and their amounts there. Some of them were put into the
    /// queue and taken out again.
    recorded: Vec<(Uuid, Decimal)>,
    /// When they were put there.
    moment: DateTime<Utc>,
    /// The `requested_at` of their claim, where they were claimed.
    requested_at: Option<DateTime<Utc>>,
}

/// Puts them into the queue that is expected, where it has to be asked whether this is that one.
async fn insert_new(
    connection: &mut PgConnection,
    payments: &BTreeMap<Uuid, &Payment>,
    (expected, claimed_for): (Option<&str>, Option<ClaimedFor<'_>>),
) -> Result<Inserted, sqlx::Error> {
    let processor = claimed_for.map(|claim| claim.processor);
    let lease = claimed_for.map(|claim| interval(claim.terms.lease));
    let late_charge = claimed_for.map(|claim| interval(claim.terms.late_charge));
    if let (1, Some(payment)) = (payments.len(), payments.values().next()) {
        let row = sqlx::query!(
            r#"SELECT queued_row, moment AS "moment!", claimed_requested_at, recorded_amount,
                CASE WHEN $7::text IS NOT NULL THEN check_queue($7, 'on') END AS here
            FROM accept_payment($1, $2, $3, $4, $5, $6)"#,
            payment.correlation_id,
            payment.amount,
            processor,
            lease,
            late_charge,
            payment
                .traceparent
                .map(|traceparent| traceparent.to_string()),
            expected,
        )
        .fetch_one(connection)
        .await?;
        let id = payment.correlation_id;
        return Ok(Inserted {
            queued: row.queued_row.map(|row| (id, row)).into_iter().collect(),
            recorded: row
                .recorded_amount
                .map(|amount| (id, amount))
                .into_iter()
                .collect(),
            moment: row.moment,
            requested_at: row.claimed_requested_at,
        });
    }
    let ids: Vec<Uuid> = payments.keys().copied().collect();
    let amounts: Vec<Decimal> = payments.values().map(|payment| payment.amount).collect();
    // Null where nobody is traced, which is the rule: then nothing is sent, and nothing stored.
    let mut traced = payments.values().filter_map(|payment| payment.traceparent);
    let traces: Option<Vec<Option<String>>> = traced.next().map(|_| {
        let each = payments.values().map(|payment| payment.traceparent);
        each.map(|traceparent| traceparent.map(|traceparent| traceparent.to_string()))
            .collect()
    });
    let row = sqlx::query!(
        r#"SELECT queued_ids, queued_rows, moment AS "moment!", claimed_requested_at,
            recorded_ids, recorded_amounts AS "recorded_amounts: Vec<Decimal>",
            CASE WHEN $7::text IS NOT NULL THEN check_queue($7, 'on') END AS here
        FROM accept_payments($1, $2, $3, $4, $5, $6)"#,
        &ids,
        &amounts,
        processor,
        lease,
        late_charge,
        traces.as_deref() as Option<&[Option<String>]>,
        expected,
    )
    .fetch_one(connection)
    .await?;
    Ok(Inserted {
        queued: pairs(row.queued_ids, row.queued_rows),
        recorded: pairs(row.recorded_ids, row.recorded_amounts),
        moment: row.moment,
        requested_at: row.claimed_requested_at,
    })
}

/// Two arrays of one length, either of which is null when it is empty.
fn pairs<A, B>(first: Option<Vec<A>>, second: Option<Vec<B>>) -> Vec<(A, B)> {
    first
        .unwrap_or_default()
        .into_iter()
        .zip(second.unwrap_or_default())
        .collect()
}

/// The amounts of those payments that are in any of the tables now.
async fn find(
    connection: &mut PgConnection,
    payments: &BTreeMap<Uuid, &Payment>,
) -> Result<BTreeMap<Uuid, Decimal>, sqlx::Error> {
    let ids: Vec<Uuid> = payments.keys().copied().collect();
    let rows = sqlx::query!(
        r#"SELECT correlation_id AS "correlation_id!", amount AS "amount!"
        FROM payment_queue WHERE correlation_id = ANY ($1)
        UNION ALL SELECT correlation_id, amount FROM payment_processed
            WHERE correlation_id = ANY ($1)
        UNION ALL SELECT correlation_id, amount FROM payment_dead_letter
            WHERE correlation_id = ANY ($1)
        UNION ALL SELECT correlation_id, amount FROM payment_archived
            WHERE correlation_id = ANY ($1)"#,
        &ids,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.correlation_id, row.amount))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_leaves_room_for_eight_spaced_commits_at_once() {
        assert_eq!(router::Policy::default().room_for, 8 * ACCEPT_SPACING);
    }

    /// Commits of so many payments, so far apart, for a second. Returns how many of them were
    /// followed by a pause.
    fn spaced(commits: &mut Commits, begin: Instant, count: usize, apart: Duration) -> usize {
        let number = (Duration::from_secs(1).as_nanos() / apart.as_nanos()) as u32;
        let spaced = (0..number).filter(|number| {
            let now = begin + apart * *number;
            commits.begin(count, now);
            let next_at = commits.next_at(1, now);
            assert!(next_at.is_none_or(|at| at == now + ACCEPT_SPACING));
            next_at.is_some()
        });
        spaced.count()
    }

    #[test]
    fn commits_are_spaced_while_payments_are_a_crowd_and_only_then() {
        let mut commits = Commits::default();
        let mut now = Instant::now();
        let mut next_second = |count, apart| {
            let spaced = spaced(&mut commits, now, count, apart);
            now += Duration::from_secs(1);
            spaced
        };
        let us = Duration::from_micros;
        assert_eq!(next_second(1, us(500)), 0, "2,000 a second, one by one");
        assert_eq!(next_second(16, us(8_000)), 0, "the same after stalls");
        let within = ACCEPT_RATE_SPAN.as_micros() as usize / 500;
        let spaced = next_second(3, us(500));
        assert!(spaced >= 2_000 - within - 1, "6,000 a second: {spaced}");
        assert_eq!(next_second(24, ACCEPT_SPACING), 250, "the same, spaced");
        let spaced = next_second(8, ACCEPT_SPACING);
        assert!(spaced <= 4, "2,000 a second again: {spaced}");
    }

    #[test]
    fn a_handful_that_comes_together_is_no_crowd() {
        let mut commits = Commits::default();
        let begin = Instant::now();
        for second in 0..5 {
            for number in 0..20 {
                let now = begin + Duration::from_secs(second) + Duration::from_micros(100) * number;
                commits.begin(1, now);
                assert_eq!(commits.next_at(1, now), None);
            }
        }
    }

    #[test]
    fn the_first_after_a_crowd_waits_for_nobody() {
        let mut commits = Commits::default();
        let begin = Instant::now();
        spaced(&mut commits, begin, 24, ACCEPT_SPACING);
        let later = begin + Duration::from_millis(1_500);
        assert_eq!(commits.next_at(1, later), None);
        commits.begin(1, later);
        assert_eq!(commits.next_at(1, later), None);
    }
}
