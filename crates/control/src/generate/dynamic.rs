//! Hosts whose names are looked up when they are called (`ServiceEntry` `DYNAMIC_DNS`, and unknown
//! hosts with the mesh's `ALLOW_ANY_DYNAMIC_DNS`): the cluster that leads to all of them, and the
//! filters before it that resolve a name. They share a cache by its name. Must never know listeners.

use weft_model::{ClientTlsMode, Hostname, MeshSettings, PolicySettings};

use super::clusters::{Target, bare, passed_through};
use super::names;
use super::peers;
use super::policies::{Http, apply_outlier, apply_pool, apply_tls, http_for, keep_alive, set_http};
use super::sds::Keepers;
use crate::pb::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily, LbPolicy},
};
use crate::pb::core::v3::TypedExtensionConfig;
use crate::pb::dns_cares::CaresDnsResolverConfig;
use crate::pb::dynamic_forward_proxy::{
    cache::DnsCacheConfig,
    cluster::{ClusterConfig, cluster_config::ClusterImplementationSpecifier},
    http::{FilterConfig, filter_config::ImplementationSpecifier},
    sni::{FilterConfig as SniConfig, filter_config::PortSpecifier},
};
use crate::pb::hcm::{HttpFilter, http_filter};
use crate::pb::listener::v3::Filter;
use crate::pb::{address, any, filter, u32_value};

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

/// Who looks up the names of unknown hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resolver {
    /// The resolvers of the proxy's system.
    System,
    /// The agent beside it, which also knows the mesh's own names.
    Agent,
}

/// Where Istio's agent answers DNS queries unless it is told otherwise.
const AGENT: (&str, u16) = ("127.0.0.1", 15_053);
/// Names that the cache of unknown hosts holds: Envoy's own default, as istiod writes it.
const MAX_HOSTS: u32 = 1024;

fn cache_of_all(resolver: Resolver) -> DnsCacheConfig {
    let asked = CaresDnsResolverConfig {
        resolvers: vec![address(AGENT.0, AGENT.1)],
        ..CaresDnsResolverConfig::default()
    };
    DnsCacheConfig {
        name: "allow_any_dfp_dns_cache".to_owned(),
        dns_lookup_family: DnsLookupFamily::V4Only as i32,
        max_hosts: u32_value(MAX_HOSTS),
        typed_dns_resolver_config: (resolver == Resolver::Agent).then(|| TypedExtensionConfig {
            name: "envoy.network.dns_resolver.cares".to_owned(),
            typed_config: Some(any(&asked)),
        }),
        ..DnsCacheConfig::default()
    }
}

/// Resolves the host that a request names, below a wildcard host.
pub(crate) fn http_filter(host: &str) -> HttpFilter {
    http_filter_of(cache(host))
}

/// Resolves the host that a request names, whatever it is.
pub(super) fn http_filter_of_all(resolver: Resolver) -> HttpFilter {
    http_filter_of(cache_of_all(resolver))
}

fn http_filter_of(cache: DnsCacheConfig) -> HttpFilter {
    let specifier = ImplementationSpecifier::DnsCacheConfig(cache);
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
        cluster.cluster_discovery_type = Some(resolved(cache(host.as_str()), checked));
    }
    set_http(&mut cluster, http);
    (cluster, closed)
}

/// `checked`: whether servers show certificates for the names by which they are called.
fn resolved(cache: DnsCacheConfig, checked: bool) -> ClusterDiscoveryType {
    let config = ClusterConfig {
        allow_insecure_cluster_options: !checked,
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(
            cache,
        )),
        ..ClusterConfig::default()
    };
    ClusterDiscoveryType::ClusterType(CustomClusterType {
        name: CLUSTER.to_owned(),
        typed_config: Some(any(&config)),
    })
}

/// The cluster of all hosts that are unknown.
pub(super) fn cluster_of_all(
    mesh: &MeshSettings,
    resolver: Resolver,
    keepers: Keepers<'_>,
) -> Cluster {
    let mut cluster = bare(mesh, names::ANY_HOST, DiscoveryType::Static);
    cluster.lb_policy = LbPolicy::ClusterProvided as i32;
    let mut http = passed_through(mesh, &mut cluster);
    let mut checked = false;
    if let Some(tls) = mesh.unknown_tls.as_ref().filter(|tls| tls.is_foreign()) {
        // What the server speaks inside of TLS is not known: HTTP/1.1, as in istiod.
        http = Http::default();
        apply_tls(&mut cluster, &mut http, &[], tls, (keepers, mesh));
        let auto = http.auto.as_ref();
        checked = auto.is_some_and(|auto| auto.auto_sni && auto.auto_san_validation);
    }
    cluster.cluster_discovery_type = Some(resolved(cache_of_all(resolver), checked));
    set_http(&mut cluster, http);
    cluster
}
