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
        for test in names(tests) {
            guarantees += 1;
            assert!(is_shown_by(&sources, test), "no test is called {test}");
        }
    }
    assert!(guarantees > 10, "the table was not found");
}

/// What is in backticks.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Whether there is such a target of the Makefile (`make test PG=18`), or such a test.
fn is_shown_by(sources: &str, name: &str) -> bool {
    match name.strip_prefix("make ") {
        Some(target) => {
            let target = target.split(' ').next().unwrap_or_default();
            MAKEFILE.contains(&format!("\n{target}: ##"))
        }
        None => sources.contains(&format!("fn {name}(")),
    }
}

/// The last cells of the rows of the first table behind that line of a page.
fn last_cells(page: &str, heading: &str) -> Vec<String> {
    let text = read(Path::new(env!("CARGO_MANIFEST_DIR")), page);
    let behind = text.split(&format!("{heading}\n")).nth(1);
    let behind = behind.unwrap_or_else(|| panic!("{page} has no {heading:?}"));
    let rows = behind.lines().skip_while(|line| !line.starts_with("|---"));
    let rows = rows.skip(1).take_while(|line| line.starts_with("| "));
    let cells = rows.map(|row| row.rsplit('|').nth(1).expect("a cell").to_owned());
    cells.collect()
}

/// What shows that it runs in each place of a page's table.
fn shown_by(page: &str, heading: &str) -> Vec<String> {
    let proofs = last_cells(page, heading);
    assert!(proofs.len() >= 5, "{page}: {proofs:?}");
    for proof in &proofs {
        assert!(proof.contains('`'), "{page}: nothing shows {proof:?}");
    }
    let all = proofs.iter().flat_map(|proof| names(proof));
    all.map(str::to_owned).collect()
}

/// Of each place a target of the Makefile or a test shows that it runs there, and the page that
/// leads from one machine to many names no place that the table lacks.
#[test]
fn the_table_of_where_it_runs_names_what_shows_it_in_both_languages() {
    let sources = sources(Path::new(env!("CARGO_MANIFEST_DIR")));
    let english = shown_by("README.md", "## Where it runs");
    for name in &english {
        assert!(is_shown_by(&sources, name), "nothing is called {name}");
    }
    assert_eq!(english, shown_by("README.pt-BR.md", "## Onde roda"));
    let scaling = shown_by("docs/scaling.md", "# From one machine to many");
    for name in scaling {
        assert!(is_shown_by(&sources, &name), "nothing is called {name}");
        let is_place = name.starts_with("make ") && name != "make bench";
        assert!(
            !is_place || english.contains(&name),
            "the README lacks {name}"
        );
    }
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
    let all = |and: &str| format!("PostgreSQL {} {and} {last}", others.join(", "));
    let oldest = versions[0];
    for (file, says) in [
        ("README.md", all("and")),
        ("README.pt-BR.md", all("e")),
        ("docs/databases.md", all("and")),
        (
            ".github/workflows/test.yml",
            format!("postgres: [{}]", versions.join(", ")),
        ),
        ("scripts/postgres.sh", format!("oldest={oldest} ")),
        ("CHANGELOG.md", format!("PostgreSQL {oldest} or later")),
        ("init.sql", format!("psql ({oldest} or later)")),
    ] {
        assert!(read(root, file).contains(&says), "{file} says not {says:?}");
    }
    // What passed where is told of each.
    let told = last_cells("docs/databases.md", "## Versions");
    assert_eq!(told.len(), versions.len(), "{told:?}");

    let mut containers = files_under(root, "deploy");
    let compose = ["docker-compose.yml", "docker-compose.contest.yml"];
    containers.extend(compose.map(PathBuf::from));
    let commands = [
        "Makefile",
        "README.md",
        "README.pt-BR.md",
        "docs/databases.md",
    ];
    let named = [
        ("postgres:", containers),
        ("PG=", commands.map(PathBuf::from).to_vec()),
    ];
    for (before, files) in named {
        let mut found = 0;
        for file in files {
            let text = read(root, &file);
            let majors = text.split(before).skip(1).filter_map(|rest| {
                let major = rest.split(|letter: char| !letter.is_ascii_digit()).next();
                major.filter(|major| !major.is_empty())
            });
            for major in majors {
                found += 1;
                let file = file.display();
                assert!(versions.contains(&major), "{file}: {before}{major}");
            }
        }
        assert!(found >= 3, "{before} is named {found} times");
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
        for name in names(proof) {
            let drill = drills.contains(&format!("\n    {},\n", in_camel_case(name)));
            let exists = drill || is_shown_by(&sources, name);
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

/// All files in a folder of the repository.
fn files_under(root: &Path, folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let (folder, mut files) = (folder.as_ref(), Vec::new());
    for entry in std::fs::read_dir(root.join(folder)).expect("a folder") {
        let path = folder.join(entry.expect("an entry").file_name());
        if root.join(&path).is_dir() {
            files.extend(files_under(root, path));
        } else {
            files.push(path);
        }
    }
    files
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
    let folders = ["src", "tests", "crates", "migrations"];
    let files = folders
        .into_iter()
        .flat_map(|folder| files_under(root, folder));
    let is_source = |file: &PathBuf| {
        let extension = file.extension();
        extension.is_some_and(|extension| extension == "rs" || extension == "sql")
    };
    let texts = files.filter(is_source).map(|file| {
        let text = read(root, &file);
        format!("\n{}\n{text}", file.display())
    });
    texts.collect()
}
