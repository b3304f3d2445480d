//! `GET /admin/payment-ids`: every stored payment, one line each. Only the simulator has it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::Processor;
use super::wire::PaymentReply;

/// Payments per chunk: so few that no payment waits long for the records, which are locked
/// meanwhile.
const CHUNK: usize = 1024;

/// The body of the listing: the payments that were stored when it began, in the order of storing,
/// as newline separated JSON. It ends early when the records are emptied meanwhile.
pub(super) struct Listing {
    processor: Arc<Processor>,
    next: usize,
    end: usize,
    purges: u64,
}

impl Listing {
    pub(super) fn new(processor: &Arc<Processor>) -> Self {
        let (end, purges) = processor.read(|records| (records.rows().len(), records.purges()));
        Self {
            processor: Arc::clone(processor),
            next: 0,
            end,
            purges,
        }
    }

    fn chunk(&mut self) -> Option<Bytes> {
        let to = self.end.min(self.next + CHUNK);
        let rows = self.processor.read(|records| {
            (records.purges() == self.purges).then(|| records.rows()[self.next..to].to_vec())
        })?;
        if rows.is_empty() {
            return None;
        }
        self.next = to;
        let mut lines = Vec::with_capacity(rows.len() * 128);
        for payment in &rows {
            serde_json::to_writer(&mut lines, &PaymentReply::from(payment))
                .expect("a vector takes every write");
            lines.push(b'\n');
        }
        Some(lines.into())
    }
}

impl Body for Listing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.chunk().map(|chunk| Ok(Frame::data(chunk))))
    }
}
