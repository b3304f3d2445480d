//! A look at the database for somebody who does not wait for it for long, and will come again.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::Pool;

/// An answer for which nobody came in so long is of no use any more.
const KEPT: Duration = Duration::from_secs(2);

/// The look that is under way, if there is one. It is not cut off when it is late: a connection
/// that is left within a statement is tried before it goes back to its pool, and where the server
/// is silent that never ends.
#[derive(Debug)]
pub(crate) struct LateAnswer<T>(Option<JoinHandle<(Instant, Result<T, sqlx::Error>)>>);

impl<T> Default for LateAnswer<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Send + 'static> LateAnswer<T> {
    /// The answer to what `ask` asks on connections of `pool`. None: it has not come within
    /// `timeout`; it counts when somebody waits again.
    pub(crate) async fn answer<F>(
        &mut self,
        pool: &Pool,
        timeout: Duration,
        ask: impl Fn(Pool) -> F,
    ) -> Option<Result<T, sqlx::Error>>
    where
        F: Future<Output = Result<T, sqlx::Error>> + Send + 'static,
    {
        let deadline = Instant::now() + timeout;
        loop {
            let look = self.0.get_or_insert_with(|| {
                let (pool, asked) = (pool.clone(), ask(pool.clone()));
                tokio::spawn(async move {
                    let answer = pool.with_deadline(asked).await;
                    (Instant::now(), answer)
                })
            });
            let ended = timeout_at(deadline, look).await.ok()?;
            self.0 = None;
            match ended {
                Ok((at, answer)) if at.elapsed() < KEPT => return Some(answer),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(error = %error, "a look at the database broke off");
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::config::{DatabaseSettings, QueueDurability};
    use crate::store::database::Pools;

    const SECOND: Duration = Duration::from_secs(1);

    /// One of a database that is not asked.
    fn pool() -> Pool {
        let settings = DatabaseSettings {
            database_url: "postgres://nobody@localhost/none".parse().expect("a URL"),
            database_password: None,
            database_password_file: None,
            direct_database_url: None,
            queue_durability: QueueDurability::Unlogged,
        };
        Pools::new(&settings).requests
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_counts_later_and_an_old_one_never() {
        let asked = AtomicU32::new(0);
        let ask = |_| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(3 * SECOND).await;
                Ok(number)
            }
        };
        let (mut look, pool) = (LateAnswer::default(), pool());
        for (pause, expected) in [
            (Duration::ZERO, None),
            (Duration::ZERO, None),
            (SECOND, Some(0)),
            (Duration::ZERO, None),
            // It came while nobody waited, long ago.
            (10 * SECOND, None),
            (2 * SECOND, Some(2)),
        ] {
            tokio::time::sleep(pause).await;
            let answer = look.answer(&pool, SECOND + SECOND / 100, ask).await;
            assert_eq!(answer.map(|answer| answer.expect("no error")), expected);
        }
    }
}
