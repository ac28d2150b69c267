//! Route configurations of a dump in the columns of `istioctl proxy-config routes`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::fields::{field, list, management, path, text, texts};
use crate::{Dump, Table};

/// The route configurations of this name, or all if it is empty; those named by a port first, by
/// number.
pub fn select<'a>(dump: &'a Dump, name: &str) -> Vec<&'a Value> {
    let mut routes = dump.routes();
    routes.retain(|config| name.is_empty() || text(config, "name") == name);
    routes.sort_by_key(|config| {
        let port = text(config, "name").parse::<u32>().ok();
        (port.is_none(), port)
    });
    routes
}

/// `NAME`, `VHOST NAME`, `DOMAINS`, `MATCH`, `VIRTUAL SERVICE` of each route, or how many virtual
/// hosts there are if not `verbose`.
pub fn table(routes: &[&Value], verbose: bool, named: bool) -> Table {
    let header: &[&str] = if verbose {
        &["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"]
    } else {
        &["NAME", "VIRTUAL HOSTS"]
    };
    let mut table = Table::new(header.iter().copied(), 5);
    for config in routes {
        let name = text(config, "name");
        let name = if named {
            format!("route/{name}")
        } else {
            name.to_owned()
        };
        let hosts = list(config, "virtual_hosts");
        if !verbose {
            table.row([name, hosts.len().to_string()]);
            continue;
        }
        for host in hosts {
            let row = |last: [String; 2]| {
                let domains = domains(&texts(host, "domains"));
                let first = [name.clone(), text(host, "name").to_owned(), domains];
                first.into_iter().chain(last)
            };
            let routes = list(host, "routes");
            if routes.is_empty() {
                table.row(row(["/*".to_owned(), "404".to_owned()]));
            }
            for route in routes {
                if path(route, &["route", "cluster"]) != "PassthroughCluster" {
                    let object = management(field(route, "metadata"));
                    table.row(row([condition(field(route, "match")), object]));
                }
            }
        }
    }
    table
}

/// What a route asks of the path.
pub(crate) fn condition(condition: &Value) -> String {
    let mut parts = Vec::new();
    let prefix = text(condition, "prefix");
    if !prefix.is_empty() {
        parts.push(format!("{prefix}*"));
    }
    let prefix = text(condition, "path_separated_prefix");
    if !prefix.is_empty() {
        parts.push(format!("PathPrefix:{prefix}"));
    }
    let exact = text(condition, "path");
    if !exact.is_empty() {
        parts.push(exact.to_owned());
    }
    let regex = text(field(condition, "safe_regex"), "regex");
    if !regex.is_empty() {
        parts.push(format!("regex {regex}"));
    }
    parts.join(" ")
}

/// The shortest two domains without ports, and how many more there are.
fn domains(all: &[&str]) -> String {
    const SHOWN: usize = 2;
    if let [only] = all {
        return (*only).to_owned();
    }
    let colons = |domain: &str| domain.matches(':').count();
    let without_port: Vec<&str> = all
        .iter()
        .copied()
        .filter(|d| colons(d) == 0 || colons(d) > 2 && d.ends_with(']'))
        .collect();
    let known: BTreeSet<&str> = without_port.iter().copied().collect();
    let shorter = |domain: &str| {
        [".svc.cluster.local", ".svc"]
            .iter()
            .filter_map(|end| domain.strip_suffix(end))
            .any(|short| known.contains(short))
    };
    let short: Vec<&str> = without_port.into_iter().filter(|d| !shorter(d)).collect();
    let text = short
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match short.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{text} + {more} more..."),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_domains_the_short_ones_are_shown() {
        let all = [
            "reviews.shop.svc.cluster.local",
            "reviews.shop.svc.cluster.local:80",
            "reviews",
            "reviews.shop",
            "reviews.shop.svc",
            "10.0.0.1",
        ];
        assert_eq!(domains(&all), "reviews, reviews.shop + 1 more...");
        assert_eq!(domains(&["*"]), "*");
        assert_eq!(
            domains(&["a:80", "[fd00:10:96::7fc7]", "[fd00:10:96::7fc7]:80"]),
            "[fd00:10:96::7fc7]"
        );
        assert_eq!(domains(&[]), "");
    }
}
