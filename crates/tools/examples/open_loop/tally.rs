//! What was posted, and how long each took.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use uuid::Uuid;

/// The longest latency that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(60);
/// Digits to which latencies are kept.
const DIGITS: u8 = 3;
/// The percentiles that are reported.
const PERCENTILES: [(&str, f64); 5] = [
    ("p50_ms", 50.0),
    ("p90_ms", 90.0),
    ("p99_ms", 99.0),
    ("p99.9_ms", 99.9),
    ("max_ms", 100.0),
];

/// A payment as its client saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Posted {
    /// Its id.
    pub(crate) id: Uuid,
    /// When it was sent.
    pub(crate) at: SystemTime,
    /// Of the reply; 0 without one.
    pub(crate) status: u16,
    /// When it was due.
    pub(crate) due: Instant,
    /// When the reply was there, or was given up.
    pub(crate) replied: Instant,
    /// What was to be paid.
    pub(crate) cents: u32,
}

impl Posted {
    fn latency(&self) -> Duration {
        self.replied - self.due
    }

    fn accepted(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// All that was posted.
pub(crate) struct Tally {
    rate: u32,
    seconds: u32,
    start: Instant,
    posted: Vec<Posted>,
    /// Payments that were not posted, because no connection was free in time.
    skipped: u64,
    all: Histogram<u64>,
    /// Of those that were accepted.
    accepted: Histogram<u64>,
    /// Since the last progress.
    recent: Histogram<u64>,
}

impl Tally {
    /// Nothing yet, of payments that are due from now on.
    pub(crate) fn start(rate: u32, seconds: u32) -> anyhow::Result<Self> {
        let longest = u64::try_from(LONGEST.as_micros())?;
        let all = Histogram::new_with_bounds(1, longest, DIGITS)?;
        let total = usize::try_from(u64::from(rate) * u64::from(seconds))?;
        Ok(Self {
            rate,
            seconds,
            start: Instant::now(),
            // Room for all, so that no payment waits while the others are moved.
            posted: Vec::with_capacity(total),
            skipped: 0,
            accepted: all.clone(),
            recent: all.clone(),
            all,
        })
    }

    /// Takes in a payment.
    pub(crate) fn note(&mut self, posted: Posted) {
        let micros = u64::try_from(posted.latency().as_micros()).unwrap_or(u64::MAX);
        self.all.saturating_record(micros);
        self.recent.saturating_record(micros);
        if posted.accepted() {
            self.accepted.saturating_record(micros);
        }
        self.posted.push(posted);
    }

    /// A payment was not posted.
    pub(crate) fn skip(&mut self) {
        self.skipped += 1;
    }

    /// What came since the last time, and where the load stands.
    pub(crate) fn progress(&mut self) -> Value {
        let line = json!({
            "second": self.start.elapsed().as_secs_f64(),
            "replies": self.posted.len(),
            "p99_ms": milliseconds(&self.recent, 99.0),
        });
        self.recent.reset();
        line
    }

    /// What came of the whole load.
    pub(crate) fn result(&self) -> Value {
        let mut statuses = BTreeMap::<String, u64>::new();
        for posted in &self.posted {
            *statuses.entry(posted.status.to_string()).or_default() += 1;
        }
        let accepted = || self.posted.iter().filter(|posted| posted.accepted());
        let last = accepted().map(|posted| posted.replied - self.start).max();
        let mut result = json!({
            "rate": self.rate,
            "seconds": self.seconds,
            "posted": self.posted.len(),
            "accepted": accepted().count(),
            "skipped": self.skipped,
            "statuses": statuses,
            "last_accepted_s": last.map(|last| last.as_secs_f64()),
        });
        for (name, percentile) in PERCENTILES {
            result[name] = json!(milliseconds(&self.all, percentile));
            result[format!("accepted_{name}")] = json!(milliseconds(&self.accepted, percentile));
        }
        result
    }

    /// Writes a line for each payment.
    pub(crate) fn write_posted(&self, file: &Path) -> anyhow::Result<()> {
        let mut lines = BufWriter::new(File::create(file)?);
        for posted in &self.posted {
            writeln!(
                lines,
                "{},{},{},{},{}",
                posted.id,
                posted.at.duration_since(UNIX_EPOCH)?.as_millis(),
                posted.status,
                posted.latency().as_micros(),
                posted.cents
            )?;
        }
        lines.flush()?;
        Ok(())
    }
}

fn milliseconds(micros: &Histogram<u64>, percentile: f64) -> Option<f64> {
    (!micros.is_empty()).then(|| micros.value_at_percentile(percentile) as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(tally: &Tally, status: u16, latency: Duration) -> Posted {
        Posted {
            id: Uuid::new_v4(),
            at: UNIX_EPOCH,
            status,
            due: tally.start,
            replied: tally.start + latency,
            cents: 1990,
        }
    }

    #[test]
    fn percentiles_and_statuses_are_of_all_payments() {
        let mut tally = Tally::start(100, 1).expect("a histogram");
        for millis in 1..=99 {
            tally.note(posted(&tally, 202, Duration::from_millis(millis)));
        }
        tally.note(posted(&tally, 0, Duration::from_secs(10)));
        let result = tally.result();
        assert_eq!(result["accepted"], 99);
        assert_eq!(result["statuses"], json!({ "0": 1, "202": 99 }));
        let p99 = result["p99_ms"].as_f64().expect("a number");
        assert!((98.9..99.2).contains(&p99), "{p99}");
        assert!(result["max_ms"].as_f64().expect("a number") >= 9_990.0);
        let slowest_accepted = result["accepted_max_ms"].as_f64().expect("a number");
        assert!(
            (98.9..99.2).contains(&slowest_accepted),
            "{slowest_accepted}"
        );
    }

    #[test]
    fn progress_is_of_the_time_since_the_last() {
        let mut tally = Tally::start(100, 1).expect("a histogram");
        tally.note(posted(&tally, 202, Duration::from_millis(50)));
        assert!(tally.progress()["p99_ms"].is_number());
        assert!(tally.progress()["p99_ms"].is_null());
    }
}
