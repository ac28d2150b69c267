//! What a client says next about one type: an ACK or NACK, a changed interest, or both.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::time::Instant;

use super::super::event::{ClientOptions, Interest, Refused};
use super::{ALL, TypeState};
use crate::protocol::{Mode, Request};

impl TypeState {
    /// The next request, if there is something to say.
    pub(in crate::client) fn request(
        &mut self,
        now: Instant,
        options: &ClientOptions,
    ) -> Option<Request> {
        let reply = self.replies.pop_front();
        let first = self.told.is_none();
        if self.waits_to_start() {
            return None;
        }
        let changed = if first {
            !self.interest.is_none()
        } else {
            self.told.as_ref() != Some(&self.interest)
        };
        if reply.is_none() && !changed {
            return None;
        }
        for at in self.unpark_at.values_mut() {
            *at = now + options.unnoticed_after;
        }
        let mut request = Request {
            type_url: self.type_url.to_string(),
            ..Request::default()
        };
        if let Some(reply) = reply {
            request.nonce = reply.nonce;
            request.error = reply.error.map(|message| crate::pb::Status {
                // INVALID_ARGUMENT
                code: 3,
                message,
                ..Default::default()
            });
        } else if self.mode == Mode::Sotw {
            request.nonce.clone_from(&self.nonce);
        }
        match self.mode {
            Mode::Sotw => self.fill_sotw(first, &mut request),
            Mode::Delta => self.fill_delta(first, &mut request),
        }
        if changed {
            self.start_deadlines(now + options.not_found_after);
            self.told_again(now, options.unnoticed_after);
            self.told = Some(self.interest.clone());
        }
        Some(request)
    }

    fn fill_sotw(&mut self, first: bool, request: &mut Request) {
        request.version.clone_from(&self.version);
        request.names = match &self.interest {
            Interest::Names(names) => names.iter().cloned().collect(),
            Interest::All if self.explicit => vec![ALL.to_owned()],
            Interest::All => Vec::new(),
        };
        self.explicit |= !request.names.is_empty();
        if !first {
            return;
        }
        let lacking = match &self.interest {
            Interest::All => false,
            Interest::Names(names) => names.iter().any(|name| !self.accepted.contains_key(name)),
        };
        let something = !self.version.is_empty() || !self.accepted.is_empty();
        if something && (self.torn || lacking) {
            // Not a version that any server knows: what we have is no state it ever sent.
            request.version.push('~');
        }
    }

    fn fill_delta(&self, first: bool, request: &mut Request) {
        if first {
            request.have = self.have();
        }
        let none = BTreeSet::new();
        let told = match &self.told {
            Some(Interest::Names(names)) => names,
            _ => &none,
        };
        let told_all = self.told == Some(Interest::All);
        match &self.interest {
            Interest::All => {
                if !first && !told_all {
                    request.names.push(ALL.to_owned());
                    request.unsubscribe.extend(told.iter().cloned());
                }
            }
            Interest::Names(names) => {
                request.names.extend(names.difference(told).cloned());
                request.unsubscribe.extend(told.difference(names).cloned());
                if told_all {
                    request.unsubscribe.push(ALL.to_owned());
                }
            }
        }
    }

    fn have(&self) -> HashMap<String, String> {
        self.accepted
            .iter()
            .map(|(name, accepted)| (name.clone(), accepted.version.clone()))
            .collect()
    }
}

/// The NACK's message, which names each refused resource for the operator and for servers that
/// look for the names.
pub(super) fn message(refused: &[Refused], at_most: usize) -> String {
    let mut message = String::new();
    for (index, refusal) in refused.iter().enumerate() {
        let part = format!("{}: {}", refusal.name, refusal.error);
        if index > 0 && message.len() + part.len() > at_most {
            // Writing into a string does not fail.
            let _ = write!(message, "; and {} more", refused.len() - index);
            return message;
        }
        if index > 0 {
            message.push_str("; ");
        }
        message.push_str(&part);
    }
    let end = (0..=at_most.min(message.len()))
        .rev()
        .find(|at| message.is_char_boundary(*at))
        .unwrap_or(0);
    message.truncate(end);
    message
}
