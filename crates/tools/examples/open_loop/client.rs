//! One connection that posts one payment after the other. It writes and reads by itself, because it
//! shares the CPUs with what it measures: a client for all of HTTP takes a third to a half more.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::schedule::Schedule;
use super::tally::{Posted, Tally};

/// How long a reply may take. What is not answered by then is reported as unanswered.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a connection that could not be opened is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a reply, at most, and headers in it.
const MOST_BYTES: usize = 16 * 1_024;
const MOST_HEADERS: usize = 32;

/// Amounts are of 1 to this many cents, so that an amount recorded for another payment is seen in
/// sums.
const MOST_CENTS: u32 = 50_000;

/// A connection, and where to open it anew.
pub(crate) struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// The request, and then what was read of its reply.
    buffer: Vec<u8>,
}

impl Client {
    /// Opens the connection.
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            address,
            stream: Some(open(address).await?),
            buffer: Vec::with_capacity(1_024),
        })
    }

    /// Takes payments from the schedule until there are no more, and notes what became of each. One
    /// that was due longer ago than `timeout` is not posted.
    pub(crate) async fn post_all(
        mut self,
        schedule: Rc<Schedule>,
        tally: Rc<RefCell<Tally>>,
        timeout: Option<Duration>,
    ) {
        while let Some(due) = schedule.next().await {
            if timeout.is_some_and(|timeout| due.elapsed() > timeout) {
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
                    self.stream = None;
                    None
                }
            };
            tally.borrow_mut().note(Posted {
                id,
                at,
                status: status.unwrap_or(0),
                cents,
                due,
                replied: Instant::now(),
            });
            while self.stream.is_none() {
                self.stream = open(self.address).await.ok();
                if self.stream.is_none() {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    /// Posts a payment and returns the status of its reply.
    async fn post(&mut self, id: Uuid, cents: u32) -> anyhow::Result<u16> {
        let Self {
            address, buffer, ..
        } = self;
        let stream = self
            .stream
            .as_mut()
            .context("it is opened again before the next payment")?;
        let (whole, part) = (cents / 100, cents % 100);
        let body = format!(r#"{{"correlationId":"{id}","amount":{whole}.{part:02}}}"#);
        buffer.clear();
        write!(
            buffer,
            "POST /payments HTTP/1.1\r\nhost: {address}\r\ncontent-type: \
            application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        stream.write_all(buffer).await?;
        buffer.clear();
        loop {
            if stream.read_buf(buffer).await? == 0 {
                bail!("closed before the reply was complete");
            }
            match whole_reply(buffer)? {
                Some((status, length)) if length == buffer.len() => return Ok(status),
                Some((_, length)) if length < buffer.len() => bail!("more than one reply"),
                _ if buffer.len() >= MOST_BYTES => bail!("the reply is too long"),
                _ => {}
            }
        }
    }
}

/// The status of a reply and how many bytes it is long, body included; none where its head is not
/// complete yet.
///
/// # Errors
/// It is no reply, or does not say how long it is, as all replies of the service do.
fn whole_reply(read: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut reply = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = reply.parse(read)? else {
        return Ok(None);
    };
    let status = reply.code.context("there is a status")?;
    let named = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("content-length");
    let length = reply.headers.iter().find(named);
    let length = length
        .context("the reply does not say how long it is")?
        .value;
    let length: usize = std::str::from_utf8(length)?.parse()?;
    Ok(Some((status, head.saturating_add(length))))
}

async fn open(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_as_long_as_it_says() {
        let reply =
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 5\r\n\r\nhello";
        let head = reply.len() - 5;
        for end in 0..head {
            let found = whole_reply(&reply.as_bytes()[..end]).expect("the begin of one");
            assert_eq!(found, None, "{end}");
        }
        for end in head..=reply.len() {
            let found = whole_reply(&reply.as_bytes()[..end]).expect("one");
            assert_eq!(found, Some((503, reply.len())));
        }
    }

    #[test]
    fn what_does_not_say_how_long_it_is_is_no_reply() {
        for wrong in [
            "HTTP/1.1 202 Accepted\r\n\r\n",
            "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 202 Accepted\r\nContent-Length: -1\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert!(whole_reply(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
