//! What a request asks for, in either spelling, and its bounds. Never looks at what the client has
//! accepted, except to keep it.

use std::sync::Arc;

use ahash::AHashSet;

use super::super::event::{Event, Limits, StreamError};
use super::TypeState;
use crate::protocol::{Mode, Request};
use crate::set::ResourceSet;

/// The wildcard name of the xDS protocol.
const ALL: &str = "*";

impl TypeState {
    pub(super) fn check(&self, request: &Request, limits: &Limits) -> Result<(), StreamError> {
        let longest = request.names.iter().map(String::len).max().unwrap_or(0);
        if longest > limits.name_bytes {
            return Err(StreamError::NameTooLong {
                type_url: self.type_url.clone(),
                limit: limits.name_bytes,
            });
        }
        if request.names.len() > limits.names || request.have.len() > limits.names {
            return Err(self.too_many(limits));
        }
        Ok(())
    }

    pub(super) fn check_names(
        &self,
        target: &ResourceSet,
        limits: &Limits,
    ) -> Result<(), StreamError> {
        let is_absent = |name: &&Arc<str>| target.get(name).is_none();
        // Names given up under a wildcard wait for their answer as well. Those that exist are as
        // many as the view has.
        let too_many = self.names.len() > limits.names
            || (self.pending.len() > limits.names
                && self.pending.iter().filter(is_absent).count() > limits.names);
        if too_many {
            return Err(self.too_many(limits));
        }
        Ok(())
    }

    fn too_many(&self, limits: &Limits) -> StreamError {
        StreamError::TooManyNames {
            type_url: self.type_url.clone(),
            limit: limits.names,
        }
    }

    pub(super) fn subscribe_first(
        &mut self,
        mode: Mode,
        request: &Request,
        known: &ResourceSet,
        events: &mut Vec<Event>,
    ) {
        match mode {
            Mode::Sotw => self.subscribe_sotw(request, known, events),
            Mode::Delta => {
                let all = request.names.is_empty() && self.type_url.empty_is_wildcard();
                self.subscribe_delta(request, all, known, events);
            }
        }
        self.answer_owed = self.is_active() && !self.type_url.is_partial();
    }

    pub(super) fn subscribe_sotw(
        &mut self,
        request: &Request,
        known: &ResourceSet,
        events: &mut Vec<Event>,
    ) {
        let explicit_all = request.names.iter().any(|name| name == ALL);
        let legacy_all =
            request.names.is_empty() && !self.named_once && self.type_url.empty_is_wildcard();
        let named: AHashSet<&str> = request
            .names
            .iter()
            .map(String::as_str)
            .filter(|name| *name != ALL)
            .collect();
        let dropped: Vec<Arc<str>> = self
            .names
            .iter()
            .filter(|name| !named.contains(&***name))
            .cloned()
            .collect();
        let added: Vec<&str> = named
            .into_iter()
            .filter(|name| !self.names.contains(name))
            .collect();
        self.named_once |= !request.names.is_empty();
        self.subscribe(&added, dropped, explicit_all || legacy_all, known, events);
    }

    pub(super) fn subscribe_delta(
        &mut self,
        request: &Request,
        all: bool,
        known: &ResourceSet,
        events: &mut Vec<Event>,
    ) {
        let drops_all = request.unsubscribe.iter().any(|name| name == ALL);
        let takes_all = all || request.names.iter().any(|name| name == ALL);
        let wildcard = takes_all || (self.wildcard && !drops_all);
        let added: Vec<&str> = request
            .names
            .iter()
            .map(String::as_str)
            .filter(|name| *name != ALL)
            .collect();
        let dropped: Vec<Arc<str>> = request
            .unsubscribe
            .iter()
            .filter_map(|name| self.names.get(name.as_str()).cloned())
            .collect();
        // A name given up under a wildcard is still wanted: the protocol asks for an answer.
        if wildcard {
            let again = dropped.iter().filter(|name| !added.contains(&&***name));
            self.pending.extend(again.cloned());
        }
        self.subscribe(&added, dropped, wildcard, known, events);
    }

    fn subscribe(
        &mut self,
        added: &[&str],
        dropped: Vec<Arc<str>>,
        wildcard: bool,
        known: &ResourceSet,
        events: &mut Vec<Event>,
    ) {
        for name in &dropped {
            self.names.remove(name);
            if !wildcard {
                self.pending.remove(name);
                self.lacking.remove(name);
            }
        }
        // Streams share the names of what there is.
        let shared = |name: &&str| {
            let resource = known.get(name).or_else(|| self.base.get(name));
            resource.map_or_else(|| Arc::from(*name), |r| r.name.clone())
        };
        let added: Vec<Arc<str>> = added.iter().map(shared).collect();
        if wildcard && !self.wildcard {
            self.widen();
        }
        let turned = wildcard != self.wildcard;
        let had_all = std::mem::replace(&mut self.wildcard, wildcard);
        for name in &added {
            if self.names.insert(name.clone()) {
                if !had_all {
                    self.lacking.insert(name.clone());
                }
                // Asked for anew: it may be refused anew.
                self.refused.remove(name);
            }
            self.pending.insert(name.clone());
        }
        if turned || !added.is_empty() || !dropped.is_empty() {
            self.reported = None;
            events.push(Event::Subscribed {
                type_url: self.type_url.clone(),
                wildcard,
                added,
                removed: dropped,
            });
        }
    }

    /// From names to all: what the client has is no more than what it had asked for by name.
    fn widen(&mut self) {
        let kept = self
            .names
            .iter()
            .filter(|name| !self.pending.contains(*name))
            .filter_map(|name| self.base.get(name).cloned());
        self.base = ResourceSet::new(self.type_url.clone(), kept.collect::<Vec<_>>());
        if let Some(in_flight) = &mut self.in_flight {
            let offered = in_flight
                .offered
                .iter()
                .filter_map(|(name, _)| in_flight.proposal.get(name).cloned());
            in_flight.proposal = self.base.update::<&str>(offered.collect(), &[]);
            in_flight.complete_at = None;
        }
    }
}
