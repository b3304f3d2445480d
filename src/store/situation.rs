//! The situation of the deployment at one moment: the state of the queue, and what wants an
//! operator's attention as far as the database and the router tell.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use router::{BreakerState, Explanation, ProcessorReport};
use sqlx::{PgConnection, PgPool};
use tokio::sync::Mutex;

use crate::domain::attention::{Attention, Item, OwnAttention, in_order, list, published};
use crate::domain::cell::{Cell, Cells};
use crate::domain::lease::INSTANCE_TTL;
use crate::domain::payment::format_time;
use crate::store::database::{self, LateAnswer, Pool, interval};
use crate::store::in_doubt;
use crate::store::queue_statistics::{
    COUNTED, QueueStatistics, STATISTICS_INTERVAL, STATISTICS_TIMEOUT,
};
use crate::store::switch::{self, Switch};

/// A payment that was accepted longer ago than this and is still open is reported.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Payments wait if the oldest was accepted longer ago than this. Below it, what a processor last
/// said of its health may be older than what it does.
pub(crate) const WAITING_AFTER: Duration = Duration::from_secs(10);
/// A processor that is given up for longer is reported. Many an outage is over by then, and
/// payments went elsewhere.
pub(crate) const FAILING_AFTER: Duration = Duration::from_secs(2);
/// A transaction that is open for longer is reported: vacuum cannot clean the queue behind it.
pub(crate) const LONG_TRANSACTION: Duration = Duration::from_secs(60);

/// What the database of a cell tells, including what the living instances wrote there. `queue` and
/// `switches` were read just before. What instances wrote is of the whole deployment; the rest
/// names the cell where there are others.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn in_database(
    connection: &mut PgConnection,
    cell: Cell,
    queue: &QueueStatistics,
    switches: &[Switch],
) -> Result<Vec<Item>, sqlx::Error> {
    let instances = sqlx::query!(
        r#"SELECT seen_at BETWEEN now() - $1::interval AND now() + $1::interval AS "alive!",
            extract(epoch FROM now() - seen_at)::float8 AS "silent_for!", processors,
                attention::text AS "attention!",
            program, held
        FROM service_instance"#,
        interval(INSTANCE_TTL)
    )
    .fetch_all(&mut *connection)
    .await?;
    let (alive, died): (Vec<_>, Vec<_>) = instances.into_iter().partition(|row| row.alive);
    let serving = || alive.iter().filter(|row| row.held.is_none());
    let configured = in_doubt::of_instances(serving().map(|row| row.processors.as_slice()));
    // As far as is known.
    let is_configured =
        |name: &str| in_doubt::is_configured(configured.as_deref(), name).unwrap_or(true);

    let mut items: Vec<Item> = alive
        .iter()
        .flat_map(|row| published(&row.attention))
        .collect();
    let of_deployment = items.len();
    if alive.is_empty() {
        items.push(Attention::NoInstance.item("no instance is alive"));
    }
    let programs: BTreeSet<&str> = serving().filter_map(|row| row.program.as_deref()).collect();
    if programs.len() > 1 {
        let programs = Vec::from_iter(programs).join(" and ");
        items.push(Attention::Programs.item(format!("instances run {programs}")));
    }
    let asks_first = sqlx::query_scalar!("SELECT asks_first FROM deployment")
        .fetch_optional(&mut *connection)
        .await?;
    if asks_first == Some(true) {
        items.push(Attention::AsksFirst.item(
            "the database was restored: every processor is asked for a payment before its first \
            charge",
        ));
    }
    let emptied = sqlx::query!(
        r#"SELECT count(*) AS "times!", max(noticed_at) AS last, min(noticed_at) AS first
        FROM payment_queue_emptied WHERE acknowledged_at IS NULL"#
    )
    .fetch_one(&mut *connection)
    .await?;
    if let Some((first, last)) = emptied.first.zip(emptied.last) {
        let times = match emptied.times {
            1 => String::new(),
            times => format!(", the last of {times} times since {}", format_time(first)),
        };
        items.push(Attention::QueueEmptied.item(format!(
            "a crash or a failover of the database server emptied the unlogged queue, noticed at \
            {}{times}; what no living instance knew is lost",
            format_time(last)
        )));
    }
    if let Some(setting) = database::unsafe_setting(connection).await? {
        items.push(Attention::NotDurable.item(setting));
    }
    if database::failover_loses_queue(connection).await? {
        items.push(Attention::UnloggedStandby.item(database::FAILOVER_LOSES_QUEUE));
    }
    if let Some(latest) = died.iter().map(|row| row.silent_for).min_by(f64::total_cmp) {
        let count = died.len();
        let noun = if count == 1 { "instance" } else { "instances" };
        items.push(Attention::InstanceDied.item(format!(
            "{count} {noun} ended without signing off, the last {latest:.0} s ago; {} alive",
            alive.len()
        )));
    }
    if let letters @ 1.. = queue.dead_letters.value {
        items.push(Attention::DeadLetters.item(format!("{letters} dead")));
        items.extend(mismatches(connection).await?);
    }
    let open_for_long = queue.oldest_age_seconds > STUCK_AFTER.as_secs_f64();
    if open_for_long {
        let age = queue.oldest_age_seconds;
        items
            .push(Attention::OldPayment.item(format!("the oldest payment is open for {age:.0} s")));
    }
    if queue.oldest_transaction_seconds > LONG_TRANSACTION.as_secs_f64() {
        let age = queue.oldest_transaction_seconds;
        items
            .push(Attention::LongTransaction.item(format!("a transaction is open for {age:.0} s")));
    }
    let (used, off): (Vec<_>, Vec<_>) = switches
        .iter()
        .filter(|switch| is_configured(&switch.processor))
        .partition(|switch| switch.enabled);
    let waiting = queue.oldest_age_seconds > WAITING_AFTER.as_secs_f64();
    let all_off = used.is_empty() && !off.is_empty();
    if all_off {
        let off: Vec<String> = off.iter().map(|switch| switched_off(switch)).collect();
        items.push(Attention::AllProcessorsOff.item(format!(
            "every processor is switched off ({})",
            off.join("; ")
        )));
    } else {
        let off = off.iter().map(|switch| {
            let title = format!("Processor {} is switched off.", switch.processor);
            Attention::ProcessorOff.titled(title, switched_off(switch))
        });
        items.extend(off);
    }
    let all_fail = !used.is_empty() && used.iter().all(|switch| switch.failing == Some(true));
    if waiting && all_fail {
        items.push(
            Attention::AllProcessorsFailing
                .item("every processor that is in use says that it fails, and payments wait"),
        );
    } else if waiting && !all_off && !open_for_long {
        let age = queue.oldest_age_seconds;
        items.push(Attention::PaymentsWait.item(format!(
            "the oldest payment of the queue waits for {age:.0} s"
        )));
    }
    items.extend(unreconciled(connection).await?);
    if let Some(names) = &configured
        && queue.in_doubt.value > 0
    {
        let stranded = in_doubt::stranded(connection, names).await?;
        items.extend(stranded.into_iter().map(|(processor, payments)| {
            Attention::Stranded.item(format!(
                "{payments} in doubt at {processor}, which no living instance has in PROCESSORS"
            ))
        }));
    }
    let of_cell = items.split_off(of_deployment).into_iter();
    items.extend(of_cell.map(|item| item.of_cell(cell)));
    Ok(in_order(items))
}

/// Dead letters whose id a processor holds, with another amount or at a time far from our attempts.
async fn mismatches(connection: &mut PgConnection) -> Result<Option<Item>, sqlx::Error> {
    let held = sqlx::query_scalar!(
        r#"SELECT count(*) AS "held!" FROM (
            SELECT requested_at FROM payment_dead_letter ORDER BY correlation_id LIMIT $1
        ) AS letters WHERE requested_at IS NOT NULL"#,
        COUNTED
    )
    .fetch_one(connection)
    .await?;
    let text = || format!("{held} at a processor that has them otherwise than we sent them");
    Ok((held > 0).then(|| Attention::Mismatch.item(text())))
}

/// The processors that this instance has given up for longer than [`FAILING_AFTER`], by what its
/// router knows.
#[must_use]
pub fn failing(router: &Explanation) -> Option<Item> {
    let given_up = |report: &&ProcessorReport| {
        // One that is half open only waits for payments to be tried with.
        let (is_open, out) = (
            report.breaker.state == BreakerState::Open,
            report.breaker.outage_ms,
        );
        report.enabled && is_open && out >= Some(FAILING_AFTER.as_secs_f64() * 1e3)
    };
    let failing: Vec<&ProcessorReport> = router.processors.iter().filter(given_up).collect();
    let names: Vec<&str> = failing.iter().map(|report| &*report.name).collect();
    let (title, names) = match &*names {
        [] => return None,
        [name] => (format!("Processor {name} is failing."), (*name).to_owned()),
        [names @ .., last] => {
            let names = format!("{} and {last}", names.join(", "));
            (format!("Processors {names} are failing."), names)
        }
    };
    // Without ages and counts, so that instances which see the same say the same.
    let text = format!("payments fail at {names}, and go there one at a time");
    Some(Attention::ProcessorFailing.titled(title, text))
}

/// That a processor is switched off, by whom and why.
fn switched_off(switch: &Switch) -> String {
    let mut text = format!("{} is switched off", switch.processor);
    if let (Some(by), Some(at)) = (&switch.switched_by, switch.switched_at) {
        text.push_str(&format!(" by {by} since {}", format_time(at)));
    }
    if let Some(reason) = &switch.reason {
        text.push_str(&format!(", {reason}"));
    }
    text
}

/// What `payment-proxy reconcile` found and nobody has put right since.
async fn unreconciled(connection: &mut PgConnection) -> Result<Option<Item>, sqlx::Error> {
    let found = sqlx::query!(
        r#"SELECT
            (SELECT string_agg(f.payments || ' ' || f.kind, ', ' ORDER BY f.kind)
                FROM (SELECT kind, count(*) AS payments
                    FROM reconcile_finding GROUP BY kind) AS f) AS payments,
            (SELECT nullif(array_to_string(r.totals_differ, ', '), '') FROM reconcile_run r
                ORDER BY r.id DESC LIMIT 1)
                AS totals"#
    )
    .fetch_one(connection)
    .await?;
    let totals = found.totals.map(|names| format!("other totals at {names}"));
    let parts: Vec<String> = found.payments.into_iter().chain(totals).collect();
    Ok((!parts.is_empty())
        .then(|| Attention::Unreconciled.item(format!("reconcile found {}", parts.join("; ")))))
}

/// The queue statistics and the list of one reading.
pub(crate) type Polled = (QueueStatistics, Vec<Item>);

/// Reads the situation of a deployment of one database once.
///
/// # Errors
/// The database did not answer.
pub async fn read(pool: &PgPool) -> Result<Polled, sqlx::Error> {
    read_in(pool, Cell::ONLY).await
}

/// Reads the situation of a cell once.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn read_in(pool: &PgPool, cell: Cell) -> Result<Polled, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let queue = QueueStatistics::read(&mut connection).await?;
    let switches = switch::list(&mut connection).await?;
    let attention = in_database(&mut connection, cell, &queue, &switches).await?;
    Ok((queue, attention))
}

/// A reading that is made when it is asked for, but not too often, however many ask.
#[derive(Debug)]
pub(crate) struct RecentPoll {
    pool: Pool,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// When it was asked for last, and what came of it.
    last: Option<(Instant, Option<Arc<Polled>>)>,
    reading: LateAnswer<Polled>,
}

impl RecentPoll {
    /// None is taken yet.
    #[must_use]
    pub(crate) fn new(pool: Pool) -> Self {
        Self {
            pool,
            taken: Mutex::default(),
        }
    }

    /// One that is at most [`STATISTICS_INTERVAL`] old; none if the database did not answer within
    /// [`STATISTICS_TIMEOUT`], or did not when it was asked last.
    pub(crate) async fn get(&self) -> Option<Arc<Polled>> {
        // Callers that come while one is taken wait for it, and take none.
        let Taken {
            last,
            reading: taking,
        } = &mut *self.taken.lock().await;
        if let Some((taken_at, looked)) = last
            && taken_at.elapsed() < STATISTICS_INTERVAL
        {
            return looked.clone();
        }
        let take = async |pool: Pool| read_in(&pool, pool.cell()).await;
        let looked = match taking.answer(&self.pool, STATISTICS_TIMEOUT, take).await {
            Some(Ok(looked)) => Some(Arc::new(looked)),
            Some(Err(error)) => {
                tracing::debug!(error = %error, "no queue statistics");
                None
            }
            None => None,
        };
        *last = Some((Instant::now(), looked.clone()));
        looked
    }
}

/// What was seen of each cell; none where its database does not answer.
pub(crate) type PolledCells = Vec<(Cell, Option<Arc<Polled>>)>;

/// Reads the situation of every cell as [`RecentPoll::get`] does.
pub(crate) async fn read_cells(polls: &Cells<RecentPoll>) -> PolledCells {
    let read = polls
        .each()
        .map(async |(cell, poll)| (cell, poll.get().await));
    join_all(read).await
}

/// The list as an instance tells it: what the cells told, or which of them tell nothing, and what
/// the instance finds in itself.
#[must_use]
pub fn told(looked: &PolledCells, own: &OwnAttention) -> Vec<Item> {
    let told = looked.iter().flat_map(|(cell, looked)| match looked {
        Some(looked) => looked.1.clone(),
        None => vec![away(*cell)],
    });
    list(told.collect(), own)
}

/// That the database of a cell does not answer.
#[must_use]
pub fn away(cell: Cell) -> Item {
    Attention::DatabaseAway.item(cell.named("the database does not answer"))
}

#[cfg(test)]
mod tests {
    use router::{Event, Policy, ProcessorTerms, Router};

    use super::*;

    #[test]
    fn a_processor_fails_while_its_breaker_is_open_and_not_while_it_waits_for_trials() {
        let terms = ["a", "b"].map(|name| ProcessorTerms {
            name: name.to_owned(),
            fee: rust_decimal::Decimal::new(5, 2),
        });
        let mut router = Router::new(Policy::default(), terms.to_vec(), Duration::ZERO);
        let health = |processor, failing| Event::Health {
            processor,
            failing,
            min_response_time: Duration::ZERO,
        };
        let second = Duration::from_secs(1);
        let told = |router: &Router, now| failing(&router.explain(now)).map(|item| item.title);
        router.observe(health(0, true), second);
        assert_eq!(told(&router, 2 * second), None, "it may be over soon");
        let one = told(&router, 4 * second);
        assert_eq!(one.as_deref(), Some("Processor a is failing."));
        router.observe(health(1, true), 4 * second);
        let both = told(&router, 7 * second);
        assert_eq!(both.as_deref(), Some("Processors a and b are failing."));
        for processor in [0, 1] {
            router.observe(health(processor, false), 8 * second);
        }
        assert_eq!(
            told(&router, 600 * second),
            None,
            "nothing was posted since"
        );
    }
}
