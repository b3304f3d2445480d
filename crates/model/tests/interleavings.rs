//! Every interleaving of the small configurations keeps every rule, and no guard is idle.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::guard::Guard;
use model::mutations::{all_threads, explore, row, small};
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

/// The table, row by row: each is found by one thread, so that it is the same each time, and
/// threads share the rows.
fn rows() -> Vec<Option<String>> {
    let next = AtomicUsize::new(0);
    let found: Mutex<BTreeMap<usize, Option<String>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..all_threads() {
            scope.spawn(|| {
                while let nth = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(guard) = Guard::ALL.get(nth)
                {
                    let row = row(*guard);
                    found.lock().expect("no row panics").insert(nth, row);
                }
            });
        }
    });
    found
        .into_inner()
        .expect("no row panics")
        .into_values()
        .collect()
}

#[test]
fn without_each_guard_a_counterexample_is_found_and_the_page_tells_it() {
    let found = rows();
    let idle: Vec<Guard> = (Guard::ALL.iter().copied().zip(&found))
        .filter_map(|(guard, row)| row.is_none().then_some(guard))
        .collect();
    assert_eq!(idle, [], "nothing is found without these");
    let expected: Vec<String> = found.into_iter().flatten().collect();
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
