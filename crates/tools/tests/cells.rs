//! A short round of `make cells`.

use std::time::Duration;

use tools::cells::{self, Plan};
use tools::deployment::built_with_this;

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_is_killed_and_one_that_moves_lose_and_double_nothing() {
    let plan = Plan {
        binary: built_with_this().expect("it is built"),
        cells: 2,
        rate: 100,
        while_it_runs: Duration::from_secs(1),
        measured: Duration::ZERO,
    };
    let report = cells::walk(&plan).await.expect("the walk ends");
    assert_eq!(report.wrong, [""; 0]);
    // A walk in which nothing happened proves nothing.
    assert!(report.accepted > 100, "{} accepted", report.accepted);
    assert!(report.refused > 0, "no post met the cell that was killed");
}
