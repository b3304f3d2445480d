//! What happens to the processors, and how many payments arrive.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{MILLISECOND, Micros, SECOND};

/// What a processor does during a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weather {
    /// Time that it takes before it looks at the payment.
    pub(crate) delay: Micros,
    /// Share of the payments that it declines after the delay: 1 is "failing".
    pub(crate) failing: f64,
    /// Share of the requests of which nobody learns how they ended.
    pub(crate) lost: f64,
}

impl Weather {
    /// Takes that many milliseconds and never fails.
    pub(crate) fn slow(delay_ms: u64) -> Self {
        Self {
            delay: delay_ms * MILLISECOND,
            failing: 0.0,
            lost: 0.0,
        }
    }

    /// Takes that many milliseconds and fails.
    pub(crate) fn failing(delay_ms: u64) -> Self {
        Self {
            failing: 1.0,
            ..Self::slow(delay_ms)
        }
    }

    /// What the health endpoint calls it.
    pub(crate) fn reported_failing(&self) -> bool {
        self.failing >= 0.5
    }
}

/// A stretch of time in which the processors do not change.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    /// Its begin.
    pub(crate) from: Micros,
    /// One for each processor.
    pub(crate) weather: Vec<Weather>,
}

/// A run to be: stages, fees and arrivals.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// What it is called in tables.
    pub(crate) name: String,
    /// The seed of everything random in it.
    pub(crate) seed: u64,
    /// When it ends, abruptly: a payment that is not settled by then earns nothing.
    pub(crate) end: Micros,
    /// The fees, in order of preference.
    pub(crate) fees: Vec<f64>,
    /// In order of time; the first begins at 0.
    pub(crate) stages: Vec<Stage>,
    /// When payments arrive, in order.
    pub(crate) arrivals: Vec<Micros>,
}

const SHORTEST_STAGE: Micros = 5 * SECOND;
const LONGEST_STAGE: Micros = 60 * SECOND;

/// The fees of the public contest.
pub(crate) const PUBLIC_FEES: [f64; 2] = [0.05, 0.15];
/// Fees that are close to each other.
pub(crate) const CLOSE_FEES: [f64; 2] = [0.07, 0.10];
/// Three processors.
pub(crate) const THREE_FEES: [f64; 3] = [0.05, 0.10, 0.15];

impl Scenario {
    /// The stages of the public contest, under its load: 60 s, a ramp from 1 to 550 payments per
    /// second.
    pub(crate) fn public(seed: u64) -> Self {
        let table = [
            (0, Weather::slow(0), Weather::slow(0)),
            (10, Weather::slow(100), Weather::slow(0)),
            (20, Weather::failing(100), Weather::slow(0)),
            (30, Weather::failing(2_000), Weather::failing(1_000)),
            (40, Weather::slow(20), Weather::slow(20)),
            (50, Weather::slow(0), Weather::slow(5_000)),
        ];
        let stages = (table.into_iter())
            .map(|(from, first, second)| Stage {
                from: from * SECOND,
                weather: vec![first, second],
            })
            .collect();
        let mut rng = SmallRng::seed_from_u64(seed);
        let end = 60 * SECOND;
        let arrivals = arrivals(end, 1.0, 550.0, &mut rng);
        Self {
            name: "public".into(),
            seed,
            end,
            fees: PUBLIC_FEES.to_vec(),
            stages,
            arrivals,
        }
    }

    /// 60 to 300 s of stages of 5 to 60 s with delays of 0 to 5 s, outages of one or both, partial
    /// failures and lost replies, under a load between 50 and 550 payments per second.
    pub(crate) fn random(seed: u64, fees: &[f64]) -> Self {
        Self::under(MILD, seed, fees)
    }

    /// The same with more outages and more slow stages.
    pub(crate) fn harsh(seed: u64, fees: &[f64]) -> Self {
        Self::under(HARSH, seed, fees)
    }

    fn under(climate: Climate, seed: u64, fees: &[f64]) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let end = rng.random_range(60..=300) * SECOND;
        let mut stages = Vec::new();
        let mut from = 0;
        while from < end {
            let weather = fees.iter().map(|_| weather(climate, &mut rng)).collect();
            stages.push(Stage { from, weather });
            from += rng.random_range(SHORTEST_STAGE..=LONGEST_STAGE);
            // The last stage is no shorter than any other.
            if end < from + SHORTEST_STAGE {
                from = end;
            }
        }
        let (first, last) = (rng.random_range(50.0..550.0), rng.random_range(50.0..550.0));
        let arrivals = arrivals(end, first, last, &mut rng);
        Self {
            name: format!("random {seed}"),
            seed,
            end,
            fees: fees.to_vec(),
            stages,
            arrivals,
        }
    }

    /// The stage at a moment.
    pub(crate) fn stage(&self, at: Micros) -> &Stage {
        &self.stages[self.stages.partition_point(|stage| stage.from <= at) - 1]
    }
}

/// How the processors of random scenarios behave.
#[derive(Debug, Clone, Copy)]
struct Climate {
    /// Share of the stages in which a processor fails.
    out: f64,
    /// Tenths of the stages in which it takes 1.5 to 5 s.
    slow: u32,
}

const MILD: Climate = Climate { out: 0.15, slow: 1 };
const HARSH: Climate = Climate { out: 0.2, slow: 2 };

fn weather(climate: Climate, rng: &mut SmallRng) -> Weather {
    let delay_ms = match rng.random_range(0..10) {
        0..5 => rng.random_range(0..=100),
        tenth if tenth < 10 - climate.slow => rng.random_range(100..=1_500),
        _ => rng.random_range(1_500..=5_000),
    };
    let failing = if rng.random_bool(climate.out) {
        1.0
    } else if rng.random_bool(0.1) {
        rng.random_range(0.01..0.2)
    } else {
        0.0
    };
    let lost = if rng.random_bool(0.03) {
        rng.random_range(0.001..0.01)
    } else {
        0.0
    };
    Weather {
        failing,
        lost,
        ..Weather::slow(delay_ms)
    }
}

/// A Poisson process whose rate goes from `first` to `last` per second.
fn arrivals(end: Micros, first: f64, last: f64, rng: &mut SmallRng) -> Vec<Micros> {
    let length = end as f64 / SECOND as f64;
    let mut arrivals = Vec::with_capacity((length * (first + last) / 1.9) as usize);
    let mut at = 0.0;
    loop {
        let rate = first + (last - first) * at / length;
        at += -(1.0 - rng.random::<f64>()).ln() / rate;
        if at >= length {
            return arrivals;
        }
        arrivals.push((at * SECOND as f64) as Micros);
    }
}
