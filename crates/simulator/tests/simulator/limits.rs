//! The concurrency limit.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use simulator::{Limits, Settings};

use crate::client::{id, started, until};

#[tokio::test]
async fn payments_beyond_the_limit_wait_in_order_and_beyond_that_are_429() {
    let simulator = started(Settings {
        delay: Duration::from_millis(400),
        limits: Limits {
            at_once: 1,
            waiting: 2,
            ..Limits::default()
        },
        ..Settings::default()
    })
    .await;
    let processor = &simulator.running.processor;
    let first = simulator.posted(id(1));
    let second = async {
        until("the first is served", || processor.in_service() == 1).await;
        simulator.posted(id(2)).await
    };
    let third = async {
        until("the second waits", || processor.waiting() == 1).await;
        simulator.posted(id(3)).await
    };
    let refused = async {
        until("the third waits", || processor.waiting() == 2).await;
        let post = simulator.post(id(4)).send().await.unwrap();
        let lookup = simulator.get(&format!("/payments/{}", id(1))).await;
        (post, lookup)
    };
    let (first, second, third, (post, lookup)) = tokio::join!(first, second, third, refused);
    assert_eq!((first.0, second.0, third.0), (200, 200, 200));
    // Lookups share the limit.
    assert_eq!(
        (post.status().as_u16(), lookup.status().as_u16()),
        (429, 429)
    );
    assert_eq!(post.headers()["retry-after"], "5");
    let stored: Vec<_> = processor.payments().iter().map(|p| p.id).collect();
    assert_eq!(stored, [id(1), id(2), id(3)]);
}

#[tokio::test]
async fn a_waiting_payment_is_stored_after_its_client_hung_up() {
    let simulator = started(Settings {
        delay: Duration::from_millis(400),
        limits: Limits {
            at_once: 1,
            ..Limits::default()
        },
        ..Settings::default()
    })
    .await;
    let hasty = async {
        until("the first is served", || {
            simulator.running.processor.in_service() == 1
        })
        .await;
        let post = simulator.post(id(2)).timeout(Duration::from_millis(100));
        post.send().await.unwrap_err()
    };
    let (first, gone) = tokio::join!(simulator.posted(id(1)), hasty);
    assert_eq!(first.0, 200);
    assert!(gone.is_timeout(), "{gone}");
    until("the second is stored", || simulator.stores(id(2))).await;
}

#[tokio::test]
async fn eight_hundred_are_served_at_once_and_five_hundred_wait() {
    allow_open_files(4096);
    let simulator = started(Settings {
        delay: Duration::from_secs(4),
        ..Settings::default()
    })
    .await;
    let processor = &simulator.running.processor;
    let posts = futures_util::future::join_all((0..1300).map(|n| simulator.posted(id(n))));
    let refused = async {
        until("800 are served and 500 wait", || {
            (processor.in_service(), processor.waiting()) == (800, 500)
        })
        .await;
        let refused = simulator.posted(id(1300)).await;
        assert_eq!(processor.payments(), [], "the first delay is not over");
        // Those that wait need not take four seconds more.
        processor.set_delay(Duration::ZERO);
        refused
    };
    let (posts, refused) = tokio::join!(posts, refused);
    assert_eq!(refused.0, 429);
    assert!(posts.iter().all(|(status, _)| *status == 200));
    assert_eq!(processor.payments().len(), 1300);
}

/// Both ends of 1301 connections are in this process.
fn allow_open_files(needed: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard)
            .expect("this test needs 4096 open files; raise the hard limit (ulimit -Hn)");
    }
}
