//! The concurrency limit: so many at once, so many waiting in order, the rest refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hands out the places that requests are served in.
#[derive(Debug)]
pub(super) struct Limiter {
    places: Arc<Semaphore>,
    at_once: usize,
    waiting: Arc<AtomicUsize>,
    most_waiting: usize,
}

/// A request's place among those that are served at once; dropping it frees the place.
pub(super) type Place = OwnedSemaphorePermit;

/// What the limiter says to a request.
pub(super) enum Entry {
    /// It is served now.
    Now(Place),
    /// It waits for its turn.
    Later(Turn),
    /// Too many are waiting already.
    Refused,
}

/// A request's position among those that wait.
pub(super) struct Turn {
    places: Arc<Semaphore>,
    _position: Position,
}

/// Counts one waiting request, for as long as it exists.
struct Position(Arc<AtomicUsize>);

impl Drop for Position {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Limiter {
    pub(super) fn new(at_once: usize, most_waiting: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(at_once)),
            at_once,
            waiting: Arc::default(),
            most_waiting,
        }
    }

    /// Asks for a place. The semaphore hands freed places to those that wait, in order, so nobody
    /// overtakes them here.
    pub(super) fn enter(&self) -> Entry {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Entry::Now(place);
        }
        let position = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < self.most_waiting).then_some(waiting + 1)
            });
        match position {
            Ok(_) => Entry::Later(Turn {
                places: Arc::clone(&self.places),
                _position: Position(Arc::clone(&self.waiting)),
            }),
            Err(_) => Entry::Refused,
        }
    }

    /// Requests that are being served.
    pub(super) fn in_service(&self) -> usize {
        self.at_once - self.places.available_permits()
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }
}

impl Turn {
    /// Waits for the place.
    pub(super) async fn come(self) -> Place {
        self.places
            .acquire_owned()
            .await
            .expect("the semaphore is never closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_that_wait_are_served_in_order_and_the_rest_are_refused() {
        let limiter = Limiter::new(1, 2);
        let Entry::Now(place) = limiter.enter() else {
            panic!("the first is served at once")
        };
        let Entry::Later(second) = limiter.enter() else {
            panic!("the second waits")
        };
        let Entry::Later(third) = limiter.enter() else {
            panic!("the third waits")
        };
        assert!(matches!(limiter.enter(), Entry::Refused));
        assert_eq!((limiter.in_service(), limiter.waiting()), (1, 2));

        let mut second = Box::pin(second.come());
        let mut third = Box::pin(third.come());
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(place);
        assert!(futures_util::poll!(&mut third).is_pending());
        let place = second.await;
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(place);
        drop(third.await);
        assert_eq!((limiter.in_service(), limiter.waiting()), (0, 0));
    }
}
