//! What an ACK or a NACK changes. The protocol's NACK is a message for people: whom it is about is
//! read from it (`blame`), or found out by sending less.

use std::sync::Arc;

use ahash::AHashSet;

use super::super::blame;
use super::super::event::{Event, Refusal};
use super::{InFlight, TypeState};
use crate::protocol::{Mode, Request};

impl TypeState {
    /// An ACK or NACK of what is in flight, if that is what the request is.
    pub(super) fn verdict(&mut self, mode: Mode, request: &Request, events: &mut Vec<Event>) {
        let Some(in_flight) = self.in_flight.take_if(|it| it.nonce == request.nonce) else {
            return;
        };
        match &request.error {
            None => {
                events.push(Event::Acked {
                    type_url: self.type_url.clone(),
                    version: in_flight.proposal.version(),
                });
                self.accept_all(mode, in_flight);
            }
            Some(error) => self.refuse(mode, in_flight, &error.message, events),
        }
    }

    /// An ACK: the client has all that the answer listed. Companions were refused for something
    /// else, then. After a complete answer it has nothing else.
    fn accept_all(&mut self, mode: Mode, mut in_flight: InFlight) {
        let companions = std::mem::take(&mut in_flight.companions);
        for resource in &companions {
            self.refused.remove(&resource.name);
        }
        in_flight.proposal = in_flight.proposal.update::<&str>(companions, &[]);
        if mode == Mode::Sotw && !self.type_url.is_partial() {
            self.unknown_past = false;
            self.unsure.clear();
            let has = &in_flight.proposal;
            self.lacking.retain(|name| has.get(name).is_none());
        }
        self.accept(in_flight);
    }

    fn accept(&mut self, in_flight: InFlight) {
        for (name, _) in &in_flight.offered {
            self.refused.remove(name);
            self.lacking.remove(name);
            self.unsure.remove(name);
        }
        if self.lacking.is_empty() {
            // Its room is that of all names of the first request.
            self.lacking = AHashSet::default();
        }
        self.base = in_flight.proposal;
        self.parents = in_flight.parents;
        self.batch = self.batch.saturating_mul(2);
        if let Some(generation) = in_flight.complete_at {
            self.unknown_past = false;
            self.settled_at = self.settled_at.max(generation);
        }
    }

    fn refuse(&mut self, mode: Mode, in_flight: InFlight, error: &str, events: &mut Vec<Event>) {
        // To be in step again is news even if nothing has to be sent for it: the view may return
        // to what the client has.
        self.reported = None;
        let whole = mode == Mode::Sotw && !self.type_url.is_partial();
        let offered = || in_flight.offered.iter().map(|(name, _)| name);
        let mut blamed = blame::named(error, offered());
        let known = if blamed.is_empty() {
            blame::named(error, self.refused.keys())
        } else {
            Vec::new()
        };
        if blamed.is_empty() && known.is_empty() {
            // Halves of a complete answer would take the other half from a client that has it.
            if in_flight.offered.len() == 1 || (self.unknown_past && whole) {
                blamed.extend(offered().cloned());
            }
        }
        events.push(Event::Nacked {
            type_url: self.type_url.clone(),
            names: blamed.iter().chain(&known).cloned().collect(),
            error: error.to_owned(),
        });
        if in_flight.offered.is_empty() || (blamed.is_empty() && !known.is_empty()) {
            // Only removals, or what it refuses is what it was known to refuse: the rest is taken.
            self.accept(in_flight);
            return;
        }
        if blamed.is_empty() {
            self.batch = in_flight.offered.len().div_ceil(2);
        }
        let error: Arc<str> = error.into();
        let blamed: AHashSet<Arc<str>> = blamed.into_iter().collect();
        // Clients may keep the good part of an answer that they refuse (Envoy and gRPC do), so
        // what they have of it is unknown until it is sent again. What they did not have before,
        // they still do not have. Removals, too, may have been carried out.
        let good = offered().filter(|name| !blamed.contains(*name));
        let gone = self.base.difference(&in_flight.proposal).removed;
        let unsure: Vec<Arc<str>> = good
            .chain(&in_flight.answered)
            .chain(&gone)
            .filter(|name| self.wants(name))
            .cloned()
            .collect();
        for (name, version) in in_flight.offered {
            if !blamed.contains(&name) {
                self.unsure.insert(name, version);
                continue;
            }
            if self.unsure.get(&name) == Some(&version) {
                self.unsure.remove(&name);
            }
            let error = error.clone();
            self.refused.insert(name, Refusal { version, error });
        }
        self.pending.extend(unsure);
        self.answer_owed |= whole;
    }
}
