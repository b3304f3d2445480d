//! What an instance says of itself: log, counters, traces. It takes words and numbers.

pub mod log;
pub mod metrics;
pub mod trace;

use std::sync::Arc;

use metrics::{Counts, ProcessCounts, SpanCounts};
use reqwest::Url;
use trace::Tracer;

/// What one instance counts, and where its spans go. Clones are of the same instance.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// What it counts.
    pub counts: Arc<Counts>,
    /// Where its spans go.
    pub tracer: Tracer,
}

impl Telemetry {
    /// That of a new instance of a process, with spans for the collector, if there is one.
    ///
    /// # Errors
    /// Spans cannot be exported.
    pub fn start(process: &ProcessCounts, collector: Option<&Url>) -> anyhow::Result<Self> {
        let counts = Arc::new(Counts::new(process));
        let start = |collector| Tracer::start(collector, SpanCounts::clone(&counts.spans));
        let tracer = collector.map(start).transpose()?.unwrap_or_default();
        Ok(Self { counts, tracer })
    }
}
