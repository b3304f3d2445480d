//! PgBouncer in transaction mode between the instances and the database.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use nix::sys::signal::Signal;

use super::cluster::{Cluster, PASSWORD, SERVICE};
use super::process::Process;

/// Sessions of the server that all instances share.
const SESSIONS: u32 = 8;
/// Seconds that a transaction waits for one.
const WAIT: u32 = 3;

/// A PgBouncer that is not started yet, and where it will lead the instances to their database.
pub(super) fn prepare(
    cluster: &Cluster,
    folder: &Path,
    logs: &Path,
) -> anyhow::Result<(Process, String)> {
    let script = crate::repository().join("scripts/pgbouncer.sh");
    let found = std::process::Command::new(script).arg("bin").output()?;
    anyhow::ensure!(
        found.status.success(),
        "{}",
        String::from_utf8_lossy(&found.stderr)
    );
    let program = String::from_utf8(found.stdout)?.trim().to_owned();
    let home = folder.join("pooler");
    fs::create_dir(&home)?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755))?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let (host, server) = cluster.address();
    let users = home.join("users");
    let settings = format!(
        "[databases]\n* = host={host} port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
         pool_mode = transaction\nmax_prepared_statements = 200\ndefault_pool_size = {SESSIONS}\n\
         query_wait_timeout = {WAIT}\nserver_login_retry = 1\n",
        users.display()
    );
    let file = home.join("pgbouncer.ini");
    fs::write(&file, settings)?;
    fs::write(&users, format!("\"{SERVICE}\" \"{PASSWORD}\"\n"))?;
    let mut command = Vec::new();
    // It refuses to run as root; the server's socket is for root and its own user.
    if fs::metadata(&file)?.uid() == 0 {
        let change = "setpriv --reuid=postgres --regid=postgres --init-groups --";
        // After the change of user, which would undo it.
        let end = "setpriv --pdeathsig KILL --";
        command.extend(change.split(' ').chain(end.split(' ')).map(str::to_owned));
    }
    let file = file.to_str().context("a path")?.to_owned();
    command.extend([program, file]);
    let pooler = Process::new("pgbouncer", logs, Signal::SIGKILL, command, Vec::new());
    let url = format!("postgres://{SERVICE}@127.0.0.1:{port}/payments");
    Ok((pooler, url))
}
