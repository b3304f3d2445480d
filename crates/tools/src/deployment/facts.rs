//! What each side says at the end: clients, ledger, processors, summaries and logs.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use payment_proxy::domain::payment::format_time;
use rand::RngExt;
use rand::rngs::StdRng;
use rust_decimal::Decimal;
use sqlx::Connection as _;
use uuid::Uuid;

use super::ledger::{Known, Ledger};
use super::processor::Stored;
use super::stack::{Folder, Stack};

/// Random ranges of time over which the summaries are compared.
const SUMMARY_RANGES: usize = 50;
/// What the instances log of odd ends, and what is told of them. The first two must not be.
const PHRASES: [(&str, bool); 10] = [
    ("CHARGED TWICE", true),
    ("panicked at", true),
    ("recorded a charge whose queue row was gone", false),
    ("charge was recorded already", false),
    ("asked after a reply without proof", false),
    ("the database does not answer", false),
    ("the database refuses our role", false),
    ("the database server's clock went", false),
    ("it contradicts the deployment", false),
    ("this database is a copy", false),
];

/// A payment in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Recorded {
    pub correlation_id: Uuid,
    pub amount: Decimal,
    pub processor: String,
    pub requested_at: DateTime<Utc>,
}

/// A payment in the queue or in the dead letters.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Unsettled {
    pub correlation_id: Uuid,
    pub amount: Decimal,
    /// Why, or where it may have been charged.
    pub detail: String,
}

/// What all sides say of all payments.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What the clients posted and were told.
    pub clients: HashMap<Uuid, Known>,
    /// Replies that no client should have got.
    pub wrong_replies: Vec<String>,
    pub recorded_payments: Vec<Recorded>,
    pub dead: Vec<Unsettled>,
    pub queue: Vec<Unsettled>,
    /// What each processor has, by its name.
    pub processors: Vec<(String, Vec<Stored>)>,
}

/// Asks all sides.
pub async fn gather(stack: &Stack, ledger: &Ledger) -> anyhow::Result<Facts> {
    let mut connection = stack.connect().await?;
    let recorded_payments = sqlx::query_as(
        "SELECT correlation_id, amount, processor, requested_at FROM payment_processed",
    );
    let dead = sqlx::query_as(
        "SELECT correlation_id, amount, processor || ': ' || reason AS detail FROM \
        payment_dead_letter",
    );
    let queue = sqlx::query_as(
        "SELECT correlation_id, amount, payment_queue::text AS detail FROM payment_queue",
    );
    let (recorded_payments, dead, queue) = (
        recorded_payments.fetch_all(&mut connection).await?,
        dead.fetch_all(&mut connection).await?,
        queue.fetch_all(&mut connection).await?,
    );
    connection.close().await?;
    let mut processors = Vec::new();
    for processor in &stack.processors {
        processors.push((processor.name.to_owned(), processor.stored().await?));
    }
    let (clients, wrong_replies) = ledger.contents();
    Ok(Facts {
        clients,
        wrong_replies,
        recorded_payments,
        dead,
        queue,
        processors,
    })
}

impl Facts {
    /// From the first `requested_at` to the last, and at least that time: the clock of the database
    /// may have been set.
    pub fn span(&self, at_least: Range<DateTime<Utc>>) -> Range<DateTime<Utc>> {
        self.recorded_payments
            .iter()
            .fold(at_least, |span, recorded| {
                span.start.min(recorded.requested_at)..span.end.max(recorded.requested_at)
            })
    }

    /// Writes down what stands nowhere else: what the clients know.
    pub fn write(&self, folder: &Folder) -> anyhow::Result<()> {
        let mut text = String::from("correlation_id,cents,accepted,posts,refused,unanswered\n");
        for (id, known) in &self.clients {
            let Known {
                cents,
                accepted,
                posts,
                refused,
                unanswered,
            } = known;
            writeln!(
                text,
                "{id},{cents},{accepted},{posts},{refused},{unanswered}"
            )?;
        }
        fs::write(folder.logs().join("clients.csv"), text)?;
        Ok(())
    }
}

/// Compares the summary of the API with the processors' own, over everything and over random ranges
/// within that span. Returns how many it compared, and the differences.
pub async fn compare_summaries(
    stack: &Stack,
    span: &Range<DateTime<Utc>>,
    rng: &mut StdRng,
) -> anyhow::Result<(usize, Vec<String>)> {
    let whole = (span.end - span.start).num_milliseconds().max(1);
    let mut ranges = vec![None];
    for _ in 0..SUMMARY_RANGES {
        let (one, other) = (rng.random_range(0..=whole), rng.random_range(0..=whole));
        let from = span.start + TimeDelta::milliseconds(one.min(other));
        let to = span.start + TimeDelta::milliseconds(one.max(other));
        ranges.push(Some((from, to)));
    }
    let mut differing = Vec::new();
    for range in &ranges {
        let query =
            range.map(|(from, to)| format!("from={}&to={}", format_time(from), format_time(to)));
        let ours = stack.summary(query.as_deref()).await?;
        for (processor, ours) in stack.processors.iter().zip([ours.default, ours.fallback]) {
            let theirs = processor.summary(*range).await?;
            if ours != theirs {
                differing.push(format!(
                    "summary of {} over {}: ours {ours:?}, theirs {theirs:?}",
                    processor.name,
                    query.as_deref().unwrap_or("everything")
                ));
            }
        }
    }
    Ok((ranges.len(), differing))
}

/// What processes logged of odd ends.
#[derive(Debug, Default)]
pub struct Logged {
    /// How often each phrase of interest.
    pub counts: BTreeMap<&'static str, u64>,
    /// Lines that must not be.
    pub wrong: Vec<String>,
}

/// Reads the logs of instances and processors.
pub fn read_logs<'a>(logs: impl IntoIterator<Item = &'a Path>) -> Logged {
    let mut logged = Logged::default();
    for path in logs {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let log = fs::read(path).unwrap_or_default();
        for line in String::from_utf8_lossy(&log).lines() {
            for (phrase, wrong) in PHRASES {
                if line.contains(phrase) {
                    *logged.counts.entry(phrase).or_default() += 1;
                    if wrong {
                        logged.wrong.push(format!("log of {name}: {line}"));
                    }
                }
            }
        }
    }
    logged
}
