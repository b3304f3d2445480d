//! The listener: accepting connections, outages, and the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connection::{Work, converse};
use super::{Processor, Settings};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;

/// How long [`Running::stop`] lets payments that are being served come to their end.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// How long to wait when the system has no more file descriptors for a connection.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// How long the port of a listener that was closed may be taken. A program that this process is
/// starting at that moment has a copy of the listener until it runs.
const BIND_WITHIN: Duration = Duration::from_secs(1);
/// The pause before the next attempt to take it.
const BIND_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// A simulated processor that serves. Dropping it is like killing it.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it has stored and how it behaves.
    pub processor: Arc<Processor>,
    accepting: JoinHandle<io::Result<()>>,
    connections: TaskTracker,
    work: Work,
    closing: CancellationToken,
    cut_all: CancellationToken,
    _kill_on_drop: [DropGuard; 3],
}

impl Running {
    /// Where it listens, as clients write it.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops: no new connection, and what is being served may end within two seconds.
    pub async fn stop(self) {
        self.closing.cancel();
        self.work.tasks.close();
        self.connections.close();
        let ends = async {
            self.connections.wait().await;
            self.work.tasks.wait().await;
        };
        // Whatever is still running then is cut off by the drop of `self`.
        let _ = tokio::time::timeout(STOP_WITHIN, ends).await;
        self.kill().await;
    }

    /// Stops as kill -9 does: connections are reset and payments on their way are not stored.
    /// The records stay in [`Running::processor`], which can be served again.
    pub async fn kill(mut self) {
        self.closing.cancel();
        self.cut_all.cancel();
        self.work.killed.cancel();
        self.work.tasks.close();
        self.connections.close();
        self.connections.wait().await;
        self.work.tasks.wait().await;
        // The result only matters to those who wait for the end of the listener.
        let _ = (&mut self.accepting).await;
    }

    /// Waits until the listener fails, which is the only way it ends by itself.
    pub(super) async fn failed(&mut self) -> io::Error {
        match (&mut self.accepting).await {
            Ok(Ok(())) => io::Error::other("the listener was closed"),
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        }
    }
}

/// Starts a new processor on this listener.
pub fn start(settings: Settings, listener: TcpListener) -> io::Result<Running> {
    serve(Processor::open(settings)?, listener)
}

/// Serves a processor, possibly one that was served before, on this listener.
pub fn serve(processor: Arc<Processor>, listener: TcpListener) -> io::Result<Running> {
    let addr = listener.local_addr()?;
    let connections = TaskTracker::new();
    let work = Work::default();
    let closing = CancellationToken::new();
    let cut_all = CancellationToken::new();
    let acceptor = Acceptor {
        addr,
        outages: processor.outages(),
        processor: Arc::clone(&processor),
        connections: connections.clone(),
        work: work.clone(),
        closing: closing.clone(),
        cut_open: cut_all.child_token(),
        cut_all: cut_all.clone(),
    };
    let kill_on_drop = [
        closing.clone().drop_guard(),
        cut_all.clone().drop_guard(),
        work.killed.clone().drop_guard(),
    ];
    Ok(Running {
        addr,
        processor,
        accepting: tokio::spawn(acceptor.run(listener)),
        connections,
        work,
        closing,
        cut_all,
        _kill_on_drop: kill_on_drop,
    })
}

/// Accepts connections, except while there is an outage.
struct Acceptor {
    addr: SocketAddr,
    processor: Arc<Processor>,
    outages: watch::Receiver<Option<Instant>>,
    connections: TaskTracker,
    work: Work,
    closing: CancellationToken,
    /// Cuts the connections that are open now; replaced after each outage.
    cut_open: CancellationToken,
    cut_all: CancellationToken,
}

impl Acceptor {
    async fn run(mut self, mut listener: TcpListener) -> io::Result<()> {
        let closing = self.closing.clone();
        self.outages.mark_changed();
        loop {
            tokio::select! {
                () = closing.cancelled() => return Ok(()),
                changed = self.outages.changed() => {
                    changed.expect("the processor that sends is held here");
                    if self.outage_ends().is_some() {
                        match self.sit_out(listener).await? {
                            Some(revived) => listener = revived,
                            None => return Ok(()),
                        }
                    }
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.welcome(stream),
                    Err(error) => {
                        tracing::warn!(%error, "connection not accepted");
                        tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                    }
                }
            }
        }
    }

    /// When the outage of this moment ends, if there is one.
    fn outage_ends(&mut self) -> Option<Instant> {
        let ends = *self.outages.borrow_and_update();
        ends.filter(|ends| *ends > Instant::now())
    }

    fn welcome(&self, stream: TcpStream) {
        if self.processor.faults.resets_connection() {
            // Where this fails the connection is gone already.
            let _ = stream.set_zero_linger();
            return;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "client gone before it was served");
            return;
        }
        self.connections.spawn(converse(
            Arc::clone(&self.processor),
            self.work.clone(),
            stream,
            self.cut_open.clone(),
            self.closing.clone(),
        ));
    }

    /// Closes the listener and cuts all connections until the outage is over. A socket that is
    /// bound and does not listen keeps the port meanwhile, so that the kernel refuses connections
    /// and nobody else can take it. `None` when the end came first.
    async fn sit_out(&mut self, listener: TcpListener) -> io::Result<Option<TcpListener>> {
        self.processor.faults.count_outage();
        drop(listener);
        let place_holder = match self.addr {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        place_holder.set_reuseaddr(true)?;
        let bound_by = Instant::now() + BIND_WITHIN;
        while let Err(error) = place_holder.bind(self.addr) {
            if error.kind() != io::ErrorKind::AddrInUse || Instant::now() > bound_by {
                return Err(error);
            }
            tokio::time::sleep(BIND_AGAIN_AFTER).await;
        }
        self.cut_open.cancel();
        self.cut_open = self.cut_all.child_token();
        while let Some(ends) = self.outage_ends() {
            tokio::select! {
                () = self.closing.cancelled() => return Ok(None),
                () = tokio::time::sleep_until(ends) => {}
                _ = self.outages.changed() => {}
            }
        }
        place_holder.listen(BACKLOG).map(Some)
    }
}
