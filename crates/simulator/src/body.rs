//! The body of a reply.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::listing::Listing;

/// Nothing, which has a length, or something, which is sent in chunks, as the real processor does.
pub(super) enum Body {
    Chunks(VecDeque<Bytes>),
    Listing(Listing),
    None,
}

impl Body {
    pub(super) fn none() -> Self {
        Self::None
    }

    pub(super) fn chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        Self::Chunks(chunks.into_iter().collect())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::None => Poll::Ready(None),
            Self::Chunks(chunks) => {
                Poll::Ready(chunks.pop_front().map(|chunk| Ok(Frame::data(chunk))))
            }
            Self::Listing(listing) => Pin::new(listing).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Chunks(chunks) => chunks.is_empty(),
            Self::Listing(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Chunks(_) | Self::Listing(_) => SizeHint::default(),
        }
    }
}
