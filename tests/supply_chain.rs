//! What the program is made of, as far as it can be told without the internet; the rest is `make
//! supply-chain`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
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

fn output_of(program: &str, arguments: &[&str], folder: &Path) -> String {
    let done = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program starts");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program}: {told}");
    String::from_utf8(done.stdout).expect("text")
}

/// The platform of these tests, as the compiler names it.
fn host() -> String {
    let told = output_of("rustc", &["-vV"], Path::new(ROOT));
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("a line of that name").to_owned()
}

/// What cargo says, without the internet, in that folder.
fn cargo(arguments: &[&str], folder: &Path) -> String {
    let arguments = [arguments, &["--locked", "--offline"]].concat();
    output_of(env!("CARGO"), &arguments, folder)
}

#[test]
fn no_dependency_needs_a_newer_rust_than_the_oldest_that_we_promise() {
    let arguments = [
        "metadata",
        "--format-version=1",
        "--filter-platform",
        &host(),
    ];
    let metadata: Value = serde_json::from_str(&cargo(&arguments, Path::new(ROOT))).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "{} packages", packages.len());
    let newer: Vec<String> = packages
        .iter()
        .filter_map(|package| Some((package, package["rust_version"].as_str()?)))
        .filter(|(_, needed)| version(needed) > version(OLDEST_RUST))
        .map(|(package, needed)| format!("{} needs {needed}", package["id"]))
        .collect();
    assert_eq!(newer, [""; 0]);
    assert!(version("1.100") > version("1.95.1"), "numbers, not letters");
}

#[test]
fn an_image_has_all_that_cargo_asks_for() {
    let ignored = std::fs::read_to_string(Path::new(ROOT).join(".dockerignore")).expect("a file");
    let sent = ignored.lines().filter_map(|line| line.strip_prefix('!'));
    let folder = tempfile::tempdir().expect("a folder");
    let prefix = format!("--prefix={}/", folder.path().display());
    let listed = ["ls-files", "--cached", "--"];
    let listed: Vec<&str> = listed.into_iter().chain(sent).collect();
    let files = output_of("git", &listed, Path::new(ROOT));
    assert!(files.lines().count() > 100, "{files}");
    let checked_out: Vec<&str> = ["checkout-index", &prefix, "--"]
        .into_iter()
        .chain(files.lines())
        .collect();
    output_of("git", &checked_out, Path::new(ROOT));
    // As for a build, cargo looks for each target whose path is not said, though the target is not
    // built.
    cargo(&["fetch", "--target", &host()], folder.path());
}

/// Crates that the programs of these packages are made of, each with its features.
fn features(packages: &[&str]) -> BTreeSet<String> {
    let tree = "tree --edges normal,build --prefix none --format {p}:{f}";
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    let arguments: Vec<&str> = tree.split(' ').chain(packages).collect();
    let tree = cargo(&arguments, Path::new(ROOT));
    // Marked where its dependencies are left out, because it was seen before.
    let lines = tree.lines().map(|line| line.trim_end_matches(" (*)"));
    lines.map(str::to_owned).collect()
}

/// So `make run` and `make bench` may build all programs at once, and measure the one that is
/// shipped.
#[test]
fn the_other_crates_of_the_workspace_add_no_feature_to_the_service() {
    let service = features(&["payment-proxy"]);
    let runtime = |line: &&String| line.starts_with("tokio v") && line.contains("rt-multi-thread");
    assert!(service.iter().any(|line| runtime(&line)), "{service:?}");
    let together = features(&["payment-proxy", "simulator"]);
    let changed: Vec<&String> = service.difference(&together).collect();
    assert_eq!(changed, [""; 0]);
}
