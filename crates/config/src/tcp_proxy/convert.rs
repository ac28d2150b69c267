//! `TcpProxy` → TCP proxy.

use std::sync::Arc;
use std::time::Duration;

use super::{TcpClusters, TcpProxy};
use crate::access_log::convert::access_log;
use crate::format::Format;
use crate::pass::{IsSet as _, Pass};
use crate::pb;
use pb::extensions::filters::network::tcp_proxy::v3 as tcp;

const HOUR: Duration = Duration::from_hours(1);

pub(crate) fn tcp_proxy(p: &mut Pass<'_>, message: &tcp::TcpProxy) -> Option<TcpProxy> {
    let tcp::TcpProxy {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log: logs,
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval,
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        cluster_specifier,
    } = message;
    unsupported!(p; on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout,
        proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy,
        upstream_connect_mode, max_early_data_bytes);
    ignore!(p, "tcp_proxy.TcpProxy"; max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval, flush_access_log_on_connected, access_log_options,
        backoff_options, check_drain_close);
    let stat_prefix = p.name("stat_prefix", stat_prefix);
    let hash = p.each("hash_policy", hash_policy, |p, policy| {
        use pb::typ::hash_policy::PolicySpecifier;
        match &policy.policy_specifier {
            Some(PolicySpecifier::SourceIp(_)) => Some(()),
            _ => {
                p.refuse("must be source_ip");
                None
            }
        }
    });
    if max_connect_attempts.is_some_and(|attempts| attempts.value == 0) {
        p.refuse_field("max_connect_attempts", "must be at least 1");
    }
    let access_logs = p.each("access_log", logs, access_log);
    let clusters = match cluster_specifier {
        Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(name)) => {
            TcpClusters::Single(p.name("cluster", name)?)
        }
        Some(tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => {
            p.at("weighted_clusters", |p| weighted_clusters(p, weighted))?
        }
        None => {
            p.refuse("needs one of cluster, weighted_clusters");
            return None;
        }
    };
    Some(TcpProxy {
        stat_prefix: stat_prefix?,
        clusters,
        idle_timeout: p.timeout("idle_timeout", idle_timeout.as_ref(), Some(HOUR)),
        max_connect_attempts: max_connect_attempts
            .map_or(1, |attempts| attempts.value)
            .max(1),
        max_downstream_connection_duration: p.positive_duration(
            "max_downstream_connection_duration",
            max_downstream_connection_duration.as_ref(),
        ),
        hash_source_ip: hash.is_set(),
        tunnel: p.opt("tunneling_config", tunneling_config.as_ref(), tunnel),
        access_logs,
    })
}

/// The name that a `CONNECT` asks for.
fn tunnel(p: &mut Pass<'_>, message: &tcp::tcp_proxy::TunnelingConfig) -> Option<Format> {
    let tcp::tcp_proxy::TunnelingConfig {
        hostname,
        use_post,
        headers_to_add,
        propagate_response_headers,
        post_path,
        propagate_response_trailers,
        request_id_extension,
        request_id_header,
        request_id_metadata_key,
        formatters,
    } = message;
    unsupported!(p; use_post, headers_to_add, propagate_response_headers, post_path,
        propagate_response_trailers, request_id_extension, request_id_header,
        request_id_metadata_key, formatters);
    p.name("hostname", hostname)?;
    p.at("hostname", |p| Format::compile(p, hostname))
}

fn weighted_clusters(
    p: &mut Pass<'_>,
    message: &tcp::tcp_proxy::WeightedCluster,
) -> Option<TcpClusters> {
    let tcp::tcp_proxy::WeightedCluster { clusters } = message;
    let mut total = 0_u64;
    let clusters: Vec<(Arc<str>, u64)> = p.each("clusters", clusters, |p, one| {
        let tcp::tcp_proxy::weighted_cluster::ClusterWeight {
            name,
            weight,
            metadata_match,
        } = one;
        unsupported!(p; metadata_match);
        if *weight == 0 {
            p.refuse_field("weight", "must be at least 1");
        }
        total += u64::from(*weight);
        Some((p.name("name", name)?, total))
    });
    if total == 0 {
        p.refuse_field("clusters", "is required");
        return None;
    }
    Some(TcpClusters::Weighted { clusters, total })
}
