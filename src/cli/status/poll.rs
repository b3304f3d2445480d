//! One look at the deployment.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use reqwest::Client;
use reqwest::redirect::Policy;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::super::{DIFFERS, connect_one, database_words};
use crate::config::tls;
use crate::config::{DatabaseSettings, Listen, OperatorSettings};
use crate::domain::attention::{Attention, Item, in_order};
use crate::domain::cell::Cells;
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
    /// What the database tells, or all cells together, or why it tells nothing.
    #[serde(serialize_with = "or_error")]
    pub(super) database: Result<Database, String>,
    /// What each cell tells, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) cells: Vec<CellStatus>,
    /// What the instance at OPERATOR_LISTEN knows by itself, or why that is not here.
    #[serde(serialize_with = "or_error")]
    pub(super) operator: Result<Vec<Seen>, String>,
    /// What wants somebody to look.
    pub(super) attention: Vec<Item>,
}

/// What a cell tells.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CellStatus {
    /// Which, from 1 on.
    pub(super) cell: usize,
    /// Where its database is.
    pub(super) place: String,
    /// Its queue, or why it tells nothing.
    #[serde(serialize_with = "or_error")]
    pub(super) queue: Result<QueueStatistics, String>,
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
    settings: Cells<DatabaseSettings>,
    pools: Cells<Pool>,
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
        let settings = settings.cells();
        Ok(Self {
            pools: settings.map(|settings| Pools::new(settings).requests),
            settings,
            http: http.build()?,
            url: format!("http://{host}/routing"),
            token: token.map(|token| token.reveal().to_owned()),
        })
    }

    pub(super) async fn look(&self) -> Status {
        let database = async {
            let asked = join_all(self.pools.iter().map(Asked::of)).await;
            // Nobody waits twice for one that does not answer.
            let processors = match asked.iter().all(Result::is_ok) {
                true => self.processors().await,
                false => Ok(Vec::new()),
            };
            (asked, processors)
        };
        let ((asked, processors), operator) = tokio::join!(database, self.ask_instance());
        let (mut cells, mut attention, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for (asked, settings) in asked.into_iter().zip(self.settings.iter()) {
            let cell = settings.cell();
            let queue = match asked {
                Ok(asked) => {
                    let queue = asked.database.queue.clone();
                    attention.extend(asked.attention.clone());
                    told.push(asked);
                    Ok(queue)
                }
                Err(error) => {
                    let why = why(settings, &error).await;
                    attention.push(Attention::DatabaseAway.item(cell.named(&why)));
                    Err(cell.named(why))
                }
            };
            cells.push(CellStatus {
                cell: cell.number(),
                place: settings.database_url.here().to_string(),
                queue,
            });
        }
        // Without one of the cells the sums would be wrong numbers.
        let away = cells
            .iter()
            .find_map(|cell| cell.queue.as_ref().err().cloned());
        let database = match (away, processors) {
            (Some(away), _) => Err(away),
            (None, Err(error)) => {
                let away = why(self.settings.first(), &error).await;
                attention.push(Attention::DatabaseAway.item(away.clone()));
                Err(away)
            }
            (None, Ok(processors)) => Ok(sum(told, processors)),
        };
        if cells.len() == 1 {
            cells.clear();
        }
        Status {
            at: Utc::now(),
            attention: in_order(attention),
            database,
            cells,
            operator,
        }
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

    /// The processors, as the first cell has them.
    async fn processors(&self) -> Result<Vec<Processor>, sqlx::Error> {
        let pool = self.pools.first();
        let rows = sqlx::query!(
            "SELECT processor, enabled, failing, min_response_time_ms,
                extract(epoch FROM now() - answered_at)::float8 AS health_age
            FROM processor_health ORDER BY processor"
        )
        .fetch_all(&**pool)
        .await?;
        let mut switches: HashMap<String, Switch> = switch::list(&mut *pool.acquire().await?)
            .await?
            .into_iter()
            .map(|switch| (switch.processor.clone(), switch))
            .collect();
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
                in_flight: 0,
                name: row.processor,
                enabled: row.enabled,
                failing: row.failing,
                min_response_time_ms: row.min_response_time_ms,
                health_age_seconds: row.health_age,
                settled_per_second: 0.0,
                share: 0.0,
            }
        });
        Ok(processors.collect())
    }
}

/// Why a database tells nothing. A pool does not say why it has no connection.
async fn why(settings: &DatabaseSettings, error: &sqlx::Error) -> String {
    if matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::Io(_))
        && let Err(tried) = connect_one(settings).await
    {
        return tried.to_string();
    }
    database_words(error)
}

/// What one cell was asked.
struct Asked {
    /// Without processors.
    database: Database,
    attention: Vec<Item>,
    /// Payments that each processor is being asked for, among the oldest of the queue.
    in_flight: HashMap<String, i64>,
    /// Payments that each processor charged in the last [`WINDOW_SECONDS`].
    settled: HashMap<String, f64>,
}

impl Asked {
    async fn of(pool: &Pool) -> Result<Self, sqlx::Error> {
        let begun_at = Instant::now();
        let (queue, attention) = situation::read_in(pool, pool.cell()).await?;
        let settled = sqlx::query!(
            r#"SELECT processor, sum(requests)::float8 AS "settled!" FROM payment_rollup
            WHERE unit = 'second' AND starts_at < date_trunc('second', now())
                AND starts_at >= date_trunc('second', now()) - make_interval(secs => $1::integer)
            GROUP BY processor"#,
            WINDOW_SECONDS
        )
        .fetch_all(&**pool)
        .await?;
        // Claims go in order, so what is in flight is among the oldest.
        let in_flight = sqlx::query!(
            r#"SELECT processor AS "processor!", count(*) AS "count!" FROM (
                SELECT processor, lease_until FROM payment_queue ORDER BY id LIMIT $1
            ) AS oldest
            WHERE processor IS NOT NULL AND lease_until > now() GROUP BY processor"#,
            COUNTED
        )
        .fetch_all(&**pool)
        .await?;
        let stuck = stuck(pool).await?;
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
        .fetch_one(&**pool)
        .await?;
        Ok(Self {
            database: Database {
                instances: row.instances,
                queue,
                processors: Vec::new(),
                stuck,
                answered_in_ms: begun_at.elapsed().as_secs_f64() * 1_000.0,
                queue_is_logged: row.logged,
                connections: row.connections,
                max_connections: row.max_connections,
            },
            attention,
            in_flight: in_flight
                .into_iter()
                .map(|row| (row.processor, row.count))
                .collect(),
            settled: settled
                .into_iter()
                .map(|row| (row.processor, row.settled))
                .collect(),
        })
    }
}

/// All cells together. Instances are those of the first; connections are those of the cell that has
/// the fewest left.
fn sum(cells: Vec<Asked>, mut processors: Vec<Processor>) -> Database {
    let mut settled = 0.0;
    for cell in &cells {
        for processor in &mut processors {
            let charged = cell
                .settled
                .get(&processor.name)
                .copied()
                .unwrap_or_default();
            let in_flight = cell.in_flight.get(&processor.name).copied();
            settled += charged;
            processor.settled_per_second += charged / f64::from(WINDOW_SECONDS);
            processor.in_flight += in_flight.unwrap_or_default();
        }
    }
    let all = settled / f64::from(WINDOW_SECONDS);
    for processor in processors.iter_mut().filter(|_| all > 0.0) {
        processor.share = processor.settled_per_second / all;
    }
    let databases = cells.into_iter().map(|cell| cell.database);
    let sum = databases.reduce(|mut sum, cell| {
        let left = |it: &Database| i64::from(it.max_connections) - it.connections;
        if left(&cell) < left(&sum) {
            (sum.connections, sum.max_connections) = (cell.connections, cell.max_connections);
        }
        sum.queue = sum.queue.plus(cell.queue);
        sum.stuck.extend(cell.stuck);
        sum.answered_in_ms = sum.answered_in_ms.max(cell.answered_in_ms);
        sum.queue_is_logged &= cell.queue_is_logged;
        sum
    });
    let mut sum = sum.expect("there is at least one cell");
    let age = |one: &Stuck, other: &Stuck| other.age_seconds.total_cmp(&one.age_seconds);
    sum.stuck.sort_by(age);
    sum.stuck
        .truncate(usize::try_from(NAMED).unwrap_or_default());
    sum.processors = processors;
    sum
}

async fn stuck(pool: &Pool) -> Result<Vec<Stuck>, sqlx::Error> {
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
    .fetch_all(&**pool)
    .await?;
    let stuck = rows.into_iter().map(|row| Stuck {
        correlation_id: row.correlation_id,
        age_seconds: row.age,
        processor: row.processor,
        reason: row.reason,
    });
    Ok(stuck.collect())
}
