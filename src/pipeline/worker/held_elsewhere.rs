//! Payments that other instances hold are looked up before their leases end, where one of these
//! instances may have died.
//!
//! An instance that dies leaves payments that its processors may have charged. Their leases end up
//! to 20 s later, and only then may another instance post them again; only after the doubt is an
//! absence proof. What a look-up *finds* needs no lease: a charge is recorded whoever reports it
//! ([`settle`](crate::pipeline::settle)), and if the holder lives after all and records it, too,
//! that changes nothing. So no lease ends early, and the processors are asked
//!
//! - when an instance starts, since it may be the successor of one that was killed;
//! - when an instance gives no heartbeat any more, by one of those that live.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Worker, hand_over};
use crate::domain::lease::INSTANCE_TTL;
use crate::processors::{OVERDUE_AFTER, Outcome, find_charge};
use crate::store::claim::{IN_DOUBT_BATCH, held_for};
use crate::telemetry::metrics::EarlyLookup;

/// The time between two looks at whether an instance has fallen silent. The heartbeat reads that,
/// so it takes no statement.
const POLL: Duration = Duration::from_millis(500);
/// The pause between the first two look-ups of a payment; each further one is twice as long, until
/// another instance falls silent.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// When payments that others hold are looked up.
#[derive(Debug)]
struct Schedule {
    /// Until then this instance cannot know whether one has died before its start.
    started_until: Instant,
    silent: u32,
    next_at: Instant,
    pause: Duration,
}

impl Schedule {
    fn new(started_at: Instant) -> Self {
        Self {
            started_until: started_at + INSTANCE_TTL,
            silent: 0,
            next_at: started_at,
            pause: FIRST_PAUSE,
        }
    }

    /// Whether to look now, while so many instances are silent.
    fn is_due(&mut self, now: Instant, silent: u32) -> bool {
        if silent > self.silent {
            (self.next_at, self.pause) = (now, FIRST_PAUSE);
        }
        self.silent = silent;
        let is_due = (silent > 0 || now < self.started_until) && now >= self.next_at;
        if is_due {
            self.next_at = now + self.pause;
            self.pause *= 2;
        }
        is_due
    }
}

impl Worker {
    /// Looks up what other instances hold, when one of them may have died, until the worker stops.
    pub(crate) async fn run_held_elsewhere(&self) {
        let mut schedule = Schedule::new(Instant::now());
        while !self.stop.draining.is_cancelled() {
            let silent = self.admission.silent_instances();
            if self.may_claim() && schedule.is_due(Instant::now(), silent) {
                let looked = self.pool.with_deadline(self.held_elsewhere_step());
                match looked.await {
                    Ok(0) => {}
                    Ok(payments) => tracing::info!(
                        payments,
                        instances.silent = silent,
                        "asking for payments that another instance holds, which may have died"
                    ),
                    // Whoever claims tells of it.
                    Err(error) => tracing::debug!(error = %error, "not asked for what others hold"),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = self.stop.draining.cancelled() => {}
            }
        }
    }

    /// Starts to look up each payment that another instance has held for longer than an answer
    /// takes that comes in time. Returns how many.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn held_elsewhere_step(&self) -> Result<usize, sqlx::Error> {
        let processors = self.processors.iter();
        let configured: Vec<String> = processors.map(|each| each.name.clone()).collect();
        let (pool, terms, limit) = (&self.pool, self.terms, IN_DOUBT_BATCH);
        let (mut after, up_to, mut count) = (0, self.in_doubt_bound(), 0);
        loop {
            let rows = (after, up_to);
            let held = held_for(pool, terms, OVERDUE_AFTER, &configured, rows, limit).await?;
            let is_last = held.len() < limit;
            for claim in held {
                after = claim.id;
                // What this instance holds it asks for itself.
                if self.returned.in_flight.has(&claim.payment.correlation_id) {
                    continue;
                }
                let slot = self.slots(1, IN_DOUBT_BATCH).pop();
                let Some((slot, index)) = slot.zip(self.index_of(&claim.processor)) else {
                    return Ok(count);
                };
                count += 1;
                let (stop, router) = (Arc::clone(&self.stop), self.router.clone());
                let processors = Arc::clone(&self.processors);
                self.calls.spawn(async move {
                    let (client, instances) = (&processors[index].client, router.instances());
                    let asked = find_charge(client, &claim, instances, EarlyLookup::HeldElsewhere);
                    let found = tokio::select! {
                        found = asked => found,
                        () = stop.now.cancelled() => None,
                    };
                    if let Some(requested_at) = found {
                        hand_over(slot, claim, Outcome::Charged { requested_at });
                    }
                });
            }
            if is_last {
                return Ok(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds, of the first minute, in which it is looked while so many are silent.
    fn looks(silent: impl Fn(u64) -> u32) -> Vec<u64> {
        let begin = Instant::now();
        let mut schedule = Schedule::new(begin);
        let seconds = (0..60).filter(|second| {
            let now = begin + Duration::from_secs(*second);
            schedule.is_due(now, silent(*second))
        });
        seconds.collect()
    }

    #[test]
    fn it_is_looked_after_a_start_and_when_an_instance_falls_silent_at_growing_distances() {
        assert_eq!(looks(|_| 0), [0, 1, 3]);
        assert_eq!(
            looks(|second| u32::from((20..45).contains(&second))),
            [0, 1, 3, 20, 21, 23, 27, 35]
        );
        // One more begins anew.
        let two = |second| match second {
            30..32 => 1,
            32..50 => 2,
            _ => 0,
        };
        assert_eq!(looks(two), [0, 1, 3, 30, 31, 32, 33, 35, 39, 47]);
    }
}
