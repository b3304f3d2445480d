//! What the handlers of the operators' API share.

use std::sync::Arc;

use router::SharedRouter;

use super::live::{Feed, Simulator};
use super::{Revoked, WrongTokens};
use crate::config::OperatorToken;
use crate::domain::cell::Cells;
use crate::scrape::Scrape;
use crate::store::database::Pool;

/// What Prometheus asks for. Its token opens nothing else.
const METRICS: &str = "/metrics";

/// What the operator's handlers share.
#[derive(Clone)]
pub struct OperatorApi {
    /// Connections to the first cell, in which what is of the whole deployment is.
    pub pool: Pool,
    /// Connections to every cell.
    pub cells: Cells<Pool>,
    /// What is explained.
    pub router: SharedRouter,
    /// Names of the configured processors.
    pub processors: Arc<[String]>,
    /// What every request has to bear, but for the next.
    pub token: OperatorToken,
    /// What a request for `/metrics` may bear instead.
    pub metrics_token: Option<OperatorToken>,
    /// Who said a wrong one.
    pub wrong_tokens: Arc<WrongTokens>,
    /// Which sessions were signed out.
    pub revoked: Arc<Revoked>,
    /// What `/metrics` looks at.
    pub scrape: Arc<Scrape>,
    /// What the live page shows.
    pub feed: Arc<Feed>,
    /// Where processors are simulated.
    pub simulator: Option<Arc<Simulator>>,
}

impl OperatorApi {
    /// Whether whoever bears that token may ask for that path.
    pub(super) fn admits(&self, token: &str, path: &str) -> bool {
        let metrics_token = self.metrics_token.as_ref().filter(|_| path == METRICS);
        self.token.is(token) || metrics_token.is_some_and(|metrics| metrics.is(token))
    }
}
