//! Which sessions were signed out before their end. The database has them, so that every instance
//! knows, after a restart, too.
//!
//! While the database does not answer, an instance goes by what it read last; one that has read
//! nothing since its start believes a cookie whose seal is right. Whatever changes something needs
//! the database as well.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::store::database::{LateAnswer, Pool};

/// How long a request waits for the database to say which sessions were signed out.
pub(super) const REVOKED_WITHIN: Duration = Duration::from_millis(500);
/// The time between two looks whether the session of an open feed was signed out.
pub(super) const REVOKED_POLL: Duration = Duration::from_secs(2);

/// The sessions that were signed out, as read last.
#[derive(Debug, Default)]
pub struct Revoked {
    look: tokio::sync::Mutex<LateAnswer<Vec<Uuid>>>,
    known: Mutex<HashSet<Uuid>>,
}

impl Revoked {
    /// Whether that session was signed out.
    pub(super) async fn has(&self, pool: &Pool, session: Uuid) -> bool {
        let read = async |pool: Pool| {
            sqlx::query_scalar!(
                "SELECT session_id FROM operator_session_revoked WHERE ends_at > now()"
            )
            .fetch_all(&*pool)
            .await
        };
        let mut look = self.look.lock().await;
        let answer = look.answer(pool, REVOKED_WITHIN, read).await;
        drop(look);
        match answer {
            Some(Ok(revoked)) => *self.lock() = revoked.into_iter().collect(),
            Some(Err(error)) => tracing::debug!(error = %error, "sessions cannot be looked up"),
            None => tracing::debug!("sessions cannot be looked up in time"),
        }
        self.lock().contains(&session)
    }

    /// Signs a session out, for all instances.
    ///
    /// # Errors
    /// The database did not confirm, so the session goes on. Doing it again is safe.
    pub(super) async fn add(
        &self,
        pool: &PgPool,
        session: Uuid,
        ends_at: DateTime<Utc>,
    ) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "WITH ended AS (DELETE FROM operator_session_revoked WHERE ends_at < now())
            INSERT INTO operator_session_revoked (session_id, ends_at) VALUES ($1, $2)
            ON CONFLICT (session_id) DO NOTHING",
            session,
            ends_at
        )
        .execute(pool)
        .await?;
        self.lock().insert(session);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
