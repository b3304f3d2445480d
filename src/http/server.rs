//! The accept loop of an address, and what one client may hold.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use axum::serve::Listener;
use hyper::body::{Body, Incoming};
use hyper::header::HOST;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Version};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::patience::{PatientBody, PatientStream, Requests};
use super::{MAX_BODY_BYTES, Problem};
use crate::metrics::COUNTS;

/// What clients may hold of an address, and for how long. All of it is the same everywhere: whoever waits
/// longer is broken, or means harm.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; beyond that new ones wait in the kernel's backlog. As many requests are in
    /// progress at most.
    pub connections: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// From the last byte of the head to the last of the body.
    pub body: Duration,
    /// How long a connection may be open without a request, and without a byte in either direction. Longer
    /// than the 60 s after which nginx closes an idle connection by itself, so that it never sends a request
    /// on one that is being closed here.
    pub idle: Duration,
    /// How long a client may take nothing of a reply that waits for it.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            head_bytes: 16 * 1024,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(10),
        }
    }
}

/// Serves `routes` until `stop`, then closes what is idle and waits for the requests that are open.
pub async fn serve<L: Listener>(
    mut listener: L,
    routes: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let open = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.max_buf_size(limits.head_bytes);
    let routes = TowerToHyperService::new(routes);
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await.0)
        };
        let (place, stream) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        let requests = Arc::new(Requests::default());
        let stream = PatientStream::new(stream, limits, Arc::clone(&requests));
        let routes = routes.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let open = requests.begin();
            let routes = routes.clone();
            async move {
                let reply = match refusal(&request) {
                    Some(problem) => problem.into_response(),
                    None => {
                        let body = |body| PatientBody::new(body, limits.body);
                        let reply = routes.call(request.map(body)).await;
                        reply.unwrap_or_else(|never| match never {})
                    }
                };
                drop(open);
                Ok::<_, Infallible>(reply)
            }
        });
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

/// What is wrong with a request whatever its path, and the library lets through.
fn refusal<B: Body>(request: &Request<B>) -> Option<Problem> {
    // RFC 9112, 3.2
    if request.version() == Version::HTTP_11 && request.headers().get_all(HOST).iter().count() != 1
    {
        let detail = "a request must have exactly one Host header";
        return Some(Problem::bad_request(detail));
    }
    // Nobody waits for what is too long already.
    (request.body().size_hint().lower() > MAX_BODY_BYTES as u64).then(|| {
        COUNTS.refused.body.add(1);
        Problem::too_long()
    })
}
