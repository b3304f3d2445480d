//! Which cell of which deployment a database is: `migrate` writes it, and nobody serves from a
//! database that is another cell than the list of URLs says. A payment that is looked for in a cell
//! where it never was would be charged again.

use futures_util::future::try_join_all;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::serving::{Found, ServingPoll, serving};
use super::{Pool, Session, with_deadline};
use crate::config::{DatabaseSettings, MigrateSettings};
use crate::domain::cell::{Cell, Cells};

/// What a database knows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct KnownCell {
    /// The deployment that it belongs to: the same in all of its cells.
    pub deployment: Uuid,
    /// Which cell it is, from 1 on.
    pub cell: i32,
    /// How many cells the deployment has.
    pub cells: i32,
    /// Set while the payments of another database are [copied](crate::store::divide) into it: of
    /// which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filling_from: Option<String>,
    /// The deployment whose cells have all payments of this database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divided_into: Option<Uuid>,
}

impl KnownCell {
    /// What a migrated database knows of itself; nothing where its one row was lost.
    ///
    /// # Errors
    /// The database did not answer, or is not migrated.
    pub(crate) async fn read(connection: &mut PgConnection) -> Result<Option<Self>, sqlx::Error> {
        sqlx::query_as!(
            Self,
            "SELECT id AS deployment, cell, cells, filling_from, divided_into FROM deployment"
        )
        .fetch_optional(connection)
        .await
    }

    /// Why nobody may serve from this database, whatever cell it is, if nobody may.
    #[must_use]
    pub(crate) fn closed(&self, place: &str) -> Option<String> {
        let filling = self.filling_from.as_ref().map(|from| {
            format!(
                "{place} has not got all of its payments: they are being copied from {from}, and \
                `payment-proxy divide` with the same list ends that"
            )
        });
        let divided = self.divided_into.map(|deployment| {
            format!(
                "the payments of {place} are in the cells of deployment {deployment}: give their \
                URLs"
            )
        });
        filling.or(divided)
    }

    /// Why this database must not be used as `cell`, if it must not: what differs, in one line.
    /// `place` is what the list of URLs has there, `deployment` that of the other cells.
    #[must_use]
    pub(crate) fn mismatch(
        &self,
        cell: Cell,
        place: &str,
        deployment: Option<Uuid>,
    ) -> Option<String> {
        let entry = format!(
            "entry {} of {} of DATABASE_URL ({place})",
            cell.number(),
            cell.of()
        );
        let own = format!("cell {} of {}", self.cell, self.cells);
        if self.is(cell) {
            let other = deployment.filter(|other| cell.of() > 1 && *other != self.deployment)?;
            return Some(format!(
                "{entry} is {own} of deployment {}, and the other entries are of deployment \
                {other}",
                self.deployment
            ));
        }
        if self.is_none_yet() {
            return Some(format!(
                "{entry} is no cell yet: `payment-proxy migrate` with the same list makes it one"
            ));
        }
        Some(format!(
            "{entry} is {own} of deployment {}: a payment would be looked for where it is not, and \
            charged again. Give every cell once, in its order",
            self.deployment
        ))
    }

    fn is(&self, cell: Cell) -> bool {
        usize::try_from(self.cell) == Ok(cell.number())
            && usize::try_from(self.cells) == Ok(cell.of())
    }

    /// Whether it is the only one, as every database is at first.
    fn is_none_yet(&self) -> bool {
        self.cells == 1
    }
}

/// What the database of a cell said instead of an answer.
#[derive(Debug)]
pub(crate) struct InCell(pub Cell, pub sqlx::Error);

impl From<InCell> for anyhow::Error {
    fn from(InCell(cell, error): InCell) -> Self {
        of_cell(cell, error.into())
    }
}

/// Asks all cells at once. Returns the answers in their order.
///
/// # Errors
/// A cell did not answer: without one of them there is no answer.
pub(crate) async fn in_each<'a, T, F>(
    cells: &'a Cells<Pool>,
    ask: impl Fn(&'a Pool) -> F,
) -> Result<Vec<T>, InCell>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let asked = cells.each().map(|(cell, pool)| {
        let asked = ask(pool);
        async move { asked.await.map_err(|error| InCell(cell, error)) }
    });
    try_join_all(asked).await
}

/// A database of a list, as it was found.
struct Looked {
    known: KnownCell,
    /// What tells it from other databases; not read where there is no other.
    identity: String,
    /// Whether it holds payments; not read where there is no other.
    has_payments: bool,
}

/// Reads a database; nothing where it has no tables yet.
async fn look(cell: Cell, connection: &mut PgConnection) -> Result<Option<Looked>, sqlx::Error> {
    let migrated: bool = sqlx::query_scalar(
        "SELECT to_regclass('deployment') IS NOT NULL
            AND to_regclass('payment_archived') IS NOT NULL",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !migrated {
        return Ok(None);
    }
    let Some(known) = KnownCell::read(connection).await? else {
        return Ok(None);
    };
    if cell == Cell::ONLY {
        return Ok(Some(Looked {
            known,
            identity: String::new(),
            has_payments: false,
        }));
    }
    let identity = sqlx::query_scalar!(r#"SELECT database_identity() AS "identity!""#)
        .fetch_one(&mut *connection)
        .await?;
    let has_payments = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM payment_queue) OR EXISTS (SELECT FROM payment_processed)
            OR EXISTS (SELECT FROM payment_dead_letter) OR EXISTS (SELECT FROM payment_archived)
            AS "has_payments!""#
    )
    .fetch_one(connection)
    .await?;
    Ok(Some(Looked {
        known,
        identity,
        has_payments,
    }))
}

/// The settings of a cell as the owner of its tables, and what they lead to.
fn place(settings: &DatabaseSettings) -> String {
    settings.database_url.here().to_string()
}

async fn connect(settings: &DatabaseSettings) -> Result<PgConnection, sqlx::Error> {
    let options = settings.direct_options("payment-proxy migrate");
    Session::SERVICE.connect(&options).await
}

/// Checks that the databases of the list are the cells of one deployment, in their order, or may
/// become them: those that are no cells yet, where none of the list holds payments. Returns the
/// deployment, if there is one.
///
/// # Errors
/// They are not: what differs. A database did not answer.
pub(super) async fn check_cells(cells: &Cells<MigrateSettings>) -> anyhow::Result<Option<Uuid>> {
    let (mut deployment, mut new) = (None, None);
    let mut seen: Vec<(Cell, Looked)> = Vec::new();
    for (cell, settings) in cells.each() {
        let owner = settings.owner();
        let looked = async {
            let mut connection = connect(&owner).await?;
            let looked = with_deadline(look(cell, &mut connection)).await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>(looked)
        };
        let Some(looked) = looked.await.map_err(|error| of_cell(cell, error.into()))? else {
            new = Some(cell);
            continue;
        };
        if let Some((other, _)) = seen.iter().find(|(_, it)| it.identity == looked.identity) {
            anyhow::bail!(
                "entries {} and {} of DATABASE_URL lead to the same database ({})",
                other.number(),
                cell.number(),
                place(&owner)
            );
        }
        if looked.known.is_none_yet() {
            new = Some(cell);
        } else {
            if let Some(differs) = looked.known.mismatch(cell, &place(&owner), deployment) {
                anyhow::bail!(differs);
            }
            deployment = Some(looked.known.deployment);
        }
        seen.push((cell, looked));
    }
    let holding = seen.iter().find(|(_, it)| it.has_payments);
    if let (Some(new), Some((holding, _))) = (new, holding) {
        anyhow::bail!(
            "{new} is none yet, and {holding} holds payments: cells are made of databases that hold \
            none, `payment-proxy divide` moves payments into them, and a cell that was lost comes \
            back from its backup"
        );
    }
    Ok(deployment)
}

/// The error of a cell, which is named where there are others.
pub(crate) fn of_cell(cell: Cell, error: anyhow::Error) -> anyhow::Error {
    match cell.label() {
        Some(_) => error.context(cell),
        None => error,
    }
}

/// Writes into each migrated database of the list which cell it is, unless it knows.
///
/// # Errors
/// As [`check_cells`]; instances serve from a database that is no cell yet.
pub(super) async fn assign_cells(cells: &Cells<MigrateSettings>) -> anyhow::Result<()> {
    if cells.len() == 1 {
        return Ok(());
    }
    let deployment = check_cells(cells).await?;
    let deployment = deployment.unwrap_or_else(Uuid::new_v4);
    for (cell, settings) in cells.each() {
        let assigned = assign(cell, &settings.owner(), deployment).await;
        assigned.map_err(|error| of_cell(cell, error))?;
    }
    Ok(())
}

async fn assign(cell: Cell, owner: &DatabaseSettings, deployment: Uuid) -> anyhow::Result<()> {
    let mut connection = connect(owner).await?;
    let known = with_deadline(KnownCell::read(&mut connection)).await?;
    if known.is_some_and(|known| known.is(cell)) {
        return Ok(connection.close().await?);
    }
    let served = "instances serve from this database as the only one: stop them first";
    anyhow::ensure!(serving(&mut connection).await?.is_empty(), served);
    let mut transaction = connection.begin().await?;
    // Whoever asks for admission waits for this row.
    let known = sqlx::query!("SELECT cells FROM deployment FOR UPDATE")
        .fetch_optional(&mut *transaction)
        .await?;
    anyhow::ensure!(
        known.is_none_or(|known| known.cells == 1),
        "it became another cell just now"
    );
    let found = ServingPoll::default().poll(&mut transaction, None).await?;
    anyhow::ensure!(!matches!(found, Found::Serving(_)), served);
    let (number, of) = (i32::try_from(cell.number())?, i32::try_from(cell.of())?);
    sqlx::query!(
        "INSERT INTO deployment (identity, id, cell, cells)
        VALUES (database_identity(), $1, $2, $3)
        ON CONFLICT ON CONSTRAINT deployment_pkey DO UPDATE
        SET id = excluded.id, cell = excluded.cell, cells = excluded.cells,
            identity = excluded.identity, identified_at = excluded.identified_at",
        deployment,
        number,
        of
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    tracing::info!(deployment.id = %deployment, "this database is {cell} now");
    Ok(connection.close().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_said_in_one_line() {
        let (ours, others) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let cells: Vec<Cell> = Cells::make(4, |cell| cell).into_iter().collect();
        let known = |cell, cells| KnownCell {
            deployment: ours,
            cell,
            cells,
            filling_from: None,
            divided_into: None,
        };
        let told =
            |known: KnownCell, cell, deployment| known.mismatch(cell, "p at h:1", deployment);
        assert_eq!(
            told(known(1, 1), Cell::ONLY, Some(others)),
            None,
            "one has no others"
        );
        assert_eq!(told(known(2, 4), cells[1], None), None);
        assert_eq!(told(known(2, 4), cells[1], Some(ours)), None);
        for (known, cell, deployment, expected) in [
            (
                known(2, 4),
                Cell::ONLY,
                None,
                "entry 1 of 1 of DATABASE_URL (p at h:1) is cell 2 of 4",
            ),
            (
                known(2, 4),
                cells[0],
                None,
                "entry 1 of 4 of DATABASE_URL (p at h:1) is cell 2 of 4",
            ),
            (
                known(1, 2),
                cells[0],
                None,
                "entry 1 of 4 of DATABASE_URL (p at h:1) is cell 1 of 2",
            ),
            (
                known(1, 1),
                cells[3],
                None,
                "is no cell yet: `payment-proxy migrate`",
            ),
            (
                known(2, 4),
                cells[1],
                Some(others),
                "the other entries are of deployment",
            ),
        ] {
            let told = told(known, cell, deployment).expect("it differs");
            assert!(told.contains(expected) && !told.contains('\n'), "{told}");
        }
    }
}
