//! The calls to one processor. None is ever repeated by itself.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use chrono::{DateTime, Utc};
use http1_client::{Answer, Connections, Failed, Line, MOST_CONNECTIONS, Patience, Resolver};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Uri};
use reqwest::Url;
use rust_decimal::Decimal;
use serde::Serialize;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::reading::{
    Health, ProcessorTotals, read_health, read_lookup, read_post, read_totals, undocumented,
};
use super::verdict::Documented;
use super::{Lookup, Reply};
use crate::config::tls::{self, Authorities};
use crate::config::{ProcessorSettings, ProcessorsSettings};
use crate::domain::payment::format_time;
use crate::domain::traceparent::{TRACEPARENT, Traceparent};
use crate::domain::uptime::UptimeClock;
use crate::store::claim::Claim;
use crate::telemetry::Telemetry;
use crate::telemetry::log::Storm;
use crate::telemetry::metrics::ProcessorCounts;
use crate::telemetry::trace::Tracer;

/// How long a processor has for `GET /payments/{id}`, which its configured delay does not slow
/// down.
pub(crate) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a processor has for `GET /payments/service-health`; two early callers wait for its next
/// window.
pub(crate) const HEALTH_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a processor has for its totals of a range.
pub(crate) const SUMMARY_TIMEOUT: Duration = Duration::from_secs(10);
/// Early look-ups that are open at one processor at a time, at most, of all instances together (of
/// more instances than that, one each). With the 780 payments of the router's `shared_cap` they
/// stay below the 800 requests that a processor serves at once.
pub const LOOKUPS_AT_ONCE: u32 = 16;

/// A processor that can be called.
#[derive(Debug, Clone)]
pub struct ProcessorClient {
    connections: Connections,
    timeout: Duration,
    /// Its URL, to whose path those of the calls are added. A query is part of every call.
    base: Url,
    payments: Uri,
    counts: ProcessorCounts,
    tracer: Tracer,
    /// Says whether a payment may still be sent.
    clock: UptimeClock,
    /// Calls for which there was no file.
    out_of_files: Arc<Storm>,
    /// A place for each early look-up that may be open, if there is one instance.
    early_lookups: Arc<Semaphore>,
}

/// A processor under the name that it is configured with.
#[derive(Debug, Clone)]
pub struct Processor {
    /// Its name.
    pub name: String,
    /// Its calls.
    pub client: ProcessorClient,
}

/// Clients for the configured processors, with at most so many connections to each.
///
/// # Errors
/// A processor cannot be called at all.
pub fn processors(
    settings: &ProcessorsSettings,
    connections: usize,
    telemetry: &Telemetry,
) -> anyhow::Result<Arc<Vec<Processor>>> {
    let names = Resolver::of_system();
    let processors = settings.processors.0.iter().map(|processor| {
        let client = ProcessorClient::new(
            processor,
            settings.processor_timeout,
            &names,
            settings.authorities(),
        )?;
        Ok(Processor {
            name: processor.name.clone(),
            client: client
                .with_at_most(connections)
                .with_telemetry(&processor.name, telemetry),
        })
    });
    Ok(Arc::new(processors.collect::<anyhow::Result<Vec<_>>>()?))
}

/// What came back from a POST.
#[derive(Debug)]
pub struct Posted {
    /// The reply.
    pub reply: Reply,
    /// It was not sent for a reason that says nothing of the processor: no file for a connection,
    /// or too late.
    pub(super) is_our_fault: bool,
    /// The connection over which it came, if that can be used again.
    line: Option<Line>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PaymentRequest {
    correlation_id: Uuid,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    amount: Decimal,
    requested_at: String,
}

impl ProcessorClient {
    /// A client for one processor; `timeout` is what it has for one payment, `names` tells its
    /// address, `authorities` vouch for it where its URL is `https`.
    ///
    /// # Errors
    /// What the system trusts cannot be read, or the URL cannot take a path.
    pub fn new(
        settings: &ProcessorSettings,
        timeout: Duration,
        names: &Resolver,
        authorities: Option<&Authorities>,
    ) -> anyhow::Result<Self> {
        let is_https = settings.url.scheme() == "https";
        let tls = is_https.then(|| tls::trusting(authorities)).transpose();
        let of = || format!("processor {}", settings.name);
        let tls = tls.with_context(of)?;
        let payments = at(&settings.url, &["payments"]);
        Ok(Self {
            connections: Connections::new(names.clone(), tls, MOST_CONNECTIONS),
            timeout,
            payments: payments.as_str().parse().with_context(of)?,
            base: settings.url.clone(),
            counts: ProcessorCounts::default(),
            tracer: Tracer::default(),
            clock: UptimeClock::default(),
            out_of_files: Arc::default(),
            early_lookups: Arc::new(Semaphore::new(LOOKUPS_AT_ONCE as usize)),
        })
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(self, clock: UptimeClock) -> Self {
        Self { clock, ..self }
    }

    /// The same, counted under that name and traced.
    #[must_use]
    pub(crate) fn with_telemetry(self, name: &str, telemetry: &Telemetry) -> Self {
        Self {
            counts: telemetry.counts.processor(name),
            tracer: telemetry.tracer.clone(),
            ..self
        }
    }

    /// The same, with at most so many connections open at a time.
    #[must_use]
    pub fn with_at_most(self, connections: usize) -> Self {
        Self {
            connections: self.connections.with_at_most(connections),
            ..self
        }
    }

    /// Whether the payment of a claim may still be sent.
    #[must_use]
    pub fn may_send(&self, claim: &Claim) -> bool {
        self.clock.now() < claim.send_by
    }

    /// What is counted of it.
    #[must_use]
    pub fn counts(&self) -> &ProcessorCounts {
        &self.counts
    }

    /// Where the spans of its calls go.
    pub(super) fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Posts the payment of a claim under its requested_at, as part of that trace.
    ///
    /// If no answer has come after `overdue`, `watch` begins. If that ends first, the connection is
    /// closed and the answer is not waited for.
    pub async fn post<W: Future<Output = ()>>(
        &self,
        claim: &Claim,
        traceparent: Option<Traceparent>,
        overdue: Duration,
        watch: impl FnOnce() -> W,
    ) -> Posted {
        let id = claim.payment.correlation_id;
        let body = PaymentRequest {
            correlation_id: id,
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
        let mut is_our_fault = false;
        let (connections, idle) = (&self.connections, self.connections.idle());
        let is_due = || self.may_send(claim);
        let patience = Patience {
            within: self.timeout,
            quiet: overdue,
            watch,
        };
        let sent = connections.send_watched(idle, request, &body, patience, is_due);
        let (reply, line) = match sent.await {
            Ok(Answer {
                head,
                body,
                is_followed,
                is_first,
                line,
            }) => {
                let now = SystemTime::now();
                let reply = read_post(id, &head, body.as_deref(), now);
                // An answer that ends a connection which had served others may have been meant for
                // one of those, or for nobody: no later answer will show it.
                let may_be_stray = line.is_none() && !is_first;
                match reply {
                    Reply::Documented(Documented::Stored) if !is_followed => (reply, line),
                    Reply::Documented(_) if !is_followed && !may_be_stray => (reply, line),
                    _ => {
                        Line::close(line);
                        (undocumented(&head, body.as_deref(), now), None)
                    }
                }
            }
            Err(Failed::NotConnected(error)) => (Reply::NotConnected(error), None),
            Err(failed @ (Failed::OutOfFiles(_) | Failed::TooLate)) => {
                is_our_fault = true;
                if let Failed::OutOfFiles(error) = &failed
                    && let Some(times) = self.out_of_files.note()
                {
                    tracing::error!(
                        payments.unsent = times,
                        error,
                        "no more files may be open, so payments wait to be sent (ulimit -n)"
                    );
                }
                (Reply::NotConnected(failed.to_string()), None)
            }
            Err(failed @ (Failed::NoReply(_) | Failed::GivenUp)) => {
                (Reply::NoReply(failed.to_string()), None)
            }
        };
        Posted {
            reply,
            line,
            is_our_fault,
        }
    }

    /// Asks whether the processor has a payment. Its answer may be late news: an absence is nothing
    /// to act upon.
    pub async fn lookup(&self, correlation_id: Uuid) -> Lookup {
        let line = self.connections.idle();
        match self.ask(correlation_id, line, deadline()).await.0 {
            // The connection may be out of step.
            Lookup::OtherId(_) => self.ask(correlation_id, None, deadline()).await.0,
            lookup => lookup,
        }
    }

    /// The same while an attempt at the payment may be open, and while only so many others do:
    /// each of `instances` takes its share of [`LOOKUPS_AT_ONCE`] places.
    pub(super) async fn lookup_early(&self, correlation_id: Uuid, instances: u32) -> Lookup {
        let share = instances.clamp(1, LOOKUPS_AT_ONCE);
        match self.early_lookups.acquire_many(share).await {
            Ok(_place) => self.lookup(correlation_id).await,
            Err(closed) => Lookup::NoAnswer(closed.to_string()),
        }
    }

    /// Asks whether the processor has a payment after a reply to its POST, over the same
    /// connection. The answers come in the order of the requests, so the reply was the one to the
    /// POST where this one is understood. An absence is told twice in a row: what nobody asked for
    /// could be taken for the first. After a reply with which an absence proves nothing anyway it
    /// is asked once.
    pub async fn lookup_after(&self, posted: &mut Posted, correlation_id: Uuid) -> Lookup {
        let line = posted.line.take();
        match posted.reply {
            Reply::Documented(_) => self.ask_twice(correlation_id, line).await,
            _ => self.lookup(correlation_id).await,
        }
    }

    /// Asks whether the processor has a payment, over a connection of its own. An absence is told
    /// twice in a row.
    pub async fn lookup_anew(&self, correlation_id: Uuid) -> Lookup {
        self.ask_twice(correlation_id, None).await
    }

    async fn ask_twice(&self, correlation_id: Uuid, line: Option<Line>) -> Lookup {
        let until = deadline();
        let (first, line) = self.ask(correlation_id, line, until).await;
        let again = match first {
            Lookup::Absent => line,
            Lookup::OtherId(_) => None,
            answer => return answer,
        };
        self.ask(correlation_id, again, until).await.0
    }

    /// Asks over that connection, or over a new one. Returns the connection, too, if it can be used
    /// again.
    async fn ask(
        &self,
        correlation_id: Uuid,
        line: Option<Line>,
        until: Instant,
    ) -> (Lookup, Option<Line>) {
        let id = correlation_id.as_hyphenated().to_string();
        let request = match get(&at(&self.base, &["payments", &id])) {
            Ok(request) => request,
            Err(error) => return (Lookup::NoAnswer(error), None),
        };
        let within = until.saturating_duration_since(Instant::now());
        let asked = self
            .connections
            .send_over(line, request, &[], within, || true);
        match asked.await {
            Ok(answer) if answer.is_followed => {
                let reason = "more than one answer came".to_owned();
                (Lookup::NoAnswer(reason), None)
            }
            Ok(answer) => {
                let lookup = read_lookup(correlation_id, &answer.head, answer.body.as_deref());
                match lookup {
                    Lookup::Found { .. } | Lookup::Absent => (lookup, answer.line),
                    // After this the connection may be out of step.
                    lookup => {
                        Line::close(answer.line);
                        (lookup, None)
                    }
                }
            }
            Err(error) => (Lookup::NoAnswer(error.to_string()), None),
        }
    }

    /// Asks how the processor is. `Ok(None)`: it was asked too often (429), which is no news.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn health(&self) -> Result<Option<Health>, String> {
        let request = get(&at(&self.base, &["payments", "service-health"]))?;
        let answer = self.connections.send(request, &[], HEALTH_TIMEOUT).await;
        let Answer {
            head, body, line, ..
        } = answer.map_err(in_words)?;
        let health = read_health(&head, body.as_deref());
        if health.is_err() {
            Line::close(line);
        }
        health
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
        let mut url = at(&self.base, &["admin", "payments-summary"]);
        url.query_pairs_mut()
            .append_pair("from", &from.to_rfc3339())
            .append_pair("to", &to.to_rfc3339());
        let mut request = get(&url)?;
        let token = token.try_into().map_err(in_words)?;
        request.headers_mut().insert("X-Rinha-Token", token);
        let answer = self.connections.send(request, &[], SUMMARY_TIMEOUT).await;
        let answer = answer.map_err(in_words)?;
        read_totals(&answer.head, answer.body.as_deref())
    }
}

/// The URL of a call: the path added to that of the processor's URL, the query as it is there.
fn at(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

fn deadline() -> Instant {
    Instant::now() + LOOKUP_TIMEOUT
}

fn get(url: &Url) -> Result<Request<()>, String> {
    Request::get(url.as_str()).body(()).map_err(in_words)
}

fn in_words(error: impl ToString) -> String {
    error.to_string()
}
