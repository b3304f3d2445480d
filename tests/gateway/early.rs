//! Payments whose attempt is open for longer than usual are asked for, and what is found is
//! recorded at once.

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use payment_proxy::pipeline::settle::{Anomaly, CompletedClaim, record};
use payment_proxy::processors::{
    Documented, LOOKUPS_AT_ONCE, LOOKUPS_PER_CALL, Outcome, ProcessorClient, Reply, Stop, charge,
    find_charge,
};
use payment_proxy::store::claim::claim_queued;
use payment_proxy::telemetry::metrics::{EarlyLookup, EarlyLookupResult, ProcessorCounts};
use rust_decimal::Decimal;
use simulator::{Faults, Running};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::metrics::Watched;
use crate::outcomes::agree;
use crate::support::{
    Bench, Database, Gateway, default_at, enqueue, eventually, new_claim, new_payment, processor,
    processors, production_terms, resolver,
};

/// Stored, and never answered.
fn hung() -> Faults {
    Faults {
        reply_hangs: 1.0,
        ..Faults::default()
    }
}

/// How long after its `requested_at` each payment was recorded, in seconds.
async fn delays(database: &Database, which: &str) -> Vec<f64> {
    let delays = format!(
        "SELECT coalesce(array_agg(extract(epoch FROM settled_at - requested_at)::float8
            ORDER BY settled_at - requested_at), '{{}}')
        FROM payment_processed p WHERE {which}"
    );
    database.value(&delays).await
}

#[tokio::test]
async fn a_payment_that_is_stored_and_never_answered_is_recorded_within_two_seconds() {
    let (database, default) = (Database::create().await, processor().await);
    default.processor.set_faults(hung()).expect("valid faults");
    let watched = Watched::start(&database, &processors(&[&default])).await;
    let ids = watched.gateway.post_many(20).await;
    watched.gateway.until_settled(&ids).await;
    let delays = delays(&database, "true").await;
    // One that a busy machine delays is no fault; without the look-ups each takes 15 s.
    let (usual, longest) = (delays[ids.len() / 2], delays[ids.len() - 1]);
    assert!(usual < 2.0 && longest < 5.0, "{delays:?}");

    let found = r#"{processor="default",occasion="during_call",result="found"}"#;
    eventually("the metrics show it", async || {
        let scraped = watched.scrape().await;
        scraped.value(&format!("early_lookups_total{found}")) == 20.0
    })
    .await;
    let scraped = watched.scrape().await;
    let attempts = |outcome| {
        let series = format!("attempts_total{{processor=\"default\",outcome=\"{outcome}\"}}");
        scraped.value(&series)
    };
    assert_eq!((attempts("charged"), attempts("unknown")), (20.0, 0.0));
    assert!(!watched.gateway.log().contains("breaker of default is now"));
    agree(&database, &default, &processor().await, 20).await;
}

/// Early look-ups during calls, by result.
fn during_calls(counts: &ProcessorCounts) -> [u64; 3] {
    use EarlyLookupResult::{Absent, Found, NoAnswer};
    [Found, Absent, NoAnswer].map(|result| counts.early_lookups(EarlyLookup::DuringCall, result))
}

#[tokio::test]
async fn an_absence_while_a_post_is_out_changes_nothing_and_a_slow_processor_is_not_asked_again() {
    let (database, default) = (Database::migrated().await, processor().await);
    let bench = Bench::new(&database, &[&default], production_terms());
    let client = &bench.worker.processors[0].client;
    let charge_one = async || {
        let permit = bench.worker.router.try_permit(0).expect("a permit");
        let claim = new_claim();
        let outcome = charge(client, &claim, permit, &Stop::default()).await;
        let requested_at = claim.requested_at;
        assert_eq!(outcome, Outcome::Charged { requested_at });
    };
    charge_one().await;
    assert_eq!(during_calls(client.counts()), [0; 3], "it came in time");

    default.processor.set_delay(Duration::from_secs(2));
    charge_one().await;
    let [found, absent, no_answer] = during_calls(client.counts());
    assert!((1..=u64::from(LOOKUPS_PER_CALL)).contains(&absent));
    assert_eq!((found, no_answer), (0, 0));
    // Now it is known how long its answers take.
    charge_one().await;
    assert_eq!(during_calls(client.counts()), [0, absent, 0]);
    assert_eq!(default.processor.payments().len(), 3);
}

#[tokio::test]
async fn a_record_that_cannot_be_ours_does_not_end_a_call() {
    let (database, default) = (Database::migrated().await, processor().await);
    let timeout = Duration::from_secs(2);
    let client = ProcessorClient::new(&default_at(&default.url()), timeout, &resolver(), None);
    let client = client.expect("a client");
    let (claim, mut other) = (new_claim(), new_claim());
    other.payment.correlation_id = claim.payment.correlation_id;
    other.payment.amount += Decimal::ONE;
    let stored = client.post(&other, None, timeout, pending::<()>).await;
    assert_eq!(stored.reply, Reply::Documented(Documented::Stored));

    default.processor.set_faults(hung()).expect("valid faults");
    let bench = Bench::new(&database, &[&default], production_terms());
    let permit = bench.worker.router.try_permit(0).expect("a permit");
    let begun_at = Instant::now();
    let outcome = charge(&client, &claim, permit, &Stop::default()).await;
    assert!(
        matches!(outcome, Outcome::Dead { held: true, .. }),
        "{outcome:?}"
    );
    assert!(begun_at.elapsed() >= timeout, "before its answer can come");
    let [found, _, no_answer] = during_calls(client.counts());
    assert!(found == 0 && no_answer > 0);
}

#[tokio::test]
async fn a_payment_in_doubt_is_asked_for_again_when_its_own_pause_ends() {
    const TRIES: usize = 4;
    // It is posted again after .1, .2, .4 and .8 s and what each takes; with a look a second it is
    // four looks, of .8 s at least, but for the first.
    const SOON: Duration = Duration::from_millis(2_400);
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let lose = |request_lost| {
        let faults = Faults {
            request_lost,
            ..Faults::default()
        };
        default.processor.set_faults(faults).expect("valid faults");
    };
    let lost = || default.processor.injected().request_lost;
    let mut took = Vec::new();
    for _ in 0..TRIES {
        lose(1.0);
        let (before, begun_at) = (lost(), Instant::now());
        let ids = gateway.post_many(1).await;
        eventually("it is lost five times", async || lost() >= before + 5).await;
        took.push(begun_at.elapsed());
        lose(0.0);
        gateway.until_settled(&ids).await;
        // A busy machine may take longer now and then.
        if took.last().is_some_and(|took| *took < SOON) {
            return;
        }
    }
    panic!("{took:?}");
}

/// A processor that answers nothing. Returns its URL and how many look-ups are open there.
async fn silent_processor() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let open = Arc::new(AtomicU32::new(0));
    let lookups = Arc::clone(&open);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let lookups = Arc::clone(&lookups);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while client.read_buf(&mut request).await.expect("a request") > 0 {
                    if request.starts_with(b"GET ") && request.ends_with(b"\r\n\r\n") {
                        lookups.fetch_add(1, Ordering::SeqCst);
                        let _ = client.read(&mut [0]).await;
                        lookups.fetch_sub(1, Ordering::SeqCst);
                        break;
                    }
                }
                let _ = client.shutdown().await;
            });
        }
    });
    (url, open)
}

#[tokio::test]
async fn early_lookups_that_are_open_at_a_processor_are_few_and_shared_by_the_instances() {
    for (instances, most) in [(1, LOOKUPS_AT_ONCE), (4, LOOKUPS_AT_ONCE / 4)] {
        let (url, open) = silent_processor().await;
        let timeout = Duration::from_secs(1);
        let client = ProcessorClient::new(&default_at(&url), timeout, &resolver(), None);
        let client = client.expect("a client");
        let claims: Vec<_> = (0..2 * most).map(|_| new_claim()).collect();
        let occasion = EarlyLookup::DuringCall;
        let lookups = claims
            .iter()
            .map(|claim| find_charge(&client, claim, instances, occasion));
        let mut seen = 0;
        let watching = async {
            let begun_at = Instant::now();
            while seen < most || begun_at.elapsed() < Duration::from_secs(1) {
                seen = seen.max(open.load(Ordering::SeqCst));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            found = join_all(lookups) => panic!("{found:?}, though nobody answers"),
            () = watching => {}
        }
        assert_eq!(seen, most, "{instances} instances");
    }
}

#[tokio::test]
async fn an_absence_at_a_payment_that_another_instance_holds_changes_nothing_and_a_charge_counts() {
    let (database, default) = (Database::migrated().await, processor().await);
    let terms = production_terms();
    let mut bench = Bench::new(&database, &[&default], terms);
    enqueue(&database.pool, &[new_payment()])
        .await
        .expect("the database answers");
    let claims = claim_queued(&database.pool, terms, "default", 1, 0).await;
    let claim = claims.expect("an answer").pop().expect("a claim");
    let step = async || bench.worker.held_elsewhere_step().await.expect("an answer");
    assert_eq!(step().await, 0, "an answer may come in time");
    database
        .execute("UPDATE payment_queue SET lease_until = lease_until - interval '3 s'")
        .await;
    let row = async || -> String {
        let row = "SELECT row_to_json(q)::text FROM payment_queue q";
        database.value(row).await
    };
    let before = row().await;
    bench
        .worker
        .returned
        .in_flight
        .add_all(std::slice::from_ref(&claim));
    assert_eq!(step().await, 0, "its own");
    let done = CompletedClaim {
        claim: claim.clone(),
        outcome: Outcome::Charged {
            requested_at: claim.requested_at,
        },
    };
    bench
        .worker
        .returned
        .in_flight
        .recorded(&[done], payment_proxy::domain::uptime::Uptime::now());

    assert_eq!(step().await, 1);
    let client = &bench.worker.processors[0].client;
    let asked = |result| {
        client
            .counts()
            .early_lookups(EarlyLookup::HeldElsewhere, result)
    };
    eventually("it is asked for", async || {
        asked(EarlyLookupResult::Absent) == 1
    })
    .await;
    assert_eq!(row().await, before);
    assert!(bench.ended.is_empty(), "nothing is to be recorded");

    // Who holds it sends it all the same, and does not live to record that.
    let outcome = {
        let permit = bench.worker.router.try_permit(0).expect("a permit");
        charge(client, &claim, permit, &Stop::default()).await
    };
    assert_eq!(step().await, 1);
    let found = bench.ended.recv().await.expect("an outcome");
    assert_eq!(
        (&found.claim.payment, &found.outcome),
        (&claim.payment, &outcome)
    );
    let recorded = async |ended| record(&database.pool, terms, &[ended]).await;
    assert_eq!(recorded(found).await.expect("an answer"), []);
    // It lived after all.
    let anomalies = recorded(CompletedClaim { claim, outcome }).await;
    let anomalies = anomalies.expect("an answer");
    assert!(
        matches!(&anomalies[..], [Anomaly::RecordedBefore { charged, recorded, .. }]
            if charged == recorded),
        "{anomalies:?}"
    );
    assert_eq!(database.count("payment_queue").await, 0);
    agree(&database, &default, &processor().await, 1).await;
}

/// Posts payments to an instance, until the processor has them and has not answered.
async fn post_without_answer(gateway: &Gateway, default: &Running) -> Vec<Uuid> {
    let ids = gateway.post_many(5).await;
    eventually("the processor has them", async || {
        default.processor.payments().len() == ids.len()
    })
    .await;
    ids
}

#[tokio::test]
async fn what_a_killed_instance_had_charged_is_recorded_by_its_successor_before_the_lease_ends() {
    let (database, default) = (Database::create().await, processor().await);
    default.processor.set_faults(hung()).expect("valid faults");
    let victim = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let ids = post_without_answer(&victim, &default).await;
    victim.crash();
    let next = Gateway::start(&database, &processors(&[&default]), &[]).await;
    next.until_settled(&ids).await;
    let delays = delays(&database, "true").await;
    assert!(delays.iter().all(|delay| *delay < 15.0), "{delays:?}");
    agree(&database, &default, &processor().await, ids.len()).await;
}

#[tokio::test]
async fn what_a_silent_instance_had_charged_is_recorded_once_though_it_comes_back() {
    let (database, default) = (Database::create().await, processor().await);
    default.processor.set_faults(hung()).expect("valid faults");
    let processors = processors(&[&default]);
    let frozen = Gateway::start(&database, &processors, &[]).await;
    let other = Gateway::start(&database, &processors, &[]).await;
    let ids = post_without_answer(&frozen, &default).await;
    frozen.signal(Signal::SIGSTOP);
    other.until_settled(&ids).await;
    let delays = delays(&database, "true").await;
    assert!(delays.iter().all(|delay| *delay < 15.0), "{delays:?}");
    frozen.signal(Signal::SIGCONT);
    // It finds its payments at their processor, and them recorded.
    eventually("it serves again", async || frozen.is_ready().await).await;
    let more = frozen.post_many(3).await;
    frozen.until_settled(&more).await;
    agree(
        &database,
        &default,
        &processor().await,
        ids.len() + more.len(),
    )
    .await;
}

/// What an auditor would miss in our ledger at this moment: ids of payments that the processors
/// have, with a `requested_at` from 15 s to 1.5 s ago.
async fn missing(database: &Database, running: [&Running; 2]) -> HashSet<Uuid> {
    let now = Utc::now();
    let window = now - TimeDelta::seconds(15)..=now - TimeDelta::milliseconds(1_500);
    let charged = running
        .into_iter()
        .flat_map(|each| each.processor.payments());
    let charged = charged.filter(|payment| window.contains(&payment.requested_at));
    let charged: Vec<(Uuid, DateTime<Utc>)> = charged
        .map(|payment| (payment.id, payment.requested_at))
        .collect();
    let recorded: Vec<(Uuid, DateTime<Utc>)> =
        sqlx::query_as("SELECT correlation_id, requested_at FROM payment_processed")
            .fetch_all(&database.pool)
            .await
            .expect("the ledger");
    let recorded: HashSet<_> = recorded.into_iter().collect();
    let missing = charged
        .into_iter()
        .filter(|charge| !recorded.contains(charge));
    missing.map(|(id, _)| id).collect()
}

#[tokio::test]
async fn under_lost_and_hung_replies_audits_agree_and_all_is_recorded_soon() {
    const BATCH: usize = 10;
    const BATCHES: usize = 80;
    const COUNT: usize = BATCH * BATCHES;
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    for running in [&default, &fallback] {
        let faults = Faults {
            reply_lost: 0.05,
            request_lost: 0.05,
            fail_after: 0.03,
            fail_before: 0.05,
            reply_hangs: 0.01,
            ..Faults::default()
        };
        running.processor.set_faults(faults).expect("valid faults");
    }
    let gateway = Gateway::start(&database, &processors(&[&default, &fallback]), &[]).await;
    let posting = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..BATCHES {
            ticks.tick().await;
            gateway.post_many(BATCH).await;
        }
        let ended_at = Instant::now();
        eventually("all is recorded", async || {
            database.count("payment_processed").await == COUNT as i64
        })
        .await;
        ended_at.elapsed()
    };
    let auditing = async {
        let mut ever_missing = HashSet::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(250));
        loop {
            ticks.tick().await;
            ever_missing.extend(missing(&database, [&default, &fallback]).await);
            if database.count("payment_processed").await == COUNT as i64 {
                return ever_missing;
            }
        }
    };
    let (drained_in, ever_missing) = tokio::join!(posting, auditing);
    assert!(drained_in < Duration::from_secs(3), "{drained_in:?}");
    agree(&database, &default, &fallback, COUNT).await;

    // A request that was lost on the way is posted again, under its requested_at.
    let lost: Vec<Uuid> =
        sqlx::query_scalar("SELECT correlation_id FROM payment_attempt WHERE outcome = 'in_doubt'")
            .fetch_all(&database.pool)
            .await
            .expect("the attempts");
    let late: Vec<_> = ever_missing
        .difference(&lost.into_iter().collect())
        .copied()
        .collect();
    // What a busy machine delays for half a second, at most.
    assert!(late.len() <= COUNT / 100, "{late:?}");
    let sent_once = "NOT EXISTS (SELECT FROM payment_attempt a
        WHERE a.correlation_id = p.correlation_id)";
    let delays = delays(&database, sent_once).await;
    let longest = delays.last().expect("payments");
    assert!(*longest < 4.0, "{longest} s; without early look-ups 15 s");
    let hung = |running: &Running| running.processor.injected().reply_hangs;
    assert!(hung(&default) + hung(&fallback) > 0, "some hung");
}
