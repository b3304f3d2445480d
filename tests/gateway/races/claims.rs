//! Claims against each other, and claims against what ends the claim before.

use super::moves::{Move, Start};
use super::site::{Site, passes, waits};

#[tokio::test]
async fn of_two_claims_of_one_payment_the_second_passes_by() {
    let site = Site::new().await;
    let queued = |first, second| {
        let meeting = passes("claims nothing", "in_flight fallback #1", "queued #0");
        (Start::Queued, first, second, meeting)
    };
    let again = passes("claims nothing", "in_flight fallback #2", "queued #1");
    let doubt = passes(
        "claims nothing",
        "in_flight default #2",
        "in_doubt default #1",
    );
    // Both find that the payment is settled, and the first removes its row.
    let leftover = passes(
        "claims nothing",
        "settled default",
        "queued #1 + settled default",
    );
    site.run([
        queued(Move::ClaimQueued, Move::ClaimQueued),
        queued(Move::ClaimQueued, Move::ClaimUntried),
        queued(Move::ClaimUntried, Move::ClaimQueued),
        queued(Move::ClaimUntried, Move::ClaimUntried),
        (Start::Released, Move::ClaimQueued, Move::ClaimQueued, again),
        (
            Start::Released,
            Move::ClaimQueued,
            Move::ClaimUntried,
            again,
        ),
        (
            Start::InDoubt,
            Move::ClaimInDoubt,
            Move::ClaimInDoubt,
            doubt,
        ),
        (
            Start::Leftover,
            Move::ClaimQueued,
            Move::ClaimQueued,
            leftover,
        ),
        (
            Start::Leftover,
            Move::ClaimQueued,
            Move::ClaimUntried,
            leftover,
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_payment_whose_claim_is_being_ended_is_claimed_by_nobody() {
    let site = Site::new().await;
    let before = "in_doubt default #1";
    let ends = [
        (Start::InDoubt, Move::Settle, "settled default"),
        (Start::InDoubt, Move::Release, "queued #1"),
        (Start::InDoubt, Move::LeaveInDoubt, before),
        (Start::InDoubt, Move::DeadLetter, "dead"),
        (Start::InDoubt, Move::Assign, "in_doubt fallback #1"),
        (Start::InDoubt, Move::PutRight, "settled default"),
        (Start::DoubtOver, Move::SayCharged, "settled default"),
        (Start::DoubtOver, Move::SayNotCharged, "queued #2"),
    ];
    for (start, first, after) in ends {
        let races = [Move::ClaimQueued, Move::ClaimUntried, Move::ClaimInDoubt]
            .map(|claim| (start, first, claim, passes("claims nothing", after, before)));
        site.run(races).await;
    }
    site.run([
        (
            Start::Queued,
            Move::PutRight,
            Move::ClaimQueued,
            passes("claims nothing", "settled default", "queued #0"),
        ),
        (
            Start::Queued,
            Move::PutRight,
            Move::ClaimUntried,
            passes("claims nothing", "settled default", "queued #0"),
        ),
        (
            Start::Dead,
            Move::Retry,
            Move::ClaimQueued,
            passes("claims nothing", "queued #1", "dead"),
        ),
        (
            Start::DeadHeld,
            Move::Retry,
            Move::ClaimInDoubt,
            passes("claims nothing", before, "dead"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_ends_a_claim_waits_for_the_next_claim_and_changes_nothing_of_it() {
    let site = Site::new().await;
    let claimed = "in_flight default #2";
    let late = |state| waits(["ends", claimed], ["ends", state]);
    // A late success is a fact.
    let settled = ["settles", "settled default"];
    let found = "finds it at fallback";
    let repairs = ["repairs", "settled default"];
    let busy = passes("in_flight", claimed, "in_doubt default #1");
    site.run([
        (
            Start::InDoubt,
            Move::ClaimInDoubt,
            Move::Settle,
            waits(settled, settled),
        ),
        (
            Start::InDoubt,
            Move::ClaimInDoubt,
            Move::Release,
            late("queued #1"),
        ),
        (
            Start::InDoubt,
            Move::ClaimInDoubt,
            Move::LeaveInDoubt,
            late("in_doubt default #1"),
        ),
        (
            Start::InDoubt,
            Move::ClaimInDoubt,
            Move::DeadLetter,
            late("dead"),
        ),
        (
            Start::InDoubt,
            Move::ClaimInDoubt,
            Move::Assign,
            waits([found, claimed], [found, "in_doubt fallback #1"]),
        ),
        (
            Start::InDoubt,
            Move::ClaimInDoubt,
            Move::PutRight,
            waits(["nothing", claimed], repairs),
        ),
        (
            Start::Queued,
            Move::ClaimQueued,
            Move::PutRight,
            waits(["nothing", "in_flight fallback #1"], repairs),
        ),
        (
            Start::Queued,
            Move::ClaimUntried,
            Move::PutRight,
            waits(["nothing", "in_flight fallback #1"], repairs),
        ),
        (Start::DoubtOver, Move::ClaimInDoubt, Move::SayCharged, busy),
        (
            Start::DoubtOver,
            Move::ClaimInDoubt,
            Move::SayNotCharged,
            busy,
        ),
    ])
    .await;
}

/// The processor said that it did not charge, and charges all the same. The charge is recorded. The
/// claim for the other processor cannot see a charge that is not committed.
#[tokio::test]
async fn a_charge_that_was_denied_is_recorded_beside_the_next_claim() {
    let site = Site::new().await;
    let both = "in_flight fallback #2 + settled default";
    let records = "records a charge without a row";
    let claims = "claims #2 for fallback";
    site.run([
        (
            Start::Released,
            Move::ClaimQueued,
            Move::Settle,
            passes(records, both, "queued #1 + settled default"),
        ),
        (
            Start::Released,
            Move::Settle,
            Move::ClaimQueued,
            passes(claims, both, "in_flight fallback #2"),
        ),
    ])
    .await;
}
