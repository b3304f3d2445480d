//! What is explored, and what is found when a guard is taken away.

use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use crate::guard::Guard;
use crate::healing;
use crate::properties::Rule;
use crate::protocol::{Action, Config, Durability, Protocol, SHORT, Times, Work};
use crate::state::Budget;

/// What is explored.
#[derive(Debug, Clone, Copy)]
pub struct Exploration {
    /// Of what.
    pub config: Config,
    /// All states that are reached in so many steps; none: all.
    pub steps: Option<usize>,
    /// What has happened before.
    pub begin: &'static [Action],
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
    Exploration {
        config,
        steps,
        begin,
    }: Exploration,
    threads: usize,
    mut progress: impl FnMut(usize, usize),
) -> Explored {
    let begun_at = Instant::now();
    let checker = Protocol::new(config)
        .beginning_with(begin)
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
            let mut told = checker.model().told_of_beginning();
            let steps_told = steps.iter();
            told.extend(
                steps_told.filter_map(|(state, action)| action.map(|action| action.told(state))),
            );
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
            Some((steps.len(), rule, counted(told)))
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

/// The same, where what comes several times in a row stands there once.
fn counted(told: Vec<String>) -> Vec<String> {
    let several = told.chunk_by(|one, next| one == next);
    let counted = several.map(|same| match same.len() {
        1 => same[0].clone(),
        times => format!("{} ({times} times)", same[0]),
    });
    counted.collect()
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
        has_time: true,
        put_back_jump: 5,
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
        begin: &[],
    }
}

/// An unlogged queue with one claim at a time.
fn one_claim() -> Config {
    Config {
        claims: 1,
        ..unlogged()
    }
}

/// What needs no time, and so reaches further in as many steps.
fn in_no_time(config: Config) -> Config {
    Config {
        has_time: false,
        ..config
    }
}

/// What comes after the server has crashed while a call is open.
fn of_open_call(config: Config, steps: usize) -> Exploration {
    Exploration {
        begin: OPEN_CALL,
        ..up_to(config, steps)
    }
}

fn up_to(config: Config, steps: usize) -> Exploration {
    Exploration {
        steps: Some(steps),
        ..all(config)
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
        (
            "unlogged: a call is open when the server crashes",
            of_open_call(unlogged(), 13),
        ),
        (
            "unlogged: the server crashes, in no time",
            all(in_no_time(with(unlogged(), |it| it.crashes = 1))),
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
            "unlogged: a call is open when the server crashes, and an instance dies",
            of_open_call(with(unlogged(), |it| it.crashes = 1), 13),
        ),
        (
            "unlogged: the server crashes twice, in no time",
            up_to(in_no_time(with(unlogged(), |it| it.server_crashes = 2)), 18),
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
    let one_claim = || Config {
        claims: 1,
        claim_on_accept: false,
        ..unlogged()
    };
    // What needs no failures, or no time, is found sooner without.
    let two_claims = || Config {
        has_failures: false,
        claim_on_accept: false,
        ..unlogged()
    };
    let at_once = || Config {
        has_time: false,
        ..two_claims()
    };
    let unasked = |config| Config {
        nor: Some(Guard::AskedAfterCrash),
        ..config
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
        Guard::ClaimLooksIntoLedger => unasked(Config {
            has_failures: false,
            ..one_claim()
        }),
        Guard::ReleaseOfItsAttempt => unasked(at_once()),
        Guard::PutBackYields => unasked(two_claims()),
        Guard::ClaimInKnownQueue
        | Guard::ClaimOfGoneQueue
        | Guard::PutBackOverPosted
        | Guard::ClaimsWaitForPutBack => at_once(),
        Guard::ChargeIsAFact | Guard::PutBack | Guard::LeftInDoubtIsKept => one_claim(),
        Guard::KeptUntilPutBack => Config {
            has_failures: false,
            ..one_claim()
        },
        Guard::AskedAfterCrash | Guard::ClaimsWaitForTheDead | Guard::EmptiedQueueIsNoticed => {
            let config = Config {
                claims: 1,
                ..at_once()
            };
            with(config, |it| it.crashes = 1)
        }
        Guard::PutBackCountsOn => two_claims(),
        Guard::RetryKeepsHolder => with(two_claims(), |it| {
            (it.crashes, it.changes, it.retries) = (1, 1, 1)
        }),
        _ => logged(),
    };
    Exploration {
        begin: match guard {
            Guard::PutBackCountsOn => CLAIMED_IN_TWO_QUEUES,
            Guard::PutBackYields => GIVEN_UP,
            Guard::RetryKeepsHolder => CHARGED_AND_FORGOTTEN,
            _ => &[],
        },
        ..all(Config {
            without: Some(guard),
            symmetric: false,
            ..config
        })
    }
}

const POST: Action = Action::Post {
    payment: 0,
    amount: 0,
    instance: 0,
    claimed_for: None,
};
const ACCEPT: Action = Action::Accept {
    payment: 0,
    heard: true,
};
const CLAIM: Action = Action::ClaimQueued {
    instance: 0,
    processor: 0,
    payment: 0,
};
/// What the instance does that does not stand still, while the other one is given up.
const NOTICE: Action = Action::Notice { instance: 0 };
const PUT_BACK: Action = Action::PutBack { instance: 0 };

const fn of_doubt(instance: u8) -> Action {
    Action::ClaimInDoubt {
        instance,
        payment: 0,
    }
}
const START: Action = Action::Start { claim: 0 };
const SEND: Action = Action::Send { claim: 0 };

/// An instance stands still with its claim, since before the server crashed.
const GIVEN_UP: &[Action] = &[
    POST,
    ACCEPT,
    Action::ClaimQueued {
        instance: 1,
        processor: 0,
        payment: 0,
    },
    START,
    Action::CrashServer,
    NOTICE,
    PUT_BACK,
    Action::Tick,
    Action::Tick,
    Action::Tick,
    Action::Tick,
];

/// The server crashes while a call is open.
const OPEN_CALL: &[Action] = &[POST, ACCEPT, CLAIM, START, SEND, Action::CrashServer];

/// One instance left a payment in doubt, and another one has claimed it when the server crashes and
/// is away for long. The first one puts it back and is at it again; the other one stands still.
const CLAIMED_IN_TWO_QUEUES: &[Action] = &[
    POST,
    ACCEPT,
    CLAIM,
    START,
    SEND,
    Action::GiveUp { claim: 0 },
    Action::Ask {
        claim: 0,
        answered: true,
    },
    Action::Record {
        claim: 0,
        heard: true,
    },
    of_doubt(1),
    START,
    Action::CrashServer,
    Action::Tick,
    Action::Tick,
    Action::Tick,
    Action::Tick,
    NOTICE,
    PUT_BACK,
    Action::Gathered { instance: 0 },
    Action::Tick,
    Action::Tick,
    of_doubt(0),
];

/// An instance dies, and then the server, when a payment is charged and nobody else knows of it. It
/// is posted again, with another amount, when processors are not asked any more.
const CHARGED_AND_FORGOTTEN: &[Action] = &[
    POST,
    ACCEPT,
    CLAIM,
    START,
    SEND,
    Action::Work {
        claim: 0,
        work: Work::Stores,
    },
    Action::CrashInstance { instance: 0 },
    Action::CrashServer,
    Action::Notice { instance: 1 },
    Action::PutBack { instance: 1 },
    Action::Tick,
    Action::Tick,
    Action::Tick,
    Action::Tick,
    Action::Gathered { instance: 1 },
    Action::Tick,
    Action::Tick,
    Action::Tick,
    Action::Tick,
    Action::Post {
        payment: 0,
        amount: 1,
        instance: 1,
        claimed_for: None,
    },
    ACCEPT,
];

/// The row of a guard in the table of `docs/protocol.md`: what is found when it is taken away. None
/// where nothing is.
#[must_use]
pub fn row(guard: Guard) -> Option<String> {
    let found = explore(mutation(guard), 1, |_, _| ());
    let (rule, steps) = found.broken?;
    Some(format!(
        "| `{}` | {} | {} | {} |",
        guard.name(),
        guard.text(),
        rule.name(),
        steps.join("; ")
    ))
}
