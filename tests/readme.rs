//! The README is kept true: its configuration table and its table of guarantees.

use clap::CommandFactory;
use payment_proxy::cli::Cli;

const README: &str = include_str!("../README.md");
/// A guarantee that takes longer to prove than all tests has a target of its own there.
const MAKEFILE: &str = include_str!("../Makefile");

#[test]
fn the_configuration_table_is_what_serve_takes() {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("a subcommand");
    let settings = serve
        .get_arguments()
        .chain(command.get_arguments())
        .filter_map(|argument| {
            let default = argument
                .get_default_values()
                .first()
                .and_then(|value| value.to_str());
            let default = default.map_or("none".to_owned(), |default| format!("`{default}`"));
            Some(format!("`{}` {default}", argument.get_env()?.to_str()?))
        });
    let mut expected: Vec<String> = settings.collect();
    let section = README
        .split("## Configuration")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next());
    let rows = section
        .expect("a section")
        .lines()
        .filter(|line| line.starts_with("| `"));
    let mut told: Vec<String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            format!("{} {}", cells[1], cells[3])
        })
        .collect();
    expected.sort();
    told.sort();
    assert_eq!(told, expected);
}

#[test]
fn every_guarantee_names_a_test_that_exists() {
    let sources = sources(std::path::Path::new(env!("CARGO_MANIFEST_DIR")));
    let section = README
        .split("## Guarantees")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next());
    let rows = section
        .expect("a section")
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut guarantees = 0;
    for row in rows {
        let tests = row.split('|').nth(2).expect("a cell");
        for test in tests.split('`').skip(1).step_by(2) {
            guarantees += 1;
            let exists = match test.strip_prefix("make ") {
                Some(target) => MAKEFILE.contains(&format!("\n{target}: ##")),
                None => sources.contains(&format!("fn {test}(")),
            };
            assert!(exists, "no test is called {test}");
        }
    }
    assert!(guarantees > 10, "the table was not found");
}

#[test]
fn the_runbook_explains_every_item_of_what_wants_attention() {
    let runbook = include_str!("../docs/operations.md");
    for kind in payment_proxy::attention::Attention::ALL {
        let heading = format!("\n### {}\n", kind.name());
        let explained = runbook.split(&heading).nth(1);
        let explained = explained.and_then(|rest| rest.split("\n### ").next());
        let words = explained.map_or(0, |text| text.split_whitespace().count());
        assert!(words > 8, "{} is not explained", kind.name());
    }
}

/// All Rust sources of the package.
fn sources(root: &std::path::Path) -> String {
    let mut text = String::new();
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(path).expect("a source"));
            }
        }
    }
    text
}
