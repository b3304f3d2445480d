//! What an operator and reconcile do with dead letters, against each other.

use super::moves::{Move, Start};
use super::site::{Site, passes, waits};

#[tokio::test]
async fn a_dead_letter_leaves_by_one_way_only() {
    let site = Site::new().await;
    let ways = [
        (Move::Retry, "retries", "queued #1"),
        (Move::Discard, "discards", "nowhere"),
        (Move::PutRight, "repairs", "settled default"),
    ];
    for (first, _, after) in ways {
        let races = ways.map(|(second, does, alone)| {
            let meeting = waits(["nothing", after], [does, alone]);
            (Start::Dead, first, second, meeting)
        });
        site.run(races).await;
    }
}

#[tokio::test]
async fn a_charge_of_a_dead_letter_is_recorded_and_what_is_retried_is_not_charged_again() {
    let site = Site::new().await;
    let records = "records a charge without a row";
    site.run([
        (
            Start::Dead,
            Move::Retry,
            Move::Settle,
            passes(
                records,
                "queued #1 + settled default",
                "settled default + dead",
            ),
        ),
        (
            Start::Dead,
            Move::Settle,
            Move::Retry,
            passes("retries", "queued #1 + settled default", "queued #1"),
        ),
        (
            Start::Dead,
            Move::Settle,
            Move::PutRight,
            waits(
                ["repairs", "settled default"],
                ["repairs", "settled default"],
            ),
        ),
        (
            Start::InFlight,
            Move::DeadLetter,
            Move::Retry,
            passes("nothing", "dead", "in_flight default #1"),
        ),
        (
            Start::InFlight,
            Move::DeadLetter,
            Move::Discard,
            passes("nothing", "dead", "in_flight default #1"),
        ),
    ])
    .await;
}
