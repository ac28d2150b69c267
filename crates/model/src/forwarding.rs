//! What of a `DestinationRule` matters to routes and listeners. Knows no cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::balancing::{ConsistentHash, HashKey, LoadBalancer};
use crate::destination::{DestinationRule, PolicySettings, TrafficPolicy, Tunnel};
use crate::name::PortNumber;

/// What of a `DestinationRule` matters to routes and listeners: equal unless that has changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Forwarding {
    host: Part,
    subsets: BTreeMap<Arc<str>, Part>,
    /// Time without bytes after which a TCP connection is closed.
    pub idle_timeout: Option<Duration>,
    /// Time after which a TCP connection is closed, used or not.
    pub max_connection_duration: Option<Duration>,
}

/// The same of the host or of one subset.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Part {
    /// Whether a balancer is set at all.
    balanced: bool,
    hash: Option<ConsistentHash>,
    ports: BTreeMap<PortNumber, ConsistentHash>,
    tunnel: Option<Tunnel>,
}

impl Part {
    fn of(policy: &TrafficPolicy) -> Self {
        let hash = |settings: &PolicySettings| {
            let balancer = settings.load_balancer.as_ref()?.policy.as_ref()?;
            match balancer {
                LoadBalancer::Hash(hash) => Some(hash.clone()),
                _ => None,
            }
        };
        let ports = policy.ports.iter();
        Self {
            balanced: policy.settings.load_balancer.is_some(),
            hash: hash(&policy.settings),
            ports: ports
                .filter_map(|(port, s)| Some((*port, hash(s)?)))
                .collect(),
            tunnel: policy.settings.tunnel.clone(),
        }
    }

    fn at_port(&self, port: Option<PortNumber>) -> Option<&ConsistentHash> {
        self.ports.get(&port?)
    }
}

impl Forwarding {
    /// That of a rule; `None` if it says nothing to routes and listeners.
    pub fn of(rule: &DestinationRule) -> Option<Self> {
        let tcp = rule
            .policy
            .settings
            .connection_pool
            .as_ref()
            .map(|pool| &pool.tcp);
        let host = Part::of(&rule.policy);
        let subsets = rule.subsets.iter();
        let subsets = subsets.map(|s| (Arc::clone(&s.name), Part::of(&s.policy)));
        let all = Self {
            subsets: subsets.collect(),
            idle_timeout: tcp.and_then(|tcp| tcp.idle_timeout),
            max_connection_duration: tcp.and_then(|tcp| tcp.max_connection_duration),
            host,
        };
        let says =
            |part: &Part| part.hash.is_some() || !part.ports.is_empty() || part.tunnel.is_some();
        let something = all.idle_timeout.is_some()
            || all.max_connection_duration.is_some()
            || says(&all.host)
            || all.subsets.values().any(says);
        something.then_some(all)
    }

    /// The hash for a destination of a route, as Istio chooses it: a port's only if the route names
    /// the port, the subset's before the host's.
    pub fn route_hash(
        &self,
        subset: Option<&str>,
        port: Option<PortNumber>,
    ) -> Option<&ConsistentHash> {
        let subset = subset.and_then(|name| self.subsets.get(name));
        subset
            .and_then(|part| part.at_port(port).or(part.hash.as_ref()))
            .or_else(|| self.host.at_port(port))
            .or(self.host.hash.as_ref())
    }

    /// The hash for a port of the host that no route speaks for.
    pub fn port_hash(&self, port: PortNumber) -> Option<&ConsistentHash> {
        self.route_hash(None, Some(port))
    }

    /// Whether TCP connections of a client go to the same endpoint.
    pub fn by_source_ip(&self, subset: Option<&str>) -> bool {
        let subset = subset.and_then(|name| self.subsets.get(name));
        let part = subset.filter(|part| part.balanced).unwrap_or(&self.host);
        let key = part.hash.as_ref().and_then(|hash| hash.key.as_ref());
        key == Some(&HashKey::SourceIp(true))
    }

    /// The proxy through which TCP connections go.
    pub fn tunnel(&self, subset: Option<&str>) -> Option<&Tunnel> {
        match subset {
            Some(name) => self.subsets.get(name)?.tunnel.as_ref(),
            None => self.host.tunnel.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancing::{HashTable, LoadBalancing};
    use crate::destination::Subset;
    use crate::{ExportTo, Hostname, Kind, Labels, Namespace, ObjectRef, RuleMeta};

    fn by(key: HashKey) -> PolicySettings {
        let hash = ConsistentHash {
            key: Some(key),
            table: HashTable::Ring(None),
        };
        balanced(LoadBalancer::Hash(hash))
    }

    fn balanced(policy: LoadBalancer) -> PolicySettings {
        PolicySettings {
            load_balancer: Some(LoadBalancing {
                policy: Some(policy),
                ..LoadBalancing::default()
            }),
            ..PolicySettings::default()
        }
    }

    fn header(name: &str) -> HashKey {
        HashKey::Header(name.into())
    }

    fn rule(settings: PolicySettings, subset: PolicySettings) -> DestinationRule {
        let port = PortNumber::new(81).expect("in range");
        let policy = |settings, name| TrafficPolicy {
            settings,
            ports: BTreeMap::from([(port, by(header(name)))]),
        };
        DestinationRule {
            meta: RuleMeta {
                origin: ObjectRef::new(Kind::DestinationRule, Namespace::new("a"), "b"),
                created: None,
            },
            host: Hostname::parse("a.b").expect("valid"),
            export_to: ExportTo::All,
            selector: None,
            policy: policy(settings, "host-81"),
            subsets: vec![Subset {
                name: "v1".into(),
                labels: Labels::new(),
                policy: policy(subset, "v1-81"),
            }],
        }
    }

    #[test]
    fn a_destination_is_hashed_by_what_is_nearest_to_it() {
        let rule = rule(by(header("host")), by(header("v1")));
        let forwarding = Forwarding::of(&rule).expect("a hash");
        let port = PortNumber::new(81).ok();
        let key = |subset, port| {
            let hash = forwarding.route_hash(subset, port);
            match hash.and_then(|hash| hash.key.clone()) {
                Some(HashKey::Header(name)) => name.to_string(),
                other => format!("{other:?}"),
            }
        };
        assert_eq!(key(None, None), "host");
        assert_eq!(key(None, port), "host-81");
        assert_eq!(key(Some("v1"), None), "v1");
        assert_eq!(key(Some("v1"), port), "v1-81");
        assert_eq!(key(Some("v2"), port), "host-81");
    }

    #[test]
    fn tcp_knows_addresses_only() {
        let host = by(HashKey::SourceIp(true));
        let both = Forwarding::of(&rule(host.clone(), PolicySettings::default()));
        let both = both.expect("a hash");
        assert!(both.by_source_ip(None) && both.by_source_ip(Some("v1")));
        let other = Forwarding::of(&rule(host, balanced(LoadBalancer::Random)));
        assert!(!other.expect("a hash").by_source_ip(Some("v1")));
        let mut silent = rule(PolicySettings::default(), balanced(LoadBalancer::Random));
        silent.policy.ports.clear();
        silent.subsets[0].policy.ports.clear();
        assert_eq!(Forwarding::of(&silent), None);
    }
}
