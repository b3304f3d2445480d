//! The guards of the protocol: the conditions without which a payment could be lost or charged
//! twice. Each has the same name here and in a comment (`Guard: Name`) beside the statement or the
//! line of code that keeps it.

macro_rules! guards {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A guard of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Guard {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Guard {
            /// All of them, in the order of a payment's life.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// What it says.
            #[must_use]
            pub fn text(self) -> String {
                match self {
                    $(Self::$name => [$($doc),+].concat().trim().to_owned(),)+
                }
            }
        }
    };
}

guards! {
    /// A client hears 202 after the commit
    AcceptBeforeReply,
    /// An accept of a payment that is in the queue leaves its row as it is
    AcceptOnce,
    /// An accept takes out again what ledger or dead letters have
    AcceptLooksIntoLedger,
    /// It looks there after its INSERT, with a newer snapshot
    AcceptLooksAfterInsert,
    /// An accept of a logged queue is on disk before it counts
    AcceptIsDurable,
    /// Only a row that names no processor is claimed for any processor
    QueuedOnly,
    /// A claim locks the row before it reads it for the last time
    RowIsLocked,
    /// The claim writes processor and `requested_at` into the row
    ClaimWritesEvidence,
    /// Each claim has a number of its own
    AttemptGrows,
    /// A claim of a logged queue is on disk before it counts
    ClaimIsDurable,
    /// A lease ends, and the payment is claimed again
    LeaseEnds,
    /// A payment in doubt is claimed for its own processor
    SameProcessorInDoubt,
    /// and under its own `requested_at`
    SameRequestedAtInDoubt,
    /// A claim begins a new doubt, which outlasts its call
    ClaimBeginsDoubt,
    /// A claim is not sent after `SEND_WITHIN`
    SendBy,
    /// A failure that a processor reports is believed after a look-up
    FailureIsLookedUp,
    /// An absence proves nothing where the reply to the POST did not end the request
    AbsenceAfterReply,
    /// Nor while the POST is out
    AbsenceWhileOut,
    /// Nor while another instance holds the payment
    AbsenceElsewhere,
    /// Nor while an earlier attempt is open
    EarlierAttemptIsOpen,
    /// Nor before `doubt_until`
    DoubtUntil,
    /// A call that is left open begins a new doubt
    DoubtBeginsAnew,
    /// No absence is proof before the database's clock was watched for the longest doubt
    ClockIsWatched,
    /// A lease that ends later than any that begins now has ended
    LeaseOfTheFuture,
    /// The row goes and the ledger is written in one transaction
    SettleIsOneStep,
    /// Only the newest claim releases a payment
    ReleaseOfNewestClaim,
    /// and only under the `requested_at` that it was claimed with, in this life of the queue
    ReleaseOfItsAttempt,
    /// Only the newest claim makes a payment a dead letter
    DeadLetterOfNewestClaim,
    /// An operator's "not charged" waits for `doubt_until`
    WordWaitsForDoubt,
    /// and ends the claims before it
    WordCountsOn,
    /// A dead letter whose id a processor holds goes back to that processor
    RetryKeepsHolder,
    /// A charge is recorded whatever the claim and the row
    ChargeIsAFact,
    /// A claim of a queued payment removes what ledger or dead letters have
    ClaimLooksIntoLedger,
    /// A queue that was emptied is noticed and reported
    EmptiedQueueIsNoticed,
    /// What living instances knew is put back, in doubt at its processor
    PutBack,
    /// also where a client has posted it again meanwhile
    PutBackOverPosted,
    /// but not over a newer claim
    PutBackYields,
    /// and under a number that no claim of the queue before has
    PutBackCountsOn,
    /// What was left in doubt is put back for as long as a doubt lasts
    LeftInDoubtIsKept,
    /// and until that is done, however long the database is away
    KeptUntilPutBack,
    /// Nothing is claimed before all have put back
    ClaimsWaitForPutBack,
    /// or the calls of those that died are over
    ClaimsWaitForTheDead,
    /// An instance claims only in the queue that it knew when it set out to
    ClaimInKnownQueue,
    /// A claim of a queue that is gone is not sent
    ClaimOfGoneQueue,
    /// After such a crash each processor is asked before a first charge
    AskedAfterCrash,
}

impl Guard {
    /// Its name, as in the code.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}
