//! The pools of an instance.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};

use super::session::Session;
use super::trust;
use crate::config::{DatabaseSettings, QueueDurability};

/// Connections of one instance that accept payments, each in a pool of its own.
pub const ACCEPT_CONNECTIONS: usize = 2;
/// Connections of one instance that serve all other requests.
pub const REQUEST_CONNECTIONS: u32 = 5;
/// Connections of one instance that claim payments and keep in touch with the other instances, one of
/// them to listen.
pub const CLAIM_CONNECTIONS: u32 = 4;
/// Connections of one instance that record what became of payments.
pub const SETTLE_CONNECTIONS: u32 = 1;
/// Connections of one instance that serve operators: one for the live page, one for metrics, one for a person.
pub const OPERATOR_CONNECTIONS: u32 = 3;
/// How long a request or a worker waits for a free connection before it counts the database as away.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is tried before it is used: the server may have restarted.
pub const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Decides whether a new connection may be used.
pub trait ConnectionCheck: Send + Sync {
    /// Ends once the connection may be used. For one that may not, it never ends: its user's timeout does.
    fn check<'c>(
        &'c self,
        connection: &'c mut PgConnection,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>>;
}

/// Takes every connection.
struct Unchecked;

impl ConnectionCheck for Unchecked {
    fn check<'c>(&'c self, _: &'c mut PgConnection) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(async { Ok(()) })
    }
}

/// The pools of an instance, apart from each other so that neither requests nor workers can starve
/// the others. All connect when first used.
#[derive(Debug, Clone)]
pub struct Pools {
    /// For the INSERT of payments that are posted: each [kept](Kept) by one task.
    pub accepts: [PgPool; ACCEPT_CONNECTIONS],
    /// For all other requests.
    pub requests: PgPool,
    /// For claims: a claim is on disk before its first byte goes out, where the queue is logged.
    pub claims: PgPool,
    /// For settles. With a logged queue they need not be on disk at once: one that is lost leaves the
    /// claim, and the processor is asked. With an unlogged queue they are the only evidence.
    pub settles: PgPool,
    /// For operators. They have a runtime of their own, in which these are opened, used and closed.
    pub operators: PgPool,
}

impl Pools {
    /// Pools for that database; nothing is opened yet.
    #[must_use]
    pub fn new(settings: &DatabaseSettings) -> Self {
        Self::checked(settings, Arc::new(Unchecked))
    }

    /// The same, whose connections are checked when they are new.
    #[must_use]
    pub fn checked(settings: &DatabaseSettings, check: Arc<dyn ConnectionCheck>) -> Self {
        let pool = |connections, session| pool(settings, connections, session, Arc::clone(&check));
        let service = Session::SERVICE;
        let settle = match settings.queue_durability {
            QueueDurability::Unlogged => service,
            QueueDurability::Logged => Session {
                own: &[("synchronous_commit", "off")],
                ..service
            },
        };
        Self {
            accepts: std::array::from_fn(|_| pool(1, service)),
            requests: pool(REQUEST_CONNECTIONS, service),
            claims: pool(CLAIM_CONNECTIONS, service),
            settles: pool(SETTLE_CONNECTIONS, settle),
            operators: pool(OPERATOR_CONNECTIONS, service),
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
            self.settles.close()
        );
    }
}

fn pool(
    settings: &DatabaseSettings,
    connections: u32,
    session: Session,
    check: Arc<dyn ConnectionCheck>,
) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .before_acquire(|connection, use_so_far| {
            Box::pin(async move {
                if !trust::holds(use_so_far.age) {
                    return Ok(false);
                }
                // One that broke while it was idle is replaced without a word: if the server is away, whoever
                // wants a connection hears of it.
                Ok(use_so_far.idle_for <= TRUSTED_IDLE || connection.ping().await.is_ok())
            })
        })
        .after_release(|_, use_so_far| Box::pin(async move { Ok(trust::holds(use_so_far.age)) }))
        .after_connect(move |connection, _| {
            let check = Arc::clone(&check);
            Box::pin(async move {
                session.begin(connection).await?;
                check.check(connection).await
            })
        })
        .connect_lazy_with(settings.connect_options("payment-proxy"))
}
