//! The header `traceparent`: a place in somebody's trace.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The name of the header.
pub const TRACEPARENT: &str = "traceparent";

/// A place in somebody's trace, as the header `traceparent` of the W3C gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    pub(crate) flags: TraceFlags,
}

/// The length of a header of version 00, with which those of later versions begin
/// (<https://www.w3.org/TR/trace-context/#versioning-of-traceparent>).
const HEADER_BYTES: usize = 55;

impl Traceparent {
    /// Reads a header. One that is not valid is as good as none.
    #[must_use]
    pub fn read(header: &str) -> Option<Self> {
        struct Header<'a>(&'a str);
        impl Extractor for Header<'_> {
            fn get(&self, key: &str) -> Option<&str> {
                (key == TRACEPARENT).then_some(self.0)
            }
            fn keys(&self) -> Vec<&str> {
                vec![TRACEPARENT]
            }
        }
        // The library takes ids that are too short, and looks for hyphens wherever they are.
        let bytes = header.as_bytes();
        let mut places = bytes.iter().take(HEADER_BYTES).enumerate();
        let well_formed = places.all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
        let later_version = !header.starts_with("00") && bytes.get(HEADER_BYTES) == Some(&b'-');
        if !well_formed || !(bytes.len() == HEADER_BYTES || later_version) {
            return None;
        }
        let context =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Header(header));
        let span = context.span();
        let found = span.span_context();
        found.is_valid().then(|| Self {
            trace_id: found.trace_id(),
            span_id: found.span_id(),
            flags: found.trace_flags(),
        })
    }

    pub(crate) fn context(self, remote: bool) -> SpanContext {
        SpanContext::new(
            self.trace_id,
            self.span_id,
            self.flags,
            remote,
            TraceState::NONE,
        )
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span, flags) = (self.trace_id, self.span_id, self.flags.to_u8());
        write!(out, "00-{trace}-{span}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_w3c_says_and_written_as_it_was() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let read = Traceparent::read(valid).expect("it is valid");
        assert_eq!(read.to_string(), valid);
        for invalid in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7\u{0}01",
            "01-0bf92f36-00f067aa0ba902b7-ff-mor-00f067aa0ba902b7-ff-more",
        ] {
            assert_eq!(Traceparent::read(invalid), None, "{invalid:?}");
        }
    }
}
