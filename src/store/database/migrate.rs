//! The migrations, the durability of the queue, and the rights of the service's role.
//!
//! Where one role owns the tables and serves, an instance migrates when it starts. Where the
//! service has a role of its own, that one may change neither the tables nor the ledger:
//! `payment-proxy migrate` runs as the owner and gives it what it needs, and an instance waits
//! until that has been done.

use std::time::Duration;

use anyhow::Context;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

use super::cells::{assign_cells, check_cells, of_cell};
use super::citus::{self, is_citus};
use super::lock::with_short_locks;
use super::pooling::{Pooling, become_default};
use super::version::{MIGRATIONS, Standing, TooNew, applied, newest, standing};
use super::{Condition, Session, Unfit, condition, serving, with_deadline};
use crate::config::{DatabaseSettings, MigrateSettings, QueueDurability};
use crate::domain::attention::Item;

/// What the service's role may do, and nothing else: settled payments can be added to and not be
/// changed, totals are written by triggers only, as their owner, and what the database fills in by
/// itself (ids, times of the past) is in no list of columns.
const RIGHTS: &str = "
    REVOKE ALL ON ALL TABLES IN SCHEMA public, audit FROM {role};
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA public, audit FROM {role};
    REVOKE ALL ON SCHEMA public, audit FROM {role};
    GRANT USAGE ON SCHEMA public, audit TO {role};
    GRANT SELECT ON ALL TABLES IN SCHEMA public, audit TO {role};
    GRANT SELECT ON SEQUENCE payment_queue_id_seq TO {role};
    GRANT INSERT (correlation_id, amount, accepted_at, lease_until, attempt, processor,
        requested_at, doubt_until,
            traceparent),
        DELETE, UPDATE (lease_until, attempt, processor, requested_at, doubt_until)
        ON payment_queue TO {role};
    GRANT INSERT (correlation_id, amount, processor, requested_at, accepted_at, attempt)
        ON payment_processed TO {role};
    GRANT INSERT (correlation_id, amount, accepted_at, attempt, processor, reason, requested_at),
        DELETE
        ON payment_dead_letter TO {role};
    GRANT INSERT, UPDATE (reason, last_claim, last_ended_at) ON payment_attempt TO {role};
    GRANT EXECUTE ON FUNCTION oldest_transaction_seconds(), end_long_audits(), record_fees(text[],
        numeric[])
        TO {role};
    GRANT INSERT, UPDATE, DELETE ON service_instance, service_minute TO {role};
    GRANT UPDATE (terms, terms_at) ON deployment TO {role};
    GRANT EXECUTE ON FUNCTION deployment_find(), database_identity(), queue_life() TO {role};
    GRANT INSERT, UPDATE ON processor_health TO {role};
    GRANT EXECUTE ON FUNCTION decide_in_doubt, discard_dead_letters, switch_processor,
        acknowledge_emptied_queue, count_accepted
        TO {role};
    GRANT INSERT, DELETE ON operator_session_revoked TO {role};
    GRANT INSERT ON reconcile_run TO {role};
    GRANT INSERT, UPDATE, DELETE ON reconcile_finding TO {role}";

/// The right to purge, where that is allowed.
const PURGE_RIGHT: &str =
    "GRANT TRUNCATE ON payment_queue, payment_processed, payment_dead_letter, payment_attempt,
    payment_decision, payment_archived, payment_archived_hour, payment_archived_month TO {role}";

/// Applies the migrations that are missing as the owner of the tables, gives the queue the
/// durability asked for, and the service's role its rights where it is not the owner. Payments go
/// on meanwhile: where somebody holds a lock, it waits for it shortly, and again, and says who.
/// Where there are several databases it does so in each, and writes into each which cell it is.
///
/// # Errors
/// A database cannot be reached, is of a newer program, or refuses a statement; the [`Cell`] is a
/// context of the error where there are several. The databases are not the cells of one deployment
/// in the order of the list, and cannot become them.
///
/// [`Cell`]: crate::domain::cell::Cell
pub async fn migrate(settings: &MigrateSettings) -> anyhow::Result<()> {
    let cells = settings.cells().map_err(anyhow::Error::msg)?;
    check_cells(&cells).await?;
    for (cell, settings) in cells.each() {
        let migrated = migrate_cell(settings).await;
        migrated.map_err(|error| of_cell(cell, error))?;
    }
    assign_cells(&cells).await
}

async fn migrate_cell(settings: &MigrateSettings) -> anyhow::Result<()> {
    let owner = settings.owner();
    let service = settings.database.database_url.here().0.get_username();
    let is_owner = service == owner.database_url.here().0.get_username();
    let options = session_options(&owner, "payment-proxy migrate").await?;
    with_short_locks(&options, MIGRATES, "migrate", async |connection| {
        let standing = apply_migrations(connection).await?;
        if let Standing::Newer { applied } = standing {
            tracing::warn!(
                migration.newest = applied,
                "the database is that of a newer program, with which this one can work; its tables \
                and rights stay"
            );
        } else {
            distribute(connection).await?;
            if !is_owner {
                grant(connection, service, settings.purge.allow_purge)
                    .await
                    .with_context(|| format!("the rights of role {service}"))?;
                told_of_rights(connection, service).await?;
            }
        }
        ask_those_who_serve(connection, owner.queue_durability).await?;
        apply_durability(connection, owner.queue_durability).await?;
        Ok(with_deadline(told_of_risks(connection)).await?)
    })
    .await
}

/// What an instance finds when it starts.
#[derive(Debug, PartialEq, Eq)]
pub enum Schema {
    /// What it needs.
    Ready,
    /// Something is missing, and it is not for its role to mend: what.
    Waits(String),
    /// The instance must not use it: why.
    Held(Item),
}

/// Migrates as [`migrate`] does where this role may, and says what is missing where it may not.
///
/// # Errors
/// As [`migrate`].
pub async fn prepare(settings: &DatabaseSettings) -> anyhow::Result<Schema> {
    let pooling = meet_pooler(settings).await?;
    prepare_where(settings, pooling, async |_| Ok(None)).await
}

/// The same, where nothing beyond the schema is changed before `held` has been asked why the
/// instance must not use it.
///
/// # Errors
/// As [`migrate`], and those of `held`.
pub(crate) async fn prepare_where(
    settings: &DatabaseSettings,
    pooling: Pooling,
    mut held: impl AsyncFnMut(&mut PgConnection) -> Result<Option<Item>, sqlx::Error>,
) -> anyhow::Result<Schema> {
    let application = "payment-proxy start";
    let options = match settings.direct_database_url {
        Some(_) => settings.direct_options(application),
        None if pooling == Pooling::Transaction => {
            return prepare_in_transactions(settings, held).await;
        }
        None => settings.connect_options(application),
    };
    with_short_locks(&options, MIGRATES, "migrate", async |connection| {
        let may_migrate = with_deadline(may_migrate(connection)).await?;
        if may_migrate {
            let standing = apply_migrations(connection).await?;
            if !matches!(standing, Standing::Newer { .. }) {
                distribute(connection).await?;
            }
        } else if let Some(missing) = missing(connection).await? {
            return Ok(Schema::Waits(missing));
        }
        if let Some(refused) = with_deadline(held(connection)).await? {
            return Ok(Schema::Held(refused));
        }
        let wanted = settings.queue_durability;
        if may_migrate {
            apply_durability(connection, wanted).await?;
        } else if let Some(other) = with_deadline(other_durability(connection, wanted)).await? {
            return Ok(Schema::Waits(other));
        }
        if with_deadline(is_citus(connection)).await? {
            // The node has a session of its own for each of ours.
            become_default(connection).await?;
        }
        with_deadline(told_of_risks(connection)).await?;
        Ok(Schema::Ready)
    })
    .await
}

/// What [`prepare_where`] does where nothing has a session of its own: it changes no tables.
async fn prepare_in_transactions(
    settings: &DatabaseSettings,
    mut held: impl AsyncFnMut(&mut PgConnection) -> Result<Option<Item>, sqlx::Error>,
) -> anyhow::Result<Schema> {
    let options = settings.connect_options("payment-proxy start");
    let mut connection = Session::SERVICE.connect(&options).await?;
    let connection = &mut connection;
    let may_migrate = with_deadline(may_migrate(connection)).await?;
    let waits = |missing: String| match may_migrate {
        true => Err(Unfit::NoSession(format!("{missing}; DATABASE_URL"))),
        false => Ok(Schema::Waits(missing)),
    };
    if let Some(missing) = missing(connection).await? {
        return Ok(waits(missing)?);
    }
    if let Some(refused) = with_deadline(held(connection)).await? {
        return Ok(Schema::Held(refused));
    }
    let other = other_durability(connection, settings.queue_durability);
    if let Some(other) = with_deadline(other).await? {
        return Ok(waits(other)?);
    }
    with_deadline(told_of_risks(connection)).await?;
    Ok(Schema::Ready)
}

/// Looks what is between the instance and its server. Where transactions share sessions, what ours
/// are told becomes the default of the role.
///
/// # Errors
/// The database does not answer, or the pooler is none to work with: [`Unfit`].
pub(crate) async fn meet_pooler(settings: &DatabaseSettings) -> anyhow::Result<Pooling> {
    let application = "payment-proxy start";
    let options = settings.connect_options(application);
    let direct = async {
        if settings.direct_database_url.is_some() {
            session_options(settings, application).await?;
        }
        Ok(())
    };
    // At once: until an instance has started, clients wait.
    let look = async { Ok::<_, anyhow::Error>(Pooling::of(&options).await?) };
    let ((), pooling) = tokio::try_join!(direct, look)?;
    if pooling == Pooling::Transaction {
        let mut connection = Session::SERVICE.connect(&options).await?;
        if with_deadline(is_citus(&mut connection)).await? {
            return Err(Unfit::CitusBehindPooler.into());
        }
        with_deadline(become_default(&mut connection)).await?;
    }
    Ok(pooling)
}

/// How to connect for what needs a session of its own.
///
/// # Errors
/// There is no connection, or sessions are shared there.
pub(crate) async fn session_options(
    settings: &DatabaseSettings,
    application: &str,
) -> anyhow::Result<PgConnectOptions> {
    settings.check_direct().map_err(anyhow::Error::msg)?;
    let options = settings.direct_options(application);
    match Pooling::of(&options).await? {
        Pooling::Session => Ok(options),
        Pooling::Transaction => {
            let name = match settings.direct_database_url {
                Some(_) => "DIRECT_DATABASE_URL",
                None => "the database",
            };
            Err(Unfit::NoSession(name.to_owned()).into())
        }
    }
}

/// Whether the database takes payments: it answers, knows every migration of this program, and runs
/// the statement that accepts payments, with none of them. A standby does not, nor does a queue
/// that somebody has locked.
///
/// # Errors
/// The database does not answer, or refuses.
pub(crate) async fn check_ready(pool: &PgPool) -> Result<(), NotReady> {
    if let Standing::Older { applied } = standing(&applied(pool).await?)? {
        let newest = newest();
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
pub(crate) enum NotReady {
    /// Migrations are missing.
    #[error("the database is not migrated: it has migration {applied:?}, {newest} is needed")]
    NotMigrated {
        /// The newest one that was applied.
        applied: Option<i64>,
        /// The newest one that there is.
        newest: i64,
    },
    /// It is of a newer program.
    #[error(transparent)]
    TooNew(#[from] TooNew),
    /// The database does not answer, or refuses.
    #[error("{condition}: {0}", condition = Condition::of(.0))]
    Database(#[from] sqlx::Error),
}

impl NotReady {
    /// What is wrong, without the database's own words.
    pub(crate) async fn condition(&self, pool: &PgPool) -> Condition {
        match self {
            Self::NotMigrated { .. } => Condition::NotMigrated,
            Self::TooNew(_) => Condition::TooNew,
            Self::Database(error) => condition(error, pool).await,
        }
    }
}

/// The session of migrations. To read or write all of a table takes as long as it takes.
const MIGRATES: Session = Session {
    statement_timeout: Duration::ZERO,
    own: &[citus::WITH_TRIGGERS],
    by_key: false,
    ..Session::SERVICE
};

async fn apply_migrations(connection: &mut PgConnection) -> anyhow::Result<Standing> {
    let table: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    let found = match table {
        true => standing(&applied(&mut *connection).await?)?,
        false => Standing::Older { applied: None },
    };
    MIGRATIONS.run(&mut *connection).await?;
    Ok(found)
}

/// Puts the tables of payments on one node, where the database is of a Citus cluster.
async fn distribute(connection: &mut PgConnection) -> anyhow::Result<()> {
    if is_citus(connection).await? {
        let distributed = citus::distribute(connection).await;
        distributed.context("the tables of payments are not on a node of Citus")?;
    }
    Ok(())
}

/// Whoever owns the tables may change them, or whoever may make them where there are none.
async fn may_migrate(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let may: Option<bool> = sqlx::query_scalar(
        "SELECT coalesce(
            (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class
                WHERE oid = to_regclass('payment_queue')),
            has_schema_privilege(current_schema(), 'CREATE')
        )",
    )
    .fetch_one(connection)
    .await?;
    Ok(may.unwrap_or(false))
}

/// What an instance has to wait for whose role does not own the tables.
async fn missing(connection: &mut PgConnection) -> anyhow::Result<Option<String>> {
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
    let Standing::Older { applied } = standing(&applied(&mut *connection).await?)? else {
        return Ok(None);
    };
    let (applied, newest) = (applied.unwrap_or_default(), newest());
    Ok(Some(format!(
        "the database has migration {applied}, {newest} is needed"
    )))
}

/// What the queue has to be that it is not.
async fn other_durability(
    connection: &mut PgConnection,
    wanted: QueueDurability,
) -> Result<Option<String>, sqlx::Error> {
    let persistence = persistence(connection).await?;
    let wanted_word = wanted.as_str();
    Ok((persistence != wanted.relpersistence())
        .then(|| format!("the queue is not {wanted_word}, which QUEUE_DURABILITY asks for")))
}

/// What is said where a failover would lose the queue.
pub const FAILOVER_LOSES_QUEUE: &str =
    "the server has standbys, and the queue is unlogged: a failover loses what waits in it";

/// Whether the queue is unlogged, and the server has standbys, which do not get it: as far as the
/// role of this connection can see, a slot that keeps WAL for one, one that streams, or one that
/// commits wait for.
///
/// # Errors
/// The database did not answer.
pub async fn failover_loses_queue(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT relpersistence = 'u' AND (
            current_setting('synchronous_standby_names') <> ''
            OR EXISTS (SELECT FROM pg_replication_slots WHERE slot_type = 'physical'
                AND NOT temporary)
            OR EXISTS (
                SELECT FROM pg_stat_replication r WHERE r.state = 'streaming' AND NOT EXISTS (
                    SELECT FROM pg_replication_slots s
                    WHERE s.active_pid = r.pid AND (s.slot_type <> 'physical' OR s.temporary)
                )
            )
        ) AS "loses!"
        FROM pg_class WHERE oid = 'payment_queue'::regclass"#
    )
    .fetch_one(connection)
    .await
}

/// What is said where a setting of the server makes every commit unsafe. Not where
/// `full_page_writes` is off: some file systems write pages whole.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn unsafe_setting(
    connection: &mut PgConnection,
) -> Result<Option<&'static str>, sqlx::Error> {
    let is_off = sqlx::query_scalar!(r#"SELECT current_setting('fsync') = 'off' AS "off!""#)
        .fetch_one(connection)
        .await?;
    Ok(is_off.then_some(
        "fsync is off: a crash of the server's machine loses or damages what was confirmed, \
        settled payments included",
    ))
}

/// Logs what a failover or a crash would lose.
async fn told_of_risks(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if let Some(setting) = unsafe_setting(connection).await? {
        tracing::warn!("{setting}; set fsync = on: docs/operations.md");
    }
    if is_citus(connection).await?
        && persistence(connection).await? == QueueDurability::Unlogged.relpersistence()
    {
        tracing::warn!(
            "{}; set QUEUE_DURABILITY=logged: docs/scaling.md",
            citus::UNLOGGED_STAYS
        );
    }
    if failover_loses_queue(connection).await? {
        tracing::warn!(
            "{FAILOVER_LOSES_QUEUE}; set QUEUE_DURABILITY=logged: docs/high-availability.md"
        );
    }
    Ok(())
}

/// Does nothing where the queue has the durability that is wanted, or nobody serves who is
/// configured with another one.
///
/// # Errors
/// The instances that are: under them the queue does not change.
async fn ask_those_who_serve(
    connection: &mut PgConnection,
    wanted: QueueDurability,
) -> anyhow::Result<()> {
    let Some(other) = with_deadline(other_durability(connection, wanted)).await? else {
        return Ok(());
    };
    let serving = with_deadline(serving(connection)).await?;
    let others = serving
        .iter()
        .filter(|instance| instance.queue_durability.as_deref() != Some(wanted.as_str()))
        .map(|instance| instance.id.to_string());
    let others: Vec<String> = others.collect();
    anyhow::ensure!(
        others.is_empty(),
        "{other}, and it stays as it is, because it is what those that serve rest on: {}. Stop them (each takes 10 s), \
        and migrate again; or give `migrate` their QUEUE_DURABILITY",
        others.join(", ")
    );
    Ok(())
}

/// Rewrites the queue as logged or unlogged where it is not yet; its rows stay. Payments wait while
/// it is rewritten.
async fn apply_durability(
    connection: &mut PgConnection,
    wanted: QueueDurability,
) -> anyhow::Result<()> {
    if persistence(connection).await? == wanted.relpersistence() {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    // Of several that start at once, one after the other.
    transaction
        .execute("LOCK TABLE payment_queue IN ACCESS EXCLUSIVE MODE")
        .await?;
    if persistence(&mut transaction).await? != wanted.relpersistence() {
        let kind = match wanted {
            QueueDurability::Unlogged => "UNLOGGED",
            QueueDurability::Logged => "LOGGED",
        };
        // Each by itself: Citus sends the whole text on.
        for table in ["payment_queue", "payment_queue_life"] {
            let statement = format!("ALTER TABLE {table} SET {kind}");
            transaction.execute(AssertSqlSafe(statement)).await?;
        }
        tracing::info!(queue.durability = ?wanted, "queue rewritten");
    }
    transaction.commit().await?;
    Ok(())
}

/// `pg_class.relpersistence` of the queue.
async fn persistence(connection: &mut PgConnection) -> Result<i8, sqlx::Error> {
    sqlx::query_scalar!("SELECT relpersistence FROM pg_class WHERE oid = 'payment_queue'::regclass")
        .fetch_one(connection)
        .await
}

/// Leaves a role with [`RIGHTS`], whatever it had.
async fn grant(connection: &mut PgConnection, role: &str, purge: bool) -> Result<(), sqlx::Error> {
    let role = format!("\"{}\"", role.replace('"', "\"\""));
    let mut transaction = connection.begin().await?;
    // Of several that start at once, one after the other.
    transaction
        .execute("LOCK TABLE payment_queue IN SHARE UPDATE EXCLUSIVE MODE")
        .await?;
    let mut rights = vec![RIGHTS];
    if is_citus(&mut transaction).await? {
        rights.push(citus::RIGHTS);
    }
    if purge {
        rights.push(PURGE_RIGHT);
    }
    for rights in rights {
        let rights = AssertSqlSafe(rights.replace("{role}", &role));
        sqlx::raw_sql(rights).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// Logs rights that only `init.sql` puts right.
async fn told_of_rights(connection: &mut PgConnection, service: &str) -> Result<(), sqlx::Error> {
    let (sees_statements, unended): (bool, Option<String>) = sqlx::query_as(
        "SELECT pg_has_role($1::name, 'pg_read_all_stats', 'USAGE'),
            (SELECT string_agg(r.rolname, ', ' ORDER BY r.rolname) FROM pg_roles r
            WHERE pg_has_role(r.oid, to_regrole('auditor'), 'USAGE') AND r.rolcanlogin
                AND NOT r.rolsuper
                AND NOT pg_has_role(r.oid, 'USAGE') AND NOT pg_has_role('pg_signal_backend',
                    'USAGE'))",
    )
    .bind(service)
    .fetch_one(connection)
    .await?;
    if sees_statements {
        tracing::warn!(
            database.role = service,
            "the service's role reads other roles' statements (pg_read_all_stats): run init.sql \
            again"
        );
    }
    if let Some(unended) = unended {
        tracing::warn!(
            database.roles = unended,
            "no auditor's long transaction can be ended where the owner is no member of that role nor of \
            pg_signal_backend: run init.sql again"
        );
    }
    Ok(())
}
