//! One id posted many times is one payment.

use payment_proxy::domain::payment::Payment;
use payment_proxy::pipeline::accept::Accepted;
use payment_proxy::store::claim::claim_queued;
use reqwest::StatusCode;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::support::{
    CENTS, Database, Gateway, enqueue, new_payment, processor, processors, production_terms,
};

#[tokio::test]
async fn duplicate_correlation_id_is_settled_once_whenever_and_wherever_it_is_posted() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    default
        .processor
        .set_delay(std::time::Duration::from_millis(300));
    let processors = processors(&[&default, &fallback]);
    let one = Gateway::start(&database, &processors, &[]).await;
    let two = Gateway::start(&database, &processors, &[]).await;
    let ids: Vec<Uuid> = (0..20).map(|_| Uuid::new_v4()).collect();
    // While it is queued, in flight, being settled and settled.
    for _ in 0..15 {
        let posts = ids.iter().flat_map(|id| {
            [
                one.post(*id, CENTS),
                two.post(*id, CENTS),
                one.post(*id, CENTS),
            ]
        });
        for status in futures_util::future::join_all(posts).await {
            assert_eq!(status, StatusCode::ACCEPTED);
        }
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
    }
    one.until_settled(&ids).await;
    for id in &ids {
        assert_eq!(one.post(*id, CENTS).await, StatusCode::ACCEPTED);
        assert_eq!(two.post(*id, CENTS + 1).await, StatusCode::CONFLICT);
    }
    let charged = default.processor.payments().len() + fallback.processor.payments().len();
    assert_eq!(charged, ids.len());
    assert_eq!(database.count("payment_processed").await, 20);
    crate::support::eventually("the queue is empty", async || {
        database.count("payment_queue").await == 0
    })
    .await;
    let summary = one.json("/payments-summary").await;
    let settled = |name: &str| summary[name]["totalRequests"].as_i64().expect("a number");
    assert_eq!(settled("default") + settled("fallback"), 20);
}

#[tokio::test]
async fn same_id_with_another_amount_is_refused_and_changes_nothing() {
    let database = Database::migrated().await;
    let first = new_payment();
    let other = Payment {
        amount: Decimal::new(5, 2),
        ..first
    };
    let fresh = new_payment();
    let outcomes = enqueue(&database.pool, &[first, other, first, fresh])
        .await
        .expect("the database answers");
    let conflict = Accepted::Conflict {
        known: first.amount,
    };
    assert_eq!(
        outcomes,
        [
            Accepted::Queued,
            conflict,
            Accepted::Known,
            Accepted::Queued
        ]
    );
    let newer = new_payment();
    let again = enqueue(&database.pool, &[other, fresh, newer])
        .await
        .expect("the database answers");
    assert_eq!(again, [conflict, Accepted::Known, Accepted::Queued]);
    assert_eq!(database.count("payment_queue").await, 3);
}

#[tokio::test]
async fn one_that_is_queued_already_does_not_keep_the_others_of_its_commit_out() {
    let database = Database::migrated().await;
    let (known, new) = (new_payment(), new_payment());
    enqueue(&database.pool, &[known])
        .await
        .expect("the database answers");
    let queued: Vec<Uuid> = sqlx::query_scalar(
        "SELECT queued_ids FROM accept_payments($1, $2, NULL, NULL, NULL, NULL)",
    )
    .bind([known.correlation_id, new.correlation_id])
    .bind([known.amount, new.amount])
    .fetch_one(&database.pool)
    .await
    .expect("the database answers");
    assert_eq!(queued, [new.correlation_id]);
    assert_eq!(database.count("payment_queue").await, 2);
}

#[tokio::test]
async fn a_payment_posted_while_it_is_being_settled_is_removed_by_the_claim() {
    let database = Database::migrated().await;
    let payment = new_payment();
    // What the race of a POST with the settle of the same id leaves behind.
    database
        .execute(&format!(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             VALUES ('{id}', 19.90, 'default', now(), now(), 1);
             INSERT INTO payment_queue (correlation_id, amount) VALUES ('{id}', 19.90)",
            id = payment.correlation_id
        ))
        .await;
    let others = [new_payment(), new_payment()];
    enqueue(&database.pool, &others)
        .await
        .expect("the database answers");
    let claims = claim_queued(&database.pool, production_terms(), "default", 3, 0)
        .await
        .expect("the database answers");
    let mut claimed: Vec<Uuid> = claims
        .iter()
        .map(|claim| claim.payment.correlation_id)
        .collect();
    let mut expected = others.map(|payment| payment.correlation_id);
    claimed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(claimed, expected);
    assert_eq!(database.count("payment_queue").await, 2);
}

#[tokio::test]
async fn same_id_with_another_amount_is_refused_also_while_it_is_being_settled() {
    let database = Database::migrated().await;
    let payment = new_payment();
    let other = Payment {
        amount: Decimal::new(5, 2),
        ..payment
    };
    for (table, columns, values) in [
        (
            "payment_processed",
            "requested_at, accepted_at",
            "now(), now()",
        ),
        ("payment_dead_letter", "accepted_at, reason", "now(), 'no'"),
    ] {
        for (posted, expected) in [
            (
                other,
                Accepted::Conflict {
                    known: payment.amount,
                },
            ),
            (payment, Accepted::Known),
        ] {
            database
                .execute("TRUNCATE payment_queue, payment_processed, payment_dead_letter")
                .await;
            enqueue(&database.pool, &[payment])
                .await
                .expect("the database answers");
            // The settle as it stands just before its commit.
            let mut settle = database.pool.begin().await.expect("a transaction");
            let statement = format!(
                "DELETE FROM payment_queue;
                INSERT INTO {table} (correlation_id, amount, processor, attempt, {columns})
                VALUES ('{}', {}, 'default', 1, {values})",
                payment.correlation_id, payment.amount
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
                .execute(&mut *settle)
                .await
                .expect("a settle");
            let pool = database.pool.clone();
            let post = tokio::spawn(async move { enqueue(&pool, &[posted]).await });
            crate::support::eventually("the post waits for the settle", async || {
                database.waiting_for_a_lock("").await > 0
            })
            .await;
            settle.commit().await.expect("a commit");
            let outcome = post.await.expect("no panic").expect("no error");
            assert_eq!(outcome, [expected], "{table}");
        }
    }
}

#[tokio::test]
async fn instances_that_insert_the_same_ids_at_once_do_not_deadlock() {
    let database = Database::migrated().await;
    let payments: Vec<Payment> = (0..200).map(|_| new_payment()).collect();
    let backwards: Vec<Payment> = payments.iter().rev().copied().collect();
    let posts = (0..8).map(|turn| {
        enqueue(
            &database.pool,
            if turn % 2 == 0 { &payments } else { &backwards },
        )
    });
    let mut queued = 0;
    for outcome in futures_util::future::join_all(posts).await {
        let outcome = outcome.expect("no deadlock");
        queued += outcome
            .iter()
            .filter(|accepted| **accepted == Accepted::Queued)
            .count();
    }
    assert_eq!(queued, 200);
}
