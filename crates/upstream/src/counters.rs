//! What filters count about the requests to a cluster, beside the cluster's own statistics.

use std::cell::RefCell;
use std::sync::Arc;

use weft_core::counters::CounterGroup;

/// Counters of one worker's cluster by their prefix; there are as many as prefixes in the
/// configuration of filters that have been used.
#[derive(Debug, Default)]
pub(crate) struct FilterCounters(RefCell<Vec<(Arc<str>, Arc<CounterGroup>)>>);

impl FilterCounters {
    /// Those of a prefix; `register` gets new ones.
    pub(crate) fn get(
        &self,
        prefix: &Arc<str>,
        names: &'static [&'static str],
        register: impl FnOnce(&Arc<CounterGroup>),
    ) -> Arc<CounterGroup> {
        let mut kept = self.0.borrow_mut();
        if let Some((_, group)) = kept.iter().find(|(known, _)| known == prefix) {
            return Arc::clone(group);
        }
        let group = Arc::new(CounterGroup::new(prefix, names));
        register(&group);
        kept.push((Arc::clone(prefix), Arc::clone(&group)));
        group
    }
}
