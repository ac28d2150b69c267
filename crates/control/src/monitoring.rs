//! The monitoring server: readiness, metrics under istiod's names, who is connected and in step,
//! what was pushed to whom, and the status of every object. Must never change anything.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ahash::HashMap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use weft_core::drain::DrainSignal;
use weft_model::ObjectKey;
use weft_proto::json::any_to_json;
use weft_proto::redact::redact;
use weft_sources::ObjectState;
use weft_xds::{Resource, TypeUrl};

use crate::core::{Connected, Core, TypeCounts};
use crate::keys;
use crate::node::ProxyKind;

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 128;
/// Time for a client to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

/// Serves until the drain signal comes.
pub(crate) async fn serve(listener: TcpListener, core: Arc<Core>, drain: DrainSignal) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.wait() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely; a pause lets some come back.
                tracing::warn!(%error, "monitoring: accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let core = Arc::clone(&core);
        let drain = drain.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&core, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // A client that breaks off has ended its connection; there is no one to tell.
                _ = connection => {}
                () = drain.wait() => {}
            }
            drop(permit);
        });
    }
}

fn answer(core: &Core, request: &Request<Incoming>) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is served here\n".to_owned(),
        );
    }
    let query = |name: &str| {
        let pairs = request.uri().query().unwrap_or_default().split('&');
        pairs
            .filter_map(|p| p.split_once('='))
            .find(|(k, _)| *k == name)
            .map(|(_, v)| v.to_owned())
    };
    match request.uri().path() {
        "/ready" if core.is_ready() => text(StatusCode::OK, "ready\n".to_owned()),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        "/version" => text(
            StatusCode::OK,
            concat!(env!("CARGO_PKG_VERSION"), "\n").to_owned(),
        ),
        "/metrics" => text(StatusCode::OK, metrics(core)),
        "/debug/syncz" => json_answer(&syncz(core)),
        "/debug/status" => json_answer(&statuses(core)),
        "/debug/pushes" => {
            let after = query("after").and_then(|n| n.parse().ok()).unwrap_or(0);
            json_answer(&pushes(core, after))
        }
        "/debug/config_dump" => match config_dump(core, query("proxyID").as_deref()) {
            Some(dump) => json_answer(&dump),
            None => text(
                StatusCode::NOT_FOUND,
                "no such proxy is connected; give ?proxyID=<node id or name.namespace>\n"
                    .to_owned(),
            ),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "served here: /ready /version /metrics /debug/syncz /debug/status /debug/pushes \
             /debug/config_dump?proxyID=\n"
                .to_owned(),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn json_answer(value: &Value) -> Answer {
    let mut response = Response::new(Full::from(format!("{value:#}\n")));
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn millis(at: SystemTime) -> u64 {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn kind_name(kind: ProxyKind) -> &'static str {
    match kind {
        ProxyKind::Sidecar => "sidecar",
        ProxyKind::Gateway => "router",
        ProxyKind::Grpc => "grpc",
    }
}

/// `{"proxies": [{"proxy", "kind", "mode", "types": {"CDS": {"acked", "synced", "error", "removalsHeld"}}}]}`
fn syncz(core: &Core) -> Value {
    let proxies = core.connected().into_iter().map(|connected: Connected| {
        let types: serde_json::Map<String, Value> = connected
            .types
            .iter()
            .map(|(type_url, state)| {
                let version = |v: Option<weft_xds::Version>| v.map(|v| v.to_string());
                let value = json!({
                    "acked": version(state.acked),
                    "synced": version(state.in_sync),
                    "error": state.error,
                    "removalsHeld": state.removals_held,
                });
                (type_url.short().to_owned(), value)
            })
            .collect();
        json!({
            "proxy": connected.proxy.id,
            "name": format!("{}.{}", connected.proxy.name, connected.proxy.namespace),
            "kind": kind_name(connected.proxy.kind),
            "mode": format!("{:?}", connected.mode),
            "agent": connected.proxy.agent,
            "connectedAtMs": millis(connected.since),
            "types": types,
        })
    });
    json!({ "proxies": proxies.collect::<Vec<_>>() })
}

fn state_name(state: ObjectState) -> &'static str {
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

/// `{"objects": [{"object", "source", "line", "state", "problems", "heldBack", "refusedBy", "warnings"}]}`:
/// `heldBack` says which of its newer resources proxies would refuse, `refusedBy` which they did,
/// `warnings` what is suspicious although it is valid.
fn statuses(core: &Core) -> Value {
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
    let mut held_back: HashMap<String, Vec<&str>> = HashMap::default();
    for fault in &faults {
        for origin in fault.origins.iter() {
            let held = held_back.entry(origin.to_string()).or_default();
            if held.last() != Some(&&*fault.message) {
                held.push(&fault.message);
            }
        }
    }
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
fn pushes(core: &Core, after: u64) -> Value {
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

/// What a connected proxy is to have, with the objects that made each resource.
fn config_dump(core: &Core, wanted: Option<&str>) -> Option<Value> {
    let wanted = wanted?.replace("%7E", "~").replace("%7e", "~");
    let connected = core.connected().into_iter().find(|c| {
        c.proxy.id == wanted || format!("{}.{}", c.proxy.name, c.proxy.namespace) == wanted
    })?;
    let view = core.view_of(&connected.proxy);
    let resources = view.view.sets().flat_map(|set| {
        let type_url = set.type_url().clone();
        let view = &view;
        set.iter().map(move |resource| {
            let origins = view.origins(&type_url, &resource.name);
            let origins: Vec<String> = origins
                .iter()
                .flat_map(|o| o.iter())
                .map(ToString::to_string)
                .collect();
            json!({
                "type": type_url.short(), "name": &*resource.name,
                "version": resource.version.to_string(),
                "origins": origins, "resource": shown(&type_url, resource),
            })
        })
    });
    Some(json!({ "proxy": connected.proxy.id, "resources": resources.collect::<Vec<_>>() }))
}

/// A resource as people may see it.
pub(crate) fn shown(type_url: &TypeUrl, resource: &Resource) -> Value {
    let any = weft_proto::Any {
        type_url: type_url.as_str().to_owned(),
        value: resource.body.to_vec(),
    };
    let mut shown = any_to_json(&any);
    redact(&mut shown);
    shown
}

/// Metrics in Prometheus' text form, under istiod's names where it has one.
fn metrics(core: &Core) -> String {
    let mut out = Metrics(String::new());
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let version = format!("{{version=\"weft-{}\"}}", env!("CARGO_PKG_VERSION"));
    let active = load(&core.ads.streams_active);
    out.put(
        "pilot_xds",
        "gauge",
        "Connected proxies.",
        &[(version, active)],
    );
    let by_type = core.by_type.lock().clone();
    let typed = |of: fn(&TypeCounts) -> u64| -> Vec<(String, u64)> {
        let label = |t: &TypeUrl| format!("{{type=\"{}\"}}", t.short().to_lowercase());
        by_type
            .iter()
            .map(|(t, counts)| (label(t), of(counts)))
            .collect()
    };
    out.put(
        "pilot_xds_pushes",
        "counter",
        "Answers sent, by type.",
        &typed(|c| c.pushes),
    );
    out.put(
        "weft_xds_push_bytes",
        "counter",
        "Bytes of resources sent.",
        &typed(|c| c.bytes),
    );
    out.put(
        "weft_xds_rejects",
        "counter",
        "Answers refused, by type.",
        &typed(|c| c.rejects),
    );
    let rejects = by_type.values().map(|c| c.rejects).sum();
    out.put(
        "pilot_total_xds_rejects",
        "counter",
        "Answers refused by proxies.",
        &[(String::new(), rejects)],
    );
    let samples = objects(core).into_iter().chain(work(core));
    for (name, kind, help, value) in samples.chain(keys::metrics(core)) {
        out.put(name, kind, help, &[(String::new(), value)]);
    }
    out.0
}

/// Name, kind, help and value.
type Sample = (&'static str, &'static str, &'static str, u64);

fn objects(core: &Core) -> [Sample; 7] {
    let count = |kind: fn(&ObjectKey) -> bool| core.count(kind) as u64;
    let services = count(|k| matches!(k, ObjectKey::Service(_)));
    let virtuals = count(|k| matches!(k, ObjectKey::VirtualService(_)));
    let destinations = count(|k| matches!(k, ObjectKey::DestinationRule(_)));
    let statuses = core.statuses();
    let bad = statuses.iter().filter(|s| !s.problems.is_empty()).count() as u64;
    let held = core.faults().len() as u64;
    let (suspicious, looks) = core.analysis_counts();
    [
        ("pilot_services", "gauge", "Known services.", services),
        (
            "pilot_virt_services",
            "gauge",
            "Known VirtualServices.",
            virtuals,
        ),
        (
            "weft_destination_rules",
            "gauge",
            "Known DestinationRules.",
            destinations,
        ),
        (
            "weft_objects_with_problems",
            "gauge",
            "Objects with problems.",
            bad,
        ),
        (
            "weft_resources_held_back",
            "gauge",
            "Invalid pieces held back.",
            held,
        ),
        (
            "weft_config_warnings",
            "gauge",
            "What is suspicious in valid objects, those included that are not kept.",
            suspicious,
        ),
        (
            "weft_config_analyses",
            "counter",
            "Looks for what is suspicious.",
            looks,
        ),
    ]
}

fn work(core: &Core) -> [Sample; 14] {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let engine = core.engine_counters();
    let nodes = core.engine_size() as u64;
    let (acks, resumed) = (load(&core.ads.acks), load(&core.ads.resumed));
    let connected = core.connected();
    let held = connected.iter().flat_map(|c| c.types.values());
    let held: usize = held.map(|state| state.removals_held).sum();
    [
        ("weft_xds_acks", "counter", "Answers accepted.", acks),
        (
            "weft_xds_resumed",
            "counter",
            "Types resumed without sending a resource.",
            resumed,
        ),
        (
            "weft_xds_connections_refused",
            "counter",
            "Connections closed because there are too many.",
            load(&core.ads.connections_refused),
        ),
        (
            "weft_xds_sent_bytes",
            "counter",
            "Encoded bytes of answers sent.",
            load(&core.ads.response_bytes),
        ),
        (
            "weft_xds_streams_aged",
            "counter",
            "Streams ended for their age.",
            load(&core.ads.streams_aged),
        ),
        (
            "weft_xds_streams_refused",
            "counter",
            "Streams refused or ended for a bound or a bad request.",
            load(&core.ads.streams_refused),
        ),
        (
            "weft_xds_removals_held",
            "gauge",
            "Removals held back, since a proxy may need what is gone.",
            held as u64,
        ),
        (
            "weft_xds_removals_forced",
            "counter",
            "Removals held for too long by too many refusals, and sent.",
            load(&core.ads.removals_forced),
        ),
        (
            "weft_config_batches",
            "counter",
            "Batches applied.",
            load(&core.batches),
        ),
        (
            "weft_engine_edits",
            "counter",
            "Source values that changed.",
            engine.edits,
        ),
        (
            "weft_engine_no_op_edits",
            "counter",
            "Writes without change.",
            engine.no_op_edits,
        ),
        (
            "weft_engine_computed",
            "counter",
            "Nodes computed.",
            engine.computed,
        ),
        (
            "weft_engine_cut_off",
            "counter",
            "Computations without change.",
            engine.cut_off,
        ),
        ("weft_engine_nodes", "gauge", "Nodes alive.", nodes),
    ]
}

struct Metrics(String);

impl Metrics {
    fn put(&mut self, name: &str, kind: &str, help: &str, samples: &[(String, u64)]) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}
