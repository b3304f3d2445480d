//! What can happen, one step at a time.

use std::time::Duration;

use proptest::prelude::*;

/// Different payments in a sequence: few, so that steps meet.
pub const PAYMENTS: usize = 3;
/// Workers in a sequence.
pub const WORKERS: usize = 2;
/// Processors in a sequence.
pub const SITES: usize = 2;
/// Steps in a sequence, at most.
const STEPS: usize = 80;

/// One thing that happens. Where the worker that is named has nothing to do it with, another one
/// does it; numbers beyond what is there wrap around; with nothing there, nothing happens.
#[derive(Debug, Clone)]
pub enum Step {
    /// Clients post payments, which are accepted together; a worker has them claimed for a
    /// processor by the same commit, or not.
    Post {
        posted: Vec<Posted>,
        claimed: Option<(usize, usize)>,
    },
    /// A worker claims free payments for a processor.
    Claim {
        worker: usize,
        site: usize,
        limit: usize,
    },
    /// A worker claims payments that may have been charged.
    ClaimDoubtful { worker: usize, limit: usize },
    /// A worker asks the processors for what is held while its lease runs, whoever holds it.
    AskElsewhere { worker: usize },
    /// All leases end, as for workers that are stopped for a while, and a worker takes over.
    TakeOver { worker: usize, limit: usize },
    /// A worker sends one of the payments that it holds, however late.
    Send {
        worker: usize,
        nth: usize,
        fate: Fate,
    },
    /// A worker records the first ends that it holds; `twice` when it did not hear that it had.
    Settle {
        worker: usize,
        count: usize,
        twice: bool,
    },
    /// A worker dies with all that it holds: claims, calls under way, ends that are not recorded.
    Crash { worker: usize },
    /// A worker is told to stop: it sends nothing more, leaves open calls open, and records every
    /// end.
    Stop { worker: usize },
    /// Time goes by, for calls, leases and doubts.
    Pass(Duration),
    /// The database's clock is set forward or back, by so many seconds.
    SetClock(i64),
    /// All connections to a processor are cut and new ones refused for a while; it goes on with its
    /// work.
    CutOff { site: usize },
    /// A processor dies and comes back: what it was working on is not stored.
    Restart { site: usize },
    /// A payment is posted while it is settled or buried: it enters the queue once more.
    PostRace { nth: usize },
    /// An operator puts all dead letters back.
    RetryDead,
}

/// A payment as a client posts it.
#[derive(Debug, Clone, Copy)]
pub struct Posted {
    pub payment: usize,
    /// With another amount than usual.
    pub other_amount: bool,
}

/// What a processor, or the way to it, makes of one request.
#[derive(Debug, Clone, Copy)]
pub struct Fate {
    pub ending: Ending,
    /// How long the processor works on it, in seconds.
    pub slow: Option<u64>,
    /// The question that follows a reply without proof is lost, too.
    pub lookup_lost: bool,
    /// The reply is followed by another one that nobody asked for.
    pub unasked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Answered,
    /// Stored, connection closed.
    ReplyLost,
    /// Connection closed, not stored.
    RequestLost,
    /// Stored, never answered.
    ReplyHangs,
    /// Stored, answered with 500.
    FailAfter,
    /// Answered with 500, not stored.
    FailBefore,
    /// Answered with 429, not stored.
    TooMany,
    /// A proxy answers 504 at once; the processor goes on.
    GatewayTimeout,
    /// A gateway answers at once, with a status or page of its own; the processor goes on.
    GatewayGaveUp,
    /// Answered with 500 and an error of the processor's database; stored, or not.
    FailWithText,
    /// Answered with 400, not stored.
    Refused,
}

impl Ending {
    /// Whether the processor stores, or may store, a request that ends so.
    pub fn stores(self) -> bool {
        matches!(
            self,
            Self::Answered
                | Self::ReplyLost
                | Self::ReplyHangs
                | Self::FailAfter
                | Self::GatewayTimeout
                | Self::GatewayGaveUp
                | Self::FailWithText
        )
    }
}

/// Sequences of steps, the first of which is a post.
pub fn sequences() -> impl Strategy<Value = Vec<Step>> {
    (post(), prop::collection::vec(step(), 1..=STEPS)).prop_map(|(first, rest)| {
        let mut steps = vec![first];
        steps.extend(rest);
        steps
    })
}

fn step() -> impl Strategy<Value = Step> {
    let worker = || 0..WORKERS;
    prop_oneof![
        3 => post(),
        6 => (worker(), 0..SITES, 1..4_usize)
            .prop_map(|(worker, site, limit)| Step::Claim { worker, site, limit }),
        6 => (worker(), 1..4_usize).prop_map(|(worker, limit)| Step::ClaimDoubtful { worker, limit }),
        3 => (worker(), 1..4_usize).prop_map(|(worker, limit)| Step::TakeOver { worker, limit }),
        12 => (worker(), 0..3_usize, fate()).prop_map(|(worker, nth, fate)| Step::Send { worker, nth, fate }),
        8 => (worker(), 1..4_usize, prop::bool::weighted(0.2))
            .prop_map(|(worker, count, twice)| Step::Settle { worker, count, twice }),
        3 => worker().prop_map(|worker| Step::Crash { worker }),
        1 => worker().prop_map(|worker| Step::Stop { worker }),
        4 => pass().prop_map(Step::Pass),
        2 => clock_step().prop_map(Step::SetClock),
        1 => (0..SITES).prop_map(|site| Step::CutOff { site }),
        1 => (0..SITES).prop_map(|site| Step::Restart { site }),
        2 => (0..PAYMENTS).prop_map(|nth| Step::PostRace { nth }),
        3 => Just(Step::RetryDead),
        3 => worker().prop_map(|worker| Step::AskElsewhere { worker }),
    ]
}

fn post() -> impl Strategy<Value = Step> {
    let posted = prop::collection::vec(posted(), 1..=PAYMENTS);
    let claimed = prop::option::weighted(0.3, (0..WORKERS, 0..SITES));
    (posted, claimed).prop_map(|(posted, claimed)| Step::Post { posted, claimed })
}

fn posted() -> impl Strategy<Value = Posted> {
    (0..PAYMENTS, prop::bool::weighted(0.15)).prop_map(|(payment, other_amount)| Posted {
        payment,
        other_amount,
    })
}

fn fate() -> impl Strategy<Value = Fate> {
    let ending = prop_oneof![
        4 => Just(Ending::Answered),
        2 => Just(Ending::ReplyLost),
        2 => Just(Ending::RequestLost),
        2 => Just(Ending::ReplyHangs),
        2 => Just(Ending::FailAfter),
        2 => Just(Ending::FailBefore),
        1 => Just(Ending::TooMany),
        3 => Just(Ending::GatewayTimeout),
        3 => Just(Ending::GatewayGaveUp),
        1 => Just(Ending::FailWithText),
        6 => Just(Ending::Refused),
    ];
    // Either side of the call's timeout, and the longest just inside the time for late charges.
    let slow = prop_oneof![
        1 => Just(None),
        2 => prop::sample::select(vec![2, 10, 20, 45, 45]).prop_map(Some),
    ];
    let (lookup_lost, unasked) = (prop::bool::weighted(0.15), prop::bool::weighted(0.15));
    (ending, slow, lookup_lost, unasked).prop_map(|(ending, slow, lookup_lost, unasked)| Fate {
        ending,
        slow,
        lookup_lost,
        unasked,
    })
}

/// Lengths that end a pause, the right to send, a call, a lease, a doubt, and both of these.
fn pass() -> impl Strategy<Value = Duration> {
    prop::sample::select(vec![1, 2, 2, 4, 16, 21, 61, 95]).prop_map(Duration::from_secs)
}

/// Less than a lease, a lease, a doubt, an hour, a day, each way.
fn clock_step() -> impl Strategy<Value = i64> {
    let length = prop::sample::select(vec![5, 21, 85, 85, 600, 86_400]);
    (length, prop::bool::ANY).prop_map(|(length, back)| if back { -length } else { length })
}
