//! The names that clients ask for. Thousands of proxies ask for the same thousand names, so that streams
//! whose names are equal keep one copy. Never knows what a name means.

use std::sync::{Arc, Weak};

use ahash::{AHashMap, AHashSet};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// Fewer names are not worth looking for another stream's.
const WORTH_SHARING: usize = 32;
/// How many sets a pool remembers before it looks for the first time which of them are gone.
const FIRST_SWEEP: usize = 64;

type Set = AHashSet<Arc<str>>;

/// The names of one type on one stream.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Names {
    set: Arc<Set>,
    /// A wrapping sum over the hashes of the names.
    sum: u64,
}

impl Names {
    pub(in crate::server) fn contains(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    pub(in crate::server) fn get(&self, name: &str) -> Option<&Arc<str>> {
        self.set.get(name)
    }

    pub(in crate::server) fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.set.iter()
    }

    pub(in crate::server) fn len(&self) -> usize {
        self.set.len()
    }

    pub(in crate::server) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Whether it is new.
    pub(in crate::server) fn insert(&mut self, name: Arc<str>) -> bool {
        if self.set.contains(&name) {
            return false;
        }
        self.sum = self.sum.wrapping_add(xxh3_64(name.as_bytes()));
        Arc::make_mut(&mut self.set).insert(name)
    }

    pub(in crate::server) fn remove(&mut self, name: &str) {
        if self.set.contains(name) {
            self.sum = self.sum.wrapping_sub(xxh3_64(name.as_bytes()));
            Arc::make_mut(&mut self.set).remove(name);
        }
    }
}

/// The sets of names of all streams of a server.
#[derive(Debug, Default)]
pub struct NamePool(Mutex<Pooled>);

#[derive(Debug, Default)]
struct Pooled {
    by_sum: AHashMap<u64, Weak<Set>>,
    /// Among how many it looks for those that nobody has any more.
    sweep_at: usize,
}

impl NamePool {
    /// Exchanges a stream's copy for an equal one of another stream, or keeps it for others.
    pub(in crate::server) fn share(&self, names: &mut Names) {
        // More than one owner: it is shared already.
        if names.len() < WORTH_SHARING || Arc::strong_count(&names.set) > 1 {
            return;
        }
        let mut pooled = self.0.lock();
        let known = pooled.by_sum.get(&names.sum).and_then(Weak::upgrade);
        if let Some(known) = known {
            if !Arc::ptr_eq(&known, &names.set) && known == names.set {
                names.set = known;
            }
            return;
        }
        if pooled.by_sum.len() >= pooled.sweep_at.max(FIRST_SWEEP) {
            pooled.by_sum.retain(|_, set| set.strong_count() > 0);
            pooled.sweep_at = 2 * pooled.by_sum.len();
        }
        // Room for more names than there are is not kept.
        Arc::make_mut(&mut names.set).shrink_to_fit();
        pooled.by_sum.insert(names.sum, Arc::downgrade(&names.set));
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().by_sum.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<usize>) -> Names {
        let mut names = Names::default();
        for name in range.rev() {
            names.insert(format!("c{name}").into());
        }
        names
    }

    #[test]
    fn equal_sets_are_one_until_one_of_them_changes() {
        let pool = NamePool::default();
        let (mut a, mut b) = (names(0..100), names(0..100));
        pool.share(&mut a);
        pool.share(&mut b);
        assert!(Arc::ptr_eq(&a.set, &b.set));
        b.insert("new".into());
        b.remove("c7");
        assert!(a.contains("c7") && !a.contains("new") && a.len() == 100);
        assert!(!b.contains("c7") && b.contains("new") && b.len() == 100);
        a.insert("new".into());
        a.remove("c7");
        pool.share(&mut a);
        pool.share(&mut b);
        assert!(Arc::ptr_eq(&a.set, &b.set));
    }

    #[test]
    fn a_sum_alone_makes_nothing_equal() {
        let pool = NamePool::default();
        let (mut a, mut b) = (names(0..100), names(1..101));
        b.sum = a.sum;
        pool.share(&mut a);
        pool.share(&mut b);
        assert!(b.contains("c100") && !b.contains("c0"));
    }

    #[test]
    fn a_pool_forgets_what_nobody_has() {
        let pool = NamePool::default();
        let mut kept = names(0..100);
        pool.share(&mut kept);
        for last in 101..2000 {
            pool.share(&mut names(0..last));
        }
        assert!(pool.len() <= FIRST_SWEEP, "{}", pool.len());
        let mut again = names(0..100);
        pool.share(&mut again);
        assert!(Arc::ptr_eq(&again.set, &kept.set));
    }
}
