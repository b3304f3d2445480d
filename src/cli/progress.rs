//! How far a command is, for a person who waits: on a terminal only, never in a file or a pipe, and
//! not beside JSON, which a program reads.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// How often a line is drawn anew that shows nothing but time.
const TICK: Duration = Duration::from_millis(200);

/// A line on standard error, if that is a terminal.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Nothing is done yet of `things`. With `json` nothing is shown.
    pub(super) fn new(things: &str, json: bool) -> Self {
        let line = format!(
            "{{prefix}}{{wide_bar}} {{human_pos}} of {{human_len}} {things}, {{speed}}, {{eta}} \
            left"
        );
        let style = ProgressStyle::with_template(&line);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("speed", |state: &ProgressState, out: &mut dyn Write| {
            let _ = write!(out, "{:.0}/s", state.per_sec());
        });
        let bar = if json {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        Self(bar.with_style(style))
    }

    /// What is being done and for how long, where nobody knows how much of it is left.
    pub(super) fn open_ended(what: &str) -> Self {
        let line = format!("{{spinner}} {what}, {{elapsed}}");
        let style = ProgressStyle::with_template(&line);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::no_length().with_style(style);
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// Names what is being done now; the count begins again where that is something else.
    pub(super) fn doing(&self, what: &str) {
        let prefix = format!("{what} ");
        if self.0.prefix() != prefix {
            self.0.reset();
            self.0.set_prefix(prefix);
        }
    }

    /// `done` of about `total` are done.
    pub(super) fn at(&self, done: u64, total: u64) {
        self.0.set_length(total.max(done));
        self.0.set_position(done);
    }

    /// Removes the line.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
