//! The addresses of processors.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

/// How long an address is believed, whatever the name server says: that of a container engine says ten minutes, and a
/// processor that is started anew has another address at once.
pub const NAME_KEPT: Duration = Duration::from_secs(2);

/// Finds addresses without a thread for each question, which the system's resolver takes.
#[derive(Clone)]
pub struct Names(TokioResolver);

impl Names {
    /// As `/etc/resolv.conf` and `/etc/hosts` say. Where there is no such configuration only addresses and what
    /// `/etc/hosts` knows can be called, and nobody else is asked.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn of_system() -> Result<Self, NetError> {
        TokioResolver::builder_tokio().map_or_else(
            |error| {
                tracing::warn!(error = %error, "no name server: processors can only be called by address");
                Self::of_servers(ResolverConfig::from_name_servers(Vec::new()))
            },
            Self::of,
        )
    }

    /// As these name servers say.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn of_servers(servers: ResolverConfig) -> Result<Self, NetError> {
        let provider = TokioRuntimeProvider::default();
        Self::of(TokioResolver::builder_with_config(servers, provider))
    }

    fn of(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<Self, NetError> {
        let options = builder.options_mut();
        options.positive_max_ttl = Some(NAME_KEPT);
        options.negative_max_ttl = Some(NAME_KEPT);
        // Whichever of them takes the connection first.
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        builder.build().map(Self)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Names")
    }
}

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = NetError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NetError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.0.clone();
        Box::pin(async move {
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<SocketAddr> = found.iter().map(|ip| (ip, 0).into()).collect();
            Ok(addresses.into_iter())
        })
    }
}
