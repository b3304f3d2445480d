//! One request and its reply, over one connection. What is written and read is decided by
//! `ureq-proto`; here it is written and read, in the task that waits for the reply and with one
//! buffer for both: of calls that are open hundreds wait at once.

use std::mem::MaybeUninit;
use std::{fmt, io};

use hyper::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use hyper::{Request, Response, StatusCode, Version};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use ureq_proto::client::state::{RecvBody, RecvResponse, SendRequest};
use ureq_proto::client::{Call, RecvBodyResult, RecvResponseResult, SendRequestResult};
use ureq_proto::{BodyMode, Error};

/// Bytes that there is room for before each write and read: most requests, and most replies, are
/// shorter.
const ROOM: usize = 1_024;
/// A line of a request, at most.
const MAX_LINE_BYTES: usize = 64 * 1_024;
/// The head of a reply with all that is said before it (1xx), at most.
const MAX_HEAD_BYTES: usize = 64 * 1_024;

/// What there is to read in a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// Nothing.
    Nothing,
    /// Bytes of the other side.
    Bytes,
    /// The end, an error, or nobody knows what.
    End,
}

/// What bytes come from and go to, with TLS or without.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// What there is to read before anybody waits for it.
    fn unread(&mut self) -> Unread;
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Connection")
    }
}

impl Stream for TcpStream {
    fn unread(&mut self) -> Unread {
        // The kernel is asked only where its queue of events has told of something since the last
        // read.
        let peek = || SockRef::from(&*self).peek(&mut [MaybeUninit::uninit()]);
        match self.try_io(Interest::READABLE, peek) {
            Ok(1..) => Unread::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Unread::Nothing,
            Ok(_) | Err(_) => Unread::End,
        }
    }
}

/// A connection, for one request after the other.
pub struct Connection {
    stream: Box<dyn Stream>,
    /// The request that is being written; then what was read and is not used yet.
    buffer: Vec<u8>,
}

/// Why there is no reply, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It is not HTTP/1.1, or the request cannot be.
    #[error(transparent)]
    Protocol(#[from] Error),
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side closed it.
    #[error("the connection was closed before the reply was complete")]
    Ended,
    /// More than [`MAX_HEAD_BYTES`], or a body that is longer than was asked for.
    #[error("the reply is too long")]
    TooLong,
    /// The other side goes on in another protocol (101), and the answer is still to come.
    #[error("answered {0}, which is no answer")]
    NoAnswer(StatusCode),
    /// The protocol does not go on from there, which it always does.
    #[error("the protocol does not go on")]
    Stuck,
}

/// A request that is written down. In a box, as all that waits for a reply: a call is moved several
/// times.
#[derive(Debug)]
pub struct Prepared(Box<Call<RecvResponse>>);

/// What follows the head of a reply.
#[derive(Debug)]
pub struct Rest {
    body: Option<Box<Call<RecvBody>>>,
    /// Whether the connection ends with it.
    closes: bool,
}

/// What a connection is good for after a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Another request.
    Open,
    /// Nothing.
    Closes,
    /// Nothing: there is more than the reply already, and nobody asked for it.
    More,
}

impl Connection {
    /// A connection over which nothing was said yet.
    pub fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(ROOM),
        }
    }

    /// Whether the other side has neither closed it nor said anything that nobody asked for.
    pub fn is_quiet(&mut self) -> bool {
        self.stream.unread() == Unread::Nothing
    }

    /// Writes down a request, which is then to be sent. Nothing is left of the reply before.
    ///
    /// # Errors
    /// It cannot be written in HTTP/1.1.
    pub fn prepare(&mut self, request: Request<()>, body: &[u8]) -> Result<Prepared, Broken> {
        let call = write(request, body, &mut self.buffer)?;
        Ok(Prepared(Box::new(call)))
    }

    /// Sends what was prepared, and reads the head of the reply.
    ///
    /// # Errors
    /// There is none. Some of the request may have been sent.
    pub async fn ask(&mut self, call: Prepared) -> Result<(Response<()>, Rest), Broken> {
        self.stream.write_all(&self.buffer).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        let Prepared(mut call) = call;
        let mut read = 0;
        let response = loop {
            if read >= MAX_HEAD_BYTES {
                return Err(Broken::TooLong);
            }
            let new = self.read().await?;
            read += new;
            // What is no HTTP is seen at once; a long head that comes byte by byte is not parsed
            // each time.
            if (self.buffer.len() <= ROOM || ends_head(&self.buffer, new))
                && let Some(response) = self.parse(&mut call)?
            {
                break response;
            }
        };
        if response.status().is_informational() {
            return Err(Broken::NoAnswer(response.status()));
        }
        let (body, closes) = match call.proceed().ok_or(Broken::Stuck)? {
            RecvResponseResult::RecvBody(call) => (Some(Box::new(call)), false),
            RecvResponseResult::Redirect(call) => (None, call.must_close_connection()),
            RecvResponseResult::Cleanup(call) => (None, call.must_close_connection()),
        };
        let closes = closes || !is_plain(&response);
        Ok((response, Rest { body, closes }))
    }

    /// The head, where all of it was read. What is said before it (1xx) is left out.
    fn parse(&mut self, call: &mut Call<RecvResponse>) -> Result<Option<Response<()>>, Error> {
        let mut used = 0;
        loop {
            let (more, response) = call.try_response(&self.buffer[used..], false)?;
            used += more;
            if more == 0 || response.is_some() {
                self.buffer.drain(..used);
                return Ok(response);
            }
        }
    }

    /// Reads what follows a head, and says what the connection is good for then.
    ///
    /// # Errors
    /// It is not all there, or longer than `most` bytes.
    pub async fn rest(&mut self, rest: Rest, most: usize) -> Result<(Vec<u8>, Then), Broken> {
        let (body, ends) = match rest.body {
            Some(call) => self.body(call, most).await?,
            None => (Vec::new(), false),
        };
        self.buffer.shrink_to(ROOM);
        let then = match self.stream.unread() {
            _ if !self.buffer.is_empty() => Then::More,
            Unread::Bytes => Then::More,
            Unread::Nothing if !rest.closes && !ends => Then::Open,
            Unread::Nothing | Unread::End => Then::Closes,
        };
        Ok((body, then))
    }

    async fn body(
        &mut self,
        mut call: Box<Call<RecvBody>>,
        most: usize,
    ) -> Result<(Vec<u8>, bool), Broken> {
        let until_closed = call.body_mode() == BodyMode::CloseDelimited;
        let (mut body, mut framing) = (Vec::new(), 0);
        loop {
            let before = body.len();
            // What is in chunks becomes shorter.
            body.resize(before + self.buffer.len(), 0);
            let (used, got) = call.read(&self.buffer, &mut body[before..])?;
            body.truncate(before + got);
            self.buffer.drain(..used);
            framing += used - got;
            if body.len() > most || framing + self.buffer.len() > most {
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
            };
        }
        let closes = match call.proceed().ok_or(Broken::Stuck)? {
            RecvBodyResult::Cleanup(call) => call.must_close_connection(),
            RecvBodyResult::Redirect(call) => call.must_close_connection(),
        };
        Ok((body, closes))
    }

    /// Reads what there is, and returns how many bytes.
    async fn read(&mut self) -> Result<usize, Broken> {
        self.buffer.reserve(ROOM);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(Broken::Ended),
            read => Ok(read),
        }
    }
}

/// Whether a head may end in the last `new` bytes, which is where an empty line does.
fn ends_head(read: &[u8], new: usize) -> bool {
    const EMPTY_LINE: &[u8] = b"\n\r\n";
    let begin = (read.len() - new).saturating_sub(EMPTY_LINE.len() - 1);
    let tail = &read[begin..];
    let has = |end: &[u8]| tail.windows(end.len()).any(|bytes| bytes == end);
    has(EMPTY_LINE) || has(b"\n\n")
}

/// Whether it is beyond doubt where the reply ends (RFC 9112, 6.3): only then can another one
/// follow it.
fn is_plain(response: &Response<()>) -> bool {
    let headers = response.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_clear = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            let has_body =
                ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&response.status());
            coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && !headers.contains_key(CONTENT_LENGTH)
                && has_body
        }
        (Some(_), Some(_)) => false,
    };
    is_clear && response.version() == Version::HTTP_11
}

/// Writes a request to `out`.
fn write(
    mut request: Request<()>,
    body: &[u8],
    out: &mut Vec<u8>,
) -> Result<Call<RecvResponse>, Broken> {
    if !body.is_empty() {
        let length = body.len().into();
        request.headers_mut().insert(CONTENT_LENGTH, length);
    }
    // Without it a processor may compress what it answers (RFC 9110, 12.5.3), and nobody here reads
    // that.
    let headers = request.headers_mut();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let mut call = Call::new(request)?.proceed();
    write_head(&mut call, out)?;
    match call.proceed()? {
        Some(SendRequestResult::RecvResponse(call)) => Ok(call),
        Some(SendRequestResult::SendBody(mut call)) => {
            call.consume_direct_write(body.len())?;
            out.extend_from_slice(body);
            call.proceed().ok_or(Broken::Stuck)
        }
        Some(SendRequestResult::Await100(_)) | None => Err(Broken::Stuck),
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
