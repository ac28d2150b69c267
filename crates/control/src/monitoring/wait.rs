//! Whether the present state of objects is live: what `weft wait` asks until it is. Must never
//! change anything.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use weft_model::{Kind, Namespace, ObjectRef};
use weft_sources::{ObjectState, ObjectStatus};

use super::pages::{full_name, held_back, origins, state_name, step_name};
use super::query::Query;
use crate::core::{Concern, Connected, Core, Position, Step};
use crate::graph::ProxyView;

/// How long the files may take to be read again.
const REFRESH: Duration = Duration::from_secs(10);
/// Objects and files that one request may ask for.
pub(super) const MOST_ASKED: usize = 256;
/// Names of resources that are told for a proxy and type.
const NAMED: usize = 5;

/// What is asked: objects by name, and those of a file.
struct Asked {
    /// As `Kind/namespace/name`.
    objects: BTreeSet<String>,
    files: Vec<String>,
}

/// `{"refreshed", "objects": [{"object", "source", "line", "state", "waitsForKeys",
/// "problems", "heldBack"}],
/// "unknown": [names that are not configured], "unread": [files], "concerned": n, "proxies": [{"proxy",
/// "name", "types": [{"type", "status", "waiting": [names], "more": n, "refused":
/// [{"resource", "error"}]}]}]}`: of the proxies that the objects concern, those that have not
/// accepted what they made. With `refresh`, what was written before the request is known.
/// `unread` are the files asked for that are none of the watched ones. A file concerns every proxy,
/// since an object may have gone from it.
pub(super) async fn wait(core: &Core, query: &Query) -> Value {
    let refreshed = query.get("refresh").is_some() && core.refresh(REFRESH).await;
    let asked = Asked {
        objects: query.all("object").map(str::to_owned).collect(),
        files: query.all("file").map(str::to_owned).collect(),
    };
    let statuses = core.statuses();
    let sources: BTreeSet<&str> = statuses.iter().map(|status| &*status.source).collect();
    let (mut read, mut unread) = (BTreeSet::new(), Vec::new());
    for file in &asked.files {
        let mut all = sources.iter();
        if let Some(source) = all.find(|source| is_same_file(source, file)) {
            read.insert(*source);
        } else {
            unread.push(file);
        }
    }
    let of_file = |status: &ObjectStatus| read.contains(&*status.source);
    let picked: Vec<&ObjectStatus> = statuses
        .iter()
        .filter(|status| of_file(status) || names(status, &asked.objects))
        .collect();
    let known: BTreeSet<String> = picked
        .iter()
        .filter_map(|status| status.object.as_ref().map(ToString::to_string))
        .collect();
    let unknown: Vec<&String> = asked.objects.difference(&known).collect();
    let all: BTreeSet<String> = known.union(&asked.objects).cloned().collect();
    let concern = if read.is_empty() {
        concern(core, &all)
    } else {
        Concern::Any
    };
    let positions = core.positions(|c| concern.includes(c)).await;
    let behind = positions.iter().filter_map(|p| behind(core, p, &all));
    let behind: Vec<Value> = behind.collect();
    let faults = core.faults();
    let held_back = held_back(&faults);
    let without_keys = core.waiting_for_keys();
    let objects = picked.iter().map(|status| {
        let object = status.object.as_ref().map(ToString::to_string);
        let held = object.as_deref().and_then(|object| held_back.get(object));
        json!({
            "object": object,
            "source": &*status.source,
            "line": status.line,
            "state": state_name(status.state),
            "waitsForKeys": object.as_ref().is_some_and(|it| without_keys.contains(it)),
            "problems": status.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "heldBack": held.map_or(&[] as &[&str], Vec::as_slice),
        })
    });
    json!({
        "refreshed": refreshed,
        "objects": objects.collect::<Vec<_>>(),
        "unknown": unknown,
        "unread": unread,
        "concerned": positions.len(),
        "proxies": behind,
    })
}

/// Whether a request asks for more than is looked for at once.
pub(super) fn asks_too_much(query: &Query) -> bool {
    query.all("object").chain(query.all("file")).count() > MOST_ASKED
}

fn names(status: &ObjectStatus, wanted: &BTreeSet<String>) -> bool {
    let object = status.object.as_ref().map(ToString::to_string);
    status.state != ObjectState::Removed && object.is_some_and(|object| wanted.contains(&object))
}

/// Whether a watched file is this one, whatever way it was reached.
fn is_same_file(watched: &str, asked: &str) -> bool {
    if watched == asked {
        return true;
    }
    // Cheap first: most files have other names.
    let name = |path: &str| Path::new(path).file_name().map(ToOwned::to_owned);
    let real = |path: &str| std::fs::canonicalize(path).ok();
    name(watched) == name(asked) && real(watched).is_some_and(|it| Some(it) == real(asked))
}

fn concern(core: &Core, names: &BTreeSet<String>) -> Concern {
    let objects: Option<Vec<ObjectRef>> = names.iter().map(|name| parse(name)).collect();
    objects.map_or(Concern::Any, |objects| core.concern(&objects))
}

fn parse(name: &str) -> Option<ObjectRef> {
    let (kind, rest) = name.split_once('/')?;
    let (namespace, name) = rest.split_once('/')?;
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    Some(ObjectRef::new(kind, Namespace::new(namespace), name))
}

/// What a proxy has not accepted; nothing if it has all. A refusal counts if one of the objects
/// made the resource; what is on its way counts whatever made it, since an object may change
/// resources that do not name it.
fn behind(core: &Core, position: &Position, objects: &BTreeSet<String>) -> Option<Value> {
    let connected = &position.connected;
    if position.types.is_empty() && !connected.types.is_empty() {
        let silent = json!([{"type": "ADS", "status": "NO ANSWER", "waiting": [], "more": 0, "refused": []}]);
        return Some(entry(connected, &silent));
    }
    let view = core.published_view(connected);
    let types = position.types.iter().filter_map(|of_type| {
        let made = |view: &ProxyView, name: &str| {
            let from = origins(view, &of_type.type_url, name);
            from.iter().any(|origin| objects.contains(origin))
        };
        let refused: Vec<Value> = of_type
            .refused
            .iter()
            .filter(|(name, refusal)| {
                view.as_ref().is_none_or(|view| {
                    let present = view.view.resource(&of_type.type_url, name);
                    let is_present = present.is_some_and(|it| it.version == refusal.version);
                    is_present && made(view, name)
                })
            })
            .map(|(name, refusal)| json!({"resource": &**name, "error": &*refusal.error}))
            .collect();
        let is_moving = of_type.leftover > 0 || !of_type.missing.is_empty();
        if refused.is_empty() && !is_moving {
            return None;
        }
        let status = if refused.is_empty() && of_type.step == Step::Error {
            Step::Stale
        } else {
            of_type.step
        };
        let waiting: Vec<&str> = of_type.missing.iter().take(NAMED).map(|n| &**n).collect();
        Some(json!({
            "type": of_type.type_url.short(),
            "status": step_name(status),
            "more": of_type.missing.len() - waiting.len() + of_type.leftover,
            "waiting": waiting,
            "refused": refused,
        }))
    });
    let types: Vec<Value> = types.collect();
    (!types.is_empty()).then(|| entry(connected, &types.into()))
}

fn entry(connected: &Connected, types: &Value) -> Value {
    json!({ "proxy": connected.proxy.id, "name": full_name(connected), "types": types })
}
