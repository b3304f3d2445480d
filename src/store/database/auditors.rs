//! Auditors read, for a while: one whose transaction stays open keeps vacuum from cleaning the
//! queue, and can lift every limit that its role has. The database's function `end_long_audits`
//! ends such sessions; instances call it.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{Outage, Pool};
use crate::telemetry::log::Storm;

/// The pause between two looks at what auditors have open.
pub(crate) const AUDIT_CHECK: Duration = Duration::from_secs(5);

/// Ends auditors' transactions that are open for too long, and logs each, until `stop`.
pub(crate) async fn watch_auditors(pool: Pool, stop: CancellationToken) {
    let mut outage = Outage::new("auditors");
    let unended = Storm::new();
    loop {
        match pool.with_deadline(end_long_audits(&pool, &unended)).await {
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

/// Ends the sessions of members of role `auditor` whose transaction is open for longer than the
/// database's function says, and logs each; of those that cannot be ended, one now and then.
async fn end_long_audits(pool: &PgPool, unended: &Storm) -> Result<(), sqlx::Error> {
    let audits = sqlx::query!(
        r#"SELECT audit_pid AS "pid!", open_seconds AS "open_seconds!", ended AS "ended!",
            audit_role AS "role!"
        FROM end_long_audits()"#
    )
    .fetch_all(pool)
    .await?;
    for audit in &audits {
        let (pid, open_seconds, role) = (audit.pid, audit.open_seconds, &audit.role);
        if audit.ended {
            tracing::warn!(
                audit.pid = pid,
                audit.open_seconds = open_seconds,
                audit.role = role,
                "an auditor's transaction was open for too long and kept vacuum from cleaning the \
                queue: its session was ended"
            );
        } else if let Some(times) = unended.note() {
            tracing::error!(
                audit.pid = pid,
                audit.open_seconds = open_seconds,
                audit.role = role,
                times,
                "an auditor's transaction is open for too long, and its session cannot be ended: run init.sql again, or \
                make the owner of the tables a member of that role"
            );
        }
    }
    Ok(())
}
