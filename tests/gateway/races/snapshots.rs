//! What commits between the snapshot of a statement and its lock.
//!
//! A statement reads rows as they were when it began. Where it locks or changes one that was
//! changed since, PostgreSQL looks at the newest version once more, by the conditions of the
//! statement (EvalPlanQual). These tests stop the statement when it has its snapshot and no lock
//! yet.

use super::moves::{Move, Start};
use super::site::{Racer, Site};

/// What commits in between.
#[derive(Debug, Clone, Copy)]
enum Step {
    Make(Move),
    /// The lease of the newest claim ends.
    Expire,
}

use Step::{Expire, Make};

/// What the statement must do that began before the steps, and the state then.
type Overtaken = (Start, &'static [Step], Move, &'static str, &'static str);

async fn overtake(site: &Site, overtaken: &[Overtaken]) {
    let gate = site.closed_gate().await;
    let gated = gate.before_rows_of_the_queue(&site.database).await;
    for (start, steps, late, does, state) in overtaken {
        let mut subject = site.start(*start).await;
        let id = subject.payment.correlation_id;
        let (pool, of) = (gated.0.pool.clone(), subject.clone());
        let late_move = *late;
        let running = tokio::spawn(async move { late_move.make(&pool, &of, &[]).await });
        assert_eq!(gate.stopped().await, gated.0.pid);
        for step in *steps {
            let Make(step) = step else {
                // By the clock of the statement that is stopped, too.
                let ends = "UPDATE payment_queue SET lease_until = now() - interval '1 minute'";
                site.database.execute(ends).await;
                continue;
            };
            if let Some(processor) = step.charged_by() {
                site.charge(processor, &subject).await;
            }
            let first: &Racer = &site.first;
            let mut did = step.make(&first.pool, &subject, &site.processors).await;
            subject.claim = did.claims.pop().or(subject.claim);
        }
        gate.open().await;
        let did = running.await.expect("no panic");
        assert_eq!(
            (&did.result[..], &site.state(id).await[..]),
            (*does, *state),
            "{start:?}: {late:?}, overtaken by {steps:?}"
        );
        gate.close().await;
    }
    gate.forget(gated).await;
}

#[tokio::test]
async fn a_claim_that_began_before_another_one_takes_nothing_of_it() {
    let site = Site::new().await;
    let (none, claim, untried) = ("claims nothing", Move::ClaimQueued, Move::ClaimUntried);
    let claimed: &[Step] = &[Make(Move::ClaimQueued)];
    let released: &[Step] = &[Make(Move::ClaimQueued), Make(Move::Release)];
    let settled: &[Step] = &[Make(Move::ClaimQueued), Make(Move::Settle)];
    let put_right: &[Step] = &[Make(Move::PutRight)];
    overtake(
        &site,
        &[
            (Start::Queued, claimed, claim, none, "in_flight fallback #1"),
            (
                Start::Queued,
                claimed,
                untried,
                none,
                "in_flight fallback #1",
            ),
            (Start::Queued, settled, claim, none, "settled fallback"),
            (Start::Queued, settled, untried, none, "settled fallback"),
            (Start::Queued, put_right, claim, none, "settled default"),
            // Queued again meanwhile: the claim counts from the newest one.
            (
                Start::Queued,
                released,
                claim,
                "claims #2 for fallback",
                "in_flight fallback #2",
            ),
            (Start::Queued, released, untried, none, "queued #1"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_claim_in_doubt_that_began_before_the_doubt_ended_takes_nothing() {
    let site = Site::new().await;
    let (none, in_doubt) = ("claims nothing", Move::ClaimInDoubt);
    let claimed: &[Step] = &[Make(Move::ClaimInDoubt)];
    let paused: &[Step] = &[Make(Move::ClaimInDoubt), Make(Move::LeaveInDoubt)];
    let lapsed: &[Step] = &[Make(Move::ClaimInDoubt), Expire];
    overtake(
        &site,
        &[
            (
                Start::InDoubt,
                claimed,
                in_doubt,
                none,
                "in_flight default #2",
            ),
            (
                Start::InDoubt,
                paused,
                in_doubt,
                none,
                "in_doubt default #2",
            ),
            (
                Start::InDoubt,
                &[Make(Move::Settle)],
                in_doubt,
                none,
                "settled default",
            ),
            (
                Start::InDoubt,
                &[Make(Move::PutRight)],
                in_doubt,
                none,
                "settled default",
            ),
            (
                Start::InDoubt,
                &[Make(Move::Release)],
                in_doubt,
                none,
                "queued #1",
            ),
            (
                Start::InDoubt,
                &[Make(Move::DeadLetter)],
                in_doubt,
                none,
                "dead",
            ),
            (
                Start::DoubtOver,
                &[Make(Move::SayCharged)],
                in_doubt,
                none,
                "settled default",
            ),
            (
                Start::DoubtOver,
                &[Make(Move::SayNotCharged)],
                in_doubt,
                none,
                "queued #2",
            ),
            // The row is read as it is now: number and processor.
            (
                Start::InDoubt,
                lapsed,
                in_doubt,
                "claims #3 for default",
                "in_flight default #3",
            ),
            (
                Start::InDoubt,
                &[Make(Move::Assign)],
                in_doubt,
                "claims #2 for fallback",
                "in_flight fallback #2",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_ends_a_claim_and_began_before_the_next_claim_changes_nothing_of_it() {
    let site = Site::new().await;
    let claimed: &[Step] = &[Make(Move::ClaimInDoubt)];
    let released: &[Step] = &[Make(Move::Release)];
    let (next, ends) = ("in_flight default #2", "ends");
    let records = "records a charge without a row";
    overtake(
        &site,
        &[
            (Start::InDoubt, claimed, Move::Release, ends, next),
            (Start::InDoubt, claimed, Move::LeaveInDoubt, ends, next),
            (Start::InDoubt, claimed, Move::DeadLetter, ends, next),
            // A late success is a fact.
            (
                Start::InDoubt,
                claimed,
                Move::Settle,
                "settles",
                "settled default",
            ),
            (
                Start::InFlight,
                released,
                Move::Settle,
                records,
                "queued #1 + settled default",
            ),
        ],
    )
    .await;
}
