//! What came of a drill.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::load::Figures;

/// Numbers and findings of a drill.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// Why it was not run, where it cannot be.
    pub(crate) skipped: Option<String>,
    /// What is wrong; nothing if empty.
    pub(crate) findings: Vec<String>,
    /// Figures of this drill alone.
    pub(crate) notes: Vec<String>,
    /// What clients met in the whole drill.
    pub(crate) figures: Figures,
    /// Payments in the ledger.
    pub(crate) settled: usize,
    /// Payments in the dead letters.
    pub(crate) dead: usize,
    /// Payments that are still in the queue at the end, in doubt or not.
    pub(crate) in_doubt: usize,
    pub(crate) lost: usize,
    pub(crate) twice: usize,
    /// Lines at WARN or ERROR that both instances have logged.
    pub(crate) log_lines: usize,
    /// The longest time that `readyz` took.
    pub(crate) readyz: Duration,
    pub(crate) took: Duration,
    /// Where everything was kept after a failure.
    pub(crate) kept: Option<PathBuf>,
}

impl Outcome {
    /// Whether something is wrong.
    pub(crate) fn failed(&self) -> bool {
        !self.findings.is_empty()
    }

    fn verdict(&self) -> &'static str {
        match (&self.skipped, self.failed()) {
            (Some(_), _) => "NOT RUN",
            (None, false) => "pass",
            (None, true) => "FAILED",
        }
    }

    fn columns(&self) -> [String; 13] {
        let figures = &self.figures;
        let other: usize = figures.other.values().sum();
        let number = |number: usize| number.to_string();
        [
            self.name.clone(),
            self.verdict().to_owned(),
            number(figures.offered),
            number(figures.accepted),
            number(figures.refused + other),
            number(self.settled),
            number(self.dead),
            number(self.in_doubt),
            number(self.lost),
            number(self.twice),
            millis(figures.p99),
            number(self.log_lines),
            millis(self.readyz),
        ]
    }
}

/// A time as people read it.
pub(crate) fn millis(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.01 => format!("{:.1} ms", seconds * 1_000.0),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1_000.0),
        seconds => format!("{seconds:.1} s"),
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:20} {}", "", self.verdict())?;
        if let Some(why) = &self.skipped {
            return write!(out, ": {why}");
        }
        let figures = &self.figures;
        write!(
            out,
            ": offered {}, 202 {}, 503 {}, settled {}, dead {}, in doubt {}, lost {}, twice {}, \
            p99 {}, readyz {}, log lines {}",
            figures.offered,
            figures.accepted,
            figures.refused,
            self.settled,
            self.dead,
            self.in_doubt,
            self.lost,
            self.twice,
            millis(figures.p99),
            millis(self.readyz),
            self.log_lines,
        )?;
        for (reply, count) in &figures.other {
            write!(out, ", {reply} {count}")?;
        }
        for note in &self.notes {
            write!(out, "; {note}")?;
        }
        write!(out, " ({:.0} s)", self.took.as_secs_f64())?;
        for finding in &self.findings {
            write!(out, "\n{:20} WRONG {finding}", "")?;
        }
        if let Some(kept) = &self.kept {
            write!(out, "\n{:20} see {}", "", kept.display())?;
        }
        Ok(())
    }
}

/// All drills, a line for each.
pub(crate) fn table(outcomes: &[Outcome], took: Duration) -> String {
    const HEAD: [&str; 13] = [
        "drill", "verdict", "offered", "202", "refused", "settled", "dead", "doubt", "lost",
        "twice", "p99", "lines", "readyz",
    ];
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(outcomes.iter().map(Outcome::columns));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            let widths = rows.iter().map(|row| row[column].chars().count());
            widths.max().unwrap_or_default()
        })
        .collect();
    let mut table = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        table.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        table.push('\n');
    }
    let count = |verdict: &str| {
        let counted = outcomes.iter().filter(|one| one.verdict() == verdict);
        counted.count()
    };
    table.push_str(&format!(
        "{} passed, {} failed, {} NOT RUN, in {:.0} s",
        count("pass"),
        count("FAILED"),
        count("NOT RUN"),
        took.as_secs_f64()
    ));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_that_was_not_run_or_found_something_has_not_passed() {
        let passed = Outcome::default();
        let failed = Outcome {
            findings: vec!["a payment is lost".to_owned()],
            ..Outcome::default()
        };
        let skipped = Outcome {
            skipped: Some("no root".to_owned()),
            ..Outcome::default()
        };
        assert!(failed.failed() && !passed.failed() && !skipped.failed());
        assert!(failed.to_string().contains("WRONG a payment is lost"));
        assert!(skipped.to_string().contains("NOT RUN: no root"));
        let table = table(&[passed, failed, skipped], Duration::from_secs(9));
        assert!(
            table.ends_with("1 passed, 1 failed, 1 NOT RUN, in 9 s"),
            "{table}"
        );
    }
}
