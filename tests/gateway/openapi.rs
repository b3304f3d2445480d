//! The OpenAPI documents are true: schemathesis, which makes requests of them, finds nothing.

use std::path::{Path, PathBuf};

use payment_proxy::http::{Api, DOCUMENT_PATH, OperatorApi, PAGE_PATH, ProblemKind};
use serde_json::Value;
use simulator::Running;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixStream};
use tokio::process::Command;

use crate::support::{Database, Gateway, processor, processors};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
pub const TOKEN: &str = "a-token-of-some-length";
/// Random requests of each kind to each operation.
const EXAMPLES: &str = "15";
/// Of the random requests.
const SEED: &str = "20260710";

/// Lets a TCP port lead to a unix socket, which schemathesis cannot call. Returns the port's
/// address.
async fn forward(socket: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut instance = UnixStream::connect(socket).await?;
                tokio::io::copy_bidirectional(&mut client, &mut instance).await
            });
        }
    });
    address
}

/// Runs schemathesis, with all its checks, on the document at that address.
async fn schemathesis(address: &str, arguments: &[&str]) {
    let installed = Path::new(ROOT).join(".venv/bin/schemathesis");
    assert!(
        installed.exists(),
        "`make test` installs schemathesis into .venv, or: . scripts/venv.sh; schemathesis"
    );
    // It leaves files behind, where it runs.
    let folder = tempfile::tempdir().expect("a folder");
    let run = Command::new(installed)
        .arg("--config-file")
        .arg(Path::new(ROOT).join("tests/schemathesis.toml"))
        .arg("run")
        .arg(format!("http://{address}{DOCUMENT_PATH}"))
        .args(["--seed", SEED, "--max-examples", EXAMPLES, "--no-color"])
        // A connection whose last request was refused with its body unread may be closed any
        // moment; its client learns that with the next request. An instance that is gone fails
        // these, too.
        .args(["--request-retries", "2"])
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .await
        .expect("schemathesis runs");
    let report = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{report}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    // A run that tested nothing would be a success, too.
    assert!(report.contains("Fuzzing"), "{report}");
}

/// An instance with a processor.
pub struct Site {
    pub gateway: Gateway,
    /// The addresses of its two APIs.
    pub public: String,
    pub operators: String,
    _processor: Running,
    _folder: TempDir,
}

pub async fn site() -> Site {
    let (database, default) = (Database::create().await, processor().await);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("operator");
    let listen = format!("unix:{}", socket.display());
    let settings = [
        ("OPERATOR_LISTEN", listen.as_str()),
        ("OPERATOR_TOKEN", TOKEN),
    ];
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    Site {
        public: forward(gateway.socket()).await,
        operators: forward(socket).await,
        gateway,
        _processor: default,
        _folder: folder,
    }
}

#[tokio::test]
async fn schemathesis_finds_nothing_wrong_with_the_public_api() {
    let site = site().await;
    schemathesis(&site.public, &[]).await;
}

#[tokio::test]
async fn schemathesis_finds_nothing_wrong_with_the_operators_api() {
    let site = site().await;
    let header = format!("Authorization: Bearer {TOKEN}");
    schemathesis(&site.operators, &["--header", &header]).await;
}

/// What stands at a path, for a client that takes nothing but what `headers` say.
async fn fetch(address: &str, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let client = payment_proxy::config::tls::plain()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client");
    let mut request = client.get(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("a reply")
}

#[tokio::test]
async fn documents_and_pages_are_compressed_and_sent_once() {
    let site = site().await;
    for (address, path) in [
        (&site.public, DOCUMENT_PATH),
        (&site.public, "/problems/queue-full"),
        (&site.operators, DOCUMENT_PATH),
        (&site.operators, PAGE_PATH),
        (&site.operators, "/"),
    ] {
        let plain = fetch(address, path, &[]).await;
        assert_eq!(plain.status(), 200, "{path}");
        let tag = plain.headers()["etag"].to_str().expect("text").to_owned();
        let plain = plain.bytes().await.expect("a body").len();
        let gzip = fetch(address, path, &[("accept-encoding", "gzip")]).await;
        assert_eq!(gzip.headers()["content-encoding"], "gzip", "{path}");
        assert_eq!(gzip.headers()["vary"], "Accept-Encoding");
        assert!(gzip.headers().contains_key("cache-control"));
        let gzip = gzip.bytes().await.expect("a body").len();
        assert!(
            gzip < plain && gzip < 16 * 1024,
            "{path}: {gzip} of {plain}"
        );
        let again = fetch(address, path, &[("if-none-match", &tag)]).await;
        assert_eq!(again.status(), 304, "{path}");
        assert_eq!(again.bytes().await.expect("no body").len(), 0);
    }
}

#[tokio::test]
async fn the_page_of_the_api_is_for_operators_and_runs_nothing() {
    let site = site().await;
    for path in ["/docs", PAGE_PATH] {
        assert_eq!(fetch(&site.public, path, &[]).await.status(), 404, "{path}");
    }
    let redirected = fetch(&site.operators, "/docs", &[]).await;
    assert_eq!(redirected.headers()["location"], PAGE_PATH);
    let page = fetch(&site.operators, PAGE_PATH, &[]).await;
    let policy = page.headers()["content-security-policy"].to_str();
    assert!(policy.expect("text").starts_with("default-src 'none'"));
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let page = page.text().await.expect("text");
    for document in [&site.public, &site.operators] {
        let document = fetch(document, DOCUMENT_PATH, &[]).await.text().await;
        let document: Value = serde_json::from_str(&document.expect("text")).expect("JSON");
        assert_eq!(document["openapi"], "3.1.0");
        for path in document["paths"].as_object().expect("paths").keys() {
            assert!(page.contains(&format!(" {path}</code>")), "{path}");
        }
    }
    // It asks for nothing but its style sheet.
    assert!(!page.contains("<script") && !page.contains("src="));
    let links: Vec<&str> = page
        .split("href=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|link| !link.starts_with('#'))
        .collect();
    assert_eq!(links, ["/docs/style.css"]);
    assert_eq!(fetch(&site.operators, links[0], &[]).await.status(), 200);
}

#[tokio::test]
async fn every_problem_has_a_page_that_explains_it() {
    let site = site().await;
    for address in [&site.public, &site.operators] {
        for kind in ProblemKind::ALL {
            let page = fetch(address, kind.reference(), &[]).await;
            assert_eq!(page.status(), 200, "{kind:?}");
            let page = page.text().await.expect("text");
            assert!(page.contains(kind.title()), "{page}");
        }
        let unknown = fetch(address, "/problems/nothing", &[]).await;
        assert_eq!(unknown.status(), 404);
    }
    // And every reply that is none of a route.
    let nothing: Value = fetch(&site.public, "/nothing", &[])
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(nothing["type"], ProblemKind::NotFound.reference());
}

#[tokio::test]
async fn nothing_that_operators_are_told_is_kept_by_a_cache() {
    let site = site().await;
    let bearer = format!("Bearer {TOKEN}");
    for path in [
        "/routing",
        "/dead-letters",
        "/in-doubt",
        "/history",
        "/metrics",
        "/live",
        "/session",
        "/nothing",
    ] {
        for headers in [&[][..], &[("authorization", bearer.as_str())]] {
            let reply = fetch(&site.operators, path, headers).await;
            assert_eq!(reply.headers()["cache-control"], "no-store", "{path}");
            assert_eq!(
                reply.headers()["x-content-type-options"],
                "nosniff",
                "{path}"
            );
        }
    }
}

/// Generators make the names of functions of them.
#[test]
fn operation_ids_speak_and_are_unique_in_both_documents() {
    let mut ids = Vec::new();
    for document in [Api::document(), OperatorApi::document()] {
        let document = serde_json::to_value(document).expect("JSON");
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                let id = operation["operationId"].as_str().expect("an id").to_owned();
                assert_ne!(&id, method, "{path}");
                assert!(operation["description"].is_string(), "{id}");
                assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{id}");
                ids.push(id);
            }
        }
    }
    for id in [
        "createPayment",
        "getPayment",
        "getPaymentsSummary",
        "purgePayments",
    ] {
        assert!(ids.iter().any(|known| known == id), "{ids:?}");
    }
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

/// Generators make a double of a number and a class of a union, unless the document says what it
/// is.
#[test]
fn money_is_decimal_and_a_time_is_a_time_in_both_documents() {
    let (mut amounts, mut times) = (0, 0);
    for document in [Api::document(), OperatorApi::document()] {
        let document = serde_json::to_value(document).expect("JSON");
        let mut left = vec![("", &document)];
        while let Some((name, value)) = left.pop() {
            // Validators compute in floating point, in which 19.9 is no multiple of 0.01.
            assert!(value["multipleOf"].is_null(), "{name}: {value}");
            if value["in"] == "query" && (value["name"] == "from" || value["name"] == "to") {
                let schema = &value["schema"];
                assert!(
                    schema["type"] == "string" && schema["format"] == "date-time",
                    "{value}"
                );
                times += 1;
            }
            if name.to_lowercase().ends_with("amount") && value["type"] == "number" {
                assert_eq!(value["format"], "decimal", "{name}");
                amounts += 1;
            }
            if let Some(items) = value.as_array() {
                left.extend(items.iter().map(|item| (name, item)));
            }
            for (name, value) in value.as_object().into_iter().flatten() {
                left.push((name, value));
            }
        }
    }
    assert!(
        amounts >= 2 && times >= 2,
        "{amounts} amounts, {times} times"
    );
}

/// Routes are made with `routes!`, which takes documented handlers only. What is made by other
/// means is in no document, unless it is one of these.
#[test]
fn every_route_is_in_a_document() {
    /// The documents and their pages, the files of the live page, and its feed, which never ends.
    const EXEMPT: [&str; 4] = ["openapi.rs", "reference.rs", "assets.rs", "stream.rs"];
    let mut folders = vec![Path::new(ROOT).join("src")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.file_name().expect("a name").to_string_lossy();
            if EXEMPT.contains(&name.as_ref()) {
                continue;
            }
            let source = std::fs::read_to_string(&path).expect("a source");
            seen += source.matches("routes!(").count();
            for by_hand in [".route(", ".route_service(", ".nest_service("] {
                assert!(
                    !source.contains(by_hand),
                    "{}: {by_hand}..) makes a route that no document has; annotate its handler with \
                     #[utoipa::path] and use .routes(routes!(..))",
                    path.display()
                );
            }
        }
    }
    assert!(seen > 5, "no routes were found");
}
