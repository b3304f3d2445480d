//! Random walks through the model of the protocol (`crates/model`), each step of which is taken on
//! the real database, too, with the statements of the service. After each step the tables have to
//! be what the model says.
//!
//! The model decides what happens: which claim ends how, who crashes, when time goes by. Processors
//! are the model's here, since only what their replies prove comes to the database; that replies
//! prove the same in both is compared in [`the_model_judges_as_the_service_does`]. Where all
//! processors are asked before a first charge, real ones are, which have what the model's have.
//!
//! Of an unlogged queue, which a crash of the server empties, what each instance knows is the
//! service's, too ([`Instance`]), and has to be what the model's instances know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use model::protocol::{Action, Config, Durability, Protocol, SHORT};
use model::state::{
    Budget, CLAIMS, FAR, INSTANCES, Outcome as Ended, PAYMENTS, PROCESSORS as PROCESSOR_COUNT,
    Phase, State, Tables,
};
use payment_proxy::domain::lease::LeasePolicy;
use payment_proxy::domain::payment::Payment;
use payment_proxy::domain::uptime::Uptime;
use payment_proxy::pipeline::accept::{Accepted, enqueue};
use payment_proxy::pipeline::deployment::put_back;
use payment_proxy::pipeline::in_flight::PutBack;
use payment_proxy::pipeline::restored::{Asked, ask};
use payment_proxy::pipeline::settle::{CompletedClaim, record};
use payment_proxy::processors::Outcome;
use payment_proxy::store::claim::{
    Claim, ClaimedFor, LONGEST_DOUBT_PAUSE, claim_in_doubt, claim_queued, held_for,
};
use payment_proxy::store::clock::{DatabaseClock, RATE_PARTS, STEP_TOLERANCE, WATCH_GAP};
use payment_proxy::store::database::interval;
use payment_proxy::store::dead_letter;
use payment_proxy::store::in_doubt::{Author, Resolution, decide};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rust_decimal::Decimal;
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock::{self, Clock, StillRuntime};
use crate::emptied::{self, Instance, Processors};
use crate::support::watched_clock_at;
use crate::world::Ground;

/// Walks in a run of all tests.
const WALKS: u64 = 60;
/// Of an unlogged queue, whose walks take twice as long.
const UNLOGGED_WALKS: u64 = 30;
/// Walks at most, where some kind of step has not come by then: times so many.
const MOST_WALKS: u64 = 5;
/// Steps of a walk.
const STEPS: usize = 70;
/// A tick of the model. With the terms below it ends each lease and doubt at the tick at which the
/// model says so, and not before, with the time that is allowed for clocks that differ.
const TICK: Duration = Duration::from_secs(55);
const TERMS: LeasePolicy = LeasePolicy {
    lease: Duration::from_secs(95),
    late_charge: Duration::from_secs(82),
};
const PROCESSORS: [&str; 2] = ["default", "fallback"];
/// By how much the number of a claim grows where its payment is put back: in the walks, in which it
/// is a small number, and in the database.
const JUMP: u8 = 100;
const JUMP_IN_DATABASE: i32 = 10_000;

/// What may happen in a walk.
fn config(durability: Durability) -> Config {
    Config {
        durability,
        payments: 2,
        claims: 3,
        times: SHORT,
        budget: Budget {
            posts: [4, 4],
            changes: 2,
            unheard: 4,
            crashes: 2,
            // Of a logged queue a crash takes settles of the last moment, which no test can choose.
            server_crashes: match durability {
                Durability::Logged => 0,
                Durability::Unlogged => 2,
            },
            clock_steps: 0,
            words: 3,
            retries: 3,
            refusals: 3,
        },
        claim_on_accept: true,
        has_failures: true,
        has_time: true,
        put_back_jump: JUMP,
        symmetric: false,
        without: None,
        nor: None,
    }
}

struct Walk<'a> {
    ground: &'a Ground,
    processors: &'a Processors,
    protocol: Protocol,
    state: State,
    /// The claims of the state, as the service has them.
    claims: [Option<Claim>; CLAIMS],
    /// The values of `requested_at` that the state has.
    times: BTreeMap<u8, DateTime<Utc>>,
    clock: Clock,
    watch: DatabaseClock,
    /// The instances of the state, as the service has them.
    instances: [Instance; INSTANCES],
    /// What their own clocks show.
    uptime: Uptime,
}

/// All that change the tables.
const CHANGES: [&str; 8] = [
    "Accept",
    "ClaimInDoubt",
    "ClaimQueued",
    "Post",
    "Record",
    "Retry",
    "Say",
    "Tick",
];

/// And what instances know of an emptied queue.
const CHANGES_OF_EMPTIED: [&str; 6] = [
    "AskAll",
    "CrashServer",
    "Gathered",
    "Notice",
    "PutBack",
    "Start",
];

#[test]
fn every_step_of_the_model_leaves_the_tables_as_the_model_says() {
    take_walks(Durability::Logged, WALKS, &CHANGES);
}

#[test]
fn every_step_in_an_emptied_queue_leaves_tables_and_instances_as_the_model_says() {
    // Crashes leave few dead letters that could be retried.
    let mut changes = [&CHANGES[..], &CHANGES_OF_EMPTIED].concat();
    changes.retain(|kind| *kind != "Retry");
    take_walks(Durability::Unlogged, UNLOGGED_WALKS, &changes);
}

fn take_walks(durability: Durability, walks: u64, changes: &[&str]) {
    let seed = std::env::var("PROPTEST_RNG_SEED").ok();
    let seed = seed.map_or_else(rand::random, |seed| seed.parse().expect("a number"));
    println!("PROPTEST_RNG_SEED={seed} takes the same walks again");
    let runtime = StillRuntime::start();
    let met = runtime.block_on(async {
        let ground = Ground::prepare().await;
        let processors = Processors::start(&ground.database, TERMS).await;
        let mut met = BTreeSet::new();
        let missed = |met: &BTreeSet<String>| changes.iter().any(|it| !met.contains(*it));
        for walk in 0..MOST_WALKS * walks {
            if walk >= walks && !missed(&met) {
                break;
            }
            let mut random = SmallRng::seed_from_u64(u64::wrapping_add(seed, walk));
            let mut walk = Walk::begin(&ground, &processors, durability).await;
            for _ in 0..STEPS {
                let action = walk.choose(&mut random);
                met.insert(kind(&action));
                walk.take(action).await;
            }
        }
        met
    });
    let missed: Vec<_> = changes.iter().filter(|it| !met.contains(**it)).collect();
    assert!(missed.is_empty(), "no walk came across {missed:?}");
}

/// The name of what happens.
fn kind(action: &Action) -> String {
    let text = format!("{action:?}");
    let end = text.find(|letter: char| !letter.is_alphanumeric());
    text[..end.unwrap_or(text.len())].to_owned()
}

impl<'a> Walk<'a> {
    async fn begin(ground: &'a Ground, processors: &'a Processors, durability: Durability) -> Self {
        ground
            .database
            .execute(
                "TRUNCATE payment_queue RESTART IDENTITY; DELETE FROM payment_processed;
                DELETE FROM payment_dead_letter; DELETE FROM payment_attempt;
                DELETE FROM payment_decision; DELETE FROM service_instance",
            )
            .await;
        processors.purge();
        let clock = Clock::start(ground.requests()).await;
        emptied::notice(&ground.database).await;
        let protocol = Protocol::new(config(durability));
        Self {
            ground,
            processors,
            state: protocol.start(),
            protocol,
            claims: [const { None }; CLAIMS],
            times: BTreeMap::new(),
            watch: watched_clock_at(TERMS, clock.database()),
            clock,
            instances: std::array::from_fn(|_| Instance::start()),
            uptime: Uptime::now(),
        }
    }

    fn is_unlogged(&self) -> bool {
        self.protocol.config.durability == Durability::Unlogged
    }

    /// What happens beside a step: heartbeats before it, and whoever reaches an emptied queue first
    /// notices that.
    async fn prepare(&self, before: &State) {
        // The model counts rows without gaps, and a sequence does not.
        sqlx::query("SELECT setval('payment_queue_id_seq', greatest($1, 1), $1 > 0)")
            .bind(i64::from(before.db.last_id))
            .execute(&**self.ground.requests())
            .await
            .expect("the database answers");
        if !self.is_unlogged() {
            return;
        }
        for (instance, known) in self.instances.iter().zip(&before.instances) {
            if known.life == before.db.life && known.has_put_back {
                instance.beat(self.ground.requests()).await;
            }
        }
        if before.db.is_unnoticed && !self.state.db.is_unnoticed {
            emptied::notice(&self.ground.database).await;
        }
    }

    /// Something that can happen next: each kind is as likely as the others.
    fn choose(&self, random: &mut SmallRng) -> Action {
        let mut kinds: BTreeMap<String, Vec<Action>> = BTreeMap::new();
        for action in self.protocol.next_actions(&self.state) {
            if self.can_be_told_to(&action) {
                kinds.entry(kind(&action)).or_default().push(action);
            }
        }
        let nth = random.random_range(0..kinds.len());
        let actions = kinds.into_values().nth(nth).expect("one of them");
        actions[random.random_range(0..actions.len())]
    }

    /// The statements claim the oldest row that there is.
    fn can_be_told_to(&self, action: &Action) -> bool {
        let (db, config) = (&self.state.db, &self.protocol.config);
        let id = |payment: u8| db.payments[usize::from(payment)].row.map(|row| row.id);
        let payments = || 0..PAYMENTS as u8;
        match *action {
            Action::ClaimQueued { payment, .. } => {
                let queued = payments().filter(|it| db.is_queued(config, *it));
                queued.filter_map(id).min() == id(payment)
            }
            Action::ClaimInDoubt { payment, .. } => {
                let in_doubt = payments().filter(|it| db.is_in_doubt(config, *it));
                in_doubt.filter_map(id).min() == id(payment)
            }
            _ => true,
        }
    }

    async fn take(&mut self, action: Action) {
        let before = self.state;
        self.state = self.protocol.step(&before, action);
        let new =
            (0..CLAIMS).find(|it| before.claims[*it].is_none() && self.state.claims[*it].is_some());
        self.clock.tick(self.ground.requests()).await;
        self.prepare(&before).await;
        let claims = self.execute(&before, action).await;
        match (new, &claims[..]) {
            (Some(place), [claim]) => {
                let held = self.state.claims[place].expect("a new claim");
                self.times.insert(held.requested_at, claim.requested_at);
                assert_eq!(
                    claim.earlier.map(|it| it.over),
                    held.earlier.map(|it| it.over),
                    "{action:?}"
                );
                assert_eq!(PROCESSORS[usize::from(held.processor)], claim.processor);
                self.claims[place] = Some(claim.clone());
            }
            (None, []) => {}
            // Nobody heard of it.
            (None, [claim]) => {
                let rows = self
                    .state
                    .db
                    .payments
                    .iter()
                    .filter_map(|tables| tables.row);
                let mut times = rows.filter_map(|row| row.assigned.map(|it| it.requested_at));
                let unknown = times.find(|time| !self.times.contains_key(time));
                self.times
                    .insert(unknown.expect("a new time"), claim.requested_at);
            }
            _ => panic!("{action:?} claimed {claims:?}, in the model {new:?}"),
        }
        for (place, claim) in self.claims.iter_mut().enumerate() {
            *claim = claim.take().filter(|_| self.state.claims[place].is_some());
        }
        self.store_what_is_new(&before).await;
        self.forget_times();
        self.compare(&before, action).await;
        if self.is_unlogged() {
            self.compare_instances(&before, action).await;
        }
    }

    /// What the model's processors have stored in this step.
    async fn store_what_is_new(&self, before: &State) {
        for processor in 0..PROCESSOR_COUNT {
            for payment in 0..PAYMENTS as u8 {
                let at = usize::from(payment);
                let stored = self.state.processors[processor][at];
                if let (None, Some(new)) = (before.processors[processor][at], stored) {
                    let (amount, time) = (cents(new.amount), self.times[&new.requested_at]);
                    let id = id(payment);
                    self.processors.store(processor, id, amount, time).await;
                }
            }
        }
    }

    /// A value that nothing has any more may come again.
    fn forget_times(&mut self) {
        let used = self.state.times_in_use();
        self.times.retain(|time, _| used.contains(time));
    }

    /// The statement of this step, if it has one. Returns what it has claimed.
    async fn execute(&mut self, before: &State, action: Action) -> Vec<Claim> {
        let pool = self.ground.requests();
        match action {
            Action::Post {
                payment, amount, ..
            } => {
                let row = before.db.payments[usize::from(payment)].row;
                if let Some(row) = row {
                    let told = self.post(payment, amount, None).await.0;
                    assert_eq!(told, known(row.amount, amount), "{action:?}");
                }
                Vec::new()
            }
            Action::Accept { payment, .. } => {
                let posting = before.posting[usize::from(payment)].expect("it is posted");
                let Tables { ledger, dead, .. } = before.db.payments[usize::from(payment)];
                let ended = ledger.map(|it| it.amount).or(dead.map(|it| it.amount));
                let (told, claims) = self
                    .post(payment, posting.amount, posting.claimed_for)
                    .await;
                let expected =
                    ended.map_or(Accepted::Queued, |amount| known(amount, posting.amount));
                assert_eq!(told, expected, "{action:?}");
                if let (Accepted::Queued, Action::Accept { heard: true, .. }) = (told, action)
                    && claims.is_empty()
                {
                    let by = &self.instances[usize::from(posting.instance)].in_flight;
                    let waits = (id(payment), cents(posting.amount), self.clock.database());
                    by.wait(std::iter::once(waits));
                }
                claims
            }
            Action::ClaimQueued { processor, .. } => {
                let name = PROCESSORS[usize::from(processor)];
                claim_queued(pool, TERMS, name, 1, 0)
                    .await
                    .expect("the database answers")
            }
            Action::ClaimInDoubt { .. } => {
                let names = PROCESSORS.map(str::to_owned);
                claim_in_doubt(pool, TERMS, &self.watch, &names, 1, i64::MAX)
                    .await
                    .expect("the database answers")
            }
            Action::Record { claim, heard } => {
                self.record(before, claim, heard).await;
                Vec::new()
            }
            Action::AskForOther { payment, .. } => vec![self.held_by_another(payment).await],
            Action::Say { payment } => {
                self.say(before, payment).await;
                Vec::new()
            }
            Action::Retry { payment } => {
                let revived = dead_letter::retry(pool, Some(&[id(payment)])).await;
                assert_eq!(revived.expect("the database answers"), [id(payment)]);
                Vec::new()
            }
            Action::Tick => {
                self.tick(before).await;
                Vec::new()
            }
            Action::CrashServer => {
                emptied::empty(&self.ground.database).await;
                Vec::new()
            }
            Action::CrashInstance { instance } => {
                // Its row among the instances stays.
                let new = Instance::start();
                new.beat(pool).await;
                self.instances[usize::from(instance)] = new;
                Vec::new()
            }
            Action::PutBack { instance } => {
                self.put_back(before, instance).await;
                Vec::new()
            }
            Action::Start { claim } => {
                self.note_claim(before, claim);
                Vec::new()
            }
            Action::AskAll {
                claim,
                answered: true,
            } => {
                self.ask_all(claim).await;
                Vec::new()
            }
            // These happen in the memory of an instance, or at a processor.
            Action::LookForQueued { .. }
            | Action::Send { .. }
            | Action::NotSent { .. }
            | Action::Work { .. }
            | Action::GiveUp { .. }
            | Action::AskWhileOut { .. }
            | Action::Ask { .. }
            | Action::AskAll {
                answered: false, ..
            }
            | Action::StoreLate { .. }
            | Action::Flush
            | Action::Notice { .. }
            | Action::Gathered { .. }
            | Action::SetClock { .. } => Vec::new(),
        }
    }

    /// An instance takes note of its claim, as a worker does before it sends anything of it.
    fn note_claim(&self, before: &State, place: u8) {
        let held = before.claims[usize::from(place)].expect("a claim");
        let claim = self.claims[usize::from(place)].as_ref().expect("a claim");
        let by = usize::from(held.instance);
        let in_flight = &self.instances[by].in_flight;
        if before.instances[by].life == held.life {
            in_flight.add_all(std::slice::from_ref(claim));
        } else {
            in_flight.add_stale(std::slice::from_ref(claim));
            in_flight.note_stale(claim);
        }
    }

    /// An instance puts back what it knows, and gives a heartbeat then.
    async fn put_back(&self, before: &State, instance: u8) {
        let by = usize::from(instance);
        let Instance { in_flight, .. } = &self.instances[by];
        let payments = match before.instances[by].has_put_back {
            true => in_flight.late(),
            false => in_flight.all(),
        };
        let mut last_id = i64::from(before.db.last_id);
        for payment in payments {
            self.put_back_one(payment, &mut last_id).await;
        }
        in_flight.forget(TERMS.doubt(), self.uptime);
        self.instances[by].beat(self.ground.requests()).await;
    }

    /// In one statement for each, so that rows are numbered as the model does it.
    async fn put_back_one(&self, payment: PutBack, last_id: &mut i64) {
        let pool = self.ground.requests();
        sqlx::query("SELECT setval('payment_queue_id_seq', greatest($1, 1), $1 > 0)")
            .bind(*last_id)
            .execute(&**pool)
            .await
            .expect("the database answers");
        put_back(pool, TERMS, &[payment])
            .await
            .expect("the database answers");
        let newest = "SELECT greatest($1, max(id)) FROM payment_queue";
        *last_id = sqlx::query_scalar(newest)
            .bind(*last_id)
            .fetch_one(&**pool)
            .await
            .expect("the database answers");
    }

    /// Asks real processors, and compares what follows from that.
    async fn ask_all(&mut self, place: u8) {
        let at = usize::from(place);
        let claim = self.claims[at].clone().expect("a claim");
        let Processors {
            clients, counts, ..
        } = self.processors;
        let asked = ask(self.ground.requests(), clients, counts, claim).await;
        let held = self.state.claims[at].expect("a claim");
        let (claim, told) = match asked {
            Asked::Nowhere(claim) => (claim, None),
            Asked::Decided(claim, outcome) => (claim, Some(outcome)),
        };
        match (told, held.phase) {
            // Of one that was in doubt it is said later what the absence proves.
            (None, Phase::Absent | Phase::Ended(Ended::NotCharged)) => {}
            (Some(Outcome::Charged { requested_at }), Phase::Ended(Ended::Charged { .. })) => {
                assert_eq!(requested_at, self.times[&held.requested_at]);
            }
            (Some(Outcome::Dead { held: true, .. }), Phase::Ended(Ended::Dead { held: true })) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(claim.processor, PROCESSORS[usize::from(held.processor)]);
        self.claims[at] = Some(claim);
    }

    async fn post(
        &self,
        payment: u8,
        amount: u8,
        claimed_for: Option<u8>,
    ) -> (Accepted, Vec<Claim>) {
        let posted = Payment {
            correlation_id: id(payment),
            amount: cents(amount),
            traceparent: None,
        };
        let claimed_for = claimed_for.map(|processor| ClaimedFor {
            processor: PROCESSORS[usize::from(processor)],
            terms: TERMS,
        });
        let connection = self.ground.requests().acquire().await;
        let mut connection = connection.expect("a connection");
        let (told, claims) = enqueue(&mut connection, &[posted], claimed_for)
            .await
            .expect("the database answers");
        (told[0], claims)
    }

    async fn record(&self, before: &State, place: u8, heard: bool) {
        let held = before.claims[usize::from(place)].expect("a claim");
        let claim = self.claims[usize::from(place)].clone().expect("a claim");
        let Phase::Ended(ended) = held.phase else {
            panic!("{held:?}");
        };
        let reason = "the model says so".to_owned();
        let outcome = match ended {
            Ended::Charged { requested_at } => Outcome::Charged {
                requested_at: self.times[&requested_at],
            },
            Ended::NotCharged => Outcome::NotCharged { reason },
            Ended::InDoubt { anew } => Outcome::InDoubt {
                until: claim
                    .earlier
                    .filter(|_| !anew)
                    .map(|earlier| earlier.doubt_until),
                reason,
            },
            Ended::Dead { held } => Outcome::Dead { reason, held },
        };
        let ended = [CompletedClaim { claim, outcome }];
        let pool = self.ground.settles();
        record(pool, TERMS, &ended)
            .await
            .expect("the database answers");
        if heard {
            let by = &self.instances[usize::from(held.instance)];
            by.in_flight.recorded(&ended, self.uptime);
        }
        // The pause of a payment in doubt, which the model has not.
        sqlx::query("UPDATE payment_queue SET lease_until = now() WHERE lease_until > now() AND lease_until <= now() + $1")
            .bind(interval(LONGEST_DOUBT_PAUSE))
            .execute(&**self.ground.requests())
            .await
            .expect("the database answers");
    }

    /// The claim of another instance, as `held_elsewhere_step` reads it.
    async fn held_by_another(&self, payment: u8) -> Claim {
        let names = PROCESSORS.map(str::to_owned);
        let all = (0, i64::MAX);
        let pool = self.ground.requests();
        let held = held_for(pool, TERMS, Duration::ZERO, &names, all, PAYMENTS).await;
        let mut held = held.expect("the database answers").into_iter();
        let claim = held.find(|claim| claim.payment.correlation_id == id(payment));
        claim.expect("another instance holds it")
    }

    async fn say(&self, before: &State, payment: u8) {
        let assigned = before.db.payments[usize::from(payment)]
            .row
            .and_then(|row| row.assigned);
        let Some(assigned) = assigned else {
            return;
        };
        let record = before.record(assigned.processor, payment);
        let charged_at = record.map(|record| self.times[&record.requested_at]);
        let resolution = match record {
            Some(_) => Resolution::Charged,
            None => Resolution::NotCharged,
        };
        let author = Author::new("an operator", "asked by telephone");
        let decided = decide(
            self.ground.requests(),
            &[(id(payment), charged_at)],
            resolution,
            &author,
            false,
        )
        .await
        .expect("the database answers");
        let is_done = self.state.budget.words < before.budget.words;
        assert_eq!(decided[0].outcome == "done", is_done, "{decided:?}");
    }

    async fn tick(&mut self, before: &State) {
        let (begun_at, database) = (Instant::now(), self.clock.database());
        let look = WATCH_GAP - Duration::from_secs(1);
        while begun_at.elapsed() < TICK {
            let left = TICK - begun_at.elapsed();
            clock::pass_in_process(Instant::now() + left.min(look)).await;
            let now = Instant::now();
            self.watch.observe(now, database + (now - begun_at), now);
        }
        let passed = begun_at.elapsed();
        self.clock
            .pass_in_database(self.ground.requests(), passed)
            .await;
        self.uptime = self.uptime + passed;
        for (instance, known) in self.instances.iter().zip(&before.instances) {
            if known.life == before.db.life && known.has_put_back {
                instance.in_flight.forget(TERMS.doubt(), self.uptime);
            }
        }
    }

    /// What the instances know is what the model says, and they read of each other that they have
    /// put it back.
    async fn compare_instances(&self, before: &State, action: Action) {
        let pool = self.ground.requests();
        for (number, (instance, model)) in
            (0..).zip(self.instances.iter().zip(&self.state.instances))
        {
            let open = || model.open.iter().flatten();
            let claimed = || open().filter_map(|open| open.claimed);
            let in_doubt = claimed().filter(|it| it.left.is_some()).count();
            let waiting = open().filter(|open| open.claimed.is_none()).count();
            let expected = [claimed().count() - in_doubt, in_doubt, waiting];
            assert_eq!(
                instance.known(),
                expected,
                "after {action:?}\nbefore it: {before:#?}\nthe model: {:#?}",
                self.state
            );
            if model.life == self.state.db.life && model.has_put_back {
                assert_eq!(
                    instance.reads_gathered(pool, TERMS).await,
                    self.protocol.is_complete_without(&self.state, number),
                    "after {action:?}\nbefore it: {before:#?}\nthe model: {:#?}",
                    self.state
                );
            }
        }
    }

    /// The tables are what the model says.
    async fn compare(&self, before: &State, action: Action) {
        let rows: Vec<Found> = sqlx::query_as(
            "SELECT 'queue' AS place, correlation_id, amount, attempt, processor, requested_at,
                lease_until > now() AS is_leased,
                extract(epoch FROM doubt_until - now())::float8 AS doubt
            FROM payment_queue
            UNION ALL SELECT 'ledger', correlation_id, amount, attempt, processor, requested_at,
                NULL, NULL FROM payment_processed
            UNION ALL SELECT 'dead', correlation_id, amount, attempt,
                CASE WHEN requested_at IS NOT NULL THEN processor END, requested_at, NULL, NULL
            FROM payment_dead_letter",
        )
        .fetch_all(&**self.ground.requests())
        .await
        .expect("the database answers");
        let found: BTreeSet<String> = rows.iter().map(|row| row.told()).collect();
        let expected: BTreeSet<String> = (0..)
            .zip(&self.state.db.payments)
            .flat_map(|(payment, tables)| self.expected(payment, tables))
            .collect();
        assert_eq!(
            found, expected,
            "after {action:?}\nbefore it: {before:#?}\nthe model: {:#?}",
            self.state
        );
    }

    /// The rows of a payment, as the model has them.
    fn expected(&self, payment: u8, tables: &Tables) -> Vec<String> {
        let name = |processor: u8| PROCESSORS[usize::from(processor)].to_owned();
        let mut expected = Vec::new();
        let row = |place: &str, amount, attempt: u8| Found {
            place: place.to_owned(),
            correlation_id: id(payment),
            amount: cents(amount),
            attempt: i32::from(attempt / JUMP) * JUMP_IN_DATABASE + i32::from(attempt % JUMP),
            processor: None,
            requested_at: None,
            is_leased: None,
            doubt: None,
        };
        if let Some(queued) = tables.row {
            expected.push(Found {
                processor: queued.assigned.map(|it| name(it.processor)),
                requested_at: queued.assigned.map(|it| self.times[&it.requested_at]),
                is_leased: Some(queued.lease > 0),
                doubt: queued.assigned.map(|it| match it.doubt {
                    0 => f64::MIN,
                    FAR => f64::MAX,
                    _ => 1.0,
                }),
                ..row("queue", queued.amount, queued.attempt)
            });
        }
        if let Some(charge) = tables.ledger {
            expected.push(Found {
                processor: Some(name(charge.processor)),
                requested_at: Some(self.times[&charge.requested_at]),
                ..row("ledger", charge.amount, 0)
            });
        }
        if let Some(dead) = tables.dead {
            expected.push(Found {
                processor: dead.held.map(|(processor, _)| name(processor)),
                requested_at: dead.held.map(|(_, time)| self.times[&time]),
                ..row("dead", dead.amount, dead.attempt)
            });
        }
        expected.iter().map(Found::told).collect()
    }
}

/// A row of a table.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Found {
    place: String,
    correlation_id: Uuid,
    amount: Decimal,
    attempt: i32,
    processor: Option<String>,
    requested_at: Option<DateTime<Utc>>,
    is_leased: Option<bool>,
    /// Seconds until the end of the doubt.
    doubt: Option<f64>,
}

impl Found {
    /// What is compared.
    fn told(&self) -> String {
        let longest = TERMS.lease + TERMS.late_charge;
        let allowance = STEP_TOLERANCE + longest / RATE_PARTS;
        let doubt = self.doubt.map(|left| match left {
            left if left <= -allowance.as_secs_f64() => "over",
            left if left > longest.as_secs_f64() => "far",
            left if left > 0.0 => "open",
            // Neither of both: the lengths above are wrong.
            _ => "unclear",
        });
        // The model does not say which claim has charged a payment.
        let attempt = if self.place == "ledger" {
            0
        } else {
            self.attempt
        };
        format!(
            "{} {} {} claim {attempt} {:?} {:?} leased {:?} doubt {doubt:?}",
            self.place,
            self.correlation_id,
            self.amount.normalize(),
            self.processor,
            self.requested_at,
            self.is_leased.unwrap_or_default(),
        )
    }
}

/// What a client is told of a payment that was accepted with this amount before.
fn known(accepted: u8, posted: u8) -> Accepted {
    match accepted == posted {
        true => Accepted::Known,
        false => Accepted::Conflict {
            known: cents(accepted),
        },
    }
}

fn id(payment: u8) -> Uuid {
    Uuid::from_u128(u128::from(payment) + 1)
}

fn cents(amount: u8) -> Decimal {
    Decimal::new(1990 + 100 * i64::from(amount), 2)
}
