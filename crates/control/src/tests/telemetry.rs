//! What listeners report, by rules and settings of the mesh.

use std::sync::Arc;

use weft_model::MeshSettings;
use weft_sources::mesh_config;
use weft_xds::TypeUrl;

use super::oracle::{NAMESPACES, Random, head};
use super::streams::tcp;
use super::worlds::SHOP;
use super::{Config, Mesh, gateway, manager, proxy, sidecar};
use crate::generate::http::HCM;
use crate::graph::ProxyView;
use crate::pb::accesslog::v3::{AccessLog, access_log_filter::FilterSpecifier};
use crate::pb::hcm::HttpConnectionManager;
use crate::pb::hcm::http_connection_manager::{ForwardClientCertDetails, Tracing};
use crate::pb::listener::v3::FilterChain;
use crate::pb::tracing_tags::custom_tag::Type;

const MESH: &str = "
extensionProviders:
- name: file
  envoyFileAccessLog: {path: /tmp/log, logFormat: {labels: {b: '1', a: '2', c: {e: '3', d: '4'}}}}
- name: service
  envoyHttpAls: {service: logs.ops.svc.cluster.local, port: 4317}
- name: zipkin
  zipkin: {service: logs.ops.svc.cluster.local, port: 4317, maxTagLength: 9}
";

const LOGS: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: logs, namespace: ops}
spec:
  hosts: [logs.ops.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 4317, name: grpc, protocol: GRPC}]
  endpoints: [{address: 10.0.9.1}]
";

pub(super) fn settings(text: &str) -> MeshSettings {
    mesh_config::parse("mesh.yaml", text).expect("a valid mesh configuration")
}

fn rule(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

fn outbound(config: &Config) -> HttpConnectionManager {
    manager(&config.listener("0.0.0.0_9080").filter_chains[0])
}

fn inbound(config: &Config) -> HttpConnectionManager {
    let chains = config.listener("virtualInbound").filter_chains;
    let of_port = |chain: &&FilterChain| chain.name.starts_with("0.0.0.0_");
    let http = |chain: &&FilterChain| chain.filters.iter().any(|f| f.name == HCM);
    let chain = chains.iter().filter(of_port).find(http);
    manager(chain.expect("an HTTP port"))
}

fn names(logs: &[AccessLog]) -> Vec<&str> {
    logs.iter().map(|log| log.name.as_str()).collect()
}

fn share(tracing: Option<&Tracing>) -> Option<f64> {
    Some(tracing?.random_sampling.as_ref()?.value)
}

#[test]
fn spans_name_the_workload_unless_the_mesh_makes_none() {
    let workload = proxy(
        "sidecar~10.0.0.1~reviews-v1.shop~shop.svc.cluster.local",
        &[
            ("LABELS", r#"{"service.istio.io/canonical-name":"reviews"}"#),
            ("MESH_ID", "m"),
        ],
    );
    let config = Mesh::with(settings("enableTracing: true"), SHOP).config(&workload);
    for manager in [outbound(&config), inbound(&config)] {
        let tracing = manager.tracing.expect("spans");
        assert_eq!(share(Some(&tracing)), Some(1.0));
        let literal = |name: &str| {
            let tag = tracing.custom_tags.iter().find(|tag| tag.tag == name);
            match tag.and_then(|tag| tag.r#type.as_ref()) {
                Some(Type::Literal(literal)) => literal.value.clone(),
                other => panic!("{name}: {other:?}"),
            }
        };
        assert_eq!(literal("istio.canonical_service"), "reviews");
        assert_eq!(literal("istio.canonical_revision"), "latest");
        assert_eq!(literal("istio.mesh_id"), "m");
        assert_eq!(tracing.custom_tags.len(), 9);
    }
    let mut off = Mesh::with(settings("enableTracing: false"), SHOP);
    assert_eq!(outbound(&off.config(&workload)).tracing, None);
}

/// Proxies of one namespace whose spans would be alike but for what they say of the workload.
fn two_workloads(more: &[(&str, &str)]) -> [crate::node::Proxy; 2] {
    ["reviews", "ratings"].map(|name| {
        let id = format!("sidecar~10.0.0.9~{name}-1.shop~shop.svc.cluster.local");
        let labels = format!(r#"{{"service.istio.io/canonical-name":"{name}"}}"#);
        let mut metadata = vec![("LABELS", labels.as_str())];
        metadata.extend(more);
        proxy(&id, &metadata)
    })
}

#[test]
fn proxies_of_a_namespace_share_listeners_unless_spans_are_set_up() {
    let shared = |text: &str, more: &[(&str, &str)]| {
        let mut mesh = Mesh::with(settings(text), SHOP);
        let [a, b] = two_workloads(more).map(|who| mesh.view(&who));
        let listeners = |view: &ProxyView| {
            let mut parts = view.parts.iter();
            let part = parts.find(|part| *part.set.type_url() == TypeUrl::LISTENER);
            part.expect("listeners").chunks.clone()
        };
        Arc::ptr_eq(&listeners(&a), &listeners(&b))
    };
    assert!(shared("", &[]));
    assert!(shared("accessLogFile: /dev/stdout", &[]));
    assert!(shared("enableTracing: false", &[]));
    assert!(!shared("enableTracing: true", &[]));
    assert!(!shared("defaultConfig: {tracing: {}}", &[]));
    assert!(!shared(
        "",
        &[(
            "PROXY_CONFIG",
            r#"{"tracing": {"zipkin": {"address": "z:1"}}}"#
        )]
    ));
    // Switched off, what else is said of spans makes no difference.
    assert!(shared(
        "{enableTracing: false, defaultConfig: {tracing: {}}}",
        &[]
    ));
    let mut mesh = Mesh::new(SHOP);
    let [who, _] = two_workloads(&[]);
    let tracing = outbound(&mesh.config(&who)).tracing.expect("on by default");
    assert_eq!(share(Some(&tracing)), Some(1.0));
    let tags = tracing.custom_tags.iter();
    assert_eq!(tags.filter(|tag| !tag.tag.contains("dry_run")).count(), 0);
}

#[test]
fn connections_that_would_loop_are_not_logged() {
    let mut mesh = Mesh::with(settings("accessLogFile: /dev/stdout"), SHOP);
    let config = mesh.config(&sidecar("10.0.0.1", "shop"));
    for (listener, looping) in [
        ("virtualInbound", "virtualInbound-blackhole"),
        ("virtualOutbound", "virtualOutbound-blackhole"),
    ] {
        let chains = config.listener(listener).filter_chains;
        let streams = chains
            .iter()
            .filter(|chain| chain.filters.iter().all(|filter| filter.name != HCM));
        let (own, others): (Vec<_>, Vec<_>) = streams.partition(|chain| chain.name == looping);
        assert_eq!(own.len(), 1, "{listener}");
        assert_eq!(tcp(own[0]).access_log, [], "{listener}");
        assert!(!others.is_empty(), "{listener}");
        for chain in others {
            assert_eq!(tcp(chain).access_log.len(), 1, "{listener} {}", chain.name);
        }
    }
}

#[test]
fn clusters_keep_the_case_of_headers_for_gateways_too() {
    let service = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: any, namespace: shop}
spec:
  hosts: [any.shop.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 90, name: any}]
  endpoints: [{address: 10.0.9.1}]
";
    let text = "defaultConfig: {proxyHeaders: {preserveHttp1HeaderCase: true}}";
    let mut mesh = Mesh::with(settings(text), service);
    for who in [sidecar("10.0.0.1", "shop"), gateway()] {
        let cluster = mesh
            .config(&who)
            .cluster("outbound|90||any.shop.svc.cluster.local");
        let options = cluster.typed_extension_protocol_options.values();
        let bytes: Vec<u8> = options.flat_map(|any| any.value.clone()).collect();
        let wanted = b"preserve_case";
        assert!(
            bytes.windows(wanted.len()).any(|part| part == wanted),
            "{who:?}"
        );
    }
}

#[test]
fn the_narrowest_rule_that_names_providers_decides() {
    let mut mesh = Mesh::with(settings(MESH), SHOP);
    mesh.edit("logs.yaml", LOGS);
    let beta = proxy(
        "sidecar~10.0.0.1~a.shop~shop.svc.cluster.local",
        &[("LABELS", r#"{"tier":"beta"}"#)],
    );
    let plain = sidecar("10.0.0.1", "shop");
    assert!(outbound(&mesh.config(&plain)).access_log.is_empty());

    mesh.edit(
        "root.yaml",
        &rule(
            "all",
            "istio-system",
            "accessLogging: [{providers: [{name: File}]}]",
        ),
    );
    mesh.edit(
        "beta.yaml",
        &rule(
            "beta",
            "shop",
            "selector: {matchLabels: {tier: beta}}, accessLogging: [{providers: [{name: service}], match: {mode: SERVER}, filter: {expression: 'response.code > 1'}}]",
        ),
    );
    let file = ["envoy.access_loggers.file"];
    let config = mesh.config(&plain);
    assert_eq!(names(&outbound(&config).access_log), file);
    assert_eq!(names(&inbound(&config).access_log), file);
    assert_eq!(names(&config.listener("virtualOutbound").access_log), file);
    let config = mesh.config(&beta);
    assert_eq!(names(&outbound(&config).access_log), file);
    let log = inbound(&config).access_log;
    assert_eq!(names(&log), ["envoy.access_loggers.http_grpc"]);
    let filter = log[0].filter.clone().and_then(|f| f.filter_specifier);
    assert!(
        matches!(&filter, Some(FilterSpecifier::ExtensionFilter(f)) if f.name == "envoy.access_loggers.extension_filters.cel"),
        "{filter:?}"
    );
    // A listener itself logs only what no chain takes, and of that what the rule wants.
    let own = &config.listener("virtualInbound").access_log[0];
    let filter = own.filter.clone().and_then(|f| f.filter_specifier);
    assert!(
        matches!(&filter, Some(FilterSpecifier::AndFilter(f)) if f.filters.len() == 2),
        "{filter:?}"
    );

    let off = "accessLogging: [{providers: [{name: file}], disabled: true}]";
    mesh.edit("shop.yaml", &rule("shop", "shop", off));
    assert!(outbound(&mesh.config(&plain)).access_log.is_empty());
    let other = mesh.config(&sidecar("10.0.0.9", "other"));
    assert_eq!(names(&outbound(&other).access_log), file);
}

#[test]
fn a_provider_without_its_service_is_left_out_and_told() {
    let mut mesh = Mesh::with(settings(MESH), SHOP);
    mesh.edit(
        "rule.yaml",
        &rule(
            "all",
            "istio-system",
            "accessLogging: [{providers: [{name: service}, {name: file}]}], tracing: [{providers: [{name: zipkin}]}]",
        ),
    );
    for who in [sidecar("10.0.0.1", "shop"), gateway()] {
        let view = mesh.view(&who);
        let mut told: Vec<String> = view
            .faults()
            .map(|fault| {
                let objects: Vec<String> = fault.origins.iter().map(ToString::to_string).collect();
                format!("{}: {}", objects.join(","), fault.message)
            })
            .collect();
        told.sort();
        let missing = "is left out: there is no service logs.ops.svc.cluster.local:4317";
        assert_eq!(
            told,
            [
                format!(
                    "Telemetry/istio-system/all: accessLogging: provider \"service\" {missing}"
                ),
                format!("Telemetry/istio-system/all: tracing: provider \"zipkin\" {missing}"),
            ]
        );
    }
    let who = sidecar("10.0.0.1", "shop");
    let config = mesh.config(&who);
    let file = "envoy.access_loggers.file";
    assert_eq!(names(&outbound(&config).access_log), [file]);
    assert_eq!(outbound(&config).tracing, None);

    mesh.edit("logs.yaml", LOGS);
    assert_eq!(mesh.view(&who).faults().count(), 0);
    let manager = outbound(&mesh.config(&who));
    let service = "envoy.access_loggers.http_grpc";
    assert_eq!(names(&manager.access_log), [file, service]);
    let tracing = manager.tracing.expect("spans");
    assert_eq!(tracing.max_path_tag_length.map(|n| n.value), Some(9));
    assert_eq!(
        tracing.provider.map(|p| p.name).as_deref(),
        Some("envoy.tracers.zipkin")
    );

    // A rule of another namespace touches nobody here.
    let elsewhere = rule("x", "elsewhere", "accessLogging: [{disabled: true}]");
    assert_eq!(mesh.edit("elsewhere.yaml", &elsewhere), 0);
    let unknown = rule(
        "all",
        "istio-system",
        "accessLogging: [{providers: [{name: nobody}]}]",
    );
    mesh.edit("rule.yaml", &unknown);
    let view = mesh.view(&who);
    let fault = view.faults().next().expect("a fault");
    assert!(fault.message.contains("no such name"), "{fault:?}");
}

#[test]
fn equal_settings_give_equal_bytes() {
    let rule = rule(
        "all",
        "istio-system",
        "accessLogging: [{providers: [{name: file}]}]",
    );
    let text = format!("{SHOP}---\n{rule}");
    let who = sidecar("10.0.0.1", "shop");
    let listener = || {
        Mesh::with(settings(MESH), &text)
            .config(&who)
            .listener("virtualInbound")
    };
    let first = listener();
    // Maps with a seed of their own would differ in one of these.
    for _ in 0..8 {
        assert_eq!(listener(), first);
    }
}

#[test]
fn a_proxy_may_bring_its_own_headers() {
    let mut mesh = Mesh::with(
        settings("defaultConfig: {proxyHeaders: {server: {value: of-mesh}}}"),
        SHOP,
    );
    let plain = mesh.config(&sidecar("10.0.0.1", "shop"));
    assert_eq!(inbound(&plain).server_name, "of-mesh");
    assert_eq!(outbound(&plain).server_name, "of-mesh");
    let own = r#"{"drainDuration": "45s", "unknownToUs": 1, "tracing": {"sampling": 30},
        "proxyHeaders": {"forwardedClientCert": "SANITIZE", "attemptCount": {"disabled": true}}}"#;
    let id = "sidecar~10.0.0.1~a.shop~shop.svc.cluster.local";
    let config = mesh.config(&proxy(id, &[("PROXY_CONFIG", own)]));
    let manager = inbound(&config);
    assert_eq!(manager.server_name, "istio-envoy");
    assert_eq!(
        manager.forward_client_cert_details,
        ForwardClientCertDetails::Sanitize as i32
    );
    assert_eq!(share(manager.tracing.as_ref()), Some(30.0));
    let host = |config: &Config| config.host("9080", "reviews.shop.svc.cluster.local:9080");
    assert!(!host(&config).include_request_attempt_count);
    assert!(host(&plain).include_request_attempt_count);
}

#[test]
fn limits_and_times_of_connections_are_the_proxys_own_or_the_meshs() {
    let said = "defaultConfig: {connectionSettings: {httpIdleTimeout: 30s, httpMaxConcurrentStreams: 7, httpMergeSlashes: true}}";
    let mut mesh = Mesh::with(settings(said), SHOP);
    let plain = mesh.config(&sidecar("10.0.0.1", "shop"));
    let numbers = |manager: &HttpConnectionManager| {
        let idle = manager.common_http_protocol_options.as_ref();
        let streams = manager.http2_protocol_options.as_ref();
        (
            idle.and_then(|o| o.idle_timeout.as_ref())
                .map(|t| t.seconds),
            streams
                .and_then(|o| o.max_concurrent_streams.as_ref())
                .map(|n| n.value),
            manager.merge_slashes,
            manager.stream_idle_timeout.as_ref().map(|t| t.seconds),
        )
    };
    assert_eq!(
        numbers(&inbound(&plain)),
        (Some(30), Some(7), true, Some(0))
    );
    assert_eq!(
        numbers(&outbound(&plain)),
        (Some(30), Some(7), true, Some(0))
    );
    // Other settings of its own leave these to the mesh, unlike all else.
    let id = "sidecar~10.0.0.1~a.shop~shop.svc.cluster.local";
    let config = mesh.config(&proxy(id, &[("PROXY_CONFIG", r#"{"tracing": {}}"#)]));
    assert_eq!(
        numbers(&inbound(&config)),
        (Some(30), Some(7), true, Some(0))
    );
    // The profile of the edge is for gateways.
    let own = r#"{"connectionSettings": {"profile": "EDGE", "httpStreamIdleTimeout": "9s"}}"#;
    let config = mesh.config(&proxy(id, &[("PROXY_CONFIG", own)]));
    assert_eq!(numbers(&inbound(&config)), (None, None, false, Some(9)));

    let edge = "defaultConfig: {connectionSettings: {profile: EDGE, httpIdleTimeout: 7s}}";
    let server = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: infra}\nspec:\n  selector: {istio: ingressgateway}\n  servers:\n  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}\n";
    let mut mesh = Mesh::with(settings(edge), server);
    let listener = mesh.config(&gateway()).listener("0.0.0.0_8080");
    let limit = listener.per_connection_buffer_limit_bytes.as_ref();
    assert_eq!(limit.map(|limit| limit.value), Some(32 * 1024));
    let manager = manager(&listener.filter_chains[0]);
    assert_eq!(numbers(&manager), (Some(7), Some(100), true, Some(300)));
    let time = |time: &Option<crate::pb::protobuf::Duration>| time.as_ref().map(|t| t.seconds);
    assert_eq!(time(&manager.request_timeout), Some(300));
    assert_eq!(time(&manager.request_headers_timeout), Some(60));
}

#[test]
fn a_broken_proxy_config_is_refused_with_its_field() {
    use crate::node::{NodeError, Proxy};
    use crate::pb::core::v3::Node;
    use crate::pb::protobuf::{Struct, Value, value::Kind};
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let node = |config: Value| Node {
        id: "sidecar~10.0.0.1~a.b~c".to_owned(),
        metadata: Some(Struct {
            fields: [("PROXY_CONFIG".to_owned(), config)].into(),
        }),
        ..Node::default()
    };
    let broken = Proxy::parse(&node(text(r#"{"tracing": {"sampling": 101}}"#)));
    let Err(NodeError::Metadata { key, problem }) = broken else {
        panic!("{broken:?}")
    };
    assert_eq!(key, "PROXY_CONFIG");
    assert!(problem.starts_with("tracing.sampling: 101"), "{problem}");
    let mut deep = text("x");
    for _ in 0..200 {
        let fields = [("a".to_owned(), deep)].into();
        deep = Value {
            kind: Some(Kind::StructValue(Struct { fields })),
        };
    }
    let error = Proxy::parse(&node(deep)).expect_err("too deep").to_string();
    assert!(error.contains("nested deeper"), "{error}");
}

/// A rule for the oracle.
pub(super) fn random_rule(random: &mut Random, name: &str) -> String {
    let namespace = random.pick(&NAMESPACES);
    let head = head("Telemetry", name, namespace);
    let head = head.replace("networking.istio.io", "telemetry.istio.io");
    let selector = random.pick(&["", "", "\n  selector: {matchLabels: {tier: beta}}"]);
    let logs = random.pick(&[
        "",
        "\n  accessLogging: [{providers: [{name: envoy}], filter: {expression: response.code > 1}}]",
        "\n  accessLogging: [{providers: [{name: service}], match: {mode: SERVER}}]",
        "\n  accessLogging: [{disabled: true}, {providers: [{name: nobody}]}]",
    ]);
    let spans = random.pick(&[
        "",
        "\n  tracing: [{providers: [{name: spans}], randomSamplingPercentage: 7}]",
        "\n  tracing: [{disableSpanReporting: true, match: {mode: CLIENT}}]",
        "\n  tracing: [{customTags: {a: {literal: {value: b}}}, enableIstioTags: false}]",
    ]);
    let nothing = if selector.is_empty() && logs.is_empty() && spans.is_empty() {
        " {}"
    } else {
        ""
    };
    format!("{head}{nothing}{selector}{logs}{spans}")
}

/// Providers whose services come and go.
pub(super) const RANDOM_SETTINGS: &str = "
extensionProviders:
- name: service
  envoyHttpAls: {service: x.a.svc.cluster.local, port: 9001}
- name: spans
  zipkin: {service: api.example.com, port: 80}
- name: keys
  sds: {name: keys, service: y.a.svc.cluster.local, port: 9001}
- name: ask
  envoyExtAuthzGrpc: {service: x.a.svc.cluster.local, port: 9001}
- name: judge
  envoyExtAuthzHttp: {service: z.b.svc.cluster.local, port: 80}
outboundClusterStatName: '%SERVICE%_%SUBSET_NAME%_%SERVICE_PORT_NAME%'
inboundClusterStatName: '%SERVICE_FQDN%_%SERVICE_PORT%'
defaultProviders: {accessLogging: [service]}
";
