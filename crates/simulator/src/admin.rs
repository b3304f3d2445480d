//! The endpoints under `/admin`, all of which want the token.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::body::Body;
use super::http::{Reply, empty, is_json, json, message, not_allowed};
use super::listing::Listing;
use super::wire::{
    Changed, Configuration, DelayRequest, FailureRequest, Range, SummaryReply, TokenRequest,
};
use super::{Faults, Injected, Processor};

/// The header that carries the token.
const TOKEN_HEADER: &str = "x-rinha-token";

/// An outage begins this much after it was asked for, so that the reply still gets out.
const OUTAGE_STARTS_AFTER: Duration = Duration::from_millis(20);

/// What `/admin/faults` answers: the faults in force and how often each was injected.
#[derive(Serialize)]
struct FaultsReply {
    #[serde(flatten)]
    faults: Faults,
    injected: Injected,
}

/// Answers one request under `/admin`.
pub(super) fn answer(processor: &Arc<Processor>, head: &Parts, body: &[u8]) -> Reply {
    let token = head.headers.get(TOKEN_HEADER);
    if !token.is_some_and(|token| processor.admits(token.as_bytes())) {
        return empty(StatusCode::UNAUTHORIZED);
    }
    let path = head.uri.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let sets = path.starts_with("/admin/configurations/") && head.method == Method::PUT;
    if sets && !body.is_empty() && !is_json(&head.headers) {
        return empty(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    match (path, &head.method) {
        ("/admin/payments-summary", &Method::GET) => summary(processor, head),
        ("/admin/payments-summary", _) => not_allowed("GET"),
        ("/admin/payment-ids", &Method::GET) => listing(processor),
        ("/admin/payment-ids", _) => not_allowed("GET"),
        ("/admin/purge-payments", &Method::POST) => purge(processor),
        ("/admin/purge-payments", _) => not_allowed("POST"),
        ("/admin/configurations", &Method::GET) => configuration(processor),
        ("/admin/configurations", _) => not_allowed("GET"),
        ("/admin/configurations/token", &Method::PUT) => set_token(processor, body),
        ("/admin/configurations/delay", &Method::PUT) => set_delay(processor, body),
        ("/admin/configurations/failure", &Method::PUT) => set_failure(processor, body),
        (
            "/admin/configurations/token"
            | "/admin/configurations/delay"
            | "/admin/configurations/failure",
            _,
        ) => not_allowed("PUT"),
        ("/admin/faults", &Method::GET) => faults(processor),
        ("/admin/faults", &Method::PUT) => set_faults(processor, body),
        ("/admin/faults", _) => not_allowed("GET, PUT"),
        _ => empty(StatusCode::NOT_FOUND),
    }
}

fn summary(processor: &Processor, head: &Parts) -> Reply {
    let Ok(Query(range)) = Query::<Range>::try_from_uri(&head.uri) else {
        return empty(StatusCode::BAD_REQUEST);
    };
    let sum = processor.summary(range.from.map(|from| from.0), range.to.map(|to| to.0));
    // With all decimals of both, also of nothing.
    let mut fee = sum.amount * processor.fee();
    fee.rescale(sum.amount.scale() + processor.fee().scale());
    let reply = SummaryReply {
        total_amount: sum.amount,
        total_requests: sum.count,
        total_fee: fee,
        fee_per_transaction: processor.fee(),
    };
    json(StatusCode::OK, &reply)
}

fn listing(processor: &Arc<Processor>) -> Reply {
    let mut reply = Response::new(Body::Listing(Listing::new(processor)));
    reply.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    reply
}

fn purge(processor: &Processor) -> Reply {
    match processor.purge() {
        Ok(()) => message(StatusCode::OK, "All payments purged.".to_owned()),
        Err(error) => message(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Reads the body of a change and makes it.
fn change<T: DeserializeOwned>(body: &[u8], make: impl FnOnce(T) -> Reply) -> Reply {
    serde_json::from_slice(body).map_or_else(|_| empty(StatusCode::BAD_REQUEST), make)
}

/// How it behaves at present, which the real processor does not tell.
fn configuration(processor: &Processor) -> Reply {
    let configuration = Configuration {
        delay: processor.delay().as_millis(),
        failure: processor.failing(),
    };
    json(StatusCode::OK, &configuration)
}

fn set_token(processor: &Processor, body: &[u8]) -> Reply {
    change(body, |request: TokenRequest| {
        processor.set_token(request.token);
        empty(StatusCode::NO_CONTENT)
    })
}

fn set_delay(processor: &Processor, body: &[u8]) -> Reply {
    change(body, |request: DelayRequest| {
        let was = processor.delay().as_millis();
        let is = u64::try_from(request.delay).unwrap_or(0);
        processor.set_delay(Duration::from_millis(is));
        let config = "delay";
        let is = u128::from(is);
        json(StatusCode::OK, &Changed { config, was, is })
    })
}

fn set_failure(processor: &Processor, body: &[u8]) -> Reply {
    change(body, |request: FailureRequest| {
        let (config, was, is) = ("failure", processor.failing(), request.failure);
        processor.set_failing(is);
        json(StatusCode::OK, &Changed { config, was, is })
    })
}

fn faults(processor: &Processor) -> Reply {
    let (faults, injected) = processor.faults.get();
    json(StatusCode::OK, &FaultsReply { faults, injected })
}

/// Replaces all faults; those that the body does not name are off.
fn set_faults(processor: &Arc<Processor>, body: &[u8]) -> Reply {
    let mut wanted: Faults = match serde_json::from_slice(body) {
        Ok(wanted) => wanted,
        Err(wrong) => return message(StatusCode::BAD_REQUEST, wrong.to_string()),
    };
    let outage = Duration::from_millis(std::mem::take(&mut wanted.refuse_for_ms));
    if let Err(wrong) = processor.set_faults(wanted) {
        return message(StatusCode::BAD_REQUEST, wrong);
    }
    if !outage.is_zero() {
        let processor = Arc::clone(processor);
        tokio::spawn(async move {
            tokio::time::sleep(OUTAGE_STARTS_AFTER).await;
            processor.refuse_for(outage);
        });
    }
    faults(processor)
}
