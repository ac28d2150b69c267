//! An admin request after HTTP: path, decoded parameters; and the reply. Knows no socket.

use http::StatusCode;
use regex::Regex;
use serde_json::Value;

/// A request as handlers see it.
#[derive(Debug, Default)]
pub(super) struct AdminRequest {
    params: Vec<(String, String)>,
}

impl AdminRequest {
    /// `query` and `form` are `a=b&c`; both are looked at, the query first.
    pub(super) fn new(query: &str, form: &str) -> Self {
        let pairs = query.split('&').chain(form.split('&'));
        let params = pairs
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect();
        Self { params }
    }

    /// The first value of `name`; a parameter without `=` has an empty one.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        let found = self.params.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether `name` is there at all: `?usedonly=false` counts, as in Envoy.
    pub(super) fn has(&self, name: &str) -> bool {
        self.param(name).is_some()
    }

    pub(super) fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// The regular expression in `name`; an empty one counts as absent.
    pub(super) fn regex(&self, name: &str) -> Result<Option<Regex>, Reply> {
        let Some(text) = self.param(name).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        compile(text).map(Some).map_err(|error| {
            Reply::text_status(StatusCode::BAD_REQUEST, format!("Invalid regex: {error}"))
        })
    }
}

/// Compiles with a small size limit: the caller may be anybody on the host.
pub(super) fn compile(text: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(text).size_limit(1 << 20).build()
}

/// Percent decoding; what is no valid escape stays as it is, bad UTF-8 is replaced.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let hex = |b: &u8| char::from(*b).to_digit(16);
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => {
                    bytes.push((high * 16 + low) as u8); // both are below 16
                    rest = after;
                }
                _ => bytes.push(byte),
            },
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a handler answers.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

pub(super) const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json";

impl Reply {
    pub(super) fn text(body: impl Into<String>) -> Self {
        Self::text_status(StatusCode::OK, body)
    }

    pub(super) fn text_status(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: TEXT,
            body: body.into(),
        }
    }

    pub(super) fn html(body: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/html; charset=UTF-8",
            body,
        }
    }

    /// Compact JSON that is already text.
    pub(super) fn json_text(body: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: JSON,
            body,
        }
    }

    /// JSON as Envoy prints messages: one blank a level, a line end at the end.
    pub(super) fn json(value: &Value) -> Self {
        let mut bytes = Vec::new();
        let pretty = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, pretty);
        let done = serde::Serialize::serialize(value, &mut serializer);
        debug_assert!(done.is_ok(), "a Value always has a JSON text");
        bytes.push(b'\n');
        Self::json_text(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn ok() -> Self {
        Self::text("OK\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_flags_count_with_any_value() {
        let request = AdminRequest::new("filter=a%7Cb+c%2&usedonly&x=%zz", "level=info");
        assert_eq!(request.param("filter"), Some("a|b c%2"));
        assert_eq!(request.param("x"), Some("%zz"));
        assert_eq!(request.param("level"), Some("info"));
        assert!(request.has("usedonly"));
        assert!(!request.has("nope"));
    }

    #[test]
    fn a_bad_or_huge_regex_is_a_bad_request() {
        for text in ["[", "(a{1000}){1000}"] {
            let request = AdminRequest::new(&format!("filter={text}"), "");
            let reply = request.regex("filter").unwrap_err();
            assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        }
        assert!(
            AdminRequest::new("filter=", "")
                .regex("filter")
                .unwrap()
                .is_none()
        );
    }
}
