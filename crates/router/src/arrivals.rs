//! How many payments arrive per second.

use std::time::Duration;

use super::Time;

/// An exponentially weighted rate: a count of which half is forgotten in each half-life, divided by
/// the time that such a count stands for (half-life / ln 2).
#[derive(Debug, Clone)]
pub(super) struct Arrivals {
    half_life: f64,
    weight: f64,
    counted_at: Time,
}

impl Arrivals {
    pub(super) fn new(half_life: Duration, now: Time) -> Self {
        Self {
            half_life: half_life.as_secs_f64(),
            weight: 0.0,
            counted_at: now,
        }
    }

    pub(super) fn record(&mut self, count: u32, now: Time) {
        self.weight = self.weight * self.kept(now) + f64::from(count);
        self.counted_at = self.counted_at.max(now);
    }

    /// Payments per second.
    pub(super) fn rate(&self, now: Time) -> f64 {
        self.weight * self.kept(now) * std::f64::consts::LN_2 / self.half_life
    }

    fn kept(&self, now: Time) -> f64 {
        (-now.saturating_sub(self.counted_at).as_secs_f64() / self.half_life).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_shows_its_rate() {
        let mut arrivals = Arrivals::new(Duration::from_secs(1), Time::ZERO);
        let mut now = Time::ZERO;
        for _ in 0..10_000 {
            now += Duration::from_millis(2);
            arrivals.record(1, now);
        }
        assert!(
            (arrivals.rate(now) - 500.0).abs() < 5.0,
            "{}",
            arrivals.rate(now)
        );
    }
}
