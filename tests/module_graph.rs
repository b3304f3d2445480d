//! The structure of the sources: imports among the modules go down, and none goes around in a
//! circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The floors of the service from the ground up, each with its modules. A module imports from its
/// own floor and those below.
const FLOORS: &[&[&str]] = &[
    &["domain"],
    &["config"],
    &["telemetry"],
    &["store"],
    &["processors"],
    &["pipeline"],
    &["http", "cli", "probe", "scrape"],
    &["serve"],
    &["command", "environment"],
    &["program", "main"],
];

/// A module, as the names on the way to it.
type Module = Vec<String>;

/// The sources of a crate, and what each of its modules imports from which others.
struct Sources(BTreeMap<Module, String>);

impl Sources {
    fn read(root: &Path) -> Self {
        let mut sources = BTreeMap::new();
        let mut folders = vec![(root.to_owned(), Module::new())];
        while let Some((folder, module)) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                let name = path.file_stem().expect("a name").to_string_lossy();
                let mut inner = module.clone();
                if name != "mod" && !(module.is_empty() && name == "lib") {
                    inner.push(name.into_owned());
                }
                if path.is_dir() {
                    folders.push((path, inner));
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let source = std::fs::read_to_string(&path).expect("a source");
                    sources.insert(inner, code(&source));
                }
            }
        }
        Self(sources)
    }

    /// What a path in the source of a module names, from the root of the crate on; none for other
    /// crates.
    fn absolute(&self, module: &[String], path: &str) -> Option<Module> {
        let mut parts = path.split("::").map(str::trim).peekable();
        let mut base = module.to_vec();
        match *parts.peek()? {
            "crate" | "payment_proxy" => base.clear(),
            "self" | "super" => {}
            child => {
                base.push(child.to_owned());
                if !self.0.contains_key(&base) {
                    return None;
                }
                base.pop();
                base.extend(parts.map(str::to_owned));
                return Some(base);
            }
        }
        while let Some(part) =
            parts.next_if(|part| ["crate", "payment_proxy", "self", "super"].contains(part))
        {
            if part == "super" {
                base.pop();
            }
        }
        base.extend(parts.map(str::to_owned));
        Some(base)
    }

    /// The module that has what is named there, behind all re-exports.
    fn home(&self, named: &[String], reexports: &BTreeMap<Module, Module>) -> Option<Module> {
        let at = (0..=named.len())
            .rev()
            .find(|at| self.0.contains_key(&named[..*at]))?;
        let (module, rest) = named.split_at(at);
        let elsewhere = rest.first().and_then(|_| reexports.get(&named[..=at]));
        match elsewhere {
            Some(elsewhere) => {
                let further = named[at + 1..].iter().cloned();
                let named: Module = elsewhere.iter().cloned().chain(further).collect();
                self.home(&named, reexports)
            }
            None => Some(module.to_vec()),
        }
    }

    /// Which module imports from which others.
    fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let mut reexports = BTreeMap::new();
        for (module, source) in &self.0 {
            for (is_public, path) in uses(source) {
                if is_public && let Some(named) = self.absolute(module, &path) {
                    let mut name = module.clone();
                    name.extend(named.last().cloned());
                    reexports.insert(name, named);
                }
            }
        }
        let mut imports = BTreeMap::new();
        for (module, source) in &self.0 {
            // The root only lists the modules.
            if module.is_empty() {
                continue;
            }
            let body = without_uses(source);
            let mentioned = mentions(&body);
            // A name that is only passed on is not used here.
            let used = uses(source).into_iter().filter_map(|(is_public, path)| {
                let name = path.rsplit("::").next().unwrap_or_default();
                (!is_public || is_named(&body, name)).then_some(path)
            });
            let homes = used.chain(mentioned).filter_map(|path| {
                let named = self.absolute(module, &path)?;
                self.home(&named, &reexports)
            });
            let others = homes.filter(|home| home != module && !home.is_empty());
            imports.insert(module.clone(), others.collect());
        }
        imports
    }
}

/// A source without comments, declarations of modules, and tests.
fn code(source: &str) -> String {
    let source = source
        .split("\n#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    let lines = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    let is_declaration = |line: &str| {
        let line = line.trim();
        line.ends_with(';') && line.split(' ').any(|word| word == "mod")
    };
    let lines: Vec<&str> = lines.filter(|line| !is_declaration(line)).collect();
    lines.join("\n")
}

/// The `use` statements of a source: where each begins and ends.
fn statements(source: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = source[from..].find("use ").map(|at| at + from) {
        from = at + 4;
        let before = source[..at].rsplit('\n').next().unwrap_or_default();
        let end = source[at..].find(';').map(|end| at + end);
        if (before.trim().is_empty() || before.trim_start().starts_with("pub"))
            && let Some(end) = end
        {
            found.push((at - before.len(), end));
            from = end;
        }
    }
    found
}

/// What is imported, path by path, and whether it is passed on to others.
fn uses(source: &str) -> Vec<(bool, String)> {
    let found = statements(source).into_iter().flat_map(|(begin, end)| {
        let statement = &source[begin..end];
        let (before, tree) = statement.split_once("use ").unwrap_or_default();
        let is_public = before.contains("pub");
        let paths = paths(tree).into_iter();
        paths.map(move |path| (is_public, path)).collect::<Vec<_>>()
    });
    found.collect()
}

fn without_uses(source: &str) -> String {
    let mut body = source.to_owned();
    for (begin, end) in statements(source).into_iter().rev() {
        body.replace_range(begin..end, "");
    }
    body
}

/// The paths of a tree of imports: `a::{b, c::d as e}` as `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return vec![path.trim_end_matches("::self").to_owned()];
    };
    let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut begin, mut found) = (0_usize, 0, Vec::new());
    for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inner[begin..at].trim();
                if !part.is_empty() {
                    found.extend(paths(&format!("{before}{part}")));
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The paths that the code itself mentions.
fn mentions(body: &str) -> Vec<String> {
    let is_path = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let words = body.split(|letter: char| !is_path(letter));
    let paths = words.filter(|word| word.contains("::"));
    paths
        .map(|path| path.trim_matches(':').to_owned())
        .collect()
}

/// Whether the code has that name as a word of its own: a type, a constant, or a function that is
/// called.
fn is_named(body: &str, name: &str) -> bool {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let is_function = name.starts_with(|letter: char| letter.is_ascii_lowercase());
    body.match_indices(name).any(|(at, _)| {
        let (before, after) = (&body[..at], &body[at + name.len()..]);
        // `fn name(` is one of its own.
        !before.ends_with(is_word)
            && !before.ends_with("fn ")
            && !before.ends_with('.')
            && !after.starts_with(is_word)
            && (!is_function || after.starts_with('('))
    })
}

fn text(module: &[String]) -> String {
    module.join("::")
}

/// The modules of a circle, if there is one.
fn circle(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Option<String> {
    let mut done = BTreeSet::new();
    for start in imports.keys() {
        // Depth first: the way here, and what is left to look at from each step.
        let mut way = vec![(start, imports[start].iter())];
        while let Some((module, rest)) = way.last_mut() {
            let Some(next) = rest.next() else {
                done.insert((*module).clone());
                way.pop();
                continue;
            };
            if let Some(at) = way.iter().position(|(module, _)| *module == next) {
                let circle: Vec<String> =
                    way[at..].iter().map(|(module, _)| text(module)).collect();
                return Some(circle.join(" -> "));
            }
            if !done.contains(next) {
                let (next, imported) = imports.get_key_value(next).expect("a module");
                way.push((next, imported.iter()));
            }
        }
    }
    None
}

fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let imports = Sources::read(&root).imports();
    let arrows: usize = imports.values().map(BTreeSet::len).sum();
    assert!(
        imports.len() > 100 && arrows > 300,
        "{} modules, {arrows} arrows",
        imports.len()
    );
    imports
}

#[test]
fn no_import_leads_around_in_a_circle() {
    assert_eq!(circle(&imports()), None);
}

#[test]
fn no_module_imports_from_a_floor_above_its_own() {
    let floor = |module: &Module| {
        let mut floors = FLOORS.iter();
        let floor = floors.position(|modules| modules.contains(&module[0].as_str()));
        floor.unwrap_or_else(|| panic!("{} is on no floor", text(module)))
    };
    let imports = imports();
    let mut upwards = Vec::new();
    for (module, imported) in &imports {
        let imported = imported.iter().filter(|other| floor(other) > floor(module));
        upwards.extend(imported.map(|other| format!("{} -> {}", text(module), text(other))));
    }
    assert_eq!(upwards, [""; 0]);
    let known: BTreeSet<&str> = imports.keys().map(|module| module[0].as_str()).collect();
    let listed = FLOORS.iter().copied().flatten().copied();
    let gone: Vec<&str> = listed.filter(|module| !known.contains(module)).collect();
    assert_eq!(gone, [""; 0], "these are modules no more");
}

#[test]
fn a_circle_is_found_through_re_exports_nested_imports_and_paths() {
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Module>();
    let of = |sources: &[(&str, &str)]| {
        let sources = sources
            .iter()
            .map(|(path, source)| (module(path), code(source)));
        circle(&Sources(sources.collect()).imports())
    };
    let up = ("a", "mod b;\npub use b::{Thing, work};\n");
    assert_eq!(
        of(&[up, ("a::b", "use std::fmt;\npub struct Thing;")]),
        None
    );
    for lower in [
        "use crate::a::Thing;",
        "use crate::{a::{self, Thing as Other}, d};",
        "fn f() { crate::a::work() }",
        "use super::a::b;",
    ] {
        let sources = [up, ("a::b", "use crate::c::X;"), ("c", lower), ("d", "")];
        assert_eq!(of(&sources).as_deref(), Some("a::b -> c"), "{lower}");
    }
    // A folder that works with what its part has, where that takes something of the folder's own.
    let parent = (
        "a",
        "mod b;\npub use b::Thing;\nconst C: u8 = 1;\nfn f(_: Thing) {}",
    );
    assert_eq!(
        of(&[parent, ("a::b", "use super::C;")]).as_deref(),
        Some("a -> a::b")
    );
    // What a comment or a test says is no import.
    let harmless =
        "//! [`crate::a::Thing`]\n#[cfg(test)]\nmod tests {\n    use crate::a::Thing;\n}";
    assert_eq!(
        of(&[up, ("a::b", "use crate::c::X;"), ("c", harmless)]),
        None
    );
}
