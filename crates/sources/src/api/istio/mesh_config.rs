//! `MeshConfig` (the file of `--mesh-config`) → [`MeshSettings`].
//!
//! Fields that speak of things outside of what we generate and change nothing about it are
//! ignored by name: [`IGNORED`]. All others are used or refused.

use std::sync::Arc;
use std::time::Duration;

use weft_model::{
    AccessLogEncoding, ExportTo, ForwardedCertificates, GatewayTopology, MeshSettings, MeshTls,
    Namespace, OutboundTrafficPolicy, PolicySettings, PortNumber, TlsVersion,
};
use weft_proto::istio::mesh::v1alpha1 as mesh;
use weft_proto::yaml::{self, Limits};
use weft_proto::{Problem, bootstrap, format, reader};

use super::destination_rule_balancer::locality;
use super::destination_rule_pool::{connection_pool, outlier_detection};
use super::mesh_config_providers;
use crate::check::{At, Checker, Finding, optional};

/// Fields of `MeshConfig` that are taken and have no effect, and why.
pub const IGNORED: [(&str, &str); 7] = [
    (
        "defaultConfig",
        "says how injected proxies are started; ours are started by hand (gatewayTopology is used)",
    ),
    (
        "disableEnvoyListenerLog",
        "listeners have no log of their own here",
    ),
    (
        "enablePrometheusMerge",
        "there is no agent that merges metrics",
    ),
    ("ingressClass", "Kubernetes Ingress is not read"),
    ("ingressControllerMode", "Kubernetes Ingress is not read"),
    ("ingressSelector", "Kubernetes Ingress is not read"),
    ("ingressService", "Kubernetes Ingress is not read"),
];

/// Suites of TLS 1.2 that Istio lets a mesh choose, but for those that are broken.
const CIPHER_SUITES: [&str; 8] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
];

/// Reads a `MeshConfig`. `source` names the file in errors; all errors are returned.
pub fn parse(source: &str, text: &str) -> Result<MeshSettings, Vec<Problem>> {
    let message = bootstrap::read_mesh_config(source, text)?;
    let checker = Checker::default();
    let settings = convert(message, checker.root());
    let findings = checker.into_findings();
    if findings.is_empty() {
        return Ok(settings);
    }
    // The text was read once already, so it has one sound document at most.
    let root = yaml::parse(text, &Limits::default())
        .into_iter()
        .find_map(|document| document.root);
    let problem = |finding: Finding| {
        let path = finding.path.to_string();
        let (line, column) = root
            .as_ref()
            .map_or((1, 1), |root| reader::find(root, &path));
        Problem {
            source: source.into(),
            line,
            column,
            object: None,
            path,
            message: finding.text,
        }
    };
    let mut problems: Vec<Problem> = findings.into_iter().map(problem).collect();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    Err(problems)
}

fn convert(message: mesh::MeshConfig, at: At<'_>) -> MeshSettings {
    let mut settings = MeshSettings::default();
    refuse_unsupported(&message, at);
    if let Some(name) = optional(message.root_namespace) {
        settings.root_namespace = at
            .field("rootNamespace")
            .ok(Namespace::parse(&name))
            .unwrap_or(settings.root_namespace);
    }
    if let Some(domain) = optional(message.trust_domain) {
        settings.trust_domain = trust_domain(&domain, at.field("trustDomain"));
    }
    let aliases = at.field("trustDomainAliases");
    settings.trust_domain_aliases = message
        .trust_domain_aliases
        .iter()
        .enumerate()
        .map(|(index, alias)| trust_domain(alias, aliases.index(index)))
        .collect();
    // As a set, and so as in istiod.
    settings.trust_domain_aliases.sort();
    settings.trust_domain_aliases.dedup();
    if let Some(flag) = message.enable_auto_mtls {
        settings.auto_mtls = flag.value;
    }
    if let Some(message) = message.mesh_m_tls {
        settings.mesh_tls = mesh_tls(message, at.field("meshMTLS"));
    }
    let list = message.extension_providers;
    settings.authorization_providers =
        mesh_config_providers::authorization(list, at.field("extensionProviders"));
    settings.access_log_file = optional(message.access_log_file);
    settings.access_log_format = optional(message.access_log_format);
    settings.access_log_encoding =
        match mesh::mesh_config::AccessLogEncoding::try_from(message.access_log_encoding) {
            Ok(mesh::mesh_config::AccessLogEncoding::Json) => AccessLogEncoding::Json,
            _ => AccessLogEncoding::Text,
        };
    access_log_format(&settings, at.field("accessLogFormat"));
    if let Some(timeout) = at
        .field("connectTimeout")
        .duration(message.connect_timeout, Duration::from_millis(1))
    {
        settings.connect_timeout = timeout;
    }
    settings.proxy_http_port = port(message.proxy_http_port, at.field("proxyHttpPort"));
    if let Some(number) = port(message.proxy_listen_port, at.field("proxyListenPort")) {
        settings.proxy_listen_port = number;
    }
    if let Some(number) = port(
        message.proxy_inbound_listen_port,
        at.field("proxyInboundListenPort"),
    ) {
        settings.proxy_inbound_listen_port = number;
    }
    if let Some(policy) = message.outbound_traffic_policy {
        settings.outbound_policy = outbound_policy(policy, at.field("outboundTrafficPolicy"));
    }
    let export = |list: &[String], at: At<'_>| default_export_to(list, at);
    settings.default_service_export_to = export(
        &message.default_service_export_to,
        at.field("defaultServiceExportTo"),
    );
    settings.default_virtual_service_export_to = export(
        &message.default_virtual_service_export_to,
        at.field("defaultVirtualServiceExportTo"),
    );
    settings.default_destination_rule_export_to = export(
        &message.default_destination_rule_export_to,
        at.field("defaultDestinationRuleExportTo"),
    );
    if let Some(message) = message.locality_lb_setting {
        settings.locality = locality(message, at.field("localityLbSetting"));
    }
    if let Some(message) = message.default_traffic_policy {
        settings.default_policy = default_policy(message, at.field("defaultTrafficPolicy"));
    }
    let topology = message.default_config.and_then(|c| c.gateway_topology);
    if let Some(message) = topology {
        let at = at.field("defaultConfig");
        settings.gateway_topology = gateway_topology(message, at.field("gatewayTopology"));
    }
    settings
}

/// A trust domain as SPIFFE allows it (SPIFFE-ID, 2.1), with Istio's upper-case letters.
fn trust_domain(text: &str, at: At<'_>) -> Arc<str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if text.is_empty() || text.len() > 255 || !text.bytes().all(fits) {
        at.error(format_args!(
            "\"{text}\" is no trust domain: use letters, digits, '-', '_' and '.'"
        ));
    }
    text.into()
}

fn mesh_tls(message: mesh::mesh_config::TlsConfig, at: At<'_>) -> MeshTls {
    use mesh::mesh_config::tls_config::TlsProtocol;
    let mesh::mesh_config::TlsConfig {
        min_protocol_version,
        ecdh_curves,
        cipher_suites,
    } = message;
    at.field("ecdhCurves").refuse(!ecdh_curves.is_empty());
    let version = at.field("minProtocolVersion");
    let list = at.field("cipherSuites");
    for (index, name) in cipher_suites.iter().enumerate() {
        if !CIPHER_SUITES.contains(&name.as_str()) {
            list.index(index).error(format_args!(
                "\"{name}\" is unknown: use {}",
                CIPHER_SUITES.join(", ")
            ));
        }
    }
    MeshTls {
        min_version: match version.ok(TlsProtocol::try_from(min_protocol_version)) {
            Some(TlsProtocol::Tlsv13) => Some(TlsVersion::V1_3),
            Some(TlsProtocol::Tlsv12) => Some(TlsVersion::V1_2),
            Some(TlsProtocol::TlsAuto) | None => None,
        },
        cipher_suites: cipher_suites.into_iter().map(Into::into).collect(),
    }
}

fn gateway_topology(message: mesh::Topology, at: At<'_>) -> GatewayTopology {
    use mesh::ForwardClientCertDetails as Details;
    let mesh::Topology {
        num_trusted_proxies,
        forward_client_cert_details: details,
        proxy_protocol,
    } = message;
    let details = at
        .field("forwardClientCertDetails")
        .ok(Details::try_from(details));
    GatewayTopology {
        trusted_proxies: num_trusted_proxies,
        client_certificates: match details {
            Some(Details::Sanitize) => ForwardedCertificates::Sanitize,
            Some(Details::ForwardOnly) => ForwardedCertificates::ForwardOnly,
            Some(Details::AppendForward) => ForwardedCertificates::AppendForward,
            Some(Details::AlwaysForwardOnly) => ForwardedCertificates::AlwaysForwardOnly,
            Some(Details::SanitizeSet | Details::Undefined) | None => {
                ForwardedCertificates::SanitizeSet
            }
        },
        proxy_protocol: proxy_protocol.is_some(),
    }
}

/// What proxies would refuse with every listener in it.
fn access_log_format(settings: &MeshSettings, at: At<'_>) {
    let Some(format) = settings.access_log_format.as_deref() else {
        return;
    };
    at.ok(format::check(format));
    if settings.access_log_encoding == AccessLogEncoding::Json {
        let documents = yaml::parse(format, &Limits::default());
        let is_object = match &documents[..] {
            [only] => {
                let root = only.root.as_ref();
                only.errors.is_empty() && root.is_some_and(|root| root.entries().is_some())
            }
            _ => false,
        };
        if !is_object || !format.trim_start().starts_with('{') {
            at.error("it must be a JSON object with accessLogEncoding JSON: write one such as {\"status\": \"%RESPONSE_CODE%\"}");
        }
    }
}

fn default_policy(message: mesh::mesh_config::DefaultTrafficPolicy, at: At<'_>) -> PolicySettings {
    let mesh::mesh_config::DefaultTrafficPolicy {
        connection_pool: pool,
        outlier_detection: outlier,
    } = message;
    PolicySettings {
        connection_pool: pool.map(|message| connection_pool(message, at.field("connectionPool"))),
        outlier_detection: outlier
            .map(|message| outlier_detection(message, at.field("outlierDetection"))),
        ..PolicySettings::default()
    }
}

fn port(number: i32, at: At<'_>) -> Option<PortNumber> {
    if number == 0 {
        None
    } else {
        at.ok(PortNumber::new(number))
    }
}

/// A default list. `.` means each object's own namespace, which one list for all cannot name.
fn default_export_to(list: &[String], at: At<'_>) -> Option<ExportTo> {
    if let Some(place) = list.iter().position(|entry| entry == ".") {
        at.index(place)
            .error("\".\" as a default is not supported yet (see docs/compatibility.md)");
        return None;
    }
    // Without ".", the own namespace is never looked at.
    let nowhere = Namespace::new("");
    (!list.is_empty()).then(|| at.export_to(list, &nowhere, None))
}

fn outbound_policy(
    message: mesh::mesh_config::OutboundTrafficPolicy,
    at: At<'_>,
) -> OutboundTrafficPolicy {
    use mesh::mesh_config::outbound_traffic_policy::Mode;
    let mesh::mesh_config::OutboundTrafficPolicy { mode, tls } = message;
    at.field("tls").refuse(tls.is_some());
    match at.field("mode").ok(Mode::try_from(mode)) {
        Some(Mode::RegistryOnly) => OutboundTrafficPolicy::RegistryOnly,
        Some(Mode::AllowAny) | None => OutboundTrafficPolicy::AllowAny,
        Some(Mode::AllowAnyDynamicDns) => {
            at.field("mode")
                .error("ALLOW_ANY_DYNAMIC_DNS is not supported yet (see docs/compatibility.md)");
            OutboundTrafficPolicy::AllowAny
        }
    }
}

#[allow(clippy::too_many_lines)] // one list of all fields, two lines each
#[allow(deprecated)] // old fields are refused like others
fn refuse_unsupported(message: &mesh::MeshConfig, at: At<'_>) {
    // Taken apart in full, so that a new field of the message does not compile until someone
    // decides about it.
    let mesh::MeshConfig {
        proxy_listen_port: _,
        proxy_inbound_listen_port: _,
        proxy_http_port: _,
        connect_timeout: _,
        access_log_file: _,
        access_log_format: _,
        access_log_encoding: _,
        outbound_traffic_policy: _,
        trust_domain: _,
        trust_domain_aliases: _,
        enable_auto_mtls: _,
        mesh_m_tls: _,
        extension_providers: _,
        default_service_export_to: _,
        default_virtual_service_export_to: _,
        default_destination_rule_export_to: _,
        root_namespace: _,
        locality_lb_setting: _,
        default_traffic_policy: _,
        // Ignored by name.
        default_config: _,
        disable_envoy_listener_log: _,
        enable_prometheus_merge: _,
        ingress_class: _,
        ingress_controller_mode: _,
        ingress_selector: _,
        ingress_service: _,
        // Refused.
        hbone_idle_timeout,
        protocol_detection_timeout,
        tcp_keepalive,
        enable_tracing,
        enable_envoy_access_log_service,
        inbound_traffic_policy,
        config_sources,
        ca_certificates,
        zone_aware_lb_setting,
        dns_refresh_rate,
        h2_upgrade_policy,
        inbound_cluster_stat_name,
        outbound_cluster_stat_name,
        certificates,
        service_settings,
        service_scope_configs,
        verify_certificate_at_client,
        ca,
        default_providers,
        discovery_selectors,
        path_normalization,
        default_http_retry_policy,
        tls_defaults,
        service_entry_visibility,
    } = message;
    let refused = [
        ("hboneIdleTimeout", hbone_idle_timeout.is_some()),
        (
            "protocolDetectionTimeout",
            protocol_detection_timeout.is_some(),
        ),
        ("tcpKeepalive", tcp_keepalive.is_some()),
        ("enableTracing", *enable_tracing),
        (
            "enableEnvoyAccessLogService",
            *enable_envoy_access_log_service,
        ),
        ("inboundTrafficPolicy", inbound_traffic_policy.is_some()),
        ("configSources", !config_sources.is_empty()),
        ("caCertificates", !ca_certificates.is_empty()),
        ("zoneAwareLbSetting", zone_aware_lb_setting.is_some()),
        ("dnsRefreshRate", dns_refresh_rate.is_some()),
        ("h2UpgradePolicy", *h2_upgrade_policy != 0),
        (
            "inboundClusterStatName",
            !inbound_cluster_stat_name.is_empty(),
        ),
        (
            "outboundClusterStatName",
            !outbound_cluster_stat_name.is_empty(),
        ),
        ("certificates", !certificates.is_empty()),
        ("serviceSettings", !service_settings.is_empty()),
        ("serviceScopeConfigs", !service_scope_configs.is_empty()),
        (
            "verifyCertificateAtClient",
            verify_certificate_at_client.is_some(),
        ),
        ("ca", ca.is_some()),
        ("defaultProviders", default_providers.is_some()),
        ("discoverySelectors", !discovery_selectors.is_empty()),
        ("pathNormalization", path_normalization.is_some()),
        (
            "defaultHttpRetryPolicy",
            default_http_retry_policy.is_some(),
        ),
        ("tlsDefaults", tls_defaults.is_some()),
        ("serviceEntryVisibility", service_entry_visibility.is_some()),
    ];
    for (field, set) in refused {
        at.field(field).refuse(set);
    }
}
