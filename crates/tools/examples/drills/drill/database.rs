//! A database that is locked, busy with its indexes, silent, or dead.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::outcome::millis;
use crate::site::Site;
use tools::deployment::process::thaw;

/// How long each table is locked.
const LOCKED: Duration = Duration::from_secs(6);
/// How long a transaction stays open beside the maintenance of an index. Below the limit that the
/// database has for one that idles.
const OPEN: Duration = Duration::from_secs(8);
/// How long the server stands still.
const FROZEN: Duration = Duration::from_secs(15);
/// How often it is killed, and for how long.
const KILLS: usize = 3;
const AWAY: Duration = Duration::from_secs(1);
/// How long clients may wait for an answer: `ACCEPT_TIMEOUT`, and what a busy machine adds.
const LONGEST_ANSWER: Duration = Duration::from_millis(4_500);
/// How soon payments are accepted again.
const BACK: Duration = Duration::from_secs(5);
const BACK_AFTER_CRASH: Duration = Duration::from_secs(15);
/// How long nobody may be accepted during the maintenance of an index.
const MAINTENANCE_GAP: Duration = Duration::from_secs(1);

/// What that transaction holds: all that `CONCURRENTLY` waits for, a snapshot and the lock of a
/// writer.
const HELD: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
    LOCK TABLE payment_processed, payment_queue IN ROW EXCLUSIVE MODE;
    SELECT count(*) FROM payment_processed";
/// What is done to indexes, as the runbook says.
const MAINTENANCE: [&str; 3] = [
    "CREATE INDEX CONCURRENTLY drill_idx ON payment_processed (accepted_at)",
    "REINDEX TABLE CONCURRENTLY payment_processed",
    "REINDEX TABLE CONCURRENTLY payment_queue",
];

pub(super) async fn locked_tables(site: &Site) -> anyhow::Result<()> {
    for table in ["payment_queue", "payment_processed"] {
        let mut locking = PgConnection::connect(site.stack.owner_url()).await?;
        site.outage("a locked table");
        let since = Instant::now();
        let mut locked = locking.begin().await?;
        let lock = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        locked.execute(AssertSqlSafe(lock)).await?;
        tokio::time::sleep(LOCKED).await;
        locked.rollback().await?;
        locking.close().await?;
        let back = site.recovers(BACK).await;
        let figures = site.load.figures(since..Instant::now());
        let refusals = site.watch.refusals(since);
        site.must(figures.longest < LONGEST_ANSWER, || {
            format!("a client waited {} for an answer", millis(figures.longest))
        });
        site.note(format!(
            "{table} locked for {}: {} accepted, {} told 503, the longest answer {}, accepted again {} \
            later, readyz said {} things",
            millis(LOCKED),
            figures.accepted,
            figures.refused,
            millis(figures.longest),
            millis(back),
            refusals.len()
        ));
    }
    Ok(())
}

pub(super) async fn index_maintenance(site: &Site) -> anyhow::Result<()> {
    for statement in MAINTENANCE {
        let mut open = PgConnection::connect(site.stack.owner_url()).await?;
        let mut owner = PgConnection::connect(site.stack.owner_url()).await?;
        site.outage("index maintenance");
        let since = Instant::now();
        let mut transaction = open.begin().await?;
        transaction.execute(HELD).await?;
        let maintenance = async {
            let done = owner.execute(statement).await;
            (done, since.elapsed())
        };
        let ((done, took), ()) = tokio::join!(maintenance, async {
            tokio::time::sleep(OPEN).await;
            // It may have been ended meanwhile, which is no fault of this drill.
            let _ = transaction.rollback().await;
        });
        site.must(done.is_ok(), || format!("{statement}: {done:?}"));
        let span = since..Instant::now();
        let (figures, gap) = (
            site.load.figures(span.clone()),
            site.load.longest_gap(&span),
        );
        site.must(gap < MAINTENANCE_GAP, || {
            format!("{statement}: nobody was accepted for {}", millis(gap))
        });
        let words: Vec<&str> = statement.split(' ').collect();
        site.note(format!(
            "{} {} took {} beside a transaction open for {}: {} refused, p99 {}, nobody accepted for {} \
            at the longest",
            words[0],
            words[words.len() - 1].trim_matches(['(', ')']),
            millis(took),
            millis(OPEN),
            figures.refused,
            millis(figures.p99),
            millis(gap)
        ));
        owner.execute("DROP INDEX IF EXISTS drill_idx").await?;
        owner.close().await?;
    }
    Ok(())
}

pub(super) async fn frozen(site: &Site) -> anyhow::Result<()> {
    let cluster = site.stack.cluster.lock().await;
    site.outage("PostgreSQL stopped where it stands");
    let since = Instant::now();
    let all = cluster.freeze()?;
    tokio::time::sleep(FROZEN).await;
    thaw(&all);
    drop(cluster);
    let back = site.recovers(BACK).await;
    let span = since..Instant::now();
    let figures = site.load.figures(span.clone());
    site.must(figures.refused > 0, || "nobody was refused".to_owned());
    site.must(figures.longest < LONGEST_ANSWER, || {
        format!("a client waited {} for an answer", millis(figures.longest))
    });
    let refusals = site.watch.refusals(since);
    site.must(!refusals.is_empty(), || {
        "readyz was green all the time".to_owned()
    });
    site.note(format!(
        "stopped for {}: {} told 503, the longest answer {}, accepted again {} later, nobody accepted \
        for {} in all",
        millis(FROZEN),
        figures.refused,
        millis(figures.longest),
        millis(back),
        millis(site.load.longest_gap(&span))
    ));
    Ok(())
}

pub(super) async fn killed(site: &Site) -> anyhow::Result<()> {
    let mut longest = Duration::ZERO;
    let mut refused = 0;
    for _ in 0..KILLS {
        site.outage("PostgreSQL killed");
        let since = Instant::now();
        {
            let mut cluster = site.stack.cluster.lock().await;
            cluster.crash().await?;
            tokio::time::sleep(AWAY).await;
            cluster.start().await?;
        }
        site.recovers(BACK_AFTER_CRASH).await;
        // And some time in which all is well.
        tokio::time::sleep(BACK).await;
        let span = since..Instant::now();
        longest = longest.max(site.load.longest_gap(&span));
        refused += site.load.figures(span).refused;
    }
    site.note(format!(
        "{KILLS} kills, {} away each: {refused} told 503, nobody accepted for {} at the longest",
        millis(AWAY),
        millis(longest)
    ));
    Ok(())
}
