//! What a test runs, and where Weft differs from Envoy on purpose.

/// A bootstrap and what is watched of it.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) bootstrap: &'static str,
    /// Names of its listeners: `{{port:NAME}}`.
    pub(crate) listeners: &'static [&'static str],
    /// Statistics that are compared: names that contain one of these.
    pub(crate) stats: &'static [&'static str],
}

/// Lines of a case that may differ.
#[derive(Debug)]
pub(crate) struct Known {
    /// How the names of the cases begin.
    case: &'static str,
    /// How the lines begin, after the sign.
    line: &'static str,
    #[allow(dead_code, reason = "for the reader")]
    reason: &'static str,
}

impl Known {
    pub(crate) fn covers(&self, case: &str, line: &str) -> bool {
        let line = line.get(2..).unwrap_or_default();
        case.starts_with(self.case) && line.starts_with(self.line)
    }
}

/// All of them.
pub(crate) const KNOWN: &[Known] = &[
    // The TLS libraries have words of their own for what went wrong.
    known("to a TLS upstream", "log details: ", WORDS),
    known("to a TLS upstream", "log failure: ", WORDS),
    // In TLS 1.3 a client learns after its own handshake that its certificate was wanted.
    known("to a TLS upstream up_no_cert", "log flags: ", LATE),
    known(
        "to a TLS upstream up_no_cert",
        "body upstream connect error",
        LATE,
    ),
    known(
        "to a TLS upstream up_no_cert",
        "header content-length: ",
        LATE,
    ),
    known("open deny", "header x-envoy-upstream-service-time: ", CALL),
    known(
        "custom asked",
        "header x-envoy-upstream-service-time: ",
        CALL,
    ),
    known(SPACED, "header content-length: ", SPACES),
    known(SPACED, "body Jwt ", SPACES),
    known(SPACED, "log details: ", SPACES),
    known(SPACED, "log why: ", SPACES),
];

const SPACED: &str = "something after the token, space";
const SPACES: &str = "Envoy's decoder of base64 passes over spaces; the token is refused by both";
const CALL: &str = "Envoy's own client adds it to the service's answer";
const WORDS: &str = "the TLS libraries have words of their own";
const LATE: &str = "the upstream refuses after the client's side of the handshake";

const fn known(case: &'static str, line: &'static str, reason: &'static str) -> Known {
    Known { case, line, reason }
}
