//! Hints: by NOTIFY, that there is something to read. Nothing depends on them.

use super::Pool;

/// The channel of the hints.
pub(crate) const CHANNEL: &str = "payment_proxy_deployment";

/// Tells all instances that there is something to read, if hints arrive at all.
pub(crate) async fn notify_others(pool: &Pool) {
    let hint = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL);
    if let Err(error) = pool.with_deadline(hint.execute(&**pool)).await {
        tracing::debug!(error = %error, "no hint given");
    }
}
