//! Listeners of a dump in the columns of `istioctl proxy-config listeners`.

use serde_json::Value;

use crate::fields::{address, field, list, number, path, text, texts, type_name};
use crate::{Dump, Table};

/// Which listeners are shown.
#[derive(Debug, Clone, Default)]
pub struct ListenerFilter {
    /// Address, without port; empty for all.
    pub address: String,
    /// Port.
    pub port: Option<u16>,
    /// `HTTP`, `TCP`, `HTTP+TCP` or `UNKNOWN`; empty for all.
    pub kind: String,
}

impl ListenerFilter {
    fn admits(&self, listener: &Value) -> bool {
        let mut addresses = addresses(listener);
        let is_it = |address: String| address.eq_ignore_ascii_case(&self.address);
        (self.address.is_empty() || addresses.any(is_it))
            && self
                .port
                .is_none_or(|port| port_of(listener) == u64::from(port))
            && (self.kind.is_empty() || kind(listener).eq_ignore_ascii_case(&self.kind))
    }
}

fn addresses(listener: &Value) -> impl Iterator<Item = String> {
    let more = list(listener, "additional_addresses").iter();
    let all = std::iter::once(field(listener, "address"))
        .chain(more.map(|additional| field(additional, "address")));
    all.map(|one| address(one).0)
}

fn port_of(listener: &Value) -> u64 {
    address(field(listener, "address")).1.unwrap_or_default()
}

fn chains(listener: &Value) -> impl Iterator<Item = &Value> {
    let default = field(listener, "default_filter_chain");
    let default = (!default.is_null()).then_some(default);
    list(listener, "filter_chains").iter().chain(default)
}

enum Ending<'a> {
    Http(&'a Value),
    Tcp(&'a str),
}

/// The filter that ends a chain. TCP proxies to nowhere do not count.
fn ending(chain: &Value) -> Option<Ending<'_>> {
    list(chain, "filters").iter().find_map(|filter| {
        let config = field(filter, "typed_config");
        match type_name(config) {
            "HttpConnectionManager" => Some(Ending::Http(config)),
            "TcpProxy" => Some(tcp_cluster(config))
                .filter(|cluster| *cluster != "BlackHoleCluster")
                .map(Ending::Tcp),
            _ => None,
        }
    })
}

fn tcp_cluster(config: &Value) -> &str {
    let first = || list(field(config, "weighted_clusters"), "clusters").first();
    match text(config, "cluster") {
        "" => first().map_or("", |cluster| text(cluster, "name")),
        cluster => cluster,
    }
}

/// What a listener serves.
fn kind(listener: &Value) -> &'static str {
    let (mut http, mut tcp) = (false, false);
    for chain in chains(listener) {
        match ending(chain) {
            Some(Ending::Http(_)) => http = true,
            Some(Ending::Tcp(_)) => tcp = true,
            None => {}
        }
    }
    match (http, tcp) {
        (true, true) => "HTTP+TCP",
        (true, false) => "HTTP",
        (false, true) => "TCP",
        (false, false) => "UNKNOWN",
    }
}

/// The listeners that the filter admits, sorted by port, address and kind.
pub fn select<'a>(dump: &'a Dump, filter: &ListenerFilter) -> Vec<&'a Value> {
    let mut listeners = dump.listeners();
    listeners.retain(|listener| filter.admits(listener));
    listeners.sort_by_key(|listener| {
        let address = address(field(listener, "address")).0;
        (port_of(listener), address, kind(listener))
    });
    listeners
}

/// `ADDRESSES`, `PORT`, and `MATCH` and `DESTINATION` of each filter chain, or the `TYPE` if not
/// `verbose`; before them `NAME` if `named`.
pub fn table(listeners: &[&Value], verbose: bool, named: bool) -> Table {
    let first = ["NAME", "ADDRESSES", "PORT"];
    let last: &[&str] = if verbose {
        &["MATCH", "DESTINATION"]
    } else {
        &["TYPE"]
    };
    let header = first.iter().skip(usize::from(!named)).chain(last).copied();
    let mut table = Table::new(header, 1);
    for listener in listeners {
        let mut cells = Vec::new();
        if named {
            cells.push(format!("listener/{}", text(listener, "name")));
        }
        cells.push(addresses(listener).collect::<Vec<_>>().join(","));
        cells.push(port_of(listener).to_string());
        if verbose {
            let mut rows: Vec<[String; 2]> = chains(listener)
                .map(|chain| {
                    [
                        matches(field(chain, "filter_chain_match")),
                        destination(chain),
                    ]
                })
                .collect();
            rows.sort_by(|a, b| b[1].cmp(&a[1]));
            for row in rows {
                table.row(cells.iter().cloned().chain(row));
            }
        } else {
            cells.push(kind(listener).to_owned());
            table.row(cells);
        }
    }
    table
}

/// What a chain asks of connections, in `istioctl`'s words.
fn matches(condition: &Value) -> String {
    /// Lists of protocols that Istio writes, by what they mean.
    const PROTOCOLS: [(&str, &[&str]); 4] = [
        (
            "App: HTTP TLS",
            &[
                "http/1.0",
                "http/1.1",
                "h2c",
                "istio-http/1.0",
                "istio-http/1.1",
                "istio-h2",
            ],
        ),
        (
            "App: Istio HTTP Plain",
            &["istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"],
        ),
        ("App: TCP TLS", &["istio-peer-exchange", "istio"]),
        ("App: HTTP", &["http/1.0", "http/1.1", "h2c"]),
    ];
    let mut parts = Vec::new();
    let names = texts(condition, "server_names");
    if !names.is_empty() {
        parts.push(format!("SNI: {}", names.join(",")));
    }
    let transport = text(condition, "transport_protocol");
    if !transport.is_empty() {
        parts.push(format!("Trans: {transport}"));
    }
    let protocols = texts(condition, "application_protocols");
    if !protocols.is_empty() {
        let known = PROTOCOLS.iter().find(|(_, list)| **list == protocols[..]);
        parts.push(known.map_or_else(
            || format!("App: {}", protocols.join(",")),
            |(words, _)| (*words).to_owned(),
        ));
    }
    let port = number(field(condition, "destination_port"));
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    let ranges: Vec<String> = list(condition, "prefix_ranges")
        .iter()
        .map(|range| {
            let bits = number(field(range, "prefix_len")).unwrap_or_default();
            format!("{}/{bits}", text(range, "address_prefix"))
        })
        .collect();
    if !ranges.is_empty() {
        parts.push(format!("Addr: {}{port}", ranges.join(",")));
    } else if !port.is_empty() {
        parts.push(format!("Addr: *{port}"));
    }
    if parts.is_empty() {
        "ALL".to_owned()
    } else {
        parts.join("; ")
    }
}

/// Where a chain leads.
fn destination(chain: &Value) -> String {
    match ending(chain) {
        Some(Ending::Http(manager)) => {
            let inline = field(manager, "route_config");
            let name = text(path(manager, &["rds"]), "route_config_name");
            if !inline.is_null() {
                route_config(inline)
            } else if name.is_empty() {
                "HTTP".to_owned()
            } else {
                format!("Route: {name}")
            }
        }
        Some(Ending::Tcp(cluster)) if cluster.contains("Cluster") => cluster.to_owned(),
        Some(Ending::Tcp(cluster)) => format!("Cluster: {cluster}"),
        None => "Non-HTTP/Non-TCP".to_owned(),
    }
}

fn route_config(config: &Value) -> String {
    if let Some(cluster) = only_cluster(config) {
        return if cluster.contains("Cluster") {
            cluster.to_owned()
        } else {
            format!("Cluster: {cluster}")
        };
    }
    let hosts = list(config, "virtual_hosts").iter().map(|host| {
        let routes = list(host, "routes").iter();
        let routes: Vec<String> = routes
            .map(|route| crate::routes::condition(field(route, "match")))
            .collect();
        let routes = routes.join(", ");
        match texts(host, "domains")[..] {
            ["*"] => routes,
            ref domains => format!("{} {routes}", domains.join("/")),
        }
    });
    format!("Inline Route: {}", hosts.collect::<Vec<_>>().join("; "))
}

/// The cluster of a route configuration that sends everything there.
fn only_cluster(config: &Value) -> Option<&str> {
    let [host] = list(config, "virtual_hosts") else {
        return None;
    };
    let [route] = list(host, "routes") else {
        return None;
    };
    let all = texts(host, "domains")[..] == ["*"] && path(route, &["match", "prefix"]) == "/";
    let cluster = path(route, &["route", "cluster"]).as_str();
    cluster.filter(|_| all)
}
