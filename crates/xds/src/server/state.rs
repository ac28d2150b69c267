//! Where one stream stands with one type: what the client asks for, what it has accepted, what is
//! under way, and what it refuses. Never decides what to send (`plan`).

mod names;
mod resume;
mod status;
mod subscribe;
mod verdict;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use ahash::{AHashMap, AHashSet};

pub use names::NamePool;
use names::Names;

use super::event::{Event, Limits, Refusal, StreamError};
use crate::protocol::{Mode, Request};
use crate::resource::{Resource, Version};
use crate::set::ResourceSet;
use crate::type_url::TypeUrl;

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
    /// Refused contents that this repeats, because to leave them out would take an earlier form
    /// of them from the client; not in `proposal`.
    pub(super) companions: Vec<Resource>,
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

impl Removals {
    pub(super) fn are_reported(&self) -> bool {
        self.held == self.reported && self.forced == 0
    }
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
    pub(super) names: Names,
    /// Names to be answered whatever `base` says: the client does not have them.
    pub(super) pending: BTreeSet<Arc<str>>,
    /// The first wildcard request, and that of a client that comes back, is answered even if there
    /// is nothing: clients wait for it.
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
            names: Names::default(),
            pending: BTreeSet::new(),
            answer_owed: false,
            base: empty.clone(),
            unknown_past: false,
            parents: ResourceSet::none(),
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

    /// What is in the view again no longer waits to be taken away. Should it go once more, what was
    /// sent in between may refer to it.
    pub(super) fn is_back(&mut self, target: &ResourceSet) {
        if let Some(held) = &mut self.held {
            held.names.retain(|name| target.get(name).is_none());
        }
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

    /// Whether there is nothing to look at: the client has just this, accepted for these parents, and asks for
    /// nothing else.
    pub(super) fn is_at_rest(&self, target: &ResourceSet, parents: &ResourceSet) -> bool {
        self.base.ptr_eq(target)
            && self.parents.ptr_eq(parents)
            && self.pending.is_empty()
            && !self.answer_owed
            && self.refused.is_empty()
            && self.unsure.is_empty()
            && self.held.is_none()
            && self.removals.held == 0
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
            self.subscribe_first(mode, request, first.target, events);
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
            Mode::Sotw => self.subscribe_sotw(request, first.target, events),
            Mode::Delta => self.subscribe_delta(request, false, first.target, events),
        }
        self.check_names(first.target, limits)
    }

    /// Shares the names with other streams, unless more of them are about to come.
    pub(super) fn share_names(&mut self, pool: &NamePool) {
        if self.pending.is_empty() {
            pool.share(&mut self.names);
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
