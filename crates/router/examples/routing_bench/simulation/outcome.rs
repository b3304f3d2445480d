//! What a run came to.

use super::{MILLISECOND, Micros, SECOND};

/// An audit looks at payments that were stamped at least this long ago.
pub(crate) const AUDIT_LAG: Micros = 1_500 * MILLISECOND;
/// Time between two audits of the contest.
const AUDIT_EVERY: Micros = 10 * SECOND;
/// Phases of the audits that are told apart.
const PHASES: usize = 1_000;
/// What the contest takes if any audit disagrees.
const FINE: f64 = 0.35;

/// Buckets for each doubling of the settle time.
const BUCKETS_PER_OCTAVE: f64 = 8.0;
const BUCKETS: usize = 256;

/// Settle times from 1 us on, in buckets that are 9 % wide.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
        }
    }
}

impl Histogram {
    /// Counts one settled payment.
    pub(crate) fn record(&mut self, took: Micros) {
        let bucket = ((took.max(1) as f64).log2() * BUCKETS_PER_OCTAVE) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
    }

    /// Adds another one.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// The time below which this share of the payments was settled, in seconds.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let total: u64 = self.counts.iter().sum();
        let mut left = (total as f64 * share).ceil() as u64;
        for (bucket, count) in self.counts.iter().enumerate() {
            if left <= *count {
                return ((bucket as f64 + 0.5) / BUCKETS_PER_OCTAVE).exp2() / SECOND as f64;
            }
            left -= count;
        }
        f64::NAN
    }
}

/// A moment of a run, for the picture.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// When.
    pub(crate) at: Micros,
    /// Payments waiting at that moment.
    pub(crate) waiting: u64,
    /// Payments sent to each processor since the last sample.
    pub(crate) sent: Vec<u64>,
    /// The state of each breaker of the first instance: 0 closed, 1 half open, 2 open.
    pub(crate) breakers: Vec<u8>,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Payments that arrived.
    pub(crate) arrived: u64,
    /// Payments settled before the end, at each processor.
    pub(crate) settled: Vec<u64>,
    /// Attempts that were declined, refused or not answered.
    pub(crate) failed: u64,
    /// Attempts that were refused with a 429.
    pub(crate) refused: u64,
    /// Attempts of any outcome.
    pub(crate) attempts: u64,
    /// The most payments that were at one processor at once.
    pub(crate) peak: u32,
    /// Times from arrival to settlement.
    pub(crate) settle_times: Histogram,
    /// Stretches of time in which a processor had recorded a payment that we had not, and that an
    /// audit would look at.
    pub(crate) disagreements: Vec<(Micros, Micros)>,
    /// The end of the run.
    pub(crate) end: Micros,
    /// The course of the run, if asked for.
    pub(crate) samples: Vec<Sample>,
}

impl Outcome {
    /// Net revenue, in amounts of one payment.
    pub(crate) fn net(&self, fees: &[f64]) -> f64 {
        self.settled
            .iter()
            .zip(fees)
            .map(|(count, fee)| *count as f64 * (1.0 - fee))
            .sum()
    }

    /// Payments not settled at the end.
    pub(crate) fn left_over(&self) -> u64 {
        self.arrived - self.settled.iter().sum::<u64>()
    }

    /// Share of the time in which an audit would disagree.
    pub(crate) fn disagreeing(&self) -> f64 {
        let covered: Micros = self.merged().iter().map(|(from, to)| to - from).sum();
        covered as f64 / self.end as f64
    }

    /// Probability that any of the audits of a run disagrees, if there is one every 10 s.
    pub(crate) fn any_audit_disagrees(&self) -> f64 {
        let mut hit = [false; PHASES];
        let width = AUDIT_EVERY / PHASES as u64;
        for (from, to) in self.merged() {
            let steps = (to - from).div_ceil(width).min(PHASES as u64);
            for step in 0..steps {
                hit[((from / width + step) % PHASES as u64) as usize] = true;
            }
        }
        hit.iter().filter(|hit| **hit).count() as f64 / PHASES as f64
    }

    /// Net revenue less the fine to be expected.
    pub(crate) fn net_after_fine(&self, fees: &[f64]) -> f64 {
        self.net(fees) * (1.0 - FINE * self.any_audit_disagrees())
    }

    fn merged(&self) -> Vec<(Micros, Micros)> {
        let mut sorted = self.disagreements.clone();
        sorted.sort_unstable();
        let mut merged: Vec<(Micros, Micros)> = Vec::new();
        for (from, to) in sorted {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        merged
    }
}
