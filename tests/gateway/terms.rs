//! Instances that contradict each other.

use std::process::Command;
use std::time::{Duration, Instant};

use payment_proxy::domain::lease::INSTANCE_TTL;
use payment_proxy::pipeline::deployment::HEARTBEAT_INTERVAL;
use reqwest::StatusCode;
use serde_json::Value;

use crate::support::{CENTS, Database, Gateway, eventually, new_payment, processor};

fn configured(entries: &[(&str, &str, String)]) -> String {
    let entries = entries
        .iter()
        .map(|(name, fee, url)| format!("{name},{fee},{url}"));
    entries.collect::<Vec<_>>().join(" ")
}

/// What a command of the program prints, and its exit code.
fn run(database: &Database, arguments: &[&str]) -> (i32, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
        .args(arguments)
        .env("DATABASE_URL", &database.url)
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let code = done.status.code().expect("an exit code");
    (
        code,
        String::from_utf8_lossy(&done.stdout).into_owned() + &said,
    )
}

fn show(database: &Database) -> (i32, Value) {
    let (code, shown) = run(database, &["deployment", "show", "--json"]);
    (code, serde_json::from_str(&shown).expect("JSON"))
}

/// The instances go on with the terms of the one that is held.
fn declare_terms_of_the_held_one(database: &Database, reason: &str) {
    let (_, shown) = show(database);
    let instances = shown["instances"].as_array().expect("instances");
    let held = instances.iter().find(|each| each["held"].is_string());
    let id = held.expect("one is held")["id"].as_str().expect("an id");
    let words = [
        "deployment",
        "declare",
        "terms",
        "--like",
        id,
        "--reason",
        reason,
    ];
    let (code, said) = run(database, &words);
    assert_eq!(code, 0, "{said}");
}

/// It says that it is not ready and why, takes nothing, and tells it once.
async fn contradicts(gateway: &Gateway, difference: &str) {
    eventually("it says what differs", async || {
        let reply = gateway.get("/readyz").await;
        reply.status() == StatusCode::SERVICE_UNAVAILABLE
            && reply.text().await.expect("a body").contains(difference)
    })
    .await;
    gateway.refuses().await;
    let log = gateway.log();
    let told = log.lines().filter(|line| line.contains(" held, nothing"));
    let told: Vec<_> = told.collect();
    assert!(told.len() == 1 && told[0].contains(difference), "{log}");
}

#[tokio::test]
async fn an_instance_that_contradicts_the_living_ones_is_held_and_says_what_differs() {
    let (database, a, b) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let entry = |name, fee, url: &str| (name, fee, url.to_owned());
    let right = [
        entry("default", "0.05", &a.url()),
        entry("fallback", "0.15", &b.url()),
    ];
    let logged = ("QUEUE_DURABILITY", "logged");
    let serving = Gateway::start(&database, &configured(&right), &[logged]).await;
    for (entries, settings, difference) in [
        (
            vec![
                entry("default", "0.05", &b.url()),
                entry("fallback", "0.15", &a.url()),
            ],
            vec![logged],
            format!(
                "default is at {} here, at {} in the deployment",
                b.url(),
                a.url()
            ),
        ),
        (
            vec![entry("alpha", "0.01", &b.url())],
            vec![logged],
            format!(
                "alpha is at {} here, which is fallback in the deployment",
                b.url()
            ),
        ),
        (
            vec![
                entry("default", "0.04", &a.url()),
                entry("fallback", "0.15", &b.url()),
            ],
            vec![logged],
            "the fee of default is 0.04 here, 0.05 in the deployment".to_owned(),
        ),
        (
            right.to_vec(),
            vec![],
            "QUEUE_DURABILITY is unlogged here, logged in the deployment".to_owned(),
        ),
    ] {
        let other = Gateway::spawn(&database.url, &configured(&entries), &settings);
        contradicts(&other, &difference).await;
        let (code, shown) = show(&database);
        assert_eq!(code, 1);
        assert!(
            shown["instances"].to_string().contains(&difference),
            "{shown}"
        );
        other.stop().await;
    }
    // Neither the durability nor the fees were changed by any of them.
    assert_eq!(database.count("processor_fee").await, 2);
    let logged = "pg_class WHERE oid = 'payment_queue'::regclass AND relpersistence = 'p'";
    assert_eq!(database.count(logged).await, 1);
    // The same, written differently, is no contradiction.
    let same = [
        entry(
            "fallback",
            "0.150",
            &format!("{}/", b.url().replace("http", "HTTP")),
        ),
        entry("default", "0.05", &a.url()),
    ];
    let second = Gateway::start(
        &database,
        &configured(&same),
        &[("QUEUE_DURABILITY", "logged")],
    )
    .await;
    let ids = [serving.post_many(5).await, second.post_many(5).await].concat();
    serving.until_settled(&ids).await;
    assert_eq!(show(&database).0, 0);
}

#[tokio::test]
async fn of_instances_that_start_at_once_with_different_terms_one_serves() {
    let (database, a, b) = (
        Database::migrated().await,
        processor().await,
        processor().await,
    );
    let terms = [
        configured(&[("default", "0.05", a.url())]),
        configured(&[("default", "0.05", b.url())]),
    ];
    let gateways: Vec<Gateway> = (0..6)
        .map(|number| Gateway::spawn(&database.url, &terms[number % 2], &[]))
        .collect();
    let mut serving = Vec::new();
    eventually("all have decided", async || {
        serving.clear();
        let mut held = 0;
        for (number, gateway) in gateways.iter().enumerate() {
            if gateway.is_ready().await {
                serving.push(number);
            } else if gateway.log().contains("it contradicts the deployment") {
                held += 1;
            }
        }
        serving.len() + held == gateways.len()
    })
    .await;
    assert_eq!(serving.len(), 3, "those with the terms of the first");
    assert!(serving.iter().all(|number| number % 2 == serving[0] % 2));
}

#[tokio::test]
async fn a_planned_move_goes_on_when_the_others_have_stopped() {
    let (database, a, b) = (
        Database::migrated().await,
        processor().await,
        processor().await,
    );
    let old = configured(&[("default", "0.05", a.url())]);
    let new = configured(&[("default", "0.04", b.url())]);
    let before = Gateway::start(&database, &old, &[]).await;
    let ids = before.post_many(3).await;
    before.until_settled(&ids).await;
    let after = Gateway::spawn(&database.url, &new, &[]);
    contradicts(&after, "the fee of default is 0.04 here").await;
    before.stop().await;
    after.until_ready().await;
    let ids = after.post_many(3).await;
    after.until_settled(&ids).await;
    assert_eq!(b.processor.payments().len(), 3);
    assert!(after.log().contains("the deployment has new terms"));
}

#[tokio::test]
async fn an_address_is_not_moved_from_under_payments_that_its_processor_may_have_charged() {
    let (database, a, b) = (
        Database::migrated().await,
        processor().await,
        processor().await,
    );
    let old = configured(&[("default", "0.05", a.url())]);
    let before = Gateway::start(&database, &old, &[]).await;
    let ids = before.post_many(1).await;
    before.until_settled(&ids).await;
    before.stop().await;
    let payment = new_payment().correlation_id;
    crate::support::hold(&database, payment).await;
    let new = configured(&[("default", "0.05", b.url())]);
    let after = Gateway::spawn(&database.url, &new, &[]);
    contradicts(
        &after,
        "payments may be charged by default where the deployment has it",
    )
    .await;
    assert_eq!(b.processor.payments().len(), 0);

    // An operator says that it is the same processor.
    declare_terms_of_the_held_one(&database, "it has moved");
    after.until_ready().await;
    after.until_settled(&[payment]).await;
}

#[tokio::test]
async fn by_the_word_of_an_operator_the_newer_instance_serves_and_the_older_is_held() {
    let (database, a) = (Database::migrated().await, processor().await);
    let old = configured(&[("default", "0.05", a.url())]);
    let new = configured(&[("default", "0.04", a.url())]);
    let older = Gateway::start(&database, &old, &[]).await;
    let newer = Gateway::spawn(&database.url, &new, &[]);
    contradicts(&newer, "the fee of default is 0.04 here").await;
    declare_terms_of_the_held_one(&database, "a lower fee");
    newer.until_ready().await;
    contradicts(
        &older,
        "the fee of default is 0.05 here, 0.04 in the deployment",
    )
    .await;
    assert_eq!(
        newer.post(new_payment().correlation_id, CENTS).await,
        StatusCode::ACCEPTED
    );
    // The older one does not take it back when the newer one dies.
    newer.crash();
    eventually("nobody serves any more", async || {
        let serving = "service_instance WHERE held IS NULL AND seen_at > now() - interval '5 s'";
        database.count(serving).await == 0
    })
    .await;
    tokio::time::sleep(2 * HEARTBEAT_INTERVAL).await;
    older.refuses().await;
}

/// From now on the database's clock is set forward again after every heartbeat: nobody seems to be
/// alive by it.
async fn set_the_clock_forward_all_the_time(database: &Database) {
    database
        .execute(
            "CREATE FUNCTION long_ago() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                NEW.seen_at := NEW.seen_at - interval '85 s';
                RETURN NEW;
            END $$;
            CREATE TRIGGER long_ago BEFORE INSERT OR UPDATE ON service_instance
                FOR EACH ROW EXECUTE FUNCTION long_ago();
            UPDATE service_instance SET seen_at = seen_at",
        )
        .await;
}

#[tokio::test]
async fn whoever_gives_heartbeats_is_not_replaced_though_the_databases_clock_says_that_it_is_dead()
{
    let (database, a, b) = (
        Database::migrated().await,
        processor().await,
        processor().await,
    );
    let old = configured(&[("default", "0.05", a.url())]);
    let new = configured(&[("default", "0.05", b.url())]);
    let before = Gateway::start(&database, &old, &[]).await;
    set_the_clock_forward_all_the_time(&database).await;
    let after = Gateway::spawn(&database.url, &new, &[]);
    // Meanwhile nobody may take the queue from under it either.
    let discard = [
        "deployment",
        "declare",
        "clone",
        "--discard",
        "--reason",
        "x",
    ];
    let (code, said) = run(&database, &discard);
    assert!(
        code == 1 && said.contains("instances serve from this database"),
        "{said}"
    );
    let logged = ["migrate", "--queue-durability", "logged"];
    let (code, said) = run(&database, &logged);
    assert!(
        code == 2 && said.contains("what those that serve rest on"),
        "{said}"
    );
    contradicts(&after, "default is at").await;
    let ids = before.post_many(3).await;
    before.until_settled(&ids).await;
    assert_eq!(b.processor.payments().len(), 0);
    // It dies, and that shows when it has given no heartbeat for a while.
    let died_at = Instant::now();
    before.crash();
    after.until_ready().await;
    let silent = died_at.elapsed();
    assert!(
        silent + Duration::from_secs(1) >= INSTANCE_TTL,
        "{silent:?}"
    );
}

#[tokio::test]
async fn what_a_contradiction_says_tells_no_secret_of_a_url() {
    let (database, a) = (Database::migrated().await, processor().await);
    let with = |key: &str| configured(&[("default", "0.05", format!("{}/?key={key}", a.url()))]);
    let serving = Gateway::start(&database, &with("one-secret"), &[]).await;
    let ids = serving.post_many(3).await;
    serving.until_settled(&ids).await;
    let other = Gateway::spawn(&database.url, &with("another-secret"), &[]);
    contradicts(&other, "default is at").await;
    let (_, shown) = show(&database);
    let told = other.get("/readyz").await.text().await.expect("a body");
    let kept: String = database
        .value(
            "SELECT string_agg(terms::text, '') FROM (SELECT terms FROM service_instance UNION \
            ALL SELECT terms FROM deployment) t",
        )
        .await;
    for text in [told, other.log(), serving.log(), shown.to_string(), kept] {
        assert!(!text.contains("secret"), "{text}");
    }
}
