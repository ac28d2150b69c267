//! Listener filters that look at the first bytes of a connection, switched off for ports where
//! nobody asks what they find: a server that speaks first must not be waited for. Must never know
//! chains.

use std::collections::BTreeMap;

use crate::pb::listener::v3::{
    ListenerFilter, ListenerFilterChainMatchPredicate,
    listener_filter_chain_match_predicate::{MatchSet, Rule},
};
use crate::pb::types::Int32Range;
use crate::pb::{http_inspector, listener_filter, tls_inspector, u32_value};

/// What has to be found at a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inspected {
    pub(super) tls: bool,
    pub(super) http: bool,
}

/// Both inspectors.
pub(super) fn all(tls: bool, http: bool) -> Vec<ListenerFilter> {
    by_port(&BTreeMap::from([(0, Inspected { tls, http })]))
}

/// By port; 0 stands for those that are not named. TLS first, because what is TLS is not HTTP.
pub(super) fn by_port(ports: &BTreeMap<u16, Inspected>) -> Vec<ListenerFilter> {
    let mut filters = Vec::new();
    if ports.values().any(|port| port.tls) {
        filters.push(ListenerFilter {
            filter_disabled: tls_disabled(ports),
            ..listener_filter(
                "envoy.filters.listener.tls_inspector",
                &tls_inspector::v3::TlsInspector {
                    // Most greetings fit, at a hundredth of Envoy's own buffer; it grows.
                    initial_read_buffer_size: u32_value(512),
                    ..tls_inspector::v3::TlsInspector::default()
                },
            )
        });
    }
    if ports.values().any(|port| port.http) {
        let off = ports.iter().filter(|(_, port)| !port.http);
        filters.push(ListenerFilter {
            filter_disabled: at(off.map(|(number, _)| *number).collect()),
            ..listener_filter(
                "envoy.filters.listener.http_inspector",
                &http_inspector::v3::HttpInspector::default(),
            )
        });
    }
    filters
}

/// Where unnamed ports are inspected, the others are named; else those that are.
fn tls_disabled(ports: &BTreeMap<u16, Inspected>) -> Option<ListenerFilterChainMatchPredicate> {
    let others = ports.get(&0).is_some_and(|port| port.tls);
    let named = ports.iter().filter(|(number, _)| **number != 0);
    let named = named.filter(|(_, port)| port.tls != others);
    let found = at(named.map(|(number, _)| *number).collect())?;
    if others {
        return Some(found);
    }
    Some(ListenerFilterChainMatchPredicate {
        rule: Some(Rule::NotMatch(Box::new(found))),
    })
}

/// The destination is one of these ports.
fn at(ports: Vec<u16>) -> Option<ListenerFilterChainMatchPredicate> {
    let each = ports.into_iter().map(|port| {
        let range = Int32Range {
            start: i32::from(port),
            end: i32::from(port) + 1,
        };
        ListenerFilterChainMatchPredicate {
            rule: Some(Rule::DestinationPortRange(range)),
        }
    });
    let mut rules: Vec<_> = each.collect();
    match rules.len() {
        0 => None,
        1 => rules.pop(),
        _ => Some(ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet { rules })),
        }),
    }
}
