//! The control plane without sockets: YAML in, decoded resources out.

mod accepted;
mod addresses;
mod apply;
mod balancing;
mod clashes;
mod cors;
mod credentials;
mod delegate;
mod discovery;
mod dynamic_dns;
mod envoy_filters;
mod gateway_conflicts;
mod gateway_secrets;
mod gateway_streams;
mod held_back;
mod localities;
mod merged_rules;
mod mutation;
mod networks;
mod oracle;
mod oracle_gateways;
mod oracle_patches;
mod passthrough;
mod resources;
mod rpc;
mod rpc_bridge;
mod rpc_meta_router;
mod rpc_policies;
mod security;
mod short_names;
mod sidecars;
mod speed;
mod streams;
mod telemetry;
mod workloads;
mod worlds;

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use weft_model::MeshSettings;
use weft_sources::FileStore;
use weft_xds::{TypeUrl, View};

use crate::graph::{Key, ProxyFacts, ProxyView, Value};
use crate::node::Proxy;
use crate::pb::core::v3::Node;
use crate::pb::protobuf::{Struct, Value as PbValue, value::Kind};
use crate::pb::{cluster, endpoint, hcm, listener, route, tls};
use crate::world::World;

/// A mesh that is described by one YAML text, and edited by others.
pub(crate) struct Mesh {
    store: FileStore,
    pub(crate) world: World,
}

impl Mesh {
    pub(crate) fn new(yaml: &str) -> Self {
        Self::with(MeshSettings::default(), yaml)
    }

    pub(crate) fn with(settings: MeshSettings, yaml: &str) -> Self {
        let mut mesh = Self {
            store: FileStore::new(settings.clone()),
            world: World::new(settings),
        };
        mesh.edit("mesh.yaml", yaml);
        mesh
    }

    /// Writes a file and settles; returns how many proxies got another view.
    pub(crate) fn edit(&mut self, file: &str, yaml: &str) -> usize {
        let update = self.store.apply(file, Some(yaml));
        for status in &update.statuses {
            assert!(status.problems.is_empty(), "{:?}", status.problems);
        }
        self.world.apply(&update.changes);
        self.world.engine.settle().len()
    }

    /// Writes the file of networks and settles; returns how many proxies got another view.
    pub(crate) fn networks(&mut self, yaml: &str) -> usize {
        let update = self.store.apply_networks("networks.yaml", Ok(yaml));
        for status in &update.statuses {
            assert!(status.problems.is_empty(), "{:?}", status.problems);
        }
        self.world.apply(&update.changes);
        self.world.engine.settle().len()
    }

    pub(crate) fn view(&mut self, proxy: &Proxy) -> Arc<ProxyView> {
        let key = Key::ProxyView(Arc::new(ProxyFacts::of(proxy)));
        match self.world.engine.pin(&key) {
            Value::ProxyView(view) => view,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn config(&mut self, proxy: &Proxy) -> Config {
        Config(self.view(proxy).view.clone())
    }
}

/// A view, decoded on demand.
pub(crate) struct Config(pub(crate) View);

impl Config {
    pub(crate) fn names(&self, type_url: &TypeUrl) -> Vec<String> {
        let set = self.0.get(type_url).expect("a set of the type");
        let mut names: Vec<String> = set.iter().map(|r| r.name.to_string()).collect();
        names.sort();
        names
    }

    fn get<M: Message + Default>(&self, type_url: &TypeUrl, name: &str) -> M {
        let resource = self.0.resource(type_url, name);
        let resource = resource.unwrap_or_else(|| {
            panic!("no {name} among {:?}", self.names(type_url));
        });
        M::decode(resource.body.to_bytes()).expect("a valid message")
    }

    pub(crate) fn cluster(&self, name: &str) -> cluster::v3::Cluster {
        self.get(&TypeUrl::CLUSTER, name)
    }

    pub(crate) fn endpoints(&self, name: &str) -> endpoint::v3::ClusterLoadAssignment {
        self.get(&TypeUrl::ENDPOINT, name)
    }

    pub(crate) fn listener(&self, name: &str) -> listener::v3::Listener {
        self.get(&TypeUrl::LISTENER, name)
    }

    pub(crate) fn secret(&self, name: &str) -> tls::Secret {
        self.get(&TypeUrl::SECRET, name)
    }

    pub(crate) fn route(&self, name: &str) -> route::v3::RouteConfiguration {
        self.get(&TypeUrl::ROUTE, name)
    }

    pub(crate) fn host(&self, route: &str, host: &str) -> route::v3::VirtualHost {
        let configuration = self.route(route);
        let names: Vec<_> = configuration
            .virtual_hosts
            .iter()
            .map(|h| h.name.clone())
            .collect();
        let mut hosts = configuration.virtual_hosts.into_iter();
        hosts
            .find(|h| h.name == host)
            .unwrap_or_else(|| panic!("no {host} among {names:?}"))
    }
}

/// Cluster → weight of a route.
pub(crate) fn split(route: &route::v3::Route) -> BTreeMap<String, u32> {
    use route::v3::{route::Action, route_action::ClusterSpecifier};
    let Some(Action::Route(action)) = &route.action else {
        panic!("{route:?} does not forward")
    };
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => BTreeMap::from([(name.clone(), 100)]),
        Some(ClusterSpecifier::WeightedClusters(all)) => all
            .clusters
            .iter()
            .map(|c| (c.name.clone(), c.weight.as_ref().map_or(0, |w| w.value)))
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// The connection manager of a chain.
pub(crate) fn manager(chain: &listener::v3::FilterChain) -> hcm::HttpConnectionManager {
    let filter = chain.filters.first().expect("a filter");
    let Some(listener::v3::filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        panic!("no configuration in {}", filter.name)
    };
    assert!(
        any.type_url.ends_with("HttpConnectionManager"),
        "{}",
        any.type_url
    );
    hcm::HttpConnectionManager::decode(&any.value[..]).expect("a valid message")
}

pub(crate) fn proxy(id: &str, metadata: &[(&str, &str)]) -> Proxy {
    Proxy::parse(&node(id, metadata)).expect("a valid node")
}

fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
    let text = |v: &str| PbValue {
        kind: Some(Kind::StringValue(v.to_owned())),
    };
    let fields = metadata
        .iter()
        .map(|(k, v)| ((*k).to_owned(), text(v)))
        .collect();
    Node {
        id: id.to_owned(),
        metadata: Some(Struct { fields }),
        ..Node::default()
    }
}

/// A proxy of this mesh.
pub(crate) fn weft(id: &str, metadata: &[(&str, &str)]) -> Proxy {
    let mut node = node(id, metadata);
    "weft".clone_into(&mut node.user_agent_name);
    Proxy::parse(&node).expect("a valid node")
}

pub(crate) fn sidecar(ip: &str, namespace: &str) -> Proxy {
    proxy(
        &format!("sidecar~{ip}~app.{namespace}~{namespace}.svc.cluster.local"),
        &[],
    )
}

pub(crate) fn gateway() -> Proxy {
    proxy(
        "router~10.9.9.9~gw.infra~infra.svc.cluster.local",
        &[("LABELS", r#"{"istio":"ingressgateway"}"#)],
    )
}

pub(crate) fn grpc(namespace: &str) -> Proxy {
    let id = format!("sidecar~10.8.8.8~client.{namespace}~{namespace}.svc.cluster.local");
    proxy(&id, &[("GENERATOR", "grpc")])
}
