//! `/clusters`, and the endpoints of `/config_dump`: plain data that upstream fills, and its
//! two printed forms. Knows no pool and no balancer.

use std::fmt::{Display, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use weft_net::tls::ContextCertificates;
use weft_upstream::HostAddress;

use super::request::{AdminRequest, Reply};
use super::state::AdminState;

/// Who knows the clusters of the process, summed over workers.
pub trait ClusterDirectory: Send + Sync {
    /// Every cluster, warming ones left out. Called on an admin thread; may take its time.
    fn clusters(&self) -> Vec<ClusterStatus>;

    /// The certificates of their TLS contexts, one entry a context. Called as the other is.
    fn certificates(&self) -> Vec<Arc<ContextCertificates>>;
}

/// One cluster as `/clusters` shows it.
#[derive(Debug, Clone, Default)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub name: Arc<str>,
    /// `alt_stat_name`, or the name.
    pub observability_name: Arc<str>,
    /// From CDS, not from the bootstrap.
    pub added_via_api: bool,
    /// The EDS service name when it is configured.
    pub eds_service_name: Option<Arc<str>>,
    /// Circuit breakers of priority DEFAULT.
    pub default_priority: BreakerLimits,
    /// Circuit breakers of priority HIGH.
    pub high_priority: BreakerLimits,
    /// Present when outlier detection is configured.
    pub outlier: Option<OutlierStatus>,
    /// Percent; 140 unless configured.
    pub overprovisioning_factor: u32,
    /// Hosts by priority.
    pub hosts: Vec<HostStatus>,
}

/// The limits of one priority.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct BreakerLimits {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
}

impl Default for BreakerLimits {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
        }
    }
}

/// Success rates of the last outlier interval in percent; `None` without enough traffic.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct OutlierStatus {
    pub success_rate_average: Option<f64>,
    pub success_rate_ejection_threshold: Option<f64>,
    pub local_origin_success_rate_average: Option<f64>,
    pub local_origin_success_rate_ejection_threshold: Option<f64>,
}

/// One host.
#[derive(Debug, Clone)]
pub struct HostStatus {
    /// Resolved address.
    pub address: HostAddress,
    /// Configured hostname, or empty.
    pub hostname: Arc<str>,
    /// Counts of this host.
    pub stats: HostStats,
    /// As EDS or the bootstrap says.
    pub health: HostHealth,
    /// Ejected by outlier detection now.
    pub ejected: bool,
    /// Weight within its locality.
    pub weight: u32,
    /// Where it stands.
    pub locality: Locality,
    /// Weight of its locality; 0 when not configured.
    pub locality_weight: u32,
    /// 0 is the highest.
    pub priority: u32,
    /// Metadata `envoy.lb` / `canary`.
    pub canary: bool,
    /// Percent of the last outlier interval.
    pub success_rate: Option<f64>,
    /// The same for locally originated events.
    pub local_origin_success_rate: Option<f64>,
}

/// A locality; empty parts are not configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub sub_zone: Arc<str>,
}

/// EDS health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum HostHealth {
    #[default]
    Healthy,
    Degraded,
    Unhealthy,
    Draining,
}

/// Envoy's counters and gauges of a host.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct HostStats {
    pub cx_active: u64,
    pub cx_connect_fail: u64,
    pub cx_total: u64,
    pub rq_active: u64,
    pub rq_error: u64,
    pub rq_pending_active: u64,
    pub rq_success: u64,
    pub rq_timeout: u64,
    pub rq_total: u64,
}

pub(super) fn handle(state: &AdminState, request: &AdminRequest) -> Reply {
    let filter = match request.regex("filter") {
        Ok(filter) => filter,
        Err(reply) => return reply,
    };
    let mut clusters = state.clusters.clusters();
    if let Some(filter) = filter {
        clusters.retain(|cluster| filter.is_match(&cluster.name));
    }
    if request.param("format") == Some("json") {
        let all: Vec<_> = clusters.iter().map(json_cluster).collect();
        return Reply::json(&compact([("cluster_statuses", all.into())]));
    }
    let mut out = String::new();
    for cluster in &clusters {
        text_cluster(&mut out, cluster);
    }
    Reply::text(out)
}

fn text_cluster(out: &mut String, cluster: &ClusterStatus) {
    let name = &*cluster.name;
    let mut line = |key: &str, value: &dyn Display| {
        let _ = writeln!(out, "{name}::{key}::{value}");
    };
    line("observability_name", &cluster.observability_name);
    if let Some(outlier) = &cluster.outlier {
        for (key, rate) in [
            ("success_rate_average", outlier.success_rate_average),
            (
                "success_rate_ejection_threshold",
                outlier.success_rate_ejection_threshold,
            ),
            (
                "local_origin_success_rate_average",
                outlier.local_origin_success_rate_average,
            ),
            (
                "local_origin_success_rate_ejection_threshold",
                outlier.local_origin_success_rate_ejection_threshold,
            ),
        ] {
            line(&format!("outlier::{key}"), &rate.unwrap_or(-1.0));
        }
    }
    for (priority, limits) in [
        ("default_priority", &cluster.default_priority),
        ("high_priority", &cluster.high_priority),
    ] {
        for (key, limit) in limits.list() {
            line(&format!("{priority}::{key}"), &limit);
        }
    }
    line("added_via_api", &cluster.added_via_api);
    if let Some(service) = &cluster.eds_service_name {
        line("eds_service_name", service);
    }
    for host in &cluster.hosts {
        text_host(out, name, host);
    }
}

fn text_host(out: &mut String, cluster: &str, host: &HostStatus) {
    let address = &host.address;
    let mut line = |key: &str, value: &dyn Display| {
        let _ = writeln!(out, "{cluster}::{address}::{key}::{value}");
    };
    for (key, value) in host.stats.list() {
        line(key, &value);
    }
    line("hostname", &host.hostname);
    line("health_flags", &host.flags());
    line("weight", &host.weight);
    line("region", &host.locality.region);
    line("zone", &host.locality.zone);
    line("sub_zone", &host.locality.sub_zone);
    line("canary", &host.canary);
    line("priority", &host.priority);
    line("success_rate", &host.success_rate.unwrap_or(-1.0));
    let local = host.local_origin_success_rate.unwrap_or(-1.0);
    line("local_origin_success_rate", &local);
}

impl BreakerLimits {
    fn list(&self) -> [(&'static str, u32); 4] {
        [
            ("max_connections", self.max_connections),
            ("max_pending_requests", self.max_pending_requests),
            ("max_requests", self.max_requests),
            ("max_retries", self.max_retries),
        ]
    }
}

impl HostStats {
    fn list(&self) -> [(&'static str, u64); 9] {
        [
            ("cx_active", self.cx_active),
            ("cx_connect_fail", self.cx_connect_fail),
            ("cx_total", self.cx_total),
            ("rq_active", self.rq_active),
            ("rq_error", self.rq_error),
            ("rq_pending_active", self.rq_pending_active),
            ("rq_success", self.rq_success),
            ("rq_timeout", self.rq_timeout),
            ("rq_total", self.rq_total),
        ]
    }
}

impl HostStatus {
    fn flags(&self) -> String {
        let ejected = if self.ejected {
            "/failed_outlier_check"
        } else {
            ""
        };
        let eds = match self.health {
            HostHealth::Healthy if !self.ejected => "healthy",
            HostHealth::Healthy => "",
            HostHealth::Degraded => "/degraded_eds_health",
            HostHealth::Unhealthy => "/failed_eds_health",
            HostHealth::Draining => "/eds_status_draining",
        };
        format!("{ejected}{eds}")
    }

    /// What the balancer thinks of it, as in `/config_dump?include_eds`.
    fn coarse_health(&self) -> &'static str {
        match self.health {
            _ if self.ejected => "UNHEALTHY",
            HostHealth::Healthy => "HEALTHY",
            HostHealth::Degraded => "DEGRADED",
            HostHealth::Unhealthy | HostHealth::Draining => "UNHEALTHY",
        }
    }
}

/// An object without the fields that proto-JSON leaves out: empty, zero, false.
pub(super) fn compact<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    };
    let fields = fields.into_iter().filter(|(_, value)| set(value));
    let fields: Map<_, _> = fields.map(|(n, v)| (n.to_owned(), v)).collect();
    Value::Object(fields)
}

/// A host's address in the form of Envoy's messages.
fn json_host_address(address: &HostAddress) -> Value {
    match address {
        HostAddress::Ip(address) => json_address(*address),
        HostAddress::Pipe(path) => json!({"pipe": {"path": &**path}}),
    }
}

pub(super) fn json_address(address: SocketAddr) -> Value {
    let (ip, port) = (address.ip().to_string(), address.port());
    json!({"socket_address": {"address": ip, "port_value": port}})
}

fn json_rate(rate: Option<f64>) -> Value {
    rate.map_or(Value::Null, |rate| json!({"value": rate}))
}

fn json_locality(locality: &Locality) -> Value {
    compact([
        ("region", (*locality.region).into()),
        ("zone", (*locality.zone).into()),
        ("sub_zone", (*locality.sub_zone).into()),
    ])
}

fn json_cluster(cluster: &ClusterStatus) -> Value {
    let outlier = cluster.outlier.unwrap_or_default();
    let limits = |priority: &str, limits: &BreakerLimits| {
        let [connections, pending, requests, retries] =
            limits.list().map(|(key, limit)| (key, limit.into()));
        // The limits are wrapped numbers: a zero is printed.
        let mut object = compact([("priority", priority.into())]);
        if let Some(fields) = object.as_object_mut() {
            for (key, limit) in [connections, pending, requests, retries] {
                fields.insert(key.to_owned(), limit);
            }
        }
        object
    };
    let thresholds = vec![
        limits("", &cluster.default_priority),
        limits("HIGH", &cluster.high_priority),
    ];
    let hosts: Vec<_> = cluster.hosts.iter().map(json_host).collect();
    compact([
        ("name", (*cluster.name).into()),
        ("added_via_api", cluster.added_via_api.into()),
        (
            "success_rate_ejection_threshold",
            json_rate(outlier.success_rate_ejection_threshold),
        ),
        ("host_statuses", hosts.into()),
        (
            "local_origin_success_rate_ejection_threshold",
            json_rate(outlier.local_origin_success_rate_ejection_threshold),
        ),
        ("circuit_breakers", json!({"thresholds": thresholds})),
        ("observability_name", (*cluster.observability_name).into()),
        (
            "eds_service_name",
            cluster.eds_service_name.as_deref().into(),
        ),
    ])
}

fn json_host(host: &HostStatus) -> Value {
    let gauge = |key: &str| key.ends_with("_active");
    let list = host.stats.list();
    let counters = list.iter().filter(|(key, _)| !gauge(key));
    let gauges = list.iter().filter(|(key, _)| gauge(key));
    let stats: Vec<_> = counters
        .chain(gauges)
        .map(|(key, value)| {
            let kind = if gauge(key) { "GAUGE" } else { "" };
            let value = if *value == 0 {
                String::new()
            } else {
                value.to_string()
            };
            compact([
                ("type", kind.into()),
                ("value", value.into()),
                ("name", (*key).into()),
            ])
        })
        .collect();
    let eds = match host.health {
        HostHealth::Healthy => "HEALTHY",
        HostHealth::Degraded => "DEGRADED",
        HostHealth::Unhealthy => "UNHEALTHY",
        HostHealth::Draining => "DRAINING",
    };
    let health = compact([
        ("failed_outlier_check", host.ejected.into()),
        ("eds_health_status", eds.into()),
    ]);
    compact([
        ("address", json_host_address(&host.address)),
        ("stats", stats.into()),
        ("health_status", health),
        ("success_rate", json_rate(host.success_rate)),
        ("weight", host.weight.into()),
        ("hostname", (*host.hostname).into()),
        ("priority", host.priority.into()),
        (
            "local_origin_success_rate",
            json_rate(host.local_origin_success_rate),
        ),
        ("locality", json_locality(&host.locality)),
    ])
}

/// The `ClusterLoadAssignment` that Envoy shows for a cluster: rebuilt from its hosts.
pub(super) fn json_load_assignment(cluster: &ClusterStatus) -> Value {
    let name = cluster.eds_service_name.as_ref().unwrap_or(&cluster.name);
    let mut localities: Vec<(u32, &Locality, u32, Vec<Value>)> = Vec::new();
    for host in &cluster.hosts {
        let mut endpoint = Map::new();
        endpoint.insert("address".to_owned(), json_host_address(&host.address));
        endpoint.insert("health_check_config".to_owned(), json!({}));
        if !host.hostname.is_empty() {
            endpoint.insert("hostname".to_owned(), (*host.hostname).into());
        }
        let endpoint = json!({
            "endpoint": endpoint,
            "health_status": host.coarse_health(),
            "load_balancing_weight": host.weight,
        });
        let group = localities
            .iter_mut()
            .rev()
            .find(|(priority, locality, ..)| {
                *priority == host.priority && *locality == &host.locality
            });
        match group {
            Some((.., endpoints)) => endpoints.push(endpoint),
            None => localities.push((
                host.priority,
                &host.locality,
                host.locality_weight,
                vec![endpoint],
            )),
        }
    }
    let endpoints: Vec<Value> = localities
        .into_iter()
        .map(|(priority, locality, weight, endpoints)| {
            let mut group = json!({
                "locality": json_locality(locality),
                "lb_endpoints": endpoints,
                "load_balancing_weight": weight,
            });
            if priority > 0 {
                group["priority"] = priority.into();
            }
            group
        })
        .collect();
    let policy = json!({"overprovisioning_factor": cluster.overprovisioning_factor});
    compact([
        (
            "@type",
            "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment".into(),
        ),
        ("cluster_name", (**name).into()),
        ("endpoints", endpoints.into()),
        ("policy", policy),
    ])
}
