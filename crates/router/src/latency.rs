//! How long a processor takes to answer.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Policy, Time};

/// A moving average over replies that also counts what has *not* been answered: the latency is at
/// least the age of the oldest request in flight that was sent after the newest one answered. A
/// processor that stops answering therefore looks slower with every moment, long before its first
/// late reply.
#[derive(Debug, Clone)]
pub struct Latency {
    /// Of every attempt that ended.
    average: Average,
    /// Of those that were answered.
    answers: Average,
    newest_answered: Option<Time>,
    /// When the unanswered requests were sent that are younger than `newest_answered`, in order.
    unanswered: VecDeque<Time>,
}

/// A moving average of seconds.
#[derive(Debug, Clone)]
struct Average {
    seconds: f64,
    /// When it was last supported by a reply or a report.
    supported_at: Time,
}

impl Average {
    fn take(&mut self, sample: Duration, now: Time, policy: &Policy) {
        let sample = sample.min(policy.latency_longest).as_secs_f64();
        // What is known is worth less the longer ago it was learnt.
        let silence = now.saturating_sub(self.supported_at).as_secs_f64();
        let outdated = 1.0 - (-silence / policy.latency_memory.as_secs_f64()).exp2();
        let known = self.relaxed(now, policy);
        self.seconds = known + policy.latency_weight.max(outdated) * (sample - known);
        self.supported_at = now;
    }

    /// Takes in a least time, where it is news. Returns whether it is good news.
    fn report(&mut self, minimum: Duration, now: Time, policy: &Policy) -> bool {
        let minimum = minimum.min(policy.latency_longest).as_secs_f64();
        let stale = now.saturating_sub(self.supported_at) >= policy.latency_stale;
        let is_better = stale && minimum < self.seconds;
        if stale || minimum > self.seconds {
            self.seconds = minimum;
            self.supported_at = now;
        }
        is_better
    }

    /// The average, on its way to the prior when nothing has supported it for long.
    fn relaxed(&self, now: Time, policy: &Policy) -> f64 {
        let silence = now.saturating_sub(self.supported_at);
        if silence <= policy.latency_stale {
            return self.seconds;
        }
        let age =
            (silence - policy.latency_stale).as_secs_f64() / policy.latency_half_life.as_secs_f64();
        let prior = policy.latency_prior.as_secs_f64();
        prior + (self.seconds - prior) * (-age).exp2()
    }
}

impl Latency {
    /// Nothing known: the prior of the policy.
    pub fn new(policy: &Policy, now: Time) -> Self {
        let prior = Average {
            seconds: policy.latency_prior.as_secs_f64(),
            supported_at: now,
        };
        Self {
            average: prior.clone(),
            answers: prior,
            newest_answered: None,
            unanswered: VecDeque::new(),
        }
    }

    /// A request was sent.
    pub fn sent(&mut self, at: Time) {
        // Two threads may report in the wrong order; a moment more or less does no harm, an
        // unordered list would.
        let at = self.unanswered.back().map_or(at, |last| at.max(*last));
        self.unanswered.push_back(at);
    }

    /// A request that was sent then has ended now, in a way that shows how long the processor
    /// takes; `answered` says whether by its answer.
    pub fn ended(&mut self, sent_at: Time, now: Time, answered: bool, policy: &Policy) {
        self.gone(sent_at);
        let newest = self.newest_answered.unwrap_or(sent_at);
        if newest.saturating_sub(sent_at) <= policy.latency_disorder {
            let sample = now.saturating_sub(sent_at);
            self.average.take(sample, now, policy);
            if answered {
                self.answers.take(sample, now, policy);
            }
        }
    }

    /// A request that was sent then is no longer in flight.
    pub fn gone(&mut self, sent_at: Time) {
        let newest = self
            .newest_answered
            .map_or(sent_at, |newest| newest.max(sent_at));
        self.newest_answered = Some(newest);
        while self.unanswered.front().is_some_and(|sent| *sent <= newest) {
            self.unanswered.pop_front();
        }
    }

    /// The processor says that it takes at least that long.
    pub fn reported(&mut self, minimum: Duration, now: Time, policy: &Policy) {
        self.answers.report(minimum, now, policy);
        if self.average.report(minimum, now, policy) {
            // What is still unanswered was sent before things got better.
            self.unanswered.clear();
        }
    }

    /// Seconds from sending a request until its reply, as expected at that moment.
    pub fn estimate(&self, now: Time, policy: &Policy) -> f64 {
        let oldest = self
            .unanswered
            .front()
            .map_or(Duration::ZERO, |sent| now.saturating_sub(*sent));
        self.average
            .relaxed(now, policy)
            .max(oldest.min(policy.latency_longest).as_secs_f64())
    }

    /// How long the processor takes for its answers, by those that came: one that stores payments
    /// and does not answer does not become slow by it.
    pub fn answers_in(&self, now: Time, policy: &Policy) -> Duration {
        Duration::from_secs_f64(self.answers.relaxed(now, policy).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_unanswered_request_counts_with_its_age() {
        let policy = Policy::default();
        let mut latency = Latency::new(&policy, ms(0));
        latency.sent(ms(10));
        latency.ended(ms(10), ms(12), true, &policy);
        latency.sent(ms(20));
        latency.sent(ms(900));
        assert!((latency.estimate(ms(1_020), &policy) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_newer_answer_forgives_what_was_sent_before_it() {
        let policy = Policy::default();
        let mut latency = Latency::new(&policy, ms(0));
        latency.sent(ms(0));
        latency.sent(ms(2_000));
        latency.ended(ms(2_000), ms(2_010), true, &policy);
        assert!(latency.estimate(ms(2_020), &policy) < 0.1);
        // The late reply to the older request says nothing about the present.
        latency.ended(ms(0), ms(3_000), true, &policy);
        assert!(latency.estimate(ms(3_000), &policy) < 0.1);
    }

    #[test]
    fn silence_leads_back_to_the_prior() {
        let policy = Policy::default();
        let mut latency = Latency::new(&policy, ms(0));
        latency.reported(ms(5_000), ms(0), &policy);
        assert!((latency.estimate(ms(500), &policy) - 5.0).abs() < 1e-9);
        let prior = policy.latency_prior.as_secs_f64();
        assert!((latency.estimate(Duration::from_secs(86_400), &policy) - prior).abs() < 1e-6);
    }

    #[test]
    fn what_is_stored_and_not_answered_is_slow_and_makes_no_answer_slower() {
        let policy = Policy::default();
        let mut latency = Latency::new(&policy, ms(0));
        for n in 0..50 {
            latency.sent(ms(n * 1_000));
            latency.ended(ms(n * 1_000), ms((n + 1) * 1_000), false, &policy);
        }
        assert!(latency.estimate(ms(50_000), &policy) > 0.9);
        assert!(latency.answers_in(ms(50_000), &policy) <= policy.latency_prior);
        // Its own word counts, and so does an answer.
        latency.reported(ms(3_000), ms(50_000), &policy);
        assert_eq!(latency.answers_in(ms(50_000), &policy), ms(3_000));
        latency.sent(ms(50_000));
        latency.ended(ms(50_000), ms(55_000), true, &policy);
        assert!(latency.answers_in(ms(55_000), &policy) > ms(4_900));
    }
}
