//! Trouble: one hand for each instance, for the database, for its clock and for each processor, all
//! at work at once.
//!
//! Each hand draws from a deck of its own. The first pass goes through the cards as they are
//! listed, so that a short round meets the worst of them, and then they are shuffled. What a card
//! needs is drawn before it is played, so that a seed means the same choices however the machine is
//! busy.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use payment_proxy::config::QueueDurability;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use simulator::Faults;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Plan;
use super::clients::Clients;
use super::pace::Pace;
use crate::deployment::generator;
use crate::deployment::process::{Log, Process, thaw};
use crate::deployment::processor::Behaviour;
use crate::deployment::stack::{INSTANCE_STOP, POLL, Stack};

/// How long the database is stopped where it stands.
const DATABASE_FROZEN: Range<Duration> = Duration::from_millis(200)..Duration::from_millis(5_000);
/// An instance that is stopped for so long keeps its leases.
const SHORT_STOP: Range<Duration> = Duration::from_millis(100)..Duration::from_millis(3_000);
/// How much longer than a lease, or than a doubt, an instance is stopped to lose it.
const BEYOND: Range<Duration> = Duration::from_millis(100)..Duration::from_millis(2_000);
/// How long the role of the instances has another password than they know.
const LOCKED_OUT: Range<Duration> = Duration::from_millis(200)..Duration::from_millis(3_000);
/// How long a processor is slow before the clock goes ahead: calls have to be open there, and it
/// must not have stored what they are about.
const SLOW_BEFORE: Range<Duration> = Duration::from_millis(300)..Duration::from_millis(1_000);
/// How long a database goes on after the dump that then takes its place.
const AFTER_DUMP: Range<Duration> = Duration::from_millis(500)..Duration::from_millis(4_000);
/// How long payments that wait when a restored database is declared may take to be settled, beyond
/// the longest doubt: every processor has to answer for each.
const CHECK_LIMIT: Duration = Duration::from_secs(90);
/// How long the instances have to report that the queue was emptied: both may be stopped at first.
const REPORT_LIMIT: Duration = Duration::from_secs(60);
/// How long an instance that must not serve has to say that it is held, its start included.
const HELD_LIMIT: Duration = Duration::from_secs(30);

/// What can happen to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InstanceTrouble {
    Kill,
    KillBoth,
    Terminate,
    ShortStop,
    LoseLease,
    OutlastDoubt,
    LoseLog,
    SwapUrls,
    Spare,
}

/// What can happen to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DatabaseTrouble {
    Crash,
    CrashOne,
    Restart,
    Freeze,
    ChangePassword,
    RestoreDump,
}

/// Starts all hands. Each heals what it did and ends soon after `over`.
pub(super) fn begin(
    plan: &Plan,
    stack: &Arc<Stack>,
    clients: &Clients,
    over: &CancellationToken,
) -> JoinSet<()> {
    let mut hands = JoinSet::new();
    for index in [0, 1] {
        let rng = generator(plan.seed, 10 + index as u64);
        let hand = Hand::new(plan, stack, over, rng);
        hands.spawn(hand.hurt_instance(index));
        let rng = generator(plan.seed, 30 + index as u64);
        let hand = Hand::new(plan, stack, over, rng);
        hands.spawn(hand.hurt_processor(index));
    }
    let hand = Hand::new(plan, stack, over, generator(plan.seed, 20));
    hands.spawn(hand.hurt_database(plan.durability, clients.clone()));
    if let Some(off) = plan.pace.clock_off.clone() {
        let hand = Hand::new(plan, stack, over, generator(plan.seed, 40));
        hands.spawn(hand.hurt_clock(off));
    }
    hands
}

/// Cards that are dealt again and again.
#[derive(Debug)]
struct Deck<T> {
    cards: Vec<T>,
    dealt: usize,
}

impl<T: Copy> Deck<T> {
    fn draw(&mut self, rng: &mut StdRng) -> T {
        let turn = self.dealt % self.cards.len();
        if turn == 0 && self.dealt > 0 {
            self.cards.shuffle(rng);
        }
        self.dealt += 1;
        self.cards[turn]
    }
}

/// Makes trouble of one kind.
struct Hand {
    pace: Pace,
    stack: Arc<Stack>,
    over: CancellationToken,
    rng: StdRng,
}

impl Hand {
    fn new(plan: &Plan, stack: &Arc<Stack>, over: &CancellationToken, rng: StdRng) -> Self {
        Self {
            pace: plan.pace.clone(),
            stack: Arc::clone(stack),
            over: over.clone(),
            rng,
        }
    }

    fn time(&mut self, range: &Range<Duration>) -> Duration {
        self.rng.random_range(range.clone())
    }

    /// Waits so long, or until all trouble is over. Returns whether it goes on.
    async fn rest(&self, time: Duration) -> bool {
        self.over
            .run_until_cancelled(tokio::time::sleep(time))
            .await
            .is_some()
    }

    async fn hurt_instance(mut self, index: usize) {
        use InstanceTrouble::{
            Kill, KillBoth, LoseLease, LoseLog, OutlastDoubt, ShortStop, Spare, SwapUrls, Terminate,
        };
        let mut cards = match index {
            0 => vec![
                SwapUrls, LoseLease, Terminate, Kill, LoseLog, Kill, ShortStop, Kill, Terminate,
            ],
            _ => vec![
                Kill, LoseLog, Terminate, KillBoth, Kill, LoseLease, SwapUrls, Kill, ShortStop,
            ],
        };
        if self.pace.long_stops {
            cards.extend([OutlastDoubt, Spare]);
        }
        let mut deck = Deck { cards, dealt: 0 };
        loop {
            let pause = self.time(&self.pace.instance_pause.clone());
            let trouble = deck.draw(&mut self.rng);
            let away = self.time(&self.pace.away.clone());
            let stopped = match trouble {
                LoseLease => self.pace.lease() + self.time(&BEYOND),
                OutlastDoubt => self.pace.longest_doubt() + self.time(&BEYOND),
                // An absence is no proof before that, and doubts that end after it need a while.
                Spare => self.pace.longest_doubt() * 2 + self.time(&BEYOND),
                _ => self.time(&SHORT_STOP),
            };
            let log = match self.rng.random_range(0..3) {
                0 => Log::FullDisk,
                1 => Log::ReaderGone,
                _ => Log::Unread,
            };
            if !self.rest(pause).await {
                return;
            }
            let done = match trouble {
                Kill => self.kill(index, away, false).await,
                KillBoth => self.kill(index, away, true).await,
                Terminate => self.terminate(index, away).await,
                LoseLog => self.lose_log(index, away, log).await,
                SwapUrls => self.swap_urls(index, away).await,
                Spare => self.spare(index, stopped).await,
                ShortStop => self.halt("instance stopped briefly", index, stopped).await,
                LoseLease => {
                    self.halt("instance stopped beyond its leases", index, stopped)
                        .await
                }
                OutlastDoubt => {
                    self.halt("instance stopped beyond all doubts", index, stopped)
                        .await
                }
            };
            if let Err(error) = done {
                self.stack.break_off(&error);
                return;
            }
        }
    }

    async fn kill(&self, index: usize, away: Duration, both: bool) -> anyhow::Result<()> {
        let mut instance = self.stack.instances[index].lock().await;
        // One that has its own trouble at this moment is left alone.
        let other = self.stack.instances[1 - index].try_lock();
        let mut other = other.ok().filter(|_| both);
        self.stack.revive(&mut instance)?;
        if let Some(other) = &mut other {
            self.stack.revive(other)?;
            other.signal(Signal::SIGKILL);
        }
        let kind = match other {
            Some(_) => "both instances killed",
            None => "instance killed",
        };
        self.stack
            .timeline
            .trouble(kind, &format!("{} for {away:?}", instance.name()));
        instance.crash().await;
        if let Some(other) = &mut other {
            other.crash().await;
        }
        self.rest(away).await;
        instance.start()?;
        if let Some(other) = &mut other {
            other.start()?;
        }
        Ok(())
    }

    async fn terminate(&self, index: usize, away: Duration) -> anyhow::Result<()> {
        let mut instance = self.stack.instances[index].lock().await;
        self.stack.revive(&mut instance)?;
        let name = instance.name();
        let timeline = &self.stack.timeline;
        timeline.trouble(
            "instance terminated",
            &format!("{name}, then away {away:?}"),
        );
        if !instance.stop(Signal::SIGTERM, INSTANCE_STOP).await {
            timeline.complain(format!(
                "{name} did not stop within {INSTANCE_STOP:?} of SIGTERM"
            ));
        }
        timeline.note("terminated", name);
        self.rest(away).await;
        Ok(instance.start()?)
    }

    async fn halt(&self, kind: &'static str, index: usize, time: Duration) -> anyhow::Result<()> {
        let mut instance = self.stack.instances[index].lock().await;
        self.stack.revive(&mut instance)?;
        let name = instance.name();
        self.stack
            .timeline
            .trouble(kind, &format!("{name} for {time:?}"));
        instance.signal(Signal::SIGSTOP);
        self.rest(time).await;
        instance.signal(Signal::SIGCONT);
        self.stack.timeline.note("continued", name);
        Ok(())
    }

    /// Kills an instance, and starts it so that it cannot log until its next end.
    async fn lose_log(&self, index: usize, away: Duration, log: Log) -> anyhow::Result<()> {
        let mut instance = self.stack.instances[index].lock().await;
        self.stack.revive(&mut instance)?;
        let name = instance.name();
        let detail = format!("{name}: {log:?}");
        self.stack
            .timeline
            .trouble("instance without a log", &detail);
        instance.crash().await;
        self.rest(away).await;
        Ok(instance.start_with(log, &[])?)
    }

    /// Starts an instance that means the other processor by each name, beside one that serves: it
    /// has to say so and to stay held. What it would charge would be in the ledger of the wrong
    /// processor.
    async fn swap_urls(&self, index: usize, time: Duration) -> anyhow::Result<()> {
        // In this order for both hands, and nobody else waits for one lock while holding another.
        // Where nothing else serves, terms may be replaced, and that is no fault; so nothing else
        // is hurt.
        let (mut one, mut other) = (
            self.stack.instances[0].lock().await,
            self.stack.instances[1].lock().await,
        );
        let _cluster = self.stack.cluster.lock().await;
        self.stack.revive(&mut one)?;
        self.stack.revive(&mut other)?;
        let instance = if index == 0 { &mut one } else { &mut other };
        let (name, timeline) = (instance.name(), &self.stack.timeline);
        timeline.trouble(
            "instance with swapped URLs",
            &format!("{name} for {time:?}"),
        );
        instance.crash().await;
        self.stack.until_heartbeat().await?;
        let swapped = self.stack.swapped_processors();
        instance.start_with(Log::File, &[("PROCESSORS", swapped)])?;
        let started_at = Instant::now();
        let mut held_at = None;
        loop {
            match self.stack.readiness(index).await {
                Some((status, _)) if status.is_success() => {
                    timeline.complain(format!("{name} serves with swapped URLs"));
                    break;
                }
                Some((_, reason)) if reason.contains("contradicts the deployment") => {
                    held_at.get_or_insert_with(Instant::now);
                }
                _ if held_at.is_none() && started_at.elapsed() > HELD_LIMIT => {
                    timeline.complain(format!("{name} does not say that its URLs are swapped"));
                    break;
                }
                _ => {}
            }
            let enough = held_at.is_some_and(|at: Instant| at.elapsed() >= time);
            if enough || !self.rest(POLL).await {
                break;
            }
        }
        instance.crash().await;
        timeline.note("URLs are right again", name);
        Ok(instance.start()?)
    }

    async fn spare(&self, index: usize, time: Duration) -> anyhow::Result<()> {
        let instance = self.stack.instances[index].lock().await;
        let detail = format!("{} for {time:?}", instance.name());
        self.stack.timeline.trouble("instance spared", &detail);
        self.rest(time).await;
        Ok(())
    }

    async fn hurt_database(mut self, durability: QueueDurability, clients: Clients) {
        use DatabaseTrouble::{ChangePassword, Crash, CrashOne, Freeze, Restart, RestoreDump};
        let mut cards = match durability {
            QueueDurability::Logged => vec![
                Crash,
                ChangePassword,
                Restart,
                CrashOne,
                Crash,
                Freeze,
                CrashOne,
            ],
            // Each crash takes some doubts' time.
            QueueDurability::Unlogged => {
                vec![
                    ChangePassword,
                    Restart,
                    Crash,
                    Freeze,
                    Restart,
                    CrashOne,
                    Freeze,
                    Restart,
                ]
            }
        };
        let empties = durability == QueueDurability::Unlogged;
        if self.pace.restores {
            cards.insert(2, RestoreDump);
        }
        let mut deck = Deck { cards, dealt: 0 };
        loop {
            let pause = self.time(&self.pace.database_pause.clone());
            let trouble = deck.draw(&mut self.rng);
            let away = self.time(&self.pace.away.clone());
            let after_dump = self.time(&AFTER_DUMP);
            let frozen = self.time(&DATABASE_FROZEN);
            let locked_out = self.time(&LOCKED_OUT);
            let which = self.rng.random();
            if !self.rest(pause).await {
                return;
            }
            let done = match trouble {
                Crash | CrashOne if empties => {
                    let only_one = (trouble == CrashOne).then_some(which);
                    self.empty_queue(&clients, away, only_one).await
                }
                Crash => self.crash_database(away).await,
                CrashOne => self.crash_backend(which).await,
                Restart => self.restart_database(away).await,
                Freeze => self.freeze_database(frozen).await,
                ChangePassword => self.change_password(locked_out).await,
                RestoreDump => self.restore_dump(&clients, after_dump, which).await,
            };
            if let Err(error) = done {
                self.stack.break_off(&error);
                return;
            }
        }
    }

    async fn crash_database(&self, away: Duration) -> anyhow::Result<()> {
        let mut cluster = self.stack.cluster.lock().await;
        let timeline = &self.stack.timeline;
        timeline.trouble("database killed", &format!("for {away:?}"));
        let processes = cluster.crash().await?;
        timeline.note("database killed", &format!("{processes} processes"));
        self.rest(away).await;
        cluster.start().await?;
        timeline.note("database answers", "");
        Ok(())
    }

    async fn crash_backend(&self, which: u32) -> anyhow::Result<()> {
        let cluster = self.stack.cluster.lock().await;
        if cluster.crash_one(|count| which as usize % count) {
            let kind = "database connection killed";
            self.stack.timeline.trouble(kind, "");
        }
        Ok(())
    }

    /// Crashes the server, which empties the unlogged queue, and does what operators and clients do
    /// then: the instances have to report it; clients post again what they were told was accepted;
    /// what processors have of payments that no client posts again is recorded. Nobody sets the
    /// clock of the database meanwhile: a time that it skips is one that an instance which starts
    /// does not wait.
    async fn empty_queue(
        &self,
        clients: &Clients,
        away: Duration,
        only_one: Option<u32>,
    ) -> anyhow::Result<()> {
        let (stack, timeline) = (&self.stack, &self.stack.timeline);
        let mut cluster = stack.cluster.lock().await;
        let reported = stack.emptied_queues().await?;
        match only_one {
            Some(which) => {
                if !cluster.crash_one(|count| which as usize % count) {
                    return Ok(());
                }
                timeline.trouble("database connection killed", "");
            }
            None => {
                timeline.trouble("database killed", &format!("for {away:?}"));
                let processes = cluster.crash().await?;
                timeline.note("database killed", &format!("{processes} processes"));
                self.rest(away).await;
                cluster.start().await?;
            }
        }
        let accepted = clients.accepted();
        let crashed_at = Instant::now();
        loop {
            // The server may be recovering.
            match stack.emptied_queues().await {
                Ok(times) if times > reported => break,
                _ if crashed_at.elapsed() > REPORT_LIMIT => {
                    timeline.complain("nobody reports that the queue was emptied".to_owned());
                    break;
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
        // What is lost otherwise stays lost, and is found by the verdict.
        let again = clients.post_lost_again(stack, accepted).await?;
        timeline.note("posted again", &format!("{again} payments were nowhere"));
        // Whatever was sent before the crash is stored by then, and known to the instances.
        stack
            .until_settled_so_far(self.pace.longest_doubt() * 2 + CHECK_LIMIT)
            .await?;
        let [default, fallback] = &stack.processors;
        let _turns = (default.turn.lock().await, fallback.turn.lock().await);
        default.behave(&Behaviour::default()).await?;
        fallback.behave(&Behaviour::default()).await?;
        tokio::time::sleep(self.pace.longest_charge()).await;
        stack.record_charges_after([0, 0]).await?;
        stack.acknowledge().await?;
        timeline.note("acknowledged", "");
        Ok(())
    }

    async fn restart_database(&self, away: Duration) -> anyhow::Result<()> {
        let mut cluster = self.stack.cluster.lock().await;
        let timeline = &self.stack.timeline;
        timeline.trouble("database restarted", &format!("for {away:?}"));
        cluster.stop().await?;
        self.rest(away).await;
        cluster.start().await?;
        timeline.note("database answers", "");
        Ok(())
    }

    async fn freeze_database(&self, time: Duration) -> anyhow::Result<()> {
        let cluster = self.stack.cluster.lock().await;
        let timeline = &self.stack.timeline;
        timeline.trouble("database stopped where it stands", &format!("for {time:?}"));
        let all = cluster.freeze()?;
        self.rest(time).await;
        thaw(&all);
        timeline.note("database continued", "");
        Ok(())
    }

    async fn change_password(&self, time: Duration) -> anyhow::Result<()> {
        let cluster = self.stack.cluster.lock().await;
        let timeline = &self.stack.timeline;
        timeline.trouble("password changed", &format!("for {time:?}"));
        cluster.change_password().await?;
        self.rest(time).await;
        cluster.restore_password().await?;
        timeline.note("password restored", "");
        Ok(())
    }

    async fn end(&self, instance: &mut Process, kills: bool) {
        if kills {
            instance.crash().await;
        } else if !instance.stop(Signal::SIGTERM, INSTANCE_STOP).await {
            let name = instance.name();
            self.stack.timeline.complain(format!(
                "{name} did not stop within {INSTANCE_STOP:?} of SIGTERM"
            ));
        }
    }

    /// Puts a dump in the place of the database that went on after it was made, as operators do who
    /// have lost that: both instances are ended, they start held, and the restore is declared. What
    /// the dump lacks comes back from clients and from the processors' lists. Nothing else happens
    /// to instances and database meanwhile: an instance charges nothing before it has watched the
    /// clock for as long as a doubt lasts.
    async fn restore_dump(
        &self,
        clients: &Clients,
        lag: Duration,
        which: u32,
    ) -> anyhow::Result<()> {
        let (mut one, mut other) = (
            self.stack.instances[0].lock().await,
            self.stack.instances[1].lock().await,
        );
        let cluster = self.stack.cluster.lock().await;
        let (stack, timeline) = (&self.stack, &self.stack.timeline);
        stack.revive(&mut one)?;
        stack.revive(&mut other)?;
        let kills = which.is_multiple_of(2);
        let how = if kills { "killed" } else { "terminated" };
        timeline.trouble(
            "dump restored",
            &format!("{lag:?} after it was made, both instances {how}"),
        );
        let (accepted, charges) = (clients.accepted(), stack.charges().await?);
        cluster.dump_database(stack.dump()).await?;
        self.rest(lag).await;
        self.end(&mut one, kills).await;
        self.end(&mut other, kills).await;
        let ended_at = tokio::time::Instant::now();
        cluster.restore_database(stack.dump()).await?;
        timeline.note("dump restored", "instances start");
        one.start()?;
        other.start()?;
        let started_at = Instant::now();
        for index in [0, 1] {
            loop {
                match stack.readiness(index).await {
                    Some((_, reason)) if reason.contains("this database is a copy") => break,
                    Some((status, _)) if status.is_success() => {
                        timeline.complain(format!("instance {index} serves from a restored dump"));
                        break;
                    }
                    _ if started_at.elapsed() > HELD_LIMIT => {
                        timeline.complain(format!("instance {index} does not say it is held"));
                        break;
                    }
                    _ => tokio::time::sleep(POLL).await,
                }
            }
        }
        stack.declare("restored").await?;
        let declared_at = Instant::now();
        for index in [0, 1] {
            while !stack
                .readiness(index)
                .await
                .is_some_and(|(status, _)| status.is_success())
            {
                let late = declared_at.elapsed() > HELD_LIMIT;
                anyhow::ensure!(
                    !late,
                    "instance {index} does not serve a restore that is declared"
                );
                tokio::time::sleep(POLL).await;
            }
        }
        timeline.note("restore declared", "");
        // What was sent before is stored by then.
        tokio::time::sleep_until(ended_at + self.pace.longest_charge()).await;
        {
            let [default, fallback] = &stack.processors;
            let _turns = (default.turn.lock().await, fallback.turn.lock().await);
            default.behave(&Behaviour::default()).await?;
            fallback.behave(&Behaviour::default()).await?;
            stack.record_charges_after(charges).await?;
        }
        let again = clients.post_again(accepted).await?;
        timeline.note("posted again", &format!("{again} payments"));
        let limit = self.pace.longest_doubt() + CHECK_LIMIT;
        stack.until_settled_so_far(limit).await?;
        stack.declare("checked").await?;
        timeline.note("restore is over", "");
        Ok(())
    }

    /// Sets the clock of the database ahead and back in turns. It stays so until the next turn, or
    /// until all is healed. When it goes ahead calls are open at a slow processor: their leases and
    /// doubts seem to be over, and the other processor is the better one.
    async fn hurt_clock(mut self, off: Range<Duration>) {
        for turn in 0_u64.. {
            let pause = self.time(&self.pace.database_pause.clone());
            let seconds = i64::try_from(self.time(&off).as_secs()).unwrap_or(i64::MAX);
            let (kind, seconds) = match turn % 2 {
                0 => ("database clock set ahead", seconds),
                _ => ("database clock set back", -seconds),
            };
            let (slow, lead) = (self.rng.random_range(0..2), self.time(&SLOW_BEFORE));
            if !self.rest(pause).await {
                return;
            }
            let set = self.set_clock(kind, seconds, (slow, lead)).await;
            if let Err(error) = set {
                self.stack.break_off(&error);
                return;
            }
        }
    }

    async fn set_clock(
        &self,
        kind: &'static str,
        seconds: i64,
        (slow, lead): (usize, Duration),
    ) -> anyhow::Result<()> {
        let cluster = self.stack.cluster.lock().await;
        let [default, fallback] = &self.stack.processors;
        let mut turns = None;
        let mut detail = format!("{seconds:+} s against this machine's");
        if seconds > 0 {
            turns = Some((default.turn.lock().await, fallback.turn.lock().await));
            let (slow, fast) = match slow {
                0 => (default, fallback),
                _ => (fallback, default),
            };
            fast.behave(&Behaviour::default()).await?;
            slow.behave(&self.slowest()).await?;
            detail = format!("{detail}, {lead:?} after {} became slow", slow.name);
            self.rest(lead).await;
        }
        self.stack.timeline.trouble(kind, &detail);
        cluster.set_clock(seconds)?;
        if turns.is_some() {
            // Until what was open is stored.
            self.rest(self.pace.longest_charge()).await;
        }
        Ok(())
    }

    /// Each payment takes as long as it can.
    fn slowest(&self) -> Behaviour {
        let slow_ms = u64::try_from(self.pace.longest_slow.as_millis()).unwrap_or(u64::MAX);
        Behaviour {
            faults: Faults {
                slow: 1.0,
                slow_ms,
                ..Faults::default()
            },
            delay: self.pace.longest_delay,
            failing: false,
        }
    }

    async fn hurt_processor(mut self, index: usize) {
        loop {
            let behaviour = misbehaviour(&self.pace, &mut self.rng);
            let pause = self.time(&self.pace.faults_pause.clone());
            let processor = &self.stack.processors[index];
            let turn = processor.turn.lock().await;
            let detail = format!("{} {behaviour:?}", processor.name);
            self.stack.timeline.trouble("mix of faults", &detail);
            if let Err(error) = processor.behave(&behaviour).await {
                self.stack.break_off(&error);
                return;
            }
            drop(turn);
            if !self.rest(pause).await {
                return;
            }
        }
    }
}

/// Draws how a processor behaves for a while: one time in five without any fault.
fn misbehaviour(pace: &Pace, rng: &mut StdRng) -> Behaviour {
    /// The highest rate of a fault, and how many of the mixes have it.
    fn rate(rng: &mut StdRng, highest: f64, share: f64) -> f64 {
        let (drawn, met) = (rng.random_range(0.0..highest), rng.random_bool(share));
        if met { drawn } else { 0.0 }
    }
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let faults = Faults {
        reply_lost: rate(rng, 0.15, 0.6),
        request_lost: rate(rng, 0.15, 0.6),
        reply_hangs: rate(rng, 0.1, 0.5),
        fail_after: rate(rng, 0.15, 0.5),
        fail_before: rate(rng, 0.15, 0.5),
        too_many: rate(rng, 0.1, 0.3),
        gateway_gave_up: rate(rng, 0.06, 0.4),
        gateway_refused: rate(rng, 0.06, 0.3),
        fail_with_text: rate(rng, 0.06, 0.3),
        unasked: rate(rng, 0.1, 0.4),
        slow: rate(rng, 0.4, 0.5),
        slow_ms: rng.random_range(0..=millis(pace.longest_slow)),
        lookup_lost: rate(rng, 0.4, 0.4),
        connection_reset: rate(rng, 0.3, 0.3),
        refuse_for_ms: if rng.random_bool(0.15) {
            rng.random_range(100..1_500)
        } else {
            0
        },
    };
    let delay = match rng.random_range(0..3) {
        0 => Duration::ZERO,
        1 => pace.longest_delay.mul_f64(rng.random_range(0.0..0.1)),
        _ => pace.longest_delay.mul_f64(rng.random_range(0.0..1.0)),
    };
    let failing = rng.random_bool(0.12);
    if rng.random_bool(0.2) {
        return Behaviour::default();
    }
    Behaviour {
        faults,
        delay,
        failing,
    }
}
