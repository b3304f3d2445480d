//! More is offered than can be committed or settled.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use payment_proxy::http::ProblemKind;
use payment_proxy::pipeline::accept::{ACCEPT_BACKLOG, ACCEPT_TIMEOUT, NotAccepted};
use payment_proxy::store::database::ACCEPT_CONNECTIONS;
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use uuid::Uuid;

use crate::support::{
    CENTS, Database, Gateway, eventually, new_payment, parts, payment_json, processor, processors,
    production_terms,
};

/// Within which the service is to be back once the cause is gone.
const RECOVERY: Duration = Duration::from_secs(5);
/// What a busy machine may add to any time.
const SLOWNESS: Duration = Duration::from_secs(5);

/// A post and what came of it.
struct Post {
    id: Uuid,
    status: StatusCode,
    /// What kind of problem it was told, where it was not accepted.
    problem: Option<ProblemKind>,
    took: Duration,
}

/// Posts so many payments at once. What is refused has to say when to come again.
async fn offer(gateway: &Gateway, count: usize) -> Vec<Post> {
    let posts = (0..count).map(|_| async {
        let (id, begun_at) = (Uuid::new_v4(), Instant::now());
        let body = payment_json(id, CENTS);
        let reply = gateway.post_body("/payments", body).await;
        let status = reply.status();
        let problem = if status == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(reply.headers()[RETRY_AFTER], "1");
            Some(Gateway::problem(reply, status).await.0)
        } else {
            assert_eq!(status, StatusCode::ACCEPTED);
            None
        };
        let took = begun_at.elapsed();
        Post {
            id,
            status,
            problem,
            took,
        }
    });
    join_all(posts).await
}

fn with_status(posts: &[Post], status: StatusCode) -> Vec<Uuid> {
    let posts = posts.iter().filter(|post| post.status == status);
    posts.map(|post| post.id).collect()
}

/// Posts until it is accepted, which has to be soon. Returns the payment.
async fn accepted_again(gateway: &Gateway) -> Uuid {
    let (id, begun_at) = (Uuid::new_v4(), Instant::now());
    eventually("payments are accepted again", async || {
        gateway.post(id, CENTS).await == StatusCode::ACCEPTED
    })
    .await;
    assert!(begun_at.elapsed() < RECOVERY + SLOWNESS);
    id
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_loses_nothing_and_is_back_within_5_s() {
    /// Payments that may wait.
    const LIMIT: usize = 200;
    let (database, default) = (Database::create().await, processor().await);
    default.processor.set_failing(true);
    let limit = LIMIT.to_string();
    let settings = [("QUEUE_LIMIT", limit.as_str())];
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    let mut accepted = Vec::new();
    for _ in 0..8 {
        let posts = offer(&gateway, LIMIT).await;
        accepted.extend(with_status(&posts, StatusCode::ACCEPTED));
    }
    let queued = database.count("payment_queue").await;
    assert_eq!(queued, i64::try_from(accepted.len()).expect("a few"));
    assert_eq!(accepted.len(), LIMIT);
    let refused = offer(&gateway, LIMIT).await;
    assert_eq!(
        with_status(&refused, StatusCode::SERVICE_UNAVAILABLE).len(),
        LIMIT
    );
    assert!(
        refused
            .iter()
            .all(|post| post.problem == Some(ProblemKind::QueueFull))
    );
    let slowest = refused.iter().map(|post| post.took).max();
    assert!(slowest < Some(ACCEPT_TIMEOUT), "nobody waits: {slowest:?}");

    default.processor.set_failing(false);
    accepted.push(accepted_again(&gateway).await);
    gateway.until_settled(&accepted).await;
    let settled = i64::try_from(accepted.len()).expect("a few");
    assert_eq!(database.count("payment_processed").await, settled);
}

#[tokio::test]
async fn while_nothing_can_be_committed_nobody_waits_longer_than_the_limit() {
    /// Payments that are posted meanwhile, all of which may wait.
    const POSTS: usize = 200;
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let lock = database.lock("payment_queue").await;
    let posts = offer(&gateway, POSTS).await;
    assert_eq!(
        with_status(&posts, StatusCode::SERVICE_UNAVAILABLE).len(),
        POSTS
    );
    let slowest = posts.iter().map(|post| post.took).max();
    assert!(slowest < Some(ACCEPT_TIMEOUT + SLOWNESS), "{slowest:?}");

    lock.rollback().await.expect("the lock is gone");
    let id = accepted_again(&gateway).await;
    // Of those that were refused some were being written, and clients post what was refused again.
    let again = posts.iter().map(|post| gateway.post(post.id, CENTS));
    for status in join_all(again).await {
        assert_eq!(status, StatusCode::ACCEPTED);
    }
    let mut ids = with_status(&posts, StatusCode::SERVICE_UNAVAILABLE);
    ids.push(id);
    gateway.until_settled(&ids).await;
    let settled = i64::try_from(POSTS + 1).expect("a few");
    assert_eq!(database.count("payment_processed").await, settled);
}

#[tokio::test]
async fn a_503_says_whether_the_payment_may_have_been_accepted() {
    /// All of which may wait.
    const REST: usize = 400;
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let lock = database.lock("payment_queue").await;
    let waiting = async |writers: i64| {
        eventually("writers wait for the lock", async || {
            database.waiting_for_a_lock("accept_payment").await >= writers
        })
        .await;
    };
    // The server refuses what each writer took first, for the lock. The rest is with it when
    // clients are told.
    let (mut posts, second, rest) = tokio::join!(
        offer(&gateway, 1),
        async {
            waiting(1).await;
            offer(&gateway, 1).await
        },
        async {
            waiting(2).await;
            offer(&gateway, REST).await
        },
    );
    posts.extend(second.into_iter().chain(rest));
    lock.rollback().await.expect("the lock is gone");
    accepted_again(&gateway).await;
    let (mut unknown, mut accepted) = (0, 0);
    for post in &posts {
        let is_there = gateway
            .get(&format!("/payments/{}", post.id))
            .await
            .status()
            .is_success();
        let told = post.problem.expect("none was accepted in time");
        if told == ProblemKind::OutcomeUnknown {
            unknown += 1;
            accepted += usize::from(is_there);
        } else {
            assert!(!is_there, "{} was told {told:?}", post.id);
        }
    }
    assert!((1..posts.len()).contains(&unknown), "{unknown} unknown");
    assert!(accepted > 0, "a 503 that means accepted was not seen");
}

#[tokio::test]
async fn a_connection_that_ends_while_it_commits_leaves_the_outcome_unknown() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let lock = database.lock("payment_queue").await;
    let posts = offer(&gateway, 1);
    let kill = async {
        // Once for the statement, and once more where it is tried again.
        for _ in 0..2 {
            eventually("a post waits for the lock", async || {
                database.waiting_for_a_lock("accept_payment").await > 0
            })
            .await;
            database
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND query LIKE '%accept_payment%'
                    AND wait_event_type = 'Lock'",
                )
                .await;
        }
    };
    let told = tokio::select! {
        posts = posts => posts,
        () = async { kill.await; std::future::pending().await } => unreachable!("it pends"),
    };
    assert_eq!(told[0].problem, Some(ProblemKind::OutcomeUnknown));
    lock.rollback().await.expect("the lock is gone");
    // The right thing to do is to post the same again.
    eventually("it is accepted", async || {
        gateway.post(told[0].id, CENTS).await == StatusCode::ACCEPTED
    })
    .await;
    gateway.until_settled(&[told[0].id]).await;
}

#[tokio::test]
async fn beyond_the_backlog_payments_are_refused_at_once() {
    let database = Database::migrated().await;
    let acceptor = parts(&database, &[], production_terms()).acceptor();
    let lock = database.lock("payment_queue").await;
    // Each writer has some when they are given up; the others wait behind them.
    for _ in 0..=ACCEPT_CONNECTIONS {
        let posts = (0..ACCEPT_BACKLOG * 3).map(|_| acceptor.accept(new_payment()));
        let (mut at_once, mut late) = (0, 0);
        for outcome in join_all(posts).await {
            match outcome {
                Err(NotAccepted::Overloaded) => at_once += 1,
                // Those that a writer has are told by the server's own limit, the others by ours.
                Err(NotAccepted::TooLate | NotAccepted::Expired | NotAccepted::Refused(_)) => {
                    late += 1
                }
                other => panic!("{other:?}"),
            }
        }
        assert!((1..=ACCEPT_BACKLOG).contains(&late), "{late}");
        assert_eq!(at_once + late, ACCEPT_BACKLOG * 3);
    }
    lock.rollback().await.expect("the lock is gone");
    eventually("payments are accepted again", async || {
        acceptor.accept(new_payment()).await.is_ok()
    })
    .await;
    // What is given up before it is written is not written.
    let written = usize::try_from(database.count("payment_queue").await).expect("a few");
    assert!(
        written <= ACCEPT_CONNECTIONS * ACCEPT_BACKLOG + 1,
        "{written}"
    );
}
