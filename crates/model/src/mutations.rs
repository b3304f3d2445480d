//! What is explored, and what is found when a guard is taken away.

use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use crate::guard::Guard;
use crate::healing;
use crate::properties::Rule;
use crate::protocol::{Config, Durability, Protocol, SHORT, Times};
use crate::state::Budget;

/// What is explored.
#[derive(Debug, Clone, Copy)]
pub struct Exploration {
    /// Of what.
    pub config: Config,
    /// All states that are reached in so many steps; none: all.
    pub steps: Option<usize>,
}

/// What an exploration has found.
#[derive(Debug, Clone)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps to the furthest of them.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// The shortest way to a state in which a rule does not hold, in plain words.
    pub broken: Option<(Rule, Vec<String>)>,
}

/// Explores all states, or those up to the first in which a rule does not hold. `progress` is told
/// how many there are so far, now and then.
#[must_use]
pub fn explore(
    Exploration { config, steps }: Exploration,
    threads: usize,
    mut progress: impl FnMut(usize, usize),
) -> Explored {
    let begun_at = Instant::now();
    let checker = Protocol::new(config)
        .checker()
        .threads(threads)
        .target_max_depth(steps.unwrap_or(usize::MAX))
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs();
    while !checker.is_done() {
        std::thread::sleep(PROGRESS_PAUSE);
        progress(checker.unique_state_count(), checker.max_depth());
    }
    let checker = checker.join();
    let mut broken: Vec<(usize, Rule, Vec<String>)> = checker
        .discoveries()
        .into_iter()
        .filter_map(|(name, path)| {
            let rule = Rule::ALL.into_iter().find(|rule| rule.name() == name)?;
            let steps = path.into_vec();
            let mut told: Vec<String> = steps
                .iter()
                .filter_map(|(state, action)| action.map(|action| action.told(state)))
                .collect();
            let is_of_the_end = matches!(
                rule,
                Rule::NeverChargedTwice
                    | Rule::AcceptedEnds
                    | Rule::LostIsReported
                    | Rule::ChargedIsRecorded
            );
            if is_of_the_end && let Some((last, _)) = steps.last() {
                let end = healing::steps(checker.model(), last);
                told.push("and nothing goes wrong any more".to_owned());
                told.extend(end.into_iter().take(TOLD_OF_THE_END));
            }
            Some((steps.len(), rule, told))
        })
        .collect();
    broken.sort_by_key(|(steps, rule, _)| (*steps, *rule));
    Explored {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: begun_at.elapsed(),
        broken: broken
            .into_iter()
            .next()
            .map(|(_, rule, told)| (rule, told)),
    }
}

/// The time between two looks at a checker.
const PROGRESS_PAUSE: Duration = Duration::from_millis(20);
/// Steps of an end that does not come that are told.
const TOLD_OF_THE_END: usize = 12;

/// As many threads as there are processors to run them.
#[must_use]
pub fn all_threads() -> usize {
    available_parallelism().map_or(1, Into::into)
}

/// One payment in a logged queue, with each fault at most once.
#[must_use]
pub fn logged() -> Config {
    Config {
        durability: Durability::Logged,
        payments: 1,
        claims: 2,
        times: SHORT,
        budget: Budget {
            posts: [2, 0],
            changes: 1,
            ..Budget::default()
        },
        claim_on_accept: true,
        has_failures: true,
        symmetric: true,
        without: None,
        nor: None,
    }
}

/// The same in an unlogged queue that a crash of the server empties.
#[must_use]
pub fn unlogged() -> Config {
    let logged = logged();
    Config {
        durability: Durability::Unlogged,
        budget: Budget {
            posts: [2, 0],
            server_crashes: 1,
            ..Budget::default()
        },
        ..logged
    }
}

fn with(config: Config, budget: impl FnOnce(&mut Budget)) -> Config {
    let mut config = config;
    budget(&mut config.budget);
    config
}

fn all(config: Config) -> Exploration {
    Exploration {
        config,
        steps: None,
    }
}

/// An unlogged queue with one claim at a time.
fn one_claim() -> Config {
    Config {
        claims: 1,
        ..unlogged()
    }
}

fn up_to(config: Config, steps: usize) -> Exploration {
    Exploration {
        config,
        steps: Some(steps),
    }
}

/// What `make test` explores, by name.
#[must_use]
pub fn small() -> Vec<(&'static str, Exploration)> {
    let rare = with(logged(), |it| {
        (it.changes, it.refusals, it.retries, it.words, it.posts) = (0, 1, 1, 1, [1, 0]);
    });
    vec![
        (
            "logged: instances die",
            all(with(logged(), |it| it.crashes = 1)),
        ),
        (
            "logged: the server crashes",
            all(with(logged(), |it| it.server_crashes = 1)),
        ),
        ("logged: dead letters and the operator's word", all(rare)),
        (
            "logged: commits that nobody hears of",
            all(with(logged(), |it| (it.unheard, it.posts) = (1, [1, 0]))),
        ),
        (
            "logged: steps of the clock",
            all(with(logged(), |it| {
                (it.changes, it.clock_steps, it.posts) = (0, 1, [1, 0])
            })),
        ),
        ("unlogged: the server crashes", up_to(unlogged(), 14)),
        (
            "unlogged: instances die, too",
            up_to(with(one_claim(), |it| it.crashes = 1), 15),
        ),
    ]
}

/// What `make model` explores, beside [`small`].
#[must_use]
pub fn large() -> Vec<(&'static str, Exploration)> {
    vec![
        (
            "logged: everything that is rare, at most once",
            up_to(
                with(logged(), |it| {
                    (it.crashes, it.server_crashes, it.unheard) = (1, 1, 1);
                    (it.refusals, it.retries, it.words) = (1, 1, 1);
                }),
                18,
            ),
        ),
        (
            "logged: three claims at once",
            up_to(
                Config {
                    claims: 3,
                    ..with(logged(), |it| (it.changes, it.posts) = (0, [1, 0]))
                },
                30,
            ),
        ),
        (
            "logged: finer times",
            all(Config {
                times: Times {
                    send: 2,
                    call: 2,
                    lease: 5,
                    late: 3,
                },
                ..with(logged(), |it| (it.changes, it.crashes) = (0, 1))
            }),
        ),
        ("unlogged: the server crashes", up_to(unlogged(), 18)),
        (
            "unlogged: one claim at a time, instances die, too",
            up_to(with(one_claim(), |it| it.crashes = 1), 19),
        ),
        (
            "unlogged: another amount, the operator's word",
            up_to(with(one_claim(), |it| (it.words, it.changes) = (1, 1)), 18),
        ),
        (
            "unlogged: two payments",
            up_to(
                Config {
                    payments: 2,
                    ..with(unlogged(), |it| it.posts = [2, 1])
                },
                14,
            ),
        ),
    ]
}

/// A guard that is taken away, and where that shows.
#[must_use]
pub fn mutation(guard: Guard) -> Exploration {
    let logged = || with(logged(), |it| (it.changes, it.posts) = (0, [1, 0]));
    let twice = || with(logged(), |it| it.posts = [2, 0]);
    let unlogged = || Config {
        claims: 1,
        claim_on_accept: false,
        ..unlogged()
    };
    let config = match guard {
        Guard::AcceptBeforeReply => with(logged(), |it| it.crashes = 1),
        Guard::AcceptOnce | Guard::AcceptLooksIntoLedger | Guard::AcceptLooksAfterInsert => twice(),
        Guard::AcceptIsDurable | Guard::ClaimIsDurable => {
            with(logged(), |it| it.server_crashes = 1)
        }
        Guard::LeaseEnds => with(logged(), |it| it.crashes = 1),
        Guard::ClockIsWatched | Guard::LeaseOfTheFuture => with(logged(), |it| it.clock_steps = 1),
        Guard::SettleIsOneStep => with(logged(), |it| it.crashes = 1),
        Guard::DeadLetterOfNewestClaim => with(logged(), |it| it.refusals = 1),
        Guard::WordWaitsForDoubt => with(logged(), |it| it.words = 1),
        Guard::WordCountsOn => {
            let nor = Some(Guard::ReleaseOfItsAttempt);
            Config {
                nor,
                ..with(logged(), |it| it.words = 1)
            }
        }
        Guard::ClaimLooksIntoLedger => Config {
            nor: Some(Guard::AskedAfterCrash),
            has_failures: false,
            ..unlogged()
        },
        Guard::ClaimOfGoneQueue => Config {
            claims: 2,
            ..unlogged()
        },
        Guard::ReleaseOfItsAttempt | Guard::PutBackYields => Config {
            nor: Some(Guard::AskedAfterCrash),
            claims: 2,
            has_failures: false,
            ..unlogged()
        },
        Guard::ClaimInKnownQueue
        | Guard::ChargeIsAFact
        | Guard::EmptiedQueueIsNoticed
        | Guard::PutBack
        | Guard::PutBackOverPosted
        | Guard::PutBackCountsOn
        | Guard::ClaimsWaitForPutBack => unlogged(),
        Guard::AskedAfterCrash | Guard::ClaimsWaitForTheDead => {
            with(unlogged(), |it| it.crashes = 1)
        }
        Guard::LeftInDoubtIsKept | Guard::KeptUntilPutBack => unlogged(),
        Guard::RetryKeepsHolder => with(unlogged(), |it| {
            (it.crashes, it.changes, it.retries) = (1, 1, 1)
        }),
        _ => logged(),
    };
    all(Config {
        without: Some(guard),
        symmetric: false,
        ..config
    })
}

/// The table of `docs/protocol.md`: what is found when each guard is taken away. None where nothing
/// is.
#[must_use]
pub fn table() -> Vec<(Guard, Option<String>)> {
    let row = |guard: &Guard| {
        let found = explore(mutation(*guard), 1, |_, _| ());
        let line = found.broken.map(|(rule, steps)| {
            let steps = steps.join("; ");
            format!(
                "| `{}` | {} | {} | {steps} |",
                guard.name(),
                guard.text(),
                rule.name()
            )
        });
        (*guard, line)
    };
    Guard::of_logged_queues().map(|guard| row(&guard)).collect()
}
