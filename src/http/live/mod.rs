//! The live page at `/` of the operator's address: what the deployment does at this moment, and the
//! switches that change it. Its files are part of the program; it needs nothing from elsewhere.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod assets;
mod dead_letters;
mod feed;
mod history;
mod in_doubt;
mod ledger;
mod money;
mod simulation;
mod simulation_calls;
mod snapshot;
mod stream;
mod window;

pub(super) use assets::page;
pub use feed::{Feed, Observer};
pub use simulation::Simulator;
pub(super) use stream::stream;

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
            simulator.run(|| feed.is_watched(), stop).await;
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

/// The calls behind the page's buttons.
pub(super) fn routes() -> OpenApiRouter<OperatorApi> {
    OpenApiRouter::new()
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::retry))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(in_doubt::list))
        .routes(routes!(history::get))
        .routes(routes!(simulation_calls::change))
        .routes(routes!(simulation_calls::traffic))
}
