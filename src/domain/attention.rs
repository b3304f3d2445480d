//! What wants an operator's attention: one list, the same for `payment-proxy status`, `GET
//! /attention`, the live page and the metric `attention`.
//!
//! # To add a kind
//!
//! 1. Add a line to `kinds!` below: name, machine name, severity, headline, what an operator does
//!    about it. No number that changes is in the headline: it is read aloud to whoever cannot see
//!    the page, each time that it changes.
//! 2. Add a line where it is found. What the database tells goes into
//!    [`in_database`](crate::store::situation::in_database). What only an instance knows goes into
//!    `serve`, as `own.add(move || found().then(|| Attention::Kind.item("...")))`: each instance
//!    writes its own items into its row of `service_instance` with every heartbeat, so that every
//!    reader of the list finds the items of all living instances.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cell::Cell;

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
        "start or reach PostgreSQL; clients get 503 meanwhile, and what was accepted is in the \
        database";
    /// Two processors have charged one payment.
    ChargedTwice = "charged_twice", Alarm,
        "A payment was charged twice.",
        "the log says CHARGED TWICE with the id; have one of the charges refunded, `payment-proxy \
        reconcile` lists both";
    /// The database refuses what became of payments.
    Unrecorded = "unrecorded", Alarm,
        "The database refuses to record payments.",
        "the instance keeps it and tries again: its log says why (task settle); do not end it \
        before that is put right";
    /// The database is a copy of the deployment's, so nobody may serve from it yet.
    DatabaseCopy = "database_copy", Alarm,
        "The database is a copy.",
        "nothing is accepted or charged until `payment-proxy deployment declare` says what it is: \
        docs/clocks-and-copies.md";
    /// An instance that must not serve: its terms contradict the others'.
    InstanceHeld = "instance_held", Alarm,
        "An instance contradicts the others.",
        "it accepts and charges nothing: `payment-proxy deployment` shows why, \
        docs/clocks-and-copies.md what to do";
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
        "neither recorded nor charged elsewhere; `dead-letter list` says what it has: ask those \
        who run it, then retry or discard";
    /// Payments in doubt at a processor that no living instance is configured with.
    Stranded = "stranded", Alarm,
        "Payments are in doubt at a removed processor.",
        "add that processor to PROCESSORS again, or ask it by other means and say so with \
        `payment-proxy in-doubt`";
    /// A crash or a failover emptied an unlogged queue.
    QueueEmptied = "queue_emptied", Alarm,
        "The queue was emptied.",
        "`SELECT * FROM audit.balance()` says how many accepted payments are missing; when that is \
        seen to, `payment-proxy deployment acknowledge --reason TEXT`; QUEUE_DURABILITY=logged \
        keeps them";
    /// Ledger and processors differ, by what `payment-proxy reconcile` found last.
    Unreconciled = "unreconciled", Alarm,
        "Ledger and processors differ.",
        "table reconcile_finding has the ids; `payment-proxy reconcile` compares again and takes \
        out what agrees";
    /// An instance ended without signing off.
    InstanceDied = "instance_died", Watch,
        "An instance died.",
        "see its log; what it had claimed is taken up by others when the leases end";
    /// A payment is open for long.
    OldPayment = "old_payment", Watch,
        "A payment is open for long.",
        "`payment-proxy status` names it, `payment-proxy payment ID` tells its life";
    /// Standbys do not get what is in an unlogged table.
    UnloggedStandby = "unlogged_standby", Watch,
        "A failover loses the queue.",
        "set QUEUE_DURABILITY=logged, and run `payment-proxy migrate`: docs/high-availability.md";
    /// A crash of the machine may lose or damage anything.
    NotDurable = "not_durable", Watch,
        "The database server does not wait for its disk.",
        "set fsync = on, PostgreSQL's default, and reload the server: nothing that it confirms is \
        on disk before";
    /// Doubts wait, and sums of hours may be of others.
    ClockStep = "clock_step", Watch,
        "The database's clock was set.",
        "payments go on; see to the time synchronisation of the database server: \
        docs/clocks-and-copies.md";
    /// The database was restored, and that is not over.
    AsksFirst = "asks_first", Watch,
        "The database was restored.",
        "when nothing that the dump lacks can be posted again: `payment-proxy deployment declare \
        checked`";
    /// Programs of several versions.
    Programs = "programs", Watch,
        "Instances run different programs.",
        "finish the update: start the older instances anew";
    /// Lines of an instance's log are missing.
    LogLinesDropped = "log_lines_dropped", Watch,
        "Lines of a log are missing.",
        "see to the disk or the reader of that instance's standard error; the metric \
        log_lines_dropped_total counts";
    /// Vacuum cannot clean up.
    LongTransaction = "long_transaction", Watch,
        "A transaction is open for long.",
        "it keeps vacuum from cleaning the queue: see pg_stat_activity";
    /// Payments wait for longer than they should.
    PaymentsWait = "payments_wait", Watch,
        "Payments wait.",
        "`payment-proxy status` shows which processors are slow or failing; the queue drains when \
        they are not";
    /// A processor is not used, because payments fail there.
    ProcessorFailing = "processor_failing", Watch,
        "A processor is failing.",
        "single payments find out when it is back; if that takes long, ask those who run it";
    /// An operator took a processor out.
    ProcessorOff = "processor_off", Watch,
        "A processor is switched off.",
        "put it back into use when the reason is gone: `payment-proxy routing enable NAME --reason \
        TEXT`";
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

impl Item {
    /// The same, which names the cell where there are others.
    #[must_use]
    pub(crate) fn of_cell(self, cell: Cell) -> Self {
        Self {
            text: cell.named(self.text),
            ..self
        }
    }
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
    pub(crate) fn titled(self, title: impl Into<String>, text: impl Into<String>) -> Item {
        Item {
            title: title.into().into(),
            ..self.item(text)
        }
    }
}

/// What an instance finds in itself. A source is asked at every heartbeat and every look, so it may
/// not block.
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
pub(crate) fn in_order(mut items: Vec<Item>) -> Vec<Item> {
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

/// The list as an instance tells it: what the database told, or that it told nothing, and what this
/// instance finds in itself, which may be newer than its last heartbeat.
#[must_use]
pub fn list(mut told: Vec<Item>, own: &OwnAttention) -> Vec<Item> {
    told.extend(own.items());
    in_order(told)
}

/// What an instance wrote. What cannot be read was written by a program that is much newer.
pub(crate) fn published(attention: &str) -> Vec<Item> {
    serde_json::from_str(attention).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
        let kinds: Vec<_> = list(vec![Attention::DatabaseAway.item("away")], &own)
            .into_iter()
            .map(|item| item.kind)
            .collect();
        assert_eq!(kinds, ["database_away", "charged_twice"]);
    }
}
