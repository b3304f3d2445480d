//! Early look-ups: a processor is asked whether it has a payment while an attempt at it is open.
//!
//! What is found is a charge, whoever attempted it and whatever becomes of the attempt: a late
//! success is a fact. An absence proves nothing, because the request may still be on its way, so it
//! changes nothing (Guard: AbsenceWhileOut). Neither a lease nor a doubt ends early.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Lookup, ProcessorClient, Reply, Verdict, judge};
use crate::store::claim::Claim;
use crate::telemetry::metrics::{EarlyLookup, EarlyLookupResult};

/// The least time for which an attempt is open before its processor is asked. In an audit that ends
/// 1.5 s ago there is time left for the look-up, a second one, and the record.
pub const OVERDUE_AFTER: Duration = Duration::from_secs(1);
/// An answer is overdue after this many times the time that its processor takes for its answers,
/// where that is longer than [`OVERDUE_AFTER`].
pub(crate) const OVERDUE_FACTOR: f64 = 1.5;
/// The pause between the first two look-ups during one call; each further one is twice as long.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Look-ups during one call, at most: 1, 1.25, 1.75, 2.75 and 4.75 s after the POST where answers
/// usually come within 0.67 s. Later there is the one after the call.
pub const LOOKUPS_PER_CALL: u32 = 5;
/// After what time the answer of a processor that takes `answers_in` for its answers is overdue.
#[must_use]
pub(crate) fn overdue_after(answers_in: Duration) -> Duration {
    OVERDUE_AFTER.max(answers_in.mul_f64(OVERDUE_FACTOR))
}

/// Asks the processor of a claim at growing distances until it has the payment; ends with the
/// `requested_at` of the charge, or never.
pub(super) async fn until_charged(
    client: &ProcessorClient,
    claim: &Claim,
    instances: impl Fn() -> u32,
) -> DateTime<Utc> {
    for lookup in 0..LOOKUPS_PER_CALL {
        if lookup > 0 {
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(lookup - 1)).await;
        }
        let found = find_charge(client, claim, instances(), EarlyLookup::DuringCall).await;
        if let Some(requested_at) = found {
            return requested_at;
        }
    }
    std::future::pending().await
}

/// Asks the processor of a claim once. Returns the `requested_at` of the charge if it has the
/// payment and that can be a charge of ours. A record that cannot be is left to the look-up after
/// the attempt.
pub async fn find_charge(
    client: &ProcessorClient,
    claim: &Claim,
    instances: u32,
    occasion: EarlyLookup,
) -> Option<DateTime<Utc>> {
    let lookup = client.lookup_early(claim.payment.correlation_id, instances);
    let lookup = lookup.await;
    let no_reply = Reply::NoReply(String::new());
    let (found, result) = match judge(claim, &no_reply, Some(&lookup)) {
        Some(Verdict::Charged { requested_at }) => (Some(requested_at), EarlyLookupResult::Found),
        _ if lookup == Lookup::Absent => (None, EarlyLookupResult::Absent),
        _ => (None, EarlyLookupResult::NoAnswer),
    };
    client.counts().early_lookup(occasion, result);
    tracing::debug!(
        payment.id = %claim.payment.correlation_id, processor.name = claim.processor,
        charge.lookup = ?lookup, charge.found = found.is_some(), "asked early"
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processors::LOOKUPS_AT_ONCE;

    #[test]
    fn an_answer_is_overdue_after_a_second_or_later_where_answers_take_longer() {
        let ms = Duration::from_millis;
        for (answers_in, overdue) in [(0, 1_000), (600, 1_000), (800, 1_200), (5_000, 7_500)] {
            assert_eq!(overdue_after(ms(answers_in)), ms(overdue), "{answers_in}");
        }
    }

    #[test]
    fn payments_and_early_lookups_together_stay_below_what_a_processor_serves_at_once() {
        const SERVED_AT_ONCE: u32 = 800;
        let payments = router::Policy::default().shared_cap;
        assert!(payments + LOOKUPS_AT_ONCE <= SERVED_AT_ONCE);
    }
}
