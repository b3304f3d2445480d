//! Settle: the outcomes of claims are recorded, in batches.
//!
//! A late success is a fact: a payment that a processor charged is recorded whoever holds its row
//! by now. A late failure is an opinion: only the newest claim of a row may release it.

mod held;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::PgPool;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::domain::attention::{Attention, Item};
use crate::domain::lease::LeasePolicy;
use crate::domain::uptime::Uptime;
use crate::pipeline::batcher::Batcher;
use crate::pipeline::in_flight::InFlight;
use crate::processors::Outcome;
use crate::store::claim::{Claim, SEND_WITHIN, doubt_pause};
use crate::store::database::{Connections, Pool, concerns_all, interval, lacks_character};
use crate::telemetry::Telemetry;
use crate::telemetry::log::Storm;
use crate::telemetry::metrics::{Counts, Total};
use crate::telemetry::trace::{LifeEnd, Subject, Tracer};

pub use crate::processors::CompletedClaim;
pub use held::Unrecorded;

use held::Held;

/// Outcomes that one statement records, at most.
pub(crate) const SETTLE_BATCH: usize = 500;
/// Longest time that an outcome waits for others. No client waits for a settle, and one statement
/// for ten payments costs little more than one for one.
pub(crate) const SETTLE_MAX_WAIT: Duration = Duration::from_millis(100);
/// The same for an outcome that is waited for: a payment that was not charged may go to another
/// processor; and a charge whose claim is older than [`SETTLE_SOON_FROM`] has to be in the ledger
/// when an audit compares it with the processor's records, 1.5 s after `requested_at`.
pub(crate) const SETTLE_SOON: Duration = Duration::from_millis(25);
/// See [`SETTLE_SOON`].
pub(crate) const SETTLE_SOON_FROM: Duration = Duration::from_millis(500);
/// Number of outcomes that are recorded without waiting for others: more would cost little less
/// each, and would hold rows of the totals, which all instances add to, for longer.
pub(crate) const SETTLE_MAX_ITEMS: usize = 128;
/// A smaller number that suffices once [`SETTLE_SPACING`] has passed since the last settle began.
pub(crate) const SETTLE_MIN_ITEMS: usize = 16;
/// See [`SETTLE_MIN_ITEMS`]. Twenty settles a second of each instance are few for any database;
/// that pause saves a sixth of the whole work for a payment at 1,500 payments a second
/// (docs/performance.md), and is short beside the 1.5 s after which an audit may compare.
pub(crate) const SETTLE_SPACING: Duration = Duration::from_millis(50);
/// Most claims of an instance whose outcome is not recorded yet, open calls included. Beyond that
/// nothing more is claimed.
pub(crate) const SETTLE_BACKLOG: usize = 4_096;
/// Most statements that search a batch for the outcomes which the database refuses, before the next
/// batch is recorded.
pub(crate) const SETTLE_TRIES: usize = 32;
/// Longest time after which such a search begins no further statement.
pub(crate) const SETTLE_TRIES_TIME: Duration = Duration::from_secs(5);

/// Tells the worker of released payments.
#[derive(Debug)]
pub struct Returned {
    lowest_id: AtomicI64,
    /// Woken when payments are queued again.
    pub released: Arc<Notify>,
    /// Woken when payments were left in doubt.
    pub in_doubt: Notify,
    /// When the pauses of these payments end, the soonest first.
    in_doubt_from: Mutex<BinaryHeap<Reverse<Instant>>>,
    /// Outcomes that the database does not record.
    pub unrecorded: Arc<Unrecorded>,
    /// Claims whose outcome is not recorded yet.
    pub in_flight: Arc<InFlight>,
}

impl Returned {
    /// Without any released payment; `released` is woken when there is one.
    #[must_use]
    pub fn new(released: Arc<Notify>, counts: &Counts) -> Self {
        Self {
            lowest_id: AtomicI64::new(i64::MAX),
            released,
            in_doubt: Notify::new(),
            in_doubt_from: Mutex::default(),
            unrecorded: Arc::new(Unrecorded::new(counts.unrecorded.clone())),
            in_flight: Arc::default(),
        }
    }

    /// The lowest row that was queued again since the last call, or `i64::MAX`.
    pub(crate) fn take_lowest_id(&self) -> i64 {
        self.lowest_id.swap(i64::MAX, Ordering::AcqRel)
    }

    fn note(&self, ended: &[CompletedClaim]) {
        let released = ended
            .iter()
            .filter(|ended| matches!(ended.outcome, Outcome::NotCharged { .. }));
        if let Some(lowest) = released.map(|ended| ended.claim.id).min() {
            self.lowest_id.fetch_min(lowest, Ordering::AcqRel);
            self.released.notify_one();
        }
        // After the commit, so no pause has ended later by the database's clock.
        let now = Instant::now();
        let in_doubt = ended
            .iter()
            .filter(|ended| matches!(ended.outcome, Outcome::InDoubt { .. }));
        let pauses = in_doubt.map(|ended| Reverse(now + doubt_pause(ended.claim.attempt)));
        let mut pauses = pauses.peekable();
        if pauses.peek().is_some() {
            self.lock_in_doubt().extend(pauses);
            self.in_doubt.notify_one();
        }
    }

    /// When the next payment that this instance has left in doubt may be claimed again.
    #[must_use]
    pub(crate) fn next_in_doubt(&self) -> Option<Instant> {
        self.lock_in_doubt().peek().map(|Reverse(at)| *at)
    }

    /// Payments in doubt are claimed now.
    pub(crate) fn asked_for(&self, now: Instant) {
        let mut pauses = self.lock_in_doubt();
        while pauses.peek().is_some_and(|Reverse(at)| *at <= now) {
            pauses.pop();
        }
    }

    fn lock_in_doubt(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Instant>>> {
        let pauses = self.in_doubt_from.lock();
        pauses.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records outcomes until `ended` is closed and everything is recorded. Nothing is dropped: an
/// outcome that the database refuses is kept and tried again until it is recorded, on whatever
/// server answers, and does not keep others from being recorded.
pub async fn run(
    pool: Pool,
    terms: LeasePolicy,
    mut ended: mpsc::Receiver<CompletedClaim>,
    returned: Arc<Returned>,
    telemetry: Telemetry,
) {
    let mut recorder = Recorder {
        pool,
        terms,
        returned,
        telemetry,
        held: Held::new(),
        storms: Storms::default(),
    };
    let mut batch = Vec::with_capacity(SETTLE_BATCH);
    let mut batcher = Batcher::new(SETTLE_MAX_ITEMS, SETTLE_MIN_ITEMS, SETTLE_SPACING);
    while recorder.next(&mut ended, &mut batch).await {
        if !batch.is_empty() {
            gather(&mut ended, &mut batch, &batcher).await;
            batcher.begin(Instant::now());
            recorder.record(&mut batch).await;
        }
        recorder.record_held().await;
        recorder.held.settle_down(&recorder.returned.unrecorded);
    }
}

/// Records outcomes, and keeps those that it cannot record.
struct Recorder {
    pool: Pool,
    terms: LeasePolicy,
    returned: Arc<Returned>,
    telemetry: Telemetry,
    held: Held,
    storms: Storms,
}

/// What is logged once for many payments.
#[derive(Debug, Default)]
struct Storms {
    /// Charges whose row was gone.
    row_gone: Storm,
    /// Charges that were recorded before: by a commit that was not confirmed, mostly.
    recorded_before: Storm,
    /// Dead letters.
    dead: Storm,
}

impl Recorder {
    /// Takes in outcomes, or waits until the kept ones are to be tried again. False when there is
    /// nothing left.
    async fn next(
        &self,
        ended: &mut mpsc::Receiver<CompletedClaim>,
        batch: &mut Vec<CompletedClaim>,
    ) -> bool {
        let Some(retry_at) = self.held.retry_at() else {
            return ended.recv_many(batch, SETTLE_BATCH).await > 0;
        };
        let retry = tokio::time::sleep_until(retry_at.into());
        if self.held.has_room() && !(ended.is_closed() && ended.is_empty()) {
            tokio::select! {
                _ = ended.recv_many(batch, SETTLE_BATCH) => {}
                () = retry => {}
            }
        } else {
            retry.await;
        }
        true
    }

    /// Records a batch, and leaves it empty.
    async fn record(&mut self, batch: &mut Vec<CompletedClaim>) {
        let begun_at = self.telemetry.tracer.now();
        match self
            .pool
            .with_deadline(record(&self.pool, self.terms, batch))
            .await
        {
            Ok(anomalies) => self.recorded(batch, &anomalies, begun_at),
            Err(error) => self.refused(vec![(std::mem::take(batch), error)]).await,
        }
        batch.clear();
    }

    /// Tries the kept outcomes again, if it is time.
    async fn record_held(&mut self) {
        if self.held.retry_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        let mut held = self.held.take();
        let mut rest = held.split_off(held.len().min(SETTLE_BATCH));
        self.record(&mut held).await;
        while !rest.is_empty() {
            let mut batch = rest;
            rest = batch.split_off(batch.len().min(SETTLE_BATCH));
            if self.held.has_room() {
                self.record(&mut batch).await;
            } else {
                self.held.keep_untried(batch);
            }
        }
    }

    fn recorded(
        &mut self,
        batch: &[CompletedClaim],
        anomalies: &[Anomaly],
        begun_at: Option<SystemTime>,
    ) {
        self.held.progress();
        self.returned.in_flight.recorded(batch, Uptime::now());
        observe(&self.telemetry, batch, anomalies, begun_at);
        self.storms.tell(batch, anomalies);
        self.returned.note(batch);
    }

    /// Finds, by halves, which of the refused outcomes the database records, and keeps the others.
    async fn refused(&mut self, mut parts: Vec<(Vec<CompletedClaim>, sqlx::Error)>) {
        let (mut tries, begun_at) = (0, Instant::now());
        let mut untried: Vec<Vec<CompletedClaim>> = Vec::new();
        while let Some((mut part, error)) = parts.pop() {
            if concerns_all(&error) {
                self.held.keep(part, &error, &self.pool).await;
                break;
            }
            let reworded = lacks_character(&error) && reword(&mut part);
            let mut pieces = if reworded {
                vec![part]
            } else {
                divide(part, &error)
            };
            if pieces.len() == 1 && !reworded {
                self.held.keep(pieces.remove(0), &error, &self.pool).await;
                continue;
            }
            for piece in pieces {
                if tries == SETTLE_TRIES || begun_at.elapsed() >= SETTLE_TRIES_TIME {
                    untried.push(piece);
                    continue;
                }
                tries += 1;
                let piece_begun_at = self.telemetry.tracer.now();
                match self
                    .pool
                    .with_deadline(record(&self.pool, self.terms, &piece))
                    .await
                {
                    Ok(anomalies) => self.recorded(&piece, &anomalies, piece_begun_at),
                    Err(error) => parts.push((piece, error)),
                }
            }
        }
        // Where it was broken off.
        untried.extend(parts.into_iter().map(|(part, _)| part));
        for part in untried {
            self.held.keep_untried(part);
        }
    }
}

/// Divides a refused batch: first by the statements that record the outcomes, then by halves,
/// unless the statement as such is refused. One part: there is nothing left to try.
fn divide(part: Vec<CompletedClaim>, error: &sqlx::Error) -> Vec<Vec<CompletedClaim>> {
    let mut kinds: BTreeMap<Kind, Vec<CompletedClaim>> = BTreeMap::new();
    for ended in part {
        kinds.entry(Kind::of(&ended)).or_default().push(ended);
    }
    let mut parts: Vec<Vec<CompletedClaim>> = kinds.into_values().collect();
    let code = error.as_database_error().and_then(|error| error.code());
    let refuses_statement = code.is_some_and(|code| code.starts_with("42") || code == "3F000");
    if let ([part], false) = (&mut parts[..], refuses_statement)
        && part.len() > 1
    {
        let half = part.split_off(part.len() / 2);
        parts.push(half);
    }
    parts
}

/// Which statement records an outcome.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Charged(String),
    Returned,
    Dead,
}

impl Kind {
    fn of(ended: &CompletedClaim) -> Self {
        match ended.outcome {
            Outcome::Charged { .. } => Self::Charged(ended.claim.processor.clone()),
            Outcome::NotCharged { .. } | Outcome::InDoubt { .. } => Self::Returned,
            Outcome::Dead { .. } => Self::Dead,
        }
    }
}

/// Writes reasons in characters that every encoding has. Returns whether that changed any.
fn reword(part: &mut [CompletedClaim]) -> bool {
    let mut changed = false;
    for ended in part {
        let (Outcome::NotCharged { reason }
        | Outcome::InDoubt { reason, .. }
        | Outcome::Dead { reason, .. }) = &mut ended.outcome
        else {
            continue;
        };
        if !reason.is_ascii() || reason.contains('\0') {
            let letters = reason.chars().map(|letter| match letter {
                '\0' => "\\0".to_owned(),
                letter if letter.is_ascii() => letter.to_string(),
                letter => letter.escape_unicode().to_string(),
            });
            *reason = letters.collect();
            changed = true;
        }
    }
    changed
}

/// Waits for more outcomes, as long as all in `batch` can wait and `batcher` does not begin it.
async fn gather(
    ended: &mut mpsc::Receiver<CompletedClaim>,
    batch: &mut Vec<CompletedClaim>,
    batcher: &Batcher,
) {
    let (mut seen, mut settle_at) = (0, None::<Instant>);
    loop {
        let (now, uptime) = (Instant::now(), Uptime::now());
        let waits = batch[seen..]
            .iter()
            .map(|ended| now + longest_wait(ended, uptime));
        settle_at = settle_at.into_iter().chain(waits).min();
        seen = batch.len();
        let Some(begins_at) = settle_at.and_then(|at| batcher.begins_at(seen, at)) else {
            return;
        };
        let more = ended.recv_many(batch, SETTLE_BATCH - seen);
        match tokio::time::timeout_at(begins_at.into(), more).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// How long an outcome can wait for others.
fn longest_wait(ended: &CompletedClaim, now: Uptime) -> Duration {
    let is_old = now + SEND_WITHIN >= ended.claim.send_by + SETTLE_SOON_FROM;
    match ended.outcome {
        Outcome::Charged { .. } if !is_old => SETTLE_MAX_WAIT,
        _ => SETTLE_SOON,
    }
}

fn trace_end(tracer: &Tracer, claim: &Claim, reason: Option<&str>, begun_at: Option<SystemTime>) {
    let subject = Subject {
        id: claim.payment.correlation_id,
        client: claim.payment.traceparent,
    };
    let end = LifeEnd {
        processor: &claim.processor,
        attempts: claim.attempt,
        accepted_at: claim.accepted_at.into(),
        reason,
    };
    tracer.ended(subject, &end, begun_at);
}

impl Storms {
    /// Logs what should not have been: each payment that was charged twice, and of all else one for
    /// many.
    fn tell(&self, batch: &[CompletedClaim], anomalies: &[Anomaly]) {
        let (mut gone, mut before) = (Vec::new(), Vec::new());
        for anomaly in anomalies {
            match anomaly {
                Anomaly::QueueRowGone(id) => gone.push(id),
                Anomaly::RecordedBefore {
                    correlation_id: id,
                    charged,
                    recorded,
                } if charged == recorded => before.push(id),
                Anomaly::RecordedBefore {
                    correlation_id: id,
                    charged,
                    recorded,
                } => {
                    tracing::error!(payment.id = %id, processor.name = charged, processor.recorded = recorded, "CHARGED TWICE");
                }
            }
        }
        if let Some((payments, id)) = self.row_gone.note_all(gone.len()).zip(gone.first()) {
            tracing::warn!(payments, payment.id = %id, "recorded a charge whose queue row was gone \
                or held for another processor");
        }
        if let Some((payments, id)) = self
            .recorded_before
            .note_all(before.len())
            .zip(before.first())
        {
            tracing::info!(payments, payment.id = %id, "charge was recorded already");
        }
        let dead = batch.iter().filter_map(|ended| match &ended.outcome {
            Outcome::Dead { reason, .. } => Some((&ended.claim, reason)),
            _ => None,
        });
        let dead: Vec<_> = dead.collect();
        if let Some((payments, (claim, reason))) = self.dead.note_all(dead.len()).zip(dead.first())
        {
            tracing::error!(
                payments, payment.id = %claim.payment.correlation_id, processor.name = claim.processor,
                dead.reason = reason,
                "payment is dead; `payment-proxy dead-letter` shows, retries and discards"
            );
        }
    }
}

/// Counts and traces what was recorded by statements that began then.
fn observe(
    Telemetry { counts, tracer }: &Telemetry,
    batch: &[CompletedClaim],
    anomalies: &[Anomaly],
    begun_at: Option<SystemTime>,
) {
    let now = Utc::now();
    let mut charged: BTreeMap<&str, usize> = BTreeMap::new();
    for CompletedClaim { claim, outcome } in batch {
        match outcome {
            Outcome::Charged { .. } => {
                *charged.entry(&claim.processor).or_default() += 1;
                let age = (now - claim.accepted_at).as_seconds_f64();
                counts.settle_seconds.observe(age.max(0.0));
                trace_end(tracer, claim, None, begun_at);
            }
            Outcome::NotCharged { .. } => counts.released.add(1),
            Outcome::InDoubt { .. } => counts.left_in_doubt.add(1),
            Outcome::Dead { reason, held } => {
                counts.dead.add(1);
                counts.mismatches.add(u64::from(*held));
                trace_end(tracer, claim, Some(reason), begun_at);
            }
        }
    }
    for anomaly in anomalies {
        // A charge that was recorded before was counted then.
        if let Anomaly::RecordedBefore {
            charged: processor, ..
        } = anomaly
            && let Some(payments) = charged.get_mut(processor.as_str())
        {
            *payments = payments.saturating_sub(1);
        }
        anomaly.count(counts);
    }
    for (processor, payments) in charged {
        counts.settled(processor).add_batch(payments);
    }
}

/// A charge that is recorded, in a way that should not have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anomaly {
    /// The row was not in the queue any more; the charge is recorded.
    QueueRowGone(Uuid),
    /// Another attempt was recorded before. With the same processor it is the same charge.
    RecordedBefore {
        /// The payment.
        correlation_id: Uuid,
        /// The processor that has it now, by its own word.
        charged: String,
        /// The processor that the ledger names.
        recorded: String,
    },
}

impl Anomaly {
    fn count(&self, counts: &Counts) {
        let total = match self {
            Self::QueueRowGone(_) => &counts.row_gone,
            Self::RecordedBefore {
                charged, recorded, ..
            } if charged == recorded => &counts.recorded_before,
            Self::RecordedBefore { .. } => &counts.charged_twice,
        };
        total.add(1);
    }
}

/// The item for operators if this instance saw payments charged twice since its start.
pub(crate) fn charged_twice(count: &Total) -> Option<Item> {
    let payments = count.value();
    let noun = if payments == 1 { "payment" } else { "payments" };
    (payments > 0).then(|| {
        Attention::ChargedTwice.item(format!("{payments} {noun} charged by two processors"))
    })
}

/// Records the outcomes of claims. Doing it again changes nothing.
///
/// # Errors
/// The database did not confirm. Some of it may be recorded; record all of it again.
pub async fn record(
    pool: &impl Connections,
    terms: LeasePolicy,
    ended: &[CompletedClaim],
) -> Result<Vec<Anomaly>, sqlx::Error> {
    let mut charged: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    let mut returned = Vec::new();
    let mut dead = Vec::new();
    for CompletedClaim { claim, outcome } in ended {
        match outcome {
            Outcome::Charged { requested_at } => {
                charged
                    .entry(&claim.processor)
                    .or_default()
                    .push((claim, *requested_at));
            }
            Outcome::NotCharged { reason } => returned.push((claim, None, reason.as_str())),
            Outcome::InDoubt { until, reason } => {
                returned.push((claim, Some(*until), reason.as_str()));
            }
            Outcome::Dead { reason, held } => dead.push((claim, reason.as_str(), *held)),
        }
    }
    // Of two outcomes of one row only the newer can count, and a statement looks at one.
    keep_newest(&mut returned, |(claim, ..)| claim);
    keep_newest(&mut dead, |(claim, ..)| claim);
    let mut anomalies = Vec::new();
    for (processor, charged) in charged {
        anomalies.extend(settle(pool, processor, &charged).await?);
    }
    if !returned.is_empty() {
        release(pool.pool(), terms, &returned).await?;
    }
    if !dead.is_empty() {
        dead_letter(pool.pool(), &dead).await?;
    }
    Ok(anomalies)
}

/// Leaves the newest claim of each row.
fn keep_newest<'a, T>(ends: &mut Vec<T>, claim: impl Fn(&T) -> &'a Claim) {
    ends.sort_by_key(|end| (claim(end).id, Reverse(claim(end).attempt)));
    ends.dedup_by_key(|end| claim(end).id);
}

/// Moves payments that one processor has charged from the queue to the ledger. `settle_payments`
/// (in `migrations`) lists what it must keep. Whether the commit is waited for is said in the
/// transaction itself: with a logged queue it need not be, since one that is lost leaves the claim,
/// and the processor is asked.
async fn settle(
    pool: &impl Connections,
    processor: &str,
    charged: &[(&Claim, DateTime<Utc>)],
) -> Result<Vec<Anomaly>, sqlx::Error> {
    let ids: Vec<Uuid> = charged
        .iter()
        .map(|(claim, _)| claim.payment.correlation_id)
        .collect();
    let amounts: Vec<Decimal> = charged
        .iter()
        .map(|(claim, _)| claim.payment.amount)
        .collect();
    let requested: Vec<DateTime<Utc>> = charged
        .iter()
        .map(|(_, requested_at)| *requested_at)
        .collect();
    let accepted: Vec<DateTime<Utc>> = charged.iter().map(|(claim, _)| claim.accepted_at).collect();
    let attempts: Vec<i32> = charged.iter().map(|(claim, _)| claim.attempt).collect();
    let expected = pool.expected();
    // Null where all were removed and all were recorded, which is the rule.
    let row = sqlx::query!(
        "SELECT removed_ids, recorded_ids,
            CASE WHEN $8::text IS NOT NULL THEN check_queue($8, $7)
                WHEN $7::text <> 'on' THEN set_config('synchronous_commit', $7, true) <> '' END AS here
        FROM settle_payments($1, $2, $3, $4, $5, $6)",
        &ids,
        processor,
        &amounts,
        &requested,
        &accepted,
        &attempts,
        pool.settle_commit(),
        expected.as_deref(),
    )
    .fetch_one(pool.pool())
    .await?;
    let (removed, recorded) = (
        row.removed_ids.map(HashSet::from_iter),
        row.recorded_ids.map(HashSet::from_iter),
    );
    let missing = |from: &Option<HashSet<Uuid>>, id: &Uuid| {
        from.as_ref().is_some_and(|ids| !ids.contains(id))
    };
    let gone = ids
        .iter()
        .filter(|id| missing(&removed, id) && !missing(&recorded, id));
    let mut anomalies: Vec<Anomaly> = gone.map(|id| Anomaly::QueueRowGone(*id)).collect();
    let (not_recorded, requested_ats): (Vec<Uuid>, Vec<DateTime<Utc>>) = ids
        .iter()
        .zip(&requested)
        .filter(|(id, _)| missing(&recorded, id))
        .unzip();
    if !not_recorded.is_empty() {
        // Of an archived payment the month is known: a requested_at of that month is the same
        // charge.
        let rows = sqlx::query!(
            r#"SELECT correlation_id AS "correlation_id!", processor AS "processor!"
            FROM payment_processed WHERE correlation_id = ANY ($1)
            UNION ALL
            SELECT a.correlation_id,
                CASE WHEN a.month = date_trunc('month', c.requested_at AT TIME ZONE 'UTC') THEN $3
                    ELSE 'archived' END
            FROM UNNEST($1::uuid[], $2::timestamptz[]) AS c (correlation_id, requested_at)
            JOIN payment_archived a ON a.correlation_id = c.correlation_id"#,
            &not_recorded,
            &requested_ats,
            processor
        )
        .fetch_all(pool.pool())
        .await?;
        anomalies.extend(rows.into_iter().map(|row| Anomaly::RecordedBefore {
            correlation_id: row.correlation_id,
            charged: processor.to_owned(),
            recorded: row.processor,
        }));
    }
    Ok(anomalies)
}

/// A claim without a charge, its doubt as [`release`] takes it, and what was seen.
type GivenBack<'a> = (&'a Claim, Option<Option<DateTime<Utc>>>, &'a str);

/// Queues payments again that are proved not charged (`None`), or leaves them in doubt with their
/// processor (`Some(None)`: the doubt is counted from now).
///
/// What the statement must keep:
/// - The fence: `id` and `attempt` of the claim (Guard: ReleaseOfNewestClaim). It may wait for a
///   newer claim or a decision, and PostgreSQL then checks `attempt` again: a late failure is an
///   opinion. A lease that has ended does not end the claim while no newer one was made.
/// - `correlation_id` and `requested_at` are part of the fence (Guard: ReleaseOfItsAttempt): after
///   a crash of the server an unlogged queue counts rows and claims from 1 again, so `id` and
///   `attempt` alone may be those of another payment, or of another claim of this one.
/// - No `SKIP LOCKED`: the outcome is lost if nobody records it, so the statement waits.
/// - `processor`, `requested_at` and `doubt_until` go together or stay together: without a
///   processor any one may be chosen next, so all three are the proof that none has charged.
/// - `attempt` stays: the next claim counts on, and no older one has its number.
/// - Leases and doubts count from `now()`, the begin of this transaction by the database's clock,
///   which is after the last request for the payment ended.
/// - The same statement records the outcome of the attempt, so the settle of a payment that goes
///   well pays nothing for its history.
/// - Rows are locked in no certain order. If that deadlocks with a statement on the same rows,
///   PostgreSQL refuses one of them, and the outcome is recorded again later.
///
/// Twins: [`dead_letter`]; `assign` in [`restored`](crate::pipeline::restored); `decide_in_doubt`.
async fn release(
    pool: &PgPool,
    terms: LeasePolicy,
    returned: &[GivenBack<'_>],
) -> Result<(), sqlx::Error> {
    let ids: Vec<i64> = returned.iter().map(|(claim, ..)| claim.id).collect();
    let correlation_ids: Vec<Uuid> = returned
        .iter()
        .map(|(claim, ..)| claim.payment.correlation_id)
        .collect();
    let attempts: Vec<i32> = returned.iter().map(|(claim, ..)| claim.attempt).collect();
    let not_charged: Vec<bool> = returned
        .iter()
        .map(|(_, doubt, _)| doubt.is_none())
        .collect();
    let until: Vec<Option<DateTime<Utc>>> = returned
        .iter()
        .map(|(_, doubt, _)| doubt.flatten())
        .collect();
    let pauses: Vec<i32> = returned
        .iter()
        .map(|(claim, doubt, _)| match doubt {
            None => 0,
            Some(_) => i32::try_from(doubt_pause(claim.attempt).as_millis()).unwrap_or(i32::MAX),
        })
        .collect();
    let processors: Vec<String> = returned
        .iter()
        .map(|(claim, ..)| claim.processor.clone())
        .collect();
    let requested_ats: Vec<DateTime<Utc>> = returned
        .iter()
        .map(|(claim, ..)| claim.requested_at)
        .collect();
    let reasons: Vec<String> = returned
        .iter()
        .map(|(.., reason)| (*reason).to_owned())
        .collect();
    sqlx::query!(
        r#"WITH clock AS MATERIALIZED (
            SELECT now() + $7::interval AS doubt, ARRAY(
                SELECT now() + pause * interval '1 millisecond' FROM unnest($6::int[]) AS pause
            ) AS leases
        ), released AS (
        UPDATE payment_queue
        SET processor = CASE WHEN NOT ($4::bool[])[array_position($1, id)] THEN processor END,
            requested_at = CASE WHEN NOT ($4::bool[])[array_position($1, id)] THEN requested_at END,
            doubt_until = CASE WHEN NOT ($4::bool[])[array_position($1, id)]
                THEN coalesce(($5::timestamptz[])[array_position($1, id)],
                    (SELECT doubt FROM clock)) END,
            lease_until = CASE WHEN NOT ($4::bool[])[array_position($1, id)]
                THEN (SELECT leases FROM clock)[array_position($1, id)] ELSE '-infinity' END
        WHERE id = ANY ($1)
            AND correlation_id = ($2::uuid[])[array_position($1, id)]
            AND attempt = ($3::int[])[array_position($1, id)]
            AND requested_at = ($8::timestamptz[])[array_position($1, id)]
        RETURNING correlation_id, attempt, array_position($1, id) AS n
        )
        INSERT INTO payment_attempt
            (correlation_id, requested_at, outcome, processor, reason, first_claim, last_claim)
        SELECT correlation_id, ($8::timestamptz[])[n], CASE WHEN ($4::bool[])[n] THEN 'not_charged'
            ELSE 'in_doubt' END,
            ($9::text[])[n], ($10::text[])[n], attempt, attempt
        FROM released ORDER BY correlation_id
        ON CONFLICT ON CONSTRAINT payment_attempt_pkey DO UPDATE
        SET reason = excluded.reason, last_claim = excluded.last_claim,
            last_ended_at = excluded.last_ended_at"#,
        &ids,
        &correlation_ids,
        &attempts,
        &not_charged,
        &until as &[Option<DateTime<Utc>>],
        &pauses,
        interval(terms.late_charge),
        &requested_ats,
        &processors,
        &reasons,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Moves payments that no processor will take to the dead letters.
///
/// What the statement must keep:
/// - The fence of [`release`]: `id`, `correlation_id`, `attempt` and `requested_at` of the claim
///   (Guard: DeadLetterOfNewestClaim).
/// - The DELETE from the queue and the INSERT of the dead letter are one statement: the payment is
///   in one of the two tables, and an accept that waits for the DELETE finds the dead letter.
/// - `requested_at` goes along only if the processor holds the id: a retry asks nobody else then.
///
/// Twin: [`release`]. The way back: `retry` in [`dead_letter`](crate::store::dead_letter).
async fn dead_letter(pool: &PgPool, dead: &[(&Claim, &str, bool)]) -> Result<(), sqlx::Error> {
    let ids: Vec<i64> = dead.iter().map(|(claim, ..)| claim.id).collect();
    let correlation_ids: Vec<Uuid> = dead
        .iter()
        .map(|(claim, ..)| claim.payment.correlation_id)
        .collect();
    let attempts: Vec<i32> = dead.iter().map(|(claim, ..)| claim.attempt).collect();
    let reasons: Vec<String> = dead
        .iter()
        .map(|(_, reason, _)| (*reason).to_owned())
        .collect();
    let held: Vec<bool> = dead.iter().map(|(.., held)| *held).collect();
    let requested_ats: Vec<DateTime<Utc>> =
        dead.iter().map(|(claim, ..)| claim.requested_at).collect();
    sqlx::query!(
        r#"WITH removed AS (
            DELETE FROM payment_queue
            WHERE id = ANY ($1) AND attempt = ($2::int[])[array_position($1, id)]
                AND correlation_id = ($5::uuid[])[array_position($1, id)]
                AND requested_at = ($6::timestamptz[])[array_position($1, id)]
            RETURNING correlation_id, amount, accepted_at, attempt, processor,
                ($3::text[])[array_position($1, id)] AS reason, requested_at,
                    ($4::bool[])[array_position($1, id)] AS held
        ), attempted AS (
            INSERT INTO payment_attempt
                (correlation_id, requested_at, outcome, processor, reason, first_claim, last_claim,
                    first_ended_at, last_ended_at)
            SELECT correlation_id, requested_at, 'refused', processor, reason, attempt, attempt,
                -- Not after its death, whichever row is written first.
                statement_timestamp(), statement_timestamp()
            FROM removed ORDER BY correlation_id
            ON CONFLICT ON CONSTRAINT payment_attempt_pkey DO UPDATE
            SET reason = excluded.reason, last_claim = excluded.last_claim,
                last_ended_at = excluded.last_ended_at
        )
        INSERT INTO payment_dead_letter
            (correlation_id, amount, accepted_at, attempt, processor, reason, requested_at)
        SELECT correlation_id, amount, accepted_at, attempt, processor, reason, CASE WHEN held
            THEN requested_at END
        FROM removed
        ON CONFLICT ON CONSTRAINT payment_dead_letter_pkey DO NOTHING"#,
        &ids,
        &attempts,
        &reasons,
        &held,
        &correlation_ids,
        &requested_ats,
    )
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::payment::Payment;

    fn ended(claimed_at: Uptime, outcome: Outcome) -> CompletedClaim {
        let now = Utc::now();
        let payment = Payment {
            correlation_id: Uuid::new_v4(),
            amount: Decimal::ONE,
            traceparent: None,
        };
        let claim = Claim {
            id: 1,
            payment,
            accepted_at: now,
            attempt: 1,
            processor: "default".to_owned(),
            requested_at: now,
            send_by: claimed_at + SEND_WITHIN,
            earlier: None,
        };
        CompletedClaim { claim, outcome }
    }

    #[test]
    fn what_an_audit_or_another_processor_waits_for_is_settled_soon() {
        let claimed_at = Uptime::now();
        let charged = Outcome::Charged {
            requested_at: Utc::now(),
        };
        let not_charged = Outcome::NotCharged {
            reason: "503".to_owned(),
        };
        let after = |outcome: &Outcome, age| {
            longest_wait(&ended(claimed_at, outcome.clone()), claimed_at + age)
        };
        let ms = Duration::from_millis;
        assert_eq!(after(&charged, ms(499)), SETTLE_MAX_WAIT);
        assert_eq!(after(&charged, ms(500)), SETTLE_SOON);
        assert_eq!(after(&not_charged, ms(0)), SETTLE_SOON);
    }

    #[test]
    fn each_payment_in_doubt_is_waited_for_as_long_as_its_own_pause() {
        let returned = Returned::new(Arc::default(), &Counts::default());
        assert_eq!(returned.next_in_doubt(), None);
        let in_doubt = |attempt| {
            let outcome = Outcome::InDoubt {
                until: None,
                reason: "no reply".to_owned(),
            };
            let mut ended = ended(Uptime::now(), outcome);
            ended.claim.attempt = attempt;
            ended
        };
        let begin = Instant::now();
        returned.note(&[in_doubt(3), charged(), in_doubt(1)]);
        for attempt in [1, 3] {
            let next = returned.next_in_doubt().expect("a payment in doubt");
            assert!(next >= begin + doubt_pause(attempt));
            assert!(next <= Instant::now() + doubt_pause(attempt));
            returned.asked_for(next - Duration::from_millis(1));
            assert_eq!(returned.next_in_doubt(), Some(next), "not yet");
            returned.asked_for(next);
        }
        assert_eq!(returned.next_in_doubt(), None);
    }

    fn charged() -> CompletedClaim {
        let requested_at = Utc::now();
        ended(Uptime::now(), Outcome::Charged { requested_at })
    }

    /// How many are settled, and after what time, where so many more ended at once and a settle
    /// began at that moment.
    async fn gathered(more: usize) -> (usize, Duration) {
        let (sender, mut endings) = mpsc::channel(SETTLE_BACKLOG);
        let mut batch = vec![charged()];
        for _ in 0..more {
            sender.try_send(charged()).expect("there is room");
        }
        let begun_at = tokio::time::Instant::now();
        let mut batcher = Batcher::new(SETTLE_MAX_ITEMS, SETTLE_MIN_ITEMS, SETTLE_SPACING);
        batcher.begin(Instant::now());
        gather(&mut endings, &mut batch, &batcher).await;
        (batch.len(), begun_at.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_for_others_until_one_cannot_wait() {
        let (count, time) = gathered(0).await;
        assert!(count == 1 && time >= SETTLE_MAX_WAIT, "{count} {time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn some_wait_until_the_database_has_rested() {
        let (count, time) = gathered(SETTLE_MIN_ITEMS).await;
        assert!(
            count == 1 + SETTLE_MIN_ITEMS && (SETTLE_SPACING..SETTLE_MAX_WAIT).contains(&time),
            "{count} {time:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn enough_do_not_wait() {
        let (count, time) = gathered(SETTLE_MAX_ITEMS).await;
        assert!(
            count == 1 + SETTLE_MAX_ITEMS && time < SETTLE_SPACING,
            "{count} {time:?}"
        );
    }
}
