//! Whether an instance may accept and charge: only in the database that the deployment lives in,
//! only on the terms of the deployment, and only while the others can see that it is alive.
//!
//! A payment pays one atomic load for this. The database is asked at the start, with every
//! heartbeat, and for every new connection: an address may lead to another database from one
//! connection to the next.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

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
    open: AtomicBool,
    /// After a restore: each processor is asked for a payment before its first charge.
    asks_first: AtomicBool,
    /// Milliseconds from the origin to when the last heartbeat that was written had been sent.
    beat_ms: AtomicU64,
    /// Other instances that may have died and left claims, if this one is to look after them.
    silent: AtomicU32,
    /// How often the queue was found emptied.
    emptied: AtomicU64,
    /// The queue was emptied, and not every instance has put back what it had claimed.
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
}

impl Known {
    /// Takes note of where payments are.
    fn note(&mut self, identity: String, life: Option<Uuid>) {
        self.queue = life.map(|life| format!("{identity}, queue {life}").into());
        (self.identity, self.queue_life) = (Some(identity), life);
    }
}

impl Admission {
    /// Not admitted yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin: Uptime::now(),
            open: AtomicBool::new(false),
            asks_first: AtomicBool::new(false),
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
    pub fn ask_each_transaction(&self) {
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
    pub fn times_emptied(&self) -> u64 {
        self.emptied.load(Ordering::Acquire)
    }

    /// The life of the queue in which the claims of before have to be put back, if they have to be.
    #[must_use]
    pub fn gathering(&self) -> Option<Uuid> {
        let gathering = self.gathering.load(Ordering::Acquire);
        self.lock().queue_life.filter(|_| gathering)
    }

    /// The life of the queue, as far as it is known.
    pub(super) fn queue_life(&self) -> Option<Uuid> {
        self.lock().queue_life
    }

    /// Takes note of the life of the queue that a new connection leads to, before its first
    /// statement. Nothing is claimed in a new one until [`gathered`](Self::gathered).
    pub(super) fn found_queue(&self, life: Uuid) {
        let mut known = self.lock();
        if known.queue_life == Some(life) {
            return;
        }
        let known_before = known.queue_life.is_some();
        if let Some(identity) = known.identity.clone() {
            known.note(identity, Some(life));
        }
        if known_before {
            self.emptied.fetch_add(1, Ordering::AcqRel);
            self.gathering.store(true, Ordering::Release);
            self.queue_emptied.notify_one();
            tracing::error!(
                "a crash or a failover of the database server has emptied the unlogged queue: payments that waited \
                in it are lost; audit.balance says how many"
            );
        }
    }

    /// All instances have put back what they had claimed in an earlier life of the queue.
    pub(super) fn gathered(&self, life: Uuid) {
        let known = self.lock();
        if known.queue_life == Some(life) && self.gathering.swap(false, Ordering::AcqRel) {
            tracing::info!("claims go on: every instance has put back what it had claimed");
        }
    }

    /// Whether every processor is to be asked for a payment before its first charge.
    #[must_use]
    pub fn asks_first(&self) -> bool {
        self.asks_first.load(Ordering::Relaxed)
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

    /// Whether it was admitted before.
    #[must_use]
    pub fn was_admitted(&self) -> bool {
        self.lock().identity.is_some()
    }

    /// Accepts and charges from now on. `sent_at` is when what wrote that down had been sent.
    pub fn admit(&self, admitted: Admitted, sent_at: Uptime) {
        let mut known = self.lock();
        known.note(admitted.identity, admitted.queue_life);
        self.gathering
            .store(!admitted.queue_is_gathered, Ordering::Relaxed);
        self.asks_first
            .store(admitted.asks_first, Ordering::Relaxed);
        self.beat(sent_at);
        if !self.open.swap(true, Ordering::Relaxed) && known.held != STARTING {
            tracing::info!("not held any more: {}", known.held);
        }
    }

    /// A heartbeat that was sent then is written, and all is as it was at the admission.
    pub fn beat(&self, sent_at: Uptime) {
        let since = sent_at.since(self.origin).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.beat_ms.fetch_max(since, Ordering::Relaxed);
    }

    /// How many other instances have given no heartbeat for so long that they may have died, and so
    /// recently that they may have left claims whose leases run. Zero where another instance looks
    /// after them.
    #[must_use]
    pub fn silent_instances(&self) -> u32 {
        self.silent.load(Ordering::Relaxed)
    }

    /// What the heartbeat read of others that are silent.
    pub(super) fn read_silent(&self, instances: u32) {
        self.silent.store(instances, Ordering::Relaxed);
    }

    /// What the heartbeat read.
    pub fn read_asks_first(&self, asks_first: bool) {
        self.asks_first.store(asks_first, Ordering::Relaxed);
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
                    self.found_queue(life);
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
    /// Whether the claims of an earlier life are in that queue.
    pub queue_is_gathered: bool,
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
    pub async fn wrong_cell(
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
            return Ok(known.mismatch(self.cell, &self.place, Some(*deployment)));
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
                q.life,
                queue_is_gathered(q.life, $1, $2) AS "gathered!"
            FROM deployment_find() AS f, queue_life() AS q"#,
            self.id,
            interval(INSTANCE_TTL)
        )
        .fetch_one(&mut *transaction)
        .await?;
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
                    queue_is_gathered: found.gathered,
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

    /// Takes its row away: it ends. Others see that by themselves if the database does not confirm.
    pub async fn sign_off(&self, pool: &Pool) {
        let sign_off = sqlx::query!("DELETE FROM service_instance WHERE id = $1", self.id);
        if let Err(error) = pool.with_deadline(sign_off.execute(&**pool)).await {
            tracing::debug!(error = %error, "did not sign off");
        }
    }

    /// The terms as JSON.
    ///
    /// # Errors
    /// They cannot be written as JSON, which does not happen.
    pub fn terms_text(&self) -> Result<String, sqlx::Error> {
        serde_json::to_string(&self.terms).map_err(|error| sqlx::Error::Encode(error.into()))
    }
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
            queue_is_gathered: true,
        };
        admission.admit(admitted, begin);
        assert!(admission.may_claim(begin + INSTANCE_TTL.mul_f64(0.9)));
        // Stopped, or its machine suspended: the clock went on meanwhile.
        let later = begin + INSTANCE_TTL * 2;
        assert!(!admission.may_claim(later));
        admission.beat(later);
        assert!(admission.may_claim(later));
    }
}
