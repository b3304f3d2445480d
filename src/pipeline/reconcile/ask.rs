//! What the processors say of a payment, asked at a limited rate.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::processors::{Lookup, Processor};

/// A processor that has given no answer for so long is not asked any more by this run.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(20);
/// How far the questions may be behind their rate and catch up: more at once would be felt by those
/// who post.
pub(crate) const RATE_SLACK: Duration = Duration::from_millis(50);

/// A payment as a processor has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) processor: String,
    /// None where it has none, or one that no payment can have.
    pub(super) amount: Option<Decimal>,
    pub(super) requested_at: DateTime<Utc>,
}

/// What was said of a payment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) charges: Vec<Charge>,
    /// Processors that did not say, each with what came instead.
    pub(super) silent: Vec<(String, String)>,
}

/// The processors that are asked.
pub(super) struct Asker<'a> {
    processors: &'a [Processor],
    silences: Vec<Mutex<Silence>>,
    pace: tokio::sync::Mutex<Pace>,
}

/// A time without an answer.
#[derive(Default)]
struct Silence {
    since: Option<Instant>,
    given_up: Option<String>,
}

impl<'a> Asker<'a> {
    pub(super) fn new(processors: &'a [Processor], rate: NonZeroU32) -> Self {
        Self {
            processors,
            silences: processors.iter().map(|_| Mutex::default()).collect(),
            pace: tokio::sync::Mutex::new(Pace::new(rate)),
        }
    }

    /// Asks every processor for that payment, when its turn has come; for what differs `again`,
    /// over connections of their own: what nobody asked for may have been taken for an answer.
    pub(super) async fn ask(&self, id: Uuid, again: bool) -> Answers {
        let mut answers = Answers::default();
        let mut asked = false;
        for (Processor { name, client }, silence) in self.processors.iter().zip(&self.silences) {
            if let Some(reason) = lock(silence).given_up.clone() {
                answers.silent.push((name.clone(), reason));
                continue;
            }
            if !std::mem::replace(&mut asked, true) {
                self.pace.lock().await.turn().await;
            }
            let answer = match again {
                true => client.lookup_anew(id).await,
                false => client.lookup(id).await,
            };
            lock(silence).heard(&answer, Instant::now());
            match answer {
                Lookup::Found {
                    amount,
                    requested_at,
                } => answers.charges.push(Charge {
                    processor: name.clone(),
                    amount,
                    requested_at,
                }),
                Lookup::Absent => {}
                Lookup::NoAnswer(reason) => answers.silent.push((name.clone(), reason)),
                Lookup::Throttled | Lookup::OtherId(_) => {
                    answers.silent.push((name.clone(), answer.to_string()));
                }
            }
        }
        answers
    }
}

fn lock(silence: &Mutex<Silence>) -> std::sync::MutexGuard<'_, Silence> {
    silence
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Silence {
    fn heard(&mut self, answer: &Lookup, now: Instant) {
        let Lookup::NoAnswer(reason) = answer else {
            self.since = None;
            return;
        };
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= SILENCE_LIMIT {
            let seconds = SILENCE_LIMIT.as_secs();
            self.given_up = Some(format!(
                "no answer for {seconds} s, so not asked any more: {reason}"
            ));
        }
    }
}

/// Turns at equal distances.
struct Pace {
    gap: Duration,
    next: tokio::time::Instant,
}

impl Pace {
    fn new(rate: NonZeroU32) -> Self {
        Self {
            gap: Duration::from_secs(1) / rate.get(),
            next: tokio::time::Instant::now(),
        }
    }

    async fn turn(&mut self) {
        let now = tokio::time::Instant::now();
        let earliest = now.checked_sub(RATE_SLACK).unwrap_or(now);
        let turn = self.next.max(earliest);
        self.next = turn + self.gap;
        tokio::time::sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_turns_than_the_rate_and_its_slack() {
        for rate in [1, 300, 5_000] {
            let mut pace = Pace::new(NonZeroU32::new(rate).expect("not 0"));
            // After a stall nothing is caught up but the slack.
            tokio::time::sleep(Duration::from_secs(30)).await;
            let begun_at = tokio::time::Instant::now();
            let mut turns = 0;
            while begun_at.elapsed() < Duration::from_secs(2) {
                pace.turn().await;
                turns += 1;
            }
            let allowed = f64::from(2 * rate) + f64::from(rate) * RATE_SLACK.as_secs_f64() + 2.0;
            assert!(f64::from(turns) <= allowed, "{turns} turns at {rate}/s");
            assert!(turns >= 2 * rate, "{turns} turns at {rate}/s");
        }
    }

    #[test]
    fn who_gives_no_answer_for_long_is_not_asked_any_more() {
        let now = Instant::now();
        let no_answer = Lookup::NoAnswer("refused".to_owned());
        let mut silence = Silence::default();
        silence.heard(&no_answer, now);
        silence.heard(&no_answer, now + SILENCE_LIMIT / 2);
        silence.heard(&Lookup::Absent, now + SILENCE_LIMIT);
        silence.heard(&no_answer, now + SILENCE_LIMIT);
        assert_eq!(silence.given_up, None);
        silence.heard(&no_answer, now + 2 * SILENCE_LIMIT);
        assert!(
            silence
                .given_up
                .is_some_and(|reason| reason.ends_with("refused"))
        );
    }
}
