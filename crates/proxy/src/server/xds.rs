//! The proxy as an xDS client: what it asks for, and what it answers to each update.
//!
//! The protocol is `weft_xds`; what a resource means is [`Resources`]'s.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use weft_config::bootstrap::AdsTransport;
use weft_config::secret::AGENT_SECRETS;
use weft_config::{AdsConfig, Cluster, Node, Transport, UpstreamTls};
use weft_net::tls::client_config;
use weft_net::{Peeked, Stream};
use weft_upstream::{ClusterStore, Secrets, client_spec};
use weft_xds::client::grpc::{
    Commands, ConnectError, Connector, DriverConfig, Handle, connect_over, connect_to, spawn,
};
use weft_xds::client::{ClientEvent, ClientOptions, Interest, Refused, Update, WorkloadHealth};
use weft_xds::{Mode, TypeUrl};

use super::resources::{References, Resources};
use super::{dump_kind, own_identity};
use crate::admin::Kind;
use crate::stats::XdsStats;

/// Time for a TLS handshake with the control plane.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// One ADS stream and what has been asked for on it.
pub(super) struct Control {
    events: mpsc::Receiver<ClientEvent>,
    commands: Commands,
    listeners: bool,
    clusters: bool,
    asked: References,
    /// Types whose first answer is still to come.
    initial: Vec<TypeUrl>,
    stats: Arc<XdsStats>,
}

/// The next event; for ever pending without a control plane.
pub(super) async fn next(control: &mut Option<Control>) -> Option<ClientEvent> {
    match control {
        Some(control) => control.events.recv().await,
        None => std::future::pending().await,
    }
}

impl Control {
    /// Starts the client of the bootstrap's ADS configuration. `None` when no cluster that it
    /// names has an address, which is logged.
    pub(super) fn connect(ads: &AdsConfig, node: &Node, resources: &Resources) -> Option<Self> {
        let status = resources.clusters.statuses();
        let configs = ads
            .clusters
            .iter()
            .filter_map(|name| status.iter().find(|cluster| cluster.config.name == *name));
        let servers: Vec<Server> = configs
            .flat_map(|cluster| servers(&cluster.config))
            .collect();
        if servers.is_empty() {
            tracing::error!(clusters = ?ads.clusters, "no cluster of the ADS configuration has an address");
            return None;
        }
        let mode = match ads.transport {
            AdsTransport::Grpc => Mode::Sotw,
            AdsTransport::DeltaGrpc => Mode::Delta,
        };
        let mut options = ClientOptions::new(node.message.clone());
        if let Some(timeout) = ads.initial_fetch_timeout {
            options.not_found_after = timeout;
        }
        let count = servers.len();
        let connector = connector(servers, Arc::clone(&resources.clusters));
        let mut config = DriverConfig::new(mode, count, connector, options, rand::random());
        config.headers.extend(ads.metadata.iter().cloned());
        let Handle { events, commands } = spawn(config);
        let mut initial = Vec::new();
        if ads.clusters_by_cds {
            initial.push(TypeUrl::CLUSTER);
        }
        if ads.listeners {
            initial.push(TypeUrl::LISTENER);
        }
        Some(Self {
            events,
            commands,
            listeners: ads.listeners,
            clusters: ads.clusters_by_cds,
            asked: References::default(),
            initial,
            stats: Arc::clone(&resources.xds),
        })
    }

    /// Whether the first answers are still to come.
    pub(super) fn is_initializing(&self) -> bool {
        !self.initial.is_empty()
    }

    /// Whether the first answer about clusters is still to come.
    pub(super) fn awaits_clusters(&self) -> bool {
        self.initial.contains(&TypeUrl::CLUSTER)
    }

    /// Asks for everything of the bootstrap.
    pub(super) async fn ask(&mut self, resources: &Resources) {
        if self.clusters {
            self.commands
                .set_interest(TypeUrl::CLUSTER, Interest::All)
                .await;
        }
        if self.listeners {
            self.commands
                .set_interest(TypeUrl::LISTENER, Interest::All)
                .await;
        }
        self.ask_for_references(resources).await;
    }

    /// Tells the control plane how the workload beside the proxy is.
    pub(super) async fn tell_health(&self, health: WorkloadHealth) {
        self.commands.set_health(health).await;
    }

    /// Asks for what the resources in force refer to, if that has changed. Secrets that nothing
    /// refers to any more are forgotten: the server would not tell of their changes.
    pub(super) async fn ask_for_references(&mut self, resources: &Resources) {
        let mut wanted = resources.references();
        if resources.context.agent {
            wanted
                .secrets
                .retain(|name| !AGENT_SECRETS.contains(&name.as_str()));
        }
        let types = [
            (TypeUrl::ENDPOINT, &wanted.endpoints, &self.asked.endpoints),
            (TypeUrl::ROUTE, &wanted.routes, &self.asked.routes),
            (TypeUrl::SECRET, &wanted.secrets, &self.asked.secrets),
        ];
        for (kind, names, asked) in types {
            if names != asked {
                let interest = Interest::names(names.iter().cloned());
                self.commands.set_interest(kind, interest).await;
            }
        }
        for name in self.asked.secrets.difference(&wanted.secrets) {
            resources.forget_secret(name);
        }
        self.asked = wanted;
    }

    /// Uses one event.
    pub(super) async fn handle(&mut self, event: Option<ClientEvent>, resources: &mut Resources) {
        match event {
            None => {
                // The driver ends only with its handle.
                tracing::error!("the xDS client has ended");
                self.initial.clear();
            }
            Some(ClientEvent::Connected { server }) => {
                self.stats.connected_state.set(1);
                tracing::info!(server, "connected to the control plane");
            }
            Some(ClientEvent::Disconnected { error, retry_in }) => {
                self.stats.connected_state.set(0);
                tracing::warn!(%error, ?retry_in, "not connected to the control plane; what is in force stays");
            }
            Some(ClientEvent::Update(update)) => self.update(update, resources).await,
            Some(ClientEvent::NotFound { type_url, name }) => {
                self.not_found(&type_url, name.as_deref(), resources).await;
            }
        }
    }

    async fn not_found(&mut self, kind: &TypeUrl, name: Option<&str>, resources: &mut Resources) {
        tracing::warn!(%kind, name, "the control plane does not have what was asked for");
        self.initial.retain(|waiting| waiting != kind);
        if let (true, Some(name)) = (*kind == TypeUrl::ROUTE, name) {
            resources.listeners.route_missing(name);
            resources.settle().await;
        }
    }

    async fn update(&mut self, update: Update, resources: &mut Resources) {
        let Update {
            id,
            type_url,
            version,
            added,
            removed,
            ..
        } = update;
        let mut refused = Vec::new();
        let kind = dump_kind(&type_url);
        // A listener that goes may leave its address to one that comes.
        let (first, last) = if type_url == TypeUrl::LISTENER {
            (removed, Vec::new())
        } else {
            (Vec::new(), removed)
        };
        for name in first {
            resources.remove(&type_url, &name).await;
        }
        for resource in added {
            let result =
                resources.add(&type_url, &resource.name, &resource.version, &resource.body);
            if let Err(error) = result.await {
                if let Some(kind) = kind {
                    let dump = &resources.admin.dump;
                    let body = if kind == Kind::Secret {
                        own_identity::without_key(&resource.body).into()
                    } else {
                        resource.body.clone()
                    };
                    dump.set_failed(kind, &resource.name, &resource.version, Some(body), &error);
                }
                refused.push(Refused {
                    name: resource.name,
                    error,
                });
            }
        }
        for name in last {
            resources.remove(&type_url, &name).await;
        }
        for (name, error) in resources.settle().await {
            if type_url == TypeUrl::LISTENER {
                refused.push(Refused { name, error });
            }
        }
        if let Some(kind) = kind {
            resources.admin.dump.set_version(kind, &version);
        }
        if refused.is_empty() {
            self.stats.update_success.inc();
        } else {
            self.stats.update_rejected.inc();
            for one in &refused {
                tracing::warn!(name = %one.name, error = %one.error, "a resource of the control plane is refused; its last good form stays");
            }
        }
        // References first: a server that hears the verdict may wait for them. Endpoints and
        // secrets refer to nothing.
        if type_url != TypeUrl::ENDPOINT && type_url != TypeUrl::SECRET {
            self.ask_for_references(resources).await;
        }
        self.commands.verdict(id, refused).await;
        self.initial.retain(|waiting| *waiting != type_url);
    }
}

/// Where a control plane is, and how it is called there.
#[derive(Clone)]
struct Server {
    authority: String,
    tls: Option<Arc<UpstreamTls>>,
}

fn servers(cluster: &Cluster) -> impl Iterator<Item = Server> {
    let tls = match &cluster.transport {
        Transport::Raw => None,
        Transport::Tls(tls) => Some(Arc::clone(tls)),
    };
    cluster.endpoints.endpoints().map(move |endpoint| Server {
        authority: endpoint.address.to_string(),
        tls: tls.clone(),
    })
}

fn connector(servers: Vec<Server>, clusters: Arc<ClusterStore>) -> Connector {
    let uris = servers
        .iter()
        .map(|server| format!("http://{}", server.authority));
    let uris: Vec<String> = uris.collect();
    if servers.iter().all(|server| server.tls.is_none()) {
        return connect_to(uris);
    }
    connect_over(uris, move |index| {
        let server = servers.get(index).cloned();
        // The certificate of this moment.
        let secrets = clusters.secrets();
        async move { open(server.ok_or("there is no server of this index")?, &secrets).await }
    })
}

/// Opens a connection. Files of certificates are read anew, since they may have been renewed.
async fn open(server: Server, secrets: &Secrets) -> Result<Stream, ConnectError> {
    let tcp = TcpStream::connect(&server.authority).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = server.tls else {
        return Ok(Stream::plain(Peeked::from(tcp)));
    };
    let mut spec = client_spec(&tls, secrets)?;
    if spec.alpn.is_empty() {
        spec.alpn.push(b"h2".to_vec());
    }
    let config = client_config(&spec)?;
    let name = (!tls.sni.is_empty()).then_some(&*tls.sni);
    Ok(weft_net::tls::connect(tcp, config, name, Some(HANDSHAKE)).await?)
}
