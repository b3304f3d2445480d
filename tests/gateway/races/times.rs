//! Which clock a claim is written by: a statement that is delayed after it began must neither
//! lengthen the lease nor send an old `requested_at`.

use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use super::moves::{Move, Start};
use super::site::Site;
use crate::support::{eventually, production_terms};

/// `lease_until`, `doubt_until` and `requested_at`.
type Times = (DateTime<Utc>, DateTime<Utc>, DateTime<Utc>);

async fn times(site: &Site, claim: Move, start: Start) -> (DateTime<Utc>, Times) {
    let subject = site.start(start).await;
    let racer = &site.first;
    racer.execute("BEGIN").await;
    let begun_at: DateTime<Utc> = sqlx::query_scalar("SELECT now()")
        .fetch_one(&racer.pool)
        .await
        .expect("a time");
    eventually("a millisecond later", async || {
        sqlx::query_scalar("SELECT date_trunc('milliseconds', clock_timestamp()) > now()")
            .fetch_one(&racer.pool)
            .await
            .expect("an answer")
    })
    .await;
    let did = claim.make(&racer.pool, &subject, &site.processors).await;
    assert_eq!(did.claims.len(), 1, "{claim:?}");
    racer.execute("COMMIT").await;
    let times = sqlx::query_as(
        "SELECT lease_until, doubt_until, requested_at FROM payment_queue
        WHERE correlation_id = $1",
    )
    .bind(subject.payment.correlation_id)
    .fetch_one(&site.database.pool)
    .await
    .expect("a row");
    (begun_at, times)
}

fn after(begun_at: DateTime<Utc>, time: Duration) -> DateTime<Utc> {
    begun_at + TimeDelta::from_std(time).expect("a short time")
}

#[tokio::test]
async fn a_claim_counts_its_lease_from_its_begin_and_sends_the_time_of_its_end() {
    let site = Site::new().await;
    let terms = production_terms();
    for (start, claim) in [
        (Start::Absent, Move::AcceptClaimed),
        (Start::Absent, Move::AcceptManyClaimed),
        (Start::Queued, Move::ClaimQueued),
        (Start::Queued, Move::ClaimUntried),
        (Start::InDoubt, Move::ClaimInDoubt),
    ] {
        let (begun_at, (lease_until, doubt_until, requested_at)) = times(&site, claim, start).await;
        assert_eq!(lease_until, after(begun_at, terms.lease), "{claim:?}");
        let doubt = terms.lease + terms.late_charge;
        assert_eq!(doubt_until, after(begun_at, doubt), "{claim:?}");
        let is_new = claim != Move::ClaimInDoubt;
        assert_eq!(requested_at > begun_at, is_new, "{claim:?}");
        let millisecond = TimeDelta::milliseconds(1);
        let whole = requested_at.duration_trunc(millisecond).expect("a time");
        assert_eq!(requested_at, whole, "{claim:?}");
    }
}
