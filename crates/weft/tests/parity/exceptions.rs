//! Where Weft's answer differs from Envoy's on purpose; `docs/compatibility.md` tells users. Must
//! never hide more than a line of a case.

/// Lines that may differ.
#[derive(Debug)]
pub(crate) struct Exception {
    /// How the names of the cases begin.
    pub(crate) case: &'static str,
    /// How the lines begin.
    pub(crate) line: &'static str,
    /// Why.
    #[allow(
        dead_code,
        reason = "for the reader, and shown when the exception is needed no more"
    )]
    pub(crate) reason: &'static str,
    /// Chance decides whether they differ.
    pub(crate) varies: bool,
}

impl Exception {
    pub(crate) fn covers(&self, case: &str, line: &str) -> bool {
        case.starts_with(self.case) && line.starts_with(self.line)
    }
}

/// All of them.
pub(crate) const EXCEPTIONS: &[Exception] = &[
    // The HTTP library answers before there is a request.
    of("bad request line", "header ", BARE),
    of("bad request line", "body ", BARE),
    of("a space in the path", "header ", BARE),
    of("a space in the path", "body ", BARE),
    of("a bad method", "header ", BARE),
    of("a bad method", "body ", BARE),
    of("a header without a colon", "header ", BARE),
    of("a header without a colon", "body ", BARE),
    of("a space before the colon", "header ", BARE),
    of("a space before the colon", "body ", BARE),
    of("a NUL in a header", "header ", BARE),
    of("a NUL in a header", "body ", BARE),
    of("a negative length", "header ", BARE),
    of("a negative length", "body ", BARE),
    of("a length that is no number", "header ", BARE),
    of("a length that is no number", "body ", BARE),
    of("two lengths", "header ", BARE),
    of("two lengths", "body ", BARE),
    of("a path without a slash", "header ", BARE),
    of("a path without a slash", "body ", BARE),
    of("too many headers", "header ", BARE),
    of("too many headers", "body ", BARE),
    of("too large headers", "header ", BARE),
    of("too large headers", "body ", BARE),
    of("a too long path", "header ", BARE),
    of("a too long path", "body ", BARE),
    of(
        "an unknown version",
        "",
        "400 instead of 426, without a body",
    ),
    of(
        "an unknown transfer coding",
        "",
        "400 instead of 501, without a body",
    ),
    of(
        "HTTP/1.0 is refused",
        "status ",
        "an HTTP/1.0 client is answered in HTTP/1.0",
    ),
    // Stricter or looser than Envoy.
    of(
        "a folded header",
        "",
        "folded headers are refused (RFC 9112, 5.2), Envoy unfolds them",
    ),
    of(
        "two hosts",
        "",
        "two hosts are refused (RFC 9112, 3.2), Envoy joins them with a comma",
    ),
    of(
        "a length and chunks",
        "",
        "chunks win over a length and the connection is closed (RFC 9112, 6.3), Envoy refuses it",
    ),
    of(
        "a fragment in the path",
        "",
        "a fragment is cut off, Envoy refuses it",
    ),
    of(
        "HTTP/2 client, too many headers",
        "",
        "answered with 431, Envoy resets the stream",
    ),
    // Details of the same meaning.
    of(
        "redirect of a HEAD",
        "header ",
        "the answer to a HEAD has the length of the body left out",
    ),
    of(
        "HEAD of a chunked answer",
        "header transfer-encoding",
        "a HEAD's answer has no transfer coding",
    ),
    of(
        "upstream answers 304 with a length",
        "header content-length",
        "a 304 has no length",
    ),
    of(
        "direct response with headers of its own",
        "header x-code",
        "%RESPONSE_CODE% is known in the headers of a direct response, Envoy says 0",
    ),
    of(
        "an escaped slash is refused",
        "log path",
        "the log shows the path as it came",
    ),
    of(
        "proxy headers of a request",
        "",
        "headers of one name are not joined by a comma",
    ),
    Exception {
        case: "retry at another host",
        line: "log attempts",
        reason: "the first choice of host is chance",
        varies: true,
    },
];

const BARE: &str =
    "the same status, and the connection is closed, but without body and server header";

const fn of(case: &'static str, line: &'static str, reason: &'static str) -> Exception {
    Exception {
        case,
        line,
        reason,
        varies: false,
    }
}
