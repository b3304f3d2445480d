//! One run: the events, in order of time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use router::{Decision, Event, Queue, Verdict};

use super::chooser::Chooser;
use super::outcome::{AUDIT_LAG, Outcome, Sample};
use super::processor::{Admission, Processor, RETRY_AFTER};
use super::scenario::Scenario;
use super::{MILLISECOND, Micros, SECOND, time};

/// Instances of the gateway.
pub(crate) const INSTANCES: usize = 2;
/// Payments claimed at once, at most.
const BATCH: usize = 100;
/// Time that a claim takes: an instance claims no faster than one batch in this time.
const CLAIM: Micros = 2 * MILLISECOND;
/// Time from the arrival of a payment until an idle instance notices.
const WAKE: Micros = MILLISECOND;
/// Time from the reply until the payment is in our ledger.
const SETTLE: (Micros, Micros) = (2 * MILLISECOND, 12 * MILLISECOND);
/// What a processor takes on top of its delay.
const SERVICE: (Micros, Micros) = (1_200, 3_500);
/// Time from the first decline of a payment until it may be tried again; doubles with each further
/// one.
const BACKOFF: Micros = 20 * MILLISECOND;
/// The longest such time.
const BACKOFF_AT_MOST: Micros = SECOND;
/// Time between two attempts to find out what became of a payment.
const ASK_AGAIN: Micros = 100 * MILLISECOND;
/// Time between two calls of the health endpoint.
const POLL: Micros = 5 * SECOND;
/// Time until what one instance has learnt of a processor has reached another.
const NEWS: (Micros, Micros) = (2 * MILLISECOND, 60 * MILLISECOND);
/// Time between two samples for the picture.
const SAMPLE: Micros = 100 * MILLISECOND;

/// What happens at a moment. Requests and payments are indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// An instance looks at the queue.
    Look(u8),
    /// A processor is done with a request.
    Served(u32),
    /// The connection of a request breaks before its reply.
    Broken(u32),
    /// 429.
    Refused(u32),
    /// A declined payment may be claimed again.
    Again(u32),
    /// A payment of unknown fate is tried again at the same processor.
    Pinned(u32, u8),
    /// The health endpoint of a processor is called.
    Poll(u8),
    /// An instance learns what it said: processor, instance, failing, milliseconds.
    News(u8, u8, bool, u32),
    /// An instance learns that another has found a processor to be back: processor, instance.
    Recovered(u8, u8),
    /// A sample for the picture.
    Sample,
}

#[derive(Debug, Clone, Copy)]
struct Payment {
    stamp: Micros,
    declines: u32,
    /// Requests that nobody waits for and that the processor still works on.
    open: u32,
    /// The processor that has stored it, and when.
    stored_at: Option<(u8, Micros)>,
    settled: bool,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    payment: u32,
    sent_at: Micros,
    processor: u8,
    instance: u8,
    probe: bool,
    /// The gateway has stopped waiting for it.
    given_up: bool,
}

struct Run<'a, C> {
    scenario: &'a Scenario,
    now: Micros,
    heap: BinaryHeap<Reverse<(Micros, Happening)>>,
    rng: SmallRng,
    choosers: Vec<C>,
    processors: Vec<Processor>,
    payments: Vec<Payment>,
    requests: Vec<Request>,
    free_requests: Vec<u32>,
    fresh: VecDeque<u32>,
    declined: BinaryHeap<Reverse<u32>>,
    /// When each instance will look at the queue next.
    next_look: Vec<Micros>,
    /// Whether each instance waits for a permit to come back.
    blocked: Vec<bool>,
    sent: Vec<u64>,
    outcome: Outcome,
}

/// Runs a scenario with one chooser for each instance.
pub(crate) fn run<C: Chooser>(scenario: &Scenario, picture: bool, make: impl Fn() -> C) -> Outcome {
    let processors = scenario.fees.len();
    let mut run = Run {
        scenario,
        now: 0,
        heap: BinaryHeap::new(),
        rng: SmallRng::seed_from_u64(scenario.seed ^ 0x5eed),
        choosers: (0..INSTANCES).map(|_| make()).collect(),
        processors: (0..processors).map(|_| Processor::default()).collect(),
        payments: Vec::with_capacity(scenario.arrivals.len()),
        requests: Vec::new(),
        free_requests: Vec::new(),
        fresh: VecDeque::new(),
        declined: BinaryHeap::new(),
        next_look: vec![Micros::MAX; INSTANCES],
        blocked: vec![false; INSTANCES],
        sent: vec![0; processors],
        outcome: Outcome {
            settled: vec![0; processors],
            end: scenario.end,
            ..Outcome::default()
        },
    };
    for chooser in &mut run.choosers {
        chooser.observe(
            Event::Instances {
                alive: INSTANCES as u32,
            },
            Duration::ZERO,
        );
    }
    let first_poll = run.rng.random_range(0..POLL);
    for processor in 0..processors as u8 {
        run.at(first_poll, Happening::Poll(processor));
    }
    if picture {
        run.at(0, Happening::Sample);
    }
    run.play();
    run.outcome.arrived = run.payments.len() as u64;
    run.outcome.peak = run
        .processors
        .iter()
        .map(|processor| processor.peak)
        .max()
        .unwrap_or(0);
    run.outcome
}

impl<C: Chooser> Run<'_, C> {
    fn at(&mut self, at: Micros, what: Happening) {
        self.heap.push(Reverse((at, what)));
    }

    fn play(&mut self) {
        let arrivals = &self.scenario.arrivals;
        let mut arrived = 0;
        loop {
            let next = self.heap.peek().map_or(Micros::MAX, |Reverse((at, _))| *at);
            let arrival = arrivals.get(arrived).copied().unwrap_or(Micros::MAX);
            self.now = next.min(arrival);
            if self.now >= self.scenario.end {
                return;
            }
            if arrival <= next {
                arrived += 1;
                self.arrive();
            } else if let Some(Reverse((_, what))) = self.heap.pop() {
                self.happen(what);
            }
        }
    }

    fn arrive(&mut self) {
        let payment = self.payments.len();
        self.payments.push(Payment {
            stamp: 0,
            declines: 0,
            open: 0,
            stored_at: None,
            settled: false,
        });
        self.fresh.push_back(payment as u32);
        self.choosers[payment % INSTANCES].observe(Event::Arrived { count: 1 }, time(self.now));
        self.wake();
    }

    /// Makes idle instances look at the queue.
    fn wake(&mut self) {
        for instance in 0..INSTANCES {
            if self.next_look[instance] == Micros::MAX {
                self.look_at(instance, self.now + WAKE);
            }
        }
    }

    fn look_at(&mut self, instance: usize, at: Micros) {
        self.next_look[instance] = at;
        self.at(at, Happening::Look(instance as u8));
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Look(instance) => {
                if self.next_look[instance as usize] == self.now {
                    self.look(instance as usize);
                }
            }
            Happening::Served(request) => self.served(request),
            Happening::Broken(request) => self.broken(request),
            Happening::Refused(request) => {
                self.outcome.failed += 1;
                self.outcome.refused += 1;
                let payment = self.requests[request as usize].payment;
                self.finish(
                    request,
                    Verdict::Throttled {
                        retry_after: time(RETRY_AFTER),
                    },
                );
                self.free_requests.push(request);
                self.decline(payment);
            }
            Happening::Again(payment) => {
                self.declined.push(Reverse(payment));
                self.wake();
            }
            Happening::Pinned(payment, processor) => self.pinned(payment, processor),
            Happening::Poll(processor) => self.poll(processor),
            Happening::News(processor, instance, failing, ms) => {
                let min_response_time = Duration::from_millis(u64::from(ms));
                let event = Event::Health {
                    processor: processor as usize,
                    failing,
                    min_response_time,
                };
                self.choosers[instance as usize].observe(event, time(self.now));
            }
            Happening::Recovered(processor, instance) => {
                let processor = processor as usize;
                self.choosers[instance as usize]
                    .observe(Event::Recovered { processor }, time(self.now));
                self.unblock(instance as usize);
            }
            Happening::Sample => self.sample(),
        }
    }

    /// One step of an instance: decide, claim, send.
    fn look(&mut self, instance: usize) {
        self.blocked[instance] = false;
        for _ in 0..BATCH {
            let waiting = (self.fresh.len() + self.declined.len()) as u64;
            if waiting == 0 {
                self.next_look[instance] = Micros::MAX;
                return;
            }
            let oldest = self.fresh.front().map_or(self.now, |payment| {
                self.scenario.arrivals[*payment as usize]
            });
            let queue = Queue {
                waiting,
                oldest_age: time(self.now - oldest),
            };
            match self.choosers[instance].decide(time(self.now), &mut self.rng, queue) {
                Decision::Send { processor, probe } => {
                    let Some(payment) = self.claim() else {
                        unreachable!("the queue is not empty")
                    };
                    self.payments[payment as usize].stamp = self.now;
                    self.send(payment, processor, instance, probe);
                }
                Decision::Hold { until } | Decision::Wait { until } => {
                    self.blocked[instance] = true;
                    let until = (until.as_micros() as Micros).max(self.now + MILLISECOND);
                    self.look_at(instance, until);
                    return;
                }
            }
        }
        self.look_at(instance, self.now + CLAIM);
    }

    /// The oldest payment: one that was declined before, if there is any.
    fn claim(&mut self) -> Option<u32> {
        self.declined
            .pop()
            .map(|Reverse(payment)| payment)
            .or_else(|| self.fresh.pop_front())
    }

    fn send(&mut self, payment: u32, processor: usize, instance: usize, probe: bool) {
        self.outcome.attempts += 1;
        self.sent[processor] += 1;
        let at = time(self.now);
        self.choosers[instance].observe(Event::Dispatched { processor, at }, at);
        let request = Request {
            payment,
            sent_at: self.now,
            processor: processor as u8,
            instance: instance as u8,
            probe,
            given_up: false,
        };
        let id = match self.free_requests.pop() {
            Some(id) => {
                self.requests[id as usize] = request;
                id
            }
            None => {
                self.requests.push(request);
                self.requests.len() as u32 - 1
            }
        };
        match self.processors[processor].admit(id) {
            Admission::Served => self.serve(id),
            Admission::Queued => {}
            Admission::Refused => self.at(self.now + MILLISECOND, Happening::Refused(id)),
        }
    }

    /// The processor begins with a request.
    fn serve(&mut self, id: u32) {
        let processor = self.requests[id as usize].processor as usize;
        let weather = self.scenario.stage(self.now).weather[processor];
        let takes = CLAIM / 2 + weather.delay + self.rng.random_range(SERVICE.0..SERVICE.1);
        self.at(self.now + takes, Happening::Served(id));
        if weather.lost > 0.0 && self.rng.random_bool(weather.lost) {
            let after = self.rng.random_range(0..takes);
            self.at(self.now + after, Happening::Broken(id));
        }
    }

    fn served(&mut self, id: u32) {
        let Request {
            payment,
            processor,
            given_up,
            ..
        } = self.requests[id as usize];
        if let Some(next) = self.processors[processor as usize].leave() {
            self.serve(next);
        }
        let weather = self.scenario.stage(self.now).weather[processor as usize];
        let stored = self.payments[payment as usize].stored_at.is_some();
        let declined = !stored && weather.failing > 0.0 && self.rng.random_bool(weather.failing);
        if !declined && !stored {
            self.payments[payment as usize].stored_at = Some((processor, self.now));
        }
        if given_up {
            self.payments[payment as usize].open -= 1;
        } else {
            self.finish(
                id,
                if declined {
                    Verdict::Declined
                } else {
                    Verdict::Charged
                },
            );
            if declined {
                self.outcome.failed += 1;
                if self.payments[payment as usize].open > 0 {
                    self.pin(payment, processor);
                } else {
                    self.decline(payment);
                }
            } else {
                self.settle(payment);
            }
        }
        self.free_requests.push(id);
    }

    /// Nobody learns what became of a request; the processor goes on with it.
    fn broken(&mut self, id: u32) {
        self.outcome.failed += 1;
        self.requests[id as usize].given_up = true;
        self.finish(id, Verdict::Unknown);
        let Request {
            payment, processor, ..
        } = self.requests[id as usize];
        self.payments[payment as usize].open += 1;
        self.pin(payment, processor);
    }

    /// The payment may be charged at that processor, and so it may go nowhere else.
    fn pin(&mut self, payment: u32, processor: u8) {
        self.at(self.now + ASK_AGAIN, Happening::Pinned(payment, processor));
    }

    /// Sends a payment of unknown fate to the same processor again, with the same stamp.
    fn pinned(&mut self, payment: u32, processor: u8) {
        let instance = payment as usize % INSTANCES;
        match self.choosers[instance].permit_for(processor.into(), time(self.now)) {
            Some(probe) => self.send(payment, processor.into(), instance, probe),
            None => self.pin(payment, processor),
        }
    }

    /// Gives the permit of a request back.
    fn finish(&mut self, id: u32, verdict: Verdict) {
        let Request {
            processor,
            instance,
            sent_at,
            probe,
            ..
        } = self.requests[id as usize];
        let sent_at = Some(time(sent_at));
        let event = Event::Finished {
            processor: processor as usize,
            sent_at,
            probe,
            verdict,
        };
        let instance = instance as usize;
        let recovered = self.choosers[instance].observe(event, time(self.now));
        if let Some(processor) = recovered {
            for other in (0..INSTANCES).filter(|other| *other != instance) {
                let at = self.now + self.rng.random_range(NEWS.0..NEWS.1);
                self.at(at, Happening::Recovered(processor as u8, other as u8));
            }
        }
        self.unblock(instance);
    }

    fn unblock(&mut self, instance: usize) {
        if self.blocked[instance] && self.next_look[instance] > self.now {
            self.look_at(instance, self.now);
        }
    }

    fn decline(&mut self, payment: u32) {
        let declines = &mut self.payments[payment as usize].declines;
        *declines += 1;
        let wait = match *declines {
            1 => 0,
            n => (BACKOFF << (n - 2).min(16)).min(BACKOFF_AT_MOST),
        };
        self.at(self.now + wait, Happening::Again(payment));
    }

    fn settle(&mut self, id: u32) {
        let recorded = self.now + self.rng.random_range(SETTLE.0..SETTLE.1);
        let payment = &mut self.payments[id as usize];
        let Some((processor, stored_at)) = payment.stored_at else {
            unreachable!("charged and not stored")
        };
        if std::mem::replace(&mut payment.settled, true) {
            return;
        }
        // An audit that looks between the two moments sees a payment in their books that is not in
        // ours.
        let visible = stored_at.max(payment.stamp + AUDIT_LAG);
        if visible < recorded {
            self.outcome
                .disagreements
                .push((visible, recorded.min(self.scenario.end)));
        }
        if recorded <= self.scenario.end {
            self.outcome.settled[processor as usize] += 1;
            self.outcome
                .settle_times
                .record(recorded - self.scenario.arrivals[id as usize]);
        }
    }

    fn poll(&mut self, processor: u8) {
        let weather = self.scenario.stage(self.now).weather[processor as usize];
        for instance in 0..INSTANCES as u8 {
            let at = self.now + self.rng.random_range(NEWS.0..NEWS.1);
            let ms = (weather.delay / MILLISECOND) as u32;
            self.at(
                at,
                Happening::News(processor, instance, weather.reported_failing(), ms),
            );
        }
        self.at(self.now + POLL, Happening::Poll(processor));
    }

    fn sample(&mut self) {
        self.outcome.samples.push(Sample {
            at: self.now,
            waiting: (self.fresh.len() + self.declined.len()) as u64,
            sent: self.sent.clone(),
            breakers: self.choosers[0].breakers(time(self.now)),
        });
        self.sent.fill(0);
        self.at(self.now + SAMPLE, Happening::Sample);
    }
}
