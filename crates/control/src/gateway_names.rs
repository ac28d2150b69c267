//! Looks up the names of networks' gateways and gives their addresses to the core, for which they are
//! one more source. Never holds up the engine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::HashMap;
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use weft_core::drain::DrainSignal;

use crate::core::{Core, Names};

/// Time between two look-ups of a name: the system's resolver tells no lifetimes, and this is the
/// shortest that Istio takes.
const REFRESH: Duration = Duration::from_secs(30);
/// Look-ups at once; each takes a thread as long as the system's resolver takes.
const AT_ONCE: usize = 16;
/// Addresses of a name that are used, the first in order.
const MAX_ADDRESSES: usize = 16;

/// Looks up what the core's networks want, until the drain signal comes.
///
/// # Errors
/// The core has panicked, so that its state is not to be relied on.
pub(crate) async fn run(
    core: Arc<Core>,
    mut wanted: watch::Receiver<Arc<Names>>,
    drain: DrainSignal,
) -> Result<(), JoinError> {
    let mut due: BTreeMap<Arc<str>, Instant> = BTreeMap::new();
    let mut lookups: JoinSet<Option<Vec<IpAddr>>> = JoinSet::new();
    let mut under_way: HashMap<task::Id, Arc<str>> = HashMap::default();
    loop {
        let now = Instant::now();
        let names = Arc::clone(&wanted.borrow_and_update());
        due.retain(|name, _| names.contains(name));
        for name in names.iter() {
            due.entry(Arc::clone(name)).or_insert(now);
        }
        for (name, at) in &mut due {
            if lookups.len() >= AT_ONCE {
                break;
            }
            let running = under_way.values().any(|other| other == name);
            if *at <= now && !running {
                *at = now + REFRESH;
                let asked = Arc::clone(name);
                let task = lookups.spawn(async move { look_up(&asked).await });
                under_way.insert(task.id(), Arc::clone(name));
            }
        }
        let next = due.values().min().copied().unwrap_or(now + REFRESH);
        // What is due and waits for its turn begins when a look-up ends.
        let pause = next
            .saturating_duration_since(now)
            .max(Duration::from_millis(100));
        tokio::select! {
            () = drain.wait() => return Ok(()),
            changed = wanted.changed() => if changed.is_err() { return Ok(()) },
            Some(done) = lookups.join_next_with_id() => {
                let (id, found) = match done {
                    Ok((id, found)) => (id, found),
                    Err(error) => (error.id(), None),
                };
                if let Some(name) = under_way.remove(&id) {
                    let core = Arc::clone(&core);
                    // Computation does not belong among the connections.
                    task::spawn_blocking(move || core.take_addresses(&name, found)).await?;
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The addresses of a name, in order; `None` if there are none, or the resolver gave none.
async fn look_up(name: &str) -> Option<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((name, 0)).await;
    let found = found
        .inspect_err(|error| tracing::warn!(name, %error, "a gateway's name cannot be looked up"))
        .ok()?;
    let mut all: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    all.sort_unstable();
    all.dedup();
    all.truncate(MAX_ADDRESSES);
    (!all.is_empty()).then_some(all)
}

/// Name, kind, help and value of metrics.
pub(crate) fn metrics(core: &Core) -> [(&'static str, &'static str, &'static str, u64); 4] {
    let counts = &core.name_counts;
    let (names, without) = core.gateway_names();
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    [
        (
            "weft_network_gateway_lookups_found_total",
            "counter",
            "Look-ups of names of networks' gateways that found addresses.",
            load(&counts.found),
        ),
        (
            "weft_network_gateway_lookups_failed_total",
            "counter",
            "Look-ups of names of networks' gateways that found none: earlier addresses hold.",
            load(&counts.failed),
        ),
        (
            "weft_network_gateway_names",
            "gauge",
            "Names of networks' gateways that are looked up.",
            names as u64,
        ),
        (
            "weft_network_gateway_names_without_addresses",
            "gauge",
            "Those of them that have no addresses: the gateways are not used.",
            without as u64,
        ),
    ]
}
