//! What an auditor finds in psql: every query of docs/auditing.md, as role `auditor`, on a ledger
//! with content.

use chrono::{DateTime, Utc};
use payment_proxy::config::QueueDurability;
use payment_proxy::store::archive::archive;
use payment_proxy::store::summary::{Summary, Totals, summarize};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rust_decimal::Decimal;
use simulator::Faults;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgPool, Row};
use uuid::Uuid;

use crate::server::{connect_as, run_init_sql};
use crate::support::{
    CENTS, Database, Gateway, eventually, eventually_some, processor, processors,
};
use crate::totals::random_range;

const PAGE: &str = include_str!("../../docs/auditing.md");

/// The payment of which the page tells.
const EXAMPLE: Uuid = Uuid::from_u128(0x4a7901b8_7d26_4d9d_aa19_4dc1c7cf60b3);

/// The queries of the page, each with the question that it answers.
fn queries() -> Vec<(&'static str, &'static str)> {
    let mut queries = Vec::new();
    for section in PAGE.split("\n## ").skip(1) {
        let question = section.lines().next().expect("a heading");
        for block in section.split("```sql\n").skip(1) {
            queries.push((question, block.split("```").next().expect("an end")));
        }
    }
    queries
}

async fn rows(auditor: &PgPool, query: &str) -> Vec<PgRow> {
    let rows = sqlx::query(AssertSqlSafe(query.to_owned()))
        .fetch_all(auditor)
        .await;
    rows.unwrap_or_else(|error| panic!("{error}: {query}"))
}

/// The answers to a question of the page: one list of rows for each of its queries.
async fn answers(auditor: &PgPool, question: &str) -> Vec<Vec<PgRow>> {
    let mut answers = Vec::new();
    for (_, query) in queries()
        .iter()
        .filter(|(asked, _)| asked.starts_with(question))
    {
        answers.push(rows(auditor, query).await);
    }
    assert!(!answers.is_empty(), "the page does not ask: {question}");
    answers
}

fn texts(rows: &[PgRow], column: &str) -> Vec<String> {
    rows.iter()
        .map(|row| row.get::<Option<String>, _>(column).unwrap_or_default())
        .collect()
}

/// Totals as `audit.summary` and the plain query of the page tell them.
fn totals(rows: &[PgRow]) -> Vec<(String, Totals)> {
    rows.iter()
        .map(|row| {
            let totals = Totals {
                total_requests: row.get("total_requests"),
                total_amount: row.get("total_amount"),
            };
            (row.get("processor"), totals)
        })
        .collect()
}

#[tokio::test]
async fn every_query_of_the_auditing_page_answers_its_question() {
    let admin = Database::create().await;
    run_init_sql(&admin);
    let (owner, auditor) = (
        connect_as(&admin, "payment_proxy_owner"),
        connect_as(&admin, "auditor"),
    );
    let (default, fallback) = (processor().await, processor().await);
    let timeouts = [
        ("PROCESSOR_TIMEOUT_MS", "1000"),
        ("LATE_CHARGE_MS", "60000"),
    ];

    // Payments on both processors, one of them after failures, one refused, one in doubt.
    let all = processors(&[&default, &fallback]);
    let gateway = Gateway::start(&owner, &all, &timeouts).await;
    let failing = Faults {
        fail_before: 1.0,
        ..Faults::default()
    };
    for running in [&default, &fallback] {
        running
            .processor
            .set_faults(failing.clone())
            .expect("valid faults");
    }
    gateway.post(EXAMPLE, CENTS).await;
    eventually("an attempt has failed", async || {
        owner
            .count("payment_attempt WHERE outcome = 'not_charged'")
            .await
            > 0
    })
    .await;
    fallback
        .processor
        .set_faults(Faults::default())
        .expect("valid faults");
    gateway.until_settled(&[EXAMPLE]).await;
    gateway.until_settled(&gateway.post_many(10).await).await;
    default
        .processor
        .set_faults(Faults::default())
        .expect("valid faults");
    gateway.stop().await;

    let dearer = all.replacen("default,0.05", "default,0.07", 1);
    let gateway = Gateway::start(&owner, &dearer, &timeouts).await;
    eventually("the default is used again", async || {
        gateway.until_settled(&gateway.post_many(5).await).await;
        owner
            .count("payment_processed WHERE processor = 'default'")
            .await
            > 0
    })
    .await;
    let refused = Uuid::new_v4();
    for running in [&default, &fallback] {
        let body = format!(
            r#"{{"correlationId":"{refused}","amount":5.00,"requestedAt":"2026-07-01T00:00:00.000Z"}}"#
        );
        let post = payment_proxy::config::tls::plain()
            .build()
            .expect("a client")
            .post(format!("{}/payments", running.url()));
        let reply = post
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await;
        assert!(reply.expect("a reply").status().is_success());
    }
    gateway.post(refused, CENTS).await;
    eventually("it is refused", async || {
        gateway.state(refused).await == "dead"
    })
    .await;
    let silent = Faults {
        reply_lost: 1.0,
        lookup_lost: 1.0,
        ..Faults::default()
    };
    for running in [&default, &fallback] {
        running
            .processor
            .set_faults(silent.clone())
            .expect("valid faults");
    }
    let doubtful = Uuid::new_v4();
    gateway.post(doubtful, CENTS).await;
    eventually("it was looked for more than once", async || {
        owner
            .count("payment_attempt WHERE outcome = 'in_doubt' AND last_claim > first_claim + 1")
            .await
            == 1
    })
    .await;
    // The page asks for what is open for longer than anybody wants to wait here.
    owner
        .execute("UPDATE payment_queue SET accepted_at = accepted_at - interval '1 hour'")
        .await;

    // A month that is long over.
    owner
        .execute(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             VALUES (gen_random_uuid(), 19.90, 'default', '2020-01-05T12:00:00Z', now(), 1)",
        )
        .await;
    let folder = tempfile::tempdir().expect("a folder");
    let settings = owner.settings(QueueDurability::Unlogged);
    let before = "2020-02".parse().expect("a month");
    archive(&settings, before, folder.path(), false, |_| {})
        .await
        .expect("it is archived");

    for (question, query) in queries() {
        let found = rows(&auditor.pool, query).await.len();
        let none = question.starts_with("Do the totals agree") || query.contains("ledger_change");
        assert_eq!(found == 0, none, "{query}: {found} rows");
    }

    let life = &answers(&auditor.pool, "What happened").await[0];
    let events = texts(life, "event");
    assert_eq!(events[..2], ["accepted", "claimed"], "{events:?}");
    assert_eq!(
        events.last().map(String::as_str),
        Some("settled"),
        "{events:?}"
    );
    assert!(events.contains(&"not_charged".to_owned()), "{events:?}");
    assert!(
        texts(life, "detail")
            .iter()
            .any(|detail| detail.contains("answered 500"))
    );
    let stands = &answers(&auditor.pool, "Where does it stand").await[0];
    assert_eq!(texts(stands, "state"), ["settled"]);
    assert_eq!(
        stands[0].get::<Decimal, _>("amount"),
        Decimal::new(CENTS, 2)
    );

    let summaries = answers(&auditor.pool, "What does the API's summary").await;
    assert_eq!(totals(&summaries[0]), totals(&summaries[1]));
    let told = gateway
        .json("/payments-summary?from=2020-02-01T00:00:00Z")
        .await;
    for (name, totals) in totals(&summaries[0]) {
        assert_eq!(
            told[&name]["totalRequests"], totals.total_requests,
            "{told}"
        );
        assert_eq!(
            told[&name]["totalAmount"].to_string(),
            totals.total_amount.to_string(),
            "{told}"
        );
    }

    // Both fees of the day, each on what was settled under it, to the processors' own number.
    let fees = answers(&auditor.pool, "What did the processors keep").await;
    let shares: Vec<(String, Decimal)> = fees[1]
        .iter()
        .map(|row| (row.get("processor"), row.get("fee")))
        .collect();
    let share = |name: &str, hundredths| (name.to_owned(), Decimal::new(hundredths, 2));
    assert_eq!(
        shares,
        [
            share("default", 5),
            share("default", 7),
            share("fallback", 15)
        ]
    );
    for row in &fees[0] {
        let (amount, share): (Decimal, Decimal) = (row.get("amount"), row.get("fee_share"));
        assert_eq!(row.get::<Decimal, _>("fee"), amount * share);
        assert_eq!(row.get::<Decimal, _>("net"), amount - amount * share);
        assert_ne!(
            share,
            Decimal::new(5, 2),
            "nothing was settled while it was valid"
        );
    }
    let payments: i64 = fees[0]
        .iter()
        .map(|row| row.get::<i64, _>("payments"))
        .sum();
    assert_eq!(payments, owner.count("payment_processed").await);

    let open = &answers(&auditor.pool, "Which payments are open").await[0];
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].get::<Uuid, _>("correlation_id"), doubtful);
    assert_eq!(texts(open, "last_outcome"), ["in_doubt"]);
    assert!(
        texts(open, "reason")[0].contains("no answer"),
        "{:?}",
        texts(open, "reason")
    );
    let dead = &answers(&auditor.pool, "Which payments were given up").await[0];
    assert_eq!(dead[0].get::<Uuid, _>("correlation_id"), refused);
    assert!(texts(dead, "reason")[0].contains("5.00"));
    let failed = &answers(&auditor.pool, "Which attempts failed").await[0];
    let mut outcomes = texts(failed, "outcome");
    outcomes.sort();
    outcomes.dedup();
    assert_eq!(outcomes, ["in_doubt", "not_charged", "refused"]);

    // Reading is all that the role can do, whatever it sets.
    for statement in [
        "UPDATE payment_processed SET amount = 1",
        "DELETE FROM payment_attempt",
        "TRUNCATE payment_queue",
    ] {
        let mut transaction = auditor.pool.begin().await.expect("a transaction");
        let writing = AssertSqlSafe(format!("SET TRANSACTION READ WRITE; {statement}"));
        let refused = sqlx::raw_sql(writing).execute(&mut *transaction).await;
        let refused = refused.expect_err(statement).to_string();
        assert!(refused.contains("permission denied"), "{refused}");
    }

    // An installation whose role was made only after the migrations: init.sql gives it the same.
    admin
        .execute(
            "REVOKE ALL ON ALL TABLES IN SCHEMA public, audit FROM auditor;
             REVOKE ALL ON SCHEMA public, audit FROM auditor",
        )
        .await;
    let query = "SELECT * FROM audit.summary()";
    let refused = sqlx::query(query).fetch_all(&auditor.pool).await;
    refused.expect_err("nothing is left");
    run_init_sql(&admin);
    rows(&auditor.pool, query).await;
}

#[tokio::test]
async fn the_summary_in_psql_gives_the_numbers_of_the_api_for_any_range() {
    let database = Database::migrated().await;
    let begin: DateTime<Utc> = "2026-07-10T22:59:58Z".parse().expect("a time");
    database
        .execute(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             SELECT gen_random_uuid(), (random() * 10000 + 0.01)::numeric(14,2), (ARRAY['default',
                 'fallback', 'third'])[1 + n % 3],
                 '2026-07-10T22:59:58Z'::timestamptz + random() * interval '3 hours', now(), 1
             FROM generate_series(1, 20000) AS n;
             -- On the very edges of second, minute and hour.
             INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                 accepted_at, attempt)
             SELECT gen_random_uuid(), 0.01, 'default',
                 '2026-07-10T23:00:00Z'::timestamptz + n * interval '1 second', now(), 1
             FROM generate_series(0, 7200) AS n",
        )
        .await;
    let mut rng = StdRng::seed_from_u64(20_260_711);
    for _ in 0..150 {
        let (from, to) = random_range(&mut rng, begin);
        let Summary(api) = summarize(&database.pool, &[], from, to)
            .await
            .expect("a summary");
        let psql = sqlx::query("SELECT * FROM audit.summary($1, $2)")
            .bind(from)
            .bind(to);
        let psql = psql.fetch_all(&database.pool).await.expect("a summary");
        assert_eq!(totals(&psql), api, "{from:?} to {to:?}");
    }
    let totals = "SELECT sum(payments)::bigint AS n, sum(amount) AS amount
        FROM audit.totals($1, '2026-07-10T22:59:58Z', '2026-07-11T02:00:00Z')";
    for unit in ["second", "minute", "hour", "day", "week", "month"] {
        let row = sqlx::query(totals)
            .bind(unit)
            .fetch_one(&database.pool)
            .await
            .expect("totals");
        assert_eq!(row.get::<i64, _>("n"), 27_201, "{unit}");
    }
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_an_error_and_not_a_wrong_table() {
    let database = Database::migrated().await;
    database
        .execute(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             SELECT gen_random_uuid(), 1, 'default',
                 '2026-07-10T22:59:58Z'::timestamptz + n * interval '37 min', now(), 1
             FROM generate_series(1, 200) AS n;
             INSERT INTO processor_fee VALUES ('default', '-infinity', 0.05)",
        )
        .await;
    for (query, expected) in [
        (
            "audit.totals('minutes', '2026-07-10', '2026-07-12')",
            "'minutes'; the units are second, minute, hour, day, week and month",
        ),
        (
            "audit.totals('Hour', '2026-07-10', '2026-07-12')",
            "'Hour'; the units are",
        ),
        (
            "audit.totals('quarter', '2026-07-10', '2026-07-12')",
            "'quarter'; the units are",
        ),
        ("audit.totals('', NULL, NULL)", "''; the units are"),
        ("audit.totals(NULL, NULL, NULL)", "null; the units are"),
        (
            "audit.totals('day', '2026-07-12', '2026-07-10')",
            "upside down",
        ),
        (
            "audit.totals('day', 'infinity', '2026-07-10')",
            "upside down",
        ),
        ("audit.summary('2026-07-12', '2026-07-10')", "upside down"),
        ("audit.fees('2026-07-12', '2026-07-10')", "upside down"),
        (
            "audit.fees_by_day('2026-07-12', '2026-07-10')",
            "upside down",
        ),
        ("audit.open_payments(NULL)", "older_than must not be null"),
        ("audit.life(NULL)", "payment_id must not be null"),
        ("audit.fee_at(NULL, now())", "name must not be null"),
        ("audit.fee_at('default', NULL)", "moment must not be null"),
        ("audit.balance('2026-07-12', '2026-07-10')", "upside down"),
        ("audit.balance('infinity', '-infinity')", "upside down"),
    ] {
        let answer = sqlx::query(AssertSqlSafe(format!("SELECT * FROM {query}")));
        let refused = answer.fetch_all(&database.pool).await.expect_err(query);
        assert!(refused.to_string().contains(expected), "{query}: {refused}");
    }
    // Open ends, by NULL or infinity, and any time zone of who asks: all of it.
    let mut connection = database.pool.acquire().await.expect("a connection");
    for zone in ["UTC", "Pacific/Auckland", "America/St_Johns"] {
        let set = AssertSqlSafe(format!("SET timezone = '{zone}'"));
        sqlx::raw_sql(set)
            .execute(&mut *connection)
            .await
            .expect("a zone");
        for (query, groups) in [
            ("audit.totals('hour', NULL, NULL)", 124),
            ("audit.totals('day', '-infinity', 'infinity')", 7),
            ("audit.totals('week', '2026-07-10', NULL)", 2),
            ("audit.fees_by_day(NULL, NULL)", 7),
            ("audit.fees_by_day('-infinity', 'infinity')", 7),
            ("audit.fees_by_day('2026-07-10', '2026-07-16')", 7),
            ("audit.fees()", 1),
        ] {
            let answer = format!("SELECT sum(payments)::bigint, count(*) FROM {query}");
            let answer: (i64, i64) = sqlx::query_as(AssertSqlSafe(answer))
                .fetch_one(&mut *connection)
                .await
                .expect(query);
            assert_eq!(answer, (200, groups), "{query} in {zone}");
        }
    }
}

/// A function of the schema `audit`: its name, the types of its arguments and what it says of
/// itself.
async fn audit_functions(database: &Database) -> Vec<(String, Vec<String>, String)> {
    sqlx::query_as(
        "SELECT p.oid::regproc::text, ARRAY(
             SELECT format_type(t.type, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS t (type,
                 place)
             ORDER BY t.place
         ), obj_description(p.oid, 'pg_proc')
         FROM pg_proc p WHERE p.pronamespace = 'audit'::regnamespace ORDER BY 1",
    )
    .fetch_all(&database.pool)
    .await
    .expect("functions")
}

#[tokio::test]
async fn every_function_for_auditors_takes_null_for_an_open_end_or_refuses_it() {
    let database = Database::migrated().await;
    let answer = async |call: String| {
        let query = AssertSqlSafe(format!("SELECT * FROM {call}"));
        let answer = sqlx::query(query).fetch_all(&database.pool).await;
        answer.map_err(|error| error.to_string())
    };
    let (mut asked, mut turned) = (0, 0);
    for (name, types, comment) in audit_functions(&database).await {
        // These are the errors.
        if name.starts_with("audit.refuse_") {
            continue;
        }
        asked += 1;
        for (null, null_type) in types.iter().enumerate() {
            let values = types
                .iter()
                .enumerate()
                .map(|(place, kind)| match kind.as_str() {
                    _ if place == null => format!("NULL::{null_type}"),
                    "text" => "'hour'".to_owned(),
                    "uuid" => format!("'{EXAMPLE}'"),
                    "interval" => "interval '1 min'".to_owned(),
                    "date" => "date '2026-07-10'".to_owned(),
                    "timestamp with time zone" => "timestamptz '2026-07-10Z'".to_owned(),
                    other => panic!("{name} takes {other}"),
                });
            let call = format!("{name}({})", values.collect::<Vec<_>>().join(", "));
            let is_end = comment.contains("null for an open end")
                && ["date", "timestamp with time zone"].contains(&null_type.as_str());
            match answer(call.clone()).await {
                Ok(_) => assert!(is_end, "{call} has an answer, and does not say which"),
                Err(error) => assert!(!is_end && error.contains("null"), "{call}: {error}"),
            }
        }
        for kind in ["date", "timestamp with time zone"] {
            let ends = types.iter().filter(|each| *each == kind).count();
            if ends < 2 {
                continue;
            }
            turned += 1;
            let unit = if types[0] == "text" { "'hour', " } else { "" };
            for (first, last) in [
                ("2026-07-11", "2026-07-10"),
                ("infinity", "-infinity"),
                ("2026-07-10", "-infinity"),
                ("infinity", "2026-07-10"),
            ] {
                let call = format!("{name}({unit}'{first}', '{last}')");
                let error = answer(call.clone()).await.expect_err(&call);
                assert!(error.contains("upside down"), "{call}: {error}");
            }
        }
    }
    assert!(asked >= 10 && turned >= 6, "{asked} {turned}");
}

/// What is kept of each processor's payments, by what is in the ledger and when each fee began.
async fn fees_one_by_one(database: &Database) -> Vec<(String, Option<Decimal>)> {
    sqlx::query_as(
        "SELECT p.processor, sum(p.amount * (
            SELECT f.fee FROM processor_fee f WHERE f.processor = p.processor
                AND f.valid_from <= p.requested_at
            ORDER BY f.valid_from DESC LIMIT 1
        )) FROM payment_processed p GROUP BY p.processor ORDER BY p.processor",
    )
    .fetch_all(&database.pool)
    .await
    .expect("fees")
}

#[tokio::test]
async fn whoever_says_a_fee_says_the_same() {
    const TOKEN: &str = "a-token-of-some-length";
    let database = Database::migrated().await;
    // A fee that changed in the middle of a day, an hour and a second; one that changed long
    // before; a processor that is not configured any more, and one that never was.
    database
        .execute(
            "INSERT INTO processor_fee VALUES ('default', '-infinity', 0.05), ('default',
                '2025-05-31T23:30:00.5Z', 0.07),
                ('fallback', '-infinity', 0.2), ('fallback', '2020-01-01T00:00:00Z', 0.15), ('gone',
                    '-infinity', 0.3);
             INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                 accepted_at, attempt)
             SELECT gen_random_uuid(), (random() * 100 + 0.01)::numeric(14,2),
                 (ARRAY['default', 'fallback', 'gone'])[1 + n % 3],
                 '2025-05-31T22:00:00Z'::timestamptz + n * interval '3.7 s', now(), 1
             FROM generate_series(1, 3000) AS n;
             INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                 accepted_at, attempt)
             VALUES (gen_random_uuid(), 10, 'default', '2025-05-31T23:30:00.499999Z', now(), 1),
                 (gen_random_uuid(), 10, 'default', '2025-05-31T23:30:00.5Z', now(), 1),
                 (gen_random_uuid(), 10, 'fallback', '2019-12-31T23:59:59.999999Z', now(), 1),
                 (gen_random_uuid(), 10, 'nobody', '2025-05-31T23:00:00Z', now(), 1)",
        )
        .await;
    let expected = fees_one_by_one(&database).await;
    let total: Decimal = expected.iter().filter_map(|(_, fee)| *fee).sum();
    let default = processor().await;
    let terms = format!("default,0.07,{}", default.url());
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("operator");
    let operator = [
        ("OPERATOR_LISTEN", format!("unix:{}", socket.display())),
        ("OPERATOR_TOKEN", TOKEN.to_owned()),
    ];
    let operator = operator
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let _gateway = Gateway::start(&database, &terms, &operator).await;

    let archives = tempfile::tempdir().expect("a folder");
    for archived in [false, true] {
        if archived {
            let settings = database.settings(QueueDurability::Unlogged);
            let before = "2025-07".parse().expect("a month");
            let moved = archive(&settings, before, archives.path(), false, |_| {}).await;
            moved.expect("it is archived");
            assert_eq!(database.count("payment_processed").await, 0);
        }
        for (from, query) in [
            (
                "audit.fees",
                "SELECT processor, sum(fee) FROM audit.fees() GROUP BY 1 ORDER BY 1",
            ),
            (
                "audit.fees_by_day",
                "SELECT processor, sum(fee) FROM audit.fees_by_day('2019-12-31', '2025-06-01') \
                GROUP BY 1 ORDER BY 1",
            ),
        ] {
            let told: Vec<(String, Option<Decimal>)> = sqlx::query_as(query)
                .fetch_all(&database.pool)
                .await
                .expect(from);
            assert_eq!(told, expected, "{from}, archived: {archived}");
        }
        let by_share: Vec<(Decimal, i64)> = sqlx::query_as(
            "SELECT fee_share, sum(payments)::bigint FROM audit.fees_by_day(NULL, NULL)
             WHERE processor = 'default' GROUP BY 1 ORDER BY 1",
        )
        .fetch_all(&database.pool)
        .await
        .expect("shares");
        assert_eq!(
            by_share.iter().map(|(_, payments)| payments).sum::<i64>(),
            1_002
        );
        assert_eq!(by_share.len(), 2, "both fees, archived: {archived}");

        // The command line, to the cent.
        let summary = tokio::process::Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
            .arg("summary")
            .env("DATABASE_URL", &database.url)
            .env("PROCESSORS", &terms)
            .output()
            .await
            .expect("the program starts");
        let text = String::from_utf8_lossy(&summary.stdout);
        for (name, fee) in expected
            .iter()
            .map(|(name, fee)| (name.as_str(), *fee))
            .chain([("all", None)])
        {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .expect(name);
            let told = line.split_whitespace().last().expect("a fee");
            match fee {
                Some(fee) => assert!(is_near(told.parse().expect("money"), fee), "{fee}: {text}"),
                None => assert_eq!(told, "unknown", "{text}"),
            }
        }

        // The page.
        let client = payment_proxy::config::tls::plain()
            .unix_socket(socket.clone())
            .build()
            .expect("a client");
        let money = eventually_some("the page has looked", async || {
            let mut feed = client
                .get("http://operator/live")
                .bearer_auth(TOKEN)
                .send()
                .await
                .ok()?;
            let chunk = feed.chunk().await.ok()??;
            let text = String::from_utf8_lossy(&chunk).into_owned();
            let json = text.lines().find_map(|line| line.strip_prefix("data: "))?;
            let snapshot: serde_json::Value = serde_json::from_str(json).ok()?;
            let money = snapshot["deployment"]["money"].clone();
            money["gross"].is_string().then_some(money)
        })
        .await;
        for part in money["processors"].as_array().expect("parts") {
            let fee = expected
                .iter()
                .find(|(name, _)| part["processor"] == name.as_str());
            let fee = fee.and_then(|(_, fee)| *fee).unwrap_or_default();
            let told: Decimal = part["fees"].as_str().expect("text").parse().expect("money");
            assert!(is_near(told, fee), "{fee}: {part}");
        }
        let told: Decimal = money["fees"]
            .as_str()
            .expect("text")
            .parse()
            .expect("money");
        assert!(
            (told - total).abs() < Decimal::new(3, 2),
            "{told} and {total}"
        );
        assert_eq!(money["withoutFee"], 1);
    }
}

/// Whether both are the same but for rounding, half a cent for each processor and fee.
fn is_near(told: Decimal, exact: Decimal) -> bool {
    (told - exact).abs() < Decimal::new(3, 2)
}

#[tokio::test]
async fn everything_in_the_database_says_what_it_is() {
    let database = Database::migrated().await;
    let silent = "SELECT format('%s %s', c.relkind, c.oid::regclass) AS thing FROM pg_class c
            WHERE c.relnamespace IN ('public'::regnamespace, 'audit'::regnamespace)
                AND c.relkind IN ('r', 'p', 'v', 'm')
                AND obj_description(c.oid, 'pg_class') IS NULL
        UNION ALL
        SELECT format('column %s.%s', c.oid::regclass, a.attname) FROM pg_class c
            JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace IN ('public'::regnamespace, 'audit'::regnamespace)
                AND c.relkind IN ('r', 'p', 'v', 'm')
                AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL
        SELECT format('function %s', p.oid::regprocedure) FROM pg_proc p
            WHERE p.pronamespace IN ('public'::regnamespace, 'audit'::regnamespace)
                AND obj_description(p.oid, 'pg_proc') IS NULL
        UNION ALL
        -- An argument has no comment of its own: that of its function names it.
        SELECT format('argument %s of %s', arg.name, p.oid::regprocedure)
            FROM pg_proc p CROSS JOIN UNNEST(p.proargnames, p.proargmodes) AS arg (name, mode)
            WHERE p.pronamespace = 'audit'::regnamespace AND arg.mode = 'i'
                AND position(arg.name IN obj_description(p.oid, 'pg_proc')) = 0
        ORDER BY 1";
    let rows = rows(&database.pool, silent).await;
    // sqlx keeps its own table of what was migrated.
    let mut things = texts(&rows, "thing");
    things.retain(|thing| !thing.contains("_sqlx_migrations"));
    assert_eq!(things, Vec::<String>::new(), "without a comment");
}
