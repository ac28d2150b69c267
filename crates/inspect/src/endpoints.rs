//! Endpoints in the columns of `istioctl proxy-config`: those of load assignments (`eds`), and those
//! of a proxy's `/clusters?format=json` (`endpoints`).

use serde_json::Value;

use crate::clusters::ClusterName;
use crate::fields::{address, field, list, path, text};
use crate::{Dump, Table};

/// Which endpoints are shown.
#[derive(Debug, Clone, Default)]
pub struct EndpointFilter {
    /// Address, without port; empty for all.
    pub address: String,
    /// Port.
    pub port: Option<u16>,
    /// Name of the cluster; empty for all.
    pub cluster: String,
    /// Health, such as `HEALTHY`; empty for all.
    pub status: String,
}

impl EndpointFilter {
    fn admits(&self, cluster: &str, (host, port): (&str, Option<u64>), health: &str) -> bool {
        let same = |wanted: &str, it: &str| wanted.is_empty() || it.eq_ignore_ascii_case(wanted);
        let whole = written(host, port);
        (same(&self.address, host) || same(&self.address, &whole))
            && self.port.is_none_or(|wanted| port == Some(wanted.into()))
            && same(&self.cluster, cluster)
            && same(&self.status, health)
    }
}

/// `address:port`, as `istioctl` writes it.
fn written(host: &str, port: Option<u64>) -> String {
    port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn or_unknown(health: &str) -> &str {
    if health.is_empty() { "UNKNOWN" } else { health }
}

/// The load assignments, with only those endpoints that the filter admits; those without any are
/// left out.
pub fn select(dump: &Dump, filter: &EndpointFilter) -> Vec<Value> {
    let mut all: Vec<Value> = dump.endpoints().into_iter().cloned().collect();
    for assignment in &mut all {
        let cluster = text(assignment, "cluster_name").to_owned();
        for locality in children(assignment, "endpoints") {
            for name in ["lb_endpoints", "lbEndpoints"] {
                if let Some(Value::Array(endpoints)) = locality.get_mut(name) {
                    endpoints.retain(|endpoint| {
                        let (host, port) = address(path(endpoint, &["endpoint", "address"]));
                        let health = or_unknown(text(endpoint, "health_status"));
                        filter.admits(&cluster, (&host, port), health)
                    });
                }
            }
        }
    }
    let has_some = |assignment: &Value| {
        let localities = list(assignment, "endpoints");
        localities
            .iter()
            .any(|l| !list(l, "lb_endpoints").is_empty())
    };
    all.retain(has_some);
    all.sort_by(|a, b| {
        let name = |assignment| ClusterName::parse(text(assignment, "cluster_name"));
        name(a).order(&name(b))
    });
    all
}

fn children<'a>(message: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = message.get_mut(name).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// `NAME`, `STATUS`, `LOCALITY`, `CLUSTER` of load assignments.
pub fn table(assignments: &[Value], named: bool) -> Table {
    let mut table = Table::new(["NAME", "STATUS", "LOCALITY", "CLUSTER"], 5);
    for assignment in assignments {
        for locality in list(assignment, "endpoints") {
            for endpoint in list(locality, "lb_endpoints") {
                let (host, port) = address(path(endpoint, &["endpoint", "address"]));
                let more = list(field(endpoint, "endpoint"), "additional_addresses").iter();
                let more = more.map(|it| address(field(it, "address")));
                let all = std::iter::once((host, port)).chain(more);
                let all: Vec<String> = all.map(|(host, port)| written(&host, port)).collect();
                let all = all.join(",");
                table.row([
                    if named {
                        format!("endpoint/{all}")
                    } else {
                        all
                    },
                    or_unknown(text(endpoint, "health_status")).to_owned(),
                    locality_of(field(locality, "locality")),
                    text(assignment, "cluster_name").to_owned(),
                ]);
            }
        }
    }
    table
}

fn locality_of(locality: &Value) -> String {
    let parts = ["region", "zone", "sub_zone"].map(|name| text(locality, name));
    let given = parts.iter().take_while(|part| !part.is_empty());
    given.copied().collect::<Vec<_>>().join("/")
}

/// The clusters of `/clusters?format=json` with an endpoint that the filter admits, and only these.
pub fn select_live(clusters: &Value, filter: &EndpointFilter) -> Vec<Value> {
    let mut all = list(clusters, "cluster_statuses").to_vec();
    for cluster in &mut all {
        let name = text(cluster, "name").to_owned();
        for hosts in ["host_statuses", "hostStatuses"] {
            if let Some(Value::Array(hosts)) = cluster.get_mut(hosts) {
                hosts.retain(|host| {
                    let (ip, port) = address(field(host, "address"));
                    filter.admits(&name, (&ip, port), health_of(host))
                });
            }
        }
    }
    all.retain(|cluster| !list(cluster, "host_statuses").is_empty());
    all
}

fn health_of(host: &Value) -> &str {
    or_unknown(text(field(host, "health_status"), "eds_health_status"))
}

/// `ENDPOINT`, `STATUS`, `OUTLIER CHECK`, `CLUSTER` of what [`select_live`] gave.
pub fn live_table(clusters: &[Value]) -> Table {
    let mut rows = Vec::new();
    for cluster in clusters {
        for host in list(cluster, "host_statuses") {
            let (ip, port) = address(field(host, "address"));
            let failed = path(host, &["health_status", "failed_outlier_check"]) == true;
            let outlier = if failed { "FAILED" } else { "OK" };
            let name = text(cluster, "name");
            rows.push((ip, port, name, health_of(host), outlier));
        }
    }
    rows.sort_by(|a, b| (&a.0, a.1, a.2).cmp(&(&b.0, b.1, b.2)));
    let mut table = Table::new(["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"], 5);
    for (ip, port, cluster, health, outlier) in rows {
        let endpoint = written(&ip, port.filter(|port| *port != 0));
        table.row([
            endpoint,
            health.to_owned(),
            outlier.to_owned(),
            cluster.to_owned(),
        ]);
    }
    table
}
