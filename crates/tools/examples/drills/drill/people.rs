//! People: one who guesses tokens, and an auditor who means harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::front_door::exchange;
use crate::outcome::millis;
use crate::site::Site;
use tools::deployment::stack::OPERATOR_TOKEN;

/// Those who guess, each on a new connection as soon as the last one is answered.
const GUESSERS: usize = 96;
const GUESS_FOR: Duration = Duration::from_secs(10);
/// What an operator waits for metrics meanwhile, at most.
const OPERATOR_LIMIT: Duration = Duration::from_secs(2);

/// How long after its begin an auditor's transaction has to be over: the limit of
/// `end_long_audits`, the pause between two looks, and some time.
const AUDIT_LIMIT: Duration = Duration::from_secs(75);
/// How soon the end is in a log.
const TOLD_LIMIT: Duration = Duration::from_secs(5);
/// What an auditor may not do, and what it may lift.
const HARM: [(&str, &str); 5] = [
    (
        "a temporary table",
        "CREATE TEMPORARY TABLE filler AS SELECT 1",
    ),
    ("a large object", "SELECT lo_create(0)"),
    (
        "a message in the WAL",
        "SELECT pg_logical_emit_message(false, 'a', 'b')",
    ),
    ("an advisory lock", "SELECT pg_advisory_lock(1)"),
    ("its own limit for files", "SET temp_file_limit = -1"),
];
const LIFTED: &str = "SET default_transaction_read_only = off; SET statement_timeout = 0; \
    SET idle_in_transaction_session_timeout = 0";

pub(super) async fn wrong_tokens(site: &Site) -> anyhow::Result<()> {
    let calm = site.load.figures(site.begun_at..Instant::now());
    let socket = site.stack.operators()[0].clone();
    let operator = payment_proxy::config::tls::plain().unix_socket(socket.clone());
    let operator = operator.timeout(Duration::from_secs(10)).build()?;
    let metrics = async || {
        let request = operator
            .get("http://instance/metrics")
            .bearer_auth(OPERATOR_TOKEN);
        request.send().await?.error_for_status()?.text().await
    };
    let guessed = Arc::new(AtomicU64::new(0));
    let since = Instant::now();
    site.outage("wrong tokens");
    let mut guessers = JoinSet::new();
    for index in 0..GUESSERS {
        let (socket, guessed) = (socket.clone(), Arc::clone(&guessed));
        guessers.spawn(async move {
            let request = format!(
                "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                Authorization: Bearer guess-{index}\r\n\r\n"
            );
            loop {
                if let Ok(stream) = UnixStream::connect(&socket).await
                    && exchange(stream, request.as_bytes()).await.is_ok()
                {
                    guessed.fetch_add(1, Ordering::Relaxed);
                }
                tokio::task::yield_now().await;
            }
        });
    }
    let (mut slowest, mut looks) = (Duration::ZERO, 0);
    while since.elapsed() < GUESS_FOR {
        let asked_at = Instant::now();
        let answered = metrics().await;
        slowest = slowest.max(asked_at.elapsed());
        looks += 1;
        site.must(answered.is_ok(), || {
            format!("an operator was kept out: {answered:?}")
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let during = site.load.figures(since..Instant::now());
    guessers.shutdown().await;
    let guessed = guessed.load(Ordering::Relaxed);
    let counted = metrics().await?;
    let name = "payment_proxy_operator_wrong_tokens_total ";
    let counted = counted.lines().find_map(|line| line.strip_prefix(name));
    let counted: f64 = counted.context("a metric")?.parse()?;
    site.must(counted >= guessed as f64, || {
        format!("{counted} counted of {guessed}")
    });
    site.must(slowest < OPERATOR_LIMIT, || {
        format!(
            "an operator with the right token waited {}",
            millis(slowest)
        )
    });
    let lines = site.logs.iter().map(|log| {
        let complaints = log.complaints();
        let wrong = complaints
            .iter()
            .filter(|(kind, _)| kind.contains("wrong token"));
        wrong.map(|(_, count)| *count).sum::<usize>()
    });
    let lines: usize = lines.sum();
    site.must((1..=3).contains(&lines), || {
        format!("{lines} lines about wrong tokens")
    });
    site.note(format!(
        "{guessed} wrong tokens ({}/s) by {GUESSERS} guessers, all counted, {lines} lines; {looks} looks \
        with the right one, the slowest {}; others' p99 {} before, {} meanwhile",
        guessed / GUESS_FOR.as_secs(),
        millis(slowest),
        millis(calm.p99),
        millis(during.p99)
    ));
    Ok(())
}

pub(super) async fn long_audit(site: &Site) -> anyhow::Result<()> {
    let (url, others) = {
        let cluster = site.stack.cluster.lock().await;
        let others = ["postgres", "template1"].map(|name| cluster.url("auditor", name));
        (cluster.url("auditor", "payments"), others)
    };
    for other in others {
        let reached = PgConnection::connect(&other).await;
        site.must(reached.is_err(), || {
            format!("an auditor can log in at {other}")
        });
    }
    let mut auditor = PgConnection::connect(&url).await?;
    auditor.execute(LIFTED).await?;
    for (what, statement) in HARM {
        let done = auditor.execute(statement).await;
        site.must(done.is_err(), || format!("an auditor can have {what}"));
    }
    let limit: String = sqlx::query_scalar("SHOW temp_file_limit")
        .fetch_one(&mut auditor)
        .await?;
    site.must(limit == "1GB", || {
        format!("temp_file_limit of an auditor is {limit}")
    });
    // Awake all the time, so that no limit for idle transactions ends it.
    let since = Instant::now();
    site.outage("an auditor's snapshot");
    auditor
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await?;
    let ended = loop {
        let looked = auditor
            .execute("SELECT count(*) FROM payment_processed, pg_sleep(1)")
            .await;
        match looked {
            Err(error) => break Some(error.to_string()),
            Ok(_) if since.elapsed() > AUDIT_LIMIT => break None,
            Ok(_) => {}
        }
    };
    let held = since.elapsed();
    site.must(ended.is_some(), || {
        format!(
            "nothing ended an auditor's transaction within {}",
            millis(held)
        )
    });
    let told = || {
        let mut logs = site.logs.iter();
        logs.any(|log| log.contains("its session was ended"))
    };
    let ended_at = Instant::now();
    while !told() && ended_at.elapsed() < TOLD_LIMIT {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    site.must(told(), || "nothing was logged about it".to_owned());
    let during = site.load.figures(since..Instant::now());
    site.note(format!(
        "an auditor with lifted limits: {} ways to fill the disk or the lock table refused, its \
        transaction ended after {} and told of; p99 meanwhile {}",
        HARM.len() + 2,
        millis(held),
        millis(during.p99)
    ));
    Ok(())
}
