//! One connection that posts one payment after the other.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use uuid::Uuid;

use super::schedule::Schedule;
use super::tally::{Posted, Tally};

/// How long a reply may take. What is not answered by then is reported as unanswered.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a connection that could not be opened is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Amounts are of 1 to this many cents, so that an amount booked for another payment is seen in sums.
const MOST_CENTS: u32 = 50_000;

/// A connection, and where to open it anew.
pub(crate) struct Client {
    address: SocketAddr,
    host: HeaderValue,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Opens the connection.
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            address,
            host: HeaderValue::try_from(address.to_string())?,
            sender: Some(open(address).await?),
        })
    }

    /// Takes payments from the schedule until there are no more, and notes what became of each. One that
    /// was due longer ago than `patience` is not posted.
    pub(crate) async fn post_all(
        mut self,
        schedule: Rc<Schedule>,
        tally: Rc<RefCell<Tally>>,
        patience: Option<Duration>,
    ) {
        while let Some(due) = schedule.next().await {
            if patience.is_some_and(|patience| due.elapsed() > patience) {
                tally.borrow_mut().skip();
                continue;
            }
            let id = Uuid::new_v4();
            let cents = 1 + id.as_fields().0 % MOST_CENTS;
            let at = SystemTime::now();
            let status = tokio::time::timeout(REPLY_TIMEOUT, self.post(id, cents)).await;
            let status = match status {
                Ok(Ok(status)) => Some(status),
                Ok(Err(_)) | Err(_) => {
                    self.sender = None;
                    None
                }
            };
            tally.borrow_mut().note(Posted {
                id,
                at,
                status: status.map_or(0, |status| status.as_u16()),
                cents,
                due,
                replied: Instant::now(),
            });
            while self.sender.is_none() {
                self.sender = open(self.address).await.ok();
                if self.sender.is_none() {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    async fn post(&mut self, id: Uuid, cents: u32) -> anyhow::Result<StatusCode> {
        let body = format!(
            r#"{{"correlationId":"{id}","amount":{}.{:02}}}"#,
            cents / 100,
            cents % 100
        );
        let request = Request::builder()
            .method(Method::POST)
            .uri("/payments")
            .header(HOST, self.host.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(Bytes::from(body)))?;
        let sender = self
            .sender
            .as_mut()
            .expect("it is opened again before the next payment");
        sender.ready().await?;
        let mut reply = sender.send_request(request).await?;
        while let Some(frame) = reply.body_mut().frame().await {
            frame?;
        }
        Ok(reply.status())
    }
}

async fn open(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // How it ends is seen by who sends.
    tokio::task::spawn_local(connection);
    Ok(sender)
}
