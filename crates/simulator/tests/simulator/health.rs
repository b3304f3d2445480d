//! `GET /payments/service-health`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use simulator::{Limits, Settings};

use crate::client::{client, started};

#[tokio::test]
async fn health_shows_whether_it_fails_and_the_delay() {
    let simulator = started(Settings {
        delay: Duration::from_millis(120),
        failing: true,
        ..Settings::default()
    })
    .await;
    let health = simulator.get("/payments/service-health").await;
    assert_eq!(health.status(), 200);
    assert_eq!(
        health.json::<Value>().await.unwrap(),
        json!({"failing": true, "minResponseTime": 120})
    );
}

#[tokio::test]
async fn one_health_call_per_window_two_more_wait_and_the_rest_are_429_whoever_calls() {
    let window = Duration::from_millis(500);
    let simulator = started(Settings {
        limits: Limits {
            health_window: window,
            ..Limits::default()
        },
        ..Settings::default()
    })
    .await;
    let url = format!("{}/payments/service-health", simulator.running.url());
    let begin = Instant::now();
    let calls = (0..6).map(|_| async {
        let reply = client().get(&url).send().await.unwrap();
        (reply.status().as_u16(), begin.elapsed())
    });
    let mut replies = futures_util::future::join_all(calls).await;
    replies.sort_unstable();
    let statuses: Vec<_> = replies.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429, 429]);
    // The windows began a moment before the first call, hence the half.
    assert!(replies[1].1 >= window / 2, "{:?}", replies[1].1);
    assert!(
        replies[2].1 >= replies[1].1 + window / 2,
        "{:?}",
        replies[2].1
    );
    assert!(replies[3].1 < window, "{:?}", replies[3].1);
    let refused = simulator.client.get(&url).send().await.unwrap();
    assert_eq!(refused.status(), 200, "a new window has a new call");
}

#[tokio::test]
async fn the_true_window_is_five_seconds_and_a_refused_caller_is_told_so() {
    let simulator = started(Settings::default()).await;
    let path = "/payments/service-health";
    let begin = Instant::now();
    assert_eq!(simulator.get(path).await.status(), 200);
    let (second, third, fourth) = tokio::join!(
        simulator.get(path),
        async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let waiting = simulator
                .client
                .get(format!("{}{path}", simulator.running.url()));
            waiting.timeout(Duration::from_secs(1)).send().await
        },
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            simulator.get(path).await
        }
    );
    assert_eq!(second.status(), 200);
    let waited = begin.elapsed();
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(7)).contains(&waited),
        "{waited:?}"
    );
    assert!(third.unwrap_err().is_timeout());
    assert_eq!(fourth.status(), 429);
    assert_eq!(fourth.headers()["retry-after"], "5");
}
