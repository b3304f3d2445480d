//! The worker of an instance: it claims what there are permits for, charges, and hands the outcomes
//! to settle.
//!
//! Each kind of claim has one step; the loops around the steps only wait.

mod held_elsewhere;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rand::RngExt;
use router::{Permit, Queue, SharedRouter};
use rust_decimal::Decimal;
use sqlx::PgPool;
use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::domain::cell::Cell;
use crate::domain::lease::LeasePolicy;
use crate::domain::uptime::Uptime;
use crate::pipeline::batcher::{Begin, Gathering};
use crate::pipeline::deployment::Admission;
use crate::pipeline::restored::{self, Asked};
use crate::pipeline::settle::{CompletedClaim, Returned};
use crate::processors::{Outcome, Processor, Stop, charge, resolve};
use crate::store::claim::{
    CLAIM_BATCH, Claim, ClaimedFor, IN_DOUBT_BATCH, claim_in_doubt, claim_queued, claim_untried,
    newest_id,
};
use crate::store::clock::DatabaseClock;
use crate::store::database::{Connections, Outage, Pool, RETRY_PAUSE};
use crate::telemetry::metrics::Counts;

/// The longest time between two claims when nothing wakes the worker: another instance may have
/// accepted payments and died.
pub(crate) const IDLE_POLL: Duration = Duration::from_millis(500);
/// The least time between two claims of an instance: what arrives meanwhile is claimed together,
/// which costs little more than one payment alone. An idle instance claims at once.
pub(crate) const CLAIM_PAUSE: Duration = Duration::from_millis(10);
/// The time between two claims that start at the oldest row instead of the low-water mark.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two claims of payments in doubt when there were none.
pub(crate) const IN_DOUBT_POLL: Duration = Duration::from_secs(1);
/// The time between two claims of payments in doubt when there were some.
pub(crate) const IN_DOUBT_PAUSE: Duration = Duration::from_millis(100);
/// The time between two attempts to reserve a slot for an outcome while settling is behind.
pub(crate) const SETTLE_SLOT_PAUSE: Duration = Duration::from_millis(25);
/// Rows below the newest claimed one that a claim still looks at: payments whose commit was
/// overtaken.
pub(crate) const LOW_WATER_SLACK: i64 = 1_000;
/// Calls that are begun before other tasks of this thread run. A claim out of a backlog begins
/// hundreds, which would delay replies to clients by tens of milliseconds.
const STARTED_AT_ONCE: usize = 16;
/// Most payments left in the queue with which an instance still claims others on accept: what four
/// claims take. A payment that is claimed by a statement of its own takes a fifth more work, so
/// a queue that grows because CPU is short would only grow faster if all had to go that way. While
/// more wait, payments are claimed in their order.
const LEFT_AT_MOST: usize = 4 * CLAIM_BATCH;
/// Why a claim was not carried out whose queue is gone.
const QUEUE_EMPTIED: &str = "the queue was emptied between the claim and the call";
/// The least number of payments that a claim asks for.
const LEAST_CLAIM: usize = 32;

/// A slot for the outcome of a claim. It is reserved before the claim is made: where settling is
/// behind, nothing more is charged than can be recorded soon.
type SettleSlot = mpsc::OwnedPermit<CompletedClaim>;

/// Claims and charges payments.
pub struct Worker {
    /// Connections for claims.
    pub pool: Pool,
    /// What the instance counts.
    pub counts: Arc<Counts>,
    /// How long claims last.
    pub terms: LeasePolicy,
    /// Whether payments may be claimed.
    pub admission: Arc<Admission>,
    /// Says which doubts are over.
    pub clock: Arc<DatabaseClock>,
    /// In the router's order.
    pub processors: Arc<Vec<Processor>>,
    /// Chooses the processor.
    pub router: SharedRouter,
    /// Takes the outcomes of claims.
    pub ended: mpsc::Sender<CompletedClaim>,
    /// Released payments.
    pub returned: Arc<Returned>,
    /// Woken when there may be something to claim.
    pub wake: Arc<Notify>,
    /// One for the worker of each cell: woken when a call has ended and its permit is back, of
    /// whichever cell the payment was.
    pub permit_back: Arc<[Notify]>,
    /// The cell whose payments it claims.
    pub cell: Cell,
    /// Calls to processors under way.
    pub calls: TaskTracker,
    /// When to stop.
    pub stop: Arc<Stop>,
    /// What is known of the queue.
    pub backlog: Arc<Backlog>,
    /// Payments that were claimed on accept and wait to be charged.
    pub arrived: Gathering<Arrived>,
}

/// Number of charges of payments claimed on accept that begin at once, without waiting for more.
pub const CHARGE_MAX_ITEMS: usize = 16;
/// Longest time that such a charge waits for others: little beside the call, and beside the 1.5 s
/// after which an audit may compare. No client waits for a charge, and to wake a sleeping process
/// costs as much as the call. Together with the batches of [settle](super::settle) it saves a sixth
/// of the whole work for a payment at 1,500 payments a second (docs/performance.md).
pub(crate) const CHARGE_MAX_WAIT: Duration = Duration::from_millis(6);

/// A payment that was claimed on accept, and the right to charge it.
#[derive(Debug)]
pub struct Arrived {
    processor: usize,
    claim: Claim,
    permit: Permit,
    slot: SettleSlot,
    /// [`Admission::times_emptied`] before the claim.
    life: u64,
}

/// What an instance knows of the queue without counting it.
#[derive(Debug, Default)]
pub struct Backlog {
    /// A claim found no more payments; since then permits and slots have been there, and claims
    /// have found no more than this instance had left.
    drained: AtomicBool,
    /// Payments that this instance has left in the queue since then, at most.
    left: AtomicUsize,
    newest_claimed: AtomicI64,
    newest: AtomicI64,
    oldest_age_ms: AtomicU64,
}

impl Backlog {
    /// An estimate for the router.
    #[must_use]
    pub fn queue(&self) -> Queue {
        let waiting =
            self.newest.load(Ordering::Relaxed) - self.newest_claimed.load(Ordering::Relaxed);
        Queue {
            waiting: u64::try_from(waiting).unwrap_or_default(),
            oldest_age: Duration::from_millis(self.oldest_age_ms.load(Ordering::Relaxed)),
        }
    }

    /// Whether payments may be claimed by the commit that accepts them, as far as the others in the
    /// queue are concerned.
    fn lets_pass(&self) -> bool {
        self.drained.load(Ordering::Relaxed) && self.left.load(Ordering::Relaxed) <= LEFT_AT_MOST
    }

    /// A claim took so many payments, and there may be more: others, where this instance has left
    /// none.
    fn took(&self, count: usize) {
        let left = self.left.load(Ordering::Relaxed);
        // Others only add to it.
        self.left.fetch_sub(left.min(count), Ordering::Relaxed);
        if left <= count {
            self.drained.store(false, Ordering::Relaxed);
        }
    }

    /// A claim found no more payments; `left` is what had been left before it.
    fn exhausted(&self, left: usize) {
        self.left.fetch_sub(left, Ordering::Relaxed);
        self.drained.store(true, Ordering::Relaxed);
    }

    fn claimed(&self, claims: &[Claim], exhausted: bool) {
        let Some(newest) = claims.iter().max_by_key(|claim| claim.id) else {
            self.newest_claimed
                .store(self.newest.load(Ordering::Relaxed), Ordering::Relaxed);
            self.oldest_age_ms.store(0, Ordering::Relaxed);
            return;
        };
        let age = (newest.requested_at - newest.accepted_at).num_milliseconds();
        self.oldest_age_ms
            .store(u64::try_from(age).unwrap_or_default(), Ordering::Relaxed);
        self.newest_claimed.store(newest.id, Ordering::Relaxed);
        if exhausted {
            self.newest.store(newest.id, Ordering::Relaxed);
        }
    }
}

/// What a step of [`Worker::claim_step`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It claimed this many payments, as many as it had permits for: there may be more.
    More(usize),
    /// It claimed this many payments, and there are no others.
    Drained(usize),
    /// The router gives no permit before this time has passed.
    NoPermit(Option<Duration>),
    /// Settling is behind: there is no slot for another outcome.
    NoSettleSlot,
}

impl Worker {
    /// Claims queued payments until the worker stops.
    pub async fn run(&self) {
        let mut from = ClaimFrom::default();
        let mut want = LEAST_CLAIM;
        let mut outage = Outage::new("claim");
        while !self.stop.draining.is_cancelled() {
            let not_before = tokio::time::Instant::now() + CLAIM_PAUSE;
            let (pause, wants_permits) = match self
                .pool
                .with_deadline(self.claim_step(want, from.next(&self.returned)))
                .await
            {
                Ok((step, newest)) => {
                    outage.over();
                    from.claimed(newest);
                    if let Step::More(count) | Step::Drained(count) = step {
                        want = (count * 2).clamp(LEAST_CLAIM, CLAIM_BATCH);
                    }
                    match step {
                        Step::More(_) => (Duration::ZERO, false),
                        Step::Drained(_) => {
                            (IDLE_POLL.mul_f64(rand::rng().random_range(0.5..1.0)), false)
                        }
                        Step::NoPermit(retry_in) => {
                            (retry_in.unwrap_or(IDLE_POLL).min(IDLE_POLL), true)
                        }
                        Step::NoSettleSlot => (SETTLE_SLOT_PAUSE, false),
                    }
                }
                Err(error) => {
                    outage.goes_on(&error, &self.pool).await;
                    (RETRY_PAUSE, false)
                }
            };
            tokio::select! {
                () = self.wake.notified(), if !wants_permits => {}
                () = self.permit_back[self.cell.number() - 1].notified(), if wants_permits => {}
                () = tokio::time::sleep(pause) => {}
                () = self.stop.draining.cancelled() => {}
            }
            tokio::time::sleep_until(not_before).await;
        }
    }

    /// Claims up to `want` payments from row `from_id` on, and starts to charge them. Returns the
    /// newest row that it claimed, too.
    ///
    /// # Errors
    /// The database did not confirm the claim.
    pub async fn claim_step(
        &self,
        want: usize,
        from_id: i64,
    ) -> Result<(Step, Option<i64>), sqlx::Error> {
        let Some(known) = self.known_queue() else {
            self.backlog.drained.store(false, Ordering::Relaxed);
            return Ok((Step::NoPermit(None), None));
        };
        let mut slots = self.slots(want, IN_DOUBT_BATCH).into_iter();
        if slots.len() == 0 {
            self.backlog.drained.store(false, Ordering::Relaxed);
            return Ok((Step::NoSettleSlot, None));
        }
        let plan = self.router.plan(slots.len(), self.backlog.queue());
        if plan.permits.is_empty() {
            self.backlog.drained.store(false, Ordering::Relaxed);
            return Ok((Step::NoPermit(plan.retry_in), None));
        }
        // Where one processor would take all, only payments that never failed find out whether
        // another is back: each probe may fail, and the same payments, the oldest, would be spent
        // on one after the other.
        let all_probe = plan.permits.iter().all(Permit::is_probe);
        let mut permits: BTreeMap<usize, Vec<Permit>> = BTreeMap::new();
        for permit in plan.permits {
            permits.entry(permit.processor()).or_default().push(permit);
        }
        let left = self.backlog.left.load(Ordering::Relaxed);
        let (life, mark) = (known.life, self.returned.in_flight.mark());
        let (mut claimed, mut newest) = (0, None);
        for (index, permits) in permits {
            let name = &self.processors[index].name;
            let spare = !all_probe && permits.iter().all(Permit::is_probe);
            let (wanted, terms) = (permits.len(), self.terms);
            let claims = match spare {
                true => claim_untried(&known, terms, name, wanted, from_id).await?,
                false => claim_queued(&known, terms, name, wanted, from_id).await?,
            };
            let drained = !spare && claims.len() < wanted;
            if !spare {
                self.backlog.claimed(&claims, drained);
            }
            self.counts.claimed_queued.add_batch(claims.len());
            self.note_claims(&claims, life);
            claimed += claims.len();
            newest = newest.max(claims.iter().map(|claim| claim.id).max());
            let rights = permits.into_iter().zip(&mut slots);
            for (started, (claim, (permit, slot))) in claims.into_iter().zip(rights).enumerate() {
                if started % STARTED_AT_ONCE == STARTED_AT_ONCE - 1 {
                    tokio::task::yield_now().await;
                }
                self.start(index, claim, permit, slot, life);
            }
            if drained {
                // Not where the queue had just been emptied, and nothing was claimed.
                if from_id == 0 && self.admission.times_emptied() == life {
                    self.returned.in_flight.none_waits(mark);
                }
                self.backlog.exhausted(left);
                return Ok((Step::Drained(claimed), newest));
            }
        }
        self.backlog.took(claimed);
        Ok((Step::More(claimed), newest))
    }

    /// Permits to claim so many payments for one processor by the commit that accepts them. None
    /// where many wait in the queue, as far as this instance knows, settling is behind, or the
    /// router does not give as many.
    pub fn claim_on_accept(self: &Arc<Self>, count: usize) -> Option<ClaimOnAccept> {
        if count > CLAIM_BATCH || !self.backlog.lets_pass() || self.stop.draining.is_cancelled() {
            return None;
        }
        let life = self.known_queue()?.life;
        let slots = self.slots(count, IN_DOUBT_BATCH);
        let permits = self.router.plan(slots.len(), self.backlog.queue()).permits;
        let processor = permits.first()?.processor();
        let enough =
            permits.len() == count && permits.iter().all(|permit| permit.processor() == processor);
        enough.then(|| ClaimOnAccept {
            worker: Arc::clone(self),
            processor,
            permits,
            slots,
            life,
        })
    }

    /// Whether anything may be claimed. After a restore not before what the database's former life
    /// has sent can only be answered or lost: until then an absence says nothing.
    fn may_claim(&self) -> bool {
        self.admission.may_claim(Uptime::now())
            && (!self.admission.was_restored()
                || self.clock.is_trusted(tokio::time::Instant::now()))
    }

    /// Notes payments that were accepted and not claimed: id, amount, time of acceptance.
    pub(crate) fn left_in_queue(&self, payments: &[(Uuid, Decimal, DateTime<Utc>)]) {
        self.returned.in_flight.wait(payments.iter().copied());
        self.backlog
            .left
            .fetch_add(payments.len(), Ordering::Relaxed);
        self.wake.notify_one();
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.processors
            .iter()
            .position(|processor| processor.name == name)
    }

    /// Places for the ends of so many claims, or of as many as there are beyond those that are
    /// `spared`.
    fn slots(&self, most: usize, spared: usize) -> Vec<SettleSlot> {
        let most = most.min(self.ended.capacity().saturating_sub(spared));
        let slots = (0..most).map_while(|_| self.ended.clone().try_reserve_owned().ok());
        slots.collect()
    }

    fn start_all(&self, arrived: Vec<Arrived>) {
        for one in arrived {
            self.start(one.processor, one.claim, one.permit, one.slot, one.life);
        }
    }

    /// The queue as this instance knows it now, if anything may be claimed there. Its life is read
    /// first: of a queue that is found emptied between the two nothing is claimed.
    fn known_queue(&self) -> Option<KnownQueue<'_>> {
        let known = KnownQueue {
            pool: &self.pool,
            admission: &self.admission,
            life: self.admission.times_emptied(),
        };
        self.may_claim().then_some(known)
    }

    /// Notes claims before anything of them is sent. Where the queue was found emptied since `life`
    /// was read, they are of a queue that is gone.
    fn note_claims(&self, claims: &[Claim], life: u64) {
        if self.admission.times_emptied() == life {
            self.returned.in_flight.add_all(claims);
        } else {
            self.returned.in_flight.add_stale(claims);
        }
    }

    /// Whether a claim that was made in that life of the queue may be sent (Guard:
    /// ClaimOfGoneQueue). Not where the queue was emptied since: what is posted again there may go
    /// elsewhere. The claim has been added to
    /// [`InFlight`](crate::pipeline::in_flight::InFlight) before, so that whoever notices after
    /// this that the queue was emptied finds it.
    fn may_send(&self, claim: &Claim, life: u64) -> bool {
        let is_of_this_life = self.admission.times_emptied() == life;
        if !is_of_this_life {
            self.returned.in_flight.note_stale(claim);
        }
        is_of_this_life
    }

    fn start(&self, index: usize, claim: Claim, permit: Permit, slot: SettleSlot, life: u64) {
        if !self.may_send(&claim, life) {
            let reason = QUEUE_EMPTIED.to_owned();
            return hand_over(slot, claim, Outcome::NotCharged { reason });
        }
        let (stop, permit_back) = (Arc::clone(&self.stop), Arc::clone(&self.permit_back));
        let processors = Arc::clone(&self.processors);
        if self.admission.asks_first(claim.accepted_at) {
            let (pool, counts) = (self.pool.clone(), Arc::clone(&self.counts));
            self.calls.spawn(async move {
                let asked = restored::ask(&pool, &processors, &counts, claim).await;
                let (claim, outcome) = match asked {
                    Asked::Decided(claim, outcome) => (claim, outcome),
                    Asked::Nowhere(claim) => {
                        let client = &processors[index].client;
                        let outcome = charge(client, &claim, permit, &stop).await;
                        (claim, outcome)
                    }
                };
                permit_back.iter().for_each(Notify::notify_one);
                hand_over(slot, claim, outcome);
            });
            return;
        }
        self.calls.spawn(async move {
            let outcome = charge(&processors[index].client, &claim, permit, &stop).await;
            permit_back.iter().for_each(Notify::notify_one);
            hand_over(slot, claim, outcome);
        });
    }

    /// Resolves payments in doubt until the worker stops.
    pub(crate) async fn run_in_doubt(&self) {
        let mut outage = Outage::new("claim in doubt");
        while !self.stop.draining.is_cancelled() {
            self.returned.asked_for(Instant::now());
            let pause = match self.pool.with_deadline(self.in_doubt_step()).await {
                Ok(found) => {
                    outage.over();
                    if found == 0 {
                        IN_DOUBT_POLL
                    } else {
                        IN_DOUBT_PAUSE
                    }
                }
                Err(error) => {
                    outage.goes_on(&error, &self.pool).await;
                    RETRY_PAUSE
                }
            };
            let pause = pause.mul_f64(rand::rng().random_range(0.8..1.2));
            self.until_in_doubt(Instant::now(), pause).await;
        }
    }

    /// Waits for `pause` after `from`, or until the pause of a payment ends that this instance has
    /// left in doubt, but for [`IN_DOUBT_PAUSE`] at least.
    async fn until_in_doubt(&self, from: Instant, pause: Duration) {
        loop {
            let due = self.returned.next_in_doubt();
            let at = due.map_or(from + pause, |due| due.min(from + pause));
            let at = at.max(from + IN_DOUBT_PAUSE.min(pause));
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => return,
                () = self.returned.in_doubt.notified() => {}
                () = self.stop.draining.cancelled() => return,
            }
        }
    }

    /// Claims payments in doubt and starts to resolve them. Returns how many.
    ///
    /// # Errors
    /// The database did not confirm the claim.
    pub async fn in_doubt_step(&self) -> Result<usize, sqlx::Error> {
        let Some(known) = self.known_queue() else {
            return Ok(0);
        };
        let newest = newest_id(&self.pool).await?;
        self.backlog.newest.store(newest, Ordering::Relaxed);
        let slots = self.slots(IN_DOUBT_BATCH, 0);
        let bound = self.in_doubt_bound();
        // The others are for instances that have their processors, or else for an operator.
        let processors = self.processors.iter();
        let configured: Vec<String> = processors.map(|each| each.name.clone()).collect();
        let (terms, clock, limit) = (self.terms, &self.clock, slots.len());
        let claims = claim_in_doubt(&known, terms, clock, &configured, limit, bound).await?;
        let count = claims.len();
        self.counts.claimed_in_doubt.add_batch(count);
        self.note_claims(&claims, known.life);
        for (claim, slot) in claims.into_iter().zip(slots) {
            self.start_resolving(claim, slot, known.life);
        }
        Ok(count)
    }

    /// Nothing above this row was ever claimed, by any instance, as far as can be known: the queue
    /// is claimed in order, so others are not far ahead. Spares a search through a deep backlog.
    fn in_doubt_bound(&self) -> i64 {
        /// How far ahead other instances may be, in rows.
        const AHEAD: i64 = 100_000;
        match self.backlog.newest_claimed.load(Ordering::Relaxed) {
            0 => i64::MAX,
            newest => newest.saturating_add(AHEAD),
        }
    }

    fn start_resolving(&self, claim: Claim, slot: SettleSlot, life: u64) {
        if !self.may_send(&claim, life) {
            let until = claim.earlier.map(|earlier| earlier.doubt_until);
            let reason = QUEUE_EMPTIED.to_owned();
            return hand_over(slot, claim, Outcome::InDoubt { until, reason });
        }
        let (stop, router) = (Arc::clone(&self.stop), self.router.clone());
        let processors = Arc::clone(&self.processors);
        let (index, earlier) = (self.index_of(&claim.processor), claim.earlier);
        let asks_first = self.admission.asks_first(claim.accepted_at);
        let asks = asks_first.then(|| (self.pool.clone(), Arc::clone(&self.counts)));
        self.calls.spawn(async move {
            let mut claim = claim;
            if let Some((pool, counts)) = asks {
                match restored::ask(&pool, &processors, &counts, claim).await {
                    Asked::Decided(decided, outcome) => return hand_over(slot, decided, outcome),
                    Asked::Nowhere(asked) => claim = asked,
                }
            }
            let outcome = match (index, earlier) {
                (Some(index), Some(earlier)) => {
                    let permit = || router.try_permit(index);
                    resolve(&processors[index].client, &claim, earlier, permit, &stop).await
                }
                // Claims are made for configured processors only.
                (_, earlier) => Outcome::InDoubt {
                    until: earlier.map(|earlier| earlier.doubt_until),
                    reason: "no processor of this name is configured".to_owned(),
                },
            };
            hand_over(slot, claim, outcome);
        });
    }
}

/// The queue that a claim is meant for.
struct KnownQueue<'a> {
    pool: &'a Pool,
    admission: &'a Admission,
    /// [`Admission::times_emptied`] when it was decided to claim.
    life: u64,
}

impl Connections for KnownQueue<'_> {
    fn pool(&self) -> &PgPool {
        self.pool.pool()
    }

    fn expected(&self) -> Option<Arc<str>> {
        self.pool.expected()
    }

    fn leads_to_known_queue(&self) -> bool {
        self.admission.times_emptied() == self.life
    }
}

/// The right to claim payments by the commit that accepts them. Dropped, it gives its permits back.
#[must_use]
pub struct ClaimOnAccept {
    worker: Arc<Worker>,
    processor: usize,
    permits: Vec<Permit>,
    slots: Vec<SettleSlot>,
    /// [`Admission::times_emptied`] before the claim.
    life: u64,
}

impl ClaimOnAccept {
    /// What to write into their rows.
    pub fn claimed_for(&self) -> ClaimedFor<'_> {
        ClaimedFor {
            processor: &self.worker.processors[self.processor].name,
            terms: self.worker.terms,
        }
    }

    /// Whether a connection that has just been taken leads to the queue that these claims are meant
    /// for.
    pub(crate) fn leads_to_known_queue(&self) -> bool {
        self.worker.admission.times_emptied() == self.life
    }

    /// Has charged what was claimed, [in a batch](Gathering) with what else arrives.
    pub fn start(self, claims: Vec<Claim>) {
        if claims.is_empty() {
            return;
        }
        let Self {
            worker,
            processor,
            permits,
            slots,
            life,
        } = self;
        worker.counts.claimed_queued.add_batch(claims.len());
        worker.note_claims(&claims, life);
        worker.backlog.claimed(&claims, true);
        let rights = permits.into_iter().zip(slots);
        let arrived = claims.into_iter().zip(rights);
        let arrived = arrived.map(|(claim, (permit, slot))| Arrived {
            processor,
            claim,
            permit,
            slot,
            life,
        });
        let now = Instant::now();
        let begin = worker.arrived.join(arrived, now);
        match begin {
            Begin::Now(arrived) => worker.start_all(arrived),
            Begin::At(at) => {
                let calls = worker.calls.clone();
                calls.spawn(async move {
                    tokio::time::sleep(at - now).await;
                    worker.start_all(worker.arrived.take());
                });
            }
            Begin::WithOthers => {}
        }
    }
}

fn hand_over(slot: SettleSlot, claim: Claim, outcome: Outcome) {
    let id = claim.payment.correlation_id;
    if slot.send(CompletedClaim { claim, outcome }).is_closed() {
        tracing::error!(payment.id = %id, "ended after settling had stopped; left to its lease");
    }
}

/// Where the next claim starts in the queue: at the low-water mark; at a payment that came back,
/// where that is lower; at the very beginning once in a [`SWEEP_INTERVAL`].
#[derive(Debug, Default)]
struct ClaimFrom {
    low_water: i64,
    swept_at: Option<Instant>,
}

impl ClaimFrom {
    /// The row to start at. It stays low until a claim has found something.
    fn next(&mut self, returned: &Returned) -> i64 {
        let now = Instant::now();
        self.low_water = self.low_water.min(returned.take_lowest_id());
        if self.swept_at.is_none_or(|at| now - at >= SWEEP_INTERVAL) {
            self.swept_at = Some(now);
            self.low_water = 0;
        }
        self.low_water
    }

    fn claimed(&mut self, newest: Option<i64>) {
        if let Some(newest) = newest {
            self.low_water = newest - LOW_WATER_SLACK;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_pass_others_only_while_these_are_few_and_known() {
        let backlog = Backlog::default();
        assert!(!backlog.lets_pass(), "another instance may have left some");
        backlog.exhausted(0);
        assert!(backlog.lets_pass());

        backlog.left.store(LEFT_AT_MOST + 1, Ordering::Relaxed);
        assert!(!backlog.lets_pass());
        backlog.took(LEFT_AT_MOST);
        assert!(backlog.lets_pass(), "one is left");
        backlog.took(LEAST_CLAIM);
        assert!(!backlog.lets_pass(), "there were more than were left here");

        backlog.left.store(2, Ordering::Relaxed);
        backlog.exhausted(1);
        assert!(backlog.lets_pass(), "one came during the claim");
        backlog.took(1);
        assert!(!backlog.lets_pass());
    }
}
