//! Why a proxy has a resource, from a control plane's `/debug/explain`.

use std::fmt::Write as _;

use serde_json::Value;

use crate::fields::{field, list, number, text, texts};

/// The page as text: the objects with their places and fields, the virtual hosts and routes.
pub fn render(page: &Value) -> String {
    let mut out = String::new();
    let connected = field(page, "connected") == true;
    let so_far = if connected { "has" } else { "would have" };
    let _ = writeln!(
        out,
        "{} {so_far} the {} {} (version {})",
        text(page, "proxy"),
        text(page, "type"),
        text(page, "name"),
        text(page, "version"),
    );
    let (made, read): (Vec<_>, Vec<_>) = list(page, "objects")
        .iter()
        .partition(|object| field(object, "made") == true);
    section(&mut out, "Made of", &made);
    section(&mut out, "Looked at for it", &read);
    if made.is_empty() && read.is_empty() {
        let _ = writeln!(out, "\nNo object: every such proxy has it.");
    }
    if field(page, "traced") != true {
        let _ = writeln!(
            out,
            "\nIt is the proxy's own: what else was looked at for it alone is not recorded."
        );
    }
    for held in texts(page, "heldBack") {
        let _ = writeln!(out, "\nHeld back: {held}");
    }
    for host in list(page, "hosts") {
        of_host(&mut out, host);
    }
    out
}

fn section(out: &mut String, title: &str, objects: &[&Value]) {
    if objects.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}:");
    for object in objects {
        let _ = writeln!(out, "  {}{}", place(object), text(object, "object"));
        for field in list(object, "fields") {
            let line = number(&field["line"]).unwrap_or_default();
            let _ = writeln!(out, "    {} (line {line})", text(field, "path"));
        }
    }
}

/// `file:line: `, or nothing if it is not known.
fn place(value: &Value) -> String {
    match (text(value, "source"), number(field(value, "line"))) {
        ("" | "?", _) | (_, None) => String::new(),
        (source, Some(line)) => format!("{source}:{line}: "),
    }
}

fn of_host(out: &mut String, host: &Value) {
    let domains = texts(host, "domains").join(", ");
    let _ = writeln!(out, "\nVirtual host {} for {domains}", text(host, "name"));
    let objects = texts(host, "objects");
    if !objects.is_empty() {
        let _ = writeln!(out, "  made of {}", objects.join(", "));
    }
    for (number, route) in list(host, "routes").iter().enumerate() {
        let name = text(route, "name");
        let object = text(route, "object");
        let from = if object.is_empty() {
            "a default".to_owned()
        } else {
            format!("{}{object} {}", place(route), text(route, "path"))
        };
        let _ = writeln!(out, "  route {number} {name:?}: {from}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_come_with_places_and_fields() {
        let page = json!({
            "proxy": "sidecar~1", "connected": false, "type": "cluster", "name": "c", "version": "0f",
            "traced": true, "heldBack": ["CDS c: no"],
            "objects": [
                {"object": "DestinationRule/a/b", "made": true, "source": "x.yaml", "line": 3,
                 "fields": [{"path": "spec.subsets[1]", "line": 9}]},
                {"object": "PeerAuthentication/a/p", "made": false, "source": "y.yaml", "line": 1,
                 "fields": []}],
            "hosts": [{"name": "h:80", "domains": ["h"], "objects": ["VirtualService/a/v"], "routes": [
                {"name": "r", "object": "VirtualService/a/v", "path": "spec.http[0]", "source": "z", "line": 2},
                {"name": "default"}]}],
        });
        let text = render(&page);
        for line in [
            "sidecar~1 would have the cluster c (version 0f)",
            "  x.yaml:3: DestinationRule/a/b\n    spec.subsets[1] (line 9)",
            "Looked at for it:\n  y.yaml:1: PeerAuthentication/a/p",
            "Held back: CDS c: no",
            "  route 0 \"r\": z:2: VirtualService/a/v spec.http[0]",
            "  route 1 \"default\": a default",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
    }
}
