//! The command line, as people and scripts use it.

use std::process::{Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use uuid::Uuid;

use crate::support::{CENTS, Database, Gateway, eventually, processor, processors};

const PROGRAM: &str = env!("CARGO_BIN_EXE_payment-proxy");
const TOKEN: &str = "a-token-of-some-length";

pub fn program(database_url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .env("DATABASE_URL", database_url)
        .env_remove("OPERATOR_TOKEN")
        .kill_on_drop(true);
    command
}

/// Runs it to its end: exit code, and what it printed.
pub async fn run(command: &mut Command) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().await.expect("the program starts");
    let code = status.code().expect("an exit code");
    let text = String::from_utf8(stdout).expect("UTF-8") + &String::from_utf8_lossy(&stderr);
    (code, text)
}

pub async fn json(command: &mut Command) -> (i32, Value) {
    let (code, text) = run(command.arg("--json")).await;
    (
        code,
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")),
    )
}

#[tokio::test]
async fn an_instance_listens_where_a_name_leads_and_is_found_there() {
    let (database, default) = (Database::migrated().await, processor().await);
    let free = || {
        let listener = std::net::TcpListener::bind("localhost:0").expect("a port");
        format!(
            "localhost:{}",
            listener.local_addr().expect("an address").port()
        )
    };
    let (listen, operators) = (free(), free());
    let settings = [
        ("LISTEN", listen.as_str()),
        ("OPERATOR_LISTEN", operators.as_str()),
        ("OPERATOR_TOKEN", TOKEN),
    ];
    // Not reached by its socket, so the program itself has to say that it is ready.
    let gateway = Gateway::spawn(&database.url, &processors(&[&default]), &settings);
    let mut probe = Command::new(env!("CARGO_BIN_EXE_payment-proxy"));
    probe.arg("probe").env("LISTEN", &listen);
    eventually("the probe finds it", async || run(&mut probe).await.0 == 0).await;
    let (code, text) = run(program(&database.url, &["status"]).envs(settings)).await;
    assert!(!text.contains("without breakers"), "{code}: {text}");
    let log = gateway.log();
    assert!(log.contains(&operators) && log.contains(&listen), "{log}");
}

#[tokio::test]
async fn status_tells_how_the_deployment_is_and_what_wants_attention() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let listen = format!("unix:{}", folder.path().join("operator").display());
    let operator = [
        ("OPERATOR_LISTEN", listen.as_str()),
        ("OPERATOR_TOKEN", TOKEN),
    ];
    let gateway = Gateway::start(&database, &processors(&[&default, &fallback]), &operator).await;
    gateway.until_settled(&gateway.post_many(20).await).await;
    let status = |arguments: &[&str]| program(&database.url, &[&["status"], arguments].concat());

    // From the database alone.
    eventually("both processors and the throughput are known", async || {
        let (code, told) = json(&mut status(&[])).await;
        let processors = &told["database"]["processors"];
        code == 0
            && processors[0]["settledPerSecond"].as_f64() > Some(0.0)
            && processors[0]["failing"] == false
            && processors[1]["failing"] == false
    })
    .await;
    let (_, told) = json(&mut status(&[])).await;
    let known = &told["database"];
    assert_eq!(known["instances"], 1);
    assert_eq!(known["queue"]["queued"]["value"], 0);
    assert_eq!(known["processors"][0]["name"], "default");
    assert_eq!(told["operator"]["error"], "OPERATOR_TOKEN is not set");
    let (code, text) = run(&mut status(&[])).await;
    assert_eq!(code, 0, "{text}");
    for part in [
        "instances     1 alive",
        "unlogged queue",
        "default",
        "fallback",
        "without breakers",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }

    // With the instance, too.
    let (code, text) = run(status(&[]).envs(operator)).await;
    assert!(
        code == 0 && text.contains("closed") && !text.contains("without breakers"),
        "{text}"
    );

    // A dead letter, and a payment that is open for too long.
    database
        .execute(
            "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                processor, reason)
             VALUES (gen_random_uuid(), 1, now(), 1, 'default', 'no');
             INSERT INTO payment_queue (correlation_id, amount, accepted_at, lease_until, attempt)
             VALUES (gen_random_uuid(), 1, now() - interval '5 min', now() + interval '1 hour', 1);
             INSERT INTO payment_attempt (correlation_id, requested_at, outcome, processor, reason,
                 first_claim, last_claim)
             SELECT correlation_id, now(), 'not_charged', 'default', 'answered 500', 1, 1
                 FROM payment_queue",
        )
        .await;
    let (code, text) = run(&mut status(&[])).await;
    assert_eq!(code, 1, "{text}");
    for part in ["! 1 dead", "answered 500"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    // Some seconds more where the command starts slowly.
    let open = |seconds| format!("! the oldest payment is open for {seconds} s:");
    assert!(
        (300..=305).any(|seconds| text.contains(&open(seconds))),
        "{text}"
    );
    gateway.crash();
    database.execute("DELETE FROM service_instance").await;
    let (code, text) = run(&mut status(&[])).await;
    assert!(code == 1 && text.contains("no instance is alive"), "{text}");
}

#[tokio::test]
async fn status_without_a_database_says_so() {
    let (code, text) = run(&mut program(
        "postgres://nobody@127.0.0.1:1/none",
        &["status"],
    ))
    .await;
    assert!(
        code == 2 && text.contains("the database does not answer") && text.contains("! "),
        "{code}: {text}"
    );
    let (code, told) = json(&mut program(
        "postgres://nobody@127.0.0.1:1/none",
        &["status"],
    ))
    .await;
    assert!(code == 2 && told["database"]["error"].is_string(), "{told}");
}

#[tokio::test]
async fn a_watched_status_goes_on_until_it_is_interrupted() {
    let database = Database::migrated().await;
    let mut watching = program(&database.url, &["status", "--watch", "1", "--json"]);
    let mut child = watching
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for _ in 0..2 {
        let line = lines
            .next_line()
            .await
            .expect("a line")
            .expect("not the end");
        let told: Value = serde_json::from_str(&line).expect("one JSON value per line");
        assert_eq!(told["database"]["instances"], 0);
    }
    let id = i32::try_from(child.id().expect("it runs")).expect("a pid");
    kill(Pid::from_raw(id), Signal::SIGINT).expect("it is there");
    // The exit code of the last look: no instance was alive.
    assert_eq!(child.wait().await.expect("it ends").code(), Some(1));
}

/// On a terminal it shows one look after the other in the same place, and then gives the terminal
/// back.
#[tokio::test]
async fn a_watched_status_on_a_terminal_leaves_it_as_it_was() {
    let database = Database::migrated().await;
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!("{PROGRAM} status --watch 1"))
        .arg("/dev/null")
        .env("DATABASE_URL", &database.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("script(1) runs");
    let (mut keyboard, mut screen) = (
        terminal.stdin.take().expect("a pipe"),
        terminal.stdout.take().expect("a pipe"),
    );
    let mut shown = String::new();
    while shown.matches("payment-proxy at").count() < 2 {
        let mut part = [0; 4096];
        let length = screen.read(&mut part).await.expect("output");
        assert!(length > 0, "it ended: {shown}");
        shown.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    keyboard.write_all(b"\x03").await.expect("Ctrl-C");
    screen.read_to_string(&mut shown).await.expect("the rest");
    terminal.wait().await.expect("it ends");
    let (enter, leave) = ("\x1b[?1049h", "\x1b[?1049l");
    assert!(
        shown.contains(enter) && shown.trim_end().ends_with(leave),
        "{shown:?}"
    );
    assert_eq!(shown.matches(enter).count(), 1);
}

#[tokio::test]
async fn summary_prints_what_the_api_replies() {
    let (database, default) = (Database::create().await, processor().await);
    let servers = processors(&[&default]);
    let gateway = Gateway::start(&database, &servers, &[]).await;
    gateway.until_settled(&gateway.post_many(7).await).await;
    let summary = |arguments: &[&str]| {
        let mut command = program(&database.url, &[&["summary"], arguments].concat());
        command.env("PROCESSORS", &servers);
        command
    };
    for (arguments, query) in [
        (&[][..], ""),
        (
            &["--to", "2026-01-01T00:00:00Z"],
            "?to=2026-01-01T00:00:00Z",
        ),
        (
            &["--from", "2026-01-01T00:00:00Z"],
            "?from=2026-01-01T00:00:00Z",
        ),
    ] {
        let (code, told) = json(&mut summary(arguments)).await;
        assert_eq!(
            (code, told),
            (0, gateway.json(&format!("/payments-summary{query}")).await)
        );
    }
    let (code, text) = run(&mut summary(&[])).await;
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(code, 0);
    assert_eq!(
        words,
        [
            "processor",
            "payments",
            "amount",
            "fees",
            "default",
            "7",
            "139.30",
            "6.97",
            "all",
            "7",
            "139.30",
            "6.97"
        ]
    );
    let (code, text) = run(&mut summary(&[
        "--from",
        "2026-01-02T00:00:00Z",
        "--to",
        "2026-01-01T00:00:00Z",
    ]))
    .await;
    assert!(
        code == 2 && text.contains("--from must not be after --to"),
        "{text}"
    );
}

/// What the runbook tells an operator to do about a stuck payment.
#[tokio::test]
async fn a_stuck_payment_is_found_with_its_reason_and_retried() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let id = Uuid::new_v4();
    let body = format!(
        r#"{{"correlationId":"{id}","amount":5.00,"requestedAt":"2026-07-01T00:00:00.000Z"}}"#
    );
    let post = payment_proxy::config::tls::plain()
        .build()
        .expect("a client")
        .post(format!("{}/payments", default.url()));
    let post = post.header("content-type", "application/json").body(body);
    assert!(post.send().await.expect("a reply").status().is_success());
    gateway.post(id, CENTS).await;
    eventually("it is dead", async || gateway.state(id).await == "dead").await;

    let id_text = id.to_string();
    let (code, status) = run(&mut program(&database.url, &["status"])).await;
    assert!(
        code == 1 && status.contains("payment-proxy dead-letter list"),
        "{status}"
    );
    let (code, list) = run(&mut program(&database.url, &["dead-letter", "list"])).await;
    assert!(
        code == 0 && list.contains(&id_text) && list.contains("has the payment with amount 5.00"),
        "{list}"
    );
    let (code, life) = run(&mut program(&database.url, &["payment", &id_text])).await;
    let events = ["accepted", "claimed", "refused", "dead"];
    let places: Vec<Option<usize>> = events
        .iter()
        .map(|event| life.find(&format!("  {event}")))
        .collect();
    assert!(
        code == 0 && places.is_sorted() && !places.contains(&None),
        "{life}"
    );
    let (_, shown) = run(&mut program(
        &database.url,
        &["dead-letter", "show", &id_text],
    ))
    .await;
    assert!(shown.contains("claimed"), "{shown}");

    default.processor.purge().expect("it is purged");
    let (code, done) = run(&mut program(
        &database.url,
        &["dead-letter", "retry", &id_text],
    ))
    .await;
    assert!(code == 0 && done.contains("queued again"), "{done}");
    gateway.until_settled(&[id]).await;
    let (code, life) = json(&mut program(&database.url, &["payment", &id_text])).await;
    let last = life.as_array().and_then(|events| events.last());
    assert_eq!(
        (code, last.map(|event| &event["event"])),
        (0, Some(&Value::from("settled"))),
        "{life}"
    );
    let unknown = Uuid::new_v4().to_string();
    let (code, text) = run(&mut program(&database.url, &["payment", &unknown])).await;
    assert!(code == 1 && text.contains("is not known"), "{text}");
}

/// While every processor fails, one payment may be tried for hours, many times a second.
#[tokio::test]
async fn of_a_long_life_people_see_how_it_began_and_what_came_lately() {
    let (database, id) = (Database::migrated().await, Uuid::new_v4());
    database
        .execute(&format!(
            "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                processor, reason)
             VALUES ('{id}', 1, now() - interval '2 h', 1000, 'default', 'the last');
             INSERT INTO payment_attempt (correlation_id, requested_at, outcome, processor, reason,
                 first_claim,
                last_claim, first_ended_at, last_ended_at)
             SELECT '{id}'::uuid, requested_at, 'not_charged', 'default', 'reason ' || n, n, n,
                 requested_at, requested_at
             FROM generate_series(1, 1000) AS n,
                 LATERAL (SELECT now() - interval '1 h' + n * interval '1 s') AS s (requested_at)"
        ))
        .await;
    let id = id.to_string();
    let (_, life) = run(&mut program(&database.url, &["payment", &id])).await;
    assert!(life.lines().count() < 40, "{life}");
    for told in [
        "accepted",
        "reason 1\n",
        "more events",
        "reason 1000\n",
        "the last",
    ] {
        assert!(life.contains(told), "{told} is not in {life}");
    }
    assert!(!life.contains("reason 500\n"), "{life}");
    let (_, all) = run(&mut program(&database.url, &["payment", "--all", &id])).await;
    assert!(all.contains("reason 500\n") && !all.contains("more events"));
}

#[tokio::test]
async fn every_operators_command_tells_its_exit_codes() {
    for command in [
        "status",
        "summary",
        "payment",
        "dead-letter",
        "reconcile",
        "probe",
    ] {
        let (code, help) = run(&mut program("", &[command, "--help"])).await;
        assert!(
            code == 0 && help.contains("Exit code: 0 "),
            "{command}: {help}"
        );
    }
}

#[tokio::test]
async fn shells_complete_the_commands() {
    let script = format!(
        "source <({PROGRAM} completions bash); COMP_WORDS=(payment-proxy dead-letter ''); COMP_CWORD=2
         function=$(complete -p payment-proxy | grep -o '_payment[^ ]*')
         $function payment-proxy '' dead-letter; echo \"${{COMPREPLY[@]}}\""
    );
    let (code, offered) = run(Command::new("bash").args(["-c", &script])).await;
    assert_eq!(code, 0);
    for word in ["list", "show", "retry", "discard", "--json"] {
        assert!(
            offered.split_whitespace().any(|each| each == word),
            "{word}: {offered}"
        );
    }
    for shell in ["zsh", "fish"] {
        let (code, text) = run(&mut program("", &["completions", shell])).await;
        assert!(
            code == 0 && text.contains("dead-letter") && text.contains("watch"),
            "{shell}"
        );
    }
}
