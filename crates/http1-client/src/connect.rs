//! How a connection to a processor is made.

use std::time::Duration;

use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;

use super::exchange::{Connection, Stream, Unread};
use super::resolver::Resolver;

/// How long a connection to a processor may take, with the search for its address and with TLS.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle time after which TCP sends a keepalive probe on an open connection.
const KEEPALIVE: Duration = Duration::from_secs(15);

type Tcp = HttpConnector<Resolver>;
type Secured = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

/// Makes connections.
#[derive(Debug, Clone)]
pub(crate) enum Connector {
    /// To a processor whose URL is `http`.
    Plain(Tcp),
    /// To one whose URL is `https`.
    Secured(HttpsConnector<Tcp>),
}

impl Connector {
    /// To addresses that these names tell, secured as `tls` says, or not at all.
    pub(crate) fn new(names: Resolver, tls: Option<ClientConfig>) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(names);
        tcp.enforce_http(tls.is_none());
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        match tls {
            None => Self::Plain(tcp),
            Some(tls) => {
                let https = HttpsConnectorBuilder::new().with_tls_config(tls);
                Self::Secured(https.https_only().enable_http1().wrap_connector(tcp))
            }
        }
    }

    /// Connects within [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// No connection was made, so no byte of a request was written.
    pub(crate) async fn connect(&self, to: Uri) -> anyhow::Result<Connection> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.stream(to)).await;
        let stream = connected
            .map_err(|_| anyhow::anyhow!("no connection within {CONNECT_TIMEOUT:?}"))??;
        Ok(Connection::new(stream))
    }

    async fn stream(&self, to: Uri) -> anyhow::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Plain(tcp) => Box::new(tcp.clone().call(to).await?.into_inner()),
            Self::Secured(https) => {
                let stream = https.clone().call(to).await;
                Box::new(TokioIo::new(stream.map_err(anyhow::Error::from_boxed)?))
            }
        })
    }
}

impl Stream for Secured {
    fn unread(&mut self) -> Unread {
        match self.inner_mut() {
            MaybeHttpsStream::Http(plain) => plain.inner_mut().unread(),
            MaybeHttpsStream::Https(tls) => {
                let (tcp, session) = tls.inner_mut().get_mut();
                match session.process_new_packets() {
                    Ok(state) if state.plaintext_bytes_to_read() > 0 => Unread::Bytes,
                    // What is not deciphered may be a word of TLS itself.
                    Ok(state) if !state.peer_has_closed() => {
                        match tcp.inner_mut().inner_mut().unread() {
                            Unread::Nothing => Unread::Nothing,
                            Unread::Bytes | Unread::End => Unread::End,
                        }
                    }
                    Ok(_) | Err(_) => Unread::End,
                }
            }
        }
    }
}
