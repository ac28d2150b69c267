//! `Cluster` → cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::breaker::{CircuitBreakers, circuit_breakers};
use super::http::{UpstreamHttp, UpstreamProtocol};
use super::lb_convert::{common_lb, old_policy, typed_policy};
use super::outlier::outlier;
use super::{Cluster, Discovery, DnsLookupFamily, DnsSettings, LbCommon, LbPolicy, Transport, TransportMatch};
use crate::address::{Address, TcpKeepalive, bind_config, tcp_keepalive};
use crate::endpoint::LoadAssignment;
use crate::endpoint::convert::load_assignment;
use crate::extension::{UPSTREAM_TRANSPORTS, ads_source, decode, transport_socket, type_name};
use crate::http_options::convert::{common, http1, http2};
use crate::pass::{IsSet as _, Pass};
use crate::pb;
use pb::config::cluster::v3 as cluster;
use pb::extensions::upstreams::http::v3 as upstream_http;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CLEANUP: Duration = Duration::from_secs(5);
const BUFFER_LIMIT: u32 = 1 << 20;

#[allow(clippy::too_many_lines, reason = "one destructuring of a message with 55 fields")]
pub(super) fn cluster(p: &mut Pass<'_>, message: &cluster::Cluster) -> Option<Cluster> {
    let cluster::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        alt_stat_name,
        stats_matcher,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment: assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers: breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init,
        outlier_detection,
        cleanup_interval,
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket: socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal,
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = message;
    unsupported!(p; transport_socket_matcher, health_checks, lb_subset_config, filters, upstream_config,
        queuing_policies);
    ignore!(p, "cluster.Cluster"; stats_matcher, per_connection_buffer_high_watermark_timeout, dns_resolvers,
        use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config, wait_for_warm_on_init,
        lrs_server, lrs_report_endpoint_metrics, track_timeout_budgets, track_cluster_stats,
        preconnect_policy);
    let name = p.name("name", name)?;
    let dns = DnsFields {
        refresh_rate: dns_refresh_rate.as_ref(),
        jitter: dns_jitter.as_ref(),
        failure: dns_failure_refresh_rate
            .as_ref()
            .map(|rate| (rate.base_interval.as_ref(), rate.max_interval.as_ref())),
        respect_ttl: *respect_dns_ttl,
    };
    let discovery = Sources {
        name: &name,
        eds: eds_cluster_config.as_ref(),
        dns,
        family: *dns_lookup_family,
        lb_config: lb_config.as_ref(),
        cleanup: cleanup_interval.as_ref(),
    };
    let discovery = discovery.read(p, cluster_discovery_type.as_ref());
    let (lb, mut lb_common) = balancing(p, load_balancing_policy.as_ref(), *lb_policy, lb_config.as_ref())?;
    p.opt("common_lb_config", common_lb_config.as_ref(), |p, config| common_lb(p, config, &mut lb_common));
    let endpoints = match assignment {
        None => LoadAssignment::empty(Arc::clone(&name)),
        Some(assignment) => p.at("load_assignment", |p| load_assignment(p, assignment, &name))?,
    };
    let old = OldHttp {
        max_requests: max_requests_per_connection.map(|count| count.value),
        upstream: upstream_http_protocol_options.as_ref(),
        common: common_http_protocol_options.as_ref(),
        http1: http_protocol_options.as_ref(),
        http2: http2_protocol_options.as_ref(),
        protocol_selection: *protocol_selection,
    };
    let http = http(p, &old, typed_extension_protocol_options);
    let transport = transport(p, socket.as_ref());
    let transport_matches = p.each("transport_socket_matches", transport_socket_matches, transport_match);
    let keepalive = p
        .opt("upstream_connection_options", upstream_connection_options.as_ref(), connection_options)
        .flatten();
    let discovery = discovery?;
    check_endpoints(p, &discovery, &endpoints, &lb);
    Some(Cluster {
        alt_stat_name: (!alt_stat_name.is_empty()).then(|| Arc::from(alt_stat_name.as_str())),
        discovery,
        endpoints: Arc::new(endpoints),
        lb,
        lb_common,
        connect_timeout: p
            .positive_duration("connect_timeout", connect_timeout.as_ref())
            .unwrap_or(CONNECT_TIMEOUT),
        per_connection_buffer_limit: per_connection_buffer_limit_bytes
            .map_or(BUFFER_LIMIT, |limit| limit.value),
        http: Arc::new(http?),
        breakers: p
            .opt("circuit_breakers", breakers.as_ref(), circuit_breakers)
            .unwrap_or_else(CircuitBreakers::default),
        outlier: p.opt("outlier_detection", outlier_detection.as_ref(), outlier).map(Arc::new),
        transport: transport?,
        transport_matches: transport_matches.into(),
        bind_address: p.opt("upstream_bind_config", upstream_bind_config.as_ref(), bind_config).flatten(),
        tcp_keepalive: keepalive,
        metadata: metadata.clone().map(Arc::new),
        ignore_health_on_host_removal: *ignore_health_on_host_removal,
        close_connections_on_host_health_failure: *close_connections_on_host_health_failure,
        connection_pool_per_downstream_connection: *connection_pool_per_downstream_connection,
        name,
    })
}

fn balancing(
    p: &mut Pass<'_>,
    typed: Option<&cluster::LoadBalancingPolicy>,
    policy: i32,
    config: Option<&cluster::cluster::LbConfig>,
) -> Option<(LbPolicy, LbCommon)> {
    match typed {
        Some(typed) => p.at("load_balancing_policy", |p| typed_policy(p, typed)),
        None => old_policy(p, policy, config).map(|policy| (policy, LbCommon::default())),
    }
}

/// What only the combination of discovery, endpoints and balancer shows to be wrong.
fn check_endpoints(p: &mut Pass<'_>, discovery: &Discovery, endpoints: &LoadAssignment, lb: &LbPolicy) {
    let named = endpoints.endpoints().any(|endpoint| matches!(endpoint.address, Address::Host { .. }));
    let count = endpoints.endpoints().count();
    match discovery {
        Discovery::Static | Discovery::Eds { .. } | Discovery::OriginalDst { .. } if named => {
            p.refuse_field(
                "load_assignment",
                "has an endpoint with a host name; only STRICT_DNS and LOGICAL_DNS clusters resolve names",
            );
        }
        Discovery::LogicalDns(_) if count != 1 => {
            p.refuse_field("load_assignment", "must have exactly one endpoint in a LOGICAL_DNS cluster");
        }
        Discovery::Eds { .. } | Discovery::OriginalDst { .. } if count > 0 => {
            p.refuse_field("load_assignment", "has no place in an EDS or ORIGINAL_DST cluster");
        }
        _ => {}
    }
    let original = matches!(discovery, Discovery::OriginalDst { .. });
    if original != matches!(lb, LbPolicy::ClusterProvided) {
        p.refuse_field("lb_policy", "must be CLUSTER_PROVIDED for ORIGINAL_DST clusters, and only there");
    }
}

struct DnsFields<'a> {
    refresh_rate: Option<&'a pb::google::Duration>,
    jitter: Option<&'a pb::google::Duration>,
    failure: Option<(Option<&'a pb::google::Duration>, Option<&'a pb::google::Duration>)>,
    respect_ttl: bool,
}

impl DnsFields<'_> {
    fn read(&self, p: &mut Pass<'_>, family: DnsLookupFamily) -> DnsSettings {
        let refresh_rate =
            p.positive_duration("dns_refresh_rate", self.refresh_rate).unwrap_or(Duration::from_secs(5));
        let failure_refresh = self.failure.and_then(|(base, max)| {
            p.at("dns_failure_refresh_rate", |p| {
                let base = p.positive_duration("base_interval", base)?;
                let max = p.positive_duration("max_interval", max).unwrap_or(base * 10);
                if max < base {
                    p.refuse_field("max_interval", "must not be shorter than base_interval");
                }
                Some((base, max))
            })
        });
        DnsSettings {
            refresh_rate,
            jitter: p.duration("dns_jitter", self.jitter).unwrap_or_default(),
            failure_refresh,
            respect_ttl: self.respect_ttl,
            family,
        }
    }
}

struct Sources<'a> {
    name: &'a Arc<str>,
    eds: Option<&'a cluster::cluster::EdsClusterConfig>,
    dns: DnsFields<'a>,
    family: i32,
    lb_config: Option<&'a cluster::cluster::LbConfig>,
    cleanup: Option<&'a pb::google::Duration>,
}

impl Sources<'_> {
    fn read(
        &self,
        p: &mut Pass<'_>,
        kind: Option<&cluster::cluster::ClusterDiscoveryType>,
    ) -> Option<Discovery> {
        use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
        match kind {
            None => Some(Discovery::Static),
            Some(ClusterDiscoveryType::Type(number)) => {
                Some(match p.enumeration("type", *number)? {
                    DiscoveryType::Static => Discovery::Static,
                    DiscoveryType::StrictDns => {
                        let family = self.old_family(p)?;
                        Discovery::StrictDns(self.dns.read(p, family))
                    }
                    DiscoveryType::LogicalDns => {
                        let family = self.old_family(p)?;
                        Discovery::LogicalDns(self.dns.read(p, family))
                    }
                    DiscoveryType::Eds => self.eds(p)?,
                    DiscoveryType::OriginalDst => self.original_dst(p)?,
                })
            }
            Some(ClusterDiscoveryType::ClusterType(custom)) => {
                let cluster::cluster::CustomClusterType { name: _, typed_config } = custom;
                p.at("cluster_type", |p| {
                    p.required("typed_config", typed_config.as_ref(), |p, any| self.custom(p, any))
                })
            }
        }
    }

    fn old_family(&self, p: &mut Pass<'_>) -> Option<DnsLookupFamily> {
        use cluster::cluster::DnsLookupFamily as Pb;
        Some(match p.enumeration("dns_lookup_family", self.family)? {
            Pb::Auto => DnsLookupFamily::Auto,
            Pb::V4Only => DnsLookupFamily::V4Only,
            Pb::V6Only => DnsLookupFamily::V6Only,
            Pb::V4Preferred => DnsLookupFamily::V4Preferred,
            Pb::All => DnsLookupFamily::All,
        })
    }

    fn eds(&self, p: &mut Pass<'_>) -> Option<Discovery> {
        p.required("eds_cluster_config", self.eds, |p, config| {
            let cluster::cluster::EdsClusterConfig { eds_config, service_name } = config;
            p.required("eds_config", eds_config.as_ref(), ads_source)?;
            let service_name = if service_name.is_empty() {
                Arc::clone(self.name)
            } else {
                Arc::from(service_name.as_str())
            };
            Some(Discovery::Eds { service_name })
        })
    }

    fn original_dst(&self, p: &mut Pass<'_>) -> Option<Discovery> {
        let empty = cluster::cluster::OriginalDstLbConfig::default();
        let config = match self.lb_config {
            Some(cluster::cluster::LbConfig::OriginalDstLbConfig(config)) => config,
            _ => &empty,
        };
        let cluster::cluster::OriginalDstLbConfig {
            use_http_header,
            http_header_name,
            upstream_port_override,
            metadata_key,
        } = config;
        p.at("original_dst_lb_config", |p| {
            unsupported!(p; metadata_key);
        });
        self.original(p, *use_http_header, http_header_name, upstream_port_override.as_ref())
    }

    fn original(
        &self,
        p: &mut Pass<'_>,
        use_header: bool,
        header: &str,
        port: Option<&pb::google::UInt32Value>,
    ) -> Option<Discovery> {
        let header = if header.is_empty() { "x-envoy-original-dst-host" } else { header };
        if ::http::HeaderName::from_bytes(header.as_bytes()).is_err() {
            p.refuse_field("http_header_name", "is no header name");
            return None;
        }
        let port_override = match port {
            None => None,
            Some(port) => Some(p.port("upstream_port_override", port.value)?),
        };
        Some(Discovery::OriginalDst {
            http_header: use_header.then(|| Arc::from(header.to_ascii_lowercase())),
            port_override,
            cleanup_interval: p.positive_duration("cleanup_interval", self.cleanup).unwrap_or(CLEANUP),
        })
    }

    /// The typed forms of the same discoveries.
    fn custom(&self, p: &mut Pass<'_>, any: &pb::google::Any) -> Option<Discovery> {
        use pb::extensions::clusters::{dns::v3 as dns, original_dst::v3 as original_dst};
        match type_name(any) {
            "envoy.extensions.clusters.dns.v3.DnsCluster" => {
                let dns::DnsCluster {
                    dns_refresh_rate,
                    dns_failure_refresh_rate,
                    respect_dns_ttl,
                    dns_jitter,
                    typed_dns_resolver_config,
                    dns_lookup_family,
                    all_addresses_in_single_endpoint,
                    dns_min_refresh_rate,
                } = decode(p, &any.value)?;
                ignore!(p, "cluster.Cluster"; typed_dns_resolver_config);
                unsupported!(p; dns_min_refresh_rate);
                let family = typed_family(p, dns_lookup_family)?;
                let fields = DnsFields {
                    refresh_rate: dns_refresh_rate.as_ref(),
                    jitter: dns_jitter.as_ref(),
                    failure: dns_failure_refresh_rate
                        .as_ref()
                        .map(|rate| (rate.base_interval.as_ref(), rate.max_interval.as_ref())),
                    respect_ttl: respect_dns_ttl,
                };
                let settings = fields.read(p, family);
                Some(if all_addresses_in_single_endpoint {
                    Discovery::LogicalDns(settings)
                } else {
                    Discovery::StrictDns(settings)
                })
            }
            "envoy.extensions.clusters.original_dst.v3.OriginalDstCluster" => {
                let original_dst::OriginalDstCluster {
                    use_http_header,
                    http_header_name,
                    upstream_port_override,
                    metadata_key,
                } = decode(p, &any.value)?;
                unsupported!(p; metadata_key);
                self.original(p, use_http_header, &http_header_name, upstream_port_override.as_ref())
            }
            name => {
                p.refuse(format!("{name} is not supported by Weft"));
                None
            }
        }
    }
}

fn typed_family(p: &mut Pass<'_>, value: i32) -> Option<DnsLookupFamily> {
    use pb::extensions::clusters::common::dns::v3::DnsLookupFamily as Pb;
    Some(match p.enumeration("dns_lookup_family", value)? {
        Pb::Unspecified | Pb::Auto => DnsLookupFamily::Auto,
        Pb::V4Only => DnsLookupFamily::V4Only,
        Pb::V6Only => DnsLookupFamily::V6Only,
        Pb::V4Preferred => DnsLookupFamily::V4Preferred,
        Pb::All => DnsLookupFamily::All,
    })
}

fn transport(p: &mut Pass<'_>, socket: Option<&pb::core::TransportSocket>) -> Option<Transport> {
    let Some(socket) = socket else { return Some(Transport::Raw) };
    let tls = p.at("transport_socket", |p| transport_socket(p, socket, UPSTREAM_TRANSPORTS))?;
    Some(tls.map_or(Transport::Raw, |tls| Transport::Tls(Arc::new(tls))))
}

fn transport_match(
    p: &mut Pass<'_>,
    message: &cluster::cluster::TransportSocketMatch,
) -> Option<TransportMatch> {
    let cluster::cluster::TransportSocketMatch { name, r#match, transport_socket } = message;
    let name = p.name("name", name)?;
    let mut criteria: Vec<(String, pb::google::Value)> = r#match
        .as_ref()
        .map(|found| found.fields.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
        .unwrap_or_default();
    criteria.sort_by(|a, b| a.0.cmp(&b.0));
    let transport = transport(p, transport_socket.as_ref())?;
    Some(TransportMatch { name, criteria, transport })
}

fn connection_options(
    p: &mut Pass<'_>,
    message: &cluster::UpstreamConnectionOptions,
) -> Option<Option<TcpKeepalive>> {
    let cluster::UpstreamConnectionOptions {
        tcp_keepalive: keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = message;
    ignore!(p, "cluster.UpstreamConnectionOptions"; set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config);
    Some(p.opt("tcp_keepalive", keepalive.as_ref(), tcp_keepalive))
}

/// The deprecated fields of the cluster itself.
struct OldHttp<'a> {
    max_requests: Option<u32>,
    upstream: Option<&'a pb::core::UpstreamHttpProtocolOptions>,
    common: Option<&'a pb::core::HttpProtocolOptions>,
    http1: Option<&'a pb::core::Http1ProtocolOptions>,
    http2: Option<&'a pb::core::Http2ProtocolOptions>,
    protocol_selection: i32,
}

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn http(
    p: &mut Pass<'_>,
    old: &OldHttp<'_>,
    typed: &HashMap<String, pb::google::Any>,
) -> Option<UpstreamHttp> {
    use cluster::cluster::ClusterProtocolSelection;
    let mut out = UpstreamHttp::default();
    let mut options: Option<upstream_http::HttpProtocolOptions> = None;
    p.at("typed_extension_protocol_options", |p| {
        for (key, any) in typed {
            p.at_key(key, |p| {
                if type_name(any) == HTTP_OPTIONS {
                    options = decode(p, &any.value);
                } else {
                    p.refuse(format!("{} is not supported by Weft", type_name(any)));
                }
            });
        }
    });
    if let Some(options) = options {
        // With typed options Envoy reads none of the old fields.
        return p.at("typed_extension_protocol_options", |p| {
            p.at_key(HTTP_OPTIONS, |p| typed_http(p, &options, out))
        });
    }
    old.upstream.map(|options| p.at("upstream_http_protocol_options", |_| upstream(&mut out, options)));
    if let Some(found) = p.opt("common_http_protocol_options", old.common, common) {
        out.common = found;
    }
    if let Some(max) = old.max_requests.filter(|max| *max > 0) {
        out.common.max_requests_per_connection = Some(max);
    }
    if let Some(found) = p.opt("http_protocol_options", old.http1, http1) {
        out.http1 = found;
    }
    if let Some(found) = p.opt("http2_protocol_options", old.http2, http2) {
        out.http2 = found;
        out.protocol = UpstreamProtocol::Http2;
    }
    let selection = p.enumeration::<ClusterProtocolSelection>("protocol_selection", old.protocol_selection)?;
    if selection == ClusterProtocolSelection::UseDownstreamProtocol {
        out.protocol = UpstreamProtocol::UseDownstream;
    }
    Some(out)
}

fn upstream(out: &mut UpstreamHttp, message: &pb::core::UpstreamHttpProtocolOptions) {
    let pb::core::UpstreamHttpProtocolOptions { auto_sni, auto_san_validation, override_auto_sni_header } =
        message;
    out.auto_sni = *auto_sni;
    out.auto_san_validation = *auto_san_validation;
    out.auto_sni_header =
        override_auto_sni_header.is_set().then(|| Arc::from(override_auto_sni_header.to_ascii_lowercase()));
}

fn typed_http(
    p: &mut Pass<'_>,
    message: &upstream_http::HttpProtocolOptions,
    mut out: UpstreamHttp,
) -> Option<UpstreamHttp> {
    use upstream_http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions as Kind, UseDownstreamHttpConfig,
        explicit_http_config::ProtocolConfig,
    };
    let upstream_http::HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = message;
    unsupported!(p; http_filters, header_validation_config, outlier_detection, request_mirror_policies,
        hash_policy, retry_policy);
    if let Some(found) =
        p.opt("common_http_protocol_options", common_http_protocol_options.as_ref(), common)
    {
        out.common = found;
    }
    if let Some(options) = upstream_http_protocol_options {
        upstream(&mut out, options);
    }
    match upstream_protocol_options {
        Some(Kind::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config })) => {
            p.at("explicit_http_config", |p| match protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(options)) => {
                    out.http1 = p.at("http_protocol_options", |p| http1(p, options))?;
                    Some(())
                }
                Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                    out.protocol = UpstreamProtocol::Http2;
                    out.http2 = p.at("http2_protocol_options", |p| http2(p, options))?;
                    Some(())
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    p.unsupported("http3_protocol_options", true);
                    None
                }
                None => {
                    p.refuse("needs one of http_protocol_options, http2_protocol_options");
                    None
                }
            })?;
        }
        Some(Kind::UseDownstreamProtocolConfig(config)) => {
            let UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
            } = config;
            out.protocol = UpstreamProtocol::UseDownstream;
            p.at("use_downstream_protocol_config", |p| {
                unsupported!(p; http3_protocol_options);
                if let Some(found) = p.opt("http_protocol_options", http_protocol_options.as_ref(), http1) {
                    out.http1 = found;
                }
                if let Some(found) = p.opt("http2_protocol_options", http2_protocol_options.as_ref(), http2) {
                    out.http2 = found;
                }
            });
        }
        Some(Kind::AutoConfig(_)) => {
            p.refuse_field("auto_config", "is not supported by Weft; use explicit_http_config");
        }
        None => {
            p.refuse("needs one of explicit_http_config, use_downstream_protocol_config");
        }
    }
    Some(out)
}
