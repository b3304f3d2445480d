//! How far a run of `archive` is.

use std::fmt;

use super::month::Month;

/// How far a run is with the month that it archives now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The month.
    pub month: Month,
    /// What is done with its payments.
    pub doing: Doing,
    /// Payments with which that is done.
    pub done: u64,
    /// All payments with which that has to be done.
    pub of: u64,
}

/// What is done with the payments of a month, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// They are written to the file.
    Writing,
    /// The file is read back, and must add up to the totals.
    ReadingBack,
    /// They leave the ledger.
    Moving,
}

impl fmt::Display for Doing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Writing => "writing",
            Self::ReadingBack => "reading back",
            Self::Moving => "moving",
        })
    }
}

/// Tells how far a month is: its payments so far, and all of them.
pub(super) struct Telling<'a> {
    pub(super) month: Month,
    pub(super) of: i64,
    pub(super) progress: &'a dyn Fn(Step),
}

impl Telling<'_> {
    pub(super) fn at(&self, doing: Doing, done: i64) {
        (self.progress)(Step {
            month: self.month,
            doing,
            done: done.unsigned_abs(),
            of: self.of.unsigned_abs(),
        });
    }
}
