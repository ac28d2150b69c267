//! `MeshConfig` (the file of `--mesh-config`) → [`MeshSettings`].
//!
//! Fields that speak of things outside of what we generate and change nothing about it are
//! ignored by name: [`IGNORED`]. All others are used or refused.

use std::sync::Arc;
use std::time::Duration;

use weft_model::{
    ClientTls, ClientTlsMode, ExportTo, MeshSettings, MeshTls, Namespace, OutboundTrafficPolicy,
    PathNormalization, PolicySettings, PortNumber, RetryPolicy, TlsDefaults, TlsVersion,
};
use weft_proto::istio::mesh::v1alpha1 as mesh;
use weft_proto::istio::networking::v1alpha3::HttpRetry;
use weft_proto::yaml::{self, Limits};
use weft_proto::{Problem, bootstrap};

use super::destination_rule::client_tls_of;
use super::destination_rule_balancer::{locality, zone_aware};
use super::destination_rule_pool::{connection_pool, outlier_detection, probing};
use super::gateway_tls::{self, known};
use super::virtual_service_fault::retries_of;
use super::{
    extension_providers, log_format, mesh_authorities, mesh_config_namespaces, proxy_settings,
};
use crate::check::{At, Checker, optional};

/// Fields of `MeshConfig` that are taken and have no effect, and why.
pub const IGNORED: [(&str, &str); 8] = [
    (
        "enablePrometheusMerge",
        "there is no agent that merges metrics",
    ),
    ("ingressClass", "Kubernetes Ingress is not read"),
    ("ingressControllerMode", "Kubernetes Ingress is not read"),
    ("ingressSelector", "Kubernetes Ingress is not read"),
    ("ingressService", "Kubernetes Ingress is not read"),
    (
        "hboneIdleTimeout",
        "the mesh without sidecars is not served",
    ),
    (
        "serviceScopeConfigs",
        "the mesh without sidecars is not served",
    ),
    (
        "serviceSettings",
        "all endpoints are those of one cluster, so every service is local to it",
    ),
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
    let mut settings = convert(message, checker.root());
    let problems = checker.into_problems(source, text);
    if !problems.is_empty() {
        return Err(problems);
    }
    // In Istio proxies make spans unless that is switched off; the message cannot tell `false`
    // from nothing. The text was read once already, so it has one sound document at most.
    let root = yaml::parse(text, &Limits::default())
        .into_iter()
        .find_map(|document| document.root);
    let said = |name| root.as_ref().is_some_and(|root| root.get(name).is_some());
    if !said("enableTracing") && !said("enable_tracing") {
        settings.tracing = None;
    }
    Ok(settings)
}

fn convert(message: mesh::MeshConfig, at: At<'_>) -> MeshSettings {
    let mut settings = MeshSettings::default();
    refuse_unsupported(&message, at);
    ports(&message, &mut settings, at);
    default_exports(&message, &mut settings, at);
    defaults_of_rules(&message, &mut settings, at);
    trust_domains(&message, &mut settings, at);
    if let Some(name) = optional(message.root_namespace) {
        settings.root_namespace = at
            .field("rootNamespace")
            .ok(Namespace::parse(&name))
            .unwrap_or(settings.root_namespace);
    }
    let field = at.field("caCertificates");
    settings.authorities = mesh_authorities::all(message.ca_certificates, field);
    if let Some(flag) = message.enable_auto_mtls {
        settings.auto_mtls = flag.value;
    }
    if let Some(message) = message.mesh_m_tls {
        settings.mesh_tls = mesh_tls(message, at.field("meshMTLS"));
    }
    settings.access_log_file = optional(message.access_log_file);
    let format = at.field("accessLogFormat");
    let text = &message.access_log_format;
    settings.access_log_format =
        match mesh::mesh_config::AccessLogEncoding::try_from(message.access_log_encoding) {
            Ok(mesh::mesh_config::AccessLogEncoding::Json) => log_format::json_format(text, format),
            _ => log_format::text_format(text, format),
        };
    settings.access_log_service = message.enable_envoy_access_log_service;
    settings.listener_log = !message.disable_envoy_listener_log;
    settings.tracing = Some(message.enable_tracing);
    let list = at.field("extensionProviders");
    settings.providers =
        extension_providers::providers(message.extension_providers, settings.providers, list);
    if let Some(message) = message.default_providers {
        let at = at.field("defaultProviders");
        settings.default_providers =
            extension_providers::defaults(message, &settings.providers, at);
    }
    if let Some(message) = message.default_config {
        settings.proxy = proxy_settings::of_mesh(message, at.field("defaultConfig")).into();
    }
    if let Some(message) = message.path_normalization {
        settings.path_normalization = normalization(message, at.field("pathNormalization"));
    }
    let timeout = at.field("protocolDetectionTimeout");
    settings.protocol_detection_timeout = timeout
        .duration(message.protocol_detection_timeout, Duration::ZERO)
        .unwrap_or_default();
    settings.h2_upgrade =
        message.h2_upgrade_policy == mesh::mesh_config::H2UpgradePolicy::Upgrade as i32;
    settings.tcp_keepalive = message
        .tcp_keepalive
        .map(|message| probing(message, at.field("tcpKeepalive")));
    if let Some(rate) = at
        .field("dnsRefreshRate")
        .duration(message.dns_refresh_rate, Duration::from_millis(1))
    {
        settings.dns_refresh = rate;
    }
    settings.outbound_stat_name = optional(message.outbound_cluster_stat_name);
    settings.inbound_stat_name = optional(message.inbound_cluster_stat_name);
    if let Some(timeout) = at
        .field("connectTimeout")
        .duration(message.connect_timeout, Duration::from_millis(1))
    {
        settings.connect_timeout = timeout;
    }
    if let Some(policy) = message.outbound_traffic_policy {
        let at = at.field("outboundTrafficPolicy");
        (settings.outbound_policy, settings.unknown_tls) = outbound_policy(policy, at);
    }
    settings.discovery = mesh_config_namespaces::discovery(
        message.discovery_selectors,
        at.field("discoverySelectors"),
    );
    settings.entry_visibility = message.service_entry_visibility.and_then(|message| {
        mesh_config_namespaces::visibility(message, at.field("serviceEntryVisibility"))
    });
    let places = message.locality_lb_setting;
    let places = places.map(|message| locality(message, at.field("localityLbSetting")));
    let zones = message.zone_aware_lb_setting;
    let zones = zones.map(|message| zone_aware(message, at.field("zoneAwareLbSetting")));
    // As in Istio, zones count before the other.
    settings.locality = zones.or(places).unwrap_or(settings.locality);
    if let Some(message) = message.default_traffic_policy {
        settings.default_policy = default_policy(message, at.field("defaultTrafficPolicy"));
    }
    settings
}

fn trust_domains(message: &mesh::MeshConfig, settings: &mut MeshSettings, at: At<'_>) {
    if let Some(domain) = optional(message.trust_domain.clone()) {
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
}

fn ports(message: &mesh::MeshConfig, settings: &mut MeshSettings, at: At<'_>) {
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
}

fn default_exports(message: &mesh::MeshConfig, settings: &mut MeshSettings, at: At<'_>) {
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
}

/// What holds where rules do not say.
fn defaults_of_rules(message: &mesh::MeshConfig, settings: &mut MeshSettings, at: At<'_>) {
    settings.default_retries = message
        .default_http_retry_policy
        .clone()
        .map(|message| retries_of(message, at.field("defaultHttpRetryPolicy")));
    settings.inbound_retries = message
        .default_inbound_http_retry_policy
        .clone()
        .map(|message| inbound_retries(message, at.field("defaultInboundHttpRetryPolicy")));
    if let Some(message) = message.tls_defaults.clone() {
        settings.tls_defaults = tls_defaults(message, at.field("tlsDefaults"));
    }
    if let Some(message) = &message.inbound_traffic_policy {
        use mesh::mesh_config::inbound_traffic_policy::Mode;
        let mesh::mesh_config::InboundTrafficPolicy { mode } = message;
        let mode = at
            .field("inboundTrafficPolicy")
            .field("mode")
            .ok(Mode::try_from(*mode));
        settings.inbound_to_loopback = mode == Some(Mode::Localhost);
    }
}

/// A trust domain as SPIFFE allows it (SPIFFE-ID, 2.1), with Istio's upper-case letters.
pub(super) fn trust_domain(text: &str, at: At<'_>) -> Arc<str> {
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
    if !ecdh_curves.is_empty() {
        at.field("ecdhCurves")
            .error("has no effect on mutual TLS of the mesh, and Istio refuses it: remove it");
    }
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

/// Of gateways, and of clients that follow rules of mode `SIMPLE` or `MUTUAL`.
fn tls_defaults(message: mesh::mesh_config::TlsConfig, at: At<'_>) -> TlsDefaults {
    use mesh::mesh_config::tls_config::TlsProtocol;
    let mesh::mesh_config::TlsConfig {
        min_protocol_version,
        ecdh_curves,
        cipher_suites,
    } = message;
    let version = at.field("minProtocolVersion");
    TlsDefaults {
        min_version: match version.ok(TlsProtocol::try_from(min_protocol_version)) {
            Some(TlsProtocol::Tlsv13) => Some(TlsVersion::V1_3),
            Some(TlsProtocol::Tlsv12) => Some(TlsVersion::V1_2),
            Some(TlsProtocol::TlsAuto) | None => None,
        },
        cipher_suites: known(
            cipher_suites,
            &gateway_tls::CIPHER_SUITES,
            at.field("cipherSuites"),
        ),
        ecdh_curves: known(ecdh_curves, &gateway_tls::CURVES, at.field("ecdhCurves")),
    }
}

/// There is one server, so what chooses among several has no effect, and there is no time for a try.
fn inbound_retries(message: HttpRetry, at: At<'_>) -> RetryPolicy {
    let unused = [
        ("perTryTimeout", message.per_try_timeout.is_some()),
        (
            "retryRemoteLocalities",
            message.retry_remote_localities.is_some(),
        ),
        (
            "retryIgnorePreviousHosts",
            message.retry_ignore_previous_hosts.is_some(),
        ),
    ];
    for (field, _) in unused.iter().filter(|(_, set)| *set) {
        at.field(field)
            .error("has no effect on a workload's own ports: remove it");
    }
    retries_of(message, at)
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

fn normalization(
    message: mesh::mesh_config::ProxyPathNormalization,
    at: At<'_>,
) -> PathNormalization {
    use mesh::mesh_config::proxy_path_normalization::NormalizationType as Type;
    let mesh::mesh_config::ProxyPathNormalization { normalization } = message;
    match at.field("normalization").ok(Type::try_from(normalization)) {
        Some(Type::None) => PathNormalization::None,
        Some(Type::MergeSlashes) => PathNormalization::MergeSlashes,
        Some(Type::DecodeAndMergeSlashes) => PathNormalization::DecodeAndMergeSlashes,
        Some(Type::Default | Type::Base) | None => PathNormalization::Base,
    }
}

fn port(number: i32, at: At<'_>) -> Option<PortNumber> {
    if number == 0 {
        None
    } else {
        at.ok(PortNumber::new(number))
    }
}

/// A default list. `.` means each object's own namespace and stays (`ExportTo::of_object`).
fn default_export_to(list: &[String], at: At<'_>) -> Option<ExportTo> {
    let own = Namespace::new(".");
    (!list.is_empty()).then(|| at.export_to(list, &own, None))
}

fn outbound_policy(
    message: mesh::mesh_config::OutboundTrafficPolicy,
    at: At<'_>,
) -> (OutboundTrafficPolicy, Option<ClientTls>) {
    use mesh::mesh_config::outbound_traffic_policy::Mode;
    let mesh::mesh_config::OutboundTrafficPolicy { mode, tls } = message;
    let policy = match at.field("mode").ok(Mode::try_from(mode)) {
        Some(Mode::RegistryOnly) => OutboundTrafficPolicy::RegistryOnly,
        Some(Mode::AllowAny) | None => OutboundTrafficPolicy::AllowAny,
        Some(Mode::AllowAnyDynamicDns) => OutboundTrafficPolicy::AllowAnyDynamicDns,
    };
    let at = at.field("tls");
    if tls.is_some() && policy != OutboundTrafficPolicy::AllowAnyDynamicDns {
        at.error("has no effect with this mode: set mode ALLOW_ANY_DYNAMIC_DNS, or remove it");
    }
    let tls = tls.and_then(|message| client_tls_of(message, at));
    match tls.as_ref().map(|tls| &tls.mode) {
        Some(ClientTlsMode::IstioMutual) => at.field("mode").error(
            "ISTIO_MUTUAL is for workloads of the mesh, which unknown hosts are not: use SIMPLE or MUTUAL",
        ),
        Some(ClientTlsMode::Credential { .. }) => at.field("credentialName").error(
            "secrets are for workloads that a rule selects, and this is for all: name files instead",
        ),
        _ => {}
    }
    (policy, tls)
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
        ca_certificates: _,
        enable_auto_mtls: _,
        mesh_m_tls: _,
        default_service_export_to: _,
        default_virtual_service_export_to: _,
        default_destination_rule_export_to: _,
        root_namespace: _,
        locality_lb_setting: _,
        default_traffic_policy: _,
        default_config: _,
        disable_envoy_listener_log: _,
        protocol_detection_timeout: _,
        tcp_keepalive: _,
        enable_tracing: _,
        enable_envoy_access_log_service: _,
        dns_refresh_rate: _,
        h2_upgrade_policy: _,
        inbound_cluster_stat_name: _,
        outbound_cluster_stat_name: _,
        extension_providers: _,
        default_providers: _,
        path_normalization: _,
        default_http_retry_policy: _,
        default_inbound_http_retry_policy: _,
        tls_defaults: _,
        inbound_traffic_policy: _,
        // Ignored by name.
        enable_prometheus_merge: _,
        ingress_class: _,
        ingress_controller_mode: _,
        ingress_selector: _,
        ingress_service: _,
        hbone_idle_timeout: _,
        service_settings: _,
        service_scope_configs: _,
        // Refused.
        config_sources,
        zone_aware_lb_setting: _,
        certificates,
        verify_certificate_at_client,
        ca,
        discovery_selectors: _,
        service_entry_visibility: _,
    } = message;
    let refused = [
        ("configSources", !config_sources.is_empty()),
        ("certificates", !certificates.is_empty()),
        (
            "verifyCertificateAtClient",
            // Certificates are always checked, as in Istio.
            verify_certificate_at_client.is_some_and(|flag| !flag.value),
        ),
        ("ca", ca.is_some()),
    ];
    for (field, set) in refused {
        at.field(field).refuse(set);
    }
}
