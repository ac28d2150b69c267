//! Answers that the proxy gives itself, in the form Envoy gives them: plain text for HTTP,
//! `grpc-status` for gRPC.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use weft_config::HeaderOps;

/// An answer without an upstream.
#[derive(Debug, Clone)]
pub struct LocalReply {
    /// HTTP status; for gRPC requests it is translated.
    pub status: StatusCode,
    /// Text of the body, and of `grpc-message`; may be empty.
    pub body: Bytes,
    /// gRPC status that wins over the translation of `status`.
    pub grpc_status: Option<u32>,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Short form of the response flag (`FI`, `UH`, …), if there is one.
    pub flag: Option<&'static str>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// Changes of its headers, after the route's.
    pub edit: Option<Arc<HeaderOps>>,
    /// The route's operations on response headers pass it by.
    pub bare: bool,
}

impl LocalReply {
    /// A reply without body, flag and further headers.
    pub fn new(status: StatusCode, details: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            body: Bytes::new(),
            grpc_status: None,
            headers: Vec::new(),
            flag: None,
            details: details.into(),
            edit: None,
            bare: false,
        }
    }

    /// With a text.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// With a response flag.
    #[must_use]
    pub fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    /// The response to a request; `grpc` when its content type says so.
    pub fn response(&self, grpc: bool) -> (Response<()>, Bytes) {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        let body = if grpc {
            self.grpc_headers(headers);
            Bytes::new()
        } else {
            if !self.body.is_empty() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            self.body.clone()
        };
        for (place, (name, value)) in self.headers.iter().enumerate() {
            // As in Envoy, an empty body has no type, and gRPC keeps its own.
            if *name == CONTENT_TYPE && (grpc || self.body.is_empty()) {
                continue;
            }
            let before = self.headers.iter().take(place);
            if before.into_iter().any(|(other, _)| other == name) {
                headers.append(name.clone(), value.clone());
            } else {
                headers.insert(name.clone(), value.clone());
            }
        }
        if !grpc {
            *response.status_mut() = self.status;
        }
        (response, body)
    }

    fn grpc_headers(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let status = self.grpc_status.unwrap_or_else(|| grpc_status(self.status));
        headers.insert(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from(status),
        );
        if !self.body.is_empty()
            && let Ok(message) = HeaderValue::try_from(percent_encode(&self.body))
        {
            headers.insert(HeaderName::from_static("grpc-message"), message);
        }
    }
}

/// The gRPC status of an HTTP one. Source: gRPC, "HTTP to gRPC Status Code Mapping", with
/// Envoy's 429 and 5xx.
pub fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Whether a request is gRPC by its content type.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    match kind.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"),
        None => false,
    }
}

/// `grpc-message` keeps printable ASCII but `%`.
fn percent_encode(text: &[u8]) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        if (b' '..=b'~').contains(byte) && *byte != b'%' {
            encoded.push(char::from(*byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_request_gets_its_own_kind_of_error() {
        let reply =
            LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "x").body("no healthy upstream\n");
        let (response, body) = reply.response(true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "no healthy upstream%0A");
        assert!(body.is_empty());
        let (response, body) = reply.response(false);
        assert_eq!(response.status(), 503);
        assert_eq!(&body[..], b"no healthy upstream\n");
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        let with = |kind: &'static str| {
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))])
        };
        assert!(is_grpc(&with("application/grpc")));
        assert!(is_grpc(&with("application/grpc+proto")));
        assert!(!is_grpc(&with("application/grpc-web")));
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
