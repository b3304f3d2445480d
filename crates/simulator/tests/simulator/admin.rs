//! The endpoints under `/admin`.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use simulator::Settings;

use crate::client::{Simulator, id, plain, started};

async fn with_three_payments() -> Simulator {
    let simulator = started(Settings::default()).await;
    for (n, amount, stamp) in [
        (1, "19.90", "2025-07-15T12:00:00.000Z"),
        (2, "0.10", "2025-07-15T12:00:00.001Z"),
        (3, "100000000000.01", "2025-07-15T12:00:05.500Z"),
    ] {
        let post = simulator.post_as(id(n), amount, stamp);
        assert_eq!(post.send().await.unwrap().status(), 200);
    }
    simulator
}

async fn summary(simulator: &Simulator, query: &str) -> String {
    let path = format!("/admin/payments-summary{query}");
    let reply = simulator.admin(Method::GET, &path).send().await.unwrap();
    assert_eq!(reply.status(), 200, "{query}");
    reply.text().await.unwrap()
}

#[tokio::test]
async fn the_summary_is_exact_to_the_cent_and_has_the_fee() {
    let simulator = with_three_payments().await;
    assert_eq!(
        summary(&simulator, "").await,
        r#"{"totalAmount":100000000020.01,"totalRequests":3,"totalFee":5000000001.0005,"feePerTransaction":0.05}"#
    );
}

#[tokio::test]
async fn a_range_includes_both_ends_and_a_missing_end_means_everything() {
    let simulator = with_three_payments().await;
    for (query, count) in [
        (
            "?from=2025-07-15T12:00:00.000Z&to=2025-07-15T12:00:00.001Z",
            2,
        ),
        (
            "?from=2025-07-15T12:00:00.001Z&to=2025-07-15T12:00:05.500Z",
            2,
        ),
        (
            "?from=2025-07-15T12:00:00.002Z&to=2025-07-15T12:00:05.499Z",
            0,
        ),
        (
            "?from=2025-07-15T14:00:00%2B02:00&to=2025-07-15T12:00:00",
            1,
        ),
        ("?from=2025-07-15T12:00:06Z&to=2025-07-15T12:00:00Z", 0),
        ("?from=2025-07-15T12:00:05Z", 3),
        ("?to=2025-07-15T12:00:00.000Z", 3),
    ] {
        let reply: Value = serde_json::from_str(&summary(&simulator, query).await).unwrap();
        assert_eq!(reply["totalRequests"], count, "{query}");
    }
    let bad = simulator.admin(Method::GET, "/admin/payments-summary?from=yesterday");
    assert_eq!(bad.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn every_admin_endpoint_wants_the_token() {
    let simulator = started(Settings::default()).await;
    for (method, path) in [
        (Method::GET, "/admin/payments-summary"),
        (Method::GET, "/admin/payment-ids"),
        (Method::POST, "/admin/purge-payments"),
        (Method::PUT, "/admin/configurations/token"),
        (Method::PUT, "/admin/configurations/delay"),
        (Method::PUT, "/admin/configurations/failure"),
        (Method::GET, "/admin/faults"),
        (Method::PUT, "/admin/faults"),
    ] {
        let without = simulator.request(method.clone(), path);
        assert_eq!(without.send().await.unwrap().status(), 401, "{path}");
        let wrong = simulator
            .request(method.clone(), path)
            .header("X-Rinha-Token", "1234");
        assert_eq!(wrong.send().await.unwrap().status(), 401, "{path}");
        let right = simulator.admin(method, path).send().await.unwrap();
        assert_ne!(right.status(), 401, "{path}");
    }
}

#[tokio::test]
async fn the_token_delay_and_failure_can_be_changed() {
    let simulator = started(Settings::default()).await;
    let processor = &simulator.running.processor;
    let path = |what| format!("/admin/configurations/{what}");
    let (status, reply) = simulator
        .manage(Method::PUT, &path("delay"), json!({"delay": 70}))
        .await;
    assert_eq!(
        (status, reply.as_str()),
        (200, r#"{"config":"delay","was":0,"is":70}"#)
    );
    assert_eq!(processor.delay(), Duration::from_millis(70));
    let (status, reply) = simulator
        .manage(Method::PUT, &path("failure"), json!({"failure": true}))
        .await;
    assert_eq!(status, 200);
    assert_eq!(reply, r#"{"config":"failure","was":false,"is":true}"#);
    assert!(processor.failing());
    let wrong = json!({"failure": "yes"});
    assert_eq!(
        simulator
            .manage(Method::PUT, &path("failure"), wrong)
            .await
            .0,
        400
    );
    let token = json!({"token": "secret"});
    let changed = simulator.manage(Method::PUT, &path("token"), token).await;
    assert_eq!(changed, (204, String::new()));
    let old = simulator.admin(Method::GET, "/admin/payments-summary");
    assert_eq!(old.send().await.unwrap().status(), 401);
    let new = simulator
        .request(Method::GET, "/admin/payments-summary")
        .header("X-Rinha-Token", "secret");
    assert_eq!(new.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_purge_empties_the_records() {
    let simulator = with_three_payments().await;
    let (status, _) = simulator
        .manage(Method::POST, "/admin/purge-payments", json!({}))
        .await;
    assert_eq!(status, 200);
    assert!(
        summary(&simulator, "")
            .await
            .contains(r#""totalRequests":0"#)
    );
    assert_eq!(
        simulator
            .get(&format!("/payments/{}", id(1)))
            .await
            .status(),
        404
    );
    assert_eq!(simulator.posted(id(1)).await.0, 200);
}

#[tokio::test]
async fn the_listing_has_every_payment_once_in_the_order_of_storing() {
    let mut simulator = started(Settings::default()).await;
    simulator.client = plain().build().unwrap();
    // More than two chunks of the listing.
    for n in 0..2_500 {
        assert_eq!(simulator.posted(id(n)).await.0, 200);
    }
    let listing = simulator.admin(Method::GET, "/admin/payment-ids");
    let listing = listing.send().await.unwrap().text().await.unwrap();
    let first: Value = serde_json::from_str(listing.lines().next().unwrap()).unwrap();
    assert_eq!(first["correlationId"], id(0).to_string());
    assert_eq!(first["amount"].to_string(), "19.90");
    assert_eq!(first["requestedAt"], "2025-07-15T12:34:56.789");
    let ids: BTreeSet<_> = listing
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["correlationId"].to_string())
        .collect();
    assert_eq!((listing.lines().count(), ids.len()), (2_500, 2_500));
}
