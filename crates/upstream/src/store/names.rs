//! The names of DNS clusters: each is looked up by itself, at its own times, so that one that
//! does not answer holds up no other.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};
use weft_config::cluster::{DnsLookupFamily, DnsSettings};
use weft_config::{Address, Cluster as Config, Discovery, LoadAssignment};

use super::schedule::Job;
use super::{ClusterStore, Entry};
use crate::dns::of_family;
use crate::random::Random;

/// Back-off after a failed look-up when none is configured, and its bound.
const SHORTEST: Duration = Duration::from_millis(10);

/// A name that was looked up.
#[derive(Debug, Clone, Default)]
pub(super) struct Name {
    /// The last answer; `None` while there was none.
    addresses: Option<Vec<IpAddr>>,
    /// Look-ups that failed since the last answer.
    failures: u32,
}

pub(super) fn dns_of(config: &Config) -> Option<&DnsSettings> {
    match &config.discovery {
        Discovery::StrictDns(settings) | Discovery::LogicalDns(settings) => Some(settings),
        _ => None,
    }
}

/// The host names among the addresses of an assignment.
pub(super) fn names_of(assignment: &LoadAssignment) -> impl Iterator<Item = &Arc<str>> {
    assignment
        .endpoints()
        .filter_map(|endpoint| match &endpoint.address {
            Address::Host { host, .. } => Some(host),
            Address::Ip(_) | Address::Pipe(_) => None,
        })
}

/// Every name of a cluster once.
pub(super) fn distinct(config: &Config) -> Vec<Arc<str>> {
    let mut names: Vec<_> = names_of(&config.endpoints).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What the last form of a cluster knew of the names that the new one has as well.
pub(super) fn kept(config: &Config, old: Option<&Entry>) -> AHashMap<Arc<str>, Name> {
    let Some(old) = old.filter(|_| dns_of(config).is_some()) else {
        return AHashMap::new();
    };
    let names = names_of(&config.endpoints);
    let known = names.filter_map(|name| old.names.get_key_value(name));
    known
        .map(|(name, known)| (Arc::clone(name), known.clone()))
        .collect()
}

/// Whether the cluster can be used: it has an address, or every name was tried.
pub(super) fn settled(config: &Config, names: &AHashMap<Arc<str>, Name>) -> bool {
    let found = |name: &Name| name.addresses.as_ref().is_some_and(|a| !a.is_empty());
    names.values().any(found) || names_of(&config.endpoints).all(|name| names.contains_key(name))
}

/// Whether a name has never been answered.
pub(super) fn lacks_answers(assignment: &LoadAssignment, names: &AHashMap<Arc<str>, Name>) -> bool {
    let answered = |name: &Arc<str>| names.get(name).is_some_and(|n| n.addresses.is_some());
    names_of(assignment).any(|name| !answered(name))
}

/// The addresses of a name that its cluster uses.
pub(super) fn addresses(
    config: &Config,
    names: &AHashMap<Arc<str>, Name>,
    name: &str,
) -> Vec<IpAddr> {
    let known = names.get(name).and_then(|name| name.addresses.as_deref());
    let known = known.unwrap_or_default();
    match &config.discovery {
        Discovery::LogicalDns(_) => known.first().copied().into_iter().collect(),
        _ => known.to_vec(),
    }
}

impl ClusterStore {
    /// Looks a name up and publishes what changed.
    pub(super) async fn resolve(self: Arc<Self>, job: Job, name: Arc<str>) {
        if !self.begin_lookup(&job) {
            return;
        }
        let answer = self.resolver.resolve(&name).await;
        if let Err(error) = &answer {
            tracing::debug!(cluster = %job.cluster, %name, %error, "a name was not resolved");
        }
        self.take_answer(job, name, answer);
    }

    fn begin_lookup(&self, job: &Job) -> bool {
        let inner = self.inner.lock();
        let entry = inner.clusters.get(&job.cluster);
        let Some(entry) = entry.filter(|entry| entry.generation == job.generation) else {
            return false;
        };
        entry.snapshot.state.stats.update_attempt.inc();
        true
    }

    fn take_answer(&self, job: Job, name: Arc<str>, answer: io::Result<Vec<IpAddr>>) {
        let mut inner = self.inner.lock();
        let entry = inner.clusters.get_mut(&job.cluster);
        let Some(entry) = entry.filter(|entry| entry.generation == job.generation) else {
            return;
        };
        let config = Arc::clone(&entry.snapshot.config);
        let Some(settings) = dns_of(&config) else {
            return;
        };
        let known = entry.names.entry(name).or_default();
        let stats = &entry.snapshot.state.stats;
        let changed = if let Ok(found) = answer {
            stats.update_success.inc();
            known.take(usable(&found, settings.family), &config)
        } else {
            // The last addresses stay in use.
            stats.update_failure.inc();
            known.failures = known.failures.saturating_add(1);
            false
        };
        let delay = next_delay(settings, known.failures);
        // A name that cannot be resolved must not keep the proxy from starting.
        let ready = entry.ready || settled(&config, &entry.names);
        let was_ready = std::mem::replace(&mut entry.ready, ready);
        if changed {
            let old = &entry.snapshot.hosts;
            let hosts = self.build_hosts(&config, &config.endpoints, old, &entry.names);
            if hosts.same_members(old) {
                stats.update_no_rebuild.inc();
            }
            self.replace_hosts(&job.cluster, entry, hosts);
        }
        if ready != was_ready {
            self.changed();
        }
        inner.schedule.add(Instant::now() + delay, job);
        self.wake.notify_one();
    }
}

impl Name {
    /// Takes an answer; gives whether it says something new.
    fn take(&mut self, mut found: Vec<IpAddr>, config: &Config) -> bool {
        self.failures = 0;
        if matches!(config.discovery, Discovery::LogicalDns(_)) {
            // One address; it stays while it is among those found.
            let current = self.addresses.as_ref().and_then(|known| known.first());
            let kept = current.filter(|a| found.contains(a)).copied();
            found = kept.or(found.first().copied()).into_iter().collect();
        } else {
            found.sort_unstable();
        }
        let changed = self.addresses.as_ref() != Some(&found);
        self.addresses = Some(found);
        changed
    }
}

fn usable(addresses: &[IpAddr], family: DnsLookupFamily) -> Vec<IpAddr> {
    let mut found = of_family(addresses, family);
    let mut seen = AHashSet::new();
    found.retain(|address| seen.insert(*address));
    found
}

fn next_delay(settings: &DnsSettings, failures: u32) -> Duration {
    let random = Random::from_os();
    match settings.failure_refresh {
        Some((base, max)) if failures > 0 => {
            // Jittered exponential back-off, as Envoy's.
            let grown = base * 2_u32.saturating_pow((failures - 1).min(16));
            grown.min(max).mul_f64(random.unit()).max(SHORTEST)
        }
        _ => (settings.refresh_rate + settings.jitter.mul_f64(random.unit())).max(SHORTEST),
    }
}
