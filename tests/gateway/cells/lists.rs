//! Which lists of URLs are taken: only those in which every payment is looked for where it is.

use std::process::{Command, Stdio};

use payment_proxy::domain::cell::{Cell, MAX_CELLS};
use uuid::Uuid;

use super::{Deployment, id_in, list, migrate};
use crate::support::{Database, Gateway, eventually, processor, processors};

/// Starts an instance that has to end by itself, and returns what it says last.
pub async fn refusal(all: &Database) -> String {
    let child = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("DATABASE_URL", &all.url)
        .env("PROCESSORS", "default,0.05,http://127.0.0.1:1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let ended = tokio::time::timeout(crate::support::TIMEOUT, ended).await;
    let ended = ended
        .expect("it ends by itself")
        .expect("no panic")
        .expect("a child");
    assert_eq!(ended.status.code(), Some(2));
    let log = String::from_utf8_lossy(&ended.stderr).into_owned();
    let last = log.lines().last().expect("a line").to_owned();
    assert!(last.starts_with("error: "), "{log}");
    last
}

#[tokio::test]
async fn the_database_names_the_same_cell_of_a_payment() {
    let database = Database::migrated().await;
    for cells in [1, 2, 3, 4, 7, MAX_CELLS] {
        for id in (0..50).map(|_| Uuid::new_v4()) {
            let named: i32 = database
                .value(&format!("SELECT cell_of_payment('{id}', {cells})"))
                .await;
            assert_eq!(
                usize::try_from(named),
                Ok(Cell::of_payment(id, cells)),
                "{id} of {cells}"
            );
        }
    }
}

#[tokio::test]
async fn an_instance_whose_list_does_not_match_refuses_to_start_in_one_line() {
    let (one, other) = (Deployment::of(3).await, Deployment::of(3).await);
    let single = Database::migrated().await;
    let [first, second, third] = [0, 1, 2].map(|index| one.cells[index].url.as_str());
    for (urls, expected) in [
        (vec![first, third, second], "of 3 of DATABASE_URL"),
        (vec![first, second], "of 2 of DATABASE_URL"),
        (
            vec![first, second, third, &single.url],
            "of 4 of DATABASE_URL",
        ),
        (vec![second], "entry 1 of 1 of DATABASE_URL"),
        (vec![first, second, second], "entry 3 of 3 of DATABASE_URL"),
        (
            vec![first, second, &other.cells[2].url],
            "the other entries are of deployment",
        ),
        (
            vec![first, second, &single.url],
            "is no cell yet: `payment-proxy migrate`",
        ),
    ] {
        let told = refusal(&list(&urls)).await;
        assert!(told.contains(expected), "{expected}: {told}");
    }
    for cell in &one.cells {
        assert_eq!(cell.count("service_instance").await, 0, "none was admitted");
    }
}

#[tokio::test]
async fn an_admission_that_is_written_after_the_instance_was_refused_elsewhere_does_not_stay() {
    let deployment = Deployment::of(2).await;
    let [first, second] = [&deployment.cells[0], &deployment.cells[1]];
    // The first cell is still at its commit when the second, which is listed twice, refuses.
    first
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON service_instance
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
            UPDATE deployment SET cells = 3",
        )
        .await;
    second.execute("UPDATE deployment SET cells = 3").await;
    let lock = second.lock("deployment").await;
    let all = list(&[&first.url, &second.url, &second.url]);
    let refused = tokio::spawn(async move { refusal(&all).await });
    eventually("it is written in the first", async || {
        first
            .count("pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'")
            .await
            == 1
    })
    .await;
    drop(lock);
    let told = refused.await.expect("no panic");
    assert!(told.contains("entry 3 of 3 of DATABASE_URL"), "{told}");
    // The server has ended what it was sent.
    eventually("nobody but the test is connected", async || {
        let others = "pg_stat_activity WHERE datname = current_database()
            AND application_name LIKE 'payment-proxy%'";
        first.count(others).await == 0
    })
    .await;
    assert_eq!(first.count("service_instance").await, 0);
}

#[tokio::test]
async fn migrate_makes_cells_once_and_never_of_what_was_something_else() {
    let deployment = Deployment::of(3).await;
    migrate(&deployment.all).await.expect("nothing to do");
    let known = "SELECT cell || ' of ' || cells FROM deployment";
    let mut ids = Vec::new();
    for (cell, number) in deployment.cells.iter().zip(1..) {
        assert_eq!(cell.value::<String>(known).await, format!("{number} of 3"));
        ids.push(cell.value::<Uuid>("SELECT id FROM deployment").await);
    }
    assert!(
        ids.iter().all(|id| *id == ids[0]),
        "one deployment: {ids:?}"
    );

    let [first, second, third] = [0, 1, 2].map(|index| deployment.cells[index].url.as_str());
    let (empty, single) = (Database::create().await, Database::migrated().await);
    let refused = async |urls: &[&str]| {
        let refused = migrate(&list(urls)).await.expect_err("it is refused");
        format!("{refused:#}")
    };
    let told = refused(&[second, first, third]).await;
    assert!(
        told.contains("entry 1 of 3 of DATABASE_URL") && told.contains("cell 2 of 3"),
        "{told}"
    );
    let told = refused(&[first, second, second]).await;
    assert!(
        told.contains("entries 2 and 3 of DATABASE_URL lead to the same database"),
        "{told}"
    );
    let told = refused(&[first]).await;
    assert!(told.contains("entry 1 of 1 of DATABASE_URL"), "{told}");

    // A cell whose database was lost is not made anew while the others hold payments.
    let held = format!(
        "INSERT INTO payment_queue (correlation_id, amount) VALUES ('{}', 1)",
        deployment.id_in(1)
    );
    deployment.cells[0].execute(&held).await;
    for new in [&empty.url, &single.url] {
        let told = refused(&[first, second, new]).await;
        assert!(
            told.contains("cell 3 of 3 is none yet, and cell 1 of 3 holds payments"),
            "{told}"
        );
    }

    // Nor is a database that holds payments divided.
    single.execute(&held).await;
    let told = refused(&[&single.url, &empty.url]).await;
    assert!(
        told.contains("`payment-proxy divide` moves payments into them"),
        "{told}"
    );
    assert_eq!(single.value::<String>(known).await, "1 of 1");
}

#[tokio::test]
async fn a_database_that_is_served_as_the_only_one_does_not_become_a_cell() {
    let (database, empty) = (Database::migrated().await, Database::create().await);
    let default = processor().await;
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let refused = migrate(&list(&[&database.url, &empty.url])).await;
    let told = format!("{:#}", refused.expect_err("somebody serves"));
    assert!(
        told.contains("instances serve from this database as the only one"),
        "{told}"
    );
    assert_eq!(
        database.value::<i32>("SELECT cells FROM deployment").await,
        1
    );
    gateway.stop().await;
    migrate(&list(&[&database.url, &empty.url]))
        .await
        .expect("nobody serves any more");
    assert_eq!(
        database.value::<i32>("SELECT cells FROM deployment").await,
        2
    );
}

#[tokio::test]
async fn an_instance_serves_no_longer_once_its_database_is_another_cell() {
    let deployment = Deployment::of(2).await;
    let default = processor().await;
    let gateway = Gateway::start(&deployment.all, &processors(&[&default]), &[]).await;
    let ids = gateway.post_many(8).await;
    gateway.until_settled(&ids).await;
    // By hand, as nothing of ours would.
    let other = "UPDATE deployment SET cells = 3";
    deployment.cells[1].execute(other).await;
    let lives_there = id_in(2, 2);
    crate::support::eventually("it is held there", async || {
        gateway.post(lives_there, 1).await == reqwest::StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    crate::support::eventually("it says why", async || {
        let away = super::cells_away(&gateway).await;
        matches!(&away[..], [(2, why)] if why.contains("is cell 2 of 3 of deployment"))
    })
    .await;
    let elsewhere = gateway.post(id_in(1, 2), 1).await;
    assert_eq!(elsewhere, reqwest::StatusCode::ACCEPTED);
}
