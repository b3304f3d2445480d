//! Connections to PostgreSQL, the migrations, and the durability of the queue.

use std::time::{Duration, Instant};

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

use crate::config::{DatabaseSettings, QueueDurability};
use crate::metrics::COUNTS;

/// The tables, in the order in which they came to be.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// Connections of one instance that serve requests.
pub const REQUEST_CONNECTIONS: u32 = 6;
/// Connections of one instance that claim payments and keep in touch with the other instances, one of
/// them to listen.
pub const CLAIM_CONNECTIONS: u32 = 4;
/// Connections of one instance that record what became of payments.
pub const SETTLE_CONNECTIONS: u32 = 2;
/// How long a request or a worker waits for a free connection before it counts the database as away.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is tried before it is used: the server may have restarted.
pub const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How long one statement may run before the server ends it.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts to reach a database that is away.
pub const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The pools of an instance, apart from each other so that neither requests nor workers can starve
/// the others. All connect when first used.
#[derive(Debug, Clone)]
pub struct Pools {
    /// For requests.
    pub requests: PgPool,
    /// For claims: a claim is on disk before its first byte goes out, where the queue is logged.
    pub claims: PgPool,
    /// For settles. With a logged queue they need not be on disk at once: one that is lost leaves the
    /// claim, and the processor is asked. With an unlogged queue they are the only evidence.
    pub settles: PgPool,
}

impl Pools {
    /// Pools for that database; nothing is opened yet.
    #[must_use]
    pub fn new(settings: &DatabaseSettings) -> Self {
        let settle_commit = match settings.queue_durability {
            QueueDurability::Unlogged => "on",
            QueueDurability::Logged => "off",
        };
        Self {
            requests: pool(settings, REQUEST_CONNECTIONS, "on"),
            claims: pool(settings, CLAIM_CONNECTIONS, "on"),
            settles: pool(settings, SETTLE_CONNECTIONS, settle_commit),
        }
    }

    /// Closes all connections.
    pub async fn close(&self) {
        tokio::join!(
            self.requests.close(),
            self.claims.close(),
            self.settles.close()
        );
    }
}

/// Our statements look rows up by key, or walk along a key. The queue fills and empties within seconds
/// and the books only grow, so statistics and cached plans are of another time: a planner that believes
/// a table to be small would read all of it. These leave it no other way. And since there is no other way,
/// one plan per statement and connection is enough: to plan each time costs more than the statement itself.
const BY_KEY: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off;
    SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;
    SET plan_cache_mode = force_generic_plan";

fn pool(settings: &DatabaseSettings, connections: u32, synchronous_commit: &'static str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .before_acquire(|connection, use_so_far| {
            Box::pin(async move {
                if use_so_far.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                let limits = format!(
                    "SET statement_timeout = {}; SET synchronous_commit = {synchronous_commit}",
                    STATEMENT_TIMEOUT.as_millis()
                );
                connection.execute(AssertSqlSafe(limits)).await?;
                connection.execute(BY_KEY).await?;
                Ok(())
            })
        })
        .connect_lazy_with(
            settings
                .database_url
                .0
                .clone()
                .application_name("payment-proxy"),
        )
}

/// Applies the migrations that are missing, then gives the queue the durability asked for.
///
/// # Errors
/// The database cannot be reached, is newer than this program, or refuses a statement.
pub async fn migrate(settings: &DatabaseSettings) -> anyhow::Result<()> {
    let options = settings
        .database_url
        .0
        .clone()
        .application_name("payment-proxy migrate");
    let mut connection = PgConnection::connect_with(&options).await?;
    MIGRATIONS.run(&mut connection).await?;
    apply_durability(&mut connection, settings.queue_durability).await?;
    connection.close().await?;
    Ok(())
}

/// Rewrites the queue as logged or unlogged where it is not yet; its rows stay.
async fn apply_durability(
    connection: &mut PgConnection,
    wanted: QueueDurability,
) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    // Two instances that start at once take turns here; the second finds the work done.
    transaction
        .execute("LOCK TABLE payment_queue IN SHARE UPDATE EXCLUSIVE MODE")
        .await?;
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

/// Whether the database answers and knows every migration of this program.
///
/// # Errors
/// Why it is not so.
pub async fn check_ready(pool: &PgPool) -> anyhow::Result<()> {
    let newest = MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or_default();
    // The table of migrations is not one of the migrations, so this is not checked when it is compiled.
    let applied: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(pool)
            .await?;
    anyhow::ensure!(
        applied >= Some(newest),
        "the database has migration {applied:?}, {newest} is needed"
    );
    Ok(())
}

/// Whether the same statement may succeed when it is tried again: the database is away, starting,
/// stopping, full, or broke a deadlock.
#[must_use]
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // Classes of PostgreSQL's Appendix A: 08 connection, 25 transaction state (read-only),
            // 40 rollback, 53 resources, 55 object state (lock), 57 operator intervention, 58 system.
            // 42P01, no such table: not migrated yet.
            error.code().is_some_and(|code| {
                ["08", "25", "40", "53", "55", "57", "58", "42P01"]
                    .iter()
                    .any(|class| code.starts_with(class))
            })
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// A time without the database, as one task sees it: logged when it begins and when it ends.
#[derive(Debug)]
pub struct Outage {
    task: &'static str,
    since: Option<Instant>,
}

impl Outage {
    /// No outage yet, for that task.
    #[must_use]
    pub fn new(task: &'static str) -> Self {
        Self { task, since: None }
    }

    /// A statement failed.
    pub fn goes_on(&mut self, error: &sqlx::Error) {
        COUNTS.database_error(self.task);
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::error!(task = self.task, error = %error, "the database does not answer; trying again");
        }
    }

    /// A statement succeeded.
    pub fn over(&mut self) {
        if let Some(since) = self.since.take() {
            tracing::info!(
                task = self.task,
                outage_seconds = since.elapsed().as_secs_f64(),
                "the database answers again"
            );
        }
    }
}
