//! What stands between an instance and its database: an address that can lead elsewhere, and lines
//! that can die.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What becomes of the connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Open,
    /// Nothing goes through any more, and nobody is told.
    Dead,
    /// They are closed.
    Cut,
}

/// An address on this machine that leads to a server's socket.
pub struct Forwarder {
    port: u16,
    to: Arc<Mutex<PathBuf>>,
    line: watch::Sender<Line>,
    _lines: JoinSet<()>,
}

impl Forwarder {
    pub async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (to, line) = (Arc::new(Mutex::new(socket)), watch::Sender::new(Line::Open));
        let mut lines = JoinSet::new();
        let (target, state) = (Arc::clone(&to), line.clone());
        lines.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let client = listener.accept().await.expect("a connection").0;
                let socket = target.lock().expect("not poisoned").clone();
                let mut state = state.subscribe();
                state.mark_unchanged();
                open.spawn(async move { forward(client, socket, state).await });
            }
        });
        Self {
            port,
            to,
            line,
            _lines: lines,
        }
    }

    pub fn url(&self) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable",
            self.port
        )
    }

    /// Connections that are made from now on lead there; those that are open stay.
    pub fn turn_to(&self, socket: PathBuf) {
        *self.to.lock().expect("not poisoned") = socket;
    }

    /// The connections that are open fall silent for ever; new ones do not.
    pub fn silence(&self) {
        self.line.send_replace(Line::Dead);
    }

    /// The connections that are open are closed.
    pub fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }
}

async fn forward(mut client: TcpStream, socket: PathBuf, mut line: watch::Receiver<Line>) {
    // A server that is away: the client sees a connection that ends at once.
    let Ok(mut server) = UnixStream::connect(socket).await else {
        return;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = line.changed() => {
            if *line.borrow() == Line::Dead {
                std::future::pending().await
            }
        }
    }
}
