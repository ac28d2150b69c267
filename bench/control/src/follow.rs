//! Which endpoints and routes a proxy asks for after it has clusters and listeners, as Envoy does.
//! Thousands of proxies get the same contents, so each is read once.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use parking_lot::Mutex;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use crate::wire::{Any, Resource};

/// What contents lead to, by content, and the names that all proxies share.
#[derive(Default)]
pub(crate) struct Known {
    links: Mutex<HashMap<u64, Arc<[Arc<str>]>>>,
    names: Mutex<HashMap<String, Arc<str>>>,
}

impl Known {
    /// The one copy of a text.
    pub(crate) fn shared(&self, text: &str) -> Arc<str> {
        let mut names = self.names.lock();
        if let Some(name) = names.get(text) {
            return Arc::clone(name);
        }
        let name: Arc<str> = text.into();
        names.insert(text.to_owned(), Arc::clone(&name));
        name
    }

    /// The name under which a cluster's endpoints are asked for, if they are.
    pub(crate) fn endpoints_of(&self, cluster: &Resource) -> Arc<[Arc<str>]> {
        self.links(cluster, |body| {
            let cluster = Cluster::decode(body).map_err(|error| error.to_string())?;
            let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds.into());
            if cluster.cluster_discovery_type != Some(eds) {
                return Ok(Vec::new());
            }
            let service = cluster.eds_cluster_config.map(|eds| eds.service_name);
            let name = service.filter(|name| !name.is_empty());
            Ok(vec![name.unwrap_or(cluster.name)])
        })
    }

    /// The route configurations that a listener names.
    pub(crate) fn routes_of(&self, listener: &Resource) -> Arc<[Arc<str>]> {
        self.links(listener, |body| {
            let listener = Listener::decode(body).map_err(|error| error.to_string())?;
            let chains = listener.filter_chains.iter();
            let chains = chains.chain(&listener.default_filter_chain);
            let mut routes: Vec<String> = chains.flat_map(routes_of_chain).collect();
            routes.sort();
            routes.dedup();
            Ok(routes)
        })
    }

    fn links(
        &self,
        resource: &Resource,
        read: impl FnOnce(&[u8]) -> Result<Vec<String>, String>,
    ) -> Arc<[Arc<str>]> {
        let key = xxh3_64(&resource.any);
        if let Some(links) = self.links.lock().get(&key) {
            return Arc::clone(links);
        }
        let any = Any::decode(resource.any.clone()).unwrap_or_default();
        let names = read(&any.value).unwrap_or_else(|error| {
            eprintln!("{}: {error}", resource.name);
            Vec::new()
        });
        let links: Arc<[Arc<str>]> = names.iter().map(|name| self.shared(name)).collect();
        self.links.lock().insert(key, Arc::clone(&links));
        links
    }
}

fn routes_of_chain(chain: &FilterChain) -> Vec<String> {
    let route = |config: &ConfigType| {
        let ConfigType::TypedConfig(any) = config else {
            return None;
        };
        if !any.type_url.ends_with("v3.HttpConnectionManager") {
            return None;
        }
        let manager = HttpConnectionManager::decode(any.value.as_slice()).ok()?;
        match manager.route_specifier? {
            RouteSpecifier::Rds(rds) => Some(rds.route_config_name),
            _ => None,
        }
    };
    let configs = chain.filters.iter().filter_map(|f| f.config_type.as_ref());
    configs.filter_map(route).collect()
}
