//! How the parts of an instance end: in order within limits, or because one of them broke.

use std::time::Duration;

use tokio::task::JoinError;

use crate::telemetry::log::LOG_DRAIN;

/// How long open requests have to end after the stop signal.
pub(crate) const REQUESTS_DRAIN: Duration = Duration::from_secs(2);
/// How long calls to processors have to end after the stop signal. Those left open then are
/// resolved by the next claim.
pub(crate) const CALLS_DRAIN: Duration = Duration::from_millis(5_250);
/// How long the ends of calls have to be recorded after that.
pub(crate) const SETTLE_DRAIN: Duration = Duration::from_secs(2);
/// How long the connections to the database have to be closed in order.
pub(crate) const CLOSE: Duration = Duration::from_millis(500);
/// All of them together.
pub const SHUTDOWN: Duration = Duration::from_secs(10);

const _: () = assert!(
    CALLS_DRAIN.as_millis()
        + REQUESTS_DRAIN.as_millis()
        + SETTLE_DRAIN.as_millis()
        + CLOSE.as_millis()
        + LOG_DRAIN.as_millis()
        <= SHUTDOWN.as_millis()
);

/// A part of the instance ended though nobody told it to.
pub(super) fn broken_part(
    part: Option<Result<anyhow::Result<()>, JoinError>>,
) -> anyhow::Result<()> {
    match part {
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(Ok(()))) | None => anyhow::bail!("a part of the instance ended by itself"),
    }
}
