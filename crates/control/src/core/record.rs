//! What is remembered of connections: pushes, and refusals with the objects behind them. Must
//! never change what is published.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use weft_sources::ObjectStatus;
use weft_xds::TypeUrl;

use super::{Connected, Core, Push, Refused};
use crate::graph::ProxyFacts;
use crate::node::Proxy;

/// Pushes that are remembered.
const PUSHES: usize = 1024;
/// Refusals by proxies that are remembered.
const REFUSALS: usize = 1024;

impl Core {
    pub(super) fn sent(
        &self,
        node: Arc<Proxy>,
        type_url: &TypeUrl,
        resources: usize,
        removed: usize,
        bytes: usize,
    ) {
        let mut by_type = self.by_type.lock();
        let counts = by_type.entry(type_url.clone()).or_default();
        counts.pushes += 1;
        counts.bytes += bytes as u64;
        drop(by_type);
        let number = self.next_push.fetch_add(1, Ordering::Relaxed);
        let push = Push {
            number,
            at: SystemTime::now(),
            node,
            type_url: type_url.clone(),
            resources,
            removed,
            bytes,
        };
        let mut pushes = self.pushes.lock();
        if pushes.len() >= PUSHES {
            pushes.pop_front();
        }
        pushes.push_back(push);
    }

    /// Drops refusals of contents that are no longer offered.
    pub(super) fn forget_repaired(&self, node: &str, facts: &ProxyFacts, type_url: &TypeUrl) {
        let mut refusals = self.refusals.lock();
        if refusals.is_empty() {
            return;
        }
        let view = self
            .writer
            .lock()
            .published
            .get(facts)
            .map(|p| Arc::clone(&p.view));
        refusals.retain(|(refused_type, name), refused| {
            let current = view.as_ref().and_then(|v| v.view.resource(type_url, name));
            refused_type != type_url
                || refused.node != node
                || current.is_some_and(|r| Some(r.version) == refused.version)
        });
    }

    /// Notes on the source objects what a proxy refused. The stream goes on without the resource,
    /// whose last accepted form stays in the proxy.
    pub(super) fn refused(
        &self,
        connected: &Connected,
        type_url: &TypeUrl,
        names: &[Arc<str>],
        error: &str,
    ) {
        self.by_type
            .lock()
            .entry(type_url.clone())
            .or_default()
            .rejects += 1;
        let view = {
            let writer = self.writer.lock();
            writer
                .published
                .get(&connected.facts)
                .map(|p| Arc::clone(&p.view))
        };
        let mut from = BTreeSet::new();
        let mut refusals = self.refusals.lock();
        for name in names {
            let origins = view.as_ref().and_then(|v| v.origins(type_url, name));
            let resource = view.as_ref().and_then(|v| v.view.resource(type_url, name));
            let refused = Refused {
                node: connected.proxy.id.clone(),
                error: error.to_owned(),
                version: resource.map(|r| r.version),
                origins: origins
                    .iter()
                    .flat_map(|o| o.iter())
                    .map(ToString::to_string)
                    .collect(),
            };
            from.extend(refused.origins.iter().cloned());
            refusals.insert((type_url.clone(), Arc::clone(name)), refused);
            while refusals.len() > REFUSALS {
                refusals.pop_first();
            }
        }
        drop(refusals);
        let objects = self.places(&from);
        let node = &connected.proxy.id;
        tracing::warn!(
            node,
            ?type_url,
            ?names,
            error,
            ?objects,
            "refused by a proxy"
        );
    }

    /// Where these objects are written: `file:line: Kind/namespace/name`.
    fn places(&self, objects: &BTreeSet<String>) -> Vec<String> {
        let statuses = self.statuses.lock();
        let place = |status: &ObjectStatus| {
            let object = status.object.as_ref()?.to_string();
            let place = format!("{}:{}: {object}", status.source, status.line);
            objects.contains(&object).then_some(place)
        };
        statuses.values().filter_map(place).collect()
    }
}
