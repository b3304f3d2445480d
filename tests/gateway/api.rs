//! What clients are told.

use payment_proxy::http::ProblemKind;
use reqwest::StatusCode;
use reqwest::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use serde_json::json;
use uuid::Uuid;

use crate::support::{CENTS, Database, Gateway, payment_json, processor, processors};

async fn problem(response: reqwest::Response, status: StatusCode) -> String {
    Gateway::problem(response, status).await.1
}

#[tokio::test]
async fn a_payment_is_accepted_settled_and_shown() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let gateway = Gateway::start(&database, &processors(&[&default, &fallback]), &[]).await;
    let id = Uuid::new_v4();
    assert_eq!(gateway.post(id, CENTS).await, StatusCode::ACCEPTED);
    gateway.until_settled(&[id]).await;
    let view = gateway.json(&format!("/payments/{id}")).await;
    let stored = default
        .processor
        .payment(id)
        .expect("the cheap processor has it");
    assert_eq!(view["processor"], "default");
    assert_eq!(view["attempts"], 1);
    assert_eq!(view["amount"].to_string(), "19.90");
    assert_eq!(
        view["requestedAt"],
        payment_proxy::domain::payment::format_time(stored.requested_at)
    );
    let summary = gateway
        .get("/payments-summary")
        .await
        .text()
        .await
        .expect("a body");
    assert_eq!(
        summary,
        r#"{"default":{"totalRequests":1,"totalAmount":19.90},"fallback":{"totalRequests":0,"totalAmount":0}}"#
    );
}

#[tokio::test]
async fn a_summary_range_includes_both_ends() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let id = gateway.post_many(1).await[0];
    gateway.until_settled(&[id]).await;
    let requested_at = default
        .processor
        .payment(id)
        .expect("it is there")
        .requested_at;
    let at = payment_proxy::domain::payment::format_time(requested_at);
    let before = payment_proxy::domain::payment::format_time(
        requested_at - chrono::Duration::milliseconds(1),
    );
    let after = payment_proxy::domain::payment::format_time(
        requested_at + chrono::Duration::milliseconds(1),
    );
    for (query, expected) in [
        (format!("from={at}&to={at}"), 1),
        (format!("from={at}"), 1),
        (format!("to={at}"), 1),
        (format!("from={after}"), 0),
        (format!("to={before}"), 0),
        ("from=&to=".to_owned(), 1),
    ] {
        let summary = gateway.json(&format!("/payments-summary?{query}")).await;
        assert_eq!(
            summary["default"]["totalRequests"],
            json!(expected),
            "{query}"
        );
    }
}

#[tokio::test]
async fn bad_requests_are_told_what_to_change_and_harm_nothing() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let id = Uuid::new_v4();
    let body = |amount: &str| format!(r#"{{"correlationId":"{id}","amount":{amount}}}"#);
    let long = format!(r#"{{"padding":"{}"}}"#, "x".repeat(5_000));
    let (bad, unprocessable) = (StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY);
    for (body, status, detail) in [
        ("{".to_owned(), bad, "not a JSON object"),
        (String::new(), bad, "not a JSON object"),
        ("[]".to_owned(), bad, "another JSON value"),
        (
            r#"{"amount":1}"#.to_owned(),
            unprocessable,
            "`correlationId` is missing",
        ),
        (
            format!(r#"{{"correlationId":"{id}"}}"#),
            unprocessable,
            "`amount` is missing",
        ),
        (
            r#"{"correlationId":"x","amount":1}"#.to_owned(),
            unprocessable,
            "UUID",
        ),
        (
            r#"{"correlationId":7,"amount":1}"#.to_owned(),
            unprocessable,
            "UUID",
        ),
        (body("\"19.90\""), unprocessable, "JSON number"),
        (body("0"), unprocessable, "more than 0"),
        (body("-19.90"), unprocessable, "more than 0"),
        (body("19.901"), unprocessable, "two decimals"),
        (
            body("1000000000000"),
            unprocessable,
            "less than 1000000000000",
        ),
        (long, StatusCode::PAYLOAD_TOO_LARGE, "4096 bytes"),
    ] {
        let told = problem(gateway.post_body("/payments", body.clone()).await, status).await;
        assert!(told.contains(detail), "{body}: {told}");
    }
    let text = gateway
        .http
        .post("http://gateway/payments")
        .header(CONTENT_TYPE, "text/plain");
    let told = problem(
        text.body(payment_json(id, CENTS))
            .send()
            .await
            .expect("a reply"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
    );
    assert!(told.await.contains("application/json"));
    let wrong_method = gateway
        .http
        .put("http://gateway/payments")
        .send()
        .await
        .expect("a reply");
    assert_eq!(wrong_method.headers()[ALLOW], "POST");
    problem(wrong_method, StatusCode::METHOD_NOT_ALLOWED).await;
    for (query, detail) in [
        ("from=yesterday", "`from` must be a time"),
        ("to=2026-13-01T00:00:00Z", "`to` must be a time"),
        (
            "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
            "`from` must not be after `to`",
        ),
    ] {
        let told = problem(
            gateway.get(&format!("/payments-summary?{query}")).await,
            bad,
        )
        .await;
        assert!(told.contains(detail), "{query}: {told}");
    }
    problem(gateway.get("/payments/not-a-uuid").await, bad).await;
    problem(
        gateway.get(&format!("/payments/{id}")).await,
        StatusCode::NOT_FOUND,
    )
    .await;
    problem(gateway.get("/nowhere").await, StatusCode::NOT_FOUND).await;
    assert_eq!(
        database.count("payment_queue").await + database.count("payment_processed").await,
        0
    );
    assert_eq!(gateway.post(id, CENTS).await, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn purge_empties_the_books_only_where_it_is_allowed() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(
        &database,
        &processors(&[&default]),
        &[("ALLOW_PURGE", "false")],
    )
    .await;
    let ids = gateway.post_many(3).await;
    gateway.until_settled(&ids).await;
    problem(
        gateway.post_body("/purge-payments", "").await,
        StatusCode::FORBIDDEN,
    )
    .await;
    assert_eq!(database.count("payment_processed").await, 3);
    let allowed = Gateway::start(&database, &processors(&[&default]), &[]).await;
    assert_eq!(
        allowed.post_body("/purge-payments", "").await.status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(database.count("payment_processed").await, 0);
}

#[tokio::test]
async fn without_a_database_clients_get_503_and_later_service_without_a_restart() {
    let default = processor().await;
    let database = Database::create().await;
    // Nobody may connect to it: for the instance the database is away.
    let (server, name) = database.url.rsplit_once('/').expect("a path");
    let cluster = Database {
        url: server.to_owned(),
        pool: sqlx::PgPool::connect(&std::env::var("TEST_DATABASE_URL").expect("set"))
            .await
            .expect("the cluster answers"),
    };
    cluster
        .execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        .await;
    let gateway = Gateway::start_unready(&database.url, &processors(&[&default])).await;
    let refused = gateway
        .post_body("/payments", payment_json(Uuid::new_v4(), CENTS))
        .await;
    assert_eq!(refused.headers()[RETRY_AFTER], "1");
    let (kind, _) = Gateway::problem(refused, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(kind, ProblemKind::Unavailable, "nothing was sent to it");
    problem(
        gateway.get("/readyz").await,
        StatusCode::SERVICE_UNAVAILABLE,
    )
    .await;
    cluster
        .execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        .await;
    gateway.until_ready().await;
    let ids = gateway.post_many(1).await;
    gateway.until_settled(&ids).await;
}
