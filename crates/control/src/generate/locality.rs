//! Which endpoints come first for a caller: shares of places, near places first, labels in common.
//! Must never know clusters, nor single proxies: only where they stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use weft_model::{
    DestinationRule, Distribute, Endpoint, Labels, Locality, LocalityBalancing, MeshSettings,
    PolicySettings, Preference, PriorityLabel,
};

use super::networks::{Horizon, NETWORK};
use crate::pb::endpoint::v3::LbEndpoint;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUB_ZONE: &str = "topology.istio.io/subzone";

/// The label by which workloads are told to stand on one node.
pub(crate) const NODE: &str = "kubernetes.io/hostname";

/// What a service's preference says of places; as in istiod, other networks come last.
pub(super) fn preferring(preference: Preference) -> &'static LocalityBalancing {
    static SAME_ZONE: LazyLock<LocalityBalancing> = LazyLock::new(|| by(&[NETWORK, REGION, ZONE]));
    static SAME_NODE: LazyLock<LocalityBalancing> =
        LazyLock::new(|| by(&[NETWORK, REGION, ZONE, SUB_ZONE, NODE]));
    match preference {
        Preference::SameZone => &SAME_ZONE,
        Preference::SameNode => &SAME_NODE,
    }
}

fn by(labels: &[&str]) -> LocalityBalancing {
    let label = |name: &&str| PriorityLabel {
        name: Arc::from(*name),
        value: None,
    };
    LocalityBalancing {
        enabled: true,
        failover_priority: labels.iter().map(label).collect(),
        always: true,
        ..LocalityBalancing::default()
    }
}

/// Where callers stand, as far as endpoints depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    locality: Option<Locality>,
    labels: Labels,
    /// Unless networks are no matter.
    horizon: Option<Arc<Horizon>>,
}

impl Place {
    /// The same place in a network.
    pub(crate) fn within(self, horizon: Option<Arc<Horizon>>) -> Self {
        Self { horizon, ..self }
    }

    /// The networks alone.
    pub(crate) fn without_place(&self) -> Self {
        Self::default().within(self.horizon.clone())
    }

    pub(crate) fn horizon(&self) -> Option<&Horizon> {
        self.horizon.as_deref()
    }
}

/// What of a caller's place endpoints depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    locality: bool,
    labels: BTreeSet<Arc<str>>,
}

impl Needs {
    /// Of the endpoints of services with a rule and a preference. May be more than some of them need.
    pub(crate) fn of(
        mesh: &MeshSettings,
        rule: Option<&DestinationRule>,
        preference: Option<Preference>,
    ) -> Self {
        let mut needs = Self::default();
        let policies = rule.iter().flat_map(|rule| {
            let subsets = rule.subsets.iter().map(|subset| &subset.policy);
            subsets.chain([&rule.policy])
        });
        let all: Vec<&PolicySettings> = policies
            .flat_map(|policy| policy.ports.values().chain([&policy.settings]))
            .collect();
        let failover = all.iter().any(|s| s.outlier_detection.is_some())
            || mesh.default_policy.outlier_detection.is_some();
        let own = all
            .iter()
            .filter_map(|s| s.load_balancer.as_ref()?.locality.as_ref());
        let of_all = match preference {
            Some(preference) => preferring(preference),
            None => &mesh.locality,
        };
        for setting in own.chain([of_all]).filter(|l| l.enabled) {
            let failover = failover || setting.always;
            if !setting.distribute.is_empty() || setting.zones.is_some() {
                needs.locality = true;
            }
            if setting.distribute.is_empty() && (failover || setting.zones.is_some()) {
                let labels = setting.failover_priority.iter();
                let callers = labels.filter(|label| label.value.is_none());
                needs
                    .labels
                    .extend(callers.map(|label| Arc::clone(&label.name)));
                needs.locality |=
                    setting.failover_priority.is_empty() || !setting.failover.is_empty();
            }
        }
        needs
    }

    /// These and others.
    pub(crate) fn add(&mut self, other: &Self) {
        self.locality |= other.locality;
        self.labels.extend(other.labels.iter().cloned());
    }

    /// What matters of a proxy.
    pub(crate) fn of_proxy(&self, locality: &Locality, network: &str, labels: &Labels) -> Place {
        let value = |name: &Arc<str>| {
            let value = topology(name, locality, network, labels.get(name))?;
            Some((Arc::clone(name), Arc::from(value)))
        };
        Place {
            locality: self.locality.then(|| locality.clone()),
            labels: self.labels.iter().filter_map(value).collect(),
            horizon: None,
        }
    }

    /// What matters of a place.
    pub(crate) fn of_place(&self, place: &Place) -> Place {
        let labels = place.labels.iter();
        Place {
            locality: place.locality.clone().filter(|_| self.locality),
            labels: labels
                .filter(|(name, _)| self.labels.contains(*name))
                .collect(),
            horizon: place.horizon.clone(),
        }
    }
}

/// A label of a workload, to which its place and network belong as in Istio.
fn topology<'a>(
    name: &str,
    locality: &'a Locality,
    network: &'a str,
    label: Option<&'a str>,
) -> Option<&'a str> {
    let place = match name {
        REGION => &*locality.region,
        ZONE => &*locality.zone,
        SUB_ZONE => &*locality.sub_zone,
        NETWORK => return label.filter(|l| !l.is_empty()).or(Some(network)),
        _ => return label,
    };
    Some(place).filter(|place| !place.is_empty()).or(label)
}

/// A label of an endpoint, to which its place and network belong.
fn label<'a>(endpoint: &'a Endpoint, name: &str) -> Option<&'a str> {
    let own = endpoint.labels.get(name);
    topology(name, &endpoint.locality, &endpoint.network, own)
}

/// Whether an endpoint carries labels.
pub(super) fn carries(endpoint: &Endpoint, labels: &Labels) -> bool {
    let mut labels = labels.iter();
    labels.all(|(name, value)| label(endpoint, name) == Some(value))
}

/// The endpoints of one place, in one priority.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) locality: &'a Locality,
    pub(super) members: Vec<(&'a Endpoint, LbEndpoint)>,
    pub(super) weight: u32,
    pub(super) priority: u32,
}

impl<'a> Group<'a> {
    pub(super) fn new(
        locality: &'a Locality,
        members: Vec<(&'a Endpoint, LbEndpoint)>,
        priority: u32,
    ) -> Self {
        let weights = members
            .iter()
            .filter_map(|(_, e)| e.load_balancing_weight.as_ref());
        let sum: u64 = weights.map(|w| u64::from(w.value)).sum();
        // What lies in another network may leave its place empty.
        let least = u32::from(!members.is_empty());
        Self {
            locality,
            members,
            // The sum must fit 32 bits, also over all places (Envoy refuses more).
            weight: u32::try_from(sum).unwrap_or(u32::MAX).clamp(least, 1 << 24),
            priority,
        }
    }
}

/// Gives groups their weights and priorities for callers at a place. `failover`: endpoints can be
/// found to fail; without that, traffic would never leave the first priority.
pub(super) fn arrange<'a>(
    mut groups: Vec<Group<'a>>,
    setting: &LocalityBalancing,
    failover: bool,
    place: &Place,
) -> Vec<Group<'a>> {
    let nowhere = Locality::default();
    let here = place.locality.as_ref().unwrap_or(&nowhere);
    if setting.zones.is_some() {
        if !setting.failover_priority.is_empty() {
            groups = by_labels(groups, &setting.failover_priority, place);
        }
        by_region(&mut groups, &setting.failover, here);
    } else if !setting.distribute.is_empty() {
        let mut entries = setting.distribute.iter();
        if let Some(entry) = entries.find(|entry| entry.from.matches(here)) {
            distribute(&mut groups, entry);
        }
    } else if failover || setting.always {
        if !setting.failover_priority.is_empty() {
            groups = by_labels(groups, &setting.failover_priority, place);
        }
        if setting.failover_priority.is_empty() || !setting.failover.is_empty() {
            by_distance(&mut groups, &setting.failover, here);
        }
    }
    groups
}

/// Places get their shares; one without a share gets nothing.
fn distribute(groups: &mut [Group<'_>], entry: &Distribute) {
    let mut left: Vec<&mut Group<'_>> = groups.iter_mut().collect();
    for (pattern, share) in &entry.to {
        let (mut meant, others): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|g| pattern.matches(g.locality));
        left = others;
        let total: u64 = meant.iter().map(|g| u64::from(g.weight)).sum();
        for group in &mut meant {
            let weight = (u64::from(group.weight) * u64::from(*share)).div_ceil(total.max(1));
            // At most the share, which is at most 100.
            group.weight = u32::try_from(weight).unwrap_or(u32::MAX);
        }
    }
    for group in left {
        group.members.clear();
    }
}

/// The same sub-zone first, then zone, then region, then others; of those the region that comes
/// after the own one, if one is named. Within what earlier priorities say.
fn by_distance(groups: &mut [Group<'_>], failover: &[(Arc<str>, Arc<str>)], here: &Locality) {
    let next = failover.iter().find(|(from, _)| *from == here.region);
    for group in groups.iter_mut() {
        let there = group.locality;
        let distance = if there.region != here.region {
            let other = next.is_some_and(|(_, to)| *to != there.region);
            3 + u32::from(other)
        } else if there.zone != here.zone {
            2
        } else {
            u32::from(there.sub_zone != here.sub_zone)
        };
        group.priority = group.priority * 5 + distance;
    }
    close_gaps(groups);
}

/// The own region first, in whose zones the proxy itself divides requests; then the one that comes
/// after it, then all others. Within what earlier priorities say.
fn by_region(groups: &mut [Group<'_>], failover: &[(Arc<str>, Arc<str>)], here: &Locality) {
    let next = failover.iter().find(|(from, _)| *from == here.region);
    for group in groups.iter_mut() {
        let there = &group.locality.region;
        let distance = if *there == here.region {
            0
        } else {
            2 - u32::from(next.is_some_and(|(_, to)| to == there))
        };
        group.priority = group.priority * 3 + distance;
    }
    close_gaps(groups);
}

/// Priorities begin at 0 and leave none out.
fn close_gaps(groups: &mut [Group<'_>]) {
    let used: BTreeSet<u32> = groups.iter().map(|g| g.priority).collect();
    let places: BTreeMap<u32, u32> = used.into_iter().zip(0..).collect();
    for group in groups {
        group.priority = places.get(&group.priority).copied().unwrap_or_default();
    }
}

/// Endpoints with all labels first, then those with all but the last, and so on.
fn by_labels<'a>(
    groups: Vec<Group<'a>>,
    labels: &[PriorityLabel],
    place: &Place,
) -> Vec<Group<'a>> {
    let mut out = Vec::new();
    for group in groups {
        let mut split: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (endpoint, sent) in group.members {
            let priority = lacking(endpoint, labels, place);
            split.entry(priority).or_default().push((endpoint, sent));
        }
        let parts = split.into_iter();
        out.extend(parts.map(|(priority, list)| Group::new(group.locality, list, priority)));
    }
    close_gaps(&mut out);
    out
}

/// How many labels an endpoint lacks, from the first one that differs on. The network, if it is
/// the first, only moves what lies in another one behind all others.
fn lacking(endpoint: &Endpoint, labels: &[PriorityLabel], place: &Place) -> u32 {
    let all = u32::try_from(labels.len()).unwrap_or(u32::MAX / 2);
    let mut behind = 0;
    for (index, wanted) in (0..).zip(labels) {
        let callers = || place.labels.get(&wanted.name).unwrap_or_default();
        let value = wanted.value.as_deref().unwrap_or_else(callers);
        if label(endpoint, &wanted.name).unwrap_or_default() == value {
            continue;
        }
        if index == 0 && &*wanted.name == NETWORK && wanted.value.is_none() {
            behind = all;
            continue;
        }
        return all - index + behind;
    }
    behind
}
