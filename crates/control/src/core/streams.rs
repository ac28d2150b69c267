//! What the core is to the xDS server: views for streams, and an ear for their events. Must never
//! block a stream for longer than a lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::sync::watch;
use tonic::Status;
use weft_ca::Refusal;
use weft_model::Namespace;
use weft_xds::View;
use weft_xds::server::grpc::{Connection, ConnectionId, ViewSource};
use weft_xds::server::{Answered, Event, Question};

use super::latency::{Owed, fresh};
use super::{Connected, Core, Published};
use crate::ca::{Account, Desk, Svid};
use crate::graph::{Key, ProxyFacts, Value};
use crate::node::Proxy;
use crate::{ca, monitoring};

impl ViewSource for Core {
    fn connect(&self, connection: &Connection) -> Result<watch::Receiver<View>, Status> {
        let mut proxy = Proxy::parse(&connection.node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(account) = ca::may_be(&proxy, &connection.extensions, self.desk.get())? {
            proxy.prove(&account);
        }
        self.register(connection.id, &proxy)?;
        self.want_svid(&proxy, true);
        let facts = Arc::new(ProxyFacts::of(&proxy));
        let receiver = {
            let mut writer = self.writer.lock();
            if let Some(published) = writer.published.get_mut(&facts) {
                published.connections += 1;
                published.sender.subscribe()
            } else {
                let view = writer.pin(&facts);
                self.analyst.look_again();
                let (sender, receiver) = watch::channel(view.view.clone());
                let published = Published {
                    sender,
                    view,
                    connections: 1,
                };
                writer.published.insert(Arc::clone(&facts), published);
                receiver
            }
        };
        let connected = Connected {
            proxy: Arc::new(proxy),
            facts,
            standing: connection.standing.clone(),
            chain: ca::believed_by(&connection.extensions),
            peer: connection.peer,
            mode: connection.mode,
            since: SystemTime::now(),
            types: BTreeMap::new(),
            owed: Owed::default(),
        };
        tracing::info!(node = connected.proxy.id, mode = ?connected.mode, "proxy connected");
        self.connections.lock().insert(connection.id, connected);
        Ok(receiver)
    }

    fn event(&self, id: ConnectionId, event: &Event) {
        let mut connections = self.connections.lock();
        let Some(connected) = connections.get_mut(&id) else {
            return;
        };
        match event {
            Event::Subscribed { type_url, .. } => {
                let serial = self.latency.serial();
                let types = &mut connected.types;
                types
                    .entry(type_url.clone())
                    .or_insert_with(|| fresh(serial));
            }
            Event::Resumed { type_url, version } => {
                // It says that it has this; the ACK was given to an earlier stream.
                let state = connected.types.entry(type_url.clone()).or_default();
                state.acked = Some(*version);
            }
            Event::Acked { type_url, version } => {
                let state = connected.types.entry(type_url.clone()).or_default();
                state.acked = Some(*version);
                let node = Arc::clone(&connected.proxy);
                let facts = Arc::clone(&connected.facts);
                drop(connections);
                self.forget_repaired(&node.id, &facts, type_url);
            }
            Event::InSync { type_url, version } => {
                let state = connected.types.entry(type_url.clone()).or_default();
                state.in_sync = Some(*version);
                state.error = None;
                self.latency.in_step(connected, type_url, *version);
                let node = Arc::clone(&connected.proxy);
                let facts = Arc::clone(&connected.facts);
                drop(connections);
                self.forget_repaired(&node.id, &facts, type_url);
            }
            Event::Nacked {
                type_url,
                names,
                error,
            } => {
                let state = connected.types.entry(type_url.clone()).or_default();
                state.in_sync = None;
                state.error = Some(error.clone());
                self.latency.refused(connected, type_url);
                let connected = connected.clone();
                drop(connections);
                self.refused(&connected, type_url, names, error);
            }
            Event::Sent {
                type_url,
                resources,
                removed,
                bytes,
            } => {
                let state = connected.types.entry(type_url.clone()).or_default();
                state.sent = Some(SystemTime::now());
                self.latency.sent(type_url, *bytes);
                let node = Arc::clone(&connected.proxy);
                drop(connections);
                self.sent(node, type_url, *resources, *removed, *bytes);
            }
            Event::RemovalsHeld { type_url, held, .. } => {
                let state = connected.types.entry(type_url.clone()).or_default();
                state.removals_held = *held;
            }
            Event::StaleNonce { type_url } => {
                let mut by_type = self.by_type.lock();
                by_type.entry(type_url.clone()).or_default().stale_nonces += 1;
            }
            Event::UnknownType { .. } => {}
            Event::Health { trouble } => {
                drop(connections);
                self.workload_is(id, trouble.as_deref());
            }
            Event::AckOverdue { type_url } => {
                tracing::warn!(
                    node = connected.proxy.id,
                    ?type_url,
                    "no ACK for a long time"
                );
            }
        }
    }

    fn closed(&self, id: ConnectionId) {
        let Some(connected) = self.connections.lock().remove(&id) else {
            return;
        };
        tracing::info!(node = connected.proxy.id, "proxy disconnected");
        self.want_svid(&connected.proxy, false);
        self.unregister(id);
        // If it still refuses something, it says so again when it comes back.
        self.refusals
            .lock()
            .retain(|_, refused| refused.node != connected.proxy.id);
        let mut writer = self.writer.lock();
        let Some(published) = writer.published.get_mut(&connected.facts) else {
            return;
        };
        published.connections = published.connections.saturating_sub(1);
        if published.connections == 0 {
            writer.published.remove(&connected.facts);
            self.latency.forget(&connected.facts);
            writer.world.engine.unpin(&Key::ProxyView(connected.facts));
        }
    }

    fn answers(&self, type_url: &str) -> bool {
        monitoring::is_question(type_url)
    }

    async fn answer(&self, question: Question) -> Result<Vec<Answered>, Status> {
        ca::may_ask(&question.extensions, self.desk.get())?;
        monitoring::answer_question(self, &question).await
    }
}

impl Core {
    /// Says that a proxy begins or ends to want its certificate from here.
    fn want_svid(&self, proxy: &Proxy, more: bool) {
        if let (Some(desk), Some(account)) = (self.desk.get(), proxy.served_account()) {
            let namespace = Namespace::new(proxy.namespace.as_str());
            ca::want(&desk.wanted, &(namespace, account), more);
        }
    }

    /// Ends streams whose certificate holds no longer.
    pub(crate) fn end_unbelieved(&self, desk: &Desk) {
        let connections = self.connections.lock();
        let all = connections.values();
        let open: Vec<_> = all
            .filter_map(|c| Some((c.chain.clone()?, c.standing.clone(), Arc::clone(&c.proxy))))
            .collect();
        drop(connections);
        for (chain, standing, proxy) in open {
            if let Some(refusal) = desk.doubts(&chain) {
                desk.counts.ended.fetch_add(1, Ordering::Relaxed);
                if matches!(refusal, Refusal::Revoked(_)) {
                    tracing::warn!(node = proxy.id, %refusal, "a stream is ended");
                } else {
                    // Its proxy has renewed long ago, and comes with its present one.
                    tracing::info!(node = proxy.id, %refusal, "a stream is ended");
                }
                standing.end();
            }
        }
    }

    /// Takes certificates of service accounts' workloads, or that nobody wants them any more, in one
    /// publication.
    pub(crate) fn set_svids(&self, svids: impl IntoIterator<Item = (Account, Option<Svid>)>) {
        let mut svids = svids.into_iter().peekable();
        if svids.peek().is_none() {
            return;
        }
        let mut writer = self.writer.lock();
        for ((namespace, name), svid) in svids {
            let key = Key::Svid(namespace, name);
            match svid {
                Some(svid) => writer.world.engine.set(key, Value::Svid(Arc::new(svid))),
                None => writer.world.engine.remove(&key),
            };
        }
        writer.publish(None);
    }
}
