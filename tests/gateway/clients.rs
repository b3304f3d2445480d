//! Clients that others write: what linters say of the OpenAPI documents, clients that are generated
//! from them, and those of the documentation, as they stand there.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use uuid::Uuid;

use crate::openapi::{Site, TOKEN, site};
use crate::support::{CENTS, Database, Gateway, eventually, payment_json, processor, processors};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PAGE: &str = include_str!("../../docs/clients.md");
const EXAMPLES: &str = include_str!("../../docs/client-examples.md");
const NGINX: &str = include_str!("../../nginx-rules.conf");
/// Set by `make test` where the tools could not be installed, after a line that says so.
const NOT_INSTALLED: &str = "CLIENT_TOOLS_NOT_INSTALLED";

/// Where the tools are, unless they could not be installed.
fn tools() -> Option<PathBuf> {
    let folder = Path::new(ROOT).join("tests/clients");
    if folder.join("node_modules/.bin/tsc").exists() && folder.join(".venv/bin/python3").exists() {
        return Some(folder);
    }
    assert!(
        std::env::var_os(NOT_INSTALLED).is_some(),
        "`make test` installs linters and generators into tests/clients, or: . scripts/venv.sh; \
        client_tools"
    );
    eprintln!("NOT RUN: the tools of tests/clients are not installed");
    None
}

/// Runs a program of the tools in `folder`, which succeeds. Returns what it printed.
async fn run(folder: &Path, program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let output = output(folder, program, arguments, &[]).await;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {printed}{errors}");
    printed
}

async fn output(
    folder: &Path,
    program: impl AsRef<Path>,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Output {
    let program = program.as_ref();
    Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .env("REDOCLY_TELEMETRY", "off")
        .env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true")
        .current_dir(folder)
        .output()
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// A folder with both documents as they are served, and with the tools.
async fn workshop(tools: &Path, site: &Site) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, address) in [("public", &site.public), ("operators", &site.operators)] {
        let client = payment_proxy::config::tls::plain()
            .build()
            .expect("a client");
        let document = client.get(format!("http://{address}/openapi.json")).send();
        let document = document.await.expect("a reply").text().await.expect("text");
        std::fs::write(folder.path().join(format!("{name}.json")), document).expect("written");
    }
    let modules = folder.path().join("node_modules");
    std::os::unix::fs::symlink(tools.join("node_modules"), modules).expect("a link");
    for name in [
        "package.json",
        "tsconfig.json",
        "redocly.yaml",
        "spectral.yaml",
        "python.yaml",
    ] {
        std::fs::copy(tools.join(name), folder.path().join(name)).expect("a copy");
    }
    folder
}

#[tokio::test]
async fn two_linters_find_no_error_in_either_document() {
    let Some(tools) = tools() else { return };
    let site = site().await;
    let folder = workshop(&tools, &site).await;
    for document in ["public.json", "operators.json"] {
        let redocly = ["lint", "--config", "redocly.yaml", document];
        run(folder.path(), "node_modules/.bin/redocly", &redocly).await;
        let spectral = [
            "lint",
            "--fail-severity",
            "warn",
            "-r",
            "spectral.yaml",
            document,
        ];
        run(folder.path(), "node_modules/.bin/spectral", &spectral).await;
    }
}

#[tokio::test]
async fn clients_generated_in_typescript_compile_pay_read_and_get_a_problem() {
    let Some(tools) = tools() else { return };
    let site = site().await;
    let folder = workshop(&tools, &site).await;
    for (document, types) in [
        ("public.json", "public.ts"),
        ("operators.json", "operators.ts"),
    ] {
        let generator = "node_modules/.bin/openapi-typescript";
        run(folder.path(), generator, &[document, "-o", types]).await;
    }
    std::fs::copy(
        tools.join("generated.ts"),
        folder.path().join("generated.ts"),
    )
    .expect("a copy");
    run(folder.path(), "node_modules/.bin/tsc", &[]).await;
    let (public, operators) = (
        format!("http://{}", site.public),
        format!("http://{}", site.operators),
    );
    let arguments = ["out/generated.js", &public, &operators, TOKEN];
    let printed = run(folder.path(), "node", &arguments).await;
    assert!(printed.starts_with("paid "), "{printed}");
}

#[tokio::test]
async fn clients_generated_in_python_pay_read_and_get_a_problem() {
    let Some(tools) = tools() else { return };
    let site = site().await;
    let folder = workshop(&tools, &site).await;
    for (document, package) in [
        ("public.json", "payment_proxy_client"),
        ("operators.json", "payment_proxy_for_operators_client"),
    ] {
        let generator = tools.join(".venv/bin/openapi-python-client");
        let arguments = ["generate", "--path", document, "--config", "python.yaml"];
        let arguments = [
            &arguments[..],
            &["--meta", "none", "--output-path", package],
        ]
        .concat();
        run(folder.path(), generator, &arguments).await;
    }
    std::fs::copy(
        tools.join("generated.py"),
        folder.path().join("generated.py"),
    )
    .expect("a copy");
    let (public, operators) = (
        format!("http://{}", site.public),
        format!("http://{}", site.operators),
    );
    let arguments = ["generated.py", &public, &operators, TOKEN];
    let printed = run(folder.path(), tools.join(".venv/bin/python3"), &arguments).await;
    assert!(printed.starts_with("paid "), "{printed}");
}

/// The one block of the examples that is in this language.
fn example(language: &str) -> &'static str {
    let fence = format!("```{language}\n");
    let mut blocks = EXAMPLES.split(&fence).skip(1);
    let block = blocks.next().and_then(|rest| rest.split("```").next());
    assert!(blocks.next().is_none(), "two examples in {language}");
    block.expect("an example")
}

/// Pays with a client of the page: once, once more, with the amount of another, and while the
/// service is away.
async fn pays(folder: &Path, program: &str, script: &str) {
    let site = site().await;
    let url = format!("http://{}", site.public);
    let pay = async |amount: &str, id: Uuid| {
        let id = id.to_string();
        let environment = [("PAYMENTS_URL", url.as_str())];
        let output = output(folder, program, &[script, amount, &id], &environment).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &said,
        )
    };
    let id = Uuid::new_v4();
    for _ in 0..2 {
        let (accepted, said) = pay("20.50", id).await;
        assert!(
            accepted && said.contains(&format!("accepted {id}")),
            "{said}"
        );
    }
    site.gateway.until_settled(&[id]).await;
    let view = site.gateway.json(&format!("/payments/{id}")).await;
    assert_eq!(view["amount"].to_string(), "20.50");
    for (amount, why) in [("20.51", "accepted before"), ("20.501", "two decimals")] {
        let (accepted, said) = pay(amount, id).await;
        assert!(!accepted && said.contains(why), "{amount}: {said}");
    }
}

/// What comes from something between a client and the service, and is no word of it on a payment;
/// the last is a word of the service, which asks for a pause.
const BETWEEN: [&str; 4] = [
    "403 Forbidden\r\nContent-Type: text/html\r\n",
    "404 Not Found\r\n",
    "200 OK\r\nContent-Type: text/html\r\n",
    "503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 3\r\n",
];

/// Something in between, which answers the first request by itself, and then the second with the
/// last of [`BETWEEN`]. Returns its address, and when each connection came.
async fn between(first: &'static str, service: String) -> (String, Arc<Mutex<Vec<Instant>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (heard, last) = (Arc::clone(&asked), BETWEEN[BETWEEN.len() - 1]);
    tokio::spawn(async move {
        let mut own = vec![last, first];
        while let Ok((mut client, _)) = listener.accept().await {
            heard.lock().expect("no panic").push(Instant::now());
            let Some(head) = own.pop() else {
                let mut server = TcpStream::connect(&service).await.expect("the service");
                tokio::spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
                continue;
            };
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                client.read_buf(&mut request).await.expect("a request");
            }
            let body = "<p>Sign in</p>";
            let length = body.len();
            let reply = format!(
                "HTTP/1.1 {head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            client
                .write_all(reply.as_bytes())
                .await
                .expect("it listens");
        }
    });
    (format!("http://{address}"), asked)
}

/// Pays with a client of the page through something that answers by itself at first.
async fn pays_through(folder: &Path, program: &str, script: &str) {
    let site = &site().await;
    let tries = BETWEEN[..BETWEEN.len() - 1].iter().map(|first| async move {
        let (url, asked) = between(first, site.public.clone()).await;
        let id = Uuid::new_v4();
        let environment = [("PAYMENTS_URL", url.as_str())];
        let arguments = [script, "20.50", &id.to_string()];
        let output = output(folder, program, &arguments, &environment).await;
        assert!(output.status.success(), "{script}, {first:?}: {output:?}");
        site.gateway.until_settled(&[id]).await;
        let asked = asked.lock().expect("no panic");
        assert_eq!(asked.len(), 3, "{script}, {first:?}");
        let pause = asked[2] - asked[1];
        assert!(
            pause >= Duration::from_secs(3),
            "{script}, {first:?}: {pause:?}"
        );
    });
    futures_util::future::join_all(tries).await;
}

#[tokio::test]
async fn the_examples_for_a_shell_and_in_python_pay_once() {
    let folder = tempfile::tempdir().expect("a folder");
    for (language, program, script) in [("sh", "sh", "pay.sh"), ("python", "python3", "pay.py")] {
        std::fs::write(folder.path().join(script), example(language)).expect("written");
        tokio::join!(
            pays(folder.path(), program, script),
            pays_through(folder.path(), program, script)
        );
    }
}

#[tokio::test]
async fn the_example_in_typescript_compiles_and_pays_once() {
    let Some(tools) = tools() else { return };
    let site = site().await;
    let folder = workshop(&tools, &site).await;
    std::fs::write(folder.path().join("pay.ts"), example("typescript")).expect("written");
    run(folder.path(), "node_modules/.bin/tsc", &[]).await;
    tokio::join!(
        pays(folder.path(), "node", "out/pay.js"),
        pays_through(folder.path(), "node", "out/pay.js")
    );
}

#[test]
fn the_page_says_what_each_reply_to_a_post_means() {
    let document = serde_json::to_value(payment_proxy::http::Api::document()).expect("JSON");
    let replies = document["paths"]["/payments"]["post"]["responses"].as_object();
    let ours = replies.expect("replies").keys().map(String::as_str);
    // Those of the load balancer by itself.
    let limit = NGINX.lines().find_map(|line| {
        let status = line.trim().strip_prefix("limit_conn_status ")?;
        status.strip_suffix(';')
    });
    let table = PAGE
        .split("## What each status means")
        .nth(1)
        .expect("a table");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| "));
    let statuses = rows
        .filter_map(|row| row.split(" |").next())
        .collect::<Vec<_>>();
    for status in ours.chain([limit.expect("a status"), "504"]) {
        let is_told = statuses.iter().any(|cell| cell.contains(status));
        assert!(is_told, "{status} is not in {statuses:?}");
    }
}

#[tokio::test]
async fn what_the_page_tells_of_ids_is_so() {
    let (database, default) = (Database::create().await, processor().await);
    let gateway = Gateway::start(&database, &processors(&[&default]), &[]).await;
    // Upper and lower case are one id.
    let id = Uuid::new_v4();
    let upper = payment_json(id, CENTS).replace(&id.to_string(), &id.to_string().to_uppercase());
    for body in [upper, payment_json(id, CENTS)] {
        let reply = gateway.post_body("/payments", body).await;
        assert_eq!(reply.status(), StatusCode::ACCEPTED);
    }
    gateway.until_settled(&[id]).await;
    let upper = format!("/payments/{}", id.to_string().to_uppercase());
    assert_eq!(gateway.json(&upper).await["correlationId"], id.to_string());
    // A dead one that is posted again is accepted, and stays dead.
    let dead = Uuid::new_v4();
    database
        .execute(&format!(
            "INSERT INTO payment_dead_letter
                (correlation_id, amount, accepted_at, attempt, processor, reason)
             VALUES ('{dead}', 19.90, now(), 1, 'default', 'default answered 400')"
        ))
        .await;
    assert_eq!(gateway.post(dead, CENTS).await, StatusCode::ACCEPTED);
    assert_eq!(gateway.state(dead).await, "dead");
    // After a discard the id is free.
    database.execute("DELETE FROM payment_dead_letter").await;
    assert_eq!(gateway.post(dead, CENTS).await, StatusCode::ACCEPTED);
    eventually("it is a new payment", async || {
        gateway.state(dead).await == "settled"
    })
    .await;
}

#[test]
fn what_the_page_tells_of_connections_is_what_the_load_balancer_does() {
    let line = NGINX
        .lines()
        .find_map(|line| line.trim().strip_prefix("keepalive_timeout "));
    let idle = line
        .and_then(|line| line.split(['s', ';']).next())
        .expect("a time");
    let told = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains(&format!("idle for {idle} s")), "{idle}");
}
