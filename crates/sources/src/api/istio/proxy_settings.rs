//! `mesh.v1alpha1.ProxyConfig` → [`ProxySettings`]: `MeshConfig.defaultConfig`, and what a proxy's
//! node says under `PROXY_CONFIG`. Most of the message is about how an agent starts a proxy.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::balancing::Number;
use weft_model::proxy::{
    CertDetails, ForwardClientCert, GatewayTopology, ProxyHeaders, ProxySettings, ProxyTracing,
    ServerHeader,
};
use weft_model::telemetry::TraceTag;
use weft_proto::bootstrap;
use weft_proto::istio::mesh::v1alpha1 as pb;
use weft_proto::pb::google::protobuf::BoolValue;

use pb::proxy_config as message;

use super::proxy_connections as connections;
use crate::check::{At, Checker};

/// Fields of `defaultConfig` that are taken and have no effect: how an agent starts a proxy, and
/// what it tells it. Proxies are started by hand here.
pub const IGNORED: [&str; 33] = [
    "availabilityZone",
    "binaryPath",
    "caCertificatesPem",
    "concurrency",
    "configPath",
    "controlPlaneAuthPolicy",
    "customConfigFile",
    "discoveryAddress",
    "discoveryRefreshDelay",
    "drainDuration",
    "envoyAccessLogService",
    "envoyMetricsService",
    "envoyMetricsServiceAddress",
    "extraStatTags",
    "fileFlushInterval",
    "fileFlushMinSizeKb",
    "holdApplicationUntilProxyStarts",
    "image",
    "interceptionMode",
    "meshId",
    "proxyAdminPort",
    "proxyBootstrapTemplatePath",
    "proxyMetadata",
    "proxyStatsMatcher",
    "readinessProbe",
    "runtimeValues",
    "sds",
    "serviceCluster",
    "statNameLength",
    "statsCompression",
    "statusPort",
    "terminationDrainDuration",
    "tracingServiceName",
];

/// What a node says under `PROXY_CONFIG`, as JSON. What is not about listeners and routes is not
/// looked at, nor are fields that are not known: agents of Istio may be younger than we are.
///
/// # Errors
/// The text is no `ProxyConfig`, or one of the fields that count is wrong; the text says which.
pub fn of_node(json: &str) -> Result<ProxySettings, String> {
    let read = bootstrap::read_proxy_config("PROXY_CONFIG", json);
    let message = read.map_err(|problems| {
        let problem = problems.first();
        problem.map_or_else(String::new, |p| format!("{}: {}", p.path, p.message))
    })?;
    let checker = Checker::default();
    let settings = used(
        message.tracing,
        message.proxy_headers,
        message.gateway_topology,
        message.connection_settings,
        checker.root(),
    );
    match checker.into_findings().first() {
        None => Ok(settings),
        Some(finding) => Err(format!("{}: {}", finding.path, finding.text)),
    }
}

/// `MeshConfig.defaultConfig`.
#[allow(deprecated)] // ignored like others
pub(super) fn of_mesh(message: pb::ProxyConfig, at: At<'_>) -> ProxySettings {
    // Taken apart in full, so that a new field does not compile until someone decides about it.
    let pb::ProxyConfig {
        config_path: _,
        binary_path: _,
        drain_duration: _,
        discovery_address: _,
        discovery_refresh_delay: _,
        zipkin_address,
        statsd_udp_address,
        proxy_admin_port: _,
        availability_zone: _,
        control_plane_auth_policy: _,
        custom_config_file: _,
        stat_name_length: _,
        concurrency: _,
        proxy_bootstrap_template_path: _,
        interception_mode: _,
        tracing,
        envoy_metrics_service_address: _,
        sds: _,
        envoy_access_log_service: _,
        envoy_metrics_service: _,
        proxy_metadata: _,
        status_port: _,
        extra_stat_tags: _,
        gateway_topology,
        termination_drain_duration: _,
        mesh_id: _,
        readiness_probe: _,
        proxy_stats_matcher: _,
        hold_application_until_proxy_starts: _,
        ca_certificates_pem: _,
        image: _,
        runtime_values: _,
        private_key_provider,
        proxy_headers,
        file_flush_interval: _,
        file_flush_min_size_kb: _,
        stats_compression: _,
        connection_settings,
        cluster_name: _,
    } = message;
    for (field, set) in [
        ("zipkinAddress", !zipkin_address.is_empty()),
        ("statsdUdpAddress", !statsd_udp_address.is_empty()),
        ("privateKeyProvider", private_key_provider.is_some()),
    ] {
        at.field(field).refuse(set);
    }
    used(
        tracing,
        proxy_headers,
        gateway_topology,
        connection_settings,
        at,
    )
}

fn used(
    tracing: Option<pb::Tracing>,
    headers: Option<message::ProxyHeaders>,
    topology: Option<pb::Topology>,
    connection: Option<message::ConnectionSettings>,
    at: At<'_>,
) -> ProxySettings {
    ProxySettings {
        tracing: tracing.map(|message| self::tracing(message, at.field("tracing"))),
        headers: headers
            .map(|message| self::headers(message, at.field("proxyHeaders")))
            .unwrap_or_default(),
        topology: topology
            .map(|message| self::topology(message, at.field("gatewayTopology")))
            .unwrap_or_default(),
        connection: connection
            .map(|message| connections::convert(message, at.field("connectionSettings")))
            .map(Box::new),
    }
}

fn tracing(message: pb::Tracing, at: At<'_>) -> ProxyTracing {
    use pb::tracing::{CustomTag, Environment, Literal, RequestHeader, custom_tag::Type};
    let pb::Tracing {
        // Where spans go is in the proxy's bootstrap, with its TLS.
        tracer: _,
        tls_settings: _,
        custom_tags,
        max_path_tag_length,
        sampling,
        enable_istio_tags,
    } = message;
    if !(0.0..=100.0).contains(&sampling) {
        at.field("sampling")
            .error(format_args!("{sampling} is no percentage: use 0 to 100"));
    }
    let mut tags = BTreeMap::new();
    for (name, CustomTag { r#type }) in custom_tags {
        let place = at.field("customTags");
        let tag = match r#type {
            Some(Type::Literal(Literal { value })) => TraceTag::Literal(value.into()),
            Some(Type::Environment(Environment {
                name,
                default_value,
            })) => TraceTag::Environment {
                name: name.into(),
                default: default_value.into(),
            },
            Some(Type::Header(RequestHeader {
                name,
                default_value,
            })) => TraceTag::Header {
                name: name.into(),
                default: default_value.into(),
            },
            None => {
                place
                    .key(&name)
                    .error("sets nothing: write literal, environment or header");
                continue;
            }
        };
        super::telemetry::check_tag(&name, &tag, place);
        tags.insert(Arc::from(name), tag);
    }
    ProxyTracing {
        // As in Istio, zero means that nothing was said.
        sampling: Number::new(sampling).filter(|share| share.get() > 0.0),
        max_path_tag_length: (max_path_tag_length != 0).then_some(max_path_tag_length),
        tags,
        istio_tags: flag(enable_istio_tags),
    }
}

fn flag(value: Option<BoolValue>) -> Option<bool> {
    value.map(|flag| flag.value)
}

fn forwarding(value: i32, at: At<'_>) -> Option<ForwardClientCert> {
    use pb::ForwardClientCertDetails as Details;
    match at.ok(Details::try_from(value))? {
        Details::Undefined => None,
        Details::Sanitize => Some(ForwardClientCert::Sanitize),
        Details::ForwardOnly => Some(ForwardClientCert::ForwardOnly),
        Details::AppendForward => Some(ForwardClientCert::AppendForward),
        Details::SanitizeSet => Some(ForwardClientCert::SanitizeSet),
        Details::AlwaysForwardOnly => Some(ForwardClientCert::AlwaysForwardOnly),
    }
}

fn headers(message: message::ProxyHeaders, at: At<'_>) -> ProxyHeaders {
    use message::proxy_headers as part;
    let message::ProxyHeaders {
        forwarded_client_cert,
        server,
        request_id,
        attempt_count,
        envoy_debug_headers,
        // Headers of Istio's own filters, which are not emitted.
        metadata_exchange_headers: _,
        set_current_client_cert_details,
        preserve_http1_header_case,
        x_forwarded_host,
        x_forwarded_port,
    } = message;
    let on = |value: Option<BoolValue>| flag(value) == Some(true);
    let server = match server {
        Some(part::Server { disabled, .. }) if on(disabled) => ServerHeader::PassThrough,
        Some(part::Server { value, .. }) if !value.is_empty() => {
            if value.bytes().any(|b| b.is_ascii_control()) {
                at.field("server")
                    .field("value")
                    .error("is no value of a header: it has control characters");
            }
            ServerHeader::Name(value.into())
        }
        _ => ServerHeader::Default,
    };
    let part::SetCurrentClientCertDetails {
        subject,
        cert,
        chain,
        dns,
        uri,
    } = set_current_client_cert_details.unwrap_or_default();
    ProxyHeaders {
        forwarded_client_cert: forwarding(forwarded_client_cert, at.field("forwardedClientCert")),
        cert_details: CertDetails {
            subject: flag(subject),
            cert: flag(cert),
            chain: flag(chain),
            dns: flag(dns),
            uri: flag(uri),
        },
        server,
        no_request_id: on(request_id.and_then(|part| part.disabled)),
        no_attempt_count: on(attempt_count.and_then(|part| part.disabled)),
        no_envoy_headers: on(envoy_debug_headers.and_then(|part| part.disabled)),
        preserve_case: on(preserve_http1_header_case),
        forwarded_host: on(x_forwarded_host.and_then(|part| part.enabled)),
        forwarded_port: on(x_forwarded_port.and_then(|part| part.enabled)),
    }
}

fn topology(message: pb::Topology, at: At<'_>) -> GatewayTopology {
    let pb::Topology {
        num_trusted_proxies,
        forward_client_cert_details,
        proxy_protocol,
    } = message;
    GatewayTopology {
        trusted_proxies: num_trusted_proxies,
        forward_client_cert: forwarding(
            forward_client_cert_details,
            at.field("forwardClientCertDetails"),
        ),
        proxy_protocol: proxy_protocol.is_some(),
    }
}
