//! `DestinationRule` → [`DestinationRule`]. Rules of validity follow Istio's
//! `ValidateDestinationRule`.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_model::{
    ClientTls, ClientTlsMode, ConnectionPool, DestinationRule, H2Upgrade, Hostname, HttpPool,
    KeyPairFiles, LoadBalancer, OutlierDetection, PolicySettings, Subset, TcpKeepalive, TcpPool,
    TrafficPolicy,
};

use super::message as pb;
use crate::check::{At, Context, optional};

const MILLISECOND: Duration = Duration::from_millis(1);

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
    at.field("workloadSelector")
        .refuse(workload_selector.is_some());
    let export_to = at.field("exportTo").export_to(
        &export_to,
        context.namespace(),
        context.settings.default_destination_rule_export_to.as_ref(),
    );
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
    Some(DestinationRule {
        meta: context.meta(),
        host,
        export_to,
        policy,
        subsets: found,
    })
}

fn subset_of(message: pb::Subset, at: At<'_>) -> Subset {
    let pb::Subset {
        name,
        labels,
        traffic_policy,
    } = message;
    // The name becomes part of a cluster's name, `outbound|port|subset|host`.
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 253 || !name.bytes().all(fits) {
        at.field("name").error(format_args!(
            "\"{name}\" is no subset name: use letters, digits, '-', '_' and '.'"
        ));
    }
    Subset {
        name: name.into(),
        labels: at.field("labels").labels(labels),
        policy: traffic_policy_of(traffic_policy, at.field("trafficPolicy")),
    }
}

fn traffic_policy_of(message: Option<pb::TrafficPolicy>, at: At<'_>) -> TrafficPolicy {
    let Some(message) = message else {
        return TrafficPolicy::default();
    };
    let pb::TrafficPolicy {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
        port_level_settings,
        tunnel,
        proxy_protocol,
        retry_budget,
    } = message;
    at.field("tunnel").refuse(tunnel.is_some());
    at.field("proxyProtocol").refuse(proxy_protocol.is_some());
    at.field("retryBudget").refuse(retry_budget.is_some());
    let mut ports = BTreeMap::new();
    let list = at.field("portLevelSettings");
    for (index, item) in port_level_settings.into_iter().enumerate() {
        let at = list.index(index);
        let pb::traffic_policy::PortTrafficPolicy {
            port,
            load_balancer,
            connection_pool,
            outlier_detection,
            tls,
        } = item;
        let settings = settings_of(load_balancer, connection_pool, outlier_detection, tls, at);
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
    let settings = settings_of(load_balancer, connection_pool, outlier_detection, tls, at);
    TrafficPolicy { settings, ports }
}

fn settings_of(
    load_balancer: Option<pb::LoadBalancerSettings>,
    connection_pool: Option<pb::ConnectionPoolSettings>,
    outlier_detection: Option<pb::OutlierDetection>,
    tls: Option<pb::ClientTlsSettings>,
    at: At<'_>,
) -> PolicySettings {
    PolicySettings {
        load_balancer: load_balancer
            .and_then(|message| load_balancer_of(message, at.field("loadBalancer"))),
        connection_pool: connection_pool
            .map(|message| connection_pool_of(message, at.field("connectionPool"))),
        outlier_detection: outlier_detection
            .map(|message| outlier_detection_of(message, at.field("outlierDetection"))),
        tls: tls.and_then(|message| client_tls_of(message, at.field("tls"))),
    }
}

fn load_balancer_of(message: pb::LoadBalancerSettings, at: At<'_>) -> Option<LoadBalancer> {
    use pb::load_balancer_settings::{LbPolicy, SimpleLb};
    let pb::LoadBalancerSettings {
        locality_lb_setting,
        zone_aware_lb_setting,
        warmup_duration_secs,
        warmup,
        lb_policy,
    } = message;
    at.field("localityLbSetting")
        .refuse(locality_lb_setting.is_some());
    at.field("zoneAwareLbSetting")
        .refuse(zone_aware_lb_setting.is_some());
    at.field("warmupDurationSecs")
        .refuse(warmup_duration_secs.is_some());
    at.field("warmup").refuse(warmup.is_some());
    let simple = match lb_policy? {
        LbPolicy::Simple(simple) => simple,
        LbPolicy::ConsistentHash(_) => {
            at.field("consistentHash").refuse(true);
            return None;
        }
    };
    match at.field("simple").ok(SimpleLb::try_from(simple))? {
        SimpleLb::Unspecified => None,
        SimpleLb::LeastConn | SimpleLb::LeastRequest => Some(LoadBalancer::LeastRequest),
        SimpleLb::Random => Some(LoadBalancer::Random),
        SimpleLb::Passthrough => Some(LoadBalancer::Passthrough),
        SimpleLb::RoundRobin => Some(LoadBalancer::RoundRobin),
    }
}

fn connection_pool_of(message: pb::ConnectionPoolSettings, at: At<'_>) -> ConnectionPool {
    let pb::ConnectionPoolSettings { tcp, http } = message;
    if tcp.is_none() && http.is_none() {
        at.error("sets nothing: write tcp or http");
    }
    ConnectionPool {
        tcp: tcp
            .map(|message| tcp_pool(message, at.field("tcp")))
            .unwrap_or_default(),
        http: http
            .map(|message| http_pool(message, at.field("http")))
            .unwrap_or_default(),
    }
}

fn tcp_pool(message: pb::connection_pool_settings::TcpSettings, at: At<'_>) -> TcpPool {
    let pb::connection_pool_settings::TcpSettings {
        max_connections,
        connect_timeout,
        tcp_keepalive,
        max_connection_duration,
        idle_timeout,
    } = message;
    let keepalive = tcp_keepalive.map(|message| {
        let pb::connection_pool_settings::tcp_settings::TcpKeepalive {
            probes,
            time,
            interval,
        } = message;
        let at = at.field("tcpKeepalive");
        let second = Duration::from_secs(1);
        TcpKeepalive {
            probes: (probes != 0).then_some(probes),
            time: at.field("time").duration(time, second),
            interval: at.field("interval").duration(interval, second),
        }
    });
    TcpPool {
        max_connections: at.field("maxConnections").count(max_connections),
        connect_timeout: at
            .field("connectTimeout")
            .duration(connect_timeout, MILLISECOND),
        max_connection_duration: at
            .field("maxConnectionDuration")
            .duration(max_connection_duration, MILLISECOND),
        idle_timeout: at
            .field("idleTimeout")
            .duration(idle_timeout, Duration::ZERO),
        keepalive,
    }
}

fn http_pool(message: pb::connection_pool_settings::HttpSettings, at: At<'_>) -> HttpPool {
    use pb::connection_pool_settings::http_settings::H2UpgradePolicy;
    let pb::connection_pool_settings::HttpSettings {
        http1_max_pending_requests,
        http2_max_requests,
        max_requests_per_connection,
        max_retries,
        idle_timeout,
        h2_upgrade_policy,
        use_client_protocol,
        max_concurrent_streams,
        http2_keep_alive,
    } = message;
    at.field("http2KeepAlive")
        .refuse(http2_keep_alive.is_some());
    let h2_upgrade = match at
        .field("h2UpgradePolicy")
        .ok(H2UpgradePolicy::try_from(h2_upgrade_policy))
    {
        Some(H2UpgradePolicy::DoNotUpgrade) => H2Upgrade::Never,
        Some(H2UpgradePolicy::Upgrade) => H2Upgrade::Upgrade,
        Some(H2UpgradePolicy::Default) | None => H2Upgrade::Default,
    };
    if h2_upgrade == H2Upgrade::Upgrade && use_client_protocol {
        at.field("useClientProtocol")
            .error("contradicts h2UpgradePolicy UPGRADE: keep one of them");
    }
    HttpPool {
        max_pending_requests: at
            .field("http1MaxPendingRequests")
            .count(http1_max_pending_requests),
        max_requests: at.field("http2MaxRequests").count(http2_max_requests),
        max_requests_per_connection: at
            .field("maxRequestsPerConnection")
            .count(max_requests_per_connection),
        max_retries: at.field("maxRetries").count(max_retries),
        idle_timeout: at
            .field("idleTimeout")
            .duration(idle_timeout, Duration::ZERO),
        h2_upgrade,
        use_client_protocol,
        max_concurrent_streams: at
            .field("maxConcurrentStreams")
            .count(max_concurrent_streams),
    }
}

fn outlier_detection_of(message: pb::OutlierDetection, at: At<'_>) -> OutlierDetection {
    #[allow(deprecated)]
    let pb::OutlierDetection {
        consecutive_errors,
        split_external_local_origin_errors,
        consecutive_local_origin_failures,
        consecutive_gateway_errors,
        consecutive_5xx_errors,
        interval,
        base_ejection_time,
        max_ejection_percent,
        min_health_percent,
        outlier_detection_http_error_codes,
    } = message;
    if consecutive_errors != 0 {
        at.field("consecutiveErrors")
            .error("has no effect since Istio 1.7: use consecutive5xxErrors");
    }
    at.field("outlierDetectionHttpErrorCodes")
        .refuse(!outlier_detection_http_error_codes.is_empty());
    if consecutive_local_origin_failures.is_some() && !split_external_local_origin_errors {
        at.field("consecutiveLocalOriginFailures")
            .error("counts only if splitExternalLocalOriginErrors is true: set it, or remove this");
    }
    let percent = |value: i32, at: At<'_>| match at.count(value) {
        Some(percent) if percent > 100 => {
            at.error(format_args!("{percent} is no percentage: use 0 to 100"));
            None
        }
        percent => percent,
    };
    OutlierDetection {
        consecutive_5xx: consecutive_5xx_errors.map(|count| count.value),
        consecutive_gateway: consecutive_gateway_errors.map(|count| count.value),
        consecutive_local_origin: consecutive_local_origin_failures.map(|count| count.value),
        split_local_origin: split_external_local_origin_errors,
        interval: at.field("interval").duration(interval, MILLISECOND),
        base_ejection_time: at
            .field("baseEjectionTime")
            .duration(base_ejection_time, MILLISECOND),
        max_ejection_percent: percent(max_ejection_percent, at.field("maxEjectionPercent")),
        min_health_percent: percent(min_health_percent, at.field("minHealthPercent")),
    }
}

fn client_tls_of(message: pb::ClientTlsSettings, at: At<'_>) -> Option<ClientTls> {
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
    at.field("credentialName")
        .refuse(!credential_name.is_empty());
    at.field("caCrl").refuse(!ca_crl.is_empty());
    let mode = at.field("mode").ok(Mode::try_from(mode))?;
    let own = [
        ("clientCertificate", &client_certificate),
        ("privateKey", &private_key),
    ];
    for (field, value) in own {
        match mode {
            Mode::Mutual if value.is_empty() && credential_name.is_empty() => {
                at.field(field)
                    .error("is missing: mode MUTUAL needs the path of a PEM file");
            }
            Mode::Disable | Mode::Simple if !value.is_empty() => {
                at.field(field)
                    .error("is not used by this mode: use mode MUTUAL, or remove it");
            }
            _ => {}
        }
    }
    let mode = match mode {
        Mode::Disable => ClientTlsMode::Disable,
        Mode::Simple => ClientTlsMode::Simple,
        Mode::Mutual => ClientTlsMode::Mutual(KeyPairFiles {
            certificate: client_certificate.into(),
            private_key: private_key.into(),
        }),
        Mode::IstioMutual => {
            at.field("mode")
                .error("ISTIO_MUTUAL is not supported yet (see docs/compatibility.md)");
            return None;
        }
    };
    Some(ClientTls {
        mode,
        ca_file: optional(ca_certificates),
        subject_alt_names: subject_alt_names.into_iter().map(Into::into).collect(),
        sni: optional(sni),
        insecure_skip_verify: insecure_skip_verify.is_some_and(|flag| flag.value),
    })
}
