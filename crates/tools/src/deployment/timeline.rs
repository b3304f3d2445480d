//! What happened when: a file to read after a failure, and counts for the report.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;

use chrono::Utc;

/// What was done in a round.
#[derive(Debug)]
pub struct Timeline {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    counts: BTreeMap<&'static str, u64>,
    complaints: Vec<String>,
}

impl Timeline {
    /// An empty one.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self {
            state: Mutex::new(State {
                file: File::create(path)?,
                counts: BTreeMap::new(),
                complaints: Vec::new(),
            }),
        })
    }

    fn write(&self, change: impl FnOnce(&mut State), line: &str) {
        let mut state = self.state.lock().expect("no code panics under this lock");
        change(&mut state);
        // In the clock and the format of the instances' logs. A full disk must not end a round.
        let _ = writeln!(
            state.file,
            "{} {line}",
            Utc::now().format("%Y-%m-%dT%H:%M:%S%.6fZ")
        );
    }

    /// Notes a trouble and counts it.
    pub fn trouble(&self, kind: &'static str, detail: &str) {
        self.write(
            |state| *state.counts.entry(kind).or_default() += 1,
            &format!("{kind}: {detail}"),
        );
    }

    /// Notes something.
    pub fn note(&self, what: &str, detail: &str) {
        self.write(|_| (), &format!("{what}: {detail}"));
    }

    /// Notes something that must not happen.
    pub fn complain(&self, complaint: String) {
        let line = format!("COMPLAINT: {complaint}");
        self.write(|state| state.complaints.push(complaint), &line);
    }

    /// How often each trouble was made.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let state = self.state.lock().expect("no code panics under this lock");
        state.counts.clone()
    }

    /// What must not have happened.
    pub fn complaints(&self) -> Vec<String> {
        let state = self.state.lock().expect("no code panics under this lock");
        state.complaints.clone()
    }
}
