//! Filter chains that forward bytes. Must never know rules.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
use weft_model::{AddressRange, ObjectRef};

use super::tcp::TcpPolicy;
use super::{dynamic, http, metadata};
use crate::pb::cidr;
use crate::pb::core::v3::Metadata;
use crate::pb::listener::v3::{Filter, FilterChainMatch};

/// Forwards bytes, perhaps only for some addresses or server names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TcpChain {
    pub(crate) target: TcpTarget,
    /// Where the client wanted to connect; empty is anywhere.
    pub(crate) ranges: Vec<AddressRange>,
    /// Server names; empty is all, and connections without one.
    pub(crate) sni: Vec<Arc<str>>,
    pub(crate) policy: TcpPolicy,
    /// The rules that say it.
    pub(crate) policy_from: Arc<[ObjectRef]>,
    /// The rule behind it.
    pub(crate) rule: Option<ObjectRef>,
    /// Whether the chain names its rule.
    pub(crate) named: bool,
    /// The wildcard host of which the server name is looked up as it is called.
    pub(crate) resolved: Option<Arc<str>>,
}

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TcpTarget {
    Cluster {
        name: Arc<str>,
        stat_prefix: Arc<str>,
    },
    /// To several, by weight.
    Split {
        stat_prefix: Arc<str>,
        clusters: Vec<(Arc<str>, u32)>,
    },
}

/// Server names and networks without their host bits, as sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MatchKey {
    names: BTreeSet<String>,
    networks: BTreeSet<(IpAddr, u8)>,
}

impl TcpChain {
    /// The match; nothing if it takes every connection.
    pub(super) fn condition(&self) -> Option<FilterChainMatch> {
        if self.ranges.is_empty() && self.sni.is_empty() {
            return None;
        }
        let mut ranges: Vec<(String, AddressRange)> = specific(&self.ranges)
            .map(|range| (range.to_string(), *range))
            .collect();
        ranges.sort();
        ranges.dedup();
        Some(FilterChainMatch {
            prefix_ranges: ranges
                .iter()
                .map(|(_, range)| cidr(range.ip, range.prefix_len))
                .collect(),
            server_names: self.names().into_iter().map(str::to_owned).collect(),
            ..FilterChainMatch::default()
        })
    }

    fn names(&self) -> BTreeSet<&str> {
        // A listener has no word for all names but none.
        if self.sni.iter().any(|name| &**name == "*") {
            return BTreeSet::new();
        }
        self.sni.iter().map(AsRef::as_ref).collect()
    }

    /// What the chain matches; a proxy cannot tell two apart that have the same.
    pub(crate) fn match_key(&self) -> MatchKey {
        let names = self.names().into_iter();
        let networks = specific(&self.ranges).map(|range| {
            let network = range.truncated();
            (network.ip, network.prefix_len)
        });
        MatchKey {
            names: names.map(str::to_owned).collect(),
            networks: networks.collect(),
        }
    }

    pub(super) fn filters(&self, setup: &http::Setup<'_>, port: u16) -> Vec<Filter> {
        // A Unix socket has no port at which a name could be looked up for.
        let resolved = self.resolved.as_deref().filter(|_| port != 0);
        let look_up = resolved.map(|host| dynamic::sni_filter(host, port));
        look_up.into_iter().chain([self.filter(setup)]).collect()
    }

    pub(super) fn filter(&self, setup: &http::Setup<'_>) -> Filter {
        match &self.target {
            TcpTarget::Cluster { name, stat_prefix } => {
                http::tcp(setup, name, stat_prefix, Some(&self.policy))
            }
            TcpTarget::Split {
                stat_prefix,
                clusters,
            } => http::tcp_split(setup, stat_prefix, clusters, &self.policy),
        }
    }

    pub(super) fn metadata(&self) -> Option<Metadata> {
        let rule = self.rule.as_ref().filter(|_| self.named)?;
        // Maps of one entry have one order.
        let encoded = metadata::istio(Some(&rule.config_path()), &[], None)?;
        Metadata::decode(&encoded[..]).ok()
    }
}

/// Ranges that leave something out.
fn specific(ranges: &[AddressRange]) -> impl Iterator<Item = &AddressRange> {
    ranges.iter().filter(|range| !range.ip.is_unspecified())
}
