//! How a simulated processor starts.

use std::path::PathBuf;
use std::time::Duration;

use rust_decimal::Decimal;

use super::Faults;

/// Requests to `/payments` and `/payments/{id}` that the real processor serves at once.
pub(super) const AT_ONCE: usize = 800;
/// Requests that wait, first in first out, when [`AT_ONCE`] are being served.
pub(super) const WAITING: usize = 500;
/// Seconds that a refused client is told to stay away, and the length of a health window.
pub(super) const RETRY_AFTER_SECONDS: u64 = 5;
/// Calls to the health endpoint that wait for a later window; the rest are refused.
pub(super) const HEALTH_WAITING: usize = 2;
/// The fee of the real default processor, as a fraction of the amount: 0.05.
pub(super) const DEFAULT_FEE: Decimal = Decimal::from_parts(5, 0, 0, false, 2);
/// The admin token of the real processor.
pub(super) const DEFAULT_TOKEN: &str = "123";

/// How much a processor takes at once. The defaults are the real one's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests served at once, lookups included.
    pub at_once: usize,
    /// Requests that wait for one of those places; the next one is refused with 429.
    pub waiting: usize,
    /// Length of the window in which the health endpoint answers one call.
    pub health_window: Duration,
    /// Health calls that wait for a later window; the next one is refused with 429.
    pub health_waiting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            at_once: AT_ONCE,
            waiting: WAITING,
            health_window: Duration::from_secs(RETRY_AFTER_SECONDS),
            health_waiting: HEALTH_WAITING,
        }
    }
}

/// How a simulated processor starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The part of each amount that the processor keeps, 0.05 = 5 %.
    pub fee: Decimal,
    /// What the admin endpoints want to see in `X-Rinha-Token`.
    pub token: String,
    /// How long each payment takes.
    pub delay: Duration,
    /// Whether each payment is answered with 500 and not stored.
    pub failing: bool,
    /// How much it takes at once.
    pub limits: Limits,
    /// What goes wrong, and how often.
    pub faults: Faults,
    /// Decides, together with the id of a payment, which faults that payment meets.
    pub seed: u64,
    /// The file that keeps the records over a restart; `None` keeps them in memory only.
    pub journal: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fee: DEFAULT_FEE,
            token: DEFAULT_TOKEN.to_owned(),
            delay: Duration::ZERO,
            failing: false,
            limits: Limits::default(),
            faults: Faults::default(),
            seed: 0,
            journal: None,
        }
    }
}
