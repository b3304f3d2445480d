//! How many files, connections included, an instance may have open, and what they are for.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that are asked for, where the system lets us: more than all limits of an instance together.
const WANTED: u64 = 16_384;
/// Files of all kinds that neither clients nor processors take: listeners, the log, the database (20), collectors,
/// threads that resolve names.
const KEPT: u64 = 128;
/// Operators take so many at most; there are few of them.
const OPERATORS: u64 = 128;
/// Clients get at least so many, however few there are.
const LEAST: u64 = 16;

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

/// Connections that clients may have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) clients: usize,
    pub(super) operators: usize,
}

/// Shares so many files: what clients do not get is left to calls to processors and to the database.
pub(super) fn share(files: u64, clients: usize) -> Shares {
    let operators = (files / 16).clamp(LEAST, OPERATORS);
    let rest = files.saturating_sub(KEPT + operators);
    let at_most = |share: u64| usize::try_from(share.max(LEAST)).unwrap_or(usize::MAX);
    Shares {
        clients: at_most(rest / 2).min(clients),
        operators: at_most(operators),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_files_for_processors_and_the_database() {
        for (files, clients, operators) in [
            (0, 16, 16),
            (256, 56, 16),
            (1_024, 416, 64),
            (4_096, 1_920, 128),
            (16_384, 4_096, 128),
            (u64::MAX, 4_096, 128),
        ] {
            assert_eq!(
                share(files, 4_096),
                Shares { clients, operators },
                "{files}"
            );
        }
    }
}
