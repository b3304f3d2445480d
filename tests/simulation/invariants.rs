//! What must hold after every step, and once all is settled.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use payment_proxy::store::claim::Claim;
use payment_proxy::store::summary::{Totals, summarize};
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};
use rust_decimal::Decimal;
use tokio::time::Instant;
use uuid::Uuid;

use crate::world::{Checked, World};

/// The database's clock ticks while a step is taken.
const SLACK: Duration = Duration::from_secs(1);

/// A payment in one of our tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub struct Row {
    pub slot: String,
    pub id: Uuid,
    pub amount: Decimal,
    pub attempt: i32,
    pub processor: Option<String>,
    pub requested_at: Option<DateTime<Utc>>,
    pub doubt_until: Option<DateTime<Utc>>,
    /// By the database's clock, when it was asked.
    pub seen_at: Option<DateTime<Utc>>,
}

async fn rows(world: &World<'_>) -> Vec<Row> {
    sqlx::query_as(
        "SELECT 'queue' AS slot, correlation_id AS id, amount, attempt, processor, requested_at,
            doubt_until,
            now() AS seen_at FROM payment_queue
        UNION ALL SELECT 'recorded', correlation_id, amount, attempt, processor, requested_at, NULL,
            NULL
            FROM payment_processed
        UNION ALL SELECT 'dead', correlation_id, amount, attempt, processor, NULL, NULL, NULL
            FROM payment_dead_letter",
    )
    .fetch_all(&*world.pools.requests)
    .await
    .expect("the database answers")
}

fn fail<T>(what: &str, found: impl std::fmt::Debug) -> Result<T, TestCaseError> {
    Err(TestCaseError::fail(format!("{what}: {found:?}")))
}

/// What holds at any time.
pub async fn check(world: &mut World<'_>) -> Checked {
    let now = rows(world).await;
    let of = |id: &Uuid| now.iter().filter(|row| row.id == *id).collect::<Vec<_>>();
    for row in &now {
        prop_assert!(
            world.accepted.get(&row.id) == Some(&row.amount),
            "not what was accepted: {:?}",
            row
        );
        let evidence = [row.requested_at.is_some(), row.doubt_until.is_some()];
        prop_assert!(
            row.slot != "queue" || evidence == [row.processor.is_some(); 2],
            "half of the evidence: {:?}",
            row
        );
    }
    for id in world.accepted.keys() {
        match &of(id)[..] {
            [_] => {}
            // A post that raced with the settle; the next claim removes it.
            [queued, done] if queued.slot == "queue" && done.slot != "queue" => {
                prop_assert!(
                    queued.processor.is_none(),
                    "sent again: {:?}",
                    (queued, done)
                );
            }
            [] => return fail("a lost payment", id),
            several => return fail("a payment in several slots", several),
        }
    }
    for was in &world.rows {
        if was.slot != "queue" {
            prop_assert!(now.contains(was), "the books were changed: {:?}", was);
        }
    }
    for was in world.fenced.drain(..) {
        let kept = now.iter().any(|row| {
            Row {
                seen_at: was.seen_at,
                ..row.clone()
            } == was
        });
        prop_assert!(kept, "changed by an attempt that is over: {:?}", was);
    }
    check_charges(world, &now)?;
    check_doubts(world, &now)?;
    world.rows = now;
    Ok(())
}

/// Whatever a processor has stored, or still works on, is in our books or stands in its queue row:
/// that processor and that requested_at. And nothing is in our books that it has not stored.
fn check_charges(world: &World<'_>, now: &[Row]) -> Checked {
    let mut charges = BTreeMap::new();
    for (index, site) in world.sites.iter().enumerate() {
        let stored = site.processor.payments().into_iter();
        let stored = stored.map(|payment| (payment.id, Some(payment.amount), payment.requested_at));
        let open = world.open.iter().filter(|open| open.site == index);
        let open = open.map(|open| (open.id, None, open.requested_at));
        for (id, amount, requested_at) in stored.chain(open) {
            let charge = (site.name, requested_at);
            if let Some(other) = charges.insert(id, charge)
                && other != charge
            {
                return fail("charged, or about to be, twice", (id, other, charge));
            }
            prop_assert!(
                amount.is_none_or(|amount| world.accepted.get(&id) == Some(&amount)),
                "a wrong amount was charged: {} {:?}",
                id,
                amount
            );
        }
    }
    for (id, (name, requested_at)) in &charges {
        let known = now.iter().any(|row| {
            row.id == *id
                && row.slot != "dead"
                && row.processor.as_deref() == Some(name)
                && row.requested_at == Some(*requested_at)
        });
        if !known {
            let rows: Vec<_> = now.iter().filter(|row| row.id == *id).collect();
            return fail(
                "a charge that we know nothing of",
                (name, requested_at, rows),
            );
        }
    }
    for row in now.iter().filter(|row| row.slot == "recorded") {
        let site = world.sites.iter();
        let stored = site
            .filter(|site| row.processor.as_deref() == Some(site.name))
            .find_map(|site| site.processor.payment(row.id));
        prop_assert!(
            stored.is_some_and(|stored| Some(stored.requested_at) == row.requested_at),
            "recorded, and not stored so: {:?} {:?}",
            row,
            stored
        );
    }
    Ok(())
}

/// A doubt lasts for as long as a processor may still charge, by a clock that does not step. Of one
/// that does, it is [`check_charges`] that no doubt may end too early.
fn check_doubts(world: &World<'_>, now: &[Row]) -> Checked {
    let longest = world.terms.lease + world.terms.late_charge;
    if world.clock.stepped_since(Instant::now() - longest) {
        return Ok(());
    }
    for open in &world.open {
        let left = open.until.saturating_duration_since(Instant::now());
        let left = TimeDelta::from_std(left.saturating_sub(SLACK)).expect("seconds");
        let short = now.iter().find(|row| {
            let doubt = row.doubt_until.zip(row.seen_at);
            row.id == open.id && doubt.is_some_and(|(until, seen_at)| until - seen_at < left)
        });
        prop_assert!(
            short.is_none(),
            "the doubt ends before the charge: {:?}",
            short
        );
    }
    Ok(())
}

/// A free claim is of a payment that no processor can have.
pub fn check_free(world: &World<'_>, claims: &[Claim]) -> Checked {
    for claim in claims {
        let rows = world
            .rows
            .iter()
            .filter(|row| row.id == claim.payment.correlation_id);
        for row in rows {
            prop_assert!(
                row.slot == "queue" && row.processor.is_none(),
                "{:?} was claimed as free for {}",
                row,
                claim.processor
            );
        }
        prop_assert!(claim.earlier.is_none());
        check_lease(world, claim)?;
    }
    Ok(())
}

/// A doubtful claim keeps the processor and the requested_at.
pub fn check_pinned(world: &World<'_>, claims: &[Claim]) -> Checked {
    for claim in claims {
        let row = world
            .rows
            .iter()
            .find(|row| row.slot == "queue" && row.id == claim.payment.correlation_id);
        let Some(row) = row else {
            return fail("a claim of a payment that is not in the queue", claim);
        };
        prop_assert_eq!(row.processor.as_ref(), Some(&claim.processor));
        prop_assert_eq!(row.requested_at, Some(claim.requested_at));
        prop_assert_eq!(row.attempt + 1, claim.attempt);
        prop_assert!(claim.earlier.is_some());
        check_lease(world, claim)?;
    }
    Ok(())
}

/// Nobody else holds what is claimed.
fn check_lease(world: &World<'_>, claim: &Claim) -> Checked {
    let held = world.leases.get(&claim.id);
    prop_assert!(
        held.is_none_or(|(_, since)| {
            since.elapsed() + SLACK >= world.terms.lease || world.clock.stepped_since(*since)
        }),
        "claimed before the lease {:?} was over: {:?}",
        held,
        claim
    );
    Ok(())
}

/// Once all is settled: our books are the processors', payment by payment and in sum.
pub async fn check_ledger(world: &World<'_>) -> Checked {
    let settled = world
        .rows
        .iter()
        .filter(|row| row.slot == "recorded")
        .count();
    let dead = world.rows.iter().filter(|row| row.slot == "dead").count();
    prop_assert_eq!(world.accepted.len(), settled + dead);
    let names: Vec<String> = world
        .sites
        .iter()
        .map(|site| site.name.to_owned())
        .collect();
    let mut requested_ats: Vec<_> = world
        .rows
        .iter()
        .filter_map(|row| row.requested_at)
        .collect();
    requested_ats.sort();
    let ranges = requested_ats
        .iter()
        .map(|from| (Some(*from), requested_ats.last().copied()))
        .chain([(None, None)]);
    for (from, to) in ranges {
        let summary = summarize(&*world.pools.requests, &names, from, to)
            .await
            .expect("the database answers");
        let expected: Vec<_> = world
            .sites
            .iter()
            .map(|site| {
                let sum = site.processor.summary(from, to);
                let totals = Totals {
                    total_requests: i64::try_from(sum.count).expect("a small number"),
                    total_amount: sum.amount,
                };
                (site.name.to_owned(), totals)
            })
            .collect();
        prop_assert_eq!(summary.0, expected, "from {:?} to {:?}", from, to);
    }
    Ok(())
}
