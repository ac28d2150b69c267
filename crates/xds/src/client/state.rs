//! One type of a client: what is wanted, what the server was told, what is accepted, and the
//! answers that wait for a verdict. Never validates a resource.

mod request;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::event::{Added, ClientEvent, Interest, Refused, Update};
use crate::protocol::{Incoming, Mode, Received};
use crate::resource::Version;
use crate::type_url::TypeUrl;

/// The wildcard name of the xDS protocol.
const ALL: &str = "*";

/// A resource in its accepted form.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) version: String,
    pub(super) hash: Version,
    pub(super) body: Bytes,
}

/// An answer on its way through the caller.
#[derive(Debug)]
struct Pending {
    id: u64,
    /// Empty if there is nobody to answer.
    nonce: String,
    version: String,
    added: Vec<Added>,
    removed: Vec<String>,
    /// Refused before the caller saw them.
    refused: Vec<Refused>,
}

/// An ACK or NACK to be sent.
#[derive(Debug)]
struct Reply {
    nonce: String,
    error: Option<String>,
}

#[derive(Debug)]
pub(super) struct TypeState {
    type_url: TypeUrl,
    mode: Mode,
    interest: Interest,
    /// What the server knows of it, on this stream.
    told: Option<Interest>,
    /// State of the world: names were given on this stream, so "all" must be said as `*`.
    explicit: bool,
    pub(super) accepted: BTreeMap<String, Accepted>,
    /// State of the world: the last version that was accepted as a whole.
    version: String,
    /// State of the world: `accepted` is not what `version` says.
    torn: bool,
    /// Of the last answer on this stream that got its verdict.
    nonce: String,
    answered: bool,
    pending: Option<Pending>,
    queue: VecDeque<Incoming>,
    replies: VecDeque<Reply>,
    parked: BTreeMap<String, (String, Bytes)>,
    park_at_most: usize,
    /// When what is parked counts as up to date.
    unpark_at: BTreeMap<String, Instant>,
    /// When a wanted resource counts as missing; the empty name stands for all.
    deadlines: BTreeMap<String, Instant>,
}

impl TypeState {
    pub(super) fn new(type_url: TypeUrl, mode: Mode, park_at_most: usize) -> Self {
        TypeState {
            type_url,
            mode,
            interest: Interest::default(),
            told: None,
            explicit: false,
            accepted: BTreeMap::new(),
            version: String::new(),
            torn: false,
            nonce: String::new(),
            answered: false,
            pending: None,
            queue: VecDeque::new(),
            replies: VecDeque::new(),
            parked: BTreeMap::new(),
            park_at_most,
            unpark_at: BTreeMap::new(),
            deadlines: BTreeMap::new(),
        }
    }

    /// Answers that are held until a verdict comes.
    pub(super) fn backlog(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn set_interest(&mut self, interest: Interest) {
        if self.interest == interest {
            return;
        }
        let before = std::mem::replace(&mut self.interest, interest);
        let interest = &self.interest;
        self.deadlines
            .retain(|name, _| interest.wants(name) || name.is_empty());
        if *interest != Interest::All {
            self.deadlines.remove("");
        }
        let dropped: Vec<String> = self
            .accepted
            .keys()
            .filter(|name| !interest.wants(name))
            .cloned()
            .collect();
        for name in dropped {
            if let Some(accepted) = self.accepted.remove(&name) {
                self.park(name, accepted.version, accepted.body);
            }
        }
        self.unpark_unnoticed(&before);
        let interest = &self.interest;
        self.unpark_at.retain(|name, _| interest.wants(name));
    }

    fn park(&mut self, name: String, version: String, body: Bytes) {
        // A delta server sends anew what it was told to be unwanted.
        let told = self.told.as_ref().is_some_and(|told| told.wants(&name));
        if self.told.is_none() || (self.mode == Mode::Delta && !told) {
            return;
        }
        if self.parked.len() < self.park_at_most || self.parked.contains_key(&name) {
            self.parked.insert(name, (version, body));
        }
    }

    /// What is wanted again before the server was told otherwise is still kept up to date by it.
    fn unpark_unnoticed(&mut self, before: &Interest) {
        let Some(told) = &self.told else { return };
        let back: Vec<String> = self
            .parked
            .keys()
            .filter(|name| self.interest.wants(name) && !before.wants(name) && told.wants(name))
            .cloned()
            .collect();
        self.unpark(back);
    }

    /// Gives back what was kept, as an answer of our own.
    fn unpark(&mut self, names: Vec<String>) {
        let mut resources = Vec::new();
        for name in names {
            if let Some((version, body)) = self.parked.remove(&name) {
                resources.push(Received {
                    name: Some(name),
                    version,
                    type_url: self.type_url.to_string(),
                    body,
                });
            }
        }
        if !resources.is_empty() {
            self.queue.push_back(Incoming {
                type_url: self.type_url.to_string(),
                resources,
                ..Incoming::default()
            });
        }
    }

    /// A name was given up and is asked for again. A delta server answers that. A
    /// state-of-the-world server may have ignored the request in between for its nonce; then it
    /// sends nothing, and what we kept is up to date.
    fn told_again(&mut self, now: Instant, unnoticed: Duration) {
        let told = self.told.as_ref();
        match self.mode {
            Mode::Delta => {
                let interest = &self.interest;
                self.parked.retain(|name, _| {
                    interest.wants(name) && told.is_some_and(|told| told.wants(name))
                });
            }
            Mode::Sotw => {
                let again = self.parked.keys().filter(|name| {
                    self.interest.wants(name) && !told.is_some_and(|told| told.wants(name))
                });
                for name in again {
                    self.unpark_at.insert(name.clone(), now + unnoticed);
                }
            }
        }
    }

    /// Everything that belongs to the stream goes; what is accepted stays.
    pub(super) fn disconnected(&mut self) {
        self.told = None;
        self.explicit = false;
        self.nonce.clear();
        self.queue.clear();
        self.replies.clear();
        self.parked.clear();
        self.unpark_at.clear();
        self.deadlines.clear();
        if let Some(pending) = &mut self.pending {
            pending.nonce.clear();
        }
    }

    pub(super) fn receive(&mut self, incoming: Incoming) {
        self.queue.push_back(incoming);
    }

    /// Works on answers until one needs a verdict.
    pub(super) fn advance(&mut self, next_id: &mut u64, events: &mut VecDeque<ClientEvent>) {
        while self.pending.is_none() {
            let Some(incoming) = self.queue.pop_front() else {
                return;
            };
            let ours = incoming.nonce.is_empty();
            let first = !ours && !self.answered;
            self.answered |= !ours;
            if !ours {
                self.deadlines.remove("");
            }
            let pending = self.examine(incoming, events);
            *next_id += 1;
            let pending = Pending {
                id: *next_id,
                ..pending
            };
            if first || !pending.added.is_empty() || !pending.removed.is_empty() {
                events.push_back(ClientEvent::Update(Update {
                    id: pending.id,
                    type_url: self.type_url.clone(),
                    version: pending.version.clone(),
                    first,
                    added: pending.added.clone(),
                    removed: pending.removed.clone(),
                }));
                self.pending = Some(pending);
            } else {
                self.conclude(pending, Vec::new(), usize::MAX);
            }
        }
    }

    /// Finds out what an answer changes.
    fn examine(&mut self, incoming: Incoming, events: &mut VecDeque<ClientEvent>) -> Pending {
        let ours = incoming.nonce.is_empty();
        let complete = self.mode == Mode::Sotw && !self.type_url.is_partial() && !ours;
        let mut seen = BTreeSet::new();
        let mut added = Vec::new();
        let mut refused = Vec::new();
        for (index, received) in incoming.resources.into_iter().enumerate() {
            let name = match self.named(index, &received, &mut seen) {
                Ok(name) => name,
                Err(refusal) => {
                    refused.push(refusal);
                    continue;
                }
            };
            if !self.interest.wants(&name) {
                self.park(name, received.version, received.body);
                continue;
            }
            if ours && self.accepted.contains_key(&name) {
                // Something newer was accepted while this waited.
                continue;
            }
            self.deadlines.remove(&name);
            self.parked.remove(&name);
            self.unpark_at.remove(&name);
            let hash = Version::of(&self.type_url, &received.body);
            match self.accepted.get_mut(&name) {
                Some(accepted) if accepted.hash == hash => accepted.version = received.version,
                _ => added.push(Added {
                    name,
                    version: received.version,
                    body: received.body,
                }),
            }
        }
        let mut removed = Vec::new();
        if complete {
            removed.extend(
                self.accepted
                    .keys()
                    .filter(|name| !seen.contains(*name))
                    .cloned(),
            );
            self.parked.retain(|name, _| seen.contains(name));
        }
        for name in incoming.removed {
            self.parked.remove(&name);
            if self.accepted.contains_key(&name) {
                removed.push(name);
            } else if self.interest.wants(&name) && self.interest != Interest::All {
                self.deadlines.remove(&name);
                events.push_back(self.not_found(Some(name)));
            }
        }
        Pending {
            id: 0,
            nonce: incoming.nonce,
            version: incoming.version,
            added,
            removed,
            refused,
        }
    }

    fn named(
        &self,
        index: usize,
        received: &Received,
        seen: &mut BTreeSet<String>,
    ) -> Result<String, Refused> {
        let Some(name) = received.name.clone() else {
            return Err(Refused {
                name: format!("resources[{index}]"),
                error: "has no name".to_owned(),
            });
        };
        let error = if received.type_url != self.type_url.as_str() {
            format!(
                "is a {} in an answer of type {}",
                received.type_url, self.type_url
            )
        } else if !seen.insert(name.clone()) {
            "occurs twice in one answer".to_owned()
        } else {
            return Ok(name);
        };
        seen.insert(name.clone());
        Err(Refused { name, error })
    }

    fn not_found(&self, name: Option<String>) -> ClientEvent {
        ClientEvent::NotFound {
            type_url: self.type_url.clone(),
            name,
        }
    }

    /// Whether `id` is the answer that waits.
    pub(super) fn awaits(&self, id: u64) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|pending| pending.id == id)
    }

    pub(super) fn verdict(&mut self, refused: Vec<Refused>, error_bytes: usize) {
        if let Some(pending) = self.pending.take() {
            self.conclude(pending, refused, error_bytes);
        }
    }

    fn conclude(&mut self, pending: Pending, refused: Vec<Refused>, error_bytes: usize) {
        let mut all = pending.refused;
        all.extend(refused);
        for name in &pending.removed {
            self.accepted.remove(name);
        }
        for added in pending.added {
            if !self.interest.wants(&added.name) {
                self.park(added.name, added.version, added.body);
            } else if !all.iter().any(|refused| refused.name == added.name) {
                self.parked.remove(&added.name);
                self.unpark_at.remove(&added.name);
                self.accepted.insert(
                    added.name,
                    Accepted {
                        hash: Version::of(&self.type_url, &added.body),
                        version: added.version,
                        body: added.body,
                    },
                );
            }
        }
        if pending.nonce.is_empty() {
            self.torn = true;
            return;
        }
        self.nonce.clone_from(&pending.nonce);
        if all.is_empty() {
            self.version = pending.version;
            self.torn = false;
        } else {
            self.torn = true;
        }
        self.replies.push_back(Reply {
            nonce: pending.nonce,
            error: (!all.is_empty()).then(|| request::message(&all, error_bytes)),
        });
    }

    /// Whether a verdict on an answer of an earlier stream is due. What we have, which the first
    /// request says, is known only after it.
    pub(super) fn waits_to_start(&self) -> bool {
        self.told.is_none() && self.pending.is_some()
    }

    fn start_deadlines(&mut self, deadline: Instant) {
        match &self.interest {
            Interest::All if !self.answered => {
                self.deadlines.entry(String::new()).or_insert(deadline);
            }
            Interest::All => {}
            Interest::Names(names) => {
                let told = match &self.told {
                    Some(Interest::Names(told)) => Some(told),
                    _ => None,
                };
                for name in names {
                    let new = told.is_none_or(|told| !told.contains(name));
                    if new && !self.accepted.contains_key(name) {
                        self.deadlines.entry(name.clone()).or_insert(deadline);
                    }
                }
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines
            .values()
            .chain(self.unpark_at.values())
            .min()
            .copied()
    }

    pub(super) fn tick(&mut self, now: Instant, events: &mut VecDeque<ClientEvent>) {
        let current: Vec<String> = self
            .unpark_at
            .extract_if(.., |_, at| *at <= now)
            .map(|(name, _)| name)
            .collect();
        self.unpark(current);
        let due: Vec<String> = self
            .deadlines
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.deadlines.remove(&name);
            let name = (!name.is_empty()).then_some(name);
            events.push_back(self.not_found(name));
        }
    }
}
