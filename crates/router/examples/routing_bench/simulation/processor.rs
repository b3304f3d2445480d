//! A model of a payment processor, by its public source: concurrency limit, delay, failure, insert.

use std::collections::VecDeque;

use super::Micros;

/// Payments served at once.
pub(crate) const SERVED_AT_ONCE: u32 = 800;
/// Payments that wait to be served; one more gets a 429.
pub(crate) const WAITING_AT_MOST: usize = 500;
/// What the 429 says.
pub(crate) const RETRY_AFTER: Micros = 5 * super::SECOND;

/// What becomes of a request on arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is served now.
    Served,
    /// It waits for a place.
    Queued,
    /// 429.
    Refused,
}

/// The occupied places of a processor.
#[derive(Debug, Default)]
pub(crate) struct Processor {
    serving: u32,
    queued: VecDeque<u32>,
    /// The most that were ever served and queued at once.
    pub(crate) peak: u32,
}

impl Processor {
    /// A request arrives.
    pub(crate) fn admit(&mut self, request: u32) -> Admission {
        let admission = if self.serving < SERVED_AT_ONCE {
            self.serving += 1;
            Admission::Served
        } else if self.queued.len() < WAITING_AT_MOST {
            self.queued.push_back(request);
            Admission::Queued
        } else {
            Admission::Refused
        };
        self.peak = self.peak.max(self.serving + self.queued.len() as u32);
        admission
    }

    /// A request has been served. Returns the one that takes its place.
    pub(crate) fn leave(&mut self) -> Option<u32> {
        let next = self.queued.pop_front();
        if next.is_none() {
            self.serving -= 1;
        }
        next
    }
}
