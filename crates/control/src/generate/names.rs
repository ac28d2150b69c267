//! Istio's names of clusters, virtual hosts and listeners. Must never know how they are used.

use std::fmt::Display;
use std::net::IpAddr;

use weft_model::{Hostname, PortNumber};

/// Empty cluster: what goes there fails.
pub(crate) const BLACK_HOLE: &str = "BlackHoleCluster";
/// Sends to the address the client meant.
pub(crate) const PASSTHROUGH: &str = "PassthroughCluster";
/// The same for captured inbound connections.
pub(crate) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// Looks up the host that a request names.
pub(crate) const ANY_HOST: &str = "AllowAnyDynamicDNSCluster";
/// Endpoints of a proxy's own workload, by the name that Istio's bootstrap has for its cluster.
pub(crate) const LOCAL_CLUSTER: &str = "local_cluster";
/// Name of the route configuration of the explicit HTTP proxy port.
pub(crate) const HTTP_PROXY: &str = "http_proxy";

/// `outbound|port|subset|host`.
pub(crate) fn outbound(port: impl Display, subset: &str, host: &Hostname) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// `outbound_.port_.subset_.host`, the server name of mutual TLS.
pub(crate) fn sni(port: PortNumber, subset: &str, host: &Hostname) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// `inbound|port||`.
pub(crate) fn inbound(port: u16) -> String {
    format!("inbound|{port}||")
}

/// `host_port`, the routes of a port that speaks an RPC protocol (Aeraki's name).
pub(crate) fn rpc_route(host: &Hostname, port: PortNumber) -> String {
    format!("{host}_{port}")
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A domain of a virtual host: brackets around an IPv6 address.
pub(crate) fn domain(host: &str) -> String {
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// `<ip>_<port>`; of a Unix socket `unix://<path>_0`.
pub(crate) fn listener(bind: &str, port: u16) -> String {
    format!("{bind}_{port}")
}

/// Short names under which a proxy of `dns_domain` may call `host`: for a Kubernetes host of the
/// same cluster domain `name` (own namespace only), `name.ns`, `name.ns.svc`; for others what is
/// left without the shared suffix. Always the name with a trailing dot. Without ports.
pub(crate) fn alternatives(host: &str, dns_domain: &str) -> Vec<String> {
    let mut names = Vec::new();
    if host.parse::<IpAddr>().is_err() {
        names.push(format!("{host}."));
    }
    if let Some((own_namespace, cluster_domain)) = dns_domain.split_once(".svc.") {
        let Some((head, domain)) = host.split_once(".svc.") else {
            return names;
        };
        let Some((name, namespace)) = head.split_once('.') else {
            return names;
        };
        if domain != cluster_domain || name.is_empty() || name.starts_with('*') {
            return names;
        }
        let svc = format!("{head}.svc");
        // In istiod's order, which differs.
        if namespace == own_namespace {
            names.extend([name.to_owned(), svc, head.to_owned()]);
        } else {
            names.extend([head.to_owned(), svc]);
        }
        return names;
    }
    // Only names of the proxy's whole domain are shortened, so that no two hosts share a form.
    let own = dns_domain.trim_end_matches('.');
    let short = host.strip_suffix(own).and_then(|s| s.strip_suffix('.'));
    if let Some(short) = short.filter(|s| !own.is_empty() && !s.is_empty() && *s != "*") {
        names.push(short.to_owned());
    }
    names
}

/// A proxy's domain without its namespace, with which every host but those of the namespace has the same short names;
/// nothing for other domains than those of Kubernetes, and for a host of the namespace.
pub(crate) fn common_domain(host: &str, dns_domain: &str) -> Option<String> {
    let (own_namespace, cluster_domain) = dns_domain.split_once(".svc.")?;
    let head = host.split_once(".svc.").map(|(head, _)| head);
    let namespace = head.and_then(|head| head.split_once('.'));
    if namespace.is_some_and(|(_, namespace)| namespace == own_namespace) {
        return None;
    }
    // No namespace is called so.
    Some(format!("*.svc.{cluster_domain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_depend_on_the_proxys_domain() {
        let host = "reviews.shop.svc.cluster.local";
        assert_eq!(
            alternatives(host, "shop.svc.cluster.local"),
            [
                "reviews.shop.svc.cluster.local.",
                "reviews",
                "reviews.shop.svc",
                "reviews.shop"
            ]
        );
        assert_eq!(
            alternatives(host, "other.svc.cluster.local"),
            [
                "reviews.shop.svc.cluster.local.",
                "reviews.shop",
                "reviews.shop.svc"
            ]
        );
        assert_eq!(
            alternatives("example.com", "a.svc.cluster.local"),
            ["example.com."]
        );
        assert_eq!(
            alternatives("foo.local.campus.net", "local.campus.net"),
            ["foo.local.campus.net.", "foo"]
        );
        assert_eq!(
            alternatives("foo.campus.net", "local.campus.net"),
            ["foo.campus.net."]
        );
        assert_eq!(alternatives("foo.com", ""), ["foo.com."]);
        assert!(alternatives("10.0.0.1", "a.svc.cluster.local").is_empty());
    }

    #[test]
    fn other_namespaces_have_the_short_names_of_the_common_domain() {
        let own = "shop.svc.cluster.local";
        for host in [
            "reviews.other.svc.cluster.local",
            "a.b.other.svc.cluster.local",
            "reviews.other.svc.east.local",
            "example.com",
            "x.shop",
            ".svc.cluster.local",
            "x..svc.cluster.local",
            "10.0.0.1",
        ] {
            let common = common_domain(host, own).expect("it is not the namespace's");
            assert_eq!(
                alternatives(host, own),
                alternatives(host, &common),
                "{host}"
            );
        }
        assert_eq!(common_domain("reviews.shop.svc.cluster.local", own), None);
        assert_eq!(common_domain("example.com", "campus.net"), None);
        assert_eq!(common_domain("example.com", ""), None);
    }
}
