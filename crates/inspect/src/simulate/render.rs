//! A simulation as text.

use std::fmt::Write as _;

use serde_json::Value;

use crate::fields::{list, number, text, texts};

/// The passages of `{"passages": [...], "verdict", "reason", "status"}`, one after the other.
pub fn render(report: &Value) -> String {
    let mut out = String::new();
    for passage in list(report, "passages") {
        passage_text(&mut out, passage);
        out.push('\n');
    }
    let verdict = text(report, "verdict").to_uppercase();
    let status = number(&report["status"]).map_or_else(String::new, |status| format!(" {status}"));
    let reason = text(report, "reason");
    let _ = match reason {
        "" => writeln!(out, "{verdict}{status}"),
        _ => writeln!(out, "{verdict}{status}: {reason}"),
    };
    out
}

fn passage_text(out: &mut String, passage: &Value) {
    let made_up = if passage["connected"] == true {
        ""
    } else {
        " (not connected: made up from the configuration)"
    };
    let _ = writeln!(out, "At {}{made_up}", text(passage, "proxy"));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {:<13}{value}", format!("{name}:"));
        }
    };
    line("connection", connection(&passage["connection"]));
    let listener = &passage["listener"];
    if listener.is_object() {
        let address = text(listener, "address");
        line(
            "listener",
            format!("{} ({address})", text(listener, "name")),
        );
    }
    line("chain", chain(&passage["chain"]));
    line("routes", text(passage, "routes").to_owned());
    line("request", request(&passage["request"]));
    let host = &passage["virtualHost"];
    if host.is_object() {
        let domains = texts(host, "domains");
        let first = domains.first().copied().unwrap_or_default();
        line(
            "virtual host",
            format!(
                "{} ({first}; {} domains)",
                text(host, "name"),
                domains.len()
            ),
        );
    }
    for route in list(passage, "passedOver") {
        let number = number(&route["number"]).unwrap_or_default();
        line(
            "not",
            format!(
                "route {number} {:?}: {}",
                text(route, "name"),
                text(route, "why")
            ),
        );
    }
    let route = &passage["route"];
    if route.is_object() {
        let number = number(&route["number"]).unwrap_or_default();
        let object = text(route, "object");
        let from = if object.is_empty() {
            String::new()
        } else {
            format!(" of {object}")
        };
        let words = format!(
            "{number} {:?} ({}){from}",
            text(route, "name"),
            text(route, "match")
        );
        line("route", words);
    }
    for policy in list(passage, "policies") {
        line("policy", decision(policy));
    }
    for share in list(passage, "clusters") {
        let weight = number(&share["weight"]).unwrap_or_default();
        let of = number(&share["of"]).unwrap_or_default();
        line(
            "share",
            format!("{weight} of {of} to {}", text(share, "cluster")),
        );
    }
    line("cluster", text(passage, "cluster").to_owned());
    for endpoint in list(passage, "endpoints") {
        line("endpoint", endpoint_text(endpoint));
    }
    for note in texts(passage, "notes") {
        line("note", note.to_owned());
    }
}

fn connection(connection: &Value) -> String {
    if !connection.is_object() {
        return String::new();
    }
    let mut how = text(connection, "transport").to_owned();
    let sni = text(connection, "serverName");
    if !sni.is_empty() {
        how = format!("{how}, server name {sni}");
    }
    let protocols = texts(connection, "protocols");
    if !protocols.is_empty() {
        how = format!("{how}, {}", protocols.join(" "));
    }
    let (from, to) = (text(connection, "from"), text(connection, "to"));
    format!("{from} → {to} ({how})")
}

fn request(request: &Value) -> String {
    if !request.is_object() {
        return String::new();
    }
    let words = ["method", "authority", "path"].map(|name| text(request, name));
    let who = match text(request, "principal") {
        "" => String::new(),
        principal => format!(" as {principal}"),
    };
    format!("{} from {}{who}", words.join(" "), text(request, "client"))
}

fn chain(chain: &Value) -> String {
    if !chain.is_object() {
        return String::new();
    }
    let place = match number(&chain["number"]) {
        Some(number) => format!("{number} of {}", number_of(chain, "of")),
        None => "the default one".to_owned(),
    };
    let name = text(chain, "name");
    let tls = match text(chain, "tls") {
        "" => String::new(),
        tls => format!(", {tls} TLS"),
    };
    format!("{place} {name:?}{tls}")
}

fn number_of(value: &Value, name: &str) -> u64 {
    number(&value[name]).unwrap_or_default()
}

fn decision(policy: &Value) -> String {
    let word = if policy["allowed"] == true {
        "lets it pass"
    } else {
        "refuses it"
    };
    let by = match (text(policy, "rule"), text(policy, "policy")) {
        ("", "") => String::new(),
        ("", policy) => format!(" by {policy}"),
        (rule, _) => format!(" by {rule}"),
    };
    format!(
        "{} ({}) {word}{by}",
        text(policy, "filter"),
        text(policy, "action")
    )
}

fn endpoint_text(endpoint: &Value) -> String {
    let why = text(endpoint, "why");
    if !why.is_empty() {
        return format!("{} ({why})", text(endpoint, "address"));
    }
    let locality = match text(endpoint, "locality") {
        "" => String::new(),
        locality => format!(", {locality}"),
    };
    format!(
        "{} {}, priority {}{locality}, weight {}, {}",
        text(endpoint, "address"),
        text(endpoint, "health"),
        number_of(endpoint, "priority"),
        number_of(endpoint, "weight"),
        text(endpoint, "transport"),
    )
}
