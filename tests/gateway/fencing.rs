//! What a worker may still write when its lease is over.

use chrono::{DateTime, Duration, Utc};
use payment_proxy::pipeline::accept::Accepted;
use payment_proxy::pipeline::settle::{Anomaly, CompletedClaim, record};
use payment_proxy::processors::Outcome;
use payment_proxy::store::claim::{Claim, claim_in_doubt, claim_queued};

use crate::support::{
    Database, both, enqueue, expire_lease, hold, new_payment, production_terms, watched_clock,
};

async fn claim_one(database: &Database, processor: &str) -> Claim {
    enqueue(&database.pool, &[new_payment()])
        .await
        .expect("the database answers");
    claim_again(database, processor).await
}

async fn claim_again(database: &Database, processor: &str) -> Claim {
    let claims = claim_queued(&database.pool, production_terms(), processor, 1, 0).await;
    claims
        .expect("the database answers")
        .pop()
        .expect("a free payment")
}

async fn reclaim(database: &Database, claim: &Claim) -> Claim {
    expire_lease(database, claim).await;
    let claims = claim_in_doubt(
        &database.pool,
        production_terms(),
        &watched_clock(production_terms()),
        &both(),
        10,
        i64::MAX,
    )
    .await;
    claims
        .expect("the database answers")
        .pop()
        .expect("a doubtful payment")
}

async fn end(database: &Database, claim: &Claim, outcome: Outcome) -> Vec<Anomaly> {
    let ended = CompletedClaim {
        claim: claim.clone(),
        outcome,
    };
    record(&database.pool, production_terms(), &[ended])
        .await
        .expect("the database answers")
}

fn free() -> Outcome {
    Outcome::NotCharged {
        reason: "answered 500".to_owned(),
    }
}

fn doubtful(until: Option<DateTime<Utc>>) -> Outcome {
    Outcome::InDoubt {
        until,
        reason: "no reply".to_owned(),
    }
}

fn charged(claim: &Claim) -> Outcome {
    Outcome::Charged {
        requested_at: claim.requested_at,
    }
}

async fn recorded(database: &Database) -> Vec<(String, DateTime<Utc>)> {
    sqlx::query_as("SELECT processor, requested_at FROM payment_processed")
        .fetch_all(&database.pool)
        .await
        .expect("the ledgers")
}

#[tokio::test]
async fn a_claimed_payment_is_claimed_by_nobody_else() {
    let database = Database::migrated().await;
    claim_one(&database, "default").await;
    assert_eq!(
        claim_queued(&database.pool, production_terms(), "fallback", 1, 0)
            .await
            .expect("an answer"),
        []
    );
    assert_eq!(
        claim_in_doubt(
            &database.pool,
            production_terms(),
            &watched_clock(production_terms()),
            &both(),
            10,
            i64::MAX
        )
        .await
        .expect("an answer"),
        []
    );
}

#[tokio::test]
async fn an_expired_claim_stays_with_its_processor_and_stamp() {
    let database = Database::migrated().await;
    let first = claim_one(&database, "default").await;
    let second = reclaim(&database, &first).await;
    assert_eq!(
        (&second.processor, second.requested_at),
        (&first.processor, first.requested_at)
    );
    assert_eq!(second.attempt, first.attempt + 1);
    assert!(!second.earlier.expect("an earlier attempt").over);
    expire_lease(&database, &second).await;
    assert_eq!(
        claim_queued(&database.pool, production_terms(), "fallback", 1, 0)
            .await
            .expect("an answer"),
        []
    );
}

#[tokio::test]
async fn late_release_after_reclaim_is_refused() {
    let database = Database::migrated().await;
    let first = claim_one(&database, "default").await;
    let second = reclaim(&database, &first).await;
    end(&database, &first, free()).await;
    end(
        &database,
        &first,
        Outcome::Dead {
            reason: "late".to_owned(),
            held: false,
        },
    )
    .await;
    assert_eq!(
        database
            .count("payment_queue WHERE processor = 'default' AND lease_until > now()")
            .await,
        1
    );
    assert_eq!(database.count("payment_dead_letter").await, 0);
    assert_eq!(end(&database, &second, charged(&second)).await, []);
    assert_eq!(
        recorded(&database).await,
        [("default".to_owned(), first.requested_at)]
    );
}

#[tokio::test]
async fn late_settle_after_reclaim_is_a_fact() {
    let database = Database::migrated().await;
    let first = claim_one(&database, "default").await;
    let second = reclaim(&database, &first).await;
    assert_eq!(end(&database, &first, charged(&first)).await, []);
    assert_eq!(database.count("payment_queue").await, 0);
    // The reclaiming worker hears 422, and records the same charge once more.
    let again = end(&database, &second, charged(&second)).await;
    assert!(
        matches!(&again[..], [Anomaly::RecordedBefore { charged, recorded, .. }] if charged == recorded)
    );
    assert_eq!(recorded(&database).await.len(), 1);
}

#[tokio::test]
async fn a_settle_that_is_repeated_changes_nothing() {
    let database = Database::migrated().await;
    let claim = claim_one(&database, "default").await;
    end(&database, &claim, charged(&claim)).await;
    let before = recorded(&database).await;
    end(&database, &claim, charged(&claim)).await;
    assert_eq!(recorded(&database).await, before);
}

#[tokio::test]
async fn a_charge_whose_queue_row_is_gone_is_recorded_all_the_same() {
    let database = Database::migrated().await;
    let claim = claim_one(&database, "default").await;
    // What a crash of the server does to an unlogged queue.
    database.execute("TRUNCATE payment_queue").await;
    let anomalies = end(&database, &claim, charged(&claim)).await;
    assert_eq!(
        anomalies,
        [Anomaly::QueueRowGone(claim.payment.correlation_id)]
    );
    assert_eq!(recorded(&database).await.len(), 1);
}

/// A charge that is recorded, and whose payment is in the queue and held for its processor once
/// again.
async fn recorded_and_held(database: &Database) -> Claim {
    let claim = claim_one(database, "default").await;
    assert_eq!(end(database, &claim, charged(&claim)).await, []);
    hold(database, claim.payment.correlation_id).await;
    claim
}

#[tokio::test]
async fn what_is_not_as_expected_of_one_charge_keeps_no_other_of_its_batch_from_the_ledger() {
    for (is_gone, is_recorded) in [(true, false), (false, true), (true, true)] {
        let database = Database::migrated().await;
        let mut claims = Vec::new();
        let mut expected = Vec::new();
        if is_recorded {
            let claim = recorded_and_held(&database).await;
            expected.push(Anomaly::RecordedBefore {
                correlation_id: claim.payment.correlation_id,
                charged: "default".to_owned(),
                recorded: "default".to_owned(),
            });
            claims.push(claim);
        }
        for _ in 0..3 {
            claims.push(claim_one(&database, "default").await);
        }
        if is_gone {
            let claim = claim_one(&database, "default").await;
            let id = claim.payment.correlation_id;
            database
                .execute(&format!(
                    "DELETE FROM payment_queue WHERE correlation_id = '{id}'"
                ))
                .await;
            expected.insert(0, Anomaly::QueueRowGone(id));
            claims.push(claim);
        }
        let ended: Vec<CompletedClaim> = claims
            .iter()
            .map(|claim| CompletedClaim {
                claim: claim.clone(),
                outcome: charged(claim),
            })
            .collect();
        let anomalies = record(&database.pool, production_terms(), &ended).await;
        assert_eq!(anomalies.expect("the database answers"), expected);
        assert_eq!(database.count("payment_queue").await, 0);
        let recorded = i64::try_from(claims.len()).expect("few");
        assert_eq!(database.count("payment_processed").await, recorded);
        let totals: i64 = sqlx::query_scalar(
            "SELECT sum(requests)::bigint FROM payment_rollup WHERE unit = 'hour'",
        )
        .fetch_one(&database.pool)
        .await
        .expect("totals");
        assert_eq!(totals, recorded);
    }
}

#[tokio::test]
async fn a_late_success_of_a_payment_that_went_elsewhere_is_recorded_once_and_reported() {
    let database = Database::migrated().await;
    let first = claim_one(&database, "default").await;
    end(&database, &first, free()).await;
    let second = claim_again(&database, "fallback").await;
    let late = end(&database, &first, charged(&first)).await;
    assert_eq!(late, [Anomaly::QueueRowGone(first.payment.correlation_id)]);
    assert_eq!(
        database.count("payment_queue").await,
        1,
        "the evidence of the second attempt stays"
    );
    let double = end(&database, &second, charged(&second)).await;
    assert!(
        matches!(&double[..], [Anomaly::RecordedBefore { charged, recorded, .. }] if charged != recorded)
    );
    assert_eq!(
        recorded(&database).await,
        [("default".to_owned(), first.requested_at)]
    );
    assert_eq!(database.count("payment_queue").await, 0);
}

#[tokio::test]
async fn a_doubt_ends_when_its_time_is_over_and_a_pinned_retry_prolongs_it() {
    let database = Database::migrated().await;
    let first = claim_one(&database, "default").await;
    end(&database, &first, doubtful(None)).await;
    let second = reclaim(&database, &first).await;
    let until = second.earlier.expect("an earlier attempt").doubt_until;
    assert!(
        until > Utc::now() + Duration::seconds(50),
        "a minute from the release: {until}"
    );
    // The retry was answered with a failure: the doubt is the old one again.
    end(&database, &second, doubtful(Some(until))).await;
    let third = reclaim(&database, &second).await;
    assert_eq!(
        third.earlier.expect("an earlier attempt").doubt_until,
        until
    );
    database
        .execute("UPDATE payment_queue SET doubt_until = now() - interval '8 s'")
        .await;
    let fourth = reclaim(&database, &third).await;
    // A tenth of the longest doubt and half a second later, for what the clocks may differ.
    assert!(!fourth.earlier.expect("an earlier attempt").over);
    database
        .execute("UPDATE payment_queue SET doubt_until = now() - interval '9 s'")
        .await;
    let fifth = reclaim(&database, &fourth).await;
    assert!(fifth.earlier.expect("an earlier attempt").over);
}

#[tokio::test]
async fn a_released_payment_gets_a_fresh_stamp() {
    let database = Database::migrated().await;
    let first = claim_one(&database, "default").await;
    end(&database, &first, free()).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let second = claim_again(&database, "fallback").await;
    assert!(second.requested_at > first.requested_at);
    assert_eq!(
        second.requested_at.timestamp_subsec_micros() % 1_000,
        0,
        "whole milliseconds"
    );
}

#[tokio::test]
async fn a_dead_letter_keeps_its_reason_and_its_id() {
    let database = Database::migrated().await;
    let claim = claim_one(&database, "default").await;
    end(
        &database,
        &claim,
        Outcome::Dead {
            reason: "default answered 400: no".to_owned(),
            held: false,
        },
    )
    .await;
    assert_eq!(database.count("payment_queue").await, 0);
    assert_eq!(
        database
            .count("payment_dead_letter WHERE reason = 'default answered 400: no'")
            .await,
        1
    );
    let again = enqueue(&database.pool, &[claim.payment])
        .await
        .expect("the database answers");
    assert_eq!(again, [Accepted::Known]);
}

#[tokio::test]
async fn two_ends_of_one_row_in_a_batch_are_one_release_by_the_newer() {
    let database = Database::migrated().await;
    let stale = claim_one(&database, "default").await;
    let newer = reclaim(&database, &stale).await;
    for order in [[&stale, &newer], [&newer, &stale]] {
        let ended = order.map(|claim| CompletedClaim {
            claim: claim.clone(),
            outcome: free(),
        });
        record(&database.pool, production_terms(), &ended)
            .await
            .expect("the database answers");
        assert_eq!(
            database
                .count("payment_queue WHERE processor IS NULL")
                .await,
            1
        );
        database
            .execute(&format!(
                "UPDATE payment_queue SET processor = 'default', requested_at = '{}', \
                doubt_until = now()",
                newer.requested_at
            ))
            .await;
    }
}

#[tokio::test]
async fn a_retried_dead_letter_keeps_its_processor_even_if_it_was_posted_again_meanwhile() {
    let database = Database::migrated().await;
    let claim = claim_one(&database, "default").await;
    end(
        &database,
        &claim,
        Outcome::Dead {
            reason: "held".to_owned(),
            held: true,
        },
    )
    .await;
    // What the race of a POST with the death of the same id leaves behind.
    let id = claim.payment.correlation_id;
    database
        .execute(&format!(
            "INSERT INTO payment_queue (correlation_id, amount) VALUES ('{id}', 19.90)"
        ))
        .await;
    let revived = payment_proxy::store::dead_letter::retry(&database.pool, Some(&[id]))
        .await
        .expect("an answer");
    assert_eq!(revived, [id]);
    assert_eq!(
        database
            .count("payment_queue WHERE processor = 'default' AND requested_at IS NOT NULL")
            .await,
        1
    );
}

#[tokio::test]
async fn the_queue_takes_no_amount_that_is_none_and_no_half_of_the_evidence() {
    let database = Database::migrated().await;
    let insert = async |amount: &str, evidence: &str| {
        let statement = format!(
            "INSERT INTO payment_queue (correlation_id, amount, processor, requested_at,
                doubt_until)
            VALUES (gen_random_uuid(), {amount}, {evidence})"
        );
        let outcome = sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&database.pool)
            .await;
        match outcome {
            Ok(_) => "taken".to_owned(),
            Err(sqlx::Error::Database(error)) => error.constraint().unwrap_or_default().to_owned(),
            Err(error) => panic!("{error}"),
        }
    };
    let (none, all) = ("NULL, NULL, NULL", "'default', now(), now()");
    for evidence in [none, all] {
        assert_eq!(insert("0.01", evidence).await, "taken");
        for amount in ["0", "-0.01", "'NaN'"] {
            let refused = insert(amount, evidence).await;
            assert_eq!(refused, "payment_queue_amount_is_positive", "{amount}");
        }
    }
    for evidence in [
        "'default', NULL, NULL",
        "NULL, now(), NULL",
        "NULL, NULL, now()",
        "'default', now(), NULL",
        "'default', NULL, now()",
        "NULL, now(), now()",
    ] {
        let refused = insert("19.90", evidence).await;
        assert_eq!(refused, "payment_queue_evidence_is_whole", "{evidence}");
    }
}

#[tokio::test]
async fn an_outcome_from_before_the_queue_was_emptied_touches_no_other_payment() {
    let database = Database::migrated().await;
    for outcome in [
        free(),
        doubtful(None),
        Outcome::Dead {
            reason: "answered 400".to_owned(),
            held: false,
        },
    ] {
        // As after a crash of the server: the rows of the new queue are numbered anew.
        let claims = async || {
            database
                .execute("TRUNCATE payment_queue RESTART IDENTITY")
                .await;
            claim_one(&database, "default").await
        };
        let (old, other) = (claims().await, claims().await);
        assert_eq!((old.id, old.attempt), (other.id, other.attempt));
        end(&database, &old, outcome.clone()).await;
        let untouched =
            "payment_queue WHERE processor = 'default' AND attempt = 1 AND lease_until > now()";
        assert_eq!(database.count(untouched).await, 1, "{outcome:?}");
    }
    assert_eq!(database.count("payment_dead_letter").await, 0);
}
