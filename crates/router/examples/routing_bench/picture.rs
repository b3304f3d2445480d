//! Draws the course of a run: stages, choice, queue, breakers, above one another on one time axis.
//! The colours follow the reader's light or dark setting.

use std::fmt::{Arguments, Write};

use super::simulation::outcome::{Outcome, Sample};
use super::simulation::scenario::{Scenario, Weather};
use super::simulation::{MILLISECOND, Micros, SECOND};

const WIDTH: f64 = 1_000.0;
/// Left and right end of the time axis.
const LEFT: f64 = 92.0;
const RIGHT: f64 = 976.0;
/// Height of a strip that shows stages or breakers, and of the bar in it.
const STRIP: f64 = 27.0;
const BAR: f64 = 23.0;
/// Height of a chart.
const CHART: f64 = 140.0;
/// From the end of a panel to the first line of the next one, in which its heading stands.
const GAP: f64 = 48.0;
/// Widest letter of a label in a bar, about.
const LETTER: f64 = 6.6;
/// Samples that one point of the rates is averaged over.
const AVERAGED: usize = 5;
/// A rate above this share of all of them is cut off, and its height written down: a backlog that
/// drains in a moment would flatten everything else.
const SHOWN: f64 = 0.97;

const STYLE: &str = "
text { font: 12.5px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2933 }
.paper { fill: #ffffff } .title { font-size: 18px; font-weight: 600 } .heading { font-weight: 600 }
.faint { fill: #5f6c7b } .on { fill: #1f2933; font-size: 11.5px }
.grid { stroke: #e4e8ed } .base { stroke: #9aa5b1 } .stage { stroke: #9aa5b1; stroke-dasharray: 2 4 }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round } .arrivals { stroke: #5f6c7b; stroke-dasharray: 5 4; stroke-width: 1.3 }
.p0 { stroke: #1d6fd1 } .p1 { stroke: #d9580d } .p2 { stroke: #7c3aed }
.f0 { fill: #1d6fd1 } .f1 { fill: #d9580d } .f2 { fill: #7c3aed }
.queue { fill: #5f6c7b; fill-opacity: .22 } .queue-line { stroke: #5f6c7b }
.good { fill: #bfe8cc } .fair { fill: #f5e6a3 } .slow { fill: #f8cf9d } .bad { fill: #f2b0ac }
@media (prefers-color-scheme: dark) {
text { fill: #e4e8ed } .paper { fill: #14181d } .faint { fill: #9aa5b1 } .on { fill: #f5f7fa }
.grid { stroke: #2a313a } .base { stroke: #616e7c } .stage { stroke: #616e7c }
.arrivals { stroke: #9aa5b1 } .queue { fill: #9aa5b1 } .queue-line { stroke: #9aa5b1 }
.p0 { stroke: #6aaefc } .p1 { stroke: #ff9a5c } .p2 { stroke: #b794f4 }
.f0 { fill: #6aaefc } .f1 { fill: #ff9a5c } .f2 { fill: #b794f4 }
.good { fill: #1f5a38 } .fair { fill: #6a5a14 } .slow { fill: #7d4a12 } .bad { fill: #8a2f2b }
}
";

/// The picture as SVG. `bound` is the most that could be earned.
pub(crate) fn draw(scenario: &Scenario, outcome: &Outcome, bound: f64) -> String {
    let mut picture = Picture {
        svg: String::new(),
        end: scenario.end,
        top: 76.0,
    };
    picture.title(scenario, outcome, bound);
    let first = picture.top;
    picture.stages(scenario);
    picture.choice(scenario, outcome);
    picture.queue(outcome);
    picture.breakers(scenario, outcome);
    let last = picture.top;
    picture.axis();
    let height = picture.top;
    let mut behind = Picture {
        svg: String::new(),
        ..picture
    };
    for stage in scenario.stages.iter().skip(1) {
        behind.vertical("stage", stage.from, (first, last));
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">\n\
         <title>Routing in the {} scenario</title>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n{}{}</svg>\n",
        scenario.name, behind.svg, picture.svg
    )
}

fn name(processor: usize) -> String {
    match processor {
        0 => "default".into(),
        1 => "fallback".into(),
        n => format!("processor {n}"),
    }
}

#[derive(Debug)]
struct Picture {
    svg: String,
    end: Micros,
    /// Where the next panel begins.
    top: f64,
}

impl Picture {
    fn x(&self, at: Micros) -> f64 {
        LEFT + (RIGHT - LEFT) * at as f64 / self.end as f64
    }

    fn add(&mut self, element: Arguments<'_>) {
        writeln!(self.svg, "{element}").expect("writing to a string does not fail");
    }

    fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: &str, text: &str) {
        self.add(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" \
            text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
            height=\"{height:.1}\"/>"
        ));
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    fn vertical(&mut self, class: &str, at: Micros, (top, bottom): (f64, f64)) {
        let x = self.x(at);
        self.line(class, (x, top), (x, bottom));
    }

    fn title(&mut self, scenario: &Scenario, outcome: &Outcome, bound: f64) {
        let title = format!(
            "Routing in the {} scenario: {} payments in {} s (seed {})",
            scenario.name,
            grouped(outcome.arrived as f64),
            scenario.end / SECOND,
            scenario.seed
        );
        self.text("title", (16.0, 30.0), "start", &title);
        let result = format!(
            "{:.1} % of what an oracle could earn; {:.1} % of the payments on the fallback; {:.3} \
            failed attempts per payment; {} left over",
            100.0 * outcome.net(&scenario.fees) / bound,
            100.0 * outcome.settled[1] as f64 / outcome.arrived as f64,
            outcome.failed as f64 / outcome.arrived as f64,
            grouped(outcome.left_over() as f64)
        );
        self.text("faint", (16.0, 50.0), "start", &result);
    }

    fn heading(&mut self, text: &str) {
        self.text("heading", (LEFT, self.top), "start", text);
        self.top += 10.0;
    }

    /// A key at the right end of the heading: class of the mark and what it means.
    fn key(&mut self, entries: &[(&str, String)]) {
        let mut x = RIGHT;
        for (class, label) in entries.iter().rev() {
            let y = self.top - 10.0;
            self.text("faint", (x, y), "end", label);
            x -= label.len() as f64 * LETTER + 12.0;
            if class.starts_with("line") {
                self.line(class, (x - 18.0, y - 4.0), (x, y - 4.0));
            } else {
                self.rect(class, (x - 12.0, y - 10.0), (12.0, 12.0));
            }
            x -= 32.0;
        }
    }

    /// A bar of a strip, with a label where there is room for it.
    fn bar(&mut self, class: &str, (from, to): (Micros, Micros), label: &str) {
        let (x, top) = (self.x(from), self.top);
        let width = (self.x(to) - x - 1.0).max(1.5);
        self.rect(class, (x, top), (width, BAR));
        if label.len() as f64 * LETTER + 8.0 <= width {
            self.text("on", (x + 6.0, top + 16.0), "start", label);
        }
    }

    fn strip_name(&mut self, processor: usize) {
        self.text("", (LEFT - 10.0, self.top + 16.0), "end", &name(processor));
    }

    fn stages(&mut self, scenario: &Scenario) {
        self.heading("What the processors do: delay, failures");
        for processor in 0..scenario.fees.len() {
            self.strip_name(processor);
            for (i, stage) in scenario.stages.iter().enumerate() {
                let next = scenario.stages.get(i + 1);
                let to = next.map_or(scenario.end, |next| next.from);
                let Weather { delay, failing, .. } = stage.weather[processor];
                let class = match (failing, delay / MILLISECOND) {
                    (share, _) if share >= 0.5 => "bad",
                    (_, 0..=99) => "good",
                    (_, 100..=999) => "fair",
                    _ => "slow",
                };
                let failures = match failing {
                    share if share >= 0.5 => ", failing".to_owned(),
                    share if share > 0.0 => format!(", {:.0} % fail", 100.0 * share),
                    _ => String::new(),
                };
                let label = format!("{} ms{failures}", delay / MILLISECOND);
                self.bar(class, (stage.from, to), &label);
            }
            self.top += STRIP;
        }
        self.top += GAP - (STRIP - BAR);
    }

    /// Payments sent per second, by processor, and how many arrive.
    fn choice(&mut self, scenario: &Scenario, outcome: &Outcome) {
        let averaged: Vec<&[Sample]> = outcome.samples.chunks(AVERAGED).collect();
        let rate = |count: u64, from: Micros, to: Micros| {
            count as f64 * SECOND as f64 / (to - from).max(1) as f64
        };
        let mut lines: Vec<Vec<(Micros, f64)>> = vec![Vec::new(); scenario.fees.len() + 1];
        let mut from = 0;
        for samples in averaged {
            let to = samples[samples.len() - 1].at;
            let middle = (from + to) / 2;
            let sent_to =
                |processor: usize| samples.iter().map(move |sample| sample.sent[processor]);
            let arrived_by = |at| scenario.arrivals.partition_point(|arrival| *arrival < at) as u64;
            let counts = (0..scenario.fees.len())
                .map(|processor| sent_to(processor).sum())
                .chain([arrived_by(to) - arrived_by(from)]);
            for (line, count) in lines.iter_mut().zip(counts) {
                line.push((middle, rate(count, from, to)));
            }
            from = to;
        }
        let mut all: Vec<f64> = lines.iter().flatten().map(|(_, value)| *value).collect();
        all.sort_by(f64::total_cmp);
        let shown = all[((all.len() - 1) as f64 * SHOWN) as usize];

        self.heading("Payments per second");
        let classes = ["line p0", "line p1", "line p2"];
        let mut key: Vec<(&str, String)> = (0..scenario.fees.len())
            .map(|i| (classes[i % 3], format!("sent to {}", name(i))))
            .collect();
        key.push(("line arrivals", "arriving".to_owned()));
        self.key(&key);
        let most = self.scale(shown * 1.15);
        for ((class, _), line) in key.iter().zip(&lines).rev() {
            self.curve(class, line, most);
        }
        for (i, line) in lines[..scenario.fees.len()].iter().enumerate() {
            self.peak(["f0", "f1", "f2"][i % 3], line, most);
        }
        self.top += CHART + GAP;
    }

    fn queue(&mut self, outcome: &Outcome) {
        let waiting = |sample: &Sample| (sample.at, sample.waiting as f64);
        let line: Vec<(Micros, f64)> = outcome.samples.iter().map(waiting).collect();
        self.heading("Payments that wait to be sent");
        let most = line.iter().map(|(_, value)| *value).fold(1.0, f64::max);
        let most = self.scale(most * 1.02);
        let bottom = self.top + CHART;
        let area = self.points(&line, most);
        self.add(format_args!(
            "<polygon class=\"queue\" points=\"{LEFT},{bottom:.1} {area} {RIGHT},{bottom:.1}\"/>"
        ));
        self.curve("line queue-line", &line, most);
        self.top += CHART + GAP;
    }

    /// Grid lines with round numbers. Returns the value at the top.
    fn scale(&mut self, most: f64) -> f64 {
        let step = round_step(most / 4.0);
        let most = (most / step).ceil() * step;
        let bottom = self.top + CHART;
        let mut value = 0.0;
        while value <= most {
            let y = bottom - CHART * value / most;
            let class = if value == 0.0 { "base" } else { "grid" };
            self.line(class, (LEFT, y), (RIGHT, y));
            self.text("faint", (LEFT - 10.0, y + 4.0), "end", &grouped(value));
            value += step;
        }
        most
    }

    fn points(&self, line: &[(Micros, f64)], most: f64) -> String {
        let bottom = self.top + CHART;
        let point = |(at, value): &(Micros, f64)| {
            let y = bottom - CHART * (value / most).min(1.0);
            format!("{:.1},{y:.1}", self.x(*at))
        };
        line.iter().map(point).collect::<Vec<_>>().join(" ")
    }

    fn curve(&mut self, class: &str, line: &[(Micros, f64)], most: f64) {
        let points = self.points(line, most);
        self.add(format_args!(
            "<polyline class=\"{class}\" points=\"{points}\"/>"
        ));
    }

    /// Says how high a line goes, if it is cut off, beside its highest point.
    fn peak(&mut self, class: &str, line: &[(Micros, f64)], most: f64) {
        let highest = line.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let Some((at, value)) = highest.filter(|(_, value)| *value > most) else {
            return;
        };
        let label = format!("up to {}", grouped(*value));
        let (x, room) = (self.x(*at), label.len() as f64 * LETTER + 14.0);
        let (x, anchor) = if x + room > RIGHT {
            (x - 14.0, "end")
        } else {
            (x + 14.0, "start")
        };
        self.text(class, (x, self.top + 9.0), anchor, &label);
    }

    fn breakers(&mut self, scenario: &Scenario, outcome: &Outcome) {
        self.heading("Breakers of one of the two instances");
        let states = [("good", "closed"), ("fair", "half open"), ("bad", "open")];
        self.key(&states.map(|(class, state)| (class, state.to_owned())));
        for processor in 0..scenario.fees.len() {
            self.strip_name(processor);
            let state = |sample: &Sample| usize::from(sample.breakers[processor]);
            let mut samples = outcome
                .samples
                .chunk_by(|a, b| state(a) == state(b))
                .peekable();
            while let Some(same) = samples.next() {
                let to = samples.peek().map_or(self.end, |next| next[0].at);
                let (class, label) = states[state(&same[0])];
                self.bar(class, (same[0].at, to), label);
            }
            self.top += STRIP;
        }
    }

    fn axis(&mut self) {
        let seconds = self.end / SECOND;
        let step = [5, 10, 20, 30]
            .into_iter()
            .find(|step| seconds / step <= 12);
        self.line("base", (LEFT, self.top), (RIGHT, self.top));
        for second in (0..=seconds).step_by(step.unwrap_or(60) as usize) {
            let at = second * SECOND;
            self.vertical("base", at, (self.top, self.top + 5.0));
            let label = format!("{second} s");
            self.text("faint", (self.x(at), self.top + 19.0), "middle", &label);
        }
        self.top += 34.0;
    }
}

/// The round number (1, 2 or 5 times a power of ten) that is not below this one.
fn round_step(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * power)
        .find(|step| *step >= value)
        .unwrap_or(10.0 * power)
}

/// A whole number with its thousands set apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
