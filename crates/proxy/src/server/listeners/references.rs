//! What listeners refer to: routes, secrets and clusters. Must never change a listener.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use prost::Message as _;
use weft_config::RouteSource;
use weft_config::filter_chain::{FilterChain, NetworkFilter};
use weft_config::rpc::RpcRouteSource;
use weft_config::tcp_proxy::TcpClusters;
use weft_proto::aeraki::meta_protocol_proxy::config::route::v1alpha::RouteConfiguration;
use weft_proto::aeraki::meta_protocol_proxy::v1alpha as rpc_pb;
use weft_proto::pb::envoy::config::listener::v3 as pb;

use super::{Entry, Listeners};
use crate::listener::ListenerSpec;
use crate::server::leaving::clusters_of;

/// What a listener needs before it may accept connections.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) routes: BTreeSet<String>,
    pub(crate) rpc_routes: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
}

/// How many listeners, live and warming, name routes, so that a change of one looks at no other.
#[derive(Debug, Default)]
pub(super) struct RouteUsers {
    http: HashMap<String, usize>,
    rpc: HashMap<String, usize>,
}

impl RouteUsers {
    fn add(&mut self, needs: &Needs) {
        for (users, routes) in [
            (&mut self.http, &needs.routes),
            (&mut self.rpc, &needs.rpc_routes),
        ] {
            for route in routes {
                *users.entry(route.clone()).or_default() += 1;
            }
        }
    }

    fn remove(&mut self, needs: &Needs) {
        for (users, routes) in [
            (&mut self.http, &needs.routes),
            (&mut self.rpc, &needs.rpc_routes),
        ] {
            for route in routes {
                let left = users.get_mut(route).map(|count| {
                    *count = count.saturating_sub(1);
                    *count
                });
                if left == Some(0) {
                    users.remove(route);
                }
            }
        }
    }
}

impl Listeners {
    /// What all listeners need together.
    pub(crate) fn needs(&self) -> Needs {
        let mut all = Needs::default();
        for entry in self.active.values().chain(self.warming.values()) {
            let needs = needs(&entry.spec.config);
            all.routes.extend(needs.routes);
            all.rpc_routes.extend(needs.rpc_routes);
            all.secrets.extend(needs.secrets);
        }
        all
    }

    /// Whether a listener names these RPC routes, so that what comes by the name is such.
    pub(crate) fn wants_rpc(&self, route: &str) -> bool {
        self.users.rpc.contains_key(route)
    }

    /// The same of HTTP routes.
    pub(crate) fn wants_http(&self, route: &str) -> bool {
        self.users.http.contains_key(route)
    }

    /// A name that would be one of HTTP routes and of RPC routes, if the listener `name` needed this: what
    /// comes by that name could not be both.
    pub(super) fn ambiguous<'a>(&self, wanted: &'a Needs, name: &str) -> Option<&'a str> {
        let both = wanted.routes.intersection(&wanted.rpc_routes).next();
        let own: Vec<Needs> = [self.active.get(name), self.warming.get(name)]
            .into_iter()
            .flatten()
            .map(|entry| needs(&entry.spec.config))
            .collect();
        let of_others = |users: &HashMap<String, usize>,
                         of: fn(&Needs) -> &BTreeSet<String>,
                         route: &String| {
            let own = own.iter().filter(|own| of(own).contains(route)).count();
            users.get(route).is_some_and(|all| *all > own)
        };
        let mut http = wanted.routes.iter();
        let http = http.find(|route| of_others(&self.users.rpc, |n| &n.rpc_routes, route));
        let mut rpc = wanted.rpc_routes.iter();
        let rpc = rpc.find(|route| of_others(&self.users.http, |n| &n.routes, route));
        both.or(http).or(rpc).map(String::as_str)
    }

    pub(super) fn put_active(&mut self, name: Arc<str>, entry: Entry) {
        self.users.add(&needs(&entry.spec.config));
        let old = self.active.insert(name, entry);
        self.forget(old.as_ref());
    }

    pub(super) fn put_warming(&mut self, name: Arc<str>, entry: Entry) {
        self.users.add(&needs(&entry.spec.config));
        let old = self.warming.insert(name, entry);
        self.forget(old.as_ref());
    }

    pub(super) fn take_active(&mut self, name: &str) -> Option<Entry> {
        let taken = self.active.remove(name);
        self.forget(taken.as_ref());
        taken
    }

    pub(super) fn take_warming(&mut self, name: &str) -> Option<Entry> {
        let taken = self.warming.remove(name);
        self.forget(taken.as_ref());
        taken
    }

    fn forget(&mut self, entry: Option<&Entry>) {
        if let Some(entry) = entry {
            self.users.remove(&needs(&entry.spec.config));
        }
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
                        if let RpcRouteSource::Inline(routes) = &rpc.routes {
                            names.extend(routes.clusters().map(Arc::clone));
                        }
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
            match filter {
                NetworkFilter::Http(http) => {
                    if let RouteSource::Rds(name) = &http.routes {
                        needs.routes.insert(name.to_string());
                    }
                }
                NetworkFilter::Rpc(rpc) => {
                    if let RpcRouteSource::Rds(name) = &rpc.routes {
                        needs.rpc_routes.insert(name.to_string());
                    }
                }
                NetworkFilter::TcpProxy(_) => {}
            }
        }
    }
    needs
}

impl Needs {
    /// Names of all routes.
    pub(crate) fn all_routes(&self) -> BTreeSet<String> {
        self.routes.union(&self.rpc_routes).cloned().collect()
    }
}

/// Whether two chains are the same but for the RPC routes inside of them and what stands before those,
/// which a connection does not keep.
pub(super) fn same_but_for_rpc(one: &pb::FilterChain, other: &pb::FilterChain) -> bool {
    one == other || matches!((bare(one), bare(other)), (Some(one), Some(other)) if one == other)
}

/// A chain without what may change in it while its connections stay; nothing if there is no such thing.
fn bare(chain: &pb::FilterChain) -> Option<pb::FilterChain> {
    use pb::filter::ConfigType;
    use rpc_pb::meta_protocol_proxy::RouteSpecifier;
    const MANAGER: &str = "aeraki.meta_protocol_proxy.v1alpha.MetaProtocolProxy";
    let mut chain = chain.clone();
    let Some(ConfigType::TypedConfig(any)) = &mut chain.filters.last_mut()?.config_type else {
        return None;
    };
    if any.type_url.rsplit('/').next() != Some(MANAGER) {
        return None;
    }
    let mut manager = rpc_pb::MetaProtocolProxy::decode(&any.value[..]).ok()?;
    if let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier {
        *routes = RouteConfiguration::default();
    }
    manager.meta_protocol_filters.clear();
    any.value = manager.encode_to_vec();
    Some(chain)
}

pub(super) fn replaced(old: &ListenerSpec, new: &ListenerSpec) -> Vec<u64> {
    let kept: BTreeSet<u64> = new.chains.values().map(|chain| chain.id).collect();
    let before = old.chains.values().map(|chain| chain.id);
    before.filter(|id| !kept.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_as_long_as_somebody_uses_them() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let needs = |http: &[&str], rpc: &[&str]| Needs {
            routes: set(http),
            rpc_routes: set(rpc),
            secrets: BTreeSet::new(),
        };
        let mut users = RouteUsers::default();
        let (one, other) = (needs(&["a", "b"], &["r"]), needs(&["a"], &[]));
        users.add(&one);
        users.add(&other);
        users.remove(&one);
        assert_eq!(users.http, [("a".to_owned(), 1)].into());
        assert!(users.rpc.is_empty());
        users.remove(&other);
        users.remove(&other);
        assert!(users.http.is_empty());
    }
}
