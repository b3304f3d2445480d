//! The pools of an instance.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};

use super::session::Session;
use super::validity::{READ_DEADLINE, Validity};
use crate::config::{DatabaseSettings, QueueDurability};
use crate::domain::cell::Cell;
use crate::telemetry::metrics::Counts;

/// Connections of one instance that accept payments, each in a pool of its own.
pub const ACCEPT_CONNECTIONS: usize = 2;
/// Connections of one instance that serve all other requests.
pub const REQUEST_CONNECTIONS: u32 = 5;
/// Connections of one instance that claim payments and keep in touch with the other instances, one
/// of them to listen.
pub const CLAIM_CONNECTIONS: u32 = 4;
/// Connections of one instance that record what became of payments.
pub const SETTLE_CONNECTIONS: u32 = 1;
/// Connections of one instance that serve operators: one for the live page, one for metrics, one
/// for a person.
pub const OPERATOR_CONNECTIONS: u32 = 3;
/// The name of an instance among the sessions of the server.
const PROGRAM: &str = "payment-proxy";
/// How long a request or a worker waits for a free connection before it counts the database as
/// away.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is tried before it is used: the server may have restarted.
pub(crate) const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Decides whether a new connection may be used.
pub trait ConnectionCheck: Send + Sync + fmt::Debug {
    /// Ends once the connection may be used. For one that may not, it never ends: its user's
    /// timeout does.
    fn check<'c>(
        &'c self,
        connection: &'c mut PgConnection,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>>;

    /// What `check_queue` has to find in each transaction, where a connection that was checked may
    /// lead elsewhere later: behind a pooler in transaction mode.
    fn expected(&self) -> Option<Arc<str>> {
        None
    }
}

/// Takes every connection.
#[derive(Debug)]
struct Unchecked;

impl ConnectionCheck for Unchecked {
    fn check<'c>(&'c self, _: &'c mut PgConnection) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(async { Ok(()) })
    }
}

/// Connections of an instance, with what it knows of all of its connections.
#[derive(Debug, Clone)]
pub struct Pool {
    connections: PgPool,
    validity: Arc<Validity>,
    counts: Arc<Counts>,
    cell: Cell,
    check: Arc<dyn ConnectionCheck>,
    settle_commit: &'static str,
}

/// Connections on which payments are accepted, claimed and settled.
pub trait Connections {
    /// The connections.
    fn pool(&self) -> &PgPool;

    /// What `check_queue` has to find in each transaction, where it has to be asked.
    fn expected(&self) -> Option<Arc<str>> {
        None
    }

    /// Whether a connection that has just been taken leads to the queue that the claim was meant
    /// for. A new connection tells, before its first statement, that the queue was emptied.
    fn leads_to_known_queue(&self) -> bool {
        true
    }

    /// The `synchronous_commit` of a settle.
    fn settle_commit(&self) -> &'static str {
        "on"
    }
}

impl Connections for PgPool {
    fn pool(&self) -> &PgPool {
        self
    }
}

impl Connections for Pool {
    fn pool(&self) -> &PgPool {
        &self.connections
    }

    fn expected(&self) -> Option<Arc<str>> {
        self.check.expected()
    }

    fn settle_commit(&self) -> &'static str {
        self.settle_commit
    }
}

impl Pool {
    /// [`Validity::with_deadline`], for statements on connections of this pool.
    ///
    /// # Errors
    /// Those of the statements, or that there was no answer.
    pub async fn with_deadline<T>(
        &self,
        statements: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        self.validity.with_deadline(statements).await
    }

    /// The same within [`READ_DEADLINE`], for what a request reads from a standby.
    ///
    /// # Errors
    /// As there.
    pub async fn read<T>(
        &self,
        statements: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        self.validity.within(READ_DEADLINE, statements).await
    }

    /// Which connections of the instance may be used.
    #[must_use]
    pub(crate) fn validity(&self) -> &Arc<Validity> {
        &self.validity
    }

    /// The cell that its connections lead to.
    #[must_use]
    pub fn cell(&self) -> Cell {
        self.cell
    }

    /// What the instance counts.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl From<PgPool> for Pool {
    /// A pool that belongs to no instance.
    fn from(connections: PgPool) -> Self {
        Self {
            connections,
            validity: Arc::default(),
            counts: Arc::default(),
            cell: Cell::ONLY,
            check: Arc::new(Unchecked),
            settle_commit: "on",
        }
    }
}

impl Deref for Pool {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.connections
    }
}

/// The pools of an instance, apart from each other so that neither requests nor workers can starve
/// the others. All connect when first used.
#[derive(Debug, Clone)]
pub struct Pools {
    /// For the INSERT of payments that are posted: each [kept by one task](DedicatedConnection).
    pub accepts: [Pool; ACCEPT_CONNECTIONS],
    /// For all other requests.
    pub requests: Pool,
    /// For claims: a claim is on disk before its first byte goes out, where the queue is logged.
    pub claims: Pool,
    /// For the connection that listens for notifications: past the pooler where there is another
    /// way, else those for claims.
    pub hints: Pool,
    /// For settles. With a logged queue they need not be on disk at once: one that is lost leaves
    /// the claim, and the processor is asked. With an unlogged queue they are the only evidence.
    pub settles: Pool,
    /// For operators. They have a runtime of their own, in which these are opened, used and closed.
    pub operators: Pool,
}

impl Pools {
    /// Pools for that database; nothing is opened yet.
    #[must_use]
    pub fn new(settings: &DatabaseSettings) -> Self {
        Self::checked(settings, Arc::new(Unchecked), &Arc::default())
    }

    /// The same, whose connections are checked when they are new, and whose failures are counted.
    #[must_use]
    pub fn checked(
        settings: &DatabaseSettings,
        check: Arc<dyn ConnectionCheck>,
        counts: &Arc<Counts>,
    ) -> Self {
        let validity = Arc::default();
        let (through, past) = (
            settings.connect_options(PROGRAM),
            settings.direct_options(PROGRAM),
        );
        let pool = |connections, options: &PgConnectOptions| Pool {
            connections: connect_lazy(options.clone(), connections, &validity, &check),
            validity: Arc::clone(&validity),
            counts: Arc::clone(counts),
            cell: settings.cell(),
            check: Arc::clone(&check),
            settle_commit: match settings.queue_durability {
                QueueDurability::Unlogged => "on",
                QueueDurability::Logged => "off",
            },
        };
        let claims = pool(CLAIM_CONNECTIONS, &through);
        Self {
            accepts: std::array::from_fn(|_| pool(1, &through)),
            requests: pool(REQUEST_CONNECTIONS, &through),
            hints: match settings.direct_database_url {
                Some(_) => pool(1, &past),
                None => claims.clone(),
            },
            claims,
            settles: pool(SETTLE_CONNECTIONS, &through),
            operators: pool(OPERATOR_CONNECTIONS, &through),
        }
    }

    /// Closes all connections but those for operators, which is for their runtime to do.
    pub async fn close(&self) {
        let [first, second] = &self.accepts;
        tokio::join!(
            first.close(),
            second.close(),
            self.requests.close(),
            self.claims.close(),
            self.hints.close(),
            self.settles.close()
        );
    }
}

fn connect_lazy(
    options: PgConnectOptions,
    connections: u32,
    validity: &Arc<Validity>,
    check: &Arc<dyn ConnectionCheck>,
) -> PgPool {
    let (taken, given_back) = (Arc::clone(validity), Arc::clone(validity));
    let check = Arc::clone(check);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .before_acquire(move |connection, use_so_far| {
            let holds = taken.holds(use_so_far.age);
            Box::pin(async move {
                if !holds {
                    return Ok(false);
                }
                // One that broke while it was idle is replaced without a word: if the server is
                // away, whoever wants a connection hears of it.
                Ok(use_so_far.idle_for <= TRUSTED_IDLE || connection.ping().await.is_ok())
            })
        })
        .after_release(move |_, use_so_far| {
            let holds = given_back.holds(use_so_far.age);
            Box::pin(async move { Ok(holds) })
        })
        .after_connect(move |connection, _| {
            let check = Arc::clone(&check);
            Box::pin(async move {
                Session::SERVICE.begin(connection).await?;
                check.check(connection).await
            })
        })
        .connect_lazy_with(options)
}
