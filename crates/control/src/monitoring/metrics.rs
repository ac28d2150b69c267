//! Metrics in Prometheus' text form. Must never change anything.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_model::ObjectKey;
use weft_xds::TypeUrl;

use crate::core::{Core, TypeCounts};

/// Metrics in Prometheus' text form, under istiod's names where it has one.
pub(super) fn metrics(core: &Core) -> String {
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
    for (name, kind, help, value) in samples.chain(crate::keys::metrics(core)) {
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
