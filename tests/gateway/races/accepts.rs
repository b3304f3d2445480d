//! Accept against accept, and accept against every statement that may change the payment meanwhile.

use super::moves::{ACCEPTS, Move, Start};
use super::site::{Site, passes, waits};

/// What an accept of an unknown payment does, and the state then.
fn alone(accept: Move) -> [&'static str; 2] {
    match accept {
        Move::AcceptClaimed | Move::AcceptManyClaimed => ["claims it", "in_flight default #1"],
        _ => ["queues it", "queued #0"],
    }
}

#[tokio::test]
async fn of_two_accepts_of_one_payment_the_second_waits_and_one_queues_it() {
    let site = Site::new().await;
    for first in ACCEPTS {
        let [_, state] = alone(first);
        let races = ACCEPTS.map(|second| {
            let meeting = waits(["knows it", state], alone(second));
            (Start::Absent, first, second, meeting)
        });
        site.run(races).await;
    }
}

#[tokio::test]
async fn an_accept_finds_its_payment_wherever_another_statement_is_moving_it() {
    let site = Site::new().await;
    for accept in ACCEPTS {
        let known =
            |committed, rolled_back| waits(["knows it", committed], ["knows it", rolled_back]);
        let (claimed, doubt) = ("in_flight default #1", "in_doubt default #1");
        site.run([
            (
                Start::Queued,
                Move::ClaimQueued,
                accept,
                known("in_flight fallback #1", "queued #0"),
            ),
            (
                Start::Queued,
                Move::ClaimUntried,
                accept,
                known("in_flight fallback #1", "queued #0"),
            ),
            (
                Start::InDoubt,
                Move::ClaimInDoubt,
                accept,
                known("in_flight default #2", doubt),
            ),
            (
                Start::InFlight,
                Move::Settle,
                accept,
                known("settled default", claimed),
            ),
            (
                Start::InFlight,
                Move::Release,
                accept,
                known("queued #1", claimed),
            ),
            (
                Start::InFlight,
                Move::LeaveInDoubt,
                accept,
                known(doubt, claimed),
            ),
            (
                Start::InFlight,
                Move::DeadLetter,
                accept,
                known("dead", claimed),
            ),
            (
                Start::InDoubt,
                Move::Assign,
                accept,
                known("in_doubt fallback #1", doubt),
            ),
            (
                Start::DoubtOver,
                Move::SayCharged,
                accept,
                known("settled default", doubt),
            ),
            (
                Start::DoubtOver,
                Move::SayNotCharged,
                accept,
                known("queued #2", doubt),
            ),
            (
                Start::Queued,
                Move::PutRight,
                accept,
                known("settled default", "queued #0"),
            ),
            (
                Start::InDoubt,
                Move::PutRight,
                accept,
                known("settled default", doubt),
            ),
            (Start::Dead, Move::Retry, accept, known("queued #1", "dead")),
            (Start::DeadHeld, Move::Retry, accept, known(doubt, "dead")),
            // The claim removes the row of a settled payment.
            (
                Start::Leftover,
                Move::ClaimQueued,
                accept,
                known("settled default", "queued #1 + settled default"),
            ),
            // The row of a dead letter is not locked, but it is there until the other commits.
            (
                Start::Dead,
                Move::PutRight,
                accept,
                passes("knows it", "settled default", "dead"),
            ),
            // As if the client had sent it before the operator discarded it.
            (
                Start::Dead,
                Move::Discard,
                accept,
                passes("knows it", "nowhere", "dead"),
            ),
        ])
        .await;
    }
}

#[tokio::test]
async fn an_accept_of_a_known_payment_keeps_no_other_statement_from_it() {
    let site = Site::new().await;
    for accept in ACCEPTS {
        let same = |does, state| passes(does, state, state);
        let retried = ["retries", "queued #1"];
        site.run([
            (
                Start::Queued,
                accept,
                Move::ClaimQueued,
                same("claims #1 for fallback", "in_flight fallback #1"),
            ),
            (
                Start::Queued,
                accept,
                Move::ClaimUntried,
                same("claims #1 for fallback", "in_flight fallback #1"),
            ),
            (
                Start::InDoubt,
                accept,
                Move::ClaimInDoubt,
                same("claims #2 for default", "in_flight default #2"),
            ),
            (
                Start::InFlight,
                accept,
                Move::Settle,
                same("settles", "settled default"),
            ),
            (
                Start::InFlight,
                accept,
                Move::Release,
                same("ends", "queued #1"),
            ),
            (
                Start::InFlight,
                accept,
                Move::LeaveInDoubt,
                same("ends", "in_doubt default #1"),
            ),
            (
                Start::InFlight,
                accept,
                Move::DeadLetter,
                same("ends", "dead"),
            ),
            (
                Start::DoubtOver,
                accept,
                Move::SayCharged,
                same("done", "settled default"),
            ),
            (
                Start::DoubtOver,
                accept,
                Move::SayNotCharged,
                same("done", "queued #2"),
            ),
            (
                Start::InDoubt,
                accept,
                Move::PutRight,
                same("repairs", "settled default"),
            ),
            (
                Start::Dead,
                accept,
                Move::PutRight,
                same("repairs", "settled default"),
            ),
            (
                Start::Dead,
                accept,
                Move::Discard,
                same("discards", "nowhere"),
            ),
            // It waits for the row that the accept puts into the queue and takes out again.
            (Start::Dead, accept, Move::Retry, waits(retried, retried)),
        ])
        .await;
    }
}

#[tokio::test]
async fn an_accept_that_is_not_committed_is_claimed_by_nobody() {
    let site = Site::new().await;
    for accept in ACCEPTS {
        let [_, state] = alone(accept);
        let races = [Move::ClaimQueued, Move::ClaimUntried, Move::ClaimInDoubt].map(|claim| {
            let meeting = passes("claims nothing", state, "nowhere");
            (Start::Absent, accept, claim, meeting)
        });
        site.run(races).await;
    }
}

/// A crash of the server has emptied an unlogged queue, the instance that charged the payment is
/// alive, and the client posts the payment again. Neither statement can see the other one. A row
/// that nobody has claimed goes with the next claim. One that is claimed for the same processor
/// meets the processor's refusal of a second charge.
#[tokio::test]
async fn a_charge_without_a_row_is_recorded_beside_an_accept() {
    let site = Site::new().await;
    for accept in ACCEPTS {
        let [does, state] = alone(accept);
        let both = match state {
            "queued #0" => "queued #0 + settled default",
            _ => "in_flight default #1 + settled default",
        };
        let records = "records a charge without a row";
        site.run([
            (
                Start::Lost,
                accept,
                Move::Settle,
                passes(records, both, "settled default"),
            ),
            (Start::Lost, Move::Settle, accept, passes(does, both, state)),
        ])
        .await;
    }
}

/// The instance that holds the claim puts it back into the emptied queue, while the client posts
/// the payment again: the payment is assigned to the processor that may have charged it, in either
/// order, unless it was claimed meanwhile.
#[tokio::test]
async fn a_claim_that_is_put_back_into_an_emptied_queue_is_kept_whoever_posts_it_again() {
    let site = Site::new().await;
    // A number that no claim of this queue has: the release of one changes nothing.
    let claimed = "in_flight default #10001";
    let puts = ["puts it back", claimed];
    for accept in ACCEPTS {
        let known = waits(["knows it", claimed], alone(accept));
        // A claim of this queue is made when the instances that may put back have, or are given up.
        let late = match alone(accept) {
            [_, "queued #0"] => puts,
            [_, newer] => ["nothing", newer],
        };
        site.run([
            (Start::Lost, Move::PutBack, accept, known),
            (Start::Lost, accept, Move::PutBack, waits(late, puts)),
        ])
        .await;
    }
    // Its processor is asked and has the payment, or its settle is repeated: the row goes then.
    let both = "in_flight default #10001 + settled default";
    let records = "records a charge without a row";
    let none = passes("claims nothing", claimed, "nowhere");
    let settled = passes(records, both, "settled default");
    let put_back = passes(puts[0], both, claimed);
    let twice = waits(puts, puts);
    site.run([
        (Start::Lost, Move::PutBack, Move::Settle, settled),
        (Start::Lost, Move::Settle, Move::PutBack, put_back),
        (Start::Lost, Move::PutBack, Move::PutBack, twice),
        (Start::Lost, Move::PutBack, Move::ClaimQueued, none),
        (Start::Lost, Move::PutBack, Move::ClaimInDoubt, none),
    ])
    .await;
}
