//! Where passwords and tokens come from.

use std::path::Path;
use std::process::Command;

use crate::support::{Database, Gateway, processor, processors};

/// Words after which a secret would stand.
const SECRETS: [&str; 4] = ["PASSWORD", "TOKEN", "SECRET", "CREDENTIAL"];
/// What is not taken from the environment and is no secret either: the cluster of the tests, which
/// lets in nobody but over a socket of its own, and the admin token of simulated processors.
const NO_SECRETS: [&str; 2] = ["test", "123"];

/// The secrets that a line gives away.
fn given_away(line: &str) -> Vec<&str> {
    let upper = line.to_ascii_uppercase();
    let named = SECRETS.iter().flat_map(|word| upper.match_indices(word));
    // What follows a slash is a folder.
    let named = named.filter(|(at, _)| !upper[..*at].ends_with('/'));
    let values = named.filter_map(|(at, word)| {
        let rest = line[at + word.len()..]
            .trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || letter == '_');
        // As in NAME=value, NAME: value and ${NAME:-value}.
        let rest = rest.trim_start_matches(['"', ' ']);
        let value = rest.strip_prefix([':', '='])?;
        let value = value.trim_start_matches(['-', ' ', '"', '\'']);
        // The name that YAML gives a value.
        let anchor = value
            .strip_prefix('&')
            .and_then(|name| name.split_once(' '));
        let value = anchor.map_or(value, |(_, value)| value);
        let end = value
            .find([' ', '"', '\'', '}', '@'])
            .unwrap_or(value.len());
        Some(&value[..end])
    });
    values
        // Empty, another variable or value, a path, or what is said to whoever has not set it.
        .filter(|value| !value.is_empty() && !value.starts_with(['$', '/', '?', '*']))
        .filter(|value| !NO_SECRETS.contains(value))
        .collect()
}

/// Everything of the repository that configures something.
fn configuration(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    const NOT_OURS: [&str; 7] = [
        "target",
        ".git",
        ".run",
        ".venv",
        "node_modules",
        "reports",
        ".env",
    ];
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && !NOT_OURS.contains(&name.as_str()) {
            configuration(&path, found);
        }
        let ends = [".yml", ".yaml", ".sh", ".conf", ".toml", ".env", "Makefile"];
        let configures =
            ends.iter().any(|end| name.ends_with(end)) || name.starts_with("Dockerfile");
        if configures && !NOT_OURS.contains(&name.as_str()) {
            found.push(path);
        }
    }
}

#[test]
fn no_password_is_in_the_repository() {
    for line in [
        "  OPERATOR_TOKEN: sesame-open-wide",
        "export AUDITOR_PASSWORD=sesame",
        "X: ${PAYMENT_PROXY_PASSWORD:-sesame}",
        "url: postgres://me:${A_PASSWORD:-sesame}@host",
        "  A_PASSWORD: &name sesame",
    ] {
        let found = given_away(line);
        assert!(
            found.iter().any(|secret| secret.starts_with("sesame")),
            "{line}: {found:?}"
        );
    }
    let mut files = Vec::new();
    configuration(Path::new(env!("CARGO_MANIFEST_DIR")), &mut files);
    assert!(
        files
            .iter()
            .any(|file| file.ends_with("docker-compose.yml"))
    );
    for file in files {
        let text = std::fs::read_to_string(&file).expect("text");
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        for line in lines {
            assert_eq!(given_away(line), [""; 0], "{}: {line}", file.display());
        }
    }
}

#[tokio::test]
async fn tokens_are_read_from_files() {
    let (database, default) = (Database::migrated().await, processor().await);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("operator-token"), "an-operator-says-this\n").expect("a file");
    std::fs::write(path("metrics-token"), "and-prometheus-this\r\n").expect("a file");
    let listen = format!("unix:{}", path("operator"));
    let settings = [
        ("OPERATOR_LISTEN", listen.as_str()),
        ("OPERATOR_TOKEN_FILE", &path("operator-token")),
        ("METRICS_TOKEN_FILE", &path("metrics-token")),
    ];
    let _gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    let operator = payment_proxy::config::tls::plain()
        .unix_socket(folder.path().join("operator"))
        .build()
        .expect("a client");
    for (at, token, status) in [
        ("routing", "an-operator-says-this", 200),
        ("metrics", "and-prometheus-this", 200),
        ("routing", "and-prometheus-this", 401),
        ("routing", "an-operator-says-thi", 401),
    ] {
        let get = operator.get(format!("http://operator/{at}"));
        let reply = get.bearer_auth(token).send().await.expect("a reply");
        assert_eq!(reply.status(), status, "{at} with {token:?}");
    }
}

#[test]
fn a_file_without_a_secret_is_refused_in_one_line_without_its_content() {
    let folder = tempfile::tempdir().expect("a folder");
    let short = folder.path().join("short");
    std::fs::write(&short, "too-short\n").expect("a file");
    let missing = folder.path().join("missing");
    for (path, expected) in [(&short, "at least 16 bytes"), (&missing, "No such file")] {
        let told = Command::new(env!("CARGO_BIN_EXE_payment-proxy"))
            .arg("serve")
            .env("OPERATOR_TOKEN_FILE", path)
            .output()
            .expect("the program starts");
        let text = String::from_utf8_lossy(&told.stderr);
        assert!(
            !told.status.success() && text.lines().count() == 1,
            "{text}"
        );
        assert!(
            text.starts_with("error: OPERATOR_TOKEN_FILE") && text.contains(expected),
            "{text}"
        );
        assert!(!text.contains("too-short"), "{text}");
    }
}
