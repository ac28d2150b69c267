//! Network filters before the one that ends a chain: who may go on with a connection.
//!
//! They are asked when the connection and its TLS handshake are done, before anybody is called on
//! its behalf; Envoy asks at the client's first byte, which a server that speaks first need not
//! wait for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_config::filter_chain::{NetworkGuard, SniNames};
use weft_config::rbac::{NetworkRbac, Subject};
use weft_core::metrics::Scope;
use weft_filters::{Judged, RbacCounters};
use weft_net::Stream;
use weft_upstream::{Called, NameFailure};

use crate::http::client_cert::peer_names;
use crate::worker::Worker;

/// A guard in one worker.
#[derive(Debug)]
pub(crate) enum Guard {
    /// Access control.
    Rbac(Access),
    /// The server name of a TLS connection is looked up.
    Names(Arc<SniNames>),
}

/// Access control in one worker.
#[derive(Debug)]
pub(crate) struct Access {
    config: Arc<NetworkRbac>,
    counters: RbacCounters,
}

/// Why a connection may not go on.
#[derive(Debug)]
pub(crate) struct Refused {
    /// For the access log.
    pub(crate) details: String,
    /// It is kept open for this time.
    pub(crate) delay: Option<Duration>,
}

impl Guard {
    /// The guards of a chain.
    pub(crate) fn all(configured: &[NetworkGuard], worker: &Worker) -> Vec<Self> {
        let guard = |configured: &NetworkGuard| match configured {
            NetworkGuard::Rbac(config) => Self::Rbac(Access::new(config, worker)),
            NetworkGuard::Names(names) => Self::Names(Arc::clone(names)),
        };
        configured.iter().map(guard).collect()
    }
}

/// Waits until the server name of a connection has been looked up. Says whether it may go on: as in
/// Envoy also if it has no address, so that the TCP proxy finds no host.
pub(crate) async fn look_up(names: &SniNames, server_name: Option<&str>, worker: &Worker) -> bool {
    let called = server_name.and_then(|name| Called::parse(name, names.port));
    let Some((called, cache)) = called.zip(worker.names(&names.cache)) else {
        return true;
    };
    !matches!(
        cache.resolve(&called).await,
        Err(NameFailure::Overflow | NameFailure::PendingOverflow)
    )
}

impl Access {
    fn new(config: &Arc<NetworkRbac>, worker: &Worker) -> Self {
        let owner = &config.filter.stat_prefix;
        let make = |prefix: &str, names| {
            let group = (prefix, names);
            let scope = Scope::root("");
            worker
                .prefixes
                .counters(&worker.registry, owner, scope, group)
        };
        let shadow = &config.filter.shadow_stat_prefix;
        Self {
            counters: RbacCounters::new(owner, ("", shadow), &make),
            config: Arc::clone(config),
        }
    }

    /// Whether a connection may go on; `server_name` is that of its TLS hello.
    pub(crate) fn check(
        &self,
        stream: &Stream,
        server_name: Option<&str>,
        (peer, direct, local): (SocketAddr, SocketAddr, SocketAddr),
    ) -> Result<(), Refused> {
        let filter = &self.config.filter;
        let named = stream.is_tls() && filter.wants_names();
        let names = named.then(|| peer_names(stream.peer_certificates()));
        let subject = Subject {
            head: None,
            peer: names.as_ref(),
            server_name: server_name.or(stream.server_name()).unwrap_or_default(),
            destination: local,
            direct_remote: direct.ip(),
            remote: peer.ip(),
            metadata: None,
            route_metadata: None,
        };
        match Judged::by(filter, &self.counters, &subject).refusal() {
            None => Ok(()),
            Some(details) => Err(Refused {
                details,
                delay: self.config.delay_deny,
            }),
        }
    }
}
