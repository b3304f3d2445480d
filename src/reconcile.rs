//! Reconcile: our books against the processors' own records, payment by payment.
//!
//! Every payment of the range is looked up at every processor. What one lookup each proves beyond
//! doubt can be repaired; everything else is for a person to decide.

use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::charge::Lookup;
use crate::summary::{NoSummary, Summary, Totals, summarize};
use crate::worker::Processor;

/// Payments that are read from the database at a time.
pub const PAGE: i64 = 500;
/// Payments that are looked up at once.
pub const LOOKUPS: usize = 16;

/// Where our side has a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ours {
    /// In the books.
    Settled,
    /// In the queue, and not being worked on at this moment.
    Queued,
    /// Among the dead letters.
    Dead,
}

/// What is wrong with a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Difference {
    /// More than one processor has it.
    ChargedTwice {
        /// Their names.
        processors: Vec<String>,
    },
    /// It is booked, and no processor has it.
    NotCharged,
    /// A processor has it, and it is not booked.
    NotBooked {
        /// The processor's name.
        processor: String,
    },
    /// Another processor than the booked one has it.
    OtherProcessor {
        /// The processor's name.
        processor: String,
    },
    /// The stamps differ.
    OtherStamp {
        /// What the processor recorded.
        requested_at: DateTime<Utc>,
    },
    /// The amounts differ.
    OtherAmount {
        /// What the processor charged.
        #[serde(with = "rust_decimal::serde::arbitrary_precision")]
        amount: Decimal,
    },
    /// A processor did not answer, so nothing is known.
    NoAnswer {
        /// The processor's name.
        processor: String,
        /// What came instead.
        reason: String,
    },
}

/// A payment that differs, or of which it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The payment.
    pub correlation_id: Uuid,
    /// Where we have it.
    pub ours: Ours,
    /// What is wrong.
    pub difference: Difference,
    /// Whether it has been put right.
    pub repaired: bool,
}

/// The totals of a processor that are not ours, payment by payment equal as we may be: it has payments
/// that we do not know, or payments were in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TotalsFinding {
    /// The processor's name.
    pub processor: String,
    /// What the books say.
    pub booked: Totals,
    /// What the processor says, or why it does not.
    pub charged: Result<Totals, String>,
}

/// What a reconciliation came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Payments compared.
    pub compared: u64,
    /// What differs.
    pub findings: Vec<Finding>,
    /// Processors whose totals differ; they are compared where their token is given.
    pub totals: Vec<TotalsFinding>,
}

impl Report {
    /// Whether something differs that has not been put right.
    #[must_use]
    pub fn differs(&self) -> bool {
        let proved = |finding: &Finding| !finding.is_silence() && !finding.repaired;
        self.findings.iter().any(proved) || self.totals.iter().any(|totals| totals.charged.is_ok())
    }

    /// Whether a processor did not answer, so that something that has been compared is not known to agree.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.findings.iter().any(Finding::is_silence)
            || self.totals.iter().any(|totals| totals.charged.is_err())
    }
}

impl Finding {
    /// Whether it is not known what the processors have of the payment.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self.difference, Difference::NoAnswer { .. })
    }
}

/// Our side of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    correlation_id: Uuid,
    amount: Decimal,
    accepted_at: DateTime<Utc>,
    ours: Ours,
    /// In the books only.
    booked: Option<(String, DateTime<Utc>)>,
}

impl Row {
    /// The payment with that id, amount and time of acceptance.
    fn new(
        (correlation_id, amount, accepted_at): (Uuid, Decimal, DateTime<Utc>),
        ours: Ours,
        booked: Option<(String, DateTime<Utc>)>,
    ) -> Self {
        Self {
            correlation_id,
            amount,
            accepted_at,
            ours,
            booked,
        }
    }
}

/// A payment as a processor has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Charge {
    processor: String,
    amount: Decimal,
    requested_at: DateTime<Utc>,
}

/// What is compared, and what may be done about it.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The first stamp.
    pub from: DateTime<Utc>,
    /// The last stamp.
    pub to: DateTime<Utc>,
    /// Whether to put right what is proved.
    pub repair: bool,
    /// The processors' admin token, to compare totals too.
    pub token: Option<String>,
}

/// Compares the payments settled with `from <= requestedAt <= to`, and those accepted in that time that
/// are queued or dead; with `repair` it puts right what is proved.
///
/// Of archived payments only the totals are compared.
///
/// # Errors
/// The database did not answer, or totals were wanted of a part of an hour that is archived.
pub async fn reconcile(
    pool: &PgPool,
    processors: &[Processor],
    scope: &Scope,
) -> Result<Report, NoSummary> {
    let Scope {
        from, to, repair, ..
    } = *scope;
    let mut report = Report::default();
    let mut after = Some((from, Uuid::nil()));
    while let Some((time, id)) = after {
        let page = settled(pool, time, id, to).await?;
        after = page
            .last()
            .and_then(|row| Some((row.booked.as_ref()?.1, row.correlation_id)));
        compare(pool, processors, page, repair, &mut report).await?;
    }
    let mut after = Some(Uuid::nil());
    while let Some(id) = after {
        let page = open(pool, id, from, to).await?;
        after = page.last().map(|row| row.correlation_id);
        compare(pool, processors, page, repair, &mut report).await?;
    }
    if let Some(token) = &scope.token {
        report.totals = compare_totals(pool, processors, token, from, to).await?;
    }
    Ok(report)
}

async fn compare_totals(
    pool: &PgPool,
    processors: &[Processor],
    token: &str,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Vec<TotalsFinding>, NoSummary> {
    let names: Vec<String> = processors
        .iter()
        .map(|processor| processor.name.clone())
        .collect();
    let Summary(booked) = summarize(pool, &names, Some(from), Some(to)).await?;
    let mut findings = Vec::new();
    for (Processor { name, client }, (_, booked)) in processors.iter().zip(booked) {
        let charged = client.totals(token, from, to).await.map(|totals| Totals {
            total_requests: totals.total_requests,
            total_amount: totals.total_amount,
        });
        if charged.as_ref() != Ok(&booked) {
            findings.push(TotalsFinding {
                processor: name.clone(),
                booked,
                charged,
            });
        }
    }
    Ok(findings)
}

async fn compare(
    pool: &PgPool,
    processors: &[Processor],
    rows: Vec<Row>,
    repair: bool,
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    report.compared += rows.len() as u64;
    let findings: Vec<Option<Finding>> = stream::iter(rows)
        .map(|row| async move {
            let Some((difference, charge)) =
                difference(&row, ask(processors, row.correlation_id).await)
            else {
                return Ok::<_, sqlx::Error>(None);
            };
            let repaired = match charge {
                Some(charge) if repair => put_right(pool, &row, &charge).await?,
                _ => false,
            };
            Ok(Some(Finding {
                correlation_id: row.correlation_id,
                ours: row.ours,
                difference,
                repaired,
            }))
        })
        .buffered(LOOKUPS)
        .try_collect()
        .await?;
    report.findings.extend(findings.into_iter().flatten());
    Ok(())
}

/// What the processors say of a payment, or the first that does not say anything.
async fn ask(processors: &[Processor], id: Uuid) -> Result<Vec<Charge>, Difference> {
    let mut charges = Vec::new();
    for Processor { name, client } in processors {
        match client.lookup(id).await {
            Lookup::Found {
                amount,
                requested_at,
            } => {
                charges.push(Charge {
                    processor: name.clone(),
                    amount,
                    requested_at,
                });
            }
            Lookup::Absent => {}
            Lookup::NoAnswer(reason) => {
                return Err(Difference::NoAnswer {
                    processor: name.clone(),
                    reason,
                });
            }
        }
    }
    Ok(charges)
}

/// What differs, and the charge that is to be booked where that is proved.
fn difference(
    row: &Row,
    charges: Result<Vec<Charge>, Difference>,
) -> Option<(Difference, Option<Charge>)> {
    let mut charges = match charges {
        Ok(charges) => charges,
        Err(silence) => return Some((silence, None)),
    };
    if charges.len() > 1 {
        let processors = charges.into_iter().map(|charge| charge.processor).collect();
        return Some((Difference::ChargedTwice { processors }, None));
    }
    let Some(charge) = charges.pop() else {
        return (row.ours == Ours::Settled).then_some((Difference::NotCharged, None));
    };
    if charge.amount != row.amount {
        // A dead letter with this reason is known already.
        return (row.ours != Ours::Dead).then_some((
            Difference::OtherAmount {
                amount: charge.amount,
            },
            None,
        ));
    }
    let difference = match &row.booked {
        None => Difference::NotBooked {
            processor: charge.processor.clone(),
        },
        Some((processor, _)) if *processor != charge.processor => Difference::OtherProcessor {
            processor: charge.processor.clone(),
        },
        Some((_, requested_at)) if *requested_at != charge.requested_at => Difference::OtherStamp {
            requested_at: charge.requested_at,
        },
        Some(_) => return None,
    };
    Some((difference, Some(charge)))
}

/// Books the one charge that there is, in one statement, so that the payment stays in exactly one table.
/// Returns false where a worker has taken the payment up in the meantime.
async fn put_right(pool: &PgPool, row: &Row, charge: &Charge) -> Result<bool, sqlx::Error> {
    let written = sqlx::query!(
        "WITH unqueued AS (
            DELETE FROM payment_queue WHERE correlation_id = $1 AND lease_until <= now() RETURNING attempt
        ), revived AS (
            DELETE FROM payment_dead_letter WHERE correlation_id = $1 RETURNING attempt
        ), booked AS (
            -- Not one that `archive` is taking out at this moment.
            SELECT attempt FROM payment_processed WHERE correlation_id = $1 FOR UPDATE
        ), ours AS (
            SELECT attempt FROM unqueued UNION ALL SELECT attempt FROM revived UNION ALL SELECT attempt FROM booked
        )
        INSERT INTO payment_processed AS p (correlation_id, amount, processor, requested_at, accepted_at, attempt)
        SELECT $1, $2, $3, $4, $5, attempt FROM ours LIMIT 1
        ON CONFLICT ON CONSTRAINT payment_processed_pkey
        DO UPDATE SET processor = excluded.processor, requested_at = excluded.requested_at",
        row.correlation_id,
        row.amount,
        charge.processor,
        charge.requested_at,
        row.accepted_at
    )
    .execute(pool)
    .await?;
    Ok(written.rows_affected() == 1)
}

async fn settled(
    pool: &PgPool,
    after: DateTime<Utc>,
    after_id: Uuid,
    to: DateTime<Utc>,
) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT correlation_id, amount, accepted_at, processor, requested_at FROM payment_processed
        WHERE requested_at >= $1 AND requested_at <= $3 AND (requested_at, correlation_id) > ($1, $2)
        ORDER BY requested_at, correlation_id LIMIT $4",
        after,
        after_id,
        to,
        PAGE
    )
    .fetch_all(pool)
    .await?;
    let rows = rows.into_iter().map(|row| {
        let booked = Some((row.processor, row.requested_at));
        let of = (row.correlation_id, row.amount, row.accepted_at);
        Row::new(of, Ours::Settled, booked)
    });
    Ok(rows.collect())
}

/// Payments that nobody works on now. Those in flight have not been decided yet.
async fn open(
    pool: &PgPool,
    after: Uuid,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT correlation_id AS "correlation_id!", amount AS "amount!", accepted_at AS "accepted_at!", dead AS "dead!"
        FROM (
            SELECT correlation_id, amount, accepted_at, false AS dead FROM payment_queue WHERE lease_until <= now()
            UNION ALL
            SELECT correlation_id, amount, accepted_at, true FROM payment_dead_letter
        ) AS open
        WHERE correlation_id > $1 AND accepted_at BETWEEN $2 AND $3
        ORDER BY correlation_id LIMIT $4"#,
        after,
        from,
        to,
        PAGE
    )
    .fetch_all(pool)
    .await?;
    let rows = rows.into_iter().map(|row| {
        let ours = if row.dead { Ours::Dead } else { Ours::Queued };
        let of = (row.correlation_id, row.amount, row.accepted_at);
        Row::new(of, ours, None)
    });
    Ok(rows.collect())
}
