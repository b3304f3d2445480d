//! What operators ask of an instance, answered on a thread and by connections of its own: no
//! payment waits while metrics are written or a snapshot is taken, and an instance that has more
//! payments than it can serve can still be looked at.

use std::future::Future;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use futures_util::future::join_all;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::end::{CLOSE, broken_part};
use super::listen;
use crate::config::{Listen, OperatorToken};
use crate::http::live::{self, Observer};
use crate::http::{Limits, OperatorApi, WrongTokens};
use crate::scrape::Scrape;
use crate::telemetry::metrics::Counts;

/// The name of the thread.
const THREAD: &str = "operators";

/// The operator's side of an instance.
pub(super) struct Operators {
    /// Where it listens.
    pub(super) listen: Listen,
    /// Connections that operators may have.
    pub(super) connections: usize,
    /// What every request has to bear.
    pub(super) token: OperatorToken,
    /// What a request for metrics may bear instead.
    pub(super) metrics_token: Option<OperatorToken>,
    /// What the instance counts.
    pub(super) counts: Arc<Counts>,
    /// What metrics look at.
    pub(super) scrape: Scrape,
    /// What the live page looks at.
    pub(super) observer: Observer,
}

impl Operators {
    /// Starts the thread, which listens when this returns. What is returned lasts until `stop`, or
    /// until it breaks.
    ///
    /// # Errors
    /// It cannot listen there.
    pub(super) async fn start(
        self,
        stop: CancellationToken,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
        let (listens, listening) = oneshot::channel();
        let (ends, ended) = oneshot::channel();
        thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build();
                let outcome = runtime
                    .map_err(anyhow::Error::from)
                    .and_then(|runtime| runtime.block_on(self.serve(listens, stop)));
                // Nobody waits any more where the instance has been told to end before it began.
                let _ = ends.send(outcome);
            })?;
        let ended = async { ended.await.context("the thread for operators broke")? };
        if listening.await.is_ok() {
            return Ok(ended);
        }
        ended.await?;
        anyhow::bail!("the thread for operators ended by itself")
    }

    /// Listens, says so, and serves until `stop`.
    async fn serve(
        self,
        listens: oneshot::Sender<()>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let observer = self.observer;
        let cells = observer.pools.clone();
        let (router, processors) = (observer.router.clone(), Arc::clone(&observer.names));
        let simulator = observer.simulator.clone();
        let mut parts = JoinSet::new();
        let api = OperatorApi {
            pool: cells.first().clone(),
            cells: cells.clone(),
            router,
            processors,
            token: self.token,
            metrics_token: self.metrics_token,
            wrong_tokens: Arc::new(WrongTokens::new(self.counts.wrong_tokens.clone())),
            revoked: Arc::default(),
            scrape: Arc::new(self.scrape),
            feed: live::start(observer, &stop, &mut parts),
            simulator,
        };
        let address = &self.listen;
        // Nobody takes snapshots for a page that is closed.
        let limits = Limits {
            connections: self.connections,
            notice_leaving: true,
            ..Limits::default()
        };
        let served = listen(
            "OPERATOR_LISTEN",
            address,
            limits,
            self.counts,
            api.routes(),
            stop.clone(),
        );
        parts.spawn(served.await?);
        tracing::info!(listen = %address, "listening for operators");
        let _ = listens.send(());
        tokio::select! {
            () = stop.cancelled() => {}
            broken = parts.join_next() => return broken_part(broken),
        }
        while parts.join_next().await.is_some() {}
        let closed = join_all(cells.iter().map(|pool| pool.close()));
        let _ = tokio::time::timeout(CLOSE, closed).await;
        Ok(())
    }
}
