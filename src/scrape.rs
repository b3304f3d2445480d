//! One look at this instance, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use router::{BreakerState, Explanation, ProcessorReport, SharedRouter};

use crate::domain::attention::{Attention, Item, OwnAttention, Severity};
use crate::domain::cell::Cells;
use crate::store::database::{Pool, Pools};
use crate::store::queue_statistics::QueueStatistics;
use crate::store::situation::{RecentPoll, read_cells, told};
use crate::telemetry::metrics::{Counts, PREFIX};

/// What a scrape looks at.
pub struct Scrape {
    counts: Arc<Counts>,
    router: SharedRouter,
    pools: Cells<Pools>,
    polls: Arc<Cells<RecentPoll>>,
    own: Arc<OwnAttention>,
    started_at: SystemTime,
}

impl Scrape {
    /// Shows these counts, this router, these pools, the queues through them, and what this
    /// instance finds in itself.
    #[must_use]
    pub fn new(
        counts: Arc<Counts>,
        router: SharedRouter,
        pools: Cells<Pools>,
        own: Arc<OwnAttention>,
    ) -> Self {
        Self {
            polls: Arc::new(pools.map(|pools| RecentPoll::new(pools.operators.clone()))),
            own,
            counts,
            router,
            pools,
            started_at: SystemTime::now(),
        }
    }

    /// All metrics as text. It waits for the database no longer than
    /// [`crate::store::queue_statistics::STATISTICS_TIMEOUT`].
    pub async fn text(&self) -> String {
        let looked = read_cells(&self.polls).await;
        let cells = looked.iter().zip(self.pools.iter());
        let picture = Picture {
            attention: told(&looked, &self.own),
            cells: cells
                .map(|((cell, looked), pools)| CellPicture {
                    label: cell.label().map(|number| number.to_string()),
                    queue: looked.as_ref().map(|looked| looked.0.clone()),
                    pools: [
                        PoolUse::of("accepts", &pools.accepts),
                        PoolUse::of("requests", from_ref(&pools.requests)),
                        PoolUse::of("claims", from_ref(&pools.claims)),
                        PoolUse::of("settles", from_ref(&pools.settles)),
                        PoolUse::of("operators", from_ref(&pools.operators)),
                    ],
                })
                .collect(),
            explanation: self.router.explain(),
            started_at: self.started_at,
        };
        let mut states = Registry::with_prefix(PREFIX);
        states.register_collector(Box::new(picture));
        let mut text = String::new();
        encode_registry(&mut text, &self.counts.registry)
            .and_then(|()| encode_registry(&mut text, &states))
            .expect("writing to a string does not fail");
        text
    }
}

impl Scrape {
    /// What wants attention, as this instance tells it.
    pub async fn attention(&self) -> Vec<Item> {
        told(&read_cells(&self.polls).await, &self.own)
    }
}

/// The connections of a pool, or of several for the same.
#[derive(Debug)]
struct PoolUse {
    name: &'static str,
    open: u32,
    idle: u32,
    most: u32,
}

impl PoolUse {
    fn of(name: &'static str, pools: &[Pool]) -> Self {
        let mut sum = Self {
            name,
            open: 0,
            idle: 0,
            most: 0,
        };
        for pool in pools {
            let open = pool.size();
            sum.open += open;
            sum.idle += u32::try_from(pool.num_idle()).unwrap_or(open).min(open);
            sum.most += pool.options().get_max_connections();
        }
        sum
    }
}

/// The state of one moment.
#[derive(Debug)]
struct Picture {
    cells: Vec<CellPicture>,
    attention: Vec<Item>,
    explanation: Explanation,
    started_at: SystemTime,
}

/// The state of one cell.
#[derive(Debug)]
struct CellPicture {
    /// Its number, where there are others.
    label: Option<String>,
    queue: Option<QueueStatistics>,
    pools: [PoolUse; 5],
}

impl CellPicture {
    /// Those labels, and which cell it is where there are others.
    fn labels<'a>(
        &'a self,
        labels: impl IntoIterator<Item = (&'static str, &'a str)>,
    ) -> Vec<(&'static str, &'a str)> {
        let cell = self.label.as_deref().map(|number| ("cell", number));
        labels.into_iter().chain(cell).collect()
    }
}

impl Collector for Picture {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for gauge in self.gauges() {
            gauge.encode(&mut encoder)?;
        }
        Ok(())
    }
}

impl Picture {
    fn gauges(&self) -> Vec<Gauge<'_>> {
        let mut gauges = self.processors();
        gauges.extend(self.instance());
        gauges.push(self.attention());
        gauges.extend(self.queues());
        gauges
    }

    /// Without an answer of the database nobody knows of the kinds that are not in the list.
    fn attention(&self) -> Gauge<'_> {
        let items = self.attention.iter();
        let mut values: BTreeMap<_, _> = items
            .map(|item| ((item.kind.as_ref(), item.severity), 1.0))
            .collect();
        if self.cells.iter().all(|cell| cell.queue.is_some()) {
            for kind in Attention::ALL {
                values.entry((kind.name(), kind.severity())).or_insert(0.0);
            }
        }
        let labels =
            |kind, severity: Severity| vec![("kind", kind), ("severity", severity.as_str())];
        Gauge {
            name: "attention",
            help: "1 for each kind of thing that wants an operator's attention; the runbook is \
                docs/operations.md",
            values: values
                .into_iter()
                .map(|((kind, severity), value)| (labels(kind, severity), value))
                .collect(),
        }
    }

    fn processors(&self) -> Vec<Gauge<'_>> {
        let each = |name, help, value: fn(&ProcessorReport) -> Option<f64>| Gauge {
            name,
            help,
            values: (self.explanation.processors.iter())
                .filter_map(|report| Some((vec![("processor", &*report.name)], value(report)?)))
                .collect(),
        };
        let states = [
            BreakerState::Closed,
            BreakerState::HalfOpen,
            BreakerState::Open,
        ];
        let breakers = self.explanation.processors.iter().flat_map(|report| {
            states.map(|state| {
                let labels = vec![("processor", &*report.name), ("state", state.as_str())];
                (labels, truth(report.breaker.state == state))
            })
        });
        vec![
            Gauge {
                name: "breaker_state",
                help: "1 for the state that this instance's breaker of the processor is in",
                values: breakers.collect(),
            },
            each(
                "processor_enabled",
                "0 while an operator has taken the processor out",
                |report| Some(truth(report.enabled)),
            ),
            each(
                "processor_failing",
                "1 while the processor's health endpoint says that it fails",
                |report| report.health.as_ref().map(|health| truth(health.failing)),
            ),
            each(
                "posterior_mean",
                "Mean of what this instance believes of the chance that the processor charges",
                |report| {
                    let (successes, failures) =
                        (report.posterior_successes, report.posterior_failures);
                    Some(successes / (successes + failures))
                },
            ),
            each(
                "expected_latency_seconds",
                "Time that this instance expects the processor to take",
                |report| Some(report.latency_ms / 1e3),
            ),
            each(
                "in_flight",
                "Payments of this instance that are out at the processor",
                |report| Some(report.in_flight.into()),
            ),
            each(
                "in_flight_cap",
                "Payments that this instance may have out at the processor",
                |report| Some(report.cap.into()),
            ),
        ]
    }

    fn instance(&self) -> Vec<Gauge<'_>> {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        let started_at = self.started_at.duration_since(UNIX_EPOCH);
        let pools = self
            .cells
            .iter()
            .flat_map(|cell| cell.pools.iter().map(move |pool| (cell, pool)));
        let told = self.cells.iter();
        let told = told.map(|cell| (cell.labels([]), truth(cell.queue.is_some())));
        vec![
            Gauge {
                name: "pool_connections",
                help: "Connections to the database, by pool and by whether they are in use",
                values: pools
                    .clone()
                    .flat_map(|(cell, pool)| {
                        let labels = |state| cell.labels([("pool", pool.name), ("state", state)]);
                        [
                            (labels("idle"), pool.idle.into()),
                            (labels("used"), (pool.open - pool.idle).into()),
                        ]
                    })
                    .collect(),
            },
            Gauge {
                name: "pool_connections_max",
                help: "Connections that a pool may have",
                values: pools
                    .map(|(cell, pool)| (cell.labels([("pool", pool.name)]), pool.most.into()))
                    .collect(),
            },
            single(
                "instances",
                "Instances of the deployment that are alive, as this one knows",
                self.explanation.instances.into(),
            ),
            Gauge {
                name: "build_info",
                help: "1, with the version of the program",
                values: vec![(version, 1.0)],
            },
            single(
                "start_time_seconds",
                "When this instance started, in seconds since 1970",
                started_at.unwrap_or_default().as_secs_f64(),
            ),
            Gauge {
                name: "queue_statistics_up",
                help: "0 if the database did not tell the state of the queue in time; its metrics \
                    are absent then",
                values: told.collect(),
            },
        ]
    }

    /// The state of the queues: of the whole deployment, the same whichever instance is asked.
    fn queues(&self) -> Vec<Gauge<'_>> {
        let single = |name, help, value: fn(&QueueStatistics) -> f64| Gauge {
            name,
            help,
            values: (self.cells.iter())
                .filter_map(|cell| Some((cell.labels([]), value(cell.queue.as_ref()?))))
                .collect(),
        };
        let gauges = vec![
            single(
                "queue_payments",
                "Payments accepted and not yet settled, of all instances; an estimate unless \
                queue_payments_exact",
                |queue| queue.queued.value as f64,
            ),
            single(
                "queue_payments_exact",
                "1 if queue_payments was counted, 0 if it is an estimate",
                |queue| truth(queue.queued.exact),
            ),
            single(
                "queue_oldest_age_seconds",
                "How long ago the oldest payment of the queue was accepted, 0 if there is none",
                |queue| queue.oldest_age_seconds,
            ),
            single(
                "queue_in_doubt_payments",
                "Payments that one processor may have charged and that wait for its answer",
                |queue| queue.in_doubt.value as f64,
            ),
            single(
                "queue_dead_rows",
                "Dead rows of the queue that vacuum has not removed",
                |queue| queue.dead_rows as f64,
            ),
            single(
                "dead_letters",
                "Payments that no processor takes and that wait for an operator",
                |queue| queue.dead_letters.value as f64,
            ),
            single(
                "oldest_transaction_seconds",
                "Age of the oldest open transaction of the database; vacuum removes nothing that died \
                since",
                |queue| queue.oldest_transaction_seconds,
            ),
        ];
        // One of which nothing is known is absent.
        let known = gauges.into_iter().filter(|gauge| !gauge.values.is_empty());
        known.collect()
    }
}

fn single<'a>(name: &'static str, help: &'static str, value: f64) -> Gauge<'a> {
    Gauge {
        name,
        help,
        values: vec![(Vec::new(), value)],
    }
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Values of this moment under one name: labels, value.
struct Gauge<'a> {
    name: &'static str,
    help: &'static str,
    values: Vec<(Vec<(&'static str, &'a str)>, f64)>,
}

impl Gauge<'_> {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric =
            encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for (labels, value) in &self.values {
            if labels.is_empty() {
                metric.encode_gauge(value)?;
            } else {
                metric.encode_family(labels)?.encode_gauge(value)?;
            }
        }
        Ok(())
    }
}
