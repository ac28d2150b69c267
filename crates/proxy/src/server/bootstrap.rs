//! The bootstrap before anything is started: compiled, and checked with its certificates.

use std::sync::Arc;

use weft_config::{Bootstrap, ConfigError, Context, IgnoredField, Loaded, Problem};
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap as BootstrapMessage;

use crate::chain::ServerTls;

/// A bootstrap that a proxy can be started with.
#[derive(Debug)]
pub struct CheckedBootstrap {
    pub(super) message: BootstrapMessage,
    pub(super) context: Context,
    pub(super) loaded: Loaded<Bootstrap>,
}

/// What this process knows of itself. `agent`: whether it is its own agent ([`super::OwnIdentity`]).
pub fn context(bootstrap: &BootstrapMessage, agent: bool) -> Context {
    let node = bootstrap.node.clone().unwrap_or_default();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Context {
        hostname: hostname.trim().into(),
        environment: environment.collect(),
        node_id: node.id.into(),
        node_cluster: node.cluster.into(),
        agent,
    }
}

impl CheckedBootstrap {
    /// Compiles a bootstrap for this process. Opens nothing but what the environment tells.
    ///
    /// # Errors
    /// All that is wrong, with paths from the bootstrap's root.
    pub fn new(message: BootstrapMessage) -> Result<Self, ConfigError> {
        Self::with_agent(message, false)
    }

    /// The same for a process that may be its own agent; see [`super::OwnIdentity`].
    ///
    /// # Errors
    /// As [`CheckedBootstrap::new`].
    pub fn with_agent(message: BootstrapMessage, agent: bool) -> Result<Self, ConfigError> {
        let context = context(&message, agent);
        let loaded = Bootstrap::from_proto(&message, &context)?;
        Ok(Self {
            message,
            context,
            loaded,
        })
    }

    /// As it was given.
    pub fn message(&self) -> &BootstrapMessage {
        &self.message
    }

    /// What it sets without effect, with paths from its root.
    pub fn ignored(&self) -> &[IgnoredField] {
        &self.loaded.ignored
    }

    /// Reads the certificates, too, as [`crate::run`] would, without opening a socket.
    ///
    /// # Errors
    /// All that is wrong, with paths from the bootstrap's root.
    pub fn check_certificates(&self) -> Result<(), ConfigError> {
        let bootstrap = &self.loaded.value;
        let mut secrets = weft_upstream::Secrets::default();
        let known = bootstrap.secrets.iter();
        known.for_each(|secret| secrets.insert(Arc::clone(secret)));
        let mut problems = Vec::new();
        for (at, listener) in bootstrap.listeners.iter().enumerate() {
            let chains = listener.chains.chains.iter().enumerate();
            let chains = chains.map(|(at, chain)| (format!("filter_chains[{at}]"), chain));
            let default = listener.chains.default.iter();
            let default = default.map(|chain| ("default_filter_chain".to_owned(), chain));
            for (place, chain) in chains.chain(default) {
                let tls = chain.tls.iter();
                for tls in tls.filter(|tls| secrets.has_all(&tls.context)) {
                    if let Err(error) = ServerTls::new(tls, &secrets) {
                        let path =
                            format!("static_resources.listeners[{at}].{place}.transport_socket");
                        let problem = Problem::new(path, error.to_string());
                        problems.push(problem.of(&format!("listener {}", listener.name)));
                    }
                }
            }
        }
        for (at, cluster) in bootstrap.clusters.iter().enumerate() {
            let contexts = cluster.tls_contexts();
            for tls in contexts.filter(|tls| secrets.has_all(&tls.context)) {
                let spec = weft_upstream::client_spec(tls, &secrets);
                if let Err(error) = spec.and_then(|spec| weft_net::tls::client_config(&spec)) {
                    let path = format!("static_resources.clusters[{at}].transport_socket");
                    let problem = Problem::new(path, error.to_string());
                    problems.push(problem.of(&format!("cluster {}", cluster.name)));
                }
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        problems.truncate(ConfigError::MAX_PROBLEMS);
        Err(ConfigError {
            resource: "bootstrap".to_owned(),
            problems,
        })
    }
}
