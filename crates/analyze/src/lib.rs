//! What is suspicious in a mesh although every object is valid: names that lead nowhere, rules
//! that never apply, rules that exclude each other. A pure look at the model's objects; the
//! classes of findings, and their codes, are those of `istioctl analyze` where it has them.
//!
//! Never knows files, lines, xDS or I/O. Findings never keep an object from being used.
#![warn(missing_docs)]

mod conflicts;
mod destinations;
mod gateways;
mod known;
mod networks;
mod policies;
mod shadow;
mod sidecars;

use std::fmt;

use weft_model::{Labels, MeshSettings, Object, ObjectRef};

use known::Known;

/// What kind of thing was found. Codes are Istio's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// A host, subset, port, gateway, delegate or selector that nothing answers to.
    ReferencedResourceNotFound,
    /// Two rules for the mesh speak for one host; one counts.
    ConflictingMeshGatewayVirtualServiceHosts,
    /// Two Sidecars choose one workload; one counts.
    ConflictingSidecarWorkloadSelectors,
    /// Two Sidecars are for all workloads of a namespace; one counts.
    MultipleSidecarsWithoutWorkloadSelectors,
    /// A destination has several ports and none is named.
    VirtualServiceDestinationPortSelectorRequired,
    /// Networks speak of a cluster that is not known.
    UnknownMeshNetworksServiceRegistry,
    /// TLS without authorities: the server is not verified.
    NoServerCertificateVerificationDestinationLevel,
    /// The same, for a port.
    NoServerCertificateVerificationPortLevel,
    /// A route that no request can reach.
    VirtualServiceUnreachableRule,
    /// A condition that an earlier one takes everything from.
    VirtualServiceIneffectiveMatch,
    /// None of a rule's hosts is a host of its gateway.
    VirtualServiceHostNotFoundInGateway,
    /// A TCP port of a `ServiceEntry` without addresses, which takes all traffic of its number.
    ServiceEntryAddressesRequired,
    /// Servers of two Gateways on one port for one host.
    ConflictingGateways,
    /// A subset whose labels no endpoint has.
    DestinationRuleSubsetNotSelectPods,
    /// A `DestinationRule` for a host that no service has.
    UnknownDestinationRuleHost,
}

impl Code {
    /// As reports write it, e.g. `IST0101`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReferencedResourceNotFound => "IST0101",
            Self::ConflictingMeshGatewayVirtualServiceHosts => "IST0109",
            Self::ConflictingSidecarWorkloadSelectors => "IST0110",
            Self::MultipleSidecarsWithoutWorkloadSelectors => "IST0111",
            Self::VirtualServiceDestinationPortSelectorRequired => "IST0112",
            Self::UnknownMeshNetworksServiceRegistry => "IST0126",
            Self::NoServerCertificateVerificationDestinationLevel => "IST0128",
            Self::NoServerCertificateVerificationPortLevel => "IST0129",
            Self::VirtualServiceUnreachableRule => "IST0130",
            Self::VirtualServiceIneffectiveMatch => "IST0131",
            Self::VirtualServiceHostNotFoundInGateway => "IST0132",
            Self::ServiceEntryAddressesRequired => "IST0134",
            Self::ConflictingGateways => "IST0145",
            Self::DestinationRuleSubsetNotSelectPods => "IST0173",
            Self::UnknownDestinationRuleHost => "IST0174",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One finding. Ordered by object, then by field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Finding {
    /// The object that is to be changed.
    pub object: ObjectRef,
    /// The field, from the document's root: `spec.http[0].route[0].destination.host`.
    pub path: String,
    /// Which kind.
    pub code: Code,
    /// What is wrong, what follows from it, and the remedy.
    pub text: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Analysis {
    /// Sorted, each once.
    pub findings: Vec<Finding>,
    /// How many more there were than were asked for.
    pub left_out: usize,
}

/// Which classes are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Names that lead nowhere: what fails requests.
    References,
    /// Everything.
    All,
}

/// Looks at a mesh. At most `limit` findings are kept; the rest are counted.
pub fn analyze<'a>(
    settings: &'a MeshSettings,
    objects: impl IntoIterator<Item = &'a Object>,
    depth: Depth,
    limit: usize,
) -> Analysis {
    let known = Known::new(settings, objects);
    let mut report = Report {
        found: Vec::new(),
        left_out: 0,
        limit,
    };
    destinations::look(&known, &mut report);
    sidecars::look(&known, &mut report);
    gateways::look(&known, &mut report);
    policies::references(&known, &mut report);
    networks::references(&known, &mut report);
    if depth == Depth::All {
        shadow::look(&known, &mut report);
        conflicts::look(&known, &mut report);
        policies::look(&known, &mut report);
        gateways::selectors(&known, &mut report);
        networks::look(&known, &mut report);
    }
    report.found.sort();
    report.found.dedup();
    Analysis {
        findings: report.found,
        left_out: report.left_out,
    }
}

/// Gateways that choose none of these workloads and proxies, by the labels of both.
pub fn idle_gateways<'a>(
    objects: impl IntoIterator<Item = &'a Object>,
    proxies: &[&Labels],
) -> Vec<Finding> {
    gateways::idle(objects, proxies)
}

/// Findings on their way.
struct Report {
    found: Vec<Finding>,
    left_out: usize,
    limit: usize,
}

impl Report {
    /// Notes a finding; its text is only made if it is kept.
    fn add(&mut self, object: &ObjectRef, code: Code, path: String, text: impl FnOnce() -> String) {
        if self.found.len() >= self.limit {
            self.left_out += 1;
            return;
        }
        self.found.push(Finding {
            object: object.clone(),
            path,
            code,
            text: text(),
        });
    }
}
