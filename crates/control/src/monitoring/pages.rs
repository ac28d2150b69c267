//! Weft's own pages: who is connected and where they stand, what was pushed to whom, the status of
//! every object, and what a proxy is to have. Must never change anything.

use std::time::SystemTime;

use ahash::HashMap;
use serde_json::{Value, json};
use weft_sources::ObjectState;
use weft_xds::{Resource, TypeUrl};

use crate::core::{Connected, Core, Step, TypePosition};
use crate::emit::Fault;
use crate::graph::ProxyView;
use crate::node::ProxyKind;

pub(super) fn millis(at: SystemTime) -> u64 {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn kind_name(kind: ProxyKind) -> &'static str {
    match kind {
        ProxyKind::Sidecar => "sidecar",
        ProxyKind::Gateway => "router",
        ProxyKind::Grpc => "grpc",
    }
}

pub(super) fn step_name(step: Step) -> &'static str {
    match step {
        Step::Synced => "SYNCED",
        Step::Stale => "STALE",
        Step::NotSent => "NOT SENT",
        Step::Error => "ERROR",
    }
}

pub(super) fn full_name(connected: &Connected) -> String {
    format!("{}.{}", connected.proxy.name, connected.proxy.namespace)
}

/// `{"proxies": [{"proxy", "name", "namespace", "kind", "mode", "agent", "cluster", "version",
/// "connectedAtMs", "types": {"CDS": {"status", "sentAtMs", "acked", "synced", "error",
/// "missing", "leftover", "removalsHeld", "refused": [{"resource", "error", "origins"}]}}}]}`.
/// `missing` counts the resources that the proxy has not accepted yet, `leftover` those that it
/// has still to drop.
pub(super) async fn proxies(core: &Core, wanted: Option<&str>) -> Value {
    let only = wanted.and_then(|wanted| core.find_connected(wanted));
    let only = only.map(|connected| connected.proxy.id.clone());
    let is_wanted =
        |c: &Connected| wanted.is_none() || only.as_ref().is_some_and(|id| c.proxy.id == *id);
    let positions = core.positions(is_wanted).await;
    let own = core.cluster_id();
    let proxies = positions.iter().map(|position| {
        let connected = &position.connected;
        let view = core.published_view(connected);
        let types: serde_json::Map<String, Value> = position
            .types
            .iter()
            .map(|of_type| {
                let name = of_type.type_url.short().to_owned();
                (name, type_page(connected, of_type, view.as_deref()))
            })
            .collect();
        json!({
            "proxy": connected.proxy.id,
            "name": full_name(connected),
            "namespace": connected.proxy.namespace,
            "kind": kind_name(connected.proxy.kind),
            "mode": format!("{:?}", connected.mode),
            "agent": connected.proxy.agent,
            "cluster": Some(&*connected.proxy.cluster_id).filter(|id| !id.is_empty()).unwrap_or(&own),
            "version": connected.proxy.version,
            "connectedAtMs": millis(connected.since),
            "types": types,
        })
    });
    json!({ "proxies": proxies.collect::<Vec<_>>() })
}

fn type_page(connected: &Connected, of_type: &TypePosition, view: Option<&ProxyView>) -> Value {
    let noted = connected.types.get(&of_type.type_url);
    let in_sync = noted.and_then(|state| state.in_sync);
    let refused = of_type.refused.iter().map(|(name, refusal)| {
        json!({
            "resource": &**name,
            "error": &*refusal.error,
            "origins": view.map_or_else(Vec::new, |view| origins(view, &of_type.type_url, name)),
        })
    });
    json!({
        "status": step_name(of_type.step),
        "sentAtMs": of_type.sent.map(millis),
        "acked": of_type.acked.map(|v| v.to_string()),
        "synced": in_sync.map(|v| v.to_string()),
        "error": of_type.error,
        "missing": of_type.missing.len(),
        "leftover": of_type.leftover,
        "removalsHeld": noted.map_or(0, |state| state.removals_held),
        "refused": refused.collect::<Vec<_>>(),
    })
}

/// The objects that made a resource, as `Kind/namespace/name`.
pub(super) fn origins(view: &ProxyView, type_url: &TypeUrl, name: &str) -> Vec<String> {
    let origins = view.origins(type_url, name);
    let mut objects: Vec<String> = origins
        .iter()
        .flat_map(|origins| origins.iter())
        .map(ToString::to_string)
        .collect();
    objects.sort_unstable();
    objects.dedup();
    objects
}

pub(super) fn state_name(state: ObjectState) -> &'static str {
    match state {
        ObjectState::Accepted => "accepted",
        ObjectState::Conflicting => "conflicting",
        ObjectState::Ignored => "ignored",
        ObjectState::Refused => "refused",
        ObjectState::KeptLastGood => "keptLastGood",
        ObjectState::Shadowed => "shadowed",
        ObjectState::Removed => "removed",
    }
}

/// The messages of faults by object, as `Kind/namespace/name`.
pub(super) fn held_back(faults: &[Fault]) -> HashMap<String, Vec<&str>> {
    let mut held_back: HashMap<String, Vec<&str>> = HashMap::default();
    for fault in faults {
        for origin in fault.origins.iter() {
            let held = held_back.entry(origin.to_string()).or_default();
            if held.last() != Some(&&*fault.message) {
                held.push(&fault.message);
            }
        }
    }
    held_back
}

/// `{"objects": [{"object", "source", "line", "state", "problems", "heldBack", "refusedBy", "warnings"}]}`:
/// `heldBack` says which of its newer resources proxies would refuse, `refusedBy` which they did,
/// `warnings` what is suspicious although it is valid.
pub(super) fn statuses(core: &Core) -> Value {
    let refusals = core.refusals();
    let faults = core.faults();
    let warnings = core.warnings();
    let mut refused_by: HashMap<&str, Vec<Value>> = HashMap::default();
    for (type_url, name, refused) in &refusals {
        let told = json!({
            "type": type_url.short(), "resource": &**name,
            "proxy": refused.node, "error": refused.error,
        });
        for origin in &refused.origins {
            refused_by.entry(origin).or_default().push(told.clone());
        }
    }
    let held_back = held_back(&faults);
    let objects = core.statuses().into_iter().map(|status| {
        let object = status.object.as_ref().map(ToString::to_string);
        let refused = object.as_deref().and_then(|object| refused_by.get(object));
        let refused = refused.map_or(&[] as &[Value], Vec::as_slice);
        let held = object.as_deref().and_then(|object| held_back.get(object));
        let held = held.map_or(&[] as &[&str], Vec::as_slice);
        let warned = object.as_ref().and_then(|object| warnings.get(object));
        json!({
            "object": object,
            "source": &*status.source,
            "line": status.line,
            "state": state_name(status.state),
            "problems": status.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "heldBack": held,
            "refusedBy": refused,
            "warnings": warned.map_or(&[] as &[String], Vec::as_slice),
        })
    });
    json!({ "objects": objects.collect::<Vec<_>>() })
}

/// `{"pushes": [{"number", "atMs", "proxy", "name", "type", "resources", "removed", "bytes"}]}`
pub(super) fn pushes(core: &Core, after: u64) -> Value {
    let pushes = core.pushes_after(after).into_iter().map(|push| {
        json!({
            "number": push.number,
            "atMs": millis(push.at),
            "proxy": push.node.id,
            "name": format!("{}.{}", push.node.name, push.node.namespace),
            "type": push.type_url.short(),
            "resources": push.resources,
            "removed": push.removed,
            "bytes": push.bytes,
        })
    });
    json!({ "pushes": pushes.collect::<Vec<_>>() })
}

/// `{"proxy", "resources": [{"type", "name", "version", "origins", "resource"}]}`: what a
/// connected proxy is to have, with the objects that made each resource.
pub(super) fn resources(core: &Core, connected: &Connected) -> Value {
    let view = core.view_of(&connected.proxy);
    let all = view.view.sets().flat_map(|set| {
        let type_url = set.type_url();
        set.iter().map(move |resource| (type_url, resource))
    });
    let resources = all.map(|(type_url, resource)| {
        let made_by = origins(&view, type_url, &resource.name);
        json!({
            "type": type_url.short(), "name": &*resource.name,
            "version": resource.version.to_string(),
            "origins": made_by,
            "resource": weft_proto::json::any_to_json(&shown(type_url, resource)),
        })
    });
    let resources: Vec<Value> = resources.collect();
    json!({ "proxy": connected.proxy.id, "resources": resources })
}

/// A resource as people may see it.
pub(crate) fn shown(type_url: &TypeUrl, resource: &Resource) -> weft_proto::Any {
    weft_proto::redact::redacted(&weft_proto::Any {
        type_url: type_url.as_str().to_owned(),
        value: resource.body.to_vec(),
    })
}
