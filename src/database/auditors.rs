//! Auditors read, for a while: one whose transaction stays open keeps vacuum from cleaning the queue, and can lift every
//! limit that its role has. The database's function `end_long_audits` ends such sessions; instances call it.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{Outage, within};

/// The pause between two looks at what auditors have open.
pub const AUDIT_CHECK: Duration = Duration::from_secs(5);

/// Ends auditors' transactions that are open for too long, and logs each, until `stop`.
pub async fn watch_auditors(pool: PgPool, stop: CancellationToken) {
    let mut outage = Outage::new("auditors");
    loop {
        match within(end_long_audits(&pool)).await {
            Ok(_) => outage.over(),
            Err(error) => {
                outage.goes_on(&error, &pool).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(AUDIT_CHECK) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Ends the sessions of role `auditor` whose transaction is open for longer than the database's function says, and logs
/// each. Returns how many there were.
///
/// # Errors
/// The database did not answer.
pub async fn end_long_audits(pool: &PgPool) -> Result<usize, sqlx::Error> {
    let audits = sqlx::query!(
        r#"SELECT audit_pid AS "pid!", open_seconds AS "open_seconds!", ended AS "ended!" FROM end_long_audits()"#
    )
    .fetch_all(pool)
    .await?;
    for audit in &audits {
        let (pid, open_seconds) = (audit.pid, audit.open_seconds);
        if audit.ended {
            tracing::warn!(
                audit.pid = pid,
                audit.open_seconds = open_seconds,
                "an auditor's transaction was open for too long and kept vacuum from cleaning the queue: its session was ended"
            );
        } else {
            tracing::error!(
                audit.pid = pid,
                audit.open_seconds = open_seconds,
                "an auditor's transaction is open for too long, and its session cannot be ended: run init.sql again"
            );
        }
    }
    Ok(audits.len())
}
