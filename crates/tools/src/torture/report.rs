//! What is told of a round, while it runs and at its end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Plan;
use crate::deployment::facts::Facts;
use crate::deployment::ledger::Totals;
use crate::deployment::stack::Stack;
use crate::deployment::timeline::Timeline;

/// What came of a round.
#[derive(Debug)]
pub struct Report {
    plan: Plan,
    /// What is wrong; nothing if empty.
    pub findings: Vec<String>,
    /// How often each trouble was made.
    pub troubles: BTreeMap<&'static str, u64>,
    /// How often each fault met a payment.
    pub faults: BTreeMap<String, u64>,
    /// How often the instances logged what is of interest.
    pub logged: BTreeMap<&'static str, u64>,
    /// Payments that clients posted.
    pub payments: usize,
    /// Those of them that got a 2xx.
    pub accepted: usize,
    /// Those that got none and may have been accepted all the same.
    pub unaccepted: usize,
    /// Posts of all kinds.
    pub posts: u64,
    /// Payments in the ledger.
    pub settled: usize,
    /// Payments in the dead letters.
    pub dead: usize,
    /// Charges at each processor.
    pub charges: Vec<(String, usize)>,
    /// Summaries that were compared with the processors'.
    pub summaries: usize,
    /// How long the queue took to drain.
    pub drain: Duration,
    /// Where everything was kept after a failure.
    pub kept: PathBuf,
}

impl Report {
    /// Nothing is known yet.
    pub fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            findings: Vec::new(),
            troubles: BTreeMap::new(),
            faults: BTreeMap::new(),
            logged: BTreeMap::new(),
            payments: 0,
            accepted: 0,
            unaccepted: 0,
            posts: 0,
            settled: 0,
            dead: 0,
            charges: Vec::new(),
            summaries: 0,
            drain: Duration::ZERO,
            kept: PathBuf::new(),
        }
    }

    /// Takes the numbers of the facts.
    pub fn take(&mut self, facts: &Facts, stack: &Stack) {
        let clients = &facts.clients;
        self.payments = clients.len();
        self.accepted = clients.values().filter(|known| known.accepted).count();
        self.unaccepted = self.payments - self.accepted;
        self.posts = clients.values().map(|known| u64::from(known.posts)).sum();
        self.settled = facts.recorded_payments.len();
        self.dead = facts.dead.len();
        let charges = facts.processors.iter();
        self.charges = charges
            .map(|(name, stored)| (name.clone(), stored.len()))
            .collect();
        for processor in &stack.processors {
            for (fault, count) in processor.injected() {
                *self.faults.entry(fault).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.plan;
        writeln!(
            out,
            "round      {:?} queue, {} s, seed {}",
            plan.durability,
            plan.length.as_secs(),
            plan.seed
        )?;
        writeln!(
            out,
            "payments   {}: {} accepted, {} without an acceptance, {} posts",
            self.payments, self.accepted, self.unaccepted, self.posts
        )?;
        write!(out, "settled    {}", self.settled)?;
        for (name, count) in &self.charges {
            write!(out, ", {count} charged by {name}")?;
        }
        writeln!(out, ", {} dead letters", self.dead)?;
        writeln!(
            out,
            "summaries  {} compared, queue empty {:.1} s after the last post",
            self.summaries,
            self.drain.as_secs_f64()
        )?;
        for (title, counts) in [
            ("troubles", join(&self.troubles)),
            ("faults", join(&self.faults)),
            ("logged", join(&self.logged)),
        ] {
            writeln!(out, "{title:10} {counts}")?;
        }
        if self.findings.is_empty() {
            return write!(
                out,
                "verdict    nothing lost, nothing charged twice, records equal"
            );
        }
        for finding in &self.findings {
            writeln!(out, "WRONG      {finding}")?;
        }
        write!(out, "verdict    FAILED, see {}", self.kept.display())
    }
}

fn join<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let counts: Vec<String> = counts
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    counts.join(", ")
}

/// One line that tells how a round goes.
pub(super) fn progress(
    begun_at: Instant,
    clients: &Totals,
    stack: &Stack,
    timeline: &Timeline,
) -> String {
    let counts = timeline.counts();
    let sum = |word: &str| -> u64 {
        let matching = counts.iter().filter(|(kind, _)| kind.contains(word));
        matching.map(|(_, count)| count).sum()
    };
    let faults = stack.processors.iter();
    let faults: u64 = faults
        .flat_map(|processor| processor.injected().into_values())
        .sum();
    format!(
        "{:.0} payments/s  accepted {}  refused {}  unanswered {}  settled {}  killed {}  terminated \
        {}  stopped {}  database {}  faults {}",
        clients.payments as f64 / begun_at.elapsed().as_secs_f64(),
        clients.accepted,
        clients.refused,
        clients.unanswered,
        stack.settled(),
        sum("instance killed") + 2 * sum("instances killed"),
        sum("terminated"),
        sum("instance stopped"),
        sum("database"),
        faults
    )
}
