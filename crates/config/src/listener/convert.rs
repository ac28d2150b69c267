//! `Listener` → listener.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Listener, TrafficDirection, filters};
use crate::access_log::convert::access_log;
use crate::address::{bind_address, cidr_range, tcp_keepalive};
use crate::extension::{
    ChainFilter, DOWNSTREAM_TRANSPORTS, NETWORK_FILTERS, transport_socket, type_name, typed,
};
use crate::filter_chain::{
    ChainMatch, FilterChain, FilterChains, NetworkFilter, NetworkGuard, SourceType,
};
use crate::pass::{Pass, flag};
use crate::pb;
use pb::config::listener::v3 as listener;

const FILTERS_TIMEOUT: Duration = Duration::from_secs(15);

#[allow(
    clippy::too_many_lines,
    reason = "one destructuring of a message with 38 fields"
)]
pub(crate) fn listener(p: &mut Pass<'_>, message: &listener::Listener) -> Option<Listener> {
    let listener::Listener {
        name,
        address,
        additional_addresses,
        stat_prefix,
        stats_matcher,
        filter_chains,
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        default_filter_chain,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        metadata,
        deprecated_v1,
        drain_type,
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        transparent,
        freebind,
        socket_options,
        tcp_fast_open_queue_length,
        traffic_direction,
        udp_listener_config,
        api_listener,
        connection_balance_config,
        reuse_port,
        enable_reuse_port,
        access_log: logs,
        tcp_backlog_size,
        max_connections_to_accept_per_socket_event,
        bind_to_port,
        enable_mptcp,
        ignore_global_conn_limit,
        bypass_overload_manager,
        tcp_keepalive: keepalive,
        listener_specifier,
    } = message;
    unsupported!(p; fcds_config, filter_chain_matcher, udp_listener_config, api_listener, enable_mptcp,
        listener_specifier);
    ignore!(p, "listener.Listener"; stats_matcher, per_connection_buffer_high_watermark_timeout, metadata,
        socket_options, tcp_fast_open_queue_length, connection_balance_config, reuse_port,
        ignore_global_conn_limit, bypass_overload_manager, per_connection_buffer_limit_bytes, drain_type,
        max_connections_to_accept_per_socket_event);
    p.ignore("listener.Listener", "access_log", !logs.is_empty());
    // What they say is checked although nothing is written.
    p.each("access_log", logs, access_log);
    let address = p.required("address", address.as_ref(), bind_address);
    let additional_addresses = p.each("additional_addresses", additional_addresses, |p, more| {
        let listener::AdditionalAddress {
            address,
            socket_options,
            tcp_keepalive,
        } = more;
        ignore!(p, "listener.AdditionalAddress"; socket_options);
        unsupported!(p; tcp_keepalive);
        p.required("address", address.as_ref(), bind_address)
    });
    let old_bind = deprecated_v1.as_ref().is_none_or(|old| {
        let listener::listener::DeprecatedV1 { bind_to_port } = old;
        flag(bind_to_port.as_ref(), true)
    });
    let mut filters = filters::listener_filter_list(p, listener_filters);
    filters.timeout = p.timeout(
        "listener_filters_timeout",
        listener_filters_timeout.as_ref(),
        Some(FILTERS_TIMEOUT),
    );
    filters.continue_on_timeout = *continue_on_listener_filters_timeout;
    let use_original_dst = flag(use_original_dst.as_ref(), false);
    if use_original_dst && filters.proxy_protocol.is_some() {
        p.refuse_field(
            "use_original_dst",
            "does not go together with the listener filter proxy_protocol in Weft",
        );
    }
    p.inbound = *traffic_direction == pb::core::TrafficDirection::Inbound as i32;
    let mut chains = chains(p, filter_chains);
    chains.default = p
        .opt(
            "default_filter_chain",
            default_filter_chain.as_ref(),
            |p, chain| {
                // Its match is never looked at, as in Envoy.
                filter_chain(p, chain).map(|(_, chain)| chain)
            },
        )
        .map(Arc::new);
    if chains.chains.is_empty() && chains.default.is_none() && filter_chains.is_empty() {
        p.refuse_field("filter_chains", "is required");
    }
    let address = address?;
    let direction = match p.enumeration("traffic_direction", *traffic_direction)? {
        pb::core::TrafficDirection::Unspecified => TrafficDirection::Unspecified,
        pb::core::TrafficDirection::Inbound => TrafficDirection::Inbound,
        pb::core::TrafficDirection::Outbound => TrafficDirection::Outbound,
    };
    p.enumeration::<listener::listener::DrainType>("drain_type", *drain_type)?;
    Some(Listener {
        name: if name.is_empty() {
            Arc::from(address.to_string())
        } else {
            Arc::from(name.as_str())
        },
        address,
        additional_addresses,
        bind_to_port: flag(bind_to_port.as_ref(), old_bind),
        reuse_port: flag(enable_reuse_port.as_ref(), true),
        backlog: tcp_backlog_size.map(|size| size.value),
        use_original_dst,
        transparent: flag(transparent.as_ref(), false),
        freebind: flag(freebind.as_ref(), false),
        filters,
        chains,
        tcp_keepalive: p.opt("tcp_keepalive", keepalive.as_ref(), tcp_keepalive),
        traffic_direction: direction,
        stat_prefix: (!stat_prefix.is_empty()).then(|| Arc::from(stat_prefix.as_str())),
    })
}

fn chains(p: &mut Pass<'_>, message: &[listener::FilterChain]) -> FilterChains {
    let mut chains = FilterChains::default();
    p.each("filter_chains", message, |p, one| {
        let (matcher, chain) = filter_chain(p, one)?;
        if let Err(error) = chains.add(&matcher, Arc::new(chain)) {
            p.refuse_field("filter_chain_match", error);
        }
        Some(())
    });
    chains
}

fn filter_chain(
    p: &mut Pass<'_>,
    message: &listener::FilterChain,
) -> Option<(ChainMatch, FilterChain)> {
    let listener::FilterChain {
        filter_chain_match,
        filters,
        use_proxy_proto,
        metadata,
        transport_socket: socket,
        transport_socket_connect_timeout,
        name,
    } = message;
    ignore!(p, "listener.FilterChain"; metadata);
    p.unsupported("use_proxy_proto", flag(use_proxy_proto.as_ref(), false));
    let matcher = p
        .opt(
            "filter_chain_match",
            filter_chain_match.as_ref(),
            chain_match,
        )
        .unwrap_or_default();
    let tls = p
        .opt("transport_socket", socket.as_ref(), |p, socket| {
            transport_socket(p, socket, DOWNSTREAM_TRANSPORTS)
        })
        .flatten()
        .map(Arc::new);
    let (guards, filters) = network_filters(p, filters);
    let transport_socket_connect_timeout = p.timeout(
        "transport_socket_connect_timeout",
        transport_socket_connect_timeout.as_ref(),
        None,
    );
    let chain = FilterChain {
        name: Arc::from(name.as_str()),
        tls,
        guards,
        filters,
        transport_socket_connect_timeout,
    };
    Some((matcher, chain))
}

/// Guards, and then the filter that ends the chain.
fn network_filters(
    p: &mut Pass<'_>,
    message: &[listener::Filter],
) -> (Vec<NetworkGuard>, Vec<NetworkFilter>) {
    let before = p.problem_count();
    let (mut guards, mut ends) = (Vec::new(), Vec::new());
    for filter in p.each("filters", message, network_filter) {
        match filter {
            ChainFilter::Guard(guard) if ends.is_empty() => guards.push(guard),
            ChainFilter::Guard(_) => p.refuse_field(
                "filters",
                "must end with http_connection_manager or tcp_proxy: nothing comes after them",
            ),
            ChainFilter::End(end) => ends.push(end),
        }
    }
    if p.problem_count() == before && ends.len() > 1 {
        p.refuse_field(
            "filters",
            "must have one filter that ends the chain: http_connection_manager or tcp_proxy",
        );
    }
    if p.problem_count() == before && ends.is_empty() && !guards.is_empty() {
        p.refuse_field(
            "filters",
            "must end with http_connection_manager or tcp_proxy",
        );
    }
    (guards, ends)
}

fn network_filter(p: &mut Pass<'_>, message: &listener::Filter) -> Option<ChainFilter> {
    use listener::filter::ConfigType;
    let listener::Filter { name, config_type } = message;
    match config_type {
        Some(ConfigType::TypedConfig(any)) => {
            debug_assert!(!type_name(any).contains('/'));
            typed(p, "typed_config", Some(any), NETWORK_FILTERS)
        }
        Some(ConfigType::ConfigDiscovery(_)) => {
            p.unsupported("config_discovery", true);
            None
        }
        None => {
            p.refuse_field("typed_config", format!("of {name} is required"));
            None
        }
    }
}

fn chain_match(p: &mut Pass<'_>, message: &listener::FilterChainMatch) -> Option<ChainMatch> {
    use listener::filter_chain_match::ConnectionSourceType as Pb;
    let listener::FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = message;
    unsupported!(p; address_suffix, suffix_len);
    let source_type = match p.enumeration("source_type", *source_type)? {
        Pb::Any => SourceType::Any,
        Pb::SameIpOrLoopback => SourceType::SameIpOrLoopback,
        Pb::External => SourceType::External,
    };
    let destination_port = match destination_port {
        None => None,
        Some(port) => Some(p.port("destination_port", port.value)?),
    };
    Some(ChainMatch {
        destination_port,
        destinations: p.each("prefix_ranges", prefix_ranges, cidr_range),
        server_names: p.each("server_names", server_names, |p, name| server_name(p, name)),
        transport_protocol: transport_protocol.clone(),
        application_protocols: application_protocols.clone(),
        direct_sources: p.each(
            "direct_source_prefix_ranges",
            direct_source_prefix_ranges,
            cidr_range,
        ),
        source_type,
        sources: p.each("source_prefix_ranges", source_prefix_ranges, cidr_range),
        source_ports: p.each("source_ports", source_ports, |p, port| {
            let port = u16::try_from(*port).ok().filter(|port| *port > 0);
            if port.is_none() {
                p.refuse("is no port from 1 to 65535");
            }
            port
        }),
    })
}

fn server_name(p: &mut Pass<'_>, name: &str) -> Option<String> {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if rest.is_empty() || rest.contains('*') {
        p.refuse(format!(
            "{name:?} must be a name, or `*.` and a name: partial wildcards do not exist"
        ));
        return None;
    }
    if rest.parse::<IpAddr>().is_ok() {
        p.refuse(format!("{name:?} is an address; server names are names"));
        return None;
    }
    Some(name.to_ascii_lowercase())
}
