//! `POST /payments` and `GET /payments/{id}`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use uuid::Uuid;

use super::Processor;
use super::connection::Work;
use super::faults::{Ending, Plan};
use super::gateway::{self, Unasked};
use super::http::{Cut, Reply, chunked, empty, json, too_many, trace};
use super::limiter::{Entry, Place};
use super::records::Payment;
use super::wire::{PaymentReply, PaymentRequest};

/// The reply to a stored payment.
const PROCESSED: &[u8] = br#"{"message":"payment processed successfully"}"#;

/// What became of a payment.
enum Outcome {
    Reply(Reply),
    /// The reply is lost.
    Lost,
    /// The reply never comes.
    Silence,
}

/// Charges one payment, in the order of the real processor: limit, delay, failure, insert.
///
/// Whatever has to wait is done apart from the connection, so that it goes on when the client goes
/// away, even for a client that still waited for its turn. What need not wait is done on the spot.
pub(super) async fn charge(
    processor: &Arc<Processor>,
    work: &Work,
    body: &[u8],
) -> Result<Reply, Cut> {
    let payment = match PaymentRequest::read(body) {
        Ok(payment) => payment,
        Err(wrong) => {
            tracing::debug!(%wrong, "no payment");
            // Whatever else is configured, but not beyond the limit.
            return Ok(match place(processor).await {
                Some(_place) => empty(StatusCode::BAD_REQUEST),
                None => too_many(),
            });
        }
    };
    let plan = processor.faults.plan_payment(payment.id);
    let mut reply = charge_as_planned(processor, work, payment, plan).await?;
    if plan.unasked {
        processor.faults.count_unasked();
        reply.extensions_mut().insert(Unasked::new(plan.which));
    }
    Ok(reply)
}

async fn charge_as_planned(
    processor: &Arc<Processor>,
    work: &Work,
    payment: Payment,
    plan: Plan,
) -> Result<Reply, Cut> {
    let cut = || Cut { reset: plan.reset };
    let early = match plan.ending {
        Ending::RequestLost => Some(Err(cut())),
        Ending::TooMany => Some(Ok(too_many())),
        Ending::GatewayRefused => Some(Ok(gateway::reply(plan.which))),
        Ending::GatewayGaveUp => {
            let processor = Arc::clone(processor);
            work.begin(async move {
                if let Some(_place) = place(&processor).await {
                    let slower = plan.slower.unwrap_or_default();
                    tokio::time::sleep(processor.delay() + slower).await;
                    // Nobody hears what comes of it.
                    insert(&processor, payment, Plan::SMOOTH);
                }
            });
            Some(Ok(gateway::reply(plan.which)))
        }
        _ => None,
    };
    if let Some(early) = early {
        processor.faults.count(plan);
        return early;
    }
    let outcome = match processor.limiter.enter() {
        Entry::Refused => return Ok(too_many()),
        Entry::Now(_place) if plan.slower.is_none() && processor.delay().is_zero() => {
            insert(processor, payment, plan)
        }
        Entry::Now(place) => {
            let processor = Arc::clone(processor);
            let later = async move {
                let _place = place;
                charge_in_turn(&processor, payment, plan).await
            };
            work.finish(later).await.unwrap_or(Outcome::Lost)
        }
        Entry::Later(turn) => {
            let processor = Arc::clone(processor);
            let later = async move {
                let _place = turn.come().await;
                charge_in_turn(&processor, payment, plan).await
            };
            work.finish(later).await.unwrap_or(Outcome::Lost)
        }
    };
    match outcome {
        Outcome::Reply(reply) => Ok(reply),
        Outcome::Lost => Err(cut()),
        Outcome::Silence => std::future::pending().await,
    }
}

/// Delay, failure, insert: what a payment that has its place goes through.
async fn charge_in_turn(processor: &Processor, payment: Payment, plan: Plan) -> Outcome {
    let delay = processor.delay() + plan.slower.unwrap_or(Duration::ZERO);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    insert(processor, payment, plan)
}

/// Failure and insert. Nothing here waits for anything.
fn insert(processor: &Processor, payment: Payment, plan: Plan) -> Outcome {
    if processor.failing() {
        return Outcome::Reply(empty(StatusCode::INTERNAL_SERVER_ERROR));
    }
    processor.faults.count(plan);
    match plan.ending {
        Ending::FailBefore => return Outcome::Reply(empty(StatusCode::INTERNAL_SERVER_ERROR)),
        Ending::FailWithText if plan.which.is_multiple_of(2) => {
            return Outcome::Reply(database_is_away());
        }
        _ => {}
    }
    let stored = processor.store(payment);
    if let Err(error) = &stored {
        tracing::error!(payment.id = %payment.id, %error, "payment not stored: the journal cannot \
            be written");
    }
    match (plan.ending, stored) {
        (Ending::ReplyLost, _) => Outcome::Lost,
        (Ending::ReplyHangs, _) => Outcome::Silence,
        (Ending::FailWithText, _) => Outcome::Reply(database_is_away()),
        (Ending::FailAfter, _) => Outcome::Reply(empty(StatusCode::INTERNAL_SERVER_ERROR)),
        (_, Ok(true)) => Outcome::Reply(chunked(StatusCode::OK, [Bytes::from_static(PROCESSED)])),
        (_, Ok(false)) => Outcome::Reply(trace(
            StatusCode::UNPROCESSABLE_ENTITY,
            &format!(
                "Payment could not be processed. CorrelationId already exists: {}.",
                payment.id
            ),
        )),
        (_, Err(error)) => {
            Outcome::Reply(trace(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
        }
    }
}

/// The processor's database ended the connection: what had been sent may be stored.
fn database_is_away() -> Reply {
    let error = "An exception has been raised that is likely due to a transient failure.";
    trace(StatusCode::INTERNAL_SERVER_ERROR, error)
}

/// A place, as soon as there is one. None: too many wait for one.
async fn place(processor: &Processor) -> Option<Place> {
    match processor.limiter.enter() {
        Entry::Now(place) => Some(place),
        Entry::Later(turn) => Some(turn.come().await),
        Entry::Refused => None,
    }
}

/// Shows a stored payment. It needs a place like a charge, but knows no delay and no failure.
pub(super) async fn look_up(processor: &Processor, id: Uuid) -> Result<Reply, Cut> {
    if let Some(reset) = processor.faults.plan_lookup(id) {
        return Err(Cut { reset });
    }
    let Some(_place) = place(processor).await else {
        return Ok(too_many());
    };
    Ok(match processor.payment(id) {
        Some(payment) => json(StatusCode::OK, &PaymentReply::from(&payment)),
        None => empty(StatusCode::NOT_FOUND),
    })
}
