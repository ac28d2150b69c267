//! Rules whose keys are elsewhere. A rule takes effect with its first keys, or when they could not
//! be had in time: an edit must not refuse tokens for the time of a fetch. Must never fetch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_model::{KeyPlace, Object, ObjectKey};
use weft_sources::Change;

use super::{Core, Writer};
use crate::graph::{Key, Value};

/// Places that are asked for keys; rules that name more get none, so that their tokens are refused.
const MAX_PLACES: usize = 1000;
/// How long a rule waits for its first keys.
const PATIENCE: Duration = Duration::from_secs(15);

/// The places of keys with the time that a fetch may take.
pub(crate) type Places = BTreeMap<KeyPlace, Duration>;

/// What is counted of them.
#[derive(Debug, Default)]
pub(crate) struct KeyCounts {
    /// Fetches that succeeded, and those that failed.
    pub(crate) fetched: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Places, and those without keys.
    pub(crate) places: AtomicU64,
    pub(crate) without: AtomicU64,
}

/// Which rules want which keys.
pub(super) struct KeyDesk {
    /// Nobody fetches (in tests and tools): nobody waits.
    is_open: bool,
    /// By rule: the places of its newest form, and those of the form that is in force.
    newest: BTreeMap<ObjectKey, Places>,
    applied: BTreeMap<ObjectKey, Places>,
    /// Places that were asked, with success or without.
    asked: BTreeSet<KeyPlace>,
    waiting: BTreeMap<ObjectKey, (Instant, Change)>,
    wanted: watch::Sender<Arc<Places>>,
    /// How many places are not asked, because there are too many.
    beyond: usize,
}

impl Default for KeyDesk {
    fn default() -> Self {
        Self {
            is_open: false,
            newest: BTreeMap::new(),
            applied: BTreeMap::new(),
            asked: BTreeSet::new(),
            waiting: BTreeMap::new(),
            wanted: watch::Sender::new(Arc::default()),
            beyond: 0,
        }
    }
}

fn places_of(change: &Change) -> Places {
    let mut places = Places::new();
    if let Some(Object::RequestAuthentication(rule)) = &change.object {
        for (place, timeout) in rule.places() {
            let longest = places.entry(place.clone()).or_insert(timeout);
            *longest = timeout.max(*longest);
        }
    }
    places
}

impl KeyDesk {
    /// Keeps back what has to wait for keys.
    pub(super) fn sort_out(&mut self, changes: Vec<Change>, now: Instant) -> Vec<Change> {
        let mut at_once = Vec::with_capacity(changes.len());
        for change in changes {
            if !matches!(change.key, ObjectKey::RequestAuthentication(_)) {
                at_once.push(change);
                continue;
            }
            let places = places_of(&change);
            note(&mut self.newest, &change.key, &places);
            let lacks = places.keys().any(|place| !self.asked.contains(place));
            if self.is_open && lacks {
                self.waiting.insert(change.key.clone(), (now, change));
            } else {
                self.waiting.remove(&change.key);
                note(&mut self.applied, &change.key, &places);
                at_once.push(change);
            }
        }
        at_once
    }

    /// Tells who fetches which places there are; returns those that are no longer wanted.
    pub(super) fn tell(&mut self) -> Vec<KeyPlace> {
        let mut all = Places::new();
        for (place, timeout) in self.newest.values().chain(self.applied.values()).flatten() {
            let longest = all.entry(place.clone()).or_insert(*timeout);
            *longest = (*timeout).max(*longest);
        }
        let beyond = all.len().saturating_sub(MAX_PLACES);
        if beyond > 0 {
            // Who has a place keeps it: a rule must not take another one's keys away.
            let present = Arc::clone(&self.wanted.borrow());
            let (kept, new): (Vec<_>, Vec<_>) = all
                .into_iter()
                .partition(|(place, _)| present.contains_key(place));
            let mut in_turn = kept.into_iter().chain(new);
            all = in_turn.by_ref().take(MAX_PLACES).collect();
            self.asked.extend(in_turn.map(|(place, _)| place));
            if self.beyond != beyond {
                tracing::warn!(
                    beyond,
                    "rules name more places of keys than {MAX_PLACES}: of the rest no token is accepted"
                );
            }
        }
        self.beyond = beyond;
        let known = self.newest.values().chain(self.applied.values()).flatten();
        let known: BTreeSet<&KeyPlace> = known.map(|(place, _)| place).collect();
        let gone: Vec<KeyPlace> = self
            .asked
            .iter()
            .filter(|place| !known.contains(place))
            .cloned()
            .collect();
        for place in &gone {
            self.asked.remove(place);
        }
        self.wanted.send_if_modified(|wanted| {
            let is_new = **wanted != all;
            if is_new {
                *wanted = Arc::new(all);
            }
            is_new
        });
        gone
    }

    /// Rules that need not wait any longer.
    fn released(&mut self, is_late: impl Fn(Instant) -> bool) -> Vec<Change> {
        let asked = &self.asked;
        let may_go = |(since, change): &(Instant, Change)| {
            is_late(*since) || places_of(change).keys().all(|place| asked.contains(place))
        };
        let ready: Vec<ObjectKey> = self
            .waiting
            .iter()
            .filter(|(_, held)| may_go(held))
            .map(|(key, _)| key.clone())
            .collect();
        let mut out = Vec::with_capacity(ready.len());
        for key in ready {
            if let Some((_, change)) = self.waiting.remove(&key) {
                note(&mut self.applied, &key, &places_of(&change));
                out.push(change);
            }
        }
        out
    }
}

fn note(all: &mut BTreeMap<ObjectKey, Places>, key: &ObjectKey, places: &Places) {
    if places.is_empty() {
        all.remove(key);
    } else {
        all.insert(key.clone(), places.clone());
    }
}

impl Writer {
    /// Takes changes in, but for those that wait for keys. Returns what was taken in.
    pub(super) fn take(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let changes = self.keys.sort_out(changes, Instant::now());
        self.world.apply(&changes);
        self.tell();
        self.tell_names();
        changes
    }

    fn tell(&mut self) {
        for place in self.keys.tell() {
            self.world.engine.remove(&Key::TokenKeys(place));
        }
    }

    fn let_go(&mut self, is_late: impl Fn(Instant) -> bool) -> Vec<Change> {
        let released = self.keys.released(is_late);
        self.world.apply(&released);
        self.tell();
        self.publish(None);
        released
    }
}

impl Core {
    /// Rules that are not in force yet, as `Kind/namespace/name`.
    pub(crate) fn waiting_for_keys(&self) -> BTreeSet<String> {
        let writer = self.writer.lock();
        let rules = writer.keys.waiting.keys().filter_map(|key| match key {
            ObjectKey::RequestAuthentication(origin) => Some(origin.to_string()),
            _ => None,
        });
        rules.collect()
    }

    /// From now on somebody fetches keys, and rules wait for them.
    pub(crate) fn wanted_keys(&self) -> watch::Receiver<Arc<Places>> {
        let mut writer = self.writer.lock();
        writer.keys.is_open = true;
        writer.keys.wanted.subscribe()
    }

    /// Takes the keys of a place, or that there are none, and puts rules in force that waited for
    /// them.
    pub(crate) fn take_keys(&self, place: KeyPlace, keys: Option<Arc<str>>) {
        let mut writer = self.writer.lock();
        let key = Key::TokenKeys(place.clone());
        match keys {
            Some(keys) => writer.world.engine.set(key, Value::Text(keys)),
            None => writer.world.engine.remove(&key),
        };
        writer.keys.asked.insert(place);
        let released = writer.let_go(|_| false);
        drop(writer);
        self.analyst.note(&released);
    }

    /// Puts rules in force that have waited too long: no token is accepted before there are keys.
    pub(crate) fn release_late(&self, now: Instant) {
        let mut writer = self.writer.lock();
        let late = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        let released = writer.let_go(late);
        drop(writer);
        self.analyst.note(&released);
    }

    /// Whether rules wait for keys.
    pub(crate) fn has_rules_without_keys(&self) -> bool {
        !self.writer.lock().keys.waiting.is_empty()
    }
}
