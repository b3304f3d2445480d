//! A deployment and its surroundings, and what each step does to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use payment_proxy::config::QueueDurability;
use payment_proxy::domain::lease::LeasePolicy;
use payment_proxy::domain::payment::Payment;
use payment_proxy::domain::uptime::Uptime;
use payment_proxy::pipeline::accept::{Accepted, enqueue};
use payment_proxy::pipeline::settle::{Anomaly, CompletedClaim, record};
use payment_proxy::processors::{OVERDUE_AFTER, Outcome};
use payment_proxy::store::claim::{
    Claim, ClaimedFor, IN_DOUBT_BATCH, claim_in_doubt, claim_queued, held_for,
};
use payment_proxy::store::clock::{DatabaseClock, WATCH_GAP};
use payment_proxy::store::database::{Pool, Pools};
use payment_proxy::store::dead_letter;
use proptest::prop_assert_eq;
use proptest::test_runner::TestCaseError;
use rust_decimal::Decimal;
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock::{self, Clock};
use crate::invariants::{self, Row};
use crate::site::{CALL_TIMEOUT, Site};
use crate::step::{Ending, Fate, PAYMENTS, Posted, Step, WORKERS};
use crate::support::Database;
use crate::tally::{Met, Tally};
use crate::worker::{Actor, Held, Sent, index_of};

/// How long after the end of a lease a processor may still charge, as in production.
const LATE_CHARGE: Duration = Duration::from_secs(60);

/// How long after the end of a lease a take-over comes.
const SHORTLY: Duration = Duration::from_secs(1);

pub type Checked = Result<(), TestCaseError>;

/// What all sequences use, one after the other.
pub struct Ground {
    pub database: Database,
    pools: Pools,
    pub tally: Tally,
}

impl Ground {
    pub async fn prepare() -> Self {
        let database = Database::migrated().await;
        Clock::install(&database).await;
        let pools = Pools::new(&database.settings(QueueDurability::Unlogged));
        Self {
            database,
            pools,
            tally: Tally::default(),
        }
    }

    /// Connections for requests.
    pub fn requests(&self) -> &Pool {
        &self.pools.requests
    }

    /// Connections for settles.
    pub fn settles(&self) -> &Pool {
        &self.pools.settles
    }
}

/// A request that a processor works on and will store.
pub struct Open {
    pub id: Uuid,
    pub site: usize,
    pub requested_at: chrono::DateTime<chrono::Utc>,
    pub until: Instant,
}

pub struct World<'a> {
    pub ground: &'a Ground,
    pub pools: &'a Pools,
    pub terms: LeasePolicy,
    pub sites: Vec<Site>,
    pub actors: Vec<Actor>,
    /// What the worker that heals knows of the database's clock.
    pub healer: Option<Arc<DatabaseClock>>,
    pub clock: Clock,
    /// What clients were told is accepted.
    pub accepted: BTreeMap<Uuid, Decimal>,
    /// Charges on their way, whoever still waits for them.
    pub open: Vec<Open>,
    /// The claims of which nobody has recorded the end, by row: which attempt, and since when.
    pub leases: BTreeMap<i64, (i32, Instant)>,
    /// Rows that an end of an attempt that is over must leave as they are, until the next check.
    pub fenced: Vec<Row>,
    /// The tables as they were after the last step.
    pub rows: Vec<Row>,
}

impl<'a> World<'a> {
    /// Takes the steps, then heals everything, and checks the books after each step and at the end.
    pub async fn live(ground: &'a Ground, steps: &[Step]) -> Checked {
        let mut world = Self::begin(ground).await;
        for step in steps {
            world.take(step).await?;
            invariants::check(&mut world).await?;
        }
        world.heal().await?;
        invariants::check(&mut world).await?;
        invariants::check_ledger(&world).await?;
        world.come_back_late().await?;
        invariants::check(&mut world).await?;
        invariants::check_ledger(&world).await
    }

    async fn begin(ground: &'a Ground) -> Self {
        ground
            .database
            .execute(
                "DELETE FROM payment_queue; DELETE FROM payment_processed; DELETE FROM \
                payment_dead_letter; DELETE FROM payment_attempt",
            )
            .await;
        let sites = vec![Site::open("default").await, Site::open("fallback").await];
        let terms = LeasePolicy::new(CALL_TIMEOUT, LATE_CHARGE);
        Self {
            ground,
            pools: &ground.pools,
            terms,
            actors: (0..WORKERS).map(|_| Actor::start(&sites, terms)).collect(),
            healer: None,
            sites,
            clock: Clock::start(&ground.pools.requests).await,
            accepted: BTreeMap::new(),
            open: Vec::new(),
            leases: BTreeMap::new(),
            fenced: Vec::new(),
            rows: Vec::new(),
        }
    }

    async fn take(&mut self, step: &Step) -> Checked {
        match step {
            Step::Post { posted, claimed } => self.post(posted, *claimed).await?,
            Step::Claim {
                worker,
                site,
                limit,
            } => self.claim(*worker, *site, *limit).await?,
            Step::ClaimDoubtful { worker, limit } => self.claim_in_doubt(*worker, *limit).await?,
            Step::AskElsewhere { worker } => self.ask_elsewhere(*worker).await,
            Step::TakeOver { worker, limit } => {
                self.pass(self.terms.lease + SHORTLY).await;
                self.claim_in_doubt(*worker, *limit).await?;
            }
            Step::Send { worker, nth, fate } => self.send(*worker, *nth, *fate).await,
            Step::Settle {
                worker,
                count,
                twice,
            } => self.settle(*worker, *count, *twice).await?,
            Step::Crash { worker } => self.crash(*worker).await,
            Step::Stop { worker } => self.stop(*worker).await?,
            Step::Pass(length) => self.pass(*length).await,
            Step::SetClock(seconds) => {
                // Two steps that cancel out between two looks are seen by nobody
                // (docs/clocks-and-copies.md), so each is seen before the next one. What comes
                // right after a step still comes before any look.
                let (now, database) = (Instant::now(), self.clock.database());
                for clock in self.clocks() {
                    clock.observe(now, database, now);
                }
                self.clock.step(&self.pools.requests, *seconds).await;
                self.met(Met::ClockStep, 1);
            }
            Step::CutOff { site } => {
                self.sites[*site].cut_off();
                self.calls_end_at(*site).await;
            }
            Step::Restart { site } => {
                self.sites[*site].restart().await;
                self.open.retain(|open| open.site != *site);
                self.calls_end_at(*site).await;
            }
            Step::PostRace { nth } => self.post_race(*nth).await,
            Step::RetryDead => self.retry_dead().await,
        }
        Ok(())
    }

    async fn post(&mut self, posted: &[Posted], claimed: Option<(usize, usize)>) -> Checked {
        self.clock.tick(&self.pools.requests).await;
        let payments: Vec<Payment> = posted.iter().map(payment).collect();
        let claimed_for = claimed.map(|(_, site)| ClaimedFor {
            processor: self.sites[site].name,
            terms: self.terms,
        });
        let connection = self.pools.requests.acquire().await;
        let mut connection = connection.expect("a connection");
        let (told, claims) = enqueue(&mut connection, &payments, claimed_for)
            .await
            .expect("the database answers");
        let queued = told
            .iter()
            .filter(|told| **told == Accepted::Queued)
            .count();
        prop_assert_eq!(claims.len(), if claimed.is_some() { queued } else { 0 });
        if let Some((worker, _)) = claimed {
            invariants::check_free(self, &claims)?;
            self.met(Met::ClaimOnArrival, claims.len());
            self.hold(worker, claims);
        }
        for (payment, told) in payments.iter().zip(told) {
            let expected = match self.accepted.get(&payment.correlation_id) {
                None => Accepted::Queued,
                Some(known) if *known == payment.amount => Accepted::Known,
                Some(known) => Accepted::Conflict { known: *known },
            };
            prop_assert_eq!(told, expected, "a post of {:?}", payment);
            let met = match told {
                Accepted::Queued => Met::Accepted,
                Accepted::Known => Met::Duplicate,
                Accepted::Conflict { .. } => Met::Conflict,
            };
            self.met(met, 1);
            self.accepted
                .entry(payment.correlation_id)
                .or_insert(payment.amount);
        }
        Ok(())
    }

    /// A post that found its payment in no table because the settle was about to commit, and then
    /// nothing in the queue because it had.
    async fn post_race(&mut self, nth: usize) {
        let done: Vec<_> = self.rows.iter().filter(|row| row.slot != "queue").collect();
        if done.is_empty() {
            return;
        }
        let row = done[nth % done.len()];
        sqlx::query(
            "INSERT INTO payment_queue (correlation_id, amount) VALUES ($1, $2)
            ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO NOTHING",
        )
        .bind(row.id)
        .bind(row.amount)
        .execute(&*self.pools.requests)
        .await
        .expect("the database answers");
        self.met(Met::RacedPost, 1);
    }

    async fn retry_dead(&mut self) {
        let revived = dead_letter::retry(&self.pools.requests, None)
            .await
            .expect("the database answers");
        self.met(Met::Revived, revived.len());
        self.rows.retain(|row| row.slot != "dead");
    }

    async fn claim(&mut self, worker: usize, site: usize, limit: usize) -> Checked {
        self.clock.tick(&self.pools.requests).await;
        let name = self.sites[site].name;
        let claims = claim_queued(&self.pools.claims, self.terms, name, limit, 0)
            .await
            .expect("the database answers");
        invariants::check_free(self, &claims)?;
        self.met(Met::FreeClaim, claims.len());
        self.hold(worker, claims);
        Ok(())
    }

    async fn claim_in_doubt(&mut self, worker: usize, limit: usize) -> Checked {
        self.clock.tick(&self.pools.requests).await;
        let clock = &self.actors[worker].clock;
        let names = ["default", "fallback"].map(str::to_owned);
        let known = clock.last_step();
        let claims = claim_in_doubt(
            &self.pools.claims,
            self.terms,
            clock,
            &names,
            limit,
            i64::MAX,
        )
        .await
        .expect("the database answers");
        let seen = clock.last_step() != known;
        self.met(Met::StepSeenByClaim, usize::from(seen));
        invariants::check_pinned(self, &claims)?;
        self.met(Met::DoubtfulClaim, claims.len());
        self.hold(worker, claims);
        Ok(())
    }

    async fn ask_elsewhere(&mut self, worker: usize) {
        let names = ["default", "fallback"].map(str::to_owned);
        let (pool, terms, rows) = (&self.pools.claims, self.terms, (0, i64::MAX));
        let held = held_for(pool, terms, OVERDUE_AFTER, &names, rows, IN_DOUBT_BATCH)
            .await
            .expect("the database answers");
        let found = self.actors[worker].ask_elsewhere(&self.sites, held).await;
        self.met(Met::FoundElsewhere, found);
    }

    fn hold(&mut self, worker: usize, claims: Vec<Claim>) {
        let since = self.clock.now();
        let leases = claims
            .iter()
            .map(|claim| (claim.id, (claim.attempt, Instant::now())));
        self.leases.extend(leases);
        let held = claims.into_iter().map(|what| Held { what, since });
        self.actors[worker].claims.extend(held);
    }

    async fn send(&mut self, worker: usize, nth: usize, fate: Fate) {
        let Some(worker) = self.worker_with(worker, |actor| !actor.claims.is_empty()) else {
            return;
        };
        let actor = &mut self.actors[worker];
        let mut held = actor.claims.remove(nth % actor.claims.len());
        let claim = &mut held.what;
        claim.send_by = self.clock.carried_deadline(claim.send_by, held.since);
        let too_late = claim.send_by <= Uptime::now();
        let id = claim.payment.correlation_id;
        let requested_at = claim.requested_at;
        let site = index_of(&self.sites, &claim.processor);
        let sent = actor.send(&self.sites, held, fate).await;
        self.met(Met::NotSentInTime, usize::from(too_late));
        if matches!(sent, Sent::InTheWorks) && fate.ending.stores() {
            let works_for = Duration::from_secs(fate.slow.unwrap_or_default());
            let after = works_for > CALL_TIMEOUT
                || matches!(fate.ending, Ending::GatewayTimeout | Ending::GatewayGaveUp);
            self.met(Met::ChargeAfterItsCall, usize::from(after));
            self.open.push(Open {
                id,
                site,
                requested_at,
                until: Instant::now() + works_for,
            });
        }
    }

    async fn crash(&mut self, worker: usize) {
        let busy = |actor: &Actor| {
            !(actor.claims.is_empty() && actor.calls.is_empty() && actor.ended.is_empty())
        };
        let Some(worker) = self.worker_with(worker, busy) else {
            return;
        };
        let actor = &mut self.actors[worker];
        let lost = [
            (Met::ClaimLost, actor.claims.len()),
            (Met::CallLost, actor.calls.len()),
            (Met::EndLost, actor.ended.len()),
        ];
        actor.crash(&self.sites).await;
        for (met, times) in lost {
            self.met(met, times);
        }
    }

    fn met(&self, met: Met, times: usize) {
        self.ground.tally.add(met, times);
    }

    /// This worker, or else the next that is so.
    fn worker_with(&self, worker: usize, is_so: impl Fn(&Actor) -> bool) -> Option<usize> {
        let mut turns = (0..WORKERS).map(|turn| (worker + turn) % WORKERS);
        turns.find(|worker| is_so(&self.actors[*worker]))
    }

    /// This worker's ends, or those of the next that has any.
    async fn settle(&mut self, worker: usize, count: usize, twice: bool) -> Checked {
        match self.worker_with(worker, |actor| !actor.ended.is_empty()) {
            Some(worker) => self.record_ends_of(worker, count, twice).await,
            None => Ok(()),
        }
    }

    pub async fn record_ends_of(&mut self, worker: usize, count: usize, twice: bool) -> Checked {
        let ended = self.actors[worker].take_ended(count);
        self.record(&ended).await?;
        if twice {
            self.record(&ended).await?;
        }
        Ok(())
    }

    pub async fn record(&mut self, ended: &[CompletedClaim]) -> Checked {
        let anomalies = record(&self.pools.settles, self.terms, ended)
            .await
            .expect("the database answers");
        for CompletedClaim { claim, .. } in ended {
            if self
                .leases
                .get(&claim.id)
                .is_some_and(|(attempt, _)| *attempt == claim.attempt)
            {
                self.leases.remove(&claim.id);
            }
        }
        self.fenced.extend(self.fenced_against(ended));
        ended.iter().for_each(|end| self.tally_end(end));
        self.met(Met::RecordedBefore, anomalies.len());
        for anomaly in anomalies {
            let same_charge = matches!(&anomaly, Anomaly::RecordedBefore { charged, recorded, .. } if charged == recorded);
            if !same_charge {
                return Err(TestCaseError::fail(format!("{anomaly:?}")));
            }
        }
        Ok(())
    }

    /// The rows of which these ends are late failures only.
    fn fenced_against(&self, ended: &[CompletedClaim]) -> Vec<Row> {
        let fenced = |row: &&Row| {
            let mut ends = ended
                .iter()
                .filter(|end| end.claim.payment.correlation_id == row.id);
            let late = |end: &CompletedClaim| {
                let success = matches!(end.outcome, Outcome::Charged { .. });
                end.claim.attempt < row.attempt && !success
            };
            row.slot == "queue" && ends.clone().count() > 0 && ends.all(late)
        };
        self.rows.iter().filter(fenced).cloned().collect()
    }

    fn tally_end(&self, ended: &CompletedClaim) {
        let CompletedClaim { claim, outcome } = ended;
        self.met(
            match (outcome, claim.earlier) {
                (Outcome::Charged { .. }, None) => Met::SettledAtOnce,
                (Outcome::Charged { .. }, Some(_)) => Met::SettledAfterDoubt,
                (Outcome::NotCharged { .. }, None) => Met::FreedAtOnce,
                (Outcome::NotCharged { .. }, Some(_)) => Met::FreedAfterDoubt,
                (Outcome::InDoubt { .. }, _) => Met::LeftInDoubt,
                (Outcome::Dead { .. }, _) => Met::DeadLetter,
            },
            1,
        );
        let held = self.rows.iter().any(|row| {
            row.slot == "queue"
                && row.id == claim.payment.correlation_id
                && row.attempt == claim.attempt
        });
        self.met(Met::LateEnd, usize::from(!held));
    }

    /// As on SIGTERM: what is not sent is given back, what is sent gets its time, and no end is
    /// lost.
    async fn stop(&mut self, worker: usize) -> Checked {
        self.actors[worker].drain();
        self.send_all(worker).await;
        self.actors[worker].stop_now().await;
        self.record_ends_of(worker, usize::MAX, false).await?;
        self.actors[worker].crash(&self.sites).await;
        Ok(())
    }

    pub async fn send_all(&mut self, worker: usize) {
        let fate = Fate {
            ending: Ending::Answered,
            slow: None,
            lookup_lost: false,
            unasked: false,
        };
        while !self.actors[worker].claims.is_empty() {
            self.send(worker, 0, fate).await;
        }
    }

    /// The database's clock as each worker knows it.
    fn clocks(&self) -> impl Iterator<Item = &Arc<DatabaseClock>> {
        self.actors
            .iter()
            .map(|actor| &actor.clock)
            .chain(&self.healer)
    }

    pub async fn pass(&mut self, length: Duration) {
        let (begun_at, database) = (Instant::now(), self.clock.database());
        let target = begun_at + length;
        loop {
            // From one call that is over to the next, so that its worker hears of it in time; and
            // workers look at the database's clock.
            let dues = self.actors.iter().flat_map(|actor| &actor.calls);
            let next = dues.map(|call| call.due).min();
            let look = Instant::now() + WATCH_GAP - Duration::from_secs(1);
            let to = next.map_or(target, |due| due.min(target)).min(look);
            clock::pass_in_process(to).await;
            let now = Instant::now();
            for clock in self.clocks() {
                clock.observe(now, database + (now - begun_at), now);
            }
            for actor in &mut self.actors {
                actor.wait_for(|call| call.due <= now).await;
            }
            if now >= target {
                break;
            }
        }
        let now = Instant::now();
        let pool = &self.pools.requests;
        self.clock.pass_in_database(pool, now - begun_at).await;
        self.open.retain(|open| open.until > now);
        self.sites.iter_mut().for_each(Site::time_passed);
    }

    async fn calls_end_at(&mut self, site: usize) {
        for actor in &mut self.actors {
            actor.wait_for(|call| call.site == site).await;
        }
    }
}

/// The payment with this number.
fn payment(posted: &Posted) -> Payment {
    const CENTS: i64 = 1990;
    let number = i64::try_from(posted.payment).expect("a small number");
    let other = if posted.other_amount { 100 } else { 0 };
    debug_assert!(posted.payment < PAYMENTS);
    Payment {
        correlation_id: Uuid::from_u128(posted.payment as u128 + 1),
        amount: Decimal::new(CENTS + number + other, 2),
        traceparent: None,
    }
}
