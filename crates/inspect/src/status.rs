//! Where proxies stand, from a control plane's `/debug/proxies`.

use std::fmt::Write as _;

use serde_json::Value;

use crate::Table;
use crate::fields::{list, number, text};

/// Types that are always shown, in the order of `istioctl proxy-status`; others come after them if
/// a proxy asks for them.
const ALWAYS: [&str; 4] = ["CDS", "LDS", "EDS", "RDS"];
/// Of a type that a proxy does not ask for.
const IGNORED: &str = "IGNORED";

/// The proxies of a page that are of a namespace, or all.
pub fn select<'a>(page: &'a Value, namespace: Option<&str>) -> Vec<&'a Value> {
    let proxies = list(page, "proxies").iter();
    let of = |proxy: &&Value| namespace.is_none_or(|wanted| text(proxy, "namespace") == wanted);
    let mut proxies: Vec<&Value> = proxies.filter(of).collect();
    proxies.sort_by_key(|proxy| text(proxy, "name"));
    proxies
}

fn types(proxy: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let types = proxy.get("types").and_then(Value::as_object);
    types
        .into_iter()
        .flatten()
        .map(|(name, it)| (name.as_str(), it))
}

/// `NAME`, `CLUSTER`, a column for each type with `SYNCED`, `STALE`, `NOT SENT`, `ERROR` or
/// `IGNORED`, and `VERSION`.
pub fn table(proxies: &[&Value]) -> Table {
    let mut more: Vec<&str> = proxies
        .iter()
        .flat_map(|proxy| types(proxy).map(|(name, _)| name))
        .filter(|name| !ALWAYS.contains(name))
        .collect();
    more.sort_unstable();
    more.dedup();
    let columns: Vec<&str> = ALWAYS.into_iter().chain(more).collect();
    let header = ["NAME", "CLUSTER"]
        .into_iter()
        .chain(columns.iter().copied());
    let mut table = Table::new(header.chain(["VERSION"]), 5);
    for proxy in proxies {
        let status = |name: &&str| {
            let found = types(proxy).find(|(known, _)| known == name);
            found
                .map_or(IGNORED, |(_, state)| text(state, "status"))
                .to_owned()
        };
        let cluster = [text(proxy, "cluster")];
        let first = [text(proxy, "name")].into_iter().chain(cluster);
        let last = [version(proxy).to_owned()];
        table.row(
            first
                .map(str::to_owned)
                .chain(columns.iter().map(status))
                .chain(last),
        );
    }
    table
}

fn version(proxy: &Value) -> &str {
    match text(proxy, "version") {
        "" => text(proxy, "agent"),
        version => version,
    }
}

/// Whether every type of these proxies is in step.
pub fn all_synced(proxies: &[&Value]) -> bool {
    let mut states = proxies.iter().flat_map(|proxy| types(proxy));
    states.all(|(_, state)| text(state, "status") == "SYNCED")
}

/// One proxy: who it is, each type, and what it refuses with the objects behind it. `now` is in
/// milliseconds since 1970.
pub fn detail(proxy: &Value, now: u64) -> String {
    let mut out = String::new();
    for (name, value) in [
        ("Name", text(proxy, "name").to_owned()),
        ("Node", text(proxy, "proxy").to_owned()),
        ("Kind", text(proxy, "kind").to_owned()),
        ("Agent", text(proxy, "agent").to_owned()),
        ("Version", text(proxy, "version").to_owned()),
        ("Cluster", text(proxy, "cluster").to_owned()),
        ("Stream", text(proxy, "mode").to_lowercase()),
        ("Connected", age(proxy.get("connectedAtMs"), now)),
    ] {
        if !value.is_empty() {
            let _ = writeln!(out, "{:<11}{value}", format!("{name}:"));
        }
    }
    let header = [
        "TYPE",
        "STATUS",
        "SENT",
        "ACKED",
        "NOT ACCEPTED",
        "NOT DROPPED",
        "REMOVALS HELD",
    ];
    let mut table = Table::new(header, 3);
    for (name, state) in types(proxy) {
        let count = |field: &str| number(&state[field]).unwrap_or_default().to_string();
        table.row([
            name.to_owned(),
            text(state, "status").to_owned(),
            age(state.get("sentAtMs"), now),
            text(state, "acked").to_owned(),
            count("missing"),
            count("leftover"),
            count("removalsHeld"),
        ]);
    }
    let _ = write!(out, "\n{table}");
    for (name, state) in types(proxy) {
        let refused = list(state, "refused");
        for refusal in refused {
            let from = crate::fields::texts(refusal, "origins").join(", ");
            let resource = text(refusal, "resource");
            let _ = writeln!(out, "\n{name} refuses {resource} (made by {from}):");
            let _ = writeln!(out, "  {}", text(refusal, "error"));
        }
        let error = text(state, "error");
        if refused.is_empty() && !error.is_empty() {
            let _ = writeln!(out, "\n{name} refuses something:\n  {error}");
        }
    }
    out
}

/// How long ago, in its two largest units; empty if never.
fn age(at: Option<&Value>, now: u64) -> String {
    let Some(at) = at.and_then(Value::as_u64) else {
        return String::new();
    };
    let seconds = now.saturating_sub(at) / 1000;
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    let text = match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m{rest}s"),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    };
    format!("{text} ago")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page() -> Value {
        json!({"proxies": [
            {"name": "b.shop", "namespace": "shop", "proxy": "sidecar~1~b.shop~x", "cluster": "k",
             "agent": "envoy", "mode": "Delta", "connectedAtMs": 1000, "types": {
                "CDS": {"status": "SYNCED", "sentAtMs": 2000, "missing": 0, "leftover": 0,
                        "removalsHeld": 0, "refused": [], "acked": "ff"},
                "SDS": {"status": "ERROR", "missing": 1, "error": "no", "refused": [
                    {"resource": "cert", "error": "bad key", "origins": ["Secret/shop/cert"]}]}}},
            {"name": "a.front", "namespace": "front", "version": "1.30", "types": {
                "EDS": {"status": "NOT SENT"}}},
        ]})
    }

    #[test]
    fn a_row_a_proxy() {
        let page = page();
        let text = table(&select(&page, None)).to_string();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("     ")
                    .map(str::trim)
                    .filter(|c| !c.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            lines[0],
            [
                "NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "SDS", "VERSION"
            ]
        );
        assert_eq!(
            lines[1],
            [
                "a.front", "IGNORED", "IGNORED", "NOT SENT", "IGNORED", "IGNORED", "1.30"
            ]
        );
        assert_eq!(
            lines[2],
            [
                "b.shop", "k", "SYNCED", "IGNORED", "IGNORED", "IGNORED", "ERROR", "envoy"
            ]
        );
        assert_eq!(select(&page, Some("shop")).len(), 1);
        assert!(!all_synced(&select(&page, None)));
    }

    #[test]
    fn the_detail_names_what_is_refused_and_who_made_it() {
        let page = page();
        let text = detail(select(&page, Some("shop"))[0], 3_662_000);
        assert!(text.contains("Connected: 1h1m ago"), "{text}");
        assert!(
            text.contains("SDS refuses cert (made by Secret/shop/cert):\n  bad key"),
            "{text}"
        );
        assert!(text.contains("CDS    SYNCED   1h1m ago"), "{text}");
    }
}
