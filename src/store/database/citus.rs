//! A database of a Citus cluster: the tables of payments are on one node of it, all together, as
//! single-shard tables, and Citus moves them to another one while payments go on. docs/scaling.md.
//!
//! What instances know of each other stays on the coordinator, which is the one that they connect
//! to.

use sqlx::{Connection, PgConnection};

/// The tables that are on one node: those of payments, and what triggers and statements of theirs
/// read or write besides. The first one says which node that is.
const TABLES: [&str; 15] = [
    "payment_queue",
    "payment_queue_life",
    "payment_queue_emptied",
    "payment_processed",
    "payment_dead_letter",
    "payment_attempt",
    "payment_rollup",
    "payment_accepted_hour",
    "payment_accepted_batch",
    "ledger_change",
    "payment_archived",
    "payment_archived_hour",
    "payment_archived_month",
    "payment_decision",
    "reconcile_finding",
];

/// What the service's role needs besides: Citus names every column in what it sends to the node,
/// also those that the database fills in by itself.
pub(super) const RIGHTS: &str =
    "GRANT INSERT ON payment_queue, payment_processed, payment_dead_letter TO {role}";

/// What lets Citus have tables with triggers. All that ours do is in tables of the same node.
pub(super) const WITH_TRIGGERS: (&str, &str) = ("citus.enable_unsafe_triggers", "on");

/// What is said where a cell cannot be moved online.
pub(super) const UNLOGGED_STAYS: &str =
    "the queue is unlogged, and Citus moves it to another node only while nobody writes";

/// Whether the database is of a Citus cluster.
pub(super) async fn is_citus(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus')",
    )
    .fetch_one(connection)
    .await
}

/// Refuses what Citus does not plan as it is.
///
/// # Errors
/// The database is of a Citus cluster, or did not answer.
pub(crate) async fn refuse_citus(
    connection: &mut PgConnection,
    task: &'static str,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        !is_citus(connection).await?,
        "{task} does not work on a database of a Citus cluster: docs/scaling.md"
    );
    Ok(())
}

/// Puts the tables of payments that are not on a node yet on one of them, with their rows. Each
/// waits meanwhile for whoever uses it, and payments wait behind it.
///
/// # Errors
/// The database refuses: there is no node for them, or somebody holds a lock.
pub(super) async fn distribute(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS t (name, number)
        WHERE NOT EXISTS (SELECT FROM pg_dist_partition p WHERE p.logicalrelid = name::regclass)
        ORDER BY number",
    )
    .bind(TABLES)
    .fetch_all(&mut *transaction)
    .await?;
    for name in &missing {
        let beside = match name.as_str() {
            first if first == TABLES[0] => "none",
            _ => TABLES[0],
        };
        sqlx::query(
            "SELECT create_distributed_table($1::text::regclass, NULL, colocate_with => $2)",
        )
        .bind(name)
        .bind(beside)
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    if !missing.is_empty() {
        tracing::info!(
            tables = missing.len(),
            "tables of payments put on a node of Citus"
        );
    }
    Ok(())
}
