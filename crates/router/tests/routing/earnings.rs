//! What the shipped policy earns, as a share of what an oracle could earn. The seeds are neither
//! those on which the policy was tuned nor those of the benchmark, except for the benchmark's
//! worst.

use router::Policy;

use crate::simulation::chooser::{Rule, Ruled, shipped};
use crate::simulation::oracle;
use crate::simulation::outcome::Outcome;
use crate::simulation::run::run;
use crate::simulation::scenario::{PUBLIC_FEES, Scenario, Stage, Weather};
use crate::simulation::{Micros, SECOND};

const SEEDS: std::ops::Range<u64> = 5_001..5_025;

fn play(scenario: &Scenario) -> Outcome {
    run(scenario, false, || {
        shipped(Policy::default(), &scenario.fees)
    })
}

fn share(scenario: &Scenario, outcome: &Outcome) -> f64 {
    outcome.net(&scenario.fees) / oracle::net(scenario)
}

fn failed_per_payment(outcome: &Outcome) -> f64 {
    outcome.failed as f64 / outcome.arrived as f64
}

#[test]
fn the_public_scenario_earns_98_per_cent_of_the_oracle() {
    for seed in 5_001..5_004 {
        let scenario = Scenario::public(seed);
        let outcome = play(&scenario);
        let share = share(&scenario, &outcome);
        assert!((0.98..=1.0).contains(&share), "seed {seed}: {share}");
        assert!(
            failed_per_payment(&outcome) <= 0.03,
            "seed {seed}: {}",
            failed_per_payment(&outcome)
        );
        assert!(
            outcome.any_audit_disagrees() < 0.01,
            "seed {seed}: {}",
            outcome.any_audit_disagrees()
        );
    }
}

#[test]
fn random_scenarios_earn_98_per_cent_of_the_oracle_and_never_much_less() {
    let (mut shares, mut failed, mut arrived) = (Vec::new(), 0, 0);
    for seed in SEEDS {
        let scenario = Scenario::random(seed, &PUBLIC_FEES);
        let outcome = play(&scenario);
        let share = share(&scenario, &outcome);
        assert!((0.92..=1.0).contains(&share), "seed {seed}: {share}");
        // A bound on what is served at once is worth nothing if the processors see more.
        assert_eq!(outcome.refused, 0, "seed {seed} was refused with a 429");
        shares.push(share);
        failed += outcome.failed;
        arrived += outcome.arrived;
    }
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    assert!(mean >= 0.98, "mean {mean}");
    let failed = failed as f64 / arrived as f64;
    assert!(failed <= 0.03, "failed attempts per payment {failed}");
}

/// Where the benchmark earns least. In 103 both processors are down for 38 s and the run ends 7.6 s
/// after they are back; in the others the cheap one is out for most of the run, and waiting for it
/// would have paid.
const HARDEST: [u64; 5] = [103, 140, 173, 31, 92];

#[test]
fn the_hardest_scenarios_of_the_benchmark_earn_92_per_cent_of_the_oracle() {
    for seed in HARDEST {
        let scenario = Scenario::random(seed, &PUBLIC_FEES);
        let share = share(&scenario, &play(&scenario));
        assert!((0.92..=1.0).contains(&share), "seed {seed}: {share}");
    }
}

#[test]
fn harsher_scenarios_never_earn_less_than_90_per_cent_of_the_oracle() {
    // The first three are the worst of the benchmark's.
    for seed in [5, 74, 29, 2_004, 2_095, 5_001, 5_002, 5_003, 5_004] {
        let scenario = Scenario::harsh(seed, &PUBLIC_FEES);
        let share = share(&scenario, &play(&scenario));
        assert!((0.90..=1.0).contains(&share), "seed {seed}: {share}");
    }
}

#[test]
fn fewer_audits_disagree_than_with_the_rules_that_ignore_slowness() {
    let mean = |play: &dyn Fn(&Scenario) -> Outcome| {
        let outcomes = (5_001..5_005).map(|seed| play(&Scenario::random(seed, &PUBLIC_FEES)));
        outcomes.map(|outcome| outcome.disagreeing()).sum::<f64>() / 4.0
    };
    let shipped = mean(&play);
    let rule = mean(&|scenario| {
        run(scenario, false, || {
            Ruled::new(Rule::UntilFailing, &scenario.fees)
        })
    });
    assert!(shipped < rule / 4.0, "{shipped} against {rule}");
}

#[test]
fn the_same_seed_gives_the_same_decisions() {
    let scenario = Scenario::random(5_001, &PUBLIC_FEES);
    let (first, second) = (play(&scenario), play(&scenario));
    assert_eq!(
        (
            first.settled,
            first.attempts,
            first.failed,
            first.disagreements
        ),
        (
            second.settled,
            second.attempts,
            second.failed,
            second.disagreements
        )
    );
}

/// One processor, and payments that have all arrived in the first moment.
fn backlog(payments: usize, delay_ms: u64, end: Micros) -> Scenario {
    Scenario {
        name: "backlog".into(),
        seed: 1,
        end,
        fees: vec![0.05],
        stages: vec![Stage {
            from: 0,
            weather: vec![Weather::slow(delay_ms)],
        }],
        arrivals: (0..payments).map(|i| i as Micros).collect(),
    }
}

#[test]
fn a_backlog_uses_a_slow_processor_fully_after_arrivals_have_stopped() {
    let outcome = play(&backlog(20_000, 1_000, 21 * SECOND));
    let per_second = outcome.settled[0] as f64 / 20.0;
    assert!(per_second >= 600.0, "{per_second} per second");
    assert!(outcome.peak <= 780, "{} at once", outcome.peak);
}

#[test]
fn a_single_processor_is_used_again_after_an_outage() {
    let stages = [
        (0, Weather::slow(5)),
        (10, Weather::failing(5)),
        (30, Weather::slow(5)),
    ];
    let mut scenario = backlog(0, 5, 40 * SECOND);
    scenario.stages = stages
        .into_iter()
        .map(|(from, weather)| Stage {
            from: from * SECOND,
            weather: vec![weather],
        })
        .collect();
    scenario.arrivals = (0..39 * 200).map(|i| i * SECOND / 200).collect();
    let outcome = play(&scenario);
    assert_eq!(outcome.left_over(), 0);
    assert!(
        failed_per_payment(&outcome) <= 0.05,
        "{}",
        failed_per_payment(&outcome)
    );
}
