//! Why a proxy has a resource, and what anybody would have. Must never change anything.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weft_model::ObjectRef;
use weft_sources::{Problem, Remark};
use weft_xds::TypeUrl;

use super::pages::{kind_name, shown};
use super::query::Query;
use crate::core::{Core, Explanation, Meant};

/// Names that a refusal suggests.
const SUGGESTED: usize = 20;

/// The types that are explained, by the names that people use.
const TYPES: [(&str, TypeUrl); 5] = [
    ("cluster", TypeUrl::CLUSTER),
    ("endpoint", TypeUrl::ENDPOINT),
    ("listener", TypeUrl::LISTENER),
    ("route", TypeUrl::ROUTE),
    ("secret", TypeUrl::SECRET),
];

/// `{"proxy", "connected", "type", "name", "version", "traced", "objects": [{"object", "made",
/// "source", "line", "fields": [{"path", "line"}]}], "heldBack": [..], "hosts": [{"name", "domains",
/// "objects", "routes": [{"name", "object", "path", "source", "line"}]}]}`, or why not. `made` says
/// that the object went into the resource; others were only looked at.
pub(super) fn explain(core: &Core, query: &Query) -> Result<Value, String> {
    let meant = meant(core, query)?;
    let kind = query.get("type").unwrap_or_default();
    let Some((_, type_url)) = TYPES.into_iter().find(|(name, _)| *name == kind) else {
        let all: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        return Err(format!("type: {kind:?} is none of {}", all.join(", ")));
    };
    let wanted = query.get("name").unwrap_or_default();
    let found = core.explain(&meant.proxy, &type_url, wanted);
    let explained = found.map_err(|near| {
        let names: Vec<&str> = near.iter().take(SUGGESTED).map(|name| &**name).collect();
        let more = near.len() - names.len();
        match (names.is_empty(), more) {
            (true, _) => format!("{} has no {kind} {wanted:?}", meant.proxy.id),
            (_, 0) => format!(
                "{wanted:?} is not one {kind}; there are: {}",
                names.join(", ")
            ),
            _ => format!(
                "{wanted:?} is not one {kind}; there are: {} and {more} more",
                names.join(", ")
            ),
        }
    })?;
    Ok(page(core, &meant, kind, &explained, query.get("host")))
}

fn meant(core: &Core, query: &Query) -> Result<Meant, String> {
    let wanted = query.get("proxyID").unwrap_or_default();
    core.meant(wanted).ok_or_else(|| {
        format!(
            "{wanted:?} is no connected proxy (node id or name.namespace), and no workload, service \
             (namespace/name), address or Gateway (gateway/namespace/name) of the configuration"
        )
    })
}

fn page(
    core: &Core,
    meant: &Meant,
    kind: &str,
    explained: &Explanation,
    host: Option<&str>,
) -> Value {
    let remark = |object: &ObjectRef, path: &str| Remark {
        object: object.clone(),
        path: path.to_owned(),
        message: String::new(),
    };
    let whole = explained.objects.keys().map(|object| remark(object, ""));
    let fields = explained.fields.iter();
    let remarks: Vec<Remark> = whole
        .chain(fields.map(|(object, path)| remark(object, path)))
        .collect();
    let placed = weft_sources::place(&core.statuses(), &remarks);
    let at = |object: &ObjectRef, path: &str| -> Option<&Problem> {
        let mut pairs = remarks.iter().zip(&placed);
        let found = pairs.find(|(remark, _)| remark.object == *object && remark.path == path);
        found.map(|(_, problem)| problem)
    };
    let place = |object: &ObjectRef, path: &str| {
        let problem = at(object, path);
        (
            problem.map(|p| p.source.to_string()),
            problem.map(|p| p.line),
        )
    };
    let objects = explained.objects.iter().map(|(object, made)| {
        let (source, line) = place(object, "");
        let own = explained.fields.iter().filter(|(of, _)| of == object);
        let fields = own.map(|(_, path)| json!({"path": path, "line": place(object, path).1}));
        json!({
            "object": object.to_string(), "made": made, "source": source, "line": line,
            "fields": fields.collect::<Vec<_>>(),
        })
    });
    let is_wanted = |name: &str, domains: &[String]| {
        host.is_none_or(|host| name.contains(host) || domains.iter().any(|d| d.contains(host)))
    };
    let hosts = explained
        .hosts
        .iter()
        .filter(|h| is_wanted(&h.name, &h.domains));
    let hosts = hosts.map(|host| {
        let routes = host.routes.iter().map(|route| {
            let from = route.from.as_ref();
            let (source, line) = from.map(|(o, p)| place(o, p)).unwrap_or_default();
            json!({
                "name": route.name, "object": from.map(|(o, _)| o.to_string()),
                "path": from.map(|(_, p)| p), "source": source, "line": line,
            })
        });
        json!({
            "name": host.name, "domains": host.domains,
            "objects": host.objects.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "routes": routes.collect::<Vec<_>>(),
        })
    });
    json!({
        "proxy": meant.proxy.id, "connected": meant.connected,
        "type": kind, "name": &*explained.name, "version": explained.version.to_string(),
        "traced": explained.traced,
        "objects": objects.collect::<Vec<_>>(),
        "heldBack": explained.faults.iter().map(|fault| &**fault).collect::<Vec<_>>(),
        "hosts": hosts.collect::<Vec<_>>(),
    })
}

/// `{"proxy", "name", "namespace", "kind", "connected", "ips", "principal", "heldBack": [..],
/// "resources": [{"type", "name", "body"}]}`, or why not: what a proxy has, or would have, as base64
/// of the messages, and what it has not got because of mistakes or keys that are not there.
pub(super) fn view(core: &Core, query: &Query) -> Result<Value, String> {
    let meant = meant(core, query)?;
    let view = core.view_of(&meant.proxy);
    let resources = view.view.sets().flat_map(|set| {
        let type_url = set.type_url();
        set.iter().map(move |resource| {
            let any = shown(type_url, resource);
            json!({
                "type": type_url.short(), "name": &*resource.name,
                "body": STANDARD.encode(&any.value),
            })
        })
    });
    let proxy = &meant.proxy;
    let held_back: BTreeSet<&str> = view.faults().map(|fault| &*fault.message).collect();
    Ok(json!({
        "proxy": proxy.id, "name": proxy.name, "namespace": proxy.namespace,
        "kind": kind_name(proxy.kind), "connected": meant.connected,
        "ips": proxy.ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "principal": meant.principal,
        "heldBack": held_back,
        "resources": resources.collect::<Vec<_>>(),
    }))
}

/// `{"host", "addresses", "ports"}` of the service that `host` means in `namespace`, or why not.
pub(super) fn address(core: &Core, query: &Query) -> Result<Value, String> {
    let host = query.get("host").unwrap_or_default();
    let namespace = query.get("namespace").unwrap_or("default");
    let called = core
        .called(host, namespace)
        .ok_or_else(|| format!("no service has the host {host:?} for callers of {namespace}"))?;
    let addresses = called.addresses.iter().map(ToString::to_string);
    Ok(json!({
        "host": called.host, "addresses": addresses.collect::<Vec<_>>(), "ports": called.ports,
    }))
}
