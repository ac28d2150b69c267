//! The hash policies of routes: what of a request is hashed for a balancer by hash. Must never know
//! which cluster it is for.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{
    ConsistentHash, Destination, Forwarding, HashCookie, HashKey, Hostname, RetryPolicy,
    RouteDestination,
};

use crate::pb::duration;
use crate::pb::route::v3::{
    RouteAction,
    route_action::{
        HashPolicy,
        hash_policy::{
            ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
        },
    },
};

/// What the `DestinationRules` of the hosts that a rule names say to its routes.
pub(crate) type Hosts = BTreeMap<Hostname, Arc<Forwarding>>;

fn of_destination<'a>(hosts: &'a Hosts, to: &Destination) -> Option<&'a ConsistentHash> {
    let forwarding = hosts.get(&to.host)?;
    forwarding.route_hash(to.subset.as_deref(), to.port)
}

/// Sets the hash policies of a route's destinations. A retry of a hashed request stays with its host,
/// unless the rule says otherwise.
pub(super) fn apply(
    action: &mut RouteAction,
    hosts: &Hosts,
    destinations: &[RouteDestination],
    retries: Option<&RetryPolicy>,
) {
    if let [only] = destinations {
        let hash = of_destination(hosts, &only.destination);
        let free = retries.is_none_or(|r| r.ignore_previous_hosts.is_none());
        if let (Some(_), true, Some(retry)) = (hash, free, &mut action.retry_policy) {
            retry.retry_host_predicate.clear();
        }
        action.hash_policy = hash.and_then(policy).into_iter().collect();
        return;
    }
    let weighted = destinations.iter().filter(|d| d.weight.0 > 0);
    let hashes = weighted.filter_map(|d| of_destination(hosts, &d.destination));
    action.hash_policy = hashes.filter_map(policy).collect();
}

/// The hash policy of a route; `None` if nothing is hashed.
pub(super) fn policy(hash: &ConsistentHash) -> Option<HashPolicy> {
    let specifier = match hash.key.as_ref()? {
        HashKey::Header(name) => PolicySpecifier::Header(Header {
            header_name: name.to_string(),
            ..Header::default()
        }),
        HashKey::Cookie(HashCookie {
            name,
            path,
            ttl,
            attributes,
        }) => PolicySpecifier::Cookie(Cookie {
            name: name.to_string(),
            ttl: ttl.map(duration),
            path: path.to_string(),
            attributes: attributes
                .iter()
                .map(|(name, value)| CookieAttribute {
                    name: name.to_string(),
                    value: value.to_string(),
                })
                .collect(),
        }),
        HashKey::SourceIp(on) => {
            PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: *on })
        }
        HashKey::QueryParameter(name) => PolicySpecifier::QueryParameter(QueryParameter {
            name: name.to_string(),
        }),
    };
    Some(HashPolicy {
        policy_specifier: Some(specifier),
        ..HashPolicy::default()
    })
}
