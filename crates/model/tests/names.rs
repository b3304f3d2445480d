//! The guards have the same names in the model and in the code: a comment `Guard: Name` stands
//! beside each statement, or line of code, that keeps one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use model::guard::Guard;

/// Where the code is.
const FOLDERS: [&str; 2] = ["src", "migrations"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs" || it == "sql") {
            found.push(path);
        }
    }
}

/// The names behind `Guard:` in a source, though the line ends between the two.
fn named(source: &str) -> impl Iterator<Item = String> {
    let words = source
        .split_whitespace()
        .filter(|word| !matches!(*word, "///" | "//!" | "//" | "--"));
    let words: Vec<&str> = words.collect();
    let pairs: Vec<[&str; 2]> = words.windows(2).map(|pair| [pair[0], pair[1]]).collect();
    pairs
        .into_iter()
        .filter(|[word, _]| word.trim_start_matches('(') == "Guard:")
        .map(|[_, name]| {
            name.trim_end_matches(|letter: char| !letter.is_alphanumeric())
                .to_owned()
        })
}

#[test]
fn the_model_and_the_code_name_the_same_guards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for folder in FOLDERS {
        sources(&root.join(folder), &mut files);
    }
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("a source");
    let in_code: BTreeSet<String> = files
        .iter()
        .map(read)
        .flat_map(|source| named(&source).collect::<Vec<_>>())
        .collect();
    let in_model: BTreeSet<String> = Guard::ALL.iter().copied().map(Guard::name).collect();
    assert_eq!(in_code, in_model);
}
