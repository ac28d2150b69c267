//! Metrics in Prometheus' text form. Must never change anything.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_model::ObjectKey;
use weft_xds::TypeUrl;

use crate::ca;
use crate::core::{Core, Distribution, TypeCounts, registration};

/// Metrics in Prometheus' text form, under istiod's names where it has one.
pub(super) fn metrics(core: &Core) -> String {
    let mut out = Metrics(String::new());
    let connected = core.connected();
    let mut versions: BTreeMap<&str, u64> = BTreeMap::new();
    for proxy in &connected {
        let version = proxy.proxy.version.as_deref().unwrap_or_default();
        *versions.entry(version).or_default() += 1;
    }
    let versions = versions.iter().map(|(version, count)| {
        let version = version.replace(['\\', '"', '\n'], "_");
        (format!("{{version=\"{version}\"}}"), *count)
    });
    let versions: Vec<(String, u64)> = versions.collect();
    out.put("pilot_xds", "gauge", "Connected proxies.", &versions);
    let own = format!("{{version=\"weft-{}\"}}", env!("CARGO_PKG_VERSION"));
    out.put("pilot_info", "gauge", "This control plane.", &[(own, 1)]);
    let by_type = core.by_type.lock().clone();
    let typed = |of: fn(&TypeCounts) -> u64| -> Vec<(String, u64)> {
        by_type
            .iter()
            .map(|(t, counts)| (format!("{{{}}}", label(t)), of(counts)))
            .collect()
    };
    for (name, help, of) in [
        (
            "pilot_xds_pushes",
            "Answers sent, by type.",
            (|c| c.pushes) as fn(&TypeCounts) -> u64,
        ),
        ("weft_xds_push_bytes", "Bytes of resources sent.", |c| {
            c.bytes
        }),
        (
            "pilot_total_xds_rejects",
            "Answers refused by proxies, by type.",
            |c| c.rejects,
        ),
        (
            "pilot_xds_expired_nonce",
            "Requests with the nonce of an answer that is not the latest.",
            |c| c.stale_nonces,
        ),
    ] {
        out.put(name, "counter", help, &typed(of));
    }
    updates(core, &mut out);
    times(core, &mut out);
    let samples = objects(core).into_iter().chain(work(core));
    let samples = samples.chain(crate::keys::metrics(core));
    let samples = samples.chain(registration::metrics(core));
    for (name, kind, help, value) in samples.chain(crate::gateway_names::metrics(core)) {
        out.put(name, kind, help, &[(String::new(), value)]);
    }
    for (name, kind, help, values) in core.desk.get().iter().flat_map(|desk| ca::metrics(desk)) {
        out.put(name, kind, help, &values);
    }
    out.0
}

fn label(type_url: &TypeUrl) -> String {
    format!("type=\"{}\"", type_url.short().to_lowercase())
}

fn updates(core: &Core, out: &mut Metrics) {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let updates = &core.updates;
    let kinds = [
        ("config", &updates.config),
        ("eds", &updates.endpoints),
        ("svc", &updates.services),
        ("svcdelete", &updates.services_gone),
    ];
    let samples = kinds.map(|(kind, count)| (format!("{{type=\"{kind}\"}}"), load(count)));
    let help = "Objects that changed, by what they are.";
    out.put("pilot_inbound_updates", "counter", help, &samples);
    let help = "Objects that were refused, each time that they were read.";
    let refused = [(String::new(), load(&updates.refused))];
    out.put("pilot_total_rejected_configs", "counter", help, &refused);
    let up = [(String::new(), core.started.elapsed().as_secs())];
    out.put("istiod_uptime_seconds", "gauge", "Since the start.", &up);
}

/// Times and sizes as histograms.
fn times(core: &Core, out: &mut Metrics) {
    let latency = &core.latency;
    out.histogram(
        "pilot_proxy_convergence_time",
        "Seconds from an event of the source until a proxy has accepted all that follows from it.",
        [(String::new(), &latency.convergence)],
    );
    out.histogram(
        "pilot_debounce_time",
        "Seconds from an event of the source until it is worked on.",
        [(String::new(), &latency.debounce)],
    );
    let by_type = latency.by_type.lock();
    out.histogram(
        "weft_xds_convergence_time",
        "Seconds from an event until a proxy has accepted what follows from it, by type.",
        by_type.iter().map(|(t, own)| (label(t), &**own)),
    );
    drop(by_type);
    let sizes = latency.sizes.lock();
    out.histogram(
        "pilot_xds_config_size_bytes",
        "Bytes of resources of an answer, by type.",
        sizes.iter().map(|(t, own)| (label(t), &**own)),
    );
}

/// Name, kind, help and value.
type Sample = (&'static str, &'static str, &'static str, u64);

fn objects(core: &Core) -> [Sample; 7] {
    let count = |kind: fn(&ObjectKey) -> bool| core.count(kind) as u64;
    let services = count(|k| matches!(k, ObjectKey::Service(_)));
    let virtuals = count(
        |k| matches!(k, ObjectKey::VirtualService(rule) if rule.kind == weft_model::Kind::VirtualService),
    );
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

    /// `labels` are without braces.
    fn histogram<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, &'a Distribution)>,
    ) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (labels, distribution) in samples {
            let (buckets, sum) = distribution.read();
            let comma = if labels.is_empty() { "" } else { "," };
            for (end, count) in &buckets {
                let end = if end.is_finite() {
                    end.to_string()
                } else {
                    "+Inf".to_owned()
                };
                let _ = writeln!(
                    self.0,
                    "{name}_bucket{{{labels}{comma}le=\"{end}\"}} {count}"
                );
            }
            let braced = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{labels}}}")
            };
            let all = buckets.last().map_or(0, |(_, count)| *count);
            let _ = writeln!(
                self.0,
                "{name}_sum{braced} {sum}\n{name}_count{braced} {all}"
            );
        }
    }
}
