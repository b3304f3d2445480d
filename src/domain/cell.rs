//! Cells: the databases that a deployment is divided into, each with the queue, ledger, totals and
//! dead letters of its own payments.
//!
//! A payment lives in the cell that [`Cell::of_payment`] names, for ever. The places of cells may
//! change, their number may not: a payment whose cell changed would not be found where it was
//! settled, and would be charged again when its client posts it again. So each database knows which
//! cell it is, and an instance compares that with its list (see
//! [`store::database`](crate::store::database)).

use std::fmt;
use std::slice;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Cells of a deployment, at most.
pub const MAX_CELLS: usize = 64;

/// One of the cells of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// From 1 on, in the order of `DATABASE_URL`.
    number: u16,
    /// How many there are.
    of: u16,
}

impl Cell {
    /// That of a deployment with one database.
    pub const ONLY: Self = Self { number: 1, of: 1 };

    /// All cells of a deployment that has `of` of them, at most [`MAX_CELLS`].
    fn all(of: usize) -> impl Iterator<Item = Self> {
        let of = u16::try_from(of.min(MAX_CELLS)).expect("MAX_CELLS fits");
        (1..=of).map(move |number| Self { number, of })
    }

    /// The cell in which the payment of this id lives.
    ///
    /// It is the remainder of `h` by the number of cells, plus one; `h` are the first four bytes of
    /// the SHA-256 of the 16 bytes of the id, the most significant byte first. The database can say
    /// it, too: `cell_of_payment(id, cells)`.
    #[must_use]
    pub fn of_payment(id: Uuid, cells: usize) -> usize {
        if cells == 1 {
            return 1;
        }
        let hash = Sha256::digest(id.as_bytes());
        let hash = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        hash as usize % cells + 1
    }

    /// From 1 on, in the order of `DATABASE_URL`.
    #[must_use]
    pub fn number(self) -> usize {
        self.number.into()
    }

    /// How many cells there are.
    #[must_use]
    pub fn of(self) -> usize {
        self.of.into()
    }

    /// Whether the health of processors, their switches and the history are in it.
    #[must_use]
    pub fn is_first(self) -> bool {
        self.number == 1
    }

    /// Its number, where there are others.
    #[must_use]
    pub fn label(self) -> Option<usize> {
        (self.of > 1).then_some(self.number.into())
    }

    /// The same text, after the name of the cell where there are others.
    #[must_use]
    pub fn named(self, text: impl Into<String>) -> String {
        match self.label() {
            Some(_) => format!("{self}: {}", text.into()),
            None => text.into(),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cell {} of {}", self.number, self.of)
    }
}

/// Something for each cell of a deployment, in their order: at least one.
#[derive(Debug, Clone)]
pub struct Cells<T>(Vec<T>);

impl<T> Cells<T> {
    /// One for each of `cells` cells, at least one and at most [`MAX_CELLS`].
    pub fn make(cells: usize, make: impl FnMut(Cell) -> T) -> Self {
        Self(Cell::all(cells.max(1)).map(make).collect())
    }

    /// That of the cell in which the payment of this id lives.
    #[must_use]
    pub fn of(&self, id: Uuid) -> &T {
        &self.0[Cell::of_payment(id, self.0.len()) - 1]
    }

    /// That of the first cell.
    #[must_use]
    pub fn first(&self) -> &T {
        &self.0[0]
    }

    /// How many cells there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // There is at least one.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them, in their order.
    pub fn iter(&self) -> slice::Iter<'_, T> {
        self.0.iter()
    }

    /// All of them, in their order, to be changed.
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, T> {
        self.0.iter_mut()
    }

    /// Each, with its cell.
    pub fn each(&self) -> impl Iterator<Item = (Cell, &T)> {
        Cell::all(self.0.len()).zip(&self.0)
    }

    /// Something else for each cell, made of this.
    pub fn map<U>(&self, make: impl FnMut(&T) -> U) -> Cells<U> {
        Cells(self.0.iter().map(make).collect())
    }

    /// Of each cell in which payments of `ids` live, those ids.
    pub(crate) fn divide(&self, ids: &[Uuid]) -> Vec<(Cell, &T, Vec<Uuid>)> {
        self.divide_by(ids.to_vec(), |id| *id)
    }

    /// Of each cell in which payments live, by their ids, those payments, in their order.
    pub(crate) fn divide_by<P>(
        &self,
        payments: Vec<P>,
        id: impl Fn(&P) -> Uuid,
    ) -> Vec<(Cell, &T, Vec<P>)> {
        let mut parts: Vec<Vec<P>> = self.0.iter().map(|_| Vec::new()).collect();
        for payment in payments {
            parts[Cell::of_payment(id(&payment), self.0.len()) - 1].push(payment);
        }
        let parts = self.each().zip(parts);
        let parts = parts.map(|((cell, of), payments)| (cell, of, payments));
        parts
            .filter(|(.., payments)| !payments.is_empty())
            .collect()
    }
}

impl<T> IntoIterator for Cells<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever changes this moves payments to cells where nobody knows them.
    #[test]
    fn the_cell_of_a_payment_never_changes() {
        for (id, of_two, of_three, of_four, of_most) in [
            ("00000000-0000-0000-0000-000000000000", 2, 3, 4, 64),
            ("4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3", 2, 1, 4, 16),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", 1, 2, 1, 21),
        ] {
            let id = id.parse().expect("an id");
            assert_eq!(Cell::of_payment(id, 1), 1);
            let found = [2, 3, 4, MAX_CELLS].map(|cells| Cell::of_payment(id, cells));
            assert_eq!(found, [of_two, of_three, of_four, of_most], "{id}");
        }
    }

    #[test]
    fn payments_are_spread_evenly_however_their_ids_are_made() {
        let random = |_| Uuid::new_v4();
        let ids: [(&str, Vec<Uuid>); 4] = [
            ("random", (0..8_000).map(random).collect()),
            ("counted", (0..8_000).map(Uuid::from_u128).collect()),
            (
                "counted above",
                (0..8_000).map(|n| Uuid::from_u128(n << 64)).collect(),
            ),
            // Version 7: a time in front, and here few random bits.
            (
                "by time",
                (0..8_000)
                    .map(|n| Uuid::from_u128((n << 80) | (7 << 76)))
                    .collect(),
            ),
        ];
        for (kind, ids) in ids {
            for cells in [2, 3, 4, 8] {
                let mut found = vec![0; cells];
                for id in &ids {
                    found[Cell::of_payment(*id, cells) - 1] += 1;
                }
                let fair = ids.len() / cells;
                let even = |count: &usize| count.abs_diff(fair) < fair / 8;
                assert!(found.iter().all(even), "{kind} ids in {cells}: {found:?}");
            }
        }
    }

    #[test]
    fn each_payment_is_divided_to_the_cell_that_it_lives_in() {
        let cells = Cells::make(3, Cell::number);
        let ids: Vec<Uuid> = (0..100).map(Uuid::from_u128).collect();
        let mut divided = 0;
        for (cell, number, part) in cells.divide(&ids) {
            assert_eq!(cell.number(), *number);
            assert!(part.is_sorted(), "in their order");
            assert!(part.iter().all(|id| cells.of(*id) == number));
            divided += part.len();
        }
        assert_eq!(divided, ids.len());
        assert!(cells.divide(&[]).is_empty());
    }

    #[test]
    fn a_deployment_of_one_database_does_not_speak_of_cells() {
        let named = |cells: usize| Cells::make(cells, |cell| cell.named("away"));
        assert_eq!(named(1).first(), "away");
        assert_eq!(named(0).first(), "away");
        let two: Vec<String> = named(2).into_iter().collect();
        assert_eq!(two, ["cell 1 of 2: away", "cell 2 of 2: away"]);
    }
}
