//! What every command has in common: signals, readers that go, errors, help.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::command_line::{json, program, run};
use crate::support::{
    Database, Gateway, TIMEOUT, eventually, eventually_some, processor, processors,
};

const ID: &str = "4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3";

/// Commands that ask the database.
const ASKING: &[&[&str]] = &[
    &["status"],
    &["status", "--watch"],
    &["summary"],
    &["payment", ID],
    &["dead-letter", "list"],
    &["dead-letter", "show", ID],
    &["dead-letter", "retry", "--all"],
    &["dead-letter", "discard", "--yes", ID],
    &["in-doubt", "list"],
    &["in-doubt", "charged", "--yes", "--reason", "r", ID],
    &["in-doubt", "not-charged", "--yes", "--reason", "r", ID],
    &["routing"],
    &["routing", "disable", "default", "--reason", "r"],
    &["reconcile"],
    &["archive", "--before", "2026-01", "--to", "/tmp"],
    &["restore", "2026-01", "--from", "/tmp"],
    &["deployment", "show"],
    &["deployment", "declare", "checked", "--reason", "r"],
    &["deployment", "acknowledge", "--reason", "r"],
    &["migrate"],
];

/// Something that listens and never answers.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

fn send(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id().expect("it runs")).expect("a pid");
    kill(Pid::from_raw(id), signal).expect("it is there");
}

/// Sends a signal, and returns the exit code, which has to come within a second.
async fn ended_by(signal: Signal, mut child: Child, what: &str) -> Option<i32> {
    let sent_at = Instant::now();
    send(&child, signal);
    let ended = tokio::time::timeout(TIMEOUT, child.wait()).await;
    let status = ended.expect(what).expect("it ends");
    let took = sent_at.elapsed();
    assert!(took < Duration::from_secs(1), "{what} took {took:?}");
    assert_eq!(status.signal(), None, "{what} ends by itself");
    status.code()
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::null()).stderr(Stdio::null())
}

#[tokio::test]
async fn a_signal_ends_every_command_within_a_second_while_the_database_is_silent() {
    for (index, arguments) in ASKING.iter().enumerate() {
        let (signal, code) = [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)][index % 2];
        // Of its own: a command that connects twice leaves a connection to accept.
        let (listener, address) = silent().await;
        let url = format!("postgres://nobody@{address}/none");
        let child = quiet(&mut program(&url, arguments))
            .spawn()
            .expect("it starts");
        // It waits for an answer.
        let _connection = listener.accept().await.expect("a connection");
        assert_eq!(
            ended_by(signal, child, &arguments.join(" ")).await,
            Some(code),
            "{arguments:?}"
        );
    }
    // Services end in order, with success.
    let (listener, address) = silent().await;
    let url = format!("postgres://nobody@{address}/none");
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let child = quiet(&mut program(&url, &serve))
        .spawn()
        .expect("it starts");
    let _connection = listener.accept().await.expect("a connection");
    assert_eq!(ended_by(Signal::SIGTERM, child, "serve").await, Some(0));
}

#[tokio::test]
async fn a_signal_ends_commands_that_wait_for_a_lock_a_processor_an_instance_or_a_person() {
    let database = Database::migrated().await;
    // A lock: on the queue for `migrate`, on the ledger for `payment`.
    for (table, arguments) in [
        ("payment_queue", &["migrate"][..]),
        ("payment_processed", &["payment", ID]),
    ] {
        let lock = database.lock(table).await;
        let mut command = program(&database.url, arguments);
        // Which the queue is not, so `migrate` has something to do.
        command.env("QUEUE_DURABILITY", "logged");
        let child = quiet(&mut command).spawn().expect("it starts");
        eventually("it waits for the lock", async || {
            database.waiting_for_a_lock("").await > 0
        })
        .await;
        assert_eq!(
            ended_by(Signal::SIGTERM, child, arguments[0]).await,
            Some(143)
        );
        drop(lock);
        // The server learns only then that the one that waited is gone.
        eventually("nobody waits any more", async || {
            database.waiting_for_a_lock("").await == 0
        })
        .await;
    }
    // A processor.
    database
        .execute(
            "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                accepted_at, attempt)
             VALUES (gen_random_uuid(), 1, 'default', now() - interval '1 min', now(), 1)",
        )
        .await;
    let (listener, address) = silent().await;
    let mut reconcile = program(&database.url, &["reconcile"]);
    reconcile.env("PROCESSORS", format!("default,0.05,http://{address}"));
    let child = quiet(&mut reconcile).spawn().expect("it starts");
    let _connection = listener.accept().await.expect("a call");
    assert_eq!(
        ended_by(Signal::SIGINT, child, "reconcile").await,
        Some(130)
    );
    // An instance.
    let (listener, address) = silent().await;
    let child = quiet(&mut program("", &["probe", "--listen", &address]))
        .spawn()
        .expect("it starts");
    let _connection = listener.accept().await.expect("a call");
    assert_eq!(ended_by(Signal::SIGINT, child, "probe").await, Some(130));
    // A person, or a pipe, that says nothing.
    let in_doubt = [
        "in-doubt", "charged", "--yes", "--reason", "r", "--file", "-",
    ];
    for from_pipe in [&in_doubt[..], &["reconcile", "--ids", "-"]] {
        let mut waiting = program(&database.url, from_pipe);
        let mut child = quiet(&mut waiting)
            .stdin(Stdio::piped())
            .spawn()
            .expect("it starts");
        let _pipe = child.stdin.take();
        eventually("it reads", async || {
            let id = child.id().expect("it runs");
            let waits = std::fs::read_to_string(format!("/proc/{id}/wchan"));
            let syscall =
                std::fs::read_to_string(format!("/proc/{id}/syscall")).unwrap_or_default();
            waits.is_ok_and(|waits| waits.contains("pipe")) || syscall.starts_with("0 0x0 ")
        })
        .await;
        assert_eq!(
            ended_by(Signal::SIGTERM, child, from_pipe[0]).await,
            Some(143)
        );
    }
}

#[tokio::test]
async fn a_reader_that_goes_ends_nothing_and_changes_no_exit_code() {
    let database = Database::migrated().await;
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().to_str().expect("a path");
    let printing: &[(&[&str], i32)] = &[
        (&["--help"], 0),
        (&["--version"], 0),
        (&["status", "--help"], 0),
        (&["completions", "bash"], 0),
        (&["completions", "zsh"], 0),
        // No instance is alive.
        (&["status"], 1),
        (&["status", "--json"], 1),
        (&["summary"], 0),
        (&["summary", "--json"], 0),
        (&["payment", ID], 1),
        (&["payment", ID, "--json"], 1),
        (&["dead-letter", "list"], 0),
        (&["dead-letter", "list", "--json"], 0),
        (&["dead-letter", "retry", ID], 1),
        (&["dead-letter", "discard", "--yes", ID], 1),
        (&["in-doubt", "list"], 0),
        (&["in-doubt", "charged", "--yes", "--reason", "r", ID], 1),
        (&["routing"], 0),
        (&["routing", "--json"], 0),
        (&["reconcile"], 0),
        (&["reconcile", "--json"], 0),
        (&["deployment", "show"], 0),
        (&["deployment", "show", "--json"], 0),
        (&["restore", "2026-01", "--from", folder], 1),
        (&["archive", "--before", "2026-01", "--to", folder], 0),
        (
            &["archive", "--before", "2026-01", "--to", folder, "--json"],
            0,
        ),
    ];
    for (arguments, code) in printing {
        let mut child = program(&database.url, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().await.expect("it ends");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(*code),
            "{arguments:?}: {complaints}"
        );
        assert!(
            !complaints.contains("panicked") && !complaints.contains("pipe"),
            "{arguments:?}: {complaints}"
        );
    }
    // What a full disk does not take is missed by somebody.
    for arguments in [&["summary"][..], &["--help"]] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("the device");
        let mut command = program(&database.url, arguments);
        let output = command
            .stdout(full)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = output.wait_with_output().await.expect("it ends");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(complaints.contains("No space left"), "{complaints}");
    }
}

#[tokio::test]
async fn an_error_names_what_was_tried_once() {
    for arguments in ASKING {
        let mut command = program("postgres://nobody@127.0.0.1:1/none", arguments);
        if arguments.contains(&"--watch") {
            continue;
        }
        let (code, text) = run(&mut command).await;
        let tried = "connection to server at 127.0.0.1, port 1 failed: ";
        assert_eq!(code, 2, "{arguments:?}: {text}");
        let lines = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        assert!(
            lines.contains("Connection refused"),
            "{arguments:?}: {text}"
        );
        assert!(lines.contains(tried), "{arguments:?}: {text}");
        if arguments[0] != "status" {
            assert_eq!(
                text.matches("Connection refused").count(),
                1,
                "{arguments:?}: {text}"
            );
        }
    }
    let mut status = program("postgres://nobody@127.0.0.1:1/none", &["status"]);
    let (_, told) = json(&mut status).await;
    let text = told["attention"][0]["text"].as_str().expect("a text");
    assert!(
        text.starts_with("connection to server at 127.0.0.1, port 1 failed: "),
        "{text}"
    );
}

#[tokio::test]
async fn a_database_that_is_not_migrated_and_a_right_that_is_missing_are_said_once() {
    let database = Database::create().await;
    for arguments in ASKING {
        let changes_nothing = arguments[0] == "migrate" || arguments.contains(&"--watch");
        if changes_nothing || arguments.contains(&"declare") {
            continue;
        }
        let (code, text) = run(&mut program(&database.url, arguments)).await;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(
            text.contains("`payment-proxy migrate`"),
            "{arguments:?}: {text}"
        );
        let said = text.matches("does not exist").count();
        let once = 1 + usize::from(arguments[0] == "status");
        assert_eq!(said, once, "{arguments:?}: {text}");
    }
    let owner = Database::migrated().await;
    let name = owner.url.rsplit('/').next().expect("a name");
    let role = format!("reader_{name}");
    owner.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let reader = crate::server::connect_as(&owner, &role);
    for arguments in [&["summary"][..], &["dead-letter", "list"], &["reconcile"]] {
        let (code, text) = run(&mut program(&reader.url, arguments)).await;
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert_eq!(text.matches("permission denied").count(), 1, "{text}");
        assert!(text.contains("MIGRATE_DATABASE_URL"), "{text}");
    }
}

#[tokio::test]
async fn the_help_of_every_command_has_examples_exit_codes_and_only_what_it_reads() {
    let (_, all) = run(&mut program("", &["--help"])).await;
    let commands = all
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1);
    let commands = commands.take_while(|line| !line.trim().is_empty());
    let names: Vec<&str> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(names.len() >= 14, "{names:?}");
    for name in &names {
        let (code, help) = run(&mut program("", &[name, "--help"])).await;
        assert_eq!(code, 0);
        assert!(
            help.contains("Examples:\n  payment-proxy "),
            "{name}: {help}"
        );
        assert!(help.contains("Exit code: 0 "), "{name}: {help}");
        let reads = ["serve", "migrate", "divide"].contains(name);
        assert_eq!(help.contains("QUEUE_DURABILITY"), reads, "{name}: {help}");
    }
    let (_, help) = run(&mut program("", &["summary", "--help"])).await;
    assert!(
        !help.contains("PROCESSOR_TIMEOUT_MS") && !help.contains("PROCESSOR_CA_FILE"),
        "{help}"
    );

    // And so it is in the man pages.
    let folder = tempfile::tempdir().expect("a folder");
    let man = folder.path().join("man1");
    let (code, text) = run(&mut program("", &["man", man.to_str().expect("a path")])).await;
    assert_eq!(code, 0, "{text}");
    for name in names {
        let page =
            std::fs::read_to_string(man.join(format!("payment-proxy-{name}.1"))).expect(name);
        assert!(
            page.contains("Exit code: 0 ") && page.contains(".TH"),
            "{name}: {page}"
        );
    }
}

#[tokio::test]
async fn options_of_a_group_stand_on_either_side_of_its_subcommand() {
    let database = Database::migrated().await;
    let nowhere = "postgres://nobody@127.0.0.1:1/none";
    for arguments in [
        [
            "dead-letter",
            "--json",
            "--database-url",
            &database.url,
            "list",
        ],
        [
            "dead-letter",
            "list",
            "--json",
            "--database-url",
            &database.url,
        ],
        [
            "in-doubt",
            "--json",
            "list",
            "--database-url",
            &database.url,
        ],
        [
            "in-doubt",
            "list",
            "--database-url",
            &database.url,
            "--json",
        ],
    ] {
        let (code, text) = run(&mut program(nowhere, &arguments)).await;
        assert_eq!((code, text.as_str()), (0, "[]\n"), "{arguments:?}");
    }
}

#[tokio::test]
async fn times_are_given_as_people_write_them() {
    let database = Database::migrated().await;
    for (from, to) in [
        ("2026-11-30", "now"),
        ("2 days", "1h"),
        ("2026-11-30T05:00", "2026-11-30T05:00+00:00"),
    ] {
        let mut command = program(&database.url, &["summary", "--from", from, "--to", to]);
        let (code, text) = run(&mut command).await;
        assert_eq!(code, 0, "{from} {to}: {text}");
    }
    for command in ["summary", "reconcile"] {
        let (code, text) = run(&mut program(
            &database.url,
            &[command, "--from", "yesterday"],
        ))
        .await;
        assert!(
            code == 2 && text.contains("2026-11-30T05:00") && text.contains("1h"),
            "{text}"
        );
        let upside_down = [command, "--from", "1h", "--to", "2h"];
        let (code, text) = run(&mut program(&database.url, &upside_down)).await;
        assert!(
            code == 2 && text.contains("--from must not be after --to"),
            "{text}"
        );
    }
    let (code, text) = run(&mut program(&database.url, &["summary", "--form", "1h"])).await;
    assert!(
        code == 2 && text.contains("--form") && text.contains("--from"),
        "{text}"
    );
}

#[tokio::test]
async fn a_switch_is_kept_with_its_author_and_reason_and_shown_to_all() {
    let (database, default, fallback) = (
        Database::create().await,
        processor().await,
        processor().await,
    );
    let address = crate::metrics::free_address();
    let token = "a-token-of-some-length";
    let operators = [("OPERATOR_LISTEN", &*address), ("OPERATOR_TOKEN", token)];
    let gateway = Gateway::start(&database, &processors(&[&default, &fallback]), &operators).await;
    eventually("both are known", async || {
        database.count("processor_health").await == 2
    })
    .await;
    let client = payment_proxy::config::tls::plain()
        .build()
        .expect("a client");
    let get = async |path: &str| -> Value {
        let get = client
            .get(format!("http://{address}{path}"))
            .bearer_auth(token);
        get.send()
            .await
            .expect("a reply")
            .json()
            .await
            .expect("JSON")
    };
    let routing = |arguments: &[&str]| {
        let mut command = program(&database.url, &[&["routing"], arguments].concat());
        command.env("USER", "alice");
        command
    };
    let reason = ["--reason", "maintenance until five"];
    let (code, text) = run(&mut routing(
        &[&["disable", "fallback"], &reason[..]].concat(),
    ))
    .await;
    assert!(
        code == 0 && text.contains("disabled") && text.contains("alice"),
        "{text}"
    );
    let (code, text) = run(&mut routing(
        &[&["disable", "nobody"], &reason[..]].concat(),
    ))
    .await;
    assert!(code == 1 && text.contains("nobody"), "{text}");
    let (code, text) = run(&mut routing(&["disable", "fallback"])).await;
    assert!(code == 2 && text.contains("--reason"), "{text}");

    let (code, text) = run(&mut routing(&[])).await;
    assert!(
        code == 0 && text.contains("fallback:\n") && text.contains("maintenance until five"),
        "{text}"
    );
    let switches = get("/routing/switches").await;
    let fallback_switch = &switches[1];
    assert_eq!(fallback_switch["processor"], "fallback");
    assert_eq!(
        (
            &fallback_switch["enabled"],
            &fallback_switch["switchedBy"],
            &fallback_switch["reason"]
        ),
        (
            &Value::from(false),
            &Value::from("alice"),
            &Value::from("maintenance until five")
        )
    );
    let (_, status) = json(&mut program(&database.url, &["status"])).await;
    let told = status["attention"][0]["text"].as_str().expect("a text");
    assert!(
        told.starts_with("fallback is switched off by alice since 20")
            && told.ends_with("maintenance until five"),
        "{told}"
    );
    eventually("the router knows it", async || {
        get("/routing").await["processors"][1]["enabled"] == false
    })
    .await;

    // The same at the operators' API.
    let enable = client
        .post(format!("http://{address}/routing/fallback/enable"))
        .bearer_auth(token);
    let enable = enable.json(&serde_json::json!({ "reason": "they are back", "by": "bob" }));
    assert_eq!(enable.send().await.expect("a reply").status().as_u16(), 204);
    let mistake = client
        .post(format!("http://{address}/routing/fallback/enable"))
        .bearer_auth(token);
    let mistake = mistake.json(&serde_json::json!({ "why": "they are back" }));
    assert_eq!(
        mistake.send().await.expect("a reply").status().as_u16(),
        422
    );
    let (code, switches) = json(&mut routing(&[])).await;
    assert_eq!(
        (code, &switches[1]["switchedBy"], &switches[1]["enabled"]),
        (0, &Value::from("bob"), &Value::from(true))
    );
    assert_eq!(database.count("processor_switch").await, 2);
    drop(gateway);
}

#[tokio::test]
async fn a_discard_asks_and_is_told_afterwards() {
    let database = Database::migrated().await;
    let dead = "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt, \
        processor, reason)";
    database
        .execute(&format!(
            "{dead} VALUES ('{ID}', 19.90, now(), 1, 'default', 'no')"
        ))
        .await;
    let discard = |arguments: &[&str]| {
        let mut command = program(
            &database.url,
            &[&["dead-letter", "discard", ID], arguments].concat(),
        );
        command.env("USER", "alice").stdin(Stdio::null());
        command
    };
    let (code, text) = run(&mut discard(&[])).await;
    assert!(code == 2 && text.contains("--yes"), "{text}");
    assert_eq!(database.count("payment_dead_letter").await, 1);
    let (code, _) = run(&mut discard(&["--yes", "--reason", "refunded by hand"])).await;
    assert_eq!((code, database.count("payment_dead_letter").await), (0, 0));
    let (code, life) = run(&mut program(&database.url, &["payment", ID])).await;
    assert!(
        code == 0 && life.contains("discarded") && life.contains("alice"),
        "{life}"
    );
    assert!(life.contains("refunded by hand"), "{life}");
}

#[tokio::test]
async fn a_parameter_that_does_not_exist_is_refused_on_every_route_but_probes() {
    let (database, default) = (Database::create().await, processor().await);
    let address = crate::metrics::free_address();
    let token = "a-token-of-some-length";
    let operators = [("OPERATOR_LISTEN", &*address), ("OPERATOR_TOKEN", token)];
    let gateway = Gateway::start(&database, &processors(&[&default]), &operators).await;
    let operator = payment_proxy::config::tls::plain()
        .build()
        .expect("a client");
    let documents = [
        (
            payment_proxy::http::Api::document(),
            gateway.http.clone(),
            "http://gateway".to_owned(),
        ),
        (
            payment_proxy::http::OperatorApi::document(),
            operator,
            format!("http://{address}"),
        ),
    ];
    let mut asked = 0;
    for (document, client, base) in documents {
        let document = serde_json::to_value(document).expect("JSON");
        // Probes may bear what a load balancer adds to them.
        let paths = document["paths"].as_object().expect("paths").iter();
        for (path, item) in paths.filter(|(path, _)| !path.ends_with('z')) {
            for method in item.as_object().expect("operations").keys() {
                let method: reqwest::Method = method.to_uppercase().parse().expect("a method");
                let path = path.replace("{id}", ID).replace("{processor}", "default");
                let request =
                    client.request(method.clone(), format!("{base}{path}?form=2026-11-30"));
                let request = request
                    .bearer_auth(token)
                    .header("content-type", "application/json");
                let body = match method == reqwest::Method::POST {
                    true => crate::support::payment_json(Uuid::new_v4(), 1),
                    false => String::new(),
                };
                let reply = request.body(body).send().await.expect("a reply");
                let status = reply.status().as_u16();
                let text = reply.text().await.expect("a body");
                assert!(
                    status == 400 && text.contains("form"),
                    "{method} {path}: {status} {text}"
                );
                asked += 1;
            }
        }
    }
    assert!(asked > 15, "{asked}");
    assert_eq!(
        database.count("payment_queue").await + database.count("payment_processed").await,
        0
    );
    let wrong = gateway
        .get("/payments-summary?form=2026-11-30T00:00:00Z")
        .await;
    let text = wrong.text().await.expect("a body");
    assert!(text.contains("there are from, to"), "{text}");
    let turned = "/payments-summary?from=2026-11-30T00:00:00Z&to=2026-11-29T00:00:00Z";
    assert_eq!(gateway.get(turned).await.status().as_u16(), 400);
}

#[tokio::test]
async fn readyz_answers_within_a_second_whatever_hangs() {
    let default = processor().await;
    let within = async |gateway: &Gateway, what: &str| {
        let asked_at = Instant::now();
        let asks = (0..20).map(|_| gateway.get("/readyz"));
        for reply in futures_util::future::join_all(asks).await {
            assert_eq!(reply.status().as_u16(), 503, "{what}");
        }
        let took = asked_at.elapsed();
        // The last of them on a busy machine.
        assert!(took < Duration::from_millis(1_300), "{what}: {took:?}");
    };
    // A server that accepts connections and says nothing.
    let (_listener, address) = silent().await;
    let url = format!("postgres://nobody@{address}/none");
    let gateway = Gateway::start_unready(&url, &processors(&[&default])).await;
    within(&gateway, "a silent server").await;
    gateway.crash();
    // A queue that somebody has locked.
    let database = Database::create().await;
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    let lock = database.lock("payment_queue").await;
    within(&gateway, "a locked queue").await;
    drop(lock);
    eventually_some("it is ready again", async || {
        gateway.is_ready().await.then_some(())
    })
    .await;
}

/// All that a command writes to a terminal that is both its outputs.
async fn on_a_terminal(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| format!("'{}'", word.to_str().expect("UTF-8")));
    let line = words.collect::<Vec<_>>().join(" ");
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let set = command.get_envs();
    terminal.env("TERM", "xterm").env_remove("NO_COLOR");
    terminal.envs(set.filter_map(|(name, value)| Some((name, value?))));
    let (code, text) = run(terminal.stdin(Stdio::null())).await;
    assert!(code < 2, "{line}: {text}");
    text
}

#[tokio::test]
async fn a_terminal_shows_how_far_a_long_command_is_and_files_and_json_do_not() {
    let database = Database::create().await;
    let mut migrate = program(&database.url, &["migrate"]);
    assert!(on_a_terminal(&migrate).await.contains("migrating, 0s"));
    let (code, text) = run(&mut migrate).await;
    assert_eq!((code, text.contains("migrating,")), (0, false), "{text}");

    let default = processor().await;
    database
        .execute(
            "INSERT INTO payment_processed
                (correlation_id, amount, processor, requested_at, accepted_at, attempt)
             SELECT gen_random_uuid(), 1, 'default', now(), now(), 1 FROM generate_series(1, 9)",
        )
        .await;
    let reconcile = |arguments: &[&str]| {
        let mut command = program(&database.url, arguments);
        command.env("PROCESSORS", processors(&[&default]));
        command
    };
    let shows = |text: &str| text.contains("9 payments, ") && text.contains(" left");
    let text = on_a_terminal(&reconcile(&["reconcile"])).await;
    assert!(shows(&text), "{text}");
    let text = on_a_terminal(&reconcile(&["reconcile", "--json"])).await;
    assert!(!shows(&text), "{text}");
    let (_, text) = run(&mut reconcile(&["reconcile"])).await;
    assert!(!shows(&text), "{text}");
}
