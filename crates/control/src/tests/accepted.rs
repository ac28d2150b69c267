//! What the control plane emits must be what Weft's own data plane accepts.

use prost::Message;
use weft_config::{Cluster, Context, Listener, LoadAssignment, RouteConfig, Secret};
use weft_model::MeshSettings;
use weft_xds::{Resource, TypeUrl};

use super::worlds::{BALANCED, PORTS, SHOP, STREAMS};
use super::{
    Mesh, gateway, gateway_secrets, gateway_streams, passthrough, proxy, sidecar, sidecars,
};
use crate::node::Proxy;

fn decoded<M: Message + Default>(resource: &Resource) -> M {
    M::decode(resource.body.to_bytes()).expect("a valid message")
}

/// Why the data plane refuses a resource, if it does.
fn refusal(kind: &TypeUrl, resource: &Resource) -> Option<String> {
    let context = Context::default();
    let error = match kind {
        kind if *kind == TypeUrl::CLUSTER => {
            Cluster::from_proto(&decoded(resource), &context).err()
        }
        kind if *kind == TypeUrl::ENDPOINT => {
            LoadAssignment::from_proto(&decoded(resource), &context).err()
        }
        kind if *kind == TypeUrl::LISTENER => {
            Listener::from_proto(&decoded(resource), &context).err()
        }
        kind if *kind == TypeUrl::SECRET => Secret::from_proto(&decoded(resource), &context).err(),
        _ => RouteConfig::from_proto(&decoded(resource), &context).err(),
    };
    error.map(|error| error.to_string())
}

/// Listeners of a workload with certificates; what it calls by mutual TLS our proxy does not take
/// yet (docs/compatibility.md).
#[test]
fn the_data_plane_accepts_listeners_with_mutual_tls() {
    let files = proxy(
        "sidecar~10.0.0.1~reviews.shop~shop.svc.cluster.local",
        &[
            ("TLS_SERVER_CERT_CHAIN", "/s.pem"),
            ("TLS_SERVER_KEY", "/s.key"),
            ("TLS_SERVER_ROOT_CERT", "/ca.pem"),
        ],
    );
    let config = Mesh::new(SHOP).config(&files);
    let set = config.0.get(&TypeUrl::LISTENER).expect("listeners");
    let refused: Vec<String> = set
        .iter()
        .filter_map(|one| refusal(&TypeUrl::LISTENER, one))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

fn check(mesh: &str, proxies: &[Proxy]) {
    check_with(MeshSettings::default(), mesh, proxies);
}

fn check_with(settings: MeshSettings, mesh: &str, proxies: &[Proxy]) {
    let mut mesh = Mesh::with(settings, mesh);
    for proxy in proxies {
        let config = mesh.config(proxy);
        let kinds = [
            TypeUrl::CLUSTER,
            TypeUrl::ENDPOINT,
            TypeUrl::LISTENER,
            TypeUrl::ROUTE,
            TypeUrl::SECRET,
        ];
        for kind in kinds {
            let set = config.0.get(&kind).expect("a set of the type");
            let refused: Vec<String> = set.iter().filter_map(|one| refusal(&kind, one)).collect();
            assert!(refused.is_empty(), "{proxy:?}: {refused:#?}");
        }
        assert!(!config.names(&TypeUrl::CLUSTER).is_empty());
        assert!(!config.names(&TypeUrl::LISTENER).is_empty());
    }
}

/// Patches that our own proxy understands.
const PATCHES: &str = r#"
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: ours, namespace: istio-system}
spec:
  configPatches:
  - applyTo: NETWORK_FILTER
    match: {listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: MERGE
      value:
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          server_name: ours
          stream_idle_timeout: 9s
  - applyTo: LISTENER
    patch: {operation: MERGE, value: {per_connection_buffer_limit_bytes: 65536}}
  - applyTo: CLUSTER
    patch: {operation: MERGE, value: {connect_timeout: 2s}}
  - applyTo: VIRTUAL_HOST
    patch: {operation: MERGE, value: {request_headers_to_add: [{header: {key: x-host, value: a}}]}}
  - applyTo: HTTP_ROUTE
    match: {routeConfiguration: {vhost: {route: {action: ROUTE}}}}
    patch: {operation: MERGE, value: {route: {idle_timeout: 5s}}}
"#;

/// What our proxy did not take at first.
const LATELY: &str = r#"
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: socket, namespace: shop}
spec:
  hosts: [socket.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: "unix:///run/app.sock"}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: socket, namespace: shop}
spec:
  host: socket.example.com
  trafficPolicy:
    proxyProtocol: {version: V2}
    retryBudget: {percent: 30, budgetInterval: 5s}
    outlierDetection: {outlierDetectionHttpErrorCodes: [429, 503]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: socket, namespace: shop}
spec:
  hosts: [socket.example.com]
  http: [{route: [{destination: {host: socket.example.com}}], retries: {attempts: 2, retryRemoteLocalities: true}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named, namespace: shop}
spec:
  hosts: ["*.partners.example.com"]
  location: MESH_EXTERNAL
  ports: [{number: 81, name: http, protocol: HTTP}, {number: 8443, name: tls, protocol: TLS}, {number: 444, name: https, protocol: HTTP}]
  resolution: DYNAMIC_DNS
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: named, namespace: shop}
spec: {host: "*.partners.example.com", trafficPolicy: {outlierDetection: {}, portLevelSettings: [{port: {number: 444}, tls: {mode: SIMPLE}}]}}
"#;

/// Unknown hosts are looked up by the proxies themselves.
#[test]
fn the_data_plane_accepts_unknown_hosts_by_name() {
    for tls in ["", ", tls: {mode: SIMPLE, caCertificates: /r.pem}"] {
        let text = format!("outboundTrafficPolicy: {{mode: ALLOW_ANY_DYNAMIC_DNS{tls}}}");
        let settings = weft_sources::mesh_config::parse("mesh.yaml", &text).expect("valid");
        check_with(settings, SHOP, &[sidecar("10.0.0.9", "other")]);
    }
}

/// A gateway behind a proxy, with the limits of an edge.
#[test]
fn the_data_plane_accepts_a_gateway_at_the_edge() {
    let settings = r#"{"gatewayTopology":{"proxyProtocol":{}},"connectionSettings":{"profile":"EDGE","httpMaxStreamDuration":"60s"}}"#;
    let edge = proxy(
        "router~10.9.9.9~gw.infra~infra.svc.cluster.local",
        &[
            ("PROXY_CONFIG", settings),
            ("LABELS", r#"{"istio":"ingressgateway"}"#),
        ],
    );
    let config = Mesh::new(&gateway_streams::world()).config(&edge);
    let listeners = config.0.get(&TypeUrl::LISTENER).expect("listeners");
    let all = format!(
        "{:?}",
        listeners
            .iter()
            .map(decoded)
            .collect::<Vec<weft_proto::pb::envoy::config::listener::v3::Listener>>()
    );
    assert!(all.contains("proxy_protocol"), "{all}");
    check(&gateway_streams::world(), &[edge]);
}

#[test]
fn the_data_plane_accepts_what_sidecars_and_gateways_get() {
    let plain = proxy(
        "sidecar~10.0.0.1~reviews.shop~shop.svc.cluster.local",
        &[
            ("INTERCEPTION_MODE", "NONE"),
            ("HTTP_PROXY_PORT", "15007"),
            ("WEFT_INBOUND", r#"{"9080": 19080}"#),
        ],
    );
    let proxies = [
        sidecar("10.0.0.1", "shop"),
        sidecar("10.0.0.9", "other"),
        plain,
        gateway(),
    ];
    check(SHOP, &proxies);
    check(PORTS, &[sidecar("10.0.0.9", "shop")]);
    let near = proxy(
        "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local",
        &[("LABELS", r#"{"istio-locality":"eu.eu-1"}"#)],
    );
    check(BALANCED, &[near]);
    check(&format!("{PORTS}{STREAMS}"), &[sidecar("10.0.0.9", "shop")]);
    check(&format!("{SHOP}{PATCHES}"), &proxies);
    check(&format!("{SHOP}{LATELY}"), &proxies);
    check(&gateway_streams::world(), &[gateway()]);
    check(&gateway_secrets::world(), &[gateway()]);
    check(&passthrough::world(), &[gateway()]);
}

/// Listeners of Sidecars, but for Unix sockets, which it has only to connect to.
#[test]
fn the_data_plane_accepts_what_sidecar_objects_make() {
    let spec = "{ingress: [{port: {number: 9080, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8080'}, {port: {number: 9443, protocol: HTTPS}, tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}}, {port: {number: 5000}, captureMode: NONE, connectionPool: {tcp: {maxConnections: 3}}}], egress: [{port: {number: 9080, protocol: HTTP}, captureMode: NONE, hosts: ['./*']}, {port: {number: 3128, protocol: HTTP_PROXY}, hosts: ['*/*']}, {port: {number: 443, protocol: TLS}, hosts: ['*/*']}, {bind: 127.0.0.3, hosts: ['*/*']}], outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: vault.other.svc.cluster.local, port: {number: 9080}}}}";
    let disabled = "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: DISABLE}}
";
    let none = proxy(
        "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local",
        &[("INTERCEPTION_MODE", "NONE")],
    );
    let mesh = sidecars::with("shop", spec) + disabled;
    check(&mesh, &[sidecar("10.0.0.9", "shop"), none]);
}

/// Logs to files in all their forms, spans, and headers; own proxies pass over the spans.
#[test]
fn the_data_plane_accepts_logs_to_files_and_headers() {
    let settings = "
accessLogFile: /dev/stdout
accessLogEncoding: JSON
defaultConfig:
  proxyHeaders:
    server: {disabled: true}
    requestId: {disabled: true}
    attemptCount: {disabled: true}
    envoyDebugHeaders: {disabled: true}
    forwardedClientCert: SANITIZE_SET
    xForwardedHost: {enabled: true}
    xForwardedPort: {enabled: true}
  gatewayTopology: {numTrustedProxies: 1, forwardClientCertDetails: FORWARD_ONLY}
  connectionSettings:
    listenerPerConnectionBufferLimitBytes: 65536
    httpIdleTimeout: 60s
    httpMaxConnectionDuration: 3600s
    httpRequestHeadersTimeout: 10s
    httpStreamIdleTimeout: 300s
    httpMaxConcurrentStreams: 100
    http2InitialStreamWindowSize: 65536
    http2InitialConnectionWindowSize: 1048576
    httpHeadersWithUnderscoresAction: HEADERS_WITH_UNDERSCORES_REJECT_REQUEST
    httpMergeSlashes: true
    httpPathWithEscapedSlashesAction: UNESCAPE_AND_REDIRECT
pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}
protocolDetectionTimeout: 2s
h2UpgradePolicy: UPGRADE
tcpKeepalive: {probes: 3}
outboundClusterStatName: '%SERVICE%'
extensionProviders:
- name: object
  envoyFileAccessLog:
    path: /tmp/a
    logFormat: {labels: {code: '%RESPONSE_CODE%', more: {path: '%REQ(:PATH)%'}}}
    omitEmptyValues: true
- name: line
  envoyFileAccessLog: {path: /tmp/b, logFormat: {text: '%PROTOCOL%'}}
- name: spans
  zipkin: {service: reviews.shop.svc.cluster.local, port: 9080}
";
    let settings = weft_sources::mesh_config::parse("mesh.yaml", settings).expect("valid");
    let proxies = [sidecar("10.0.0.1", "shop"), gateway()];
    check_with(settings.clone(), SHOP, &proxies);
    let rule = "---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  accessLogging: [{providers: [{name: envoy}, {name: object}, {name: line}]}]
  tracing: [{providers: [{name: spans}]}]
";
    check_with(settings, &format!("{SHOP}{rule}"), &proxies);
}

/// Routes by claims, retries of workloads, and a filter that the data plane goes on without.
#[test]
fn the_data_plane_accepts_claims_and_grpc_of_browsers() {
    let more = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: web, namespace: infra}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8888, name: web, protocol: GRPC-WEB}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: infra}
spec:
  hosts: ['*']
  gateways: [web]
  http:
  - match: [{headers: {'@request.auth.claims[group]': {exact: admin}}, withoutHeaders: {'@request.auth.claims.sub': {regex: g.*}}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local, port: {number: 9080}}}]
";
    let settings = "
defaultHttpRetryPolicy: {attempts: 4, retryOn: '503,reset'}
defaultInboundHttpRetryPolicy: {attempts: 1}
tlsDefaults: {minProtocolVersion: TLSV1_3}
inboundTrafficPolicy: {mode: LOCALHOST}
";
    let settings = weft_sources::mesh_config::parse("mesh.yaml", settings).expect("valid");
    let proxies = [sidecar("10.0.0.1", "shop"), gateway()];
    check_with(settings, &format!("{SHOP}{more}"), &proxies);
    let mut mesh = Mesh::new(&format!("{SHOP}{more}"));
    let config = mesh.config(&gateway());
    assert!(
        config
            .names(&TypeUrl::LISTENER)
            .contains(&"0.0.0.0_8888".to_owned())
    );
    assert!(
        config
            .names(&TypeUrl::ROUTE)
            .contains(&"http.8888".to_owned())
    );
}
