//! How names that requests and TLS connections carry are looked up and kept (Envoy's `DnsCacheConfig`).
//! Clusters and filters that say the same share a cache. Looks nothing up.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::DnsLookupFamily;
use crate::cluster::discovery::lookup_family;
use crate::extension::{decode, type_name};
use crate::filter_chain::SniNames;
use crate::http_filter::HostOverride;
use crate::pass::Pass;
use crate::pb;
use pb::extensions::common::dynamic_forward_proxy::v3 as cache;
use pb::extensions::filters::http::dynamic_forward_proxy::v3 as http;
use pb::extensions::filters::network::sni_dynamic_forward_proxy::v3 as sni;
use pb::extensions::network::dns_resolver::cares::v3 as cares;

/// See the module. All is equal where a cache is shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NameCache {
    /// For statistics: `dns_cache.<name>.`.
    pub name: Arc<str>,
    /// Which addresses are used.
    pub family: DnsLookupFamily,
    /// Time between look-ups of a name that is known; the system's resolver tells no TTL. 60 s by
    /// default, and not less than `dns_min_refresh_rate` (5 s by default).
    pub refresh: Duration,
    /// Time after a failure: base and maximum of the back-off; `None`: as `refresh`.
    pub failure_refresh: Option<(Duration, Duration)>,
    /// A name that nobody asked for in so long is forgotten; 5 minutes by default.
    pub ttl: Duration,
    /// Names at once; 1024 by default.
    pub max_hosts: u32,
    /// Requests that wait for a look-up at once; 1024 by default.
    pub max_pending: u32,
    /// A look-up that takes longer has failed; 5 s by default.
    pub timeout: Duration,
}

const REFRESH: Duration = Duration::from_mins(1);
const MIN_REFRESH: Duration = Duration::from_secs(5);
const TTL: Duration = Duration::from_mins(5);
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HOSTS: u32 = 1024;
const MAX_PENDING: u32 = 1024;

/// Reads a `DnsCacheConfig`.
pub(crate) fn name_cache(
    p: &mut Pass<'_>,
    message: &cache::DnsCacheConfig,
) -> Option<Arc<NameCache>> {
    let cache::DnsCacheConfig {
        name,
        dns_lookup_family,
        dns_refresh_rate,
        dns_min_refresh_rate,
        host_ttl,
        max_hosts,
        disable_dns_refresh_on_failure,
        dns_failure_refresh_rate,
        dns_cache_circuit_breaker,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        preresolve_hostnames,
        dns_query_timeout,
        key_value_config,
        resolved_address_filter,
    } = message;
    unsupported!(p; disable_dns_refresh_on_failure, dns_resolution_config, preresolve_hostnames, key_value_config,
        resolved_address_filter);
    ignore!(p, "DnsCacheConfig"; use_tcp_for_dns_lookups);
    p.opt(
        "typed_dns_resolver_config",
        typed_dns_resolver_config.as_ref(),
        resolver,
    );
    let name = p.name("name", name)?;
    let family = lookup_family(p, *dns_lookup_family)?;
    let refresh = p
        .positive_duration("dns_refresh_rate", dns_refresh_rate.as_ref())
        .unwrap_or(REFRESH);
    let least = p
        .positive_duration("dns_min_refresh_rate", dns_min_refresh_rate.as_ref())
        .unwrap_or(MIN_REFRESH);
    let failure_refresh = dns_failure_refresh_rate.as_ref().and_then(|rate| {
        p.at("dns_failure_refresh_rate", |p| {
            let base = p.positive_duration("base_interval", rate.base_interval.as_ref())?;
            let max = p
                .positive_duration("max_interval", rate.max_interval.as_ref())
                .unwrap_or(base * 10);
            if max < base {
                p.refuse_field("max_interval", "must not be shorter than base_interval");
            }
            Some((base, max))
        })
    });
    let max_hosts = max_hosts.map_or(MAX_HOSTS, |max| max.value);
    if max_hosts == 0 {
        p.refuse_field("max_hosts", "must be greater than 0");
    }
    let pending = dns_cache_circuit_breaker.as_ref();
    let pending = pending.and_then(|breaker| breaker.max_pending_requests);
    Some(Arc::new(NameCache {
        name,
        family,
        refresh: refresh.max(least),
        failure_refresh,
        ttl: p
            .positive_duration("host_ttl", host_ttl.as_ref())
            .unwrap_or(TTL),
        max_hosts,
        max_pending: pending.map_or(MAX_PENDING, |max| max.value),
        timeout: p
            .positive_duration("dns_query_timeout", dns_query_timeout.as_ref())
            .unwrap_or(TIMEOUT),
    }))
}

/// The system's resolver is asked whatever this says, unless it names another one.
fn resolver(p: &mut Pass<'_>, message: &pb::core::TypedExtensionConfig) -> Option<()> {
    let any = message.typed_config.as_ref()?;
    p.at("typed_config", |p| match type_name(any) {
        "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig" => {
            let config: cares::CaresDnsResolverConfig = decode(p, &any.value)?;
            p.unsupported("resolvers", !config.resolvers.is_empty());
            Some(())
        }
        "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig" => {
            Some(())
        }
        name => {
            p.refuse(format!("{name} is not supported by Weft"));
            None
        }
    })
}

/// Reads `envoy.filters.network.sni_dynamic_forward_proxy`.
pub(crate) fn sni_names(p: &mut Pass<'_>, message: &sni::FilterConfig) -> Option<SniNames> {
    const HTTPS: u16 = 443;
    let sni::FilterConfig {
        dns_cache_config,
        save_upstream_address,
        port_specifier,
    } = message;
    unsupported!(p; save_upstream_address);
    let cache = p.required("dns_cache_config", dns_cache_config.as_ref(), name_cache);
    let port = match port_specifier {
        Some(sni::filter_config::PortSpecifier::PortValue(port)) => p.port("port_value", *port)?,
        None => HTTPS,
    };
    Some(SniNames {
        cache: cache?,
        port,
    })
}

/// Reads `envoy.filters.http.dynamic_forward_proxy`.
pub(crate) fn http_names(p: &mut Pass<'_>, message: &http::FilterConfig) -> Option<Arc<NameCache>> {
    use http::filter_config::ImplementationSpecifier as Specifier;
    let http::FilterConfig {
        save_upstream_address,
        allow_dynamic_host_from_filter_state,
        implementation_specifier,
    } = message;
    unsupported!(p; save_upstream_address, allow_dynamic_host_from_filter_state);
    match implementation_specifier {
        Some(Specifier::DnsCacheConfig(cache)) => {
            p.at("dns_cache_config", |p| name_cache(p, cache))
        }
        Some(Specifier::SubClusterConfig(_)) => {
            p.unsupported("sub_cluster_config", true);
            None
        }
        None => {
            p.refuse_field("dns_cache_config", "is required");
            None
        }
    }
}

/// Reads what a route says of the filter.
pub(crate) fn per_route(p: &mut Pass<'_>, message: &http::PerRouteConfig) -> Option<HostOverride> {
    use http::per_route_config::HostRewriteSpecifier as Specifier;
    let http::PerRouteConfig {
        host_rewrite_specifier,
    } = message;
    match host_rewrite_specifier {
        Some(Specifier::HostRewriteLiteral(host)) if !host.is_empty() => {
            if ::http::HeaderValue::from_str(host).is_err() {
                p.refuse_field("host_rewrite_literal", "is no value of a header");
                return None;
            }
            Some(HostOverride::Literal(host.as_str().into()))
        }
        Some(Specifier::HostRewriteHeader(name)) if !name.is_empty() => {
            let Ok(name) = ::http::HeaderName::from_bytes(name.as_bytes()) else {
                p.refuse_field("host_rewrite_header", "is no header name");
                return None;
            };
            Some(HostOverride::Header(name))
        }
        _ => Some(HostOverride::Literal("".into())),
    }
}
