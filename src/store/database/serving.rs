//! Who serves, as one can tell who has not watched.
//!
//! The last heartbeat of an instance is a time of the database's clock. For up to a heartbeat's
//! interval after a step of that clock no living instance seems to be alive. So "nobody" takes two
//! poll, [`INSTANCE_TTL`] apart by the clock of whoever poll: nobody seems to be alive in either,
//! and no row has changed in between.
//!
//! Only an instance that serves removes the rows of others, so where there is no row at all, all
//! have signed off, and one look is enough.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::interval;
use crate::domain::lease::INSTANCE_TTL;

/// An instance that may serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Its id.
    pub id: Uuid,
    /// Its last heartbeat.
    pub seen_at: DateTime<Utc>,
    /// Whether the database's clock says that it is alive.
    pub alive: bool,
    /// The durability of the queue that it is configured with; none where it does not say.
    pub queue_durability: Option<String>,
}

/// What poll came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// These serve.
    Serving(Vec<Serving>),
    /// Nobody serves.
    Nobody,
    /// Nobody seems to; look again after this time.
    PollAgain(Duration),
}

/// What earlier poll saw.
#[derive(Debug, Default)]
pub struct ServingPoll {
    first: Option<(Instant, BTreeMap<Uuid, DateTime<Utc>>)>,
}

impl ServingPoll {
    /// Takes note of what was read at the time `now`.
    pub fn note(&mut self, rows: Vec<Serving>, now: Instant) -> Found {
        if rows.is_empty() {
            return Found::Nobody;
        }
        let seen = rows.iter().map(|row| (row.id, row.seen_at)).collect();
        let (begun_at, before) = self.first.get_or_insert((now, seen));
        let beats = |row: &Serving| row.alive || before.get(&row.id) != Some(&row.seen_at);
        let serving: Vec<Serving> = rows.iter().filter(|row| beats(row)).cloned().collect();
        let watched = now.saturating_duration_since(*begun_at);
        if !serving.is_empty() {
            self.first = None;
            Found::Serving(serving)
        } else if watched >= INSTANCE_TTL {
            Found::Nobody
        } else {
            Found::PollAgain(INSTANCE_TTL - watched)
        }
    }

    /// Polls once, as the instance of that id, or as somebody else.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn poll(
        &mut self,
        connection: &mut PgConnection,
        own: Option<Uuid>,
    ) -> Result<Found, sqlx::Error> {
        let rows = sqlx::query_as!(
            Serving,
            r#"SELECT id, seen_at, terms ->> 'queueDurability' AS queue_durability,
                seen_at BETWEEN now() - $2::interval AND now() + $2::interval AS "alive!"
            FROM service_instance WHERE held IS NULL AND id IS DISTINCT FROM $1 ORDER BY id"#,
            own,
            interval(INSTANCE_TTL)
        )
        .fetch_all(connection)
        .await?;
        Ok(self.note(rows, Instant::now()))
    }
}

/// The instances that serve. Where some may, this takes [`INSTANCE_TTL`].
///
/// # Errors
/// The database did not answer.
pub async fn serving(connection: &mut PgConnection) -> Result<Vec<Serving>, sqlx::Error> {
    let mut poll = ServingPoll::default();
    loop {
        match poll.poll(&mut *connection, None).await? {
            Found::Serving(serving) => return Ok(serving),
            Found::Nobody => return Ok(Vec::new()),
            Found::PollAgain(pause) => tokio::time::sleep(pause).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn row(id: u128, seconds: i64, alive: bool) -> Serving {
        Serving {
            id: Uuid::from_u128(id),
            seen_at: DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds),
            alive,
            queue_durability: None,
        }
    }

    #[test]
    fn nobody_serves_when_two_looks_find_nobody_and_nothing_has_changed() {
        let (mut poll, begin) = (ServingPoll::default(), Instant::now());
        let dead = || vec![row(1, 0, false), row(2, -3_600, false)];
        assert_eq!(poll.note(dead(), begin), Found::PollAgain(INSTANCE_TTL));
        let early = begin + INSTANCE_TTL - Duration::from_secs(1);
        let rest = Found::PollAgain(Duration::from_secs(1));
        assert_eq!(poll.note(dead(), early), rest);
        assert_eq!(poll.note(dead(), begin + INSTANCE_TTL), Found::Nobody);
        assert_eq!(
            ServingPoll::default().note(Vec::new(), begin),
            Found::Nobody
        );
    }

    #[test]
    fn whoever_gives_a_heartbeat_serves_whatever_the_databases_clock_says() {
        let begin = Instant::now();
        // The clock was set forward: the heartbeat of before is old, that of after is not, or was
        // forgotten and is back.
        for after in [
            vec![row(1, 85, true)],
            // It is set forward again and again.
            vec![row(1, 85, false)],
            vec![row(1, 0, false), row(2, 85, false)],
            vec![row(1, -85, false)],
        ] {
            let mut poll = ServingPoll::default();
            let first = poll.note(vec![row(1, 0, false)], begin);
            assert_eq!(first, Found::PollAgain(INSTANCE_TTL));
            let beating: Vec<Serving> = after
                .iter()
                .filter(|row| **row != self::row(1, 0, false))
                .cloned()
                .collect();
            let second = poll.note(after, begin + INSTANCE_TTL);
            assert_eq!(second, Found::Serving(beating));
            // From then on both poll are to be made anew.
            let third = poll.note(vec![row(1, 85, false)], begin + INSTANCE_TTL * 2);
            assert_eq!(third, Found::PollAgain(INSTANCE_TTL));
        }
    }

    #[test]
    fn an_instance_that_signs_off_between_two_looks_is_none() {
        let (mut poll, begin) = (ServingPoll::default(), Instant::now());
        poll.note(vec![row(1, 0, false), row(2, 0, false)], begin);
        let found = poll.note(vec![row(2, 0, false)], begin + INSTANCE_TTL);
        assert_eq!(found, Found::Nobody);
    }
}
