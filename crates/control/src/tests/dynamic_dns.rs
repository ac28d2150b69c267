//! Hosts whose names are looked up when they are called, and TLS that is checked against the roots
//! of the proxy's system.

use prost::Message;
use weft_xds::TypeUrl;

use super::{Mesh, manager, proxy, sidecar};
use crate::pb::cluster::v3::cluster::ClusterDiscoveryType;
use crate::pb::dynamic_forward_proxy::cluster::{
    ClusterConfig, cluster_config::ClusterImplementationSpecifier,
};
use crate::pb::listener::v3::Listener;
use crate::pb::tls::{UpstreamTlsContext, common_tls_context::ValidationContextType};
use crate::pb::{cluster, core};

const ENTRIES: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: partners, namespace: shop}
spec:
  hosts: ['*.partners.example.com']
  location: MESH_EXTERNAL
  resolution: DYNAMIC_DNS
  ports:
  - {number: 443, name: tls, protocol: TLS}
  - {number: 80, name: http, protocol: HTTP}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: plain, namespace: shop}
spec:
  hosts: [plain.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 81, name: http-more, protocol: HTTP}
";

const RULE: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: partners, namespace: shop}
spec: {host: '*.partners.example.com', trafficPolicy: {tls: TLS}}
";

fn dynamic(cluster: &cluster::v3::Cluster) -> ClusterConfig {
    let Some(ClusterDiscoveryType::ClusterType(kind)) = &cluster.cluster_discovery_type else {
        panic!("{cluster:?}")
    };
    let config = kind.typed_config.as_ref().expect("a configuration");
    ClusterConfig::decode(&config.value[..]).expect("valid")
}

fn context(cluster: &cluster::v3::Cluster) -> UpstreamTlsContext {
    let socket = cluster.transport_socket.as_ref().expect("TLS");
    let Some(core::v3::transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        panic!("{socket:?}")
    };
    UpstreamTlsContext::decode(&any.value[..]).expect("valid")
}

fn filters(listener: &Listener) -> Vec<Vec<&str>> {
    let chains = listener.filter_chains.iter();
    chains
        .map(|chain| chain.filters.iter().map(|f| f.name.as_str()).collect())
        .collect()
}

#[test]
fn names_below_a_wildcard_are_resolved_before_they_are_forwarded() {
    let config = Mesh::new(ENTRIES).config(&sidecar("10.0.0.9", "shop"));
    let cluster = config.cluster("outbound|443||*.partners.example.com");
    // Without TLS, Envoy 1.40 refuses the cluster unless it is told that nothing is verified.
    assert!(dynamic(&cluster).allow_insecure_cluster_options);
    let tls = config.listener("0.0.0.0_443");
    let found = filters(&tls);
    let expected = vec![vec![
        "envoy.extensions.filters.network.sni_dynamic_forward_proxy",
        "envoy.filters.network.tcp_proxy",
    ]];
    assert_eq!(found, expected);
    let inspector = |f: &crate::pb::listener::v3::ListenerFilter| f.name.contains("tls_inspector");
    assert!(tls.listener_filters.iter().any(inspector));
    // Only where there is such a host are names of requests resolved.
    for (name, count) in [("0.0.0.0_80", 1), ("0.0.0.0_81", 0)] {
        let listener = config.listener(name);
        let manager = manager(&listener.filter_chains[0]);
        let resolves = |f: &&crate::pb::hcm::HttpFilter| f.name.ends_with("dynamic_forward_proxy");
        let all = &manager.http_filters;
        assert_eq!(all.iter().filter(resolves).count(), count, "{name}");
        assert!(all.last().is_some_and(|f| f.name.ends_with("router")));
    }
    let host = config.host("80", "*.partners.example.com:80");
    assert_eq!(host.domains[0], "*.partners.example.com");
}

#[test]
fn certificates_behind_a_wildcard_are_checked_unless_a_rule_says_no() {
    let mut mesh = Mesh::new(ENTRIES);
    for (tls, open) in [
        ("{mode: SIMPLE}", false),
        ("{mode: SIMPLE, insecureSkipVerify: true}", true),
        ("{mode: SIMPLE, sni: one.partners.example.com}", true),
    ] {
        mesh.edit("rule.yaml", &RULE.replace("TLS", tls));
        let config = mesh.config(&sidecar("10.0.0.9", "shop"));
        let cluster = config.cluster("outbound|80||*.partners.example.com");
        assert_eq!(
            dynamic(&cluster).allow_insecure_cluster_options,
            open,
            "{tls}"
        );
    }
}

#[test]
fn a_name_of_a_rule_is_resolved_too() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r, namespace: shop}\nspec: {hosts: ['*.partners.example.com'], tls: [{match: [{sniHosts: ['eu.partners.example.com']}], route: [{destination: {host: '*.partners.example.com'}}]}]}\n";
    let config = Mesh::new(&format!("{ENTRIES}---\n{rule}")).config(&sidecar("10.0.0.9", "shop"));
    let listener = config.listener("0.0.0.0_443");
    assert_eq!(filters(&listener)[0].len(), 2);
}

#[test]
fn without_authorities_those_of_the_system_count() {
    let rule = RULE
        .replace("*.partners", "plain")
        .replace("TLS", "{mode: SIMPLE}");
    let mut mesh = Mesh::new(&format!("{ENTRIES}---\n{rule}"));
    let name = "outbound|80||plain.example.com";
    let own = mesh.config(&sidecar("10.0.0.9", "shop")).cluster(name);
    let common = context(&own).common_tls_context.expect("common");
    let Some(ValidationContextType::ValidationContext(check)) = common.validation_context_type
    else {
        panic!("{common:?}")
    };
    assert!(check.system_root_certs.is_some() && check.trusted_ca.is_none());
    let agent = [("ISTIO_VERSION", "1.32.0")];
    let agent = proxy("sidecar~10.0.0.9~a.shop~shop.svc.cluster.local", &agent);
    let with_agent = mesh.config(&agent).cluster(name);
    let common = context(&with_agent).common_tls_context.expect("common");
    let Some(ValidationContextType::CombinedValidationContext(check)) =
        common.validation_context_type
    else {
        panic!("{common:?}")
    };
    let secret = check
        .validation_context_sds_secret_config
        .expect("a secret");
    assert_eq!(secret.name, "file-root:system");
}

fn any_host(policy: &str) -> Mesh {
    let text = format!("outboundTrafficPolicy: {policy}");
    let settings = weft_sources::mesh_config::parse("mesh.yaml", &text).expect("valid");
    Mesh::with(settings, ENTRIES)
}

/// Cluster that a request to no known host goes to.
fn last_route(config: &super::Config) -> Option<(String, String)> {
    let host = config.route("80").virtual_hosts.pop()?;
    let split = super::split(host.routes.first()?);
    Some((host.name, split.into_keys().next()?))
}

const ANY: &str = "AllowAnyDynamicDNSCluster";

#[test]
fn unknown_hosts_of_requests_are_looked_up_where_the_mesh_says_so() {
    let mut mesh = any_host("{mode: ALLOW_ANY_DYNAMIC_DNS}");
    let config = mesh.config(&sidecar("10.0.0.9", "shop"));
    let cache = |config: &super::Config| {
        let specifier = dynamic(&config.cluster(ANY)).cluster_implementation_specifier;
        let Some(ClusterImplementationSpecifier::DnsCacheConfig(cache)) = specifier else {
            panic!("{specifier:?}")
        };
        cache
    };
    let system = cache(&config);
    assert!(system.typed_dns_resolver_config.is_none());
    assert!(dynamic(&config.cluster(ANY)).allow_insecure_cluster_options);
    let listener = config.listener("virtualOutbound");
    assert!(listener.continue_on_listener_filters_timeout);
    let names: Vec<&str> = listener
        .filter_chains
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "virtualOutbound-blackhole",
            "virtualOutbound-catchall-tcp-http",
            "virtualOutbound-catchall-tcp"
        ]
    );
    let resolves = |listener: &str, config: &super::Config| {
        let listener = config.listener(listener);
        let mut chains = listener
            .filter_chains
            .iter()
            .chain(&listener.default_filter_chain);
        chains.any(|chain| {
            let first = chain.filters.first();
            let http = first.is_some_and(|f| f.name.ends_with("http_connection_manager"));
            http && manager(chain).http_filters.iter().any(|f| {
                // One cache for the filter and the cluster.
                f.name == "envoy.filters.http.dynamic_forward_proxy"
                    && format!("{f:?}").contains("TypedConfig")
            })
        })
    };
    assert!(resolves("virtualOutbound", &config) && resolves("0.0.0.0_80", &config));
    let wanted = ("allow_any_dynamic_dns".to_owned(), ANY.to_owned());
    assert_eq!(last_route(&config), Some(wanted));
    let agent = proxy(
        "sidecar~10.0.0.8~app.shop~shop.svc.cluster.local",
        &[("DNS_CAPTURE", "true")],
    );
    let asked = cache(&mesh.config(&agent));
    let asked = asked.typed_dns_resolver_config.expect("the agent");
    assert!(
        asked
            .typed_config
            .is_some_and(|any| any.type_url.ends_with("CaresDnsResolverConfig"))
    );
    let clusters = mesh.config(&super::gateway()).names(&TypeUrl::CLUSTER);
    assert!(
        !clusters.contains(&ANY.to_owned()),
        "gateways have no unknown hosts"
    );
}

#[test]
fn unknown_hosts_have_the_tls_of_the_mesh_and_sidecars_a_word_of_their_own() {
    let mut mesh =
        any_host("{mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: SIMPLE, caCertificates: /r.pem}}");
    let proxy = sidecar("10.0.0.9", "shop");
    let cluster = mesh.config(&proxy).cluster(ANY);
    assert!(!dynamic(&cluster).allow_insecure_cluster_options);
    assert!(context(&cluster).sni.is_empty(), "the name that is called");
    let own = "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: own, namespace: shop}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
";
    mesh.edit("own.yaml", own);
    let config = mesh.config(&proxy);
    assert!(!config.names(&TypeUrl::CLUSTER).contains(&ANY.to_owned()));
    assert_eq!(config.listener("virtualOutbound").filter_chains.len(), 2);
}
