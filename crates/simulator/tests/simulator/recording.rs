//! The replies of the real processor, recorded from one that was built from its source.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;

#[derive(Deserialize)]
struct Recording {
    replies: Vec<Recorded>,
}

/// A call, and what the real processor answered.
#[derive(Deserialize)]
pub(crate) struct Recorded {
    pub(crate) call: String,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Option<String>,
    pub(crate) note: Option<String>,
    state: Option<String>,
    pub(crate) answer: Answer,
}

/// A reply of the real processor.
#[derive(Deserialize)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// What the real processor was asked, and its replies.
pub(crate) fn recorded() -> Vec<Recorded> {
    let text = include_str!("processor-replies.json");
    let recording: Recording = serde_json::from_str(text).unwrap();
    assert_eq!(recording.replies.len(), 65);
    recording.replies
}

impl Recorded {
    /// Method and path of the call.
    pub(crate) fn parts(&self) -> (Method, &str) {
        let (method, path) = self.call.split_once(' ').unwrap();
        (method.parse().unwrap(), path)
    }

    /// Whether the state in which it was called is described with these words.
    pub(crate) fn is_said_in(&self, words: &str) -> bool {
        self.state
            .as_ref()
            .is_some_and(|state| state.contains(words))
    }
}
