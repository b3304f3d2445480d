//! Every interleaving of the small configurations keeps every rule, and no guard is idle.

use model::guard::Guard;
use model::mutations::{all_threads, explore, small, table};
use model::properties::Rule;

const PAGE: &str = include_str!("../../../docs/protocol.md");

/// Fewer states than this are no exploration.
const LEAST_STATES: usize = 50_000;

fn no_interleaving_breaks_a_rule(of: &str) {
    let mut explored = 0;
    for (name, exploration) in small() {
        if !name.starts_with(of) {
            continue;
        }
        let found = explore(exploration, all_threads(), |_, _| ());
        println!(
            "{name}: {} states, up to {} steps",
            found.states, found.depth
        );
        assert!(found.broken.is_none(), "{name}: {:#?}", found.broken);
        assert!(found.states >= LEAST_STATES, "{name}: {}", found.states);
        explored += 1;
    }
    assert!(explored >= 2, "{of}");
}

#[test]
fn no_interleaving_of_a_logged_queue_breaks_a_rule() {
    no_interleaving_breaks_a_rule("logged");
}

#[test]
fn no_interleaving_of_an_unlogged_queue_breaks_a_rule() {
    no_interleaving_breaks_a_rule("unlogged");
}

#[test]
fn without_each_guard_a_counterexample_is_found_and_the_page_tells_it() {
    let rows = table();
    assert!(rows.len() > 20, "{}", rows.len());
    let idle: Vec<Guard> = rows
        .iter()
        .filter(|(_, row)| row.is_none())
        .map(|(it, _)| *it)
        .collect();
    assert_eq!(idle, [], "nothing is found without these");
    let expected: Vec<String> = rows.into_iter().filter_map(|(_, row)| row).collect();
    let guard = |line: &&str| {
        Guard::ALL
            .iter()
            .any(|it| line.starts_with(&format!("| `{}` |", it.name())))
    };
    let told: Vec<&str> = PAGE.lines().filter(guard).collect();
    assert_eq!(
        told, expected,
        "cargo run --package model --example explore table prints these lines of docs/protocol.md"
    );
}

#[test]
fn the_page_names_every_rule() {
    for rule in Rule::ALL {
        assert!(
            PAGE.contains(&format!("**{}**", rule.name())),
            "{}",
            rule.name()
        );
    }
}
