//! Where one stream stands with one type: what the client asks for, what it has accepted, what is
//! under way, and what it refuses. Never decides what to send (`plan`).

mod verdict;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use ahash::{AHashMap, AHashSet};

use super::event::{Event, Limits, Refusal, StreamError};
use crate::protocol::{Mode, Request};
use crate::resource::{Resource, Version};
use crate::set::ResourceSet;
use crate::type_url::TypeUrl;

/// The wildcard name of the xDS protocol.
const ALL: &str = "*";

/// An answer that is neither accepted nor refused yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: String,
    /// What the client has once it accepts.
    pub(super) proposal: ResourceSet,
    /// The parents' set (see [`TypeUrl::parent`]) as it was sent before this.
    pub(super) parents: ResourceSet,
    /// Contents that this offers.
    pub(super) offered: Vec<(Arc<str>, Version)>,
    /// Names among [`TypeState::pending`] that this answers.
    pub(super) answered: Vec<Arc<str>>,
    /// The generation of the view that this leaves nothing out of.
    pub(super) complete_at: Option<u64>,
    /// Whether it offers resources that the client does not have in any form.
    pub(super) adds: bool,
    pub(super) sent: Instant,
    pub(super) overdue: bool,
}

/// Resources that are gone from the view and wait for other types before they are taken away.
#[derive(Debug)]
pub(super) struct Held {
    /// The generation of the view that no longer has them.
    pub(super) since: u64,
    pub(super) at: Instant,
    pub(super) names: AHashSet<Arc<str>>,
}

/// Counts of removals, for the report.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// Held now.
    pub(super) held: usize,
    /// Held as of the last report.
    pub(super) reported: usize,
    /// Let go for [`Limits::held_removals`] since the last report.
    pub(super) forced: usize,
}

/// One type on one stream. The client has `base`, restricted to what it asks for, without
/// `pending`.
#[derive(Debug)]
pub(super) struct TypeState {
    pub(super) type_url: TypeUrl,
    started: bool,
    pub(super) wildcard: bool,
    /// Once a client has given a name, an empty list no longer means all.
    named_once: bool,
    pub(super) names: AHashSet<Arc<str>>,
    /// Names to be answered whatever `base` says: the client does not have them.
    pub(super) pending: BTreeSet<Arc<str>>,
    /// The first wildcard request is answered even if there is nothing: clients wait for it.
    pub(super) answer_owed: bool,
    pub(super) base: ResourceSet,
    /// State of the world, on a stream that continues an earlier one: the client has contents that
    /// `base` does not know.
    pub(super) unknown_past: bool,
    /// The parents' set for which `base` was accepted.
    pub(super) parents: ResourceSet,
    pub(super) in_flight: Option<InFlight>,
    last_nonce: String,
    pub(super) refused: AHashMap<Arc<str>, Refusal>,
    /// Names that were asked for anew and not accepted since: the client has them in no form,
    /// whatever `base` says.
    lacking: AHashSet<Arc<str>>,
    /// Contents of answers that were refused for something else: the client may have them.
    unsure: AHashMap<Arc<str>, Version>,
    /// How many resources the next answer may hold; lowered to find out whom a NACK is about.
    pub(super) batch: usize,
    pub(super) held: Option<Held>,
    pub(super) removals: Removals,
    /// The newest generation of the view of which the client has accepted everything, or refuses
    /// only what it does not have in any form.
    pub(super) settled_at: u64,
    /// The set version last reported by [`Event::InSync`].
    pub(super) reported: Option<Version>,
}

/// What the first request of a type is compared with.
pub(super) struct First<'a> {
    pub(super) target: &'a ResourceSet,
    pub(super) parents: ResourceSet,
}

impl TypeState {
    pub(super) fn new(type_url: TypeUrl) -> Self {
        let empty = ResourceSet::empty(type_url.clone());
        TypeState {
            started: false,
            wildcard: false,
            named_once: false,
            names: AHashSet::default(),
            pending: BTreeSet::new(),
            answer_owed: false,
            base: empty.clone(),
            unknown_past: false,
            parents: ResourceSet::empty(type_url.parent().unwrap_or_else(|| type_url.clone())),
            in_flight: None,
            last_nonce: String::new(),
            refused: AHashMap::default(),
            lacking: AHashSet::default(),
            unsure: AHashMap::default(),
            batch: usize::MAX,
            held: None,
            removals: Removals::default(),
            settled_at: 0,
            reported: None,
            type_url,
        }
    }

    /// Whether the client asks for this resource.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether the client has, or may have, this resource in another form than the one that it
    /// refuses.
    pub(super) fn may_have(&self, name: &str) -> bool {
        let accepted = self.base.get(name).is_some() && !self.lacking.contains(name);
        accepted || self.unknown_past || self.unsure.contains_key(name)
    }

    /// What is gone from the view is neither refused nor in doubt.
    pub(super) fn forget(&mut self, target: &ResourceSet) {
        self.refused.retain(|name, _| target.get(name).is_some());
        self.unsure.retain(|name, _| target.get(name).is_some());
    }

    /// Whether the client asks for anything, or waits for a first answer.
    pub(super) fn is_active(&self) -> bool {
        self.wildcard || !self.names.is_empty() || self.answer_owed
    }

    /// The newest generation of the view up to which nothing is outstanding, for removals of other
    /// types. An answer to a new subscription means that the client is about to switch over.
    pub(super) fn settled(&self) -> u64 {
        let switching = self
            .in_flight
            .as_ref()
            .is_some_and(|in_flight| !in_flight.answered.is_empty());
        if switching { 0 } else { self.settled_at }
    }

    /// Whether the client is still to get, or is about to accept, resources that it does not have
    /// in any form: those that refer to them must wait.
    pub(super) fn is_adding(&self, target: &ResourceSet) -> bool {
        let Some(in_flight) = &self.in_flight else {
            return false;
        };
        let is_new = |name: &str| self.wants(name) && in_flight.proposal.get(name).is_none();
        in_flight.adds
            || in_flight
                .proposal
                .difference(target)
                .changed
                .iter()
                .any(|resource| is_new(&resource.name))
    }

    /// What was sent last, accepted or not.
    pub(super) fn sent(&self) -> &ResourceSet {
        self.in_flight
            .as_ref()
            .map_or(&self.base, |in_flight| &in_flight.proposal)
    }

    /// The version of a resource on the wire. It covers the parent's version, so that a client
    /// which lost the stream between a changed cluster and its endpoints is given the endpoints
    /// again when it comes back.
    pub(super) fn wire_version(&self, resource: &Resource, parents: &ResourceSet) -> Version {
        if self.type_url == TypeUrl::ENDPOINT
            && let Some(parent) = parents.get(&resource.name)
        {
            return resource.version.mix(parent.version);
        }
        resource.version
    }

    /// The content hash of what the client asks for in `set`, as written into `version_info`.
    pub(super) fn wire_set_version(&self, set: &ResourceSet, parents: &ResourceSet) -> Version {
        if self.wildcard && self.type_url != TypeUrl::ENDPOINT {
            return set.version();
        }
        let weight = |resource: &Resource| {
            ResourceSet::weight(&resource.name, self.wire_version(resource, parents))
        };
        let sum = if self.wildcard {
            set.iter().map(weight).fold(0, u64::wrapping_add)
        } else {
            self.names
                .iter()
                .filter_map(|name| set.get(name))
                .map(weight)
                .fold(0, u64::wrapping_add)
        };
        Version::from_u64(sum)
    }

    /// Takes in a request. On an error nothing is to be relied on any more.
    pub(super) fn request(
        &mut self,
        mode: Mode,
        request: &Request,
        first: &First<'_>,
        limits: &Limits,
        events: &mut Vec<Event>,
    ) -> Result<(), StreamError> {
        self.check(request, limits)?;
        if !self.started {
            self.started = true;
            self.subscribe_first(mode, request, events);
            self.resume(mode, request, first, events);
            return self.check_names(first.target, limits);
        }
        // An empty nonce is never stale: grpc-js asks for more before the first answer comes.
        let stale = !request.nonce.is_empty()
            && !self.last_nonce.is_empty()
            && request.nonce != self.last_nonce;
        if stale {
            events.push(Event::StaleNonce {
                type_url: self.type_url.clone(),
            });
            if mode == Mode::Sotw {
                return Ok(());
            }
        } else if !request.nonce.is_empty() {
            self.verdict(mode, request, events);
        }
        match mode {
            Mode::Sotw => self.subscribe_sotw(request, events),
            Mode::Delta => self.subscribe_delta(request, false, events),
        }
        self.check_names(first.target, limits)
    }

    fn check(&self, request: &Request, limits: &Limits) -> Result<(), StreamError> {
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

    fn check_names(&self, target: &ResourceSet, limits: &Limits) -> Result<(), StreamError> {
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

    fn subscribe_first(&mut self, mode: Mode, request: &Request, events: &mut Vec<Event>) {
        match mode {
            Mode::Sotw => self.subscribe_sotw(request, events),
            Mode::Delta => {
                let all = request.names.is_empty() && self.type_url.empty_is_wildcard();
                self.subscribe_delta(request, all, events);
            }
        }
        self.answer_owed = self.is_active() && !self.type_url.is_partial();
    }

    /// What the client says it has from an earlier stream.
    fn resume(
        &mut self,
        mode: Mode,
        request: &Request,
        first: &First<'_>,
        events: &mut Vec<Event>,
    ) {
        self.parents = first.parents.clone();
        match mode {
            Mode::Sotw => {
                if request.version.is_empty() || !self.is_active() {
                    return;
                }
                let wanted = self.wire_set_version(first.target, &first.parents);
                if request.version != wanted.to_string() {
                    self.unknown_past = true;
                    return;
                }
            }
            Mode::Delta => {
                if request.have.is_empty() {
                    return;
                }
                if !self.resume_delta(&request.have, first) {
                    return;
                }
            }
        }
        self.base = first.target.clone();
        self.pending.clear();
        self.answer_owed = false;
        events.push(Event::Resumed {
            type_url: self.type_url.clone(),
        });
    }

    /// Takes over what the client has; true if that is exactly what it is to have.
    fn resume_delta(&mut self, have: &HashMap<String, String>, first: &First<'_>) -> bool {
        let mut known = Vec::with_capacity(have.len());
        let mut all_equal = true;
        for (name, version) in have {
            if !self.wants(name) {
                continue;
            }
            self.pending.remove(name.as_str());
            self.lacking.remove(name.as_str());
            known.push(match first.target.get(name) {
                Some(resource)
                    if self.wire_version(resource, &first.parents).to_string() == *version =>
                {
                    resource.clone()
                }
                Some(resource) => {
                    all_equal = false;
                    let other = Version::from_u64(!resource.version.as_u64());
                    Resource::stand_in(name, other)
                }
                None => {
                    all_equal = false;
                    Resource::stand_in(name, Version::of(&self.type_url, version.as_bytes()))
                }
            });
        }
        let complete = if self.wildcard {
            known.len() == first.target.len()
        } else {
            self.pending
                .iter()
                .all(|name| first.target.get(name).is_none())
        };
        // Names that do not exist are still to be told so.
        if all_equal && complete && self.pending.is_empty() {
            return true;
        }
        self.answer_owed = false;
        self.base = ResourceSet::new(self.type_url.clone(), known);
        false
    }

    fn subscribe_sotw(&mut self, request: &Request, events: &mut Vec<Event>) {
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
            .filter(|name| !self.names.contains(*name))
            .collect();
        self.named_once |= !request.names.is_empty();
        self.subscribe(&added, dropped, explicit_all || legacy_all, events);
    }

    fn subscribe_delta(&mut self, request: &Request, all: bool, events: &mut Vec<Event>) {
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
        self.subscribe(&added, dropped, wildcard, events);
    }

    fn subscribe(
        &mut self,
        added: &[&str],
        dropped: Vec<Arc<str>>,
        wildcard: bool,
        events: &mut Vec<Event>,
    ) {
        for name in &dropped {
            self.names.remove(name);
            if !wildcard {
                self.pending.remove(name);
                self.lacking.remove(name);
            }
        }
        let added: Vec<Arc<str>> = added
            .iter()
            .map(|name| {
                self.base
                    .get(name)
                    .map_or_else(|| Arc::from(*name), |r| r.name.clone())
            })
            .collect();
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

    /// Notes what was sent.
    pub(super) fn sent_now(&mut self, in_flight: InFlight) {
        for name in &in_flight.answered {
            self.pending.remove(name);
        }
        self.answer_owed = false;
        self.reported = None;
        self.last_nonce.clone_from(&in_flight.nonce);
        self.in_flight = Some(in_flight);
    }
}
