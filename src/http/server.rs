//! The accept loop of an address, and what one client may hold.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Open connections of one address, at most; beyond that new ones wait in the kernel's backlog.
pub const MAX_CONNECTIONS: usize = 4_096;
/// How long a connection may be open without a complete request head: idle, or slow to send one. Longer
/// than the 60 s after which nginx closes an idle connection by itself, so that it never sends a request
/// on one that is being closed here.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Serves `routes` until `stop`, then closes what is idle and waits for the requests that are open.
pub async fn serve<L: Listener>(mut listener: L, routes: Router, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let open = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await.0)
        };
        let (place, stream) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        let service = TowerToHyperService::new(routes.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "a connection broke off");
            }
            drop(place);
        });
    }
    drop(listener);
    open.shutdown().await;
}
