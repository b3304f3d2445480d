//! Files that are part of the program: compressed once, at their first request, and known again by
//! their `ETag`.

use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::config::hexadecimal;

pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const CSS: &str = "text/css; charset=utf-8";
pub(super) const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
pub(super) const SVG: &str = "image/svg+xml";
pub(super) const JSON: &str = "application/json";

/// Everything comes from this address, and nothing stands inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// What may be kept, as long as it is asked each time whether it is still the same: the next
/// version of the program may stand here the next time.
const REVALIDATE: &str = "no-cache";
/// Bytes of the hash that stand in an `ETag`.
const TAG_BYTES: usize = 12;

/// A file, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct File {
    kind: &'static str,
    plain: Bytes,
    coded: Arc<OnceLock<Coded>>,
}

/// What is made of a file when it is asked for the first time: an instance has dozens of files, and
/// most are never read.
#[derive(Debug)]
struct Coded {
    gzip: Bytes,
    tag: HeaderValue,
}

impl Coded {
    fn of(plain: &[u8]) -> Self {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let written = gzip.write_all(plain).and_then(|()| gzip.finish());
        let hash = hexadecimal(&Sha256::digest(plain)[..TAG_BYTES]);
        Self {
            gzip: written.expect("memory can be written").into(),
            // Weak, because it is the same whatever the coding.
            tag: HeaderValue::try_from(format!("W/\"{hash}\"")).expect("hexadecimal digits"),
        }
    }
}

impl File {
    /// A file of that media type.
    pub(super) fn new(kind: &'static str, content: impl Into<Bytes>) -> Self {
        Self {
            kind,
            plain: content.into(),
            coded: Arc::default(),
        }
    }

    fn coded(&self) -> &Coded {
        self.coded.get_or_init(|| Coded::of(&self.plain))
    }

    /// The reply to a request with those headers: the file, compressed where the client takes that,
    /// or that it has it already.
    pub(super) fn reply(&self, request: &HeaderMap) -> Response {
        let mut response = if self.is_known(request) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if takes_gzip(request) {
            ([(CONTENT_ENCODING, "gzip")], self.coded().gzip.clone()).into_response()
        } else {
            self.plain.clone().into_response()
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, self.coded().tag.clone());
        for (name, value) in [
            (CONTENT_TYPE, self.kind),
            (CACHE_CONTROL, REVALIDATE),
            (VARY, "Accept-Encoding"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }

    /// Whether the client says that it has this file (RFC 9110, 13.1.2; compared weakly).
    fn is_known(&self, request: &HeaderMap) -> bool {
        let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let ours = opaque(self.coded().tag.to_str().unwrap_or_default());
        list(request, &IF_NONE_MATCH).any(|tag| tag.trim() == "*" || opaque(tag) == ours)
    }
}

/// Whether the client takes gzip (RFC 9110, 12.5.3): it names it, or everything, with a weight that
/// is not zero.
fn takes_gzip(request: &HeaderMap) -> bool {
    let weight_of = |wanted: &[&str]| {
        list(request, &ACCEPT_ENCODING).find_map(|coding| {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let name = name.trim();
            let named = wanted.iter().any(|known| name.eq_ignore_ascii_case(known));
            let weight = parameters
                .trim()
                .trim_start_matches(['q', 'Q'])
                .trim_start()
                .strip_prefix('=');
            named.then(|| weight.map_or(1.0, |text| text.trim().parse().unwrap_or(0.0)))
        })
    };
    weight_of(&["gzip", "x-gzip"])
        .or_else(|| weight_of(&["*"]))
        .is_some_and(|weight: f32| weight > 0.0)
}

/// The elements of all headers of that name.
fn list<'a>(
    headers: &'a HeaderMap,
    name: &axum::http::HeaderName,
) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
}

/// Keeps what is true now, or for operators only, out of every cache, and browsers from taking it
/// for what it is not.
pub(super) async fn keep_from_caches(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn headers(name: axum::http::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_is_sent_to_whoever_takes_it_and_to_nobody_else() {
        for (accepted, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("*", true),
            ("br, *;q=0.1", true),
            ("gzip;q=0, *", false),
            ("gzip; q=0.0", false),
            ("gzip; q = 1", true),
            ("br", false),
            ("", false),
            ("gzipped", false),
        ] {
            let takes = takes_gzip(&headers(ACCEPT_ENCODING, accepted));
            assert_eq!(takes, expected, "{accepted:?}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn a_file_is_the_same_in_both_codings_and_not_sent_to_whoever_has_it() {
        let text = "a text that repeats itself, ".repeat(100);
        let file = File::new(CSS, text.clone());
        let body = async |reply: Response| {
            let bytes = axum::body::to_bytes(reply.into_body(), usize::MAX).await;
            bytes.expect("a body in memory")
        };
        let plain = file.reply(&HeaderMap::new());
        assert!(!plain.headers().contains_key(CONTENT_ENCODING));
        let tag = plain.headers()[ETAG].clone();
        assert_eq!(body(plain).await, text.as_bytes());
        let small = file.reply(&headers(ACCEPT_ENCODING, "gzip"));
        assert_eq!(small.headers()[CONTENT_ENCODING], "gzip");
        let small = body(small).await;
        assert!(small.len() < text.len() / 10);
        let mut again = String::new();
        let read = flate2::read::GzDecoder::new(&small[..]).read_to_string(&mut again);
        read.expect("it is gzip");
        assert_eq!(again, text);
        let strong = tag
            .to_str()
            .expect("text")
            .trim_start_matches("W/")
            .to_owned();
        for (said, status) in [
            (tag.to_str().expect("text").to_owned(), 304),
            (format!("\"other\", {strong}"), 304),
            ("*".to_owned(), 304),
            ("\"other\"".to_owned(), 200),
        ] {
            let mut request = HeaderMap::new();
            request.insert(IF_NONE_MATCH, said.parse().expect("a value"));
            let reply = file.reply(&request);
            assert_eq!(reply.status().as_u16(), status, "{said}");
            assert_eq!(reply.headers()[ETAG], tag);
            assert_eq!(body(reply).await.is_empty(), status == 304);
        }
    }
}
