//! What the model knows at one moment: the tables, what instances hold in memory, what processors
//! have stored or work on, and what clients were told.
//!
//! Times are what is left of them, in ticks, so that a state does not say when it was. Ids of rows,
//! numbers of claims and values of `requested_at` are small numbers that are counted anew in every
//! state (`State::normalise`).

/// Payments in a state, at most.
pub const PAYMENTS: usize = 2;
/// Processors.
pub const PROCESSORS: usize = 2;
/// Instances.
pub const INSTANCES: usize = 2;
/// Claims that instances hold at once, at most, of one payment or of several.
pub const CLAIMS: usize = 3;
/// Requests that processors may still store though nobody waits for them, at most.
pub const LATE: usize = 6;
/// A time that is further than any that is written now: the clock was set back, or a dead letter
/// whose id its processor holds was retried.
pub const FAR: u8 = u8::MAX;

/// A charge, as a processor stores it and as the ledger records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Charge {
    /// The processor.
    pub processor: u8,
    /// The `requestedAt`.
    pub requested_at: u8,
    /// The amount.
    pub amount: u8,
}

/// What a row of the queue says of where its payment may have been charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Assigned {
    /// `processor`.
    pub processor: u8,
    /// `requested_at`.
    pub requested_at: u8,
    /// `doubt_until`, in ticks from now.
    pub doubt: u8,
}

/// A row of `payment_queue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// `id`.
    pub id: u8,
    /// `amount`.
    pub amount: u8,
    /// `attempt`.
    pub attempt: u8,
    /// `lease_until`, in ticks from now.
    pub lease: u8,
    /// `accepted_at`.
    pub accepted: Era,
    /// `processor`, `requested_at` and `doubt_until`; all three or none.
    pub assigned: Option<Assigned>,
}

/// When a payment was accepted, counted from when it was last noticed that the queue was emptied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Era {
    /// Before that, or less than the longest doubt after it.
    WithinOneDoubt,
    /// Less than twice that time after it.
    WithinTwo,
    /// Later, or the queue was never emptied.
    #[default]
    Later,
}

/// A row of `payment_dead_letter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetter {
    /// `amount`.
    pub amount: u8,
    /// `attempt`.
    pub attempt: u8,
    /// `accepted_at`.
    pub accepted: Era,
    /// `processor` and `requested_at`, where that processor holds the id.
    pub held: Option<(u8, u8)>,
}

/// What the tables have of one payment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tables {
    /// `payment_queue`.
    pub row: Option<Row>,
    /// `payment_processed`.
    pub ledger: Option<Charge>,
    /// `payment_dead_letter`.
    pub dead: Option<DeadLetter>,
}

impl Tables {
    /// Whether the payment is settled or a dead letter.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ledger.is_some() || self.dead.is_some()
    }

    /// Whether any table has the payment.
    #[must_use]
    pub fn has_it(&self) -> bool {
        self.row.is_some() || self.has_ended()
    }
}

/// The database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Db {
    /// The tables, by payment.
    pub payments: [Tables; PAYMENTS],
    /// The id of the last row that was queued.
    pub last_id: u8,
    /// The life of the queue: how often a crash has emptied it.
    pub life: u8,
    /// No instance has reached the queue yet since a crash emptied it.
    pub is_unnoticed: bool,
    /// Ticks since it was noticed that the queue was emptied, up to twice the longest doubt.
    pub since: u8,
    /// An instance died that had not put back what it knew: its row in `service_instance` says so.
    pub is_incomplete: bool,
    /// For how many ticks more the death of an instance counts if the queue is emptied.
    pub died: u8,
}

/// What a processor answers to a POST, as far as the protocol distinguishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reply {
    /// 200: it has stored the payment.
    Stored,
    /// 500 or 429 in their documented shape.
    Failed,
    /// 400, 415 or 422 in their documented shape.
    Refused,
    /// Nothing, or nothing that proves anything: a timeout, a lost connection, a gateway.
    Silence,
}

/// What a processor answers to `GET /payments/{id}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lookup {
    /// It has a record that can be of this payment.
    Ours {
        /// The `requestedAt` of the record.
        requested_at: u8,
    },
    /// It has a record that cannot: another amount.
    Other,
    /// It has none at this moment.
    Absent,
    /// Nothing that proves anything.
    Silence,
}

/// What is to be recorded of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Its processor has charged the payment.
    Charged {
        /// The `requestedAt` of the charge.
        requested_at: u8,
    },
    /// No processor has charged it.
    NotCharged,
    /// Its processor may have charged it.
    InDoubt {
        /// The doubt begins now; otherwise it lasts as long as before the claim.
        anew: bool,
    },
    /// No processor will take it.
    Dead {
        /// Its processor holds the id.
        held: bool,
    },
}

/// What is known of an attempt before this claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Earlier {
    /// `doubt_until` before this claim, in ticks from now.
    pub doubt: u8,
    /// Whether that time had come at the claim.
    pub over: bool,
}

/// How far an instance is with a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The claim is committed; the instance has not taken note of it.
    Claimed,
    /// Nothing is sent.
    Held,
    /// Nothing is sent, and each processor that had to be asked does not have the payment.
    Absent,
    /// The POST is out. The processor works on it for so many ticks more; 0: not any more.
    Out {
        /// See above.
        left: u8,
    },
    /// The POST has ended in a way that proves nothing by itself.
    Replied(Reply),
    /// What is to be recorded is known.
    Ended(Outcome),
    /// The row is removed and the ledger is not written: only where the two are not one statement.
    Removed {
        /// The `requestedAt` of the charge.
        requested_at: u8,
    },
}

/// A claim in the memory of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// The payment.
    pub payment: u8,
    /// The instance.
    pub instance: u8,
    /// The id of the row.
    pub id: u8,
    /// `attempt`.
    pub attempt: u8,
    /// `amount`.
    pub amount: u8,
    /// `processor`.
    pub processor: u8,
    /// `requested_at`.
    pub requested_at: u8,
    /// `accepted_at`.
    pub accepted: Era,
    /// For how many ticks it may be sent.
    pub send: u8,
    /// Every processor is asked before it is sent.
    pub asks: bool,
    /// What is known of earlier attempts.
    pub earlier: Option<Earlier>,
    /// How often the queue had been emptied, as far as the instance knew before the claim.
    pub life: u8,
    /// How far it is.
    pub phase: Phase,
}

/// What an instance knows of an open payment, to put it back into a queue that was emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Open {
    /// `attempt`.
    pub attempt: u8,
    /// `amount`.
    pub amount: u8,
    /// Its newest claim of the payment; none: the payment waits.
    pub claimed: Option<Claimed>,
}

/// What an instance knows of its newest claim of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claimed {
    /// The processor.
    pub processor: u8,
    /// The `requested_at`.
    pub requested_at: u8,
    /// It left the payment in doubt, and is remembered for so many ticks more.
    pub left: Option<u8>,
    /// It was made in a queue that was gone before anything was sent.
    pub is_stale: bool,
    /// It was put back into another queue than that of the claim.
    pub is_put_back: bool,
}

/// An instance, without its claims.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance {
    /// The life of the queue that it knows.
    pub life: u8,
    /// It has put back what it knew of earlier lives.
    pub has_put_back: bool,
    /// It claims nothing, because others may not have.
    pub is_gathering: bool,
    /// Ticks since it learnt that the queue was emptied, up to the longest doubt.
    pub learnt: u8,
    /// Ticks for which it asks all processors for any payment before a first charge.
    pub asks: u8,
    /// The same for payments that were accepted less than so many of the longest doubts after the
    /// queue was emptied.
    pub asks_doubts: u8,
    /// For how many ticks it has watched the database's clock without a step.
    pub watched: u8,
    /// Ticks since its last heartbeat, up to the longest doubt: it gives one when it knows the
    /// queue and has put back what it knew.
    pub silent: u8,
    /// It had given no heartbeat for the longest doubt when it was noticed that the queue was
    /// emptied, so it is not waited for.
    pub is_given_up: bool,
    /// What it knows of open payments. Kept only where the queue is unlogged.
    pub open: [Option<Open>; PAYMENTS],
    /// Payments that wait, which it learnt of after it had put back the others.
    pub late: [bool; PAYMENTS],
}

/// A payment that an instance accepts: its row is inserted and not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Posting {
    /// The amount.
    pub amount: u8,
    /// The instance.
    pub instance: u8,
    /// The processor that it is claimed for.
    pub claimed_for: Option<u8>,
    /// As in a claim.
    pub life: u8,
    /// What the look into the ledger has found, where it came before the INSERT.
    pub looked: Option<bool>,
}

/// What a processor has stored of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// `requestedAt`.
    pub requested_at: u8,
    /// `amount`.
    pub amount: u8,
}

/// A request that a processor may still store, and for which nobody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Late {
    /// The payment.
    pub payment: u8,
    /// What would be stored.
    pub charge: Charge,
    /// Ticks after which it is not stored any more.
    pub left: u8,
}

/// How often what is rare may still happen. What is missing here may happen at any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Budget {
    /// Posts of each payment.
    pub posts: [u8; PAYMENTS],
    /// Posts with another amount.
    pub changes: u8,
    /// Commits that the instance does not hear of.
    pub unheard: u8,
    /// Instances that die and start again.
    pub crashes: u8,
    /// Crashes of the database server.
    pub server_crashes: u8,
    /// Steps of the database's clock.
    pub clock_steps: u8,
    /// Decisions of the operator about payments in doubt.
    pub words: u8,
    /// Retries of dead letters.
    pub retries: u8,
    /// Requests that a processor refuses.
    pub refusals: u8,
}

/// What no part of the deployment knows, and properties are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ghost {
    /// An instance has reported that the queue was emptied.
    pub reported: bool,
    /// By processor and payment: it may have charged the payment, and nobody knows of it any more,
    /// because the server crashed and the instance died or was given up.
    pub forgotten: [[bool; PAYMENTS]; PROCESSORS],
    /// By payment: it was sent to a second processor in a way that nobody could prevent.
    pub excused: [bool; PAYMENTS],
    /// An outcome can never be recorded, because the row would have half of the evidence.
    pub unrecordable: bool,
}

/// Everything at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    /// The database.
    pub db: Db,
    /// What a crash of the server would leave of it; none: all of it.
    pub durable: Option<Db>,
    /// The instances.
    pub instances: [Instance; INSTANCES],
    /// What they have claimed.
    pub claims: [Option<Claim>; CLAIMS],
    /// What they accept, by payment.
    pub posting: [Option<Posting>; PAYMENTS],
    /// The processors' records, by payment.
    pub processors: [[Option<Record>; PAYMENTS]; PROCESSORS],
    /// Requests for which nobody waits.
    pub late: [Option<Late>; LATE],
    /// The amount with which a client was told 202, by payment.
    pub told: [Option<u8>; PAYMENTS],
    /// A claim that has its snapshot and not its lock: instance, processor, payment. Only where
    /// rows are not locked.
    pub snapshot: Option<(u8, u8, u8)>,
    /// What may still happen.
    pub budget: Budget,
    /// What properties need to know.
    pub ghost: Ghost,
}

impl State {
    /// What a processor has of a payment.
    #[must_use]
    pub fn record(&self, processor: u8, payment: u8) -> Option<Record> {
        self.processors[usize::from(processor)][usize::from(payment)]
    }

    /// Requests that processors work on and may store: the payment and what would be stored.
    pub fn open_requests(&self) -> impl Iterator<Item = (u8, Charge)> {
        let claims = self.claims.iter().flatten();
        let out = claims.filter(|claim| matches!(claim.phase, Phase::Out { left: 1.. }));
        let out = out.map(|claim| (claim.payment, claim.charge()));
        let late = self
            .late
            .iter()
            .flatten()
            .map(|late| (late.payment, late.charge));
        let all = out.chain(late);
        all.filter(|(payment, charge)| self.record(charge.processor, *payment).is_none())
    }

    /// Adds a request for which nobody waits. Of two that would store the same the one that may
    /// come last counts.
    pub(crate) fn add_late(&mut self, new: Late) {
        if self.record(new.charge.processor, new.payment).is_some() {
            // It would be refused, and nobody would hear of it.
            return;
        }
        let mut places = self.late.iter_mut();
        let same = |place: &&mut Option<Late>| {
            place.is_none_or(|late| (late.payment, late.charge) == (new.payment, new.charge))
        };
        let place = places.find(same).expect("LATE places are enough");
        let left = place.map_or(new.left, |late| late.left.max(new.left));
        *place = Some(Late { left, ..new });
    }

    /// The values of `requested_at` that something has.
    #[must_use]
    pub fn times_in_use(&self) -> Vec<u8> {
        let (mut state, mut times) = (*self, Vec::new());
        state.times(&mut |time| times.push(*time));
        times
    }

    /// A value of `requested_at` that nothing has yet.
    pub(crate) fn fresh_time(&mut self) -> u8 {
        let mut newest = 0;
        self.times(&mut |time| newest = newest.max(*time));
        newest + 1
    }

    /// The same state in the form in which states are compared: claims and requests in order,
    /// values of `requested_at` counted from 1, numbers of claims with gaps of at most `gap`.
    pub(crate) fn normalise(&mut self, gap: u8) {
        let mut times = Ranks::default();
        self.times(&mut |time| times.note(*time));
        times.close_gaps(1);
        self.times(&mut |time| *time = times.of(*time));

        let mut attempts = Ranks::default();
        attempts.note(0);
        self.attempts(&mut |attempt| attempts.note(*attempt));
        attempts.close_gaps(gap);
        self.attempts(&mut |attempt| *attempt = attempts.of(*attempt));

        self.claims.sort_unstable_by(|one, other| other.cmp(one));
        self.late.sort_unstable_by(|one, other| other.cmp(one));
    }

    /// The least of the states that differ from this one by the names of processors and instances.
    pub(crate) fn representative(mut self) -> Self {
        let mut least = self;
        for exchange in [
            Self::exchange_processors,
            Self::exchange_instances,
            Self::exchange_processors,
        ] {
            exchange(&mut self);
            self.claims.sort_unstable_by(|one, other| other.cmp(one));
            self.late.sort_unstable_by(|one, other| other.cmp(one));
            least = least.min(self);
        }
        least
    }

    fn exchange_processors(&mut self) {
        let other = |processor: &mut u8| *processor = 1 - *processor;
        self.calls(&mut |processor, _| other(processor));
        let claimed = self.posting.iter_mut().flatten();
        claimed
            .flat_map(|posting| &mut posting.claimed_for)
            .for_each(other);
        self.snapshot
            .iter_mut()
            .for_each(|(_, processor, _)| other(processor));
        self.processors.swap(0, 1);
        self.ghost.forgotten.swap(0, 1);
    }

    fn exchange_instances(&mut self) {
        let other = |instance: &mut u8| *instance = 1 - *instance;
        self.claims
            .iter_mut()
            .flatten()
            .for_each(|claim| other(&mut claim.instance));
        self.posting
            .iter_mut()
            .flatten()
            .for_each(|posting| other(&mut posting.instance));
        self.snapshot
            .iter_mut()
            .for_each(|(instance, ..)| other(instance));
        self.instances.swap(0, 1);
    }

    /// The processor and the `requested_at` of every call that something knows of.
    fn calls(&mut self, each: &mut impl FnMut(&mut u8, &mut u8)) {
        for db in std::iter::once(&mut self.db).chain(&mut self.durable) {
            for tables in &mut db.payments {
                for assigned in tables.row.iter_mut().flat_map(|row| &mut row.assigned) {
                    each(&mut assigned.processor, &mut assigned.requested_at);
                }
                if let Some(charge) = &mut tables.ledger {
                    each(&mut charge.processor, &mut charge.requested_at);
                }
                for (processor, time) in tables.dead.iter_mut().flat_map(|dead| &mut dead.held) {
                    each(processor, time);
                }
            }
        }
        for instance in &mut self.instances {
            let open = instance.open.iter_mut().flatten();
            for claim in open.flat_map(|open| &mut open.claimed) {
                each(&mut claim.processor, &mut claim.requested_at);
            }
        }
        for claim in self.claims.iter_mut().flatten() {
            each(&mut claim.processor, &mut claim.requested_at);
        }
        for late in self.late.iter_mut().flatten() {
            each(&mut late.charge.processor, &mut late.charge.requested_at);
        }
    }

    /// Every value of `requested_at`.
    fn times(&mut self, each: &mut impl FnMut(&mut u8)) {
        self.calls(&mut |_, time| each(time));
        for claim in self.claims.iter_mut().flatten() {
            if let Phase::Ended(Outcome::Charged { requested_at })
            | Phase::Removed { requested_at } = &mut claim.phase
            {
                each(requested_at);
            }
        }
        let records = self.processors.iter_mut().flatten().flatten();
        records.for_each(|record| each(&mut record.requested_at));
    }

    /// Every number of a claim.
    fn attempts(&mut self, each: &mut impl FnMut(&mut u8)) {
        for db in std::iter::once(&mut self.db).chain(&mut self.durable) {
            for tables in &mut db.payments {
                tables.row.iter_mut().for_each(|row| each(&mut row.attempt));
                tables
                    .dead
                    .iter_mut()
                    .for_each(|dead| each(&mut dead.attempt));
            }
        }
        for instance in &mut self.instances {
            instance
                .open
                .iter_mut()
                .flatten()
                .for_each(|open| each(&mut open.attempt));
        }
        self.claims
            .iter_mut()
            .flatten()
            .for_each(|claim| each(&mut claim.attempt));
    }
}

impl Instance {
    /// Whether it knows this life of the queue and has put back what it knew before.
    #[must_use]
    pub fn has_put_back_into(&self, life: u8) -> bool {
        self.life == life && self.has_put_back
    }
}

impl Claimed {
    /// Whether that claim sends the same call. Numbers of claims begin anew in another queue.
    #[must_use]
    pub fn is_of_call(&self, claim: &Claim) -> bool {
        (self.processor, self.requested_at) == (claim.processor, claim.requested_at)
    }
}

impl Claim {
    /// What its POST would store.
    #[must_use]
    pub fn charge(&self) -> Charge {
        Charge {
            processor: self.processor,
            requested_at: self.requested_at,
            amount: self.amount,
        }
    }
}

/// Numbers that are used, and what they become.
struct Ranks {
    used: u64,
    becomes: [u8; 64],
}

impl Default for Ranks {
    fn default() -> Self {
        Self {
            used: 0,
            becomes: [0; 64],
        }
    }
}

impl Ranks {
    fn note(&mut self, number: u8) {
        self.used |= 1 << number;
    }

    /// Keeps their order, and makes no gap larger than `most`.
    fn close_gaps(&mut self, most: u8) {
        let (mut last, mut new) = (0, 0);
        let mut rest = self.used;
        while rest != 0 {
            let number = u8::try_from(rest.trailing_zeros()).unwrap_or(u8::MAX);
            rest &= rest - 1;
            new += (number - last).min(most);
            self.becomes[usize::from(number)] = new;
            last = number;
        }
    }

    fn of(&self, number: u8) -> u8 {
        self.becomes[usize::from(number)]
    }
}
