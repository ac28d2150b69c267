//! Names that come with requests and TLS connections: each is looked up when it is first asked for,
//! again while it is used, and forgotten when nobody asks for it any more (Envoy's DNS cache of the
//! dynamic forward proxy). Must never know clusters.
//!
//! Workers share a cache. A name that a worker knows costs it no lock; see
//! [`crate::Cluster::pick`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ahash::AHashMap;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_config::name_cache::NameCache as Config;
use weft_core::metrics::{Registry, Scope, StatSet, StatVisitor, Value};

use crate::dns::{Resolve, of_family};
use crate::random::Random;

/// Waits at least so long after a failure, whatever the back-off comes to.
const SHORTEST: Duration = Duration::from_millis(10);

weft_core::stat_set! {
    /// Statistics of a cache, under Envoy's names.
    pub struct CacheCounts {
        counters {
            cache_load,
            dns_query_attempt,
            dns_query_failure,
            dns_query_success,
            dns_query_timeout,
            dns_rq_pending_overflow,
            host_added,
            host_address_changed,
            host_overflow,
            host_removed
        }
        gauges { num_hosts }
    }
}

/// `dns_cache.<name>.…`
#[derive(Debug)]
struct CacheStats {
    prefix: String,
    counts: CacheCounts,
}

impl StatSet for CacheStats {
    fn visit(&self, visitor: &mut dyn StatVisitor) {
        struct Named<'a>(&'a str, &'a mut dyn StatVisitor);
        impl StatVisitor for Named<'_> {
            fn value(&mut self, name: &str, value: Value) {
                self.1.value(&format!("{}{name}", self.0), value);
            }
        }
        self.counts.visit(&mut Named(&self.prefix, visitor));
    }
}

/// A name with its port, in the form in which caches know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// `name:port`, in lower case, IPv6 addresses in brackets.
    pub key: String,
    name_end: usize,
    port: u16,
}

impl Called {
    /// Reads `host` or `host:port` as an authority has it; `None` if it is none.
    pub fn parse(authority: &str, default_port: u16) -> Option<Self> {
        let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let (name, port) = match authority.rsplit_once(':') {
            // An IPv6 address without brackets has several colons, and no port.
            Some((name, _)) if name.contains(':') && !name.starts_with('[') => (authority, None),
            Some((name, port)) if digits(port) => (name, Some(port.parse::<u16>().ok()?)),
            Some((name, _)) if name.starts_with('[') && authority.ends_with(']') => {
                (authority, None)
            }
            Some(_) => return None,
            None => (authority, None),
        };
        let port = port.unwrap_or(default_port);
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        let name = bare.unwrap_or(name);
        if name.is_empty() || name.len() > 253 || port == 0 {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let key = if name.contains(':') {
            format!("[{name}]:{port}")
        } else {
            format!("{name}:{port}")
        };
        let name_end = key.len() - port.to_string().len() - 1;
        Some(Self {
            key,
            name_end,
            port,
        })
    }

    /// The name without brackets.
    pub fn name(&self) -> &str {
        let name = self.key.get(..self.name_end).unwrap_or_default();
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        bare.unwrap_or(name)
    }
}

/// What is known of a name.
#[derive(Debug)]
pub(crate) struct Entry {
    called: Called,
    address: ArcSwapOption<SocketAddr>,
    /// Nobody looks it up any more.
    gone: AtomicBool,
    /// When it was last asked for, in milliseconds since the cache was made.
    used: AtomicU64,
    since: Instant,
    /// Whether it was looked up once, and the reason if that failed.
    tried: watch::Sender<Option<Result<(), Arc<str>>>>,
}

impl Entry {
    /// The last address, which stays while look-ups fail.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address.load().as_deref().copied()
    }

    pub(crate) fn name(&self) -> &str {
        self.called.name()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// Keeps it from being forgotten.
    pub(crate) fn touch(&self) {
        self.used.store(millis(self.since.elapsed()), Relaxed);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameFailure {
    /// The cache is full.
    Overflow,
    /// Too many requests wait already.
    PendingOverflow,
    /// It was looked up in vain; the text says why.
    NotResolved(Arc<str>),
}

/// See the module.
pub struct NameCache {
    config: Arc<Config>,
    resolver: Arc<dyn Resolve>,
    /// Of the main thread, where names are looked up.
    runtime: tokio::runtime::Handle,
    entries: Mutex<AHashMap<String, Arc<Entry>>>,
    pending: AtomicI64,
    stats: Arc<CacheStats>,
    made: Instant,
}

impl std::fmt::Debug for NameCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NameCache({})", self.config.name)
    }
}

/// Counts one that waits.
struct Waiting<'a>(&'a AtomicI64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl NameCache {
    pub(crate) fn new(
        config: &Arc<Config>,
        resolver: Arc<dyn Resolve>,
        runtime: tokio::runtime::Handle,
        registry: &Registry,
    ) -> Arc<Self> {
        let stats = Arc::new(CacheStats {
            prefix: format!("dns_cache.{}.", config.name),
            counts: CacheCounts::default(),
        });
        registry.register(Scope::root(""), &stats);
        Arc::new(Self {
            config: Arc::clone(config),
            resolver,
            runtime,
            entries: Mutex::default(),
            pending: AtomicI64::new(0),
            stats,
            made: Instant::now(),
        })
    }

    /// What is known of a name that was asked for before.
    pub(crate) fn known(&self, called: &Called) -> Option<Arc<Entry>> {
        self.entries.lock().get(&called.key).map(Arc::clone)
    }

    /// Waits until a name has an address.
    ///
    /// # Errors
    /// It has none.
    pub async fn resolve(self: &Arc<Self>, called: &Called) -> Result<(), NameFailure> {
        let waiting = self.wait_as_one()?;
        let entry = self.entry(called)?;
        entry.touch();
        if entry.address().is_some() {
            return Ok(());
        }
        let mut tried = entry.tried.subscribe();
        let outcome = tried.wait_for(Option::is_some).await;
        drop(waiting);
        if entry.address().is_some() {
            return Ok(());
        }
        let why = match outcome.map(|outcome| outcome.clone()) {
            Ok(Some(Err(why))) => why,
            // It was forgotten meanwhile.
            _ => "no_host".into(),
        };
        Err(NameFailure::NotResolved(why))
    }

    fn wait_as_one(&self) -> Result<Waiting<'_>, NameFailure> {
        let before = self.pending.fetch_add(1, Relaxed);
        let waiting = Waiting(&self.pending);
        if before >= i64::from(self.config.max_pending) {
            self.stats.counts.dns_rq_pending_overflow.inc();
            return Err(NameFailure::PendingOverflow);
        }
        Ok(waiting)
    }

    /// The entry of a name, which is looked up from now on if it was not.
    fn entry(self: &Arc<Self>, called: &Called) -> Result<Arc<Entry>, NameFailure> {
        let counts = &self.stats.counts;
        let mut entries = self.entries.lock();
        if let Some(known) = entries.get(&called.key) {
            return Ok(Arc::clone(known));
        }
        if entries.len() >= self.config.max_hosts as usize {
            counts.host_overflow.inc();
            return Err(NameFailure::Overflow);
        }
        let entry = Arc::new(Entry {
            called: called.clone(),
            address: ArcSwapOption::empty(),
            gone: AtomicBool::new(false),
            used: AtomicU64::new(0),
            since: self.made,
            tried: watch::Sender::new(None),
        });
        entry.touch();
        // An address needs no look-up.
        let literal = called.name().parse().ok();
        if let Some(ip) = literal {
            self.take(&entry, SocketAddr::new(ip, called.port));
            entry.tried.send_replace(Some(Ok(())));
        }
        entries.insert(called.key.clone(), Arc::clone(&entry));
        drop(entries);
        counts.host_added.inc();
        counts.num_hosts.inc();
        let life = Arc::clone(self).live(Arc::clone(&entry), literal.is_some());
        self.runtime.spawn(life);
        Ok(entry)
    }

    /// Looks a name up again and again while it is used, and forgets it then.
    async fn live(self: Arc<Self>, entry: Arc<Entry>, literal: bool) {
        let mut failures = 0_u32;
        loop {
            let wait = if literal {
                self.config.ttl
            } else if self.look_up(&entry).await {
                failures = 0;
                self.config.refresh
            } else {
                failures = failures.saturating_add(1);
                self.after_failure(failures)
            };
            // Forgotten when its time is over, not only with the next look-up.
            tokio::time::sleep(wait).await;
            let used = entry.used.load(Relaxed);
            let unused = millis(self.made.elapsed()).saturating_sub(used);
            if unused >= millis(self.config.ttl) {
                break;
            }
        }
        entry.gone.store(true, Relaxed);
        self.entries.lock().remove(&entry.called.key);
        let counts = &self.stats.counts;
        counts.host_removed.inc();
        counts.num_hosts.dec();
    }

    fn after_failure(&self, failures: u32) -> Duration {
        let Some((base, max)) = self.config.failure_refresh else {
            return self.config.refresh;
        };
        let grown = base * 2_u32.saturating_pow((failures - 1).min(16));
        grown
            .min(max)
            .mul_f64(Random::from_os().unit())
            .max(SHORTEST)
    }

    /// One look-up; says whether it had an answer.
    async fn look_up(&self, entry: &Entry) -> bool {
        let counts = &self.stats.counts;
        counts.dns_query_attempt.inc();
        let answer = self.resolver.resolve(entry.name());
        let outcome = match tokio::time::timeout(self.config.timeout, answer).await {
            Err(_) => {
                counts.dns_query_timeout.inc();
                counts.dns_query_failure.inc();
                Err(Arc::from("resolve_timeout"))
            }
            Ok(Err(error)) => {
                counts.dns_query_failure.inc();
                tracing::debug!(name = entry.name(), %error, "a name was not resolved");
                Err(reason(&error.to_string()))
            }
            Ok(Ok(found)) => {
                counts.dns_query_success.inc();
                let found = of_family(&found, self.config.family);
                // As in Envoy, an empty answer takes nothing away.
                match found.first() {
                    Some(ip) => {
                        self.take(entry, SocketAddr::new(*ip, entry.called.port));
                        Ok(())
                    }
                    None => Err("no_records".into()),
                }
            }
        };
        let answered = outcome.is_ok();
        entry.tried.send_replace(Some(outcome));
        answered
    }

    fn take(&self, entry: &Entry, address: SocketAddr) {
        if entry.address() != Some(address) {
            entry.address.store(Some(Arc::new(address)));
            self.stats.counts.host_address_changed.inc();
        }
    }
}

/// A reason as response-code details can hold it.
fn reason(text: &str) -> Arc<str> {
    let word = |c: char| if c.is_ascii_whitespace() { '_' } else { c };
    text.chars().map(word).collect::<String>().into()
}

/// The caches of the process, by what is configured.
#[derive(Debug, Default)]
pub(crate) struct NameCaches(Mutex<AHashMap<Arc<Config>, std::sync::Weak<NameCache>>>);

impl NameCaches {
    /// The cache for a configuration: the same for the same, as long as somebody has it.
    pub(crate) fn get(
        &self,
        config: &Arc<Config>,
        make: impl FnOnce() -> Arc<NameCache>,
    ) -> Arc<NameCache> {
        let mut caches = self.0.lock();
        if let Some(known) = caches.get(config).and_then(std::sync::Weak::upgrade) {
            return known;
        }
        caches.retain(|_, cache| cache.strong_count() > 0);
        let made = make();
        caches.insert(Arc::clone(config), Arc::downgrade(&made));
        made
    }
}

#[cfg(test)]
#[path = "dynamic_tests.rs"]
mod tests;
