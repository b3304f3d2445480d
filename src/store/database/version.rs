//! Which programs and schemas go together: docs/databases.md.
//!
//! A program needs all of its own migrations. Of migrations that it does not know, because a newer
//! program brought them, it works with those that say so: their names end with `_compatible`. The
//! rule is the same for `migrate`, for an instance whose role owns the tables, for one whose role
//! does not, and for one that runs already.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use sqlx::PgExecutor;
use sqlx::migrate::Migrator;

/// The tables, in the order in which they came to be.
pub(crate) static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!();
    // Those of newer programs are for `standing` to judge.
    migrations.set_ignore_missing(true);
    migrations
});

/// The end of the name of a migration with which older programs can work.
pub(crate) const COMPATIBLE: &str = "compatible";

/// How the schema of a database and this program go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Migrations of this program are missing.
    Older {
        /// The newest one that was applied.
        applied: Option<i64>,
    },
    /// It is the schema of this program.
    Same,
    /// It is that of a newer program, with which this one can work.
    Newer {
        /// The newest migration.
        applied: i64,
    },
}

/// The schema is of a newer program, with which this one cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the database has migration {version} ({description}) of a newer program, and this one cannot work with it: \
     start the newer one again"
)]
pub struct TooNew {
    /// The first migration that this program cannot work with.
    pub version: i64,
    /// Its name.
    pub description: String,
}

/// The newest migration of this program.
pub(super) fn newest() -> i64 {
    let versions = MIGRATIONS.iter().map(|migration| migration.version);
    versions.max().unwrap_or_default()
}

/// The migrations that were applied, and their names.
///
/// # Errors
/// There is no table of them, or no right to read it.
pub(super) async fn applied(
    connection: impl PgExecutor<'_>,
) -> Result<Vec<(i64, String)>, sqlx::Error> {
    // The table of migrations is not one of the migrations, so this is not checked when it is
    // compiled.
    sqlx::query_as("SELECT version, description FROM _sqlx_migrations WHERE success ORDER BY 1")
        .fetch_all(connection)
        .await
}

/// How the migrations that were `applied` go together with this program.
///
/// # Errors
/// They do not.
pub(crate) fn standing(applied: &[(i64, String)]) -> Result<Standing, TooNew> {
    let ours: BTreeSet<i64> = MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .collect();
    let newest_applied = applied.iter().map(|(version, _)| *version).max();
    let (known, unknown): (Vec<_>, Vec<_>) = applied
        .iter()
        .partition(|(version, _)| ours.contains(version));
    let incompatible = unknown
        .iter()
        .find(|(_, description)| description.split(' ').next_back() != Some(COMPATIBLE));
    if let Some((version, description)) = incompatible {
        return Err(TooNew {
            version: *version,
            description: description.clone(),
        });
    }
    Ok(match (known.len() == ours.len(), unknown.last()) {
        (false, _) => Standing::Older {
            applied: newest_applied,
        },
        (true, None) => Standing::Same,
        (true, Some((version, _))) => Standing::Newer { applied: *version },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Vec<(i64, String)> {
        let ours = MIGRATIONS.iter();
        ours.map(|migration| (migration.version, migration.description.to_string()))
            .collect()
    }

    #[test]
    fn an_older_program_works_with_newer_migrations_that_say_so_and_with_no_others() {
        assert_eq!(standing(&ours()), Ok(Standing::Same));
        assert_eq!(standing(&[]), Ok(Standing::Older { applied: None }));
        let mut applied = ours();
        applied.pop();
        let last = applied.last().map(|(version, _)| *version);
        assert_eq!(standing(&applied), Ok(Standing::Older { applied: last }));

        let mut applied = ours();
        applied.push((90_000_000_000_000, "a column more compatible".to_owned()));
        let newer = Standing::Newer {
            applied: 90_000_000_000_000,
        };
        assert_eq!(standing(&applied), Ok(newer));
        for description in ["a column less", "incompatible", "compatible not", ""] {
            applied.push((90_000_000_000_001, description.to_owned()));
            let refused = standing(&applied).expect_err("it is too new");
            assert_eq!(refused.version, 90_000_000_000_001);
            assert!(!refused.to_string().contains('\n'));
            applied.pop();
        }
    }
}
