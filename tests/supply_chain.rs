//! What the program is made of, as far as it can be told without the internet; the rest is `make supply-chain`.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// The oldest Rust that builds this package.
const OLDEST_RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// `1.95.0` as `[1, 95, 0]`, with zeros for what is left out.
fn version(text: &str) -> [u64; 3] {
    let mut version = [0; 3];
    for (part, number) in version.iter_mut().zip(text.split('.')) {
        *part = number.parse().expect("a number");
    }
    version
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the program starts");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program}: {told}");
    String::from_utf8(done.stdout).expect("text")
}

/// A line of what `rustc -vV` says of itself.
fn rustc(name: &str) -> String {
    let told = output_of("rustc", &["-vV"]);
    let line = told.lines().find_map(|line| line.strip_prefix(name));
    line.expect("a line of that name").to_owned()
}

#[test]
fn no_dependency_needs_a_newer_rust_than_the_oldest_that_we_promise() {
    let arguments = ["metadata", "--format-version=1", "--locked", "--offline"];
    let host = rustc("host: ");
    let arguments = [&arguments[..], &["--filter-platform", &host]].concat();
    let metadata: Value =
        serde_json::from_str(&output_of(env!("CARGO"), &arguments)).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "{} packages", packages.len());
    let newer: Vec<String> = packages
        .iter()
        .filter_map(|package| Some((package, package["rust_version"].as_str()?)))
        .filter(|(_, needed)| version(needed) > version(OLDEST_RUST))
        .map(|(package, needed)| format!("{} needs {needed}", package["id"]))
        .collect();
    assert_eq!(newer, [""; 0]);
}

#[test]
fn the_rust_of_these_tests_is_the_oldest_that_we_promise_or_a_later_one() {
    let release = rustc("release: ");
    // As in 1.97.0-nightly.
    let release = release.split('-').next().expect("a part");
    assert!(version(release) >= version(OLDEST_RUST), "{release}");
    assert!(version("1.100") > version("1.95.1"), "numbers, not letters");
}

#[test]
fn the_compiler_refuses_unsafe_code_of_ours_wherever_it_is() {
    let manifest = include_str!("../Cargo.toml");
    let lints = manifest.split("\n[lints.rust]\n").nth(1);
    let lints = lints.and_then(|rest| rest.split("\n[").next());
    let lints = lints.expect("the compiler's lints");
    // `forbid`, other than `deny`, cannot be taken back by an attribute in a source.
    assert!(lints.contains("unsafe_code = \"forbid\"\n"), "{lints}");
}

#[test]
fn the_readme_says_how_many_crates_the_program_is_made_of() {
    let tree = "tree --locked --offline --edges normal --prefix none --format {p}";
    let arguments: Vec<&str> = tree
        .split(' ')
        .chain(["--target", "x86_64-unknown-linux-gnu"])
        .collect();
    let tree = output_of(env!("CARGO"), &arguments);
    // A macro is marked where it is seen first only.
    let crates: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split(" (").next())
        .collect();
    let told = format!("The program is made of {} crates", crates.len());
    assert!(include_str!("../README.md").contains(&told), "{told}");
}

#[test]
fn an_image_is_built_without_what_only_a_checkout_has() {
    let manifest = include_str!("../Cargo.toml");
    let targets = ["\n[[example]]\n", "\n[[bench]]\n", "\n[[test]]\n"]
        .iter()
        .flat_map(|kind| manifest.split(kind).skip(1));
    // cargo looks for the file of a target whose path is not said, though nobody builds that target.
    for target in targets {
        let target = target.split("\n\n").next().expect("a first part");
        assert!(target.contains("\npath = "), "{target}");
    }
}
