//! One look at the deployment.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reqwest::Client;
use reqwest::redirect::Policy;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::super::{DIFFERS, connect, database_words};
use crate::config::tls;
use crate::config::{DatabaseSettings, Listen, OperatorSettings};
use crate::domain::attention::{Attention, Item};
use crate::domain::lease::INSTANCE_TTL;
use crate::probe::reachable;
use crate::store::database::{Pool, Pools, interval};
use crate::store::queue_statistics::{COUNTED, QueueStatistics};
use crate::store::situation::{self, STUCK_AFTER};
use crate::store::switch::{self, Switch};

/// Open payments that are named, at most.
const NAMED: i64 = 5;
/// Throughput and shares are of the last so many whole seconds.
const WINDOW_SECONDS: i32 = 10;
/// How long an instance has to answer.
const OPERATOR_TIMEOUT: Duration = Duration::from_secs(1);
/// The exit code when the database does not answer.
const NO_DATABASE: u8 = 2;

/// How everything is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// When that was.
    pub(super) at: DateTime<Utc>,
    /// What the database tells, or why it tells nothing.
    #[serde(serialize_with = "or_error")]
    pub(super) database: Result<Database, String>,
    /// What the instance at OPERATOR_LISTEN knows by itself, or why that is not here.
    #[serde(serialize_with = "or_error")]
    pub(super) operator: Result<Vec<Seen>, String>,
    /// What wants somebody to look.
    pub(super) attention: Vec<Item>,
}

/// What the database tells.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Database {
    /// Instances whose heartbeat is recent.
    pub(super) instances: i64,
    pub(super) queue: QueueStatistics,
    pub(super) processors: Vec<Processor>,
    /// The oldest payments that are open for longer than [`STUCK_AFTER`].
    pub(super) stuck: Vec<Stuck>,
    /// Milliseconds that this look took.
    pub(super) answered_in_ms: f64,
    /// What a crash of the server does to the queue.
    pub(super) queue_is_logged: bool,
    pub(super) connections: i64,
    pub(super) max_connections: i32,
}

/// A processor, as all instances see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Processor {
    pub(super) name: String,
    /// False: an operator has taken it out of use.
    pub(super) enabled: bool,
    /// Whether a living instance has it in PROCESSORS; null where that is not known.
    pub(super) configured: Option<bool>,
    /// When an operator switched it last, who and why.
    pub(super) switched_at: Option<DateTime<Utc>>,
    pub(super) switched_by: Option<String>,
    pub(super) switch_reason: Option<String>,
    /// Its own word, and how old that is.
    pub(super) failing: Option<bool>,
    pub(super) min_response_time_ms: Option<i32>,
    pub(super) health_age_seconds: Option<f64>,
    /// Payments that it is being asked for, by all instances, among the oldest of the queue.
    pub(super) in_flight: i64,
    /// Payments that it charged per second.
    pub(super) settled_per_second: f64,
    /// Its share of all that was charged, 0 to 1.
    pub(super) share: f64,
}

/// A payment that is open for too long.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stuck {
    pub(super) correlation_id: Uuid,
    pub(super) age_seconds: f64,
    /// The only processor that may have charged it.
    pub(super) processor: Option<String>,
    /// Why the last attempt did not settle it.
    pub(super) reason: Option<String>,
}

/// What an instance knows of a processor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) breaker: Breaker,
    pub(super) latency_ms: f64,
    pub(super) success_probability: Option<f64>,
    pub(super) in_flight: u32,
    pub(super) cap: u32,
}

/// The state of a breaker, and why.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Breaker {
    pub(super) state: String,
    pub(super) reason: String,
}

/// The part of `GET /routing` that is shown.
#[derive(Deserialize)]
struct Routing {
    processors: Vec<Seen>,
}

/// What there is, or `{"error": why not}`.
fn or_error<T: Serialize, S: Serializer>(
    found: &Result<T, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match found {
        Ok(found) => found.serialize(serializer),
        Err(error) => serializer.collect_map([("error", error)]),
    }
}

impl Status {
    pub(super) fn exit_code(&self) -> u8 {
        match (&self.database, &self.attention[..]) {
            (Err(_), _) => NO_DATABASE,
            (_, []) => 0,
            _ => DIFFERS,
        }
    }
}

/// Asks the database and an instance, again and again.
pub(super) struct Poller {
    settings: DatabaseSettings,
    pool: Pool,
    http: Client,
    url: String,
    token: Option<String>,
}

impl Poller {
    pub(super) fn new(
        settings: DatabaseSettings,
        operator: &OperatorSettings,
    ) -> anyhow::Result<Self> {
        let http = tls::plain()
            .redirect(Policy::none())
            .timeout(OPERATOR_TIMEOUT);
        let (http, host) = match &operator.operator_listen {
            Listen::Tcp(address) => (http, reachable(*address).to_string()),
            Listen::Name(name) => (http, name.clone()),
            Listen::Unix(path) => (http.unix_socket(path.as_path()), "operator".to_owned()),
        };
        let token = operator.token();
        Ok(Self {
            pool: Pools::new(&settings).requests,
            settings,
            http: http.build()?,
            url: format!("http://{host}/routing"),
            token: token.map(|token| token.reveal().to_owned()),
        })
    }

    pub(super) async fn look(&self) -> Status {
        let (database, operator) = tokio::join!(self.ask_database(), self.ask_instance());
        let database = match database {
            Ok(database) => Ok(database),
            Err(error) => Err(self.why(&error).await),
        };
        Status {
            at: Utc::now(),
            attention: match &database {
                Ok((_, attention)) => attention.clone(),
                Err(error) => vec![Attention::DatabaseAway.item(error.clone())],
            },
            database: database.map(|(database, _)| database),
            operator,
        }
    }

    /// Why the database tells nothing. A pool does not say why it has no connection.
    async fn why(&self, error: &sqlx::Error) -> String {
        if matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::Io(_))
            && let Err(tried) = connect(&self.settings).await
        {
            return tried.to_string();
        }
        database_words(error)
    }

    async fn ask_instance(&self) -> Result<Vec<Seen>, String> {
        let token = self.token.as_ref().ok_or("OPERATOR_TOKEN is not set")?;
        let request = self.http.get(&self.url).bearer_auth(token);
        let reply = request.send().await;
        let reply = reply.map_err(|_| "no instance answers on OPERATOR_LISTEN".to_owned())?;
        if !reply.status().is_success() {
            return Err(format!(
                "the instance on OPERATOR_LISTEN says {}",
                reply.status()
            ));
        }
        let routing: Routing = reply.json().await.map_err(|error| error.to_string())?;
        Ok(routing.processors)
    }

    async fn ask_database(&self) -> Result<(Database, Vec<Item>), sqlx::Error> {
        let begun_at = Instant::now();
        let (queue, attention) = situation::read(&self.pool).await?;
        let processors = self.processors().await?;
        let stuck = self.stuck().await?;
        let row = sqlx::query!(
            r#"SELECT (SELECT count(*) FROM service_instance
                WHERE seen_at BETWEEN now() - $1::interval
                    AND now() + $1::interval) AS "instances!",
                (SELECT relpersistence = 'p' FROM pg_class
                    WHERE oid = 'payment_queue'::regclass) AS "logged!",
                (SELECT sum(numbackends) FROM pg_stat_database)::bigint AS "connections!",
                current_setting('max_connections')::integer AS "max_connections!""#,
            interval(INSTANCE_TTL)
        )
        .fetch_one(&*self.pool)
        .await?;
        let database = Database {
            instances: row.instances,
            queue,
            processors,
            stuck,
            answered_in_ms: begun_at.elapsed().as_secs_f64() * 1_000.0,
            queue_is_logged: row.logged,
            connections: row.connections,
            max_connections: row.max_connections,
        };
        Ok((database, attention))
    }

    async fn processors(&self) -> Result<Vec<Processor>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT h.processor, h.enabled, h.failing, h.min_response_time_ms,
                extract(epoch FROM now() - h.answered_at)::float8 AS health_age,
                coalesce((
                    SELECT sum(r.requests) FROM payment_rollup r
                    WHERE r.unit = 'second' AND r.processor = h.processor
                        AND r.starts_at >= date_trunc('second',
                            now()) - make_interval(secs => $1::integer)
                        AND r.starts_at < date_trunc('second', now())
                ), 0)::float8 AS "settled!"
            FROM processor_health h ORDER BY h.processor"#,
            WINDOW_SECONDS
        )
        .fetch_all(&*self.pool)
        .await?;
        // Claims go in order, so what is in flight is among the oldest.
        let in_flight = sqlx::query!(
            r#"SELECT processor AS "processor!", count(*) AS "count!" FROM (
                SELECT processor, lease_until FROM payment_queue ORDER BY id LIMIT $1
            ) AS oldest
            WHERE processor IS NOT NULL AND lease_until > now() GROUP BY processor"#,
            COUNTED
        )
        .fetch_all(&*self.pool)
        .await?;
        let in_flight: HashMap<String, i64> = in_flight
            .into_iter()
            .map(|row| (row.processor, row.count))
            .collect();
        let mut switches: HashMap<String, Switch> = switch::list(&mut *self.pool.acquire().await?)
            .await?
            .into_iter()
            .map(|switch| (switch.processor.clone(), switch))
            .collect();
        let settled: f64 = rows.iter().map(|row| row.settled).sum();
        let processors = rows.into_iter().map(|row| {
            let switch = switches.remove(&row.processor);
            let (configured, switched_at, switched_by, switch_reason) = match switch {
                Some(it) => (it.configured, it.switched_at, it.switched_by, it.reason),
                None => (None, None, None, None),
            };
            Processor {
                configured,
                switched_at,
                switched_by,
                switch_reason,
                in_flight: in_flight.get(&row.processor).copied().unwrap_or_default(),
                name: row.processor,
                enabled: row.enabled,
                failing: row.failing,
                min_response_time_ms: row.min_response_time_ms,
                health_age_seconds: row.health_age,
                settled_per_second: row.settled / f64::from(WINDOW_SECONDS),
                share: if settled > 0.0 {
                    row.settled / settled
                } else {
                    0.0
                },
            }
        });
        Ok(processors.collect())
    }

    async fn stuck(&self) -> Result<Vec<Stuck>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT q.correlation_id, q.processor AS "processor?", a.reason AS "reason?",
                extract(epoch FROM now() - q.accepted_at)::float8 AS "age!"
            FROM (
                SELECT * FROM (SELECT * FROM payment_queue ORDER BY id LIMIT $1) AS oldest
                WHERE accepted_at < now() - $2::interval ORDER BY accepted_at LIMIT $3
            ) AS q LEFT JOIN LATERAL (
                SELECT t.reason FROM payment_attempt t
                WHERE t.correlation_id = q.correlation_id ORDER BY t.last_ended_at DESC LIMIT 1
            ) AS a ON true
            ORDER BY q.accepted_at"#,
            COUNTED,
            interval(STUCK_AFTER),
            NAMED
        )
        .fetch_all(&*self.pool)
        .await?;
        let stuck = rows.into_iter().map(|row| Stuck {
            correlation_id: row.correlation_id,
            age_seconds: row.age,
            processor: row.processor,
            reason: row.reason,
        });
        Ok(stuck.collect())
    }
}
