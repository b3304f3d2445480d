//! An upper bound of what any policy can earn, by one that knows the future.
//!
//! Time is cut into slots of 10 ms. In each of them a processor can take as many payments as its
//! 800 places allow at the latency that it has then, if those payments will succeed and end before
//! the run does. A payment can use any slot after its arrival. The sets of slots that can be filled
//! form a matroid (each prefix of time may hold no more slots than payments have arrived), so
//! filling the cheapest slots first is optimal.
//!
//! It is a bound, not a policy: at the end of each stretch in which a processor does not change it
//! gets 800 places on top, so that no way of timing the bursts of requests can beat it, and it pays
//! for no attempt that fails by chance except with the place that it takes.

use super::processor::SERVED_AT_ONCE;
use super::scenario::Scenario;
use super::{MILLISECOND, Micros};

const SLOT: Micros = 10 * MILLISECOND;
/// Less than what a processor takes on top of its delay in the model.
const LEAST_SERVICE: Micros = MILLISECOND;

/// The most that can be earned in a scenario, in amounts of one payment.
pub(crate) fn net(scenario: &Scenario) -> f64 {
    let slots = (scenario.end / SLOT) as usize;
    let arrived = arrived(scenario, slots);
    let mut used = vec![0.0; slots];
    let mut order: Vec<usize> = (0..scenario.fees.len()).collect();
    order.sort_by(|a, b| scenario.fees[*a].total_cmp(&scenario.fees[*b]));
    order
        .into_iter()
        .map(|i| {
            (1.0 - scenario.fees[i]) * fill(&mut used, &arrived, &capacity(scenario, i, slots))
        })
        .sum()
}

/// Payments that have arrived by the end of each slot.
fn arrived(scenario: &Scenario, slots: usize) -> Vec<f64> {
    let mut arrived = vec![0.0; slots];
    for at in &scenario.arrivals {
        if let Some(slot) = arrived.get_mut((at / SLOT) as usize) {
            *slot += 1.0;
        }
    }
    let mut sum = 0.0;
    for slot in &mut arrived {
        sum += *slot;
        *slot = sum;
    }
    arrived
}

/// Payments that a processor can take in each slot and charge before the end.
fn capacity(scenario: &Scenario, processor: usize, slots: usize) -> Vec<f64> {
    let places = f64::from(SERVED_AT_ONCE);
    let mut capacity = vec![0.0; slots];
    let mut stretch: Option<(Micros, f64)> = None;
    for slot in 0..slots {
        // The latest moment of the slot, except that the stage is that of its begin.
        let at = slot as Micros * SLOT;
        let latency = scenario.stage(at).weather[processor].delay + LEAST_SERVICE;
        let ends = at + latency;
        let success = if ends > scenario.end {
            0.0
        } else {
            1.0 - scenario.stage(ends).weather[processor].failing
        };
        if let Some((_, before)) = stretch
            && stretch != Some((latency, success))
        {
            capacity[slot.saturating_sub(1)] += places * before;
        }
        stretch = Some((latency, success));
        capacity[slot] += places * success * SLOT as f64 / latency as f64;
    }
    if let (Some((_, success)), Some(last)) = (stretch, capacity.last_mut()) {
        *last += places * success;
    }
    capacity
}

/// Fills as many of the slots as payments allow; returns how many.
fn fill(used: &mut [f64], arrived: &[f64], capacity: &[f64]) -> f64 {
    // How many more payments can be put at or before each slot: the least slack of any later
    // prefix.
    let mut slack = vec![0.0; used.len()];
    let mut sum: f64 = used.iter().sum();
    let mut least = f64::INFINITY;
    for slot in (0..used.len()).rev() {
        least = least.min(arrived[slot] - sum);
        slack[slot] = least;
        sum -= used[slot];
    }
    let mut filled = 0.0;
    for slot in 0..used.len() {
        let more = capacity[slot].min(slack[slot] - filled).max(0.0);
        used[slot] += more;
        filled += more;
    }
    filled
}
