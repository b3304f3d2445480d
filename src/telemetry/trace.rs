//! Traces: one span per payment life, under the trace of the client that posted it.
//!
//! A life begins at one instance and may end at another, and no `tracing` span crosses a queue. So
//! the queue keeps the client's `traceparent`, and everything else follows from the payment's id:
//! the id of the span of its life and, where the client sent no `traceparent`, the id of the trace.
//! Whoever settles a payment exports the span of its whole life, once; the spans below it
//! (`accept`, one `charge` per attempt, `settle`) are exported where they happen.
//!
//! Without an exporter nothing of this is done but one thing: the client's `traceparent` goes on to
//! the processor.

mod resource;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, Config, IdGenerator, RandomIdGenerator, SamplingDecision, ShouldSample,
    SpanData, SpanEvents, SpanExporter, SpanLinks, SpanProcessor,
};
use reqwest::Url;
use uuid::Uuid;

use crate::domain::traceparent::Traceparent;
use crate::telemetry::metrics::SpanCounts;

/// How long the collector has to take a batch of spans.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last spans have to be exported when the instance stops.
pub(crate) const TRACES_DRAIN: Duration = Duration::from_millis(500);

/// Where the spans of an instance go: to a collector, or nowhere, which is the default. Clones are
/// one tracer.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Export>>);

struct Export {
    processor: BatchSpanProcessor,
    sampler: Box<dyn ShouldSample>,
    ids: RandomIdGenerator,
    scope: InstrumentationScope,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exports = self.0.is_some();
        out.debug_struct("Tracer")
            .field("exports", &exports)
            .finish()
    }
}

impl Tracer {
    /// Exports spans to the collector at `endpoint`, by OTLP over HTTP, and counts them in
    /// `counts`. The variables of OpenTelemetry for the sampler, the batches, the headers and the
    /// resource hold.
    ///
    /// # Errors
    /// The exporter cannot be made.
    pub fn start(endpoint: &Url, counts: SpanCounts) -> anyhow::Result<Self> {
        let endpoint = format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'));
        // It has a runtime of its own, which cannot be made within another.
        let client = std::thread::spawn(|| {
            let builder = reqwest::blocking::Client::builder().tls_certs_only([]);
            // The collector is where the setting says, and its key goes nowhere else.
            let builder = builder
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none());
            builder.timeout(EXPORT_TIMEOUT).build()
        });
        let client = client
            .join()
            .map_err(|_| anyhow::anyhow!("the client of the collector cannot be made"))??;
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .build()?;
        let exporter = Reporting {
            exporter,
            failing: AtomicBool::new(false),
            counts,
        };
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let variable = |name| std::env::var(name).ok();
        processor.set_resource(&resource::resource(
            variable("OTEL_SERVICE_NAME").as_deref(),
            variable("OTEL_RESOURCE_ATTRIBUTES").as_deref(),
        ));
        Ok(Self(Some(Arc::new(Export {
            processor,
            sampler: Config::default().sampler,
            ids: RandomIdGenerator::default(),
            scope: InstrumentationScope::builder(env!("CARGO_PKG_NAME")).build(),
        }))))
    }

    /// Exports what is left, within [`TRACES_DRAIN`].
    pub async fn stop(self) {
        let Some(export) = self.0 else { return };
        let flush = move || export.processor.shutdown_with_timeout(TRACES_DRAIN);
        let flushed = tokio::time::timeout(TRACES_DRAIN, tokio::task::spawn_blocking(flush)).await;
        if !matches!(flushed, Ok(Ok(Ok(())))) {
            tracing::warn!("the last traces were not exported");
        }
    }

    /// The moment, if spans are exported: the begin of one.
    #[must_use]
    pub fn now(&self) -> Option<SystemTime> {
        self.0.as_ref().map(|_| SystemTime::now())
    }

    /// A payment was put into the queue by a post that began then.
    pub fn accepted(&self, payment: Subject, begun_at: Option<SystemTime>) {
        if let Some((life, begun_at)) = self.life(payment).zip(begun_at) {
            life.export(Step {
                name: "accept",
                kind: SpanKind::Server,
                span_id: life.export.ids.new_span_id(),
                begun_at,
                attributes: Vec::new(),
                status: Status::Unset,
            });
        }
    }

    /// Begins an attempt to charge a payment.
    #[must_use]
    pub fn attempt(&self, payment: Subject) -> Attempt<'_> {
        let life = self.life(payment);
        Attempt {
            life: life.map(|life| {
                let span_id = life.export.ids.new_span_id();
                (life, span_id, SystemTime::now())
            }),
            client: payment.client,
        }
    }

    /// The life of a payment has ended, by a statement that began then.
    pub fn ended(&self, payment: Subject, end: &LifeEnd<'_>, begun_at: Option<SystemTime>) {
        let Some((life, begun_at)) = self.life(payment).zip(begun_at) else {
            return;
        };
        let reason = end.reason;
        life.export(Step {
            name: if reason.is_some() {
                "dead_letter"
            } else {
                "settle"
            },
            kind: SpanKind::Client,
            span_id: life.export.ids.new_span_id(),
            begun_at,
            attributes: Vec::new(),
            status: Status::Unset,
        });
        let parent = life.client.map(|client| client.context(true));
        life.export_under(
            parent,
            Step {
                name: "payment",
                kind: SpanKind::Internal,
                span_id: life.own.span_id,
                begun_at: end.accepted_at,
                attributes: vec![
                    KeyValue::new("processor.name", end.processor.to_owned()),
                    KeyValue::new("payment.attempts", i64::from(end.attempts)),
                ],
                status: reason.map_or(Status::Unset, |reason| Status::error(reason.to_owned())),
            },
        );
    }

    fn life(&self, payment: Subject) -> Option<Life<'_>> {
        let export = self.0.as_deref()?;
        let Subject { id, client } = payment;
        let trace_id = client.map_or(TraceId::from(id.as_u128()), |client| client.trace_id);
        let parent =
            client.map(|client| Context::new().with_remote_span_context(client.context(true)));
        let sampled = export.sampler.should_sample(
            parent.as_ref(),
            trace_id,
            "payment",
            &SpanKind::Internal,
            &[],
            &[],
        );
        // Every instance decides the same: by the client's flag, or by the id of the trace.
        (sampled.decision == SamplingDecision::RecordAndSample).then_some(Life {
            export,
            id,
            own: Traceparent {
                trace_id,
                span_id: life_span_id(id),
                flags: TraceFlags::SAMPLED,
            },
            client,
        })
    }
}

/// A payment, by its id, and the place in a trace that its client named.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// The payment's id.
    pub id: Uuid,
    /// What the client sent.
    pub client: Option<Traceparent>,
}

/// An attempt to charge a payment.
pub struct Attempt<'a> {
    life: Option<(Life<'a>, SpanId, SystemTime)>,
    client: Option<Traceparent>,
}

impl Attempt<'_> {
    /// What the processor is told: this attempt's place in the trace, or what the client sent.
    #[must_use]
    pub fn traceparent(&self) -> Option<Traceparent> {
        match &self.life {
            Some((life, span_id, _)) => Some(Traceparent {
                span_id: *span_id,
                ..life.own
            }),
            None => self.client,
        }
    }

    /// It ended, and `tell` says what is known of it.
    pub fn end(self, tell: impl FnOnce() -> AttemptEnd) {
        let Some((life, span_id, begun_at)) = self.life else {
            return;
        };
        let AttemptEnd {
            processor,
            attempt,
            requested_at,
            verdict,
            error,
        } = tell();
        life.export(Step {
            name: "charge",
            kind: SpanKind::Client,
            span_id,
            begun_at,
            attributes: vec![
                KeyValue::new("processor.name", processor),
                KeyValue::new("payment.attempt", i64::from(attempt)),
                KeyValue::new("charge.requested_at", requested_at),
                KeyValue::new("charge.verdict", verdict),
            ],
            status: error.map_or(Status::Unset, Status::error),
        });
    }
}

/// How an attempt ended, in words.
#[derive(Debug)]
pub struct AttemptEnd {
    /// The processor that was called.
    pub processor: String,
    /// The number of the claim, from 1.
    pub attempt: i32,
    /// The time under which the processor was to record the payment.
    pub requested_at: String,
    /// What is proved.
    pub verdict: &'static str,
    /// What was wrong, where the payment was not charged.
    pub error: Option<String>,
}

/// How the life of a payment ended.
#[derive(Debug)]
pub struct LifeEnd<'a> {
    /// The processor of its last claim.
    pub processor: &'a str,
    /// How often it was claimed.
    pub attempts: i32,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// Why it was given up, where it was.
    pub reason: Option<&'a str>,
}

/// The span of a payment's life, where its trace is exported.
struct Life<'a> {
    export: &'a Export,
    id: Uuid,
    own: Traceparent,
    client: Option<Traceparent>,
}

/// A span below it.
struct Step {
    name: &'static str,
    kind: SpanKind,
    span_id: SpanId,
    begun_at: SystemTime,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Life<'_> {
    fn export(&self, step: Step) {
        self.export_under(Some(self.own.context(false)), step);
    }

    fn export_under(&self, parent: Option<SpanContext>, mut step: Step) {
        let id = KeyValue::new("payment.id", self.id.to_string());
        step.attributes.push(id);
        let own = Traceparent {
            span_id: step.span_id,
            ..self.own
        };
        self.export.processor.on_end(SpanData {
            span_context: own.context(false),
            parent_span_id: parent
                .as_ref()
                .map_or(SpanId::INVALID, SpanContext::span_id),
            parent_span_is_remote: parent.is_some_and(|parent| parent.is_remote()),
            span_kind: step.kind,
            name: step.name.into(),
            start_time: step.begun_at,
            end_time: SystemTime::now(),
            attributes: step.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: step.status,
            instrumentation_scope: self.export.scope.clone(),
        });
    }
}

/// The span of a payment's life has the same id wherever and whenever it is asked for. Both halves
/// of the payment's id count, since clients may count in either.
fn life_span_id(id: Uuid) -> SpanId {
    /// An odd number, so that no two upper halves are multiplied to the same.
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
    let (upper, lower) = id.as_u64_pair();
    SpanId::from((upper.wrapping_mul(SPREAD) ^ lower).max(1))
}

/// Says once that spans are lost, and once that they are not any more.
#[derive(Debug)]
struct Reporting<E> {
    exporter: E,
    failing: AtomicBool,
    counts: SpanCounts,
}

impl<E: SpanExporter> SpanExporter for Reporting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        let failing = self.failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Ok(()) if failing => tracing::info!("traces are exported again"),
            Err(error) if !failing => {
                tracing::warn!(error = %error, "traces are lost: the collector does not take them");
            }
            _ => {}
        }
        match &exported {
            Ok(()) => self.counts.exported.add_batch(spans),
            Err(_) => self.counts.lost.add_batch(spans),
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_that_are_counted_up_in_either_half_have_spans_of_their_own() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..1_000 {
            seen.insert(life_span_id(Uuid::from_u64_pair(7, n)));
            seen.insert(life_span_id(Uuid::from_u64_pair(8 + n, 0)));
        }
        assert_eq!(seen.len(), 2_000);
        assert_ne!(life_span_id(Uuid::nil()), SpanId::INVALID);
    }
}
