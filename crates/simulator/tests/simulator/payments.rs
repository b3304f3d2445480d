//! `POST /payments` and `GET /payments/{id}`.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use simulator::Settings;

use crate::client::{id, started, until};

#[tokio::test]
async fn a_payment_is_stored_with_its_amount_rounded_and_its_time() {
    let simulator = started(Settings::default()).await;
    let posted = simulator
        .post_as(id(1), "19.915", "2025-07-15T12:34:56.789Z")
        .send()
        .await
        .unwrap();
    assert_eq!(posted.status(), 200);
    assert_eq!(
        posted.json::<Value>().await.unwrap(),
        json!({"message": "payment processed successfully"})
    );
    let shown = simulator.get(&format!("/payments/{}", id(1))).await;
    assert_eq!(shown.status(), 200);
    assert_eq!(
        shown.text().await.unwrap(),
        format!(
            r#"{{"correlationId":"{}","amount":19.92,"requestedAt":"2025-07-15T12:34:56.789"}}"#,
            id(1)
        )
    );
}

#[tokio::test]
async fn an_unknown_payment_is_404_and_no_uuid_is_400() {
    let simulator = started(Settings::default()).await;
    let unknown = simulator.get(&format!("/payments/{}", id(1))).await;
    assert_eq!(unknown.status(), 404);
    assert_eq!(simulator.get("/payments/no-uuid").await.status(), 400);
}

#[tokio::test]
async fn a_second_payment_with_the_same_id_is_422_and_changes_nothing() {
    let simulator = started(Settings::default()).await;
    assert_eq!(simulator.posted(id(1)).await.0, 200);
    let before = simulator.running.processor.payments();
    let again = simulator.post_as(id(1), "5.00", "2025-07-16T00:00:00Z");
    let again = again.send().await.unwrap();
    assert_eq!(again.status(), 422);
    let reply: Value = again.json().await.unwrap();
    let words = reply["message"].as_str().unwrap();
    assert!(words.contains("CorrelationId already exists"), "{words}");
    assert_eq!(simulator.running.processor.payments(), before);
}

#[tokio::test]
async fn of_many_posts_of_one_id_at_once_one_is_stored() {
    let simulator = started(Settings::default()).await;
    simulator
        .running
        .processor
        .set_delay(Duration::from_millis(20));
    let posts = (0..20).map(|_| simulator.posted(id(1)));
    let mut statuses: Vec<_> = futures_util::future::join_all(posts)
        .await
        .into_iter()
        .map(|(status, _)| status)
        .collect();
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, &[422; 19][..]));
    assert_eq!(simulator.running.processor.payments().len(), 1);
}

#[tokio::test]
async fn a_failing_processor_answers_500_without_a_body_and_stores_nothing() {
    let simulator = started(Settings {
        failing: true,
        ..Settings::default()
    })
    .await;
    assert_eq!(simulator.posted(id(1)).await, (500, String::new()));
    assert!(!simulator.stores(id(1)));
    simulator.running.processor.set_failing(false);
    assert_eq!(simulator.posted(id(1)).await.0, 200);
    // The failure comes before the look whether the id is there.
    simulator.running.processor.set_failing(true);
    assert_eq!(simulator.posted(id(1)).await, (500, String::new()));
}

#[tokio::test]
async fn the_delay_comes_before_the_failure() {
    let delay = Duration::from_millis(300);
    let simulator = started(Settings {
        delay,
        ..Settings::default()
    })
    .await;
    let processor = &simulator.running.processor;
    let begin = Instant::now();
    let (posted, ()) = tokio::join!(simulator.posted(id(1)), async {
        until("the payment is being served", || {
            processor.in_service() == 1
        })
        .await;
        processor.set_failing(true);
    });
    // It was not failing when the payment came, only when its delay was over.
    assert_eq!(posted.0, 500);
    assert!(begin.elapsed() >= delay, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_payment_is_stored_after_its_client_hung_up() {
    let delay = Duration::from_millis(500);
    let simulator = started(Settings {
        delay,
        ..Settings::default()
    })
    .await;
    let begin = Instant::now();
    let gone = simulator
        .post(id(1))
        .timeout(Duration::from_millis(100))
        .send()
        .await
        .unwrap_err();
    assert!(gone.is_timeout(), "{gone}");
    assert!(!simulator.stores(id(1)));
    until("the payment is stored", || simulator.stores(id(1))).await;
    assert!(begin.elapsed() >= delay, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn lookups_know_neither_delay_nor_failure() {
    let simulator = started(Settings::default()).await;
    assert_eq!(simulator.posted(id(1)).await.0, 200);
    simulator.running.processor.set_failing(true);
    simulator
        .running
        .processor
        .set_delay(Duration::from_secs(60));
    let lookup = simulator
        .request(Method::GET, &format!("/payments/{}", id(1)))
        .timeout(Duration::from_secs(10));
    assert_eq!(lookup.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_is_not_a_payment_is_refused_and_not_stored() {
    let simulator = started(Settings::default()).await;
    let bodies = [
        String::new(),
        "{}".to_owned(),
        format!(r#"{{"correlationId":"{}","amount":null}}"#, id(1)),
        format!(
            r#"{{"correlationId":"{}","amount":1,"requestedAt":"now"}}"#,
            id(1)
        ),
        r#"{"correlationId":"1","amount":1,"requestedAt":"2025-07-15T12:34:56Z"}"#.to_owned(),
    ];
    for body in bodies {
        let post = simulator.request(Method::POST, "/payments");
        let post = post.header("Content-Type", "application/json");
        let reply = post.body(body.clone()).send().await.unwrap();
        assert_eq!(reply.status(), 400, "{body}");
    }
    let huge = simulator
        .request(Method::POST, "/payments")
        .body(vec![b' '; 65 * 1024]);
    assert_eq!(huge.send().await.unwrap().status(), 413);
    let beyond = simulator.post_as(id(1), "1e20", "2025-07-15T12:34:56Z");
    assert_eq!(beyond.send().await.unwrap().status(), 400);
    assert_eq!(simulator.running.processor.payments(), []);
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405() {
    let simulator = started(Settings::default()).await;
    assert_eq!(simulator.get("/payment").await.status(), 404);
    let wrong = simulator.get("/payments").await;
    assert_eq!(wrong.status(), 405);
    assert_eq!(wrong.headers()["allow"], "POST");
}
