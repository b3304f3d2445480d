//! Trouble: one hand for each instance, for the database, for its clock and for each processor, all at
//! work at once.
//!
//! Each hand draws from a deck of its own. The first pass goes through the cards as they are listed, so
//! that a short round meets the worst of them, and then they are shuffled. What a card needs is drawn
//! before it is played, so that a seed means the same choices however the machine is busy.

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
use super::pace::Pace;
use crate::deployment::generator;
use crate::deployment::process::{Log, thaw};
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
/// How long an instance with swapped URLs has to say that it is held, its start included.
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
}

/// Starts all hands. Each heals what it did and ends soon after `over`.
pub(crate) fn begin(plan: &Plan, stack: &Arc<Stack>, over: &CancellationToken) -> JoinSet<()> {
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
    hands.spawn(hand.hurt_database(plan.durability));
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

    /// Starts an instance that means the other processor by each name, beside one that serves: it has to
    /// say so and to stay held. What it would charge would be in the books of the wrong processor.
    async fn swap_urls(&self, index: usize, time: Duration) -> anyhow::Result<()> {
        // In this order for both hands, and nobody else waits for one lock while holding another. Where
        // nothing else serves, terms may be replaced, and that is no fault; so nothing else is hurt.
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

    async fn hurt_database(mut self, durability: QueueDurability) {
        use DatabaseTrouble::{ChangePassword, Crash, CrashOne, Freeze, Restart};
        let cards = match durability {
            QueueDurability::Logged => vec![
                Crash,
                ChangePassword,
                Restart,
                CrashOne,
                Crash,
                Freeze,
                CrashOne,
            ],
            // A crash of the server is what this mode does not survive.
            QueueDurability::Unlogged => vec![ChangePassword, Restart, Freeze, Restart],
        };
        let mut deck = Deck { cards, dealt: 0 };
        loop {
            let pause = self.time(&self.pace.database_pause.clone());
            let trouble = deck.draw(&mut self.rng);
            let away = self.time(&self.pace.away.clone());
            let frozen = self.time(&DATABASE_FROZEN);
            let locked_out = self.time(&LOCKED_OUT);
            let which = self.rng.random();
            if !self.rest(pause).await {
                return;
            }
            let done = match trouble {
                Crash => self.crash_database(away).await,
                CrashOne => self.crash_backend(which).await,
                Restart => self.restart_database(away).await,
                Freeze => self.freeze_database(frozen).await,
                ChangePassword => self.change_password(locked_out).await,
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

    /// Sets the clock of the database ahead and back in turns. It stays so until the next turn, or until all
    /// is healed.
    async fn hurt_clock(mut self, off: Range<Duration>) {
        for turn in 0_u64.. {
            let pause = self.time(&self.pace.database_pause.clone());
            let seconds = i64::try_from(self.time(&off).as_secs()).unwrap_or(i64::MAX);
            let (kind, seconds) = match turn % 2 {
                0 => ("database clock set ahead", seconds),
                _ => ("database clock set back", -seconds),
            };
            if !self.rest(pause).await {
                return;
            }
            let cluster = self.stack.cluster.lock().await;
            let detail = format!("{seconds:+} s against this machine's");
            self.stack.timeline.trouble(kind, &detail);
            if let Err(error) = cluster.set_clock(seconds) {
                self.stack.break_off(&error);
                return;
            }
        }
    }

    async fn hurt_processor(mut self, index: usize) {
        loop {
            let behaviour = misbehaviour(&self.pace, &mut self.rng);
            let pause = self.time(&self.pace.faults_pause.clone());
            let processor = &self.stack.processors[index];
            let detail = format!("{} {behaviour:?}", processor.name);
            self.stack.timeline.trouble("mix of faults", &detail);
            if let Err(error) = processor.behave(&behaviour).await {
                self.stack.break_off(&error);
                return;
            }
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
