//! How an endpoint is chosen: the algorithm, which places come first, and how new endpoints warm
//! up. Knows no cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Locality;
use crate::route::Percent;

/// Istio's `loadBalancer`; `None` is the mesh's default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LoadBalancing {
    /// The algorithm.
    pub policy: Option<LoadBalancer>,
    /// Which places come first; `None`: as the mesh says.
    pub locality: Option<LocalityBalancing>,
    /// How new endpoints get their share; for round robin and least request.
    pub warmup: Option<Warmup>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoadBalancer {
    /// One after the other.
    RoundRobin,
    /// The less busy of two.
    LeastRequest,
    /// Any.
    Random,
    /// The address that the client chose.
    Passthrough,
    /// The same for the same key.
    Hash(ConsistentHash),
}

/// The same endpoint for the same key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConsistentHash {
    /// What is hashed; `None`: nothing, so that any endpoint is taken.
    pub key: Option<HashKey>,
    /// How a hash finds its endpoint.
    pub table: HashTable,
}

/// What of a request is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// A header.
    Header(Arc<str>),
    /// A cookie.
    Cookie(HashCookie),
    /// The client's address, if true.
    SourceIp(bool),
    /// A parameter of the query.
    QueryParameter(Arc<str>),
}

/// A cookie that is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HashCookie {
    /// Its name.
    pub name: Arc<str>,
    /// The path for which it is made.
    pub path: Arc<str>,
    /// How long it lives if it has to be made; `None`: it is not made; zero: as long as the session.
    pub ttl: Option<Duration>,
    /// Attributes with which it is made.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// How a hash finds its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashTable {
    /// Ketama, with at least so many points; `None` is Envoy's default.
    Ring(Option<u64>),
    /// Maglev, with so many entries.
    Maglev(u64),
}

/// Which places come first. What is not said is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LocalityBalancing {
    /// False: places do not matter.
    pub enabled: bool,
    /// Shares of places for callers of a place; the first that fits holds. Without this, near
    /// places come first.
    pub distribute: Vec<Distribute>,
    /// Region → the region that comes after it.
    pub failover: Vec<(Arc<str>, Arc<str>)>,
    /// Labels by which endpoints are near, the most important first.
    pub failover_priority: Vec<PriorityLabel>,
    /// Near endpoints come first also where none is ejected: which of them serve, their health says.
    pub always: bool,
    /// The proxy divides requests among the zones of its region, as its own zone has callers
    /// (Istio's `zoneAwareLbSetting`); of a rule, `enabled` false forbids it.
    pub zones: Option<ZoneAware>,
}

/// Settings of balancing by the shares of zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ZoneAware {
    /// Fewer endpoints than this are not divided; `None`: Envoy's default.
    pub min_cluster_size: Option<u64>,
}

impl LocalityBalancing {
    /// Istio's default for the mesh: near places first, for services with outlier detection.
    pub fn mesh_default() -> Self {
        Self {
            enabled: true,
            ..Self::default()
        }
    }
}

/// Shares of places for callers of a place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Distribute {
    /// Where the caller is.
    pub from: LocalityPattern,
    /// Shares in percent.
    pub to: BTreeMap<LocalityPattern, u32>,
}

/// A label by which an endpoint is near.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PriorityLabel {
    /// The label.
    pub name: Arc<str>,
    /// The value that counts; `None`: the caller's.
    pub value: Option<Arc<str>>,
}

/// A region, or a zone or sub-zone of one; `None` is any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names are the field's
pub struct LocalityPattern {
    pub region: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    pub sub_zone: Option<Arc<str>>,
}

impl LocalityPattern {
    /// Reads `region/zone/sub-zone`, of which later parts may be missing and the last may be `*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
            return Err(format!(
                "\"{text}\" is no place: write region, region/zone or region/zone/sub-zone"
            ));
        }
        let last = parts.len() - 1;
        let star =
            |(place, part): (usize, &&str)| part.contains('*') && (place < last || *part != "*");
        if parts.iter().enumerate().any(star) {
            return Err(format!(
                "\"{text}\" has a wildcard elsewhere than as its last part: write \"*\" for that part"
            ));
        }
        let mut parts = parts
            .into_iter()
            .map(|part| (part != "*").then(|| Arc::from(part)));
        Ok(Self {
            region: parts.next().flatten(),
            zone: parts.next().flatten(),
            sub_zone: parts.next().flatten(),
        })
    }

    /// Whether a place is meant.
    pub fn matches(&self, locality: &Locality) -> bool {
        let fits = |part: &Option<Arc<str>>, own: &str| part.as_deref().is_none_or(|p| p == own);
        fits(&self.region, &locality.region)
            && fits(&self.zone, &locality.zone)
            && fits(&self.sub_zone, &locality.sub_zone)
    }

    /// Whether all places of the other are meant.
    pub fn covers(&self, other: &Self) -> bool {
        let holds = |own: &Option<Arc<str>>, its: &Option<Arc<str>>| own.is_none() || own == its;
        holds(&self.region, &other.region)
            && holds(&self.zone, &other.zone)
            && holds(&self.sub_zone, &other.sub_zone)
    }

    /// Whether some place is meant by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let meet =
            |a: &Option<Arc<str>>, b: &Option<Arc<str>>| a.is_none() || b.is_none() || a == b;
        meet(&self.region, &other.region)
            && meet(&self.zone, &other.zone)
            && meet(&self.sub_zone, &other.sub_zone)
    }
}

/// How a new endpoint gets its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Warmup {
    /// How long it takes.
    pub window: Duration,
    /// How it grows; `None`: as Envoy does it by itself.
    pub growth: Option<Growth>,
}

/// How the share of a new endpoint grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Growth {
    /// One is a straight line, more begins faster.
    pub aggression: Number,
    /// The share with which it begins.
    pub minimum: Percent,
}

/// A finite number that compares and hashes exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Number(u64);

impl Number {
    /// `None` for what is not finite.
    pub fn new(value: f64) -> Option<Self> {
        // Adding zero turns -0.0 into 0.0, so that equal numbers have equal bits.
        value.is_finite().then(|| Self((value + 0.0).to_bits()))
    }

    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> LocalityPattern {
        LocalityPattern::parse(text).expect("valid")
    }

    #[test]
    fn patterns_match_places_within() {
        let place = Locality::parse("eu/eu-1/a");
        for good in ["*", "eu", "eu/*", "eu/eu-1", "eu/eu-1/*", "eu/eu-1/a"] {
            assert!(pattern(good).matches(&place), "{good}");
        }
        for other in ["us", "eu/eu-2", "eu/eu-1/b"] {
            assert!(!pattern(other).matches(&place), "{other}");
        }
        for bad in ["", "/", "eu/", "*/a", "e*", "eu/eu-*", "a/b/c/d"] {
            assert!(LocalityPattern::parse(bad).is_err(), "{bad}");
        }
        assert!(pattern("eu").covers(&pattern("eu/eu-1")));
        assert!(!pattern("eu/eu-1").covers(&pattern("eu")));
        assert!(pattern("eu").overlaps(&pattern("eu/eu-1")));
        assert!(!pattern("eu/eu-2").overlaps(&pattern("eu/eu-1")));
    }

    #[test]
    fn numbers_are_finite() {
        assert_eq!(Number::new(-0.0), Number::new(0.0));
        assert_eq!(Number::new(f64::NAN), None);
        assert_eq!(Number::new(1.5).map(Number::get), Some(1.5));
    }
}
