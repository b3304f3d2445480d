//! How long a client is waited for: a stream and a body that end when it takes too long.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Limits;
use super::connections::Wait;

/// The requests of one connection, as its stream and its service count them.
pub(super) struct Requests {
    begun: AtomicUsize,
    answered: AtomicUsize,
    wait: Arc<Wait>,
}

impl Requests {
    /// None yet; whose turn it is will be told to `wait`.
    pub(super) fn new(wait: Arc<Wait>) -> Arc<Self> {
        Arc::new(Self {
            begun: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            wait,
        })
    }

    /// All of the request was read.
    pub(super) fn is_whole(&self) {
        self.wait.for_us();
    }

    /// A head was read. Dropped when there is a reply.
    pub(super) fn begin(self: &Arc<Self>) -> Unanswered {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Unanswered(Arc::clone(self))
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    fn all_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) == self.begun()
    }
}

/// A request that has no reply yet.
pub(super) struct Unanswered(Arc<Requests>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
        self.0.wait.for_client();
    }
}

/// Wakes a task at a deadline that moves most of the time, mostly away: the timer is then left as
/// it is, and looked at when it fires.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    fn is_past(&mut self, deadline: Instant, context: &mut Context<'_>) -> bool {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }
}

/// A head that is on its way.
struct Head {
    /// How many had been read before.
    before: usize,
    /// When its first byte came.
    begun_at: Instant,
    /// Bytes that came so far.
    received: usize,
}

/// A client's connection, which breaks off when the client does not send or take for too long.
pub(super) struct PatientStream<S> {
    stream: S,
    limits: Limits,
    requests: Arc<Requests>,
    /// When a byte went in either direction last.
    active_at: Instant,
    head: Option<Head>,
    /// Since when the client takes nothing.
    stalled_at: Option<Instant>,
    read_alarm: Alarm,
    write_alarm: Alarm,
}

impl<S> PatientStream<S> {
    /// A stream on which those requests come.
    pub(super) fn new(stream: S, limits: Limits, requests: Arc<Requests>) -> Self {
        Self {
            stream,
            limits,
            requests,
            active_at: Instant::now(),
            head: None,
            stalled_at: None,
            read_alarm: Alarm::default(),
            write_alarm: Alarm::default(),
        }
    }

    /// Until when the client has to send something; none while it waits for us.
    fn read_deadline(&self) -> Option<Instant> {
        if !self.requests.all_answered() {
            return None; // a body has a limit of its own
        }
        Some(match &self.head {
            Some(head) if head.before == self.requests.begun() => {
                head.begun_at + self.limits.due(self.limits.head, head.received)
            }
            _ => self.active_at + self.limits.idle,
        })
    }

    /// What a write came to, unless the client has stalled for too long.
    fn written<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.active_at = Instant::now();
            self.stalled_at = None;
            return outcome;
        }
        let stalled_at = *self.stalled_at.get_or_insert_with(Instant::now);
        if self
            .write_alarm
            .is_past(stalled_at + self.limits.stall, context)
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PatientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if outcome.is_ready() {
            self.active_at = Instant::now();
            let before = self.requests.begun();
            let received = buffer.filled().len() - filled;
            let is_first = self.head.as_ref().is_none_or(|head| head.before != before);
            if is_first && self.requests.all_answered() {
                self.head = Some(Head {
                    before,
                    begun_at: self.active_at,
                    received,
                });
            } else if let (false, Some(head)) = (is_first, &mut self.head) {
                head.received += received;
            }
            return outcome;
        }
        match self.read_deadline() {
            Some(deadline) if self.read_alarm.is_past(deadline, context) => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            _ => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PatientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(outcome, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of a request, which fails when the client does not send the whole of it in time.
pub(super) struct PatientBody {
    body: Incoming,
    limits: Limits,
    requests: Arc<Requests>,
    begun_at: Option<Instant>,
    received: usize,
    alarm: Alarm,
}

impl PatientBody {
    /// A body that has so long, from when it is first waited for. Once it is there, `requests` are
    /// told so.
    pub(super) fn new(body: Incoming, limits: Limits, requests: Arc<Requests>) -> Self {
        if body.is_end_stream() {
            requests.is_whole();
        }
        Self {
            body,
            limits,
            requests,
            begun_at: None,
            received: 0,
            alarm: Alarm::default(),
        }
    }
}

/// The client did not send the whole body in time.
#[derive(Debug)]
pub(super) struct TooSlow {
    /// How long it had.
    limit: Duration,
    /// The bytes a second that it came with were fewer than these.
    least_rate: Option<u32>,
}

impl fmt::Display for TooSlow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.least_rate {
            None => write!(out, "the body did not arrive within {:?}", self.limit),
            Some(rate) => write!(
                out,
                "the body did not arrive at {rate} bytes a second: after {:?} more of it was due",
                self.limit
            ),
        }
    }
}

impl std::error::Error for TooSlow {}

impl Body for PatientBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let outcome = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(frame) = outcome {
            if let Some(Ok(frame)) = &frame {
                self.received += frame.data_ref().map_or(0, Bytes::len);
            }
            if frame.is_none() || self.body.is_end_stream() {
                self.requests.is_whole();
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let begun_at = *self.begun_at.get_or_insert_with(Instant::now);
        let (whole, rate) = (self.limits.body, self.limits.least_rate);
        let limit = self.limits.due(whole, self.received);
        if self.alarm.is_past(begun_at + limit, context) {
            let least_rate = (limit < whole).then_some(rate);
            return Poll::Ready(Some(Err(Box::new(TooSlow { limit, least_rate }))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
