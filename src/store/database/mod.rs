//! Connections to PostgreSQL, the migrations and rights, and what is done while it is away.

mod auditors;
mod cells;
mod citus;
mod dedicated;
mod errors;
mod late_answer;
mod lock;
mod migrate;
mod notification;
mod outage;
mod pooling;
mod pools;
mod serving;
mod session;
mod validity;
mod version;

use std::time::Duration;

use sqlx::postgres::types::PgInterval;

pub(crate) use auditors::watch_auditors;
pub(crate) use cells::of_cell;
pub(crate) use cells::{InCell, KnownCell, in_each};
pub(crate) use citus::refuse_citus;
pub(crate) use dedicated::DedicatedConnection;
pub use errors::{Condition, concerns_all, is_not_allowed, is_transient};
pub(crate) use errors::{Unfit, lacks_character};
pub(crate) use late_answer::LateAnswer;
pub use lock::DDL_LOCK_TIMEOUT;
pub(crate) use lock::database_error;
pub(crate) use lock::{with_short_locks, with_short_locks_of};
pub(crate) use migrate::session_options;
pub use migrate::{FAILOVER_LOSES_QUEUE, Schema, failover_loses_queue, migrate, prepare};
pub(crate) use migrate::{check_ready, meet_pooler, prepare_where, unsafe_setting};
pub(crate) use notification::{CHANNEL, notify_others};
pub(crate) use outage::Outage;
pub use outage::{Writes, condition};
pub(crate) use pooling::Pooling;
pub use pools::{
    ACCEPT_CONNECTIONS, CLAIM_CONNECTIONS, ConnectionCheck, Connections, OPERATOR_CONNECTIONS,
    Pool, Pools, REQUEST_CONNECTIONS, SETTLE_CONNECTIONS,
};
pub(crate) use pools::{ACQUIRE_TIMEOUT, TRUSTED_IDLE};
pub use serving::{Found, Serving, ServingPoll, serving};
pub(crate) use session::Session;
pub(crate) use validity::Validity;
pub use validity::{ANSWER_DEADLINE, with_deadline};
pub(crate) use version::MIGRATIONS;
pub use version::TooNew;

/// How long one statement may run before the server ends it.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement waits for a lock before the server ends it.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts to reach a database that is away.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A length of time as PostgreSQL takes it.
#[must_use]
pub fn interval(length: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(length.as_micros()).unwrap_or(i64::MAX),
    }
}
