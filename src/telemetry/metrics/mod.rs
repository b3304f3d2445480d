//! What this instance counts of its own doing.
//!
//! An instance has one [`Counts`], which its parts are given. Everything is counted where it
//! happens, on handles that are made once: an atomic add per event, or per batch of them, and no
//! label is looked up by a string for a payment. What is not an event but a state (the router's
//! beliefs, the pools, the queue) is read by the [`Scrape`](crate::scrape::Scrape).

mod series;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

pub use series::Total;

/// The names of all metrics begin with this and an underscore.
pub(crate) const PREFIX: &str = "payment_proxy";

/// Upper bounds of the time from a readable post to its answer, in seconds.
const POST_BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.011, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0,
];
/// Upper bounds of the time that a processor takes, in seconds; the last is when we give up by
/// default.
const PROCESSOR_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0,
];
/// Upper bounds of the time from acceptance to settlement, in seconds. 1.5 is what an audit allows.
const SETTLE_BUCKETS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

type Labels = Vec<(&'static str, String)>;
type Totals = Family<Labels, Total>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// All counters and histograms of an instance.
#[derive(Debug)]
#[allow(missing_docs)] // Each has its help text below.
pub struct Counts {
    pub accepted: Total,
    pub repeated: Total,
    pub refused: Refused,
    pub post_seconds: Histogram,
    pub claimed_queued: Total,
    pub claimed_in_doubt: Total,
    pub settle_seconds: Histogram,
    pub released: Total,
    pub left_in_doubt: Total,
    pub dead: Total,
    pub mismatches: Total,
    pub row_gone: Total,
    pub recorded_before: Total,
    pub charged_twice: Total,
    pub clock_steps: Total,
    pub queue_emptied: Total,
    pub put_back: Total,
    pub unrecorded: Gauge,
    pub spans: SpanCounts,
    pub wrong_tokens: Total,
    pub connections_evicted: Total,
    attempts: Totals,
    early_lookups: Totals,
    processor_seconds: Histograms,
    settled: Totals,
    breaker_changes: Totals,
    database_errors: Totals,
    pub(crate) registry: Registry,
}

impl Default for Counts {
    /// Those of an instance of which nobody asks what its process counts.
    fn default() -> Self {
        Self::new(&ProcessCounts::default())
    }
}

/// Posts that were refused, by reason.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Refused {
    pub media_type: Total,
    pub body: Total,
    pub malformed: Total,
    pub invalid: Total,
    pub conflict: Total,
    pub held: Total,
    pub overloaded: Total,
    pub database: Total,
}

/// Spans, by what became of them.
#[derive(Debug, Clone, Default)]
pub struct SpanCounts {
    /// The collector took them.
    pub exported: Total,
    /// The collector did not take them.
    pub lost: Total,
}

/// What a process counts as a whole, because it has one log and one handler of panics. All of its
/// instances show it.
#[derive(Debug, Clone)]
pub struct ProcessCounts {
    /// Lines of the log that were dropped.
    pub log_lines: LogLines,
    /// Panics.
    pub panics: Total,
    log_lines_dropped: Totals,
}

impl Default for ProcessCounts {
    fn default() -> Self {
        let log_lines_dropped = Totals::default();
        let dropped = |why| log_lines_dropped.get_or_create_owned(&label("reason", why));
        Self {
            log_lines: LogLines {
                overflowed: dropped("overflowed"),
                unwritable: dropped("unwritable"),
            },
            panics: Total::default(),
            log_lines_dropped,
        }
    }
}

/// Lines of the log that were dropped, by reason.
#[derive(Debug, Clone, Default)]
pub struct LogLines {
    /// Nobody read as fast as lines came.
    pub overflowed: Total,
    /// The destination took none.
    pub unwritable: Total,
}

/// The handles of one processor.
#[derive(Debug, Clone)]
pub struct ProcessorCounts {
    /// How long a POST to it took, answered or not.
    pub seconds: Histogram,
    charged: Total,
    declined: Total,
    throttled: Total,
    not_connected: Total,
    refused: Total,
    mismatch: Total,
    unknown: Total,
    /// By occasion and result.
    early_lookups: [[Total; 3]; 2],
}

/// On what occasion a processor was asked for a payment whose attempt is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyLookup {
    /// The answer to a POST of this instance is overdue.
    DuringCall,
    /// Another instance holds the payment, which may have died.
    HeldElsewhere,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyLookupResult {
    /// The processor has charged it.
    Found,
    /// The processor does not have it yet, which proves nothing.
    Absent,
    /// Neither is known.
    NoAnswer,
}

/// How an attempt to charge a payment ended, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Their names are those of the label `outcome`.
pub enum AttemptOutcome {
    Charged,
    Declined,
    Throttled,
    NotConnected,
    Refused,
    Mismatch,
    Unknown,
}

impl ProcessorCounts {
    /// Counts an attempt that was begun.
    pub fn attempt(&self, outcome: AttemptOutcome) {
        let total = match outcome {
            AttemptOutcome::Charged => &self.charged,
            AttemptOutcome::Declined => &self.declined,
            AttemptOutcome::Throttled => &self.throttled,
            AttemptOutcome::NotConnected => &self.not_connected,
            AttemptOutcome::Refused => &self.refused,
            AttemptOutcome::Mismatch => &self.mismatch,
            AttemptOutcome::Unknown => &self.unknown,
        };
        total.add(1);
    }

    /// Counts an early look-up.
    pub(crate) fn early_lookup(&self, occasion: EarlyLookup, result: EarlyLookupResult) {
        self.early_lookups[occasion as usize][result as usize].add(1);
    }

    /// How many early look-ups there were.
    #[must_use]
    pub fn early_lookups(&self, occasion: EarlyLookup, result: EarlyLookupResult) -> u64 {
        self.early_lookups[occasion as usize][result as usize].value()
    }
}

impl Default for ProcessorCounts {
    /// Handles that no registry has.
    fn default() -> Self {
        Self {
            seconds: processor_histogram(),
            charged: Total::default(),
            declined: Total::default(),
            throttled: Total::default(),
            not_connected: Total::default(),
            refused: Total::default(),
            mismatch: Total::default(),
            unknown: Total::default(),
            early_lookups: Default::default(),
        }
    }
}

impl Counts {
    /// The counts of a new instance, which shows those of its process beside them.
    #[must_use]
    pub fn new(process: &ProcessCounts) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let mut all = Registering(&mut registry);
        let refused = all.totals("refused", "Posts that were refused, by reason");
        let because = |reason: &str| refused.get_or_create_owned(&label("reason", reason));
        let claimed = all.totals(
            "claimed",
            "Payments claimed: queued ones to be charged, those in doubt to be asked for",
        );
        let returned = all.totals(
            "returned",
            "Claims that ended without a charge, by what the payment is now",
        );
        let anomalies = all.totals(
            "anomalies",
            "Charges that were not recorded the usual way: the \
            queue row was gone, recorded before, or charged by two processors",
        );
        all.shared(
            "log_lines_dropped",
            "Lines of the log that were dropped: nobody read as fast \
            as they came, or they could not be written",
            &process.log_lines_dropped,
        );
        all.shared(
            "panics",
            "Panics, each a fault of the program: the log says where",
            &process.panics,
        );
        let kind = |family: &Totals, kind: &str| family.get_or_create_owned(&label("kind", kind));
        Self {
            accepted: all.total("accepted", "Payments put into the queue"),
            repeated: all.total("repeated", "Posts of a payment that was accepted before"),
            refused: Refused {
                media_type: because("media_type"),
                body: because("body"),
                malformed: because("malformed"),
                invalid: because("invalid"),
                conflict: because("conflict"),
                held: because("held"),
                overloaded: because("overloaded"),
                database: because("database"),
            },
            post_seconds: all.histogram(
                "post_seconds",
                "Time from a readable post to its answer",
                post_histogram,
            ),
            claimed_queued: kind(&claimed, "queued"),
            claimed_in_doubt: kind(&claimed, "in_doubt"),
            settle_seconds: all.histogram(
                "settle_seconds",
                "Time from acceptance, by the \
                database's clock, until the charge is recorded, by this host's",
                settle_histogram,
            ),
            released: kind(&returned, "queued"),
            left_in_doubt: kind(&returned, "in_doubt"),
            dead: all.total("dead", "Payments given up as dead letters"),
            mismatches: all.total(
                "mismatches",
                "Payments given up because a processor has \
                something with their id that we cannot have sent",
            ),
            row_gone: kind(&anomalies, "row_gone"),
            recorded_before: kind(&anomalies, "recorded_before"),
            charged_twice: kind(&anomalies, "charged_twice"),
            clock_steps: all.total(
                "database_clock_steps",
                "Steps of the database server's clock \
                against this instance's",
            ),
            queue_emptied: all.total(
                "queue_emptied",
                "How often this instance found that a \
                crash or a failover of the database server had emptied the unlogged queue",
            ),
            put_back: all.total(
                "put_back",
                "Payments that this instance put back into an emptied queue, because it still \
                knew them",
            ),
            unrecorded: all.gauge(
                "unrecorded_payments",
                "Payments whose charge, or other end of a \
                claim, the database has refused to record; they are kept and tried again",
            ),
            spans: SpanCounts {
                exported: all.total("spans_exported", "Spans that the collector of traces took"),
                lost: all.total(
                    "spans_lost",
                    "Spans that the collector of traces did not take",
                ),
            },
            connections_evicted: all.total(
                "connections_evicted",
                "Connections of clients that \
                were closed to make room for others",
            ),
            wrong_tokens: all.total(
                "operator_wrong_tokens",
                "Requests with a wrong token at the \
                operators' address",
            ),
            attempts: all.totals(
                "attempts",
                "Attempts to charge a payment, by processor and by \
                what is proved of it",
            ),
            early_lookups: all.totals(
                "early_lookups",
                "Look-ups of payments while an attempt at them was open, by processor, occasion \
                and result",
            ),
            processor_seconds: all.histograms(
                "processor_seconds",
                "Time that a processor took for \
                a POST, answered or not",
                processor_histogram,
            ),
            settled: all.totals("settled", "Payments recorded as charged, by processor"),
            breaker_changes: all.totals(
                "breaker_changes",
                "Changes of a processor's breaker in \
                this instance, by the new state",
            ),
            database_errors: all.totals(
                "database_errors",
                "Statements that failed because the \
                database was away, by task",
            ),
            registry,
        }
    }

    /// The handles of a processor, to be kept.
    #[must_use]
    pub fn processor(&self, name: &str) -> ProcessorCounts {
        let outcome = |outcome: &str| {
            let labels = vec![
                ("processor", name.to_owned()),
                ("outcome", outcome.to_owned()),
            ];
            self.attempts.get_or_create_owned(&labels)
        };
        let _ = self.settled(name);
        let early = |occasion: &str| {
            ["found", "absent", "no_answer"].map(|result| {
                let labels = vec![
                    ("processor", name.to_owned()),
                    ("occasion", occasion.to_owned()),
                    ("result", result.to_owned()),
                ];
                self.early_lookups.get_or_create_owned(&labels)
            })
        };
        ProcessorCounts {
            early_lookups: ["during_call", "held_elsewhere"].map(early),
            seconds: self
                .processor_seconds
                .get_or_create_owned(&label("processor", name)),
            charged: outcome("charged"),
            declined: outcome("declined"),
            throttled: outcome("throttled"),
            not_connected: outcome("not_connected"),
            refused: outcome("refused"),
            mismatch: outcome("mismatch"),
            unknown: outcome("unknown"),
        }
    }

    /// Payments recorded as charged by a processor; looked up once per batch.
    #[must_use]
    pub fn settled(&self, processor: &str) -> Total {
        self.settled
            .get_or_create_owned(&label("processor", processor))
    }

    /// A processor's breaker is in another state now.
    pub(crate) fn breaker_changed(&self, processor: &str, to: &str) {
        let labels = vec![("processor", processor.to_owned()), ("to", to.to_owned())];
        self.breaker_changes.get_or_create(&labels).add(1);
    }

    /// A statement of a task failed because the database is away.
    pub(crate) fn database_error(&self, task: &str) {
        self.database_errors
            .get_or_create(&label("task", task))
            .add(1);
    }
}

/// Makes metrics known to a registry.
struct Registering<'a>(&'a mut Registry);

impl Registering<'_> {
    fn total(&mut self, name: &str, help: &str) -> Total {
        let total = Total::default();
        self.shared(name, help, &total);
        total
    }

    /// Counters that others have, too.
    fn shared(&mut self, name: &str, help: &str, counter: &(impl Metric + Clone)) {
        self.0
            .register(format!("{name}_total"), help, counter.clone());
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.0.register(name, help, gauge.clone());
        gauge
    }

    fn totals(&mut self, name: &str, help: &str) -> Totals {
        let totals = Totals::default();
        self.shared(name, help, &totals);
        totals
    }

    fn histogram(&mut self, name: &str, help: &str, empty: fn() -> Histogram) -> Histogram {
        let histogram = empty();
        self.0.register(name, help, histogram.clone());
        histogram
    }

    fn histograms(&mut self, name: &str, help: &str, empty: fn() -> Histogram) -> Histograms {
        let histograms = Histograms::new_with_constructor(empty);
        self.0.register(name, help, histograms.clone());
        histograms
    }
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn post_histogram() -> Histogram {
    Histogram::new(POST_BUCKETS)
}

fn processor_histogram() -> Histogram {
    Histogram::new(PROCESSOR_BUCKETS)
}

fn settle_histogram() -> Histogram {
    Histogram::new(SETTLE_BUCKETS)
}
