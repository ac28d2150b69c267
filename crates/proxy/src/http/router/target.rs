//! Where a request goes, as its route and its filters decided.

use weft_config::Forward;
use weft_config::route::{ClusterSpec, Picked, WeightedCluster};

use crate::http::selection::Found;

/// The cluster that the route chose.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) name: Box<str>,
    pub(super) weighted: Option<usize>,
}

impl Choice {
    /// Remembers a choice without borrowing the route.
    pub(crate) fn new(picked: &Picked<'_>, forward: &Forward) -> Self {
        let weighted = match (&forward.cluster, picked.weighted) {
            (ClusterSpec::Weighted { clusters, .. }, Some(entry)) => {
                clusters.iter().position(|one| std::ptr::eq(one, entry))
            }
            _ => None,
        };
        Self {
            name: Box::from(picked.name),
            weighted,
        }
    }

    /// The entry of the route's weighted clusters.
    pub(crate) fn entry<'f>(&self, forward: &'f Forward) -> Option<&'f WeightedCluster> {
        match (&forward.cluster, self.weighted) {
            (ClusterSpec::Weighted { clusters, .. }, Some(index)) => clusters.get(index),
            _ => None,
        }
    }
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) found: Found,
    /// `None` when the header that names the cluster is missing.
    pub(crate) choice: Option<Choice>,
}
