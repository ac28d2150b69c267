//! `Sidecar` → [`Sidecar`]. Rules of validity follow Istio's `ValidateSidecar`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{
    CaptureMode, Destination, EgressHost, EgressListener, EgressPort, EgressScope, Hostname,
    Namespace, OutboundTrafficPolicy, Protocol, Sidecar,
};

use super::destination_rule_pool::connection_pool;
use super::message as pb;
use super::sidecar_ingress;
use super::virtual_service_destination::destination_of;
use crate::check::{At, Context, optional};

/// Each one has services and rules of its own, in every namespace that has the Sidecar.
const MAX_LISTENERS: usize = 1000;

/// How Unix sockets begin.
pub(super) const UNIX: &str = "unix://";

pub(crate) fn convert(message: pb::Sidecar, context: &Context<'_>, at: At<'_>) -> Sidecar {
    let pb::Sidecar {
        workload_selector,
        ingress,
        egress,
        inbound_connection_pool,
        outbound_traffic_policy,
    } = message;
    let says_nothing = ingress.is_empty()
        && egress.is_empty()
        && inbound_connection_pool.is_none()
        && outbound_traffic_policy.is_none();
    if says_nothing {
        at.error(
            "says nothing: write ingress, egress, outboundTrafficPolicy or inboundConnectionPool",
        );
    }
    let selector = workload_selector.map(|pb::WorkloadSelector { labels }| {
        let at = at.field("workloadSelector");
        if labels.is_empty() {
            at.error("selects nothing: write labels, or remove it to mean the whole namespace");
        }
        at.field("labels").labels(labels)
    });
    let (outbound_policy, egress_proxy) = outbound_traffic_policy
        .map(|policy| outbound_policy(policy, context, at.field("outboundTrafficPolicy")))
        .unwrap_or_default();
    Sidecar {
        meta: context.meta(),
        selector,
        ingress: sidecar_ingress::listeners(
            bounded(ingress, at.field("ingress")),
            at.field("ingress"),
        ),
        inbound_pool: inbound_connection_pool
            .map(|pool| connection_pool(pool, at.field("inboundConnectionPool"))),
        egress: egress_listeners(bounded(egress, at.field("egress")), at.field("egress")),
        outbound_policy,
        egress_proxy,
    }
}

fn bounded<T>(mut list: Vec<T>, at: At<'_>) -> Vec<T> {
    if list.len() > MAX_LISTENERS {
        at.error(format_args!(
            "{} listeners are more than {MAX_LISTENERS}: let one without a port stand for several",
            list.len()
        ));
        list.truncate(MAX_LISTENERS);
    }
    list
}

fn outbound_policy(
    message: pb::OutboundTrafficPolicy,
    context: &Context<'_>,
    at: At<'_>,
) -> (Option<OutboundTrafficPolicy>, Option<Destination>) {
    use pb::outbound_traffic_policy::Mode;
    let pb::OutboundTrafficPolicy { mode, egress_proxy } = message;
    let policy = match at.field("mode").ok(Mode::try_from(mode)) {
        Some(Mode::AllowAny) => OutboundTrafficPolicy::AllowAny,
        Some(Mode::RegistryOnly) => OutboundTrafficPolicy::RegistryOnly,
        None => return (None, None),
    };
    let at = at.field("egressProxy");
    let proxy = egress_proxy.and_then(|proxy| {
        if policy == OutboundTrafficPolicy::RegistryOnly {
            at.error("is for unknown hosts, which are refused: set mode ALLOW_ANY, or remove it");
        }
        if proxy.port.is_none() {
            at.field("port")
                .error("there is no port: write its number");
        }
        if !proxy.host.is_empty() && (proxy.host.starts_with('*') || !proxy.host.contains('.')) {
            at.field("host").error(format_args!(
                "\"{}\" is not the whole name of one service: write one such as \"egress.istio-system.svc.cluster.local\"",
                proxy.host
            ));
        }
        destination_of(proxy, context, at)
    });
    (Some(policy), proxy)
}

fn egress_listeners(list: Vec<pb::IstioEgressListener>, at: At<'_>) -> Vec<EgressListener> {
    let last = list.len().saturating_sub(1);
    let (mut ports, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    let mut found = Vec::with_capacity(list.len());
    for (index, message) in list.into_iter().enumerate() {
        let at = at.index(index);
        if message.port.is_none() && index != last {
            at.error("has no port and stands for all ports that are left: put it last, and only one of them");
        }
        let listener = egress_listener(message, at);
        let number = listener.port.as_ref().map(|port| port.number);
        match (number, &listener.bind) {
            (Some(Some(number)), _) if !ports.insert(number) => {
                at.field("port").field("number").error(format_args!(
                    "port {number} is used twice: only one egress listener can have it"
                ));
            }
            (Some(None), Some(bind)) if !sockets.insert(Arc::clone(bind)) => {
                at.field("bind").error(format_args!(
                    "\"{bind}\" is used twice: only one egress listener can have it"
                ));
            }
            _ => {}
        }
        found.push(listener);
    }
    found
}

fn egress_listener(message: pb::IstioEgressListener, at: At<'_>) -> EgressListener {
    let pb::IstioEgressListener {
        port,
        bind,
        capture_mode,
        hosts,
    } = message;
    let capture = capture_mode_of(capture_mode, at.field("captureMode"));
    let unix = bind.strip_prefix(UNIX);
    let has_number = port.as_ref().map(|port| port.number != 0);
    match (has_number, unix) {
        (Some(false), Some(path)) => {
            unix_socket(path, at.field("bind"));
            if capture == CaptureMode::Iptables {
                at.field("captureMode")
                    .error("nothing is redirected to a Unix socket: use DEFAULT or NONE");
            }
        }
        (Some(false), None) => at
            .field("port")
            .field("number")
            .error("there is no number: write one, or bind a Unix socket (bind: unix:///path)"),
        (Some(true) | None, _) => address(&bind, at.field("bind")),
    }
    let list = at.field("hosts");
    if hosts.is_empty() {
        list.error("there is no host: name at least one such as \"./*\", or \"~/*\" for none");
    }
    let hosts = hosts.iter().enumerate();
    EgressListener {
        port: port.and_then(|port| egress_port(port, at.field("port"))),
        bind: optional(bind),
        capture,
        hosts: hosts
            .filter_map(|(index, host)| egress_host(host, list.index(index)))
            .collect(),
    }
}

fn egress_port(message: pb::SidecarPort, at: At<'_>) -> Option<EgressPort> {
    let number = message.number;
    let (protocol, name) = port_of(message, at)?;
    Some(EgressPort {
        number: at.field("number").optional_port(number),
        protocol,
        name,
    })
}

/// Protocol and name of a port; the number is the caller's.
pub(super) fn port_of(message: pb::SidecarPort, at: At<'_>) -> Option<(Protocol, Arc<str>)> {
    #[allow(deprecated)]
    let pb::SidecarPort {
        number: _,
        protocol,
        name,
        target_port,
    } = message;
    if target_port != 0 {
        at.field("targetPort")
            .error("has no effect: write the port that is listened on as number");
    }
    if !name.is_empty() && !weft_model::name::is_dns_label(&name) {
        at.field("name").error(format_args!(
            "\"{name}\" is no port name: use lower-case letters, digits and '-', at most 63"
        ));
    }
    let parsed = Protocol::parse(&protocol);
    if parsed == Protocol::Udp || (parsed == Protocol::Unsupported && !protocol.is_empty()) {
        at.field("protocol").error(format_args!(
            "\"{protocol}\" is no protocol of a listener: use HTTP, HTTPS, HTTP2, GRPC, GRPC-Web, HTTP_PROXY, TLS, TCP, Mongo, MySQL or Redis, or nothing to find it out"
        ));
        return None;
    }
    Some((parsed, name.into()))
}

pub(super) fn capture_mode_of(mode: i32, at: At<'_>) -> CaptureMode {
    match at.ok(pb::CaptureMode::try_from(mode)) {
        Some(pb::CaptureMode::Iptables) => CaptureMode::Iptables,
        Some(pb::CaptureMode::None) => CaptureMode::None,
        Some(pb::CaptureMode::Default) | None => CaptureMode::Default,
    }
}

/// An address to bind that may be left out.
pub(super) fn address(bind: &str, at: At<'_>) {
    if !bind.is_empty() && bind.parse::<IpAddr>().is_err() {
        at.error(format_args!(
            "\"{bind}\" is no IP address; a Unix socket goes with an egress listener whose port has no number"
        ));
    }
}

/// The path of a Unix socket.
pub(super) fn unix_socket(path: &str, at: At<'_>) {
    let abstract_name = path.starts_with('@');
    let absolute = path.starts_with('/') && !path.ends_with('/');
    if !abstract_name && !absolute {
        at.error(format_args!(
            "\"{path}\" is no absolute path of a file: write unix:///path, or unix://@name"
        ));
    }
}

/// `namespace/host`; with `~` before it, an exception.
fn egress_host(text: &str, at: At<'_>) -> Option<EgressHost> {
    let Some((scope, host)) = text.split_once('/') else {
        at.error(format_args!(
            "\"{text}\" lacks a namespace: write \"./{text}\" for this one or \"*/{text}\" for all"
        ));
        return None;
    };
    let excluded = scope.starts_with('~');
    let scope = match scope.strip_prefix('~').unwrap_or(scope) {
        "" if excluded => EgressScope::Any,
        "*" => EgressScope::Any,
        "." => EgressScope::Own,
        name => EgressScope::Namespace(at.ok(Namespace::parse(name))?),
    };
    let parsed = at.ok(Hostname::parse(host))?;
    if host != "*" && !host.contains('.') {
        at.error(format_args!(
            "\"{host}\" is a short name: write the whole one, such as \"{host}.shop.svc.cluster.local\""
        ));
        return None;
    }
    if host.starts_with('*') && host != "*" && !host.starts_with("*.") {
        at.error(format_args!(
            "\"{host}\" covers part of a label: write \"*.\" and a domain, or whole names"
        ));
    }
    Some(EgressHost {
        scope,
        host: parsed,
        excluded,
    })
}
