//! The documents are kept true: the configuration table, the table of guarantees, the runbook, and
//! what they name.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use payment_proxy::command::Cli;

const GUARANTEES: &str = include_str!("../docs/guarantees.md");
const CONFIGURATION: &str = include_str!("../docs/configuration.md");
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
    let rows = CONFIGURATION.lines().filter(|line| line.starts_with("| `"));
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
    let sources = sources(Path::new(env!("CARGO_MANIFEST_DIR")));
    let table = GUARANTEES.split("\n## Attacks and drills").next();
    let rows = table
        .expect("a part")
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

/// Of each place a target of the Makefile or a test shows that it runs there.
#[test]
fn the_table_of_where_it_runs_names_what_shows_it_in_both_languages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(root);
    let tables = [
        ("README.md", "Where it runs"),
        ("README.pt-BR.md", "Onde roda"),
    ];
    let shown = tables.map(|(page, heading)| {
        let text = read(root, page);
        let section = text.split(&format!("\n## {heading}\n")).nth(1);
        let section = section.and_then(|rest| rest.split("\n## ").next());
        let rows = section
            .expect("a section")
            .lines()
            .skip_while(|line| !line.starts_with("|---"));
        let proofs = rows.filter_map(|row| row.rsplit('|').nth(1).map(str::to_owned));
        let proofs: Vec<String> = proofs.collect();
        assert!(proofs.len() >= 4, "{page}: {proofs:?}");
        let named = proofs.iter().skip(1).flat_map(|proof| {
            let names: Vec<String> = proof
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect();
            assert!(!names.is_empty(), "{page}: nothing shows {proof:?}");
            names
        });
        named.collect::<Vec<String>>()
    });
    for name in &shown[0] {
        let exists = match name.strip_prefix("make ") {
            Some(target) => {
                let target = target.split(' ').next().unwrap_or_default();
                MAKEFILE.contains(&format!("\n{target}: ##"))
            }
            None => sources.contains(&format!("fn {name}(")),
        };
        assert!(exists, "no target and no test is called {name}");
    }
    assert_eq!(shown[0], shown[1]);
}

/// The versions of PostgreSQL are said once, in the script that finds them.
#[test]
fn scripts_compose_workflow_and_documents_name_the_same_versions_of_postgresql() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = read(root, "scripts/postgresql.sh");
    let versions = script
        .lines()
        .find_map(|line| line.strip_prefix("versions=("));
    let versions = versions
        .and_then(|rest| rest.split(')').next())
        .expect("versions");
    let versions: Vec<&str> = versions.split(' ').collect();
    assert!(versions.len() >= 4, "{versions:?}");
    let (last, others) = versions.split_last().expect("some");
    for (page, and) in [
        ("README.md", "and"),
        ("docs/databases.md", "and"),
        ("README.pt-BR.md", "e"),
    ] {
        let said = format!("PostgreSQL {} {and} {last}", others.join(", "));
        assert!(read(root, page).contains(&said), "{page} says not {said:?}");
    }
    let workflow = read(root, ".github/workflows/test.yml");
    let matrix = format!("postgres: [{}]", versions.join(", "));
    assert!(workflow.contains(&matrix), "the workflow runs not {matrix}");
    let oldest = format!("oldest={} ", versions[0]);
    assert!(
        read(root, "scripts/postgres.sh").contains(&oldest),
        "{oldest}"
    );
    for file in [
        "docker-compose.yml",
        "docker-compose.contest.yml",
        "deploy/ha/Dockerfile",
    ] {
        let text = read(root, file);
        let images = text.split("postgres:").skip(1);
        let majors: Vec<&str> = images
            .filter_map(|rest| rest.split(|letter: char| !letter.is_ascii_digit()).next())
            .filter(|major| !major.is_empty())
            .collect();
        assert!(!majors.is_empty(), "{file} names no image");
        for major in majors {
            assert!(versions.contains(&major), "{file} has PostgreSQL {major}");
        }
    }
}

/// So that a reader finds the pages that go on.
#[test]
fn the_readme_is_short_in_both_languages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = ["README.md", "README.pt-BR.md"].map(|page| read(root, page).lines().count());
    assert!(
        lines.iter().all(|lines| *lines <= README_LINES),
        "{lines:?}"
    );
}

#[test]
fn every_attack_names_a_drill_or_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (sources, drills) = (
        sources(root),
        include_str!("../crates/tools/examples/drills/drill/mod.rs"),
    );
    let section = GUARANTEES
        .split("\n## Attacks and drills")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next());
    let rows = section
        .expect("a section")
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut named = Vec::new();
    for row in rows {
        let proof = row.rsplit('|').nth(1).expect("a cell");
        for name in proof.split('`').skip(1).step_by(2) {
            let exists = match name.strip_prefix("make ") {
                Some(target) => MAKEFILE.contains(&format!("\n{target}: ##")),
                None => {
                    let drill = drills.contains(&format!("\n    {},\n", in_camel_case(name)));
                    drill || sources.contains(&format!("fn {name}("))
                }
            };
            assert!(exists, "no drill and no test is called {name}");
            named.push(name.to_owned());
        }
        assert!(proof.contains('`'), "nothing shows this: {row}");
    }
    // And the other way round: what is walked is told.
    let kinds = drills.split("pub(crate) enum Drill {").nth(1);
    let kinds = kinds.and_then(|rest| rest.split("\n}").next());
    for kind in kinds.expect("the drills").lines() {
        let Some(kind) = kind
            .trim()
            .strip_suffix(',')
            .filter(|_| !kind.contains("//"))
        else {
            continue;
        };
        let told = named.iter().any(|name| in_camel_case(name) == kind);
        assert!(told, "the page does not tell of {kind}");
    }
}

/// `full-disk` as `FullDisk`.
fn in_camel_case(name: &str) -> String {
    name.split('-')
        .flat_map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            [first.to_uppercase(), rest.to_owned()]
        })
        .collect()
}

#[test]
fn the_runbook_explains_every_item_of_what_wants_attention() {
    let runbook = include_str!("../docs/operations.md");
    for kind in payment_proxy::domain::attention::Attention::ALL {
        let heading = format!("\n### {}\n", kind.name());
        let explained = runbook.split(&heading).nth(1);
        let explained = explained.and_then(|rest| rest.split("\n### ").next());
        let words = explained.map_or(0, |text| text.split_whitespace().count());
        assert!(words > 8, "{} is not explained", kind.name());
    }
}

/// Lines of the README, at most.
const README_LINES: usize = 150;
/// Pages that explain the code: every name in backticks is one of it.
const OF_THE_CODE: &[&str] = &["docs/architecture.md", "docs/development.md"];
/// Where a path in backticks begins.
const FOLDERS: &[&str] = &[
    "src/",
    "tests/",
    "docs/",
    "scripts/",
    "migrations/",
    "bench/",
    "load/",
    "observability/",
    "fuzz/",
    "crates/",
    "deploy/",
];

#[test]
fn every_file_heading_and_name_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(root);
    let words: HashSet<&str> = sources
        .split(|letter: char| !is_of_a_name(letter))
        .collect();
    let mut wrong = Vec::new();
    for page in pages(root) {
        // Without what is shown as it is.
        let text = read(root, &page);
        let text: String = text.split("```").step_by(2).collect();
        let folder = Path::new(&page).parent().expect("a folder");
        for target in links(&text) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => PathBuf::from(&page),
                file => folder.join(file),
            };
            let exists = root.join(&file).exists();
            if !exists || !(heading.is_empty() || headings(&read(root, &file)).contains(heading)) {
                wrong.push(format!("{page}: a link leads to {target}"));
            }
        }
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = FOLDERS.iter().any(|folder| quoted.starts_with(folder));
            if is_path && !quoted.contains([' ', '*']) && !root.join(quoted).exists() {
                wrong.push(format!("{page}: there is no {quoted}"));
            }
            let names = quoted.split(|letter: char| !is_of_a_name(letter));
            let is_checked = OF_THE_CODE.contains(&page.as_str()) && !root.join(quoted).exists();
            let names = names.filter(|name| is_name(name) && is_checked);
            wrong.extend(
                names
                    .filter(|name| !words.contains(name))
                    .map(|name| format!("{page}: nothing is called {name}")),
            );
        }
    }
    assert_eq!(wrong, [""; 0]);
}

fn is_of_a_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// Whether a word is written as code is: `snake_case` or `CamelCase`.
fn is_name(word: &str) -> bool {
    let has = |is: fn(&char) -> bool| word.chars().any(|letter| is(&letter));
    word.contains('_') || (has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase))
}

/// The pages of the repository.
fn pages(root: &Path) -> Vec<String> {
    let of = |folder: &str| {
        let entries = std::fs::read_dir(root.join(folder)).expect("a folder");
        let names = entries
            .map(|entry| format!("{folder}{}", entry.expect("an entry").file_name().display()));
        names
            .filter(|name| name.ends_with(".md"))
            .collect::<Vec<_>>()
    };
    let pages = [of("./"), of("docs/")].concat();
    let pages: Vec<String> = pages
        .iter()
        .map(|page| page.trim_start_matches("./").to_owned())
        .collect();
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

fn read(root: &Path, page: impl AsRef<Path>) -> String {
    let page = page.as_ref();
    std::fs::read_to_string(root.join(page))
        .unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// Where the links of a page lead to inside of the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

/// The headings of a page, as links name them.
fn headings(text: &str) -> HashSet<String> {
    let lines = text.lines().filter(|line| line.starts_with('#'));
    let headings = lines.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let kept = |heading: String| -> String {
        let letters = heading
            .chars()
            .filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter));
        letters
            .map(|letter| if letter == ' ' { '-' } else { letter })
            .collect()
    };
    headings.map(kept).collect()
}

/// All Rust sources and migrations of the package, and their names.
fn sources(root: &Path) -> String {
    let mut text = String::new();
    let mut folders = vec![
        root.join("src"),
        root.join("tests"),
        root.join("crates"),
        root.join("migrations"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "rs" || extension == "sql")
            {
                text.push_str(&format!("\n{}\n", path.display()));
                text.push_str(&std::fs::read_to_string(path).expect("a source"));
            }
        }
    }
    text
}
