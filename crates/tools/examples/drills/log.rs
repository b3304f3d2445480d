//! What the instances log during a drill, by kind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Fields that make lines with the same message different kinds.
const KIND_FIELDS: [&str; 3] = ["task", "processor.name", "breaker.state"];

/// The log of one instance, from a moment on.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    path: PathBuf,
    from: usize,
}

impl Log {
    /// From now on.
    pub(crate) fn from_now(path: &Path) -> Self {
        let from = std::fs::read(path).map_or(0, |bytes| bytes.len());
        Self {
            path: path.to_owned(),
            from,
        }
    }

    /// How many lines of each kind were logged since, at the levels WARN and ERROR.
    pub(crate) fn complaints(&self) -> BTreeMap<String, usize> {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        let new = bytes.get(self.from..).unwrap_or_default();
        count(&String::from_utf8_lossy(new))
    }

    /// Whether something was logged since.
    pub(crate) fn contains(&self, words: &str) -> bool {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        let new = bytes.get(self.from..).unwrap_or_default();
        String::from_utf8_lossy(new).contains(words)
    }
}

fn count(log: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in log.lines() {
        // A line that a full disk has cut off is none.
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if !matches!(line["level"].as_str(), Some("WARN" | "ERROR")) {
            continue;
        }
        let mut kind = line["message"].as_str().unwrap_or("no message").to_owned();
        for field in KIND_FIELDS {
            if let Some(value) = line[field].as_str() {
                kind.push_str(&format!(" {field}={value}"));
            }
        }
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_by_what_they_are_about() {
        let log = r#"{"level":"WARN","message":"away","task":"settle"}
{"level":"WARN","message":"away","task":"claim"}
{"level":"ERROR","message":"away","task":"claim"}
{"level":"INFO","message":"back","task":"claim"}
{"level":"WA"#;
        let expected = [("away task=claim", 2), ("away task=settle", 1)];
        let expected = expected.map(|(kind, count)| (kind.to_owned(), count));
        assert_eq!(count(log), expected.into());
    }
}
