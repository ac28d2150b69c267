//! The clusters of the process in the admin endpoint's terms.

use std::sync::Arc;

use weft_config::Discovery;
use weft_config::cluster::Thresholds;
use weft_net::tls::ContextCertificates;
use weft_upstream::{ClusterStore, Placed};

use crate::admin::{
    BreakerLimits, ClusterDirectory, ClusterStatus, HostHealth, HostStats, HostStatus, Locality,
    OutlierStatus,
};

/// Shows what a store holds.
#[derive(Debug)]
pub(super) struct Directory(pub(super) Arc<ClusterStore>);

impl ClusterDirectory for Directory {
    fn clusters(&self) -> Vec<ClusterStatus> {
        self.0.statuses().iter().map(status).collect()
    }

    fn certificates(&self) -> Vec<Arc<ContextCertificates>> {
        self.0.certificates()
    }
}

fn status(cluster: &weft_upstream::ClusterStatus) -> ClusterStatus {
    let config = &cluster.config;
    let rates = cluster.success_rates.as_ref();
    ClusterStatus {
        name: Arc::clone(&config.name),
        observability_name: Arc::clone(config.alt_stat_name.as_ref().unwrap_or(&config.name)),
        added_via_api: cluster.added_via_api,
        eds_service_name: match &config.discovery {
            Discovery::Eds { service_name } if *service_name != config.name => {
                Some(Arc::clone(service_name))
            }
            _ => None,
        },
        default_priority: limits(&config.breakers.default),
        high_priority: limits(&config.breakers.high),
        outlier: rates.map(|rates| OutlierStatus {
            success_rate_average: rates.average,
            success_rate_ejection_threshold: rates.threshold,
            local_origin_success_rate_average: rates.local_average,
            local_origin_success_rate_ejection_threshold: rates.local_threshold,
        }),
        overprovisioning_factor: cluster
            .hosts
            .assignment()
            .map_or(140, |a| a.overprovisioning_factor),
        hosts: cluster.hosts.hosts().iter().map(host).collect(),
    }
}

fn limits(thresholds: &Thresholds) -> BreakerLimits {
    BreakerLimits {
        max_connections: thresholds.max_connections,
        max_pending_requests: thresholds.max_pending_requests,
        max_requests: thresholds.max_requests,
        max_retries: thresholds.max_retries,
    }
}

fn host(placed: &Placed) -> HostStatus {
    let shared = &placed.shared;
    let stats = shared.stats();
    let endpoint = placed.endpoint();
    let locality = &placed.locality.locality;
    HostStatus {
        address: shared.address().clone(),
        hostname: Arc::clone(shared.hostname()),
        stats: HostStats {
            cx_active: stats.cx_active,
            cx_connect_fail: stats.cx_connect_fail,
            cx_total: stats.cx_total,
            rq_active: stats.rq_active,
            rq_error: stats.rq_error,
            rq_pending_active: 0,
            rq_success: stats.rq_success,
            rq_timeout: stats.rq_timeout,
            rq_total: stats.rq_total,
        },
        health: match endpoint.map(|endpoint| endpoint.health) {
            Some(weft_config::Health::Degraded) => HostHealth::Degraded,
            Some(weft_config::Health::Unhealthy) => HostHealth::Unhealthy,
            Some(weft_config::Health::Draining) => HostHealth::Draining,
            Some(weft_config::Health::Healthy) | None => HostHealth::Healthy,
        },
        ejected: shared.is_ejected(),
        weight: placed.weight(),
        locality: Locality {
            region: Arc::clone(&locality.region),
            zone: Arc::clone(&locality.zone),
            sub_zone: Arc::clone(&locality.sub_zone),
        },
        locality_weight: placed.locality.weight.unwrap_or(0),
        priority: placed.priority,
        canary: false,
        success_rate: None,
        local_origin_success_rate: None,
    }
}
