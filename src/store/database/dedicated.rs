//! A connection that one task keeps for itself.

use std::time::Instant;

use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, Postgres};

use super::{ACQUIRE_TIMEOUT, Pool, TRUSTED_IDLE};

/// One connection of a pool that has no other user. It is not returned after each use, because a
/// pool then asks the server whether it is still there: at 1,000 payments a second that is as many
/// round trips more.
#[derive(Debug)]
pub(crate) struct DedicatedConnection {
    pool: Pool,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    connection: PoolConnection<Postgres>,
    since: Instant,
    used_at: Instant,
}

impl DedicatedConnection {
    /// None yet: it is opened when first used.
    #[must_use]
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, open: None }
    }

    /// The connection; another one if the last must not be used any more, or was idle for longer
    /// than [`TRUSTED_IDLE`] and does not answer. Whoever is refused by the server, or does not
    /// wait for its answer, has to [give it up](Self::give_up).
    ///
    /// # Errors
    /// None could be opened.
    pub(crate) async fn get(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if let Some(open) = &mut self.open
            && !open.is_fit(&self.pool).await
        {
            self.give_up();
        }
        let now = Instant::now();
        let open = match self.open.take() {
            Some(open) => Open {
                used_at: now,
                ..open
            },
            None => Open {
                connection: self.pool.acquire().await?,
                since: now,
                used_at: now,
            },
        };
        Ok(&mut self.open.insert(open).connection)
    }

    /// Closes it.
    pub(crate) fn give_up(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.connection.close_on_drop();
        }
    }
}

impl Open {
    async fn is_fit(&mut self, pool: &Pool) -> bool {
        if !pool.validity().holds(self.since.elapsed()) {
            return false;
        }
        if self.used_at.elapsed() <= TRUSTED_IDLE {
            return true;
        }
        let answer = tokio::time::timeout(ACQUIRE_TIMEOUT, self.connection.ping()).await;
        matches!(answer, Ok(Ok(())))
    }
}
