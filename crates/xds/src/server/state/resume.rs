//! A client that comes back says what it has; what it is to have of that is not sent again.

use std::collections::HashMap;

use super::super::event::Event;
use super::{First, TypeState};
use crate::protocol::{Mode, Request};
use crate::resource::{Resource, Version};
use crate::set::ResourceSet;

impl TypeState {
    /// What the client says it has from an earlier stream. It is answered even if that is all that
    /// it is to have: clients count a stream on which nothing ever came as a failed one, and wait
    /// longer before the next (Envoy, `GrpcStream::onReceiveMessage`; gRPC's A57).
    pub(super) fn resume(
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
                self.answer_owed = self.type_url.may_be_empty();
            }
            Mode::Delta => {
                if request.have.is_empty() {
                    return;
                }
                self.answer_owed = true;
                if !self.resume_delta(&request.have, first) {
                    return;
                }
            }
        }
        self.base = first.target.clone();
        self.pending.clear();
        events.push(Event::Resumed {
            type_url: self.type_url.clone(),
            version: self.base.version(),
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
        self.base = ResourceSet::new(self.type_url.clone(), known);
        false
    }
}
