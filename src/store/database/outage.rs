//! Times without the database: how they are logged, and for how long they are remembered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgPool};
use tokio::sync::Mutex;

use super::errors::Condition;
use super::pools::Pool;
use super::session::Session;
use crate::domain::cell::Cell;
use crate::telemetry::log::Storm;

/// How long the question may take why no connection could be had.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(1);
/// For how long a failed write makes an instance unready, unless another succeeds: the disk may be
/// full for payments while everything else still works.
pub(crate) const FAILURE_REMEMBERED: Duration = Duration::from_secs(5);

/// A time without the database, as one task sees it: logged when it begins, when more is known of
/// what is wrong, and when it ends. Where they follow each other, as when connections break again
/// and again, one is logged now and then, with the number of failures since.
#[derive(Debug)]
pub(crate) struct Outage {
    task: &'static str,
    /// That of the pool whose statements fail.
    cell: Cell,
    began_at: Option<Instant>,
    /// What was logged since then.
    told: Vec<Condition>,
    storms: Vec<(Condition, Storm)>,
}

impl Outage {
    /// No outage yet, for that task.
    #[must_use]
    pub(crate) fn new(task: &'static str) -> Self {
        Self {
            task,
            cell: Cell::ONLY,
            began_at: None,
            told: Vec::new(),
            storms: Vec::new(),
        }
    }

    /// A statement on a connection of that pool failed. Returns what is wrong.
    pub(crate) async fn goes_on(&mut self, error: &sqlx::Error, pool: &Pool) -> Condition {
        pool.counts().database_error(self.task);
        self.cell = pool.cell();
        self.began_at.get_or_insert_with(Instant::now);
        let cause = diagnose(error, pool).await;
        let error = cause.as_ref().unwrap_or(error);
        let condition = Condition::of(error);
        // That it does not answer is told by whatever else is wrong, too.
        let news = !self.told.contains(&condition);
        if news
            && (self.told.is_empty() || condition != Condition::Away)
            && let Some(failures) = self.storm(condition).note()
        {
            self.told.push(condition);
            let cell = self.cell.label();
            tracing::error!(
                task = self.task,
                cell,
                failures,
                error = %error,
                "{condition}; trying again"
            );
        }
        condition
    }

    fn storm(&mut self, condition: Condition) -> &Storm {
        let known = self.storms.iter().position(|(of, _)| *of == condition);
        let known = known.unwrap_or_else(|| {
            self.storms.push((condition, Storm::new()));
            self.storms.len() - 1
        });
        &self.storms[known].1
    }

    /// A statement succeeded.
    pub(crate) fn over(&mut self) {
        let Some(began_at) = self.began_at.take() else {
            return;
        };
        if !std::mem::take(&mut self.told).is_empty() {
            tracing::info!(
                task = self.task,
                cell = self.cell.label(),
                outage_seconds = began_at.elapsed().as_secs_f64(),
                "the database answers again"
            );
        }
    }
}

/// What is wrong, as the server itself tells it.
pub async fn condition(error: &sqlx::Error, pool: &PgPool) -> Condition {
    Condition::of(diagnose(error, pool).await.as_ref().unwrap_or(error))
}

/// Why the pool has no connection, which it does not say.
async fn diagnose(error: &sqlx::Error, pool: &PgPool) -> Option<sqlx::Error> {
    if !matches!(error, sqlx::Error::PoolTimedOut) {
        return None;
    }
    let options = pool.connect_options();
    let connecting = Session::SERVICE.connect(&options);
    match tokio::time::timeout(DIAGNOSIS_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => {
            let _ = connection.close().await;
            None
        }
        Ok(Err(cause)) => Some(cause),
        Err(_) => None,
    }
}

/// The writes of several tasks at once: one outage for all of them, and what came of the last.
#[derive(Debug)]
pub struct Writes {
    outage: Mutex<Outage>,
    failed: std::sync::Mutex<Option<(Instant, Condition)>>,
    failing: AtomicBool,
}

impl Writes {
    /// None has failed yet.
    #[must_use]
    pub fn new(task: &'static str) -> Self {
        Self {
            outage: Mutex::new(Outage::new(task)),
            failed: std::sync::Mutex::default(),
            failing: AtomicBool::new(false),
        }
    }

    /// One failed.
    pub async fn failed(&self, error: &sqlx::Error, pool: &Pool) {
        self.failing.store(true, Ordering::Relaxed);
        let condition = self.outage.lock().await.goes_on(error, pool).await;
        self.remember(Some((Instant::now(), condition)));
    }

    /// One succeeded.
    pub async fn succeeded(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            self.outage.lock().await.over();
            self.remember(None);
        }
    }

    /// Why the last one failed, if that was less than [`FAILURE_REMEMBERED`] ago and cannot be seen
    /// but by such a write.
    #[must_use]
    pub fn failing(&self) -> Option<Condition> {
        use Condition::{Failing, OutOfDisk, Slow};
        let failed = *self
            .failed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        failed
            .filter(|(at, _)| at.elapsed() < FAILURE_REMEMBERED)
            .map(|(_, condition)| condition)
            .filter(|condition| matches!(condition, OutOfDisk | Slow | Failing))
    }

    fn remember(&self, failed: Option<(Instant, Condition)>) {
        *self
            .failed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = failed;
    }
}
