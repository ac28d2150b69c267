//! The resources that are in force: how a listener, cluster, endpoint, route or secret of the
//! bootstrap or of the control plane takes effect, or why it does not.
//!
//! A refused resource changes nothing: its last good form stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use weft_config::rpc::RpcRoutes;
use weft_config::secret::AGENT_SECRETS;
use weft_config::{
    Bootstrap, Cluster, ConfigError, Context, DataSource, Discovery, IgnoredField, Listener,
    LoadAssignment, Loaded, Problem, RouteAction, RouteConfig, Secret,
};
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap as BootstrapMessage;
use weft_proto::pb::envoy::config::cluster::v3::Cluster as ClusterMessage;
use weft_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use weft_proto::pb::envoy::config::listener::v3::Listener as ListenerMessage;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret as SecretMessage;
use weft_upstream::{ClusterStore, Secrets};
use weft_xds::TypeUrl;

use super::certificate_files::CertificateFiles;
use super::leaving::{self, Leaving};
use super::listeners::{Listeners, Origin};
use super::own_identity;
use crate::admin::{AdminState, Kind};
use crate::http::file_bodies::FileBodies;
use crate::routes::RouteTable;
use crate::stats::{ClusterManagerStats, XdsStats};

/// See the module.
pub(super) struct Resources {
    pub(super) context: Context,
    pub(super) listeners: Listeners,
    pub(super) clusters: Arc<ClusterStore>,
    pub(super) leaving: Leaving,
    pub(super) routes: Arc<RouteTable>,
    pub(super) files: Arc<FileBodies>,
    pub(super) admin: Arc<AdminState>,
    pub(super) xds: Arc<XdsStats>,
    pub(super) clusters_stats: Arc<ClusterManagerStats>,
    pub(super) kept: Kept,
    pub(super) certificate_files: CertificateFiles,
}

/// Which resources may go when nothing refers to them any more.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Route configurations of the control plane, with their versions.
    routes: BTreeMap<String, (String, Bytes)>,
    /// Secrets of the bootstrap and of this process itself, which never go: nobody would send them
    /// again.
    static_secrets: BTreeSet<String>,
}

impl Kept {
    /// `agent`: this process has secrets of its own.
    pub(super) fn new(agent: bool) -> Self {
        let own = AGENT_SECRETS.iter().filter(|_| agent);
        Self {
            static_secrets: own.map(ToString::to_string).collect(),
            ..Self::default()
        }
    }
}

/// Names of what other resources refer to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    pub(super) endpoints: BTreeSet<String>,
    pub(super) routes: BTreeSet<String>,
    pub(super) secrets: BTreeSet<String>,
}

impl Resources {
    /// Puts the static resources of the bootstrap in force.
    ///
    /// # Errors
    /// What is wrong, for the operator: a process that cannot have its static listeners does
    /// not start.
    pub(super) async fn start(
        &mut self,
        message: BootstrapMessage,
        bootstrap: Bootstrap,
    ) -> Result<(), String> {
        for secret in &bootstrap.secrets {
            self.clusters.apply_secret(Arc::clone(secret));
            self.kept.static_secrets.insert(secret.name.to_string());
        }
        let resources = message.static_resources.unwrap_or_default();
        for (cluster, message) in bootstrap.clusters.iter().zip(resources.clusters) {
            self.clusters.apply_cluster(Arc::clone(cluster), false);
            self.admin
                .dump
                .set_static(Kind::Cluster, &cluster.name, message.encode_to_vec());
        }
        let secrets = self.clusters.secrets();
        for (listener, message) in bootstrap.listeners.iter().zip(resources.listeners) {
            let body = message.encode_to_vec();
            self.read_files_of_listener(listener)?;
            let origin = Origin {
                version: "",
                dynamic: false,
            };
            let config = Listener::clone(listener);
            self.listeners
                .set(message, config, &secrets, origin)
                .await?;
            self.admin
                .dump
                .set_static(Kind::Listener, &listener.name, body);
        }
        self.count_clusters();
        self.certificate_files.stale = true;
        Ok(())
    }

    fn count_clusters(&self) {
        let (all, unready) = self.clusters.count();
        self.clusters_stats.active_clusters.set(all as i64);
        self.clusters_stats.warming_clusters.set(unready as i64);
    }

    /// Puts one resource in force.
    ///
    /// # Errors
    /// Why it is refused, with the place.
    pub(super) async fn add(
        &mut self,
        kind: &TypeUrl,
        name: &str,
        version: &str,
        body: &[u8],
    ) -> Result<(), String> {
        if *kind == TypeUrl::LISTENER {
            self.add_listener(name, version, body).await
        } else if *kind == TypeUrl::CLUSTER {
            self.add_cluster(name, version, body)
        } else if *kind == TypeUrl::ENDPOINT {
            self.add_endpoints(name, body)
        } else if *kind == TypeUrl::ROUTE {
            self.add_routes(name, version, body)
        } else if *kind == TypeUrl::SECRET {
            self.add_secret(name, version, body)
        } else {
            Err(format!(
                "{name}: this proxy does not use resources of type {kind}"
            ))
        }
    }

    async fn add_listener(&mut self, name: &str, version: &str, body: &[u8]) -> Result<(), String> {
        let message: ListenerMessage = decode("listener", name, body)?;
        let loaded = Listener::from_proto(&message, &self.context);
        let config = self.accepted(loaded)?;
        let problems = config.unknown_clusters(&|name| self.clusters.contains(name));
        none_of(&format!("listener {name}"), problems)?;
        self.read_files_of_listener(&config)?;
        let secrets = self.clusters.secrets();
        let origin = Origin {
            version,
            dynamic: true,
        };
        self.listeners
            .set(message, config, &secrets, origin)
            .await?;
        self.read_routes_again();
        Ok(())
    }

    fn add_cluster(&mut self, name: &str, version: &str, body: &[u8]) -> Result<(), String> {
        let message: ClusterMessage = decode("cluster", name, body)?;
        let loaded = Cluster::from_proto(&message, &self.context);
        let cluster = self.accepted(loaded)?;
        // One whose certificates cannot be read would refuse every request later.
        weft_upstream::check_clients([&cluster], &self.clusters.secrets())?;
        if self.clusters.contains(&cluster.name) {
            self.clusters_stats.cluster_modified.inc();
        } else {
            self.clusters_stats.cluster_added.inc();
        }
        self.clusters.apply_cluster(Arc::new(cluster), true);
        self.leaving.cancel(name);
        self.admin
            .dump
            .set_dynamic(Kind::Cluster, name, version, body.to_vec());
        Ok(())
    }

    fn add_endpoints(&mut self, name: &str, body: &[u8]) -> Result<(), String> {
        let message: ClusterLoadAssignment = decode("load assignment", name, body)?;
        let loaded = LoadAssignment::from_proto(&message, &self.context);
        let assignment = self.accepted(loaded)?;
        self.clusters.apply_assignment(Arc::new(assignment));
        Ok(())
    }

    fn add_routes(&mut self, name: &str, version: &str, body: &[u8]) -> Result<(), String> {
        let message: RouteConfiguration = decode("route configuration", name, body)?;
        let of_rpc = self.listeners.wants_rpc(name);
        if of_rpc && self.listeners.wants_http(name) {
            // A listener is about to become one of the other kind: the routes are of one of both, or pass
            // for either.
            let as_rpc = self.add_rpc_routes(name, &message);
            let as_http = self.add_http_routes(name, &message);
            as_rpc.or_else(|error| as_http.map_err(|_| error))?;
        } else if of_rpc {
            self.add_rpc_routes(name, &message)?;
        } else {
            self.add_http_routes(name, &message)?;
        }
        let body = Bytes::copy_from_slice(body);
        let known = (version.to_owned(), body.clone());
        self.kept.routes.insert(name.to_owned(), known);
        self.admin
            .dump
            .set_dynamic(Kind::Route, name, version, body);
        Ok(())
    }

    fn add_rpc_routes(&mut self, name: &str, message: &RouteConfiguration) -> Result<(), String> {
        let loaded = RpcRoutes::from_proto(message, &self.context);
        let routes = self.accepted(loaded)?;
        let slots = &self.routes.rpc;
        slots.set(&Arc::from(name), Some(Arc::new(routes)));
        Ok(())
    }

    fn add_http_routes(&mut self, name: &str, message: &RouteConfiguration) -> Result<(), String> {
        let loaded = RouteConfig::from_proto(message, &self.context);
        let routes = self.accepted(loaded)?;
        let problems = routes.unknown_clusters(false, &|name| self.clusters.contains(name));
        none_of(&format!("route configuration {name}"), problems)?;
        self.read_files(&routes)?;
        let slots = &self.routes.http;
        slots.set(&Arc::from(name), Some(Arc::new(routes)));
        Ok(())
    }

    /// Reads routes again that came for a listener of the other kind (HTTP, RPC): their name is asked for
    /// already, and they are not sent once more.
    fn read_routes_again(&mut self) {
        let needs = self.listeners.needs();
        let (http, rpc) = (&self.routes.http, &self.routes.rpc);
        let of_http = needs.routes.iter().filter(|name| !http.ready(name));
        let of_rpc = needs.rpc_routes.iter().filter(|name| !rpc.ready(name));
        let names: BTreeSet<String> = of_http.chain(of_rpc).cloned().collect();
        for name in names {
            let Some((version, body)) = self.kept.routes.get(&name).cloned() else {
                continue;
            };
            if let Err(error) = self.add_routes(&name, &version, &body) {
                tracing::warn!(
                    name,
                    error,
                    "routes are not of the kind that a listener wants"
                );
            }
        }
    }

    fn add_secret(&mut self, name: &str, version: &str, body: &[u8]) -> Result<(), String> {
        let message: SecretMessage = decode("secret", name, body)?;
        let loaded = Secret::from_proto(&message, &self.context);
        let secret = Arc::new(self.accepted(loaded)?);
        self.apply_secret(&secret)?;
        self.admin
            .dump
            .set_dynamic(Kind::Secret, name, version, own_identity::without_key(body));
        Ok(())
    }

    /// Puts a secret in force once everybody who uses it agrees.
    ///
    /// # Errors
    /// What is wrong, with the listener or cluster.
    pub(super) fn apply_secret(&mut self, secret: &Arc<Secret>) -> Result<(), String> {
        let mut secrets: Secrets = self.clusters.secrets();
        secrets.insert(Arc::clone(secret));
        self.clusters.check_secret(secret)?;
        for (slot, config) in self.listeners.renewed(&secrets, &secret.name)? {
            slot.store(Some(config));
        }
        self.clusters.apply_secret(Arc::clone(secret));
        Ok(())
    }

    /// Takes one resource out of force.
    pub(super) async fn remove(&mut self, kind: &TypeUrl, name: &str) {
        if *kind == TypeUrl::LISTENER {
            self.listeners.remove(name).await;
        } else if *kind == TypeUrl::CLUSTER {
            self.leaving.add(name);
        } else if *kind == TypeUrl::ROUTE || *kind == TypeUrl::SECRET {
            // As in Envoy: they go with the last listener or cluster that refers to them.
            tracing::info!(%kind, name, "removed by the control plane; what uses it keeps it");
        }
        // Endpoints go with their cluster; an empty assignment is sent, not removed.
    }

    /// What follows a whole update: listeners that can go live now do, and clusters that were
    /// taken away go, unless something still leads to them.
    pub(super) async fn settle(&mut self) -> Vec<(String, String)> {
        self.certificate_files.stale = true;
        let failures = self.listeners.warm().await;
        let needs = self.listeners.needs();
        let routes = &self.routes;
        routes.http.retain(|name| needs.routes.contains(name));
        routes.rpc.retain(|name| needs.rpc_routes.contains(name));
        self.kept.routes.retain(|name, _| {
            let keep = needs.routes.contains(name) || needs.rpc_routes.contains(name);
            if !keep {
                self.admin.dump.remove(Kind::Route, name);
            }
            keep
        });
        let gone = self.leaving.take(|names| {
            let (http, rpc) = (&self.routes.http, &self.routes.rpc);
            http.each(|routes| leaving::clusters_of(routes, names));
            rpc.each(|routes| names.extend(routes.clusters().map(Arc::clone)));
            self.listeners.clusters(names);
        });
        for name in gone {
            if self.clusters.remove_cluster(&name) {
                self.clusters_stats.cluster_removed.inc();
            }
            self.admin.dump.remove(Kind::Cluster, &name);
        }
        self.count_clusters();
        failures
    }

    /// What the resources in force refer to.
    pub(super) fn references(&self) -> References {
        let needs = self.listeners.needs();
        let mut references = References {
            routes: needs.all_routes(),
            secrets: needs.secrets,
            ..References::default()
        };
        for cluster in self.clusters.statuses() {
            for config in std::iter::once(&cluster.config).chain(&cluster.pending) {
                if let Discovery::Eds { service_name } = &config.discovery {
                    references.endpoints.insert(service_name.to_string());
                }
                for tls in config.tls_contexts() {
                    let names = tls.context.secret_names().map(ToString::to_string);
                    references.secrets.extend(names);
                }
            }
        }
        references
    }

    /// Nothing in force refers to this secret any more.
    pub(super) fn forget_secret(&self, name: &str) {
        if !self.kept.static_secrets.contains(name) {
            self.clusters.remove_secret(name);
            self.admin.dump.remove(Kind::Secret, name);
        }
    }

    fn accepted<T>(&self, loaded: Result<Loaded<T>, ConfigError>) -> Result<T, String> {
        let Loaded { value, ignored } = loaded.map_err(|error| error.to_string())?;
        self.xds.ignored_fields.add(ignored.len() as u64);
        for IgnoredField { path, reason, .. } in &ignored {
            tracing::debug!(%path, reason, "a field has no effect");
        }
        Ok(value)
    }

    fn read_files_of_listener(&self, listener: &Listener) -> Result<(), String> {
        use weft_config::{NetworkFilter, RouteSource};
        let chains = listener
            .chains
            .chains
            .iter()
            .chain(&listener.chains.default);
        for filter in chains.flat_map(|chain| &chain.filters) {
            let NetworkFilter::Http(http) = filter else {
                continue;
            };
            for filter in &http.filters {
                let read = |source: &DataSource| {
                    let text = weft_upstream::read(source).map_err(|error| error.to_string())?;
                    Ok(text.bytes.clone().into())
                };
                weft_filters::Filter::check(filter, &read).map_err(|error| {
                    format!(
                        "listener {}: http_filters {}: {error}",
                        listener.name, filter.name
                    )
                })?;
            }
            if let RouteSource::Inline(routes) = &http.routes {
                self.read_files(routes)?;
            }
        }
        Ok(())
    }

    /// Direct responses may have a file for their body.
    fn read_files(&self, routes: &RouteConfig) -> Result<(), String> {
        for route in routes.virtual_hosts.iter().flat_map(|vhost| vhost.routes()) {
            if let RouteAction::Direct {
                body: Some(DataSource::File { path, .. }),
                ..
            } = &route.action
            {
                let bytes = std::fs::read(&**path).map_err(|error| {
                    let place = format!("route configuration {}", routes.name);
                    format!("{place}: direct_response.body.filename: {path}: {error}")
                })?;
                self.files.set(path, bytes.into());
            }
        }
        Ok(())
    }
}

/// An error if there are problems.
fn none_of(resource: &str, problems: Vec<Problem>) -> Result<(), String> {
    if problems.is_empty() {
        return Ok(());
    }
    let resource = resource.to_owned();
    Err(ConfigError { resource, problems }.to_string())
}

fn decode<M: Message + Default>(what: &str, name: &str, body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|error| format!("{what} {name}: not a readable message: {error}"))
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
