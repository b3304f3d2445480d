//! The last two minutes, second by second.

use std::collections::VecDeque;
use std::ops::Range;

use router::breaker::State;
use serde::Serialize;

/// Seconds that the charts show.
pub(super) const WINDOW_SECONDS: usize = 120;

/// A sample stands for so many seconds at most: on a busy machine a look may take longer than one.
pub(super) const BRIDGED_SECONDS: i64 = 5;

/// What was seen at the end of a second.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sample {
    /// That second, counted from 1970.
    pub second: i64,
    /// Payments settled per second by the whole deployment, in order of the processors.
    pub settled: Option<Vec<f64>>,
    /// Payments accepted per second by it.
    pub accepted: Option<f64>,
    /// Payments in the queue.
    pub queued: Option<u64>,
    /// Milliseconds from acceptance to settlement of half of the payments.
    pub p50_ms: Option<f64>,
    /// And of 99 % of them.
    pub p99_ms: Option<f64>,
    /// The breakers of this instance, in order of the processors.
    pub breakers: Vec<State>,
}

/// Payments that were sent to a processor in a second and are settled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Settled {
    /// That second, counted from 1970.
    pub second: i64,
    /// Its place in the order of the processors.
    pub processor: usize,
    /// How many.
    pub payments: f64,
}

/// The last [`WINDOW_SECONDS`].
#[derive(Debug, Default)]
pub(super) struct Window {
    /// As far as anybody looked.
    samples: VecDeque<Sample>,
    /// As far as nobody did.
    settled: Vec<Settled>,
    /// The seconds of which those are all.
    told: Vec<i64>,
}

/// The same as columns of [`WINDOW_SECONDS`] values; `null` where nobody looked.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Columns {
    /// The first second, counted from 1970.
    pub from: i64,
    /// Payments settled per second, per processor: as seen in that second, or else those sent in
    /// it.
    pub settled: Vec<Vec<Option<f64>>>,
    /// See [`Sample::accepted`].
    pub accepted: Vec<Option<f64>>,
    /// See [`Sample::queued`].
    pub queued: Vec<Option<u64>>,
    /// See [`Sample::p50_ms`].
    pub p50_ms: Vec<Option<f64>>,
    /// See [`Sample::p99_ms`].
    pub p99_ms: Vec<Option<f64>>,
    /// See [`Sample::breakers`].
    pub breakers: Vec<Vec<Option<State>>>,
}

impl Window {
    /// Takes the newest sample. Where the last one that knew anything is only seconds old, it also
    /// stands for the seconds between.
    pub(super) fn push(&mut self, sample: Sample) {
        let first = first(sample.second);
        self.samples
            .retain(|old| old.second >= first && old.second < sample.second);
        let known = self.samples.iter().rfind(|old| old.queued.is_some());
        if let (Some(known), true) = (known, sample.queued.is_some())
            && sample.second - known.second <= BRIDGED_SECONDS
        {
            let between = known.second + 1..sample.second;
            let breakers: Vec<Option<Vec<State>>> = between
                .clone()
                .map(|second| {
                    let seen = self.samples.iter().find(|old| old.second == second);
                    seen.map(|seen| seen.breakers.clone())
                })
                .collect();
            self.samples.retain(|old| !between.contains(&old.second));
            for (second, breakers) in between.zip(breakers) {
                self.samples.push_back(Sample {
                    second,
                    breakers: breakers.unwrap_or_else(|| sample.breakers.clone()),
                    ..sample.clone()
                });
            }
        }
        self.samples.push_back(sample);
    }

    /// The seconds up to `newest` that came after all of which a sample tells what was settled.
    pub(super) fn untold(&self, newest: i64) -> Range<i64> {
        let told = self.samples.iter().rfind(|old| old.settled.is_some());
        let start = told.map_or(i64::MIN, |told| told.second + 1);
        start.max(first(newest))..newest + 1
    }

    /// Takes what is known of those seconds otherwise.
    pub(super) fn tell(&mut self, seconds: &Range<i64>, settled: Vec<Settled>) {
        let first = first(seconds.end - 1);
        self.settled
            .retain(|old| old.second >= first && !seconds.contains(&old.second));
        self.settled.extend(settled);
        self.told
            .retain(|second| *second >= first && !seconds.contains(second));
        self.told.extend(seconds.clone());
    }

    /// The columns that end with `newest`.
    #[must_use]
    pub(super) fn columns(&self, newest: i64, processors: usize) -> Columns {
        let from = first(newest);
        let place = |second: i64| {
            let place = usize::try_from(second - from).ok();
            place.filter(|place| *place < WINDOW_SECONDS)
        };
        let mut columns = Columns {
            from,
            settled: vec![vec![None; WINDOW_SECONDS]; processors],
            accepted: vec![None; WINDOW_SECONDS],
            queued: vec![None; WINDOW_SECONDS],
            p50_ms: vec![None; WINDOW_SECONDS],
            p99_ms: vec![None; WINDOW_SECONDS],
            breakers: vec![vec![None; WINDOW_SECONDS]; processors],
        };
        for place in self.told.iter().filter_map(|second| place(*second)) {
            for column in &mut columns.settled {
                column[place] = Some(0.0);
            }
        }
        for settled in &self.settled {
            if let Some(place) = place(settled.second) {
                columns.settled[settled.processor][place] = Some(settled.payments);
            }
        }
        for sample in &self.samples {
            let Some(place) = place(sample.second) else {
                continue;
            };
            for (column, rate) in columns
                .settled
                .iter_mut()
                .zip(sample.settled.iter().flatten())
            {
                column[place] = Some(*rate);
            }
            columns.accepted[place] = sample.accepted;
            columns.queued[place] = sample.queued;
            columns.p50_ms[place] = sample.p50_ms;
            columns.p99_ms[place] = sample.p99_ms;
            for (column, state) in columns.breakers.iter_mut().zip(&sample.breakers) {
                column[place] = Some(*state);
            }
        }
        columns
    }
}

/// The first second of the columns that end with `newest`.
#[must_use]
pub(super) fn first(newest: i64) -> i64 {
    newest + 1 - i64::try_from(WINDOW_SECONDS).expect("two minutes fit")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: i64) -> Sample {
        Sample {
            second,
            queued: Some(7),
            breakers: vec![State::Open],
            ..Sample::default()
        }
    }

    #[test]
    fn every_column_has_a_place_for_every_second_and_gaps_stay_gaps() {
        let mut window = Window::default();
        for second in [1_000, 1_001, 1_118, 1_119, 1_120, 1_120] {
            window.push(sample(second));
        }
        let settled = [
            Settled {
                second: 1_001,
                processor: 0,
                payments: 5.0,
            },
            // The newest second is not over, older ones have left.
            Settled {
                second: 1_121,
                processor: 0,
                payments: 6.0,
            },
            Settled {
                second: 1_000,
                processor: 0,
                payments: 6.0,
            },
        ];
        window.tell(&(1_000..1_122), settled.to_vec());
        let columns = window.columns(1_120, 1);
        assert_eq!(
            (columns.from, columns.queued.len()),
            (1_001, WINDOW_SECONDS)
        );
        let known: Vec<usize> = (0..WINDOW_SECONDS)
            .filter(|place| columns.queued[*place].is_some())
            .collect();
        assert_eq!(known, [0, 117, 118, 119]);
        assert_eq!(columns.breakers[0][0], Some(State::Open));
        assert_eq!(columns.settled[0][0], Some(5.0));
        assert_eq!(columns.settled[0].iter().flatten().sum::<f64>(), 5.0);
    }

    #[test]
    fn what_nobody_knows_of_a_second_is_not_zero() {
        let mut window = Window::default();
        let settled = |second| Sample {
            settled: Some(vec![3.0]),
            ..sample(second)
        };
        window.tell(&(881..1_001), Vec::new());
        window.push(settled(1_000));
        // The database is away, and back.
        window.push(Sample {
            breakers: vec![State::Closed],
            second: 1_001,
            ..Sample::default()
        });
        let columns = |window: &Window, newest| window.columns(newest, 1).settled.remove(0);
        let [.., before, at, away] = columns(&window, 1_001)[..] else {
            panic!("a column of two minutes");
        };
        assert_eq!([before, at, away], [Some(0.0), Some(3.0), None]);
        let untold = window.untold(1_003);
        assert_eq!(untold, 1_001..1_004);
        window.tell(&untold, Vec::new());
        assert!(columns(&window, 1_003).iter().all(Option::is_some));
    }

    #[test]
    fn a_late_sample_stands_for_the_seconds_that_it_is_late() {
        let mut window = Window::default();
        window.push(sample(1_000));
        window.push(Sample {
            second: 1_001,
            breakers: vec![State::Closed],
            ..Sample::default()
        });
        window.push(sample(1_003));
        window.push(sample(1_003 + BRIDGED_SECONDS + 1));
        let columns = window.columns(1_010, 1);
        let place = |second: i64| usize::try_from(second - columns.from).expect("within");
        let known: Vec<i64> = (columns.from..=1_010)
            .filter(|second| columns.queued[place(*second)].is_some())
            .collect();
        assert_eq!(known, [1_000, 1_001, 1_002, 1_003, 1_009]);
        assert_eq!(columns.breakers[0][place(1_001)], Some(State::Closed));
        assert_eq!(columns.breakers[0][place(1_002)], Some(State::Open));
    }
}
