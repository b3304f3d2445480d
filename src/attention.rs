//! What wants an operator's attention: one list, the same for `payment-proxy status`, `GET /attention`, the
//! live page and the metric `attention`.
//!
//! # To add a kind
//!
//! 1. Add a line to `kinds!` below: name, machine name, severity, headline, what an operator does about it. No number
//!    that changes is in the headline: it is read aloud to whoever cannot see the page, each time that it changes.
//! 2. Add a line where it is found. What the database tells goes into [`in_database`]. What only an instance
//!    knows goes into `serve`, as `own.add(move || found().then(|| Attention::Kind.item("...")))`: each
//!    instance writes its own items into its row of `service_instance` with every heartbeat, so that every
//!    reader of the list finds the items of all living instances.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use router::{Explanation, ProcessorReport};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio::sync::Mutex;
use utoipa::ToSchema;

use crate::census::{CENSUS_INTERVAL, CENSUS_TIMEOUT, COUNTED, Census};
use crate::claim::interval;
use crate::database::Look;
use crate::deployment::INSTANCE_TTL;
use crate::in_doubt;
use crate::payment::format_time;
use crate::switch::{self, Switch};

/// A payment that was accepted longer ago than this and is still open is reported.
pub const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Payments wait if the oldest was accepted longer ago than this. Below it, what a processor last said of its
/// health may be older than what it does.
pub const WAITING_AFTER: Duration = Duration::from_secs(10);
/// A processor that is given up for longer is reported. Many an outage is over by then, and payments went elsewhere.
pub const FAILING_AFTER: Duration = Duration::from_secs(2);
/// A transaction that is open for longer is reported: vacuum cannot clean the queue behind it.
pub const LONG_TRANSACTION: Duration = Duration::from_secs(60);

/// Declares [`Attention`]: one line for each kind.
macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident = $name:literal, $severity:ident, $title:literal, $advice:literal;)+) => {
        /// The kinds of things that want an operator's attention.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Attention { $($(#[$meta])* $kind,)+ }

        impl Attention {
            /// All kinds, the most urgent first.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// Its stable name, for scripts, alerts and the runbook.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),+ }
            }

            /// How urgent it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity),+ }
            }

            /// What it is called where there is room for a few words, with a full stop.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title),+ }
            }

            /// What an operator does about it.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$kind => $advice),+ }
            }
        }
    };
}

kinds! {
    /// Nothing is known of the deployment.
    DatabaseAway = "database_away", Alarm,
        "The database does not answer.",
        "start or reach PostgreSQL; clients get 503 meanwhile, and what was accepted is in the database";
    /// Two processors have charged one payment.
    ChargedTwice = "charged_twice", Alarm,
        "A payment was charged twice.",
        "the log says CHARGED TWICE with the id; have one of the charges refunded, `payment-proxy reconcile` lists both";
    /// The database refuses what became of payments.
    Unrecorded = "unrecorded", Alarm,
        "The database refuses to record payments.",
        "the instance keeps it and tries again: its log says why (task settle); do not end it before that is put right";
    /// An instance that must not serve: a copy of the database, or terms that contradict the others'.
    InstanceHeld = "instance_held", Alarm,
        "An instance must not serve.",
        "it accepts and charges nothing: `payment-proxy deployment` shows why, docs/clocks-and-copies.md what to do";
    /// Nobody serves.
    NoInstance = "no_instance", Alarm,
        "No instance is alive.",
        "start one with `payment-proxy serve`";
    /// Posts are refused.
    QueueFull = "queue_full", Alarm,
        "The queue is full: posts are refused.",
        "see why payments are not settled, or raise QUEUE_LIMIT";
    /// Nothing new is sent anywhere, because operators said so.
    AllProcessorsOff = "all_processors_off", Alarm,
        "Every processor is switched off.",
        "put one back into use: `payment-proxy routing enable NAME --reason TEXT`";
    /// Nothing is charged, by the processors' own word.
    AllProcessorsFailing = "all_processors_failing", Alarm,
        "No processor takes payments.",
        "payments wait; ask those who run the processors";
    /// Payments that no processor takes.
    DeadLetters = "dead_letters", Alarm,
        "There are dead letters.",
        "`payment-proxy dead-letter list` says why, `dead-letter retry ID` tries again";
    /// A processor has something of our payments that we cannot have sent.
    Mismatch = "mismatch", Alarm,
        "A processor has payments otherwise than we sent them.",
        "neither recorded nor charged elsewhere; `dead-letter list` says what it has: ask those who run it, then retry or discard";
    /// Payments in doubt at a processor that no living instance is configured with.
    Stranded = "stranded", Alarm,
        "Payments are in doubt at a removed processor.",
        "add that processor to PROCESSORS again, or ask it by other means and say so with `payment-proxy in-doubt`";
    /// Ledger and processors differ, by what `payment-proxy reconcile` found last.
    Unreconciled = "unreconciled", Alarm,
        "Ledger and processors differ.",
        "table reconcile_finding has the ids; `payment-proxy reconcile` compares again and takes out what agrees";
    /// An instance ended without signing off.
    InstanceDied = "instance_died", Watch,
        "An instance died.",
        "see its log; what it had claimed is taken up by others when the leases end";
    /// A payment is open for long.
    OldPayment = "old_payment", Watch,
        "A payment is open for long.",
        "`payment-proxy status` names it, `payment-proxy payment ID` tells its life";
    /// Doubts wait, and sums of hours may be of others.
    ClockStep = "clock_step", Watch,
        "The database's clock was set.",
        "payments go on; see to the time synchronisation of the database server: docs/clocks-and-copies.md";
    /// The database was restored, and that is not over.
    AsksFirst = "asks_first", Watch,
        "The database was restored.",
        "when nothing that the dump lacks can be posted again: `payment-proxy deployment declare checked`";
    /// Programs of several versions.
    Programs = "programs", Watch,
        "Instances run different programs.",
        "finish the update: start the older instances anew";
    /// Lines of an instance's log are missing.
    LogLinesDropped = "log_lines_dropped", Watch,
        "Lines of a log are missing.",
        "see to the disk or the reader of that instance's standard error; the metric log_lines_dropped_total counts";
    /// Vacuum cannot clean up.
    LongTransaction = "long_transaction", Watch,
        "A transaction is open for long.",
        "it keeps vacuum from cleaning the queue: see pg_stat_activity";
    /// Payments wait for longer than they should.
    PaymentsWait = "payments_wait", Watch,
        "Payments wait.",
        "`payment-proxy status` shows which processors are slow or failing; the queue drains when they are not";
    /// A processor is not used, because payments fail there.
    ProcessorFailing = "processor_failing", Watch,
        "A processor is failing.",
        "single payments find out when it is back; if that takes long, ask those who run it";
    /// An operator took a processor out.
    ProcessorOff = "processor_off", Watch,
        "A processor is switched off.",
        "put it back into use when the reason is gone: `payment-proxy routing enable NAME --reason TEXT`";
}

/// How urgent an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Payments are refused, wait for a person, or money is wrong.
    Alarm,
    /// Somebody should look, soon.
    Watch,
}

impl Severity {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Watch => "watch",
        }
    }
}

/// Something that wants an operator's attention.
///
/// The kind is text, because an item may come from an instance of a newer program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AttentionItem)]
pub struct Item {
    /// The stable name of its kind, for scripts, alerts and the runbook
    #[schema(value_type = String, example = "dead_letters")]
    pub kind: Cow<'static, str>,
    /// How urgent it is
    pub severity: Severity,
    /// What is, in a sentence without numbers; empty where an instance of an older program found it
    #[serde(default)]
    #[schema(value_type = String, example = "There are dead letters.")]
    pub title: Cow<'static, str>,
    /// What is, in plain words
    pub text: String,
    /// What to do about it
    #[schema(value_type = String)]
    pub advice: Cow<'static, str>,
}

impl fmt::Display for Item {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.text, self.advice)
    }
}

impl Attention {
    /// An item of this kind that says `text`.
    #[must_use]
    pub fn item(self, text: impl Into<String>) -> Item {
        Item {
            kind: self.name().into(),
            severity: self.severity(),
            title: self.title().into(),
            text: text.into(),
            advice: self.advice().into(),
        }
    }

    /// The same under a headline that says more than that of its kind.
    #[must_use]
    pub fn titled(self, title: impl Into<String>, text: impl Into<String>) -> Item {
        Item {
            title: title.into().into(),
            ..self.item(text)
        }
    }
}

/// What an instance finds in itself. A source is asked at every heartbeat and every look, so it may not block.
#[derive(Default)]
pub struct OwnAttention(Vec<Source>);

type Source = Box<dyn Fn() -> Option<Item> + Send + Sync>;

impl OwnAttention {
    /// Adds a source of items.
    pub fn add(&mut self, source: impl Fn() -> Option<Item> + Send + Sync + 'static) {
        self.0.push(Box::new(source));
    }

    /// What the sources find now.
    #[must_use]
    pub fn items(&self) -> Vec<Item> {
        self.0.iter().filter_map(|source| source()).collect()
    }
}

impl fmt::Debug for OwnAttention {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "OwnAttention({} sources)", self.0.len())
    }
}

/// Puts the most urgent items first, and leaves one of those that say the same.
fn in_order(mut items: Vec<Item>) -> Vec<Item> {
    let place = |item: &Item| {
        Attention::ALL
            .iter()
            .position(|kind| kind.name() == item.kind)
    };
    let key = |item: &Item| (item.severity, place(item).unwrap_or(usize::MAX));
    items.sort_by(|one, other| {
        key(one)
            .cmp(&key(other))
            .then_with(|| one.text.cmp(&other.text))
    });
    items.dedup();
    items
}

/// The list as an instance tells it: what the database told, or that it told nothing, and what this instance
/// finds in itself, which may be newer than its last heartbeat.
#[must_use]
pub fn list(in_database: Result<Vec<Item>, String>, own: &OwnAttention) -> Vec<Item> {
    let mut items = in_database.unwrap_or_else(|reason| vec![Attention::DatabaseAway.item(reason)]);
    items.extend(own.items());
    in_order(items)
}

/// What the database tells, including what the living instances wrote there. `census` and `switches` were read just
/// before.
///
/// # Errors
/// The database did not answer.
pub async fn in_database(
    connection: &mut PgConnection,
    census: &Census,
    switches: &[Switch],
) -> Result<Vec<Item>, sqlx::Error> {
    let instances = sqlx::query!(
        r#"SELECT seen_at BETWEEN now() - $1::interval AND now() + $1::interval AS "alive!",
            extract(epoch FROM now() - seen_at)::float8 AS "silent_for!", processors, attention::text AS "attention!",
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
        |name: &String| configured.as_ref().is_none_or(|names| names.contains(name));

    let mut items: Vec<Item> = alive
        .iter()
        .flat_map(|row| published(&row.attention))
        .collect();
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
            "the database was restored: every processor is asked for a payment before its first charge",
        ));
    }
    if let Some(latest) = died.iter().map(|row| row.silent_for).min_by(f64::total_cmp) {
        let count = died.len();
        let noun = if count == 1 { "instance" } else { "instances" };
        items.push(Attention::InstanceDied.item(format!(
            "{count} {noun} ended without signing off, the last {latest:.0} s ago; {} alive",
            alive.len()
        )));
    }
    if let letters @ 1.. = census.dead_letters.value {
        items.push(Attention::DeadLetters.item(format!("{letters} dead")));
        items.extend(mismatches(connection).await?);
    }
    let open_for_long = census.oldest_age_seconds > STUCK_AFTER.as_secs_f64();
    if open_for_long {
        let age = census.oldest_age_seconds;
        items
            .push(Attention::OldPayment.item(format!("the oldest payment is open for {age:.0} s")));
    }
    if census.oldest_transaction_seconds > LONG_TRANSACTION.as_secs_f64() {
        let age = census.oldest_transaction_seconds;
        items
            .push(Attention::LongTransaction.item(format!("a transaction is open for {age:.0} s")));
    }
    let (used, off): (Vec<_>, Vec<_>) = switches
        .iter()
        .filter(|switch| is_configured(&switch.processor))
        .partition(|switch| switch.enabled);
    let waiting = census.oldest_age_seconds > WAITING_AFTER.as_secs_f64();
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
        let age = census.oldest_age_seconds;
        items.push(Attention::PaymentsWait.item(format!(
            "the oldest payment of the queue waits for {age:.0} s"
        )));
    }
    items.extend(unreconciled(connection).await?);
    if let Some(names) = &configured
        && census.in_doubt.value > 0
    {
        let stranded = in_doubt::stranded(connection, names).await?;
        items.extend(stranded.into_iter().map(|(processor, payments)| {
            Attention::Stranded.item(format!(
                "{payments} in doubt at {processor}, which no living instance has in PROCESSORS"
            ))
        }));
    }
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

/// The processors that this instance has given up for longer than [`FAILING_AFTER`], by what its router knows.
#[must_use]
pub fn failing(router: &Explanation) -> Option<Item> {
    let given_up = |report: &&ProcessorReport| {
        let out = report.breaker.outage_ms;
        report.enabled && out.is_some_and(|out| out >= FAILING_AFTER.as_secs_f64() * 1e3)
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

/// What an instance wrote. What cannot be read was written by a program that is much newer.
fn published(attention: &str) -> Vec<Item> {
    serde_json::from_str(attention).unwrap_or_default()
}

/// What `payment-proxy reconcile` found and nobody has put right since.
async fn unreconciled(connection: &mut PgConnection) -> Result<Option<Item>, sqlx::Error> {
    let found = sqlx::query!(
        r#"SELECT
            (SELECT string_agg(f.payments || ' ' || f.kind, ', ' ORDER BY f.kind)
                FROM (SELECT kind, count(*) AS payments FROM reconcile_finding GROUP BY kind) AS f) AS payments,
            (SELECT nullif(array_to_string(r.totals_differ, ', '), '') FROM reconcile_run r ORDER BY r.id DESC LIMIT 1)
                AS totals"#
    )
    .fetch_one(connection)
    .await?;
    let totals = found.totals.map(|names| format!("other totals at {names}"));
    let parts: Vec<String> = found.payments.into_iter().chain(totals).collect();
    Ok((!parts.is_empty())
        .then(|| Attention::Unreconciled.item(format!("reconcile found {}", parts.join("; ")))))
}

/// The census and the list of one look.
pub type Looked = (Census, Vec<Item>);

/// Looks at the deployment once.
///
/// # Errors
/// The database did not answer.
pub async fn look(pool: &PgPool) -> Result<Looked, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let census = Census::read(&mut connection).await?;
    let switches = switch::list(&mut connection).await?;
    let attention = in_database(&mut connection, &census, &switches).await?;
    Ok((census, attention))
}

/// A look that is made when it is asked for, but not too often, however many ask.
#[derive(Debug)]
pub struct RecentLook {
    pool: PgPool,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// When it was asked for last, and what came of it.
    last: Option<(Instant, Option<Arc<Looked>>)>,
    look: Look<Looked>,
}

impl RecentLook {
    /// None is taken yet.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            taken: Mutex::default(),
        }
    }

    /// One that is at most [`CENSUS_INTERVAL`] old; none if the database did not answer within
    /// [`CENSUS_TIMEOUT`], or did not when it was asked last.
    pub async fn get(&self) -> Option<Arc<Looked>> {
        // Callers that come while one is taken wait for it, and take none.
        let Taken { last, look: taking } = &mut *self.taken.lock().await;
        if let Some((taken_at, looked)) = last
            && taken_at.elapsed() < CENSUS_INTERVAL
        {
            return looked.clone();
        }
        let take = || {
            let pool = self.pool.clone();
            async move { look(&pool).await }
        };
        let looked = match taking.answer(CENSUS_TIMEOUT, take).await {
            Some(Ok(looked)) => Some(Arc::new(looked)),
            Some(Err(error)) => {
                tracing::debug!(error = %error, "no census");
                None
            }
            None => None,
        };
        *last = Some((Instant::now(), looked.clone()));
        looked
    }

    /// The list as this instance tells it now.
    pub async fn list(&self, own: &OwnAttention) -> Vec<Item> {
        list(told(self.get().await.as_deref()), own)
    }
}

/// The list of a look, or that there is none.
pub fn told(looked: Option<&Looked>) -> Result<Vec<Item>, String> {
    let items = looked.map(|(_, items)| items.clone());
    items.ok_or_else(|| "the database does not answer".to_owned())
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Attention::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Attention::ALL.len());
    }

    #[test]
    fn every_headline_is_a_sentence_without_numbers_of_its_own() {
        let titles: BTreeSet<&str> = Attention::ALL.iter().map(|kind| kind.title()).collect();
        assert_eq!(titles.len(), Attention::ALL.len());
        for title in titles {
            assert!(
                title.ends_with('.') && title.starts_with(char::is_uppercase),
                "{title}"
            );
            assert!(!title.contains(char::is_numeric), "{title}");
        }
    }

    #[test]
    fn an_item_of_a_program_that_knew_no_headlines_is_read() {
        let old = r#"[{"kind":"queue_full","severity":"alarm","text":"full","advice":"wait"}]"#;
        let items = published(old);
        assert_eq!((items.len(), &*items[0].title), (1, ""));
    }

    #[test]
    fn alarms_come_first_and_nothing_is_said_twice() {
        let off = Attention::ProcessorOff.item("default is switched off");
        let dead = Attention::DeadLetters.item("1 dead");
        let newer = Item {
            kind: "of_tomorrow".into(),
            severity: Severity::Alarm,
            title: "New.".into(),
            text: "new".to_owned(),
            advice: "update".into(),
        };
        let items = vec![off.clone(), dead.clone(), newer.clone(), off.clone()];
        assert_eq!(in_order(items), [dead, newer, off]);
    }

    #[test]
    fn without_a_database_an_instance_still_tells_its_own() {
        let mut own = OwnAttention::default();
        own.add(|| Some(Attention::ChargedTwice.item("one payment")));
        own.add(|| None);
        let kinds: Vec<_> = list(Err("away".to_owned()), &own)
            .into_iter()
            .map(|item| item.kind)
            .collect();
        assert_eq!(kinds, ["database_away", "charged_twice"]);
    }
}
