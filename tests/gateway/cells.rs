//! A deployment whose payments are divided into several databases, the cells.

mod citus;
mod commands;
mod dividing;
mod lists;
mod serving;

use payment_proxy::config::QueueDurability;
use payment_proxy::domain::cell::Cell;
use payment_proxy::store::database;
use simulator::Running;
use uuid::Uuid;

use crate::forwarder::Forwarder;
use crate::support::{Database, Gateway};

/// The databases of a deployment.
pub struct Deployment {
    pub cells: Vec<Database>,
    /// `DATABASE_URL`, and connections to the first cell.
    pub all: Database,
}

impl Deployment {
    /// So many empty databases, migrated as the cells of one deployment.
    pub async fn of(cells: usize) -> Self {
        let mut databases = Vec::new();
        for _ in 0..cells {
            databases.push(Database::create().await);
        }
        let deployment = Self::at(databases);
        migrate(&deployment.all).await.expect("they become cells");
        deployment
    }

    /// Those databases, in that order.
    pub fn at(cells: Vec<Database>) -> Self {
        let urls: Vec<&str> = cells.iter().map(|cell| cell.url.as_str()).collect();
        let all = list(&urls);
        Self { cells, all }
    }

    /// How many rows a table has in all cells.
    pub async fn count(&self, table: &str) -> i64 {
        let mut sum = 0;
        for cell in &self.cells {
            sum += cell.count(table).await;
        }
        sum
    }

    /// Every payment of a table lives in the cell that its id names, by the database's own word.
    pub async fn are_where_they_belong(&self, table: &str) {
        for (cell, number) in self.cells.iter().zip(1..) {
            let of = self.cells.len();
            let strays = format!("{table} WHERE cell_of_payment(correlation_id, {of}) <> {number}");
            assert_eq!(cell.count(&strays).await, 0, "{table} of cell {number}");
        }
    }

    /// A new id of a payment that lives in the cell of this number.
    pub fn id_in(&self, number: usize) -> Uuid {
        id_in(number, self.cells.len())
    }
}

/// A new id of a payment that lives in that cell, of so many.
pub fn id_in(number: usize, of: usize) -> Uuid {
    let mut ids = std::iter::repeat_with(Uuid::new_v4);
    let id = ids.find(|id| Cell::of_payment(*id, of) == number);
    id.expect("one of a few tries")
}

/// A list of URLs, as the one database that most tests have.
pub fn list(urls: &[&str]) -> Database {
    let first = Database::at(urls[0]);
    Database {
        url: urls.join(","),
        pool: first.pool,
    }
}

pub async fn migrate(all: &Database) -> anyhow::Result<()> {
    database::migrate(&all.migrate_settings(QueueDurability::Unlogged)).await
}

/// A way to one database that can be cut off while the server and the other databases go on.
pub struct Way {
    forwarder: Forwarder,
    socket: std::path::PathBuf,
    pub url: String,
}

impl Way {
    pub async fn to(database: &Database) -> Self {
        let options = database.settings(QueueDurability::Unlogged);
        let options = options.connect_options("test");
        let folder = options
            .get_socket()
            .expect("the cluster listens on a socket");
        let socket = folder.join(format!(".s.PGSQL.{}", options.get_port()));
        let forwarder = Forwarder::to(socket.clone()).await;
        let name = options.get_database().expect("a name");
        let url = forwarder.url().replace("/postgres?", &format!("/{name}?"));
        Self {
            forwarder,
            socket,
            url,
        }
    }

    /// The database is away for whoever comes this way.
    pub fn cut(&self) {
        self.forwarder.turn_to("/nowhere".into());
        self.forwarder.cut();
    }

    /// It is back.
    pub fn mend(&self) {
        self.forwarder.turn_to(self.socket.clone());
    }
}

/// Each of these payments was charged once, and recorded once.
pub async fn are_charged_once(deployment: &Deployment, running: &[&Running], ids: &[Uuid]) {
    let charges = running.iter().map(|each| each.processor.payments().len());
    assert_eq!(charges.sum::<usize>(), ids.len(), "charged once each");
    let count = i64::try_from(ids.len()).expect("few");
    assert_eq!(deployment.count("payment_processed").await, count);
    for table in ["payment_processed", "payment_queue"] {
        deployment.are_where_they_belong(table).await;
    }
}

/// What `readyz` says of the cells that are away: their numbers and why.
pub async fn cells_away(gateway: &Gateway) -> Vec<(u64, String)> {
    let reply = gateway.get("/readyz").await;
    if reply.status() == reqwest::StatusCode::NO_CONTENT {
        return Vec::new();
    }
    assert_eq!(reply.status(), reqwest::StatusCode::OK, "others are there");
    let body: serde_json::Value = reply.json().await.expect("JSON");
    let away = body["cellsAway"].as_array().expect("a list");
    let each = away.iter().map(|cell| {
        let detail = cell["detail"].as_str().expect("a reason").to_owned();
        (cell["cell"].as_u64().expect("a number"), detail)
    });
    each.collect()
}
