//! Which `referer` is passed on: one that Envoy's upstreams would see.

/// An absolute URL or a relative reference, without fragment and user (RFC 9110, 10.1.3).
pub(super) fn is_valid(value: &[u8]) -> bool {
    if value.contains(&b'#') {
        return false;
    }
    match value.windows(3).position(|three| three == b"://") {
        Some(at) if value.get(..at).is_some_and(is_scheme) => {
            let rest = value.get(at + 3..).unwrap_or_default();
            let end = rest.iter().position(|byte| b"/?".contains(byte));
            let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
            is_authority(authority) && path.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
        }
        _ => is_relative(value),
    }
}

fn is_scheme(text: &[u8]) -> bool {
    let more = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    text.first().is_some_and(u8::is_ascii_alphabetic) && text.iter().all(more)
}

/// A host and perhaps a port, without a user.
fn is_authority(text: &[u8]) -> bool {
    let after_bracket = text.iter().position(|byte| *byte == b']').unwrap_or(0);
    let (name, tail) = text.split_at(after_bracket);
    let (last, port) = match tail.iter().position(|byte| *byte == b':') {
        Some(at) => (tail.get(..at), tail.get(at + 1..)),
        None => (Some(tail), None),
    };
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let in_address = |byte: &u8| byte.is_ascii_hexdigit() || b"[:.%".contains(byte);
    let last = last.unwrap_or_default();
    let host = if name.is_empty() {
        !last.is_empty() && last.iter().all(in_name)
    } else {
        name.first() == Some(&b'[') && name.iter().all(in_address) && last == b"]"
    };
    host && port.is_none_or(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit))
}

/// A colon in the first segment would be the end of a scheme (RFC 3986, 4.2).
fn is_relative(value: &[u8]) -> bool {
    let first = value.split(|byte| *byte == b'/').next();
    let in_path =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(byte);
    !first.unwrap_or_default().contains(&b':') && value.iter().all(in_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referer_is_a_url_or_a_reference_and_nothing_more() {
        for valid in [
            "",
            "x",
            "/x/y:z?q",
            "/%20%zz",
            "http://a.test",
            "http://a.test?x",
            "https://a:8443/",
            "http://[::1]:80/x",
            "http://[::1]/",
            "android-app://com.test/",
        ] {
            assert!(is_valid(valid.as_bytes()), "{valid}");
        }
        for not in [
            "#",
            "/x#y",
            "http://a.test/x#y",
            "http://me@a.test/x",
            "about:blank",
            "a b",
            "/\"x\"",
            "https://a.test:x/",
            "https://a.test:/",
            "http://",
            "http://[::1/",
            "http://a]/",
            "://a",
            "http://a/\u{7f}",
        ] {
            assert!(!is_valid(not.as_bytes()), "{not}");
        }
    }
}
