//! The kinds of problems that the APIs report: the `type` of each (RFC 9457), what it means and
//! what its reader does about it.

use axum::http::StatusCode;

/// Where the explanation of a kind is served: this, and the kind's name.
pub(crate) const PROBLEMS_PATH: &str = "/problems";

macro_rules! kinds {
    ($($variant:ident = $name:literal, $status:ident, $title:literal, $meaning:literal;)*) => {
        /// What kind of problem it is. The kind decides `type`, `title` and `status` of a reply.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ProblemKind {
            $(#[doc = $meaning] $variant,)*
        }

        impl ProblemKind {
            /// All kinds, in the order of their status.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The `type` of a reply: a reference to the page that explains the kind.
            #[must_use]
            pub const fn reference(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("/problems/", $name),)*
                }
            }

            /// The status of a reply.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$variant => StatusCode::$status,)*
                }
            }

            /// The `title` of a reply.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$variant => $title,)*
                }
            }

            /// What has happened, and what its reader does about it.
            #[must_use]
            pub(crate) const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)*
                }
            }
        }
    };
}

kinds! {
    MalformedRequest = "malformed-request", BAD_REQUEST, "Malformed request",
        "The request is not well-formed HTTP, lacks its Host header, or has headers that are too \
         large. Nothing was done. Mend the client.";
    MalformedBody = "malformed-body", BAD_REQUEST, "Malformed body",
        "The body is not a JSON object in UTF-8, or it ended too early. Nothing was done. Mend the \
         client.";
    InvalidParameter = "invalid-parameter", BAD_REQUEST, "Invalid parameter",
        "A part of the path or a parameter of the query is not what it must be; `detail` says \
         which. Nothing was done. Mend the request.";
    TokenMissingOrWrong = "token-missing-or-wrong", UNAUTHORIZED, "Token missing or wrong",
        "Operators identify themselves by `Authorization: Bearer` with the operator's token, or by \
         the cookie of a session that has not ended. Nothing was done.";
    ForeignPage = "foreign-page", FORBIDDEN, "Foreign page",
        "The cookie of a browser came with a request that a page of another address made. Nothing \
         was done.";
    PurgeNotAllowed = "purge-not-allowed", FORBIDDEN, "Purge not allowed",
        "This deployment does not allow its payments to be deleted. Nothing was done.";
    NotFound = "not-found", NOT_FOUND, "Not found",
        "There is nothing at this path. Mend the request.";
    PaymentNotFound = "payment-not-found", NOT_FOUND, "Payment not found",
        "No payment with this id is known. After a POST whose outcome is unknown, post the same id \
         again.";
    ProcessorNotFound = "processor-not-found", NOT_FOUND, "Processor not found",
        "No processor has this name, or none is simulated here. Nothing was done.";
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "Method not allowed",
        "The path does not take this method; the `Allow` header says which it takes. Nothing was \
         done.";
    BodyTimeout = "body-timeout", REQUEST_TIMEOUT, "Body timeout",
        "The body did not arrive in time. Nothing was done. Send the request again.";
    AmountConflict = "amount-conflict", CONFLICT, "Amount conflict",
        "A payment with this id and another amount was accepted before, and stays as it is. Find \
         out which amount is right; a different payment needs a new id.";
    BodyTooLarge = "body-too-large", PAYLOAD_TOO_LARGE, "Body too large",
        "The body is longer than 4 KiB. Nothing was done. Mend the client.";
    UriTooLong = "uri-too-long", URI_TOO_LONG, "URI too long",
        "The request line is longer than 8 KiB. Nothing was done. Mend the client.";
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE,
        "Unsupported media type",
        "The body is not announced as `application/json`. Nothing was done. Mend the client.";
    UnsupportedContentCoding = "unsupported-content-coding", UNSUPPORTED_MEDIA_TYPE,
        "Unsupported content coding",
        "The body is compressed, as its `Content-Encoding` says; it is taken as it is only, as \
         `Accept-Encoding` of the reply says. Nothing was done. Mend the client.";
    InvalidField = "invalid-field", UNPROCESSABLE_ENTITY, "Invalid field",
        "A field of the body is missing, stands twice, or is not what it must be; `detail` says \
         which and why. Nothing was done. Mend the body.";
    ArchivedRange = "archived-range", UNPROCESSABLE_ENTITY, "Range cuts archived hours",
        "The range begins or ends within an hour whose payments are archived, of which only the \
         whole hour's totals are left; `detail` names it. Ask for whole hours.";
    TooManyWrongTokens = "too-many-wrong-tokens", TOO_MANY_REQUESTS, "Too many wrong tokens",
        "Too many requests with a wrong token came at once. The right token passes all the same. \
         Wait for `Retry-After` seconds.";
    TooManyConnections = "too-many-connections", TOO_MANY_REQUESTS, "Too many connections",
        "Too many requests from one address are in progress at once. Nothing was done. Wait for \
         `Retry-After` seconds, and send fewer at a time.";
    InternalError = "internal-error", INTERNAL_SERVER_ERROR, "Internal error",
        "The request failed for a reason that the log of the instance has. The instance did not \
         accept the payment. Ask the operators, or send the request again.";
    ProcessorNotConfirmed = "processor-not-confirmed", BAD_GATEWAY, "Processor did not confirm",
        "A simulated processor did not confirm that it changed. Send the request again.";
    QueueFull = "queue-full", SERVICE_UNAVAILABLE, "Queue full",
        "Too many payments wait already. The instance that answers did not accept the payment. Post \
         the same id again after `Retry-After` seconds.";
    OutcomeUnknown = "outcome-unknown", SERVICE_UNAVAILABLE, "Outcome unknown",
        "The payment may have been accepted, or not: no confirmation came. Post the same id with \
         the same amount again, until a reply says more; it is charged once whatever happens.";
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Unavailable",
        "The instance is stopping, or the database cannot be used; `detail` says why. The instance \
         that answers did not accept the payment. Send the same request again after `Retry-After` \
         seconds.";
}

impl ProblemKind {
    /// The name of the kind, which ends its `type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        let reference = self.reference();
        &reference[PROBLEMS_PATH.len() + 1..]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The page for people who write clients.
    const PAGE: &str = include_str!("../../docs/problems.md");

    #[test]
    fn every_kind_has_a_name_of_its_own_and_they_stand_by_status() {
        let names: BTreeSet<&str> = ProblemKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ProblemKind::ALL.len());
        assert!(names.iter().all(|name| !name.contains('/')));
    }

    #[test]
    fn the_page_explains_every_kind() {
        let rows = ProblemKind::ALL.iter().map(|kind| {
            let status = kind.status().as_u16();
            format!(
                "### `{}`\n\nStatus {status}, {:?}. {}\n",
                kind.reference(),
                kind.title(),
                kind.meaning()
            )
        });
        let expected: String = rows.collect::<Vec<_>>().join("\n");
        let told = PAGE.split_once("## The problems\n\n").map(|(_, rest)| rest);
        // However its lines are broken.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(told.map(words), Some(words(&expected)), "docs/problems.md");
    }
}
