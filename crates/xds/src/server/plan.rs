//! Decides what one type sends next: the difference between what the client has and what it is to
//! have, without what it refuses, and without removals whose time has not come. Never knows the
//! wire, and never looks at another type except through [`Turn`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use ahash::AHashSet;

use super::event::Limits;
use super::state::{Held, InFlight, TypeState};
use crate::protocol::{Mode, Outgoing};
use crate::resource::{Resource, Version};
use crate::set::ResourceSet;
use crate::type_url::TypeUrl;

/// What a type needs to know of the rest of the stream.
pub(super) struct Turn<'a> {
    pub(super) mode: Mode,
    pub(super) now: Instant,
    pub(super) limits: &'a Limits,
    /// The view's set of the type.
    pub(super) target: ResourceSet,
    pub(super) generation: u64,
    /// What was sent of the parent type.
    pub(super) parents: ResourceSet,
    /// Removals that are held since this generation of the view or an earlier one may go out.
    pub(super) released_upto: u64,
}

/// What would have to be sent for the client to have all.
struct Wanted {
    /// Each once: first what differs, in the order of the set.
    changed: Vec<Resource>,
    /// The client has them and may lose them now.
    removed: Vec<Arc<str>>,
    /// The client asked for them and they do not exist.
    absent: Vec<Arc<str>>,
    /// Whether something is left out because the client refuses it.
    refused: bool,
    /// Whether the client has, or may have, an earlier form of that. What the earlier form refers
    /// to must stay; a resource that the client does not have refers to nothing.
    outdated: bool,
    /// Whether removals are left out because their time has not come.
    held: bool,
}

/// The outcome of one turn.
pub(super) enum Step {
    /// Nothing to send; the version if the client has everything of the view's set.
    Idle(Option<Version>),
    /// Waits for an ACK.
    Busy,
    /// An answer; its nonce is the one given to [`plan`].
    Send(Outgoing),
}

/// Decides what the type sends now, and notes it as sent.
pub(super) fn plan(state: &mut TypeState, turn: &Turn<'_>, nonce: impl FnOnce() -> String) -> Step {
    if state.in_flight.is_some() {
        return Step::Busy;
    }
    if !state.is_active() {
        return Step::Idle(None);
    }
    if state.is_at_rest(&turn.target, &turn.parents) {
        // What an edit of another type mostly leaves behind.
        state.settled_at = turn.generation;
        return Step::Idle(Some(turn.target.version()));
    }
    let mut wanted = gather(state, turn);
    let truncated = truncate(state, turn, &mut wanted);
    if truncated {
        wanted.removed.clear();
    }
    let silent = wanted.changed.is_empty() && wanted.removed.is_empty() && wanted.absent.is_empty();
    if silent && !state.answer_owed {
        return idle(state, turn, &wanted);
    }
    let settles = !truncated && !wanted.outdated && !wanted.held;
    let complete = settles && !wanted.refused;
    if !truncated && !wanted.removed.is_empty() {
        state.held = None;
    }
    let proposal = if complete {
        turn.target.clone()
    } else {
        let gone: Vec<&Arc<str>> = wanted.removed.iter().chain(&wanted.absent).collect();
        state.base.update(wanted.changed.clone(), &gone)
    };
    let companions = companions(state, turn, &proposal);
    let listed_in_all = proposal.update::<&str>(companions.clone(), &[]);
    let version = match turn.mode {
        // Nobody compares it: what a client has, it says resource by resource.
        Mode::Delta => listed_in_all.version(),
        Mode::Sotw => state.wire_set_version(&listed_in_all, &turn.parents),
    };
    let answered = answered(state, &wanted);
    let offered = wanted.changed.iter();
    let offered = offered.map(|r| (r.name.clone(), r.version)).collect();
    let mut names = wanted.changed.iter().map(|r| &r.name);
    let adds = names.any(|name| state.base.get(name).is_none());
    let resources = listed(state, turn, wanted.changed, &listed_in_all);
    let nonce = nonce();
    state.sent_now(InFlight {
        adds,
        nonce: nonce.clone(),
        proposal,
        parents: turn.parents.clone(),
        offered,
        companions,
        answered,
        complete_at: settles.then_some(turn.generation),
        sent: turn.now,
        overdue: false,
    });
    let mut removed = wanted.removed;
    removed.extend(wanted.absent);
    Step::Send(Outgoing {
        type_url: state.type_url.clone(),
        nonce,
        version,
        resources,
        removed,
        control_plane: None,
    })
}

fn gather(state: &mut TypeState, turn: &Turn<'_>) -> Wanted {
    forget_refused(state, turn);
    let difference = state.base.difference(&turn.target);
    let mut changed = difference.changed;
    changed.retain(|resource| state.wants(&resource.name));
    let is_there = |resource: &Resource| {
        let before = state.base.get(&resource.name);
        let differs = before.is_none_or(|before| before.version != resource.version);
        differs && state.wants(&resource.name)
    };
    let mut absent = Vec::new();
    for name in &state.pending {
        match turn.target.get(name) {
            Some(resource) if is_there(resource) => {}
            Some(resource) => changed.push(resource.clone()),
            None => absent.push(name.clone()),
        }
    }
    for child in children_of_changed(state, turn) {
        let resource = turn.target.get(&child);
        let resource = resource.filter(|r| !is_there(r) && !state.pending.contains(&child));
        changed.extend(resource.cloned());
    }
    let (mut refused, mut outdated) = (false, false);
    if !state.refused.is_empty() {
        changed.retain(|resource| {
            let refusal = state.refused.get(&resource.name);
            if refusal.is_none_or(|refusal| refusal.version != resource.version) {
                return true;
            }
            refused = true;
            outdated |= state.may_have(&resource.name);
            false
        });
    }
    if turn.mode == Mode::Sotw && !state.type_url.is_partial() {
        // Answers without a resource say that it is gone; nothing else is owed.
        for name in &absent {
            state.pending.remove(name);
        }
    }
    let mut gone = difference.removed;
    gone.retain(|name| state.wants(name) && !state.pending.contains(name));
    if !state.type_url.is_removable() {
        gone.clear();
        absent.clear();
    }
    if turn.mode == Mode::Sotw {
        // Absence says nothing here before the client has seen the resource.
        absent.clear();
        if state.type_url.is_partial() && !gone.is_empty() {
            // There is no way to say it, and no need: the client drops what it no longer refers to.
            state.base = state.base.update(Vec::new(), &gone);
            gone.clear();
        }
    }
    let gone_count = gone.len();
    let removed = released(state, turn, gone);
    state.removals.held = gone_count - removed.len();
    Wanted {
        changed,
        held: state.removals.held > 0,
        removed,
        absent,
        refused,
        outdated,
    }
}

/// What is gone from the view is no longer refused.
fn forget_refused(state: &mut TypeState, turn: &Turn<'_>) {
    let before = state.refused.len();
    state.forget(&turn.target);
    let whole = turn.mode == Mode::Sotw && !state.type_url.is_partial();
    if whole && state.unknown_past && state.refused.len() < before {
        // The client may have an earlier form of it.
        state.answer_owed = true;
    }
}

/// Resources that the client warms on because what refers to them has changed.
fn children_of_changed(state: &TypeState, turn: &Turn<'_>) -> BTreeSet<Arc<str>> {
    let mut children = BTreeSet::new();
    if state.type_url.parent().is_none() || state.parents.ptr_eq(&turn.parents) {
        return children;
    }
    for parent in state.parents.difference(&turn.parents).changed {
        if state.parents.get(&parent.name).is_none() {
            continue;
        }
        if state.type_url == TypeUrl::ENDPOINT {
            children.insert(parent.name.clone());
        } else if let Some(links) = &parent.links {
            children.extend(links.iter().cloned());
        }
    }
    children.retain(|name| state.wants(name));
    children
}

/// The names among `gone` that may be taken away now; the others are held.
fn released(state: &mut TypeState, turn: &Turn<'_>, gone: Vec<Arc<str>>) -> Vec<Arc<str>> {
    if gone.is_empty() {
        state.held = None;
        return gone;
    }
    if state.type_url.removal_waits_for().is_empty() {
        return gone;
    }
    let held = state.held.get_or_insert_with(|| Held {
        since: turn.generation,
        at: turn.now,
        names: gone.iter().cloned().collect(),
    });
    let due = removal_due(&state.type_url, held, turn.limits);
    if turn.released_upto < held.since || turn.now < due {
        let patience = held.at + turn.limits.held_for;
        if gone.len() <= turn.limits.held_removals || turn.now < patience {
            return Vec::new();
        }
        // A client that never takes the rest would keep everything that ever was.
        state.removals.forced += gone.len();
        state.held = None;
        return gone;
    }
    let (now, later): (Vec<_>, Vec<_>) =
        gone.into_iter().partition(|name| held.names.contains(name));
    if now.is_empty() {
        held.since = turn.generation;
        held.at = turn.now;
        held.names = later.into_iter().collect();
    }
    now
}

/// When held removals may go out at the earliest.
pub(super) fn removal_due(type_url: &TypeUrl, held: &Held, limits: &Limits) -> Instant {
    if *type_url == TypeUrl::CLUSTER {
        held.at + limits.removal_delay
    } else {
        held.at
    }
}

/// Of the names that are to be answered whatever the client has, those that are.
fn answered(state: &TypeState, wanted: &Wanted) -> Vec<Arc<str>> {
    if state.pending.is_empty() {
        return Vec::new();
    }
    let told = wanted.changed.iter().map(|resource| &resource.name);
    let told: AHashSet<&Arc<str>> = told.chain(&wanted.absent).collect();
    let pending = state.pending.iter();
    pending
        .filter(|name| told.contains(name))
        .cloned()
        .collect()
}

/// Cuts to what one answer may hold; true if something was cut off.
fn truncate(state: &TypeState, turn: &Turn<'_>, wanted: &mut Wanted) -> bool {
    let whole = turn.mode == Mode::Sotw && !state.type_url.is_partial();
    let mut bytes = 0usize;
    let mut count = 0usize;
    let all = wanted.changed.len();
    wanted.changed.retain(|resource| {
        count += 1;
        bytes = bytes.saturating_add(resource.body.len() + resource.name.len());
        count == 1 || (count <= state.batch && (whole || bytes <= turn.limits.response_bytes))
    });
    wanted.changed.len() < all
}

/// What a client that may have earlier forms of what it refuses is told again, since a complete
/// answer without it would take them.
fn companions(state: &TypeState, turn: &Turn<'_>, proposal: &ResourceSet) -> Vec<Resource> {
    if turn.mode == Mode::Delta || state.type_url.is_partial() || !state.unknown_past {
        return Vec::new();
    }
    state
        .refused
        .keys()
        .filter(|name| state.wants(name) && proposal.get(name).is_none())
        .filter_map(|name| turn.target.get(name).cloned())
        .collect()
}

/// The resources of the answer; `all` is what the client has once it accepts it.
fn listed(
    state: &TypeState,
    turn: &Turn<'_>,
    changed: Vec<Resource>,
    all: &ResourceSet,
) -> Vec<(Resource, Version)> {
    let versioned = |resource: Resource| {
        let version = state.wire_version(&resource, &turn.parents);
        (resource, version)
    };
    if turn.mode == Mode::Delta || state.type_url.is_partial() {
        return changed.into_iter().map(versioned).collect();
    }
    let all = all.iter().filter(|resource| state.wants(&resource.name));
    all.cloned().map(versioned).collect()
}

fn idle(state: &mut TypeState, turn: &Turn<'_>, wanted: &Wanted) -> Step {
    state.parents = turn.parents.clone();
    if !wanted.held && !wanted.outdated {
        state.settled_at = turn.generation;
    }
    if wanted.refused {
        return Step::Idle(None);
    }
    if !wanted.held {
        state.base = turn.target.clone();
    }
    Step::Idle(Some(turn.target.version()))
}
