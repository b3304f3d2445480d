//! What a reconciliation is to compare, and what it came to.

use std::fmt;
use std::num::NonZeroU32;

use chrono::{DateTime, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use uuid::Uuid;

use crate::store::summary::Totals;

/// Payments that are named of those that are not known, for each processor and reason.
pub const NAMED: usize = 5;

/// Where our side has a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ours {
    /// In the ledger.
    Settled,
    /// In the queue, and not being worked on at this moment.
    Queued,
    /// Among the dead letters.
    Dead,
    /// In none of our tables: its id was given by an operator.
    Unknown,
}

/// What is wrong with a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    tag = "kind"
)]
pub enum Difference {
    /// More than one processor has it.
    ChargedTwice {
        /// Their names.
        processors: Vec<String>,
    },
    /// It is recorded, and no processor has it.
    NotCharged,
    /// A processor has it, and it is not recorded.
    NotRecorded {
        /// The processor's name.
        processor: String,
    },
    /// Another processor than the recorded one has it.
    OtherProcessor {
        /// The processor's name.
        processor: String,
    },
    /// The processor has it with another `requestedAt`.
    OtherStamp {
        /// The processor's name.
        processor: String,
        /// What the processor recorded.
        requested_at: DateTime<Utc>,
    },
    /// The amounts differ.
    OtherAmount {
        /// The processor's name.
        processor: String,
        /// What the processor charged; none where it has none, or one that no payment can have.
        #[serde(with = "rust_decimal::serde::arbitrary_precision_option")]
        amount: Option<Decimal>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChargedTwice { processors } => {
                write!(out, "CHARGED TWICE, by {}", processors.join(" and "))
            }
            Self::NotCharged => out.write_str("no processor has it"),
            Self::NotRecorded { processor } => write!(out, "{processor} has it"),
            Self::OtherProcessor { processor } => write!(out, "{processor} has it instead"),
            Self::OtherStamp {
                processor,
                requested_at,
            } => {
                let at = requested_at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                write!(out, "{processor} has it at {at}")
            }
            Self::OtherAmount { processor, amount } => match amount {
                Some(amount) => write!(out, "{processor} has it with amount {amount}"),
                None => write!(
                    out,
                    "{processor} has it with an amount that no payment can have"
                ),
            },
        }
    }
}

/// A payment that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The payment.
    pub correlation_id: Uuid,
    /// Where we have it.
    pub ours: Ours,
    /// The processor that the ledger names.
    pub recorded: Option<String>,
    /// What is wrong.
    pub difference: Difference,
    /// Whether it has been put right.
    pub repaired: bool,
}

/// Payments of which it is not known whether a processor has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotKnown {
    /// The processor's name.
    pub processor: String,
    /// Why it is not known.
    pub reason: String,
    /// How many there are.
    pub payments: u64,
    /// The first [`NAMED`] of them.
    pub first: Vec<Uuid>,
}

/// Archived payments of the range, or of hours of which the range has a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Archived {
    /// How many.
    pub payments: i64,
    /// Their sum.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub amount: Decimal,
}

/// The totals of a processor that are not ours, payment by payment equal as we may be: it has
/// payments that we do not know, or payments were in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TotalsFinding {
    /// The processor's name.
    pub processor: String,
    /// What the ledger says.
    pub recorded: Totals,
    /// What the processor says, or why it does not.
    pub charged: Result<Totals, String>,
}

/// What a reconciliation came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Payments that were compared with every processor they may be at.
    pub compared: u64,
    /// What differs.
    pub findings: Vec<Finding>,
    /// Payments of which it is not known, by processor and reason.
    pub not_known: Vec<NotKnown>,
    /// Payments of which it is not known, each counted once.
    pub payments_not_known: u64,
    /// Processors that the database knows and that were not asked.
    pub not_asked: Vec<String>,
    /// Given ids that are in none of our tables, and that every processor says it does not have.
    pub nowhere: Vec<Uuid>,
    /// Payments that are archived.
    pub archived: Archived,
    /// Processors whose totals differ; they are compared where their token is given.
    pub totals: Vec<TotalsFinding>,
    /// Whether totals were compared.
    pub totals_compared: bool,
    /// Why what was found is not in the database for others to see.
    pub not_left: Option<String>,
}

impl Report {
    /// Whether something differs that has not been put right.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.findings.iter().any(|finding| !finding.repaired)
            || self.totals.iter().any(|totals| totals.charged.is_ok())
    }

    /// Whether something of the range is not known to agree.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.payments_not_known > 0
            || !self.not_asked.is_empty()
            || self.totals.iter().any(|totals| totals.charged.is_err())
            || (self.archived.payments > 0 && !self.totals_compared)
    }

    /// Adds the report of another cell.
    pub(super) fn add(&mut self, cell: Self) {
        self.compared += cell.compared;
        self.findings.extend(cell.findings);
        for group in cell.not_known {
            let same = |known: &&mut NotKnown| {
                known.processor == group.processor && known.reason == group.reason
            };
            match self.not_known.iter_mut().find(same) {
                Some(known) => {
                    known.payments += group.payments;
                    let more = NAMED.saturating_sub(known.first.len());
                    known.first.extend(group.first.iter().take(more));
                }
                None => self.not_known.push(group),
            }
        }
        self.payments_not_known += cell.payments_not_known;
        for name in cell.not_asked {
            if !self.not_asked.contains(&name) {
                self.not_asked.push(name);
            }
        }
        self.nowhere.extend(cell.nowhere);
        self.archived.payments += cell.archived.payments;
        self.archived.amount += cell.archived.amount;
        self.totals.extend(cell.totals);
        self.totals_compared |= cell.totals_compared;
        self.not_left = self.not_left.take().or(cell.not_left);
    }

    pub(super) fn note_not_known(&mut self, id: Uuid, silent: Vec<(String, String)>) {
        self.payments_not_known += 1;
        for (processor, reason) in silent {
            let mut groups = self.not_known.iter_mut();
            let group = groups.find(|group| group.processor == processor && group.reason == reason);
            match group {
                Some(group) => {
                    group.payments += 1;
                    if group.first.len() < NAMED {
                        group.first.push(id);
                    }
                }
                None => self.not_known.push(NotKnown {
                    processor,
                    reason,
                    payments: 1,
                    first: vec![id],
                }),
            }
        }
    }

    /// Whoever may not write, an auditor for example, sees what was found all the same.
    pub(super) fn note_not_left(
        &mut self,
        left: Result<(), sqlx::Error>,
    ) -> Result<(), sqlx::Error> {
        match left {
            // Read-only, no right, no such table.
            Err(sqlx::Error::Database(error))
                if matches!(error.code().as_deref(), Some("25006" | "42501" | "42P01")) =>
            {
                self.not_left = Some(error.message().to_owned());
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// What is compared, and what may be done about it.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The first `requestedAt`; none: no limit.
    pub from: Option<DateTime<Utc>>,
    /// The last `requestedAt`; none: no limit.
    pub to: Option<DateTime<Utc>>,
    /// The payments to compare, each once, in place of those of a range. Payments that we do not
    /// have may be among them.
    pub ids: Option<Vec<Uuid>>,
    /// Whether to put right what is proved.
    pub repair: bool,
    /// The processors' admin token, to compare totals too.
    pub token: Option<String>,
    /// Payments per second, at most.
    pub rate: NonZeroU32,
    /// Processors that are gone and cannot be asked: they have no payments but those that our
    /// records place there.
    pub without: Vec<String>,
}
