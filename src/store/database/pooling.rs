//! What stands between an instance and the server: nothing, or a pooler, which in transaction mode
//! gives each transaction whichever session of the server is free. docs/databases.md.
//!
//! In transaction mode nothing is relied on that a session was told before. What statements need is
//! the role's default, with which every session of it begins; what only some need (whether a commit
//! is waited for) they say in their own transaction; and the statements that accept, claim and
//! settle ask whether they are where they should be ([`expected`](super::Connections::expected)).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::errors::{Unfit, is_of_two_at_once, is_unprepared};
use super::session::Session;
use super::validity::with_deadline;

/// How often it is tried whether two connections share a session. An idle pooler shows it the first
/// time; a busy one may give a connection the session that it had before, but hardly so often.
const LOOKS: usize = 4;
/// How often the defaults of the role are written that another instance writes at the same time,
/// and the pause between.
const DEFAULT_ATTEMPTS: usize = 20;
const DEFAULT_PAUSE: Duration = Duration::from_millis(100);

/// Whose the sessions of the server are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Each connection has one of its own.
    Session,
    /// Each transaction is given one.
    Transaction,
}

impl Pooling {
    /// Looks whether two connections share sessions.
    ///
    /// # Errors
    /// There are no two connections, or the pooler does not keep what they prepare, or transactions
    /// together: [`Unfit`].
    pub(crate) async fn of(options: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        let look = async {
            let connect = || Session::SERVICE.connect(options);
            let (mut first, mut second) = tokio::try_join!(connect(), connect())?;
            let found = look(&mut first, &mut second).await;
            let _ = tokio::join!(first.close(), second.close());
            found
        };
        with_deadline(look).await.map_err(|error| {
            let said = error.as_database_error().map(|error| error.message());
            match said {
                _ if is_unprepared(&error) => Unfit::NothingPrepared.into(),
                // PgBouncer's answer to BEGIN has the code of everything that is wrong with it.
                Some(said) if said.contains("statement pooling") => {
                    Unfit::NoTransactions(said.to_owned()).into()
                }
                _ => error,
            }
        })
    }
}

async fn look(first: &mut PgConnection, second: &mut PgConnection) -> Result<Pooling, sqlx::Error> {
    let own = process(first).await?;
    for _ in 0..LOOKS {
        if process(first).await? != own {
            return Ok(Pooling::Transaction);
        }
        let mut holding = second.begin().await?;
        let held = process(&mut holding).await?;
        // Where there is one session in all, asking for another would be waiting for this one.
        let shared = held == own || process(first).await? != own;
        holding.rollback().await?;
        if shared {
            // It is prepared in one session by now, and has to be there in another, too.
            let mut holding = second.begin().await?;
            process(&mut holding).await?;
            holding.rollback().await?;
            process(first).await?;
            return Ok(Pooling::Transaction);
        }
    }
    Ok(Pooling::Session)
}

/// The process that serves this statement, by a prepared statement.
async fn process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(connection)
        .await
}

/// Makes what the service's sessions are told the defaults of this connection's role in this
/// database, and ends idle sessions of the role that began before that, or before the newest
/// migration: others are opened. Of instances that do so at once the server refuses all but
/// one, and these find it done.
///
/// # Errors
/// The database refuses, as a standby does.
pub(super) async fn become_default(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    for _ in 1..DEFAULT_ATTEMPTS {
        match set_defaults(connection).await {
            Err(error) if is_of_two_at_once(&error) => tokio::time::sleep(DEFAULT_PAUSE).await,
            done => return done,
        }
    }
    set_defaults(connection).await
}

async fn set_defaults(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let before = defaults(&mut transaction).await?;
    sqlx::raw_sql(AssertSqlSafe(Session::SERVICE.as_defaults()))
        .execute(&mut *transaction)
        .await?;
    let changed = defaults(&mut transaction).await? != before;
    transaction.commit().await?;
    let ended = end_sessions(connection, changed).await?;
    if changed || ended > 0 {
        tracing::info!(
            sessions.ended = ended,
            "sessions of the role begin with our settings, which are its defaults now"
        );
    }
    Ok(())
}

async fn defaults(connection: &mut PgConnection) -> Result<Option<Vec<String>>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT s.setconfig FROM pg_catalog.pg_db_role_setting s
        WHERE s.setrole = (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
            AND s.setdatabase = (SELECT d.oid FROM pg_catalog.pg_database d
                WHERE d.datname = current_database())",
    )
    .fetch_optional(connection)
    .await
    .map(Option::flatten)
}

/// Ends idle sessions of this role that know other settings or tables. One that is in use goes on:
/// what it prepared anew is refused, tried again, and its settings are as every connection says
/// them.
async fn end_sessions(connection: &mut PgConnection, all: bool) -> Result<i64, sqlx::Error> {
    let readable: bool = sqlx::query_scalar(
        "SELECT coalesce(has_table_privilege(to_regclass('_sqlx_migrations'), 'SELECT'), false)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let newest: Option<DateTime<Utc>> = match readable {
        false => None,
        true => {
            sqlx::query_scalar("SELECT max(installed_on) FROM _sqlx_migrations")
                .fetch_one(&mut *connection)
                .await?
        }
    };
    let row = sqlx::query(
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 1000)) FROM pg_stat_activity
        WHERE usename = current_user AND datname = current_database() AND state = 'idle'
            AND pid <> pg_backend_pid() AND ($1 OR backend_start < $2)",
    )
    .bind(all)
    .bind(newest)
    .fetch_one(connection)
    .await?;
    row.try_get(0)
}
