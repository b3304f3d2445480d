//! The migrations, the durability of the queue, and the rights of the service's role.
//!
//! Where one role owns the tables and serves, an instance migrates when it starts. Where the service has a
//! role of its own, that one may neither change the tables nor the books: `payment-proxy migrate` runs as the
//! owner and gives it what it needs, and an instance waits until that has been done.

use std::time::Duration;

use anyhow::Context;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

use super::{Condition, Session, condition, within};
use crate::config::{DatabaseSettings, MigrateSettings, QueueDurability};

/// The tables, in the order in which they came to be.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// What the service's role may do, and nothing else: settled payments can be added to and not be changed, totals are
/// written by triggers only, as their owner, and what the database fills in by itself (ids, times of the past) is in no
/// list of columns.
const RIGHTS: &str = "
    REVOKE ALL ON ALL TABLES IN SCHEMA public, audit FROM {role};
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA public, audit FROM {role};
    REVOKE ALL ON SCHEMA public, audit FROM {role};
    GRANT USAGE ON SCHEMA public, audit TO {role};
    GRANT SELECT ON ALL TABLES IN SCHEMA public, audit TO {role};
    GRANT SELECT ON SEQUENCE payment_queue_id_seq TO {role};
    GRANT INSERT (correlation_id, amount, accepted_at, lease_until, attempt, processor, requested_at, doubt_until,
            traceparent),
        DELETE, UPDATE (lease_until, attempt, processor, requested_at, doubt_until)
        ON payment_queue TO {role};
    GRANT INSERT (correlation_id, amount, processor, requested_at, accepted_at, attempt)
        ON payment_processed TO {role};
    GRANT INSERT (correlation_id, amount, accepted_at, attempt, processor, reason, requested_at), DELETE
        ON payment_dead_letter TO {role};
    GRANT INSERT, UPDATE (reason, last_claim, last_ended_at) ON payment_attempt TO {role};
    GRANT EXECUTE ON FUNCTION oldest_transaction_seconds(), end_long_audits(), record_fees(text[], numeric[])
        TO {role};
    GRANT INSERT, UPDATE, DELETE ON service_instance TO {role};
    GRANT INSERT, UPDATE ON processor_health TO {role};
    GRANT EXECUTE ON FUNCTION decide_in_doubt, discard_dead_letters TO {role};
    GRANT INSERT ON reconcile_run TO {role};
    GRANT INSERT, UPDATE, DELETE ON reconcile_finding TO {role}";

/// The right to purge, where that is allowed.
const PURGE_RIGHT: &str =
    "GRANT TRUNCATE ON payment_queue, payment_processed, payment_dead_letter, payment_attempt,
    payment_decision, payment_archived, payment_archived_hour, payment_archived_month TO {role}";

/// Applies the migrations that are missing as the owner of the tables, gives the queue the durability asked
/// for, and the service's role its rights where it is not the owner.
///
/// # Errors
/// The database cannot be reached, is newer than this program, or refuses a statement.
pub async fn migrate(settings: &MigrateSettings) -> anyhow::Result<()> {
    let owner = settings.owner();
    let mut connection = connect(&owner, "payment-proxy migrate").await?;
    apply(&mut connection, owner.queue_durability).await?;
    let service = settings.database.database_url.0.get_username();
    if service != owner.database_url.0.get_username() {
        grant(&mut connection, service, settings.purge.allow_purge)
            .await
            .with_context(|| format!("the rights of role {service}"))?;
        told_of_an_old_init_sql(&mut connection, service).await?;
    }
    connection.close().await?;
    Ok(())
}

/// What an instance finds when it starts.
#[derive(Debug, PartialEq, Eq)]
pub enum Schema {
    /// What it needs.
    Ready,
    /// Something is missing, and it is not for its role to mend: what.
    Waits(String),
}

/// Migrates as [`migrate`] does where this role may, and says what is missing where it may not.
///
/// # Errors
/// As [`migrate`].
pub async fn prepare(settings: &DatabaseSettings) -> anyhow::Result<Schema> {
    let mut connection = connect(settings, "payment-proxy start").await?;
    let found = if within(may_migrate(&mut connection)).await? {
        apply(&mut connection, settings.queue_durability).await?;
        Schema::Ready
    } else {
        match within(missing(&mut connection, settings.queue_durability)).await? {
            None => Schema::Ready,
            Some(missing) => Schema::Waits(missing),
        }
    };
    connection.close().await?;
    Ok(found)
}

/// Whether the database takes payments: it answers, knows every migration of this program, and runs the statement
/// that accepts payments, with none of them. A standby does not, nor does a queue that somebody has locked.
///
/// # Errors
/// The database does not answer, or refuses.
pub async fn check_ready(pool: &PgPool) -> Result<(), NotReady> {
    let newest = newest();
    // The table of migrations is not one of the migrations, so this is not checked when it is compiled.
    let applied: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(pool)
            .await?;
    if applied < Some(newest) {
        return Err(NotReady::NotMigrated { applied, newest });
    }
    sqlx::query!(
        "SELECT moment FROM accept_payments('{}'::uuid[], '{}'::numeric[], NULL, NULL, NULL, NULL)"
    )
    .fetch_one(pool)
    .await?;
    Ok(())
}

/// Why no payments can be taken.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// Migrations are missing.
    #[error("the database is not migrated: it has migration {applied:?}, {newest} is needed")]
    NotMigrated {
        /// The newest one that was applied.
        applied: Option<i64>,
        /// The newest one that there is.
        newest: i64,
    },
    /// The database does not answer, or refuses.
    #[error("{condition}: {0}", condition = Condition::of(.0))]
    Database(#[from] sqlx::Error),
}

impl NotReady {
    /// What is wrong, without the database's own words.
    pub async fn condition(&self, pool: &PgPool) -> Condition {
        match self {
            Self::NotMigrated { .. } => Condition::NotMigrated,
            Self::Database(error) => condition(error, pool).await,
        }
    }
}

async fn connect(
    settings: &DatabaseSettings,
    application: &str,
) -> Result<PgConnection, sqlx::Error> {
    let session = Session {
        statement_timeout: Duration::ZERO,
        by_key: false,
        ..Session::SERVICE
    };
    session
        .connect(&settings.connect_options(application))
        .await
}

fn newest() -> i64 {
    let versions = MIGRATIONS.iter().map(|migration| migration.version);
    versions.max().unwrap_or_default()
}

async fn apply(connection: &mut PgConnection, durability: QueueDurability) -> anyhow::Result<()> {
    MIGRATIONS.run(&mut *connection).await?;
    apply_durability(connection, durability).await
}

/// Whoever owns the tables may change them, or whoever may make them where there are none.
async fn may_migrate(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let may: Option<bool> = sqlx::query_scalar(
        "SELECT coalesce(
            (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('payment_queue')),
            has_schema_privilege(current_schema(), 'CREATE')
        )",
    )
    .fetch_one(connection)
    .await?;
    Ok(may.unwrap_or(false))
}

async fn missing(
    connection: &mut PgConnection,
    wanted: QueueDurability,
) -> Result<Option<String>, sqlx::Error> {
    let readable: bool = sqlx::query_scalar(
        "SELECT coalesce(has_table_privilege(to_regclass('_sqlx_migrations'), 'SELECT')
            AND has_any_column_privilege(to_regclass('payment_queue'), 'INSERT'), false)",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !readable {
        return Ok(Some(
            "there are no tables, or this role may not use them".to_owned(),
        ));
    }
    let (applied, persistence): (Option<i64>, i8) = sqlx::query_as(
        "SELECT (SELECT max(version) FROM _sqlx_migrations WHERE success), relpersistence
        FROM pg_class WHERE oid = 'payment_queue'::regclass",
    )
    .fetch_one(connection)
    .await?;
    let (applied, newest) = (applied.unwrap_or_default(), newest());
    if applied < newest {
        return Ok(Some(format!(
            "the database has migration {applied}, {newest} is needed"
        )));
    }
    let wanted_word = match wanted {
        QueueDurability::Unlogged => "unlogged",
        QueueDurability::Logged => "logged",
    };
    Ok((persistence != wanted.relpersistence())
        .then(|| format!("the queue is not {wanted_word}, which QUEUE_DURABILITY asks for")))
}

/// Rewrites the queue as logged or unlogged where it is not yet; its rows stay.
async fn apply_durability(
    connection: &mut PgConnection,
    wanted: QueueDurability,
) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    take_turns(&mut transaction).await?;
    let current = sqlx::query_scalar!(
        "SELECT relpersistence FROM pg_class WHERE oid = 'payment_queue'::regclass"
    )
    .fetch_one(&mut *transaction)
    .await?;
    if current != wanted.relpersistence() {
        let statement = match wanted {
            QueueDurability::Unlogged => "ALTER TABLE payment_queue SET UNLOGGED",
            QueueDurability::Logged => "ALTER TABLE payment_queue SET LOGGED",
        };
        transaction.execute(statement).await?;
        tracing::info!(queue.durability = ?wanted, "queue rewritten");
    }
    transaction.commit().await?;
    Ok(())
}

/// Leaves a role with [`RIGHTS`], whatever it had.
async fn grant(connection: &mut PgConnection, role: &str, purge: bool) -> Result<(), sqlx::Error> {
    let role = format!("\"{}\"", role.replace('"', "\"\""));
    let mut transaction = connection.begin().await?;
    take_turns(&mut transaction).await?;
    for rights in [RIGHTS, PURGE_RIGHT].iter().take(1 + usize::from(purge)) {
        let rights = AssertSqlSafe(rights.replace("{role}", &role));
        sqlx::raw_sql(rights).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// Logs what only `init.sql` can mend, and an older one left otherwise.
async fn told_of_an_old_init_sql(
    connection: &mut PgConnection,
    service: &str,
) -> Result<(), sqlx::Error> {
    let (sees_statements, ends_audits): (bool, bool) = sqlx::query_as(
        "SELECT pg_has_role($1::name, 'pg_read_all_stats', 'USAGE'),
            coalesce(pg_has_role(to_regrole('auditor'), 'USAGE'), true)",
    )
    .bind(service)
    .fetch_one(connection)
    .await?;
    if sees_statements {
        tracing::warn!(
            database.role = service,
            "the service's role reads other roles' statements (pg_read_all_stats): run init.sql again"
        );
    }
    if !ends_audits {
        tracing::warn!(
            "no auditor's long transaction can be ended (the owner is no member of role auditor): run init.sql again"
        );
    }
    Ok(())
}

/// Of several that start at once, one after the other.
async fn take_turns(transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    transaction
        .execute("LOCK TABLE payment_queue IN SHARE UPDATE EXCLUSIVE MODE")
        .await?;
    Ok(())
}
