//! A PgBouncer of a test's own, in front of the server of a URL.

use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tempfile::TempDir;

use crate::support::eventually;
use crate::tls::free_port;

/// Each client has a session of the server until it goes.
pub const SESSION: &str = "pool_mode=session";
/// Each transaction is given one, and nothing is kept that was prepared.
pub const UNPREPARED: &str = "pool_mode=transaction\nmax_prepared_statements=0";

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/pgbouncer.sh");

/// It, as a process of its own.
pub struct PgBouncer {
    child: Child,
    folder: TempDir,
    options: PgConnectOptions,
    url: String,
}

impl PgBouncer {
    /// Starts one with these settings, and waits until it answers. The URL is that of a server
    /// which asks for no password over its socket.
    pub async fn start(url: &str, mode: &str, settings: &[&str]) -> Self {
        let url = reqwest::Url::parse(url).expect("a URL");
        let host = url.host_str().expect("a host").replace("%2F", "/");
        let (server, database) = (url.port().expect("a port"), url.path().trim_matches('/'));
        let (folder, port) = (folder(), free_port());
        let mut text = format!(
            "[databases]\n* = host={host} port={server}\n[pgbouncer]\nlisten_addr=127.0.0.1\n\
             listen_port={port}\nunix_socket_dir=\nauth_type=trust\nauth_file={}\n\
             server_login_retry=1\n",
            folder.path().join("users").display()
        );
        for setting in mode.lines().chain(settings.iter().copied()) {
            writeln!(text, "{setting}").expect("a text");
        }
        let files = [("users", "\"postgres\" \"\"\n"), ("ini", text.as_str())];
        let url = format!("postgres://postgres@127.0.0.1:{port}/{database}");
        Self::start_in(folder, &files, &url, None).await
    }

    /// Starts one whose settings are the file `ini` of these, all of which go into that folder, and
    /// waits until that URL is answered.
    pub async fn start_in(
        folder: TempDir,
        files: &[(&str, &str)],
        url: &str,
        password: Option<&str>,
    ) -> Self {
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            permit(&path, 0o644);
        }
        permit(folder.path(), 0o755);
        let options: PgConnectOptions = url.parse().expect("a URL");
        let options = match password {
            Some(password) => options.password(password),
            None => options,
        };
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let ini = folder.path().join("ini");
        let mut pooler = Self {
            child: command(&ini).stderr(log).spawn().expect("it starts"),
            // Which PgBouncer refuses in the first message.
            options: options.extra_float_digits(None),
            url: url.to_owned(),
            folder,
        };
        eventually("the pooler answers", async || {
            let ended = pooler.child.try_wait().expect("a child");
            assert!(ended.is_none(), "{}", pooler.log());
            pooler.connect().await.is_ok()
        })
        .await;
        pooler
    }

    /// Where it leads to that database.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// A client that is not ours.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        self.options.connect().await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the pooler ---\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// It refuses to run as root; the server's socket is for root and its own user.
fn command(file: &Path) -> Command {
    let found = Command::new(SCRIPT).arg("bin").output();
    let found = found.expect("scripts/pgbouncer.sh runs");
    let program = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    assert!(
        found.status.success(),
        "{}",
        String::from_utf8_lossy(&found.stderr)
    );
    let mut command = Command::new("setpriv");
    if std::fs::metadata(file).expect("its settings").uid() == 0 {
        command.args([
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
            "--",
        ]);
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
    } else {
        command.args(["--pdeathsig", "KILL", "--"]);
    }
    command.arg(program).arg(file).stdin(Stdio::null());
    command
}

/// A folder for one.
pub fn folder() -> TempDir {
    let mut folder = tempfile::Builder::new();
    folder
        .prefix("pooler")
        .tempdir_in("/tmp")
        .expect("a folder")
}

fn permit(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}
