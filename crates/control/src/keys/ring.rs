//! When the keys of which place are to be fetched, and what follows from an answer. Does no I/O and
//! reads no clock: time is an argument.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_model::KeyPlace;

/// Fetches under way at once.
const AT_ONCE: usize = 16;
/// The first pause after a failure; it doubles with each one that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause while there are no keys at all.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Failures at the start that do not count yet: names and networks come up together with us.
const PATIENT_FAILURES: u32 = 3;
/// Keys that could not be renewed for so long hold no longer, as in Istio.
const EXPIRY: Duration = Duration::from_hours(7 * 24);

/// What is known of a place.
#[derive(Debug)]
struct Known {
    timeout: Duration,
    keys: Option<Arc<str>>,
    renewed: Option<Instant>,
    failures: u32,
    /// When the next fetch is to begin; none while one is under way.
    due: Option<Instant>,
}

/// What a fetch has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The place has these keys now.
    Keys(Arc<str>),
    /// It has none: none were ever fetched, or the last ones are too old.
    Nothing,
    /// Those that it had hold.
    Same,
    /// It never had any, and is asked again in a moment.
    NotYet,
}

/// All places.
#[derive(Debug)]
pub(crate) struct Ring {
    places: BTreeMap<KeyPlace, Known>,
    refresh: Duration,
    under_way: usize,
}

impl Ring {
    /// Keys are fetched anew after `refresh`.
    pub(crate) fn new(refresh: Duration) -> Self {
        Self {
            places: BTreeMap::new(),
            refresh,
            under_way: 0,
        }
    }

    /// Says which places there are, with the time that a fetch may take. New ones are fetched at
    /// once; others are forgotten.
    pub(crate) fn want(&mut self, wanted: &BTreeMap<KeyPlace, Duration>, now: Instant) {
        self.places.retain(|place, _| wanted.contains_key(place));
        for (place, timeout) in wanted {
            let known = self.places.entry(place.clone()).or_insert(Known {
                timeout: *timeout,
                keys: None,
                renewed: None,
                failures: 0,
                due: Some(now),
            });
            known.timeout = *timeout;
        }
    }

    /// The places to fetch from now, as many as may be under way.
    pub(crate) fn start(&mut self, now: Instant) -> Vec<(KeyPlace, Duration)> {
        let mut due: Vec<(Instant, KeyPlace)> = self
            .places
            .iter()
            .filter_map(|(place, known)| {
                Some((known.due.filter(|due| *due <= now)?, place.clone()))
            })
            .collect();
        due.sort();
        due.truncate(AT_ONCE.saturating_sub(self.under_way));
        let mut begun = Vec::with_capacity(due.len());
        for (_, place) in due {
            if let Some(known) = self.places.get_mut(&place) {
                known.due = None;
                begun.push((place, known.timeout));
            }
        }
        self.under_way += begun.len();
        begun
    }

    /// When something is to be done next; none while all that may be is under way.
    pub(crate) fn next(&self) -> Option<Instant> {
        if self.under_way >= AT_ONCE {
            return None;
        }
        self.places.values().filter_map(|known| known.due).min()
    }

    /// Takes the end of a fetch. `None` if nobody wants the keys any more.
    pub(crate) fn done(
        &mut self,
        place: &KeyPlace,
        fetched: Option<Arc<str>>,
        now: Instant,
    ) -> Option<Outcome> {
        self.under_way = self.under_way.saturating_sub(1);
        let known = self.places.get_mut(place)?;
        if let Some(keys) = fetched {
            known.failures = 0;
            known.renewed = Some(now);
            known.due = Some(now + self.refresh);
            // Equal ones are told, too: who takes them may have forgotten the place in between.
            known.keys = Some(Arc::clone(&keys));
            return Some(Outcome::Keys(keys));
        }
        let fresh = known
            .renewed
            .is_some_and(|at| now.duration_since(at) < EXPIRY);
        if !fresh {
            known.keys = None;
        }
        let longest = if fresh { self.refresh } else { LONGEST_PAUSE };
        let pause = FIRST_PAUSE.saturating_mul(1 << known.failures.min(16));
        known.failures = known.failures.saturating_add(1);
        known.due = Some(now + pause.min(longest));
        Some(if fresh {
            Outcome::Same
        } else if known.renewed.is_none() && known.failures < PATIENT_FAILURES {
            Outcome::NotYet
        } else {
            Outcome::Nothing
        })
    }

    /// How many places there are, and how many of them have no keys.
    pub(crate) fn count(&self) -> (usize, usize) {
        let without = self.places.values().filter(|known| known.keys.is_none());
        (self.places.len(), without.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_mins(20);

    fn place(name: &str) -> KeyPlace {
        KeyPlace::Url(format!("https://{name}/").into())
    }

    fn wanted(names: &[&str]) -> BTreeMap<KeyPlace, Duration> {
        let timeout = Duration::from_secs(5);
        names.iter().map(|name| (place(name), timeout)).collect()
    }

    fn names(started: &[(KeyPlace, Duration)]) -> Vec<String> {
        started.iter().map(|(place, _)| place.to_string()).collect()
    }

    #[test]
    fn keys_are_fetched_at_once_and_again_after_the_refresh_interval() {
        let (mut ring, start) = (Ring::new(REFRESH), Instant::now());
        ring.want(&wanted(&["a"]), start);
        assert_eq!(names(&ring.start(start)), ["https://a/"]);
        assert_eq!(ring.next(), None);
        let keys: Arc<str> = "k".into();
        let first = ring.done(&place("a"), Some(Arc::clone(&keys)), start);
        assert_eq!(first, Some(Outcome::Keys(Arc::clone(&keys))));
        assert_eq!(ring.next(), Some(start + REFRESH));
        assert!(ring.start(start + REFRESH / 2).is_empty());
        assert_eq!(ring.start(start + REFRESH).len(), 1);
        let again = ring.done(&place("a"), Some(Arc::clone(&keys)), start + REFRESH);
        assert_eq!(again, Some(Outcome::Keys(keys)));
    }

    #[test]
    fn a_failed_fetch_keeps_the_last_good_keys_for_a_week() {
        let (mut ring, start) = (Ring::new(REFRESH), Instant::now());
        ring.want(&wanted(&["a"]), start);
        ring.start(start);
        ring.done(&place("a"), Some("k".into()), start);
        let mut now = start;
        for _ in 0..100 {
            now += REFRESH;
            ring.start(now);
            assert_eq!(ring.done(&place("a"), None, now), Some(Outcome::Same));
        }
        now = start + EXPIRY + REFRESH;
        ring.start(now);
        assert_eq!(ring.done(&place("a"), None, now), Some(Outcome::Nothing));
        assert_eq!(ring.count(), (1, 1));
    }

    #[test]
    fn pauses_after_failures_grow_to_a_minute() {
        let (mut ring, mut now) = (Ring::new(REFRESH), Instant::now());
        ring.want(&wanted(&["a"]), now);
        let mut pauses = Vec::new();
        for failure in 1..=9 {
            ring.start(now);
            let outcome = match failure {
                1 | 2 => Outcome::NotYet,
                _ => Outcome::Nothing,
            };
            assert_eq!(ring.done(&place("a"), None, now), Some(outcome));
            let next = ring.next().expect("it is tried again");
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn so_many_are_under_way_and_the_rest_wait() {
        let (mut ring, now) = (Ring::new(REFRESH), Instant::now());
        let all: Vec<String> = (0..40).map(|i| format!("h{i}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        ring.want(&wanted(&all), now);
        assert_eq!(ring.start(now).len(), AT_ONCE);
        assert!(ring.start(now).is_empty());
        assert_eq!(ring.next(), None);
        ring.done(&place("h0"), None, now);
        assert_eq!(ring.start(now).len(), 1);
    }

    #[test]
    fn what_nobody_wants_is_forgotten() {
        let (mut ring, now) = (Ring::new(REFRESH), Instant::now());
        ring.want(&wanted(&["a", "b"]), now);
        ring.start(now);
        ring.want(&wanted(&["b"]), now);
        assert_eq!(ring.done(&place("a"), Some("k".into()), now), None);
        assert_eq!(ring.count(), (1, 1));
    }
}
