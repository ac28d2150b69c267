//! What the connection manager does to headers before and after the route: hop-by-hop
//! headers, `x-forwarded-*`, `x-envoy-*`, the request id.
//!
//! Pure: knows neither routes nor sockets. Source of the rules: Envoy, "HTTP header
//! manipulation" and "HTTP header sanitizing", and what Envoy 1.40 does on the wire.

use bytes::{BufMut, BytesMut};
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
pub(crate) const X_ENVOY_EXTERNAL_ADDRESS: HeaderName =
    HeaderName::from_static("x-envoy-external-address");
pub(crate) const X_ENVOY_ORIGINAL_PATH: HeaderName =
    HeaderName::from_static("x-envoy-original-path");
pub(crate) const X_ENVOY_EXPECTED_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
pub(crate) const X_ENVOY_ATTEMPT_COUNT: HeaderName =
    HeaderName::from_static("x-envoy-attempt-count");
pub(crate) const X_ENVOY_SERVICE_TIME: HeaderName =
    HeaderName::from_static("x-envoy-upstream-service-time");
pub(crate) const X_ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
pub(crate) const X_ENVOY_RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
pub(crate) const X_ENVOY_RETRY_GRPC_ON: HeaderName =
    HeaderName::from_static("x-envoy-retry-grpc-on");
pub(crate) const X_ENVOY_MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
pub(crate) const X_ENVOY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
pub(crate) const X_ENVOY_PER_TRY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Steering headers that an edge proxy takes away from its clients.
const EDGE_ONLY: [HeaderName; 11] = [
    X_ENVOY_RETRY_ON,
    X_ENVOY_RETRY_GRPC_ON,
    X_ENVOY_MAX_RETRIES,
    X_ENVOY_TIMEOUT,
    X_ENVOY_PER_TRY_TIMEOUT,
    X_ENVOY_EXPECTED_TIMEOUT,
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];

/// Removes what concerns only this hop. An upgrade request or answer keeps `connection` and
/// `upgrade`, which the caller checks with [`is_upgrade`] first.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    if !upgrade {
        if let Some(connection) = headers.remove(CONNECTION) {
            remove_nominated(headers, &connection);
        }
        headers.remove(UPGRADE);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    if let Some(te) = headers.get(TE) {
        let trailers = te.as_bytes().eq_ignore_ascii_case(b"trailers");
        if !trailers {
            headers.remove(TE);
        }
    }
}

/// Removes the headers that `connection` names (RFC 9110, 7.6.1), but never those that a
/// client must not be able to take away: host and the forwarding headers.
fn remove_nominated(headers: &mut HeaderMap, connection: &HeaderValue) {
    let Ok(text) = connection.to_str() else {
        return;
    };
    for name in text.split(',').map(str::trim) {
        let plain = name.eq_ignore_ascii_case("close") || name.eq_ignore_ascii_case("keep-alive");
        let kept = ["te", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        if plain || kept.iter().any(|k| name.eq_ignore_ascii_case(k)) {
            continue;
        }
        if let Ok(name) = HeaderName::try_from(name) {
            headers.remove(name);
        }
    }
}

/// The protocol an HTTP/1.1 request or answer wants to change to.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<&HeaderValue> {
    let upgrade = headers.get(UPGRADE)?;
    let connection = headers.get_all(CONNECTION);
    let asked = connection.iter().any(|value| {
        let mut tokens = value.as_bytes().split(|b| *b == b',');
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    asked.then_some(upgrade)
}

/// Where a request came from, for the forwarding headers.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The address to append to `x-forwarded-for`: the peer's, or this machine's for a peer
    /// on loopback, as Envoy does.
    pub(crate) forwarded_for: HeaderValue,
    /// The peer's address.
    pub(crate) address: HeaderValue,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
}

/// The settings of a connection manager that concern forwarding headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarding {
    pub(crate) use_remote_address: bool,
    pub(crate) skip_xff_append: bool,
    pub(crate) xff_num_trusted_hops: u32,
    pub(crate) generate_request_id: bool,
    pub(crate) preserve_external_request_id: bool,
}

/// Sets the forwarding headers of a request that enters the mesh here.
pub(crate) fn forwarded(headers: &mut HeaderMap, how: Forwarding, peer: &Peer, random: &mut impl FnMut() -> u64) {
    let edge = how.use_remote_address;
    if edge {
        if how.xff_num_trusted_hops == 0 {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(peer.scheme));
        }
        if !how.skip_xff_append {
            append_forwarded_for(headers, &peer.forwarded_for);
        }
    }
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(peer.scheme));
    }
    headers.remove(X_ENVOY_INTERNAL);
    if edge {
        headers.insert(X_ENVOY_EXTERNAL_ADDRESS, peer.address.clone());
        if headers.keys().any(|name| name.as_str().starts_with("x-envoy-")) {
            for name in EDGE_ONLY {
                headers.remove(name);
            }
        }
        if !how.preserve_external_request_id {
            headers.remove(X_REQUEST_ID);
        }
    }
    if how.generate_request_id && !headers.contains_key(X_REQUEST_ID) {
        headers.insert(X_REQUEST_ID, request_id(random(), random()));
    }
}

/// Appends with a comma and no space, as Envoy does.
fn append_forwarded_for(headers: &mut HeaderMap, address: &HeaderValue) {
    let joined = match headers.get(X_FORWARDED_FOR) {
        None => address.clone(),
        Some(before) => {
            let mut joined = BytesMut::with_capacity(before.len() + 1 + address.len());
            joined.put_slice(before.as_bytes());
            joined.put_u8(b',');
            joined.put_slice(address.as_bytes());
            // Two valid values and a comma are a valid value.
            HeaderValue::from_maybe_shared(joined.freeze()).unwrap_or_else(|_| address.clone())
        }
    };
    headers.insert(X_FORWARDED_FOR, joined);
}

/// A random UUID (version 4, RFC 9562).
fn request_id(high: u64, low: u64) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    let mut text = BytesMut::with_capacity(36);
    let number = (u128::from(high) << 64) | u128::from(low);
    for digit in (0..32).rev() {
        let nibble = (number >> (digit * 4)) as usize & 0xf;
        text.put_u8(HEX.get(nibble).copied().unwrap_or(b'0'));
        if matches!(digit, 24 | 20 | 16 | 12) {
            text.put_u8(b'-');
        }
    }
    // Hexadecimal digits and hyphens are a valid value.
    HeaderValue::from_maybe_shared(text.freeze()).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// A number as a header value.
pub(crate) fn number(value: u64) -> HeaderValue {
    HeaderValue::from(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            forwarded_for: HeaderValue::from_static("10.0.0.1"),
            address: HeaderValue::from_static("127.0.0.1"),
            scheme: "http",
        }
    }
    const EDGE: Forwarding = Forwarding {
        use_remote_address: true,
        skip_xff_append: false,
        xff_num_trusted_hops: 0,
        generate_request_id: true,
        preserve_external_request_id: false,
    };

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn headers_nominated_by_connection_go_but_forwarding_ones_stay() {
        let mut headers = map(&[
            ("connection", "close, x-private, x-forwarded-for"),
            ("x-private", "1"),
            ("x-forwarded-for", "1.1.1.1"),
            ("keep-alive", "5"),
            ("te", "gzip"),
        ]);
        remove_hop_by_hop(&mut headers, false);
        assert_eq!(headers, map(&[("x-forwarded-for", "1.1.1.1")]));
    }

    #[test]
    fn an_edge_takes_steering_headers_away_and_makes_a_new_request_id() {
        let mut headers = map(&[
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-foo", "kept"),
            ("x-request-id", "abc"),
            ("x-forwarded-for", "9.9.9.9"),
        ]);
        forwarded(&mut headers, EDGE, &peer(), &mut || 7);
        assert_eq!(headers["x-forwarded-for"], "9.9.9.9,10.0.0.1");
        assert_eq!(headers["x-envoy-external-address"], "127.0.0.1");
        assert_eq!(headers["x-envoy-foo"], "kept");
        assert!(!headers.contains_key("x-envoy-retry-on"));
        assert_eq!(headers["x-request-id"], "00000000-0000-4007-8000-000000000007");
    }

    #[test]
    fn inside_the_mesh_headers_are_trusted() {
        let mut headers = map(&[("x-envoy-retry-on", "5xx"), ("x-request-id", "abc")]);
        let inside = Forwarding {
            use_remote_address: false,
            ..EDGE
        };
        forwarded(&mut headers, inside, &peer(), &mut || 7);
        assert_eq!(headers["x-request-id"], "abc");
        assert_eq!(headers["x-envoy-retry-on"], "5xx");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert!(!headers.contains_key("x-forwarded-for"));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let both = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(upgrade_of(&both).unwrap(), "websocket");
        assert!(upgrade_of(&map(&[("upgrade", "websocket")])).is_none());
    }
}
