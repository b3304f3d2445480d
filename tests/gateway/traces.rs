//! Traces as a collector and a processor get them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use payment_proxy::domain::traceparent::TRACEPARENT;
use prost::Message;
use reqwest::header::CONTENT_TYPE;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::support::{CENTS, Database, Gateway, eventually, payment_json, processor, processors};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

/// A collector that decodes what it is sent.
#[derive(Clone, Default)]
pub struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    pub services: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    pub async fn start() -> (Self, String) {
        let collector = Self::default();
        let taking = collector.clone();
        let routes = Router::new().route(
            "/v1/traces",
            post(async move |body: Bytes| {
                let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
                for resource in request.resource_spans {
                    let attributes = resource.resource.expect("a resource").attributes;
                    let service = attributes.iter().find(|pair| pair.key == "service.name");
                    let service = text(service.expect("a name").value.as_ref());
                    taking.services.lock().expect("a lock").push(service);
                    let spans = resource.scope_spans.into_iter();
                    let mut kept = taking.spans.lock().expect("a lock");
                    kept.extend(spans.flat_map(|scope| scope.spans));
                }
            }),
        );
        (collector, serve(routes).await)
    }

    /// The payments whose lives were traced.
    pub fn lives(&self) -> BTreeSet<Uuid> {
        let spans = self.spans.lock().expect("a lock");
        let lives = spans.iter().filter(|span| span.name == "payment");
        let ids = lives.map(|life| attribute(life, "payment.id"));
        ids.map(|id| id.parse().expect("a UUID")).collect()
    }

    /// The spans of a trace, by name; those of one name in the order of their begin.
    fn trace(&self, trace_id: &str) -> Vec<(String, Span)> {
        let spans = self.spans.lock().expect("a lock");
        let of_trace = spans.iter().filter(|span| hex(&span.trace_id) == trace_id);
        let mut named: Vec<(String, Span)> = of_trace
            .map(|span| (span.name.clone(), span.clone()))
            .collect();
        named.sort_by_key(|(name, span)| (name.clone(), span.start_time_unix_nano));
        named
    }
}

/// A processor that charges all, and remembers under which trace.
#[derive(Clone, Default)]
struct TracedProcessor(Arc<Mutex<Vec<Charged>>>);

/// The id of a payment, and the header that came with it.
type Charged = (String, Option<String>);

impl TracedProcessor {
    async fn start() -> (Self, String) {
        let processor = Self::default();
        let charging = processor.clone();
        let charge = async move |headers: HeaderMap, Json(body): Json<serde_json::Value>| {
            let id = body["correlationId"].as_str().expect("an id").to_owned();
            let header = headers.get(TRACEPARENT);
            let header = header.map(|header| header.to_str().expect("text").to_owned());
            charging.0.lock().expect("a lock").push((id, header));
            Json(serde_json::json!({"message": "payment processed successfully"}))
        };
        let health = async || Json(serde_json::json!({"failing": false, "minResponseTime": 0}));
        let routes = Router::new()
            .route("/payments", post(charge))
            .route("/payments/service-health", get(health));
        (processor, serve(routes).await)
    }

    fn traceparent_of(&self, id: Uuid) -> Option<String> {
        let charged = self.0.lock().expect("a lock");
        let mut of_id = charged
            .iter()
            .filter(|(charged, _)| *charged == id.to_string());
        let (_, traceparent) = of_id.next().expect("it was charged").clone();
        assert!(of_id.next().is_none(), "charged once");
        traceparent
    }
}

async fn serve(routes: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: Option<&opentelemetry_proto::tonic::common::v1::AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key == key);
    text(found.expect(key).value.as_ref())
}

async fn post_traced(gateway: &Gateway, id: Uuid, traceparent: &str) {
    let request = gateway.http.post("http://gateway/payments");
    let request = request
        .header(CONTENT_TYPE, "application/json")
        .header(TRACEPARENT, traceparent);
    let reply = request.body(payment_json(id, CENTS)).send().await;
    assert_eq!(reply.expect("a reply").status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn one_trace_goes_from_the_client_through_the_queue_to_the_processor() {
    let database = Database::create().await;
    let (collector, endpoint) = Collector::start().await;
    let (charging, url) = TracedProcessor::start().await;
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];

    // One instance accepts the payment and finds nobody to charge it; another settles it.
    let nobody = "default,0.05,http://127.0.0.1:1";
    let accepting = Gateway::start(&database, nobody, &settings).await;
    let id = Uuid::new_v4();
    post_traced(&accepting, id, &format!("00-{TRACE}-{CLIENT_SPAN}-01")).await;
    eventually("an attempt has ended", async || {
        accepting.json(&format!("/payments/{id}")).await["attempts"].as_i64() >= Some(2)
    })
    .await;
    accepting.stop().await;
    let names = |spans: &[(String, Span)]| -> Vec<String> {
        let mut names: Vec<String> = spans.iter().map(|(name, _)| name.clone()).collect();
        names.dedup();
        names
    };
    assert_eq!(
        names(&collector.trace(TRACE)),
        ["accept", "charge"],
        "exported before the instance was gone"
    );
    let settling = Gateway::start(&database, &format!("default,0.05,{url}"), &settings).await;
    settling.until_settled(&[id]).await;
    settling.stop().await;

    let trace = collector.trace(TRACE);
    assert_eq!(names(&trace), ["accept", "charge", "payment", "settle"]);
    let only = |name: &str| -> &Span {
        let mut named = trace.iter().filter(|(each, _)| each == name);
        let (_, span) = named.next().expect(name);
        assert!(named.next().is_none(), "one {name}");
        span
    };
    let life = only("payment");
    assert_eq!(hex(&life.parent_span_id), CLIENT_SPAN);
    assert_eq!(attribute(life, "payment.id"), id.to_string());
    assert_eq!(attribute(life, "processor.name"), "default");
    for (name, span) in trace.iter().filter(|(name, _)| name != "payment") {
        assert_eq!(
            span.parent_span_id, life.span_id,
            "{name} is a part of the life"
        );
        assert!(span.end_time_unix_nano <= life.end_time_unix_nano, "{name}");
    }
    let charges: Vec<&Span> = (trace.iter().filter(|(name, _)| name == "charge"))
        .map(|(_, span)| span)
        .collect();
    let (last, failed) = charges.split_last().expect("attempts");
    assert_eq!(attribute(last, "charge.verdict"), "charged");
    assert!(!failed.is_empty());
    for attempt in failed {
        assert_eq!(attribute(attempt, "charge.verdict"), "not_connected");
    }
    assert_eq!(
        charging.traceparent_of(id),
        Some(format!("00-{TRACE}-{}-01", hex(&last.span_id))),
        "the processor goes on where our attempt is"
    );
    let services = collector.services.lock().expect("a lock");
    assert!(services.iter().all(|service| service == "payment-proxy"));
}

#[tokio::test]
async fn the_client_decides_whether_it_is_traced() {
    let database = Database::create().await;
    let (collector, endpoint) = Collector::start().await;
    let (charging, url) = TracedProcessor::start().await;
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let gateway = Gateway::start(&database, &format!("default,0.05,{url}"), &settings).await;
    let [unsampled, untraced, invalid] = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
    let header = format!("00-{TRACE}-{CLIENT_SPAN}-00");
    post_traced(&gateway, unsampled, &header).await;
    gateway.post(untraced, CENTS).await;
    post_traced(&gateway, invalid, "00-nonsense").await;
    gateway.until_settled(&[unsampled, untraced, invalid]).await;
    gateway.stop().await;

    assert_eq!(collector.trace(TRACE).len(), 0, "the client said no");
    assert_eq!(charging.traceparent_of(unsampled), Some(header));
    // Where the client says nothing, the payment's id is the id of the trace.
    for id in [untraced, invalid] {
        let trace_id = id.simple().to_string();
        let trace = collector.trace(&trace_id);
        let names: Vec<&str> = trace.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["accept", "charge", "payment", "settle"]);
        assert!(trace[2].1.parent_span_id.is_empty());
        let told = charging.traceparent_of(id).expect("a header");
        assert!(told.starts_with(&format!("00-{trace_id}-")), "{told}");
    }
}

#[tokio::test]
async fn without_a_collector_the_clients_trace_is_passed_on_as_it_is() {
    let database = Database::create().await;
    let (charging, url) = TracedProcessor::start().await;
    let gateway = Gateway::start(&database, &format!("default,0.05,{url}"), &[]).await;
    let (traced, untraced) = (Uuid::new_v4(), Uuid::new_v4());
    let header = format!("00-{TRACE}-{CLIENT_SPAN}-01");
    post_traced(&gateway, traced, &header).await;
    gateway.post(untraced, CENTS).await;
    gateway.until_settled(&[traced, untraced]).await;
    assert_eq!(charging.traceparent_of(traced), Some(header));
    assert_eq!(charging.traceparent_of(untraced), None);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_its_traces_and_nothing_else() {
    let (database, default) = (Database::create().await, processor().await);
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    for _ in 0..5 {
        let ids = gateway.post_many(20).await;
        gateway.until_settled(&ids).await;
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
    }
    eventually("it is logged", async || {
        gateway.log().contains("traces are lost")
    })
    .await;
    let (took, log) = gateway.stop().await;
    assert!(took.as_secs() < 10, "{took:?}");
    assert_eq!(log.matches("traces are lost").count(), 1, "{log}");
}
