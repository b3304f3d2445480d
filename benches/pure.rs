//! What each payment or summary costs outside of the database and the network.
//!
//! `make pure-bench`, or `cargo bench --bench pure -- decide`.

use std::hint::black_box;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use payment_proxy::domain::payment::Payment;
use payment_proxy::store::summary::pieces;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use router::{Decision, Event, Policy, ProcessorTerms, Queue, Router, Time, Verdict};
use rust_decimal::Decimal;

/// Time between two payments: 5,000 a second.
const APART: Duration = Duration::from_micros(200);
/// What a processor takes.
const LATENCY: Duration = Duration::from_millis(20);
/// Payments before the measurement: some seconds of evidence, and all that a processor takes at
/// once in flight.
const BEFORE: u32 = 20_000;

/// A router in the middle of its work, and the calls that are under way.
struct Midst {
    router: Router,
    rng: SmallRng,
    now: Time,
    calls: std::collections::VecDeque<(usize, bool, Time)>,
}

impl Midst {
    /// Two processors, of which the cheaper one fails now and then.
    fn new() -> Self {
        let terms = [("default", 5), ("fallback", 15)].map(|(name, fee)| ProcessorTerms {
            name: name.to_owned(),
            fee: Decimal::new(fee, 2),
        });
        let mut midst = Self {
            router: Router::new(Policy::default(), terms.into(), Duration::ZERO),
            rng: SmallRng::seed_from_u64(2026),
            now: Duration::ZERO,
            calls: std::collections::VecDeque::new(),
        };
        midst
            .router
            .observe(Event::Instances { alive: 2 }, Duration::ZERO);
        for n in 0..BEFORE {
            midst.payment(n % 50 == 0);
        }
        midst
    }

    /// One payment: it arrives, is decided about, and the calls that have lasted long enough end.
    fn payment(&mut self, declined: bool) -> Decision {
        self.now += APART;
        let now = self.now;
        self.router.observe(Event::Arrived { count: 1 }, now);
        let queue = Queue {
            waiting: 10,
            oldest_age: Duration::from_millis(5),
        };
        let decision = self.router.decide(now, &mut self.rng, queue);
        if let Decision::Send { processor, probe } = decision {
            let event = Event::Dispatched { processor, at: now };
            self.router.observe(event, now);
            self.calls.push_back((processor, probe, now));
        }
        while let Some(&(processor, probe, sent_at)) = self.calls.front()
            && sent_at + LATENCY <= now
        {
            self.calls.pop_front();
            let verdict = if declined {
                Verdict::Declined
            } else {
                Verdict::Charged
            };
            let event = Event::Finished {
                processor,
                sent_at: Some(sent_at),
                probe,
                verdict,
            };
            self.router.observe(event, now);
        }
        decision
    }
}

/// The decision alone, and all that the router does for a payment.
fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    let mut midst = Midst::new();
    assert!(!midst.calls.is_empty(), "calls are under way");
    group.bench_function("and give the permit back", |b| {
        b.iter(|| {
            let (now, queue) = (midst.now, Queue::default());
            let decision = midst.router.decide(now, &mut midst.rng, queue);
            if let Decision::Send { processor, probe } = decision {
                let event = Event::Finished {
                    processor,
                    sent_at: None,
                    probe,
                    verdict: Verdict::Abandoned,
                };
                midst.router.observe(event, now);
            }
            decision
        });
    });
    group.bench_function("arrive, decide, dispatch, finish", |b| {
        b.iter(|| midst.payment(false));
    });
    group.finish();
}

/// The body of a POST.
fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let bodies: [(&str, &[u8]); 3] = [
        (
            "a payment",
            br#"{"correlationId":"4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3","amount":19.90}"#,
        ),
        (
            "with white space and other fields",
            br#"{ "note": "of no interest", "amount": 1234567.5, "correlationId": "4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3" }"#,
        ),
        (
            "an amount of too many decimals",
            br#"{"correlationId":"4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3","amount":19.901}"#,
        ),
    ];
    for (name, body) in bodies {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), body, |b, body| {
            b.iter(|| Payment::from_json(black_box(body)));
        });
    }
    group.finish();
}

/// How a range of a summary is cut into hours, minutes, seconds and payments.
fn rollup(c: &mut Criterion) {
    let mut group = c.benchmark_group("rollup");
    let from = DateTime::<Utc>::from_timestamp_micros(1_783_684_799_876_543)
        .expect("a moment of our times");
    for (name, length) in [
        ("half a second", TimeDelta::milliseconds(500)),
        ("ten seconds", TimeDelta::seconds(10)),
        ("a year", TimeDelta::days(365)),
    ] {
        group.bench_with_input(BenchmarkId::from_parameter(name), &length, |b, length| {
            b.iter(|| pieces(black_box(Some(from)), black_box(Some(from + *length))));
        });
    }
    group.finish();
}

criterion_group!(pure, decide, parse, rollup);
criterion_main!(pure);
