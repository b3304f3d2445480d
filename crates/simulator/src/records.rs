//! What a processor has stored: a pure structure, without clock, lock or file.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use rust_decimal::{Decimal, RoundingStrategy};
use uuid::Uuid;

/// Payments for which room is set aside at the start, so that the first million of a benchmark
/// never wait for the index to be rebuilt. The pages are only touched when they are needed.
const EXPECTED_PAYMENTS: usize = 1 << 20;

/// One stored payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    /// The id that the client chose, unique within a processor.
    pub id: Uuid,
    /// The amount, with two decimals at most.
    pub amount: Decimal,
    /// The client's `requestedAt`, to the microsecond.
    pub requested_at: DateTime<Utc>,
}

/// How many payments a range holds, and their sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of payments.
    pub count: u64,
    /// Sum of their amounts.
    pub amount: Decimal,
}

impl Summary {
    fn add(&mut self, amount: Decimal) {
        self.count += 1;
        self.amount += amount;
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.amount += other.amount;
    }
}

/// The payments whose `requestedAt` lies in one second, and their sum.
#[derive(Debug, Default)]
struct Second {
    total: Summary,
    rows: Vec<u32>,
}

/// All stored payments, with what is needed to find one and to sum a range without looking at all.
#[derive(Debug)]
pub(super) struct Records {
    rows: Vec<Payment>,
    row_of: HashMap<Uuid, u32>,
    seconds: BTreeMap<i64, Second>,
    total: Summary,
    purges: u64,
}

impl Records {
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            row_of: HashMap::with_capacity(EXPECTED_PAYMENTS),
            seconds: BTreeMap::new(),
            total: Summary::default(),
            purges: 0,
        }
    }

    pub(super) fn get(&self, id: Uuid) -> Option<&Payment> {
        self.row_of.get(&id).map(|&row| &self.rows[row as usize])
    }

    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.row_of.contains_key(&id)
    }

    /// Stores a payment; false when its id is there already (nothing changes then).
    pub(super) fn insert(&mut self, payment: Payment) -> bool {
        let row = u32::try_from(self.rows.len()).expect("memory ends before 2^32 payments do");
        match self.row_of.entry(payment.id) {
            Entry::Occupied(_) => return false,
            Entry::Vacant(free) => free.insert(row),
        };
        self.rows.push(payment);
        let second = self
            .seconds
            .entry(payment.requested_at.timestamp())
            .or_default();
        second.rows.push(row);
        second.total.add(payment.amount);
        self.total.add(payment.amount);
        true
    }

    /// Forgets every payment.
    pub(super) fn purge(&mut self) {
        self.rows.clear();
        self.row_of.clear();
        self.seconds.clear();
        self.total = Summary::default();
        self.purges += 1;
    }

    /// How often the records were emptied: a reader that takes its time sees by it that the rows it
    /// counted along are gone.
    pub(super) fn purges(&self) -> u64 {
        self.purges
    }

    /// The payments in the order in which they were stored.
    pub(super) fn rows(&self) -> &[Payment] {
        &self.rows
    }

    /// Sums `requested_at BETWEEN from AND to`, both ends included; with either missing,
    /// everything.
    pub(super) fn summary(
        &self,
        from: Option<DateTime<Utc>>,
        to: Option<DateTime<Utc>>,
    ) -> Summary {
        let (Some(from), Some(to)) = (from, to) else {
            return self.total;
        };
        let mut sum = Summary::default();
        if from > to {
            return sum;
        }
        let (first, last) = (from.timestamp(), to.timestamp());
        for (&second, held) in self.seconds.range(first..=last) {
            if first < second && second < last {
                sum.merge(&held.total);
            } else {
                // Only the two seconds at the ends are looked at row by row.
                held.rows
                    .iter()
                    .map(|&row| &self.rows[row as usize])
                    .filter(|payment| from <= payment.requested_at && payment.requested_at <= to)
                    .for_each(|payment| sum.add(payment.amount));
            }
        }
        sum
    }
}

/// Rounds to two decimals, half to even; an amount with fewer keeps those that it has.
pub(super) fn rounded(amount: Decimal) -> Decimal {
    amount.round_dp_with_strategy(2, RoundingStrategy::MidpointNearestEven)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn payment(id: u128, cents: i64, micros: i64) -> Payment {
        Payment {
            id: Uuid::from_u128(id),
            amount: Decimal::new(cents, 2),
            requested_at: DateTime::UNIX_EPOCH + TimeDelta::microseconds(micros),
        }
    }

    #[test]
    fn a_second_payment_with_the_same_id_changes_nothing() {
        let mut records = Records::new();
        assert!(records.insert(payment(1, 1990, 5)));
        assert!(!records.insert(payment(1, 2000, 6)));
        assert_eq!(records.get(Uuid::from_u128(1)), Some(&payment(1, 1990, 5)));
        assert_eq!(records.summary(None, None).amount, Decimal::new(1990, 2));
    }

    #[test]
    fn a_purge_forgets_everything() {
        let mut records = Records::new();
        records.insert(payment(1, 1990, 5));
        records.purge();
        assert_eq!(records.summary(None, None), Summary::default());
        assert!(records.insert(payment(1, 1990, 5)));
    }

    #[test]
    fn amounts_are_rounded_half_to_even_and_keep_their_spelling() {
        for (given, stored) in [
            ("19.9", "19.9"),
            ("19.90", "19.90"),
            ("19.999", "20.00"),
            ("2.675", "2.68"),
            ("2.665", "2.66"),
            ("77.82999999", "77.83"),
            ("3", "3"),
            ("-0.005", "0.00"),
        ] {
            let given: Decimal = given.parse().unwrap();
            assert_eq!(rounded(given).abs().to_string(), stored);
        }
    }

    proptest! {
        #[test]
        fn a_summary_is_what_a_scan_of_all_rows_finds(
            stamps in prop::collection::vec((0_i64..6_000_000, 1_i64..10_000), 0..200),
            from in -1_000_000_i64..7_000_000,
            to in -1_000_000_i64..7_000_000,
        ) {
            let mut records = Records::new();
            for (id, &(micros, cents)) in stamps.iter().enumerate() {
                records.insert(payment(id as u128, cents, micros));
            }
            let at = |micros| DateTime::UNIX_EPOCH + TimeDelta::microseconds(micros);
            let mut expected = Summary::default();
            for &(micros, cents) in &stamps {
                if from <= micros && micros <= to {
                    expected.add(Decimal::new(cents, 2));
                }
            }
            prop_assert_eq!(records.summary(Some(at(from)), Some(at(to))), expected);
        }
    }
}
