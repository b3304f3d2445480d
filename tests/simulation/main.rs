//! Whole lives of payments at random: posts, duplicates, faults, crashes between any two steps,
//! lost leases, workers that come back late, restarts, and all the time in the world.
//!
//! The database, the HTTP and the processors are real, and so is every stage from accept to settle.
//! Two things are in the hand of the test: the order of the steps, and the clock ([`clock`]). So a
//! crash happens at an exact point, and a late charge comes exactly as late as a processor may be.
//!
//! proptest draws the sequences ([`step`]) and shrinks one that breaks a rule ([`invariants`]). The
//! seed is printed with it: `PROPTEST_RNG_SEED=... cargo nextest run --test simulation` draws the
//! same again. What failed once stands in `regressions.txt` and runs first. `PROPTEST_CASES` sets
//! how many sequences.

#![allow(missing_docs, unreachable_pub)]

mod clock;
mod emptied;
mod healing;
mod invariants;
mod site;
mod step;
mod tally;
mod verdicts;
mod walk;
mod worker;
mod world;

#[allow(dead_code)]
#[path = "../gateway/support.rs"]
mod support;

use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestRunner};

use crate::clock::StillRuntime;
use crate::world::{Ground, World};

/// Sequences in a run of all tests; `PROPTEST_CASES` asks for others.
const CASES: u32 = 150;
/// How long a sequence that fails is made smaller, in milliseconds: one that waits in vain takes 40
/// s each time.
const SHRINK_MS: u32 = 120_000;
/// Where the seeds of failed sequences are kept.
const REGRESSIONS: &str = "tests/simulation/regressions.txt";

#[test]
fn no_sequence_of_faults_and_crashes_loses_a_payment_or_charges_it_twice() {
    let mut config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        max_shrink_time: SHRINK_MS,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand::random(),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    let runtime = StillRuntime::start();
    let ground = runtime.block_on(Ground::prepare());
    let thorough = config.cases >= CASES;
    let found = TestRunner::new(config).run(&step::sequences(), |steps| {
        runtime.block_on(World::live(&ground, &steps))
    });
    if let Err(failure) = found {
        panic!("PROPTEST_RNG_SEED={seed} finds it again: {failure}");
    }
    println!("PROPTEST_RNG_SEED={seed}: {}", ground.tally);
    let never = ground.tally.never();
    assert!(
        !thorough || never.is_empty(),
        "no sequence came across {never:?}"
    );
}
