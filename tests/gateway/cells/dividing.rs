//! The way from one database to cells: all of its payments move there, while instances serve.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{SubsecRound as _, Utc};
use reqwest::StatusCode;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::lists::refusal;
use super::serving::totals;
use super::{Deployment, are_charged_once};
use crate::command_line::{program, run};
use crate::support::{CENTS, Database, Gateway, eventually, processor, processors};

/// Empty databases that are to become cells.
async fn empty(cells: usize) -> Deployment {
    let mut databases = Vec::new();
    for _ in 0..cells {
        databases.push(Database::create().await);
    }
    Deployment::at(databases)
}

/// A client of processors.
fn client() -> reqwest::Client {
    payment_proxy::config::tls::plain()
        .build()
        .expect("a client")
}

/// Moves the payments of a database. Returns the exit code and what was said.
async fn divide(old: &Database, into: &Deployment) -> (i32, String) {
    run(&mut program(&into.all.url, &["divide", "--from", &old.url])).await
}

/// Has a cell refuse to be filled, until [`mend`].
async fn break_cell(cell: &Database) {
    cell.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'it is broken'; END $$;
        CREATE TRIGGER broken BEFORE DELETE ON payment_dead_letter
            FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
    )
    .await;
}

async fn mend(cell: &Database) {
    let mend = "DROP TRIGGER broken ON payment_dead_letter; DROP FUNCTION refuse";
    cell.execute(mend).await;
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("no code panics under this lock")
}

/// Posts new payments, each until it is accepted, to whichever instance is the present one.
struct Clients {
    present: Arc<Mutex<Arc<Gateway>>>,
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<Vec<Uuid>>>,
    running: tokio::task::JoinSet<()>,
}

impl Clients {
    fn start(gateway: &Arc<Gateway>) -> Self {
        let mut clients = Self {
            present: Arc::new(Mutex::new(Arc::clone(gateway))),
            stop: Arc::default(),
            accepted: Arc::default(),
            running: tokio::task::JoinSet::new(),
        };
        for _ in 0..3 {
            let (present, stop) = (Arc::clone(&clients.present), Arc::clone(&clients.stop));
            let accepted = Arc::clone(&clients.accepted);
            clients.running.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let id = Uuid::new_v4();
                    loop {
                        let gateway = Arc::clone(&lock(&present));
                        match gateway.post(id, CENTS).await {
                            StatusCode::ACCEPTED => break lock(&accepted).push(id),
                            told => assert_eq!(told, StatusCode::SERVICE_UNAVAILABLE),
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        clients
    }

    /// Waits until so many more payments were accepted.
    async fn until_more(&self, count: usize) {
        let accepted = || lock(&self.accepted).len();
        let enough = accepted() + count;
        eventually("more are accepted", async || accepted() >= enough).await;
    }

    async fn stop(self) -> Vec<Uuid> {
        self.stop.store(true, Ordering::Relaxed);
        self.running.join_all().await;
        lock(&self.accepted).clone()
    }
}

#[tokio::test]
async fn a_database_is_divided_while_it_serves_and_no_payment_is_lost_or_charged_again() {
    let (old, default) = (Database::migrated().await, processor().await);
    let processors = processors(&[&default]);
    // Leases of more than a minute.
    let settings = [("PROCESSOR_TIMEOUT_MS", "60000")];
    let before = Arc::new(Gateway::start(&old, &processors, &settings).await);
    let mut ids = before.post_many(60).await;
    before.until_settled(&ids).await;
    let clients = Clients::start(&before);
    clients.until_more(20).await;

    // A call whose worker died, and a dead letter.
    let (charged, dead) = (Uuid::new_v4(), Uuid::new_v4());
    let requested_at = Utc::now().trunc_subsecs(3);
    old.execute(&format!(
        "INSERT INTO payment_queue (correlation_id, amount, attempt, lease_until, processor,
            requested_at, doubt_until)
        VALUES ('{charged}', 19.90, 1, now() + interval '60 s', 'default', '{requested_at}',
            now() + interval '65 s');
        INSERT INTO payment_attempt (correlation_id, requested_at, outcome, processor, reason,
            first_claim, last_claim)
        VALUES ('{dead}', now(), 'refused', 'default', 'no', 1, 1),
            ('{}', now() - interval '1 s', 'not_charged', 'default', 'no', 1, 1);
        INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt, processor,
            reason)
        VALUES ('{dead}', 1, now(), 1, 'default', 'refused');
        INSERT INTO processor_switch (processor, enabled, switched_by, reason)
        VALUES ('default', true, 'somebody', 'a test')",
        ids[0]
    ))
    .await;

    let cells = empty(3).await;
    let (code, text) = divide(&old, &cells).await;
    assert!(
        code == 0 && text.contains("all payments are in the cells"),
        "{text}"
    );
    eventually("the old instance says so", async || {
        !before.is_ready().await
    })
    .await;
    before.refuses().await;
    let told = refusal(&old).await;
    assert!(told.contains("are in the cells of deployment"), "{told}");
    for table in ["payment_dead_letter", "payment_queue", "payment_attempt"] {
        cells.are_where_they_belong(table).await;
        assert_eq!(cells.count(table).await, old.count(table).await, "{table}");
    }
    assert_eq!(cells.cells[0].count("processor_switch").await, 1);
    for cell in &cells.cells {
        assert_eq!(cell.count("processor_fee").await, 1);
    }
    let lease = format!(
        "payment_queue WHERE correlation_id = '{charged}' AND attempt = 1
            AND processor = 'default' AND requested_at = '{requested_at}'
            AND lease_until BETWEEN now() + interval '1 s' AND now() + interval '60 s'
            AND doubt_until BETWEEN lease_until + interval '4 s' AND lease_until + interval '6 s'"
    );
    assert_eq!(cells.count(&lease).await, 1);
    // Its processor has charged it at last.
    let body = serde_json::json!({
        "correlationId": charged, "amount": 19.9, "requestedAt": requested_at,
    });
    let charge = client().post(format!("{}/payments", default.url()));
    let charge = charge.header("content-type", "application/json");
    let told = charge.body(body.to_string()).send().await.expect("a reply");
    assert!(told.status().is_success());
    // The test does not wait for the leases of what the old instance had in flight.
    for cell in &cells.cells {
        cell.execute("UPDATE payment_queue SET lease_until = now() WHERE processor IS NOT NULL")
            .await;
    }

    let after = Arc::new(Gateway::start(&cells.all, &processors, &settings).await);
    *lock(&clients.present) = Arc::clone(&after);
    clients.until_more(20).await;
    ids.extend(clients.stop().await);
    for id in &ids[..10] {
        assert_eq!(after.post(*id, CENTS).await, StatusCode::ACCEPTED, "known");
    }
    assert_eq!(after.post(ids[0], CENTS + 1).await, StatusCode::CONFLICT);
    assert_eq!(
        after.post(charged, CENTS).await,
        StatusCode::ACCEPTED,
        "known"
    );
    ids.push(charged);
    after.until_settled(&ids).await;
    eventually("the queues are empty", async || {
        cells.count("payment_queue").await == 0
    })
    .await;
    are_charged_once(&cells, &[&default], &ids).await;
    let number = ids.len() as i64;
    let sum = Decimal::new(number * CENTS, 2);
    let told = totals(&after.json("/payments-summary").await);
    assert_eq!(told, (number as u64, sum));
    eventually("all is counted, and nothing is missing", async || {
        let mut wrong = 0;
        for cell in &cells.cells {
            wrong += cell
                .value::<i64>("SELECT sum(missing + uncounted)::bigint FROM audit.balance()")
                .await;
        }
        wrong == 0
    })
    .await;
}

#[tokio::test]
async fn a_division_that_fails_goes_on_as_before_and_can_be_run_again() {
    let (old, default) = (Database::migrated().await, processor().await);
    let processors = processors(&[&default]);
    let gateway = Gateway::start(&old, &processors, &[]).await;
    let mut ids = gateway.post_many(20).await;
    gateway.until_settled(&ids).await;
    let cells = Deployment::of(2).await;
    break_cell(&cells.cells[1]).await;
    let (code, text) = divide(&old, &cells).await;
    let expected = "the old database takes payments again: cell 2 of 2: ";
    assert!(code == 2 && text.contains(expected), "{text}");
    let told = refusal(&cells.all).await;
    assert!(told.contains("has not got all of its payments"), "{told}");
    eventually("the old database is served again", async || {
        gateway.is_ready().await
    })
    .await;
    eventually("it takes payments", async || {
        let id = Uuid::new_v4();
        let told = gateway.post(id, CENTS).await;
        ids.extend((told == StatusCode::ACCEPTED).then_some(id));
        told == StatusCode::ACCEPTED
    })
    .await;
    ids.extend(gateway.post_many(20).await);
    gateway.until_settled(&ids).await;

    mend(&cells.cells[1]).await;
    for _ in 0..2 {
        let (code, text) = divide(&old, &cells).await;
        assert_eq!(code, 0, "the second time there is nothing to do: {text}");
    }
    let after = Gateway::start(&cells.all, &processors, &[]).await;
    for id in &ids {
        assert_eq!(after.post(*id, CENTS).await, StatusCode::ACCEPTED, "known");
    }
    let new = after.post_many(10).await;
    after.until_settled(&new).await;
    ids.extend(new);
    let (code, text) = divide(&old, &cells).await;
    assert_eq!(code, 0, "also while the cells are served: {text}");
    are_charged_once(&cells, &[&default], &ids).await;
}

#[tokio::test]
async fn a_payment_that_is_accepted_while_a_database_is_closed_is_in_a_cell_or_refused() {
    let (old, cells) = (Database::migrated().await, empty(2).await);
    let insert = || {
        let id = Uuid::new_v4();
        format!("INSERT INTO payment_queue (correlation_id, amount) VALUES ('{id}', 1)")
    };
    let mut open = old.pool.begin().await.expect("a transaction");
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert()))
        .execute(&mut *open)
        .await
        .expect("an insert");
    let mut dividing = program(&cells.all.url, &["divide", "--from", &old.url]);
    let dividing = tokio::spawn(async move { run(&mut dividing).await });
    eventually("the close waits for the open transaction", async || {
        old.waiting_for_a_lock("refuse_divided").await > 0
    })
    .await;
    let pool = old.pool.clone();
    let late = insert();
    let late = tokio::spawn(async move {
        sqlx::raw_sql(sqlx::AssertSqlSafe(late))
            .execute(&pool)
            .await
            .map(|_| ())
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    open.commit().await.expect("a commit");
    let late = late.await.expect("no panic");
    let (code, text) = dividing.await.expect("no panic");
    assert_eq!(code, 0, "{text}");
    // It waited behind the close, unless that gave up for a moment.
    let accepted = match late {
        Ok(()) => 2,
        Err(error) => {
            assert!(error.to_string().contains("are in the cells of"), "{error}");
            1
        }
    };
    assert_eq!(cells.count("payment_queue").await, accepted);
    assert_eq!(old.count("payment_queue").await, accepted);
    for statement in [
        &insert()[..],
        "DELETE FROM payment_queue",
        "TRUNCATE payment_queue",
    ] {
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()));
        refused.execute(&old.pool).await.expect_err("it is closed");
    }
}

#[tokio::test]
async fn what_cannot_be_divided_is_refused_in_one_line_and_left_as_it_is() {
    let refused = async |old: &Database, cells: &Deployment, expected: &str| {
        let (code, text) = divide(old, cells).await;
        let last = text.lines().last().unwrap_or_default();
        assert!(code == 2 && last.contains(expected), "{expected}: {text}");
        assert_eq!(
            old.count("deployment WHERE divided_into IS NOT NULL").await,
            0
        );
    };
    let cells = Deployment::of(2).await;
    for (statement, expected) in [
        ("UPDATE deployment SET asks_first = true", "is not over"),
        (
            "INSERT INTO payment_queue_emptied (life) VALUES (gen_random_uuid())",
            "was emptied",
        ),
        (
            "INSERT INTO payment_archived_month (month, file, sha256, requests, amount)
            VALUES ('2026-01-01', 'f', 's', 0, 0)",
            "are archived",
        ),
        ("UPDATE deployment SET cells = 2", "is a cell already"),
    ] {
        let old = Database::migrated().await;
        old.execute(statement).await;
        refused(&old, &cells, expected).await;
        assert_eq!(
            cells
                .count("deployment WHERE filling_from IS NOT NULL")
                .await,
            0
        );
    }
    // What was copied, and changed then, would be wrong in the cells for ever.
    let (old, id) = (Database::migrated().await, Uuid::new_v4());
    let settled = format!(
        "INSERT INTO payment_processed
            (correlation_id, amount, processor, requested_at, accepted_at, attempt)
        VALUES ('{id}', 1, 'default', now(), now(), 1)"
    );
    old.execute(&settled).await;
    break_cell(&cells.cells[1]).await;
    refused(&old, &cells, "it is broken").await;
    old.execute("UPDATE payment_processed SET amount = 2").await;
    refused(&old, &cells, "were changed or removed there since").await;
    // Other payments.
    let cells = Deployment::of(2).await;
    cells.cells[1].execute(&settled).await;
    refused(&old, &cells, "only empty cells are filled").await;
    let one = empty(1).await;
    refused(&old, &one, "DATABASE_URL has one URL").await;
}
