//! Keeps payments away from a processor that fails, and finds out when it is back.
//!
//! ```text
//!            consecutive failures, or reported failing
//!   closed ------------------------------------------------> open <-----------+
//!     ^                                                       |               | any failure, or
//!     |                           a probe succeeded, or       |               | reported failing
//!     |                           reported healthy            v               |
//!     +------------------------------------------------- half open -----------+
//!            successes in a row
//! ```
//!
//! An open breaker lets one real payment through now and then, a half-open one a few at a time.
//! Permits that come back unused count for nothing and are given again at once, so no state is
//! without a way out. While a backlog waits, an open breaker closes at the first good news: trials
//! would cost more time than they save.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Policy, Time};

/// Whether payments may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BreakerState)]
pub enum State {
    /// As many as the concurrency allows.
    Closed,
    /// Only paced probes.
    Open,
    /// A few at a time, to see whether all is well.
    HalfOpen,
}

impl State {
    /// The state in a word, as logged.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Why a breaker is in the state that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing has happened yet.
    Started,
    /// That many attempts in a row have failed.
    ConsecutiveFailures(u32),
    /// The health endpoint says that it fails.
    ReportedFailing,
    /// The health endpoint says that it does not fail.
    ReportedHealthy,
    /// A probe came back charged.
    ProbeSucceeded,
    /// An attempt of another instance succeeded.
    RecoveredElsewhere,
    /// An attempt failed while the breaker was half open.
    TrialFailed,
    /// That many attempts in a row succeeded while the breaker was half open.
    TrialsSucceeded(u32),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::ConsecutiveFailures(n) => write!(f, "{n} attempts in a row failed"),
            Self::ReportedFailing => f.write_str("its health endpoint says that it fails"),
            Self::ReportedHealthy => f.write_str("its health endpoint says that it does not fail"),
            Self::ProbeSucceeded => f.write_str("a probe succeeded"),
            Self::RecoveredElsewhere => f.write_str("an attempt of another instance succeeded"),
            Self::TrialFailed => f.write_str("an attempt failed while half open"),
            Self::TrialsSucceeded(n) => {
                write!(f, "{n} attempts in a row succeeded while half open")
            }
        }
    }
}

/// A change of state, to be logged once by whoever made the event known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The state before.
    pub from: State,
    /// The state from now on.
    pub to: State,
    /// What brought it about.
    pub reason: Reason,
}

/// The breaker of one processor in one instance.
#[derive(Debug, Clone)]
pub struct Breaker {
    state: State,
    reason: Reason,
    since: Time,
    /// Begin of the outage: when the breaker was last closed. None while it is closed.
    out_since: Option<Time>,
    in_a_row: u32,
    next_probe: Time,
    last_probe: Time,
    probing: u32,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(now: Time) -> Self {
        Self {
            state: State::Closed,
            reason: Reason::Started,
            since: now,
            out_since: None,
            in_a_row: 0,
            next_probe: now,
            last_probe: now,
            probing: 0,
        }
    }

    /// The state at present.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why and since when.
    pub fn reason(&self) -> (Reason, Time) {
        (self.reason, self.since)
    }

    /// Since when the breaker has not been closed.
    pub fn out_since(&self) -> Option<Time> {
        self.out_since
    }

    /// Permits given by this breaker while it was not closed that have not come back.
    pub fn probing(&self) -> u32 {
        self.probing
    }

    /// When an open breaker gives its next probe, if one is free then.
    pub fn next_probe(&self) -> Time {
        self.next_probe
    }

    /// Whether a permit can be had, pacing and the number of probes considered. Closed: always.
    pub fn permits(&self, now: Time, policy: &Policy, alive: u32) -> bool {
        match self.state {
            State::Closed => true,
            State::Open => {
                now >= self.next_probe
                    && self.probing < policy.probes_in_flight.div_ceil(alive.max(1))
            }
            State::HalfOpen => self.probing < policy.trial_permits,
        }
    }

    /// Takes a permit. Returns whether it is a probe, which has to come back through
    /// [`Breaker::returned`].
    pub fn take(&mut self, now: Time, policy: &Policy, alive: u32) -> bool {
        if self.state == State::Closed {
            return false;
        }
        self.probing += 1;
        if self.state == State::Open {
            self.last_probe = now;
            self.next_probe = now + policy.probe_every * alive.max(1);
        }
        true
    }

    /// A probe has come back, used or not. An unused one may be given again at once.
    pub fn returned(&mut self, used: bool) {
        self.probing = self.probing.saturating_sub(1);
        if !used {
            self.next_probe = self.last_probe;
        }
    }

    /// An attempt succeeded.
    pub fn succeeded(&mut self, now: Time, policy: &Policy) -> Option<Change> {
        match self.state {
            State::Closed => {
                self.in_a_row = 0;
                None
            }
            State::Open => {
                let change = self.enter(State::HalfOpen, Reason::ProbeSucceeded, now);
                self.in_a_row = 1;
                Some(change)
            }
            State::HalfOpen => {
                self.in_a_row += 1;
                (self.in_a_row >= policy.successes_to_close).then(|| {
                    self.enter(
                        State::Closed,
                        Reason::TrialsSucceeded(policy.successes_to_close),
                        now,
                    )
                })
            }
        }
    }

    /// An attempt failed. A failure that nobody proved (a time-out) counts only if it was sent in
    /// the present state: it says nothing about a processor that has changed since.
    pub fn failed(
        &mut self,
        now: Time,
        unproved_since: Option<Time>,
        policy: &Policy,
    ) -> Option<Change> {
        if unproved_since.is_some_and(|sent_at| sent_at < self.since) {
            return None;
        }
        match self.state {
            State::Closed => {
                self.in_a_row += 1;
                (self.in_a_row >= policy.failures_to_open)
                    .then(|| self.open(Reason::ConsecutiveFailures(self.in_a_row), now, policy))
            }
            State::Open => None,
            State::HalfOpen => Some(self.open(Reason::TrialFailed, now, policy)),
        }
    }

    /// The health endpoint has answered.
    pub fn reported(&mut self, failing: bool, now: Time, policy: &Policy) -> Option<Change> {
        match (failing, self.state) {
            (true, State::Closed | State::HalfOpen) => {
                Some(self.open(Reason::ReportedFailing, now, policy))
            }
            (false, State::Open) => Some(self.enter(State::HalfOpen, Reason::ReportedHealthy, now)),
            _ => None,
        }
    }

    /// An attempt of another instance succeeded.
    pub fn recovered(&mut self, now: Time) -> Option<Change> {
        (self.state == State::Open)
            .then(|| self.enter(State::HalfOpen, Reason::RecoveredElsewhere, now))
    }

    /// Closes it without trials.
    pub fn close(&mut self, reason: Reason, now: Time) -> Change {
        self.enter(State::Closed, reason, now)
    }

    fn open(&mut self, reason: Reason, now: Time, policy: &Policy) -> Change {
        // The first probe only after one interval: what opened the breaker has just been seen.
        self.last_probe = now;
        self.next_probe = now + policy.probe_every;
        self.enter(State::Open, reason, now)
    }

    fn enter(&mut self, to: State, reason: Reason, now: Time) -> Change {
        let change = Change {
            from: self.state,
            to,
            reason,
        };
        self.out_since = match to {
            State::Closed => None,
            State::Open | State::HalfOpen => self.out_since.or(Some(now)),
        };
        (self.state, self.reason, self.since, self.in_a_row) = (to, reason, now, 0);
        change
    }
}
