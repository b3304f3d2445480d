//! `make model`: explores larger configurations than the tests do, and says how many states it saw.
//!
//! usage: explore [PART OF A NAME] | explore table [GUARD]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use model::guard::Guard;
use model::mutations::{all_threads, explore, large, row, small};

/// The time between two lines that say how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    if wanted == "table" {
        let of = std::env::args().nth(2);
        for guard in Guard::ALL {
            if of.as_ref().is_some_and(|name| *name != guard.name()) {
                continue;
            }
            let row = row(*guard);
            println!(
                "{}",
                row.unwrap_or_else(|| format!("{}: NOTHING IS FOUND", guard.name()))
            );
        }
        return ExitCode::SUCCESS;
    }
    let (mut is_broken, mut states) = (false, 0);
    let all = small().into_iter().chain(large());
    for (name, exploration) in all.filter(|(name, _)| name.contains(&wanted)) {
        let (begun_at, mut told_at) = (Instant::now(), Instant::now());
        let found = explore(exploration, all_threads(), |states, depth| {
            if told_at.elapsed() >= TOLD_EVERY {
                told_at = Instant::now();
                let seconds = begun_at.elapsed().as_secs();
                eprintln!("{name}: {states} states, up to {depth} steps, {seconds} s");
            }
        });
        states += found.states;
        let (seen, depth, seconds) = (found.states, found.depth, found.took.as_secs_f64());
        let bound = exploration.steps.map_or("all", |_| "all of so many steps");
        println!("{name}: {seen} states ({bound}), up to {depth} steps, {seconds:.1} s");
        if let Some((rule, steps)) = found.broken {
            is_broken = true;
            println!("BROKEN: {}", rule.name());
            for step in steps {
                println!("    {step}");
            }
        }
    }
    println!("{states} states");
    match is_broken {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}
