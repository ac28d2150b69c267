//! Mutual TLS, policies and tokens: what proxies with and without certificates get.

use std::collections::BTreeMap;

use prost::Message;
use weft_model::MeshSettings;
use weft_sources::mesh_config;

use super::{Config, Mesh, gateway, grpc, manager, proxy, sidecar};
use crate::node::Proxy;
use crate::pb::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use crate::pb::listener::v3::{FilterChain, Listener, filter};
use crate::pb::tls::{
    DownstreamTlsContext, UpstreamTlsContext, common_tls_context::ValidationContextType,
};

const SHOP: &str = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  addresses: [10.96.0.10]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 81, name: tcp, protocol: TCP}
  - {number: 82, name: any}
  endpoints:
  - {address: 10.0.0.1, labels: {version: v1}, serviceAccount: reviews}
  - {address: 10.0.0.2, labels: {version: v2}}
";

fn peer(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn with_files(ip: &str) -> Proxy {
    proxy(
        &format!("sidecar~{ip}~app.shop~shop.svc.cluster.local"),
        &[
            ("TLS_SERVER_CERT_CHAIN", "/s.pem"),
            ("TLS_SERVER_KEY", "/s.key"),
            ("TLS_SERVER_ROOT_CERT", "/ca.pem"),
            ("TLS_CLIENT_CERT_CHAIN", "/c.pem"),
            ("TLS_CLIENT_KEY", "/c.key"),
            ("TLS_CLIENT_ROOT_CERT", "/ca.pem"),
        ],
    )
}

fn with_agent(ip: &str) -> Proxy {
    proxy(
        &format!("sidecar~{ip}~app.shop~shop.svc.cluster.local"),
        &[("ISTIO_VERSION", "1.32.0")],
    )
}

fn is_http(chain: &FilterChain) -> bool {
    let last = chain.filters.last().expect("a filter");
    last.name.ends_with("http_connection_manager")
}

/// `tls+ALPN → http, ends` of the chains of a port.
fn chains(listener: &Listener, port: u32) -> Vec<String> {
    let of = |chain: &&FilterChain| {
        let matched = chain.filter_chain_match.clone().unwrap_or_default();
        matched.destination_port.map_or(0, |p| p.value) == port
    };
    let shown = |chain: &FilterChain| {
        let matched = chain.filter_chain_match.clone().unwrap_or_default();
        let found = matched.application_protocols.join(",");
        let kind = if is_http(chain) { "http" } else { "tcp" };
        let ends = if chain.transport_socket.is_some() {
            " mutual"
        } else {
            ""
        };
        format!("{}[{found}] {kind}{ends}", matched.transport_protocol)
    };
    listener
        .filter_chains
        .iter()
        .filter(of)
        .map(shown)
        .collect()
}

fn inbound(text: &str, proxy: &Proxy) -> Listener {
    Mesh::new(&format!("{SHOP}{text}"))
        .config(proxy)
        .listener("virtualInbound")
}

const ALL: &str = "istio,istio-peer-exchange,istio-http/1.0,istio-http/1.1,istio-h2";

#[test]
fn a_permissive_port_takes_both_and_passes_on_other_tls() {
    let found = inbound("", &with_files("10.0.0.1"));
    assert_eq!(
        chains(&found, 80),
        [
            format!("tls[{ALL}] http mutual"),
            "raw_buffer[] http".to_owned()
        ]
    );
    assert_eq!(
        chains(&found, 81),
        [
            format!("tls[{ALL}] tcp mutual"),
            "tls[] tcp".to_owned(),
            "raw_buffer[] tcp".to_owned()
        ]
    );
    let sniffed = [
        "tls[istio-http/1.0,istio-http/1.1,istio-h2] http mutual",
        "raw_buffer[http/1.1,h2c] http",
        "tls[istio-peer-exchange,istio] tcp mutual",
        "raw_buffer[] tcp",
        "tls[] tcp",
    ];
    assert_eq!(chains(&found, 82), sniffed);
    assert_eq!(chains(&found, 0), sniffed, "ports of no service");
}

#[test]
fn modes_hold_by_port_workload_namespace_and_mesh() {
    let rules = peer("mesh", "istio-system", "{mtls: {mode: STRICT}}")
        + &peer("shop", "shop", "{}")
        + &peer(
            "v1",
            "shop",
            "{selector: {matchLabels: {version: v1}}, portLevelMtls: {81: {mode: DISABLE}, 99: {mode: DISABLE}}}",
        );
    let v1 = proxy(
        "sidecar~10.0.0.1~app.shop~shop.svc.cluster.local",
        &[
            ("LABELS", r#"{"version":"v1"}"#),
            ("ISTIO_VERSION", "1.32.0"),
        ],
    );
    let found = inbound(&rules, &v1);
    assert_eq!(chains(&found, 80), ["tls[] http mutual"]);
    assert_eq!(chains(&found, 81), ["raw_buffer[] tcp"]);
    let plain = ["raw_buffer[http/1.1,h2c] http", "raw_buffer[] tcp"];
    assert_eq!(chains(&found, 99), plain, "a port that only the rule names");
    let strict = [
        "tls[istio-http/1.0,istio-http/1.1,istio-h2] http mutual",
        "tls[] tcp mutual",
    ];
    assert_eq!(chains(&found, 0), strict);
    assert_eq!(chains(&found, 82), strict);
}

#[test]
fn without_a_certificate_plain_text_goes_on_and_strict_refuses_it_aloud() {
    let found = inbound("", &sidecar("10.0.0.1", "shop"));
    assert_eq!(chains(&found, 80), ["raw_buffer[] http"]);
    assert!(
        found
            .listener_filters
            .iter()
            .all(|f| !f.name.contains("tls"))
    );
    let rules = peer("mesh", "istio-system", "{mtls: {mode: STRICT}}");
    let mut mesh = Mesh::new(&format!("{SHOP}{rules}"));
    let proxy = sidecar("10.0.0.1", "shop");
    let found = mesh.config(&proxy).listener("virtualInbound");
    for port in [0, 80, 81, 82] {
        assert_eq!(chains(&found, port), ["[] tcp"], "port {port}");
    }
    let target = found.filter_chains.last().expect("a chain");
    let Some(filter::ConfigType::TypedConfig(any)) = &target.filters[0].config_type else {
        panic!("{target:?}")
    };
    let target = crate::pb::tcp_proxy::TcpProxy::decode(&any.value[..]).expect("valid");
    assert_eq!(target.stat_prefix, "BlackHoleCluster");
    let view = mesh.view(&proxy);
    let faults: Vec<String> = view.faults().map(|f| f.message.to_string()).collect();
    assert!(
        faults.len() == 1 && faults[0].contains("STRICT") && faults[0].contains("TLS_SERVER_KEY"),
        "{faults:?}"
    );
    let origins: Vec<String> = view
        .faults()
        .flat_map(|f| {
            f.origins
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(origins, ["PeerAuthentication/istio-system/mesh"]);
}

fn server_context(listener: &Listener) -> DownstreamTlsContext {
    let mut sockets = listener.filter_chains.iter();
    let socket = sockets.find_map(|chain| chain.transport_socket.clone());
    let Some(crate::pb::core::v3::transport_socket::ConfigType::TypedConfig(any)) =
        socket.expect("mutual TLS").config_type
    else {
        panic!("no configuration")
    };
    DownstreamTlsContext::decode(&any.value[..]).expect("valid")
}

#[test]
#[allow(deprecated)] // istiod's form
fn certificates_are_files_or_secrets_of_the_agent() {
    let files = server_context(&inbound("", &with_files("10.0.0.1")));
    let common = files.common_tls_context.expect("settings");
    assert_eq!(common.tls_certificates.len(), 1);
    let Some(ValidationContextType::ValidationContext(checked)) = common.validation_context_type
    else {
        panic!("files are read")
    };
    assert_eq!(checked.match_subject_alt_names.len(), 1);
    let agent = server_context(&inbound("", &with_agent("10.0.0.1")));
    let common = agent.common_tls_context.expect("settings");
    assert_eq!(common.tls_certificate_sds_secret_configs[0].name, "default");
    let Some(ValidationContextType::CombinedValidationContext(checked)) =
        common.validation_context_type
    else {
        panic!("authorities are a secret")
    };
    let secret = checked.validation_context_sds_secret_config.expect("one");
    assert_eq!(secret.name, "ROOTCA");
}

const HTTP: &str = "outbound|80||reviews.shop.svc.cluster.local";

/// Which endpoints of the cluster are marked.
fn marked(config: &Config, cluster: &str) -> Vec<bool> {
    let assignment = config.endpoints(cluster);
    let all = assignment.endpoints.iter().flat_map(|l| &l.lb_endpoints);
    all.map(|e| e.metadata.is_some()).collect()
}

#[allow(deprecated)] // istiod's form
fn names(socket: &crate::pb::core::v3::TransportSocket) -> (String, usize) {
    let Some(crate::pb::core::v3::transport_socket::ConfigType::TypedConfig(any)) =
        &socket.config_type
    else {
        panic!("no configuration")
    };
    let context = UpstreamTlsContext::decode(&any.value[..]).expect("valid");
    let common = context.common_tls_context.expect("settings");
    let checked = match common.validation_context_type.expect("validation") {
        ValidationContextType::ValidationContext(checked) => checked,
        ValidationContextType::CombinedValidationContext(both) => {
            both.default_validation_context.expect("names")
        }
        other => panic!("{other:?}"),
    };
    (context.sni, checked.match_subject_alt_names.len())
}

#[test]
fn clients_choose_mutual_tls_where_the_server_takes_it() {
    let mut mesh = Mesh::new(SHOP);
    let (client, plain) = (with_files("10.0.0.9"), sidecar("10.0.0.9", "shop"));
    let config = mesh.config(&client);
    let cluster = config.cluster(HTTP);
    let found: Vec<_> = cluster
        .transport_socket_matches
        .iter()
        .map(|m| m.name.as_str())
        .collect();
    assert_eq!(found, ["tlsMode-istio", "tlsMode-disabled"]);
    let socket = cluster.transport_socket_matches[0].transport_socket.clone();
    let sni = "outbound_.80_._.reviews.shop.svc.cluster.local".to_owned();
    assert_eq!(names(&socket.expect("TLS")), (sni, 1));
    assert_eq!(marked(&config, HTTP), [true, false]);
    assert!(
        mesh.config(&plain)
            .cluster(HTTP)
            .transport_socket_matches
            .is_empty()
    );

    let edited = mesh.edit("p.yaml", &peer("all", "shop", "{mtls: {mode: DISABLE}}"));
    assert!(edited > 0);
    let config = mesh.config(&client);
    assert!(config.cluster(HTTP).transport_socket_matches.is_empty());
    assert_eq!(marked(&config, HTTP), [false, false]);
    // A rule for one workload is the workload's: clients look at its endpoints only.
    let one = peer(
        "all",
        "shop",
        "{selector: {matchLabels: {version: v1}}, mtls: {mode: DISABLE}}",
    );
    mesh.edit("p.yaml", &one);
    let config = mesh.config(&client);
    assert_eq!(config.cluster(HTTP).transport_socket_matches.len(), 2);
    assert_eq!(marked(&config, HTTP), [false, false]);
}

#[test]
fn what_is_to_be_secret_is_not_sent_in_plain_text() {
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: shop}\nspec: {host: reviews, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}\n";
    let mut mesh = Mesh::new(&format!("{SHOP}{rule}"));
    let config = mesh.config(&with_files("10.0.0.9"));
    assert!(config.cluster(HTTP).transport_socket.is_some());
    let plain = sidecar("10.0.0.9", "shop");
    let cluster = mesh.config(&plain).cluster(HTTP);
    assert!(cluster.transport_socket.is_none() && cluster.load_assignment.is_none());
    let closed = ClusterDiscoveryType::Type(DiscoveryType::Static as i32);
    assert_eq!(cluster.cluster_discovery_type, Some(closed));
    let view = mesh.view(&plain);
    let told = view.faults().filter(|f| f.message.contains("ISTIO_MUTUAL"));
    assert_eq!(told.count(), 3, "one a port");
    let cluster = mesh.config(&grpc("shop")).cluster(HTTP);
    assert!(cluster.transport_socket.is_some(), "gRPC clients, too");
    let off = MeshSettings {
        auto_mtls: false,
        ..MeshSettings::default()
    };
    let config = Mesh::with(off, SHOP).config(&with_files("10.0.0.9"));
    assert!(config.cluster(HTTP).transport_socket_matches.is_empty());
}

/// Names of filters before those that every listener has.
fn guards(listener: &Listener, port: u32) -> (Vec<String>, Vec<String>) {
    let mut out = (Vec::new(), Vec::new());
    for chain in &listener.filter_chains {
        let matched = chain.filter_chain_match.clone().unwrap_or_default();
        if matched.destination_port.map_or(0, |p| p.value) != port {
            continue;
        }
        let short = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        if is_http(chain) {
            let filters = manager(chain).http_filters;
            out.0 = filters.iter().map(|f| short(&f.name)).collect();
            out.0.truncate(filters.len() - 3);
        } else {
            out.1 = chain.filters.iter().map(|f| short(&f.name)).collect();
            out.1.pop();
        }
    }
    out
}

#[test]
fn policies_stand_in_istios_order_and_only_where_they_are_for() {
    let keys = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#;
    let tokens = format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: t, namespace: shop}}\nspec: {{jwtRules: [{{issuer: i, jwks: '{keys}'}}]}}\n"
    );
    let text = policy("allow", "{rules: [{}]}")
        + &policy(
            "deny",
            "{action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}",
        )
        + &policy(
            "other",
            "{selector: {matchLabels: {app: other}}, action: AUDIT, rules: [{}]}",
        )
        + &policy(
            "ask",
            "{action: CUSTOM, provider: {name: ask}, rules: [{to: [{operation: {paths: [/a]}}]}]}",
        )
        + &tokens;
    let settings = mesh_config::parse(
        "mesh.yaml",
        "extensionProviders: [{name: ask, envoyExtAuthzGrpc: {service: reviews.shop.svc.cluster.local, port: 81}}]\n",
    );
    let settings = settings.expect("valid");
    let mut mesh = Mesh::with(settings, &format!("{SHOP}{text}"));
    let workload = sidecar("10.0.0.1", "shop");
    let found = mesh.config(&workload).listener("virtualInbound");
    let (http, _) = guards(&found, 80);
    assert_eq!(http, ["rbac", "ext_authz", "jwt_authn", "rbac", "rbac"]);
    let (_, tcp) = guards(&found, 81);
    assert_eq!(tcp, ["rbac", "ext_authz", "rbac", "rbac"]);
    assert_eq!(mesh.view(&workload).faults().count(), 0);
    let elsewhere = mesh.config(&sidecar("10.0.0.9", "other"));
    let (http, tcp) = guards(&elsewhere.listener("virtualInbound"), 0);
    assert!(http.is_empty() && tcp.is_empty(), "{http:?} {tcp:?}");

    // Without the provider's service, what its rules match is kept out.
    let mut mesh = Mesh::new(&format!("{SHOP}{text}"));
    let found = mesh.config(&workload).listener("virtualInbound");
    assert_eq!(guards(&found, 80).0, ["rbac", "jwt_authn", "rbac", "rbac"]);
    let view = mesh.view(&workload);
    let faults: Vec<_> = view.faults().map(|f| f.message.to_string()).collect();
    assert!(
        faults.len() == 1 && faults[0].contains("\"ask\""),
        "{faults:?}"
    );
}

#[test]
fn rules_that_only_http_can_express_allow_nothing_on_tcp_and_deny_without_it() {
    use crate::pb::network_rbac::Rbac;
    let rbac = |text: &str| {
        let found = inbound(text, &sidecar("10.0.0.1", "shop"));
        let chain = found.filter_chains.iter().find(|chain| {
            let matched = chain.filter_chain_match.clone().unwrap_or_default();
            matched.destination_port.map_or(0, |p| p.value) == 81
        });
        let filter = &chain.expect("port 81").filters[0];
        let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
            panic!("{filter:?}")
        };
        let rules = Rbac::decode(&any.value[..]).expect("valid").rules;
        let policies = rules.expect("rules").policies;
        policies
            .into_iter()
            .map(|(name, policy)| (name, policy.permissions.len()))
            .collect::<BTreeMap<_, _>>()
    };
    let operation = "rules: [{to: [{operation: {paths: [/a], ports: ['81']}}]}, {to: [{operation: {ports: ['81']}}]}]";
    let allow = rbac(&policy("p", &format!("{{{operation}}}")));
    assert_eq!(
        allow.keys().collect::<Vec<_>>(),
        ["ns[shop]-policy[p]-rule[1]"]
    );
    let deny = rbac(&policy("p", &format!("{{action: DENY, {operation}}}")));
    assert_eq!(deny.len(), 2, "wider, not absent");
    let nothing = rbac(&policy("p", "{}"));
    assert_eq!(nothing.len(), 1, "a policy without rules matches nothing");
}

#[test]
fn gateways_check_policies_too_and_an_edit_elsewhere_leaves_them_alone() {
    let server = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: infra}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]}\n";
    let mut mesh = Mesh::new(&format!("{SHOP}{server}"));
    let gateway = gateway();
    let before = mesh.config(&gateway).listener("0.0.0.0_8080");
    assert_eq!(
        mesh.edit("p.yaml", &policy("p", "{}")),
        0,
        "another namespace"
    );
    let own = policy(
        "p",
        "{selector: {matchLabels: {istio: ingressgateway}}, rules: [{}]}",
    );
    assert_eq!(mesh.edit("p.yaml", &own.replace("shop", "infra")), 1);
    let after = mesh.config(&gateway).listener("0.0.0.0_8080");
    let filters = |l: &Listener| manager(&l.filter_chains[0]).http_filters.len();
    assert_eq!(filters(&after), filters(&before) + 1);
}

#[test]
fn without_fetched_keys_no_token_is_accepted_and_the_rule_says_so() {
    let mut mesh = Mesh::new(SHOP);
    let rule = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: remote, namespace: shop}\nspec: {jwtRules: [{issuer: i, jwksUri: 'https://example.com/keys'}]}\n";
    mesh.edit("remote.yaml", rule);
    let proxy = sidecar("10.0.0.1", "shop");
    let view = mesh.view(&proxy);
    let told: Vec<_> = view
        .faults()
        .map(|fault| fault.message.to_string())
        .collect();
    let expected = "no keys from https://example.com/keys yet: tokens are refused";
    assert!(told.iter().any(|text| text == expected), "{told:?}");
    let place = weft_model::KeyPlace::Url("https://example.com/keys".into());
    let key = crate::graph::Key::TokenKeys(place);
    let keys = crate::graph::Value::Text("{\"keys\":[]}".into());
    mesh.world.engine.set(key, keys);
    assert_eq!(mesh.world.engine.settle().len(), 1);
    assert_eq!(mesh.view(&proxy).faults().count(), 0);
}
