//! Which fields of Istio's API the worlds set, of all that its messages have.
//!
//! A path is that of the field in YAML without the places of lists and the keys of maps
//! (`VirtualService.http.match.headers.exact`); values of enumerations have paths of their own
//! (`PeerAuthentication.mtls.mode=STRICT`).

use std::collections::BTreeSet;
use std::path::Path;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use weft_proto::document::{
    ISTIO_NETWORKING, ISTIO_NETWORKING_KINDS, ISTIO_SECURITY, ISTIO_SECURITY_KINDS,
    ISTIO_TELEMETRY, ISTIO_TELEMETRY_KINDS,
};
use weft_proto::yaml::{self, Limits, Node};
use weft_proto::{document, pool};

use crate::world::World;

const MESH: (&str, &str) = ("MeshConfig", "istio.mesh.v1alpha1.MeshConfig");
const NETWORKS: (&str, &str) = ("MeshNetworks", "istio.mesh.v1alpha1.MeshNetworks");

/// Every path of every kind of Istio's, of its mesh configuration and its networks.
///
/// # Panics
/// A kind has no message.
pub fn all() -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let groups: [(&str, &[&str]); 3] = [
        (ISTIO_NETWORKING, &ISTIO_NETWORKING_KINDS),
        (ISTIO_SECURITY, &ISTIO_SECURITY_KINDS),
        (ISTIO_TELEMETRY, &ISTIO_TELEMETRY_KINDS),
    ];
    for (group, kinds) in groups {
        for kind in kinds {
            let text = format!("{{apiVersion: {group}/v1, kind: {kind}, metadata: {{name: a}}}}");
            let (documents, _) = document::parse_file("kind", &text);
            let name = documents.iter().find_map(document::Document::message_name);
            let message = name.and_then(|name| pool::message(&name));
            let message = message.unwrap_or_else(|| panic!("{kind} has no message"));
            below(&message, kind, &mut Vec::new(), &mut paths);
        }
    }
    for (root, name) in [MESH, NETWORKS] {
        let message = pool::message(name).unwrap_or_else(|| panic!("{name} is unknown"));
        below(&message, root, &mut Vec::new(), &mut paths);
    }
    paths
}

/// `inside`: the messages that this one is in. None of Istio's is in itself; if one ever is, it is
/// walked once.
fn below(
    message: &MessageDescriptor,
    path: &str,
    inside: &mut Vec<String>,
    paths: &mut BTreeSet<String>,
) {
    if inside.iter().any(|name| name == message.full_name()) {
        return;
    }
    inside.push(message.full_name().to_owned());
    for field in message.fields() {
        let path = format!("{path}.{}", field.json_name());
        match value_kind(&field) {
            Kind::Message(message) if message.package_name() != "google.protobuf" => {
                below(&message, &path, inside, paths);
            }
            Kind::Enum(values) => {
                let values = values.values();
                paths.extend(values.map(|value| format!("{path}={}", value.name())));
            }
            _ => {}
        }
        paths.insert(path);
    }
    inside.pop();
}

/// What the values of a field are, of a map those under its keys.
fn value_kind(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    }
}

/// The paths that a world sets: its rules, its mesh configuration and its networks.
///
/// # Errors
/// A file cannot be read.
pub fn of_world(world: &World) -> std::io::Result<BTreeSet<String>> {
    let mut paths = BTreeSet::new();
    let text = std::fs::read_to_string(&world.rules)?;
    let (documents, _) = document::parse_file(&world.name, &text);
    for document in &documents {
        let name = document.message_name();
        let message = name.and_then(|name| pool::message(&name));
        if let (Some(message), Some(spec)) = (message, document.spec()) {
            set(spec, &message, &document.kind, &mut paths);
        }
    }
    for (file, root) in [(&world.mesh, MESH), (&world.networks, NETWORKS)] {
        if let Some(file) = file {
            of_file(file, root, &mut paths)?;
        }
    }
    Ok(paths)
}

fn of_file(
    file: &Path,
    (root, name): (&str, &str),
    paths: &mut BTreeSet<String>,
) -> std::io::Result<()> {
    let text = std::fs::read_to_string(file)?;
    let message = pool::message(name);
    for document in yaml::parse(&text, &Limits::default()) {
        if let (Some(message), Some(node)) = (&message, &document.root) {
            set(node, message, root, paths);
        }
    }
    Ok(())
}

fn set(node: &Node, message: &MessageDescriptor, path: &str, paths: &mut BTreeSet<String>) {
    for entry in node.entries().unwrap_or_default() {
        let named = |field: &FieldDescriptor| {
            field.json_name() == &*entry.key || field.name() == &*entry.key
        };
        let Some(field) = message.fields().find(named) else {
            continue;
        };
        if entry.value.is_null() {
            continue;
        }
        let path = format!("{path}.{}", field.json_name());
        let values: Vec<&Node> = if field.is_map() {
            let entries = entry.value.entries().unwrap_or_default();
            entries.iter().map(|entry| &entry.value).collect()
        } else {
            let items = entry.value.items();
            items.map_or_else(|| vec![&entry.value], |items| items.iter().collect())
        };
        for value in values {
            match value_kind(&field) {
                Kind::Message(message) => set(value, &message, &path, paths),
                Kind::Enum(_) => paths.extend(value.as_str().map(|name| format!("{path}={name}"))),
                _ => {}
            }
        }
        paths.insert(path);
    }
}

/// What the patches of a world's `EnvoyFilter`s do: `applyTo operation context`.
///
/// # Errors
/// The rules cannot be read.
pub fn patches(world: &World) -> std::io::Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(&world.rules)?;
    let (documents, _) = document::parse_file(&world.name, &text);
    let mut found = BTreeSet::new();
    let of_kind = documents.iter().filter(|d| d.kind == "EnvoyFilter");
    for spec in of_kind.filter_map(document::Document::spec) {
        let list = spec.get("configPatches").and_then(Node::items);
        for patch in list.unwrap_or_default() {
            let word = |node: Option<&Node>, key: &str, default: &str| {
                let text = node.and_then(|node| node.get(key)).and_then(Node::as_str);
                text.unwrap_or(default).to_owned()
            };
            let target = word(Some(patch), "applyTo", "");
            let operation = word(patch.get("patch"), "operation", "");
            let context = word(patch.get("match"), "context", "ANY");
            found.insert(format!("{target} {operation} {context}"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_lists_maps_and_enumerations_have_paths() {
        let text = "{mtls: {mode: STRICT}, portLevelMtls: {80: {mode: DISABLE}}, selector: null}";
        let node = yaml::parse(text, &Limits::default()).remove(0).root;
        let message = pool::message("istio.security.v1beta1.PeerAuthentication").unwrap();
        let mut paths = BTreeSet::new();
        set(&node.unwrap(), &message, "P", &mut paths);
        let expected = [
            "P.mtls",
            "P.mtls.mode",
            "P.mtls.mode=STRICT",
            "P.portLevelMtls",
            "P.portLevelMtls.mode",
            "P.portLevelMtls.mode=DISABLE",
        ];
        assert_eq!(
            paths.iter().map(String::as_str).collect::<Vec<_>>(),
            expected
        );
        let all = all();
        for path in [
            "PeerAuthentication.portLevelMtls.mode=DISABLE",
            "VirtualService.http.match.headers.regex",
            "MeshConfig.defaultConfig.tracing.customTags.header.name",
        ] {
            assert!(all.contains(path), "{path}");
        }
    }
}
