//! Connections to PostgreSQL, the migrations and rights, and what is done while it is away.

mod auditors;
mod cells;
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

pub use auditors::{AUDIT_CHECK, watch_auditors};
pub(crate) use cells::of_cell;
pub use cells::{InCell, KnownCell, in_each};
pub use dedicated::DedicatedConnection;
pub use errors::{Condition, Unfit, concerns_all, is_not_allowed, is_transient, lacks_character};
pub use late_answer::LateAnswer;
pub use lock::{
    DDL_LOCK_LIMIT, DDL_LOCK_PAUSE, DDL_LOCK_TIMEOUT, REQUEST_LOCK_TIMEOUT, VACUUM_LOCK_TIMEOUT,
    database_error,
};
pub(crate) use lock::{with_short_locks, with_short_locks_of};
pub(crate) use migrate::session_options;
pub use migrate::{
    FAILOVER_LOSES_QUEUE, NotReady, Schema, check_ready, failover_loses_queue, meet_pooler,
    migrate, prepare, prepare_where, unsafe_setting,
};
pub(crate) use notification::{CHANNEL, notify_others};
pub use outage::{FAILURE_REMEMBERED, Outage, Writes, condition};
pub use pooling::Pooling;
pub use pools::{
    ACCEPT_CONNECTIONS, ACQUIRE_TIMEOUT, CLAIM_CONNECTIONS, ConnectionCheck, Connections,
    OPERATOR_CONNECTIONS, Pool, Pools, REQUEST_CONNECTIONS, SETTLE_CONNECTIONS, TRUSTED_IDLE,
};
pub use serving::{Found, Serving, ServingPoll, serving};
pub use session::IDLE_IN_TRANSACTION_TIMEOUT;
pub(crate) use session::Session;
pub use validity::{ANSWER_DEADLINE, READ_DEADLINE, Validity, with_deadline};
pub use version::{COMPATIBLE, MIGRATIONS, Standing, TooNew, standing};

/// How long one statement may run before the server ends it.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement waits for a lock before the server ends it.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts to reach a database that is away.
pub const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A length of time as PostgreSQL takes it.
#[must_use]
pub fn interval(length: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(length.as_micros()).unwrap_or(i64::MAX),
    }
}
