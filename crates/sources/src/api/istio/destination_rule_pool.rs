//! `connectionPool` and `outlierDetection` of a `DestinationRule`.

use std::time::Duration;

use weft_model::{
    ConnectionPool, H2Upgrade, Http2Keepalive, HttpPool, OutlierDetection, TcpKeepalive, TcpPool,
};

use super::message as pb;
use crate::check::At;

const MILLISECOND: Duration = Duration::from_millis(1);

/// A `connectionPool`, which a `MeshConfig` has, too.
pub(super) fn connection_pool(message: pb::ConnectionPoolSettings, at: At<'_>) -> ConnectionPool {
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

/// A `tcpKeepalive`, which a `MeshConfig` has, too.
pub(super) fn probing(
    message: pb::connection_pool_settings::tcp_settings::TcpKeepalive,
    at: At<'_>,
) -> TcpKeepalive {
    let pb::connection_pool_settings::tcp_settings::TcpKeepalive {
        probes,
        time,
        interval,
    } = message;
    let second = Duration::from_secs(1);
    TcpKeepalive {
        probes: (probes != 0).then_some(probes),
        time: at.field("time").duration(time, second),
        interval: at.field("interval").duration(interval, second),
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
    let keepalive = tcp_keepalive.map(|message| probing(message, at.field("tcpKeepalive")));
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
        http2_keepalive: http2_keep_alive
            .and_then(|message| keepalive(message, at.field("http2KeepAlive"))),
    }
}

/// An `outlierDetection`, which a `MeshConfig` has, too.
pub(super) fn outlier_detection(message: pb::OutlierDetection, at: At<'_>) -> OutlierDetection {
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
        http_error_codes: statuses(
            &outlier_detection_http_error_codes,
            at.field("outlierDetectionHttpErrorCodes"),
        ),
    }
}

fn keepalive(
    message: pb::connection_pool_settings::http_settings::ConnectionKeepalive,
    at: At<'_>,
) -> Option<Http2Keepalive> {
    let pb::connection_pool_settings::http_settings::ConnectionKeepalive { interval, timeout } =
        message;
    let needed = |value: Option<weft_proto::Duration>, at: At<'_>| {
        if value.is_none() {
            at.error("is missing: write interval and timeout");
        }
        at.duration(value, MILLISECOND)
    };
    let interval = needed(interval, at.field("interval"));
    let timeout = needed(timeout, at.field("timeout"));
    Some(Http2Keepalive {
        interval: interval?,
        timeout: timeout?,
    })
}

fn statuses(codes: &[u32], at: At<'_>) -> Vec<u16> {
    let mut found: Vec<u16> = Vec::new();
    if codes.len() > 500 {
        at.error("names more statuses than there are: name each once");
        return found;
    }
    for (index, code) in codes.iter().enumerate() {
        let status = u16::try_from(*code).ok().filter(|s| (100..600).contains(s));
        let at = at.index(index);
        match status {
            None => at.error(format_args!("{code} is no HTTP status: use 100 to 599")),
            Some(status) if found.contains(&status) => {
                at.error(format_args!("{code} is there twice: remove one"));
            }
            Some(status) => found.push(status),
        }
    }
    found
}
