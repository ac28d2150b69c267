//! Recognises HTTP/1 and HTTP/2 with prior knowledge by the first bytes. Sans-io.

use super::Verdict;

/// The preface of an HTTP/2 connection, RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longer request lines are not taken for HTTP.
const MAX_LINE: usize = 16 * 1024;
const MAX_METHOD: usize = 32;

/// An HTTP version as `http_inspector` tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// `http/1.0`
    Http10,
    /// `http/1.1`
    Http11,
    /// `h2c`
    H2c,
}

impl HttpVersion {
    /// The application protocol that a filter chain matches on.
    pub fn application_protocol(self) -> &'static str {
        match self {
            Self::Http10 => "http/1.0",
            Self::Http11 => "http/1.1",
            Self::H2c => "h2c",
        }
    }
}

/// Tells from the first bytes of a connection whether it speaks HTTP. Decides "no" as early
/// as the bytes allow, so that a binary protocol is not kept waiting.
pub fn inspect_http(seen: &[u8]) -> Verdict<HttpVersion> {
    if seen.is_empty() {
        return Verdict::NeedMore;
    }
    let common = seen.len().min(PREFACE.len());
    if seen.get(..common) == PREFACE.get(..common) {
        return if common == PREFACE.len() {
            Verdict::Yes(HttpVersion::H2c)
        } else {
            Verdict::NeedMore
        };
    }
    // RFC 9112 §2.2: a server may skip empty lines before the request line.
    let start = seen
        .iter()
        .position(|b| !matches!(b, b'\r' | b'\n'))
        .unwrap_or(seen.len());
    let line = seen.get(start..).unwrap_or_default();
    let method = line.iter().position(|b| !is_token(*b));
    match method {
        None if line.len() > MAX_METHOD => return Verdict::No,
        None => return Verdict::NeedMore,
        Some(0) => return Verdict::No,
        Some(end) if end > MAX_METHOD || line.get(end) != Some(&b' ') => return Verdict::No,
        Some(_) => {}
    }
    let Some(end) = line.iter().position(|b| *b == b'\n') else {
        return if line.len() > MAX_LINE {
            Verdict::No
        } else {
            Verdict::NeedMore
        };
    };
    let line = line.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.ends_with(b" HTTP/1.1") {
        Verdict::Yes(HttpVersion::Http11)
    } else if line.ends_with(b" HTTP/1.0") {
        Verdict::Yes(HttpVersion::Http10)
    } else {
        Verdict::No
    }
}

/// RFC 9110 §5.6.2 `tchar`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_strangers_are_told_apart() {
        use HttpVersion::{H2c, Http10, Http11};
        let table: &[(&[u8], Verdict<HttpVersion>)] = &[
            (b"GET / HTTP/1.1\r\n", Verdict::Yes(Http11)),
            (b"\r\nPOST /a?b=c HTTP/1.0\r\nx", Verdict::Yes(Http10)),
            (b"OPTIONS * HTTP/1.1\n", Verdict::Yes(Http11)),
            (PREFACE, Verdict::Yes(H2c)),
            (b"PRI * HTTP/2.0\r\n\r\nSM", Verdict::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Verdict::No),
            (b"PROPFIND / HTTP/1.1\r\n", Verdict::Yes(Http11)),
            (b"GET / HT", Verdict::NeedMore),
            (b"GET / FTP/1.1\r\n", Verdict::No),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Verdict::No),
            (b"\x16\x03\x01", Verdict::No),
            (b"\0\0", Verdict::No),
            (b"", Verdict::NeedMore),
            (b"GE", Verdict::NeedMore),
            (b"P", Verdict::NeedMore),
            (
                b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                Verdict::No,
            ),
        ];
        for (input, want) in table {
            assert_eq!(
                &inspect_http(input),
                want,
                "{:?}",
                input.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn an_endless_line_is_not_waited_for() {
        let mut line = b"GET /".to_vec();
        line.resize(MAX_LINE + 6, b'a');
        assert_eq!(inspect_http(&line), Verdict::No);
    }
}
