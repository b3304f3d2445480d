//! What the session of a connection is, whatever the server, the database or the role have set:
//! docs/databases.md.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, Row};

use super::errors::Unfit;
use super::validity::with_deadline;
use super::{LOCK_TIMEOUT, STATEMENT_TIMEOUT};

/// How long a transaction of the service may idle before the server ends it.
pub(crate) const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What our statements rest on in every session. A server that does not know one of them has not
/// what it limits.
const ALWAYS: [(&str, &str); 22] = [
    // Statements of one transaction, those of a function among them, see what others have committed
    // meanwhile.
    ("default_transaction_isolation", "read committed"),
    // Tables and functions are those that the migrations have made; nobody's temporary ones come
    // first.
    ("search_path", "public, pg_temp"),
    // An error where a policy would hide rows.
    ("row_security", "off"),
    // Guard: AcceptIsDurable, Guard: ClaimIsDurable. Settles have their own value.
    ("synchronous_commit", "on"),
    // Connections idle for as long as nobody posts, and a task has its own deadlines.
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    // Texts that we send and read.
    ("client_encoding", "UTF8"),
    ("timezone", "UTC"),
    ("datestyle", "ISO, MDY"),
    ("intervalstyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    // Other kinds of tables cannot be updated, or are not in the log of changes.
    ("default_table_access_method", "heap"),
    ("exit_on_error", "off"),
    // Compiling a query costs more than it can save here.
    ("jit", "off"),
    // What is left to the planner below must not be forbidden elsewhere.
    ("enable_indexscan", "on"),
    ("enable_indexonlyscan", "on"),
    ("enable_nestloop", "on"),
    ("enable_sort", "on"),
    ("enable_material", "on"),
];

/// Our statements look rows up by key, or walk along a key. The queue fills and empties within
/// seconds and the ledger only grows, so statistics and cached plans are of another time: a planner
/// that believes a table to be small would read all of it. These leave it no other way. And since
/// there is no other way, one plan per statement and connection is enough: to plan each time costs
/// more than the statement itself. Citus needs the values to plan.
const BY_KEY: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// What a session has besides what all have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// How long a statement may run; zero: as long as it takes.
    pub(crate) statement_timeout: Duration,
    /// How long a statement waits for a lock.
    pub(crate) lock_timeout: Duration,
    /// How long a transaction may idle.
    pub(crate) idle_timeout: Duration,
    /// Settings of its own, which come after all others.
    pub(crate) own: &'static [(&'static str, &'static str)],
    /// Whether plans go by key only.
    pub(crate) by_key: bool,
}

impl Session {
    /// As the service's pools have it.
    pub(crate) const SERVICE: Self = Self {
        statement_timeout: STATEMENT_TIMEOUT,
        lock_timeout: LOCK_TIMEOUT,
        idle_timeout: IDLE_IN_TRANSACTION_TIMEOUT,
        own: &[],
        by_key: true,
    };

    /// Says all of it to a connection, in one round trip.
    ///
    /// # Errors
    /// The server refuses, or has something set that only its administrator can set right:
    /// [`Unfit`].
    pub(crate) async fn begin(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let settings = self.settings();
        let statement = format!(
            "SELECT pg_catalog.current_setting('session_replication_role'), (
                SELECT pg_catalog.count(pg_catalog.set_config(name, value, false))
                FROM (VALUES {settings}) AS said (name, value)
                WHERE pg_catalog.current_setting(name, true) IS NOT NULL
            )"
        );
        let row = sqlx::raw_sql(AssertSqlSafe(statement))
            .fetch_one(connection)
            .await?;
        match row.try_get::<&str, _>(0)? {
            "origin" => Ok(()),
            other => Err(Unfit::TriggersOff(other.to_owned()).into()),
        }
    }

    /// All of it, as rows of names and values.
    fn settings(&self) -> String {
        let by_key = if self.by_key { &BY_KEY[..] } else { &[] };
        let said = ALWAYS.iter().chain(by_key).chain(self.own);
        let said = said.map(|(name, value)| match *name {
            "plan_cache_mode" => format!(
                "('{name}', CASE WHEN EXISTS (
                    SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus'
                ) THEN 'auto' ELSE '{value}' END)"
            ),
            _ => format!("('{name}', '{value}')"),
        });
        let limits = [
            ("statement_timeout", self.statement_timeout),
            ("lock_timeout", self.lock_timeout),
            ("idle_in_transaction_session_timeout", self.idle_timeout),
        ];
        let limits = limits.map(|(name, limit)| format!("('{name}', '{}')", limit.as_millis()));
        let settings: Vec<String> = said.chain(limits).collect();
        settings.join(", ")
    }

    /// The statement that makes all of it the defaults of the role that runs it, in the database in
    /// which it runs: what is a default already stays as it is.
    pub(super) fn as_defaults(&self) -> String {
        let settings = self.settings();
        format!(
            "DO $$
            DECLARE
                said record;
            BEGIN
                FOR said IN SELECT name, value FROM (VALUES {settings}) AS said (name, value)
                    WHERE pg_catalog.current_setting(name, true) IS NOT NULL
                LOOP
                    PERFORM pg_catalog.set_config(said.name, said.value, true);
                    CONTINUE WHEN EXISTS (
                        SELECT FROM pg_catalog.pg_db_role_setting s,
                            pg_catalog.unnest(s.setconfig) AS setting
                        WHERE s.setrole = (SELECT r.oid FROM pg_catalog.pg_roles r
                                WHERE r.rolname = current_user)
                            AND s.setdatabase = (SELECT d.oid FROM pg_catalog.pg_database d
                                WHERE d.datname = pg_catalog.current_database())
                            AND lower(split_part(setting, '=', 1)) = lower(said.name)
                            AND substr(setting, strpos(setting, '=') + 1)
                                = pg_catalog.current_setting(said.name)
                    );
                    -- Citus does not know FROM CURRENT. A path is a list of names, not a text.
                    EXECUTE pg_catalog.format('ALTER ROLE %I IN DATABASE %I SET %I = %s',
                        current_user, pg_catalog.current_database(), said.name,
                        CASE said.name WHEN 'search_path' THEN pg_catalog.current_setting(said.name)
                        ELSE pg_catalog.quote_literal(pg_catalog.current_setting(said.name)) END);
                END LOOP;
            END
            $$"
        )
    }

    /// A connection with such a session.
    ///
    /// # Errors
    /// There is none within the time that the database has to answer.
    pub(crate) async fn connect(
        &self,
        options: &PgConnectOptions,
    ) -> Result<PgConnection, sqlx::Error> {
        with_deadline(async {
            let mut connection = options.connect().await?;
            self.begin(&mut connection).await?;
            Ok(connection)
        })
        .await
    }
}
