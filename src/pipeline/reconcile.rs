//! Reconcile: our ledger against the processors' own records, payment by payment.
//!
//! Every payment of the range is looked up at every processor. A payment counts as compared when
//! every processor that the database knows has answered for it: one that is missing from
//! `PROCESSORS`, or gives no answer, may have it as well. What one lookup each proves beyond doubt
//! can be repaired; everything else is for a person to decide.
//!
//! Payments that are in flight are left out, and archived payments are compared by totals only.
//!
//! Given a list of ids it compares these, also those that our tables lack: what a backup does not
//! know, and what an unlogged queue lost in a crash.

mod ask;
mod ledger;
mod report;

use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt};
use rust_decimal::Decimal;
use sqlx::PgPool;
use uuid::Uuid;

pub use ledger::PAGE;
pub use report::{
    Archived, Difference, Finding, NAMED, NotKnown, Ours, Report, Scope, TotalsFinding,
};

use crate::domain::cell::{Cell, Cells};
use crate::domain::payment::parse_amount;
use crate::processors::Processor;
use crate::store::database::{InCell, Pool, RETRY_PAUSE, is_not_allowed, is_transient, of_cell};
use crate::store::summary::{Summary, Totals, summarize};
use ask::{Answers, Asker, Charge};
use ledger::Row;

/// Given ids that are looked for in the database at a time.
pub(crate) const PAGE_IDS: usize = 500;
/// Payments that are looked up at once.
pub(crate) const LOOKUPS: usize = 8;
/// Payments that are looked up per second, unless another rate is asked for: who audits shares the
/// processors and the database with payments. docs/auditing.md has what this rate costs; as fast as
/// it can, on a machine that serves payments as well, takes their p99 from 4 to 23 ms.
pub const RATE: u32 = 300;
/// How often a statement is tried whose failure may pass, [`RETRY_PAUSE`] apart.
pub const ATTEMPTS: u32 = 20;

/// Compares the payments settled with `from <= requestedAt <= to`, and those accepted in that time
/// that are queued or dead, or the payments with the given ids; with `repair` it puts right what is
/// proved. `progress` is told how many payments of about how many have been looked up, of one cell
/// after the other.
///
/// Of archived payments only the totals are compared. Totals are those of all cells.
///
/// # Errors
/// A database did not answer, or totals were wanted of a part of an hour that is archived.
pub async fn reconcile(
    cells: &Cells<Pool>,
    processors: &[Processor],
    scope: &Scope,
    progress: impl Fn(u64, u64),
) -> anyhow::Result<Report> {
    let parts: Vec<(Cell, &Pool, Scope)> = match &scope.ids {
        None => cells
            .each()
            .map(|(cell, pool)| (cell, pool, scope.clone()))
            .collect(),
        Some(ids) => {
            let divided = cells.divide(ids).into_iter();
            let of = |ids| Scope {
                ids: Some(ids),
                ..scope.clone()
            };
            divided
                .map(|(cell, pool, ids)| (cell, pool, of(ids)))
                .collect()
        }
    };
    let mut reports = Vec::new();
    for (cell, pool, scope) in parts {
        let began_at = Utc::now();
        let report = compare(pool, processors, &scope, &progress).await;
        let report = report.map_err(|error| InCell(cell, error))?;
        reports.push((pool, scope, began_at, report));
    }
    let mut whole = Report::default();
    if let (Some(token), Some((.., first))) = (&scope.token, reports.first_mut()) {
        first.totals = compare_totals(cells, processors, token, scope).await?;
        first.totals_compared = true;
    }
    for (pool, scope, began_at, mut report) in reports {
        let left = patiently(|| ledger::leave_run(pool, began_at, &scope, &report)).await;
        let noted = report.note_not_left(left);
        noted.map_err(|error| InCell(pool.cell(), error))?;
        whole.add(report);
    }
    Ok(whole)
}

/// Compares payments of one cell.
async fn compare(
    pool: &PgPool,
    processors: &[Processor],
    scope: &Scope,
    progress: &impl Fn(u64, u64),
) -> Result<Report, sqlx::Error> {
    let known = patiently(|| ledger::known_processors(pool)).await?;
    let is = |name: &str, other: &String| other.eq_ignore_ascii_case(name);
    let asked = |name: &str| processors.iter().any(|each| is(name, &each.name));
    let excused = |name: &str| scope.without.iter().any(|other| is(name, other));
    let not_asked = known
        .into_iter()
        .filter(|name| !asked(name) && !excused(name));
    let mut run = Run {
        pool,
        asker: Asker::new(processors, scope.rate),
        processors,
        repair: scope.repair,
        report: Report {
            not_asked: not_asked.collect(),
            ..Report::default()
        },
    };
    match &scope.ids {
        Some(ids) => run.compare_given(ids, progress).await?,
        None => run.compare_range(scope, progress).await?,
    }
    Ok(run.report)
}

/// Tries again what may succeed later: a run takes long, and a server is restarted meanwhile.
async fn patiently<T, F>(mut statement: impl FnMut() -> F) -> Result<T, sqlx::Error>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let mut attempt = 1;
    loop {
        match statement().await {
            Err(error) if is_transient(&error) && !is_not_allowed(&error) && attempt < ATTEMPTS => {
                attempt += 1;
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Sent where one end of a range is open: with one of them alone a processor adds up everything.
const EARLIEST: DateTime<Utc> = DateTime::UNIX_EPOCH;
/// The same for the other end: 9999-12-31T23:59:59Z.
const LATEST: DateTime<Utc> =
    DateTime::from_timestamp(253_402_300_799, 0).expect("a time that RFC 3339 can say");

async fn compare_totals(
    cells: &Cells<Pool>,
    processors: &[Processor],
    token: &str,
    scope: &Scope,
) -> anyhow::Result<Vec<TotalsFinding>> {
    let names: Vec<String> = processors
        .iter()
        .map(|processor| processor.name.clone())
        .collect();
    let mut parts = Vec::new();
    for (cell, pool) in cells.each() {
        let part = summarize(&**pool, &names, scope.from, scope.to).await;
        parts.push(part.map_err(|error| of_cell(cell, error.into()))?);
    }
    let Summary(recorded) = Summary::sum(&names, parts);
    let (from, to) = (scope.from.unwrap_or(EARLIEST), scope.to.unwrap_or(LATEST));
    let mut findings = Vec::new();
    for (Processor { name, client }, (_, recorded)) in processors.iter().zip(recorded) {
        let charged = client.totals(token, from, to).await.map(|totals| Totals {
            total_requests: totals.total_requests,
            total_amount: totals.total_amount,
        });
        if charged.as_ref() != Ok(&recorded) {
            findings.push(TotalsFinding {
                processor: name.clone(),
                recorded,
                charged,
            });
        }
    }
    Ok(findings)
}

/// A reconciliation under way.
struct Run<'a> {
    pool: &'a PgPool,
    asker: Asker<'a>,
    processors: &'a [Processor],
    repair: bool,
    report: Report,
}

impl Run<'_> {
    /// Compares the payments of a range.
    async fn compare_range(
        &mut self,
        scope: &Scope,
        progress: impl Fn(u64, u64),
    ) -> Result<(), sqlx::Error> {
        let pool = self.pool;
        self.report.archived = patiently(|| ledger::archived(pool, scope)).await?;
        let about = patiently(|| ledger::about(pool, scope)).await?;
        let mut looked_up = 0;
        let mut after = None;
        loop {
            let page = patiently(|| ledger::settled(pool, scope, after)).await?;
            let Some(last) = page.last() else { break };
            after = last.requested_at.map(|at| (at, last.correlation_id));
            looked_up += page.len() as u64;
            self.compare(page).await?;
            progress(looked_up, about);
        }
        let mut after = Uuid::nil();
        loop {
            let page = patiently(|| ledger::open(pool, scope, after)).await?;
            let Some(last) = page.last() else { break };
            after = last.correlation_id;
            looked_up += page.len() as u64;
            self.compare(page).await?;
            progress(looked_up, about);
        }
        Ok(())
    }

    /// Compares the payments with these ids.
    async fn compare_given(
        &mut self,
        ids: &[Uuid],
        progress: impl Fn(u64, u64),
    ) -> Result<(), sqlx::Error> {
        let pool = self.pool;
        let mut looked_up = 0;
        for page in ids.chunks(PAGE_IDS) {
            let given = patiently(|| ledger::given(pool, page)).await?;
            self.report.archived.payments += given.archived.payments;
            self.report.archived.amount += given.archived.amount;
            for (id, processor) in given.in_flight {
                let reason = "a worker holds it at this moment".to_owned();
                self.report.note_not_known(id, vec![(processor, reason)]);
            }
            self.compare(given.rows).await?;
            looked_up += page.len() as u64;
            progress(looked_up, ids.len() as u64);
        }
        Ok(())
    }

    /// Compares some payments, and leaves what differs in the database.
    async fn compare(&mut self, rows: Vec<Row>) -> Result<(), sqlx::Error> {
        let (asker, not_asked) = (&self.asker, &self.report.not_asked);
        let answered: Vec<(Row, Answers)> = stream::iter(rows)
            .map(|row| async move {
                let mut answers = asker.ask(row.correlation_id, false).await;
                if difference(&row, &answers).is_some() {
                    answers = asker.ask(row.correlation_id, true).await;
                }
                (row, answers)
            })
            .buffered(LOOKUPS)
            .collect()
            .await;
        let not_asked = not_asked.clone();
        let (mut compared, first) = (Vec::new(), self.report.findings.len());
        for (row, mut answers) in answered {
            for name in self.unasked(&row, &not_asked) {
                answers
                    .silent
                    .push((name, "it is not in PROCESSORS".to_owned()));
            }
            let is_complete = answers.silent.is_empty();
            if let Some((difference, charge)) = difference(&row, &answers) {
                let repaired = match charge {
                    Some(charge) if self.repair && is_complete => match row.ours {
                        Ours::Unknown => {
                            let id = row.correlation_id;
                            patiently(|| ledger::record(self.pool, id, &charge)).await?
                        }
                        _ => patiently(|| ledger::put_right(self.pool, &row, &charge)).await?,
                    },
                    _ => false,
                };
                self.report.findings.push(Finding {
                    correlation_id: row.correlation_id,
                    ours: row.ours,
                    recorded: row.requested_at.and(row.processor.clone()),
                    difference,
                    repaired,
                });
                compared.push(row.correlation_id);
            } else if is_complete {
                if row.ours == Ours::Unknown {
                    self.report.nowhere.push(row.correlation_id);
                }
                compared.push(row.correlation_id);
            }
            match is_complete {
                true => self.report.compared += 1,
                false => self
                    .report
                    .note_not_known(row.correlation_id, answers.silent),
            }
        }
        let findings = &self.report.findings[first..];
        let findings: Vec<&Finding> = findings.iter().filter(|each| !each.repaired).collect();
        let left = patiently(|| ledger::leave_findings(self.pool, &compared, &findings)).await;
        self.report.note_not_left(left)
    }

    /// The processors that may have that payment and were not asked.
    fn unasked(&self, row: &Row, not_asked: &[String]) -> Vec<String> {
        let mut names = not_asked.to_vec();
        let own = row.processor.iter().filter(|own| {
            let is_own = |name: &String| name.eq_ignore_ascii_case(own);
            !self.processors.iter().any(|each| is_own(&each.name)) && !names.iter().any(is_own)
        });
        let own: Vec<String> = own.cloned().collect();
        names.extend(own);
        names
    }
}

/// What differs, and the charge that is to be recorded where that is proved. Where a processor was
/// not asked or gave no answer, only what its answer could not change.
fn difference(row: &Row, answers: &Answers) -> Option<(Difference, Option<Charge>)> {
    if answers.charges.len() > 1 {
        let charges = answers.charges.iter();
        let processors = charges.map(|charge| charge.processor.clone()).collect();
        return Some((Difference::ChargedTwice { processors }, None));
    }
    let is_complete = answers.silent.is_empty();
    let Some(charge) = answers.charges.first() else {
        return (row.ours == Ours::Settled && is_complete)
            .then_some((Difference::NotCharged, None));
    };
    let processor = charge.processor.clone();
    let is_amount = match row.amount {
        Some(ours) => charge.amount == Some(ours),
        None => charge.amount.is_some_and(can_be_paid),
    };
    if !is_amount {
        let amount = charge.amount;
        // A dead letter with this reason is known already.
        return (row.ours != Ours::Dead)
            .then_some((Difference::OtherAmount { processor, amount }, None));
    }
    if !is_complete {
        return None;
    }
    let difference = match (&row.processor, row.requested_at) {
        (Some(recorded), Some(at)) => match recorded.eq_ignore_ascii_case(&charge.processor) {
            // Finer digits than ours are not of our making.
            true if at.timestamp_millis() == charge.requested_at.timestamp_millis() => return None,
            true => Difference::OtherStamp {
                processor,
                requested_at: charge.requested_at,
            },
            false => Difference::OtherProcessor { processor },
        },
        _ => Difference::NotRecorded { processor },
    };
    Some((difference, Some(charge.clone())))
}

/// Whether a payment can have that amount.
fn can_be_paid(amount: Decimal) -> bool {
    parse_amount(&amount.to_string()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(processor: &str) -> Row {
        Row {
            correlation_id: Uuid::nil(),
            amount: Some(Decimal::ONE),
            accepted_at: Some(DateTime::UNIX_EPOCH),
            ours: Ours::Settled,
            processor: Some(processor.to_owned()),
            requested_at: Some(DateTime::UNIX_EPOCH),
        }
    }

    fn charge(processor: &str) -> Charge {
        Charge {
            processor: processor.to_owned(),
            amount: Some(Decimal::ONE),
            requested_at: DateTime::UNIX_EPOCH,
        }
    }

    fn found(charges: &[Charge], silent: &[&str]) -> Option<Difference> {
        found_of(&row("default"), charges, silent)
    }

    fn found_of(row: &Row, charges: &[Charge], silent: &[&str]) -> Option<Difference> {
        let silent = silent
            .iter()
            .map(|name| ((*name).to_owned(), String::new()));
        let answers = Answers {
            charges: charges.to_vec(),
            silent: silent.collect(),
        };
        difference(row, &answers).map(|(difference, _)| difference)
    }

    #[test]
    fn silence_proves_nothing_and_hides_no_second_charge() {
        let (default, fallback) = (charge("default"), charge("fallback"));
        let both = [default.clone(), fallback.clone()];
        let twice = Difference::ChargedTwice {
            processors: vec!["default".to_owned(), "fallback".to_owned()],
        };
        let instead = Difference::OtherProcessor {
            processor: "fallback".to_owned(),
        };
        assert_eq!(found(&[default], &[]), None);
        assert_eq!(found(&[], &[]), Some(Difference::NotCharged));
        assert_eq!(found(std::slice::from_ref(&fallback), &[]), Some(instead));
        assert_eq!(found(&both, &[]), Some(twice.clone()));
        assert_eq!(found(&both, &["third"]), Some(twice));
        assert_eq!(found(&[], &["fallback"]), None);
        assert_eq!(found(&[fallback], &["default"]), None);
    }

    #[test]
    fn a_charge_of_an_unknown_id_has_an_amount_that_a_payment_can_have() {
        let unknown = Row {
            amount: None,
            accepted_at: None,
            ours: Ours::Unknown,
            processor: None,
            requested_at: None,
            ..row("default")
        };
        let charged = |amount: Option<&str>| {
            let amount = amount.map(|text| text.parse().expect("a number"));
            let charge = Charge {
                amount,
                ..charge("default")
            };
            found_of(&unknown, &[charge], &[]).expect("a difference")
        };
        let processor = "default".to_owned();
        assert_eq!(
            charged(Some("19.90")),
            Difference::NotRecorded { processor }
        );
        for amount in [None, Some("0"), Some("-1"), Some("1.005"), Some("1e12")] {
            let amount =
                amount.map(|text| Decimal::from_scientific(text).or(text.parse()).expect(text));
            let text = amount.map(|amount| amount.to_string());
            let found = charged(text.as_deref());
            assert!(matches!(found, Difference::OtherAmount { .. }), "{found}");
        }
        assert_eq!(
            found_of(&unknown, &[charge("default")], &["fallback"]),
            None
        );
        assert_eq!(found_of(&unknown, &[], &[]), None);
    }

    #[test]
    fn names_that_differ_by_case_are_one_processor() {
        assert_eq!(found(&[charge("Default")], &[]), None);
    }
}
