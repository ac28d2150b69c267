//! Servers of gateways that forward bytes, and how they share ports with others.

use super::streams::{chains, tcp};
use super::{Config, Mesh, gateway, proxy};
use crate::pb::listener::v3::FilterChain;
use crate::pb::tls::DownstreamTlsContext;
use prost::Message;

const SERVICE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: store, namespace: infra}
spec:
  hosts: [store.infra.svc.cluster.local]
  addresses: [10.96.0.7]
  resolution: STATIC
  ports: [{number: 9000, name: tcp, protocol: TCP}, {number: 9443, name: tls, protocol: TLS}]
  endpoints: [{address: 10.0.0.7, labels: {version: v1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: store, namespace: infra}
spec:
  host: store.infra.svc.cluster.local
  trafficPolicy: {connectionPool: {tcp: {idleTimeout: 9s}}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
";

fn gateways(servers: &[&str]) -> String {
    let servers: Vec<String> = servers.iter().map(|s| format!("  - {{{s}}}")).collect();
    let servers = servers.join("\n");
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: front, namespace: infra}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers:\n{servers}\n"
    )
}

fn rule(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: infra}}\nspec:\n  gateways: [front]\n{spec}"
    )
}

/// Bytes, TLS that ends and TLS that is passed on, with rules for each.
pub(super) fn world() -> String {
    let servers = gateways(&[
        "port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']",
        "port: {number: 443, name: pass, protocol: TLS}, hosts: ['*.example.com'], tls: {mode: PASSTHROUGH}",
        "port: {number: 443, name: end, protocol: TLS}, hosts: [end.example.org], tls: {mode: SIMPLE, serverCertificate: /c.pem, privateKey: /k.pem}",
        "port: {number: 443, name: web, protocol: HTTPS}, name: web, hosts: [web.example.org], tls: {mode: OPTIONAL_MUTUAL, serverCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem}",
    ]);
    let bytes = rule(
        "bytes",
        "  hosts: ['*']
  tcp:
  - match: [{port: 9000, gateways: [mesh]}]
    route: [{destination: {host: store, subset: v2}}]
  - match: [{port: 9000}]
    route: [{destination: {host: store, subset: v1, port: {number: 9000}}, weight: 3}, {destination: {host: store, subset: v2, port: {number: 9000}}, weight: 1}]
  - match: [{port: 443}]
    route: [{destination: {host: store, port: {number: 9443}}}]
",
    );
    let passed = rule(
        "passed",
        "  hosts: [a.example.com, b.example.com]
  tls:
  - match: [{sniHosts: [a.example.com]}]
    route: [{destination: {host: store, port: {number: 9443}}}]
  - match: [{sniHosts: [b.example.com], port: 444}]
    route: [{destination: {host: store, port: {number: 9443}}}]
  - match: [{sniHosts: [b.example.com], gateways: [infra/front]}]
    route: [{destination: {host: store, subset: v1}}]
",
    );
    [SERVICE, &servers, &bytes, &passed].concat()
}

fn config(text: &str) -> Config {
    Mesh::new(text).config(&gateway())
}

fn context(chain: &FilterChain) -> Option<DownstreamTlsContext> {
    let socket = chain.transport_socket.as_ref()?;
    let Some(crate::pb::core::v3::transport_socket::ConfigType::TypedConfig(any)) =
        &socket.config_type
    else {
        panic!("{socket:?}")
    };
    Some(DownstreamTlsContext::decode(&any.value[..]).expect("a valid message"))
}

#[test]
fn bytes_go_where_the_first_fitting_route_says() {
    let config = config(&world());
    let listener = config.listener("0.0.0.0_9000");
    assert_eq!(
        chains(&listener),
        [
            "→ bytes.infra: outbound|9000|v1|store.infra.svc.cluster.local=3 outbound|9000|v2|store.infra.svc.cluster.local=1"
        ]
    );
    assert!(listener.listener_filters.is_empty());
    let idle = tcp(&listener.filter_chains[0]).idle_timeout;
    assert_eq!(idle.map(|idle| idle.seconds), Some(9));
}

#[test]
fn tls_is_told_apart_by_server_name_on_one_port() {
    let listener = config(&world()).listener("0.0.0.0_443");
    assert_eq!(listener.listener_filters.len(), 1);
    let (web, bytes): (Vec<_>, Vec<_>) = listener
        .filter_chains
        .iter()
        .cloned()
        .partition(|chain| chain.filters[0].name.ends_with("http_connection_manager"));
    let mut forwarded = listener.clone();
    forwarded.filter_chains = bytes;
    assert_eq!(
        chains(&forwarded),
        [
            "a.example.com → outbound|9443||store.infra.svc.cluster.local",
            "b.example.com → outbound|443|v1|store.infra.svc.cluster.local",
            "end.example.org → outbound|9443||store.infra.svc.cluster.local",
        ]
    );
    let ends: Vec<bool> = forwarded
        .filter_chains
        .iter()
        .map(|chain| context(chain).is_some())
        .collect();
    assert_eq!(ends, [false, false, true]);
    let [web] = &web[..] else { panic!("{web:?}") };
    assert_eq!(super::manager(web).stat_prefix, "web");
    let context = context(web).expect("TLS ends here");
    assert_eq!(
        context.require_client_certificate.map(|v| v.value),
        Some(false)
    );
}

#[test]
fn a_port_without_a_route_is_not_opened() {
    let servers = gateways(&[
        "port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']",
        "port: {number: 443, name: pass, protocol: TLS}, hosts: [a.example.com], tls: {mode: PASSTHROUGH}",
        "port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']",
    ]);
    let mut mesh = Mesh::new(&[SERVICE, &servers].concat());
    let names = |mesh: &mut Mesh| mesh.config(&gateway()).names(&weft_xds::TypeUrl::LISTENER);
    assert_eq!(names(&mut mesh), ["0.0.0.0_80"]);
    let added = rule(
        "late",
        "  hosts: [a.example.com]
  tls: [{match: [{sniHosts: [a.example.com]}], route: [{destination: {host: store, port: {number: 9443}}}]}]
",
    );
    assert_eq!(mesh.edit("late.yaml", &added), 1);
    assert_eq!(names(&mut mesh), ["0.0.0.0_443", "0.0.0.0_80"]);
}

#[test]
fn rules_speak_only_for_servers_that_let_their_namespace_in() {
    let servers = gateways(&[
        "port: {number: 9000, name: one, protocol: TCP}, hosts: ['other/*']",
        "port: {number: 9001, name: two, protocol: TCP}, hosts: ['./*']",
    ]);
    let any = rule(
        "any",
        "  hosts: ['*']\n  tcp: [{route: [{destination: {host: store, port: {number: 9000}}}]}]\n",
    );
    let names = config(&[SERVICE, &servers, &any].concat()).names(&weft_xds::TypeUrl::LISTENER);
    assert_eq!(names, ["0.0.0.0_9001"]);
}

#[test]
fn what_proxies_would_refuse_is_left_out_and_told() {
    let servers = gateways(&[
        "port: {number: 443, name: end, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, serverCertificate: /c.pem, privateKey: /k.pem}",
        "port: {number: 443, name: pass, protocol: TLS}, hosts: ['*.example.com'], tls: {mode: PASSTHROUGH}",
        "port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']",
        "port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']",
    ]);
    let passed = rule(
        "passed",
        "  hosts: ['*.example.com']
  tls:
  - match: [{sniHosts: [a.example.com, b.example.com]}, {sniHosts: [c.example.com]}, {sniHosts: [c.example.com]}]
    route: [{destination: {host: store, port: {number: 9443}}}]
",
    );
    let mut mesh = Mesh::new(&[SERVICE, &servers, &passed].concat());
    let view = mesh.view(&gateway());
    let mut told: Vec<String> = view
        .faults()
        .map(|fault| fault.message.to_string())
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "a tls route for a.example.com is left out on port 443: the name belongs to Gateway/infra/front",
            "a tls route for c.example.com is left out on port 443: the name belongs to VirtualService/infra/passed",
            "servers[3] is left out: port 80 is of protocol HTTP in Gateway/infra/front",
        ]
    );
    let listener = mesh.config(&gateway()).listener("0.0.0.0_443");
    assert_eq!(listener.filter_chains.len(), 2);
}

#[test]
fn the_workloads_own_identity_comes_from_the_agent_if_there_is_one() {
    let servers = gateways(&[
        "port: {number: 15443, name: own, protocol: TLS}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL}",
    ]);
    let any = rule(
        "any",
        "  hosts: ['*']\n  tcp: [{route: [{destination: {host: store, port: {number: 9000}}}]}]\n",
    );
    let mut mesh = Mesh::new(&[SERVICE, &servers, &any].concat());
    let labels = ("LABELS", r#"{"istio":"ingressgateway"}"#);
    let with_agent = proxy(
        "router~10.9.9.9~gw.infra~infra.svc.cluster.local",
        &[labels, ("ISTIO_VERSION", "1.32.0")],
    );
    for (proxy, agent) in [(gateway(), false), (with_agent, true)] {
        let listener = mesh.config(&proxy).listener("0.0.0.0_15443");
        let context = context(&listener.filter_chains[0]).expect("TLS ends here");
        assert_eq!(
            context.require_client_certificate.map(|v| v.value),
            Some(true)
        );
        let common = context.common_tls_context.expect("set");
        let [own] = &common.tls_certificate_sds_secret_configs[..] else {
            panic!("{common:?}")
        };
        assert_eq!(own.name, "default");
        let from = format!("{:?}", own.sds_config);
        assert_eq!(from.contains("sds-grpc"), agent, "{from}");
        assert!(format!("{:?}", common.validation_context_type).contains("ROOTCA"));
    }
}

#[test]
fn what_stands_in_front_of_a_gateway_is_said_by_the_mesh() {
    let servers = gateways(&["port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']"]);
    let topology = weft_model::proxy::GatewayTopology {
        trusted_proxies: 2,
        forward_client_cert: Some(weft_model::proxy::ForwardClientCert::Sanitize),
        proxy_protocol: true,
    };
    let settings = weft_model::MeshSettings {
        proxy: std::sync::Arc::new(weft_model::ProxySettings {
            topology,
            ..weft_model::ProxySettings::default()
        }),
        ..weft_model::MeshSettings::default()
    };
    let listener = Mesh::with(settings, &servers)
        .config(&gateway())
        .listener("0.0.0.0_80");
    assert!(
        listener.listener_filters[0]
            .name
            .ends_with("proxy_protocol")
    );
    let manager = super::manager(&listener.filter_chains[0]);
    assert_eq!(manager.xff_num_trusted_hops, 2);
    assert_eq!(manager.forward_client_cert_details, 0);
    assert_eq!(manager.set_current_client_cert_details, None);
}

#[test]
fn who_may_not_bind_low_ports_gets_none() {
    let servers = gateways(&[
        "port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']",
        "port: {number: 1024, name: high, protocol: HTTP}, hosts: ['*']",
    ]);
    let labels = ("LABELS", r#"{"istio":"ingressgateway"}"#);
    let id = "router~10.9.9.9~gw.infra~infra.svc.cluster.local";
    let proxy = proxy(id, &[labels, ("UNPRIVILEGED_POD", "true")]);
    let config = Mesh::new(&servers).config(&proxy);
    assert_eq!(config.names(&weft_xds::TypeUrl::LISTENER), ["0.0.0.0_1024"]);
}
