//! Where endpoints come from: `type`, `cluster_type` and the fields that belong to them.

use std::sync::Arc;
use std::time::Duration;

use super::{Discovery, DnsLookupFamily, DnsSettings};
use crate::extension::{ads_source, decode, type_name};
use crate::name_cache::name_cache;
use crate::pass::Pass;
use crate::pb;
use pb::config::cluster::v3 as cluster;

const CLEANUP: Duration = Duration::from_secs(5);

pub(super) struct DnsFields<'a> {
    pub(super) refresh_rate: Option<&'a pb::google::Duration>,
    pub(super) jitter: Option<&'a pb::google::Duration>,
    pub(super) failure: Option<(
        Option<&'a pb::google::Duration>,
        Option<&'a pb::google::Duration>,
    )>,
}

impl DnsFields<'_> {
    fn read(&self, p: &mut Pass<'_>, family: DnsLookupFamily) -> DnsSettings {
        let refresh_rate = p
            .positive_duration("dns_refresh_rate", self.refresh_rate)
            .unwrap_or(Duration::from_secs(5));
        let failure_refresh = self.failure.and_then(|(base, max)| {
            p.at("dns_failure_refresh_rate", |p| {
                let base = p.positive_duration("base_interval", base)?;
                let max = p
                    .positive_duration("max_interval", max)
                    .unwrap_or(base * 10);
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
            family,
        }
    }
}

pub(super) struct Sources<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) eds: Option<&'a cluster::cluster::EdsClusterConfig>,
    pub(super) dns: DnsFields<'a>,
    pub(super) family: i32,
    pub(super) lb_config: Option<&'a cluster::cluster::LbConfig>,
    pub(super) cleanup: Option<&'a pb::google::Duration>,
}

impl Sources<'_> {
    pub(super) fn read(
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
                let cluster::cluster::CustomClusterType {
                    name: _,
                    typed_config,
                } = custom;
                p.at("cluster_type", |p| {
                    p.required("typed_config", typed_config.as_ref(), |p, any| {
                        self.custom(p, any)
                    })
                })
            }
        }
    }

    fn old_family(&self, p: &mut Pass<'_>) -> Option<DnsLookupFamily> {
        lookup_family(p, self.family)
    }

    fn eds(&self, p: &mut Pass<'_>) -> Option<Discovery> {
        p.required("eds_cluster_config", self.eds, |p, config| {
            let cluster::cluster::EdsClusterConfig {
                eds_config,
                service_name,
            } = config;
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
        self.original(
            p,
            *use_http_header,
            http_header_name,
            upstream_port_override.as_ref(),
        )
    }

    fn original(
        &self,
        p: &mut Pass<'_>,
        use_header: bool,
        header: &str,
        port: Option<&pb::google::UInt32Value>,
    ) -> Option<Discovery> {
        let header = if header.is_empty() {
            "x-envoy-original-dst-host"
        } else {
            header
        };
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
            cleanup_interval: p
                .positive_duration("cleanup_interval", self.cleanup)
                .unwrap_or(CLEANUP),
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
                ignore!(p, "cluster.Cluster"; typed_dns_resolver_config, respect_dns_ttl);
                unsupported!(p; dns_min_refresh_rate);
                let family = typed_family(p, dns_lookup_family)?;
                let fields = DnsFields {
                    refresh_rate: dns_refresh_rate.as_ref(),
                    jitter: dns_jitter.as_ref(),
                    failure: dns_failure_refresh_rate
                        .as_ref()
                        .map(|rate| (rate.base_interval.as_ref(), rate.max_interval.as_ref())),
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
                self.original(
                    p,
                    use_http_header,
                    &http_header_name,
                    upstream_port_override.as_ref(),
                )
            }
            "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig" => {
                named(p, &any.value)
            }
            name => {
                p.refuse(format!("{name} is not supported by Weft"));
                None
            }
        }
    }
}

/// Reads `dns_lookup_family` in the form that clusters and caches of names share.
pub(crate) fn lookup_family(p: &mut Pass<'_>, value: i32) -> Option<DnsLookupFamily> {
    use cluster::cluster::DnsLookupFamily as Pb;
    Some(match p.enumeration("dns_lookup_family", value)? {
        Pb::Auto => DnsLookupFamily::Auto,
        Pb::V4Only => DnsLookupFamily::V4Only,
        Pb::V6Only => DnsLookupFamily::V6Only,
        Pb::V4Preferred => DnsLookupFamily::V4Preferred,
        Pb::All => DnsLookupFamily::All,
    })
}

/// `envoy.clusters.dynamic_forward_proxy`.
fn named(p: &mut Pass<'_>, bytes: &[u8]) -> Option<Discovery> {
    use forward::cluster_config::ClusterImplementationSpecifier as Specifier;
    use pb::extensions::clusters::dynamic_forward_proxy::v3 as forward;
    let forward::ClusterConfig {
        allow_insecure_cluster_options,
        allow_coalesced_connections,
        cluster_implementation_specifier,
    } = decode(p, bytes)?;
    ignore!(p, "dynamic_forward_proxy.ClusterConfig"; allow_coalesced_connections);
    let names = match &cluster_implementation_specifier {
        Some(Specifier::DnsCacheConfig(cache)) => {
            p.at("dns_cache_config", |p| name_cache(p, cache))
        }
        Some(Specifier::SubClustersConfig(_)) => {
            p.unsupported("sub_clusters_config", true);
            None
        }
        None => {
            p.refuse_field("dns_cache_config", "is required");
            None
        }
    };
    Some(Discovery::Named {
        names: names?,
        insecure: allow_insecure_cluster_options,
    })
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
