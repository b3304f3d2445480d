//! Draws the course of a run: stages, choice, queue, breakers.

use std::fmt::Write;

use super::simulation::outcome::{Outcome, Sample};
use super::simulation::scenario::{Scenario, Weather};
use super::simulation::{MILLISECOND, Micros, SECOND};

const WIDTH: f64 = 1_000.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 20.0;
/// Height of a strip that shows stages or breakers.
const STRIP: f64 = 26.0;
/// Height of a chart.
const CHART: f64 = 150.0;
const GAP: f64 = 34.0;
const COLOURS: [&str; 3] = ["#2b6cb0", "#dd6b20", "#718096"];
/// Closed, half open, open.
const BREAKER: [&str; 3] = ["#c6f6d5", "#faf089", "#feb2b2"];

/// The picture as SVG.
pub(crate) fn draw(scenario: &Scenario, outcome: &Outcome) -> String {
    let mut picture = Picture {
        svg: String::new(),
        end: scenario.end,
        top: 40.0,
    };
    picture.text(
        LEFT,
        22.0,
        15,
        &format!(
            "Routing in the {} scenario, seed {}",
            scenario.name, scenario.seed
        ),
    );
    for processor in 0..scenario.fees.len() {
        picture.stages(scenario, processor);
    }
    picture.top += GAP;
    picture.choice(outcome, scenario.fees.len());
    picture.queue(outcome);
    picture.breakers(outcome, scenario);
    picture.axis();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" font-family=\"sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
        picture.top + 10.0,
        picture.svg
    )
}

fn name(processor: usize) -> String {
    match processor {
        0 => "default".into(),
        1 => "fallback".into(),
        n => format!("processor {n}"),
    }
}

struct Picture {
    svg: String,
    end: Micros,
    top: f64,
}

impl Picture {
    fn x(&self, at: Micros) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * at as f64 / self.end as f64
    }

    fn text(&mut self, x: f64, y: f64, size: u32, text: &str) {
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\">{text}</text>"
        ));
    }

    fn bar(&mut self, (from, to): (f64, f64), (top, height): (f64, f64), fill: &str) {
        let width = to - from;
        self.add(format_args!(
            "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        ));
    }

    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.svg, "{line}").expect("writing to a string does not fail");
    }

    fn stages(&mut self, scenario: &Scenario, processor: usize) {
        let top = self.top;
        self.text(8.0, top + 17.0, 12, &name(processor));
        for (i, stage) in scenario.stages.iter().enumerate() {
            let to = scenario
                .stages
                .get(i + 1)
                .map_or(scenario.end, |next| next.from);
            let Weather { delay, failing, .. } = stage.weather[processor];
            let fill = match (failing, delay / MILLISECOND) {
                (f, _) if f >= 0.5 => "#feb2b2",
                (_, 0..=50) => "#c6f6d5",
                (_, 51..=1_000) => "#faf089",
                _ => "#fbd38d",
            };
            self.bar(
                (self.x(stage.from), self.x(to) - 1.0),
                (top, STRIP - 2.0),
                fill,
            );
            let words = if failing >= 0.5 {
                " ms, failing"
            } else {
                " ms"
            };
            self.text(
                self.x(stage.from) + 4.0,
                top + 17.0,
                12,
                &format!("{}{words}", delay / MILLISECOND),
            );
        }
        self.top += STRIP;
    }

    /// Payments sent per second, by processor.
    fn choice(&mut self, outcome: &Outcome, processors: usize) {
        let per_second = |from: &Sample, to: &Sample, i: usize| {
            to.sent[i] as f64 * SECOND as f64 / (to.at - from.at).max(1) as f64
        };
        let series: Vec<Vec<(Micros, f64)>> = (0..processors)
            .map(|i| {
                outcome
                    .samples
                    .windows(2)
                    .map(|pair| (pair[1].at, per_second(&pair[0], &pair[1], i)))
                    .collect()
            })
            .collect();
        // A backlog that drains in a moment would flatten everything else.
        let mut all: Vec<f64> = series.iter().flatten().map(|(_, value)| *value).collect();
        all.sort_by(f64::total_cmp);
        let most = all.get(all.len() * 98 / 100).copied().unwrap_or(1.0) * 1.3;
        self.chart("sent per second", &series, most);
    }

    fn queue(&mut self, outcome: &Outcome) {
        let series: Vec<(Micros, f64)> = outcome
            .samples
            .iter()
            .map(|sample| (sample.at, sample.waiting as f64))
            .collect();
        let most = series.iter().map(|(_, value)| *value).fold(1.0, f64::max);
        self.chart("payments waiting", &[series], most * 1.05);
    }

    fn chart(&mut self, title: &str, series: &[Vec<(Micros, f64)>], most: f64) {
        let (top, bottom) = (self.top, self.top + CHART);
        self.text(LEFT, top - 8.0, 12, title);
        for (i, label) in (0..series.len())
            .filter(|_| series.len() > 1)
            .map(|i| (i, name(i)))
        {
            let x = LEFT + 140.0 + 110.0 * i as f64;
            self.bar((x, x + 12.0), (top - 17.0, 9.0), COLOURS[i % COLOURS.len()]);
            self.text(x + 17.0, top - 8.0, 12, &label);
        }
        for part in 0..=2 {
            let value = most * f64::from(part) / 2.0;
            let y = bottom - CHART * f64::from(part) / 2.0;
            let right = WIDTH - RIGHT;
            self.add(format_args!(
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#e2e8f0\"/>"
            ));
            self.text(LEFT - 50.0, y + 4.0, 11, &format!("{value:.0}"));
        }
        for (i, line) in series.iter().enumerate() {
            let points: Vec<String> = line
                .iter()
                .map(|(at, value)| {
                    format!(
                        "{:.1},{:.1}",
                        self.x(*at),
                        bottom - CHART * (value / most).min(1.0)
                    )
                })
                .collect();
            let (points, colour) = (points.join(" "), COLOURS[i % COLOURS.len()]);
            self.add(format_args!(
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>"
            ));
        }
        self.top = bottom + GAP;
    }

    fn breakers(&mut self, outcome: &Outcome, scenario: &Scenario) {
        let top = self.top;
        self.text(
            LEFT,
            top - 8.0,
            12,
            "breakers of the first instance: green closed, yellow half open, red open",
        );
        for processor in 0..scenario.fees.len() {
            let top = self.top;
            self.text(8.0, top + 17.0, 12, &name(processor));
            for pair in outcome.samples.windows(2) {
                let fill = BREAKER[usize::from(pair[0].breakers[processor])];
                self.bar(
                    (self.x(pair[0].at), self.x(pair[1].at) + 0.3),
                    (top, STRIP - 2.0),
                    fill,
                );
            }
            self.top += STRIP;
        }
    }

    fn axis(&mut self) {
        let seconds = self.end / SECOND;
        let step = (seconds / 6).max(1);
        let y = self.top + 14.0;
        for second in (0..=seconds).step_by(step as usize) {
            self.text(self.x(second * SECOND) - 8.0, y, 12, &format!("{second} s"));
        }
        self.top = y + 10.0;
    }
}
