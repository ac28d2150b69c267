//! The bootstrap of a dump.

use std::fmt::Write as _;

use serde_json::Value;

use crate::Dump;
use crate::fields::{field, number, path, text};

/// The bootstrap section; `None` if the dump has none, or an empty one as control planes give.
pub fn section(dump: &Dump) -> Option<&Value> {
    let section = dump.section("BootstrapConfigDump")?;
    let is_there = !field(section, "bootstrap").is_null();
    is_there.then_some(section)
}

/// The versions that a proxy gives in its node, a line each.
pub fn summary(dump: &Dump) -> String {
    let Some(section) = section(dump) else {
        return String::new();
    };
    let node = path(section, &["bootstrap", "node"]);
    let metadata = field(node, "metadata");
    let mut lines = Vec::new();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push((format!("{name}:"), value.to_owned()));
        }
    };
    add("Istio Version", text(metadata, "ISTIO_VERSION"));
    let sha = text(metadata, "ISTIO_PROXY_SHA");
    add("Istio Proxy Version", sha.split(':').nth(1).unwrap_or(sha));
    add(
        "Envoy Version",
        &envoy(field(node, "user_agent_build_version")),
    );
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let mut out = String::new();
    for (name, value) in lines {
        let _ = writeln!(out, "{name:<width$}{value}");
    }
    out
}

fn envoy(build: &Value) -> String {
    let version = field(build, "version");
    let part = |name| number(field(version, name)).unwrap_or_default();
    let mut out = format!(
        "{}.{}.{}",
        part("major_number"),
        part("minor_number"),
        part("patch")
    );
    let metadata = field(build, "metadata");
    for (sign, key) in [
        ('-', "build.label"),
        ('/', "revision.status"),
        ('/', "build.type"),
        ('/', "ssl.version"),
    ] {
        let value = text(metadata, key);
        if !value.is_empty() {
            let _ = write!(out, "{sign}{value}");
        }
    }
    out
}
