//! The limit of the queue. It decides whether a payment is accepted, or its client is told to
//! try again later.
//!
//! No post counts the queue. An instance polls the length of the queue, and adds what it has
//! accepted since, and what waits for its commit. So the queue exceeds its limit only by what the
//! *other* instances accept between two polls, [`QUEUE_LIMIT_POLL`] apart. Beyond
//! [`COUNTED`](crate::store::queue_statistics::COUNTED) payments the length is an estimate from the
//! server's statistics, which may be a second older.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::domain::attention::{Attention, Item};
use crate::domain::cell::Cell;
use crate::store::database::Pool;
use crate::store::queue_statistics;

/// The time between two polls of the length of the queue.
pub(crate) const QUEUE_LIMIT_POLL: Duration = Duration::from_secs(1);
/// The same while the queue seems to be full, since that may end at any moment.
pub(crate) const FULL_QUEUE_POLL: Duration = Duration::from_millis(200);

/// How long a refused post is reported.
pub(crate) const FULL_REMEMBERED: Duration = Duration::from_secs(5);

/// What an instance knows of the length of the queue.
#[derive(Debug)]
pub struct QueueLimit {
    cell: Cell,
    limit: u64,
    /// Payments in the queue at the last poll.
    seen: AtomicU64,
    /// The longest queue since somebody asked last, and one more; 0: it was not measured.
    longest: AtomicU64,
    /// Payments that this instance has put into the queue since.
    accepted: AtomicU64,
    /// Woken when a post was refused.
    refused: Notify,
    /// When a post was refused last.
    refused_at: Mutex<Option<Instant>>,
}

impl QueueLimit {
    /// A queue of at most `limit` payments, as far as is known an empty one.
    #[must_use]
    pub fn new(limit: NonZeroU64) -> Self {
        Self::of_cell(limit, Cell::ONLY)
    }

    /// The queue of one of several cells, which has an equal part of `limit`.
    #[must_use]
    pub(crate) fn of_cell(limit: NonZeroU64, cell: Cell) -> Self {
        Self {
            cell,
            limit: limit.get().div_ceil(cell.of() as u64),
            seen: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: Notify::new(),
            refused_at: Mutex::default(),
        }
    }

    /// Whether the queue is full, once the `waiting` payments are in it, too.
    pub(crate) fn is_full(&self, waiting: usize) -> bool {
        let queued = self.seen.load(Ordering::Relaxed) + self.accepted.load(Ordering::Relaxed);
        let full = queued.saturating_add(waiting as u64) >= self.limit;
        if full {
            self.refused.notify_one();
            *self
                .refused_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        full
    }

    /// That posts are refused, if the last was refused less than [`FULL_REMEMBERED`] ago.
    pub fn attention(&self) -> Option<Item> {
        let refused_at = *self
            .refused_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let lately = refused_at.is_some_and(|at| at.elapsed() < FULL_REMEMBERED);
        lately.then(|| {
            let limit = self.limit;
            let part = self.cell.label().map_or("", |_| "its part of ");
            Attention::QueueFull.item(self.cell.named(format!(
                "the queue is full ({part}QUEUE_LIMIT is {limit}) and posts are refused"
            )))
        })
    }

    /// Adds payments that this instance has put into the queue.
    pub fn accepted(&self, count: usize) {
        self.accepted.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Polls the length of the queue.
    ///
    /// # Errors
    /// The database did not answer; what was known before stands.
    pub async fn measure(&self, pool: &Pool) -> Result<(), sqlx::Error> {
        // Payments accepted during the poll are counted twice rather than not at all.
        let before = self.accepted.load(Ordering::Relaxed);
        let queued = pool.with_deadline(queue_statistics::queued(pool)).await?;
        self.seen.store(queued.value, Ordering::Relaxed);
        self.longest
            .fetch_max(queued.value.saturating_add(1), Ordering::Relaxed);
        self.accepted.fetch_sub(before, Ordering::Relaxed);
        Ok(())
    }

    /// The longest queue that was seen since the last call. None: nobody looked, which is so while
    /// this instance knows of no payment, or the database did not answer.
    pub(crate) fn take_longest(&self) -> Option<u64> {
        self.longest.swap(0, Ordering::Relaxed).checked_sub(1)
    }

    /// Polls until `stop`. While this instance knows of no payment in the queue it does not poll.
    pub async fn watch(&self, pool: &Pool, stop: CancellationToken) {
        let mut empty = false;
        loop {
            if !empty && let Err(error) = self.measure(pool).await {
                // Accept, claim and settle log the outage.
                tracing::debug!(error = %error, "the length of the queue was not measured");
            }
            let soon = async {
                tokio::time::sleep(FULL_QUEUE_POLL).await;
                self.refused.notified().await;
            };
            tokio::select! {
                () = tokio::time::sleep(QUEUE_LIMIT_POLL) => {}
                () = soon => {}
                () = stop.cancelled() => return,
            }
            empty = self.seen.load(Ordering::Relaxed) + self.accepted.load(Ordering::Relaxed) == 0;
        }
    }
}
