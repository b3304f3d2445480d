//! A simulated processor as the torture uses it: a process of its own with a journal.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDateTime, Utc};
use payment_proxy::domain::payment::format_time;
use reqwest::{Client, Method, RequestBuilder};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use simulator::Faults;
use uuid::Uuid;

/// How long an admin call may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a processor is asked again and again while it has an outage.
const ADMIN_LIMIT: Duration = Duration::from_secs(20);
/// The pause after a call that failed.
const ADMIN_PAUSE: Duration = Duration::from_millis(100);

/// How a processor behaves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Behaviour {
    /// What goes wrong.
    pub faults: Faults,
    /// How long each payment takes.
    pub delay: Duration,
    /// Every payment fails.
    pub failing: bool,
}

/// A payment that a processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    pub correlation_id: Uuid,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub amount: Decimal,
    /// UTC, and without saying so.
    #[serde(deserialize_with = "in_utc")]
    pub requested_at: DateTime<Utc>,
}

fn in_utc<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    Ok(NaiveDateTime::deserialize(deserializer)?.and_utc())
}

/// Number and sum of payments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    pub total_requests: i64,
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub total_amount: Decimal,
}

/// One processor.
#[derive(Debug)]
pub struct Processor {
    pub name: &'static str,
    url: String,
    http: Client,
    injected: Mutex<BTreeMap<String, u64>>,
    /// Held by whoever says how it behaves, for as long as it is to stay so.
    pub turn: tokio::sync::Mutex<()>,
}

impl Processor {
    /// The processor that listens on that port.
    pub fn new(name: &'static str, port: u16) -> anyhow::Result<Self> {
        Ok(Self {
            name,
            url: format!("http://127.0.0.1:{port}"),
            // A connection for each call: none that an outage has cut is taken for a living one.
            http: payment_proxy::config::tls::plain()
                .timeout(ADMIN_TIMEOUT)
                .pool_max_idle_per_host(0)
                .build()?,
            injected: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/admin/{path}", self.url))
            .header("X-Rinha-Token", "123")
    }

    /// Makes it behave like that; goes on trying while it cannot be reached.
    pub async fn behave(&self, behaviour: &Behaviour) -> anyhow::Result<()> {
        let delay =
            json!({ "delay": i32::try_from(behaviour.delay.as_millis()).unwrap_or(i32::MAX) });
        let failure = json!({ "failure": behaviour.failing });
        // The outage comes last, because it takes the admin endpoints away.
        for (path, body) in [
            ("configurations/delay", delay),
            ("configurations/failure", failure),
            ("faults", serde_json::to_value(&behaviour.faults)?),
        ] {
            self.text(|| self.admin(Method::PUT, path).json(&body))
                .await?;
        }
        Ok(())
    }

    /// Asks for the number of faults injected so far, and remembers it.
    pub async fn observe(&self) {
        let Ok(reply) = self.admin(Method::GET, "faults").send().await else {
            return;
        };
        let Ok(reply) = reply.json::<Value>().await else {
            return;
        };
        let Some(counts) = reply["injected"].as_object() else {
            return;
        };
        let counts = counts
            .iter()
            .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)));
        *self
            .injected
            .lock()
            .expect("no code panics under this lock") = counts.collect();
    }

    /// How often each fault was injected, as far as is known.
    pub fn injected(&self) -> BTreeMap<String, u64> {
        self.injected
            .lock()
            .expect("no code panics under this lock")
            .clone()
    }

    /// All payments that it has, in the order in which it stored them.
    pub async fn stored(&self) -> anyhow::Result<Vec<Stored>> {
        let lines = self.text(|| self.admin(Method::GET, "payment-ids")).await?;
        Ok(lines
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    }

    /// Its own summary.
    pub async fn summary(
        &self,
        range: Option<(DateTime<Utc>, DateTime<Utc>)>,
    ) -> anyhow::Result<Totals> {
        let query = range.map_or_else(String::new, |(from, to)| {
            format!("?from={}&to={}", format_time(from), format_time(to))
        });
        let path = format!("payments-summary{query}");
        let text = self.text(|| self.admin(Method::GET, &path)).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The body of a reply that says success, from as many calls as it takes.
    async fn text(&self, call: impl Fn() -> RequestBuilder) -> anyhow::Result<String> {
        let begun_at = Instant::now();
        loop {
            let reply = async { call().send().await?.error_for_status()?.text().await };
            match reply.await {
                Ok(text) => return Ok(text),
                Err(error) if error.is_status() || begun_at.elapsed() > ADMIN_LIMIT => {
                    return Err(anyhow::Error::new(error).context(self.name));
                }
                Err(_) => tokio::time::sleep(ADMIN_PAUSE).await,
            }
        }
    }
}
