//! The addresses at which an instance listens.

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use anyhow::Context;
use axum::serve::ListenerExt;
use futures_util::future::Either;
use tokio::net::{TcpListener, TcpSocket, UnixSocket};
use tokio_util::sync::CancellationToken;

use crate::config::Listen;
use crate::http;
use crate::telemetry::metrics::Counts;

/// Clients that the kernel connects before they are accepted: as many come at once when a load
/// balancer starts anew. The kernel has a limit of its own (`net.core.somaxconn`).
const LISTEN_BACKLOG: u32 = 4_096;

/// Listens. Returns what serves `routes` there, within those limits, until `stop`.
///
/// # Errors
/// The address is taken, or not ours.
pub(super) async fn listen(
    setting: &str,
    address: &Listen,
    limits: http::Limits,
    counts: Arc<Counts>,
    routes: axum::Router,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
    let cannot = || format!("{setting}: cannot listen on {address}");
    Ok(match address {
        Listen::Tcp(_) | Listen::Name(_) => {
            let listener = bind(&address.to_string()).await.with_context(cannot)?;
            let listener = listener.tap_io(|connection| {
                if let Err(error) = connection.set_nodelay(true) {
                    tracing::debug!(error = %error, "no TCP_NODELAY");
                }
            });
            Either::Left(async move {
                http::serve(listener, routes, limits, counts, stop).await;
                Ok(())
            })
        }
        Listen::Unix(path) => {
            // A socket that a killed instance left behind would be in the way; one in use would not
            // answer here.
            if std::os::unix::net::UnixStream::connect(path).is_err() {
                let _ = std::fs::remove_file(path);
            }
            let socket = UnixSocket::new_stream().with_context(cannot)?;
            socket.bind(path).with_context(cannot)?;
            let listener = socket.listen(LISTEN_BACKLOG).with_context(cannot)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
            let path = path.clone();
            Either::Right(async move {
                http::serve(listener, routes, limits, counts, stop).await;
                let _ = std::fs::remove_file(path);
                Ok(())
            })
        }
    })
}

/// Listens on the first address of that name which is ours and not taken.
async fn bind(address: &str) -> std::io::Result<TcpListener> {
    let mut failed = std::io::ErrorKind::AddrNotAvailable.into();
    for address in tokio::net::lookup_host(address).await? {
        let listen = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            // Connections of an instance before may not be over yet.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(LISTEN_BACKLOG)
        };
        match listen() {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
