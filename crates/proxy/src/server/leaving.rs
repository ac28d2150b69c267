//! Clusters that the control plane has taken away while routes in force still lead to them.
//!
//! A new state-of-the-world stream does not know what this proxy has: its first clusters come
//! without those that only the old routes use, and the new routes come later. Taking the old
//! clusters away at once would fail every request in between. They stay until nothing leads to
//! them any more, within a bound. Must never keep a cluster that is not used.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_config::route::ClusterSpec;
use weft_config::{RouteAction, RouteConfig};

/// The longest that a cluster outlives its removal for the sake of routes.
const LINGER: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    until: BTreeMap<Arc<str>, Instant>,
}

impl Leaving {
    /// The control plane has taken this cluster away.
    pub(super) fn add(&mut self, name: &str) {
        self.until
            .entry(Arc::from(name))
            .or_insert_with(|| Instant::now() + LINGER);
    }

    /// The cluster is there again.
    pub(super) fn cancel(&mut self, name: &str) {
        self.until.remove(name);
    }

    /// When the next one has to go in any case.
    pub(super) fn next(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }

    /// Those that go now. `used` adds the names that something in force leads to; it is asked
    /// only if there is a cluster that could go.
    pub(super) fn take(&mut self, used: impl FnOnce(&mut HashSet<Arc<str>>)) -> Vec<Arc<str>> {
        if self.until.is_empty() {
            return Vec::new();
        }
        let (now, mut names) = (Instant::now(), HashSet::new());
        used(&mut names);
        let goes = |name: &Arc<str>, until: &Instant| *until <= now || !names.contains(name);
        let gone: Vec<_> = self
            .until
            .iter()
            .filter(|(n, u)| goes(n, u))
            .map(|(n, _)| Arc::clone(n))
            .collect();
        for name in &gone {
            self.until.remove(name);
        }
        gone
    }
}

/// Adds the clusters that routes name.
pub(super) fn clusters_of(routes: &RouteConfig, names: &mut HashSet<Arc<str>>) {
    for route in routes.virtual_hosts.iter().flat_map(|vhost| vhost.routes()) {
        let RouteAction::Forward(forward) = &route.action else {
            continue;
        };
        match &forward.cluster {
            ClusterSpec::Single(name) => {
                names.insert(Arc::clone(name));
            }
            ClusterSpec::Weighted { clusters, .. } => {
                names.extend(clusters.iter().map(|cluster| Arc::clone(&cluster.name)));
            }
            // Any name may come; none is waited for.
            ClusterSpec::Header(_) => {}
        }
        names.extend(
            forward
                .mirrors
                .iter()
                .map(|mirror| Arc::clone(&mirror.cluster)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(leaving: &mut Leaving, used: &[&str]) -> Vec<String> {
        let gone = leaving.take(|names| names.extend(used.iter().map(|name| Arc::from(*name))));
        gone.iter().map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_goes_when_nothing_leads_to_it_or_its_time_is_over() {
        let mut leaving = Leaving::default();
        for name in ["used", "unused", "back"] {
            leaving.add(name);
        }
        leaving.cancel("back");
        assert_eq!(taken(&mut leaving, &["used"]), ["unused"]);
        assert!(taken(&mut leaving, &["used"]).is_empty());
        let until = leaving.next().expect("one is left");
        tokio::time::sleep_until(until).await;
        assert_eq!(taken(&mut leaving, &["used"]), ["used"]);
        assert_eq!(leaving.next(), None);
    }
}
