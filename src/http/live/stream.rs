//! `GET /live`: the feed of the page, as a browser reads it.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::{Stream, StreamExt, stream};

use crate::http::OperatorApi;
use crate::http::session::SessionId;

/// How long a browser waits before it connects again.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// The route of the feed.
pub(in crate::http) fn stream() -> Router<OperatorApi> {
    Router::new().route("/live", get(live))
}

/// `GET /live`: the snapshots as server-sent events, until the session of who asks ends.
async fn live(
    State(api): State<OperatorApi>,
    session: Option<Extension<SessionId>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let snapshots = stream::unfold(api.feed.watch(), async |mut latest| {
        loop {
            latest.changed().await.ok()?;
            let text = latest.borrow_and_update().clone();
            if let Some(text) = text {
                return Some((Event::default().retry(RECONNECT_AFTER).data(text), latest));
            }
        }
    });
    let stop = api.feed.stop.clone();
    let over = async move {
        match session {
            Some(Extension(session)) => session.over(&api).await,
            None => std::future::pending().await,
        }
    };
    let snapshots = snapshots.take_until(stop.cancelled_owned());
    let snapshots = snapshots.take_until(Box::pin(over));
    Sse::new(snapshots.map(Ok))
}
