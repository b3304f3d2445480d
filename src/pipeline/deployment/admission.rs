//! Whether an instance may accept and charge: only in the database that the deployment lives in,
//! only on the terms of the deployment, and only while the others can see that it is alive.
//!
//! A payment pays one atomic load for this. The database is asked at the start, with every
//! heartbeat, and for every new connection: an address may lead to another database from one
//! connection to the next.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;
use uuid::Uuid;

use super::terms::MemberTerms;
use crate::domain::attention::{Attention, Item};
use crate::domain::cell::Cell;
use crate::domain::lease::INSTANCE_TTL;
use crate::domain::uptime::Uptime;
use crate::store::database::{
    ConnectionCheck, Found, KnownCell, MIGRATIONS, Pool, ServingPoll, interval,
};

/// What is said of an instance that has not found its database yet.
const STARTING: &str = "the instance is starting: its database is not prepared yet";

/// Says at any moment whether this instance may accept and charge.
#[derive(Debug)]
pub struct Admission {
    origin: Uptime,
    /// The same by the monotonic clock, for what may happen only after a time.
    begun_at: Instant,
    open: AtomicBool,
    /// After a restore: each processor is asked for a payment before its first charge.
    was_restored: AtomicBool,
    /// After the queue was emptied: the same for payments that were accepted before this time of
    /// the database's clock, in microseconds.
    asks_accepted_before: AtomicI64,
    /// And for every payment until this many milliseconds after `begun_at`.
    asks_until_ms: AtomicU64,
    /// Milliseconds from the origin to when the last heartbeat that was written had been sent.
    beat_ms: AtomicU64,
    /// Other instances that may have died and left claims, if this one is to look after them.
    silent: AtomicU32,
    /// How often the queue was found emptied.
    emptied: AtomicU64,
    /// The queue was emptied, and not every instance has put back what it knew.
    gathering: AtomicBool,
    /// A connection may lead elsewhere from one transaction to the next.
    pooled: AtomicBool,
    /// Woken when the queue was found emptied.
    pub(super) queue_emptied: Notify,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// Why nothing is accepted or charged, where that is so.
    held: String,
    /// The same for operators, where it must not be even if the database takes payments.
    refused: Option<Item>,
    /// The database that it was admitted to.
    identity: Option<String>,
    /// The life of its queue.
    queue_life: Option<Uuid>,
    /// Both, as `check_queue` has them.
    queue: Option<Arc<str>>,
    /// When this instance learnt that this life began because the queue had been emptied.
    learnt_at: Option<Instant>,
}

impl Known {
    /// Takes note of where payments are. True where another life of the queue was known before.
    fn note(&mut self, identity: Option<String>, life: Option<Uuid>, now: Instant) -> bool {
        let known = self.queue_life;
        self.queue_life = life.or(known);
        self.identity = identity;
        let queue = self.identity.as_ref().zip(self.queue_life);
        self.queue = queue.map(|(identity, life)| format!("{identity}, queue {life}").into());
        if known == self.queue_life {
            return false;
        }
        self.learnt_at = known.is_some().then_some(now);
        known.is_some()
    }
}

impl Admission {
    /// Not admitted yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin: Uptime::now(),
            begun_at: Instant::now(),
            open: AtomicBool::new(false),
            was_restored: AtomicBool::new(false),
            asks_accepted_before: AtomicI64::new(i64::MIN),
            asks_until_ms: AtomicU64::new(0),
            beat_ms: AtomicU64::new(0),
            silent: AtomicU32::new(0),
            emptied: AtomicU64::new(0),
            gathering: AtomicBool::new(false),
            pooled: AtomicBool::new(false),
            queue_emptied: Notify::new(),
            known: Mutex::new(Known {
                held: STARTING.to_owned(),
                refused: None,
                identity: None,
                queue_life: None,
                queue: None,
                learnt_at: None,
            }),
        }
    }

    /// One that holds for ever: for a worker that has no deployment around it.
    #[must_use]
    pub fn unconditional() -> Self {
        let admission = Self::new();
        admission.open.store(true, Ordering::Relaxed);
        admission.beat_ms.store(u64::MAX, Ordering::Relaxed);
        admission
    }

    /// From now on each transaction is asked where it leads, because the pooler gives each one
    /// another session.
    pub(crate) fn ask_each_transaction(&self) {
        self.pooled.store(true, Ordering::Relaxed);
    }

    /// Why this instance accepts nothing, where that is so.
    #[must_use]
    pub fn held(&self) -> Option<String> {
        let open = self.open.load(Ordering::Relaxed);
        (!open).then(|| self.lock().held.clone())
    }

    /// Why it must accept nothing, even if its database takes payments.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.attention().map(|item| item.text)
    }

    /// Whether payments may be claimed: the instance is admitted, and the others have not given it
    /// up. An instance that was stopped for a while, or whose machine was suspended, asks first
    /// what became of the deployment.
    #[must_use]
    pub fn may_claim(&self, now: Uptime) -> bool {
        let beat = Duration::from_millis(self.beat_ms.load(Ordering::Relaxed));
        let since = now.since(self.origin);
        self.open.load(Ordering::Relaxed)
            && !self.gathering.load(Ordering::Relaxed)
            && since.saturating_sub(beat) <= INSTANCE_TTL
    }

    /// How often the queue was found emptied: a claim that was made before the last time is of a
    /// queue that is gone, and must not be sent any more.
    #[must_use]
    pub(crate) fn times_emptied(&self) -> u64 {
        self.emptied.load(Ordering::Acquire)
    }

    /// The life of the queue into which this instance has to put back what it knows, if it has to.
    #[must_use]
    pub(crate) fn gathering(&self) -> Option<Uuid> {
        let gathering = self.gathering.load(Ordering::Acquire);
        self.lock().queue_life.filter(|_| gathering)
    }

    /// For how long this instance has known that it has to put back what it knows, if it has to.
    pub(super) fn gathers_for(&self, now: Instant) -> Option<Duration> {
        let learnt_at = self.lock().learnt_at?;
        self.gathering()?;
        Some(now.duration_since(learnt_at))
    }

    /// The life of the queue, as far as it is known.
    pub(super) fn queue_life(&self) -> Option<Uuid> {
        self.lock().queue_life
    }

    /// Takes note of the life of the queue that a new connection leads to, before its first
    /// statement. Nothing is claimed in a new one until [`gathered`](Self::gathered).
    pub(super) fn found_queue(&self, life: Uuid, now: Instant) {
        let mut known = self.lock();
        let identity = known.identity.clone();
        if known.note(identity, Some(life), now) {
            self.was_emptied();
        }
    }

    /// Whoever reads that number reads that nothing may be claimed, too, if he looks after that.
    fn was_emptied(&self) {
        self.gathering.store(true, Ordering::Relaxed);
        self.emptied.fetch_add(1, Ordering::AcqRel);
        self.queue_emptied.notify_one();
    }

    /// This instance has put back what it knew, and a heartbeat has read how that stands: the queue
    /// was emptied at `emptied_at` by the database's clock, and with `complete` all other instances
    /// have put back what they knew, too (Guard: ClaimsWaitForPutBack). Where one has not, it may
    /// have calls open that nobody knows of: nothing is claimed for the time `doubt`, after which
    /// these calls are over. Payments that are accepted meanwhile, and for the time `doubt` from
    /// then on, are asked for before their first charge.
    pub(super) fn gathered(&self, life: Uuid, read: Gathered, doubt: Duration, now: Instant) {
        let known = self.lock();
        if known.queue_life != Some(life) || !self.gathering.load(Ordering::Acquire) {
            return;
        }
        let waited = known
            .learnt_at
            .is_none_or(|at| now.duration_since(at) >= doubt);
        if !read.complete && !waited {
            return;
        }
        self.ask_first(read.asks_before(doubt), doubt, now);
        self.gathering.store(false, Ordering::Release);
        let seconds = doubt.as_secs();
        tracing::info!(
            queue.complete = read.complete,
            "claims go on; for {seconds} s every processor is asked for a payment before its first \
            charge"
        );
    }

    /// Has every processor asked for payments that were accepted before a time of the database's
    /// clock, and for every payment during the time `length` from now on.
    fn ask_first(&self, accepted_before: Option<DateTime<Utc>>, length: Duration, now: Instant) {
        if let Some(before) = accepted_before {
            let micros = before.timestamp_micros();
            self.asks_accepted_before
                .fetch_max(micros, Ordering::Relaxed);
        }
        let until = millis((now + length).duration_since(self.begun_at));
        self.asks_until_ms.fetch_max(until, Ordering::Relaxed);
    }

    /// Whether the database was restored, and that is not over.
    #[must_use]
    pub(crate) fn was_restored(&self) -> bool {
        self.was_restored.load(Ordering::Relaxed)
    }

    /// Whether every processor is to be asked for a payment that was accepted then, by the
    /// database's clock, before its first charge (Guard: AskedAfterCrash).
    #[must_use]
    pub fn asks_first(&self, accepted_at: DateTime<Utc>) -> bool {
        if self.was_restored() {
            return true;
        }
        let until = self.asks_until_ms.load(Ordering::Relaxed);
        let before = self.asks_accepted_before.load(Ordering::Relaxed);
        accepted_at.timestamp_micros() < before
            // No clock is read where the queue was never emptied.
            || until > 0 && millis(self.begun_at.elapsed()) < until
    }

    /// Accepts and charges nothing from now on. A reason that is new is logged.
    pub fn hold(&self, refused: Item) {
        if self.wait_for(&refused.text) {
            tracing::error!("held, nothing is accepted or charged: {}", refused.text);
        }
        self.lock().refused = Some(refused);
    }

    /// The same without a line in the log. Returns whether the reason is new.
    pub fn wait_for(&self, reason: &str) -> bool {
        let mut known = self.lock();
        let was_open = self.open.swap(false, Ordering::Relaxed);
        let news = was_open || known.held != reason;
        if news {
            known.held = reason.to_owned();
            known.refused = None;
        }
        news
    }

    /// Accepts and charges nothing until it is said why.
    pub(super) fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
    }

    /// Accepts and charges from now on. `sent_at` is when what wrote that down had been sent.
    pub fn admit(&self, admitted: Admitted, sent_at: Uptime) {
        let mut known = self.lock();
        let now = Instant::now();
        if known.note(Some(admitted.identity), admitted.queue_life, now) {
            self.was_emptied();
        }
        if let Some(quarantine) = admitted.quarantine {
            self.ask_first(Some(quarantine.asks_before), quarantine.asks_for, now);
            if quarantine.waits {
                known.learnt_at.get_or_insert(now);
                self.gathering.store(true, Ordering::Release);
            }
        }
        self.was_restored
            .store(admitted.asks_first, Ordering::Relaxed);
        self.beat(sent_at);
        if !self.open.swap(true, Ordering::Relaxed) && known.held != STARTING {
            tracing::info!("not held any more: {}", known.held);
        }
    }

    /// A heartbeat that was sent then is written, and all is as it was at the admission.
    pub fn beat(&self, sent_at: Uptime) {
        let since = millis(sent_at.since(self.origin));
        self.beat_ms.fetch_max(since, Ordering::Relaxed);
    }

    /// How many other instances have given no heartbeat for so long that they may have died, and so
    /// recently that they may have left claims whose leases run. Zero where another instance looks
    /// after them.
    #[must_use]
    pub(crate) fn silent_instances(&self) -> u32 {
        self.silent.load(Ordering::Relaxed)
    }

    /// What the heartbeat read of others that are silent.
    pub(super) fn read_silent(&self, instances: u32) {
        self.silent.store(instances, Ordering::Relaxed);
    }

    /// What the heartbeat read.
    pub fn read_asks_first(&self, asks_first: bool) {
        self.was_restored.store(asks_first, Ordering::Relaxed);
    }

    /// How long ago the last heartbeat that was written had been sent.
    pub(super) fn last_beat(&self, now: Uptime) -> Duration {
        let beat = Duration::from_millis(self.beat_ms.load(Ordering::Relaxed));
        now.since(self.origin).saturating_sub(beat)
    }

    /// Tells operators why it is held.
    #[must_use]
    pub fn attention(&self) -> Option<Item> {
        self.held()?;
        self.lock().refused.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl ConnectionCheck for Admission {
    fn expected(&self) -> Option<Arc<str>> {
        let pooled = self.pooled.load(Ordering::Relaxed);
        pooled.then(|| self.lock().queue.clone()).flatten()
    }

    /// Keeps a new connection from its user where it leads to another database than the one that
    /// the instance was admitted to.
    fn check<'c>(
        &'c self,
        connection: &'c mut PgConnection,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(async move {
            let Some(expected) = self.lock().identity.clone() else {
                return Ok(());
            };
            let found = sqlx::query!(
                r#"SELECT database_identity() AS "identity!", life FROM queue_life()"#
            )
            .fetch_one(connection)
            .await?;
            if found.identity == expected {
                if let Some(life) = found.life {
                    self.found_queue(life, Instant::now());
                }
            } else {
                let found = found.identity;
                // Why, and what to do, is logged when the instance has asked for admission there.
                // An error here would be logged for every connection, by the pool.
                if self.refused().is_none() {
                    self.wait_for(&format!(
                        "its connections lead to another database now ({found})"
                    ));
                }
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

/// Takes connections for reading that lead to the database of the deployment or to a standby of it.
/// One that leads elsewhere is kept from its user, and nothing else of the instance hears of it.
#[derive(Debug)]
pub(crate) struct ReadCheck {
    admission: Arc<Admission>,
    /// It was logged that a connection leads elsewhere.
    told: AtomicBool,
}

impl ReadCheck {
    /// Goes by the database that an instance was admitted to.
    #[must_use]
    pub(crate) fn new(admission: &Arc<Admission>) -> Self {
        Self {
            admission: Arc::clone(admission),
            told: AtomicBool::new(false),
        }
    }
}

impl ConnectionCheck for ReadCheck {
    fn check<'c>(
        &'c self,
        connection: &'c mut PgConnection,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(async move {
            let Some(expected) = self.admission.lock().identity.clone() else {
                return Ok(());
            };
            let found = sqlx::query_scalar!(r#"SELECT database_identity() AS "identity!""#)
                .fetch_one(connection)
                .await?;
            if found == expected {
                self.told.store(false, Ordering::Relaxed);
                return Ok(());
            }
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    database.expected = expected,
                    database.found = found,
                    "READ_DATABASE_URL leads to another database than DATABASE_URL: nothing is \
                    read there"
                );
            }
            std::future::pending().await
        })
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

/// What an instance was admitted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The database.
    pub identity: String,
    /// Whether a restore of it is still being checked.
    pub asks_first: bool,
    /// The life of its queue.
    pub queue_life: Option<Uuid>,
    /// What is left to be heeded after that queue was emptied.
    pub quarantine: Option<Quarantine>,
}

/// What a heartbeat reads of a queue that was emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gathered {
    /// All instances have put back what they knew.
    pub complete: bool,
    /// When it was emptied, by the database's clock.
    pub emptied_at: Option<DateTime<Utc>>,
}

impl Gathered {
    /// Payments accepted before this time are asked for. Where an instance has not put back what it
    /// knew, nothing is claimed for the time `doubt`.
    fn asks_before(self, doubt: Duration) -> Option<DateTime<Utc>> {
        let length = if self.complete { doubt } else { doubt * 2 };
        let length = TimeDelta::from_std(length).unwrap_or(TimeDelta::MAX);
        self.emptied_at?.checked_add_signed(length)
    }
}

/// What an instance heeds that starts after the queue was emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarantine {
    /// Every processor is asked for payments that were accepted before this time of the database's
    /// clock.
    pub asks_before: DateTime<Utc>,
    /// And for every payment for so long.
    pub asks_for: Duration,
    /// An instance may have calls open that nobody knows of.
    pub waits: bool,
}

impl Quarantine {
    /// What is left at the time `now` of the database's clock.
    fn left(read: Gathered, doubt: Duration, now: DateTime<Utc>) -> Option<Self> {
        let emptied_at = read.emptied_at?;
        let asks_before = read.asks_before(doubt)?;
        // Of the future: that clock was set back since, and how much is left is not known.
        let since = (now - emptied_at).to_std().unwrap_or_default();
        let asks_for = (asks_before - now).to_std().unwrap_or_default();
        Some(Self {
            asks_before,
            asks_for: asks_for.min(doubt * 2),
            waits: !read.complete && since < doubt,
        })
    }
}

/// An instance that wants to be admitted.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its id, chosen at its start.
    pub id: Uuid,
    /// What it is configured with.
    pub terms: MemberTerms,
    /// The cell that its database has to be.
    pub cell: Cell,
    /// Where that is, for people.
    pub place: String,
    /// The deployment that the first of its cells was found to be of: one for all of them.
    pub deployment: Arc<OnceLock<Uuid>>,
}

/// The version of this program and the newest migration that it knows.
#[must_use]
pub fn program() -> String {
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max();
    format!(
        "{}, migration {}",
        env!("CARGO_PKG_VERSION"),
        newest.unwrap_or_default()
    )
}

impl Candidate {
    /// Why this database is not the cell that it has to be, in one line.
    ///
    /// # Errors
    /// The database did not answer.
    pub(crate) async fn wrong_cell(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Option<String>, sqlx::Error> {
        let Some(known) = KnownCell::read(connection).await? else {
            return Ok(None);
        };
        let deployment = self.deployment.get().copied();
        let differs = known.mismatch(self.cell, &self.place, deployment);
        if differs.is_none() {
            // Of several cells that are asked at once one is the first; the others look again.
            let deployment = self.deployment.get_or_init(|| known.deployment);
            let differs = known.mismatch(self.cell, &self.place, Some(*deployment));
            return Ok(differs.or_else(|| known.closed(&self.place)));
        }
        Ok(differs)
    }

    /// Asks for admission. Of several that ask at once with different terms the first is admitted,
    /// because the one row of the deployment is locked meanwhile. Where nobody serves, one with
    /// `poll` brings new terms; it has to ask with the same ones until that is known.
    ///
    /// Returns why it was not admitted, which the others can read then.
    ///
    /// # Errors
    /// The database did not confirm; asking again is safe.
    pub async fn ask(
        &self,
        connection: &mut PgConnection,
        poll: Option<&mut ServingPoll>,
    ) -> Result<Result<Admitted, Item>, sqlx::Error> {
        let mut transaction = connection.begin().await?;
        let found = sqlx::query!(
            r#"SELECT f.recorded, f.here AS "here!", coalesce(f.asks_first, false) AS "asks_first!",
                q.life
            FROM deployment_find() AS f, queue_life() AS q"#
        )
        .fetch_one(&mut *transaction)
        .await?;
        // What the row says from here on stays true until this has been written down: whoever makes
        // a cell of the database, or moves its payments, locks it and then looks who serves.
        lock(&mut transaction).await?;
        // A statement of its own: queue_life() may just have begun this life.
        let emptied = sqlx::query!(
            r#"SELECT clock_timestamp() AS "now!", queue_is_gathered($1, $2, $3) AS "complete!",
                queue_emptied_at($1) AS emptied_at"#,
            found.life,
            self.id,
            interval(self.terms.doubt())
        )
        .fetch_one(&mut *transaction)
        .await?;
        let read = Gathered {
            complete: emptied.complete,
            emptied_at: emptied.emptied_at,
        };
        let wrong_cell = self.wrong_cell(&mut transaction).await?;
        let decided = match (wrong_cell, found.recorded) {
            (Some(differs), _) => Err(Attention::InstanceHeld.item(differs)),
            (None, Some(recorded)) if recorded == found.here => self
                .agree(&mut transaction, poll)
                .await?
                .map(|()| Admitted {
                    identity: found.here,
                    asks_first: found.asks_first,
                    queue_life: found.life,
                    quarantine: Quarantine::left(read, self.terms.doubt(), emptied.now),
                })
                .map_err(|reason| Attention::InstanceHeld.item(reason)),
            (None, recorded) => Err(Attention::DatabaseCopy.item(format!(
                "this database is a copy: it is {}, and the deployment was recorded in {}. Say what it is: \
                `payment-proxy deployment declare restored`, `clone` or `moved`; docs/clocks-and-copies.md has all three",
                found.here,
                recorded.as_deref().unwrap_or("none that is known")
            ))),
        };
        self.write(&mut transaction, decided.as_ref().err(), found.life)
            .await?;
        transaction.commit().await?;
        Ok(decided)
    }

    async fn agree(
        &self,
        connection: &mut PgConnection,
        poll: Option<&mut ServingPoll>,
    ) -> Result<Result<(), String>, sqlx::Error> {
        let known = sqlx::query_scalar!(r#"SELECT terms::text FROM deployment FOR UPDATE"#)
            .fetch_one(&mut *connection)
            .await?;
        let known = known.and_then(|known| serde_json::from_str::<MemberTerms>(&known).ok());
        if known.as_ref() == Some(&self.terms) {
            return Ok(Ok(()));
        }
        if let Some(known) = &known {
            let differences = self.terms.differences(known).join("; ");
            let found = match poll {
                Some(poll) => Some(poll.poll(&mut *connection, Some(self.id)).await?),
                None => None,
            };
            if found != Some(Found::Nobody) {
                return Ok(Err(format!(
                    "it contradicts the deployment: {differences}. Mend its settings, or stop the others (it goes on \
                    when they have signed off, or {} s after the last heartbeat), or `payment-proxy deployment \
                    declare terms --like {}`",
                    INSTANCE_TTL.as_secs(),
                    self.id
                )));
            }
            // Only what a name meant when it was written down beside a payment can tell whether
            // that was charged.
            let moved = self.terms.moved_from(known);
            let assigned = sqlx::query_scalar!(
                r#"SELECT DISTINCT processor AS "processor!" FROM payment_queue WHERE processor = ANY ($1)"#,
                &moved
            )
            .fetch_all(&mut *connection)
            .await?;
            if !assigned.is_empty() {
                return Ok(Err(format!(
                    "payments may be charged by {} where the deployment has it: {differences}. Start with the old \
                    address until they are settled, or say that it is the same processor: `payment-proxy deployment \
                    declare terms --like {}`",
                    assigned.join(" and "),
                    self.id
                )));
            }
            tracing::warn!("the deployment has new terms: {differences}");
        }
        let terms = self.terms_text()?;
        sqlx::query!(
            "UPDATE deployment SET terms = $1::text::jsonb, terms_at = clock_timestamp()",
            terms
        )
        .execute(connection)
        .await?;
        Ok(Ok(()))
    }

    /// Its row among the instances, as its first heartbeat.
    async fn write(
        &self,
        connection: &mut PgConnection,
        held: Option<&Item>,
        queue_life: Option<Uuid>,
    ) -> Result<(), sqlx::Error> {
        let processors: Vec<String> = self.terms.processors.keys().cloned().collect();
        let items: Vec<&Item> = held.into_iter().collect();
        let attention =
            serde_json::to_string(&items).map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query!(
            "INSERT INTO service_instance (id, seen_at, processors, attention, terms, program, held,
                queue_life)
            VALUES ($1, now(), $2, $3::text::jsonb, $4::text::jsonb, $5, $6, $7)
            ON CONFLICT ON CONSTRAINT service_instance_pkey DO UPDATE
            SET seen_at = excluded.seen_at, attention = excluded.attention, held = excluded.held",
            self.id,
            &processors,
            attention,
            self.terms_text()?,
            program(),
            held.map(|item| item.text.as_str()),
            queue_life
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Takes its row away: it ends. What it asked for and gave up waiting for may still be written,
    /// so this waits for the lock under which that happens. Others see that it is gone by themselves
    /// if the database does not confirm.
    pub(crate) async fn sign_off(&self, pool: &Pool) {
        let signed_off = async {
            let mut transaction = pool.begin().await?;
            lock(&mut transaction).await?;
            sqlx::query!("DELETE FROM service_instance WHERE id = $1", self.id)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        };
        if let Err(error) = pool.with_deadline(signed_off).await {
            tracing::debug!(error = %error, "did not sign off");
        }
    }

    /// The terms as JSON.
    ///
    /// # Errors
    /// They cannot be written as JSON, which does not happen.
    pub(crate) fn terms_text(&self) -> Result<String, sqlx::Error> {
        serde_json::to_string(&self.terms).map_err(|error| sqlx::Error::Encode(error.into()))
    }
}

/// Locks the row under which an admission is written.
async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT one FROM deployment FOR UPDATE")
        .fetch_optional(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_could_give_no_heartbeat_for_a_while_claims_nothing() {
        let (admission, begin) = (Admission::new(), Uptime::now());
        assert!(!admission.may_claim(begin));
        let admitted = Admitted {
            identity: String::new(),
            asks_first: false,
            queue_life: None,
            quarantine: None,
        };
        admission.admit(admitted, begin);
        assert!(admission.may_claim(begin + INSTANCE_TTL.mul_f64(0.9)));
        // Stopped, or its machine suspended: the clock went on meanwhile.
        let later = begin + INSTANCE_TTL * 2;
        assert!(!admission.may_claim(later));
        admission.beat(later);
        assert!(admission.may_claim(later));
    }

    const DOUBT: Duration = Duration::from_secs(80);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn may_claim(admission: &Admission) -> bool {
        admission.may_claim(Uptime::now())
    }

    /// One that serves, and learns at `now` that its queue was emptied.
    fn emptied(now: Instant) -> (Admission, Uuid) {
        let (admission, life) = (Admission::new(), Uuid::from_u128(2));
        let admitted = Admitted {
            identity: String::new(),
            asks_first: false,
            queue_life: Some(Uuid::from_u128(1)),
            quarantine: None,
        };
        admission.admit(admitted, Uptime::now());
        assert!(may_claim(&admission) && !admission.asks_first(at(0)));
        admission.found_queue(life, now);
        (admission, life)
    }

    #[test]
    fn nothing_is_claimed_in_an_emptied_queue_before_all_instances_have_put_back_what_they_knew() {
        let begin = Instant::now();
        let (admission, life) = emptied(begin);
        assert_eq!(admission.times_emptied(), 1);
        assert!(!may_claim(&admission));
        let read = |complete| Gathered {
            complete,
            emptied_at: Some(at(1_000)),
        };
        admission.gathered(life, read(false), DOUBT, begin);
        assert!(!may_claim(&admission), "another one may have calls open");
        // Of an earlier life.
        admission.gathered(Uuid::from_u128(1), read(true), DOUBT, begin);
        assert!(!may_claim(&admission));
        admission.gathered(life, read(true), DOUBT, begin);
        assert!(may_claim(&admission) && admission.gathering().is_none());
    }

    #[test]
    fn an_instance_that_puts_nothing_back_is_waited_for_until_its_calls_are_over() {
        let begin = Instant::now();
        let (admission, life) = emptied(begin);
        let read = Gathered {
            complete: false,
            emptied_at: Some(at(1_000)),
        };
        let almost = begin + (DOUBT - Duration::from_millis(1));
        admission.gathered(life, read, DOUBT, almost);
        assert!(!may_claim(&admission));
        admission.gathered(life, read, DOUBT, begin + DOUBT);
        assert!(may_claim(&admission));
        // What was accepted meanwhile is asked for, whenever it is claimed.
        admission.asks_until_ms.store(0, Ordering::Relaxed);
        assert!(admission.asks_first(at(1_000 + 159)));
        assert!(!admission.asks_first(at(1_000 + 160)));
    }

    #[test]
    fn after_an_emptied_queue_processors_are_asked_for_a_while_whatever_the_databases_clock_says() {
        let long_ago = Instant::now();
        let (admission, life) = emptied(long_ago);
        let read = Gathered {
            complete: true,
            emptied_at: Some(at(1_000)),
        };
        admission.gathered(life, read, DOUBT, long_ago);
        assert!(admission.asks_first(at(1_000 + 79)));
        // That clock was set forward since: the time of this instance counts.
        assert!(admission.asks_first(at(9_000)));
        admission.asks_until_ms.store(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
        assert!(!admission.asks_first(at(1_000 + 80)));
        assert!(admission.asks_first(at(1_000 + 79)));
    }

    #[test]
    fn an_instance_that_starts_after_the_queue_was_emptied_heeds_what_is_left() {
        let read = |complete| Gathered {
            complete,
            emptied_at: Some(at(1_000)),
        };
        let left = |complete, now| {
            let left = Quarantine::left(read(complete), DOUBT, at(now)).expect("it was emptied");
            (left.asks_for.as_secs(), left.waits)
        };
        assert_eq!(left(true, 1_000), (80, false));
        assert_eq!(left(true, 1_079), (1, false));
        assert_eq!(left(true, 5_000), (0, false));
        assert_eq!(left(false, 1_079), (81, true));
        assert_eq!(left(false, 1_080), (80, false));
        assert_eq!(left(false, 0), (160, true), "the clock was set back");
        let never = Gathered {
            complete: false,
            emptied_at: None,
        };
        assert_eq!(Quarantine::left(never, DOUBT, at(0)), None);
    }

    #[test]
    fn an_instance_that_was_held_while_the_queue_was_emptied_puts_back_what_it_knows() {
        let begin = Instant::now();
        let (admission, _) = emptied(begin);
        let admitted = Admitted {
            identity: String::new(),
            asks_first: false,
            queue_life: Some(Uuid::from_u128(3)),
            quarantine: None,
        };
        admission.admit(admitted, Uptime::now());
        assert_eq!(admission.times_emptied(), 2);
        assert_eq!(admission.gathering(), Some(Uuid::from_u128(3)));
    }
}
