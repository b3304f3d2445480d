//! Totals hold whatever their payments add up to.

use reqwest::StatusCode;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::are_charged_once;
use crate::command_line::{json, program};
use crate::support::{Database, Gateway, processor, processors};

/// The largest amount that a payment may have, in cents.
const LARGEST: i64 = 99_999_999_999_999;

#[tokio::test]
async fn totals_have_room_for_more_payments_of_the_largest_amount_than_there_will_be() {
    let database = Database::migrated().await;
    let default = processor().await;
    // A trillion of them in each of the hours that this test may run in, and in one that is
    // archived.
    let trillion = 1_000_000_000_000_i64;
    let sum = Decimal::new(LARGEST, 2) * Decimal::from(trillion);
    database
        .execute(&format!(
            "INSERT INTO payment_rollup (unit, starts_at, processor, requests, amount)
             SELECT 'hour', date_trunc('hour', now(), 'UTC') + n * interval '1 hour', 'default',
                 {trillion}, {sum}
             FROM generate_series(0, 1) AS n;
             INSERT INTO payment_archived_hour VALUES ('2026-01-01Z', 'default', {trillion}, {sum});
             INSERT INTO payment_archived_month (month, file, sha256, requests, amount)
             VALUES ('2026-01-01', 'payments-2026-01.csv', '', {trillion}, {sum})"
        ))
        .await;
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let ids: Vec<Uuid> = (0..20).map(|_| Uuid::new_v4()).collect();
    let posts = ids.iter().map(|id| gateway.post(*id, LARGEST));
    for status in futures_util::future::join_all(posts).await {
        assert_eq!(status, StatusCode::ACCEPTED);
    }
    are_charged_once(&database, &gateway, &[&default], &ids).await;

    let all = sum * Decimal::from(3) + Decimal::new(LARGEST, 2) * Decimal::from(20);
    assert_eq!(all.to_string(), "3000000000019969999999999.80");
    // As it stands in the reply, to the cent.
    let summary = gateway.get("/payments-summary").await;
    let summary = summary.text().await.expect("a body");
    assert!(
        summary.contains(&format!("\"totalAmount\":{all}")),
        "{summary}"
    );
    let mut command = program(&database.url, &["summary"]);
    let (_, printed) = json(command.env("PROCESSORS", processors(&[&default]))).await;
    assert!(printed.to_string().contains(&all.to_string()), "{printed}");
    for audit in [
        "SELECT total_amount FROM audit.summary() WHERE processor = 'default'",
        "SELECT sum(amount) FROM audit.totals('month', '2026-01-01Z', 'infinity')",
        "SELECT sum(amount) FROM audit.fees_by_day('2026-01-01', (now() + interval '2 \
        hours')::date)",
    ] {
        let told: Decimal = sqlx::query_scalar(audit)
            .fetch_one(&database.pool)
            .await
            .expect(audit);
        assert_eq!(told, all, "{audit}");
    }
    let fees: Decimal =
        sqlx::query_scalar("SELECT sum(fee) FROM audit.fees_by_day('2026-01-01', '2026-01-01')")
            .fetch_one(&database.pool)
            .await
            .expect("fees");
    assert_eq!(fees, sum * Decimal::new(5, 2));
}
