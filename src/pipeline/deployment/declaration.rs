//! What operators declare of the deployment, kept in the database with time and reason.

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::domain::printable::one_line;
use crate::store::database::{Found, ServingPoll, serving};

/// Why a database is no clone.
const SERVED: &str = "instances serve from this database: it is no clone";

/// What an operator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declaration {
    /// This database is the deployment's, restored from a backup: payments that it holds or lacks
    /// may have been charged.
    Restored,
    /// This database is a copy beside the deployment's, for tests: what is open in it is not ours
    /// to charge.
    Clone {
        /// Whether the open payments of the copy may be deleted.
        discard: bool,
    },
    /// This database is the deployment's, moved as a whole while nothing ran, as by `pg_upgrade`.
    Moved,
    /// The restore is over.
    Checked,
    /// The instances go on with the terms of this one.
    Terms {
        /// Its id.
        like: Uuid,
    },
}

impl Declaration {
    /// As it stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Clone { .. } => "clone",
            Self::Moved => "moved",
            Self::Checked => "checked",
            Self::Terms { .. } => "terms",
        }
    }
}

/// Declares it, as the owner of the tables. Returns what was changed, or why it was refused.
///
/// # Errors
/// The database did not confirm; nothing was changed then.
pub async fn declare(
    connection: &mut PgConnection,
    declaration: Declaration,
    reason: &str,
) -> Result<Result<String, String>, sqlx::Error> {
    // Nobody serves from a copy, whose rows are those of the original's instances.
    let may_be_served =
        matches!(declaration, Declaration::Clone { .. }) && is_here(connection).await?;
    if may_be_served && !serving(connection).await?.is_empty() {
        return Ok(Err(SERVED.to_owned()));
    }
    let mut transaction = connection.begin().await?;
    let known = sqlx::query!(
        r#"SELECT identity, database_identity() AS "here!", asks_first, terms::text AS terms FROM deployment FOR UPDATE"#
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let is_here = known
        .as_ref()
        .is_some_and(|known| known.identity == known.here);
    let asks_first = known.as_ref().is_some_and(|known| known.asks_first);
    let details = match declaration {
        Declaration::Restored => {
            recognise(&mut transaction, true).await?;
            "every processor is asked for a payment before its first charge".to_owned()
        }
        Declaration::Moved => {
            recognise(&mut transaction, false).await?;
            "the deployment goes on in this database".to_owned()
        }
        Declaration::Clone { discard } => {
            // None may have started since: their admission waits for this transaction now.
            let found = ServingPoll::default().poll(&mut transaction, None).await?;
            if is_here && matches!(found, Found::Serving(_)) {
                return Ok(Err(SERVED.to_owned()));
            }
            let open = sqlx::query!(
                r#"SELECT (SELECT count(*) FROM payment_queue) AS "queued!",
                    (SELECT count(*) FROM payment_dead_letter) AS "dead!""#
            )
            .fetch_one(&mut *transaction)
            .await?;
            let (queued, dead) = (open.queued, open.dead);
            if queued + dead > 0 && !discard {
                return Ok(Err(format!(
                    "{queued} queued payments and {dead} dead letters are the original's to charge: with --discard \
                    they are deleted here"
                )));
            }
            if is_here && !discard {
                return Ok(Err(
                    "the deployment was recorded in this very database: with --discard it is taken for a clone all \
                    the same, which a copy of the cluster's files cannot be told from"
                        .to_owned(),
                ));
            }
            sqlx::query!("DELETE FROM payment_queue")
                .execute(&mut *transaction)
                .await?;
            sqlx::query!("DELETE FROM payment_dead_letter")
                .execute(&mut *transaction)
                .await?;
            recognise(&mut transaction, false).await?;
            sqlx::query!("UPDATE deployment SET terms = NULL, terms_at = NULL")
                .execute(&mut *transaction)
                .await?;
            format!("{queued} queued payments and {dead} dead letters of the original deleted")
        }
        Declaration::Checked => {
            if !asks_first {
                return Ok(Err("no restore is being checked".to_owned()));
            }
            sqlx::query!("UPDATE deployment SET asks_first = false")
                .execute(&mut *transaction)
                .await?;
            "payments are charged without asking first".to_owned()
        }
        Declaration::Terms { like } => {
            let terms = sqlx::query_scalar!(
                "UPDATE deployment SET terms = s.terms, terms_at = clock_timestamp()
                FROM service_instance s WHERE s.id = $1
                    AND s.terms IS NOT NULL RETURNING deployment.terms::text",
                like
            )
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(terms) = terms.flatten() else {
                return Ok(Err(format!("no instance {like} is known; it has to run")));
            };
            let before = known.and_then(|known| known.terms).unwrap_or_default();
            format!("from {before} to {terms}")
        }
    };
    sqlx::query!(
        "INSERT INTO deployment_declaration (declaration, reason, details) VALUES ($1, $2, $3)",
        declaration.as_str(),
        one_line(reason),
        details
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Ok(details))
}

/// Whether the deployment was recorded in this very database.
async fn is_here(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let is_here = sqlx::query_scalar!(
        r#"SELECT identity = database_identity() AS "is_here!" FROM deployment"#
    );
    Ok(is_here.fetch_optional(connection).await?.unwrap_or(false))
}

/// The deployment lives in this database from now on.
async fn recognise(connection: &mut PgConnection, asks_first: bool) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO deployment (identity, asks_first) VALUES (database_identity(), $1)
        ON CONFLICT ON CONSTRAINT deployment_pkey DO UPDATE
        SET identity = excluded.identity, identified_at = excluded.identified_at,
            asks_first = excluded.asks_first",
        asks_first
    )
    .execute(connection)
    .await?;
    Ok(())
}
