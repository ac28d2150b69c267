//! Labels of workloads by namespace and address. Must never know what is derived from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::HashMap;
use weft_model::{EndpointAddress, Labels, ObjectRef, Workload};

use crate::engine::Engine;
use crate::generate::networks::NETWORK;
use crate::graph::{Key, Mesh, Value};

/// All workloads that have an IP address.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    at: HashMap<Key, BTreeMap<ObjectRef, Labels>>,
}

/// Its labels, among which as in Istio is its network.
fn labels(workload: &Workload) -> Labels {
    let mut labels = workload.labels.clone();
    if !workload.network.is_empty() && labels.get(NETWORK).is_none() {
        labels.insert(NETWORK, Arc::clone(&workload.network));
    }
    labels
}

impl Workloads {
    /// Tells the engine what an old and a new form of one workload leave at their addresses. Of
    /// several at one address, the first by kind and name counts.
    pub(super) fn exchange(
        &mut self,
        old: Option<&Arc<Workload>>,
        new: Option<&Arc<Workload>>,
        engine: &mut Engine<Mesh>,
    ) {
        let mut touched = Vec::new();
        for (workload, comes) in [(old, false), (new, true)] {
            let Some(workload) = workload else { continue };
            for ip in workload.addresses.iter().filter_map(EndpointAddress::ip) {
                let key = Key::WorkloadAt(workload.origin.namespace.clone(), ip);
                let at = self.at.entry(key.clone()).or_default();
                if comes {
                    at.insert(workload.origin.clone(), labels(workload));
                } else {
                    at.remove(&workload.origin);
                }
                touched.push(key);
            }
        }
        for key in touched {
            if let Some(labels) = self.at.get(&key).and_then(|at| at.values().next()) {
                engine.set(key, Value::Labels(labels.clone()));
            } else {
                self.at.remove(&key);
                engine.remove(&key);
            }
        }
    }
}
