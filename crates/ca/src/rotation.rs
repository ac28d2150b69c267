//! From one root to the next: the next one is trusted before it signs, the former one while what it
//! signed lasts. Does no I/O and reads no clock: time is an argument.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::CLOCK_SKEW;
use crate::bundle::since_epoch;

/// Roots that may be trusted at once; rotations beyond them wait.
const MAX_FORMER: usize = 8;
/// A root is replaced when this part of its life is left, as in Istio (20 %).
const LAST_PART: u32 = 5;

/// Name of a root within its folder: hexadecimal digits.
pub(crate) type RootName = String;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// Make the next root, and have it trusted.
    Begin,
    /// The next root signs from now on.
    Activate,
    /// Nothing that this root signed lasts any longer.
    Drop(RootName),
}

/// A time that something waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    /// By the clock of then; 1970 if it is not known.
    begun: SystemTime,
    end: SystemTime,
}

impl Wait {
    fn new(time: Duration, now: SystemTime) -> Self {
        Self {
            begun: now,
            end: now.checked_add(time).unwrap_or(now),
        }
    }
}

/// Which roots there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rotation {
    pub(crate) active: RootName,
    /// Waits until it signs.
    pub(crate) next: Option<(RootName, Wait)>,
    /// Trusted until what they signed has ended.
    pub(crate) former: Vec<(RootName, Wait)>,
}

impl Rotation {
    pub(crate) fn new(active: RootName) -> Self {
        Self {
            active,
            next: None,
            former: Vec::new(),
        }
    }

    /// All roots that are trusted, the one that signs first.
    pub(crate) fn trusted(&self) -> impl Iterator<Item = &RootName> {
        let others = self.next.iter().chain(&self.former).map(|(name, _)| name);
        std::iter::once(&self.active).chain(others)
    }

    /// What began to wait by a clock that was ahead begins now: else it would wait for as long as the
    /// clock was wrong.
    pub(crate) fn mend(&mut self, now: SystemTime) {
        let latest = now.checked_add(CLOCK_SKEW).unwrap_or(now);
        let next = self.next.iter_mut().chain(&mut self.former);
        for (_, wait) in next.filter(|(_, wait)| wait.begun > latest) {
            *wait = Wait::new(wait.end.duration_since(wait.begun).unwrap_or_default(), now);
        }
    }

    /// What is to be done at `now`; `life`: begin and end of the active root.
    pub(crate) fn due(&self, life: (SystemTime, SystemTime), now: SystemTime) -> Option<Due> {
        if let Some((name, _)) = self.former.iter().find(|(_, wait)| wait.end <= now) {
            return Some(Due::Drop(name.clone()));
        }
        if let Some((_, wait)) = &self.next {
            return (wait.end <= now).then_some(Due::Activate);
        }
        let (begin, end) = life;
        let whole = end.duration_since(begin).unwrap_or_default();
        let left = end.duration_since(now).unwrap_or_default();
        (left <= whole / LAST_PART && self.may_begin()).then_some(Due::Begin)
    }

    pub(crate) fn may_begin(&self) -> bool {
        self.next.is_none() && self.former.len() < MAX_FORMER
    }

    /// A next root is there, which everybody can have heard of after `spread`.
    pub(crate) fn begin(&mut self, next: RootName, spread: Duration, now: SystemTime) {
        self.next = Some((next, Wait::new(spread, now)));
    }

    /// Whether another state, which may be later, waits for the same root.
    pub(crate) fn is_next(&self, later: &Self) -> bool {
        let name = |rotation: &Self| rotation.next.as_ref().map(|(name, _)| name.clone());
        name(self) == name(later)
    }

    /// The next root waits from now on: it was not told to anybody before.
    pub(crate) fn wait_again(&mut self, spread: Duration, now: SystemTime) {
        if let Some((_, wait)) = &mut self.next {
            *wait = Wait::new(spread, now);
        }
    }

    /// The next root signs; what the one before signed lasts for `longest`.
    pub(crate) fn activate(&mut self, longest: Duration, now: SystemTime) {
        if let Some((next, _)) = self.next.take() {
            let former = std::mem::replace(&mut self.active, next);
            self.former.push((former, Wait::new(longest, now)));
        }
    }

    pub(crate) fn drop_root(&mut self, name: &str) {
        self.former.retain(|(former, _)| former != name);
    }

    pub(crate) fn to_json(&self) -> String {
        let entry = |(name, wait): &(RootName, Wait)| {
            let [begun, end] = [wait.begun, wait.end].map(|time| since_epoch(time).as_secs());
            json!({"root": name, "begun": begun, "time": end})
        };
        let former: Vec<Value> = self.former.iter().map(entry).collect();
        let next = self.next.as_ref().map(entry);
        format!(
            "{:#}\n",
            json!({"active": self.active, "next": next, "former": former})
        )
    }

    /// `None` for what was not written by [`Rotation::to_json`].
    pub(crate) fn from_json(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let name = |value: &Value| {
            let name = value.as_str()?;
            let hexadecimal = !name.is_empty() && name.bytes().all(|b| b.is_ascii_hexdigit());
            (hexadecimal && name.len() <= 64).then(|| name.to_owned())
        };
        let entry = |value: &Value| {
            let time = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
            // Earlier versions wrote no beginning.
            let begun = value.get("begun").map_or(Some(0), Value::as_u64)?;
            let wait = Wait {
                begun: time(begun)?,
                end: time(value.get("time")?.as_u64()?)?,
            };
            Some((name(value.get("root")?)?, wait))
        };
        let former = value.get("former")?.as_array()?.iter();
        Some(Self {
            active: name(value.get("active")?)?,
            next: match value.get("next")? {
                Value::Null => None,
                next => Some(entry(next)?),
            },
            former: former.map(entry).collect::<Option<Vec<_>>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn both_roots_are_trusted_until_nothing_of_the_former_is_left() {
        let start = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let life = (start, start + 100 * DAY);
        let mut rotation = Rotation::new("a".into());
        assert_eq!(rotation.due(life, start + 79 * DAY), None);
        let now = start + 80 * DAY;
        assert_eq!(rotation.due(life, now), Some(Due::Begin));
        rotation.begin("b".into(), DAY, now);
        assert!(rotation.trusted().eq(["a", "b"]));
        assert_eq!(rotation.active, "a", "it does not sign before it is known");
        assert_eq!(rotation.due(life, now + DAY / 2), None);
        let now = now + DAY;
        assert_eq!(rotation.due(life, now), Some(Due::Activate));
        rotation.activate(2 * DAY, now);
        assert_eq!(rotation.active, "b");
        assert!(rotation.trusted().eq(["b", "a"]));
        let life = (now, now + 100 * DAY);
        assert_eq!(rotation.due(life, now + DAY), None);
        let due = rotation.due(life, now + 2 * DAY);
        assert_eq!(due, Some(Due::Drop("a".into())));
        rotation.drop_root("a");
        assert!(rotation.trusted().eq(["b"]));
    }

    #[test]
    fn a_clock_that_was_ahead_blocks_nothing() {
        let start = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let mut rotation = Rotation::new("a".into());
        let ahead = start + 5000 * DAY;
        rotation.begin("b".into(), DAY, ahead);
        let last = Wait::new(2 * DAY, ahead);
        rotation.former.push(("c".into(), last));
        rotation.mend(start);
        let life = (start, start + 100 * DAY);
        assert_eq!(rotation.due(life, start), None);
        let due = rotation.due(life, start + DAY);
        assert_eq!(due, Some(Due::Activate));
        rotation.activate(2 * DAY, start + DAY);
        let due = rotation.due(life, start + 2 * DAY);
        assert_eq!(due, Some(Due::Drop("c".into())));
        // What is as it should be stays as it is.
        let before = rotation.clone();
        rotation.mend(start + DAY);
        assert_eq!(rotation, before);
        let earlier = r#"{"active":"a","next":{"root":"b","time":99},"former":[]}"#;
        let earlier = Rotation::from_json(earlier.as_bytes()).expect("of an earlier version");
        assert_eq!(earlier.due(life, start), Some(Due::Activate));
    }

    #[test]
    fn it_is_written_and_read_back() {
        let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let mut rotation = Rotation::new("a1".into());
        let read = |rotation: &Rotation| Rotation::from_json(rotation.to_json().as_bytes());
        assert_eq!(read(&rotation).as_ref(), Some(&rotation));
        rotation.begin("b2".into(), DAY, now);
        assert_eq!(read(&rotation).as_ref(), Some(&rotation));
        rotation.activate(DAY, now);
        assert_eq!(read(&rotation).as_ref(), Some(&rotation));
        for bad in ["", "{}", r#"{"active":"../a","next":null,"former":[]}"#] {
            assert_eq!(Rotation::from_json(bad.as_bytes()), None, "{bad}");
        }
    }
}
