//! Who calls, and what each call passes before it is routed: policies. Must never know routes.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use weft_config::rbac::{Head, PeerNames, RbacFilter, Subject};
use weft_config::rpc::RpcFilter;
use weft_config::{Metadata, call::CallView};
use weft_core::metrics::Scope;
use weft_filters::{Judged, RbacCounters};
use weft_net::Stream;

use crate::connection::Registered;
use crate::http::client_cert::peer_names;
use crate::routes::RpcFilterSlot;
use crate::worker::Worker;

/// The client of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    /// Number of its connection.
    pub(super) id: u64,
    /// As far as a PROXY header tells.
    pub(super) address: SocketAddr,
    /// The peer of its socket.
    pub(super) direct: SocketAddr,
    pub(super) local: SocketAddr,
    /// The address that it wanted, if the connection was redirected.
    pub(super) original_dst: Option<SocketAddr>,
    /// Server name of the TLS hello, or empty.
    pub(super) server_name: Box<str>,
    /// The names in its certificate: `None` in plain text.
    names: Option<PeerNames>,
}

impl Peer {
    pub(super) fn new(
        stream: &Stream,
        (address, local): (SocketAddr, SocketAddr),
        registered: &Registered,
    ) -> Self {
        let handle = registered.handle();
        Self {
            id: registered.id(),
            address,
            direct: handle.direct(address),
            local,
            original_dst: handle.original_dst(local),
            server_name: stream.server_name().unwrap_or_default().into(),
            // Policies that come later may ask for them.
            names: stream
                .is_tls()
                .then(|| peer_names(stream.peer_certificates())),
        }
    }
}

/// The filters of a manager in one worker: those of this moment, for calls of all connections.
#[derive(Debug)]
pub(super) struct Gate {
    slot: RpcFilterSlot,
    now: RefCell<Filters>,
}

/// Filters that are ready to be asked, and what they were made of.
#[derive(Debug, Default)]
struct Filters {
    of: Option<Arc<Vec<RpcFilter>>>,
    all: Vec<Filter>,
}

#[derive(Debug)]
enum Filter {
    Rbac(Arc<RbacFilter>, RbacCounters),
}

impl Gate {
    pub(super) fn new(slot: RpcFilterSlot) -> Self {
        Self {
            slot,
            now: RefCell::default(),
        }
    }

    /// Asks every filter; what they leave goes to `metadata`. Their counters belong to a stat prefix.
    ///
    /// # Errors
    /// Who keeps the call out, in the words of access logs.
    pub(super) fn admits(
        &self,
        (call, peer): (&dyn CallView, &Peer),
        mut metadata: Option<&mut Metadata>,
        (owner, worker): (&Arc<str>, &Worker),
    ) -> Result<(), String> {
        let wanted = self.slot.load();
        let Some(wanted) = &*wanted else {
            return Ok(());
        };
        let mut now = self.now.borrow_mut();
        if !now.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, wanted)) {
            *now = Filters::new(wanted, owner, worker);
        }
        for filter in &now.all {
            let Filter::Rbac(rbac, counters) = filter;
            let subject = Subject {
                head: Some(Head::Call(call)),
                peer: peer.names.as_ref(),
                server_name: &peer.server_name,
                destination: peer.local,
                direct_remote: peer.direct.ip(),
                remote: peer.address.ip(),
                metadata: metadata.as_deref(),
                route_metadata: None,
            };
            let judged = Judged::by(rbac, counters, &subject);
            if let Some(metadata) = metadata.as_deref_mut() {
                judged.leave(rbac, metadata);
            }
            judged.refusal().map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}

impl Filters {
    fn new(configured: &Arc<Vec<RpcFilter>>, owner: &Arc<str>, worker: &Worker) -> Self {
        let make = |prefix: &str, names| {
            let scope = Scope::rpc(Arc::clone(owner));
            let kept = &worker.prefixes;
            kept.counters(&worker.registry, owner, scope, (prefix, names))
        };
        let filters = configured.iter().map(|filter| match filter {
            RpcFilter::Rbac(rbac) => {
                let prefixes = (&*rbac.stat_prefix, &*rbac.shadow_stat_prefix);
                let counters = RbacCounters::new("", prefixes, &make);
                Filter::Rbac(Arc::clone(rbac), counters)
            }
        });
        Self {
            all: filters.collect(),
            of: Some(Arc::clone(configured)),
        }
    }
}
