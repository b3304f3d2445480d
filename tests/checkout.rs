//! Other people's checkouts: git that writes CRLF, a folder with a space and an umlaut, nobody's
//! root, no `LANG`.

#![allow(clippy::unwrap_used)] // a test that cannot set itself up has failed

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The user and group `nobody` of Debian.
const NOBODY: &str = "65534";

fn git(arguments: &[&str], folder: &Path, input: &str) -> String {
    let mut git = Command::new("git")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // By another thread: git answers while it reads.
    let (mut stdin, input) = (git.stdin.take().unwrap(), input.to_owned());
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let done = git.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(done.status.success(), "git {arguments:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// A folder with such a name, open to everybody.
fn odd_folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix("Björk's & co ")
        .tempdir()
        .unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

/// What is in git's index, in that folder, as a git that writes CRLF checks it out.
fn check_out(folder: &Path) {
    let prefix = format!("--prefix={}/", folder.display());
    let windows = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"];
    let arguments = [&windows[..], &["checkout-index", "--all", &prefix]].concat();
    git(&arguments, Path::new(ROOT), "");
}

#[test]
fn a_checkout_is_the_same_byte_for_byte_whatever_git_is_told() {
    let folder = odd_folder();
    check_out(folder.path());
    let listed = git(&["ls-files", "--stage"], Path::new(ROOT), "");
    // "100644 HASH 0\tPATH"
    let files = listed.lines().map(|line| line.split_once('\t').unwrap());
    let files: Vec<(&str, &str)> = files
        .filter(|(entry, _)| !entry.starts_with("120000"))
        .map(|(entry, path)| (entry.split(' ').nth(1).unwrap(), path))
        .collect();
    assert!(
        files
            .iter()
            .any(|(_, path)| path.starts_with("migrations/"))
    );
    let paths: String = files
        .iter()
        .map(|(_, path)| format!("{}/{path}\n", folder.path().display()))
        .collect();
    let hashes = git(
        &["hash-object", "--no-filters", "--stdin-paths"],
        Path::new(ROOT),
        &paths,
    );
    let hashes: Vec<&str> = hashes.lines().collect();
    assert_eq!(hashes.len(), files.len());
    let changed = files
        .iter()
        .zip(hashes)
        .filter(|((hash, _), checked_out)| hash != checked_out);
    let changed: Vec<&str> = changed.map(|((_, path), _)| *path).collect();
    assert_eq!(changed, [""; 0]);
}

/// Runs a script of that checkout as a user who is not root, and in whose environment nothing is
/// set but the `PATH`.
fn as_nobody(checkout: &Path, script: &str, arguments: &[&str]) -> std::process::Output {
    as_nobody_with(checkout, script, arguments, &[])
}

/// The same, with some variables.
fn as_nobody_with(
    checkout: &Path,
    script: &str,
    arguments: &[&str],
    variables: &[(&str, &Path)],
) -> std::process::Output {
    let script = checkout.join(script);
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = Command::new(if is_root {
        "setpriv".as_ref()
    } else {
        script.as_os_str()
    });
    if is_root {
        let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
        command
            .args(user)
            .args(["--clear-groups", "--"])
            .arg(&script);
    }
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .envs(variables.iter().copied());
    command.current_dir("/").output().unwrap()
}

#[test]
fn scripts_run_from_a_folder_with_a_space_and_an_umlaut_as_nobody_without_a_language() {
    let folder = odd_folder();
    check_out(folder.path());
    let query = r#""$0" "$TEST_DATABASE_URL" --no-psqlrc -Atc "SELECT count(*),
        current_setting('server_encoding')
        FROM pg_roles WHERE rolname IN ('payment_proxy', 'payment_proxy_owner', 'auditor')""#;
    let bin = as_nobody(folder.path(), "scripts/postgres.sh", &["bin"]);
    assert!(
        bin.status.success(),
        "{}",
        String::from_utf8_lossy(&bin.stderr)
    );
    let psql = format!("{}/psql", String::from_utf8_lossy(&bin.stdout).trim());
    let ran = as_nobody(
        folder.path(),
        "scripts/with-postgres.sh",
        &["sh", "-c", query, &psql],
    );
    let (said, complained) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(
        ran.status.success() && said.trim() == "3|UTF8",
        "{said}{complained}"
    );

    let config = as_nobody(folder.path(), "scripts/nginx-config.sh", &["1", "/tmp/a b"]);
    assert!(
        config.status.success()
            && String::from_utf8_lossy(&config.stdout).contains("unix:/tmp/a b/api1.sock")
    );
    // Whoever may not install anything is told what to install.
    let missing = as_nobody(folder.path(), "scripts/install.sh", &["no-such-program"]);
    let told = String::from_utf8_lossy(&missing.stderr);
    assert!(
        missing.status.code() == Some(3) && told.contains("no-such-program"),
        "{told}"
    );
}

/// Programs that say that they are that version.
fn programs_that_say(folder: &Path, version: &str) {
    std::fs::create_dir_all(folder).unwrap();
    for program in ["postgres", "initdb"] {
        let file = folder.join(program);
        std::fs::write(&file, format!("#!/bin/sh\necho 'postgres {version}'\n")).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    }
}

#[test]
fn without_debians_postgresql_a_fetched_one_serves_whoever_may_not_install_any() {
    let (checkout, cache, packages) = (odd_folder(), odd_folder(), odd_folder());
    check_out(checkout.path());
    let installed = as_nobody(checkout.path(), "scripts/postgres.sh", &["bin"]);
    let installed = String::from_utf8(installed.stdout).unwrap();
    let installed = Path::new(installed.trim()).canonicalize().unwrap();
    let version = Command::new(installed.join("postgres"))
        .arg("--version")
        .output()
        .unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let version = version.split(|letter: char| !letter.is_ascii_digit());
    let version = version.into_iter().find(|part| !part.is_empty()).unwrap();

    // As scripts/postgresql.sh leaves it, beside one that is too old and one that is not whole.
    let fetched = cache.path().join("payment-proxy/postgresql");
    std::fs::create_dir_all(&fetched).unwrap();
    programs_that_say(&fetched.join("14/bin"), "14.9");
    programs_that_say(&fetched.join("99.new/bin"), "99.0");
    let run = |script: &str, arguments: &[&str]| {
        let variables = [
            ("XDG_CACHE_HOME", cache.path()),
            ("POSTGRESQL_PACKAGES", packages.path()),
            // Without what other tests may have found in /usr/local.
            ("PATH", Path::new("/usr/bin:/bin")),
            // Nothing is fetched by a test.
            ("PIP_NO_INDEX", Path::new("1")),
        ];
        as_nobody_with(checkout.path(), script, arguments, &variables)
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();

    let none = run("scripts/postgres.sh", &["bin"]);
    assert_eq!(none.status.code(), Some(1));
    let told = text(&none.stderr);
    assert!(
        told.contains("version 14") && told.contains("too old"),
        "{told}"
    );
    let none = run("scripts/postgresql.sh", &["install"]);
    let told = text(&none.stderr);
    assert_eq!(none.status.code(), Some(3), "{told}");
    assert!(
        told.contains("postgresql") && told.contains("PyPI"),
        "{told}"
    );

    std::os::unix::fs::symlink(installed.parent().unwrap(), fetched.join(version)).unwrap();
    let found = run("scripts/postgres.sh", &["bin"]);
    let expected = fetched.join(version).join("bin");
    assert_eq!(
        Path::new(&text(&found.stdout)),
        expected,
        "{}",
        text(&found.stderr)
    );
    assert!(run("scripts/postgresql.sh", &["install"]).status.success());
    let query = r#""$0" "$TEST_DATABASE_URL" --no-psqlrc -Atc "SHOW server_version_num""#;
    let psql = expected.join("psql");
    let ran = run(
        "scripts/with-postgres.sh",
        &["sh", "-c", query, psql.to_str().unwrap()],
    );
    assert!(
        text(&ran.stdout).starts_with(version),
        "{}",
        text(&ran.stderr)
    );

    // Debian's is taken where it is.
    programs_that_say(&packages.path().join("16/bin"), "16.1");
    let found = run("scripts/postgres.sh", &["bin"]);
    assert_eq!(
        Path::new(&text(&found.stdout)),
        packages.path().join("16/bin")
    );
}
