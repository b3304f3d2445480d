//! The totals that the database keeps are those of the payments, whatever happens to the ledger.

use chrono::{DateTime, TimeDelta, Utc};
use payment_proxy::store::summary::{Summary, Totals, summarize};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rust_decimal::Decimal;

use crate::support::Database;

/// Ranges that are compared.
const RANGES: usize = 150;

async fn plain(
    database: &Database,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> Vec<(String, Totals)> {
    let rows: Vec<(String, i64, Decimal)> = sqlx::query_as(
        "SELECT processor, count(*), sum(amount) FROM payment_processed
         WHERE ($1::timestamptz IS NULL OR requested_at >= $1) AND ($2::timestamptz IS NULL
             OR requested_at <= $2)
         GROUP BY processor ORDER BY processor",
    )
    .bind(from)
    .bind(to)
    .fetch_all(&database.pool)
    .await
    .expect("the ledgers");
    rows.into_iter()
        .map(|(name, total_requests, total_amount)| {
            (
                name,
                Totals {
                    total_requests,
                    total_amount,
                },
            )
        })
        .collect()
}

/// A range within three hours after `begin`, either end of which may be open, or at the edge of a
/// second, a minute or an hour.
pub fn random_range(
    rng: &mut StdRng,
    begin: DateTime<Utc>,
) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
    let mut end = || {
        let micros = rng.random_range(0..11_000_000_000_i64);
        let whole = [1, 1_000, 1_000_000, 60_000_000, 3_600_000_000][rng.random_range(0..5)];
        rng.random_bool(0.9)
            .then(|| begin + TimeDelta::microseconds(micros / whole * whole))
    };
    let (mut from, mut to) = (end(), end());
    if matches!((from, to), (Some(from), Some(to)) if from > to) {
        std::mem::swap(&mut from, &mut to);
    }
    (from, to)
}

async fn compare_random_ranges(database: &Database, rng: &mut StdRng, begin: DateTime<Utc>) {
    for range in 0..RANGES {
        let (from, to) = random_range(rng, begin);
        let Summary(summary) = summarize(&database.pool, &[], from, to)
            .await
            .expect("a summary");
        assert_eq!(
            summary,
            plain(database, from, to).await,
            "range {range}: {from:?} to {to:?}"
        );
    }
}

#[tokio::test]
async fn summary_of_any_range_is_exact_whatever_changes_the_ledger() {
    let database = Database::migrated().await;
    let begin = "2026-07-10T22:59:58Z"
        .parse::<DateTime<Utc>>()
        .expect("a time");
    let mut rng = StdRng::seed_from_u64(20_260_710);
    database
        .execute(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             SELECT gen_random_uuid(), (random() * 10000 + 0.01)::numeric(14,2), (ARRAY['default',
                 'fallback', 'third'])[1 + n % 3],
                 '2026-07-10T22:59:58Z'::timestamptz + random() * interval '3 hours', now(), 1
             FROM generate_series(1, 30000) AS n",
        )
        .await;
    compare_random_ranges(&database, &mut rng, begin).await;
    // Corrections by hand, as an operator would make them.
    database
        .execute(
            "UPDATE payment_processed SET processor = 'default', amount = amount + 1,
                requested_at = requested_at + interval '7 min'
             WHERE processor = 'third' AND amount < 3000;
             DELETE FROM payment_processed WHERE amount > 8000",
        )
        .await;
    compare_random_ranges(&database, &mut rng, begin).await;
    database.execute("TRUNCATE payment_processed").await;
    assert_eq!(
        summarize(&database.pool, &[], None, None)
            .await
            .expect("a summary"),
        Summary(Vec::new())
    );
    assert_eq!(database.count("payment_rollup").await, 0);
}
