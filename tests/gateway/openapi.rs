//! The OpenAPI documents are true: schemathesis, which makes requests of them, finds nothing.

use std::path::{Path, PathBuf};

use payment_proxy::http::{DOCUMENT_PATH, PAGE_PATH};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::Command;

use crate::support::{Database, Gateway, processor, processors};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TOKEN: &str = "a-token-of-some-length";
/// Random requests of each kind to each operation.
const EXAMPLES: &str = "15";
/// Of the random requests.
const SEED: &str = "20260710";

/// Lets a TCP port lead to a unix socket, which schemathesis cannot call. Returns the port's address.
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
        // A connection whose last request was refused with its body unread may be closed any moment; its
        // client learns that with the next request. An instance that is gone fails these, too.
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

/// An instance, and the addresses of its two APIs.
async fn instance() -> (Gateway, String, String, tempfile::TempDir) {
    let (database, default) = (Database::create().await, processor().await);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("operator");
    let listen = format!("unix:{}", socket.display());
    let settings = [
        ("OPERATOR_LISTEN", listen.as_str()),
        ("OPERATOR_TOKEN", TOKEN),
    ];
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    let public = forward(gateway.socket()).await;
    let operator = forward(socket).await;
    (gateway, public, operator, folder)
}

#[tokio::test]
async fn schemathesis_finds_nothing_wrong_with_the_public_api() {
    let (_gateway, public, _, _folder) = instance().await;
    schemathesis(&public, &[]).await;
}

#[tokio::test]
async fn schemathesis_finds_nothing_wrong_with_the_operators_api() {
    let (_gateway, _, operator, _folder) = instance().await;
    let header = format!("Authorization: Bearer {TOKEN}");
    schemathesis(&operator, &["--header", &header]).await;
}

#[tokio::test]
async fn both_documents_have_a_page_that_asks_no_other_server() {
    let (_gateway, public, operator, _folder) = instance().await;
    for address in [public, operator] {
        let get = async |path: &str| {
            let reply = payment_proxy::tls::plain()
                .build()
                .expect("a client")
                .get(format!("http://{address}{path}"))
                .send();
            let reply = reply.await.expect("a reply");
            assert!(reply.status().is_success(), "{path}: {}", reply.status());
            reply.text().await.expect("text")
        };
        let document: serde_json::Value =
            serde_json::from_str(&get(DOCUMENT_PATH).await).expect("JSON");
        assert_eq!(document["openapi"], "3.1.0");
        let page = get(PAGE_PATH).await;
        let links = page.split("src=\"").skip(1);
        let links = links.chain(page.split("href=\"").skip(1));
        let links: Vec<&str> = links.filter_map(|rest| rest.split('"').next()).collect();
        assert!(links.len() > 3, "{page}");
        for link in links {
            assert!(!link.contains("//"), "{link} is somewhere else");
            get(&format!("{PAGE_PATH}/{}", link.trim_start_matches("./"))).await;
        }
        let settings = get(&format!("{PAGE_PATH}/swagger-initializer.js")).await;
        assert!(settings.contains(DOCUMENT_PATH), "{settings}");
        assert!(settings.contains(r#""validatorUrl": "none""#), "{settings}");
    }
}

/// Routes are made with `routes!`, which takes documented handlers only. What is made by other means is
/// in no document, unless it is one of these.
#[test]
fn every_route_is_in_a_document() {
    /// The documents and their pages, the files of the live page, and its feed, which never ends.
    const EXEMPT: [&str; 3] = ["openapi.rs", "assets.rs", "feed.rs"];
    let mut folders = vec![Path::new(ROOT).join("src")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        if folder.ends_with("src/simulator") {
            continue; // another party's API, with a description of its own
        }
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
