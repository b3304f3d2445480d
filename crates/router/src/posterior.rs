//! How likely an attempt succeeds: a Beta posterior that forgets with time.

use std::time::Duration;

use rand::Rng;
use rand_distr::{Beta, Distribution};

use super::Time;

/// Decay is applied in steps of at least this much time, so that a burst of replies costs no
/// exponentials.
const DECAY_STEP: Duration = Duration::from_millis(10);

/// `Beta(a + S, b + F)` with a fixed prior `a`, `b`, and S successes and F failures of which half
/// are forgotten in each half-life (discounted Thompson sampling, Raj and Kalyani 2017, with time
/// in place of rounds).
#[derive(Debug, Clone)]
pub struct Posterior {
    prior: (f64, f64),
    half_life: f64,
    successes: f64,
    failures: f64,
    decayed_at: Time,
}

impl Posterior {
    /// A posterior that knows nothing but its prior (successes, failures).
    pub fn new(prior: (f64, f64), half_life: Duration, now: Time) -> Self {
        Self {
            prior,
            half_life: half_life.as_secs_f64(),
            successes: 0.0,
            failures: 0.0,
            decayed_at: now,
        }
    }

    /// Counts one attempt.
    pub fn record(&mut self, success: bool, now: Time) {
        self.decay(now);
        if success {
            self.successes += 1.0;
        } else {
            self.failures += 1.0;
        }
    }

    /// The two parameters of the distribution at that moment.
    pub fn parameters(&self, now: Time) -> (f64, f64) {
        let kept = self.kept(now);
        (
            self.prior.0 + self.successes * kept,
            self.prior.1 + self.failures * kept,
        )
    }

    /// The expected probability of success.
    pub fn mean(&self, now: Time) -> f64 {
        let (a, b) = self.parameters(now);
        a / (a + b)
    }

    /// A plausible probability of success.
    pub fn sample<R: Rng + ?Sized>(&mut self, now: Time, rng: &mut R) -> f64 {
        self.decay(now);
        let (a, b) = (self.prior.0 + self.successes, self.prior.1 + self.failures);
        Beta::new(a, b).map_or_else(|_| a / (a + b), |beta| beta.sample(rng))
    }

    fn kept(&self, now: Time) -> f64 {
        (-now.saturating_sub(self.decayed_at).as_secs_f64() / self.half_life).exp2()
    }

    fn decay(&mut self, now: Time) {
        if now.saturating_sub(self.decayed_at) >= DECAY_STEP {
            let kept = self.kept(now);
            self.successes *= kept;
            self.failures *= kept;
            self.decayed_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn half_of_the_evidence_is_forgotten_in_a_half_life() {
        let mut posterior = Posterior::new((9.0, 1.0), 2 * SECOND, Time::ZERO);
        for _ in 0..8 {
            posterior.record(false, Time::ZERO);
        }
        let (a, b) = posterior.parameters(2 * SECOND);
        assert!(
            (a - 9.0).abs() < 1e-9 && (b - 5.0).abs() < 1e-9,
            "({a}, {b})"
        );
    }

    #[test]
    fn after_a_day_of_silence_only_the_prior_is_left() {
        let mut posterior = Posterior::new((9.0, 1.0), 2 * SECOND, Time::ZERO);
        for _ in 0..100_000 {
            posterior.record(false, SECOND);
        }
        assert!((posterior.mean(86_400 * SECOND) - 0.9).abs() < 1e-9);
    }
}
