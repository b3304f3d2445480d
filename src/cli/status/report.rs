//! A look, for people.

use std::fmt::Write;

use super::super::{field, paragraph, table, table_with_texts};
use super::poll::{CellStatus, Database, Processor, Seen, Status};
use crate::domain::payment::format_time;
use crate::store::queue_statistics::Count;

/// The look as text, without a line break at its end.
pub(super) fn report(status: &Status) -> String {
    let mut text = format!("payment-proxy at {}\n\n", format_time(status.at));
    match &status.database {
        Ok(database) => {
            let seen = status.operator.as_deref().unwrap_or_default();
            text.push_str(&deployment(database));
            text.push_str("\n\n");
            text.push_str(&processors(database, seen));
        }
        Err(error) => {
            let error = format!("the database does not answer: {error}");
            text.push_str(&paragraph(&error));
            if let Ok(seen) = &status.operator {
                let breakers = seen.iter().map(|seen| [seen.name.clone(), breaker(seen)]);
                let _ = write!(text, "\n\n{}", table(["processor", "breaker"], 2, breakers));
            }
        }
    }
    if !status.cells.is_empty() {
        let _ = write!(text, "\n\n{}", cells(&status.cells));
    }
    if let Err(reason) = &status.operator {
        let without = format!("without breakers and latencies: {reason}");
        let _ = write!(text, "\n\n{}", paragraph(&without));
    }
    for item in &status.attention {
        let _ = write!(text, "\n\n{}", paragraph(&format!("! {item}")));
    }
    if let Ok(database) = &status.database
        && !database.stuck.is_empty()
    {
        let rows = database.stuck.iter().map(|stuck| {
            let cells = [
                stuck.correlation_id.to_string(),
                stuck.processor.clone().unwrap_or_else(|| "any".to_owned()),
                format!("{:.0} s", stuck.age_seconds),
            ];
            (cells, stuck.reason.clone().unwrap_or_default())
        });
        let header = ["open payment", "processor", "age"];
        let _ = write!(text, "\n\n{}", table_with_texts(header, rows));
    }
    text
}

fn deployment(database: &Database) -> String {
    let queue = &database.queue;
    let durability = if database.queue_is_logged {
        "logged"
    } else {
        "unlogged"
    };
    [
        field("instances", &format!("{} alive", database.instances)),
        field(
            "queue",
            &format!(
                "{} payments, the oldest {:.1} s old, {} in doubt",
                count(queue.queued),
                queue.oldest_age_seconds,
                count(queue.in_doubt)
            ),
        ),
        field("dead letters", &count(queue.dead_letters)),
        field(
            "database",
            &format!(
                "answers in {:.1} ms; {durability} queue with {} dead rows",
                database.answered_in_ms, queue.dead_rows,
            ),
        ),
        field(
            "",
            &format!(
                "{} of {} connections; oldest transaction {:.1} s",
                database.connections, database.max_connections, queue.oldest_transaction_seconds
            ),
        ),
    ]
    .join("\n")
}

/// A line for each cell.
fn cells(cells: &[CellStatus]) -> String {
    let rows = cells.iter().map(|cell| {
        let told = match &cell.queue {
            Ok(queue) => [
                count(queue.queued),
                format!("{:.1} s", queue.oldest_age_seconds),
                count(queue.in_doubt),
                count(queue.dead_letters),
            ],
            Err(_) => ["away", "-", "-", "-"].map(str::to_owned),
        };
        let [queued, oldest, in_doubt, dead] = told;
        [
            cell.cell.to_string(),
            cell.place.clone(),
            queued,
            oldest,
            in_doubt,
            dead,
        ]
    });
    let header = ["cell", "database", "queue", "oldest", "in doubt", "dead"];
    table(header, 2, rows)
}

fn processors(database: &Database, seen: &[Seen]) -> String {
    let rows = database.processors.iter().map(|processor| {
        let seen = seen.iter().find(|seen| seen.name == processor.name);
        [
            processor.name.clone(),
            in_use(processor.enabled, processor.configured).to_owned(),
            health(processor),
            seen.map_or("-", |seen| seen.breaker.state.as_str())
                .replace('_', " "),
            processor.in_flight.to_string(),
            format!("{:.1}", processor.settled_per_second),
            format!("{:.0} %", processor.share * 100.0),
            seen.map_or("-".to_owned(), |seen| format!("{:.0} ms", seen.latency_ms)),
        ]
    });
    let header = [
        "processor",
        "use",
        "health",
        "breaker",
        "calls",
        "settled/s",
        "share",
        "latency",
    ];
    let mut text = table(header, 4, rows);
    for seen in seen.iter().filter(|seen| seen.breaker.state != "closed") {
        let breaker = format!("the breaker of {} is {}", seen.name, breaker(seen));
        let _ = write!(text, "\n{}", paragraph(&breaker));
    }
    text
}

/// Whether a processor is in use.
pub(in crate::cli) fn in_use(enabled: bool, configured: Option<bool>) -> &'static str {
    match (configured, enabled) {
        (Some(false), _) => "removed",
        (_, true) => "enabled",
        (_, false) => "disabled",
    }
}

fn health(processor: &Processor) -> String {
    match processor.failing.zip(processor.min_response_time_ms) {
        None => "unknown".to_owned(),
        Some((true, _)) => "failing".to_owned(),
        Some((false, millis)) => format!("fine, {millis} ms"),
    }
}

fn breaker(seen: &Seen) -> String {
    match seen.breaker.state.as_str() {
        "closed" => "closed".to_owned(),
        state => format!("{}: {}", state.replace('_', " "), seen.breaker.reason),
    }
}

fn count(count: Count) -> String {
    match count {
        Count { value, exact: true } => value.to_string(),
        Count { value, .. } => format!("about {value}"),
    }
}
