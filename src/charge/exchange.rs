//! One request and its reply, over one connection. What is written and read is decided by `ureq-proto`; here it is
//! written and read, in the task that waits for the reply and with one buffer for both: of calls that are open hundreds
//! wait at once.

use std::io;
use std::mem::MaybeUninit;

use hyper::{Request, Response};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use ureq_proto::client::state::{RecvBody, RecvResponse, SendRequest};
use ureq_proto::client::{Call, RecvBodyResult, RecvResponseResult, SendRequestResult};
use ureq_proto::{BodyMode, Error};

/// Bytes that there is room for before each write and read: most requests, and most replies, are shorter.
const ROOM: usize = 1_024;
/// A line of a request, at most.
const MAX_LINE_BYTES: usize = 64 * 1_024;
/// The head of a reply, at most.
const MAX_HEAD_BYTES: usize = 64 * 1_024;

/// What bytes come from and go to, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// The socket beneath.
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

/// A connection, for one request after the other.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// What was read and belongs to no reply yet.
    buffer: Vec<u8>,
}

/// Why there is no reply, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// It is not HTTP/1.1, or the request cannot be.
    #[error(transparent)]
    Protocol(#[from] Error),
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side closed it.
    #[error("the connection was closed before the reply was complete")]
    Ended,
    /// The request has no end.
    #[error("the request cannot be written")]
    Unwritten,
    /// More than [`MAX_HEAD_BYTES`], or a body that is longer than was asked for.
    #[error("the reply is too long")]
    TooLong,
}

/// What follows the head of a reply.
pub(super) enum Rest {
    Body(Box<Call<RecvBody>>),
    Nothing { closes: bool },
}

impl Connection {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(ROOM),
        }
    }

    /// Whether the other side has neither closed it nor said anything that nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        let unread = SockRef::from(self.stream.socket()).peek(&mut [MaybeUninit::uninit()]);
        matches!(unread, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request, and reads the head of its reply. Nothing is left of the reply before.
    ///
    /// # Errors
    /// There is none. Some of the request may have been sent.
    pub(super) async fn ask(
        &mut self,
        request: Request<()>,
        body: &[u8],
    ) -> Result<(Response<()>, Rest), Broken> {
        let call = write(request, body, &mut self.buffer)?;
        self.stream.write_all(&self.buffer).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        self.head(call).await
    }

    async fn head(&mut self, mut call: Call<RecvResponse>) -> Result<(Response<()>, Rest), Broken> {
        let response = loop {
            if self.buffer.len() >= MAX_HEAD_BYTES {
                return Err(Broken::TooLong);
            }
            self.read().await?;
            if let Some(response) = self.parse(&mut call)? {
                break response;
            }
        };
        let rest = match call.proceed() {
            Some(RecvResponseResult::RecvBody(call)) => Rest::Body(Box::new(call)),
            Some(RecvResponseResult::Redirect(call)) => Rest::Nothing {
                closes: call.must_close_connection(),
            },
            Some(RecvResponseResult::Cleanup(call)) => Rest::Nothing {
                closes: call.must_close_connection(),
            },
            None => return Err(Broken::Ended),
        };
        Ok((response, rest))
    }

    /// The head, where all of it was read. What is said before it (1xx) is left out.
    fn parse(&mut self, call: &mut Call<RecvResponse>) -> Result<Option<Response<()>>, Error> {
        loop {
            let (used, response) = call.try_response(&self.buffer, false)?;
            self.buffer.drain(..used);
            if used == 0 || response.is_some() {
                return Ok(response);
            }
        }
    }

    /// Reads what follows a head, and says whether the connection can be used again.
    ///
    /// # Errors
    /// It is not all there, or longer than `most` bytes.
    pub(super) async fn rest(
        &mut self,
        rest: Rest,
        most: usize,
    ) -> Result<(Vec<u8>, bool), Broken> {
        let (body, closes) = match rest {
            Rest::Nothing { closes } => (Vec::new(), closes),
            Rest::Body(call) => self.body(*call, most).await?,
        };
        self.buffer.shrink_to(ROOM);
        Ok((body, !closes && self.buffer.is_empty()))
    }

    async fn body(
        &mut self,
        mut call: Call<RecvBody>,
        most: usize,
    ) -> Result<(Vec<u8>, bool), Broken> {
        let until_closed = call.body_mode() == BodyMode::CloseDelimited;
        let mut body = Vec::new();
        loop {
            let before = body.len();
            // What is in chunks becomes shorter.
            body.resize(before + self.buffer.len(), 0);
            let (used, got) = call.read(&self.buffer, &mut body[before..])?;
            body.truncate(before + got);
            self.buffer.drain(..used);
            if body.len() > most || self.buffer.len() > most {
                return Err(Broken::TooLong);
            }
            if call.can_proceed() && !until_closed {
                break;
            }
            if used > 0 {
                continue;
            }
            match self.read().await {
                Err(Broken::Ended) if until_closed => break,
                read => read?,
            }
        }
        let closes = match call.proceed() {
            Some(RecvBodyResult::Cleanup(call)) => call.must_close_connection(),
            Some(RecvBodyResult::Redirect(call)) => call.must_close_connection(),
            None => true,
        };
        Ok((body, closes))
    }

    /// Reads what there is.
    async fn read(&mut self) -> Result<(), Broken> {
        self.buffer.reserve(ROOM);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(Broken::Ended),
            _ => Ok(()),
        }
    }
}

/// Writes a request to `out`.
fn write(
    request: Request<()>,
    body: &[u8],
    out: &mut Vec<u8>,
) -> Result<Call<RecvResponse>, Broken> {
    let mut call = Call::new(request)?.proceed();
    write_head(&mut call, out)?;
    match call.proceed()? {
        Some(SendRequestResult::RecvResponse(call)) => Ok(call),
        Some(SendRequestResult::SendBody(mut call)) => {
            call.consume_direct_write(body.len())?;
            out.extend_from_slice(body);
            call.proceed().ok_or(Broken::Unwritten)
        }
        Some(SendRequestResult::Await100(_)) | None => Err(Broken::Unwritten),
    }
}

fn write_head(call: &mut Call<SendRequest>, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut room = ROOM;
    while !call.can_proceed() {
        let begin = out.len();
        out.resize(begin + room, 0);
        let written = call.write(&mut out[begin..]);
        out.truncate(begin + *written.as_ref().unwrap_or(&0));
        match written {
            // A line is longer.
            Err(Error::OutputOverflow) if room < MAX_LINE_BYTES => room *= 2,
            written => drop(written?),
        }
    }
    Ok(())
}
