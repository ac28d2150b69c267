//! Where one type stands, for people and tools. Never changes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::TypeState;
use crate::server::{Refusal, TypeStatus};
use crate::set::ResourceSet;

impl TypeState {
    /// Compared with `target`, the set of the newest view.
    pub(in crate::server) fn status(&self, target: &ResourceSet) -> TypeStatus {
        // What is no longer offered counts no longer, however it came to be refused.
        let offered = |(name, refusal): &(&Arc<str>, &Refusal)| {
            let resource = target.get(name);
            resource.is_some_and(|resource| resource.version == refusal.version)
        };
        let mut refused: Vec<_> = self
            .refused
            .iter()
            .filter(offered)
            .map(|(name, refusal)| (name.clone(), refusal.clone()))
            .collect();
        refused.sort_by(|a, b| a.0.cmp(&b.0));
        let (missing, leftover) = self.outstanding(target);
        TypeStatus {
            type_url: self.type_url.clone(),
            wildcard: self.wildcard,
            names: self.names.len(),
            in_sync: self.reported == Some(target.version()),
            in_flight: self.in_flight.is_some(),
            refused,
            missing,
            leftover,
        }
    }

    fn outstanding(&self, target: &ResourceSet) -> (Vec<Arc<str>>, usize) {
        let difference = self.base.difference(target);
        let changed = difference.changed.iter().map(|resource| &resource.name);
        let offered = self.in_flight.iter().flat_map(|answer| &answer.offered);
        let missing: BTreeSet<&Arc<str>> = changed
            .chain(&self.pending)
            .chain(offered.map(|(name, _)| name))
            .filter(|name| self.wants(name))
            .filter(|name| {
                target.get(name).is_some_and(|resource| {
                    let refusal = self.refused.get(*name);
                    refusal.is_none_or(|refusal| refusal.version != resource.version)
                })
            })
            .collect();
        let mut gone = difference.removed;
        gone.retain(|name| self.wants(name));
        let leftover = if self.type_url.is_removable() {
            gone.len().saturating_sub(self.removals.held)
        } else {
            0
        };
        (missing.into_iter().cloned().collect(), leftover)
    }
}
