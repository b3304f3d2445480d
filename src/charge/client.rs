//! The calls to one processor. None is ever repeated by itself.

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use reqwest::Url;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::pool::{Answer, Connections, Failed};
use super::{Lookup, Names, Reply};
use crate::claim::Claim;
use crate::config::ProcessorSettings;
use crate::metrics::{COUNTS, ProcessorCounts};
use crate::payment::format_time;
use crate::tls::{self, Authorities};
use crate::trace::{TRACEPARENT, Traceparent};

/// How long a processor has for `GET /payments/{id}`, which its configured delay does not slow down.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a processor has for `GET /payments/service-health`; two early callers wait for its next window.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a processor has for its totals of a range.
pub const SUMMARY_TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of a reply that a dead letter keeps.
const MAX_REASON_CHARS: usize = 500;

/// A processor that can be called.
#[derive(Debug, Clone)]
pub struct ProcessorClient {
    connections: Connections,
    timeout: Duration,
    payments: Uri,
    health: Url,
    summary: Url,
    counts: ProcessorCounts,
}

/// What a processor says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Payments fail.
    pub failing: bool,
    /// The least time that a payment takes, in milliseconds.
    pub min_response_time: u32,
}

/// What a processor charged over a range, by its own books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorTotals {
    /// Number of payments.
    pub total_requests: i64,
    /// Their sum.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub total_amount: Decimal,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PaymentRequest {
    correlation_id: Uuid,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    requested_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredPayment {
    correlation_id: Uuid,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    requested_at: DateTime<Utc>,
}

impl ProcessorClient {
    /// A client for one processor; `timeout` is what it has for one payment, `names` tells its address, `authorities`
    /// vouch for it where its URL is `https`.
    ///
    /// # Errors
    /// What the system trusts cannot be read, or the URL cannot take a path.
    pub fn new(
        settings: &ProcessorSettings,
        timeout: Duration,
        names: &Names,
        authorities: Option<&Authorities>,
    ) -> anyhow::Result<Self> {
        let is_https = settings.url.scheme() == "https";
        let tls = is_https.then(|| tls::trusting(authorities)).transpose();
        let tls = tls.with_context(|| format!("processor {}", settings.name))?;
        let at = |path: &[&str]| -> anyhow::Result<Url> {
            let mut url = settings.url.clone();
            url.path_segments_mut()
                .map_err(|()| anyhow::anyhow!("{} cannot take a path", settings.url))?
                .pop_if_empty()
                .extend(path);
            Ok(url)
        };
        Ok(Self {
            connections: Connections::new(names.clone(), tls),
            timeout,
            payments: at(&["payments"])?.as_str().parse()?,
            health: at(&["payments", "service-health"])?,
            summary: at(&["admin", "payments-summary"])?,
            counts: COUNTS.processor(&settings.name),
        })
    }

    /// What is counted of it.
    #[must_use]
    pub fn counts(&self) -> &ProcessorCounts {
        &self.counts
    }

    /// Posts the payment of a claim under its stamp, as part of that trace.
    pub async fn post(&self, claim: &Claim, traceparent: Option<Traceparent>) -> Reply {
        let body = PaymentRequest {
            correlation_id: claim.payment.correlation_id,
            amount: claim.payment.amount,
            requested_at: format_time(claim.requested_at),
        };
        let body = serde_json::to_vec(&body).expect("a plain structure of JSON values");
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.payments.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(Ok(traceparent)) = traceparent.map(|trace| trace.to_string().try_into()) {
            headers.insert(TRACEPARENT, traceparent);
        }
        match self.connections.send(request, &body, self.timeout).await {
            Ok(response) => {
                // The status is the answer, whatever follows it.
                let code = response.status().as_u16();
                let retry_after = retry_after(&response);
                let text = match response.into_body() {
                    Some(body) if code != 200 => printable(&body),
                    _ => String::new(),
                };
                Reply::Status {
                    code,
                    retry_after,
                    text,
                }
            }
            Err(Failed::NotConnected(error)) => Reply::NotConnected(error),
            Err(Failed::NoReply(error)) => Reply::NoReply(error),
        }
    }

    /// Asks whether the processor has a payment.
    pub async fn lookup(&self, correlation_id: Uuid) -> Lookup {
        let url = format!("{}/{correlation_id}", self.payments);
        let response = match self.get(&url, LOOKUP_TIMEOUT).await {
            Ok(response) => response,
            Err(error) => return Lookup::NoAnswer(error),
        };
        match response.status() {
            StatusCode::NOT_FOUND => Lookup::Absent,
            StatusCode::OK => match whole(response) {
                Ok(body) => read_lookup(correlation_id, &body),
                Err(error) => Lookup::NoAnswer(error),
            },
            status => Lookup::NoAnswer(status.to_string()),
        }
    }

    /// Asks how the processor is. `Ok(None)`: it was asked too often (429), which is no news.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn health(&self) -> Result<Option<Health>, String> {
        let response = self.get(self.health.as_str(), HEALTH_TIMEOUT).await?;
        match response.status() {
            StatusCode::OK => serde_json::from_slice(&whole(response)?)
                .map(Some)
                .map_err(in_words),
            StatusCode::TOO_MANY_REQUESTS => Ok(None),
            status => Err(status.to_string()),
        }
    }

    /// What the processor charged with `from <= requestedAt <= to`.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn totals(
        &self,
        token: &str,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<ProcessorTotals, String> {
        let mut url = self.summary.clone();
        url.query_pairs_mut()
            .append_pair("from", &from.to_rfc3339())
            .append_pair("to", &to.to_rfc3339());
        let mut request = get(url.as_str())?;
        let token = token.try_into().map_err(in_words)?;
        request.headers_mut().insert("X-Rinha-Token", token);
        let response = self.connections.send(request, &[], SUMMARY_TIMEOUT).await;
        let response = response.map_err(in_words)?;
        match response.status() {
            StatusCode::OK => serde_json::from_slice(&whole(response)?).map_err(in_words),
            status => Err(status.to_string()),
        }
    }

    async fn get(&self, url: &str, within: Duration) -> Result<Answer, String> {
        let response = self.connections.send(get(url)?, &[], within).await;
        response.map_err(in_words)
    }
}

fn get(url: &str) -> Result<Request<()>, String> {
    Request::get(url).body(()).map_err(in_words)
}

fn whole(response: Answer) -> Result<Vec<u8>, String> {
    let body = response.into_body();
    body.ok_or_else(|| "the reply cannot be read".to_owned())
}

fn in_words(error: impl ToString) -> String {
    error.to_string()
}

/// What the body of a 200 says of the payment that was asked for.
#[must_use]
pub fn read_lookup(correlation_id: Uuid, body: &[u8]) -> Lookup {
    match serde_json::from_slice(body) {
        Ok(StoredPayment {
            correlation_id: id,
            amount,
            requested_at,
        }) if id == correlation_id => Lookup::Found {
            amount,
            requested_at,
        },
        Ok(_) => Lookup::NoAnswer("the reply is about another payment".to_owned()),
        Err(error) => Lookup::NoAnswer(error.to_string()),
    }
}

fn retry_after(response: &Answer) -> Option<Duration> {
    /// The longest pause that a processor can ask for.
    const LONGEST: Duration = Duration::from_secs(60);
    let seconds = response
        .headers()
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST))
}

fn printable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.chars()
        .filter(|letter| !letter.is_control())
        .take(MAX_REASON_CHARS)
        .collect()
}
