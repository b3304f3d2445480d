//! Other people's databases: whatever the server, the database or the role have set, what our
//! statements rest on is said by us or refused in one line, and a charge that we hold is never
//! thrown away.

mod locks;
mod refused;
mod room;
mod settings;

use simulator::Running;
use uuid::Uuid;

use crate::support::{Database, Gateway, eventually};

impl Database {
    /// Sets something for every session of this database that begins from now on.
    async fn set(&self, setting: &str) {
        let name = self.name();
        self.execute(&format!("ALTER DATABASE {name} SET {setting}"))
            .await;
    }

    fn name(&self) -> &str {
        self.url.rsplit('/').next().expect("a name")
    }
}

/// All of them are charged once and recorded once, and the sums are those of the processors.
async fn are_charged_once(
    database: &Database,
    gateway: &Gateway,
    running: &[&Running],
    ids: &[Uuid],
) {
    gateway.until_settled(ids).await;
    eventually("the queue is empty", async || {
        database.count("payment_queue").await == 0
    })
    .await;
    let count = i64::try_from(ids.len()).expect("few");
    assert_eq!(database.count("payment_processed").await, count);
    let charges = running.iter().map(|each| each.processor.payments().len());
    assert_eq!(charges.sum::<usize>(), ids.len(), "charged once each");
    let rollup = "payment_rollup WHERE unit = 'hour' AND requests > 0";
    assert!(database.count(rollup).await > 0, "totals are kept");
}
