//! The live page at `/` of the operator's address: what the deployment does at this moment, and the
//! switches that change it. Its files are part of the program; it needs nothing from elsewhere.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post, put};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod assets;
mod books;
mod dead_letters;
mod feed;
mod money;
mod simulation;
mod snapshot;
mod window;

pub use feed::{Feed, Observer};
pub use simulation::Simulator;

use super::OperatorApi;

/// Starts what moves the page: its feed, and the simulation where there is one. Both end at `stop`.
pub fn start(
    observer: Observer,
    stop: &CancellationToken,
    parts: &mut JoinSet<anyhow::Result<()>>,
) -> Arc<Feed> {
    let feed = Feed::new(stop.clone());
    if let Some(simulator) = observer.simulator.clone() {
        let (feed, stop) = (Arc::clone(&feed), stop.clone());
        parts.spawn(async move {
            simulator.run(feed, stop).await;
            Ok(())
        });
    }
    let running = Arc::clone(&feed);
    parts.spawn(async move {
        running.run(observer).await;
        Ok(())
    });
    feed
}

/// The files, which anybody may have.
pub(super) fn page() -> Router<OperatorApi> {
    Router::new()
        .route("/", get(assets::page))
        .route("/assets/{name}", get(assets::asset))
}

/// What is behind them, for operators.
pub(super) fn routes() -> Router<OperatorApi> {
    Router::new()
        .route("/live", get(feed::live))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/retry", post(dead_letters::retry))
        .route("/dead-letters/discard", post(dead_letters::discard))
        .route("/simulator/processors/{processor}", put(simulation::change))
        .route("/simulator/traffic", put(simulation::traffic))
}
