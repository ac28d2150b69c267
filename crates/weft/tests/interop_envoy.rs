//! A real Envoy 1.40 as a proxy of our control plane: as gateway and as sidecar, over delta and
//! over state-of-the-world ADS.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use weft_testkit::{
    AdsMode, ConfigFolder, Connection, Control, Dataplane, Identities, Load, Mesh, Node, Peers,
    Program, Scene, Way, eventually, free_port, get, one_at_a_time, static_bootstrap,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const CALLS: usize = 10_000;
/// Points by which an observed share may differ from the wanted one.
const TOLERANCE: f64 = 2.0;
/// Time within which an edit reaches traffic: the median of several edits, because a busy test
/// machine may take any single one's time.
const EDIT_REACHES_TRAFFIC: Duration = Duration::from_secs(1);

fn envoy() -> Program {
    Program::Envoy(Peers::new().envoy())
}

/// The share of v2 in percent over so many calls on four connections; every call must succeed.
async fn share_of_v2(way: Way, calls: usize) -> f64 {
    let clients = (0..4).map(|_| {
        tokio::spawn(async move {
            let mut connection = Connection::open(way.address).await?;
            let mut v2 = 0_u32;
            for _ in 0..calls / 4 {
                let answer = connection.get(way.host, way.uri).await?;
                match (answer.status, &*answer.body) {
                    (200, "v1") => {}
                    (200, "v2") => v2 += 1,
                    _ => return Err(format!("{answer:?}")),
                }
            }
            Ok(v2)
        })
    });
    let mut v2 = 0;
    for client in clients.collect::<Vec<_>>() {
        let counted = client.await.expect("no client panics");
        v2 += counted.unwrap_or_else(|error| panic!("a call over {way:?} failed: {error}"));
    }
    100.0 * f64::from(v2) / calls as f64
}

fn assert_share(seen: f64, wanted: f64) {
    println!("share of v2: wanted {wanted}, seen {seen:.2}");
    assert!(
        (seen - wanted).abs() <= TOLERANCE,
        "wanted {wanted} % of v2, saw {seen} %"
    );
}

/// Edits the split so that all calls go to `to`, and measures from the edit to the moment after
/// which no call was sent to the other version.
async fn time_of_edit(scene: &Scene, load: &Load, to: &str) -> Duration {
    let before = load.count();
    let edited = Instant::now();
    if to == "v1" {
        scene.split(100, 0);
    } else {
        scene.split(0, 100);
    }
    eventually(
        "the edit reaches traffic",
        Duration::from_secs(15),
        async || {
            let calls = load.since(before);
            let settled =
                calls.len() > 100 && calls.iter().rev().take(60).all(|call| call.is_from(to));
            settled
                .then_some(())
                .ok_or_else(|| format!("{:?}", calls.last()))
        },
    )
    .await;
    let calls = load.since(before);
    let last_other = calls
        .iter()
        .filter(|call| !call.is_from(to))
        .map(|call| call.sent)
        .max();
    last_other.map_or(Duration::ZERO, |sent| {
        sent.saturating_duration_since(edited)
    })
}

/// The row of the table: split, edits within the time, no connection closed, nothing refused.
async fn the_row_holds(scene: &Scene, proxy: &Dataplane, way: Way) {
    scene.wait_for(&way, &["v1", "v2"]).await;
    assert_share(share_of_v2(way, CALLS).await, 10.0);
    let (closed, updates) = (
        || scene.v1.closed() + scene.v2.closed(),
        proxy.stats().await,
    );
    let closed_before = closed();

    let load = Load::start(way, 4, Duration::from_millis(3));
    let mut times = Vec::new();
    for to in ["v2", "v1", "v2", "v1", "v2"] {
        times.push(time_of_edit(scene, &load, to).await);
    }
    load.assert_no_failure().await;
    assert_eq!(
        closed(),
        closed_before,
        "a weight edit closed connections to the upstreams"
    );
    println!("an edit of the weights reached traffic after {times:?}");
    times.sort();
    assert!(
        times[2] <= EDIT_REACHES_TRAFFIC,
        "edits reached traffic only after {times:?}"
    );

    let stats = proxy.stats().await;
    for name in [
        "cluster_manager.cluster_modified",
        "listener_manager.listener_modified",
        "listener_manager.lds.update_success",
        "cluster_manager.cds.update_success",
    ] {
        assert_eq!(
            stats.get(name),
            updates.get(name),
            "a weight edit touched {name}"
        );
    }
    proxy.assert_nothing_refused().await;
}

/// Every resource that the control plane has for this proxy is at work in it.
async fn assert_complete(scene: &Scene, proxy: &Dataplane) {
    let resources = scene.control.resources(&proxy.id).await;
    let of = |kind: &str| resources.iter().filter(|r| r["type"] == kind).count() as u64;
    eventually(
        "Envoy has every resource",
        Duration::from_secs(20),
        async || {
            let stats = proxy.stats().await;
            // One cluster is the bootstrap's own.
            let has = (
                stats.get("cluster_manager.active_clusters") - 1,
                stats.get("listener_manager.total_listeners_active"),
            );
            let wanted = (of("CDS"), of("LDS"));
            let warming = stats.get("cluster_manager.warming_clusters")
                + stats.get("listener_manager.total_listeners_warming");
            let complete = has == wanted && warming == 0;
            complete
                .then_some(())
                .ok_or_else(|| format!("has {has:?}, wanted {wanted:?}, {warming} warm"))
        },
    )
    .await;
    let state = scene
        .control
        .proxy(&proxy.id)
        .await
        .expect("it is connected");
    for (name, state) in state["types"].as_object().expect("types") {
        assert!(
            state["error"].is_null() && state["acked"].is_string(),
            "{name}: {state}"
        );
    }
    proxy.assert_nothing_refused().await;
}

async fn gateway(mode: AdsMode) {
    let _turn = one_at_a_time();
    let scene = Scene::start(WEFT).await;
    let proxy = scene.proxy(&envoy(), &Node::gateway("gateway"), mode).await;
    assert_complete(&scene, &proxy).await;
    the_row_holds(&scene, &proxy, Way::gateway(scene.mesh.gateway_ports[0])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_is_a_gateway_over_delta() {
    gateway(AdsMode::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_is_a_gateway_over_sotw() {
    gateway(AdsMode::Sotw).await;
}

/// Without redirection: calls go to the sidecar's HTTP proxy port, and what it takes in is bound
/// on an address of its own.
async fn sidecar(mode: AdsMode) {
    let _turn = one_at_a_time();
    let scene = Scene::start(WEFT).await;
    let (ip, http_proxy) = (Ipv4Addr::new(127, 0, 0, 9), free_port());
    let node = Node::sidecar(
        "client",
        ip,
        http_proxy,
        &[(Mesh::PORT, scene.v1.address().port())],
    );
    let proxy = scene.proxy(&envoy(), &node, mode).await;
    assert_complete(&scene, &proxy).await;
    the_row_holds(&scene, &proxy, Way::http_proxy(http_proxy)).await;

    let inbound = get((ip, Mesh::PORT).into(), "/")
        .await
        .expect("the inbound port answers");
    assert_eq!((inbound.status, &*inbound.body), (200, "v1"), "{inbound:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_is_a_sidecar_over_delta() {
    sidecar(AdsMode::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_is_a_sidecar_over_sotw() {
    sidecar(AdsMode::Sotw).await;
}

/// Mesh settings that move the ports of captured traffic to free ones.
fn free_capture_ports(folder: &ConfigFolder) -> std::path::PathBuf {
    let text = format!(
        "proxyListenPort: {}\nproxyInboundListenPort: {}\n",
        free_port(),
        free_port()
    );
    folder.write_beside("mesh.yaml", &text)
}

/// The documents that the source's own tests read as good: every kind, most fields. Certificates
/// come from files that exist here, and the gateway's ports are free ones.
fn wide_mesh(folder: &ConfigFolder) {
    let certificates = folder
        .write_certificate("reviews.example.com")
        .display()
        .to_string();
    let (http, https) = (free_port(), free_port());
    let socket = folder.write_beside("out.sock", "").display().to_string();
    std::fs::remove_file(&socket).expect("just written");
    let changes = [
        ("/etc/".to_owned(), format!("{certificates}/")),
        ("/run/out.sock".to_owned(), socket),
        (
            "number: 80, name: http, protocol: HTTP}\n    hosts: [\"*.".to_owned(),
            format!("number: {http}, name: http, protocol: HTTP}}\n    hosts: [\"*."),
        ),
        (
            "number: 443, name: https".to_owned(),
            format!("number: {https}, name: https"),
        ),
    ];
    let mut used = [false; 4];
    let good = concat!(env!("CARGO_MANIFEST_DIR"), "/../sources/tests/data/good");
    for entry in std::fs::read_dir(good).expect("the good documents are there") {
        let path = entry.expect("readable").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a plain name");
        let mut text = std::fs::read_to_string(&path).expect("readable");
        for ((from, to), used) in changes.iter().zip(&mut used) {
            *used |= text.contains(from);
            text = text.replace(from, to);
        }
        folder.write(name, &text);
    }
    assert_eq!(
        used, [true; 4],
        "the good documents have changed: {changes:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_accepts_all_listeners_of_a_captured_sidecar() {
    let _turn = one_at_a_time();
    for mode in [AdsMode::Delta, AdsMode::Sotw] {
        let folder = ConfigFolder::new();
        wide_mesh(&folder);
        let settings = free_capture_ports(&folder);
        let control = Control::start(WEFT, &folder, Some(&settings)).await;
        let node = Node::captured_sidecar("any", Ipv4Addr::new(127, 0, 0, 9));
        let proxy = Dataplane::start(&envoy(), &node, mode, control.grpc(), &folder).await;
        control
            .wait_in_step(&proxy.id, &["CDS", "EDS", "LDS", "RDS"])
            .await;
        proxy.assert_nothing_refused().await;
    }
}

/// Providers of all kinds, also those that the policies of the good documents name (one of their
/// services exists), and headers.
const PROVIDERS: &str = r#"
accessLogFile: /dev/stdout
accessLogEncoding: JSON
pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}
protocolDetectionTimeout: 2s
h2UpgradePolicy: UPGRADE
tcpKeepalive: {probes: 3, time: 60s}
dnsRefreshRate: 7s
outboundClusterStatName: "%SERVICE_FQDN%_%SERVICE_PORT%"
inboundClusterStatName: "%SERVICE_FQDN%_%SERVICE_PORT_NAME%"
defaultHttpRetryPolicy: {attempts: 4, retryOn: "connect-failure,503", retryRemoteLocalities: true, backoff: 0.05s}
defaultInboundHttpRetryPolicy: {attempts: 5, retryOn: "reset-before-request,502", backoff: 0.1s}
tlsDefaults: {minProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-RSA-AES256-GCM-SHA384], ecdhCurves: [P-256]}
defaultConfig:
  tracing: {sampling: 40, maxPathTagLength: 77}
  proxyHeaders:
    server: {disabled: true}
    requestId: {disabled: true}
    envoyDebugHeaders: {disabled: true}
    forwardedClientCert: SANITIZE_SET
    preserveHttp1HeaderCase: true
    xForwardedHost: {enabled: true}
    xForwardedPort: {enabled: true}
  gatewayTopology: {numTrustedProxies: 2, forwardClientCertDetails: ALWAYS_FORWARD_ONLY}
extensionProviders:
- name: object
  envoyFileAccessLog:
    path: /dev/stderr
    logFormat: {labels: {path: "%REQ_WITHOUT_QUERY(:PATH)%", deep: {list: [1, true, null]}}}
    omitEmptyValues: true
- name: http
  envoyHttpAls: {service: collector.ops.svc.cluster.local, port: 4317, additionalRequestHeadersToLog: [x-a]}
- name: tcp
  envoyTcpAls: {service: collector.ops.svc.cluster.local, port: 4317}
- name: otel
  envoyOtelAls: {service: collector.ops.svc.cluster.local, port: 4317, logFormat: {labels: {a: "%PROTOCOL%"}}}
- name: zipkin
  zipkin: {service: collector.ops.svc.cluster.local, port: 4317, traceContextOption: USE_B3_WITH_W3C_PROPAGATION}
- name: datadog
  datadog: {service: collector.ops.svc.cluster.local, port: 4317}
- name: skywalking
  skywalking: {service: collector.ops.svc.cluster.local, port: 4317}
- name: otlp
  opentelemetry:
    service: collector.ops.svc.cluster.local
    port: 4317
    http: {path: /v1/traces, headers: [{name: x-key, value: k}]}
    resourceDetectors: {environment: {}, dynatrace: {}}
    serviceAttributeEnrichment: OTEL_SEMANTIC_CONVENTIONS
    dynatraceSampler: {tenant: t, clusterId: 5, rootSpansPerMinute: 9}
- name: grpc
  opentelemetry: {service: collector.ops.svc.cluster.local, port: 4317, grpc: {timeout: 2s}}
- name: ask-grpc
  envoyExtAuthzGrpc:
    service: reviews.shop.svc.cluster.local
    port: 9080
    timeout: 3s
    failOpen: true
    statusOnError: '503'
    includeRequestBodyInCheck: {maxRequestBytes: 1024, allowPartialMessage: true, packAsBytes: true}
- name: ask-http
  envoyExtAuthzHttp:
    service: shop/reviews.shop.svc.cluster.local
    port: 9080
    pathPrefix: /check
    includeRequestHeadersInCheck: [x-token, 'x-a*', '*-b']
    includeAdditionalHeadersInCheck: {x-added: one}
    headersToUpstreamOnAllow: [authorization]
    headersToDownstreamOnDeny: [content-type]
    headersToDownstreamOnAllow: ['x-ok*']
"#;

/// Who takes spans, and what only its configuration has.
const TRACERS: [(&str, &str); 5] = [
    ("zipkin", "envoy.tracers.zipkin"),
    ("datadog", "envoy.tracers.datadog"),
    ("skywalking", "envoy.tracers.skywalking"),
    ("otlp", "envoy.tracers.opentelemetry.samplers.dynatrace"),
    ("grpc", "envoy.tracers.opentelemetry\""),
];

/// What a proxy is to have, once `mark` is in it.
async fn resources_with(control: &Control, id: &str, mark: &str) -> Vec<serde_json::Value> {
    for _ in 0..200 {
        let resources = control.resources(id).await;
        if resources.iter().any(|one| one.to_string().contains(mark)) {
            return resources;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} gets nothing with {mark}");
}

/// Logs to all of them, and spans to one.
const TELEMETRY: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: collector, namespace: ops}
spec:
  hosts: [collector.ops.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 4317, name: grpc, protocol: GRPC}]
  endpoints: [{address: 127.0.0.1}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  accessLogging:
  - providers: [{name: envoy}, {name: object}, {name: http}, {name: tcp}, {name: otel}]
  - providers: [{name: object}]
    filter: {expression: "response.code >= 400"}
  tracing:
  - providers: [{name: PROVIDER}]
    customTags:
      site: {literal: {value: one}}
      node: {environment: {name: NODE}}
      agent: {header: {name: x-agent}}
      path: {formatter: {value: "%REQ(:PATH)%"}}
"#;

/// Without mutual TLS, that of the page's own port ends there.
const PAGE_PEERS: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: page, namespace: shop}
spec: {selector: {matchLabels: {app: page}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {9443: {mode: DISABLE}}}
";

/// Networks with gateways, and one without.
const NETWORKS: &str = "
networks:
  near: {gateways: [{address: 192.0.2.1, port: 15443}]}
  far: {gateways: [{address: 192.0.2.2, port: 15443}, {address: 192.0.2.3, port: 443}]}
  alone: {}
";

/// A service that lies in all of them, by address and by name, and a gateway between them.
fn split(port: u16) -> String {
    let entry = |name: &str, resolution: &str, address: &str| {
        format!(
            "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: [{name}.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: {resolution}
  ports: [{{number: 7001, name: http, protocol: HTTP}}, {{number: 7002, name: tcp, protocol: TCP}}]
  endpoints:
  - {{address: {address}1, network: near, serviceAccount: split, locality: eu}}
  - {{address: {address}2, network: far, serviceAccount: split, locality: us}}
  - {{address: {address}3, network: alone, serviceAccount: split, weight: 4294967295}}
  - {{address: {address}4, serviceAccount: split, weight: 4294967295}}
---
"
        )
    };
    format!(
        "{}{}apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: split, namespace: shop}}
spec:
  host: split.shop.svc.cluster.local
  trafficPolicy: {{outlierDetection: {{}}}}
  subsets: [{{name: far, labels: {{topology.istio.io/network: far}}}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: east-west, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: {port}, name: tls, protocol: TLS}}
    hosts: ['*.svc.cluster.local']
    tls: {{mode: AUTO_PASSTHROUGH}}
",
        entry("split", "STATIC", "10.7.0."),
        entry("split-names", "DNS", "one.example.com"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_validates_all_that_is_emitted() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    wide_mesh(&folder);
    let telemetry = |provider| TELEMETRY.replace("PROVIDER", provider);
    folder.write("telemetry.yaml", &telemetry(TRACERS[0].0));
    let settings = folder.write_beside("mesh.yaml", PROVIDERS);
    folder.write("networks-split.yaml", &split(free_port()));
    let networks = folder.write_beside("networks.yaml", NETWORKS);
    let networks = format!("--networks-config={}", networks.display());
    let control = Control::start_with(WEFT, &folder, Some(&settings), &[&networks]).await;
    let peer = envoy();
    let ip = Ipv4Addr::new(127, 0, 0, 9);
    folder.write("sidecar-peers.yaml", PAGE_PEERS);
    let mut nodes = [
        Node::gateway("gateway"),
        Node::sidecar("client", ip, free_port(), &[(Mesh::PORT, 1)]),
        Node::captured_sidecar("captured", ip),
        // With the Sidecar of the good documents: sockets of its own, TLS that ends there.
        Node::captured_sidecar("page", ip),
        Node::captured_sidecar("plain", ip),
    ];
    let identities = Identities::new(&folder);
    for node in &mut nodes[..4] {
        let files = identities.issue(&folder, "workload");
        files.announce(&mut node.metadata);
    }
    for (number, node) in nodes.iter().enumerate() {
        let proxy = Dataplane::start(&peer, node, AdsMode::Delta, control.grpc(), &folder).await;
        let resources = control.resources(&proxy.id).await;
        let kinds = ["CDS", "EDS", "LDS", "RDS"];
        for kind in kinds {
            assert!(
                resources.iter().any(|r| r["type"] == kind),
                "{}: no {kind}",
                node.id
            );
        }
        let text = format!("{:#}", static_bootstrap(&resources));
        let file = folder.write_beside(&format!("static-{number}.json"), &text);
        if let Err(said) = peer.validate(&file) {
            panic!("Envoy refuses what {} would get: {said}\n{text}", node.id);
        }
        for (provider, mark) in TRACERS.iter().filter(|_| number == 0) {
            folder.write("telemetry.yaml", &telemetry(provider));
            let resources = resources_with(&control, &proxy.id, mark).await;
            let text = format!("{:#}", static_bootstrap(&resources));
            let file = folder.write_beside(&format!("spans-{provider}.json"), &text);
            if let Err(said) = peer.validate(&file) {
                panic!("Envoy refuses spans to {provider}: {said}\n{text}");
            }
        }
    }
}

/// A filter whose configuration is asked for by name, and what that answers.
fn discovered(status: u16) -> String {
    format!(
        r#"apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: answer, namespace: istio-system}}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {{context: GATEWAY}}
    patch:
      operation: INSERT_FIRST
      value:
        name: answer
        config_discovery:
          config_source: {{ads: {{}}}}
          type_urls: [type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua]
  - applyTo: EXTENSION_CONFIG
    patch:
      operation: ADD
      value:
        name: answer
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code:
            inline_string: |
              function envoy_on_request(handle)
                handle:respond({{[":status"] = "{status}"}}, "")
              end
"#
    )
}

async fn answers(way: Way, status: u16) {
    let what = format!("the gateway answers {status}");
    eventually(&what, Duration::from_secs(20), async || {
        let mut connection = Connection::open(way.address).await?;
        let answer = connection.get(way.host, way.uri).await?;
        (answer.status == status)
            .then_some(())
            .ok_or_else(|| format!("{answer:?}"))
    })
    .await;
}

/// A patch puts a filter in, its configuration is discovered and edited, and both go again.
async fn extensions_are_discovered(mode: AdsMode) {
    let _turn = one_at_a_time();
    let scene = Scene::start(WEFT).await;
    let proxy = scene.proxy(&envoy(), &Node::gateway("gateway"), mode).await;
    let way = Way::gateway(scene.mesh.gateway_ports[0]);
    scene.wait_for(&way, &["v1", "v2"]).await;
    scene.folder.write("answer.yaml", &discovered(418));
    answers(way, 418).await;
    let before = proxy
        .stats()
        .await
        .get("listener_manager.lds.update_success");
    scene.folder.write("answer.yaml", &discovered(419));
    answers(way, 419).await;
    let after = proxy
        .stats()
        .await
        .get("listener_manager.lds.update_success");
    assert_eq!(after, before, "an edit of the extension touched listeners");
    scene.folder.remove("answer.yaml");
    answers(way, 200).await;
    proxy.assert_nothing_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_discovers_extensions_over_delta() {
    extensions_are_discovered(AdsMode::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_discovers_extensions_over_sotw() {
    extensions_are_discovered(AdsMode::Sotw).await;
}
