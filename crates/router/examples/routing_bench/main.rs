//! What the router earns, compared with other policies and with an oracle, in virtual time.
//!
//! `cargo run --release --example routing_bench [PICTURE.svg]` prints one table for each set of
//! scenarios and draws the public one. With `hold` in place of the picture it compares the shipped
//! policy with itself, with more and less patience (`HOLD_MS`). The scenarios come from the seeds
//! that it prints, so the numbers are the same on every machine.

mod picture;
mod simulation;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use router::Policy;
use simulation::chooser::{Rule, Ruled, shipped};
use simulation::oracle;
use simulation::outcome::{Histogram, Outcome};
use simulation::run::run;
use simulation::scenario::{CLOSE_FEES, PUBLIC_FEES, Scenario, THREE_FEES};

/// Seeds that were not used to tune the policy.
const FIRST_SEED: u64 = 1;
/// Random scenarios with the public fees.
const RANDOM: u64 = 200;
/// Random scenarios with more outages and more slow stages.
const HARSH: u64 = 100;
/// Random scenarios of each other kind.
const OTHERS: u64 = 50;
/// Runs of the public scenario, which differ in their arrivals and in the phase of the health poll.
const PUBLIC: u64 = 20;
/// Where the picture goes, if nobody says otherwise.
const PICTURE: &str = "reports/routing.svg";

/// What is compared.
#[derive(Clone, Copy)]
enum Contender {
    Shipped,
    /// The shipped one, with this [`Policy::hold`] in milliseconds.
    Patient(u64),
    Rule(Rule),
}

const CONTENDERS: [(&str, Contender); 5] = [
    ("default, wait", Contender::Rule(Rule::FirstAndWait)),
    ("default until failing", Contender::Rule(Rule::UntilFailing)),
    (
        "failing or > 30 % slower",
        Contender::Rule(Rule::UntilSlower),
    ),
    (
        "plain Thompson sampling",
        Contender::Rule(Rule::PlainThompson),
    ),
    ("shipped", Contender::Shipped),
];

const PATIENCE: [(&str, Contender); 8] = [
    ("0 s", Contender::Patient(0)),
    ("0.5 s", Contender::Patient(500)),
    ("1 s", Contender::Patient(1_000)),
    ("2 s", Contender::Patient(2_000)),
    ("5 s", Contender::Patient(5_000)),
    ("10 s", Contender::Patient(10_000)),
    ("30 s", Contender::Patient(30_000)),
    ("60 s", Contender::Patient(60_000)),
];

/// What a contender came to in one scenario.
struct Scored {
    seed: u64,
    share: f64,
    share_after_fine: f64,
    outcome: Outcome,
}

fn main() -> anyhow::Result<()> {
    let argument = std::env::args().nth(1);
    let contenders: &[_] = match argument.as_deref() {
        Some("hold") => &PATIENCE,
        _ => &CONTENDERS,
    };
    let begun = Instant::now();
    let random = |count: u64, fees: &'static [f64]| {
        (FIRST_SEED..FIRST_SEED + count)
            .map(|seed| Scenario::random(seed, fees))
            .collect::<Vec<_>>()
    };
    let sets = [
        (
            "public scenario",
            (FIRST_SEED..FIRST_SEED + PUBLIC)
                .map(Scenario::public)
                .collect(),
        ),
        ("random, fees 5 % and 15 %", random(RANDOM, &PUBLIC_FEES)),
        (
            "random and harsher, fees 5 % and 15 %",
            (FIRST_SEED..FIRST_SEED + HARSH)
                .map(|seed| Scenario::harsh(seed, &PUBLIC_FEES))
                .collect(),
        ),
        ("random, fees 7 % and 10 %", random(OTHERS, &CLOSE_FEES)),
        (
            "random, three processors, fees 5 %, 10 % and 15 %",
            random(OTHERS, &THREE_FEES),
        ),
    ];
    let runs: usize = sets
        .iter()
        .map(|(_, scenarios)| scenarios.len() * contenders.len())
        .sum();
    let bar = ProgressBar::new(runs as u64).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} runs, {eta} left",
    )?);
    for (title, scenarios) in &sets {
        let played = |(name, contender): &(_, _)| (*name, play(scenarios, *contender, &bar));
        let tables: Vec<_> = contenders.iter().map(played).collect();
        bar.suspend(|| {
            print_table(
                &format!("{title}: seeds {FIRST_SEED} to {}", scenarios.len()),
                &tables,
            );
        });
    }
    bar.finish_and_clear();
    if argument.as_deref() == Some("hold") {
        return Ok(());
    }

    let picture = argument.map_or_else(|| PathBuf::from(PICTURE), PathBuf::from);
    let scenario = Scenario::public(FIRST_SEED);
    let outcome = run(&scenario, true, || {
        shipped(Policy::default(), &scenario.fees)
    });
    if let Some(folder) = picture.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let drawn = picture::draw(&scenario, &outcome, oracle::net(&scenario));
    std::fs::write(&picture, drawn)?;
    println!(
        "The public scenario is drawn in {}. All in {:.0} s.",
        picture.display(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Runs all scenarios on all cores.
fn play(scenarios: &[Scenario], contender: Contender, bar: &ProgressBar) -> Vec<Scored> {
    let next = AtomicUsize::new(0);
    let scored = Mutex::new(Vec::with_capacity(scenarios.len()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let score = score(scenario, contender);
                    scored
                        .lock()
                        .expect("no thread panics with the lock")
                        .push(score);
                    bar.inc(1);
                }
            });
        }
    });
    scored.into_inner().expect("no thread panics with the lock")
}

fn score(scenario: &Scenario, contender: Contender) -> Scored {
    let fees = &scenario.fees;
    let outcome = match contender {
        Contender::Shipped => run(scenario, false, || shipped(Policy::default(), fees)),
        Contender::Patient(hold) => {
            let policy = Policy {
                hold: Duration::from_millis(hold),
                ..Policy::default()
            };
            run(scenario, false, || shipped(policy.clone(), fees))
        }
        Contender::Rule(rule) => run(scenario, false, || Ruled::new(rule, fees)),
    };
    let bound = oracle::net(scenario);
    Scored {
        seed: scenario.seed,
        share: outcome.net(fees) / bound,
        share_after_fine: outcome.net_after_fine(fees) / bound,
        outcome,
    }
}

fn print_table(title: &str, tables: &[(&str, Vec<Scored>)]) {
    println!("\n### {title}\n");
    println!(
        "| policy | net / oracle's, mean | min (seed) | after fines | settled after p50 | p99 | \
        left over | failed attempts per payment | an audit disagrees | any audit of a run does |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (name, scored) in tables {
        let runs = scored.len() as f64;
        let mean = |of: &dyn Fn(&Scored) -> f64| scored.iter().map(of).sum::<f64>() / runs;
        let least = (scored.iter())
            .min_by(|a, b| a.share.total_cmp(&b.share))
            .expect("there is a scenario in each set");
        let arrived = mean(&|scored| scored.outcome.arrived as f64);
        let mut times = Histogram::default();
        for scored in scored {
            times.merge(&scored.outcome.settle_times);
        }
        println!(
            "| {name} | {:.4} | {:.3} ({}) | {:.3} | {:.3} s | {:.1} s | {:.2} % | {:.3} | {:.2} % \
            | {:.1} % |",
            mean(&|scored| scored.share),
            least.share,
            least.seed,
            mean(&|scored| scored.share_after_fine),
            times.quantile(0.5),
            times.quantile(0.99),
            100.0 * mean(&|scored| scored.outcome.left_over() as f64) / arrived,
            mean(&|scored| scored.outcome.failed as f64) / arrived,
            100.0 * mean(&|scored| scored.outcome.disagreeing()),
            100.0 * mean(&|scored| scored.outcome.any_audit_disagrees()),
        );
    }
    println!();
}
