//! What listeners refer to: routes, secrets and clusters. Must never change a listener.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use weft_config::RouteSource;
use weft_config::filter_chain::{FilterChain, NetworkFilter};
use weft_config::tcp_proxy::TcpClusters;
use weft_proto::pb::envoy::config::listener::v3 as pb;

use super::Listeners;
use crate::listener::ListenerSpec;
use crate::server::leaving::clusters_of;

/// What a listener needs before it may accept connections.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) routes: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
}

impl Listeners {
    /// What all listeners need together.
    pub(crate) fn needs(&self) -> Needs {
        let mut all = Needs::default();
        for entry in self.active.values().chain(self.warming.values()) {
            let needs = needs(&entry.spec.config);
            all.routes.extend(needs.routes);
            all.secrets.extend(needs.secrets);
        }
        all
    }

    /// Adds the clusters that listeners themselves lead to: inline routes and raw TCP.
    pub(crate) fn clusters(&self, names: &mut HashSet<Arc<str>>) {
        for entry in self.active.values().chain(self.warming.values()) {
            for filter in chains(&entry.spec.config).flat_map(|chain| &chain.filters) {
                match filter {
                    NetworkFilter::Http(http) => {
                        if let RouteSource::Inline(routes) = &http.routes {
                            clusters_of(routes, names);
                        }
                    }
                    NetworkFilter::TcpProxy(tcp) => match &tcp.clusters {
                        TcpClusters::Single(name) => {
                            names.insert(Arc::clone(name));
                        }
                        TcpClusters::Weighted { clusters, .. } => {
                            names.extend(clusters.iter().map(|(name, _)| Arc::clone(name)));
                        }
                    },
                    NetworkFilter::Rpc(rpc) => {
                        names.extend(rpc.routes.clusters().map(Arc::clone));
                    }
                }
            }
        }
    }
}

pub(super) fn chains(config: &weft_config::Listener) -> impl Iterator<Item = &Arc<FilterChain>> {
    config.chains.chains.iter().chain(&config.chains.default)
}

pub(super) fn chain_messages(message: &pb::Listener) -> Vec<&pb::FilterChain> {
    message
        .filter_chains
        .iter()
        .chain(&message.default_filter_chain)
        .collect()
}

pub(super) fn needs(config: &weft_config::Listener) -> Needs {
    let mut needs = Needs::default();
    for chain in chains(config) {
        if let Some(tls) = &chain.tls {
            needs
                .secrets
                .extend(tls.context.secret_names().map(ToString::to_string));
        }
        for filter in &chain.filters {
            if let NetworkFilter::Http(http) = filter
                && let RouteSource::Rds(name) = &http.routes
            {
                needs.routes.insert(name.to_string());
            }
        }
    }
    needs
}

pub(super) fn replaced(old: &ListenerSpec, new: &ListenerSpec) -> Vec<u64> {
    let kept: BTreeSet<u64> = new.chains.values().map(|chain| chain.id).collect();
    let before = old.chains.values().map(|chain| chain.id);
    before.filter(|id| !kept.contains(id)).collect()
}
