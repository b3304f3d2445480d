//! How many files, connections included, an instance may have open, and what they are for. Clients,
//! operators and processors have a share each, which nobody exceeds; what is left over is for the
//! database and for all else.

use http1_client::MOST_CONNECTIONS;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::http::Limits;

/// Files that are asked for, where the system lets us: more than all limits of an instance
/// together.
const WANTED: u64 = 16_384;
/// Files that are in no share: the database (20), listeners, the log, collectors, threads that
/// resolve names.
const KEPT: u64 = 128;
/// Operators take so many at most; there are few of them.
const OPERATORS: u64 = 128;
/// Each share has at least so many, however few there are.
const LEAST: u64 = 16;
/// Of the connections to a processor, one in so many is kept for questions: look-ups and its
/// health.
const FOR_QUESTIONS: usize = 4;

/// Raises the limit as far as is allowed and useful. Returns what it is now.
pub(super) fn raise_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return WANTED;
    };
    let wanted = hard.min(WANTED);
    if soft >= wanted || setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_err() {
        return soft;
    }
    wanted
}

/// Connections that may be open at a time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) clients: usize,
    pub(super) operators: usize,
    /// To each processor.
    pub(super) processor: usize,
}

impl Shares {
    /// Says where clients cannot be as many as they could with more than these `files`.
    pub(super) fn warn_of_few(&self, files: u64) {
        if self.clients < Limits::default().connections {
            tracing::warn!(
                files.most = files,
                clients.most = self.clients,
                processor.connections.most = self.processor,
                "few files may be open (ulimit -n), so fewer clients can be connected than \
                otherwise"
            );
        }
    }

    /// Payments that may be on their way to one processor.
    pub(super) fn payments(&self) -> u32 {
        let payments = self.processor - self.processor / FOR_QUESTIONS;
        u32::try_from(payments).unwrap_or(u32::MAX)
    }
}

/// Shares so many files: half of them for at most `clients` clients, the rest for calls to so many
/// processors.
pub(super) fn share(files: u64, clients: usize, processors: usize) -> Shares {
    let operators = (files / 16).clamp(LEAST, OPERATORS);
    let rest = files.saturating_sub(KEPT + operators);
    let at_most = |share: u64| usize::try_from(share.max(LEAST)).unwrap_or(usize::MAX);
    let clients = at_most(rest / 2).min(clients);
    let calls = rest.saturating_sub(clients as u64);
    Shares {
        clients,
        operators: at_most(operators),
        processor: at_most(calls / processors.max(1) as u64).min(MOST_CONNECTIONS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_share_is_for_its_own_and_all_of_them_leave_some_for_the_database() {
        for (files, clients, operators, processor) in [
            (0, 16, 16, 16),
            (256, 56, 16, 28),
            (1_024, 416, 64, 208),
            (4_096, 1_920, 128, 960),
            (16_384, 4_096, 128, 1_300),
            (u64::MAX, 4_096, 128, 1_300),
        ] {
            let shares = share(files, 4_096, 2);
            let expected = Shares {
                clients,
                operators,
                processor,
            };
            assert_eq!(shares, expected, "{files}");
            let taken = clients + operators + 2 * processor;
            let few = files < KEPT + 4 * LEAST;
            assert!(few || taken as u64 + KEPT <= files, "{files}");
            assert!((1..processor).contains(&(shares.payments() as usize)));
        }
    }
}
