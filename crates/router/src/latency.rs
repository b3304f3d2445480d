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
    average: f64,
    /// When the average was last supported by a reply or a report.
    supported_at: Time,
    newest_answered: Option<Time>,
    /// When the unanswered requests were sent that are younger than `newest_answered`, in order.
    unanswered: VecDeque<Time>,
}

impl Latency {
    /// Nothing known: the prior of the policy.
    pub fn new(policy: &Policy, now: Time) -> Self {
        Self {
            average: policy.latency_prior.as_secs_f64(),
            supported_at: now,
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
    /// takes.
    pub fn ended(&mut self, sent_at: Time, now: Time, policy: &Policy) {
        self.gone(sent_at);
        let newest = self.newest_answered.unwrap_or(sent_at);
        if newest.saturating_sub(sent_at) <= policy.latency_disorder {
            let sample = now
                .saturating_sub(sent_at)
                .min(policy.latency_longest)
                .as_secs_f64();
            // What is known is worth less the longer ago it was learnt.
            let silence = now.saturating_sub(self.supported_at).as_secs_f64();
            let outdated = 1.0 - (-silence / policy.latency_memory.as_secs_f64()).exp2();
            let average = self.relaxed(now, policy);
            self.average = average + policy.latency_weight.max(outdated) * (sample - average);
            self.supported_at = now;
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
        let minimum = minimum.min(policy.latency_longest).as_secs_f64();
        let stale = now.saturating_sub(self.supported_at) >= policy.latency_stale;
        if stale || minimum > self.average {
            if minimum < self.average {
                // What is still unanswered was sent before things got better.
                self.unanswered.clear();
            }
            self.average = minimum;
            self.supported_at = now;
        }
    }

    /// Seconds from sending a request until its reply, as expected at that moment.
    pub fn estimate(&self, now: Time, policy: &Policy) -> f64 {
        let oldest = self
            .unanswered
            .front()
            .map_or(Duration::ZERO, |sent| now.saturating_sub(*sent));
        self.relaxed(now, policy)
            .max(oldest.min(policy.latency_longest).as_secs_f64())
    }

    /// The average, on its way to the prior when nothing has supported it for long.
    fn relaxed(&self, now: Time, policy: &Policy) -> f64 {
        let silence = now.saturating_sub(self.supported_at);
        if silence <= policy.latency_stale {
            return self.average;
        }
        let age =
            (silence - policy.latency_stale).as_secs_f64() / policy.latency_half_life.as_secs_f64();
        let prior = policy.latency_prior.as_secs_f64();
        prior + (self.average - prior) * (-age).exp2()
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
        latency.ended(ms(10), ms(12), &policy);
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
        latency.ended(ms(2_000), ms(2_010), &policy);
        assert!(latency.estimate(ms(2_020), &policy) < 0.1);
        // The late reply to the older request says nothing about the present.
        latency.ended(ms(0), ms(3_000), &policy);
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
}
