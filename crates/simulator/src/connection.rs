//! One connection of a client, and the work that outlives it.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gateway::Unasked;
use super::{Processor, http};

/// The work that goes on when its client goes away.
#[derive(Debug, Clone, Default)]
pub(super) struct Work {
    pub(super) tasks: TaskTracker,
    /// Ends all work where it stands, as a kill would.
    pub(super) killed: CancellationToken,
}

impl Work {
    /// Does the work apart from the caller, who may stop waiting for it. `None` when it was killed.
    pub(super) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let killed = self.killed.clone();
        self.tasks
            .spawn(killed.run_until_cancelled_owned(work))
            .await
            .ok()
            .flatten()
    }

    /// Does the work, for which nobody waits.
    pub(super) fn begin(&self, work: impl Future<Output = ()> + Send + 'static) {
        let killed = self.killed.clone();
        self.tasks.spawn(killed.run_until_cancelled_owned(work));
    }
}

/// Serves a connection until the client closes it, it is cut, or `closing` and its request is done.
pub(super) async fn converse(
    processor: Arc<Processor>,
    work: Work,
    stream: TcpStream,
    cut: CancellationToken,
    closing: CancellationToken,
) {
    let reset = Arc::new(AtomicBool::new(false));
    let unasked = Arc::new(Mutex::new(None));
    let socket = Socket {
        stream,
        reset: Arc::clone(&reset),
        unasked: Arc::clone(&unasked),
    };
    let resets = Arc::clone(&reset);
    let service = service_fn(move |request| {
        let (processor, work, resets) = (Arc::clone(&processor), work.clone(), Arc::clone(&resets));
        let unasked = Arc::clone(&unasked);
        async move {
            let mut reply = http::answer(&processor, &work, request)
                .await
                .inspect_err(|cut| resets.store(cut.reset, Ordering::Release));
            if let Ok(reply) = &mut reply
                && let Some(follows) = reply.extensions_mut().remove::<Unasked>()
            {
                *unasked.lock().expect("no code panics under this lock") = Some(follows);
            }
            reply
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    // An error here is a client that went away or a cut connection; neither is news.
    tokio::select! {
        _ = &mut connection => return,
        () = cut.cancelled() => {
            reset.store(true, Ordering::Release);
            return;
        }
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = &mut connection => {}
        () = cut.cancelled() => reset.store(true, Ordering::Release),
    }
}

/// A stream that, when told so, is reset instead of closed when it is dropped.
struct Socket {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
    /// What it is to say unasked.
    unasked: Arc<Mutex<Option<Unasked>>>,
}

impl Socket {
    /// Says what nobody asked for, where it is time for that.
    fn speak(&self, next_has_come: bool) {
        let mut unasked = self.unasked.lock().expect("no code panics under this lock");
        if let Some(Unasked { bytes, .. }) = unasked.take_if(|it| it.waits == next_has_come) {
            // Where the buffer of the system is full nobody reads any more.
            let _ = self.stream.try_write(bytes);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Acquire) {
            // Where this fails the connection is gone already.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() > before {
            self.speak(true);
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.speak(false);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
