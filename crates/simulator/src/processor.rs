//! The state of a processor: its records, its limits, its configuration and its faults.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::faults::Faults;
use super::health::HealthGate;
use super::injector::{FaultInjector, Injected};
use super::journal::Journal;
use super::limiter::Limiter;
use super::records::{Payment, Records, Summary};
use super::settings::Settings;

/// A simulated processor, apart from the network. It is shared by all connections, and by tests
/// that look at what it stored or change how it behaves.
#[derive(Debug)]
pub struct Processor {
    fee: Decimal,
    token: RwLock<String>,
    delay_ms: AtomicU64,
    failing: AtomicBool,
    ledger: Mutex<Ledger>,
    pub(super) limiter: Limiter,
    pub(super) health: HealthGate,
    pub(super) faults: FaultInjector,
    /// Until when nothing listens.
    outage: watch::Sender<Option<Instant>>,
}

/// The records and their copy on disk, changed together.
#[derive(Debug)]
struct Ledger {
    records: Records,
    journal: Option<Journal>,
}

impl Processor {
    /// Makes a processor and reads its journal, if it has one.
    pub fn open(settings: Settings) -> io::Result<Arc<Self>> {
        settings
            .faults
            .check()
            .map_err(|wrong| io::Error::new(io::ErrorKind::InvalidInput, wrong))?;
        let mut records = Records::new();
        let journal = match &settings.journal {
            Some(path) => Some(Journal::open(path, &mut records)?),
            None => None,
        };
        if let Some(journal) = &journal {
            tracing::info!(
                journal.path = %journal.path().display(),
                journal.payments = records.rows().len(),
                "records read from the journal"
            );
        }
        let limits = &settings.limits;
        let processor = Self {
            fee: settings.fee,
            token: RwLock::new(settings.token),
            delay_ms: AtomicU64::new(millis(settings.delay)),
            failing: AtomicBool::new(settings.failing),
            ledger: Mutex::new(Ledger { records, journal }),
            limiter: Limiter::new(limits.at_once, limits.waiting),
            health: HealthGate::new(Instant::now(), limits.health_window, limits.health_waiting),
            faults: FaultInjector::new(settings.seed, settings.faults.clone()),
            outage: watch::Sender::new(None),
        };
        processor.refuse_for(Duration::from_millis(settings.faults.refuse_for_ms));
        Ok(Arc::new(processor))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no code panics under this lock")
    }

    /// Lets a reader look at the records; nothing is stored meanwhile.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Records) -> T) -> T {
        look(&self.ledger().records)
    }

    /// Stores a payment. False when its id is there already; an error when the journal cannot be
    /// written, and then the payment is not stored.
    pub(super) fn store(&self, payment: Payment) -> io::Result<bool> {
        let ledger = &mut *self.ledger();
        if ledger.records.contains(payment.id) {
            return Ok(false);
        }
        if let Some(journal) = &mut ledger.journal {
            journal.append(&payment)?;
        }
        Ok(ledger.records.insert(payment))
    }

    /// Forgets every payment.
    pub fn purge(&self) -> io::Result<()> {
        let mut ledger = self.ledger();
        if let Some(journal) = &mut ledger.journal {
            journal.purge()?;
        }
        ledger.records.purge();
        drop(ledger);
        self.faults.forget();
        Ok(())
    }

    /// All stored payments, in the order in which they were stored.
    pub fn payments(&self) -> Vec<Payment> {
        self.read(|records| records.rows().to_vec())
    }

    /// The payment with this id.
    pub fn payment(&self, id: Uuid) -> Option<Payment> {
        self.read(|records| records.get(id).copied())
    }

    /// Sums the payments with `from <= requestedAt <= to`; with either missing, all of them.
    pub fn summary(&self, from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Summary {
        self.read(|records| records.summary(from, to))
    }

    /// The part of each amount that the processor keeps.
    pub fn fee(&self) -> Decimal {
        self.fee
    }

    /// How long each payment takes.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.load(Ordering::Acquire))
    }

    /// Sets how long each payment takes, to the millisecond.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_ms.store(millis(delay), Ordering::Release);
    }

    /// Whether payments are answered with 500.
    pub fn failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Sets whether payments are answered with 500.
    pub fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Release);
    }

    /// Whether this is the admin token.
    pub(super) fn admits(&self, token: &[u8]) -> bool {
        let expected = self.token.read().expect("no code panics under this lock");
        expected.as_bytes() == token
    }

    /// Replaces the admin token.
    pub fn set_token(&self, token: String) {
        *self.token.write().expect("no code panics under this lock") = token;
    }

    /// Requests to `/payments` and `/payments/{id}` that are being served.
    pub fn in_service(&self) -> usize {
        self.limiter.in_service()
    }

    /// Calls of the health endpoint that wait for a later window.
    pub fn waiting_for_health(&self) -> usize {
        self.health.waiting()
    }

    /// Requests that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.limiter.waiting()
    }

    /// The faults in force.
    pub fn faults(&self) -> Faults {
        self.faults.get().0
    }

    /// How often each fault was injected.
    pub fn injected(&self) -> Injected {
        self.faults.get().1
    }

    /// Replaces all faults, and starts or ends an outage as `refuse_for_ms` says.
    pub fn set_faults(&self, faults: Faults) -> Result<(), String> {
        faults.check()?;
        let outage = Duration::from_millis(faults.refuse_for_ms);
        self.faults.set(faults);
        self.refuse_for(outage);
        Ok(())
    }

    /// For this long from now on nothing listens: new connections are refused, open ones are cut.
    /// Zero ends an outage.
    pub fn refuse_for(&self, outage: Duration) {
        let until = (!outage.is_zero()).then(|| Instant::now() + outage);
        self.outage.send_if_modified(|current| {
            let changed = *current != until;
            *current = until;
            changed
        });
    }

    pub(super) fn outages(&self) -> watch::Receiver<Option<Instant>> {
        self.outage.subscribe()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
