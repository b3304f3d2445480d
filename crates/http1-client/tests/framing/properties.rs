//! What holds of replies whatever a server sends. The fuzz targets (`fuzz/`) are these functions.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use http1_client::MAX_BODY_BYTES;
use http1_client::exchange::{Connection, Stream, Then, Unread};
use hyper::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a reply that are not taken one by one any more.
const LONG: usize = 256;

/// What a server sends: pieces, of which each comes by itself, and then nothing more, or the end.
struct Server {
    pieces: VecDeque<Vec<u8>>,
    closes: bool,
}

impl AsyncRead for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.pieces.pop_front() else {
            return if self.closes {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        };
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Server {
    fn unread(&mut self) -> Unread {
        match (self.pieces.is_empty(), self.closes) {
            (false, _) => Unread::Bytes,
            (true, true) => Unread::End,
            (true, false) => Unread::Nothing,
        }
    }
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// No reply, or not all of it, and none can follow.
    Broken,
    /// More has to come.
    Waits,
    /// A reply: status, body, and what the connection is good for.
    Reply(u16, Vec<u8>, Then),
}

fn outcome(sent: &[u8], piece: usize, closes: bool) -> Outcome {
    let pieces = sent.chunks(piece.max(1)).map(<[u8]>::to_vec).collect();
    let mut connection = Connection::new(Box::new(Server { pieces, closes }));
    let asked = async {
        let request = Request::post("http://server/payments").body(())?;
        let prepared = connection.prepare(request, b"{}")?;
        let (head, rest) = connection.ask(prepared).await?;
        let (body, then) = connection.rest(rest, MAX_BODY_BYTES).await?;
        Ok::<_, Box<dyn std::error::Error>>((head.status().as_u16(), body, then))
    };
    match asked.now_or_never() {
        None => Outcome::Waits,
        Some(Err(_)) => Outcome::Broken,
        Some(Ok((status, body, then))) => Outcome::Reply(status, body, then),
    }
}

/// A reply is the same in one piece and in many.
pub fn framing(sent: &[u8]) {
    // A long head that comes byte by byte is parsed for each of them, up to a length.
    let small = if sent.len() <= LONG { 1 } else { 97 };
    for closes in [false, true] {
        let whole = outcome(sent, sent.len(), closes);
        let cut = outcome(sent, small, closes);
        assert_eq!(cut, whole, "pieces of {small}, closes: {closes}");
    }
}

/// A connection is used again only after a reply whose end is beyond doubt, with nothing behind it.
pub fn reuse(sent: &[u8]) {
    let Outcome::Reply(status, body, Then::Open) = outcome(sent, sent.len(), false) else {
        return;
    };
    // Not a byte less would have been the reply, and a byte more is somebody else's.
    let less = outcome(&sent[..sent.len() - 1], sent.len(), false);
    assert_eq!(less, Outcome::Waits);
    let more = [sent, b"H"].concat();
    assert_eq!(
        outcome(&more, more.len(), false),
        Outcome::Reply(status, body.clone(), Then::More)
    );
    assert_eq!(
        outcome(sent, sent.len(), true),
        Outcome::Reply(status, body.clone(), Then::Closes)
    );
    // By another reader of HTTP.
    let mut rest = sent;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = head.parse(rest).expect("it is HTTP") else {
            panic!("the head is not all there");
        };
        let code = head.code.expect("a status");
        if (100..200).contains(&code) {
            rest = &rest[length..];
            continue;
        }
        assert_eq!((code, head.version), (status, Some(1)));
        let values = |name: &'static str| {
            let headers = head.headers.iter();
            let headers = headers.filter(move |header| header.name.eq_ignore_ascii_case(name));
            headers.map(|header| {
                String::from_utf8_lossy(header.value)
                    .trim()
                    .to_ascii_lowercase()
            })
        };
        let closes = values("connection").any(|it| it.split(',').any(|it| it.trim() == "close"));
        assert!(!closes, "it said that it closes");
        let codings: Vec<String> = values("transfer-encoding").collect();
        let lengths: Vec<String> = values("content-length").collect();
        let has_none = matches!(status, 204 | 304);
        match (&codings[..], &lengths[..]) {
            ([], []) => assert!(has_none, "it ends with the connection"),
            ([coding], []) => assert!(coding == "chunked" && !has_none),
            ([], lengths) if !has_none => {
                let told = body.len().to_string();
                let is_told = |it: &str| it.trim_start_matches('0') == told.trim_start_matches('0');
                assert!(
                    lengths.iter().all(|length| is_told(length)),
                    "{lengths:?}, {told}"
                );
                assert_eq!(&rest[length..], body);
            }
            ([], _) => assert!(body.is_empty() && rest.len() == length),
            _ => panic!("two ways to tell where it ends: {codings:?} {lengths:?}"),
        }
        return;
    }
}
