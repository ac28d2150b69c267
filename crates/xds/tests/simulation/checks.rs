//! What must hold at every moment, and once the noise has stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_xds::client::{Added, Interest};
use weft_xds::server::ServerStream;
use weft_xds::{Mode, Protocol, TypeUrl};

use super::{Blur, Body, TYPES, World, body};

impl<P: Protocol> World<P>
where
    P::Request: Blur,
{
    pub(super) fn accepted(&self, type_url: &TypeUrl) -> BTreeMap<String, Body> {
        self.client
            .accepted(type_url)
            .map(
                |Added {
                     name, body: bytes, ..
                 }| (name, body(&bytes)),
            )
            .collect()
    }

    /// Make before break: no route without its cluster, at any moment, if nothing is refused. A
    /// state-of-the-world stream that follows another one cannot know what to keep.
    pub(super) fn check_references(&self) {
        if self.settings.bad || (P::MODE == Mode::Sotw && self.settings.breaks) {
            return;
        }
        let clusters = self.accepted(&TypeUrl::CLUSTER);
        for (name, route) in self.accepted(&TypeUrl::ROUTE) {
            assert!(
                clusters.contains_key(&route.refers),
                "seed {}: route {name} lost its cluster {}",
                self.seed,
                route.refers
            );
        }
    }

    pub(super) fn quiet(&mut self) {
        self.noise = false;
        let mut idle = 0;
        for _ in 0..20_000 {
            self.now += Duration::from_secs(1);
            if self.server.is_none() {
                self.connect();
            }
            let before = (
                self.responses,
                self.to_server.len(),
                self.to_client.len(),
                self.updates.len(),
            );
            self.pump_client();
            self.server_reads();
            self.pump_server();
            self.client_reads();
            self.judge();
            self.pump_client();
            self.check_references();
            let after = (
                self.responses,
                self.to_server.len(),
                self.to_client.len(),
                self.updates.len(),
            );
            let still = before == after && after.1 + after.2 + after.3 == 0;
            idle = if still { idle + 1 } else { 0 };
            // Longer than the limits that hold removals and routes.
            if idle == 3 {
                self.now += Duration::from_hours(2);
            }
            if idle == 8 {
                return;
            }
        }
        panic!("seed {}: the two never come to rest", self.seed);
    }

    pub(super) fn check_equal(&self) {
        Self::trace(format_args!("model {:?}", self.model));
        Self::trace(format_args!(
            "status {:#?}",
            self.server.as_ref().map(ServerStream::status)
        ));
        // An earlier form of what is refused may need what is gone. Whether there is one, a server
        // cannot know if the client does not say what it refuses, nor, in state of the world,
        // after a reconnect.
        let unknown = self.settings.blur || (P::MODE == Mode::Sotw && self.settings.breaks);
        let has = |kind: usize, name: &str| self.accepted(&TYPES[kind]).contains_key(name);
        let may_have = |kind: usize, name: &str| {
            let place = (TYPES[kind].clone(), name.to_owned());
            unknown || has(kind, name) || self.doubtful.contains(&place)
        };
        let waits = self.model.iter().any(|((kind, name), body)| {
            body.bad && [0, 2, 3].contains(kind) && may_have(*kind, name)
        });
        for (kind, type_url) in TYPES.iter().enumerate() {
            let accepted = self.accepted(type_url);
            for (name, body) in &accepted {
                assert!(!body.bad, "seed {}: accepted what is bad", self.seed);
                if !self.model.contains_key(&(kind, name.clone())) {
                    // Removals are not said in SotW for types that are asked for by name.
                    assert!(
                        waits || (P::MODE == Mode::Sotw && type_url.is_partial()),
                        "seed {}: {type_url:?} {name} should be gone",
                        self.seed
                    );
                }
            }
            for ((of, name), body) in &self.model {
                let wanted = match kind {
                    0 | 2 => true,
                    1 => self.accepted(&TYPES[0]).contains_key(name),
                    3 => self.listeners.contains(name),
                    _ => false,
                };
                if *of == kind && wanted && !body.bad {
                    assert_eq!(
                        accepted.get(name),
                        Some(body),
                        "seed {}: {type_url:?} {name}",
                        self.seed
                    );
                }
            }
        }
    }

    /// The same contents, built anew, send nothing.
    pub(super) fn check_no_op(&mut self) {
        let before = self.responses;
        self.publish();
        self.quiet();
        assert_eq!(
            self.responses, before,
            "seed {}: a no-op was sent",
            self.seed
        );
    }

    /// With good contents everything is accepted, and reconnects send nothing.
    pub(super) fn heal(&mut self) {
        for body in self.model.values_mut() {
            body.bad = false;
        }
        let secrets = self
            .model
            .keys()
            .filter(|(kind, _)| *kind == 4)
            .map(|(_, name)| name.clone());
        let secrets = Interest::names(secrets.collect::<Vec<_>>());
        self.client.set_interest(&TypeUrl::SECRET, secrets);
        for ((kind, _), body) in &mut self.model {
            if *kind == 2 {
                body.refers.clear();
            }
        }
        self.publish();
        self.quiet();
        self.check_equal();
        self.disconnect();
        self.quiet();
        self.check_equal();
        let before = self.responses;
        self.disconnect();
        self.quiet();
        assert_eq!(
            self.responses, before,
            "seed {}: a reconnect was sent something",
            self.seed
        );
        self.check_equal();
    }
}
