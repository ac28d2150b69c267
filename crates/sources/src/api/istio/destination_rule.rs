//! `DestinationRule` → [`DestinationRule`]. Rules of validity follow Istio's
//! `ValidateDestinationRule`.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_model::{
    ClientTls, ClientTlsMode, CredentialName, DestinationRule, ExportTo, Hostname, KeyPairFiles,
    Labels, Namespace, PolicySettings, ProxyProtocol, RetryBudget, Subset, TrafficPolicy, Tunnel,
};
use weft_proto::istio::r#type::v1beta1::WorkloadSelector;

use super::destination_rule_balancer::load_balancing;
use super::destination_rule_pool::{connection_pool, outlier_detection as outlier_detection_of};
use super::message as pb;
use crate::check::{At, Context, optional};

pub(crate) fn convert(
    message: pb::DestinationRule,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<DestinationRule> {
    let pb::DestinationRule {
        host,
        traffic_policy,
        subsets,
        export_to,
        workload_selector,
    } = message;
    let default = context.settings.default_destination_rule_export_to.as_ref();
    let own = context.namespace();
    let mut export = at.field("exportTo").export_to(&export_to, own, default);
    let selector =
        workload_selector.map(|message| selector_of(message, at.field("workloadSelector")));
    if selector.is_some() {
        let alone = only(own);
        if !export_to.is_empty() && export != alone {
            at.field("exportTo")
                .error("a rule with workloadSelector is for its own namespace: write \".\"");
        }
        export = alone;
    }
    let policy = traffic_policy_of(traffic_policy, at.field("trafficPolicy"));
    let list = at.field("subsets");
    let mut found: Vec<Subset> = Vec::with_capacity(subsets.len());
    for (index, subset) in subsets.into_iter().enumerate() {
        let at = list.index(index);
        let subset = subset_of(subset, at);
        if found.iter().any(|other| other.name == subset.name) {
            at.field("name").error(format_args!(
                "subset \"{}\" is defined twice: rename one",
                subset.name
            ));
        }
        found.push(subset);
    }
    let domain = &context.settings.cluster_domain;
    let host = at
        .field("host")
        .ok(Hostname::resolve(&host, context.namespace(), domain))?;
    let rule = DestinationRule {
        meta: context.meta(),
        host,
        export_to: export,
        selector,
        policy,
        subsets: found,
    };
    check_config_maps(&rule, own, at);
    Some(rule)
}

/// A `ConfigMap` has authorities only, and is one of the rule's own namespace, as in Istio.
fn check_config_maps(rule: &DestinationRule, own: &Namespace, at: At<'_>) {
    for (name, mutual) in rule.credentials().filter(|(name, _)| name.is_config_map()) {
        if mutual {
            at.error(format_args!(
                "credentialName \"{name}\": a ConfigMap has no key: use mode SIMPLE, or name a Secret"
            ));
        }
        if name.secret().0.as_ref() != Some(own) {
            at.error(format_args!(
                "credentialName \"{name}\" is of another namespace: copy the ConfigMap to {own}"
            ));
        }
    }
}

fn only(namespace: &Namespace) -> ExportTo {
    ExportTo::Namespaces([namespace.clone()].into())
}

fn selector_of(message: WorkloadSelector, at: At<'_>) -> Labels {
    let WorkloadSelector { match_labels } = message;
    at.field("matchLabels").labels(match_labels)
}

fn subset_of(message: pb::Subset, at: At<'_>) -> Subset {
    let pb::Subset {
        name,
        labels,
        traffic_policy,
    } = message;
    check_subset_name(&name, at.field("name"));
    Subset {
        name: name.into(),
        labels: at.field("labels").labels(labels),
        policy: traffic_policy_of(traffic_policy, at.field("trafficPolicy")),
    }
}

/// The name becomes part of a cluster's name, `outbound|port|subset|host`.
pub(super) fn check_subset_name(name: &str, at: At<'_>) {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 253 || !name.bytes().all(fits) {
        at.error(format_args!(
            "\"{name}\" is no subset name: use letters, digits, '-', '_' and '.'"
        ));
    }
}

fn traffic_policy_of(message: Option<pb::TrafficPolicy>, at: At<'_>) -> TrafficPolicy {
    let Some(message) = message else {
        return TrafficPolicy::default();
    };
    let pb::TrafficPolicy {
        load_balancer,
        connection_pool: pool,
        outlier_detection,
        tls,
        port_level_settings,
        tunnel,
        proxy_protocol,
        retry_budget,
    } = message;
    if tunnel.is_some() && proxy_protocol.is_some() {
        at.field("tunnel")
            .error("contradicts proxyProtocol: keep one of them");
    }
    let mut ports = BTreeMap::new();
    let list = at.field("portLevelSettings");
    for (index, item) in port_level_settings.into_iter().enumerate() {
        let at = list.index(index);
        let pb::traffic_policy::PortTrafficPolicy {
            port,
            load_balancer,
            connection_pool: pool,
            outlier_detection,
            tls,
        } = item;
        let settings = settings_of(load_balancer, pool, outlier_detection, tls, at);
        let Some(pb::PortSelector { number }) = port else {
            at.field("port")
                .error("there is no port: write port.number");
            continue;
        };
        let place = at.field("port");
        let Some(number) = place.field("number").port(number) else {
            continue;
        };
        if ports.insert(number, settings).is_some() {
            place.error(format_args!("port {number} has settings twice: merge them"));
        }
    }
    let settings = PolicySettings {
        retry_budget: retry_budget
            .and_then(|message| retry_budget_of(message, at.field("retryBudget"))),
        proxy_protocol: proxy_protocol
            .and_then(|message| proxy_protocol_of(message, at.field("proxyProtocol"))),
        tunnel: tunnel.and_then(|message| tunnel_of(message, at.field("tunnel"))),
        ..settings_of(load_balancer, pool, outlier_detection, tls, at)
    };
    TrafficPolicy { settings, ports }
}

fn settings_of(
    balancer: Option<pb::LoadBalancerSettings>,
    pool: Option<pb::ConnectionPoolSettings>,
    outlier_detection: Option<pb::OutlierDetection>,
    tls: Option<pb::ClientTlsSettings>,
    at: At<'_>,
) -> PolicySettings {
    PolicySettings {
        load_balancer: balancer.map(|message| load_balancing(message, at.field("loadBalancer"))),
        connection_pool: pool.map(|message| connection_pool(message, at.field("connectionPool"))),
        outlier_detection: outlier_detection
            .map(|message| outlier_detection_of(message, at.field("outlierDetection"))),
        tls: tls.and_then(|message| client_tls_of(message, at.field("tls"))),
        ..PolicySettings::default()
    }
}

fn retry_budget_of(message: pb::traffic_policy::RetryBudget, at: At<'_>) -> Option<RetryBudget> {
    let pb::traffic_policy::RetryBudget {
        percent,
        min_retry_concurrency,
        budget_interval,
    } = message;
    let share = percent.map_or(20.0, |percent| percent.value);
    let interval = at
        .field("budgetInterval")
        .duration(budget_interval, Duration::ZERO);
    Some(RetryBudget {
        share: at.field("percent").percent(share)?,
        min_concurrency: if min_retry_concurrency == 0 {
            3
        } else {
            min_retry_concurrency
        },
        interval,
    })
}

fn proxy_protocol_of(
    message: pb::traffic_policy::ProxyProtocol,
    at: At<'_>,
) -> Option<ProxyProtocol> {
    use pb::traffic_policy::proxy_protocol::Version;
    let pb::traffic_policy::ProxyProtocol { version } = message;
    Some(match at.field("version").ok(Version::try_from(version))? {
        Version::V1 => ProxyProtocol::V1,
        Version::V2 => ProxyProtocol::V2,
    })
}

fn tunnel_of(message: pb::traffic_policy::TunnelSettings, at: At<'_>) -> Option<Tunnel> {
    let pb::traffic_policy::TunnelSettings {
        protocol,
        target_host,
        target_port,
    } = message;
    if !["", "CONNECT", "POST"].contains(&protocol.as_str()) {
        at.field("protocol").error(format_args!(
            "\"{protocol}\" is unknown: use CONNECT or POST"
        ));
    }
    let known = target_host.parse::<std::net::IpAddr>().is_ok()
        || Hostname::parse(&target_host).is_ok_and(|host| !host.is_wildcard());
    if !known {
        at.field("targetHost").error(format_args!(
            "\"{target_host}\" is neither a host name nor an IP address"
        ));
    }
    let target_port = at.field("targetPort").port(target_port)?;
    known.then(|| Tunnel {
        post: protocol == "POST",
        target_host: target_host.into(),
        target_port,
    })
}

pub(super) fn client_tls_of(message: pb::ClientTlsSettings, at: At<'_>) -> Option<ClientTls> {
    use pb::client_tls_settings::TlSmode as Mode;
    let pb::ClientTlsSettings {
        mode,
        client_certificate,
        private_key,
        ca_certificates,
        credential_name,
        subject_alt_names,
        sni,
        insecure_skip_verify,
        ca_crl,
    } = message;
    let mode = at.field("mode").ok(Mode::try_from(mode))?;
    let credential = match credential_name.as_str() {
        "" => None,
        name => Some(at.field("credentialName").ok(CredentialName::parse(name))?),
    };
    let own = [
        ("clientCertificate", &client_certificate),
        ("privateKey", &private_key),
    ];
    for (field, value) in own {
        match mode {
            Mode::Mutual if value.is_empty() && credential.is_none() => {
                at.field(field)
                    .error("is missing: mode MUTUAL needs the path of a PEM file");
            }
            Mode::Disable | Mode::Simple | Mode::IstioMutual if !value.is_empty() => {
                at.field(field)
                    .error("is not used by this mode: use mode MUTUAL, or remove it");
            }
            _ => {}
        }
    }
    if mode == Mode::IstioMutual && !ca_certificates.is_empty() {
        at.field("caCertificates")
            .error("is not used by this mode: authorities are those of the mesh; remove it");
    }
    if mode == Mode::IstioMutual && insecure_skip_verify.is_some_and(|flag| flag.value) {
        at.field("insecureSkipVerify")
            .error("is not used by this mode: servers of the mesh are always verified");
    }
    if credential.is_some() {
        let files = [
            ("clientCertificate", &client_certificate),
            ("privateKey", &private_key),
            ("caCertificates", &ca_certificates),
            ("caCrl", &ca_crl),
        ];
        for (field, _) in files.iter().filter(|(_, value)| !value.is_empty()) {
            at.field(field)
                .error("is not used with credentialName: remove one of them");
        }
    }
    for (index, name) in subject_alt_names.iter().enumerate() {
        if name.is_empty() {
            at.field("subjectAltNames")
                .index(index)
                .error("the name is empty: write one, or remove the entry");
        }
    }
    let no_roots = ca_certificates.is_empty() || mode == Mode::Disable;
    if !ca_crl.is_empty() && credential.is_none() && no_roots {
        at.field("caCrl")
            .error("has no effect without caCertificates: write both");
    }
    let mode = match (mode, credential) {
        (Mode::Disable, None) => ClientTlsMode::Disable,
        (Mode::Disable, Some(_)) => {
            at.field("credentialName")
                .error("is not used by mode DISABLE: use SIMPLE or MUTUAL, or remove it");
            return None;
        }
        (Mode::Simple | Mode::Mutual, Some(name)) => ClientTlsMode::Credential {
            name,
            mutual: mode == Mode::Mutual,
        },
        (Mode::Simple, None) => ClientTlsMode::Simple,
        (Mode::Mutual, None) => ClientTlsMode::Mutual(KeyPairFiles {
            certificate: client_certificate.into(),
            private_key: private_key.into(),
        }),
        (Mode::IstioMutual, None) => ClientTlsMode::IstioMutual,
        (Mode::IstioMutual, Some(_)) => {
            at.field("credentialName")
                .error("is not used by mode ISTIO_MUTUAL: use SIMPLE or MUTUAL, or remove it");
            return None;
        }
    };
    Some(ClientTls {
        mode,
        ca_file: optional(ca_certificates),
        subject_alt_names: subject_alt_names.into_iter().map(Into::into).collect(),
        sni: optional(sni),
        insecure_skip_verify: insecure_skip_verify.is_some_and(|flag| flag.value),
        crl_file: optional(ca_crl),
    })
}
