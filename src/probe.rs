//! Asks an instance whether it is ready: the health check of a container that has no curl.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::config::Listen;

/// How long connecting, sending and each read of the reply may take.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// HTTP/1.0, so that the connection ends with the reply.
const REQUEST: &[u8] = b"GET /readyz HTTP/1.0\r\n\r\n";

/// Only the status line is of interest: `HTTP/1.0 204`.
const STATUS_LINE_BYTES: usize = 12;

/// `Ok` when the instance that listens there answers `GET /readyz` with a 2xx.
///
/// # Errors
///
/// Nothing listens there, or it does not answer in [`PROBE_TIMEOUT`], or it says that it is not
/// ready.
pub fn probe(listen: &Listen) -> io::Result<()> {
    match listen {
        Listen::Tcp(_) | Listen::Name(_) => {
            let mut addresses = listen.to_string().to_socket_addrs()?;
            let address = addresses.next().ok_or(io::ErrorKind::NotFound)?;
            let stream = TcpStream::connect_timeout(&reachable(address), PROBE_TIMEOUT)?;
            stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
            stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
            ask(stream)
        }
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
            stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
            ask(stream)
        }
    }
}

/// Who listens on every address is asked on the loopback one.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

fn ask(mut stream: impl Read + Write) -> io::Result<()> {
    stream.write_all(REQUEST)?;
    let mut line = [0; STATUS_LINE_BYTES];
    stream.read_exact(&mut line)?;
    if line.starts_with(b"HTTP/1.") && line[8..].starts_with(b" 2") {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "answered {}",
        String::from_utf8_lossy(&line).trim_end()
    )))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Answers one request, whole or in pieces, and ends.
    fn answer(mut stream: impl Read + Write, reply: &[&str]) {
        let mut request = [0; REQUEST.len()];
        stream.read_exact(&mut request).unwrap();
        assert_eq!(request, REQUEST);
        for piece in reply {
            stream.write_all(piece.as_bytes()).unwrap();
            stream.flush().unwrap();
        }
    }

    fn probe_of(reply: &'static [&'static str]) -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || answer(listener.accept().unwrap().0, reply));
        let listen = Listen::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        let outcome = probe(&listen);
        server.join().unwrap();
        outcome
    }

    #[test]
    fn an_instance_that_is_ready_passes() {
        probe_of(&["HTTP/1.0 204 No Content\r\n\r\n"]).unwrap();
        probe_of(&["HTT", "P/1.1 2", "00 OK\r\n\r\n"]).unwrap();
    }

    #[test]
    fn an_instance_that_is_not_ready_fails_with_its_status() {
        let error = probe_of(&["HTTP/1.0 503 Service Unavailable\r\n\r\n"]).unwrap_err();
        assert_eq!(error.to_string(), "answered HTTP/1.0 503");
    }

    #[test]
    fn a_reply_that_breaks_off_fails() {
        assert_eq!(
            probe_of(&["HTTP/1.0 2"]).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn a_unix_socket_is_asked_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        assert!(probe(&Listen::Unix(path.clone())).is_err());
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            answer(
                listener.accept().unwrap().0,
                &["HTTP/1.0 204 No Content\r\n\r\n"],
            )
        });
        probe(&Listen::Unix(path)).unwrap();
        server.join().unwrap();
    }
}
