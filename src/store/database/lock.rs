//! Statements that lock a table wait for it shortly, again and again, and say who holds it.
//!
//! PostgreSQL lets nobody else at a table for which a stronger lock is waited for. Behind a
//! migration that waits for a reader (`pg_dump`, a report) every post would wait for that reader.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};

use super::Session;

/// How long a statement that changes a table waits for its lock, and payments wait behind it.
pub const DDL_LOCK_TIMEOUT: Duration = Duration::from_millis(400);
/// The same where autovacuum holds the lock: it gives way to who has waited for the server's
/// `deadlock_timeout`, which is a second unless somebody has changed it. Less than a client waits
/// for its 202.
pub(crate) const VACUUM_LOCK_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The time between two attempts, in which payments go on.
pub(crate) const DDL_LOCK_PAUSE: Duration = Duration::from_secs(1);
/// After so long without the lock nothing more is tried.
pub(crate) const DDL_LOCK_LIMIT: Duration = Duration::from_secs(3_600);
/// The same where a client waits for the reply. nginx gives up after 5 s.
pub(crate) const REQUEST_LOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// The time between two lines in the log while the same sessions hold it.
const TOLD_PAUSE: Duration = Duration::from_secs(60);

/// Does something on a connection of its own, whose statements wait for locks for
/// [`DDL_LOCK_TIMEOUT`] at most; where that is not enough, again after [`DDL_LOCK_PAUSE`]. The log
/// says who holds the lock. `attempt` must be such that what it has done before it was refused may
/// be done again.
///
/// # Errors
/// Those of `attempt`, or that the lock was held for [`DDL_LOCK_LIMIT`]: by whom.
pub(crate) async fn with_short_locks<T>(
    options: &PgConnectOptions,
    session: Session,
    task: &'static str,
    attempt: impl AsyncFnMut(&mut PgConnection) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let session = (session, task, DDL_LOCK_LIMIT);
    again_while_locked(options, None, session, attempt).await
}

/// The same for a request, in a transaction on connections of that pool, which lead to the database
/// that the instance was admitted to, and for [`REQUEST_LOCK_TIMEOUT`].
///
/// # Errors
/// As for [`with_short_locks`].
pub(crate) async fn with_short_locks_of<T>(
    pool: &PgPool,
    task: &'static str,
    attempt: impl AsyncFnMut(&mut PgConnection) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let options = pool.connect_options();
    let session = (Session::SERVICE, task, REQUEST_LOCK_TIMEOUT);
    again_while_locked(&options, Some(pool), session, attempt).await
}

async fn again_while_locked<T>(
    options: &PgConnectOptions,
    pool: Option<&PgPool>,
    (session, task, timeout): (Session, &'static str, Duration),
    mut attempt: impl AsyncFnMut(&mut PgConnection) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let begun_at = Instant::now();
    let mut told: Option<(Instant, String)> = None;
    let mut lock_timeout = DDL_LOCK_TIMEOUT;
    loop {
        let wait = (lock_timeout, options);
        let mut holders = Vec::new();
        let (connection, outcome) = match pool {
            None => {
                let session = Session {
                    lock_timeout,
                    ..session
                };
                let mut connection = session.connect(options).await?;
                let outcome = watched(&mut connection, wait, &mut holders, &mut attempt).await;
                (connection, outcome)
            }
            Some(pool) => {
                let mut connection = pool.acquire().await?.detach();
                let outcome = async {
                    let mut transaction = connection.begin().await?;
                    sqlx::query("SELECT set_config('lock_timeout', $1, true)")
                        .bind(lock_timeout.as_millis().to_string())
                        .execute(&mut *transaction)
                        .await?;
                    let done = watched(&mut transaction, wait, &mut holders, &mut attempt).await?;
                    transaction.commit().await?;
                    anyhow::Ok(done)
                };
                let outcome = outcome.await;
                (connection, outcome)
            }
        };
        let error = match outcome {
            Ok(done) => {
                // What was to be done is done, even if the connection has been lost since.
                let _ = connection.close().await;
                return Ok(done);
            }
            Err(error) if is_lock(&error) => error,
            Err(error) => return Err(error),
        };
        // Closed, because a migration that is refused leaves its advisory lock held.
        let _ = connection.close().await;
        let who: Vec<String> = holders.iter().map(Holder::to_string).collect();
        let who = match &who[..] {
            [] => "nobody any more".to_owned(),
            who => who.join("; "),
        };
        if begun_at.elapsed() >= timeout {
            return Err(error.context(format!("the lock is held by {who}")));
        }
        if told
            .as_ref()
            .is_none_or(|(at, same)| *same != who || at.elapsed() >= TOLD_PAUSE)
        {
            tracing::warn!(
                task,
                lock.held_by = who,
                "waits for a lock, and lets payments pass; trying again"
            );
            told = Some((Instant::now(), who));
        }
        let by_vacuum = |holder: &Holder| holder.kind.as_deref() == Some("autovacuum worker");
        lock_timeout = match holders.iter().any(by_vacuum) {
            true => VACUUM_LOCK_TIMEOUT,
            false => DDL_LOCK_TIMEOUT,
        };
        tokio::time::sleep(DDL_LOCK_PAUSE).await;
    }
}

/// Makes an attempt, and notes for whom it waits.
async fn watched<T>(
    connection: &mut PgConnection,
    (lock_timeout, options): (Duration, &PgConnectOptions),
    holders: &mut Vec<Holder>,
    attempt: &mut impl AsyncFnMut(&mut PgConnection) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *connection)
        .await?;
    tokio::select! {
        outcome = attempt(connection) => outcome,
        never = watch(options, pid, lock_timeout / 2, holders) => match never {},
    }
}

/// Whether somebody held a lock for too long, or waited for one of ours while we waited for one of
/// his.
fn is_lock(error: &anyhow::Error) -> bool {
    let error = database_error(error);
    let code = error.and_then(|error| Some(error.as_database_error()?.code()?.into_owned()));
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}

/// What the database said, if it is that what went wrong.
#[must_use]
pub(crate) fn database_error(error: &anyhow::Error) -> Option<&sqlx::Error> {
    error
        .downcast_ref::<sqlx::Error>()
        .or_else(|| match error.downcast_ref::<MigrateError>()? {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Some(error),
            _ => None,
        })
}

/// Reads again and again for whom the session of that process waits, and remembers those it found
/// last.
async fn watch(
    options: &PgConnectOptions,
    pid: i32,
    interval: Duration,
    holders: &mut Vec<Holder>,
) -> Infallible {
    let mut connection = None;
    loop {
        tokio::time::sleep(interval).await;
        let looked = async {
            let connection = match &mut connection {
                Some(connection) => connection,
                none => none.insert(Session::SERVICE.connect(options).await?),
            };
            Holder::of(connection, pid).await
        };
        match looked.await {
            Ok(found) if !found.is_empty() => *holders = found,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %error, "nobody says who holds the lock");
                connection = None;
            }
        }
    }
}

/// A session that holds a lock which somebody else waits for.
#[derive(Debug, sqlx::FromRow)]
struct Holder {
    pid: i32,
    user: Option<String>,
    application: Option<String>,
    kind: Option<String>,
    state: Option<String>,
    transaction_since: Option<DateTime<Utc>>,
    query_since: Option<DateTime<Utc>>,
}

impl Holder {
    /// Those for whom the session of that process waits.
    async fn of(connection: &mut PgConnection, pid: i32) -> Result<Vec<Self>, sqlx::Error> {
        // Of other roles' sessions some of this is hidden from who is no member of
        // pg_read_all_stats.
        sqlx::query_as(
            r#"SELECT b.pid, a.usename::text AS user, a.application_name AS application,
                a.backend_type AS kind,
                a.state, a.xact_start AS transaction_since, a.query_start AS query_since
            FROM (SELECT DISTINCT unnest(pg_blocking_pids($1)) AS pid) AS b
            LEFT JOIN pg_stat_activity a ON a.pid = b.pid ORDER BY a.xact_start, b.pid"#,
        )
        .bind(pid)
        .fetch_all(connection)
        .await
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pid == 0 {
            return out.write_str("a prepared transaction, see pg_prepared_xacts");
        }
        write!(out, "process {}", self.pid)?;
        let texts = [
            ("user", &self.user),
            ("application", &self.application),
            ("kind", &self.kind),
            ("state", &self.state),
        ];
        for (name, text) in texts {
            if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                write!(out, ", {name} {text}")?;
            }
        }
        let times = [
            ("transaction since", self.transaction_since),
            ("query since", self.query_since),
        ];
        for (name, time) in times {
            if let Some(time) = time {
                let time = time.to_rfc3339_opts(SecondsFormat::Secs, true);
                write!(out, ", {name} {time}")?;
            }
        }
        Ok(())
    }
}
