//! The addresses at which an instance listens.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;

use anyhow::Context;
use axum::serve::ListenerExt;
use futures_util::future::Either;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::config::Listen;
use crate::http;

/// Listens. Returns what serves `routes` there, within those limits, until `stop`.
///
/// # Errors
/// The address is taken, or not ours.
pub(super) async fn listen(
    setting: &str,
    address: &Listen,
    limits: http::Limits,
    routes: axum::Router,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
    let cannot = || format!("{setting}: cannot listen on {address}");
    Ok(match address {
        Listen::Tcp(_) | Listen::Name(_) => {
            let listener = TcpListener::bind(address.to_string())
                .await
                .with_context(cannot)?;
            let listener = listener.tap_io(|connection| {
                if let Err(error) = connection.set_nodelay(true) {
                    tracing::debug!(error = %error, "no TCP_NODELAY");
                }
            });
            Either::Left(async move {
                http::serve(listener, routes, limits, stop).await;
                Ok(())
            })
        }
        Listen::Unix(path) => {
            // A socket that a killed instance left behind would be in the way; one in use would not answer here.
            if std::os::unix::net::UnixStream::connect(path).is_err() {
                let _ = std::fs::remove_file(path);
            }
            let listener = UnixListener::bind(path).with_context(cannot)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
            let path = path.clone();
            Either::Right(async move {
                http::serve(listener, routes, limits, stop).await;
                let _ = std::fs::remove_file(path);
                Ok(())
            })
        }
    })
}
