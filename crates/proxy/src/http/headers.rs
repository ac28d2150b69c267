//! What the connection manager does to headers before and after the route: hop-by-hop
//! headers, `x-forwarded-*`, `x-envoy-*`, the request id.
//!
//! Pure: knows neither routes nor sockets. Source of the rules: Envoy, "HTTP header
//! manipulation" and "HTTP header sanitizing", and what Envoy 1.40 does on the wire.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE, USER_AGENT};
use weft_config::address::CidrRange;

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
pub(crate) const X_ENVOY_EXTERNAL_ADDRESS: HeaderName =
    HeaderName::from_static("x-envoy-external-address");
pub(crate) const X_ENVOY_ORIGINAL_PATH: HeaderName =
    HeaderName::from_static("x-envoy-original-path");
pub(crate) const X_ENVOY_ORIGINAL_HOST: HeaderName =
    HeaderName::from_static("x-envoy-original-host");
pub(crate) const X_ENVOY_RETRIABLE_CODES: HeaderName =
    HeaderName::from_static("x-envoy-retriable-status-codes");
pub(crate) const X_ENVOY_RETRIABLE_NAMES: HeaderName =
    HeaderName::from_static("x-envoy-retriable-header-names");
const X_ENVOY_DOWNSTREAM_CLUSTER: HeaderName =
    HeaderName::from_static("x-envoy-downstream-service-cluster");
const X_ENVOY_DOWNSTREAM_NODE: HeaderName =
    HeaderName::from_static("x-envoy-downstream-service-node");
pub(crate) const X_ENVOY_EXPECTED_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
pub(crate) const X_ENVOY_ATTEMPT_COUNT: HeaderName =
    HeaderName::from_static("x-envoy-attempt-count");
pub(crate) const X_ENVOY_SERVICE_TIME: HeaderName =
    HeaderName::from_static("x-envoy-upstream-service-time");
pub(crate) const X_ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
pub(crate) const X_ENVOY_DROP_OVERLOAD: HeaderName =
    HeaderName::from_static("x-envoy-drop-overload");
pub(crate) const X_ENVOY_RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
pub(crate) const X_ENVOY_RETRY_GRPC_ON: HeaderName =
    HeaderName::from_static("x-envoy-retry-grpc-on");
pub(crate) const X_ENVOY_MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
pub(crate) const X_ENVOY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
pub(crate) const X_ENVOY_PER_TRY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");

/// Steering headers that only internal callers may set.
static INTERNAL_ONLY: [HeaderName; 13] = [
    X_ENVOY_RETRIABLE_CODES,
    X_ENVOY_RETRIABLE_NAMES,
    X_ENVOY_RETRY_ON,
    X_ENVOY_RETRY_GRPC_ON,
    X_ENVOY_MAX_RETRIES,
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    X_ENVOY_TIMEOUT,
    X_ENVOY_PER_TRY_TIMEOUT,
    X_ENVOY_EXPECTED_TIMEOUT,
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];
/// What an edge takes away besides.
static EDGE_ONLY: [HeaderName; 5] = [
    HeaderName::from_static("x-envoy-decorator-operation"),
    X_ENVOY_DOWNSTREAM_CLUSTER,
    X_ENVOY_DOWNSTREAM_NODE,
    X_ENVOY_ORIGINAL_PATH,
    X_ENVOY_ORIGINAL_HOST,
];

/// Removes what concerns only this hop from a request. An upgrade keeps `connection` and
/// `upgrade`, which the caller checks with [`upgrade_of`] first.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    if !upgrade && headers.contains_key(CONNECTION) {
        let nominating: Vec<_> = headers.get_all(CONNECTION).iter().cloned().collect();
        for value in nominating {
            remove_nominated(headers, &value);
        }
    }
    remove_hop_by_hop_of_response(headers, upgrade);
    if let Some(te) = headers.get(TE)
        && !te.as_bytes().eq_ignore_ascii_case(b"trailers")
    {
        let mut codings = te.as_bytes().split(|byte| *byte == b',');
        if codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers")) {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// The same for a response; what its `connection` names stays, as in Envoy.
pub(crate) fn remove_hop_by_hop_of_response(headers: &mut HeaderMap, upgrade: bool) {
    remove_those(headers, |name| match name {
        "connection" | "upgrade" => !upgrade,
        "keep-alive" | "proxy-connection" | "transfer-encoding" => true,
        _ => false,
    });
}

/// Removes headers by their names. Most requests have none of those that are removed, and to go
/// through the few names that there are costs less than to look up each that there might be.
fn remove_those(headers: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| goes(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// Removes a header that most requests do not have.
pub(crate) fn take(headers: &mut HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    if headers.keys().all(|other| other != name) {
        return None;
    }
    headers.remove(name)
}

/// Removes the headers that `connection` names (RFC 9110, 7.6.1), but never those that a
/// client must not be able to take away: host and the forwarding headers.
fn remove_nominated(headers: &mut HeaderMap, connection: &HeaderValue) {
    let Ok(text) = connection.to_str() else {
        return;
    };
    for name in text.split(',').map(str::trim) {
        let plain = name.eq_ignore_ascii_case("close") || name.eq_ignore_ascii_case("keep-alive");
        let kept = [
            "te",
            "host",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
        ];
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
    pub(crate) ip: IpAddr,
    /// The port that the client connected to.
    pub(crate) port: HeaderValue,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
}

/// The settings of a connection manager that concern forwarding headers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forwarding {
    pub(crate) use_remote_address: bool,
    pub(crate) skip_xff_append: bool,
    pub(crate) append_port: bool,
    pub(crate) xff_num_trusted_hops: u32,
    pub(crate) internal: Vec<CidrRange>,
    pub(crate) generate_request_id: bool,
    pub(crate) preserve_external_request_id: bool,
    /// With `add_user_agent`: the names of this proxy's cluster and node.
    pub(crate) names: Option<(HeaderValue, Option<HeaderValue>)>,
}

/// Sets the forwarding headers of a request that enters the mesh here; `internal_only` are
/// further headers that only internal callers may set. Gives the client's
/// address as trusted proxies in front tell it.
pub(crate) fn forwarded(
    headers: &mut HeaderMap,
    how: &Forwarding,
    internal_only: &[HeaderName],
    peer: &Peer,
    random: &mut impl FnMut() -> u64,
) -> Option<IpAddr> {
    let hops = how.xff_num_trusted_hops as usize;
    let (client, alone) = if how.use_remote_address {
        let alone = !headers.contains_key(X_FORWARDED_FOR);
        let told = hops
            .checked_sub(1)
            .and_then(|hops| nth_from_right(headers, hops))
            .map(|found| found.0);
        if !how.skip_xff_append {
            append_joined(headers, &X_FORWARDED_FOR, b",", &peer.forwarded_for);
        }
        if hops == 0 || !headers.contains_key(X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(peer.scheme));
        }
        (Some(told.unwrap_or(peer.ip)), alone)
    } else {
        let told = nth_from_right(headers, hops);
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(peer.scheme));
        }
        (told.map(|told| told.0), told.is_some_and(|told| told.1))
    };
    if how.append_port && !headers.contains_key(X_FORWARDED_PORT) {
        headers.insert(X_FORWARDED_PORT, peer.port.clone());
    }
    take(headers, &X_ENVOY_INTERNAL);
    let internal = alone
        && client.is_some_and(|client| how.internal.iter().any(|range| range.contains(client)));
    let edge = how.use_remote_address && !internal;
    if internal {
        headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    } else {
        remove_those(headers, |name| {
            let is = |known: &HeaderName| known.as_str() == name;
            name.starts_with("x-envoy-")
                && (INTERNAL_ONLY.iter().any(is) || edge && EDGE_ONLY.iter().any(is))
        });
        for name in internal_only {
            headers.remove(name);
        }
    }
    if edge {
        let address = client.filter(|client| *client != peer.ip);
        let address = address.and_then(|told| HeaderValue::from_str(&told.to_string()).ok());
        headers.insert(
            X_ENVOY_EXTERNAL_ADDRESS,
            address.unwrap_or_else(|| peer.address.clone()),
        );
    }
    if let Some((cluster, node)) = &how.names {
        headers.insert(X_ENVOY_DOWNSTREAM_CLUSTER, cluster.clone());
        headers.entry(USER_AGENT).or_insert_with(|| cluster.clone());
        if let Some(node) = node {
            headers.insert(X_ENVOY_DOWNSTREAM_NODE, node.clone());
        }
    }
    if how.generate_request_id {
        let own = edge && !how.preserve_external_request_id;
        if own || !headers.contains_key(X_REQUEST_ID) {
            headers.insert(X_REQUEST_ID, request_id(random(), random()));
        }
    }
    client
}

/// The address so many places before the last one of `x-forwarded-for`, and whether it is the
/// only one there.
fn nth_from_right(headers: &HeaderMap, place: usize) -> Option<(IpAddr, bool)> {
    let mut all = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let mut entries = all
        .by_ref()
        .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    let address = entries.nth(place)?.trim().parse().ok()?;
    let alone = place == 0 && entries.next().is_none();
    Some((address, alone))
}

/// Appends to a header's only value, with `between` before it.
pub(crate) fn append_joined(
    headers: &mut HeaderMap,
    name: &HeaderName,
    between: &[u8],
    value: &HeaderValue,
) {
    let mut before = headers.get_all(name).iter();
    let Some(first) = before.next() else {
        headers.insert(name, value.clone());
        return;
    };
    let mut joined = BytesMut::with_capacity(first.len() + between.len() + value.len());
    joined.put_slice(first.as_bytes());
    for next in before.chain([value]) {
        joined.put_slice(between);
        joined.put_slice(next.as_bytes());
    }
    // Valid values and commas are a valid value.
    if let Ok(joined) = HeaderValue::from_maybe_shared(joined.freeze()) {
        headers.insert(name, joined);
    }
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
            ip: IpAddr::from([127, 0, 0, 1]),
            port: HeaderValue::from_static("80"),
            scheme: "http",
        }
    }
    fn edge() -> Forwarding {
        Forwarding {
            use_remote_address: true,
            generate_request_id: true,
            ..Forwarding::default()
        }
    }

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
            ("te", "gzip, trailers"),
        ]);
        remove_hop_by_hop(&mut headers, false);
        assert_eq!(
            headers,
            map(&[("x-forwarded-for", "1.1.1.1"), ("te", "trailers")])
        );
    }

    #[test]
    fn an_edge_takes_steering_headers_away_and_makes_a_new_request_id() {
        let mut headers = map(&[
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-foo", "kept"),
            ("x-request-id", "abc"),
            ("x-forwarded-for", "9.9.9.9"),
        ]);
        forwarded(&mut headers, &edge(), &[], &peer(), &mut || 7);
        assert_eq!(headers["x-forwarded-for"], "9.9.9.9,10.0.0.1");
        assert_eq!(headers["x-envoy-external-address"], "127.0.0.1");
        assert_eq!(headers["x-envoy-foo"], "kept");
        assert!(!headers.contains_key("x-envoy-retry-on"));
        assert_eq!(
            headers["x-request-id"],
            "00000000-0000-4007-8000-000000000007"
        );
    }

    #[test]
    fn only_internal_addresses_may_steer() {
        let steering = [
            ("x-envoy-retry-on", "5xx"),
            ("x-request-id", "abc"),
            ("x-forwarded-for", "10.1.2.3"),
        ];
        let inside = |internal| Forwarding {
            use_remote_address: false,
            internal,
            ..edge()
        };
        let mut headers = map(&steering);
        let ten = CidrRange::new(IpAddr::from([10, 0, 0, 0]), 8);
        let client = forwarded(&mut headers, &inside(vec![ten]), &[], &peer(), &mut || 7);
        assert_eq!(client, Some(IpAddr::from([10, 1, 2, 3])));
        assert_eq!(headers["x-request-id"], "abc");
        assert_eq!(headers["x-envoy-retry-on"], "5xx");
        assert_eq!(headers["x-envoy-internal"], "true");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-for"], "10.1.2.3");
        let mut headers = map(&steering);
        forwarded(&mut headers, &inside(Vec::new()), &[], &peer(), &mut || 7);
        assert!(
            !headers.contains_key("x-envoy-retry-on") && !headers.contains_key("x-envoy-internal")
        );
        assert_eq!(headers["x-request-id"], "abc");
    }

    #[test]
    fn addresses_are_counted_from_the_right() {
        let of =
            |text: &'static str, place| nth_from_right(&map(&[("x-forwarded-for", text)]), place);
        assert_eq!(of("1.1.1.1", 0), Some((IpAddr::from([1, 1, 1, 1]), true)));
        assert_eq!(
            of("1.1.1.1, 2.2.2.2", 0),
            Some((IpAddr::from([2, 2, 2, 2]), false))
        );
        assert_eq!(
            of("1.1.1.1, 2.2.2.2", 1),
            Some((IpAddr::from([1, 1, 1, 1]), false))
        );
        assert_eq!(of("1.1.1.1", 1), None);
        assert_eq!(of("nonsense", 0), None);
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let both = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(upgrade_of(&both).unwrap(), "websocket");
        assert!(upgrade_of(&map(&[("upgrade", "websocket")])).is_none());
    }
}
