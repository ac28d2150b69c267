//! The network between the two machines, and the client's user, which judges what arrives.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_xds::client::{ClientEvent, Interest, Refused};
use weft_xds::server::ServerStream;
use weft_xds::{Mode, Protocol, TypeUrl};

use super::{Blur, TYPES, World, body};

impl<P: Protocol> World<P>
where
    P::Request: Blur,
{
    pub(super) fn connect(&mut self) {
        self.streams += 1;
        let view = self.view.clone();
        let limits = self.settings.limits.clone();
        self.server = Some(ServerStream::new(self.streams, view, limits, None));
        self.client.connected();
    }

    pub(super) fn disconnect(&mut self) {
        self.server = None;
        self.to_server.clear();
        self.to_client.clear();
        self.doubtful.clear();
        self.client.disconnected();
    }

    pub(super) fn step(&mut self) {
        self.now += Duration::from_millis(self.random.below(200) as u64);
        match self.random.below(100) {
            0..4 => self.edit(),
            4..6 if self.settings.breaks && self.server.is_some() => self.disconnect(),
            6..30 if self.server.is_none() => self.connect(),
            30..50 => self.server_reads(),
            50..70 => self.client_reads(),
            70..85 => self.judge(),
            85..87 => {
                let names = (0..4)
                    .filter(|_| self.random.chance(50))
                    .map(|n| format!("n{n}"));
                let names: Vec<String> = names.collect();
                self.client
                    .set_interest(&TypeUrl::SECRET, Interest::names(names));
            }
            87..93 => self.pump_server(),
            _ => self.pump_client(),
        }
        self.check_references();
    }

    pub(super) fn server_reads(&mut self) {
        let Some(server) = &mut self.server else {
            return;
        };
        if let Some(request) = self.to_server.pop_front() {
            if self.noise && self.random.chance(5) {
                server
                    .request(self.now, request.clone())
                    .expect("within bounds");
            }
            server
                .request(self.now, request.clone())
                .expect("within bounds");
            let neutral = P::read_request(request);
            Self::trace(format_args!("server reads {neutral:?}"));
            if self.random.chance(80) {
                self.pump_server();
            }
        }
    }

    /// Prints what travels when one seed is replayed.
    pub(super) fn trace(what: std::fmt::Arguments<'_>) {
        if std::env::var("WEFT_XDS_SEED").is_ok_and(|seeds| !seeds.contains('-')) {
            eprintln!("{what}");
        }
    }

    pub(super) fn pump_server(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        server.tick(self.now);
        while server.poll_event().is_some() {}
        while let Some(response) = server.poll_response(self.now) {
            assert!(
                self.to_client.len() < 2 * TYPES.len(),
                "one in flight by type"
            );
            // An empty answer tells a client that has nothing that there is nothing, and one that
            // comes back that it is heard.
            let incoming = P::read_response(response.clone());
            Self::trace(format_args!("answer {incoming:?}"));
            let empty = incoming.resources.is_empty() && incoming.removed.is_empty();
            let whole = P::MODE == Mode::Sotw && !TypeUrl::new(&incoming.type_url).is_partial();
            self.responses += usize::from(whole || !empty);
            self.to_client.push_back(response);
        }
        while server.poll_event().is_some() {}
        self.server = Some(server);
    }

    pub(super) fn client_reads(&mut self) {
        if let Some(response) = self.to_client.pop_front() {
            self.check_size(&response);
            self.client.response(response.clone());
            if self.noise && self.random.chance(5) {
                self.client.response(response);
            }
        }
        self.drain_client();
        if self.random.chance(80) {
            self.pump_client();
        }
    }

    pub(super) fn check_size(&self, response: &P::Response) {
        let incoming = P::read_response(response.clone());
        if P::MODE == Mode::Delta && incoming.resources.len() > 1 {
            let bytes: usize = incoming.resources.iter().map(|r| r.body.len()).sum();
            assert!(bytes <= self.settings.limits.response_bytes);
        }
    }

    pub(super) fn drain_client(&mut self) {
        self.client.tick(self.now);
        while let Some(event) = self.client.poll_event() {
            if let ClientEvent::Update(update) = event {
                self.updates.push_back(update);
            }
        }
    }

    pub(super) fn pump_client(&mut self) {
        while let Some(mut request) = self.client.poll_request(self.now) {
            if self.settings.blur {
                request.blur();
            }
            if self.server.is_some() {
                self.to_server.push_back(request);
            }
        }
    }

    /// Gives a verdict on any one update, then asks for what the accepted ones refer to.
    pub(super) fn judge(&mut self) {
        if self.updates.is_empty() {
            return;
        }
        let which = self.random.below(self.updates.len());
        let Some(update) = self.updates.remove(which) else {
            return;
        };
        let mut refused = Vec::new();
        for added in &update.added {
            let body = body(&added.body);
            assert_eq!(body.name, added.name);
            if body.bad {
                let key = (
                    self.streams,
                    format!("{:?} {}", update.type_url, added.name),
                    body.content,
                );
                *self.refused_sent.entry(key).or_default() += 1;
                refused.push(Refused {
                    name: added.name.clone(),
                    error: "is bad".to_owned(),
                });
            }
        }
        let added = update.added.iter().map(|added| &added.name);
        for name in added.chain(&update.removed) {
            let place = (update.type_url.clone(), name.clone());
            if refused.is_empty() {
                self.doubtful.remove(&place);
            } else if update.removed.contains(name) {
                self.doubtful.insert(place);
            }
        }
        Self::trace(format_args!("verdict {} {:?}", update.id, update.type_url));
        self.client.verdict(update.id, refused);
        let clusters: BTreeSet<String> = self.accepted(&TypeUrl::CLUSTER).into_keys().collect();
        self.client
            .set_interest(&TypeUrl::ENDPOINT, Interest::Names(clusters));
        self.listeners = self
            .accepted(&TypeUrl::LISTENER)
            .into_values()
            .map(|listener| listener.refers)
            .filter(|name| !name.is_empty())
            .collect();
        let routes = self.listeners.clone();
        self.client
            .set_interest(&TypeUrl::ROUTE, Interest::Names(routes));
        self.drain_client();
    }
}
