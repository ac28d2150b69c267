//! Hosts whose names are looked up when they are called (`ServiceEntry` `DYNAMIC_DNS`): the cluster
//! that leads to all of them, and the filters before it that resolve a name. The three share a
//! cache by its name. Must never know listeners.

use weft_model::{ClientTlsMode, Hostname, MeshSettings, PolicySettings};

use super::clusters::{Target, bare};
use super::names;
use super::peers;
use super::policies::{apply_outlier, apply_pool, http_for, keep_alive, set_http};
use crate::pb::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily, LbPolicy},
};
use crate::pb::dynamic_forward_proxy::{
    cache::DnsCacheConfig,
    cluster::{ClusterConfig, cluster_config::ClusterImplementationSpecifier},
    http::{FilterConfig, filter_config::ImplementationSpecifier},
    sni::{FilterConfig as SniConfig, filter_config::PortSpecifier},
};
use crate::pb::hcm::{HttpFilter, http_filter};
use crate::pb::listener::v3::Filter;
use crate::pb::{any, filter};

/// Envoy's cluster of this kind.
const CLUSTER: &str = "envoy.clusters.dynamic_forward_proxy";

/// Istio's name of the filter.
const SNI_FILTER: &str = "envoy.extensions.filters.network.sni_dynamic_forward_proxy";

fn cache(host: &str) -> DnsCacheConfig {
    DnsCacheConfig {
        name: format!("{host}_dfp_dns_cache"),
        dns_lookup_family: DnsLookupFamily::V4Only as i32,
        ..DnsCacheConfig::default()
    }
}

/// Resolves the host that a request names.
pub(crate) fn http_filter(host: &str) -> HttpFilter {
    let specifier = ImplementationSpecifier::DnsCacheConfig(cache(host));
    HttpFilter {
        name: "envoy.filters.http.dynamic_forward_proxy".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&FilterConfig {
            implementation_specifier: Some(specifier),
            ..FilterConfig::default()
        }))),
        ..HttpFilter::default()
    }
}

/// Resolves the server name of a TLS connection.
pub(crate) fn sni_filter(host: &str, port: u16) -> Filter {
    let config = SniConfig {
        dns_cache_config: Some(cache(host)),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SniConfig::default()
    };
    filter(SNI_FILTER, &config)
}

/// The cluster of a port. The text says why it cannot be called.
pub(super) fn cluster(
    mesh: &MeshSettings,
    to: &Target<'_>,
    settings: &PolicySettings,
) -> (Cluster, Option<String>) {
    let host: &Hostname = &to.service.hostname;
    let name = names::outbound(to.port.number, "", host);
    let mut cluster = bare(mesh, &name, DiscoveryType::Static);
    cluster.lb_policy = LbPolicy::ClusterProvided as i32;
    let mut http = http_for(
        mesh,
        to.port.protocol,
        settings.connection_pool.as_ref(),
        false,
    );
    apply_pool(&mut cluster, &mut http, settings);
    keep_alive(mesh, settings, &mut cluster);
    if let Some(outlier) = &settings.outlier_detection {
        apply_outlier(&mut cluster, &mut http, outlier);
    }
    let closed = peers::apply(&mut cluster, &mut http, mesh, to, settings);
    if closed.is_none() {
        let tls = settings.tls.as_ref();
        let tls = tls.filter(|tls| tls.mode != ClientTlsMode::Disable);
        let checked = tls.is_some_and(|tls| {
            let auto = http.auto.get_or_insert_default();
            // Which of many names a certificate is for is known with each call only.
            auto.auto_san_validation = !tls.insecure_skip_verify;
            auto.auto_sni && auto.auto_san_validation
        });
        let config = ClusterConfig {
            allow_insecure_cluster_options: !checked,
            cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(
                cache(host.as_str()),
            )),
            ..ClusterConfig::default()
        };
        cluster.cluster_discovery_type =
            Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
                name: CLUSTER.to_owned(),
                typed_config: Some(any(&config)),
            }));
    }
    set_http(&mut cluster, http);
    (cluster, closed)
}
