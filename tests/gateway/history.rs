//! What was, minute by minute: written by each instance, kept for two days, and told to whoever
//! comes later.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use payment_proxy::pipeline::history::{Counted, HISTORY_KEPT, History, Minute, OutSeconds, write};
use reqwest::StatusCode;
use serde_json::Value;
use uuid::Uuid;

use crate::metrics::free_address;
use crate::support::{Database, Gateway, eventually, processor, processors};

const TOKEN: &str = "a-token-of-some-length";

async fn get(address: &str, path: &str) -> reqwest::Response {
    let client = payment_proxy::config::tls::plain()
        .build()
        .expect("a client");
    let get = client.get(format!("http://{address}{path}"));
    get.bearer_auth(TOKEN).send().await.expect("a reply")
}

#[tokio::test]
async fn an_instance_writes_down_what_it_saw_of_its_last_minute() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let servers = processors(&[&default, &fallback]);
    let limit = [("QUEUE_LIMIT", "3")];
    let gateway = Gateway::start(&database, &servers, &limit).await;
    let ids = gateway.post_many(2).await;
    gateway.until_settled(&ids).await;
    // Nobody takes payments: the queue fills, and others are refused.
    database
        .execute("UPDATE processor_health SET enabled = false")
        .await;
    eventually("it knows that they are off", async || {
        gateway.log().matches("switched by an operator").count() == 2
    })
    .await;
    let (mut accepted, mut refused) = (2, 0);
    eventually("posts are refused", async || {
        match gateway.post(Uuid::new_v4(), 100).await {
            StatusCode::ACCEPTED => accepted += 1,
            status => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
                refused += 1;
            }
        }
        refused >= 3
    })
    .await;
    // It has looked since, which it does once a second.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    // The longest queue is told, not the last.
    database.execute("DELETE FROM payment_queue").await;
    gateway.stop().await;

    // Its minute is over before it is shown; it may have seen two.
    database
        .execute("UPDATE service_minute SET minute = minute - interval '5 min'")
        .await;
    let history = History::read(&database.pool, 1).await.expect("an answer");
    let sum = |column: &[Option<i64>]| column.iter().flatten().sum::<i64>();
    assert_eq!(history.accepted.len(), 60);
    assert_eq!(
        (sum(&history.accepted), sum(&history.refused)),
        (accepted, refused)
    );
    let longest = history.queued.iter().flatten().max();
    assert!(
        longest.is_some_and(|longest| (2..=4).contains(longest)),
        "{history:?}"
    );
    let names: Vec<&str> = history.processors.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["default", "fallback"]);
    for processor in &history.processors {
        let off: u32 = processor.off_seconds.iter().flatten().sum();
        assert!(off > 0, "{processor:?}");
    }
    let seen = history.instances.iter().filter(|seen| **seen > 0).count();
    assert!((1..=2).contains(&seen), "{seen} minutes");
    let took = history.p50_ms.iter().flatten().count();
    assert!((1..=2).contains(&took), "{:?}", history.p50_ms);
}

#[tokio::test]
async fn posts_without_a_database_count_as_refused_in_what_was() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let (_, name) = database.url.rsplit_once('/').expect("a path");
    let cluster = Database::at(&std::env::var("TEST_DATABASE_URL").expect("set"));
    let allow = async |anybody: bool| {
        let allow = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {anybody}");
        cluster.execute(&allow).await;
    };
    // It knows the time by now.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    allow(false).await;
    let end =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    cluster.execute(&end).await;
    for _ in 0..2 {
        let status = gateway.post(Uuid::new_v4(), 100).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    allow(true).await;
    gateway.until_ready().await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    gateway.stop().await;
    let (refused, longest) = sqlx::query_as::<_, (i64, Option<i64>)>(
        "SELECT sum(refused)::bigint, max(queued) FROM service_minute",
    )
    .fetch_one(&Database::at(&database.url).pool)
    .await
    .expect("a row");
    assert_eq!((refused, longest), (2, Some(0)));
}

#[tokio::test]
async fn history_adds_up_instances_keeps_two_days_and_leaves_gaps_unknown() {
    let database = Database::migrated().await;
    let now = Utc::now().timestamp().div_euclid(60);
    let minute = |number: i64, accepted: u64, queued: Option<u64>, open: u32| Minute {
        number,
        observed_seconds: 60,
        counted: Counted {
            accepted,
            refused: 1,
        },
        queued,
        processors: BTreeMap::from([(
            "default".to_owned(),
            OutSeconds {
                open,
                ..OutSeconds::default()
            },
        )]),
    };
    let kept = i64::try_from(HISTORY_KEPT.as_secs() / 60).expect("few");
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    for (instance, minute) in [
        (one, minute(now - kept - 1, 1, Some(1), 0)),
        // Of the future: the clock was set back since.
        (one, minute(now + kept + 2, 1, Some(1), 0)),
        (one, minute(now - 5, 10, Some(7), 3)),
        (other, minute(now - 5, 20, None, 30)),
        // The database was away at the end of this one.
        (one, minute(now - 3, 0, None, 0)),
        // Told of the same minute twice, as after a step of the clock.
        (one, minute(now - 3, 4, None, 0)),
    ] {
        write(&database.pool, instance, &minute)
            .await
            .expect("it is written");
    }
    let rows = database.count("service_minute").await;
    assert_eq!(rows, 3, "what is too old is removed");
    database
        .execute(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             SELECT gen_random_uuid(), 1, 'default', date_trunc('minute',
                 now()) - interval '5 min' + interval '1 s',
                date_trunc('minute', now()) - interval '5 min', 1 FROM generate_series(1, 6)",
        )
        .await;
    let history = History::read(&database.pool, 1).await.expect("an answer");
    let last = history.from.timestamp().div_euclid(60) + 59;
    let place = |number: i64| usize::try_from(59 - (last - number)).expect("within");
    let (at, away, gap) = (place(now - 5), place(now - 3), place(now - 4));
    assert_eq!(
        [
            history.instances[at],
            history.instances[away],
            history.instances[gap]
        ],
        [2, 1, 0]
    );
    assert_eq!(
        [
            history.accepted[at],
            history.accepted[away],
            history.accepted[gap]
        ],
        [Some(30), Some(4), None]
    );
    assert_eq!(
        [
            history.queued[at],
            history.queued[away],
            history.queued[gap]
        ],
        [Some(7), None, None]
    );
    let default = &history.processors[0];
    assert_eq!(
        [default.open_seconds[at], default.open_seconds[gap]],
        [Some(30), None]
    );
    assert_eq!(default.settled[at], 6);
}

#[tokio::test]
async fn history_is_told_to_operators_for_a_number_of_hours_that_is_bounded() {
    let (database, default) = (Database::create().await, processor().await);
    let address = free_address();
    let operators = [("OPERATOR_LISTEN", &*address), ("OPERATOR_TOKEN", TOKEN)];
    let _gateway = Gateway::start(&database, &processors(&[&default]), &operators).await;
    let history: Value = get(&address, "/history").await.json().await.expect("JSON");
    assert_eq!(history["accepted"].as_array().map(Vec::len), Some(360));
    let history: Value = get(&address, "/history?hours=48")
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(history["queued"].as_array().map(Vec::len), Some(2_880));
    for hours in ["0", "49", "-1", "many", "1.5"] {
        let reply = get(&address, &format!("/history?hours={hours}")).await;
        assert_eq!(reply.status(), StatusCode::BAD_REQUEST, "{hours}");
    }
    database
        .execute(
            "UPDATE processor_health SET enabled = true;
             SELECT switch_processor('default', false, 'ana', 'maintenance')",
        )
        .await;
    let history: Value = get(&address, "/history").await.json().await.expect("JSON");
    assert_eq!(history["switches"][0]["switchedBy"], "ana");
}
