//! `POST /payments` and `GET /payments/{id}`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use uuid::Uuid;

use super::Processor;
use super::books::Payment;
use super::connection::Work;
use super::faults::{Ending, Plan};
use super::http::{Cut, Reply, empty, fixed, json, message, too_many};
use super::limiter::Entry;
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
        Err(wrong) => return Ok(message(StatusCode::BAD_REQUEST, wrong)),
    };
    let plan = processor.faults.plan_payment(payment.id);
    let cut = Cut { reset: plan.reset };
    if matches!(plan.ending, Ending::RequestLost | Ending::TooMany) {
        processor.faults.count(plan);
        return match plan.ending {
            Ending::RequestLost => Err(cut),
            _ => Ok(too_many()),
        };
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
        Outcome::Lost => Err(cut),
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
    if plan.ending == Ending::FailBefore {
        return Outcome::Reply(empty(StatusCode::INTERNAL_SERVER_ERROR));
    }
    let stored = processor.store(payment);
    if let Err(error) = &stored {
        tracing::error!(payment.id = %payment.id, %error, "payment not stored: the journal cannot be written");
    }
    match (plan.ending, stored) {
        (Ending::ReplyLost, _) => Outcome::Lost,
        (Ending::ReplyHangs, _) => Outcome::Silence,
        (Ending::FailAfter, _) => Outcome::Reply(empty(StatusCode::INTERNAL_SERVER_ERROR)),
        (_, Ok(true)) => Outcome::Reply(fixed(StatusCode::OK, Bytes::from_static(PROCESSED))),
        (_, Ok(false)) => Outcome::Reply(message(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!(
                "Payment could not be processed. CorrelationId already exists: {}.",
                payment.id
            ),
        )),
        (_, Err(error)) => Outcome::Reply(message(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
        )),
    }
}

/// Shows a stored payment. It needs a place like a charge, but knows no delay and no failure.
pub(super) async fn look_up(processor: &Processor, id: Uuid) -> Result<Reply, Cut> {
    if let Some(reset) = processor.faults.plan_lookup(id) {
        return Err(Cut { reset });
    }
    let _place = match processor.limiter.enter() {
        Entry::Now(place) => place,
        Entry::Later(turn) => turn.come().await,
        Entry::Refused => return Ok(too_many()),
    };
    Ok(match processor.payment(id) {
        Some(payment) => json(StatusCode::OK, &PaymentReply::from(&payment)),
        None => empty(StatusCode::NOT_FOUND),
    })
}
