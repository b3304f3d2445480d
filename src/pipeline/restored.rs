//! After a restore, and for a while after a crash emptied an unlogged queue: every processor is
//! asked for a payment before its first charge.
//!
//! A dump lacks what was settled after it was made. Its queue holds payments that were charged
//! since, by the processor that the router chose then, and clients post again the payments that it
//! lacks. So no row of it is proof that a payment was not charged, until an operator declares the
//! restore to be over.
//!
//! An emptied queue lacks what instances had claimed that died with the server. Clients post such
//! payments again; what was sent for them is answered, or lost, when a claim and the doubt that it
//! leaves are over.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use rust_decimal::Decimal;
use sqlx::PgPool;
use uuid::Uuid;

use crate::domain::payment::format_time;
use crate::processors::{Lookup, Outcome, Processor, RECORD_TIME_LIMIT};
use crate::store::claim::Claim;
use crate::store::database::Pool;
use crate::telemetry::metrics::Counts;

/// The pause before a payment is looked up again at a processor that did not answer.
pub(crate) const ASK_PAUSE: Duration = Duration::from_secs(1);

/// How long before a payment was posted, perhaps again, it may have been charged.
pub(crate) const BACKUP_AGE_LIMIT: TimeDelta = TimeDelta::days(366);

/// What came of the look-ups.
pub enum Asked {
    /// No processor has the payment.
    Nowhere(Claim),
    /// The outcome that is to be recorded of the claim; nothing was sent.
    Decided(Claim, Outcome),
}

/// A payment as a processor has it.
struct Charge {
    processor: String,
    /// `None`: the record has no amount that a payment can have.
    amount: Option<Decimal>,
    requested_at: DateTime<Utc>,
}

/// Looks a claimed payment up at every processor. A processor that has it has charged it: the
/// payment is assigned to that processor, so that the charge is recorded there.
pub async fn ask(
    pool: &Pool,
    processors: &[Processor],
    counts: &Counts,
    mut claim: Claim,
) -> Asked {
    let charges = match look_up(processors, claim.payment.correlation_id).await {
        Ok(charges) => charges,
        Err(silence) => {
            tokio::time::sleep(ASK_PAUSE).await;
            let outcome = undecided(&claim, silence);
            return Asked::Decided(claim, outcome);
        }
    };
    let mut charges = charges.into_iter();
    let Some(charge) = charges.next() else {
        return Asked::Nowhere(claim);
    };
    for other in charges {
        counts.charged_twice.add(1);
        tracing::error!(
            payment.id = %claim.payment.correlation_id, processor.name = other.processor,
            processor.recorded = charge.processor, "CHARGED TWICE, before the database was restored or its queue was emptied"
        );
    }
    if let Err(error) = pool.with_deadline(assign(pool, &claim, &charge)).await {
        tokio::time::sleep(ASK_PAUSE).await;
        let outcome = undecided(&claim, format!("{} has it: {error}", charge.processor));
        return Asked::Decided(claim, outcome);
    }
    let outcome = if is_of(&claim, &charge) {
        Outcome::Charged {
            requested_at: charge.requested_at,
        }
    } else {
        let amount = charge
            .amount
            .map_or("none".to_owned(), |amount| amount.to_string());
        Outcome::Dead {
            reason: format!(
                "asked before the first charge, {} has this id with amount {amount} of {}, not {}",
                charge.processor,
                format_time(charge.requested_at),
                claim.payment.amount
            ),
            held: true,
        }
    };
    claim.processor = charge.processor;
    claim.requested_at = charge.requested_at;
    Asked::Decided(claim, outcome)
}

/// The records of the processors that have a payment, or the reason of one that did not answer.
async fn look_up(processors: &[Processor], id: Uuid) -> Result<Vec<Charge>, String> {
    let lookups = processors.iter().map(|each| each.client.lookup(id));
    let mut charges = Vec::new();
    for (each, lookup) in processors.iter().zip(join_all(lookups).await) {
        match lookup {
            Lookup::Found {
                amount,
                requested_at,
            } => charges.push(Charge {
                processor: each.name.clone(),
                amount,
                requested_at,
            }),
            Lookup::Absent => {}
            Lookup::OtherId(_) | Lookup::Throttled | Lookup::NoAnswer(_) => {
                return Err(format!(
                    "asked before the first charge, {}: {lookup}",
                    each.name
                ));
            }
        }
    }
    Ok(charges)
}

/// Whether a record is of this payment: its amount, at a time in which the backup's payments can
/// have been charged.
fn is_of(claim: &Claim, charge: &Charge) -> bool {
    let earliest = claim.accepted_at - BACKUP_AGE_LIMIT;
    let latest = claim.requested_at + RECORD_TIME_LIMIT;
    charge.amount == Some(claim.payment.amount)
        && (earliest..=latest).contains(&charge.requested_at)
}

/// The outcome where nothing was sent: the payment is as it was before the claim.
fn undecided(claim: &Claim, reason: String) -> Outcome {
    match claim.earlier {
        None => Outcome::NotCharged { reason },
        Some(earlier) => Outcome::InDoubt {
            until: Some(earlier.doubt_until),
            reason,
        },
    }
}

/// Writes the processor that has the payment into its row.
///
/// What the statement must keep: the fence of a release, `id`, `correlation_id`, `attempt` and
/// `requested_at` of this claim. It may wait for a newer claim and then changes nothing; the charge
/// is recorded in any case. Twin: `release` in [`settle`](crate::pipeline::settle).
async fn assign(pool: &PgPool, claim: &Claim, charge: &Charge) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE payment_queue SET processor = $3, requested_at = $4
        WHERE id = $1 AND attempt = $2 AND correlation_id = $5 AND requested_at = $6",
        claim.id,
        claim.attempt,
        charge.processor,
        charge.requested_at,
        claim.payment.correlation_id,
        claim.requested_at
    )
    .execute(pool)
    .await?;
    Ok(())
}
