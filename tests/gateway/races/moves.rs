//! The statements that race, and the states from which they start.

use payment_proxy::domain::cell::Cells;
use payment_proxy::pipeline::accept::{Accepted, enqueue};
use payment_proxy::pipeline::reconcile::{Scope, reconcile};
use payment_proxy::pipeline::restored::{Asked, ask};
use payment_proxy::pipeline::settle::{Anomaly, CompletedClaim, record};
use payment_proxy::processors::{Outcome, Processor};
use payment_proxy::store::claim::{Claim, ClaimedFor, claim_in_doubt, claim_queued, claim_untried};
use payment_proxy::store::database::Pool;
use payment_proxy::store::dead_letter::{discard, retry};
use payment_proxy::store::in_doubt::{Author, Resolution, decide};
use payment_proxy::telemetry::metrics::Counts;
use sqlx::PgPool;
use uuid::Uuid;

use super::site::Subject;
use crate::support::{Database, both, expire_lease, new_payment, production_terms, watched_clock};

/// The state of a payment before a race. The claim is always of `default`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// No table has it.
    Absent,
    /// Queued, never claimed.
    Queued,
    /// Queued again: its first claim released it.
    Released,
    /// Claimed; the lease runs.
    InFlight,
    /// The lease has ended; the processor may still charge.
    InDoubt,
    /// The lease has ended, and so has the time in which the processor may charge.
    DoubtOver,
    /// A dead letter.
    Dead,
    /// A dead letter whose id the processor holds.
    DeadHeld,
    /// In the ledger, and queued once more.
    Leftover,
    /// Claimed; but a crash of the server has emptied the unlogged queue.
    Lost,
}

impl Start {
    pub async fn set(self, database: &Database) -> Subject {
        let payment = new_payment();
        let mut subject = Subject {
            payment,
            claim: None,
        };
        if self == Self::Absent {
            return subject;
        }
        crate::support::enqueue(&database.pool, &[payment])
            .await
            .expect("the database answers");
        if self == Self::Queued {
            return subject;
        }
        let claims = claim_queued(&database.pool, production_terms(), "default", 1, 0).await;
        let claim = claims.expect("the database answers").pop();
        let claim = claim.expect("a queued payment");
        subject.claim = Some(claim.clone());
        match self {
            Self::Absent | Self::Queued | Self::InFlight => {}
            Self::Released => end(database, &subject, Move::Release).await,
            Self::InDoubt => expire_lease(database, &claim).await,
            Self::DoubtOver => {
                database
                    .execute(
                        "UPDATE payment_queue SET lease_until = now() - interval '1 ms',
                            doubt_until = now() - interval '1 ms'",
                    )
                    .await;
            }
            Self::Dead => end(database, &subject, Move::DeadLetter).await,
            Self::DeadHeld => end(database, &subject, Move::DeadLetterHeld).await,
            Self::Leftover => {
                end(database, &subject, Move::Release).await;
                end(database, &subject, Move::Settle).await;
            }
            Self::Lost => database.execute("TRUNCATE payment_queue").await,
        }
        subject
    }
}

async fn end(database: &Database, subject: &Subject, how: Move) {
    how.make(&database.pool, subject, &[]).await;
}

/// A statement that races.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// `accept_payment`.
    Accept,
    /// `accept_payment` with claim-on-accept.
    AcceptClaimed,
    /// `accept_payments`, with another payment.
    AcceptMany,
    /// `accept_payments` with claim-on-accept.
    AcceptManyClaimed,
    /// `claim_queued`, for `fallback`.
    ClaimQueued,
    /// `claim_untried`, for `fallback`.
    ClaimUntried,
    /// `claim_in_doubt`.
    ClaimInDoubt,
    /// `settle_payments`: the claim charged.
    Settle,
    /// `release`: the claim was proved not charged.
    Release,
    /// `release`: the claim got no proof.
    LeaveInDoubt,
    /// The claim becomes a dead letter.
    DeadLetter,
    /// The same, and the processor holds the id.
    DeadLetterHeld,
    /// `assign`: after a restore, `fallback` is found to have the payment.
    Assign,
    /// `put_back_payments`: the instance that holds the claim puts it into an emptied queue.
    PutBack,
    /// A dead letter is retried.
    Retry,
    /// A dead letter is discarded.
    Discard,
    /// `decide_in_doubt`: charged.
    SayCharged,
    /// `decide_in_doubt`: not charged.
    SayNotCharged,
    /// `put_right`: reconcile records the charge of `default`.
    PutRight,
}

pub const ACCEPTS: [Move; 4] = [
    Move::Accept,
    Move::AcceptClaimed,
    Move::AcceptMany,
    Move::AcceptManyClaimed,
];

/// What a statement did.
#[derive(Debug)]
pub struct Did {
    pub result: String,
    /// The claims of the payment that it made.
    pub claims: Vec<Claim>,
}

impl Did {
    fn only(result: &str) -> Self {
        Self {
            result: result.to_owned(),
            claims: Vec::new(),
        }
    }

    fn of(done: bool, result: &str) -> Self {
        Self::only(if done { result } else { "nothing" })
    }

    fn claims(claims: Vec<Claim>, id: Uuid) -> Self {
        let claims: Vec<Claim> = claims
            .into_iter()
            .filter(|claim| claim.payment.correlation_id == id)
            .collect();
        let result = match &claims[..] {
            [] => "claims nothing".to_owned(),
            [claim] => format!("claims #{} for {}", claim.attempt, claim.processor),
            claims => panic!("one row was claimed twice: {claims:?}"),
        };
        Self { result, claims }
    }
}

impl Move {
    /// The processor that has charged the payment when this statement runs.
    pub fn charged_by(self) -> Option<&'static str> {
        match self {
            Self::PutRight => Some("default"),
            Self::Assign => Some("fallback"),
            _ => None,
        }
    }

    /// Runs the statement, on a connection of that pool.
    pub async fn make(self, pool: &PgPool, subject: &Subject, processors: &[Processor]) -> Did {
        let did = match self {
            Self::Accept | Self::AcceptClaimed | Self::AcceptMany | Self::AcceptManyClaimed => {
                self.accept(pool, subject).await
            }
            Self::ClaimQueued | Self::ClaimUntried | Self::ClaimInDoubt => {
                self.claim(pool, subject).await
            }
            Self::Retry | Self::Discard | Self::SayCharged | Self::SayNotCharged => {
                self.operate(pool, subject).await
            }
            Self::PutRight => put_right(pool, subject, processors).await,
            Self::PutBack => put_back(pool, subject).await,
            Self::Assign => assign(pool, subject, processors).await,
            _ => self.complete(pool, subject).await,
        };
        did.unwrap_or_else(|error| {
            let code = error.as_database_error().and_then(|error| error.code());
            let code = code.unwrap_or_else(|| panic!("{self:?}: {error}"));
            Did::only(&format!("is refused: {code}"))
        })
    }

    async fn accept(self, pool: &PgPool, subject: &Subject) -> Result<Did, sqlx::Error> {
        let claimed_for = ClaimedFor {
            processor: "default",
            terms: production_terms(),
        };
        let is_claimed = matches!(self, Self::AcceptClaimed | Self::AcceptManyClaimed);
        let mut payments = vec![subject.payment];
        if matches!(self, Self::AcceptMany | Self::AcceptManyClaimed) {
            payments.push(new_payment());
        }
        let mut connection = pool.acquire().await?;
        let claimed_for = is_claimed.then_some(claimed_for);
        let (accepted, claims) = enqueue(&mut connection, &payments, claimed_for).await?;
        if let Some(other) = accepted.get(1) {
            assert_eq!(*other, Accepted::Queued, "the other payment of the batch");
        }
        let claims = Did::claims(claims, subject.payment.correlation_id).claims;
        let result = match (accepted[0], claims.is_empty()) {
            (Accepted::Queued, true) => "queues it",
            (Accepted::Queued, false) => "claims it",
            (Accepted::Known, _) => "knows it",
            (Accepted::Conflict { .. }, _) => "conflict",
        };
        Ok(Did {
            result: result.to_owned(),
            claims,
        })
    }

    async fn claim(self, pool: &PgPool, subject: &Subject) -> Result<Did, sqlx::Error> {
        let terms = production_terms();
        let claims = match self {
            Self::ClaimQueued => claim_queued(pool, terms, "fallback", 10, 0).await?,
            Self::ClaimUntried => claim_untried(pool, terms, "fallback", 10, 0).await?,
            _ => {
                let clock = watched_clock(terms);
                claim_in_doubt(pool, terms, &clock, &both(), 10, i64::MAX).await?
            }
        };
        Ok(Did::claims(claims, subject.payment.correlation_id))
    }

    /// Records how the claim ended.
    async fn complete(self, pool: &PgPool, subject: &Subject) -> Result<Did, sqlx::Error> {
        let claim = subject.claim.clone().expect("a claim");
        let reason = "no reason".to_owned();
        let outcome = match self {
            Self::Settle => Outcome::Charged {
                requested_at: claim.requested_at,
            },
            Self::Release => Outcome::NotCharged { reason },
            Self::LeaveInDoubt => Outcome::InDoubt {
                until: None,
                reason,
            },
            _ => Outcome::Dead {
                reason,
                held: self == Self::DeadLetterHeld,
            },
        };
        let ended = CompletedClaim { claim, outcome };
        let anomalies = record(pool, production_terms(), &[ended]).await?;
        Ok(Did::only(match (&anomalies[..], self) {
            ([], Self::Settle) => "settles",
            ([], _) => "ends",
            ([Anomaly::QueueRowGone(_)], _) => "records a charge without a row",
            (
                [
                    Anomaly::RecordedBefore {
                        charged, recorded, ..
                    },
                ],
                _,
            ) if charged == recorded => "was recorded before",
            _ => "CHARGED TWICE",
        }))
    }

    async fn operate(self, pool: &PgPool, subject: &Subject) -> Result<Did, sqlx::Error> {
        let id = subject.payment.correlation_id;
        let author = Author::new("somebody", "a test");
        let word = match self {
            Self::Retry => {
                return Ok(Did::of(retry(pool, Some(&[id])).await? == [id], "retries"));
            }
            Self::Discard => {
                return Ok(Did::of(
                    discard(pool, &[id], &author).await? == [id],
                    "discards",
                ));
            }
            Self::SayCharged => Resolution::Charged,
            _ => Resolution::NotCharged,
        };
        let decided = decide(pool, &[(id, None)], word, &author, false).await?;
        Ok(Did::only(&decided[0].outcome))
    }
}

async fn put_right(
    pool: &PgPool,
    subject: &Subject,
    processors: &[Processor],
) -> Result<Did, sqlx::Error> {
    let scope = Scope {
        from: None,
        to: None,
        ids: Some(vec![subject.payment.correlation_id]),
        repair: true,
        token: None,
        rate: std::num::NonZeroU32::new(10_000).expect("not 0"),
        without: Vec::new(),
    };
    let cells = Cells::make(1, |_| Pool::from(pool.clone()));
    let report = reconcile(&cells, processors, &scope, |_, _| {}).await;
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    let is_repaired = report.findings.iter().any(|finding| finding.repaired);
    Ok(Did::of(is_repaired, "repairs"))
}

async fn put_back(pool: &PgPool, subject: &Subject) -> Result<Did, sqlx::Error> {
    let (terms, claim) = (production_terms(), subject.claim.as_ref().expect("a claim"));
    let payments: i64 = sqlx::query_scalar(
        "SELECT put_back_payments(ARRAY[$1], ARRAY[$2], ARRAY[$3], ARRAY[$4], ARRAY[$5], ARRAY[$6],
            $7, $8)",
    )
    .bind(claim.payment.correlation_id)
    .bind(claim.payment.amount)
    .bind(claim.accepted_at)
    .bind(claim.attempt)
    .bind(&claim.processor)
    .bind(claim.requested_at)
    .bind(terms.lease)
    .bind(terms.late_charge)
    .fetch_one(pool)
    .await?;
    Ok(Did::of(payments == 1, "puts it back"))
}

async fn assign(
    pool: &PgPool,
    subject: &Subject,
    processors: &[Processor],
) -> Result<Did, sqlx::Error> {
    let claim = subject.claim.clone().expect("a claim");
    Ok(
        match ask(&pool.clone().into(), processors, &Counts::default(), claim).await {
            Asked::Decided(claim, Outcome::Charged { .. }) => {
                Did::only(&format!("finds it at {}", claim.processor))
            }
            Asked::Decided(_, outcome) => panic!("{outcome:?}"),
            Asked::Nowhere(_) => Did::only("nothing"),
        },
    )
}
