//! The `loadBalancer` of a `DestinationRule`, and what of it a `MeshConfig` may hold, too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_model::{
    ConsistentHash, Distribute, Growth, HashCookie, HashKey, HashTable, LoadBalancer,
    LoadBalancing, LocalityBalancing, LocalityPattern, Number, PriorityLabel, Warmup, ZoneAware,
};
use weft_proto::format;

use super::message as pb;
use crate::check::At;
use pb::load_balancer_settings::consistent_hash_lb::{self, HashAlgorithm};
use pb::load_balancer_settings::{ConsistentHashLb, LbPolicy, SimpleLb};

/// Envoy's limit for points of a ring.
const MAX_RING: u64 = 8 << 20;
/// Istio's default for points of a ring.
const DEFAULT_RING: u64 = 1024;
/// Envoy's limit for entries of a table, which Istio does not reach.
const MAX_TABLE: u64 = 5_000_011;

pub(super) fn load_balancing(message: pb::LoadBalancerSettings, at: At<'_>) -> LoadBalancing {
    let pb::LoadBalancerSettings {
        locality_lb_setting,
        zone_aware_lb_setting,
        warmup_duration_secs,
        warmup,
        lb_policy,
    } = message;
    // As in Istio, it counts before the other.
    let zones =
        zone_aware_lb_setting.map(|message| zone_aware(message, at.field("zoneAwareLbSetting")));
    let places =
        locality_lb_setting.map(|message| locality(message, at.field("localityLbSetting")));
    let window = at
        .field("warmupDurationSecs")
        .duration(warmup_duration_secs, Duration::ZERO);
    let old = window.map(|window| Warmup {
        window,
        growth: None,
    });
    LoadBalancing {
        policy: lb_policy.and_then(|policy| balancer(policy, at)),
        locality: zones.or(places),
        warmup: match warmup {
            Some(message) => warmup_of(message, at.field("warmup")),
            None => old,
        },
    }
}

fn balancer(policy: LbPolicy, at: At<'_>) -> Option<LoadBalancer> {
    let simple = match policy {
        LbPolicy::Simple(simple) => at.field("simple").ok(SimpleLb::try_from(simple))?,
        LbPolicy::ConsistentHash(message) => {
            let hash = consistent_hash(message, at.field("consistentHash"));
            return Some(LoadBalancer::Hash(hash));
        }
    };
    match simple {
        SimpleLb::Unspecified => None,
        SimpleLb::LeastConn | SimpleLb::LeastRequest => Some(LoadBalancer::LeastRequest),
        SimpleLb::Random => Some(LoadBalancer::Random),
        SimpleLb::Passthrough => Some(LoadBalancer::Passthrough),
        SimpleLb::RoundRobin => Some(LoadBalancer::RoundRobin),
    }
}

fn consistent_hash(message: ConsistentHashLb, at: At<'_>) -> ConsistentHash {
    #[allow(deprecated)]
    let ConsistentHashLb {
        hash_key,
        minimum_ring_size,
        hash_algorithm,
    } = message;
    if minimum_ring_size != 0 && hash_algorithm.is_some() {
        at.field("minimumRingSize")
            .error("contradicts ringHash and maglev: keep one of them");
    }
    let ring = |size: u64, at: At<'_>| {
        if size > MAX_RING {
            at.error(format_args!("{size} is too large: use at most {MAX_RING}"));
        }
        (size != 0).then_some(size)
    };
    let table = match hash_algorithm {
        None => {
            let size = ring(minimum_ring_size, at.field("minimumRingSize"));
            HashTable::Ring(size.or(Some(DEFAULT_RING)))
        }
        Some(HashAlgorithm::RingHash(consistent_hash_lb::RingHash { minimum_ring_size })) => {
            let at = at.field("ringHash");
            HashTable::Ring(ring(minimum_ring_size, at.field("minimumRingSize")))
        }
        Some(HashAlgorithm::Maglev(consistent_hash_lb::MagLev { table_size })) => {
            maglev(table_size, at.field("maglev").field("tableSize"));
            HashTable::Maglev(table_size)
        }
    };
    ConsistentHash {
        key: hash_key.map(|key| hash_key_of(key, at)),
        table,
    }
}

fn maglev(size: u64, at: At<'_>) {
    if size == 0 {
        at.error("is missing: write a prime number such as 65537");
    } else if size >= MAX_TABLE {
        at.error(format_args!(
            "{size} is too large: use a prime number below {MAX_TABLE}"
        ));
    } else if !is_prime(size) {
        at.error(format_args!(
            "{size} is no prime number: use one such as 65537"
        ));
    }
}

/// For numbers below [`MAX_TABLE`], so that the search is short. One is prime to Envoy.
fn is_prime(number: u64) -> bool {
    let mut divisors = (2..).take_while(|d| d * d <= number);
    number > 0 && !divisors.any(|d| number.is_multiple_of(d))
}

fn hash_key_of(key: consistent_hash_lb::HashKey, at: At<'_>) -> HashKey {
    use consistent_hash_lb::HashKey as Key;
    match key {
        Key::HttpHeaderName(name) => {
            let at = at.field("httpHeaderName");
            token(name.strip_prefix(':').unwrap_or(&name), "header name", at);
            HashKey::Header(name.into())
        }
        Key::HttpCookie(message) => HashKey::Cookie(cookie(message, at.field("httpCookie"))),
        Key::UseSourceIp(on) => HashKey::SourceIp(on),
        Key::HttpQueryParameterName(name) => {
            if name.is_empty() {
                at.field("httpQueryParameterName")
                    .error("is empty: write the name of the parameter");
            }
            HashKey::QueryParameter(name.into())
        }
    }
}

fn token(text: &str, what: &str, at: At<'_>) {
    if text.is_empty() || !text.bytes().all(format::is_token) {
        at.error(format_args!(
            "\"{text}\" is no {what}: use letters, digits and '-'"
        ));
    }
}

fn cookie(message: consistent_hash_lb::HttpCookie, at: At<'_>) -> HashCookie {
    let consistent_hash_lb::HttpCookie {
        name,
        path,
        ttl,
        attributes,
    } = message;
    token(&name, "cookie name", at.field("name"));
    plain(&path, at.field("path"));
    let list = at.field("attributes");
    let mut found: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for (index, attribute) in attributes.into_iter().enumerate() {
        let consistent_hash_lb::http_cookie::Attribute { name, value } = attribute;
        let at = list.index(index);
        let place = at.field("name");
        token(&name, "attribute of a cookie", place);
        if found.iter().any(|(other, _)| **other == *name) {
            place.error(format_args!(
                "attribute \"{name}\" is there twice: remove one"
            ));
        }
        plain(&value, at.field("value"));
        found.push((name.into(), value.into()));
    }
    HashCookie {
        name: name.into(),
        path: path.into(),
        ttl: at.field("ttl").duration(ttl, Duration::ZERO),
        attributes: found,
    }
}

/// What may stand in a `set-cookie` header.
fn plain(text: &str, at: At<'_>) {
    if text.len() > 4096 || text.contains(|c: char| c.is_control() || c == ';') {
        at.error("has control characters or ';', or is longer than 4096: a cookie cannot hold it");
    }
}

fn warmup_of(message: pb::WarmupConfiguration, at: At<'_>) -> Option<Warmup> {
    let pb::WarmupConfiguration {
        duration,
        minimum_percent,
        aggression,
    } = message;
    if duration.is_none() {
        at.field("duration")
            .error("is missing: write how long a new endpoint warms up");
    }
    let window = at
        .field("duration")
        .duration(duration, Duration::from_millis(1));
    let minimum = minimum_percent.map_or(10.0, |percent| percent.value);
    let minimum = at.field("minimumPercent").percent(minimum);
    let value = aggression.map_or(1.0, |aggression| aggression.value);
    let aggression = Number::new(value).filter(|_| value > 0.0);
    if aggression.is_none() {
        at.field("aggression")
            .error(format_args!("{value} is not above 0: 1 is a straight line"));
    }
    Some(Warmup {
        window: window?,
        growth: Some(Growth {
            aggression: aggression?,
            minimum: minimum?,
        }),
    })
}

/// `localityLbSetting`, which a `MeshConfig` has, too.
pub(super) fn locality(message: pb::LocalityLoadBalancerSetting, at: At<'_>) -> LocalityBalancing {
    let pb::LocalityLoadBalancerSetting {
        distribute,
        failover,
        enabled,
        failover_priority,
    } = message;
    if !distribute.is_empty() && !failover.is_empty() {
        at.field("failover")
            .error("contradicts distribute: keep one of them");
    }
    for (index, label) in failover_priority.iter().enumerate() {
        if !failover.is_empty() && TOPOLOGY.contains(&label.as_str()) {
            at.field("failoverPriority")
                .index(index)
                .error("is what failover is about: remove one of them");
        }
    }
    LocalityBalancing {
        enabled: enabled.is_none_or(|flag| flag.value),
        distribute: distribution(distribute, at.field("distribute")),
        failover: failover_of(failover, at.field("failover")),
        failover_priority: priorities(failover_priority, at.field("failoverPriority")),
        always: false,
        zones: None,
    }
}

/// `zoneAwareLbSetting`, which a `MeshConfig` has, too.
pub(super) fn zone_aware(
    message: pb::ZoneAwareLoadBalancerSetting,
    at: At<'_>,
) -> LocalityBalancing {
    let pb::ZoneAwareLoadBalancerSetting {
        enabled,
        failover,
        failover_priority,
        min_cluster_size,
    } = message;
    for (index, label) in failover_priority.iter().enumerate() {
        if TOPOLOGY.contains(&label.as_str()) {
            at.field("failoverPriority").index(index).error(
                "regions and zones are ordered by themselves: remove it, or use failover for regions",
            );
        }
    }
    let pairs = failover.into_iter();
    let pairs = pairs.map(
        |pb::zone_aware_load_balancer_setting::Failover { from, to }| {
            pb::locality_load_balancer_setting::Failover { from, to }
        },
    );
    LocalityBalancing {
        enabled: enabled.is_none_or(|flag| flag.value),
        distribute: Vec::new(),
        failover: failover_of(pairs.collect(), at.field("failover")),
        failover_priority: priorities(failover_priority, at.field("failoverPriority")),
        always: false,
        zones: Some(ZoneAware {
            min_cluster_size: min_cluster_size.map(|size| size.value),
        }),
    }
}

const TOPOLOGY: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

fn distribution(
    list: Vec<pb::locality_load_balancer_setting::Distribute>,
    at: At<'_>,
) -> Vec<Distribute> {
    let mut found: Vec<Distribute> = Vec::new();
    for (index, item) in list.into_iter().enumerate() {
        let pb::locality_load_balancer_setting::Distribute { from, to } = item;
        let at = at.index(index);
        let to = shares(to, at.field("to"));
        let place = at.field("from");
        let Some(from) = place.ok(LocalityPattern::parse(&from)) else {
            continue;
        };
        if found.iter().any(|earlier| earlier.from.covers(&from)) {
            place.error(
                "is never reached, because an earlier entry means it, too: put it before that",
            );
        }
        found.push(Distribute { from, to });
    }
    found
}

fn shares(to: BTreeMap<String, u32>, at: At<'_>) -> BTreeMap<LocalityPattern, u32> {
    let mut found: BTreeMap<LocalityPattern, u32> = BTreeMap::new();
    let mut sum: u64 = 0;
    for (text, share) in to {
        let place = at.key(&text);
        sum += u64::from(share);
        if !(1..=100).contains(&share) {
            place.error(format_args!("{share} is no share: use 1 to 100 (percent)"));
        }
        let Some(pattern) = place.ok(LocalityPattern::parse(&text)) else {
            continue;
        };
        if found.keys().any(|other| other.overlaps(&pattern)) {
            place.error("overlaps with another entry: name each place once");
        }
        found.insert(pattern, share);
    }
    if sum != 100 {
        at.error(format_args!(
            "the shares add up to {sum}: they must add up to 100 (percent)"
        ));
    }
    found
}

fn failover_of(
    list: Vec<pb::locality_load_balancer_setting::Failover>,
    at: At<'_>,
) -> Vec<(Arc<str>, Arc<str>)> {
    let mut found = Vec::with_capacity(list.len());
    for (index, item) in list.into_iter().enumerate() {
        let pb::locality_load_balancer_setting::Failover { from, to } = item;
        let at = at.index(index);
        for (field, region) in [("from", &from), ("to", &to)] {
            if region.contains(['/', '*']) {
                at.field(field).error(format_args!(
                    "\"{region}\" is no region: write the region alone"
                ));
            }
        }
        if from == to {
            at.field("to")
                .error("is the region itself: name another one");
        }
        found.push((from.into(), to.into()));
    }
    found
}

fn priorities(list: Vec<String>, at: At<'_>) -> Vec<PriorityLabel> {
    let mut found = Vec::with_capacity(list.len());
    for (index, text) in list.into_iter().enumerate() {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text.as_str(), None),
        };
        if name.is_empty() || value.is_some_and(|value| value.contains('=')) {
            at.index(index).error(format_args!(
                "\"{text}\" is no label: write \"name\" or \"name=value\""
            ));
        }
        found.push(PriorityLabel {
            name: name.into(),
            value: value.map(Into::into),
        });
    }
    found
}
