//! The keys of token issuers that are fetched from servers, by server: an edited filter chain goes
//! on with those that the one before it had.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_config::jwt::RemoteKeySource;
use weft_filters::RemoteKeys;

/// How long the keys of a server that no filter names are kept.
const UNUSED: Duration = Duration::from_mins(10);
/// Servers whose keys are kept though no filter names them.
const MAX_UNUSED: usize = 64;

#[derive(Debug)]
struct Kept {
    keys: Rc<RemoteKeys>,
    /// When a filter was last seen to have them.
    used: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct KeyServers(RefCell<HashMap<Arc<RemoteKeySource>, Kept>>);

impl KeyServers {
    /// The keys of a server, and whether nobody has asked for them before.
    pub(crate) fn get(&self, source: &Arc<RemoteKeySource>) -> (Rc<RemoteKeys>, bool) {
        let mut kept = self.0.borrow_mut();
        let new = !kept.contains_key(source);
        let entry = kept.entry(Arc::clone(source)).or_insert_with(|| Kept {
            keys: Rc::new(RemoteKeys::new(Arc::clone(source))),
            used: Instant::now(),
        });
        (Rc::clone(&entry.keys), new)
    }

    /// Forgets what nobody has used for a while.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut kept = self.0.borrow_mut();
        let mut unused = 0;
        kept.retain(|_, kept| {
            if Rc::strong_count(&kept.keys) > 1 {
                kept.used = now;
                return true;
            }
            unused += 1;
            unused <= MAX_UNUSED && now.duration_since(kept.used) < UNUSED
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(cluster: &str) -> Arc<RemoteKeySource> {
        Arc::new(RemoteKeySource {
            cluster: Arc::from(cluster),
            host: Arc::from("h"),
            path: Arc::from("/"),
            timeout: UNUSED,
            cache_duration: UNUSED,
            fetch_early: false,
            failed_refetch: UNUSED,
        })
    }

    #[test]
    fn keys_outlive_their_filters_for_a_while() {
        let servers = KeyServers::default();
        let now = Instant::now();
        let (keys, new) = servers.get(&source("a"));
        assert!(new);
        servers.sweep(now + UNUSED);
        let (again, new) = servers.get(&source("a"));
        assert!(Rc::ptr_eq(&keys, &again) && !new, "a filter has them");
        drop(again);
        assert!(!Rc::ptr_eq(&keys, &servers.get(&source("b")).0));
        drop(keys);
        servers.sweep(now + UNUSED + UNUSED / 2);
        assert_eq!(servers.0.borrow().len(), 1, "b was never used");
        servers.sweep(now + UNUSED + UNUSED);
        assert!(servers.0.borrow().is_empty());
        for at in 0..2 * MAX_UNUSED {
            let _unused = servers.get(&source(&at.to_string()));
        }
        servers.sweep(now);
        assert_eq!(servers.0.borrow().len(), MAX_UNUSED);
    }
}
