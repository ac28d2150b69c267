//! The buckets of a limit: one for all requests, and one for each descriptor. Where a descriptor leaves
//! a value open, each value gets a bucket of its own, as long as it is among those used last.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ahash::{AHashMap, RandomState};

use super::{TokenBucket, Told};
use crate::rate_limit::Descriptor;

/// Keys and values; an empty value is open.
type Entries = Vec<(Arc<str>, Arc<str>)>;

/// See the module.
#[derive(Debug)]
pub struct Limiter {
    default: Option<Arc<TokenBucket>>,
    /// Requests that a descriptor counts are counted in the bucket of all, too.
    always_default: bool,
    hashes: RandomState,
    /// By hash of their entries, the places in `fixed`.
    places: AHashMap<u64, Vec<usize>>,
    fixed: Vec<Fixed>,
    open: Vec<Open>,
    /// How many buckets each open one has at most.
    kept: usize,
}

/// A descriptor with its bucket.
#[derive(Debug)]
struct Fixed {
    entries: Entries,
    bucket: Arc<TokenBucket>,
    shadow: bool,
}

/// A descriptor with open values.
#[derive(Debug)]
struct Open {
    entries: Entries,
    /// What new buckets are like.
    like: TokenBucket,
    shadow: bool,
    known: Mutex<Known>,
}

/// The buckets of values.
#[derive(Debug, Default)]
struct Known {
    by_values: AHashMap<Arc<str>, (Arc<TokenBucket>, u64)>,
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// There were tokens.
    pub allowed: bool,
    /// What responses tell, if they are to.
    pub told: Option<Told>,
    /// Buckets of values that were forgotten for it.
    pub evicted: u64,
}

impl Limiter {
    /// One bucket for all requests, or none.
    pub fn plain(default: Option<TokenBucket>) -> Self {
        Self::new(default, true, 1)
    }

    pub(super) fn new(default: Option<TokenBucket>, always_default: bool, kept: usize) -> Self {
        Self {
            default: default.map(Arc::new),
            always_default,
            hashes: RandomState::new(),
            places: AHashMap::new(),
            fixed: Vec::new(),
            open: Vec::new(),
            kept,
        }
    }

    /// Adds the bucket of a descriptor; `false` if there is one.
    pub(super) fn add(&mut self, entries: Entries, bucket: TokenBucket, shadow: bool) -> bool {
        if entries.iter().any(|(_, value)| value.is_empty()) {
            if self.open.iter().any(|known| known.entries == entries) {
                return false;
            }
            self.open.push(Open {
                entries,
                like: bucket,
                shadow,
                known: Mutex::default(),
            });
            return true;
        }
        let hash = self.hash(entries.iter().map(|(key, value)| (&**key, &**value)));
        let places = self.places.entry(hash).or_default();
        let mut known = places.iter().filter_map(|place| self.fixed.get(*place));
        if known.any(|known| known.entries == entries) {
            return false;
        }
        places.push(self.fixed.len());
        self.fixed.push(Fixed {
            entries,
            bucket: Arc::new(bucket),
            shadow,
        });
        true
    }

    /// The same with full buckets.
    #[must_use]
    pub fn another(&self) -> Self {
        let mut other = Self::new(
            self.default.as_ref().map(|bucket| bucket.another()),
            self.always_default,
            self.kept,
        );
        for one in &self.fixed {
            other.add(one.entries.clone(), one.bucket.another(), one.shadow);
        }
        for one in &self.open {
            other.add(one.entries.clone(), one.like.another(), one.shadow);
        }
        other
    }

    /// Whether there is a bucket for all requests.
    pub fn has_default(&self) -> bool {
        self.default.is_some()
    }

    /// Whether descriptors of requests make a difference.
    pub fn has_descriptors(&self) -> bool {
        !(self.fixed.is_empty() && self.open.is_empty())
    }

    fn hash<'e>(&self, entries: impl Iterator<Item = (&'e str, &'e str)>) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        for entry in entries {
            entry.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The bucket of a descriptor, and whether it only counts.
    fn find(
        &self,
        descriptor: &Descriptor<'_>,
        evicted: &mut u64,
    ) -> Option<(Arc<TokenBucket>, bool)> {
        let entries = &descriptor.entries;
        let hash = self.hash(entries.iter().map(|(key, value)| (*key, &**value)));
        let places = self.places.get(&hash).into_iter().flatten();
        let mut known = places.filter_map(|place| self.fixed.get(*place));
        let fixed = known.find(|one| one.matches(descriptor));
        if let Some(one) = fixed {
            return Some((Arc::clone(&one.bucket), one.shadow));
        }
        let open = self
            .open
            .iter()
            .find(|one| fits(&one.entries, descriptor))?;
        let (bucket, gone) = open.bucket(descriptor, self.kept);
        *evicted += u64::from(gone);
        Some((bucket, open.shadow))
    }

    /// Takes tokens for a request at a time since any fixed moment, as Envoy does: the slowest
    /// bucket first, and those taken before one is empty are gone. `tell`: responses tell the
    /// limit unless a descriptor says otherwise.
    pub fn take(&self, now: Duration, descriptors: &[Descriptor<'_>], tell: bool) -> Taken {
        let mut evicted = 0;
        let found = descriptors.iter().filter_map(|descriptor| {
            let (bucket, shadow) = self.find(descriptor, &mut evicted)?;
            Some((bucket, shadow, descriptor))
        });
        let mut found: Vec<_> = found.collect();
        found.sort_by(|(one, ..), (other, ..)| one.rate().total_cmp(&other.rate()));
        let evicted = evicted;
        let done = |allowed: bool, bucket: Option<&TokenBucket>, tell: bool| Taken {
            allowed,
            told: bucket.filter(|_| tell).map(|bucket| bucket.told(now)),
            evicted,
        };
        for (bucket, shadow, descriptor) in &found {
            let hits = descriptor.hits;
            let number = hits.and_then(|hits| hits.number);
            let back = hits.is_some_and(|hits| hits.negative) && number.is_some();
            #[allow(clippy::cast_precision_loss, reason = "hits are bounded far below")]
            let number = number.unwrap_or(1) as f64;
            let enough = bucket.take_some(now, if back { -number } else { number });
            if !enough && !shadow {
                return done(false, Some(bucket), descriptor.x_headers.unwrap_or(tell));
            }
        }
        let first = found.first();
        let first_tells = first.map_or(tell, |(.., one)| one.x_headers.unwrap_or(tell));
        let first = first.map(|(bucket, ..)| &**bucket);
        let default = self.default.as_deref();
        match default.filter(|_| first.is_none() || self.always_default) {
            Some(default) if !default.take(now) => done(false, Some(default), tell),
            Some(default) => done(true, first.or(Some(default)), first_tells),
            None => done(true, first, first_tells),
        }
    }
}

impl Fixed {
    fn matches(&self, descriptor: &Descriptor<'_>) -> bool {
        self.entries.len() == descriptor.entries.len() && fits(&self.entries, descriptor)
    }
}

/// Whether entries have the keys of a descriptor and, where they say one, its values.
fn fits(entries: &Entries, descriptor: &Descriptor<'_>) -> bool {
    let pairs = entries.iter().zip(&descriptor.entries);
    entries.len() == descriptor.entries.len()
        && pairs.into_iter().all(|((key, value), (of_key, of_value))| {
            **key == **of_key && (value.is_empty() || **value == **of_value)
        })
}

impl Open {
    /// The bucket of the values, and whether another had to go for it.
    fn bucket(&self, descriptor: &Descriptor<'_>, kept: usize) -> (Arc<TokenBucket>, bool) {
        let mut values = String::new();
        for (_, value) in &descriptor.entries {
            let _ = write!(values, "{}:{value}", value.len());
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        known.uses += 1;
        let use_of_now = known.uses;
        if let Some((bucket, last)) = known.by_values.get_mut(values.as_str()) {
            if let Some(name) = known.by_use.remove(last) {
                known.by_use.insert(use_of_now, name);
            }
            *last = use_of_now;
            return (Arc::clone(bucket), false);
        }
        let full = known.by_values.len() >= kept;
        if full && let Some((_, oldest)) = known.by_use.pop_first() {
            known.by_values.remove(&oldest);
        }
        let bucket = Arc::new(self.like.another());
        let name: Arc<str> = Arc::from(values);
        let entry = (Arc::clone(&bucket), use_of_now);
        known.by_values.insert(Arc::clone(&name), entry);
        known.by_use.insert(use_of_now, name);
        (bucket, full)
    }
}
