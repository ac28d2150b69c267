//! Clusters of a dump in the columns of `istioctl proxy-config clusters`.

use std::cmp::Ordering;

use serde_json::Value;

use crate::fields::{field, management, text};
use crate::{Dump, Table};

/// Which clusters are shown: each part must be contained in the name.
#[derive(Debug, Clone, Default)]
pub struct ClusterFilter {
    /// Part of the host name; empty for all.
    pub fqdn: String,
    /// Port of the service.
    pub port: Option<u16>,
    /// Part of the subset.
    pub subset: String,
    /// `inbound` or `outbound`.
    pub direction: String,
}

impl ClusterFilter {
    fn admits(&self, cluster: &Value) -> bool {
        let name = text(cluster, "name");
        let port = self.port.map(|port| format!("|{port}|"));
        [&self.fqdn, &self.direction, &self.subset]
            .iter()
            .all(|part| name.contains(part.as_str()))
            && port.is_none_or(|port| name.contains(&port))
    }
}

/// A cluster's name taken apart: `direction|port|subset|host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClusterName<'a> {
    pub(crate) direction: &'a str,
    pub(crate) port: u32,
    pub(crate) subset: &'a str,
    pub(crate) host: &'a str,
    /// Whether the name has that form; otherwise it is all in `host`.
    pub(crate) formed: bool,
}

impl<'a> ClusterName<'a> {
    pub(crate) fn parse(name: &'a str) -> Self {
        let mut parts = name.splitn(4, '|');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(direction), Some(port), Some(subset), Some(host)) => Self {
                direction,
                port: port.parse().unwrap_or_default(),
                subset,
                host,
                formed: true,
            },
            _ => Self {
                direction: "",
                port: 0,
                subset: "",
                host: name,
                formed: false,
            },
        }
    }

    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let key = |name: &Self| (name.host.to_owned(), name.subset.to_owned(), name.port);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.direction.cmp(other.direction))
    }
}

/// The clusters that the filter admits, sorted by host, subset, port and direction.
pub fn select<'a>(dump: &'a Dump, filter: &ClusterFilter) -> Vec<&'a Value> {
    let mut clusters = dump.clusters();
    clusters.retain(|cluster| filter.admits(cluster));
    clusters.sort_by(|a, b| {
        let name = |cluster| ClusterName::parse(text(cluster, "name"));
        name(a).order(&name(b))
    });
    clusters
}

/// `SERVICE FQDN`, `PORT`, `SUBSET`, `DIRECTION`, `TYPE`, `DESTINATION RULE`; before them `NAME` if
/// `named`.
pub fn table(clusters: &[&Value], named: bool) -> Table {
    let header = [
        "NAME",
        "SERVICE FQDN",
        "PORT",
        "SUBSET",
        "DIRECTION",
        "TYPE",
        "DESTINATION RULE",
    ];
    let mut table = Table::new(header.into_iter().skip(usize::from(!named)), 5);
    for cluster in clusters {
        let whole = text(cluster, "name");
        let name = ClusterName::parse(whole);
        let mut cells = Vec::new();
        if named {
            cells.push(format!("cluster/{whole}"));
        }
        cells.push(name.host.to_owned());
        if name.formed {
            let subset = if name.subset.is_empty() {
                "-"
            } else {
                name.subset
            };
            cells.extend([name.port.to_string(), subset.to_owned()]);
            cells.push(name.direction.to_owned());
        } else {
            cells.extend(["-", "-", "-"].map(str::to_owned));
        }
        let kind = text(cluster, "type");
        cells.push(if kind.is_empty() { "STATIC" } else { kind }.to_owned());
        cells.push(management(field(cluster, "metadata")));
        table.row(cells);
    }
    table
}
