//! What can happen, and what it does to the state.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use stateright::{Model, Property};

use crate::guard::Guard;
use crate::properties::{self, Rule};
use crate::state::{
    Budget, CLAIMS, Charge, Claim, Claimed, Era, FAR, INSTANCES, Instance, LATE, Late, Lookup,
    Open, Outcome, PAYMENTS, PROCESSORS, Phase, Posting, Record, Reply, State,
};
use crate::tables::{Taken, Word, earlier, pass};
use crate::verdict::{Verdict, decide, judge};

/// Whether a crash of the server empties the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// It does not; a settle, release or dead letter of the last moment may be lost.
    Logged,
    /// It does.
    Unlogged,
}

/// How long things last, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Times {
    /// `SEND_WITHIN`.
    pub send: u8,
    /// `PROCESSOR_TIMEOUT_MS`: within this time the processor knows that nobody waits any more.
    pub call: u8,
    /// A lease, from the claim on.
    pub lease: u8,
    /// `LATE_CHARGE_MS`.
    pub late: u8,
}

impl Times {
    /// From a claim to the end of the doubt that it begins.
    #[must_use]
    pub fn longest_doubt(self) -> u8 {
        self.lease + self.late
    }
}

/// The shortest times in the order of the real ones.
pub const SHORT: Times = Times {
    send: 1,
    call: 1,
    lease: 2,
    late: 2,
};

/// What is explored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Of the queue.
    pub durability: Durability,
    /// Payments.
    pub payments: u8,
    /// Claims that instances hold at once, together.
    pub claims: u8,
    /// How long things last.
    pub times: Times,
    /// What may happen only so many times.
    pub budget: Budget,
    /// Payments may be claimed by the commit that accepts them.
    pub claim_on_accept: bool,
    /// Processors report failures, and do not answer when they are asked.
    pub has_failures: bool,
    /// Time goes by. Without it, nothing is explored that needs time, and the rest sooner.
    pub has_time: bool,
    /// By how much the number of a claim grows when its payment is put back: more than others can
    /// have claimed it since.
    pub put_back_jump: u8,
    /// Whether states that differ by the names of processors and instances count as one.
    pub symmetric: bool,
    /// The guard that is taken away, and one that would hide that.
    pub without: Option<Guard>,
    /// See above.
    pub nor: Option<Guard>,
}

impl Config {
    /// Whether this guard is there.
    #[must_use]
    pub fn keeps(&self, guard: Guard) -> bool {
        self.without != Some(guard) && self.nor != Some(guard)
    }

    fn is_logged(&self) -> bool {
        self.durability == Durability::Logged
    }

    /// Numbers of claims are compared, and no more than compared, within one life of the queue. Of
    /// two lives a difference of 1 is not the same as a larger one.
    fn gap(&self) -> u8 {
        if self.is_logged() { 1 } else { 2 }
    }
}

/// What a processor does with a request that it works on, and whether its caller hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// It stores the payment, unless it has it, and says so.
    Stores,
    /// It stores it, unless it has it, and says nothing.
    StoresInSilence,
    /// It stores it, unless it has it, and reports a failure.
    StoresAndFails,
    /// It stores nothing, and says so.
    Fails,
    /// It stores nothing and never will.
    Refuses,
}

/// One thing that happens. `claim` and `late` are places in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A client posts a payment: its row is inserted and not committed.
    Post {
        /// The payment.
        payment: u8,
        /// The amount.
        amount: u8,
        /// The instance.
        instance: u8,
        /// The processor for which the same commit claims it.
        claimed_for: Option<u8>,
    },
    /// The accept looks into the ledger and commits.
    Accept {
        /// The payment.
        payment: u8,
        /// Whether the instance, and its client, hear of it.
        heard: bool,
    },
    /// Without locks: an instance finds a queued payment.
    LookForQueued {
        /// The instance.
        instance: u8,
        /// The processor.
        processor: u8,
        /// The payment.
        payment: u8,
    },
    /// An instance claims a queued payment.
    ClaimQueued {
        /// The instance.
        instance: u8,
        /// The processor.
        processor: u8,
        /// The payment.
        payment: u8,
    },
    /// An instance claims a payment in doubt.
    ClaimInDoubt {
        /// The instance.
        instance: u8,
        /// The payment.
        payment: u8,
    },
    /// The instance takes note of a claim.
    Start {
        /// The claim.
        claim: u8,
    },
    /// Its POST goes out.
    Send {
        /// The claim.
        claim: u8,
    },
    /// It is not sent: too late, the instance is stopping, or there is no connection.
    NotSent {
        /// The claim.
        claim: u8,
    },
    /// The processor deals with the POST of a claim.
    Work {
        /// The claim.
        claim: u8,
        /// How.
        work: Work,
    },
    /// The instance gives up to wait for the reply.
    GiveUp {
        /// The claim.
        claim: u8,
    },
    /// While the POST is out, the instance asks its processor for the payment, and is answered.
    AskWhileOut {
        /// The claim.
        claim: u8,
    },
    /// The instance asks the processor of a claim for the payment.
    Ask {
        /// The claim.
        claim: u8,
        /// Whether it is answered.
        answered: bool,
    },
    /// The instance asks all processors.
    AskAll {
        /// The claim.
        claim: u8,
        /// Whether all of them answer.
        answered: bool,
    },
    /// The outcome of a claim is recorded.
    Record {
        /// The claim.
        claim: u8,
        /// Whether the instance hears of it. If not, it records it again.
        heard: bool,
    },
    /// A processor stores a request for which nobody waits.
    StoreLate {
        /// The request.
        late: u8,
    },
    /// An instance dies with all that it has in memory, and starts again.
    CrashInstance {
        /// The instance.
        instance: u8,
    },
    /// The database server crashes, and starts again.
    CrashServer,
    /// What was committed without waiting for the disk is on disk.
    Flush,
    /// An instance notices that the queue was emptied.
    Notice {
        /// The instance.
        instance: u8,
    },
    /// It puts back what it has claimed.
    PutBack {
        /// The instance.
        instance: u8,
    },
    /// It learns that all have, or that the calls of those that have not are over: it claims again.
    Gathered {
        /// The instance.
        instance: u8,
    },
    /// An instance asks for a payment that another one holds, and its processor has it.
    AskForOther {
        /// The instance that asks.
        instance: u8,
        /// The payment.
        payment: u8,
    },
    /// The database's clock is set.
    SetClock {
        /// Forward, or back.
        forward: bool,
    },
    /// An operator asks the processor of a payment in doubt by other means, and says what it has.
    Say {
        /// The payment.
        payment: u8,
    },
    /// An operator retries a dead letter.
    Retry {
        /// The payment.
        payment: u8,
    },
    /// Time goes by.
    Tick,
}

/// The protocol, with what is to be explored of it.
#[derive(Debug)]
pub struct Protocol {
    /// What is explored.
    pub config: Config,
    /// What has happened before.
    begin: &'static [Action],
    /// States from which everything ends well once nothing goes wrong any more.
    pub(crate) heals: Mutex<HashSet<u64>>,
    /// Rules that were found not to hold, one bit each.
    broken: AtomicU16,
}

impl Protocol {
    /// The protocol in this configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            begin: &[],
            heals: Mutex::default(),
            broken: AtomicU16::new(0),
        }
    }

    /// The same, of what comes after these actions.
    #[must_use]
    pub fn beginning_with(self, begin: &'static [Action]) -> Self {
        Self { begin, ..self }
    }

    /// The states in which the actions come with which it begins, and the one after them.
    ///
    /// # Panics
    /// One of them cannot come there.
    #[must_use]
    pub fn beginning(&self) -> Vec<State> {
        let mut states = vec![self.start()];
        for action in self.begin {
            let last = states[states.len() - 1];
            let can_come = self.next_actions(&last).contains(action);
            assert!(can_come, "{action:?} cannot come: {last:#?}");
            states.push(self.after(&last, *action).unwrap_or(last));
        }
        states
    }

    /// What has happened before, in plain words.
    #[must_use]
    pub fn told_of_beginning(&self) -> Vec<String> {
        let states = self.beginning();
        let told = self.begin.iter().zip(&states);
        told.map(|(action, state)| action.told(state)).collect()
    }

    pub(crate) fn keeps(&self, guard: Guard) -> bool {
        self.config.keeps(guard)
    }

    /// Whether a rule holds in a state, or was found not to hold in another one before.
    pub(crate) fn holds_or_broke_before(&self, rule: Rule, state: &State) -> bool {
        let bit = 1 << rule as u16;
        if self.broken.load(Ordering::Relaxed) & bit > 0 || rule.holds(self, state) {
            return true;
        }
        self.broken.fetch_or(bit, Ordering::Relaxed) & bit > 0
    }

    pub(crate) fn known_to_heal(&self, fingerprint: u64) -> bool {
        let heals = self.heals.lock().unwrap_or_else(PoisonError::into_inner);
        heals.contains(&fingerprint)
    }

    /// The state in which nothing has happened yet.
    #[must_use]
    pub fn start(&self) -> State {
        let mut state = State {
            budget: self.config.budget,
            ..State::default()
        };
        for instance in &mut state.instances {
            *instance = Instance {
                has_put_back: true,
                watched: self.watch_from_start(),
                ..Instance::default()
            };
        }
        state
    }

    /// Without steps of the clock, how long it was watched says nothing, and is left out.
    fn watch_from_start(&self) -> u8 {
        match self.config.budget.clock_steps {
            0 => self.config.times.longest_doubt(),
            _ => 0,
        }
    }

    /// Everything that can happen next.
    #[must_use]
    pub fn next_actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::with_capacity(32);
        for payment in 0..self.config.payments {
            self.payment_actions(state, payment, &mut actions);
        }
        for (claim, held) in (0..).zip(&state.claims) {
            if let Some(held) = held {
                self.claim_actions(state, claim, held, &mut actions);
            }
        }
        let late = (0..).zip(&state.late).filter(|(_, late)| late.is_some());
        actions.extend(late.map(|(late, _)| Action::StoreLate { late }));
        let budget = &state.budget;
        for instance in 0..INSTANCES as u8 {
            if budget.crashes > 0 {
                actions.push(Action::CrashInstance { instance });
            }
            let known = &state.instances[usize::from(instance)];
            if known.life != state.db.life {
                actions.push(Action::Notice { instance });
            } else if self.has_to_put_back(known) && state.posting == [None; PAYMENTS] {
                // It would wait for an accept that inserts a row of the same payment.
                actions.push(Action::PutBack { instance });
            }
            if self.may_gather(state, instance) {
                actions.push(Action::Gathered { instance });
            }
        }
        if budget.server_crashes > 0 {
            actions.push(Action::CrashServer);
        }
        if budget.clock_steps > 0 {
            actions.extend([true, false].map(|forward| Action::SetClock { forward }));
        }
        if state.durable.is_some() {
            actions.push(Action::Flush);
        }
        actions.extend(self.config.has_time.then_some(Action::Tick));
        actions
    }

    fn payment_actions(&self, state: &State, payment: u8, actions: &mut Vec<Action>) {
        let index = usize::from(payment);
        let (tables, budget) = (&state.db.payments[index], &state.budget);
        let processors = 0..PROCESSORS as u8;
        let instances = 0..INSTANCES as u8;
        let has_room = self.has_room(state);
        if let Some(posting) = &state.posting[index] {
            // Whoever else would insert a row of this payment waits.
            if posting.claimed_for.is_none() || has_room {
                actions.push(Action::Accept {
                    payment,
                    heard: true,
                });
            }
            if budget.unheard > 0 {
                actions.push(Action::Accept {
                    payment,
                    heard: false,
                });
            }
        } else if budget.posts[index] > 0 {
            for amount in 0..=u8::from(budget.changes > 0) {
                for instance in instances.clone() {
                    let claims = self.config.claim_on_accept && self.may_claim(state, instance);
                    let claimed_for = processors.clone().filter(|_| claims && has_room).map(Some);
                    for claimed_for in std::iter::once(None).chain(claimed_for) {
                        actions.push(Action::Post {
                            payment,
                            amount,
                            instance,
                            claimed_for,
                        });
                    }
                }
            }
        }
        if budget.retries > 0 && tables.dead.is_some() && state.posting[index].is_none() {
            actions.push(Action::Retry { payment });
        }
        if budget.words > 0 && tables.row.is_some_and(|row| row.assigned.is_some()) {
            actions.push(Action::Say { payment });
        }
        if tables.row.is_none() || !(has_room || tables.has_ended()) {
            return;
        }
        for instance in instances
            .clone()
            .filter(|it| self.asks_for_other(state, *it, payment))
        {
            actions.push(Action::AskForOther { instance, payment });
        }
        for instance in instances.filter(|instance| self.may_claim(state, *instance)) {
            if state.db.is_queued(&self.config, payment) {
                for processor in processors.clone() {
                    actions.push(Action::ClaimQueued {
                        instance,
                        processor,
                        payment,
                    });
                    if !self.keeps(Guard::RowIsLocked) {
                        actions.push(Action::LookForQueued {
                            instance,
                            processor,
                            payment,
                        });
                    }
                }
            }
            if let Some((found_by, processor, found)) = state.snapshot
                && (found_by, found) == (instance, payment)
            {
                actions.push(Action::ClaimQueued {
                    instance,
                    processor,
                    payment,
                });
            }
            if state.db.is_in_doubt(&self.config, payment) {
                actions.push(Action::ClaimInDoubt { instance, payment });
            }
        }
    }

    /// `held_elsewhere_step`: a payment that another instance holds, or held before it died, and
    /// that its processor has. An absence changes nothing.
    fn asks_for_other(&self, state: &State, instance: u8, payment: u8) -> bool {
        let index = usize::from(payment);
        let Some(row) = state.db.payments[index].row else {
            return false;
        };
        let known = &state.instances[usize::from(instance)];
        let has_it = (state.claims.iter().flatten())
            .any(|claim| (claim.instance, claim.payment) == (instance, payment));
        !has_it
            && known.life == state.db.life
            && !known.is_gathering
            && (1..FAR).contains(&row.lease)
            && row.assigned.is_some_and(|assigned| {
                let record = state.record(assigned.processor, payment);
                match record {
                    Some(record) => record.amount == row.amount,
                    None => !self.keeps(Guard::AbsenceElsewhere),
                }
            })
    }

    fn has_room(&self, state: &State) -> bool {
        state.claims.iter().flatten().count() < usize::from(self.config.claims).min(CLAIMS)
    }

    /// An instance that has not noticed that the queue was emptied would claim as before, over the
    /// connection by which it notices: [`Guard::ClaimInKnownQueue`].
    fn may_claim(&self, state: &State, instance: u8) -> bool {
        let known = &state.instances[usize::from(instance)];
        let knows_it = known.life == state.db.life || !self.keeps(Guard::ClaimInKnownQueue);
        knows_it && !known.is_gathering
    }

    fn has_to_put_back(&self, known: &Instance) -> bool {
        !known.has_put_back || known.late.contains(&true)
    }

    /// `Admission::gathered`.
    pub(crate) fn may_gather(&self, state: &State, instance: u8) -> bool {
        let known = &state.instances[usize::from(instance)];
        let is_complete = !self.keeps(Guard::ClaimsWaitForPutBack) || self.is_complete(state);
        let waits = known.learnt < self.config.times.longest_doubt();
        known.life == state.db.life
            && known.is_gathering
            && known.has_put_back
            && (is_complete || !waits)
    }

    /// `queue_is_gathered`: all instances that may have calls open have put back what they knew.
    fn is_complete(&self, state: &State) -> bool {
        let has = |known: &Instance| known.has_put_back_into(state.db.life) || known.is_given_up;
        state.instances.iter().all(has)
            && !(state.db.is_incomplete && self.keeps(Guard::ClaimsWaitForTheDead))
    }

    /// `Admission::asks_first`.
    fn asks_first(&self, state: &State, instance: u8, accepted: Era) -> bool {
        let known = &state.instances[usize::from(instance)];
        let asks = (accepted as u8) < known.asks_doubts || known.asks > 0;
        asks && self.keeps(Guard::AskedAfterCrash)
    }

    /// Whether each processor has to be asked for the payment of this claim before it is sent.
    pub(crate) fn asks_all(claim: &Claim) -> bool {
        claim.asks && claim.phase == Phase::Held
    }

    /// Whether a processor answers that is asked.
    fn answers(&self) -> impl Iterator<Item = bool> {
        let silent = self.config.has_failures.then_some(false);
        std::iter::once(true).chain(silent)
    }

    fn claim_actions(&self, state: &State, claim: u8, held: &Claim, actions: &mut Vec<Action>) {
        let may_send = held.send > 0 || !self.keeps(Guard::SendBy);
        match held.phase {
            Phase::Claimed => actions.push(Action::Start { claim }),
            Phase::Held if Self::asks_all(held) => {
                actions.extend(
                    self.answers()
                        .map(|answered| Action::AskAll { claim, answered }),
                );
            }
            Phase::Held if held.earlier.is_some() => {
                actions.extend(
                    self.answers()
                        .map(|answered| Action::Ask { claim, answered }),
                );
            }
            Phase::Held | Phase::Absent => {
                actions.extend(may_send.then_some(Action::Send { claim }));
                actions.push(Action::NotSent { claim });
            }
            Phase::Out { left } => {
                if left > 0 {
                    use Work::{Fails, Refuses, Stores, StoresAndFails, StoresInSilence};
                    let works = match self.config.has_failures {
                        true => &[Stores, StoresInSilence, StoresAndFails, Fails][..],
                        false => &[Stores, StoresInSilence],
                    };
                    let refuses = (state.budget.refusals > 0).then_some(Refuses);
                    let works = works.iter().copied().chain(refuses);
                    actions.extend(works.map(|work| Action::Work { claim, work }));
                }
                let found = look_up(state, held, held.processor);
                let is_proof = match found {
                    Lookup::Ours { .. } => true,
                    _ => !self.keeps(Guard::AbsenceWhileOut),
                };
                if is_proof {
                    actions.push(Action::AskWhileOut { claim });
                }
                actions.push(Action::GiveUp { claim });
            }
            Phase::Replied(_) => {
                actions.extend(
                    self.answers()
                        .map(|answered| Action::Ask { claim, answered }),
                );
            }
            Phase::Ended(_) | Phase::Removed { .. } => {
                // The INSERT of a payment whose accept is not committed waits for it.
                actions.push(Action::Record { claim, heard: true });
                if state.budget.unheard > 0 {
                    actions.push(Action::Record {
                        claim,
                        heard: false,
                    });
                }
            }
        }
    }

    /// The state after an action, in which nothing is counted anew: claims keep their places and
    /// numbers.
    #[must_use]
    pub fn step(&self, last: &State, action: Action) -> State {
        let mut state = *last;
        self.act(&mut state, action);
        state
    }

    /// The state after an action, as states are compared; none where it leaves the state as it is.
    #[must_use]
    pub fn after(&self, last: &State, action: Action) -> Option<State> {
        let mut state = self.step(last, action);
        forget_what_is_of_no_use(&mut state);
        state.normalise(self.config.gap());
        (state != *last).then_some(state)
    }

    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Post {
                payment,
                amount,
                instance,
                claimed_for,
            } => {
                self.post(state, payment, amount, (instance, claimed_for));
            }
            Action::Accept { payment, heard } => self.accept(state, payment, heard),
            Action::LookForQueued {
                instance,
                processor,
                payment,
            } => {
                state.snapshot = Some((instance, processor, payment));
            }
            Action::ClaimQueued {
                instance,
                processor,
                payment,
            } => {
                let life = self.reach(state, instance);
                self.commit(state, self.keeps(Guard::ClaimIsDurable));
                let requested_at = state.fresh_time();
                let db = &mut state.db;
                let taken = db.claim_queued(&self.config, payment, processor, requested_at);
                state.snapshot = state.snapshot.filter(|(by, ..)| *by != instance);
                if let Some(taken) = taken {
                    let claim = (processor, requested_at);
                    self.hold(state, instance, (payment, life), claim, taken);
                }
            }
            Action::ClaimInDoubt { instance, payment } => {
                self.claim_in_doubt(state, instance, payment)
            }
            Action::Start { claim } => self.start_claim(state, claim),
            Action::Send { claim } => self.send(state, claim),
            Action::NotSent { claim } => {
                let earlier = claim_of(state, claim).earlier.is_some();
                self.end(state, claim, Verdict::Declined, earlier);
            }
            Action::Work { claim, work } => self.work(state, claim, work),
            Action::GiveUp { claim } => {
                leave_open(state, claim, self.config.times.late);
                claim_of(state, claim).phase = Phase::Replied(Reply::Silence);
            }
            Action::AskWhileOut { claim } => self.ask_while_out(state, claim),
            Action::Ask { claim, answered } => self.ask(state, claim, answered),
            Action::AskAll { claim, answered } => self.ask_all(state, claim, answered),
            Action::Record { claim, heard } => self.record(state, claim, heard),
            Action::StoreLate { late } => {
                if let Some(late) = state.late[usize::from(late)].take() {
                    store(state, late.payment, late.charge);
                }
            }
            Action::CrashInstance { instance } => self.crash_instance(state, instance),
            Action::CrashServer => self.crash_server(state),
            Action::Flush => state.durable = None,
            Action::Notice { instance } => {
                self.reach(state, instance);
            }
            Action::PutBack { instance } => self.put_back(state, instance),
            Action::Gathered { instance } => self.gathered(state, instance),
            Action::AskForOther { instance, payment } => {
                self.ask_for_other(state, instance, payment)
            }
            Action::SetClock { forward } => self.set_clock(state, forward),
            Action::Say { payment } => self.say(state, payment),
            Action::Retry { payment } => {
                state.budget.retries -= 1;
                self.commit(state, true);
                state.db.retry(&self.config, payment);
            }
            Action::Tick => self.tick(state),
        }
    }

    /// An instance reaches the database over a new connection: it notices an emptied queue. Returns
    /// the life of the queue that it had known before.
    fn reach(&self, state: &mut State, instance: u8) -> u8 {
        self.begin_life(state);
        let life = state.db.life;
        let known = &mut state.instances[usize::from(instance)];
        let before = known.life;
        if before != life {
            *known = Instance {
                life,
                has_put_back: false,
                is_gathering: true,
                learnt: 0,
                asks_doubts: 0,
                ..*known
            };
        }
        before
    }

    /// `queue_life`: the first that reaches a queue that was emptied writes down that it was.
    fn begin_life(&self, state: &mut State) {
        if std::mem::take(&mut state.db.is_unnoticed) {
            let doubt = self.config.times.longest_doubt();
            state.db.is_incomplete = state.db.died > 0;
            let instances = state.instances.iter_mut();
            instances.for_each(|known| known.is_given_up = known.silent >= doubt);
            state.ghost.reported |= self.keeps(Guard::EmptiedQueueIsNoticed);
        }
    }

    /// A transaction commits, which waits for the disk or not. Called before its changes.
    fn commit(&self, state: &mut State, waits: bool) {
        if !self.config.is_logged() || self.config.budget.server_crashes == 0 {
            return;
        }
        if waits {
            state.durable = None;
        } else {
            state.durable.get_or_insert(state.db);
        }
    }

    fn post(&self, state: &mut State, payment: u8, amount: u8, by: (u8, Option<u8>)) {
        let (instance, claimed_for) = by;
        state.budget.posts[usize::from(payment)] -= 1;
        state.budget.changes -= amount.min(1);
        let life = self.reach(state, instance);
        let tables = &mut state.db.payments[usize::from(payment)];
        if let Some(row) = tables.row.as_mut() {
            if row.amount == amount {
                state.told[usize::from(payment)].get_or_insert(amount);
            }
            match (
                self.keeps(Guard::AcceptOnce),
                self.keeps(Guard::AcceptLooksAfterInsert),
            ) {
                (false, _) => tables.row = None,
                (true, true) => return,
                // It has looked, and inserts later.
                (true, false) => {}
            }
        }
        let looked = !self.keeps(Guard::AcceptLooksAfterInsert);
        let looked = looked.then_some(tables.has_ended());
        let posting = Posting {
            amount,
            instance,
            claimed_for,
            life,
            looked,
        };
        state.posting[usize::from(payment)] = Some(posting);
        if !self.keeps(Guard::AcceptBeforeReply) {
            state.told[usize::from(payment)].get_or_insert(amount);
        }
    }

    fn accept(&self, state: &mut State, payment: u8, heard: bool) {
        let index = usize::from(payment);
        let Some(posting) = state.posting[index].take() else {
            return;
        };
        state.budget.unheard -= u8::from(!heard);
        let Posting {
            amount, instance, ..
        } = posting;
        let tables = &state.db.payments[index];
        if tables.row.is_some() {
            return;
        }
        let looks = self.keeps(Guard::AcceptLooksIntoLedger);
        if posting.looked.unwrap_or(tables.has_ended()) && looks {
            let ledger = tables.ledger.map(|charge| charge.amount);
            let known = ledger.or(tables.dead.map(|dead| dead.amount));
            if heard && known == Some(amount) {
                state.told[index].get_or_insert(amount);
            }
            return;
        }
        self.commit(state, self.keeps(Guard::AcceptIsDurable));
        let time = state.fresh_time();
        let claimed = posting.claimed_for.map(|processor| (processor, time));
        let row = state.db.accept(&self.config, payment, amount, claimed);
        if heard {
            state.told[index].get_or_insert(amount);
            if let Some(claim) = claimed {
                let taken = Taken { row, earlier: None };
                self.hold(state, instance, (payment, posting.life), claim, taken);
            } else {
                self.wait(state, instance, payment, (row.attempt, row.amount));
            }
        }
    }

    fn claim_in_doubt(&self, state: &mut State, instance: u8, payment: u8) {
        let life = self.reach(state, instance);
        self.commit(state, self.keeps(Guard::ClaimIsDurable));
        let Some(assigned) = state.db.payments[usize::from(payment)]
            .row
            .and_then(|row| row.assigned)
        else {
            return;
        };
        let otherwise = (1 - assigned.processor, state.fresh_time());
        let Some(taken) = state.db.claim_in_doubt(&self.config, payment, otherwise) else {
            return;
        };
        let claim = taken.row.assigned.unwrap_or(assigned);
        let claim = (claim.processor, claim.requested_at);
        self.hold(state, instance, (payment, life), claim, taken);
    }

    /// An instance is told of its claim. Of an unlogged queue it has to take note of it.
    fn hold(
        &self,
        state: &mut State,
        instance: u8,
        (payment, life): (u8, u8),
        (processor, requested_at): (u8, u8),
        Taken {
            row,
            earlier: doubt,
        }: Taken,
    ) {
        let watched = state.instances[usize::from(instance)].watched;
        let is_proof =
            watched >= self.config.times.longest_doubt() || !self.keeps(Guard::ClockIsWatched);
        let claim = Claim {
            payment,
            instance,
            id: row.id,
            attempt: row.attempt,
            amount: row.amount,
            processor,
            requested_at,
            accepted: row.accepted,
            send: self.config.times.send,
            asks: false,
            earlier: doubt.map(|doubt| earlier(doubt, is_proof)),
            life,
            phase: match self.config.durability {
                Durability::Logged => Phase::Held,
                Durability::Unlogged => Phase::Claimed,
            },
        };
        if let Some(place) = state.claims.iter_mut().find(|place| place.is_none()) {
            *place = Some(claim);
        }
    }

    /// A payment of an instance waits in the queue, as far as the instance knows.
    fn wait(&self, state: &mut State, instance: u8, payment: u8, (attempt, amount): (u8, u8)) {
        let open = &mut state.instances[usize::from(instance)].open[usize::from(payment)];
        if !self.config.is_logged() && open.is_none_or(|open| open.claimed.is_none()) {
            *open = Some(Open {
                attempt,
                amount,
                claimed: None,
            });
        }
    }

    /// `Worker::note_claims` and `Worker::may_send`, and what follows from it.
    fn start_claim(&self, state: &mut State, claim: u8) {
        let held = *claim_of(state, claim);
        let instance = &mut state.instances[usize::from(held.instance)];
        let is_of_this_life = instance.life == held.life;
        let open = &mut instance.open[usize::from(held.payment)];
        if is_of_this_life || open.is_none_or(|open| open.claimed.is_none()) {
            *open = Some(Open {
                attempt: held.attempt,
                amount: held.amount,
                claimed: Some(Claimed {
                    processor: held.processor,
                    requested_at: held.requested_at,
                    left: None,
                    is_stale: false,
                    is_put_back: false,
                }),
            });
        }
        if is_of_this_life || !self.keeps(Guard::ClaimOfGoneQueue) {
            let asks = self.asks_first(state, held.instance, held.accepted);
            let claim = claim_of(state, claim);
            (claim.phase, claim.asks) = (Phase::Held, asks);
            return;
        }
        if let Some(open) = open
            && let Some(claimed) = open.claimed.as_mut()
        {
            claimed.is_stale |= open.attempt == held.attempt && claimed.is_of_call(&held);
        }
        let outcome = match held.earlier {
            None => Outcome::NotCharged,
            Some(_) => Outcome::InDoubt { anew: false },
        };
        claim_of(state, claim).phase = Phase::Ended(outcome);
    }

    fn send(&self, state: &mut State, claim: u8) {
        let times = self.config.times;
        let Claim {
            payment,
            processor,
            asks,
            ..
        } = *claim_of(state, claim);
        if !asks && self.keeps(Guard::AskedAfterCrash) {
            // Too late after the crash to ask, and another processor has it, which nobody knows.
            let index = usize::from(payment);
            let mut others = (0..PROCESSORS).filter(|other| *other != usize::from(processor));
            state.ghost.excused[index] |= others.any(|other| state.ghost.forgotten[other][index]);
        }
        claim_of(state, claim).phase = Phase::Out {
            left: times.call + times.late,
        };
    }

    fn work(&self, state: &mut State, claim: u8, work: Work) {
        let held = *claim_of(state, claim);
        let stores = matches!(
            work,
            Work::Stores | Work::StoresInSilence | Work::StoresAndFails
        );
        let is_stored = stores && store(state, held.payment, held.charge());
        let reply = match work {
            Work::Stores if is_stored => Reply::Stored,
            // 422: it has one with that id.
            Work::Stores => Reply::Refused,
            Work::StoresAndFails | Work::Fails => Reply::Failed,
            Work::Refuses => {
                state.budget.refusals -= 1;
                Reply::Refused
            }
            Work::StoresInSilence => {
                claim_of(state, claim).phase = Phase::Out { left: 0 };
                return;
            }
        };
        match judge(|guard| self.keeps(guard), held.requested_at, reply, None) {
            Some(verdict) => self.end(state, claim, verdict, held.earlier.is_some()),
            None => claim_of(state, claim).phase = Phase::Replied(reply),
        }
    }

    fn ask_while_out(&self, state: &mut State, claim: u8) {
        let held = *claim_of(state, claim);
        let lookup = look_up(state, &held, held.processor);
        leave_open(state, claim, self.config.times.late);
        let reply = match lookup {
            // Nothing is proved, unless that guard is taken away.
            Lookup::Absent => Reply::Failed,
            _ => Reply::Silence,
        };
        self.end_after(state, claim, reply, lookup);
    }

    /// `lookup_after` a reply, or the look-up of `resolve`.
    fn ask(&self, state: &mut State, claim: u8, answered: bool) {
        let held = *claim_of(state, claim);
        let lookup = match answered {
            true => look_up(state, &held, held.processor),
            false => Lookup::Silence,
        };
        let keeps = |guard| self.keeps(guard);
        let Phase::Replied(reply) = held.phase else {
            let earlier = held.earlier.unwrap_or(earlier(0, false));
            let phase = match lookup {
                Lookup::Absent if earlier.over || !self.keeps(Guard::DoubtUntil) => {
                    Phase::Ended(Outcome::NotCharged)
                }
                Lookup::Absent => Phase::Absent,
                Lookup::Silence => Phase::Ended(Outcome::InDoubt { anew: false }),
                Lookup::Ours { .. } | Lookup::Other => {
                    let verdict = judge(keeps, held.requested_at, Reply::Silence, Some(lookup));
                    Phase::Ended(decide(keeps, verdict.unwrap_or(Verdict::Unknown), true))
                }
            };
            claim_of(state, claim).phase = phase;
            return;
        };
        self.end_after(state, claim, reply, lookup);
    }

    /// `restored::ask`.
    fn ask_all(&self, state: &mut State, claim: u8, answered: bool) {
        let held = *claim_of(state, claim);
        let undecided = match held.earlier {
            None => Outcome::NotCharged,
            Some(_) => Outcome::InDoubt { anew: false },
        };
        if !answered {
            claim_of(state, claim).phase = Phase::Ended(undecided);
            return;
        }
        for processor in 0..PROCESSORS as u8 {
            let Some(record) = state.record(processor, held.payment) else {
                continue;
            };
            let requested_at = record.requested_at;
            self.commit(state, true);
            state.db.assign(&held, processor, requested_at);
            let outcome = match record.amount == held.amount {
                true => Outcome::Charged { requested_at },
                false => Outcome::Dead { held: true },
            };
            let claim = claim_of(state, claim);
            (claim.processor, claim.requested_at) = (processor, requested_at);
            claim.phase = Phase::Ended(outcome);
            return;
        }
        let claim = claim_of(state, claim);
        claim.phase = match claim.earlier {
            Some(earlier) if earlier.over => Phase::Ended(Outcome::NotCharged),
            _ => Phase::Absent,
        };
    }

    /// What the reply and the look-up after it prove is the end of the claim.
    fn end_after(&self, state: &mut State, claim: u8, reply: Reply, lookup: Lookup) {
        let held = *claim_of(state, claim);
        let keeps = |guard| self.keeps(guard);
        let verdict = judge(keeps, held.requested_at, reply, Some(lookup));
        let verdict = verdict.unwrap_or(Verdict::Unknown);
        self.end(state, claim, verdict, held.earlier.is_some());
    }

    fn end(&self, state: &mut State, claim: u8, verdict: Verdict, has_earlier: bool) {
        let outcome = decide(|guard| self.keeps(guard), verdict, has_earlier);
        claim_of(state, claim).phase = Phase::Ended(outcome);
    }

    fn record(&self, state: &mut State, claim: u8, heard: bool) {
        let held = *claim_of(state, claim);
        state.budget.unheard -= u8::from(!heard);
        self.reach(state, held.instance);
        self.commit(state, false);
        match held.phase {
            Phase::Removed { requested_at } => {
                let charge = Charge {
                    requested_at,
                    ..held.charge()
                };
                state.db.record_charge(held.payment, charge);
            }
            Phase::Ended(Outcome::Charged { requested_at })
                if !self.keeps(Guard::SettleIsOneStep) =>
            {
                state
                    .db
                    .remove_charged(&self.config, held.payment, held.processor);
                claim_of(state, claim).phase = Phase::Removed { requested_at };
                return;
            }
            Phase::Ended(outcome) => {
                let is_recorded = state.db.record(&self.config, &held, outcome);
                state.ghost.unrecordable |= !is_recorded;
            }
            _ => return,
        }
        if let Phase::Ended(Outcome::Charged { .. } | Outcome::Dead { held: true }) = held.phase {
            let forgotten = &mut state.ghost.forgotten[usize::from(held.processor)];
            forgotten[usize::from(held.payment)] = false;
        }
        if heard {
            self.recorded(state, &held);
            state.claims[usize::from(claim)] = None;
        }
    }

    /// `InFlight::recorded`.
    fn recorded(&self, state: &mut State, held: &Claim) {
        let instance = &mut state.instances[usize::from(held.instance)];
        let index = usize::from(held.payment);
        let Some(open) = instance.open[index].as_mut() else {
            return;
        };
        let (attempt, amount) = (open.attempt, open.amount);
        let Some(claimed) = open.claimed.as_mut() else {
            return;
        };
        let (is_newest, is_of_call) = (attempt <= held.attempt, claimed.is_of_call(held));
        let leaves_doubt = match held.phase {
            Phase::Ended(Outcome::Charged { .. }) | Phase::Removed { .. } => {
                instance.open[index] = None;
                return;
            }
            Phase::Ended(Outcome::Dead { .. }) if is_newest && !claimed.is_put_back => {
                instance.open[index] = None;
                return;
            }
            Phase::Ended(Outcome::Dead { .. }) => is_newest,
            Phase::Ended(Outcome::NotCharged)
                if is_newest && is_of_call && !claimed.is_put_back =>
            {
                let is_stale = claimed.is_stale;
                instance.open[index] = Some(Open {
                    attempt,
                    amount,
                    claimed: None,
                });
                instance.late[index] |= is_stale;
                return;
            }
            _ => is_newest && is_of_call,
        };
        if leaves_doubt {
            let doubt = self.config.times.longest_doubt();
            claimed.left = Some(doubt);
            if !self.keeps(Guard::LeftInDoubtIsKept) {
                instance.open[index] = None;
            }
        }
    }

    /// `InFlight::forget`, with each heartbeat.
    fn forget(&self, state: &mut State, instance: usize) {
        let known = &mut state.instances[instance];
        if !known.has_put_back_into(state.db.life) && self.keeps(Guard::KeptUntilPutBack) {
            return;
        }
        for open in &mut known.open {
            let left = open.and_then(|open| open.claimed?.left);
            *open = open.filter(|_| left != Some(0));
        }
    }

    /// An instance dies. Another one starts in its place.
    fn crash_instance(&self, state: &mut State, instance: u8) {
        state.budget.crashes -= 1;
        forget_what_it_holds(state, instance);
        let doubt = self.config.times.longest_doubt();
        self.begin_life(state);
        let known = state.instances[usize::from(instance)];
        if !self.config.is_logged() {
            state.db.died = state.db.died.max(doubt - known.silent);
            let is_waited_for = !known.has_put_back_into(state.db.life) && !known.is_given_up;
            state.db.is_incomplete |= is_waited_for;
        }
        for claim in 0..CLAIMS as u8 {
            if state.claims[usize::from(claim)].is_some_and(|claim| claim.instance == instance) {
                leave_open(state, claim, self.config.times.late);
                state.claims[usize::from(claim)] = None;
            }
        }
        for posting in &mut state.posting {
            *posting = posting.filter(|posting| posting.instance != instance);
        }
        if state.snapshot.is_some_and(|(by, ..)| by == instance) {
            state.snapshot = None;
        }
        // `Quarantine::left`.
        let is_complete = self.is_complete_without(state, instance);
        let asks_doubts = match (state.db.life, is_complete) {
            (0, _) => 0,
            (_, true) => 1,
            (_, false) => 2,
        };
        let is_over = state.db.since >= doubt;
        if is_complete || is_over {
            // It claims at once, and does not wait for what others know that stand still.
            (0..INSTANCES as u8).for_each(|other| forget_what_it_holds(state, other));
        }
        state.instances[usize::from(instance)] = Instance {
            life: state.db.life,
            has_put_back: true,
            is_gathering: state.db.life > 0 && !is_complete && !is_over,
            asks: (asks_doubts * doubt).saturating_sub(state.db.since),
            asks_doubts,
            watched: self.watch_from_start(),
            ..Instance::default()
        };
    }

    /// The same, as this instance reads it, which has put back what it knew.
    #[must_use]
    pub fn is_complete_without(&self, state: &State, instance: u8) -> bool {
        let mut state = *state;
        let known = &mut state.instances[usize::from(instance)];
        (known.life, known.has_put_back) = (state.db.life, true);
        self.is_complete(&state)
    }

    fn gathered(&self, state: &mut State, instance: u8) {
        // What those knew that have not put back is known to nobody who claims.
        (0..INSTANCES as u8).for_each(|other| forget_what_it_holds(state, other));
        let doubt = self.config.times.longest_doubt();
        let asks_doubts = if self.is_complete(state) { 1 } else { 2 };
        let known = &mut state.instances[usize::from(instance)];
        (known.is_gathering, known.asks) = (false, doubt);
        known.asks_doubts = known.asks_doubts.max(asks_doubts);
    }

    fn ask_for_other(&self, state: &mut State, instance: u8, payment: u8) {
        let Some(row) = state.db.payments[usize::from(payment)].row else {
            return;
        };
        let Some(assigned) = row.assigned else {
            return;
        };
        let record = state.record(assigned.processor, payment);
        let claim = Claim {
            payment,
            instance,
            id: row.id,
            attempt: row.attempt,
            amount: row.amount,
            processor: assigned.processor,
            requested_at: assigned.requested_at,
            accepted: row.accepted,
            send: 0,
            asks: false,
            earlier: None,
            life: state.instances[usize::from(instance)].life,
            phase: Phase::Ended(match record {
                Some(Record { requested_at, .. }) => Outcome::Charged { requested_at },
                // Nothing, unless that guard is taken away.
                None => Outcome::NotCharged,
            }),
        };
        if let Some(place) = state.claims.iter_mut().find(|place| place.is_none()) {
            *place = Some(claim);
        }
    }

    fn crash_server(&self, state: &mut State) {
        state.budget.server_crashes -= 1;
        state.posting = [None; PAYMENTS];
        state.snapshot = None;
        if self.config.is_logged() {
            state.db = state.durable.take().unwrap_or(state.db);
            return;
        }
        state
            .db
            .payments
            .iter_mut()
            .for_each(|tables| tables.row = None);
        let dead = state.db.payments.iter_mut().flat_map(|it| &mut it.dead);
        dead.for_each(|dead| dead.accepted = Era::WithinOneDoubt);
        let db = &mut state.db;
        (db.last_id, db.life, db.since) = (0, db.life + 1, 0);
        (db.is_unnoticed, db.is_incomplete) = (true, false);
        forget_what_nobody_holds(state);
    }

    fn put_back(&self, state: &mut State, instance: u8) {
        let known = &mut state.instances[usize::from(instance)];
        let only_late = known.has_put_back;
        let (open, late) = (known.open, known.late);
        (known.has_put_back, known.late) = (true, [false; PAYMENTS]);
        known.silent = 0;
        let claimed = known.open.iter_mut().flatten();
        let claimed = claimed.flat_map(|open| &mut open.claimed);
        claimed.for_each(|claimed| claimed.is_put_back |= !only_late);
        self.forget(state, usize::from(instance));
        if !self.keeps(Guard::PutBack) {
            return;
        }
        for payment in 0..PAYMENTS {
            let is_told = !only_late || late[payment];
            let waits = open[payment].is_some_and(|open| open.claimed.is_none());
            if let Some(open) = open[payment].filter(|_| is_told && (waits || !only_late)) {
                state.db.put_back(&self.config, payment as u8, open);
            }
        }
    }

    fn set_clock(&self, state: &mut State, forward: bool) {
        state.budget.clock_steps -= 1;
        state.db.set_clock(forward);
        state
            .durable
            .iter_mut()
            .for_each(|db| db.set_clock(forward));
        let left = if forward { 0 } else { FAR };
        for claim in state.claims.iter_mut().flatten() {
            claim
                .earlier
                .iter_mut()
                .for_each(|earlier| earlier.doubt = left);
        }
        state
            .instances
            .iter_mut()
            .for_each(|instance| instance.watched = 0);
    }

    /// The operator tells the truth of this moment, and the `requestedAt` of the record. Where the
    /// record has another amount he says nothing.
    fn say(&self, state: &mut State, payment: u8) {
        let Some(assigned) = state.db.payments[usize::from(payment)]
            .row
            .and_then(|row| row.assigned)
        else {
            return;
        };
        let record = state.record(assigned.processor, payment);
        let amount = state.db.payments[usize::from(payment)]
            .row
            .map(|row| row.amount);
        if record.is_some_and(|record| Some(record.amount) != amount) {
            return;
        }
        let before = state.durable;
        self.commit(state, true);
        let charged_at = record.map(|record| record.requested_at);
        match state.db.decide_in_doubt(&self.config, payment, charged_at) {
            Word::Done => state.budget.words -= 1,
            Word::Refused => state.durable = before,
        }
    }

    fn tick(&self, state: &mut State) {
        let most = self.config.times.longest_doubt();
        state.db.tick(most);
        state.durable.iter_mut().for_each(|db| db.tick(most));
        for claim in state.claims.iter_mut().flatten() {
            pass(&mut claim.send);
            claim
                .earlier
                .iter_mut()
                .for_each(|earlier| pass(&mut earlier.doubt));
            if let Phase::Out { left } = &mut claim.phase {
                pass(left);
            }
        }
        for late in &mut state.late {
            if let Some(request) = late {
                pass(&mut request.left);
                if request.left == 0 {
                    *late = None;
                }
            }
        }
        for instance in &mut state.instances {
            instance.watched = (instance.watched + 1).min(most);
            instance.learnt = (instance.learnt + 1).min(most);
            pass(&mut instance.asks);
            if !instance.has_put_back_into(state.db.life) {
                instance.silent = (instance.silent + 1).min(most);
            }
            let claimed = instance.open.iter_mut().flatten();
            let left = claimed.flat_map(|open| open.claimed.as_mut()?.left.as_mut());
            left.for_each(pass);
        }
        (0..INSTANCES).for_each(|instance| self.forget(state, instance));
    }
}

/// The claim at this place, which is there where an action names it.
fn claim_of(state: &mut State, claim: u8) -> &mut Claim {
    let place = state.claims[usize::from(claim)].as_mut();
    place.expect("an action names a claim that is there")
}

/// What a processor has of the payment of a claim.
fn look_up(state: &State, claim: &Claim, processor: u8) -> Lookup {
    match state.record(processor, claim.payment) {
        None => Lookup::Absent,
        Some(record) if record.amount == claim.amount => Lookup::Ours {
            requested_at: record.requested_at,
        },
        Some(_) => Lookup::Other,
    }
}

/// A processor stores a payment, unless it has it. Returns whether it did.
fn store(state: &mut State, payment: u8, charge: Charge) -> bool {
    let Charge {
        processor,
        requested_at,
        amount,
    } = charge;
    let place = &mut state.processors[usize::from(processor)][usize::from(payment)];
    let is_new = place.is_none();
    place.get_or_insert(Record {
        requested_at,
        amount,
    });
    for late in &mut state.late {
        *late = late.filter(|it| (it.payment, it.charge.processor) != (payment, processor));
    }
    is_new
}

/// Nobody waits any more for the POST of a claim that is out.
fn leave_open(state: &mut State, claim: u8, late: u8) {
    let held = *claim_of(state, claim);
    if let Phase::Out { left: left @ 1.. } = held.phase {
        let (payment, charge) = (held.payment, held.charge());
        state.add_late(Late {
            payment,
            charge,
            left: left.min(late),
        });
    }
}

/// Leaves out what nothing that can still happen depends on.
fn forget_what_is_of_no_use(state: &mut State) {
    let no_life_begins = state.budget.server_crashes == 0 && !state.db.is_unnoticed;
    if no_life_begins {
        state.db.died = 0;
    }
    for (number, instance) in (0..).zip(&mut state.instances) {
        if !instance.is_gathering {
            instance.learnt = 0;
        }
        if no_life_begins {
            instance.silent = 0;
        }
        let has_put_back = instance.has_put_back_into(state.db.life);
        if state.budget.server_crashes > 0 || !has_put_back || instance.late.contains(&true) {
            continue;
        }
        for (payment, open) in (0..).zip(&mut instance.open) {
            let mut claims = state.claims.iter().flatten();
            let may_be_stale = claims.any(|claim| {
                (claim.instance, claim.payment) == (number, payment) && claim.life != state.db.life
            });
            *open = open.filter(|_| may_be_stale);
        }
    }
}

/// Whether a processor may still store a payment.
fn is_open(state: &State, processor: u8, payment: u8) -> bool {
    let mut open = state
        .open_requests()
        .map(|(id, charge)| (id, charge.processor));
    open.any(|it| it == (payment, processor))
}

/// The server crashed: marks what processors have charged or may yet charge, and no instance knows.
fn forget_what_nobody_holds(state: &mut State) {
    for payment in 0..PAYMENTS as u8 {
        let index = usize::from(payment);
        for processor in 0..PROCESSORS as u8 {
            let is_charged =
                state.record(processor, payment).is_some() || is_open(state, processor, payment);
            let mut claims = state.claims.iter().flatten();
            let is_held = claims.any(|it| {
                let is_charged = matches!(it.phase, Phase::Ended(Outcome::Charged { .. }));
                is_charged && (it.payment, it.processor) == (payment, processor)
            });
            let known = state
                .instances
                .iter()
                .filter_map(|it| it.open[index]?.claimed);
            let is_known = known
                .into_iter()
                .any(|claimed| claimed.processor == processor);
            let has_ended = state.db.payments[index].has_ended();
            state.ghost.forgotten[usize::from(processor)][index] |=
                is_charged && !is_held && !is_known && !has_ended;
        }
    }
}

/// An instance died, or is not waited for any longer, before it has put back what it knew: marks
/// all of that.
fn forget_what_it_holds(state: &mut State, instance: u8) {
    let known = state.instances[usize::from(instance)];
    if state.db.life == 0 || known.has_put_back_into(state.db.life) {
        return;
    }
    let claims = state
        .claims
        .iter()
        .flatten()
        .filter(|claim| claim.instance == instance);
    for (processor, payment) in claims.map(|claim| (claim.processor, claim.payment)) {
        state.ghost.forgotten[usize::from(processor)][usize::from(payment)] = true;
    }
    for (payment, open) in known.open.iter().enumerate() {
        if let Some(claimed) = open.and_then(|open| open.claimed) {
            state.ghost.forgotten[usize::from(claimed.processor)][payment] = true;
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.beginning().into_iter().last().into_iter().collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.append(&mut self.next_actions(state));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let state = self.after(last, action)?;
        Some(match self.config.symmetric {
            true => state.representative(),
            false => state,
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self.config.durability)
    }
}

const PROCESSOR_NAMES: [&str; PROCESSORS] = ["A", "B"];
const _: () = assert!(LATE >= PROCESSORS * CLAIMS);

impl Action {
    /// What happens, in plain words; `state` is the one before it.
    #[must_use]
    pub fn told(self, state: &State) -> String {
        let of = |claim: u8| {
            let claim = state.claims[usize::from(claim)];
            claim.map_or_else(String::new, |claim| {
                let processor = PROCESSOR_NAMES[usize::from(claim.processor)];
                format!(
                    "instance {} (claim {}, {processor})",
                    claim.instance + 1,
                    claim.attempt
                )
            })
        };
        let answer = |answered| {
            if answered {
                "is answered"
            } else {
                "is not answered"
            }
        };
        let unheard = |heard| {
            if heard {
                ""
            } else {
                ", and does not hear of it"
            }
        };
        match self {
            Self::Post {
                payment,
                amount,
                instance,
                claimed_for,
            } => {
                let other = if amount > 0 {
                    " with another amount"
                } else {
                    ""
                };
                let claims = claimed_for.map_or_else(String::new, |processor| {
                    format!(", claimed for {}", PROCESSOR_NAMES[usize::from(processor)])
                });
                format!(
                    "payment {} is posted{other} to instance {}{claims}",
                    payment + 1,
                    instance + 1
                )
            }
            Self::Accept { payment, heard } => {
                format!("payment {} is accepted{}", payment + 1, unheard(heard))
            }
            Self::LookForQueued { instance, .. } => {
                format!("instance {} finds it queued", instance + 1)
            }
            Self::ClaimQueued {
                instance,
                processor,
                payment,
            } => format!(
                "instance {} claims payment {} for {}",
                instance + 1,
                payment + 1,
                PROCESSOR_NAMES[usize::from(processor)]
            ),
            Self::ClaimInDoubt { instance, payment } => {
                format!(
                    "instance {} claims payment {} in doubt",
                    instance + 1,
                    payment + 1
                )
            }
            Self::Start { claim } => format!("{} takes note of its claim", of(claim)),
            Self::Send { claim } => format!("{} sends it", of(claim)),
            Self::NotSent { claim } => format!("{} does not send it", of(claim)),
            Self::Work { claim, work } => {
                let done = match work {
                    Work::Stores => "the processor answers",
                    Work::StoresInSilence => "the processor stores it, the reply is lost",
                    Work::StoresAndFails => "the processor stores it and reports a failure",
                    Work::Fails => "the processor reports a failure",
                    Work::Refuses => "the processor refuses it",
                };
                format!("{}: {done}", of(claim))
            }
            Self::GiveUp { claim } => format!("{} gives up to wait", of(claim)),
            Self::AskWhileOut { claim } => format!("{} asks while its POST is out", of(claim)),
            Self::Ask { claim, answered } => format!("{} asks and {}", of(claim), answer(answered)),
            Self::AskAll { claim, answered } => {
                format!("{} asks all processors and {}", of(claim), answer(answered))
            }
            Self::Record { claim, heard } => {
                let outcome = match state.claims[usize::from(claim)].map(|claim| claim.phase) {
                    Some(Phase::Ended(Outcome::Charged { .. })) => "charged",
                    Some(Phase::Ended(Outcome::NotCharged)) => "not charged",
                    Some(Phase::Ended(Outcome::InDoubt { .. })) => "in doubt",
                    Some(Phase::Ended(Outcome::Dead { .. })) => "a dead letter",
                    _ => "the rest",
                };
                format!("{} records: {outcome}{}", of(claim), unheard(heard))
            }
            Self::StoreLate { late } => {
                let late = state.late[usize::from(late)];
                let processor = late.map_or(0, |late| usize::from(late.charge.processor));
                format!("{} stores it late", PROCESSOR_NAMES[processor])
            }
            Self::CrashInstance { instance } => format!("instance {} dies", instance + 1),
            Self::CrashServer => "the database server crashes".to_owned(),
            Self::Flush => "the log is on disk".to_owned(),
            Self::Notice { instance } => {
                format!("instance {} notices the emptied queue", instance + 1)
            }
            Self::PutBack { instance } => format!("instance {} puts back its claims", instance + 1),
            Self::Gathered { instance } => format!("instance {} claims again", instance + 1),
            Self::AskForOther { instance, payment } => format!(
                "instance {} asks for payment {}, which another one holds",
                instance + 1,
                payment + 1
            ),
            Self::SetClock { forward: true } => "the database's clock is set forward".to_owned(),
            Self::SetClock { forward: false } => "the database's clock is set back".to_owned(),
            Self::Say { .. } => "the operator says what the processor has".to_owned(),
            Self::Retry { .. } => "the operator retries the dead letter".to_owned(),
            Self::Tick => "time goes by".to_owned(),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Logged => "logged",
            Self::Unlogged => "unlogged",
        })
    }
}
