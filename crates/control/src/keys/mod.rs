//! Keys that `RequestAuthentication`s name by URL: fetched, renewed, and given to the core, for
//! which they are one more source. Never holds up the engine.

mod client;
mod proxies;
mod ring;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::HashMap;
use tokio::sync::{Mutex, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio_rustls::TlsConnector;
use weft_core::drain::DrainSignal;
use weft_model::KeyPlace;

use crate::core::{Core, Places};
pub(crate) use client::{Way, connect, connector, fetch};
pub use proxies::HttpProxies;
use ring::{Outcome, Ring};

/// Longest time that a fetch may take, whatever a rule says.
const LONGEST_FETCH: Duration = Duration::from_secs(10);
/// The system's roots are read again after this time.
const ROOTS_AGE: Duration = Duration::from_hours(1);
/// How often rules that wait for keys are looked after.
const TICK: Duration = Duration::from_millis(500);

/// How keys of rules are fetched.
#[derive(Clone, Debug)]
pub struct KeyFetch {
    /// Time between two fetches of the same keys (istiod's `PILOT_JWT_PUB_KEY_REFRESH_INTERVAL`).
    pub refresh: Duration,
    /// PEM file of authorities that are trusted besides those of the system; may be absent.
    pub extra_roots: PathBuf,
    /// HTTP proxies by which servers of keys are called.
    pub proxies: HttpProxies,
}

impl Default for KeyFetch {
    /// As istiod.
    fn default() -> Self {
        Self {
            refresh: Duration::from_mins(20),
            extra_roots: "/cacerts/extra.pem".into(),
            proxies: HttpProxies::default(),
        }
    }
}

/// Fetches what the core's rules want, until the drain signal comes.
///
/// # Errors
/// The core has panicked, so that its state is not to be relied on.
pub(crate) async fn run(
    core: Arc<Core>,
    mut wanted: watch::Receiver<Arc<Places>>,
    how: KeyFetch,
    drain: DrainSignal,
) -> Result<(), JoinError> {
    let mut ring = Ring::new(how.refresh.max(Duration::from_secs(1)));
    let roots = Arc::new(Mutex::new(Roots::default()));
    let mut fetches: JoinSet<Result<Arc<str>, String>> = JoinSet::new();
    let mut places: HashMap<task::Id, KeyPlace> = HashMap::default();
    loop {
        let now = Instant::now();
        ring.want(&wanted.borrow_and_update(), now);
        for (place, timeout) in ring.start(now) {
            let (roots, how) = (Arc::clone(&roots), how.clone());
            let asked = place.clone();
            let task = fetches.spawn(async move {
                let limit = timeout.min(LONGEST_FETCH);
                let tls = roots.lock().await.connector(&how);
                let way = Way {
                    tls: &tls,
                    proxies: &how.proxies,
                };
                let fetch = fetch(&place, way);
                let fetched = tokio::time::timeout(limit, fetch).await;
                let late = |_| Err(format!("{place}: no answer within {limit:?}"));
                fetched.unwrap_or_else(late)
            });
            places.insert(task.id(), asked);
        }
        count(&core, &ring);
        let next = ring
            .next()
            .map_or(TICK, |next| next.saturating_duration_since(now));
        tokio::select! {
            () = drain.wait() => return Ok(()),
            changed = wanted.changed() => if changed.is_err() { return Ok(()) },
            Some(done) = fetches.join_next_with_id() => {
                // A fetch that panics is a fault of Weft; its place is asked again later.
                let (task, fetched) = match done {
                    Ok((task, fetched)) => (task, fetched),
                    Err(error) => (error.id(), Err(error.to_string())),
                };
                if let Some(place) = places.remove(&task) {
                    take(&core, &mut ring, place, fetched).await?;
                }
            }
            () = tokio::time::sleep(next.min(TICK)) => {}
        }
        let late = Arc::clone(&core);
        if core.has_rules_without_keys() {
            task::spawn_blocking(move || late.release_late(Instant::now())).await?;
        }
    }
}

#[derive(Default)]
struct Roots {
    connector: Option<(Instant, TlsConnector)>,
}

impl Roots {
    fn connector(&mut self, how: &KeyFetch) -> TlsConnector {
        let fresh = self.connector.as_ref();
        let fresh = fresh.filter(|(read, _)| read.elapsed() < ROOTS_AGE);
        if let Some((_, connector)) = fresh {
            return connector.clone();
        }
        let connector = connector(&how.extra_roots);
        self.connector = Some((Instant::now(), connector.clone()));
        connector
    }
}

async fn take(
    core: &Arc<Core>,
    ring: &mut Ring,
    place: KeyPlace,
    fetched: Result<Arc<str>, String>,
) -> Result<(), JoinError> {
    let counts = &core.key_counts;
    let counter = if fetched.is_ok() {
        &counts.fetched
    } else {
        &counts.failed
    };
    counter.fetch_add(1, Ordering::Relaxed);
    let outcome = ring.done(&place, fetched.as_ref().ok().cloned(), Instant::now());
    let keys = match outcome.clone() {
        None => return Ok(()),
        Some(Outcome::Keys(keys)) => Some(Some(keys)),
        Some(Outcome::Nothing) => Some(None),
        Some(Outcome::Same | Outcome::NotYet) => None,
    };
    if let Err(error) = &fetched {
        let kept = outcome == Some(Outcome::Same);
        tracing::warn!(%place, error, kept, "keys for tokens cannot be fetched");
    }
    if let Some(keys) = keys {
        let core = Arc::clone(core);
        // Computation does not belong among the connections.
        task::spawn_blocking(move || core.take_keys(place, keys)).await?;
    }
    Ok(())
}

fn count(core: &Core, ring: &Ring) {
    let (places, without) = ring.count();
    core.key_counts
        .places
        .store(places as u64, Ordering::Relaxed);
    core.key_counts
        .without
        .store(without as u64, Ordering::Relaxed);
}

/// Name, kind, help and value of metrics.
pub(crate) fn metrics(core: &Core) -> [(&'static str, &'static str, &'static str, u64); 4] {
    let counts = &core.key_counts;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    [
        (
            "pilot_jwks_resolver_network_fetch_success_total",
            "counter",
            "Fetches of keys for tokens that succeeded.",
            load(&counts.fetched),
        ),
        (
            "pilot_jwks_resolver_network_fetch_fail_total",
            "counter",
            "Fetches of keys for tokens that failed.",
            load(&counts.failed),
        ),
        (
            "weft_token_key_places",
            "gauge",
            "Places from which keys for tokens are fetched.",
            load(&counts.places),
        ),
        (
            "weft_token_key_places_without_keys",
            "gauge",
            "Those of them that have given no keys: tokens are refused.",
            load(&counts.without),
        ),
    ]
}
