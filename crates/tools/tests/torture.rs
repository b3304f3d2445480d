//! A short round of `make torture` in each durability mode.

use std::time::Duration;

use payment_proxy::config::QueueDurability;

use tools::deployment::built_with_this;
use tools::torture::{self, Pace, Plan, Report};

/// How long load and trouble last.
const LENGTH: Duration = Duration::from_secs(12);
/// New payments per second that the clients aim at.
const RATE: u32 = 100;

/// Leases and doubts so short that some are lost within [`LENGTH`].
fn pace() -> Pace {
    let millis = Duration::from_millis;
    Pace {
        processor_timeout: millis(500),
        late_charge: millis(2_500),
        longest_delay: millis(200),
        longest_slow: millis(800),
        instance_pause: millis(800)..millis(2_000),
        database_pause: millis(1_000)..millis(2_000),
        away: millis(0)..millis(400),
        faults_pause: millis(500)..millis(1_500),
        long_stops: false,
        clock_off: None,
        restores: false,
    }
}

async fn short_round(durability: QueueDurability, seed: u64) -> Report {
    let plan = Plan {
        binary: built_with_this().expect("it is built"),
        durability,
        length: LENGTH,
        seed,
        rate: RATE,
        pace: pace(),
        reports: tools::repository().join("reports"),
        keep: false,
    };
    let report = torture::run(&plan).await.expect("the round ends");
    println!("{report}");
    assert_eq!(report.findings, [""; 0], "see {}", report.kept.display());
    // A round in which nothing happened proves nothing.
    assert!(report.accepted > 100, "{} accepted", report.accepted);
    assert!(report.settled >= report.accepted);
    for trouble in [
        "instance killed",
        "instance without a log",
        "instance with swapped URLs",
        "instance stopped beyond its leases",
        "instance terminated",
        "database restarted",
        "password changed",
    ] {
        assert!(report.troubles.contains_key(trouble), "no {trouble}");
    }
    let faults: u64 = report.faults.values().sum();
    assert!(faults > 20, "only {faults} faults");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_unlogged_queue_a_tortured_deployment_reports_what_it_loses_and_doubles_nothing() {
    let report = short_round(QueueDurability::Unlogged, 1).await;
    assert!(report.troubles.contains_key("database killed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_logged_queue_a_killed_database_server_loses_and_doubles_nothing() {
    let report = short_round(QueueDurability::Logged, 2).await;
    assert!(report.troubles.contains_key("database killed"));
}
